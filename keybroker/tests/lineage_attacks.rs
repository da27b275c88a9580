//! Attacks on what the lineage says of a tree: by who comes after somebody else in the same place, by who comes late, by who
//! renews what has ended, and by what cannot be read. Machines and workloads in software.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;
use crate::workloads::{World, world_staged};
use crate::workloads::{asked, codes, enforcer, issued, of_node, report, send, stage_enforcer, used, wanted};

use common::client::Client;
use common::tpm::{SoftKey, SoftNode};
use common::{Domain, attest, authorization, command, eventually};
use hyper::{Method, StatusCode};
use touchstone_authorization::Status;
use touchstone_authorization::token::StatusIndex;
use touchstone_evidence::message::WorkloadRequest;
use touchstone_keybroker::lineage::free;
use touchstone_keybroker::rows;
use touchstone_keybroker::service::RunningBroker;
use touchstone_keybroker::workload::record::Tree;
use touchstone_store::{Batch, Key};

const SCOPES: &str =
    r#"["delegate:tools/scan", "execute:tools/scan", "delegate:tools/deploy", "execute:tools/deploy"]"#;

const SCAN_FIRST: &str = r#"
@id("all") permit (principal, action, resource);
@id("scan-first") forbid (principal is Workload, action == Action::"execute", resource == WorkloadClass::"tools/deploy")
unless { context.lineage.used.contains("execute:tools/scan") || context.lineage.issued.contains("execute:tools/scan") };
"#;

fn stored(broker: &RunningBroker, key: &Key) -> Option<Vec<u8>> {
    broker.app().store.get(key).unwrap().map(|row| row.value)
}

fn write(broker: &RunningBroker, key: &Key, value: Vec<u8>) {
    let mut batch = Batch::new();
    batch.put(key.clone(), value);
    broker.app().store.commit(batch).unwrap();
}

fn deploy(label: &str) -> WorkloadRequest {
    WorkloadRequest {
        key_kind: "tpm".into(),
        scopes: vec!["execute:tools/deploy".into()],
        delegation: None,
        ..wanted(label, &SoftKey::new())
    }
}

fn entry(of: &StatusIndex) -> (u16, u32, u32) {
    (of.list, of.generation, of.index)
}

async fn reload(domain: &Domain, policy: &str) {
    std::fs::write(domain.path("policy/staged/policy.cedar"), policy).unwrap();
    domain.publish();
    let (status, _) = command(domain, Method::POST, "/reload", "").await;
    assert_eq!(status, StatusCode::OK);
}

fn status(broker: &RunningBroker, entry: &StatusIndex) -> Option<Status> {
    broker.app().trust.lists().get(entry.list)?.status(entry.index)
}

/// A status entry is given back when all that was granted under it is over, and dealt out to somebody else. What was issued
/// and used below the one who held it says nothing of who holds it then, whenever it is reported.
#[tokio::test]
async fn a_place_that_is_dealt_out_anew_begins_with_nothing_of_who_held_it() {
    let (mut first, mut second) = (SoftNode::new("good"), SoftNode::new("good"));
    let domain = Domain::new(
        &[("node-1", &first), ("node-2", &second)],
        &[("scopes", SCOPES), ("software_keys", "\"short-lived\"")],
    );
    std::fs::write(domain.path("policy/staged/policy.cedar"), SCAN_FIRST).unwrap();
    stage_enforcer(&domain);
    domain.publish();
    let broker = domain.start().await;
    let app = broker.app();
    let mut client = Client::connect(broker.address()).await;
    let held = attest(&mut client, &mut first, false).await.unwrap();
    let root = authorization(&broker, &held).contents().status;
    let request = asked(
        &client,
        &first.session,
        held.authorization.as_ref().unwrap(),
        wanted("scanner", &SoftKey::new()),
    );
    let scanner = send(&mut client, &request).await.unwrap();
    let below = issued(&broker, &scanner).status;
    let chain = scanner.authorization.unwrap();
    let scan = || used(&chain, "execute:tools/scan").encode_signed(&enforcer(7)).unwrap();
    assert_eq!(report(&mut client, &[scan()]).await.unwrap(), [None]);
    assert!(stored(&broker, &rows::tree(&root).unwrap()).is_some());

    let order = r#"{"node": "node-1", "reason": "stolen from rack 7"}"#;
    assert_eq!(command(&domain, Method::POST, "/revoke", order).await.0, StatusCode::OK);
    let back = attest(&mut client, &mut first, true).await.unwrap();
    assert_ne!(authorization(&broker, &back).contents().status, root);
    let later = app.clock.now_ms() + 24 * 3_600_000;
    assert_eq!(free::once(app, 0, later).await.unwrap(), [root, below]);
    let rows_of =
        |entry: &StatusIndex| [rows::workload(entry), rows::branch(entry), rows::tree(entry)].map(Result::unwrap);
    for row in [root, below].iter().flat_map(rows_of) {
        assert_eq!(stored(&broker, &row), None, "{row}");
    }

    // As a broker of before left it.
    let left = Tree {
        issued: ["execute:tools/scan".to_owned()].into(),
        used: [("execute:tools/scan".to_owned(), 1)].into(),
    };
    write(&broker, &rows::tree(&root).unwrap(), left.encode());
    // The other node is dealt that very place.
    while app.trust.deal().unwrap() != root {}
    app.trust.give_back(root);
    let held = attest(&mut client, &mut second, false).await.unwrap();
    assert_eq!(authorization(&broker, &held).contents().status, root);
    assert_eq!(stored(&broker, &rows::tree(&root).unwrap()), None);
    // A report that comes late finds the place to be another's.
    let late = report(&mut client, &[scan()]).await.unwrap();
    assert_eq!(late, [Some("use-chain-unknown".to_owned())]);
    assert_eq!(stored(&broker, &rows::tree(&root).unwrap()), None);
    let request = asked(
        &client,
        &second.session,
        held.authorization.as_ref().unwrap(),
        deploy("deployer"),
    );
    let answer = send(&mut client, &request).await.unwrap();
    assert_eq!(codes(&answer), ["denied-by-domain-policy"]);
    broker.shutdown().await.unwrap();
}

