//! What anybody may send in the name of another domain.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;

use common::client::{Client, problem};
use common::tpm::SoftNode;
use common::{DOMAIN, Domain, attest, command, eventually, now};
use hyper::header::{CONTENT_LENGTH, HeaderMap};
use hyper::{Method, StatusCode};
use touchstone_authorization::proof::EXPORTER_LABEL;
use touchstone_authorization::{Channel, Proof, Scope, authorization_digest};
use touchstone_evidence::message::{ForeignAnswer, ForeignRequest, foreign_audience, foreign_path};
use touchstone_keybroker::federation::PUSHED_BYTES_AT_ONCE;
use touchstone_keybroker::service::RunningBroker;
use touchstone_policies::author::federation::Trust;
use touchstone_policies::federation_trust;

const OTHER: &str = "b.example";

#[tokio::test]
async fn large_frames_and_bundles_are_read_only_while_there_is_room() {
    let (mut domain, other) = (Domain::new(&[], &[]), Domain::new(&[], &[]));
    let trust = Trust {
        domain: OTHER.into(),
        root: Some(std::fs::read(other.path("root.json")).unwrap()),
        ..Trust::default()
    };
    federation_trust(&domain.path("policy"), &trust).unwrap();
    domain.publish();
    let large = 256 * 1024;
    // Room is waited for as long as a body may take. With little time for that nothing is read, with much all that there is
    // room for.
    for (limits, rows) in [
        (
            "body_ms = 50",
            &[("frame", large, "broker-busy"), ("bundle", large, "broker-busy")][..],
        ),
        ("body_ms = 60000", &[("bundle", 1_000, "request-message-malformed")]),
    ] {
        domain = domain.with_limits(limits);
        let broker = domain.start().await;
        let room = &broker.app().federation.room;
        // The policy is in force; that it names the other domain is seen within a second.
        eventually("the other domain", || broker.app().federation.get(OTHER).is_some()).await;
        let mut head = HeaderMap::new();
        head.insert(CONTENT_LENGTH, PUSHED_BYTES_AT_ONCE.into());
        let all = room
            .take(false, true, &head, PUSHED_BYTES_AT_ONCE, 60_000)
            .await
            .unwrap();
        for (path, bytes, code) in rows {
            assert_eq!(said(&broker, path, *bytes).await, *code, "{path}, {bytes} bytes");
        }
        drop(all);
        if limits == "body_ms = 60000" {
            assert_eq!(said(&broker, "bundle", large).await, "request-message-malformed");
        }
        broker.shutdown().await.unwrap();
    }
}

/// What is answered to so many bytes on a route for the other domain.
async fn said(broker: &RunningBroker, path: &str, bytes: usize) -> String {
    let mut client = Client::connect(broker.address()).await;
    let path = format!("/v1/federation/{OTHER}/{path}");
    let (status, body) = client.send(Method::POST, &path, vec![0; bytes]).await;
    problem(status, &body).code
}

/// A request for an authorization that counts in the other domain.
fn request(client: &Client, node: &SoftNode, authorization: &[u8]) -> Vec<u8> {
    let digest = authorization_digest(authorization);
    let mut cti = [0; 16];
    getrandom::fill(&mut cti).unwrap();
    let proof = Proof {
        audience: foreign_audience(DOMAIN),
        issued_at: now() as u64,
        cti,
        authorization_digest: digest,
        scope: Scope::parse("release:keys").unwrap(),
        request_digest: None,
        channel: Channel::Exporter(client.export_for(EXPORTER_LABEL, &digest)),
    };
    ForeignRequest {
        authorization: authorization.to_vec(),
        proof: proof.encode_signed(&node.session).unwrap(),
        audience: OTHER.into(),
        scopes: vec!["release:keys".into()],
    }
    .encode()
}

#[tokio::test]
async fn nothing_is_issued_for_another_domain_once_who_asked_is_suspended_however_long_it_was_under_way() {
    let mut node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[]);
    let trust = Trust {
        domain: OTHER.into(),
        issue: vec!["release:keys".into()],
        ..Trust::default()
    };
    federation_trust(&domain.path("policy"), &trust).unwrap();
    domain.publish();
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let held = attest(&mut client, &mut node, false)
        .await
        .unwrap()
        .authorization
        .unwrap();
    let path = foreign_path(OTHER);
    let body = request(&client, &node, &held);
    let (_, body) = client.send(Method::POST, &path, body).await;
    let issued = ForeignAnswer::decode(&body).unwrap();
    assert!(issued.authorization.is_some(), "{:?}", issued.reasons);

    // Something goes out that is not on record yet; what was decided before the suspension waits for that.
    let app = broker.app();
    let other = app.trust.withdraw(&[], app.clock.now_ms()).unwrap();
    let body = request(&client, &node, &held);
    let asking = tokio::spawn(async move { client.send(Method::POST, &path, body).await });
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert!(!asking.is_finished(), "it waits");
    let order = r#"{"action": "quarantine", "target": "node", "id": "node-1", "reason": "stolen"}"#;
    let (status, body) = command(&domain, Method::POST, "/commands", order).await;
    assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
    app.trust.durable(other);
    // Anything that is handed in has it looked at again.
    let lift = r#"{"action": "lift", "target": "node", "id": "node-1", "reason": "explained"}"#;
    let (status, _) = command(&domain, Method::POST, "/commands", lift).await;
    assert_eq!(status, StatusCode::OK);
    let (_, body) = asking.await.unwrap();
    let denied = ForeignAnswer::decode(&body).unwrap();
    assert_eq!(denied.authorization, None);
    let codes: Vec<&str> = denied.reasons.iter().map(|reason| reason.code.as_str()).collect();
    assert!(codes.contains(&"authorization-suspended"), "{codes:?}");
    broker.shutdown().await.unwrap();
}
