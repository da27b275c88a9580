//! Security events pushed to a broker over its real interface: what takes effect, once, and what does not.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::client::Client;
use common::tpm::SoftNode;
use common::{DOMAIN, Domain, attest, authorization, command, decided, eventually, ledger, now};
use http_body_util::BodyExt as _;
use hyper::Method;
use serde_json::{Value, json};
use touchstone_authorization::Status;
use touchstone_authorization::token::StatusIndex;
use touchstone_cose::key::{Signer as _, SigningKey};
use touchstone_keybroker::events::accept;
use touchstone_keybroker::holds::{self, MAX_HOLDS_OF_A_DETECTOR};
use touchstone_keybroker::service::RunningBroker;
use touchstone_keybroker::standing::State;
use touchstone_ledger::statement::Kind;
use touchstone_policies::entries::detector_add;
use touchstone_policies::{DetectorReach, NewDetector};

const ISSUER: &str = "https://monitor.example/";
const AUDIENCE: &str = "https://broker.example/v1/events";
const CAEP: &str = "https://schemas.openid.net/secevent/caep/event-type/";

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed([seed; 32])
}

/// A domain with these nodes that lists a detector.
fn domain(nodes: &[(&str, &SoftNode)], reach: DetectorReach, most_per_minute: u32) -> Domain {
    let domain = Domain::new(nodes, &[]);
    list(&domain, ("monitor", ISSUER, 1), reach, most_per_minute);
    domain
}

/// Lists a detector: its name, its issuer and its key.
fn list(domain: &Domain, (name, issuer, seed): (&str, &str, u8), reach: DetectorReach, most_per_minute: u32) {
    let detector = NewDetector {
        name: name.into(),
        issuer: issuer.into(),
        audience: AUDIENCE.into(),
        keys: vec![hex::encode(key(seed).verifying_key().to_spki_der())],
        reach,
        nodes: vec!["node-1".into()],
        most_per_minute,
        ..NewDetector::default()
    };
    detector_add(&domain.path("policy"), &detector).unwrap();
    domain.publish();
}

fn claims(jti: &str, node: &str, kind: &str, payload: Value) -> Value {
    json!({
        "iss": ISSUER, "aud": AUDIENCE, "iat": now(), "jti": jti,
        "sub_id": {"format": "opaque", "id": node},
        "events": { format!("{CAEP}{kind}"): payload },
    })
}

fn not_compliant(jti: &str, node: &str) -> Value {
    let payload = json!({"previous_status": "compliant", "current_status": "not-compliant"});
    claims(jti, node, "device-compliance-change", payload)
}

fn signed(key: &SigningKey, claims: &Value) -> Vec<u8> {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!(
        "{}.{}",
        encode(&json!({"alg": "EdDSA", "typ": "secevent+jwt"})),
        encode(claims)
    );
    let signature = key.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)).into_bytes()
}

/// Pushes a token; gives the status and, where it was refused, the error.
async fn push(broker: &RunningBroker, token: Vec<u8>) -> (u16, String) {
    let mut client = Client::connect(broker.address()).await;
    let response = client
        .open_as("application/secevent+jwt", Method::POST, "/v1/events", token)
        .await;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = response.into_body().collect().await.unwrap().to_bytes();
    if status == 202 {
        assert!(body.is_empty());
        return (status, String::new());
    }
    if status == 503 {
        assert!(
            headers["retry-after"].to_str().unwrap().parse::<u32>().unwrap() > 1,
            "it is sent again"
        );
        let problem: Value = serde_json::from_slice(&body).unwrap();
        return (status, problem["code"].as_str().unwrap().to_owned());
    }
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(
        (
            headers["content-language"].to_str().unwrap(),
            headers["cache-control"].to_str().unwrap()
        ),
        ("en", "no-store")
    );
    assert_eq!(headers.contains_key("retry-after"), status == 429);
    let error: Value = serde_json::from_slice(&body).unwrap();
    assert!(error["description"].as_str().unwrap().len() > 5 && error.as_object().unwrap().len() == 2);
    (status, error["err"].as_str().unwrap().to_owned())
}

