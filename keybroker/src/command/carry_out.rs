//! Commands carried out: each goes out at once, and is one statement.

use std::sync::Arc;

use touchstone_ledger::statement::{Kind, Outcome, Reason, Statement};
use touchstone_store::{Guard, Key, Revision, RowFault, Versioned, Write};

use super::plan::Withheld;
use super::{Action, By, Command, Plan, Target, body, plan};
use crate::app::App;
use crate::bars::Bar;
use crate::decision::DenialCode;
use crate::decommission;
use crate::entry::{Effect, Entry, EntryError};
use crate::hello::internal;
use crate::holds;
use crate::problem::{Refusal, RefusalCode};
use crate::rejudge;
use crate::rows;
use crate::trust::Mark;
use crate::withdraw::{Cause, Taking, take};

/// Label, among the inputs of a statement, of the signed command it follows from.
pub const COMMAND: &str = "command";

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// Its statement's entry.
    pub recorded: u64,
    /// The epoch it went out under, where something was taken.
    pub epoch: Option<u64>,
    /// How many entries it took, or lets come back.
    pub entries: usize,
    /// How many entries of the ledger could not be read: who was given a key there has lost nothing by this.
    pub unread: u64,
}

/// Carries a command out.
///
/// # Errors
/// A [`Refusal`]. [`RefusalCode::SetChanged`] where it would take another set than the one that was shown.
pub async fn carry_out(app: &Arc<App>, command: &Command, by: &By) -> Result<Done, Refusal> {
    // Who reads rows and writes them anew does so alone, or one of two would be lost. The rest waits for nobody.
    let _alone = match (command.action, command.target) {
        (Action::Revoke | Action::Lift, Target::Reference | Target::Signer | Target::Key | Target::Lineage) => {
            Some(app.commanding.lock().await)
        }
        _ => None,
    };
    carry_out_alone(app, command, by).await
}

/// The same, for who commands alone already ([`App::commanding`]).
pub(super) async fn carry_out_alone(app: &Arc<App>, command: &Command, by: &By) -> Result<Done, Refusal> {
    command.checked()?;
    let plan = plan(app, command).await?;
    carry_out_planned(app, command, by, plan).await
}

/// The same, where it was looked up before what it would take. Who was granted something, or given a key, since that look is
/// taken too.
///
/// # Errors
/// As [`carry_out`].
pub async fn carry_out_planned(app: &Arc<App>, command: &Command, by: &By, plan: Plan) -> Result<Done, Refusal> {
    let expect = command.expected()?;
    let (mut guards, mut writes) = (Vec::new(), Vec::new());
    if let By::Operator { id, not_after, .. } = by {
        let row = rows::COMMAND.key(id).map_err(internal)?;
        guards.push(Guard::Absent(row.clone()));
        writes.push(Write::Put(row, not_after.to_be_bytes().to_vec()));
        writes.extend(forgotten(app)?);
    }
    if expect.is_some_and(|expected| expected != plan.digest) {
        let detail = format!(
            "it is another set than the one that was shown, of {} entries now",
            plan.set.len()
        );
        return Err(Refusal::new(RefusalCode::SetChanged, detail));
    }
    match command.action {
        Action::Lift => lift(app, command, by, plan, (guards, writes)).await,
        Action::Decommission | Action::Reinstate => {
            let why = match by {
                By::Local => command.reason.clone(),
                By::Operator { name, .. } => format!("{} (commanded by {name})", command.reason),
            };
            let recorded = match command.action {
                Action::Decommission => decommission::decommission(app, &command.id, &why, writes, expect).await?,
                _ => {
                    let shown = plan.given_back.first().copied().map(Revision::new);
                    decommission::reinstate(app, &command.id, &why, writes, shown).await?
                }
            };
            Ok(Done {
                recorded: recorded.index,
                epoch: None,
                entries: plan.set.len(),
                unread: 0,
            })
        }
        Action::Revoke if plan.set.is_empty() && plan.ids.0.is_empty() => {
            let (bar, key) = (plan.bar.clone(), plan.key.clone());
            let mut done = note(app, command, by, plan, (guards, writes)).await?;
            if let Some(bar) = bar {
                rest(app, command, by, &bar).await?;
            }
            if let Some(key) = key {
                given_since(app, command, by, &key, &mut done).await?;
            }
            Ok(done)
        }
        Action::Revoke => {
            let mut cause = rejudge::cause(&plan.falls).unwrap_or_else(|| cause(command, &plan, Kind::Revocation));
            if !plan.falls.is_empty() {
                cause.subject = None;
                cause.reasons.insert(0, reason(command));
            }
            let (bar, key, unread) = (plan.bar.clone(), plan.key.clone(), plan.unread);
            let taking = taking(command, by, (cause, plan), expect, (guards, writes), Mark::Revoked);
            let taken = take(app, taking).await?;
            if let Some(bar) = bar {
                rest(app, command, by, &bar).await?;
            }
            let mut done = Done {
                recorded: taken.recorded.index,
                epoch: Some(taken.epoch),
                entries: taken.set.len(),
                unread,
            };
            if let Some(key) = key {
                given_since(app, command, by, &key, &mut done).await?;
            }
            Ok(done)
        }
        Action::Quarantine | Action::Contain => {
            let kind = match command.action {
                Action::Quarantine => Kind::Quarantine,
                _ => Kind::Containment,
            };
            let over = plan.over.clone().ok_or_else(|| internal("a suspension of nobody"))?;
            let cause = cause(command, &plan, kind);
            let taking = taking(command, by, (cause, plan), expect, (guards, writes), Mark::Suspended);
            let taken = holds::hold(app, over, &command.reason, taking).await?;
            Ok(Done {
                recorded: taken.recorded.index,
                epoch: Some(taken.epoch),
                entries: taken.set.len(),
                unread: 0,
            })
        }
    }
}

