//! Statements: golden bytes, limits, and what must not be believed.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;

use common::{genesis, other_key, refusal, statement_key};
use sha2::{Digest as _, Sha256};
use touchstone_cose::cbor::{self, Limits, Value};
use touchstone_cose::cwt::claim;
use touchstone_cose::key::SigningKey;
use touchstone_cose::sign1::{self, Protected, label};
use touchstone_ledger::statement::{
    Kind, MAX_LABELS, MAX_NAME_LEN, MAX_NONCE_LEN, MAX_REASON_TEXT_LEN, MAX_REASONS, MAX_STATEMENT_LEN, Outcome,
    Reason, Statement, StatementError, TYP, VerifiedStatement, leaf_hash,
};

fn parse(signed: &[u8]) -> Result<VerifiedStatement, StatementError> {
    VerifiedStatement::parse(signed, &statement_key().verifying_key())
}

/// A right signature over any payload, with the claims of [`refusal`].
fn signed(payload: &[u8]) -> Vec<u8> {
    signed_with(
        statement_key(),
        TYP,
        Some(claims("eu-1.example", "rack-7/node-3")),
        vec![],
        payload,
    )
}

fn claims(issuer: &str, subject: &str) -> Value {
    Value::map([(claim::ISS, issuer.into()), (claim::SUB, subject.into())])
}

fn signed_with(
    key: SigningKey,
    typ: &str,
    claims: Option<Value>,
    mut extra: Vec<(i64, Value)>,
    payload: &[u8],
) -> Vec<u8> {
    extra.extend(claims.map(|claims| (label::CWT_CLAIMS, claims)));
    sign1::sign(
        &key,
        &Protected {
            extra,
            ..Protected::typ(typ)
        },
        payload,
        &[],
    )
    .unwrap()
}

#[test]
fn the_payload_has_these_bytes() {
    // Made with another encoder.
    let expected = concat!(
        "ae006b6174746573746174696f6e016c65752d312e6578616d706c65026d7261636b2d372f6e6f64652d33031a6ab13b8004",
        "07055820a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1065820a2a2a2a2a2a2a2a2a2a2a2",
        "a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a2a20776746f75636873746f6e652d73656d616e746963732f31086464656e",
        "790981846c7063722d6d69736d61746368657063722e346231316232320aa2636561725820b2b2b2b2b2b2b2b2b2b2b2b2b2",
        "b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b26865766964656e63655820b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1b1",
        "b1b1b1b1b1b1b1b1b1b1b1b10ba2646e6f6465182966706f6c69637919012c0ca10061780d5820c1c1c1c1c1c1c1c1c1c1c1",
        "c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1",
    );
    let payload = refusal().payload_bytes().unwrap();
    assert_eq!(hex::encode(&payload), expected);
    assert_eq!(
        hex::encode(refusal().digest().unwrap()),
        "f18da596b5fd7d22c0515e77a067de4c6becbee253f44b2c3141842dbfd8c97e"
    );
}

#[test]
fn a_statement_comes_back_as_it_was_signed() {
    for statement in [refusal(), genesis()] {
        let signed = statement.sign(&statement_key()).unwrap();
        let verified = parse(&signed.bytes).unwrap();
        assert_eq!(verified.statement(), &statement);
        assert_eq!(verified.digest(), &signed.digest);
        assert_eq!(verified.digest(), &statement.digest().unwrap());
        assert_eq!(verified.leaf(), &leaf_hash(&signed.bytes));
        assert_eq!(
            *verified.leaf(),
            <[u8; 32]>::from(Sha256::digest([&[0], signed.bytes.as_slice()].concat()))
        );
    }
}

#[test]
fn names_of_kinds_and_outcomes_are_fixed() {
    let kinds: Vec<_> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
    assert_eq!(
        kinds.join(" "),
        "genesis enrolment attestation renewal revocation policy-activation keyset refusal-summary key-change \
         key-release federated-authorization federation-update reinstatement \
         divergence workload-authorization delegation chain-report use-report quarantine lift containment \
         revocation-closure security-event standing command status-freed interruption"
    );
    assert!(Kind::ALL.iter().all(|kind| Kind::parse(kind.as_str()) == Some(*kind)));
    assert!(
        Outcome::ALL
            .iter()
            .all(|outcome| Outcome::parse(outcome.as_str()) == Some(*outcome))
    );
    assert_eq!(
        (Kind::parse("Genesis"), Kind::parse(""), Outcome::parse("Allow")),
        (None, None, None)
    );
}

