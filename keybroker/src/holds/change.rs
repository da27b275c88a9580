//! Holds made and lifted.

use std::collections::HashSet;
use std::sync::PoisonError;

use touchstone_authorization::token::StatusIndex;
use touchstone_authorization::{Status, StatusLists};
use touchstone_cose::cbor::Value;
use touchstone_ledger::statement::{Kind, Outcome, Reason, Statement};
use touchstone_store::{Guard, Write};

use super::room::for_another;
use super::{HOLDS, Hold, LIFTED_KEPT_S, MAX_LIFTED, MAX_TEXT, Maker, Over, standing};
use crate::app::App;
use crate::clock::seconds;
use crate::command::Plan;
use crate::decision::DenialCode;
use crate::entry::{Effect, Entry, Recorded};
use crate::hello::internal;
use crate::problem::{Refusal, RefusalCode};
use crate::rows;
use crate::trust::Mark;
use crate::withdraw::{Taken, Taking, held_by, holds as entry_of, out, set};

/// How often is looked for who was granted something between the look and the mark.
const MAX_ROUNDS: usize = 4;

/// How many lifted holds are forgotten with another one at most.
const FORGOTTEN_AT_ONCE: usize = 64;

/// As [`hold_by`], by command.
///
/// # Errors
/// As [`hold_by`].
pub async fn hold(app: &App, over: Over, why: &str, taking: Taking) -> Result<Taken, Refusal> {
    hold_by(app, Maker::Command, over, why, taking).await
}

/// Suspends what `taking` names and what hangs below it, and holds it until it is lifted. Nobody `over` says gets anything
/// meanwhile. Resolves when that is durable.
///
/// # Errors
/// [`RefusalCode::HoldsFull`] where `by` has used up its room: nothing is taken then. Otherwise as
/// [`crate::withdraw::take`].
pub async fn hold_by(app: &App, by: Maker, over: Over, why: &str, taking: Taking) -> Result<Taken, Refusal> {
    let _alone = app.holds.changing.lock().await;
    app.holds
        .read(|all| for_another(all.values().map(|(hold, _)| hold), &by, &over))
        .map_err(|detail| Refusal::new(RefusalCode::HoldsFull, detail))?;
    let cause = taking.cause.clone();
    let taken = once(app, (&by, over.clone()), why, taking).await?;
    // Who was granted something between the look and the mark is not in the set. From here on nobody is: a grant that was
    // decided before is sent back by the row of holds.
    for _ in 0..MAX_ROUNDS {
        let (nodes, roots) = missed(app, &over);
        if nodes.is_empty() && roots.is_empty() {
            break;
        }
        let rest = Taking {
            nodes,
            roots,
            ..Taking::new(cause.clone(), Mark::Suspended)
        };
        once(app, (&by, over.clone()), why, rest).await?;
    }
    Ok(taken)
}

/// What a grant to the node at `root` brings back beside its own entry: what lifted holds took below it and no other keeps,
/// as far as everything it rests on counts then. What rests on another node that has not come back waits for that one.
#[must_use]
pub fn coming_back(app: &App, root: &StatusIndex) -> Vec<StatusIndex> {
    let below = || app.lineage.read(|graph| graph.closure(std::slice::from_ref(root)));
    let mut back: HashSet<StatusIndex> = app.holds.coming_back(below).into_iter().collect();
    let lists = app.trust.lists();
    let counts = |entry: &StatusIndex| {
        let status = lists.get(entry.list).and_then(|list| list.status(entry.index));
        status == Some(Status::Valid)
    };
    for _ in 0..MAX_PASSES {
        let stays: Vec<StatusIndex> = back
            .iter()
            .filter(|entry| {
                let Some(entry) = app.lineage.get(entry) else {
                    return true;
                };
                let mut rests_on = entry.parent.into_iter().chain(entry.depends_on.iter().map(|on| on.on));
                !rests_on.all(|on| on == *root || back.contains(&on) || counts(&on))
            })
            .copied()
            .collect();
        if stays.is_empty() {
            return set::sorted(back);
        }
        for entry in &stays {
            back.remove(entry);
        }
    }
    // Longer chains than anybody makes: each shows itself.
    Vec::new()
}

/// How often is looked for what rests on something that does not come back.
const MAX_PASSES: usize = 256;

