//! How nodes stand: on the console, in the ledger, and at the very moment that their schedule says.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;

use std::time::Duration;

use common::client::Client;
use common::tpm::SoftNode;
use common::{Domain, attest, authorization, command, eventually, in_time, ledger};
use hyper::{Method, StatusCode};
use serde_json::Value;
use touchstone_authorization::Status;
use touchstone_authorization::token::StatusIndex;
use touchstone_cose::cbor;
use touchstone_keybroker::service::RunningBroker;
use touchstone_keybroker::standing::State;
use touchstone_ledger::statement::{Kind, Statement};

/// Heartbeats further apart than anything is waited for: what happens at a deadline must not wait for one.
const HEARTBEATS: [(&str, &str); 6] = [
    ("heartbeat_ms", "1000000"),
    ("failover_ms", "100"),
    ("attestation_interval_ms", "1000"),
    ("attestation_jitter_percent", "0"),
    ("attestation_retry_ms", "500"),
    ("freshness_window_ms", "7000000"),
];
/// From the last good evidence to stale.
const DEADLINE_MS: u64 = 3_000;
/// From the last good evidence to the loss of rights.
const LOST_MS: u64 = DEADLINE_MS + 3_000;

/// Has a deadline or a grace come into force, and the broker look at it: between two heartbeats it has no reason to.
async fn change(domain: &Domain, broker: &RunningBroker, key: &str, value: u64) {
    domain.change(&[(key, &value.to_string())]).await;
    broker.app().standings.wake();
}

async fn shown(domain: &Domain) -> Value {
    let (status, body) = command(domain, Method::GET, "/status", "").await;
    assert_eq!(status, StatusCode::OK);
    serde_json::from_slice::<Value>(&body).unwrap()["standing"].take()
}

/// State and rights of a node as the console shows them.
async fn stands(domain: &Domain, node: &str) -> (String, String) {
    let shown = shown(domain).await;
    let rows = shown["nodes"].as_array().unwrap();
    let row = rows.iter().find(|row| row["node"] == node).unwrap();
    let text = |key: &str| row[key].as_str().unwrap().to_owned();
    assert!(shown["counts"][text("state")].as_u64().unwrap() > 0, "{shown}");
    (text("state"), text("rights"))
}

fn status(broker: &RunningBroker, place: StatusIndex) -> Option<Status> {
    broker.app().trust.lists().get(place.list).unwrap().status(place.index)
}

/// Waits until a node stands so; gives the broker's time at which it was seen.
async fn until(broker: &RunningBroker, node: &str, state: State) -> u64 {
    eventually(&format!("{node} to be {state}"), || {
        broker.app().standings.of(node) == Some(state)
    })
    .await;
    broker.app().clock.now_ms()
}

/// Rows of the statements about standing: node, how it stood, how it stands, since when.
async fn recorded(broker: &RunningBroker) -> Vec<(String, String, String, u64)> {
    let rows = |statement: Statement| {
        let body = statement.body.as_map().unwrap().to_vec();
        let rows = body[0].1.as_array().unwrap().to_vec();
        if let [row] = rows.as_slice() {
            assert_eq!(statement.subject.as_deref(), row.as_array().unwrap()[0].as_text());
        }
        rows
    };
    let all = ledger(broker).await.into_iter().filter(|s| s.kind == Kind::Standing);
    let text = |value: &cbor::Value| value.as_text().unwrap().to_owned();
    all.flat_map(rows)
        .map(|row| {
            let row = row.as_array().unwrap();
            (text(&row[0]), text(&row[1]), text(&row[2]), row[3].as_u64().unwrap())
        })
        .collect()
}

