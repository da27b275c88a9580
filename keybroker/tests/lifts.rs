//! What gives back gives back what was shown, and nothing that was made since.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::commands::{child, commanded, order, place, previewed, refused, status};
use crate::common;
use crate::lineage::grow;

use common::client::Client;
use common::tpm::SoftNode;
use common::{DOMAIN, Domain, attest};
use serde_json::{Value, json};
use touchstone_authorization::Status;
use touchstone_keybroker::bars;
use touchstone_keybroker::command::{By, Command, carry_out_planned, plan};
use touchstone_keybroker::problem::RefusalCode;
use touchstone_keybroker::service::RunningBroker;

fn parsed(order: &Value) -> Command {
    serde_json::from_value(order.clone()).unwrap()
}

/// How many holds stand.
fn standing(broker: &RunningBroker) -> usize {
    let holds = broker.app().holds.list();
    holds.iter().filter(|(hold, _)| hold.lifted.is_none()).count()
}

#[tokio::test]
async fn what_was_suspended_once_more_since_a_lift_was_planned_is_not_lifted_unseen() {
    let cluster = ("contain", "cluster", DOMAIN);
    let node = ("quarantine", "node", "node-1");
    for (what, (action, target, id)) in [
        ("a containment over the very same set", cluster),
        ("a quarantine of the same node", node),
    ] {
        for with_set in [false, true] {
            let mut node = SoftNode::new("good");
            let domain = Domain::new(&[("node-1", &node)], &[]);
            let broker = domain.start().await;
            let mut client = Client::connect(broker.address()).await;
            let held = place(&broker, &attest(&mut client, &mut node, false).await.unwrap());
            commanded(&domain, &order(action, target, id)).await;
            let mut lift = order("lift", target, id);
            if with_set {
                lift["set"] = previewed(&domain, &lift).await["set"].clone();
            }
            let planned = plan(broker.app(), &parsed(&lift)).await.unwrap();
            assert_eq!((planned.set.len(), planned.given_back.len()), (1, 1), "{what}");

            // Between the look and the lock.
            commanded(&domain, &order(action, target, id)).await;
            let size = broker.app().head().size;
            let refused = carry_out_planned(broker.app(), &parsed(&lift), &By::Local, planned).await;
            assert_eq!(refused.unwrap_err().code, RefusalCode::SetChanged, "{what}");
            assert_eq!((standing(&broker), broker.app().head().size), (2, size), "{what}");
            let denied = attest(&mut client, &mut node, true).await.unwrap();
            assert!(!denied.allowed, "{what}");
            assert_eq!(status(&broker, held), Status::Suspended, "{what}");

            // Looked at again, both are lifted.
            commanded(&domain, &order("lift", target, id)).await;
            assert_eq!(standing(&broker), 0, "{what}");
            assert!(attest(&mut client, &mut node, true).await.unwrap().allowed, "{what}");
            assert_eq!(status(&broker, held), Status::Valid, "{what}");
            broker.shutdown().await.unwrap();
        }
    }
}

