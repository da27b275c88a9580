//! What anybody may send in the name of another domain.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;

use common::client::{Client, problem};
use common::{Domain, eventually};
use hyper::Method;
use hyper::header::{CONTENT_LENGTH, HeaderMap};
use touchstone_keybroker::federation::PUSHED_BYTES_AT_ONCE;
use touchstone_policies::federation_file::Trust;
use touchstone_policies::federation_trust;

const OTHER: &str = "b.example";

#[tokio::test]
async fn large_frames_and_bundles_are_read_only_while_there_is_room() {
    let (domain, other) = (Domain::new(&[], &[]), Domain::new(&[], &[]));
    let trust = Trust {
        domain: OTHER.into(),
        root: Some(std::fs::read(other.path("root.json")).unwrap()),
        ..Trust::default()
    };
    federation_trust(&domain.path("policy"), &trust).unwrap();
    domain.publish();
    let domain = domain.with_limits("body_ms = 300");
    let broker = domain.start().await;
    let room = &broker.app().federation.room;
    // The policy is in force; that it names the other domain is seen within a second.
    eventually("the other domain", || broker.app().federation.get(OTHER).is_some()).await;
    let said = async |path: &str, bytes: usize| {
        let mut client = Client::connect(broker.address()).await;
        let path = format!("/v1/federation/{OTHER}/{path}");
        let (status, body) = client.send(Method::POST, &path, vec![0; bytes]).await;
        problem(status, &body).code
    };
    let large = 256 * 1024;
    assert_eq!(said("bundle", large).await, "request-message-malformed");
    let mut head = HeaderMap::new();
    head.insert(CONTENT_LENGTH, PUSHED_BYTES_AT_ONCE.into());
    let all = room.take(false, true, &head, PUSHED_BYTES_AT_ONCE, 10).await.unwrap();
    for path in ["frame", "bundle"] {
        assert_eq!(said(path, large).await, "broker-busy", "{path}");
    }
    assert_eq!(
        said("bundle", 1_000).await,
        "request-message-malformed",
        "small ones pass"
    );
    drop(all);
    assert_eq!(said("bundle", large).await, "request-message-malformed");
    broker.shutdown().await.unwrap();
}
