//! Taking a node out of service at once, by an operator's command: its rights end now, and it gets none until the command
//! is taken back, whatever the signed inventory still says of it.

use touchstone_ledger::statement::Reason;
use touchstone_policies::is_node_name;
use touchstone_store::{Guard, Key, Revision, Write};

use crate::app::App;
use crate::decision::DenialCode;
use crate::entry::{Effect, Entry, EntryError, Recorded};
use crate::hello::{internal, unreadable};
use crate::nodes;
use crate::problem::{Refusal, RefusalCode};
use crate::rows;
use crate::standing::Note;
use crate::withdraw::withdraw_with;

/// Longest reason of an operator, in bytes.
pub const MAX_WHY: usize = 640;

/// Decommissions the node `name`, enrolled or not: what it holds is withdrawn, and the name enrols no more. Resolves when
/// that is durable. Where a set of the digest `expect` was shown, no other one is taken.
///
/// # Errors
/// [`RefusalCode::ParameterMalformed`] for a name that is none; [`RefusalCode::SetChanged`]; otherwise the broker's failure.
pub async fn decommission(
    app: &App,
    name: &str,
    why: &str,
    more: Vec<Write>,
    expect: Option<[u8; 32]>,
) -> Result<Recorded, Refusal> {
    let recorded = take_out(app, name, why, more, expect).await?;
    stands(app, name, true);
    Ok(recorded)
}

/// Says at once that the node is out of service, or back in it.
fn stands(app: &App, name: &str, gone: bool) {
    app.standings
        .note(&app.policy(), name, Note::Gone(gone), app.clock.now_ms());
}

async fn take_out(
    app: &App,
    name: &str,
    why: &str,
    more: Vec<Write>,
    expect: Option<[u8; 32]>,
) -> Result<Recorded, Refusal> {
    checked(name, why)?;
    let key = rows::GONE.key(name.as_bytes()).map_err(internal)?;
    let mut writes = more;
    writes.push(Write::Put(key, why.as_bytes().to_vec()));
    let reason = Reason {
        code: DenialCode::Decommissioned.as_str().into(),
        claim: "node".into(),
        expected: "in service".into(),
        found: why.to_owned(),
    };
    match withdraw_with(app, name, reason.clone(), writes.clone(), expect).await {
        Err(refusal) if refusal.code == RefusalCode::NotFound => {}
        other => return other,
    }
    // It has never enrolled: there is nothing to take away. Should it enrol in this very moment, the guard makes that
    // fail or this, and the second try finds it.
    let now_ms = app.clock.now_ms();
    let node = rows::NODE.key(name.as_bytes()).map_err(internal)?;
    let statement = app
        .circumstances(now_ms)
        .revocation(name, reason.clone(), app.trust.epoch());
    let entry = Entry {
        statement: statement.sign(&app.keys.statement).map_err(internal)?,
        subject: None,
        policy: None,
        guards: vec![Guard::Absent(node)],
        writes: writes.clone(),
        parts: Vec::new(),
        effect: Effect::None,
    };
    match app.sequencer.record(entry).await {
        Ok(recorded) => Ok(recorded),
        Err(_) => withdraw_with(app, name, reason, writes, expect).await,
    }
}

/// Takes a decommissioning back: the node gets new rights by attesting, as far as policy lists it.
///
/// Where a decommissioning was `shown` ([`standing`]), no other one is taken back.
///
/// # Errors
/// [`RefusalCode::NotFound`] where the node is not decommissioned; [`RefusalCode::SetChanged`] where it was so again since;
/// otherwise the broker's failure.
pub async fn reinstate(
    app: &App,
    name: &str,
    why: &str,
    more: Vec<Write>,
    shown: Option<Revision>,
) -> Result<Recorded, Refusal> {
    let mut writes = more;
    checked(name, why)?;
    let (key, revision) = standing(app, name)?;
    let again = |detail: &str| Refusal::new(RefusalCode::SetChanged, detail);
    if shown.is_some_and(|shown| shown != revision) {
        return Err(again("the node was decommissioned once more since that was shown"));
    }
    writes.push(Write::Delete(key.clone()));
    let statement = app.circumstances(app.clock.now_ms()).reinstatement(name, why);
    let entry = Entry {
        statement: statement.sign(&app.keys.statement).map_err(internal)?,
        subject: None,
        policy: None,
        guards: vec![Guard::Unchanged(key, revision)],
        writes,
        parts: Vec::new(),
        effect: Effect::None,
    };
    let recorded = app.sequencer.record(entry).await.map_err(|error| match error {
        EntryError::Conflict { .. } => again("the node was decommissioned or reinstated meanwhile"),
        error => Refusal::new(RefusalCode::BrokerStopping, error.to_string()),
    })?;
    stands(app, name, false);
    Ok(recorded)
}

/// The decommissioning of a node that stands: its row, and since which revision.
///
/// # Errors
/// [`RefusalCode::ParameterMalformed`] for a name that is none; [`RefusalCode::NotFound`] where the node is not
/// decommissioned; otherwise the row cannot be read.
pub fn standing(app: &App, name: &str) -> Result<(Key, Revision), Refusal> {
    named(name)?;
    let gone = nodes::gone(&*app.store, name).map_err(unreadable)?;
    gone.ok_or_else(|| Refusal::new(RefusalCode::NotFound, "no node of this name is decommissioned"))
}

fn named(name: &str) -> Result<(), Refusal> {
    if is_node_name(name) {
        return Ok(());
    }
    let detail = "node: expected a name, or <region>/<name>";
    Err(Refusal::new(RefusalCode::ParameterMalformed, detail))
}

fn checked(name: &str, why: &str) -> Result<(), Refusal> {
    named(name)?;
    if why.is_empty() || why.len() > MAX_WHY || why.chars().any(char::is_control) {
        let detail = format!("reason: expected one line of 1 to {MAX_WHY} bytes");
        return Err(Refusal::new(RefusalCode::ParameterMalformed, detail));
    }
    Ok(())
}