#[test]
fn objects_that_are_not_this_statement_are_refused() {
    let payload = refusal().payload_bytes().unwrap();
    let good = claims("eu-1.example", "rack-7/node-3");
    let more = Value::map([
        (1, "eu-1.example".into()),
        (2, "rack-7/node-3".into()),
        (4, Value::Unsigned(0)),
    ]);
    let key = statement_key;
    let mut altered = signed(&payload);
    let at = altered.len() - 100;
    altered[at] ^= 1;
    let rows = [
        (
            "another key",
            signed_with(other_key(), TYP, Some(good.clone()), vec![], &payload),
            "cose-kid-mismatch",
        ),
        (
            "another type",
            signed_with(key(), "application/eat+cwt", Some(good.clone()), vec![], &payload),
            "cose-type-mismatch",
        ),
        (
            "no claims",
            signed_with(key(), TYP, None, vec![], &payload),
            "statement-header-mismatch",
        ),
        (
            "another issuer",
            signed_with(
                key(),
                TYP,
                Some(claims("eu-2.example", "rack-7/node-3")),
                vec![],
                &payload,
            ),
            "statement-header-mismatch",
        ),
        (
            "another subject",
            signed_with(
                key(),
                TYP,
                Some(claims("eu-1.example", "rack-7/node-4")),
                vec![],
                &payload,
            ),
            "statement-header-mismatch",
        ),
        (
            "one more claim",
            signed_with(key(), TYP, Some(more), vec![], &payload),
            "statement-header-mismatch",
        ),
        (
            "one more header",
            signed_with(key(), TYP, Some(good), vec![(-70_000, Value::Null)], &payload),
            "statement-header-mismatch",
        ),
        ("payload altered", altered, "signature-invalid"),
        ("cut off", signed(&payload)[..200].to_vec(), "cbor-truncated"),
        ("padded", [signed(&payload), vec![0]].concat(), "cbor-trailing"),
        ("too large", vec![0; MAX_STATEMENT_LEN + 1], "statement-too-large"),
        ("payload not CBOR", signed(b"\xf9\0\0"), "cbor-unsupported"),
        (
            "payload followed by bytes",
            signed(&[payload.clone(), vec![0]].concat()),
            "cbor-trailing",
        ),
        (
            "payload of another shape",
            signed(&cbor::encode(&Value::Null)),
            "shape-mismatch",
        ),
        ("empty", vec![], "cbor-truncated"),
    ];
    assert!(parse(&signed(&payload)).is_ok());
    for (name, bytes, code) in rows {
        assert_eq!(parse(&bytes).unwrap_err().code(), code, "{name}");
    }
}

/// The payload of [`refusal`] with the member `key` replaced, or without it.
fn with_member(key: i64, value: Option<Value>) -> Vec<u8> {
    let limits = Limits {
        max_bytes: 1 << 20,
        max_depth: 100,
        max_items: 1 << 16,
    };
    let Value::Map(mut entries) = cbor::decode(&refusal().payload_bytes().unwrap(), limits).unwrap() else {
        panic!()
    };
    entries.retain(|(k, _)| *k != Value::int(key));
    entries.extend(value.map(|value| (Value::int(key), value)));
    cbor::encode(&Value::Map(entries))
}

#[test]
fn members_that_the_format_does_not_allow_are_refused() {
    let text = |text: &str| Value::text(text);
    let reason = |parts: &[&str]| Value::array(parts.iter().map(|part| text(part)));
    let many = |n: usize| Value::array((0..n).map(|_| reason(&["c", "", "", ""])));
    let map = |label: Value, value: Value| Value::Map(vec![(label, value)]);
    let labels = |n: usize| {
        Value::Map(
            (0..n)
                .map(|n| (Value::text(format!("l{n}")), Value::Unsigned(1)))
                .collect(),
        )
    };
    let rows = [
        ("unknown kind", 0, text("party")),
        ("kind as a number", 0, Value::Unsigned(0)),
        ("empty domain", 1, text("")),
        ("domain with an escape", 1, text("eu\u{1b}[2J")),
        ("domain too long", 1, text(&"d".repeat(MAX_NAME_LEN + 1))),
        ("empty subject", 2, text("")),
        ("subject with a newline", 2, text("a\nb")),
        ("subject too long", 2, text(&"s".repeat(MAX_NAME_LEN + 1))),
        ("subject as bytes", 2, Value::bytes(*b"node")),
        ("time as text", 3, text("now")),
        ("time over 63 bits", 3, Value::Unsigned(u64::MAX)),
        ("negative policy version", 4, Value::int(-1)),
        ("short policy digest", 5, Value::bytes([0; 31])),
        ("no policy digest", 5, Value::Null),
        ("long region digest", 6, Value::bytes([0; 33])),
        ("empty semantics id", 7, text("")),
        ("unknown outcome", 8, text("maybe")),
        ("refusal without a reason", 9, Value::array([])),
        ("too many reasons", 9, many(MAX_REASONS + 1)),
        ("reason of three texts", 9, Value::array([reason(&["c", "", ""])])),
        (
            "reason of five texts",
            9,
            Value::array([reason(&["c", "", "", "", ""])]),
        ),
        ("reason without a code", 9, Value::array([reason(&["", "a", "b", "c"])])),
        (
            "reason too long",
            9,
            Value::array([reason(&["c", &"x".repeat(MAX_REASON_TEXT_LEN + 1), "", ""])]),
        ),
        (
            "reason with an escape",
            9,
            Value::array([reason(&["c", "", "", "\u{1b}"])]),
        ),
        ("reason as a map", 9, Value::array([Value::map([])])),
        ("input of 31 bytes", 10, map(text("a"), Value::bytes([0; 31]))),
        (
            "input under a number",
            10,
            map(Value::Unsigned(0), Value::bytes([0; 32])),
        ),
        ("input without a label", 10, map(text(""), Value::bytes([0; 32]))),
        ("inputs as an array", 10, Value::array([])),
        ("negative revision", 11, map(text("a"), Value::int(-1))),
        ("too many revisions", 11, labels(MAX_LABELS + 1)),
        ("body as an array", 12, Value::array([])),
        ("no body", 12, Value::Null),
        ("empty nonce", 13, Value::bytes([])),
        ("nonce too long", 13, Value::bytes(vec![0; MAX_NONCE_LEN + 1])),
        ("nonce as text", 13, text("n")),
        ("one more member", 14, Value::Null),
    ];
    for (name, key, value) in rows {
        let refused = parse(&signed(&with_member(key, Some(value)))).unwrap_err();
        assert!(
            ["statement-malformed", "shape-mismatch"].contains(&refused.code()),
            "{name}: {refused:?}"
        );
    }
    for key in 0..=13 {
        let refused = parse(&signed(&with_member(key, None))).unwrap_err();
        assert_eq!(refused.code(), "shape-mismatch", "without member {key}");
    }
}

