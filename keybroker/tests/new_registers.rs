//! A policy that demands more than the one before: what was not asked for does not speak against what was shown.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;

use common::client::Client;
use common::tpm::SoftNode;
use common::{Domain, attest, authorization, command, key, view};
use hyper::{Method, StatusCode};
use touchstone_authorization::Status;
use touchstone_keybroker::clock::{Clock, seconds};
use touchstone_keybroker::record::DecisionRecord;
use touchstone_keybroker::redecide::compare;
use touchstone_policies::preview::preview;
use touchstone_policies::{Job, LoadOptions, PolicySet};

const FEWER: &str = "[0, 2, 3, 4, 7, 8, 9, 14]";
const MORE: &str = "[0, 2, 3, 4, 7, 8, 9, 11, 14]";

/// Takes over a policy with `more` instead of `fewer` registers, after `change` was made to what is staged.
async fn take_over(domain: &Domain, change: impl FnOnce()) {
    let settings = domain.path("policy/staged/settings.toml");
    let text = std::fs::read_to_string(&settings).unwrap();
    assert!(text.contains(FEWER));
    std::fs::write(&settings, text.replace(FEWER, MORE)).unwrap();
    change();
    domain.publish();
    let (status, body) = command(domain, Method::POST, "/reload", "").await;
    assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
}

fn fewer() -> String {
    format!("{{ sha256 = {FEWER} }}")
}

#[tokio::test]
async fn a_register_that_is_newly_required_is_asked_for_and_withdraws_nobody() {
    let (mut good, mut bad) = (SoftNode::new("good"), SoftNode::new("good"));
    // Nobody asks for register 11 yet, so nobody sees that another kernel runs here.
    bad.extend(11);
    let domain = Domain::new(
        &[("node-1", &good), ("node-2", &bad)],
        &[("required_registers", &fewer())],
    );
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let mut places = Vec::new();
    for node in [&mut good, &mut bad] {
        let answer = attest(&mut client, node, false).await.unwrap();
        places.push(authorization(&broker, &answer).contents().status);
    }
    take_over(&domain, || ()).await;
    let shown = view(&broker, &client.get("/v1/trust-state").await);
    for place in &places {
        let status = shown.lists().get(place.list).unwrap().status(place.index);
        assert_eq!(status, Some(Status::Valid), "until it shows otherwise");
    }
    let challenge = client.hello(&good.hello(true)).await.unwrap();
    assert!(challenge.selection[0].1.contains(&11), "and it is asked at once");
    assert!(attest(&mut client, &mut good, true).await.unwrap().allowed);
    let denied = attest(&mut client, &mut bad, true).await.unwrap();
    assert!(!denied.allowed, "nothing is renewed without it");
    let shown = view(&broker, &client.get("/v1/trust-state").await);
    let status = shown.lists().get(places[1].list).unwrap().status(places[1].index);
    assert_eq!(status, Some(Status::Invalid));
    broker.shutdown().await.unwrap();
}

/// Who has not been asked for what the next policy requires is not told unchanged, before that policy is published.
#[tokio::test]
async fn a_comparison_says_what_the_recorded_evidence_lacks() {
    let mut node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[("required_registers", &fewer())]);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    assert!(attest(&mut client, &mut node, false).await.unwrap().allowed);
    let in_force = broker.app().policy();
    let (statement_key, now) = (key(&broker, Job::Statement), seconds(Clock::start().now_ms()));
    let record = DecisionRecord::latest(&*broker.app().store, "node-1", &statement_key).unwrap();
    let against = |new: &PolicySet| compare(std::slice::from_ref(&record), &in_force, new, now);
    let same = against(&in_force);
    assert!(same.is_certain() && same.unchanged[0].may_be_refused.is_empty());
    let settings = domain.path("policy/staged/settings.toml");
    let text = std::fs::read_to_string(&settings).unwrap();
    for (settings_text, expected) in [
        (text.replace(FEWER, MORE), "register 11 is required and was not quoted"),
        (
            text.replace(&format!("sha256 = {FEWER}"), &format!("sha256 = {FEWER}, sha384 = [0]")),
            "the sha384 bank is required and was not quoted",
        ),
    ] {
        assert_ne!(settings_text, text);
        std::fs::write(&settings, settings_text).unwrap();
        let staged = preview(&domain.path("policy"), LoadOptions::default(), now).unwrap();
        let next = against(&staged);
        assert_eq!(
            (next.losing.len(), next.undecided.len(), next.unchanged.len()),
            (0, 0, 1),
            "{expected}"
        );
        assert_eq!(next.unchanged[0].may_be_refused, [expected]);
        assert!(!next.is_certain());
    }
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_was_shown_is_judged_all_the_same() {
    let mut node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[("required_registers", &fewer())]);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let answer = attest(&mut client, &mut node, false).await.unwrap();
    let place = authorization(&broker, &answer).contents().status;
    let region = domain.path("policy/staged/regions/north/policy.cedar");
    let forbid = "\nforbid (principal, action, resource) when { principal.name == \"node-1\" };\n";
    take_over(&domain, || {
        std::fs::create_dir_all(region.parent().unwrap()).unwrap();
        let text = touchstone_policies::cedar::default_region_policy("north") + forbid;
        std::fs::write(&region, text).unwrap();
    })
    .await;
    let shown = view(&broker, &client.get("/v1/trust-state").await);
    let status = shown.lists().get(place.list).unwrap().status(place.index);
    assert_eq!(
        status,
        Some(Status::Invalid),
        "a policy that forbids it takes its rights now"
    );
    broker.shutdown().await.unwrap();
}
