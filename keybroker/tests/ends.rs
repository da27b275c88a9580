//! Nothing that is granted outlives anything it rests on: each input nearest once, for a node and for what is below one.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common::tpm::SoftKey;
use crate::common::{key, now, reference};
use crate::workloads::{POLICY, codes, of_node, record_of, wanted, world_staged};

use touchstone_evidence::message::WorkloadRequest;
use touchstone_keybroker::decision::{Decision, decide};
use touchstone_keybroker::inputs::DecisionInputs;
use touchstone_keybroker::record::{DecisionRecord, RecordedDecision};
use touchstone_keybroker::workload::inputs::WorkloadInputs;
use touchstone_policies::{self as policies, Job, PolicySet, SignedRegion};

/// Further away than everything else, in seconds.
const FAR: i64 = 1_000_000;

/// The region of the nodes.
const REGION: &str = "north";

/// The policy with every end of its own far away from `now`.
fn far(policy: &PolicySet, now: i64) -> PolicySet {
    let mut policy = policy.clone();
    policy.expires = now + FAR;
    policy.settings.timers.authorization_life_ms = FAR as u64 * 1_000;
    policy.settings.delegation.workload_life_ms = FAR as u64 * 1_000;
    key_ends(&mut policy, now + FAR);
    policy
}

/// The signing keys of authorizations count up to, and not at, this second.
fn key_ends(policy: &mut PolicySet, end: i64) {
    for entry in policy
        .keyset
        .keys
        .iter_mut()
        .filter(|entry| entry.job == Job::Authorization)
    {
        entry.not_after = end - 1;
    }
}

/// What the region's own keys signed ends here.
fn region_ends(policy: &mut PolicySet, end: i64) {
    let signed = SignedRegion {
        version: 1,
        digest: [1; 32],
        expires: end,
        threshold: 1,
        keys: vec!["00".repeat(32)],
    };
    policy.regions.insert(REGION.to_owned(), signed);
}

#[tokio::test]
async fn a_nodes_authorization_ends_with_whatever_is_nearest() {
    type Nearer = fn(&mut DecisionInputs, &mut PolicySet, i64);
    let reference_ends = now() + 3_000;
    let w = world_staged(&[], POLICY, |domain| {
        let repo = domain.path("policy");
        std::fs::remove_file(repo.join("staged/references/golden.corim")).unwrap();
        policies::reference_add(&repo, &reference().encode(), Some("golden"), None, Some(reference_ends)).unwrap();
    })
    .await;
    let statement_key = key(&w.broker, Job::Statement);
    let record = DecisionRecord::latest(&*w.broker.app().store, "node-1", &statement_key).unwrap();
    let RecordedDecision::Evidence(inputs) = record.recorded().unwrap() else {
        panic!("not about evidence");
    };
    let rows: [(&str, Nearer, i64); 6] = [
        // Nothing else is nearer: the last second of the reference still counts.
        (
            "evidence and endorsements",
            |_, _, _| (),
            reference_ends + 1 - inputs.now,
        ),
        (
            "authorization life",
            |_, p, end| p.settings.timers.authorization_life_ms = end as u64 * 1_000,
            100,
        ),
        ("policy", |i, _, end| i.policy_expires = i.now + end, 101),
        ("policy of the region", |i, p, end| region_ends(p, i.now + end), 102),
        ("signing key", |i, p, end| key_ends(p, i.now + end), 103),
        (
            "two at once",
            |i, p, end| {
                key_ends(p, i.now + end + 1);
                region_ends(p, i.now + end);
            },
            104,
        ),
    ];
    for (what, nearer, end) in rows {
        let (mut inputs, mut policy) = ((*inputs).clone(), far(&w.broker.app().policy(), inputs.now));
        inputs.policy_expires = inputs.now + FAR;
        nearer(&mut inputs, &mut policy, end);
        let Decision::Decided(decided) = decide(&inputs, &policy).unwrap() else {
            panic!("{what}: refused");
        };
        assert_eq!(decided.reasons, [], "{what}");
        let expected = inputs.now + end;
        let granted = decided.grant.unwrap().authorization;
        assert_eq!(i64::try_from(granted.expires).unwrap(), expected, "{what}");
        let result = decided.ear.expires.unwrap();
        assert!(result <= expected, "{what}: the result ends with it, at {result}");
    }
    // What is over already grants nothing, and the reason names it.
    for (what, nearer) in [
        ("policy", (|i, _, end| i.policy_expires = i.now + end) as Nearer),
        ("authorization life", |_, p, end| {
            p.settings.timers.authorization_life_ms = end as u64 * 1_000;
        }),
    ] {
        let (mut inputs, mut policy) = ((*inputs).clone(), far(&w.broker.app().policy(), inputs.now));
        nearer(&mut inputs, &mut policy, 0);
        let Decision::Decided(decided) = decide(&inputs, &policy).unwrap() else {
            panic!("{what}: refused");
        };
        assert!(decided.grant.is_none(), "{what}");
        let named: Vec<(&str, &str)> = decided
            .reasons
            .iter()
            .map(|r| (r.code.as_str(), r.claim.as_str()))
            .collect();
        assert_eq!(named, [("validity-over", what)]);
    }
    w.broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_workloads_authorization_ends_with_whatever_is_nearest() {
    type Nearer = fn(&mut WorkloadInputs, &mut PolicySet, i64);
    let mut w = world_staged(&[], POLICY, |_| ()).await;
    // A key that the node vouches for: those in software have a life of their own.
    let request = WorkloadRequest {
        key_kind: "tpm".into(),
        ..wanted("agent", &SoftKey::new())
    };
    let answer = of_node(&mut w, request).await;
    assert_eq!(codes(&answer), [""; 0]);
    let RecordedDecision::Workload(inputs) = record_of(&w.broker, &answer).recorded().unwrap() else {
        panic!("not about a workload");
    };
    let now = inputs.setting.now();
    let above = w.held_until() - now;
    let rows: [(&str, Nearer, i64); 7] = [
        ("the authorization above", |_, _, _| (), above),
        (
            "the life that the settings allow",
            |_, p, end| p.settings.delegation.workload_life_ms = end as u64 * 1_000,
            30,
        ),
        (
            "the life that was asked for",
            |i, _, end| i.request.life = Some(end as u64),
            31,
        ),
        ("policy", |i, p, end| p.expires = seconds(i) + end, 32),
        ("policy of the region", |i, p, end| region_ends(p, seconds(i) + end), 33),
        ("signing key", |i, p, end| key_ends(p, seconds(i) + end), 34),
        (
            "two at once",
            |i, p, end| {
                key_ends(p, seconds(i) + end + 1);
                region_ends(p, seconds(i) + end);
            },
            35,
        ),
    ];
    for (what, nearer, end) in rows {
        let (mut inputs, mut policy) = ((*inputs).clone(), far(&w.broker.app().policy(), now));
        nearer(&mut inputs, &mut policy, end);
        let decided = inputs.again(&policy).unwrap();
        assert_eq!(decided.reasons, [], "{what}");
        let (granted, kept) = decided.issued.unwrap();
        assert_eq!(i64::try_from(granted.expires).unwrap(), now + end, "{what}");
        assert_eq!(kept.expires, granted.expires, "{what}");
    }
    w.broker.shutdown().await.unwrap();
}

fn seconds(inputs: &WorkloadInputs) -> i64 {
    inputs.setting.now()
}
