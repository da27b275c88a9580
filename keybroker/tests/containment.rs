//! How far the failure of one member reaches: whatever it held by then, over a crash, once, and with a way back.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::pin::Pin;

use crate::commands::{codes, commanded, order, place, status, zoned};
use crate::common;

use common::client::Client;
use common::tpm::SoftNode;
use common::{DOMAIN, Domain, attest, command, eventually, ledger};
use hyper::Method;
use touchstone_authorization::{Status, StatusIndex};
use touchstone_cose::cbor;
use touchstone_keybroker::entry::{Effect, Entry};
use touchstone_keybroker::holds::{self, Due, Over};
use touchstone_keybroker::nodes as records;
use touchstone_keybroker::service::RunningBroker;
use touchstone_keybroker::trust::Mark;
use touchstone_keybroker::withdraw::{Cause, Taking};
use touchstone_ledger::statement::{Kind, Outcome, Reason};
use touchstone_policies as policies;

const CLUSTER: &str = "default = \"cluster\"\nroles = [\"gateway\"]";

/// A member whose failure reaches far, and another one.
fn pair() -> [SoftNode; 2] {
    [SoftNode::new("good"), SoftNode::new("good")]
}

fn rows<'a>(
    [bad, near]: &'a [SoftNode; 2],
    zone: Option<&'a str>,
) -> [(&'a str, &'a SoftNode, Option<&'a str>, &'a str); 2] {
    [("bad", bad, zone, "gateway"), ("near", near, zone, "worker")]
}

async fn granted(broker: &RunningBroker, node: &mut SoftNode) -> StatusIndex {
    let mut client = Client::connect(broker.address()).await;
    let answer = attest(&mut client, node, false).await.unwrap();
    assert!(answer.allowed, "{:?}", codes(&answer));
    place(broker, &answer)
}

/// The member attests and is denied.
async fn denied(broker: &RunningBroker, node: &mut SoftNode) -> Vec<String> {
    let mut client = Client::connect(broker.address()).await;
    let answer = attest(&mut client, node, false).await.unwrap();
    assert!(!answer.allowed);
    codes(&answer).into_iter().map(str::to_owned).collect()
}

/// How many containments stand.
fn standing(broker: &RunningBroker) -> usize {
    let holds = broker.app().holds.list();
    let standing = holds.iter().filter(|(hold, _)| hold.lifted.is_none());
    standing.filter(|(hold, _)| matches!(hold.over, Over::Nodes(_))).count()
}

