//! How nodes stand, as the console shows it.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use touchstone_ledger::statement::{Outcome, VerifiedStatement};

use super::{Schedule, State};
use crate::app::App;
use crate::nodes;
use crate::record::DecisionRecord;

/// Most nodes that are shown one by one; those that are not trusted come first. All are counted.
pub const MAX_SHOWN: usize = 1_024;

/// Counts by state, and the nodes: those of the inventory, and whoever else was heard of.
#[must_use]
pub fn shown(app: &App) -> Value {
    let policy = app.policy();
    let holders: BTreeMap<String, u64> = {
        let attested = app.attested.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        attested
            .iter()
            .map(|(name, (at_ms, _))| (name.clone(), *at_ms))
            .collect()
    };
    let mut rows: Vec<(State, String, Value)> = {
        let book = app.standings.lock();
        let row = |(name, place): (&str, &super::Place)| {
            let schedule = Schedule::of(policy.demands_of(name).timers);
            let deadline_ms = place
                .known
                .good_ms
                .map(|good_ms| good_ms.saturating_add(schedule.deadline_ms));
            let row = json!({
                "node": name,
                "state": place.state.as_str(),
                "since_ms": place.since_ms,
                "good_ms": place.known.good_ms,
                "heard_ms": place.known.heard_ms,
                "deadline_ms": deadline_ms,
                "rights": rights(place.state, holders.contains_key(name)),
            });
            (place.state, name.to_owned(), row)
        };
        book.all().into_iter().map(row).collect()
    };
    let known: std::collections::HashSet<String> = rows.iter().map(|(_, name, _)| name.clone()).collect();
    let unheard = policy
        .inventory
        .nodes()
        .iter()
        .filter(|node| !known.contains(&node.name));
    let unheard: Vec<(State, String, Value)> = unheard
        .map(|node| {
            let state = before(app, &node.name);
            (
                state,
                node.name.clone(),
                json!({ "node": node.name, "state": state.as_str(), "rights": "none" }),
            )
        })
        .collect();
    rows.extend(unheard);
    let mut counts: BTreeMap<&str, usize> = State::ALL.iter().map(|state| (state.as_str(), 0)).collect();
    for (state, ..) in &rows {
        *counts.entry(state.as_str()).or_default() += 1;
    }
    // Trusted ones last, and those that have never been seen before them.
    rows.sort_by(|(a, a_name, _), (b, b_name, _)| (place(*a), a_name).cmp(&(place(*b), b_name)));
    // One that was stale or refused before it was decommissioned.
    for (state, name, row) in rows.iter_mut().take(MAX_SHOWN) {
        if !matches!(state, State::Trusted | State::NeverSeen) && nodes::is_gone(&*app.store, name).unwrap_or(false) {
            *row = json!({ "node": name, "state": State::Decommissioned.as_str(), "rights": "none" });
        }
    }
    let more = rows.len().saturating_sub(MAX_SHOWN);
    let nodes: Vec<Value> = rows.into_iter().take(MAX_SHOWN).map(|(.., row)| row).collect();
    json!({ "counts": counts, "nodes": nodes, "more": more })
}

const fn place(state: State) -> u8 {
    match state {
        State::Trusted => 2,
        State::NeverSeen => 1,
        _ => 0,
    }
}

const fn rights(state: State, holds: bool) -> &'static str {
    match (state, holds) {
        (State::Quarantined, true) => "suspended",
        (_, true) => "held",
        (_, false) => "none",
    }
}

/// How a node stands that was enrolled before its standing was recorded: what it holds has ended by itself, or was taken.
fn before(app: &App, name: &str) -> State {
    if nodes::is_gone(&*app.store, name).unwrap_or(false) {
        return State::Decommissioned;
    }
    match nodes::by_name(&*app.store, name) {
        Ok(None) => State::NeverSeen,
        Ok(Some((record, _))) if record.withdrawn => last_decision(app, name),
        _ => State::Unreachable,
    }
}

/// Whether what was withdrawn from a node was so because of its own evidence.
fn last_decision(app: &App, name: &str) -> State {
    let key = app.keys.statement.verifying_key();
    let latest = DecisionRecord::latest(&*app.store, name, &key).ok();
    let latest = latest.and_then(|record| VerifiedStatement::parse(&record.statement, &key).ok());
    match latest.map(|verified| verified.into_statement().outcome) {
        Some(Outcome::Deny) => State::Refused,
        _ => State::Withdrawn,
    }
}
