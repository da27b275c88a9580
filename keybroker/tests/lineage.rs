//! The lineage of a running broker: what is granted is in it, what falls takes exactly what rests on it in one epoch,
//! across restarts; places come back; and the ledger alone tells the same.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;

use std::collections::BTreeMap;

use common::client::Client;
use common::tpm::SoftNode;
use common::{Domain, attest, authorization, ledger, now, view};
use touchstone_authorization::{KeyKind, Scope, Status, StatusIndex};
use touchstone_cose::cbor::Value;
use touchstone_keybroker::app::App;
use touchstone_keybroker::entry::{Effect, Entry, EntryError};
use touchstone_keybroker::lineage::history::{History, Named, Tree};
use touchstone_keybroker::lineage::{self, BODY_LINEAGE, Dependency, Graph, Growth, Id, Link, free};
use touchstone_keybroker::rows;
use touchstone_keybroker::service::RunningBroker;
use touchstone_keybroker::withdraw::{SET, set};
use touchstone_keybroker::workload::record::WorkloadRecord;
use touchstone_ledger::statement::{Kind, Outcome, Statement};
use touchstone_store::Write;

/// Grants `subject` an entry below `parent`, as a decision about a workload does.
pub(crate) async fn grow(
    app: &App,
    subject: &str,
    parent: StatusIndex,
    on: &[StatusIndex],
) -> Result<StatusIndex, EntryError> {
    let above = app.lineage.get(&parent).unwrap();
    let status = app.trust.deal().unwrap();
    let mut cti = [0; 16];
    cti[..4].copy_from_slice(&status.index.to_be_bytes());
    cti[4..6].copy_from_slice(&status.list.to_be_bytes());
    cti[6] = subject.len() as u8;
    let entry = lineage::Entry {
        status,
        parent: Some(parent),
        subject: subject.to_owned(),
        cti,
        depth: above.depth + 1,
        expires: above.expires,
        scopes: "execute:job".into(),
        depends_on: on
            .iter()
            .map(|on| Dependency {
                on: *on,
                why: Link::DependsOn,
            })
            .collect(),
    };
    // Where the broker begins anew it judges whoever holds something by what it keeps of it.
    let (root, node) = app.lineage.read(|graph| {
        let root = graph.above(&parent).last().copied().unwrap_or(parent);
        (root, graph.get(&root).unwrap().subject)
    });
    let kept = WorkloadRecord {
        status,
        subject: subject.to_owned(),
        node,
        root,
        parent,
        depth: entry.depth,
        key: [7; 32],
        key_kind: KeyKind::Tpm,
        scopes: vec![Scope::parse("execute:workloads").unwrap()],
        delegation: None,
        region: None,
        purpose: None,
        depends_on: Vec::new(),
        attributes: None,
        cti,
        expires: entry.expires,
    };
    let body = Value::map([(BODY_LINEAGE, entry.value())]);
    let statement = Statement {
        subject: Some(subject.to_owned()),
        ..app
            .circumstances(app.clock.now_ms())
            .statement(Kind::Delegation, Outcome::Allow, body)
    };
    let grant = Entry {
        statement: statement.sign(&app.keys.statement).unwrap(),
        subject: None,
        policy: Some(app.policy().digest),
        guards: Vec::new(),
        writes: vec![Write::Put(rows::workload(&status).unwrap(), kept.encode())],
        parts: Vec::new(),
        effect: Effect::grant(Growth { entry, renews: false }),
    };
    app.sequencer.record(grant).await.map(|_| status)
}

fn status(app: &App, entry: StatusIndex) -> Status {
    let lists = app.trust.lists();
    lists.get(entry.list).unwrap().status(entry.index).unwrap()
}

async fn told(broker: &RunningBroker) -> History {
    let mut history = History::default();
    for (index, statement) in (0..).zip(&ledger(broker).await) {
        history.apply(index, statement);
    }
    assert_eq!(history.flaws(), (&[][..], 0));
    history
}

fn states(tree: &Tree) -> BTreeMap<String, &'static str> {
    let mut all = BTreeMap::from([(tree.entry.subject.clone(), tree.state)]);
    all.extend(tree.children.iter().flat_map(states));
    all
}

