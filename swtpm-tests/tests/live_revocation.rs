//! Rights are taken away at once, everywhere, and come back only with good evidence; nothing that was stolen opens a
//! guard.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests: what is not as it must be fails"
)]

use std::time::{Duration, Instant};

use swtpm_tests::boots::Boot;
use swtpm_tests::domain::{Domain, Post, eventually, rights, status};
use swtpm_tests::node::{Node, proof};
use swtpm_tests::observe::PATIENCE;
use touchstone_attest::local;
use touchstone_authorization::{Channel, RefusalCode, Scope, Status};
use touchstone_cose::key::SigningKey;
use touchstone_keybroker::admin::SOCKET;
use touchstone_keybroker::service::RunningBroker;
use touchstone_ledger::statement::{Kind, Outcome, Statement, VerifiedStatement};
use touchstone_policies::Job;

const GUARD: &str = "guard-1";

/// What the guard says to a fresh proof of the node for this authorization.
async fn knock(guard: &Post, node: &Node, authorization: &[u8]) -> Result<(), Vec<RefusalCode>> {
    let challenge = guard.challenge();
    let proof = node.prove(authorization, GUARD, &challenge).await;
    guard.decide(authorization, &proof, &challenge).map(|_| ())
}

/// The last statement in the ledger.
/// The latest statement with this reason. It need not be the last: acknowledgements close a revocation with one of
/// their own.
fn latest(domain: &Domain, broker: &RunningBroker, code: &str) -> Option<Statement> {
    let (store, size) = (&broker.app().store, broker.app().head().size);
    let key = domain.key(Job::Statement);
    (0..size).rev().find_map(|index| {
        let entry = touchstone_keybroker::log::entry(&**store, index).unwrap().unwrap();
        let statement = VerifiedStatement::parse(&entry, &key).unwrap().into_statement();
        let found = statement.reasons.first().is_some_and(|reason| reason.code == code);
        found.then_some(statement)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_register_takes_the_rights_away_everywhere_and_good_evidence_brings_new_ones() {
    let nodes = [("node-1", Boot::GOOD), ("node-2", Boot::CMDLINE_CHANGED)];
    let domain = Domain::new(&nodes);
    let broker = domain.broker().await;
    let guard = domain.guard(GUARD).await;
    let (mut node, mut client) = (Node::start(&Boot::GOOD).await, domain.client());
    let (mut other, mut others_client) = (Node::start(&Boot::CMDLINE_CHANGED).await, domain.client());
    let others = other.attest(&mut others_client).await.unwrap().authorization.unwrap();
    // Register 8 is one the session key is tied to; 3 is judged, but the key still signs: the guard alone stops it.
    for (register, key_still_signs) in [(8, false), (3, true)] {
        let granted = node.attest(&mut client).await.unwrap();
        let place = domain.check(&granted).authorization.unwrap().contents().status;
        let authorization = granted.authorization.unwrap();
        let before = rights(&broker, "node-1");
        guard.reaches(before.epoch).await;
        assert_eq!(
            knock(&guard, &node, &authorization).await,
            Ok(()),
            "register {register}"
        );
        let ahead = guard.challenge();
        let made_ahead = node.prove(&authorization, GUARD, &ahead).await;

        node.swtpm.extend(register, [7; 32]).unwrap();
        let denied = node.attest(&mut client).await.unwrap();
        assert!(!denied.allowed && denied.authorization.is_none());
        let codes: Vec<&str> = denied.reasons.iter().map(|reason| reason.code.as_str()).collect();
        assert!(codes.contains(&"log-does-not-replay"), "{codes:?}");
        let recorded = domain.check(&denied);
        assert_eq!(
            (recorded.statement.kind, recorded.statement.outcome),
            (Kind::Attestation, Outcome::Deny)
        );
        assert_eq!(recorded.statement.subject.as_deref(), Some("node-1"));
        let after = rights(&broker, "node-1");
        assert!(after.epoch > before.epoch && after.record.unwrap().withdrawn);
        assert_eq!(status(&broker, place), Some(Status::Invalid));

        guard.reaches(after.epoch).await;
        let refused = guard.decide(&authorization, &made_ahead, &ahead).unwrap_err();
        assert_eq!(
            refused,
            [RefusalCode::AuthorizationRevoked],
            "unexpired, with a proof from before"
        );
        if key_still_signs {
            assert_eq!(
                knock(&guard, &node, &authorization).await,
                Err(vec![RefusalCode::AuthorizationRevoked])
            );
        } else {
            let signed = node.run(|attester| attester.sign(b"anything")).await;
            assert!(signed.is_err(), "the TPM itself refuses: {signed:?}");
        }
        assert_eq!(knock(&guard, &other, &others).await, Ok(()), "the others go on");

        // The same evidence again changes nothing more.
        let again = node.attest(&mut client).await.unwrap();
        assert!(!again.allowed);
        assert_eq!(
            rights(&broker, "node-1").epoch,
            after.epoch,
            "there is nothing left to take away"
        );

        node.swtpm.reboot(&Boot::GOOD).unwrap();
        node = node.restarted().await;
        let back = node.attest(&mut client).await.unwrap();
        let new = domain.check(&back).authorization.unwrap().contents().clone();
        assert_ne!(new.status, place);
        assert_eq!(
            (status(&broker, place), status(&broker, new.status)),
            (Some(Status::Invalid), Some(Status::Valid))
        );
        guard.reaches(new.epoch).await;
        assert_eq!(knock(&guard, &node, &back.authorization.unwrap()).await, Ok(()));
        let challenge = guard.challenge();
        let with_new_key = node.prove(&authorization, GUARD, &challenge).await;
        let refused = guard.decide(&authorization, &with_new_key, &challenge).unwrap_err();
        assert!(
            refused.contains(&RefusalCode::AuthorizationRevoked),
            "the old one stays revoked: {refused:?}"
        );
    }
    broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_revokes_through_the_brokers_own_socket() {
    let domain = Domain::new(&[("node-1", Boot::GOOD)]);
    let broker = domain.broker().await;
    let guard = domain.guard(GUARD).await;
    let (mut node, mut client) = (Node::start(&Boot::GOOD).await, domain.client());
    let authorization = node.attest(&mut client).await.unwrap().authorization.unwrap();
    let before = rights(&broker, "node-1");
    let place = before.record.as_ref().unwrap().status;
    guard.reaches(before.epoch).await;
    assert_eq!(knock(&guard, &node, &authorization).await, Ok(()));

    let socket = domain.path("data").join(SOCKET);
    let revoke = async |body: &str| local::request(&socket, "POST", "/revoke", body.into()).await.unwrap();
    for (name, body) in [
        ("a node that never enrolled", r#"{"node":"node-9","reason":"test"}"#),
        ("no reason", r#"{"node":"node-1"}"#),
        ("a member too many", r#"{"node":"node-1","reason":"test","all":true}"#),
        ("junk", "revoke everything"),
    ] {
        let (code, _) = revoke(body).await;
        assert!((400..500).contains(&code), "{name}: {code}");
        assert_eq!(rights(&broker, "node-1"), before, "{name}");
    }
    let (code, answer) = revoke(r#"{"node":"node-1","reason":"stolen from its rack"}"#).await;
    assert_eq!(code, 200, "{}", String::from_utf8_lossy(&answer));
    let statement = latest(&domain, &broker, "operator-command").expect("it is on record");
    assert_eq!(statement.kind, Kind::Revocation);
    assert_eq!(statement.reasons.first().unwrap().found, "stolen from its rack");
    let after = rights(&broker, "node-1");
    assert!(after.epoch > before.epoch);
    guard.reaches(after.epoch).await;
    assert_eq!(
        knock(&guard, &node, &authorization).await,
        Err(vec![RefusalCode::AuthorizationRevoked])
    );

    let back = node.attest(&mut client).await.unwrap();
    let new = domain.check(&back).authorization.unwrap().contents().clone();
    assert_ne!(new.status, place, "new rights by new evidence, at a new place");
    assert_eq!(status(&broker, place), Some(Status::Invalid));
    broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_closes_when_the_guard_that_stopped_its_holder_has_said_so() {
    let domain = Domain::new(&[("node-1", Boot::GOOD)]);
    let key = SigningKey::from_seed([9; 32]);
    let public = hex::encode(key.verifying_key().to_spki_der());
    let listed = format!("[enforcers.{GUARD}]\nkey = \"{public}\"\n");
    std::fs::write(domain.path("policy/staged/enforcers.toml"), listed).unwrap();
    domain.publish();
    let broker = domain.broker().await;
    let guard = domain.guard(GUARD).await;
    guard.guard.acknowledge(std::sync::Arc::new(key));
    let watching = std::sync::Arc::clone(&guard.guard);
    tokio::spawn(async move { watching.watch(|_| ()).await });
    let (mut node, mut client) = (Node::start(&Boot::GOOD).await, domain.client());
    let authorization = node.attest(&mut client).await.unwrap().authorization.unwrap();
    guard.reaches(rights(&broker, "node-1").epoch).await;
    assert_eq!(knock(&guard, &node, &authorization).await, Ok(()));
    let app = broker.app();
    let enforcers = || {
        let at = (app.trust.generation(), app.trust.epoch());
        app.acks.shown(&app.policy(), at, app.clock.now_ms())
    };
    eventually("the guard's acknowledgement", || enforcers()["acknowledged"] == 1).await;

    // Tampered evidence; nobody but the guard says that it stopped what rested on the node.
    node.swtpm.extend(8, [7; 32]).unwrap();
    assert!(!node.attest(&mut client).await.unwrap().allowed);
    let closure = || {
        let store = &app.store;
        (0..app.head().size).rev().find_map(|index| {
            let entry = touchstone_keybroker::log::entry(&**store, index).unwrap().unwrap();
            let statement = VerifiedStatement::parse(&entry, &domain.key(Job::Statement)).unwrap();
            let statement = statement.into_statement();
            (statement.kind == Kind::RevocationClosure).then_some(statement)
        })
    };
    eventually("the closure", || closure().is_some()).await;
    let touchstone_cose::cbor::Value::Map(members) = closure().unwrap().body else {
        panic!("a map")
    };
    let number = |label: i64| {
        let wanted = touchstone_cose::cbor::Value::int(label);
        members
            .iter()
            .find(|(key, _)| *key == wanted)
            .and_then(|(_, value)| value.as_u64())
    };
    // Waited for, acknowledged, stopped by these, behind.
    assert_eq!([2, 3, 5, 6].map(number), [Some(1), Some(1), Some(1), Some(0)]);
    broker.shutdown().await.unwrap();
}

/// Timers under which an enforcer without a broker stops within a second.
const QUICK: [(&str, u64); 4] = [
    ("skew_ms", 250),
    ("heartbeat_ms", 50),
    ("failover_ms", 100),
    ("freshness_window_ms", 600),
];

/// Asks again and again until the guard says this.
async fn until(guard: &Post, node: &Node, authorization: &[u8], wanted: Result<(), RefusalCode>) {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let said = knock(guard, node, authorization).await;
        if match (&said, wanted) {
            (Ok(()), Ok(())) => true,
            (Err(codes), Err(code)) => codes.contains(&code),
            _ => false,
        } {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the guard never said {wanted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_without_its_broker_stops_and_goes_on_when_it_is_back() {
    let domain = Domain::with(&[("node-1", Boot::GOOD)], &QUICK, &[]);
    let broker = domain.broker().await;
    let guard = domain.guard(GUARD).await;
    let (mut node, mut client) = (Node::start(&Boot::GOOD).await, domain.client());
    let granted = node.attest(&mut client).await.unwrap();
    let authorization = granted.authorization.clone().unwrap();
    let place = domain.check(&granted).authorization.unwrap().contents().status;
    until(&guard, &node, &authorization, Ok(())).await;

    broker.shutdown().await.unwrap();
    until(&guard, &node, &authorization, Err(RefusalCode::TrustStateStale)).await;
    let broker = domain.broker().await;
    until(&guard, &node, &authorization, Ok(())).await;

    // Killed, it cannot show that it took nothing away meanwhile: fresh evidence first.
    let epoch = broker.app().trust.epoch();
    drop(broker);
    until(&guard, &node, &authorization, Err(RefusalCode::TrustStateStale)).await;
    let broker = domain.broker().await;
    assert!(broker.app().trust.epoch() > epoch);
    until(&guard, &node, &authorization, Err(RefusalCode::AuthorizationSuspended)).await;
    let again = attest_after_restart(&mut node, &mut client).await;
    let renewed = domain.check(&again).authorization.unwrap();
    assert_eq!(renewed.contents().status, place);
    until(&guard, &node, &again.authorization.unwrap(), Ok(())).await;
    until(&guard, &node, &authorization, Ok(())).await;
    broker.shutdown().await.unwrap();
}

/// A round after the broker was gone: the first try may find the connection broken.
async fn attest_after_restart(
    node: &mut Node,
    client: &mut touchstone_attest::client::BrokerClient,
) -> touchstone_evidence::message::Answer {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        match node.attest(client).await {
            Ok(answer) => return answer,
            Err(error) => println!("again: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the broker is back, and the node does not reach it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_does_not_attest_in_time_loses_its_rights_at_the_guard() {
    let settings = [
        &QUICK[..],
        &[
            ("attestation_interval_ms", 300),
            ("attestation_retry_ms", 100),
            ("attestation_deadline_ms", 1_500),
        ],
    ]
    .concat();
    let domain = Domain::with(&[("node-1", Boot::GOOD)], &settings, &[]);
    let broker = domain.broker().await;
    let guard = domain.guard(GUARD).await;
    let (mut node, mut client) = (Node::start(&Boot::GOOD).await, domain.client());
    let authorization = node.attest(&mut client).await.unwrap().authorization.unwrap();
    until(&guard, &node, &authorization, Err(RefusalCode::AuthorizationRevoked)).await;
    eventually("the statement about it", || {
        latest(&domain, &broker, "attestation-overdue").is_some()
    })
    .await;
    assert!(
        node.attest(&mut client).await.unwrap().allowed,
        "and gets new ones by attesting"
    );
    broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_stolen_copied_or_meant_for_another_opens_no_guard() {
    let domain = Domain::new(&[("node-1", Boot::GOOD)]);
    let broker = domain.broker().await;
    let (guard, other_guard) = (domain.guard(GUARD).await, domain.guard("guard-2").await);
    let (mut node, mut client) = (Node::start(&Boot::GOOD).await, domain.client());
    let older = node.attest(&mut client).await.unwrap().authorization.unwrap();
    let authorization = node.attest(&mut client).await.unwrap().authorization.unwrap();
    let before = rights(&broker, "node-1");
    guard.reaches(before.epoch).await;
    let thief = SigningKey::from_seed([7; 32]);
    let refused = |name: &str, said: Result<touchstone_authorization::Allowed, Vec<RefusalCode>>, expected| {
        assert_eq!(said.map(|_| ()), Err(vec![expected]), "{name}");
    };
    let sign = async |proof: touchstone_authorization::Proof| {
        let signed = move |attester: &mut touchstone_attest::agent::attester::Attester| {
            proof.encode_signed(&touchstone_attest::agent::attester::SessionSigner::new(attester))
        };
        node.run(signed).await.unwrap()
    };

    let challenge = guard.challenge();
    let forged = proof(&authorization, GUARD, &challenge).encode_signed(&thief).unwrap();
    let said = guard.decide(&authorization, &forged, &challenge);
    refused("stolen, with another key", said, RefusalCode::ProofSignature);

    let challenge = guard.challenge();
    let good = node.prove(&authorization, GUARD, &challenge).await;
    assert!(guard.decide(&authorization, &good, &challenge).is_ok());
    refused(
        "replayed",
        guard.decide(&authorization, &good, &challenge),
        RefusalCode::ChallengeUnknown,
    );
    let fresh = guard.challenge();
    refused(
        "with a fresh challenge",
        guard.decide(&authorization, &good, &fresh),
        RefusalCode::ProofChallenge,
    );
    let made_up = vec![7; 32];
    let said = guard.decide(
        &authorization,
        &node.prove(&authorization, GUARD, &made_up).await,
        &made_up,
    );
    refused("with a challenge of its own", said, RefusalCode::ChallengeUnknown);
    let theirs = other_guard.challenge();
    let proof_there = node.prove(&authorization, GUARD, &theirs).await;
    let said = guard.decide(&authorization, &proof_there, &theirs);
    refused("with another guard's challenge", said, RefusalCode::ChallengeUnknown);

    let challenge = guard.challenge();
    let for_other = node.prove(&authorization, "guard-2", &challenge).await;
    let said = guard.decide(&authorization, &for_other, &challenge);
    refused("made for another guard", said, RefusalCode::ProofAudience);
    let challenge = guard.challenge();
    let for_older = node.prove(&older, GUARD, &challenge).await;
    let said = guard.decide(&authorization, &for_older, &challenge);
    refused("made for another authorization", said, RefusalCode::ProofAuthorization);
    let challenge = guard.challenge();
    let made = node.prove(&authorization, GUARD, &challenge).await;
    let said = guard.decide_about(&authorization, &made, &challenge, ("release", "keys"));
    refused("made for another action", said, RefusalCode::ProofAction);
    let challenge = guard.challenge();
    let made = node.prove(&authorization, GUARD, &challenge).await;
    let said = guard.decide_about(&authorization, &made, &challenge, ("execute", "workloads/all"));
    assert!(
        said.unwrap_err().contains(&RefusalCode::ScopeNotGranted),
        "another resource"
    );
    let challenge = guard.challenge();
    let administer = touchstone_authorization::Proof {
        scope: Scope::parse("administer:workloads").unwrap(),
        ..proof(&authorization, GUARD, &challenge)
    };
    let made = sign(administer).await;
    let said = guard.decide_about(&authorization, &made, &challenge, ("administer", "workloads"));
    refused("an action that was not granted", said, RefusalCode::ScopeNotGranted);
    for (name, channel) in [
        ("no channel", Channel::None),
        ("another channel", Channel::Exporter([7; 32])),
    ] {
        let challenge = guard.challenge();
        let request_digest = matches!(channel, Channel::None).then_some([7; 32]);
        let bent = touchstone_authorization::Proof {
            channel,
            request_digest,
            ..proof(&authorization, GUARD, &challenge)
        };
        let made = sign(bent).await;
        let said = guard.decide(&authorization, &made, &challenge).unwrap_err();
        let expected = [
            RefusalCode::ProofChannelMissing,
            RefusalCode::ProofChallenge,
            RefusalCode::ProofRequest,
        ];
        assert!(said.iter().any(|code| expected.contains(code)), "{name}: {said:?}");
    }
    for at in [authorization.len() - 1, authorization.len() / 2, 20] {
        let mut altered = authorization.clone();
        *altered.get_mut(at).unwrap() ^= 1;
        let challenge = guard.challenge();
        let made = node.prove(&altered, GUARD, &challenge).await;
        assert!(guard.decide(&altered, &made, &challenge).is_err(), "byte {at} altered");
    }
    assert_eq!(rights(&broker, "node-1"), before, "no theft costs the node anything");
    assert_eq!(knock(&guard, &node, &authorization).await, Ok(()));
    broker.shutdown().await.unwrap();
}