#[tokio::test]
async fn a_member_that_had_lost_its_rights_before_it_fails_reaches_as_far() {
    for cause in ["overdue", "revoked"] {
        let mut nodes = pair();
        let domain = zoned(&rows(&nodes, Some("a")), CLUSTER);
        let broker = domain.start().await;
        let [bad, near] = &mut nodes;
        let held = granted(&broker, bad).await;
        match cause {
            "overdue" => {
                let quick = [
                    ("attestation_interval_ms", "300"),
                    ("attestation_retry_ms", "100"),
                    ("attestation_deadline_ms", "500"),
                ];
                domain.change(&quick).await;
                eventually(cause, || status(&broker, held) == Status::Invalid).await;
                // Who attests from here on has all the time there is.
                domain.change(&[("attestation_deadline_ms", "3600000")]).await;
            }
            _ => drop(commanded(&domain, &order("revoke", "node", "bad")).await),
        }
        eventually(cause, || broker.app().trust.pending() == 0).await;
        assert_eq!(
            (status(&broker, held), standing(&broker)),
            (Status::Invalid, 0),
            "{cause}"
        );
        let beside = granted(&broker, near).await;
        assert_eq!(status(&broker, beside), Status::Valid, "{cause}");

        bad.extend(7);
        denied(&broker, bad).await;
        assert_eq!(status(&broker, beside), Status::Suspended, "{cause}");
        let statements = ledger(&broker).await;
        let made = statements.iter().position(|s| s.kind == Kind::Containment).unwrap();
        // The decision was on record before: a crash in between is made up for from there.
        let mut before = statements[..made].iter().rev();
        let decision = before.find(|s| s.kind == Kind::Attestation).unwrap();
        assert_eq!(
            statements[made].inputs["decision"],
            decision.digest().unwrap(),
            "{cause}"
        );
        broker.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_failure_reaches_once_until_the_node_has_shown_good_evidence() {
    let mut nodes = pair();
    let domain = zoned(&rows(&nodes, Some("a")), CLUSTER);
    let mut broker = domain.start().await;
    let [bad, near] = &mut nodes;
    granted(&broker, bad).await;
    let beside = granted(&broker, near).await;
    let good = bad.values.clone();
    bad.extend(7);
    denied(&broker, bad).await;
    eventually("the first failure", || status(&broker, beside) == Status::Suspended).await;
    eventually("on record", || broker.app().trust.pending() == 0).await;
    assert_eq!(denied(&broker, near).await, ["contained"]);

    // Who lifts it has seen that failure: the same node, that goes on failing, does not undo that.
    commanded(&domain, &order("lift", "cluster", DOMAIN)).await;
    assert_eq!(granted(&broker, near).await, beside);
    for in_order in [true, false] {
        denied(&broker, bad).await;
        assert_eq!((standing(&broker), status(&broker, beside)), (0, Status::Valid));
        if in_order {
            broker.shutdown().await.unwrap();
            broker = domain.start().await;
        }
    }

    // With good evidence it has something to lose again, and what it did with that reaches as far as before.
    bad.values = good.clone();
    granted(&broker, bad).await;
    bad.extend(7);
    denied(&broker, bad).await;
    eventually("another failure", || status(&broker, beside) == Status::Suspended).await;
    // One that fails while all are suspended is remembered with them.
    eventually("on record", || broker.app().trust.pending() == 0).await;
    commanded(&domain, &order("lift", "cluster", DOMAIN)).await;
    bad.values = good;
    granted(&broker, bad).await;
    commanded(&domain, &order("contain", "cluster", DOMAIN)).await;
    bad.extend(7);
    denied(&broker, bad).await;
    commanded(&domain, &order("lift", "cluster", DOMAIN)).await;
    denied(&broker, bad).await;
    assert_eq!(standing(&broker), 0);
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_policy_or_a_bar_took_reaches_nobody_until_the_node_itself_has_changed() {
    for cause in ["bar", "policy"] {
        let mut nodes = pair();
        let domain = zoned(&rows(&nodes, Some("a")), CLUSTER);
        let broker = domain.start().await;
        let [bad, near] = &mut nodes;
        let held = granted(&broker, bad).await;
        granted(&broker, near).await;
        if cause == "bar" {
            commanded(&domain, &order("revoke", "reference", "golden")).await;
        } else {
            forbid(&domain);
            command(&domain, Method::POST, "/reload", "").await;
        }
        assert_eq!(status(&broker, held), Status::Invalid, "{cause}");
        for _ in 0..2 {
            denied(&broker, bad).await;
            assert_eq!(
                standing(&broker),
                0,
                "{cause}: it shows what it showed when it was granted"
            );
        }
        bad.extend(7);
        denied(&broker, bad).await;
        assert_eq!(standing(&broker), 1, "{cause}: it has been tampered with besides");
        broker.shutdown().await.unwrap();
    }
}

/// A policy under which `bad` gets nothing.
fn forbid(domain: &Domain) {
    let region = domain.path("policy/staged/regions/north/policy.cedar");
    std::fs::create_dir_all(region.parent().unwrap()).unwrap();
    let forbid = "\n@id(\"not-it\") forbid (principal, action, resource) when { principal.name == \"bad\" };\n";
    std::fs::write(&region, policies::cedar::default_region_policy("north") + forbid).unwrap();
    domain.publish();
}

/// Holds are made one at a time: one that does not come to its end keeps all others waiting for as long as this is kept.
async fn stalled(broker: &RunningBroker) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    loop {
        let app = std::sync::Arc::clone(broker.app());
        let mut stalled = Box::pin(async move {
            let taking = Taking::new(Cause::new(Kind::Quarantine, Some("nobody"), because()), Mark::Suspended);
            drop(holds::hold(&app, Over::Subject("nobody".into()), "test", taking).await);
        });
        if !is_done(stalled.as_mut()).await {
            return stalled;
        }
    }
}

#[tokio::test]
async fn the_failure_of_a_member_that_holds_nothing_any_more_outlives_a_crash_too() {
    let mut nodes = pair();
    let domain = zoned(&rows(&nodes, Some("a")), CLUSTER);
    let broker = domain.start().await;
    let [bad, near] = &mut nodes;
    granted(&broker, bad).await;
    let beside = granted(&broker, near).await;
    commanded(&domain, &order("revoke", "node", "bad")).await;
    let stalled = stalled(&broker).await;
    let size = broker.app().head().size;
    bad.extend(7);
    {
        let mut failing = std::pin::pin!(denied(&broker, bad));
        eventually_while("the failure on record", failing.as_mut(), || {
            broker.app().head().size > size && !due(&broker).is_empty()
        })
        .await;
        assert_eq!((standing(&broker), status(&broker, beside)), (0, Status::Valid));
    }
    drop(broker);
    drop(stalled);

    // The member is never heard of again.
    let broker = domain.start().await;
    assert_eq!((standing(&broker), status(&broker, beside)), (1, Status::Suspended));
    assert_eq!(due(&broker), []);
    assert_eq!(denied(&broker, near).await, ["contained"]);
    broker.shutdown().await.unwrap();
}

fn due(broker: &RunningBroker) -> Vec<Due> {
    Due::all(&*broker.app().store).unwrap()
}

/// As [`eventually`], while something goes on that does not come to its end by itself.
async fn eventually_while<T>(what: &str, going_on: Pin<&mut impl Future<Output = T>>, holds: impl FnMut() -> bool) {
    tokio::select! {
        _ = going_on => panic!("{what}: it has come to its end"),
        () = eventually(what, holds) => {}
    }
}

#[tokio::test]
async fn what_stays_due_is_made_by_the_running_broker_once_and_never_again() {
    let mut nodes = pair();
    let domain = zoned(&rows(&nodes, Some("a")), CLUSTER);
    let broker = domain.start().await;
    let [bad, near] = &mut nodes;
    granted(&broker, bad).await;
    let beside = granted(&broker, near).await;
    // What a failure leaves whose containment could not be made: two of its evidence had been shown at once.
    let app = broker.app();
    let granted_to_bad = records::by_name(&*app.store, "bad").unwrap().unwrap().0.granted.cti;
    let of = |decision: u8| Due {
        node: "bad".into(),
        granted: granted_to_bad,
        decision: [decision; 32],
        over: Over::Nodes(policies::Extent::Cluster),
    };
    let all = [of(1), of(2)];
    let record = |due: Due| async move {
        let body = cbor::Value::map([(0, cbor::Value::text("test"))]);
        let circumstances = app.circumstances(app.clock.now_ms());
        let statement = circumstances.statement(Kind::Command, Outcome::Recorded, body);
        let entry = Entry {
            statement: statement.sign(&app.keys.statement).unwrap(),
            subject: None,
            policy: None,
            guards: vec![],
            writes: vec![due.write().unwrap()],
            parts: vec![],
            effect: Effect::Due,
        };
        app.sequencer.record(entry).await.unwrap();
    };
    for due in all.clone() {
        record(due).await;
    }
    app.containing.look();
    eventually("both are made", || due(&broker).is_empty()).await;
    assert_eq!((standing(&broker), status(&broker, beside)), (1, Status::Suspended));
    // Lifted, it is made by none that comes late, before a start or at one.
    commanded(&domain, &order("lift", "cluster", DOMAIN)).await;
    record(of(3)).await;
    app.containing.look();
    eventually("the late one", || due(&broker).is_empty()).await;
    assert_eq!(standing(&broker), 0);
    record(of(4)).await;
    broker.shutdown().await.unwrap();
    let broker = domain.start().await;
    assert_eq!((due(&broker), standing(&broker)), (vec![], 0));
    assert_eq!(granted(&broker, near).await, beside);
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_containment_that_a_crash_came_before_is_made_at_the_next_start() {
    let mut nodes = pair();
    let domain = zoned(&rows(&nodes, Some("a")), CLUSTER);
    let broker = domain.start().await;
    let [bad, near] = &mut nodes;
    granted(&broker, bad).await;
    let beside = granted(&broker, near).await;
    let stalled = stalled(&broker).await;
    bad.extend(7);
    denied(&broker, bad).await;
    assert_eq!((standing(&broker), status(&broker, beside)), (0, Status::Valid));
    let last = ledger(&broker).await;
    assert!(
        last.iter().any(|s| s.kind == Kind::Revocation),
        "its own rights are gone, durably"
    );
    drop(broker);
    drop(stalled);

    let broker = domain.start().await;
    assert_eq!((standing(&broker), status(&broker, beside)), (1, Status::Suspended));
    assert_eq!(denied(&broker, near).await, ["contained"]);
    commanded(&domain, &order("lift", "cluster", DOMAIN)).await;
    assert_eq!(granted(&broker, near).await, beside);
    broker.shutdown().await.unwrap();
    let broker = domain.start().await;
    assert_eq!((standing(&broker), status(&broker, beside)), (0, Status::Valid), "once");
    broker.shutdown().await.unwrap();
}

fn because() -> Reason {
    Reason {
        code: "quarantined".into(),
        claim: "nobody".into(),
        expected: "as granted".into(),
        found: "test".into(),
    }
}

/// Lets it run until it waits for something; `true` where it came to its end.
async fn is_done<T>(future: Pin<&mut impl Future<Output = T>>) -> bool {
    tokio::select! {
        biased;
        _ = future => true,
        () = std::future::ready(()) => false,
    }
}

#[tokio::test]
async fn a_containment_that_no_command_names_is_lifted_with_the_domain() {
    let zone = "default = \"zone\"\nroles = [\"gateway\"]";
    for (what, containment, of_region) in [
        ("of nodes without a zone", zone, None),
        ("of a region", "default = \"subject\"", Some(CLUSTER)),
    ] {
        let mut nodes = pair();
        let domain = zoned(&rows(&nodes, None), containment);
        if let Some(said) = of_region {
            let file = domain.path("policy/staged/regions/north/settings.toml");
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, format!("[containment]\n{said}\n")).unwrap();
            domain.publish();
        }
        let broker = domain.start().await;
        let [bad, near] = &mut nodes;
        granted(&broker, bad).await;
        let beside = granted(&broker, near).await;
        bad.extend(7);
        denied(&broker, bad).await;
        eventually(what, || status(&broker, beside) == Status::Suspended).await;
        eventually(what, || broker.app().trust.pending() == 0).await;
        assert_eq!(denied(&broker, near).await, ["contained"], "{what}");
        let done = commanded(&domain, &order("lift", "cluster", DOMAIN)).await;
        assert!(done["entries"].as_u64() > Some(0), "{what}");
        assert_eq!((standing(&broker), granted(&broker, near).await), (0, beside), "{what}");
        assert_eq!(status(&broker, beside), Status::Valid, "{what}");
        broker.shutdown().await.unwrap();
    }
}
