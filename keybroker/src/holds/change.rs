//! Holds made and lifted.

use std::collections::HashSet;
use std::sync::PoisonError;

use touchstone_authorization::Status;
use touchstone_authorization::token::StatusIndex;
use touchstone_cose::cbor::Value;
use touchstone_ledger::statement::{Kind, Outcome, Reason, Statement};
use touchstone_store::{Guard, Write};

use super::{HOLDS, Hold, LIFTED_KEPT_S, MAX_HOLDS, MAX_TEXT, Over, standing};
use crate::app::App;
use crate::clock::seconds;
use crate::command::Plan;
use crate::decision::DenialCode;
use crate::entry::{Effect, Entry, Recorded};
use crate::hello::internal;
use crate::lineage::Id;
use crate::problem::{Refusal, RefusalCode};
use crate::rows;
use crate::trust::Mark;
use crate::withdraw::{Taken, Taking, holds as entry_of, out, set};

/// How often is looked for who was granted something between the look and the mark.
const MAX_ROUNDS: usize = 4;

/// Suspends what `taking` names and what hangs below it, and holds it until it is lifted. Nobody `over` says gets anything
/// meanwhile. Resolves when that is durable.
///
/// # Errors
/// [`RefusalCode::HoldsFull`], and as [`crate::withdraw::take`].
pub async fn hold(app: &App, over: Over, why: &str, taking: Taking) -> Result<Taken, Refusal> {
    let _alone = app.holds.changing.lock().await;
    let cause = taking.cause.clone();
    let taken = once(app, over.clone(), why, taking).await?;
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
        once(app, over.clone(), why, rest).await?;
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
            plan.roots
                .extend(app.lineage.find(Id::Subject(subject)).map(|entry| entry.status));
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

async fn once(app: &App, over: Over, why: &str, taking: Taking) -> Result<Taken, Refusal> {
    let now = seconds(app.clock.now_ms());
    let over_long = app.holds.read(|all| {
        let over_long = |hold: &Hold| {
            hold.lifted
                .is_some_and(|lifted| now.saturating_sub(lifted) > LIFTED_KEPT_S)
        };
        let over_long = all.values().filter(|(hold, _)| over_long(hold));
        over_long.map(|(hold, _)| hold.clone()).collect::<Vec<Hold>>()
    });
    let (held, number) = app.holds.read(|all| {
        let last = all.last_key_value().map_or(0, |(number, _)| *number);
        (all.len(), last)
    });
    if held - over_long.len() >= MAX_HOLDS {
        let detail = format!("{held} quarantines and containments are kept, the limit is {MAX_HOLDS}");
        return Err(Refusal::new(RefusalCode::HoldsFull, detail));
    }
    let number = number.max(counted(app)?) + 1;
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
        exact: true,
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

/// Lifts what is held over this. What it took comes back with fresh good evidence of each node. Body of the statement: 0
/// [kind, name, region], 1 why, 2 rows of [number, SHA-256 of the set, since, Unix seconds]; from
/// [`crate::withdraw::BODY_CAUSE`] on who commanded it.
///
/// # Errors
/// [`RefusalCode::NotFound`] where nothing is held over it; otherwise the broker's failure.
pub async fn lift(
    app: &App,
    over: &Over,
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
