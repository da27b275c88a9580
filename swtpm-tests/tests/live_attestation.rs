//! Whole attestations of machines with TPMs through the agent's code: enrolment, renewal, restarts, resets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests: what is not as it must be fails"
)]

use swtpm_tests::boots::Boot;
use swtpm_tests::domain::{ACTION, Domain, NAME, REGION, RESOURCE, rights};
use swtpm_tests::machine::{Machine, Plan};
use swtpm_tests::node::Node;
use touchstone_authorization::{Status, UntrustedAuthorization};
use touchstone_ledger::statement::{Kind, Outcome};
use touchstone_policies::Job;
use touchstone_verifier::appraisal::Tier;

/// What the demo's node gets, and what it may weigh (protocol.md 6).
const SCOPES: [&str; 3] = ["delegate:workloads", "execute:workloads", "release:keys"];
const MOST_BYTES: usize = 400;

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_enrols_and_renews_with_everything_signed_and_on_record() {
    let domain = Domain::new(&[("node-1", Boot::GOOD)]);
    let broker = domain.broker().await;
    let guard = domain.guard("guard-1").await;
    let (mut node, mut client) = (Node::start(&Boot::GOOD).await, domain.client());

    let first = node.attest(&mut client).await.unwrap();
    assert_eq!(first.reasons, []);
    let enrolled = domain.check(&first);
    let statement = &enrolled.statement;
    assert_eq!((statement.kind, statement.outcome), (Kind::Enrolment, Outcome::Allow));
    assert_eq!(
        (statement.subject.as_deref(), statement.domain.as_str()),
        (Some("node-1"), NAME)
    );
    assert_eq!(broker.app().head().size, enrolled.receipt.leaf_index + 1);
    assert_eq!(enrolled.ear.submods["tpm"].status, Tier::Affirming);

    let contents = enrolled.authorization.as_ref().unwrap().contents().clone();
    assert_eq!(contents.subject, "node-1");
    assert_eq!(
        contents.confirmation,
        node.run(|attester| attester.session_key().clone()).await
    );
    assert_eq!(
        contents.scopes.iter().map(ToString::to_string).collect::<Vec<_>>(),
        SCOPES
    );
    let policy = broker.app().policy();
    let life = policy.settings.timers.authorization_life_ms / 1000;
    assert_eq!(
        contents.expires,
        contents.issued_at + life,
        "nothing else ends before the authorization's life"
    );
    assert_eq!(
        enrolled.ear.expires,
        Some(contents.expires.try_into().unwrap()),
        "no verdict outlives its inputs"
    );
    let bytes = first.authorization.unwrap();
    assert!(bytes.len() <= MOST_BYTES, "{} bytes", bytes.len());
    println!("authorization: {} bytes", bytes.len());

    guard.reaches(contents.epoch).await;
    let challenge = guard.challenge();
    let proof = node.prove(&bytes, "guard-1", &challenge).await;
    let allowed = guard.decide(&bytes, &proof, &challenge).unwrap();
    assert_eq!(allowed.scope.to_string(), format!("{ACTION}:{RESOURCE}"));

    // The second round: the Name alone, no credential, no certification, the same place in the status list.
    let again = node.attest(&mut client).await.unwrap();
    let renewed = domain.check(&again);
    assert_eq!(renewed.statement.kind, Kind::Attestation);
    let newer = renewed.authorization.as_ref().unwrap().contents();
    assert_eq!(
        (newer.status, &newer.confirmation),
        (contents.status, &contents.confirmation)
    );
    assert_ne!(newer.cti, contents.cti);
    assert_eq!(rights(&broker, "node-1").record.unwrap().region, REGION);
    // The one before it is still good: renewal takes nothing away.
    let challenge = guard.challenge();
    let proof = node.prove(&bytes, "guard-1", &challenge).await;
    assert!(guard.decide(&bytes, &proof, &challenge).is_ok());
    broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_round_has_no_credential_and_no_certification_to_make() {
    let domain = Domain::new(&[("node-1", Boot::GOOD)]);
    let broker = domain.broker().await;
    let (mut machine, mut line) = (Machine::start(&Boot::GOOD), domain.line().await);
    let first = line.hello(&machine.hello(false)).await.unwrap();
    assert!(first.credential.is_some() && !first.session_key_known);
    let submission = machine.evidence(Plan::honest(&first, line.exporter(&first.nonce)));
    assert!(line.submit(&submission).await.unwrap().allowed);
    for known in [true, false] {
        let next = line.hello(&machine.hello(known)).await.unwrap();
        assert!(next.credential.is_none() && next.session_key_known, "known: {known}");
        assert_ne!(next.nonce, first.nonce);
        let submission = machine.evidence(Plan::honest(&next, line.exporter(&next.nonce)));
        assert!(line.submit(&submission).await.unwrap().allowed, "known: {known}");
    }
    broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn authorizations_end_with_the_first_thing_they_rest_on() {
    // A shorter life than the default is a setting; a policy that ends even sooner wins over it.
    let short = [
        ("freshness_window_ms", 10_000),
        ("attestation_deadline_ms", 600_000),
        ("authorization_life_ms", 600_000),
    ];
    let domain = Domain::with(&[("node-1", Boot::GOOD)], &short, &[]);
    let broker = domain.broker().await;
    let (mut node, mut client) = (Node::start(&Boot::GOOD).await, domain.client());
    let checked = domain.check(&node.attest(&mut client).await.unwrap());
    let contents = checked.authorization.unwrap();
    let contents = contents.contents();
    assert_eq!(contents.expires - contents.issued_at, 600);
    broker.shutdown().await.unwrap();

    let domain = Domain::with(&[("node-1", Boot::GOOD)], &[("timestamp_life_ms", 500_000)], &[]);
    let broker = domain.broker().await;
    let mut client = domain.client();
    node.forget();
    let checked = domain.check(&node.attest(&mut client).await.unwrap());
    let policy = broker.app().policy();
    let granted = checked.authorization.unwrap();
    assert_eq!(i64::try_from(granted.contents().expires).unwrap(), policy.expires);
    assert!(granted.contents().expires < granted.contents().issued_at + 1_200);
    broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_attestation_key_survives_a_restart_of_the_agent() {
    let domain = Domain::new(&[("node-1", Boot::GOOD)]);
    let broker = domain.broker().await;
    let (mut node, mut client) = (Node::start(&Boot::GOOD).await, domain.client());
    let before = domain
        .check(&node.attest(&mut client).await.unwrap())
        .authorization
        .unwrap();
    let name = node.ak_name().await;

    let mut node = node.restarted().await;
    assert_eq!(node.ak_name().await, name);
    let answer = node.attest(&mut client).await.unwrap();
    let after = domain.check(&answer);
    assert_eq!(after.statement.kind, Kind::Attestation, "no second enrolment");
    let granted = after.authorization.unwrap();
    assert_eq!(granted.contents().status, before.contents().status);
    assert_ne!(
        granted.contents().confirmation,
        before.contents().confirmation,
        "session keys are of one run"
    );
    broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reset_everything_is_appraised_anew_with_a_new_session_key() {
    let domain = Domain::new(&[("node-1", Boot::GOOD)]);
    let broker = domain.broker().await;
    let (mut node, mut client) = (Node::start(&Boot::GOOD).await, domain.client());
    let before = domain
        .check(&node.attest(&mut client).await.unwrap())
        .authorization
        .unwrap();
    let resets = rights(&broker, "node-1")
        .record
        .unwrap()
        .enrolled
        .tpm()
        .unwrap()
        .clock
        .reset_count;

    node.swtpm.reboot(&Boot::GOOD).unwrap();
    let lost = node.attest(&mut client).await;
    assert!(
        lost.is_err(),
        "the old session key is gone with the NULL hierarchy's seed: {lost:?}"
    );
    let mut node = node.restarted().await;
    let after = domain.check(&node.attest(&mut client).await.unwrap());
    let granted = after.authorization.unwrap();
    assert_ne!(granted.contents().confirmation, before.contents().confirmation);
    assert_eq!(
        granted.contents().status,
        before.contents().status,
        "the same node goes on"
    );
    let now = rights(&broker, "node-1");
    assert_eq!(now.status, Some(Status::Valid));
    let enrolled = now.record.unwrap().enrolled;
    assert!(enrolled.tpm().unwrap().clock.reset_count > resets);
    let thumbprint = granted.contents().confirmation.thumbprint();
    assert_eq!(enrolled.session_key.unwrap().thumbprint, thumbprint, "certified anew");
    broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_signed_by_one_key_is_not_taken_for_another_job() {
    let domain = Domain::new(&[("node-1", Boot::GOOD)]);
    let broker = domain.broker().await;
    let (mut node, mut client) = (Node::start(&Boot::GOOD).await, domain.client());
    let answer = node.attest(&mut client).await.unwrap();
    let now_ms = touchstone_attest::clock::wall_ms();
    let ring = domain.ring(Job::Authorization);
    for (what, bytes) in [
        ("statement", &answer.statement),
        ("attestation result", &answer.ear),
        ("receipt", &answer.receipt),
        ("trust state", &answer.trust_state),
    ] {
        let taken = UntrustedAuthorization::parse(bytes).and_then(|token| token.verify(&ring, now_ms));
        assert!(taken.is_err(), "{what} as an authorization");
    }
    broker.shutdown().await.unwrap();
}
