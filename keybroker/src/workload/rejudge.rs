//! A policy that has come into force judges workloads too: whoever holds below a node what the new policy would not issue
//! loses it now, though its node keeps what it has.

use std::collections::HashMap;

use touchstone_authorization::Status;
use touchstone_authorization::token::StatusIndex;
use touchstone_ledger::statement::Reason;
use touchstone_policies::{LineageFacts, PolicySet};
use touchstone_verifier::inventory::Lookup;

use super::decide::{Held, denied};
use super::record::{Tree, WorkloadRecord};
use crate::app::App;
use crate::clock::seconds;
use crate::decision::DenialCode;
use crate::release::shown;
use crate::rows;

/// Every entry below a node that holds something now and could not get it under the policy in force, and why. What cannot
/// be read is not upheld.
#[must_use]
pub fn falling(app: &App) -> Vec<(StatusIndex, Reason)> {
    let now = seconds(app.clock.now_ms());
    let live = app.lineage.read(|graph| graph.live(u64::try_from(now).unwrap_or(0)));
    let (lists, policy) = (app.trust.lists(), app.policy());
    let mut falling = Vec::new();
    let mut beside = HashMap::new();
    for entry in live {
        let status = lists.get(entry.list).and_then(|list| list.status(entry.index));
        let below = app.lineage.get(&entry).is_some_and(|held| held.depth > 0);
        if below && matches!(status, Some(Status::Valid | Status::Suspended)) {
            let beside = beside_it(app, &entry, now, &mut beside);
            falling.extend(against(app, &policy, &entry, (now, beside)).map(|reason| (entry, reason)));
        }
    }
    falling
}

/// How many hang beside `entry` and have not run out; counted once for all of them.
fn beside_it(app: &App, entry: &StatusIndex, now: i64, counted: &mut HashMap<StatusIndex, u64>) -> u64 {
    app.lineage.read(|graph| {
        let Some(parent) = graph.get(entry).and_then(|held| held.parent) else {
            return 0;
        };
        let live = counted.entry(parent).or_insert_with(|| {
            let below = graph.below(&parent);
            let is_live = |entry: &&StatusIndex| {
                graph
                    .get(entry)
                    .is_some_and(|held| i64::try_from(held.expires).is_ok_and(|expires| expires > now))
            };
            u64::try_from(below.iter().filter(is_live).count()).unwrap_or(u64::MAX)
        });
        live.saturating_sub(1)
    })
}

fn against(app: &App, policy: &PolicySet, entry: &StatusIndex, (now, beside): (i64, u64)) -> Option<Reason> {
    let row = |key: touchstone_store::Key| app.store.get(&key).ok().flatten().map(|row| row.value);
    let record = rows::workload(entry).ok().and_then(row);
    let Some(record) = record.and_then(|row| WorkloadRecord::decode(&row).ok()) else {
        return Some(because("its record", "none that can be read"));
    };
    let Lookup::Node(node) = policy.inventory.by_name(&record.node) else {
        // Its node falls, and it with that.
        return None;
    };
    let bounds = policy.demands(&node.region).delegation;
    if record.depth > bounds.max_depth || bounds.life_ms(record.key_kind).is_none() {
        return Some(because(
            "delegation",
            "deeper, or for another kind of key, than is allowed",
        ));
    }
    if record.delegation.is_some_and(|right| right.offline && !bounds.offline) {
        return Some(because("delegation", "off-line"));
    }
    let Ok(Some((shown, _))) = shown::read(&*app.store, &record.node) else {
        return Some(because("what its node showed last", "nothing"));
    };
    let tree = match rows::tree(&record.root).ok().and_then(row) {
        None => Tree::default(),
        Some(row) => match Tree::decode(&row) {
            Ok(tree) => tree,
            Err(_) => return Some(because("what was used in its tree", "none that can be read")),
        },
    };
    let above = app.lineage.read(|graph| graph.above(entry));
    let parents = above.iter().filter_map(|entry| app.lineage.get(entry));
    let facts = LineageFacts {
        depth: record.depth.into(),
        parents: parents.map(|held| held.subject).collect(),
        uses: tree.uses(),
        used: tree.used,
        issued: tree.issued,
        children: beside,
        key_kind: record.key_kind.as_str().to_owned(),
        started_by: record.attributes.as_ref().map(|of| format!("uid:{}", of.uid)),
        executable: record.attributes.as_ref().map(|of| hex::encode(of.executable)),
    };
    let held = Held {
        subject: &record.subject,
        scopes: &record.scopes,
        purpose: record.purpose.as_deref(),
        facts: &facts,
    };
    let first = denied(policy, node, &shown, &held, now).into_iter().next()?;
    Some(because(&format!("{}: {}", first.code, first.claim), &first.found))
}

fn because(claim: &str, found: &str) -> Reason {
    Reason {
        code: DenialCode::PolicyNoLonger.as_str().into(),
        claim: claim.into(),
        expected: "what the policy in force accepts".into(),
        found: found.into(),
    }
}