/// Nodes with what they hold, and other entries.
type Roots = (Vec<(String, StatusIndex)>, Vec<StatusIndex>);

/// What counts of those a hold is over, and is not kept back by any.
fn missed(app: &App, over: &Over) -> Roots {
    let lists = app.trust.lists();
    let counts = |entry: &StatusIndex| {
        let status = lists.get(entry.list).and_then(|list| list.status(entry.index));
        status == Some(Status::Valid) && !app.trust.is_kept_back(entry)
    };
    let mut plan = Plan::default();
    match over {
        Over::Nodes(extent) => plan.extent(app, extent.clone()),
        Over::Subject(subject) if subject.contains('@') => {
            plan.roots.extend(held_by(app, subject));
        }
        // Who has no record holds nothing.
        Over::Subject(node) => plan
            .nodes
            .extend(entry_of(app, node).ok().map(|entry| (node.clone(), entry))),
    }
    plan.nodes.retain(|(_, entry)| counts(entry));
    plan.roots.retain(counts);
    (plan.nodes, plan.roots)
}

/// Lifted holds that are remembered no more: those of long ago, and the oldest of more than are kept.
fn forgotten(app: &App, now: i64) -> Vec<Hold> {
    app.holds.read(|all| {
        let lifted = |hold: &Hold| hold.lifted.map(|at| (at, hold.number));
        let mut lifted: Vec<((i64, u64), &Hold)> = all
            .values()
            .filter_map(|(hold, _)| Some((lifted(hold)?, hold)))
            .collect();
        lifted.sort_unstable_by_key(|(at, _)| *at);
        let too_many = lifted.len().saturating_sub(MAX_LIFTED);
        let over = lifted
            .into_iter()
            .enumerate()
            .filter(|(nth, ((at, _), _))| *nth < too_many || now.saturating_sub(*at) > LIFTED_KEPT_S);
        over.take(FORGOTTEN_AT_ONCE)
            .map(|(_, (_, hold))| hold.clone())
            .collect()
    })
}

/// Whether it is known of each of these what it was before they were taken: it counted, had fallen for good, or is
/// suspended by a hold that knows. What a stop in disorder suspended may have fallen, and nobody can say so.
///
/// A lift goes by it: what a hold took that knows comes back with its node's grant. Of one that does not, each entry comes
/// back by a grant of its own only, or a workload that was revoked right before the stop would live again.
fn is_known(app: &App, before: &StatusLists, set: &[StatusIndex]) -> bool {
    let suspended = |entry: &&StatusIndex| {
        let status = before.get(entry.list).and_then(|list| list.status(entry.index));
        status == Some(Status::Suspended)
    };
    app.holds.read(|all| {
        let knows = |entry: &StatusIndex| all.values().any(|(hold, set)| hold.exact && set.contains(entry));
        set.iter().filter(suspended).all(knows)
    })
}

async fn once(app: &App, (by, over): (&Maker, Over), why: &str, taking: Taking) -> Result<Taken, Refusal> {
    let now = seconds(app.clock.now_ms());
    let over_long = forgotten(app, now);
    let number = app
        .holds
        .read(|all| all.last_key_value().map_or(0, |(number, _)| *number));
    let number = number.max(counted(app)?) + 1;
    let before = app.trust.lists();
    let (mut entry, out) = out(
        app,
        Taking {
            mark: Mark::Suspended,
            ..taking
        },
    )?;
    let bytes = set::encode(&out.set);
    let hold = Hold {
        number,
        over,
        why: short(why),
        set: set::digest(&bytes),
        since: now,
        lifted: None,
        exact: is_known(app, &before, &out.set),
        by: by.clone(),
    };
    entry.writes.push(Write::Put(hold.key(), hold.encode()));
    entry.writes.push(count(number)?);
    entry
        .writes
        .extend(over_long.iter().map(|hold| Write::Delete(hold.key())));
    app.holds.put(hold, out.set.iter().copied().collect());
    let recorded = app.sequencer.record(entry).await;
    let recorded = recorded.map_err(|error| Refusal::new(RefusalCode::BrokerStopping, error.to_string()))?;
    let mut all = app.holds.all.write().unwrap_or_else(PoisonError::into_inner);
    for hold in over_long {
        all.remove(&hold.number);
    }
    Ok(Taken {
        recorded,
        epoch: out.epoch,
        set: out.set,
    })
}