#[tokio::test]
async fn the_digest_that_was_shown_of_a_lift_is_of_these_holds_and_outlives_a_restart() {
    let mut node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[]);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let held = place(&broker, &attest(&mut client, &mut node, false).await.unwrap());
    drop(client);
    commanded(&domain, &order("contain", "cluster", DOMAIN)).await;
    let mut lift = order("lift", "cluster", DOMAIN);
    lift["set"] = previewed(&domain, &lift).await["set"].clone();
    broker.shutdown().await.unwrap();

    // The same holds after a restart: the same digest. Another one over the very same entries: another digest.
    let broker = domain.start().await;
    assert_eq!(previewed(&domain, &lift).await["set"], lift["set"]);
    commanded(&domain, &order("contain", "cluster", DOMAIN)).await;
    let now = previewed(&domain, &lift).await;
    assert_eq!(now["entries"], json!(1));
    assert_ne!(now["set"], lift["set"]);
    broker.shutdown().await.unwrap();
    let broker = domain.start().await;
    let refusal = refused(&domain, "/commands", &lift.to_string()).await;
    assert_eq!((refusal.as_str(), standing(&broker)), ("command-set-changed", 2));
    assert_eq!(status(&broker, held), Status::Suspended);

    // Lifted and made anew, it is another one too.
    lift["set"] = now["set"].clone();
    commanded(&domain, &lift).await;
    for _ in 0..2 {
        commanded(&domain, &order("contain", "cluster", DOMAIN)).await;
    }
    let refusal = refused(&domain, "/commands", &lift.to_string()).await;
    assert_eq!((refusal.as_str(), standing(&broker)), ("command-set-changed", 2));
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_bar_or_a_decommissioning_that_was_made_once_more_is_not_taken_back_unseen() {
    let mut node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[]);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    attest(&mut client, &mut node, false).await.unwrap();
    let app = broker.app();
    for (take, give, target, id) in [
        ("revoke", "lift", "reference", "golden"),
        ("decommission", "reinstate", "node", "node-1"),
    ] {
        let is_taken = || match target {
            "reference" => !bars::read(&*app.store).unwrap().0.is_empty(),
            _ => touchstone_keybroker::nodes::is_gone(&*app.store, id).unwrap(),
        };
        let (take, mut give) = (order(take, target, id), order(give, target, id));
        commanded(&domain, &take).await;
        give["set"] = previewed(&domain, &give).await["set"].clone();
        let planned = plan(app, &parsed(&give)).await.unwrap();
        // Taken back, and made once more for another reason, between the look and the commit.
        let mut bare = give.clone();
        bare["set"] = Value::Null;
        commanded(&domain, &bare).await;
        assert!(!is_taken(), "{target}");
        commanded(&domain, &take).await;
        let refusal = carry_out_planned(app, &parsed(&bare), &By::Local, planned).await;
        assert_eq!(refusal.unwrap_err().code, RefusalCode::SetChanged, "{target}");
        let refusal = refused(&domain, "/commands", &give.to_string()).await;
        assert_eq!(
            (refusal.as_str(), is_taken()),
            ("command-set-changed", true),
            "{target}"
        );
        give["set"] = previewed(&domain, &give).await["set"].clone();
        commanded(&domain, &give).await;
        assert!(!is_taken(), "{target}");
    }
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_decommissioning_takes_the_set_that_was_shown_and_no_other() {
    let mut node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[]);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let root = place(&broker, &attest(&mut client, &mut node, false).await.unwrap());
    let mut take = order("decommission", "node", "node-1");
    take["set"] = previewed(&domain, &take).await["set"].clone();
    let planned = plan(broker.app(), &parsed(&take)).await.unwrap();
    let (job, _) = child(&broker, "job", "node-1", root, &[]).await;
    let refusal = carry_out_planned(broker.app(), &parsed(&take), &By::Local, planned).await;
    assert_eq!(refusal.unwrap_err().code, RefusalCode::SetChanged);
    assert_eq!([root, job].map(|place| status(&broker, place)), [Status::Valid; 2]);
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_a_workload_was_granted_while_it_was_looked_up_is_taken_too_or_refused_where_a_set_was_shown() {
    for (action, taken) in [("revoke", Status::Invalid), ("quarantine", Status::Suspended)] {
        for with_set in [true, false] {
            let mut node = SoftNode::new("good");
            let domain = Domain::new(&[("node-1", &node)], &[]);
            let broker = domain.start().await;
            let mut client = Client::connect(broker.address()).await;
            let root = place(&broker, &attest(&mut client, &mut node, false).await.unwrap());
            let (first, _) = child(&broker, "job", "node-1", root, &[]).await;
            let mut take = order(action, "workload", "job@node-1");
            if with_set {
                take["set"] = previewed(&domain, &take).await["set"].clone();
            }
            let planned = plan(broker.app(), &parsed(&take)).await.unwrap();
            // Twice under one label: neither hides the other.
            let (second, _) = child(&broker, "job", "node-1", root, &[]).await;
            let (third, _) = child(&broker, "job", "node-1", root, &[]).await;
            let (other, _) = child(&broker, "other", "node-1", root, &[]).await;
            let outcome = carry_out_planned(broker.app(), &parsed(&take), &By::Local, planned).await;
            let found = [first, second, third].map(|place| status(&broker, place));
            match with_set {
                true => {
                    assert_eq!(outcome.unwrap_err().code, RefusalCode::SetChanged, "{action}");
                    assert_eq!(found, [Status::Valid; 3], "{action}");
                }
                false => {
                    assert_eq!(outcome.unwrap().entries, 3, "{action}");
                    assert_eq!(found, [taken; 3], "{action}");
                }
            }
            assert_eq!(status(&broker, other), Status::Valid, "{action}");
            broker.shutdown().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_hold_over_a_workload_that_holds_nothing_any_more_can_be_lifted() {
    let mut node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[]);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    attest(&mut client, &mut node, false).await.unwrap();
    let lift = order("lift", "workload", "gone@node-1");
    assert_eq!(
        refused(&domain, "/commands/preview", &lift.to_string()).await,
        "request-not-found"
    );
    hold_over_nothing(&broker, "gone@node-1").await;
    commanded(&domain, &lift).await;
    assert_eq!(standing(&broker), 0);
    broker.shutdown().await.unwrap();
}

async fn hold_over_nothing(broker: &RunningBroker, subject: &str) {
    use touchstone_keybroker::holds::{Over, hold};
    use touchstone_keybroker::trust::Mark;
    use touchstone_keybroker::withdraw::{Cause, Taking};
    use touchstone_ledger::statement::{Kind, Reason};
    let reason = Reason {
        code: "quarantined".into(),
        claim: "workload".into(),
        expected: "as granted".into(),
        found: "test".into(),
    };
    let taking = Taking::new(Cause::new(Kind::Quarantine, Some(subject), reason), Mark::Suspended);
    hold(broker.app(), Over::Subject(subject.into()), "test", taking)
        .await
        .unwrap();
}

/// What a hold took comes back with it only where it is known what that was before. That is what a stop in
/// disorder hides: somebody may have revoked it, and nobody can say so any more.
#[tokio::test]
async fn a_hold_over_what_a_stop_in_disorder_suspended_brings_nothing_back_below_the_node() {
    for (what, stop, second_hold, comes_back) in [
        ("nothing happened", None, false, true),
        ("a stop in order", Some(true), false, true),
        ("a stop in disorder", Some(false), false, false),
        ("two holds, the first of which knows", None, true, true),
        ("two holds after a stop in disorder", Some(false), true, false),
    ] {
        let mut node = SoftNode::new("good");
        let domain = Domain::new(&[("node-1", &node)], &[]);
        let mut broker = domain.start().await;
        let mut client = Client::connect(broker.address()).await;
        let root = place(&broker, &attest(&mut client, &mut node, false).await.unwrap());
        let held = grow(broker.app(), "held@node-1", root, &[]).await.unwrap();
        let beside = grow(broker.app(), "beside@node-1", root, &[]).await.unwrap();
        if let Some(in_order) = stop {
            drop(client);
            match in_order {
                true => broker.shutdown().await.unwrap(),
                false => drop(broker),
            }
            broker = domain.start().await;
            client = Client::connect(broker.address()).await;
        }
        if second_hold {
            commanded(&domain, &order("quarantine", "workload", "held@node-1")).await;
        }
        commanded(&domain, &order("contain", "cluster", DOMAIN)).await;
        let found = || [root, held, beside].map(|place| status(&broker, place));
        assert_eq!(found(), [Status::Suspended; 3], "{what}");
        commanded(&domain, &order("lift", "cluster", DOMAIN)).await;
        if second_hold {
            commanded(&domain, &order("lift", "workload", "held@node-1")).await;
        }
        assert!(attest(&mut client, &mut node, true).await.unwrap().allowed, "{what}");
        let below = if comes_back { Status::Valid } else { Status::Suspended };
        assert_eq!(found(), [Status::Valid, below, below], "{what}");
        broker.shutdown().await.unwrap();
    }
}
