//! How far the failure of one member reaches: whatever it held by then, over a crash, once, and with a way back.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::pin::Pin;

use crate::commands::{codes, commanded, order, place, status, zoned, zoned_with};
use crate::common;

use common::client::Client;
use common::tpm::SoftNode;
use common::{DOMAIN, Domain, attest, command, eventually, ledger};
use hyper::Method;
use touchstone_authorization::{Status, StatusIndex};
use touchstone_keybroker::holds::{self, Over};
use touchstone_keybroker::service::RunningBroker;
use touchstone_keybroker::trust::Mark;
use touchstone_keybroker::withdraw::{Cause, Taking};
use touchstone_ledger::statement::{Kind, Reason};
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
        let quick = [
            ("heartbeat_ms", "50"),
            ("attestation_interval_ms", "1000"),
            ("attestation_retry_ms", "500"),
            ("attestation_deadline_ms", "3000"),
        ];
        let settings: &[_] = if cause == "overdue" { &quick } else { &[] };
        let domain = zoned_with(&rows(&nodes, Some("a")), CLUSTER, settings);
        let broker = domain.start().await;
        let [bad, near] = &mut nodes;
        let held = granted(&broker, bad).await;
        match cause {
            "overdue" => eventually(cause, || status(&broker, held) == Status::Invalid).await,
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
        let failed = statements.iter().position(|s| s.kind == Kind::Containment).unwrap();
        // Before the decision is on record.
        let after = statements[failed..].iter();
        let decision = after.rev().find(|s| s.kind == Kind::Attestation).unwrap();
        assert_eq!(
            statements[failed].inputs["decision"],
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

#[tokio::test]
async fn a_containment_that_a_crash_came_before_is_made_at_the_next_start() {
    let mut nodes = pair();
    let domain = zoned(&rows(&nodes, Some("a")), CLUSTER);
    let broker = domain.start().await;
    let [bad, near] = &mut nodes;
    granted(&broker, bad).await;
    let beside = granted(&broker, near).await;
    // Holds are made one at a time: one that does not come to its end keeps the containment waiting.
    let app = std::sync::Arc::clone(broker.app());
    let stalled = loop {
        let app = std::sync::Arc::clone(&app);
        let mut stalled = Box::pin(async move {
            let taking = Taking::new(Cause::new(Kind::Quarantine, Some("nobody"), because()), Mark::Suspended);
            holds::hold(&app, Over::Subject("nobody".into()), "test", taking).await
        });
        if !is_done(stalled.as_mut()).await {
            break stalled;
        }
    };
    drop(app);
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
