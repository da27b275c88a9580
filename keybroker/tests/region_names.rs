//! A node that its region names, `north/web-1`, wherever its name travels: authorization, store, ledger, commands.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;

use common::client::Client;
use common::tpm::SoftNode;
use common::{Domain, attest, authorization, command};
use hyper::{Method, StatusCode};
use touchstone_keybroker::nodes;

#[tokio::test]
async fn a_regions_node_is_called_by_its_name_everywhere() {
    let mut node = SoftNode::new("good");
    let domain = Domain::new(&[("north/web-1", &node), ("web-1", &SoftNode::new("good"))], &[]);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let answer = attest(&mut client, &mut node, false).await.unwrap();
    assert!(answer.allowed, "{:?}", answer.reasons);
    assert_eq!(authorization(&broker, &answer).contents().subject, "north/web-1");
    let record = nodes::by_name(&*broker.app().store, "north/web-1").unwrap().unwrap().0;
    assert_eq!(
        (record.enrolled.name.as_str(), record.region.as_str()),
        ("north/web-1", "north")
    );
    assert!(
        nodes::by_name(&*broker.app().store, "web-1").unwrap().is_none(),
        "another node"
    );
    for (path, found) in [
        ("/record/latest/north/web-1", true),
        ("/record/latest/north%2Fweb-1", true),
        ("/record/latest/web-1", false),
        ("/record/latest/north//web-1", false),
        ("/record/latest/south/web-1", false),
        ("/record/latest/../north/web-1", false),
        ("/record/latest/north/web-1%0A", false),
    ] {
        let (status, _) = command(&domain, Method::GET, path, "").await;
        assert_eq!(status == StatusCode::OK, found, "{path}: {status}");
    }
    let body = r#"{"node":"north/web-1","reason":"sold"}"#;
    assert_eq!(
        command(&domain, Method::POST, "/decommission", body).await.0,
        StatusCode::OK
    );
    let refused = attest(&mut client, &mut node, true).await.unwrap_err();
    assert_eq!(refused.code, "node-decommissioned");
    broker.shutdown().await.unwrap();
}