/// Most rows of commands that are over and are forgotten with another one.
const FORGOTTEN_AT_ONCE: usize = 64;

/// How long after its end a command is remembered, in seconds: more than any clock of an operator may differ.
const REMEMBERED_S: u64 = 600;

/// Rows of commands that do not count any more, whoever shows them again.
fn forgotten(app: &App) -> Result<Vec<Write>, Refusal> {
    let now = app.clock.now_ms() / 1_000;
    let rows = app.store.range(&rows::COMMAND.prefix(), None, FORGOTTEN_AT_ONCE);
    let over = |(key, row): (Key, Result<Versioned, RowFault>)| {
        let bytes = <[u8; 8]>::try_from(row.ok()?.value.as_slice()).ok()?;
        let over = u64::from_be_bytes(bytes).saturating_add(REMEMBERED_S) < now;
        over.then_some(Write::Delete(key))
    };
    Ok(rows.map_err(internal)?.into_iter().filter_map(over).collect())
}

fn reason(command: &Command) -> Reason {
    let code = match command.action {
        Action::Quarantine => DenialCode::Quarantined,
        Action::Contain => DenialCode::Contained,
        _ => DenialCode::OperatorCommand,
    };
    Reason {
        code: code.as_str().into(),
        claim: format!("{} {}", command.target.as_str(), command.id),
        expected: "as granted".into(),
        found: command.reason.clone(),
    }
}

fn cause(command: &Command, plan: &Plan, kind: Kind) -> Cause {
    let mut cause = Cause::new(kind, plan.subject.as_deref(), reason(command));
    cause.reasons.extend(unread(command, plan.unread));
    cause
}

/// That the ledger could not be read whole for who was given the key, where it is so.
fn unread(command: &Command, entries: u64) -> Option<Reason> {
    (entries > 0).then(|| Reason {
        claim: "ledger".into(),
        expected: "every entry read, for who was given the key".into(),
        found: format!("{entries} that cannot be read"),
        ..reason(command)
    })
}

fn taking(
    command: &Command,
    by: &By,
    (mut cause, plan): (Cause, Plan),
    expect: Option<[u8; 32]>,
    (guards, mut writes): (Vec<Guard>, Vec<Write>),
    mark: Mark,
) -> Taking {
    cause.body.extend(body(command, by));
    if let By::Operator { command, .. } = by {
        cause.inputs.insert(COMMAND.to_owned(), *command);
    }
    writes.extend(plan.writes);
    Taking {
        nodes: plan.nodes,
        roots: plan.roots,
        named: plan.named,
        ids: plan.ids,
        guards,
        writes,
        expect,
        ..Taking::new(cause, mark)
    }
}