fn status(broker: &RunningBroker, place: StatusIndex) -> Status {
    broker
        .app()
        .trust
        .lists()
        .get(place.list)
        .unwrap()
        .status(place.index)
        .unwrap()
}

async fn enrolled(broker: &RunningBroker, node: &mut SoftNode) -> StatusIndex {
    let mut client = Client::connect(broker.address()).await;
    let answer = attest(&mut client, node, false).await.unwrap();
    authorization(broker, &answer).contents().status
}

async fn kinds(broker: &RunningBroker) -> Vec<Kind> {
    decided(broker).await.iter().map(|statement| statement.kind).collect()
}

#[tokio::test]
async fn what_a_detector_reports_is_suspended_once_and_given_back_by_no_detector() {
    let (mut node, mut other) = (SoftNode::new("good"), SoftNode::new("good"));
    let domain = domain(&[("node-1", &node), ("node-2", &other)], DetectorReach::Quarantine, 60);
    let broker = domain.start().await;
    let (place, beside) = (enrolled(&broker, &mut node).await, enrolled(&broker, &mut other).await);
    let epoch = broker.app().trust.epoch();
    let token = signed(&key(1), &not_compliant("1", "node-1"));
    assert_eq!(push(&broker, token.clone()).await.0, 202);
    assert_eq!(
        (status(&broker, place), status(&broker, beside)),
        (Status::Suspended, Status::Valid)
    );
    assert_eq!(broker.app().trust.epoch(), epoch + 1);
    let statements = decided(&broker).await;
    let [.., taken, event] = statements.as_slice() else {
        panic!()
    };
    assert_eq!((taken.kind, event.kind), (Kind::Quarantine, Kind::SecurityEvent));
    assert_eq!(event.subject.as_deref(), Some("node-1"));
    assert_eq!(
        (taken.reasons[0].code.as_str(), &taken.inputs["event"]),
        ("security-event-reported", &event.inputs["event"])
    );
    assert_eq!(event.inputs["event"].as_slice(), sha256(&token));

    // The same token again is acknowledged and does nothing; another one of its name is none.
    assert_eq!(push(&broker, token).await.0, 202);
    let renamed = signed(&key(1), &claims("1", "node-1", "session-revoked", json!({})));
    assert_eq!(push(&broker, renamed).await, (400, "invalid_request".into()));
    assert_eq!(broker.app().trust.epoch(), epoch + 1);
    assert_eq!(decided(&broker).await.len(), statements.len());

    // Neither good evidence nor good news brings it back.
    let mut client = Client::connect(broker.address()).await;
    assert!(!attest(&mut client, &mut node, true).await.unwrap().allowed);
    let compliant = json!({"previous_status": "not-compliant", "current_status": "compliant"});
    let compliant = claims("2", "node-1", "device-compliance-change", compliant);
    assert_eq!(push(&broker, signed(&key(1), &compliant)).await.0, 202);
    // A harder event goes no further than policy lets this detector, and adds no second hold.
    let harder = claims("3", "node-1", "session-revoked", json!({}));
    assert_eq!(push(&broker, signed(&key(1), &harder)).await.0, 202);
    assert_eq!(status(&broker, place), Status::Suspended);
    assert_eq!(broker.app().standings.of("node-1"), Some(State::Quarantined));
    let quarantines = kinds(&broker)
        .await
        .into_iter()
        .filter(|kind| *kind == Kind::Quarantine);
    assert_eq!(quarantines.count(), 1);
    assert_eq!(status(&broker, beside), Status::Valid);
    broker.shutdown().await.unwrap();

    // Single use outlives the process.
    let broker = domain.start().await;
    let reused = signed(&key(1), &not_compliant("3", "node-1"));
    assert_eq!(push(&broker, reused).await, (400, "invalid_request".into()));
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn policy_may_let_a_detector_revoke() {
    let mut node = SoftNode::new("good");
    let domain = domain(&[("node-1", &node)], DetectorReach::Revoke, 60);
    let broker = domain.start().await;
    let place = enrolled(&broker, &mut node).await;
    let token = signed(&key(1), &claims("1", "node-1", "session-revoked", json!({})));
    assert_eq!(push(&broker, token).await.0, 202);
    assert_eq!(status(&broker, place), Status::Invalid);
    assert_eq!(
        kinds(&broker).await.split_off(3),
        [Kind::Revocation, Kind::SecurityEvent]
    );
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_is_not_authentic_not_within_reach_or_too_much_changes_nothing() {
    let (mut node, mut other) = (SoftNode::new("good"), SoftNode::new("good"));
    let domain = domain(&[("node-1", &node), ("node-2", &other)], DetectorReach::Revoke, 2);
    let broker = domain.start().await;
    let mut places = [enrolled(&broker, &mut node).await, enrolled(&broker, &mut other).await];
    let (epoch, size) = (broker.app().trust.epoch(), decided(&broker).await.len());
    for (row, token, expected) in [
        (
            "by another key",
            signed(&key(2), &not_compliant("a", "node-1")),
            "authentication_failed",
        ),
        (
            "about another node",
            signed(&key(1), &not_compliant("b", "node-2")),
            "access_denied",
        ),
        (
            "about nobody",
            signed(&key(1), &not_compliant("c", "node-9")),
            "access_denied",
        ),
        (
            "about another node's workload",
            signed(&key(1), &not_compliant("d", "agent@node-2")),
            "access_denied",
        ),
        ("nothing", Vec::new(), "invalid_request"),
        ("a bomb", b"[".repeat(20_000), "invalid_request"),
    ] {
        assert_eq!(push(&broker, token).await, (400, expected.into()), "{row}");
    }
    let mut client = Client::connect(broker.address()).await;
    let token = signed(&key(1), &not_compliant("e", "node-1"));
    let response = client.open(Method::POST, "/v1/events", token).await;
    assert_eq!(response.status(), 400, "another type of body");
    assert_eq!(
        (broker.app().trust.epoch(), decided(&broker).await.len()),
        (epoch, size)
    );
    assert!(places.iter().all(|place| status(&broker, *place) == Status::Valid));

    // Two a minute count, and no more: what is over that is not lost, its sender tries again.
    let trial = |jti: String| signed(&key(1), &claims(&jti, "node-1", "session-presented", json!({})));
    for round in 0.. {
        let (begun_ms, size) = (broker.app().clock.now_ms(), decided(&broker).await.len());
        let mut said = Vec::new();
        for one in ["f", "g", "h"] {
            said.push(push(&broker, trial(format!("{one}{round}"))).await);
        }
        let over = signed(&key(1), &not_compliant(&format!("i{round}"), "node-1"));
        said.push(push(&broker, over).await);
        if broker.app().clock.now_ms() - begun_ms < 60_000 {
            let (taken, over) = ((202, String::new()), (429, "access_denied".to_owned()));
            assert_eq!(said, [taken.clone(), taken, over.clone(), over]);
            assert_eq!(status(&broker, places[0]), Status::Valid);
            assert_eq!(decided(&broker).await.len(), size + 2, "and is not recorded");
            break;
        }
        // The minute was over in the middle of it: once more, when nothing of it counts any more.
        tokio::time::sleep(std::time::Duration::from_secs(61)).await;
        places[0] = enrolled(&broker, &mut node).await;
    }
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_detector_does_not_use_up_what_others_need() {
    let mut node = SoftNode::new("good");
    let domain = domain(&[("node-1", &node)], DetectorReach::Quarantine, 1_000);
    let other = "https://other.example/";
    list(&domain, ("other", other, 2), DetectorReach::Quarantine, 1_000);
    let broker = domain.start().await;
    let place = enrolled(&broker, &mut node).await;
    // Labels of workloads that nobody ever runs.
    for n in 0..MAX_HOLDS_OF_A_DETECTOR {
        let token = signed(&key(1), &not_compliant(&n.to_string(), &format!("a{n}@node-1")));
        assert_eq!(push(&broker, token).await.0, 202, "{n}");
    }
    let (epoch, size) = (broker.app().trust.epoch(), decided(&broker).await.len());
    let one_more = signed(&key(1), &not_compliant("more", "b@node-1"));
    assert_eq!(push(&broker, one_more.clone()).await, (503, "holds-full".into()));
    assert_eq!(
        (broker.app().trust.epoch(), decided(&broker).await.len()),
        (epoch, size)
    );

    // Another detector, commands, and what follows from a failure have room of their own.
    let mut claims = not_compliant("1", "c@node-1");
    claims["iss"] = other.into();
    assert_eq!(push(&broker, signed(&key(2), &claims)).await.0, 202);
    let contain = json!({"action": "contain", "target": "cluster", "id": DOMAIN, "reason": "x"});
    let (done, _) = command(&domain, Method::POST, "/commands", &contain.to_string()).await;
    assert_eq!((done.as_u16(), status(&broker, place)), (200, Status::Suspended));
    // What is lifted makes room, and what was refused is taken when it is sent again.
    let lift = json!({"action": "lift", "target": "cluster", "id": DOMAIN, "reason": "x"});
    assert_eq!(
        command(&domain, Method::POST, "/commands", &lift.to_string()).await.0,
        200
    );
    lift_workload(&broker, "c@node-1").await;
    assert_eq!(push(&broker, one_more.clone()).await.0, 503, "that was another's");
    lift_workload(&broker, "a0@node-1").await;
    assert_eq!(push(&broker, one_more).await.0, 202);
    broker.shutdown().await.unwrap();
}

/// Lifts what is held over a workload that has no authorization.
async fn lift_workload(broker: &RunningBroker, subject: &str) {
    let over = holds::Over::Subject(subject.into());
    let standing = holds::standing(broker.app(), &over);
    let numbers: Vec<u64> = standing.iter().map(|(hold, _)| hold.number).collect();
    holds::lift(
        broker.app(),
        (&over, &numbers),
        "test",
        Vec::new(),
        (Vec::new(), Vec::new()),
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn a_token_counts_once_although_the_broker_ends_before_it_has_said_so() {
    let mut node = SoftNode::new("good");
    let domain = domain(&[("node-1", &node)], DetectorReach::Quarantine, 60);
    let broker = domain.start().await;
    let place = enrolled(&broker, &mut node).await;
    let token = signed(&key(1), &not_compliant("1", "node-1"));
    let size = broker.app().head().size;
    {
        // It runs until it waits for the disk, and never again.
        let mut accepting = Box::pin(accept(broker.app(), &token));
        tokio::select! {
            biased;
            _ = &mut accepting => panic!("too fast"),
            () = std::future::ready(()) => {}
        }
        eventually("the quarantine on record", || broker.app().head().size > size).await;
    }
    assert_eq!(
        kinds(&broker).await.last(),
        Some(&Kind::Quarantine),
        "and nothing of the event"
    );
    drop(broker);

    let broker = domain.start().await;
    let lift = json!({"action": "lift", "target": "node", "id": "node-1", "reason": "explained"});
    assert_eq!(
        command(&domain, Method::POST, "/commands", &lift.to_string()).await.0,
        200
    );
    assert_eq!(
        (enrolled(&broker, &mut node).await, status(&broker, place)),
        (place, Status::Valid)
    );
    let epoch = broker.app().trust.epoch();
    // Its sender has heard nothing, and tries again.
    for _ in 0..2 {
        assert_eq!(push(&broker, token.clone()).await.0, 202);
        assert_eq!(
            (status(&broker, place), broker.app().trust.epoch()),
            (Status::Valid, epoch)
        );
    }
    let statements = ledger(&broker).await;
    let events: Vec<_> = statements.iter().filter(|s| s.kind == Kind::SecurityEvent).collect();
    assert_eq!(events.len(), 1, "what was missing is on record, once");
    assert_eq!(
        events[0].body.get(4).and_then(|done| done.as_text()),
        Some("quarantine")
    );
    assert_eq!(events[0].inputs["event"].as_slice(), sha256(&token));
    broker.shutdown().await.unwrap();
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).into()
}
