//! A guard and the policy repository: what is taken out of the keyset counts without a restart, what is older is never
//! taken, and a policy that has run out opens nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::path::Path;
use std::sync::{Arc, Mutex};

use swtpm_tests::boots::Boot;
use swtpm_tests::domain::{Domain, NAME, Post, eventually};
use swtpm_tests::node::Node;
use touchstone_attest::floors::PolicyFloors;
use touchstone_attest::trust::TrustError;
use touchstone_authorization::RefusalCode;
use touchstone_enforcer::guard::{Guard, GuardConfig, GuardEvent, Renewal, keep_current};
use touchstone_policies::{Job, Keyset, PolicyCode};

const GUARD: &str = "guard-1";

fn renewal(domain: &Domain, repository: &str) -> Renewal {
    Renewal {
        repository: (&domain.path(repository)).into(),
        mirror: None,
        root: domain.path("root.json"),
        domain: NAME.into(),
        id: GUARD.into(),
        brokers: vec![domain.endpoint()],
        floors: Some(PolicyFloors::open(&domain.path("guard-state")).unwrap()),
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_takes_over_what_is_published_and_nothing_older() {
    let domain = Domain::new(&[("node-1", Boot::GOOD)]);
    let broker = domain.broker().await;
    let mut node = Node::start(&Boot::GOOD).await;
    let renewal = Arc::new(renewal(&domain, "policy"));
    let held = renewal.load(None).await.unwrap();
    let follower = held.follow(renewal.brokers.clone(), GUARD.into());
    let views = follower.views();
    let guard = Arc::new(Guard::new(GuardConfig::of(&held, GUARD), follower));
    let events = Arc::new(Mutex::new(Vec::new()));
    let keeping = {
        let (guard, renewal, events) = (Arc::clone(&guard), Arc::clone(&renewal), Arc::clone(&events));
        tokio::spawn(async move {
            keep_current(&guard, &renewal, held, |event| events.lock().unwrap().push(event)).await;
        })
    };
    let post = Post { guard, views };
    let authorization = node.attest(&mut domain.client()).await.unwrap().authorization.unwrap();
    post.reaches(broker.app().trust.epoch()).await;
    let challenge = post.challenge();
    let proof = node.prove(&authorization, GUARD, &challenge).await;
    assert!(post.decide(&authorization, &proof, &challenge).is_ok());

    // The key that signed it is taken out: nobody else need tell the guard.
    copy(&domain.path("policy"), &domain.path("policy-before"));
    let published = domain.path("policy");
    let staged = published.join("staged/keyset.json");
    let mut keyset = Keyset::parse(&std::fs::read(domain.path("data/keyset.json")).unwrap()).unwrap();
    keyset.keys.retain(|entry| entry.job != Job::Authorization);
    std::fs::write(staged, keyset.to_json()).unwrap();
    domain.publish();
    eventually("the new policy at the guard", || {
        events.lock().unwrap().contains(&GuardEvent::Policy { version: 2 })
    })
    .await;
    let challenge = post.challenge();
    let proof = node.prove(&authorization, GUARD, &challenge).await;
    let refused = post.decide(&authorization, &proof, &challenge).map(|_| ());
    assert_eq!(refused, Err(vec![RefusalCode::AuthorizationKeyUnknown]));

    // The repository as it was before is refused by a guard that starts anew with its record.
    let older = of_the_older_repository(&domain).await;
    assert_eq!(older, Some(PolicyCode::Rollback));
    keeping.abort();
    broker.shutdown().await.unwrap();
}

/// What a guard that starts with the older repository says.
async fn of_the_older_repository(domain: &Domain) -> Option<PolicyCode> {
    match renewal(domain, "policy-before").load(None).await.map(drop) {
        Err(TrustError::Policy(error)) => Some(error.code()),
        other => {
            assert!(other.is_err(), "an older repository was taken");
            None
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_has_run_out_opens_nothing() {
    let domain = Domain::new(&[("node-1", Boot::GOOD)]);
    let broker = domain.broker().await;
    let mut node = Node::start(&Boot::GOOD).await;
    let trust = domain.trust().await;
    let follower = trust.follow(vec![domain.endpoint()], GUARD.into());
    let views = follower.views();
    let config = GuardConfig {
        policy_expires: 1,
        ..GuardConfig::of(&trust, GUARD)
    };
    let post = Post {
        guard: Arc::new(Guard::new(config, follower)),
        views,
    };
    let authorization = node.attest(&mut domain.client()).await.unwrap().authorization.unwrap();
    post.reaches(broker.app().trust.epoch()).await;
    let challenge = post.challenge();
    let proof = node.prove(&authorization, GUARD, &challenge).await;
    let refused = post.decide(&authorization, &proof, &challenge).map(|_| ());
    assert_eq!(refused, Err(vec![RefusalCode::PolicyExpired]));
    broker.shutdown().await.unwrap();
}