/// What has ended is no child any more; were it renewed, there would be one more than may be, and so on without end.
#[tokio::test]
async fn breadth_is_not_got_round_by_renewing_what_has_ended() {
    let mut w = world_staged(&[("max_children", "1")], crate::workloads::POLICY, |_| ()).await;
    let own = SoftKey::new();
    let short = WorkloadRequest {
        life: Some(10),
        delegation: None,
        ..wanted("first", &own)
    };
    let answer = of_node(&mut w, short.clone()).await;
    let first = issued(&w.broker, &answer);
    let app = w.broker.app().clone();
    let over = first.expires * 1_000 + app.policy().settings.timers.skew_ms;
    eventually("its end", || app.clock.now_ms() > over).await;
    let second = of_node(&mut w, deploy("second")).await;
    issued(&w.broker, &second);
    let renewal = WorkloadRequest {
        life: None,
        renew: Some(entry(&first.status)),
        ..short
    };
    let renewed = of_node(&mut w, renewal).await;
    assert_eq!(codes(&renewed), ["workload-renewal-other"]);
    w.broker.shutdown().await.unwrap();
}

const TWO: &str = r#"
@id("all") permit (principal, action, resource);
@id("two-at-most") forbid (principal is Workload, action, resource) when { context.lineage.children >= 2 };
"#;

async fn two_children(w: &mut World) -> [(WorkloadRequest, StatusIndex); 2] {
    let mut made = Vec::new();
    for label in ["one", "two"] {
        let request = deploy(label);
        let answer = of_node(w, request.clone()).await;
        made.push((request, issued(&w.broker, &answer).status));
    }
    made.try_into().unwrap()
}

/// A limit on breadth in a policy is the same for who is there and for who comes.
#[tokio::test]
async fn who_is_renewed_is_not_counted_beside_itself() {
    let mut w = world_staged(&[], TWO, |_| ()).await;
    let [(request, first), _] = two_children(&mut w).await;
    let third = of_node(&mut w, deploy("three")).await;
    assert_eq!(codes(&third), ["denied-by-domain-policy"]);
    let renewal = WorkloadRequest {
        renew: Some(entry(&first)),
        ..request
    };
    let renewed = of_node(&mut w, renewal).await;
    issued(&w.broker, &renewed);
    w.broker.shutdown().await.unwrap();
}

/// A policy that comes into force is told how many hang beside, as it is where one is issued.
#[tokio::test]
async fn a_new_policy_judges_those_beside_by_their_number() {
    let mut w = world_staged(&[], crate::workloads::POLICY, |_| ()).await;
    let [(_, first), (_, second)] = two_children(&mut w).await;
    reload(w.domain(), TWO).await;
    assert_eq!(status(&w.broker, &first), Some(Status::Valid), "two may be");
    let one = TWO.replace("children >= 2", "children >= 1");
    reload(w.domain(), &one).await;
    let both = [first, second];
    eventually("the stricter policy", || {
        both.iter()
            .all(|entry| status(&w.broker, entry) == Some(Status::Invalid))
    })
    .await;
    w.broker.shutdown().await.unwrap();
}

/// What was used cannot be told: then a limit on it cannot be said to be kept, and nothing is upheld on it.
#[tokio::test]
async fn what_hangs_in_a_tree_that_cannot_be_read_is_not_upheld_by_a_new_policy() {
    let mut w = world_staged(&[], crate::workloads::POLICY, |_| ()).await;
    let [(_, first), _] = two_children(&mut w).await;
    let root = w.root();
    let row = rows::tree(&root).unwrap();
    assert!(stored(&w.broker, &row).is_some());
    write(&w.broker, &row, vec![0xff]);
    let limit = r#"
@id("all") permit (principal, action, resource);
@id("never-twice") forbid (principal is Workload, action, resource) when { context.lineage.uses_of_this >= 1 };
"#;
    reload(w.domain(), limit).await;
    eventually("the new policy", || status(&w.broker, &first) == Some(Status::Invalid)).await;
    assert_eq!(
        status(&w.broker, &root),
        Some(Status::Valid),
        "its node keeps what it has"
    );
    w.broker.shutdown().await.unwrap();
}