#[tokio::test]
async fn a_tampered_node_takes_exactly_what_rests_on_it_in_one_epoch() {
    let (mut bad, mut good) = (SoftNode::new("good"), SoftNode::new("good"));
    let domain = Domain::new(&[("bad", &bad), ("good", &good)], &[]);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let of_bad = attest(&mut client, &mut bad, false).await.unwrap();
    let of_bad = authorization(&broker, &of_bad).contents().status;
    let of_good = attest(&mut client, &mut good, false).await.unwrap();
    let of_good = authorization(&broker, &of_good).contents().status;
    let app = broker.app();
    let agent = grow(app, "agent@bad", of_bad, &[]).await.unwrap();
    let tool = grow(app, "tool@bad", agent, &[]).await.unwrap();
    let other = grow(app, "other@good", of_good, &[]).await.unwrap();
    let fed = grow(app, "fed@good", other, &[tool]).await.unwrap();
    let below_fed = grow(app, "below-fed@good", fed, &[]).await.unwrap();

    // A renewal keeps the entry and everything below it.
    let renewed = attest(&mut client, &mut bad, true).await.unwrap();
    let renewed = authorization(&broker, &renewed);
    assert_eq!(renewed.contents().status, of_bad);
    let held = app.lineage.find(Id::Authorization(&renewed.contents().cti)).unwrap();
    assert_eq!((held.subject.as_str(), held.depth, held.parent), ("bad", 0, None));
    assert_eq!(held.expires, renewed.contents().expires);
    let falls = [agent, tool, fed, below_fed];
    assert_eq!(app.lineage.descendants(&[of_bad]), falls);
    assert_eq!(app.lineage.find(Id::Subject("tool@bad")).unwrap().status, tool);

    // A restart changes nothing.
    broker.shutdown().await.unwrap();
    let broker = domain.start().await;
    let app = broker.app();
    let mut client = Client::connect(broker.address()).await;
    assert_eq!(app.lineage.descendants(&[of_bad]), falls);
    assert!(
        [of_bad, of_good, other]
            .iter()
            .all(|entry| status(app, *entry) == Status::Valid)
    );

    let epoch = app.trust.epoch();
    bad.extend(4);
    let denied = attest(&mut client, &mut bad, true).await.unwrap();
    assert!(!denied.allowed);
    let seen = view(&broker, &denied.trust_state);
    assert_eq!(seen.head().epoch, epoch + 1, "one epoch");
    for fallen in falls.iter().chain([&of_bad]) {
        assert_eq!(status(app, *fallen), Status::Invalid, "no fewer");
    }
    for stands in [of_good, other] {
        assert_eq!(status(app, stands), Status::Valid, "no more");
    }
    let refused = grow(app, "late@bad", agent, &[]).await;
    assert!(matches!(refused, Err(EntryError::Conflict { .. })), "{refused:?}");
    let refused = grow(app, "late@good", of_good, &[tool]).await;
    assert!(matches!(refused, Err(EntryError::Conflict { .. })), "{refused:?}");

    let history = told(&broker).await;
    let trees = history.trees(Named::Subject, "bad", now());
    let expected = [("bad", "revoked"), ("agent@bad", "revoked"), ("tool@bad", "revoked")];
    assert_eq!(
        states(&trees[0]),
        expected.map(|(name, state)| (name.to_owned(), state)).into()
    );
    let trees = history.trees(Named::Subject, "good", now());
    let expected = [
        ("good", "valid"),
        ("other@good", "valid"),
        ("fed@good", "revoked"),
        ("below-fed@good", "revoked"),
    ];
    assert_eq!(
        states(&trees[0]),
        expected.map(|(name, state)| (name.to_owned(), state)).into()
    );
    let fed = &trees[0].children[0].children[0];
    assert_eq!(fed.epoch, Some(epoch + 1));
    assert_eq!(fed.reasons[0].code, denied.reasons[0].code);
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn after_a_kill_workloads_are_suspended_too_and_places_come_back_when_all_is_over() {
    let mut node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[]);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let held = attest(&mut client, &mut node, false).await.unwrap();
    let held = authorization(&broker, &held).contents().status;
    let child = grow(broker.app(), "job@node-1", held, &[]).await.unwrap();
    drop(broker);
    let broker = domain.start().await;
    let app = broker.app();
    assert_eq!([held, child].map(|entry| status(app, entry)), [Status::Suspended; 2]);
    let interruption = ledger(&broker).await.pop().unwrap();
    assert_eq!(
        (interruption.kind, interruption.reasons[0].code.as_str()),
        (Kind::Interruption, "broker-interrupted")
    );
    let both = set::sorted([held, child]);
    assert_eq!(
        interruption.inputs[SET],
        set::digest(&set::encode(&both)),
        "the exact set"
    );
    let mut client = Client::connect(broker.address()).await;
    let again = attest(&mut client, &mut node, true).await.unwrap();
    assert_eq!(authorization(&broker, &again).contents().status, held);
    assert_eq!(status(app, held), Status::Valid);
    assert_eq!(
        status(app, child),
        Status::Suspended,
        "what it showed is shown by its node, not by it: it asks anew"
    );
    assert_eq!(
        free::once(app, 0, app.clock.now_ms()).await.unwrap(),
        [],
        "it may live still"
    );

    // The node falls and comes back under another entry; a day later nothing of the old one is alive.
    let kept = node.values.clone();
    node.extend(4);
    assert!(!attest(&mut client, &mut node, true).await.unwrap().allowed);
    node.values = kept;
    let back = attest(&mut client, &mut node, true).await.unwrap();
    let back = authorization(&broker, &back).contents().status;
    assert_eq!([held, child].map(|entry| status(app, entry)), [Status::Invalid; 2]);
    assert_eq!(
        free::once(app, 0, app.clock.now_ms()).await.unwrap(),
        [],
        "not before they are over"
    );
    let later = app.clock.now_ms() + 24 * 3_600_000;
    assert_eq!(free::once(app, 0, later).await.unwrap(), [held, child]);
    assert_eq!([held, child].map(|entry| status(app, entry)), [Status::Valid; 2]);
    assert_eq!(app.lineage.get(&held), None);
    assert_eq!(
        free::once(app, 0, later).await.unwrap(),
        [],
        "what the node holds now stays its own"
    );
    let mut dealt = [app.trust.deal().unwrap(), app.trust.deal().unwrap()];
    dealt.sort();
    assert_eq!(dealt, [held, child], "dealt out anew");
    let trees = told(&broker).await.trees(Named::Subject, "node-1", now());
    let shown: Vec<_> = trees.iter().map(|tree| (tree.entry.status, tree.state)).collect();
    assert_eq!(shown, [(held, "freed"), (back, "valid")]);

    // Dealt and never used, they are found again after a restart, and with them nothing that is in use.
    broker.shutdown().await.unwrap();
    let broker = domain.start().await;
    let mut dealt = [(); 3].map(|()| broker.app().trust.deal().unwrap());
    dealt.sort();
    assert!(dealt.contains(&held) && dealt.contains(&child) && !dealt.contains(&back));
    broker.shutdown().await.unwrap();
}

/// Places come back as fast as they are taken: not so many a round and no more.
#[tokio::test]
async fn who_begins_and_ends_many_uses_up_no_places_for_others() {
    let mut node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[]);
    let broker = domain.start().await;
    let app = broker.app();
    let mut client = Client::connect(broker.address()).await;
    let held = attest(&mut client, &mut node, false).await.unwrap();
    let held = authorization(&broker, &held).contents().status;
    let many = free::MAX_FREED_AT_ONCE + 20;
    for n in 0..many {
        grow(app, &format!("job-{n}@node-1"), held, &[]).await.unwrap();
    }
    let before = app.lineage.read(Graph::len);
    let later = app.clock.now_ms() + 24 * 3_600_000;
    assert_eq!(free::all(app, 0, later).await.unwrap(), many);
    assert_eq!(app.lineage.read(Graph::len), before - many);
    broker.shutdown().await.unwrap();
}