#[test]
fn nothing_is_signed_that_could_not_be_read() {
    let nested = (0..20).fold(Value::Null, |inner, _| Value::array([inner]));
    type Spoil = fn(&mut Statement);
    let rows: [(&str, Spoil); 4] = [
        ("a refusal without a reason", |s| s.reasons.clear()),
        ("a body that is no map", |s| s.body = Value::Null),
        ("a body that names a key twice", |s| {
            s.body = Value::map([(1, Value::Null), (1, Value::Null)])
        }),
        ("a domain with an escape", |s| s.domain.push('\u{9b}')),
    ];
    for (name, spoil) in rows {
        let mut statement = refusal();
        spoil(&mut statement);
        assert!(statement.sign(&statement_key()).is_err(), "{name}");
        assert!(statement.digest().is_err(), "{name}");
    }
    let deep = Statement {
        body: Value::map([(1, nested)]),
        ..refusal()
    };
    assert_eq!(deep.sign(&statement_key()).unwrap_err().code(), "cbor-limit");
}

#[test]
fn the_size_of_an_entry_is_exact() {
    let with = |len: usize| Statement {
        body: Value::map([(0, Value::bytes(vec![0; len]))]),
        ..refusal()
    };
    let around = with(60_000).sign(&statement_key()).unwrap().bytes.len() - 60_000;
    let largest = with(MAX_STATEMENT_LEN - around).sign(&statement_key()).unwrap();
    assert_eq!(largest.bytes.len(), MAX_STATEMENT_LEN);
    assert!(parse(&largest.bytes).is_ok());
    let found = MAX_STATEMENT_LEN + 1;
    assert_eq!(
        with(found - around).sign(&statement_key()),
        Err(StatementError::TooLarge {
            limit: MAX_STATEMENT_LEN,
            found
        })
    );
}

/// However much an appraisal has to say, and however long the names: a refusal can be recorded.
#[test]
fn the_largest_refusal_fits() {
    let long = "\u{10ffff}".repeat(1_000);
    let reason = Reason {
        code: long.clone(),
        claim: long.clone(),
        expected: long.clone(),
        found: long.clone(),
    };
    let label = |n: usize| format!("{n:0>64}");
    let statement = Statement {
        domain: "d".repeat(MAX_NAME_LEN),
        subject: Some("s".repeat(MAX_NAME_LEN)),
        semantics: "i".repeat(MAX_NAME_LEN),
        reasons: Reason::bounded(vec![reason; 10_000]),
        inputs: (0..MAX_LABELS).map(|n| (label(n), [n as u8; 32])).collect(),
        revisions: (0..MAX_LABELS).map(|n| (label(n), u64::MAX)).collect(),
        nonce: Some(vec![0; MAX_NONCE_LEN]),
        ..refusal()
    };
    let signed = statement.sign(&statement_key()).unwrap();
    assert!(
        signed.bytes.len() < MAX_STATEMENT_LEN - 16 * 1024,
        "{} bytes leave no room",
        signed.bytes.len()
    );
    assert_eq!(
        parse(&signed.bytes).unwrap().statement().reasons.last().unwrap().code,
        "reasons-truncated"
    );
}
