//! A statement and keys that several tests use.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;

use touchstone_cose::cbor::Value;
use touchstone_cose::key::SigningKey;
use touchstone_ledger::statement::{Kind, Outcome, Reason, Statement};

pub const ORIGIN: &str = "ledger.example/eu-1";

pub fn statement_key() -> SigningKey {
    SigningKey::from_seed([0x51; 32])
}

pub fn log_key() -> SigningKey {
    SigningKey::from_seed([0x42; 32])
}

pub fn other_key() -> SigningKey {
    SigningKey::from_seed([0x01; 32])
}

/// A refusal with something in every member.
pub fn refusal() -> Statement {
    Statement {
        kind: Kind::Attestation,
        domain: "eu-1.example".into(),
        subject: Some("rack-7/node-3".into()),
        time: 1_790_000_000,
        policy_version: 7,
        global_policy: [0xa1; 32],
        region_policy: Some([0xa2; 32]),
        semantics: "touchstone-semantics/1".into(),
        outcome: Outcome::Deny,
        reasons: vec![Reason {
            code: "pcr-mismatch".into(),
            claim: "pcr.4".into(),
            expected: "11".into(),
            found: "22".into(),
        }],
        inputs: BTreeMap::from([("evidence".into(), [0xb1; 32]), ("ear".into(), [0xb2; 32])]),
        revisions: BTreeMap::from([("node".into(), 41), ("policy".into(), 300)]),
        body: Value::map([(0, Value::text("x"))]),
        nonce: Some(vec![0xc1; 32]),
    }
}

/// The smallest statement there is.
pub fn genesis() -> Statement {
    Statement {
        kind: Kind::Genesis,
        domain: "d".into(),
        subject: None,
        time: 0,
        policy_version: 0,
        global_policy: [0; 32],
        region_policy: None,
        semantics: "s".into(),
        outcome: Outcome::Recorded,
        reasons: vec![],
        inputs: BTreeMap::new(),
        revisions: BTreeMap::new(),
        body: Value::map([]),
        nonce: None,
    }
}
