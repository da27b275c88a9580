//! Off-line delegations that are taken back one by one, by their ids.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;

use common::client::Client;
use common::tpm::SoftNode;
use common::{Domain, attest, command, ledger, view};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use touchstone_ledger::statement::Kind;

async fn commanded(domain: &Domain, path: &str, order: &Value) -> Value {
    let (status, body) = command(domain, Method::POST, path, &order.to_string()).await;
    assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
    serde_json::from_slice(&body).unwrap()
}

fn order(action: &str, id: &str) -> Value {
    json!({ "action": action, "target": "lineage", "id": id, "reason": "the tool has leaked its key" })
}

#[tokio::test]
async fn a_delegation_is_taken_back_by_its_id_and_stays_so_through_restarts() {
    let mut node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[]);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    assert!(attest(&mut client, &mut node, false).await.unwrap().allowed);
    let (id, text) = ([0xc3; 16], hex::encode([0xc3; 16]));

    let shown = commanded(&domain, "/commands/preview", &order("revoke", &text)).await;
    assert_eq!(shown["subjects"], json!([format!("the off-line delegation {text}")]));
    assert!(
        !view(&broker, &client.get("/v1/trust-state").await).is_revoked(&id),
        "what is shown is not taken"
    );
    let epoch = broker.app().trust.epoch();
    let done = commanded(&domain, "/commands", &order("revoke", &text)).await;
    assert_eq!(
        (&done["entries"], &done["epoch"]),
        (&json!(0), &json!(epoch + 1)),
        "no entry falls, and it goes out in an epoch of its own"
    );
    let now = view(&broker, &client.get("/v1/trust-state").await);
    assert!(now.is_revoked(&id) && !now.is_revoked(&[0xc4; 16]));
    let statement = ledger(&broker).await.pop().unwrap();
    assert_eq!(statement.kind, Kind::Revocation);
    assert!(statement.reasons[0].claim.contains(&text), "{:?}", statement.reasons);
    assert!(
        attest(&mut client, &mut node, true).await.unwrap().allowed,
        "its ancestors keep what they have"
    );

    // Only what is revoked is taken back: there is nothing to suspend, and an id is sixteen bytes.
    for bad in [
        order("quarantine", &text),
        order("revoke", "c3c3"),
        order("revoke", &"c3".repeat(17)),
    ] {
        let (status, _) = command(&domain, Method::POST, "/commands", &bad.to_string()).await;
        assert!(status.is_client_error(), "{bad}");
    }

    drop(client);
    broker.shutdown().await.unwrap();
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    assert!(
        view(&broker, &client.get("/v1/trust-state").await).is_revoked(&id),
        "a stop in order"
    );
    commanded(&domain, "/commands", &order("revoke", &hex::encode([0xc4; 16]))).await;
    drop(client);
    drop(broker);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let now = view(&broker, &client.get("/v1/trust-state").await);
    assert!(now.is_revoked(&id) && now.is_revoked(&[0xc4; 16]), "a kill");
    drop(client);
    broker.shutdown().await.unwrap();
}
