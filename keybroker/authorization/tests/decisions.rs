//! What decisions remember, look at again, and never let through.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;

use common::cases::*;
use common::*;
use touchstone_authorization::replay::REMEMBER_MS;
use touchstone_authorization::{Channel, Presented, Status, redecide};

#[test]
fn a_proof_counts_once() {
    let case = Case::over_request();
    let (first, memory) = case.decide();
    assert!(first.is_ok());
    let replayed = Case {
        memory,
        ..Case::over_request()
    };
    assert_eq!(replayed.codes(), ["proof-replayed"]);

    // Where the memory is kept for long enough, the proof has become too old by the time it is forgotten.
    let late = Case {
        now_ms: NOW_MS + REMEMBER_MS,
        received_at_ms: NOW_MS + REMEMBER_MS,
        memory: replayed.memory.clone(),
        ..Case::over_request()
    };
    let late = Case {
        alter_head: |h| h.fresh_until_ms += 60_000,
        ..late
    };
    assert_eq!(late.codes(), ["proof-time"]);
    // A proof from as far ahead as is taken is still remembered at the last instant it counts.
    let ahead = over_request(|c| c.proof.issued_at = NOW_S + 5);
    let (first, memory) = ahead.decide();
    assert!(first.is_ok());
    let again = Case {
        now_ms: NOW_MS + 10_000,
        received_at_ms: NOW_MS + 10_000,
        memory,
        alter_head: |h| h.fresh_until_ms += 60_000,
        ..ahead
    };
    assert_eq!(again.codes(), ["proof-replayed"]);

    // What is refused is not remembered: nobody fills the memory with refusals.
    let (refused, memory) = over_request(|c| c.proof.audience = "x".into()).decide();
    assert!(refused.is_err());
    assert!(memory.is_empty());
    // With a channel of its own a proof needs no memory.
    assert!(Case::default().decide().1.is_empty());
}

#[test]
fn a_verified_authorization_is_judged_anew_each_time() {
    let case = Case::default();
    let allowed = case.decide().0.unwrap();
    let presented = || Presented::Verified(allowed.chain.clone());
    let proof = case.proof_bytes();
    let again = |case: &Case| codes(&case.decide_presented(presented(), &proof, Some(&case.view())).0);
    assert_eq!(again(&case), [""; 0]);
    assert_eq!(again(&status(Status::Invalid)), ["authorization-revoked"]);
    assert_eq!(
        again(&Case {
            now_ms: NOW_MS + 110_500,
            ..late()
        }),
        ["authorization-expired"]
    );
    assert_eq!(
        again(&Case {
            enforcer_id: "guard:other",
            ..Case::default()
        }),
        ["proof-audience"]
    );
    // Its key has run out of the keyset meanwhile.
    let gone = Case {
        now_ms: NOW_MS + 3_600_000,
        ..Case::default()
    };
    assert!(again(&gone).contains(&"authorization-key-unknown"));
}

#[test]
fn an_open_connection_is_looked_at_again() {
    let allowed = Case::default().decide().0.unwrap();
    let keys = ring(&[&issuer()]);
    let again = |case: &Case| -> Vec<&str> {
        let view = (!case.without_view).then(|| case.view());
        let result = redecide(&allowed.chain, view.as_ref(), &case.enforcer(&keys), case.now_ms);
        result
            .err()
            .into_iter()
            .flatten()
            .map(|refusal| refusal.code.as_str())
            .collect()
    };
    assert_eq!(again(&Case::default()), [""; 0]);
    for (attack, case, expected) in [
        ("revoked", status(Status::Invalid), &["authorization-revoked"][..]),
        ("suspended", status(Status::Suspended), &["authorization-suspended"]),
        (
            "expired",
            Case {
                now_ms: NOW_MS + 110_500,
                ..late()
            },
            &["authorization-expired"],
        ),
        (
            "silence",
            Case {
                now_ms: NOW_MS + 9_000,
                ..Case::default()
            },
            &["trust-state-stale"],
        ),
        (
            "no trust state",
            Case {
                without_view: true,
                ..Case::default()
            },
            &["trust-state-missing"],
        ),
        (
            "a new generation",
            headed(|h| h.generation += 1),
            &["authorization-generation"],
        ),
    ] {
        assert_eq!(again(&case), expected, "{attack}");
    }
    // A key withdrawn from the keyset takes open connections along.
    let other = ring(&[&trust_key()]);
    let case = Case::default();
    let refused = redecide(&allowed.chain, Some(&case.view()), &case.enforcer(&other), NOW_MS).unwrap_err();
    assert_eq!(refused[0].code.as_str(), "authorization-key-unknown");
}

#[test]
fn every_changed_byte_is_refused() {
    let case = Case::default();
    let (authorization, proof) = (case.authorization_bytes(), case.proof_bytes());
    let view = case.view();
    let decide = |authorization: &[u8], proof: &[u8]| {
        case.decide_presented(Presented::Bytes(authorization), proof, Some(&view))
            .0
    };
    assert!(decide(&authorization, &proof).is_ok());
    for mask in [0x01, 0x20, 0x80, 0xff] {
        for position in 0..authorization.len() {
            let mut changed = authorization.clone();
            changed[position] ^= mask;
            assert!(
                decide(&changed, &proof).is_err(),
                "authorization, byte {position}, mask {mask:#x}"
            );
        }
        for position in 0..proof.len() {
            let mut changed = proof.clone();
            changed[position] ^= mask;
            assert!(
                decide(&authorization, &changed).is_err(),
                "proof, byte {position}, mask {mask:#x}"
            );
        }
    }
    for length in 0..authorization.len() {
        assert!(
            decide(&authorization[..length], &proof).is_err(),
            "authorization cut to {length}"
        );
    }
    for length in 0..proof.len() {
        assert!(
            decide(&authorization, &proof[..length]).is_err(),
            "proof cut to {length}"
        );
    }
}

#[test]
fn hostile_words_do_not_reach_the_log() {
    let case = Case {
        resource: "a\n\u{1b}[31mb",
        ..Case::default()
    };
    let refusals = case.decide().0.unwrap_err();
    assert!(
        refusals
            .iter()
            .all(|r| r.found.bytes().all(|b| (0x20..0x7f).contains(&b))),
        "{refusals:?}"
    );
    let shown = over_tls(|p| p.channel = Channel::Exporter([0xab; 32]))
        .decide()
        .0
        .unwrap_err()[0]
        .to_string();
    assert!(
        !shown.contains("abab") && !shown.contains("e0e0"),
        "an exporter is a secret of its connection: {shown}"
    );
}