/// Lifts what is held over this, where it is the holds that were `shown`, by number: of one that was made since nobody has
/// seen what it is for. What they took comes back with fresh good evidence of each node. Body of the statement: 0
/// [kind, name, region], 1 why, 2 rows of [number, SHA-256 of the set, since, Unix seconds]; from
/// [`crate::withdraw::BODY_CAUSE`] on who commanded it.
///
/// # Errors
/// [`RefusalCode::NotFound`] where nothing is held over it; [`RefusalCode::SetChanged`] where other holds stand over it than
/// were shown; otherwise the broker's failure.
pub async fn lift(
    app: &App,
    (over, shown): (&Over, &[u64]),
    why: &str,
    more: Vec<(i64, Value)>,
    (guards, mut writes): (Vec<Guard>, Vec<Write>),
) -> Result<Recorded, Refusal> {
    let _alone = app.holds.changing.lock().await;
    let now_ms = app.clock.now_ms();
    let lifting = standing(app, over);
    if lifting.is_empty() {
        return Err(Refusal::new(RefusalCode::NotFound, "nothing is suspended by this name"));
    }
    if !lifting.iter().map(|(hold, _)| &hold.number).eq(shown) {
        let detail = format!(
            "{} suspensions by this name stand now, and not those shown",
            lifting.len()
        );
        return Err(Refusal::new(RefusalCode::SetChanged, detail));
    }
    let rows = lifting.iter().map(|(hold, _)| {
        Value::array([
            Value::Unsigned(hold.number),
            Value::bytes(hold.set),
            Value::int(hold.since),
        ])
    });
    let members = [(0, over.value()), (1, Value::text(short(why))), (2, Value::array(rows))];
    let body = Value::map(members.into_iter().chain(more));
    let subject = Some(over.name()).filter(|_| matches!(over, Over::Subject(_)));
    let statement = Statement {
        subject: subject.map(str::to_owned),
        reasons: vec![Reason {
            code: DenialCode::OperatorCommand.as_str().into(),
            claim: over.kind().into(),
            expected: "suspended".into(),
            found: short(why),
        }],
        ..app.circumstances(now_ms).statement(Kind::Lift, Outcome::Recorded, body)
    };
    let lifted: Vec<(Hold, HashSet<StatusIndex>)> = lifting
        .into_iter()
        .map(|(hold, set)| {
            let lifted = Some(seconds(now_ms));
            (Hold { lifted, ..hold }, set)
        })
        .collect();
    writes.extend(lifted.iter().map(|(hold, _)| Write::Put(hold.key(), hold.encode())));
    writes.push(count(counted(app)? + 1)?);
    let entry = Entry {
        statement: statement.sign(&app.keys.statement).map_err(internal)?,
        subject: None,
        policy: None,
        guards,
        writes,
        parts: Vec::new(),
        effect: Effect::None,
    };
    let recorded = app.sequencer.record(entry).await;
    let recorded = recorded.map_err(|error| Refusal::new(RefusalCode::BrokerStopping, error.to_string()))?;
    for (hold, set) in lifted {
        app.holds.put(hold, set);
    }
    app.trust.release(app.holds.kept_back());
    tracing::info!(
        target: "touchstone::event",
        event = "lifted",
        over = over.kind(),
        node = over.name(),
        at_ms = app.clock.now_ms()
    );
    Ok(recorded)
}

fn short(text: &str) -> String {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.chars()
        .take(text.get(..end).unwrap_or_default().chars().count())
        .filter(|c| !c.is_control())
        .collect()
}

fn counted(app: &App) -> Result<u64, Refusal> {
    let key = rows::META.key(HOLDS).map_err(internal)?;
    let row = app.store.get(&key).map_err(internal)?;
    let bytes = row.and_then(|row| <[u8; 8]>::try_from(row.value.as_slice()).ok());
    Ok(bytes.map_or(0, u64::from_be_bytes))
}

fn count(number: u64) -> Result<Write, Refusal> {
    let key = rows::META.key(HOLDS).map_err(internal)?;
    Ok(Write::Put(key, number.to_be_bytes().to_vec()))
}
