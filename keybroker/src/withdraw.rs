//! Taking rights away without evidence: by an operator's command, because a node is overdue, because another machine has
//! taken its place.

use std::sync::PoisonError;

use touchstone_ledger::statement::{Reason, Statement};
use touchstone_store::Write;

use crate::app::App;
use crate::entry::{Effect, Entry, Recorded};
use crate::hello::{internal, unreadable};
use crate::nodes;
use crate::problem::{Refusal, RefusalCode};

/// Withdraws what the node `name` holds: out at once, then recorded. Resolves when it is durable.
///
/// # Errors
/// [`RefusalCode::NotFound`] if no such node has enrolled; otherwise the broker's failure. A withdrawal that went out
/// stays out whatever fails afterwards.
pub async fn withdraw(app: &App, name: &str, reason: Reason) -> Result<Recorded, Refusal> {
    withdraw_with(app, name, reason, Vec::new()).await
}

/// The same, with more rows written in the commit that records it.
pub async fn withdraw_with(app: &App, name: &str, reason: Reason, writes: Vec<Write>) -> Result<Recorded, Refusal> {
    let found = nodes::by_name(&*app.store, name).map_err(unreadable)?;
    let Some((record, _)) = found else {
        return Err(Refusal::new(RefusalCode::NotFound, "no node of this name has enrolled"));
    };
    let now_ms = app.clock.now_ms();
    let withdrawal = app.trust.withdraw(&[record.status], now_ms).map_err(internal)?;
    app.attested.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    tracing::info!(
        target: "touchstone::event",
        event = "withdrawn",
        node = name,
        reason = reason.code,
        epoch = withdrawal.epoch,
        at_ms = now_ms
    );
    let statement = Statement {
        region_policy: app.policy().region_digest(&record.region),
        ..app.circumstances(now_ms).revocation(name, reason, withdrawal.epoch)
    };
    let statement = statement.sign(&app.keys.statement).map_err(internal)?;
    let entry = Entry {
        statement,
        subject: None,
        policy: None,
        guards: Vec::new(),
        writes,
        parts: Vec::new(),
        effect: Effect::Withdraw {
            node: name.to_owned(),
            withdrawal,
        },
    };
    app.sequencer
        .record(entry)
        .await
        .map_err(|error| Refusal::new(RefusalCode::BrokerStopping, error.to_string()))
}
