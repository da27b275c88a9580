//! Whole attestations over HTTPS: enrolment, renewal, refusal, withdrawal, the way back, restarts, replay of decisions.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;

use common::client::Client;
use common::tpm::{SoftKey, SoftNode};
use common::{DOMAIN, Domain, attest, authorization, command, decided, eventually, ledger, now, statement, view};
use hyper::Method;
use touchstone_authorization::{Status, StatusIndex, TrustView, VerifiedAuthorization};
use touchstone_cose::cbor::{self, Limits, Value};
use touchstone_evidence::label::Label;
use touchstone_keybroker::record::{DecisionRecord, RecordError};
use touchstone_ledger::statement::{Kind, Outcome};
use touchstone_policies::Job;

fn status(view: &TrustView, place: StatusIndex) -> Status {
    view.lists().get(place.list).unwrap().status(place.index).unwrap()
}

#[tokio::test]
async fn a_node_enrols_renews_and_keeps_its_status_entry() {
    let mut node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[]);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;

    let first = attest(&mut client, &mut node, false).await.unwrap();
    assert_eq!(first.reasons, []);
    let enrolment = statement(&broker, &first);
    assert_eq!((enrolment.kind, enrolment.outcome), (Kind::Enrolment, Outcome::Allow));
    assert_eq!(enrolment.subject.as_deref(), Some("node-1"));
    let granted = authorization(&broker, &first);
    let contents = granted.contents();
    assert_eq!(contents.subject, "node-1");
    assert_eq!(contents.confirmation, node.session.verifying_key());
    assert_eq!(contents.statement, enrolment.digest().unwrap());
    assert_eq!(contents.scopes.len(), 3);
    let life_ms = broker.app().policy().settings.timers.authorization_life_ms;
    assert!(contents.expires <= contents.issued_at + life_ms / 1_000);
    assert!(first.authorization.as_ref().unwrap().len() <= 400, "protocol.md 6");
    assert_eq!(
        status(&view(&broker, &first.trust_state), contents.status),
        Status::Valid
    );

    let again = attest(&mut client, &mut node, true).await.unwrap();
    let renewal = authorization(&broker, &again);
    assert_eq!(renewal.contents().status, contents.status);
    assert_ne!(renewal.contents().cti, contents.cti);
    assert_eq!(statement(&broker, &again).kind, Kind::Attestation);
    let kinds: Vec<Kind> = ledger(&broker).await.iter().map(|s| s.kind).collect();
    assert_eq!(
        kinds,
        [
            Kind::Genesis,
            Kind::PolicyActivation,
            Kind::Enrolment,
            Kind::Attestation
        ]
    );
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_authentic_failure_withdraws_at_once_and_good_evidence_brings_new_rights() {
    let mut node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[]);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let first = attest(&mut client, &mut node, false).await.unwrap();
    let old = authorization(&broker, &first).contents().status;
    let kept = node.values.clone();

    node.extend(4);
    let denied = attest(&mut client, &mut node, true).await.unwrap();
    assert!(!denied.allowed && denied.authorization.is_none());
    assert!(
        denied.reasons.iter().any(|r| r.code == "log-does-not-replay"),
        "{:?}",
        denied.reasons
    );
    let recorded = statement(&broker, &denied);
    assert_eq!((recorded.kind, recorded.outcome), (Kind::Attestation, Outcome::Deny));
    let (before, after) = (view(&broker, &first.trust_state), view(&broker, &denied.trust_state));
    assert_eq!(status(&after, old), Status::Invalid);
    assert!(after.head().epoch > before.head().epoch);

    node.values = kept;
    let back = attest(&mut client, &mut node, true).await.unwrap();
    assert!(back.allowed);
    let new = authorization(&broker, &back).contents().status;
    assert_ne!(new, old, "the old entry stays marked for ever");
    let now = view(&broker, &back.trust_state);
    assert_eq!((status(&now, old), status(&now, new)), (Status::Invalid, Status::Valid));
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn forgeries_in_a_nodes_name_leave_its_rights_alone() {
    let mut node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[]).with_limits("refusals_per_second = 1000000");
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let first = attest(&mut client, &mut node, false).await.unwrap();
    let entry = authorization(&broker, &first).contents().status;
    let epoch = broker.app().trust.epoch();
    let entries = decided(&broker).await.len();

    let mut forger = SoftNode::new("good");
    for _ in 0..40 {
        // The victim's public keys in the hello, everything signed by another key.
        let challenge = client.hello(&node.hello(true)).await.unwrap();
        std::mem::swap(&mut forger.session, &mut node.session);
        let mut forged = forger.answer(DOMAIN, &challenge, client.export(&challenge.nonce));
        std::mem::swap(&mut forger.session, &mut node.session);
        forged.activation = None;
        let refused = client.submit(&forged).await.unwrap_err();
        assert_eq!((refused.status, refused.code.as_str()), (401, "evidence-refused"));
        assert!(
            refused
                .reasons
                .iter()
                .any(|code| code == "ak-not-enrolled" || code == "ek-not-enrolled")
        );
    }
    assert_eq!(broker.app().trust.epoch(), epoch, "no epoch was raised");
    assert_eq!(decided(&broker).await.len(), entries, "and nothing was decided");
    let again = attest(&mut client, &mut node, true).await.unwrap();
    assert_eq!(authorization(&broker, &again).contents().status, entry);
    let stopping = domain.path("data");
    broker.shutdown().await.unwrap();
    let broker = domain.start().await;
    // One a minute, and one at the end.
    let mut refused = 0;
    for summary in ledger(&broker).await {
        if summary.kind == Kind::RefusalSummary {
            let [row] = summary.body.get(2).unwrap().as_array().unwrap() else {
                panic!("one row: {:?}", summary.body)
            };
            let row = row.as_array().unwrap();
            assert_eq!(row[0].as_text(), Some("evidence-refused"));
            assert_eq!(row[1].as_text(), Some("127.0.0.0/24"));
            refused += row[2].as_u64().unwrap();
        }
    }
    assert_eq!(refused, 40);
    assert!(stopping.exists());
    broker.shutdown().await.unwrap();
}