#[tokio::test]
async fn a_silent_node_is_stale_at_its_deadline_and_loses_its_rights_after_the_grace() {
    let mut node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node), ("node-2", &SoftNode::new("good"))], &HEARTBEATS);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    assert_eq!(stands(&domain, "node-1").await, ("never-seen".into(), "none".into()));
    let answer = attest(&mut client, &mut node, false).await.unwrap();
    let place = authorization(&broker, &answer).contents().status;
    let good_ms = answer.received_at_ms;
    assert_eq!(stands(&domain, "node-1").await, ("trusted".into(), "held".into()));
    assert!(!broker.app().standings.is_late("node-1"));
    assert!(!broker.app().standings.is_late("node-2") && !broker.app().standings.is_late("nobody"));

    // Each end is near only once everything before it was looked at.
    change(&domain, &broker, "attestation_grace_ms", 3_600_000).await;
    change(&domain, &broker, "attestation_deadline_ms", DEADLINE_MS).await;
    let stale_ms = until(&broker, "node-1", State::Stale).await;
    assert!(stale_ms >= good_ms + DEADLINE_MS, "not before its deadline");
    assert_eq!(
        status(&broker, place),
        Some(Status::Valid),
        "within the grace it keeps what it has"
    );
    assert!(broker.app().standings.is_late("node-1"), "and nothing of it is renewed");
    assert_eq!(stands(&domain, "node-1").await, ("stale".into(), "held".into()));
    change(&domain, &broker, "attestation_grace_ms", LOST_MS - DEADLINE_MS).await;
    eventually("the end of the grace", || status(&broker, place) != Some(Status::Valid)).await;
    let lost_ms = broker.app().clock.now_ms();
    assert!(lost_ms >= good_ms + LOST_MS, "not before the grace has ended");
    // Longer silence than another interval and the grace.
    until(&broker, "node-1", State::Unreachable).await;
    assert_eq!(stands(&domain, "node-1").await, ("unreachable".into(), "none".into()));

    // Good evidence is the way back, by itself.
    change(&domain, &broker, "attestation_deadline_ms", 3_600_000).await;
    assert!(attest(&mut client, &mut node, true).await.unwrap().allowed);
    assert_eq!(stands(&domain, "node-1").await, ("trusted".into(), "held".into()));
    let known = broker.app().standings.of("node-2");
    assert_eq!(known, None, "what was never seen is never late");
    let rows = in_time("the record of it", async {
        loop {
            let rows = recorded(&broker).await;
            if rows.len() >= 3 {
                return rows;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let words: Vec<_> = rows
        .iter()
        .map(|(node, from, to, _)| (node.as_str(), from.as_str(), to.as_str()))
        .collect();
    let expected = [
        ("node-1", "trusted", "stale"),
        ("node-1", "stale", "unreachable"),
        ("node-1", "unreachable", "trusted"),
    ];
    assert_eq!(words, expected);
    assert_eq!(rows[0].3, good_ms + DEADLINE_MS, "the very moment");
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn many_silent_nodes_fall_in_one_epoch_and_those_that_speak_stay() {
    // Who speaks has to be heard within its deadline: where this test was not let run for longer, it shows nothing.
    in_time("a time without a long pause", async {
        while !many_fall_together().await {}
    })
    .await;
}

/// Nothing, where the one that was to speak was silent for longer than its deadline.
async fn many_fall_together() -> bool {
    const SPOKEN_MS: u64 = 6_000;
    let mut nodes: Vec<(String, SoftNode)> = (0..4).map(|n| (format!("node-{n}"), SoftNode::new("good"))).collect();
    let listed: Vec<(&str, &SoftNode)> = nodes.iter().map(|(name, node)| (name.as_str(), node)).collect();
    let domain = Domain::new(&listed, &HEARTBEATS);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let mut places = Vec::new();
    let mut last_ms = 0;
    for (_, node) in &mut nodes {
        let answer = attest(&mut client, node, false).await.unwrap();
        last_ms = answer.received_at_ms;
        places.push(authorization(&broker, &answer).contents().status);
    }
    // All but the last fall silent; a broker that serves nobody for a moment lets them all count from then on, so that they
    // are late together.
    broker.app().trust.hold(true);
    change(&domain, &broker, "attestation_deadline_ms", SPOKEN_MS).await;
    let now_ms = || broker.app().clock.now_ms();
    eventually("their deadline", || now_ms() > last_ms + SPOKEN_MS + 1_000).await;
    assert!(
        places
            .iter()
            .all(|place| status(&broker, *place) == Some(Status::Valid))
    );
    let epoch = broker.app().trust.epoch();
    let (mut heard_ms, mut longest_ms) = (now_ms(), 0);
    broker.app().trust.hold(false);
    broker.app().standings.wake();
    in_time("the end of the silent", async {
        while places[..3]
            .iter()
            .any(|place| status(&broker, *place) == Some(Status::Valid))
        {
            let (_, speaks) = &mut nodes[3];
            let answer = attest(&mut client, speaks, true).await.unwrap();
            assert!(answer.allowed);
            longest_ms = longest_ms.max(now_ms() - heard_ms);
            heard_ms = answer.received_at_ms;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await;
    let (raised, stays) = (broker.app().trust.epoch() - epoch, status(&broker, places[3]));
    let standing = broker.app().standings.of("node-3");
    let spoke = longest_ms.max(now_ms() - heard_ms) < SPOKEN_MS;
    if spoke {
        assert_eq!(raised, 1);
        assert_eq!(stays, Some(Status::Valid));
        assert_eq!(standing, Some(State::Trusted));
    }
    broker.shutdown().await.unwrap();
    spoke
}

#[tokio::test]
async fn refused_and_withdrawn_are_told_apart_and_forgeries_change_nothing() {
    let (mut tampered, mut revoked) = (SoftNode::new("good"), SoftNode::new("good"));
    let mut stranger = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &tampered), ("node-2", &revoked)], &[]);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    for node in [&mut tampered, &mut revoked] {
        assert!(attest(&mut client, node, false).await.unwrap().allowed);
    }
    // A machine that nobody has listed, and evidence of another one in a good node's session.
    assert!(attest(&mut client, &mut stranger, false).await.is_err());
    let challenge = client.hello(&tampered.hello(true)).await.unwrap();
    let forged = stranger.answer(common::DOMAIN, &challenge, client.export(&challenge.nonce));
    assert!(client.submit(&forged).await.is_err());
    assert_eq!(stands(&domain, "node-1").await, ("trusted".into(), "held".into()));

    tampered.extend(7);
    assert!(!attest(&mut client, &mut tampered, true).await.unwrap().allowed);
    assert_eq!(stands(&domain, "node-1").await, ("refused".into(), "none".into()));
    let revoke = r#"{"node": "node-2", "reason": "stolen"}"#;
    assert_eq!(
        command(&domain, Method::POST, "/revoke", revoke).await.0,
        StatusCode::OK
    );
    until(&broker, "node-2", State::Withdrawn).await;
    assert_eq!(stands(&domain, "node-2").await, ("withdrawn".into(), "none".into()));
    assert_eq!(broker.app().standings.of("node-1"), Some(State::Refused), "still");
    assert!(attest(&mut client, &mut revoked, true).await.unwrap().allowed);
    assert_eq!(stands(&domain, "node-2").await, ("trusted".into(), "held".into()));
    let gone = r#"{"node": "node-2", "reason": "sold"}"#;
    assert_eq!(
        command(&domain, Method::POST, "/decommission", gone).await.0,
        StatusCode::OK
    );
    until(&broker, "node-2", State::Decommissioned).await;
    let back = r#"{"node": "node-2", "reason": "kept"}"#;
    assert_eq!(
        command(&domain, Method::POST, "/reinstate", back).await.0,
        StatusCode::OK
    );
    let known = broker.app().standings.of("node-2");
    assert_eq!(known, Some(State::Withdrawn), "in service, and without rights");
    assert_eq!(
        command(&domain, Method::POST, "/decommission", gone).await.0,
        StatusCode::OK
    );
    assert_eq!(broker.app().standings.of("node-2"), Some(State::Decommissioned));
    assert_eq!(
        recorded(&broker).await,
        [],
        "evidence, commands and withdrawals are statements already"
    );
    broker.shutdown().await.unwrap();

    // What was so stays so after a start.
    let broker = domain.start().await;
    assert_eq!(stands(&domain, "node-1").await, ("refused".into(), "none".into()));
    assert_eq!(stands(&domain, "node-2").await.0, "decommissioned");
    broker.shutdown().await.unwrap();
}
