//! Statements: whatever they say, they come back as they were, in one encoding, and nothing bent is believed.

#![allow(clippy::unwrap_used, reason = "tests")]

use crate::common;

use std::collections::BTreeMap;

use common::{refusal, statement_key};
use proptest::prelude::*;
use touchstone_cose::cbor::{self, Value};
use touchstone_cose::sign1::{self, Protected};
use touchstone_ledger::statement::{
    Kind, MAX_NONCE_LEN, Outcome, Reason, Statement, StatementError, TYP, VerifiedStatement,
};

fn parse(signed: &[u8]) -> Result<VerifiedStatement, StatementError> {
    VerifiedStatement::parse(signed, &statement_key().verifying_key())
}

/// A right signature over any payload.
fn signed(payload: &[u8]) -> Vec<u8> {
    sign1::sign(&statement_key(), &Protected::typ(TYP), payload, &[]).unwrap()
}

fn name() -> impl Strategy<Value = String> {
    "[a-z0-9/.-]{1,40}"
}

fn labelled<T: std::fmt::Debug>(value: impl Strategy<Value = T>) -> impl Strategy<Value = BTreeMap<String, T>> {
    prop::collection::btree_map(name(), value, 0..6)
}

fn reason() -> impl Strategy<Value = Reason> {
    (name(), "\\PC{0,60}", "\\PC{0,60}", "\\PC{0,60}").prop_map(|(code, claim, expected, found)| Reason {
        code,
        claim,
        expected,
        found,
    })
}

prop_compose! {
    fn statement()(
        kind in prop::sample::select(Kind::ALL),
        (domain, subject, semantics) in (name(), prop::option::of(name()), name()),
        (time, policy_version) in any::<(i64, u64)>(),
        (global_policy, region_policy) in any::<([u8; 32], Option<[u8; 32]>)>(),
        outcome in prop::sample::select(Outcome::ALL),
        reasons in prop::collection::vec(reason(), 1..5),
        (inputs, revisions) in (labelled(any::<[u8; 32]>()), labelled(any::<u64>())),
        body in prop::collection::btree_map(any::<i64>(), prop::collection::vec(any::<u8>(), 0..40), 0..5),
        nonce in prop::option::of(prop::collection::vec(any::<u8>(), 1..=MAX_NONCE_LEN)),
    ) -> Statement {
        let mut body: Vec<_> = body.into_iter().map(|(k, v)| (Value::int(k), Value::Bytes(v))).collect();
        // As the reader returns it.
        body.sort_by_key(|(k, _)| cbor::encode(k));
        Statement {
            kind, domain, subject, time, policy_version, global_policy, region_policy, semantics, outcome, reasons,
            inputs, revisions, body: Value::Map(body), nonce,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_statement_comes_back_and_has_one_encoding(statement in statement()) {
        let signed = statement.sign(&statement_key()).unwrap();
        let back = parse(&signed.bytes).unwrap();
        prop_assert_eq!(back.statement(), &statement);
        prop_assert_eq!(back.statement().payload_bytes(), statement.payload_bytes());
        let mut shuffled = statement.clone();
        if let Value::Map(entries) = &mut shuffled.body {
            entries.reverse();
        }
        prop_assert_eq!(shuffled.digest(), statement.digest());
    }

    #[test]
    fn a_changed_byte_is_always_noticed(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut signed = refusal().sign(&statement_key()).unwrap().bytes;
        let at = at.index(signed.len());
        signed[at] ^= 1 << bit;
        prop_assert!(parse(&signed).is_err());
    }

    #[test]
    fn noise_is_refused_without_panic(noise in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(parse(&noise).is_err());
        prop_assert!(parse(&signed(&noise)).is_err());
    }
}

proptest! {
    // The lists are long.
    #![proptest_config(ProptestConfig { cases: 30, ..ProptestConfig::default() })]

    #[test]
    fn bounded_reasons_always_fit(
        reasons in prop::collection::vec((".{0,90}", ".{0,700}", ".{0,700}", ".{0,700}"), 1..120),
    ) {
        let reasons = reasons.into_iter().map(|(code, claim, expected, found)| {
            Reason { code: format!("c{code}"), claim, expected, found }
        });
        let statement = Statement { reasons: Reason::bounded(reasons.collect()), ..refusal() };
        prop_assert!(statement.sign(&statement_key()).is_ok());
    }
}
