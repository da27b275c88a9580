//! A broker serves its policy repository: guards and agents have it from there, follow what is published, and deny when
//! nothing new is published any more.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::sync::Arc;
use std::time::Instant;

use swtpm_tests::boots::Boot;
use swtpm_tests::domain::{Domain, NAME, Post, change_settings, eventually, start};
use swtpm_tests::node::Node;
use swtpm_tests::observe::PATIENCE;
use touchstone_authorization::RefusalCode;
use touchstone_enforcer::guard::{Guard, GuardConfig, Renewal, keep_current};
use touchstone_policies::{Location, Mirror};

const GUARD: &str = "guard-1";

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_has_its_policy_from_the_broker_and_denies_at_its_end() {
    let domain = Domain::new(&[("node-1", Boot::GOOD)]);
    let mut node = Node::start(&Boot::GOOD).await;
    domain.publish();
    let more = "policy_refresh_ms = 100\npolicy_listen = \"127.0.0.1:0\"\n[limits]";
    let broker = start(&domain.config_text().replace("[limits]", more)).await;
    let place = format!("http://{}/v1/policy", broker.policy_address().unwrap());
    let renewal = Arc::new(Renewal {
        repository: Location::parse(&place).unwrap().into(),
        mirror: Some(Mirror::new(domain.path("guard-policy"))),
        root: domain.path("root.json"),
        domain: NAME.into(),
        id: GUARD.into(),
        brokers: vec![domain.endpoint()],
        floors: None,
    });
    let held = renewal.load(None).await.unwrap();
    assert_eq!(held.policy.digest, broker.app().policy().digest);
    let follower = held.follow(renewal.brokers.clone(), GUARD.into());
    let views = follower.views();
    let guard = Arc::new(Guard::new(GuardConfig::of(&held, GUARD), follower));
    let (keeping, kept) = (Arc::clone(&renewal), Arc::clone(&guard));
    let version = held.policy.version;
    let keeper = tokio::spawn(async move { keep_current(&kept, &keeping, held, |_| ()).await });
    let post = Post { guard, views };
    let mut client = domain.client();
    let authorization = node.attest(&mut client).await.unwrap().authorization.unwrap();
    post.reaches(broker.app().trust.epoch()).await;
    assert!(asks(&node, &post, &authorization).await.is_ok(), "let in");

    // Another version goes to the broker, and from it to the guard.
    domain.publish();
    eventually("the new version at the broker", || {
        broker.app().policy().version == version + 1
    })
    .await;
    let mirror = renewal.mirror.clone().unwrap();
    let newest = broker.app().mirror.timestamp();
    eventually("and at the guard", || mirror.timestamp() == newest).await;
    // The guard's copy serves it where the broker is gone.
    let fresh = Renewal {
        repository: Location::parse("http://127.0.0.1:1/v1/policy").unwrap().into(),
        mirror: Some(mirror.clone()),
        root: domain.path("root.json"),
        domain: NAME.into(),
        id: GUARD.into(),
        brokers: vec![domain.endpoint()],
        floors: None,
    };
    assert_eq!(fresh.load(None).await.unwrap().policy.version, version + 1);

    // A version that ends soon: another one, where it has ended before both have it.
    let settings = domain.path("policy/staged/settings.toml");
    change_settings(&settings, &[("timestamp_life_ms", 10_000)]);
    let seconds = touchstone_attest::clock::wall_seconds;
    let begun = Instant::now();
    loop {
        let before = broker.app().policy().version;
        domain.publish();
        let over = seconds() + 11;
        let taken = || broker.app().policy().version > before && mirror.timestamp() == broker.app().mirror.timestamp();
        eventually("both to have it, or its end", || taken() || seconds() >= over).await;
        if taken() {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "never at both before its end");
    }
    // Nothing is published any more: the end of the timestamp is the end of what is let in, at broker and guard.
    let expires = broker.app().policy().expires;
    eventually("the end", || seconds() >= expires).await;
    let begun = Instant::now();
    loop {
        match asks(&node, &post, &authorization).await {
            Err(refused) if refused.contains(&RefusalCode::PolicyExpired) => break,
            // The copy is written before it is in force.
            said => assert!(begun.elapsed() < PATIENCE, "{said:?}"),
        }
    }
    assert!(node.attest(&mut client).await.is_err(), "and nothing is granted");
    let head = |post: &Post| post.views.borrow().as_ref().map(|view| view.head().issued_at_ms);
    let before = head(&post);
    eventually("a newer trust state", || head(&post) > before).await;
    keeper.abort();
    broker.shutdown().await.unwrap();
}

async fn asks(node: &Node, post: &Post, authorization: &[u8]) -> Result<(), Vec<RefusalCode>> {
    let challenge = post.challenge();
    let proof = node.prove(authorization, GUARD, &challenge).await;
    post.decide(authorization, &proof, &challenge).map(|_| ())
}