/// A collection with its attestation key under the label of one as PEM.
fn with_key_as_pem(collection: &[u8]) -> Vec<u8> {
    let Ok(Value::Map(mut records)) = cbor::decode(collection, Limits::MESSAGE) else {
        panic!("a map")
    };
    let (public, pem) = (Label::TpmAkPublic, Label::TpmAkPem);
    for (label, record) in &mut records {
        if label.as_text() == Some(public.as_str()) {
            let Value::Array(parts) = record else {
                panic!("a record")
            };
            *label = Value::text(pem.as_str());
            parts[0] = Value::text(pem.media_type());
        }
    }
    cbor::encode(&Value::Map(records))
}

#[tokio::test]
async fn attacks_on_a_session() {
    let mut node = SoftNode::new("good");
    let mut stranger = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[]);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let mut other = Client::connect(broker.address()).await;

    // A machine nobody listed.
    let refused = attest(&mut client, &mut stranger, false).await.unwrap_err();
    assert_eq!(refused.code, "identity-unknown");
    // A known name without enrolment.
    assert_eq!(
        attest(&mut client, &mut node, true).await.unwrap_err().code,
        "identity-unknown"
    );
    // The credential answered wrongly, and not at all.
    for wrong in [Some([7; 32]), None] {
        let challenge = client.hello(&node.hello(false)).await.unwrap();
        let mut submission = node.answer(DOMAIN, &challenge, client.export(&challenge.nonce));
        submission.activation = wrong;
        let refused = client.submit(&submission).await.unwrap_err();
        assert_eq!(refused.reasons, ["activation-wrong"]);
        let spent = client.submit(&submission).await.unwrap_err();
        assert_eq!((spent.status, spent.code.as_str()), (409, "session-unknown"), "one try");
    }
    // An attestation key that is in another TPM than the endorsement key: the credential does not open.
    let challenge = client.hello(&node.hello(false)).await.unwrap();
    let kept = std::mem::replace(&mut node.ak, SoftKey::new());
    let swapped = node.answer(DOMAIN, &challenge, client.export(&challenge.nonce));
    assert_eq!(client.submit(&swapped).await.unwrap_err().code, "evidence-refused");
    node.ak = kept;

    let enrolled = attest(&mut client, &mut node, false).await.unwrap();
    assert!(enrolled.allowed);
    // The key as PEM, without a Name and without attributes: any software key could be one, so it buys no judgement.
    let challenge = client.hello(&node.hello(true)).await.unwrap();
    let mut as_pem = node.answer(DOMAIN, &challenge, client.export(&challenge.nonce));
    as_pem.collection = with_key_as_pem(&as_pem.collection);
    let refused = client.submit(&as_pem).await.unwrap_err();
    assert_eq!(
        (refused.status, refused.code.as_str(), refused.reasons),
        (422, "evidence-not-accepted", vec![])
    );
    // The same answer again, in the same session and in another one.
    let challenge = client.hello(&node.hello(true)).await.unwrap();
    let submission = node.answer(DOMAIN, &challenge, client.export(&challenge.nonce));
    client.submit(&submission).await.unwrap();
    assert_eq!(client.submit(&submission).await.unwrap_err().code, "session-unknown");
    let mut replayed = submission;
    replayed.session_id = client.hello(&node.hello(true)).await.unwrap().session_id;
    let refused = client.submit(&replayed).await.unwrap_err();
    assert_eq!(
        (refused.code.as_str(), refused.reasons),
        ("evidence-refused", vec!["binder-mismatch".to_owned()])
    );
    // A session taken to another connection; it is not used up by that.
    let challenge = client.hello(&node.hello(true)).await.unwrap();
    let submission = node.answer(DOMAIN, &challenge, client.export(&challenge.nonce));
    assert_eq!(other.submit(&submission).await.unwrap_err().code, "session-unknown");
    // A relay: evidence made for the channel to somebody in between.
    let mut relayed = node.answer(DOMAIN, &challenge, other.export(&challenge.nonce));
    relayed.session_id = challenge.session_id;
    assert_eq!(client.submit(&relayed).await.unwrap_err().reasons, ["binder-mismatch"]);
    // Another machine with the same measurements, in the node's name.
    let challenge = client.hello(&node.hello(false)).await.unwrap();
    let stolen = stranger.answer(DOMAIN, &challenge, client.export(&challenge.nonce));
    assert_eq!(client.submit(&stolen).await.unwrap_err().code, "evidence-refused");
    assert_eq!(broker.app().trust.pending(), 0);
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_recorded_decision_is_made_again_byte_for_byte_and_a_falsified_one_is_noticed() {
    let mut node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[]);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    attest(&mut client, &mut node, false).await.unwrap();
    node.extend(4);
    let denied = attest(&mut client, &mut node, true).await.unwrap();
    let key = common::key(&broker, Job::Statement);
    let (policy, store) = (broker.app().policy(), broker.app().store.clone());

    let allow = DecisionRecord::read(&*store, 2, &key).unwrap();
    let deny = DecisionRecord::latest(&*store, "node-1", &key).unwrap();
    assert_eq!(deny.statement, denied.statement);
    for record in [&allow, &deny] {
        let read = DecisionRecord::decode(&record.encode()).unwrap();
        let replayed = read.replay(&policy, &key).unwrap();
        assert_eq!(replayed.index, record.index);
        assert!(replayed.payload_bytes > 500);
    }
    assert!(
        DecisionRecord::read(&*store, 0, &key).is_err(),
        "the genesis is no decision"
    );

    // Metadata that was signed anew ends at another time and has the same digest.
    let anew = touchstone_policies::PolicySet {
        expires: allow.inputs().unwrap().now + 5,
        ..(*policy).clone()
    };
    allow.replay(&anew, &key).unwrap();

    // Any byte of a part: it is missing under its digest. Any byte of the inputs: not those that were signed.
    let mut altered = allow.clone();
    altered.parts.iter_mut().for_each(|part| part[10] ^= 1);
    assert!(matches!(altered.replay(&policy, &key), Err(RecordError::Inputs(_))));
    for at in (0..allow.inputs.len()).step_by(37) {
        let mut altered = allow.clone();
        altered.inputs[at] ^= 1;
        assert!(
            matches!(altered.replay(&policy, &key), Err(RecordError::OtherInputs { .. })),
            "byte {at}"
        );
    }
    // Inputs that decide otherwise never give the payload that was recorded.
    let mut inputs = allow.inputs().unwrap();
    inputs.now += 1;
    let policy_of = touchstone_keybroker::decision::decide(&inputs, &policy).unwrap();
    let touchstone_keybroker::decision::Decision::Decided(decided) = policy_of else {
        panic!("not authentic")
    };
    assert_ne!(
        decided.statement.payload_bytes().unwrap(),
        allow.replay(&policy, &key).unwrap().statement.payload_bytes().unwrap()
    );
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_killed_broker_grants_nothing_old_until_fresh_evidence_comes() {
    let mut node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[]);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let first = attest(&mut client, &mut node, false).await.unwrap();
    let place = authorization(&broker, &first).contents().status;
    let epoch = broker.app().trust.epoch();
    drop(client);
    drop(broker);

    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let shown = view(&broker, &client.get("/v1/trust-state").await);
    assert!(shown.head().epoch > epoch);
    assert_eq!(status(&shown, place), Status::Suspended);
    let again = attest(&mut client, &mut node, true).await.unwrap();
    assert_eq!(authorization(&broker, &again).contents().status, place);
    assert_eq!(status(&view(&broker, &again.trust_state), place), Status::Valid);
    let kinds: Vec<Kind> = ledger(&broker).await.iter().map(|statement| statement.kind).collect();
    let expected = [
        Kind::Genesis,
        Kind::PolicyActivation,
        Kind::Enrolment,
        Kind::Interruption,
        Kind::Attestation,
    ];
    assert_eq!(kinds, expected, "nothing was lost and nothing is there twice");
    drop(client);
    broker.shutdown().await.unwrap();

    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let shown = view(&broker, &client.get("/v1/trust-state").await);
    assert_eq!(
        status(&shown, place),
        Status::Valid,
        "after a stop in order everything goes on"
    );
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn who_does_not_attest_in_time_loses_its_rights() {
    let mut node = SoftNode::new("good");
    let settings = [
        ("heartbeat_ms", "50"),
        ("attestation_interval_ms", "200"),
        ("attestation_retry_ms", "100"),
        ("attestation_deadline_ms", "400"),
    ];
    let domain = Domain::new(&[("node-1", &node)], &settings);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let first = attest(&mut client, &mut node, false).await.unwrap();
    let place = authorization(&broker, &first).contents().status;
    let now_at = || broker.app().trust.lists().get(place.list).unwrap().status(place.index);
    eventually("the deadline", || now_at() != Some(Status::Valid)).await;
    eventually("the disk", || broker.app().trust.pending() == 0).await;
    let revocations = ledger(&broker).await.into_iter().filter(|s| s.kind == Kind::Revocation);
    let codes: Vec<String> = revocations.map(|s| s.reasons[0].code.clone()).collect();
    assert_eq!(codes, ["attestation-overdue"]);
    assert!(
        attest(&mut client, &mut node, true).await.unwrap().allowed,
        "and gets new ones by attesting"
    );
    assert!(now() > 0);
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn who_a_broker_refuses_because_it_refuses_everybody_is_not_overdue() {
    const DEADLINE: std::time::Duration = std::time::Duration::from_secs(3);
    let mut node = SoftNode::new("good");
    let settings = [
        ("heartbeat_ms", "50"),
        ("attestation_interval_ms", "1000"),
        ("attestation_retry_ms", "500"),
    ];
    let domain = Domain::new(&[("node-1", &node)], &settings);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let first = attest(&mut client, &mut node, false).await.unwrap();
    // As on the side that differs from the majority: nothing is granted and no fresh head goes out.
    broker.app().trust.hold(true);
    // Only now: before it the node would be overdue for another reason, however short a time that is.
    domain.change(&[("attestation_deadline_ms", "3000")]).await;
    let place = authorization(&broker, &first).contents().status;
    let valid = || broker.app().trust.lists().get(place.list).unwrap().status(place.index) == Some(Status::Valid);
    tokio::time::sleep(DEADLINE + std::time::Duration::from_secs(1)).await;
    assert!(valid(), "a refusal is no withdrawal");
    let again = std::time::Instant::now();
    broker.app().trust.hold(false);
    eventually("who does not come then to be overdue", || !valid()).await;
    assert!(again.elapsed() >= DEADLINE, "{:?}", again.elapsed());
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_machine_takes_anothers_place_only_where_the_author_has_taken_that_one_out() {
    let mut old = SoftNode::new("good");
    let mut new = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &old), ("node-1", &new)], &[]);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let first = attest(&mut client, &mut old, false).await.unwrap();
    let place = authorization(&broker, &first).contents().status;
    // Both are listed, and one of them has enrolled: the name is taken.
    let conflict = attest(&mut client, &mut new, false).await.unwrap_err();
    assert_eq!((conflict.status, conflict.code.as_str()), (409, "enrolment-conflict"));
    assert_eq!(decided(&broker).await.len(), 3, "nothing is recorded of it");

    domain.take_out("node-1", &old);
    domain.publish();
    let now_at = |place: StatusIndex| {
        broker
            .app()
            .trust
            .lists()
            .get(place.list)
            .unwrap()
            .status(place.index)
            .unwrap()
    };
    eventually("the new list of machines", || now_at(place) == Status::Invalid).await;
    // Out, and on record: who comes in between has the same taken once more.
    eventually("the disk", || broker.app().trust.pending() == 0).await;
    let second = attest(&mut client, &mut new, false).await.unwrap();
    assert!(second.allowed);
    let shown = view(&broker, &second.trust_state);
    assert_eq!(status(&shown, place), Status::Invalid);
    let kinds: Vec<Kind> = decided(&broker).await.iter().map(|s| s.kind).collect();
    assert_eq!(
        kinds[2..],
        [
            Kind::Enrolment,
            Kind::PolicyActivation,
            Kind::Revocation,
            Kind::Enrolment
        ]
    );
    assert_eq!(
        attest(&mut client, &mut old, true).await.unwrap_err().code,
        "identity-unknown"
    );
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn one_scope_taken_away_ends_the_authorization_that_has_it() {
    let mut node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[]);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let first = attest(&mut client, &mut node, false).await.unwrap();
    let held = authorization(&broker, &first);
    let has_release = |held: &VerifiedAuthorization| {
        let mut scopes = held.contents().scopes.iter().map(ToString::to_string);
        scopes.any(|scope| scope.starts_with("release:"))
    };
    assert!(has_release(&held), "{:?}", held.contents().scopes);
    let now_at = |place: StatusIndex| {
        let lists = broker.app().trust.lists();
        lists.get(place.list).unwrap().status(place.index).unwrap()
    };

    // Something that takes nothing away from it leaves it as it is.
    domain.add_node("node-2", &SoftNode::new("good"));
    domain.publish();
    command(&domain, Method::POST, "/reload", "").await;
    assert_eq!(now_at(held.contents().status), Status::Valid);

    let path = domain.path("policy/staged/regions/north/policy.cedar");
    let mut text = std::fs::read_to_string(&path).unwrap();
    text.push_str("\nforbid (principal, action == Action::\"release\", resource);\n");
    std::fs::write(&path, text).unwrap();
    domain.publish();
    command(&domain, Method::POST, "/reload", "").await;
    assert_eq!(now_at(held.contents().status), Status::Invalid);
    let last = ledger(&broker).await.into_iter().last().unwrap();
    assert_eq!(
        (last.kind, last.reasons[0].code.as_str(), last.reasons[0].claim.as_str()),
        (Kind::Revocation, "policy-no-longer-permits", "scopes")
    );
    // What is left it has at its next attestation.
    let second = attest(&mut client, &mut node, true).await.unwrap();
    assert!(second.allowed && !has_release(&authorization(&broker, &second)));
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn forgeries_use_up_no_status_entries() {
    let mut node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[]).with_limits("refusals_per_second = 1000000");
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    for _ in 0..40 {
        // Public keys of a node that has not enrolled, and no credential opened.
        let challenge = client.hello(&node.hello(false)).await.unwrap();
        let mut submission = node.answer(DOMAIN, &challenge, client.export(&challenge.nonce));
        submission.activation = None;
        client.submit(&submission).await.unwrap_err();
    }
    // The machine itself, again and again, with what is not acceptable.
    let kept = node.values.clone();
    node.extend(4);
    for _ in 0..10 {
        assert!(!attest(&mut client, &mut node, false).await.unwrap().allowed);
    }
    node.values = kept;
    let granted = attest(&mut client, &mut node, false).await.unwrap();
    let place = authorization(&broker, &granted).contents().status;
    assert_eq!((place.list, place.index), (0, 0));
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_failure_of_another_machine_of_the_same_name_takes_nothing_away() {
    let mut node = SoftNode::new("good");
    let mut spare = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node), ("node-1", &spare)], &[]);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let first = attest(&mut client, &mut node, false).await.unwrap();
    let place = authorization(&broker, &first).contents().status;
    let epoch = broker.app().trust.epoch();

    spare.extend(4);
    let size = decided(&broker).await.len();
    let refused = attest(&mut client, &mut spare, false).await.unwrap_err();
    assert_eq!(
        (refused.code.as_str(), decided(&broker).await.len()),
        ("enrolment-conflict", size)
    );
    assert_eq!(broker.app().trust.epoch(), epoch);
    assert!(
        broker.app().attested.lock().unwrap().contains_key("node-1"),
        "still watched"
    );
    let again = attest(&mut client, &mut node, true).await.unwrap();
    assert_eq!(authorization(&broker, &again).contents().status, place);
    broker.shutdown().await.unwrap();
}