/// Takes who was granted something on what is barred now, between the look and the bar. From here on nobody is: a grant that
/// was decided before is sent back by the row of bars.
async fn rest(app: &Arc<App>, command: &Command, by: &By, bar: &Bar) -> Result<(), Refusal> {
    let falls = rejudge::falling(app, Some(bar)).await;
    let Some(mut cause) = rejudge::cause(&falls) else {
        return Ok(());
    };
    cause.reasons.insert(0, reason(command));
    let nodes = falls.into_iter().map(|falls| (falls.name, falls.entry)).collect();
    let plan = Plan {
        nodes,
        ..Plan::default()
    };
    let taking = taking(
        command,
        by,
        (cause, plan),
        None,
        (Vec::new(), Vec::new()),
        Mark::Revoked,
    );
    take(app, taking).await.map(|_| ())
}

/// Takes who was given the key between the look at the ledger and the commit that withholds it. Nobody is from there on: a
/// release that was decided before is sent back by the row of what is withheld.
async fn given_since(
    app: &Arc<App>,
    command: &Command,
    by: &By,
    key: &Withheld,
    done: &mut Done,
) -> Result<(), Refusal> {
    let mut plan = Plan::default();
    plan.holders(app, key, key.read..app.head().size).await?;
    done.unread += plan.unread;
    if plan.nodes.is_empty() && plan.roots.is_empty() {
        return Ok(());
    }
    let cause = cause(command, &plan, Kind::Revocation);
    let taking = taking(
        command,
        by,
        (cause, plan),
        None,
        (Vec::new(), Vec::new()),
        Mark::Revoked,
    );
    let taken = take(app, taking).await?;
    done.epoch = Some(taken.epoch);
    done.entries += taken.set.len();
    Ok(())
}

async fn lift(
    app: &Arc<App>,
    command: &Command,
    by: &By,
    plan: Plan,
    (guards, mut writes): (Vec<Guard>, Vec<Write>),
) -> Result<Done, Refusal> {
    let Some(over) = plan.over.clone() else {
        return note(app, command, by, plan, (guards, writes)).await;
    };
    writes.extend(plan.writes);
    let lifting = (&over, plan.given_back.as_slice());
    let recorded = holds::lift(app, lifting, &command.reason, body(command, by), (guards, writes)).await?;
    Ok(Done {
        recorded: recorded.index,
        epoch: None,
        entries: plan.set.len(),
        unread: 0,
    })
}

/// A command that takes nothing: a key nobody was given, a reference nobody rests on, a bar that is lifted.
async fn note(
    app: &Arc<App>,
    command: &Command,
    by: &By,
    plan: Plan,
    (mut guards, mut writes): (Vec<Guard>, Vec<Write>),
) -> Result<Done, Refusal> {
    let now_ms = app.clock.now_ms();
    let reasons = std::iter::once(reason(command)).chain(unread(command, plan.unread));
    let mut statement = Statement {
        subject: plan.subject,
        reasons: Reason::bounded(reasons.collect()),
        ..app.circumstances(now_ms).statement(
            Kind::Command,
            Outcome::Recorded,
            touchstone_cose::cbor::Value::map(body(command, by)),
        )
    };
    if let By::Operator { command, .. } = by {
        statement.inputs.insert(COMMAND.to_owned(), *command);
    }
    writes.extend(plan.writes);
    guards.extend(plan.guards);
    let entry = Entry {
        statement: statement.sign(&app.keys.statement).map_err(internal)?,
        subject: None,
        policy: None,
        guards,
        writes,
        parts: Vec::new(),
        effect: Effect::None,
    };
    let recorded = app.sequencer.record(entry).await.map_err(|error| match error {
        EntryError::Conflict { detail } => Refusal::new(RefusalCode::SetChanged, detail),
        error => Refusal::new(RefusalCode::BrokerStopping, error.to_string()),
    })?;
    Ok(Done {
        recorded: recorded.index,
        epoch: None,
        entries: 0,
        unread: plan.unread,
    })
}
