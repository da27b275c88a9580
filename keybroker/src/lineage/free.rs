//! Status entries that come back: what ended long ago, with everything below it, is taken out of the lineage by a
//! statement, and its place is dealt out anew.
//!
//! Only after the last `exp` that was ever granted under it, and the skew bound, and the freshness window
//! (`docs/protocol.md`, section 6): until then an enforcer somewhere may still take an authorization that names it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use touchstone_authorization::token::StatusIndex;

use crate::app::App;
use crate::clock::seconds;
use crate::entry::{Effect, Entry, EntryError};
use crate::hello::internal;
use crate::lineage::Graph;
use crate::problem::Refusal;
use crate::withdraw::set;
use crate::workload::stored;

/// Most entries that one statement frees: with the rows about each, a quarter of what one commit writes.
pub const MAX_FREED_AT_ONCE: usize = 256;

/// How often is looked for what is over.
pub const PERIOD: Duration = Duration::from_secs(30);

/// Slots of the lineage that are looked at under one lock, which a withdrawal may wait for.
pub const SLOTS_AT_ONCE: usize = 65_536;

/// Frees what is over, some slots every [`PERIOD`], until `stop` is true.
pub async fn keep(app: Arc<App>, mut stop: watch::Receiver<bool>) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut from = 0;
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            _ = ticks.tick() => {}
        }
        if let Err(refusal) = all(&app, from, app.clock.now_ms()).await {
            tracing::warn!(
                detail = refusal.detail,
                "status entries that are over could not be freed"
            );
        }
        from += SLOTS_AT_ONCE;
        if from >= app.lineage.read(Graph::slots) {
            from = 0;
        }
    }
}

/// Frees everything that is over at `now_ms` of [`SLOTS_AT_ONCE`] slots, by as many statements as it takes: whoever begins and
/// ends workloads as fast as may be uses up no places for the others. Gives how many were freed.
///
/// # Errors
/// The broker's failure: what is left is not freed.
pub async fn all(app: &App, from: usize, now_ms: u64) -> Result<usize, Refusal> {
    let mut all = 0;
    loop {
        let freed = once(app, from, now_ms).await?.len();
        all += freed;
        if freed < MAX_FREED_AT_ONCE {
            return Ok(all);
        }
    }
}

/// Frees what is over at `now_ms` of [`SLOTS_AT_ONCE`] slots, at most [`MAX_FREED_AT_ONCE`]; gives what was freed.
///
/// # Errors
/// The broker's failure: nothing is freed.
pub async fn once(app: &App, from: usize, now_ms: u64) -> Result<Vec<StatusIndex>, Refusal> {
    let now = u64::try_from(seconds(now_ms)).unwrap_or(0);
    let margin = margin(app);
    let slots = from..from.saturating_add(SLOTS_AT_ONCE);
    // What is suspended until it is lifted is nobody else's meanwhile.
    let mut over = app.lineage.read(|graph| {
        graph.over(now, margin, slots, MAX_FREED_AT_ONCE, |entry| {
            !app.trust.is_kept_back(entry)
        })
    });
    // A set is of one generation: those of the oldest go first.
    let oldest = over.iter().map(|entry| entry.generation).min();
    over.retain(|entry| Some(entry.generation) == oldest);
    let over = set::sorted(over);
    if over.is_empty() {
        return Ok(over);
    }
    // Whoever is dealt the place next is told nothing of who held it, and counted nothing of what was used under it.
    let mut writes = Vec::with_capacity(over.len() * 3);
    for entry in &over {
        writes.extend(stored::emptied(entry).map_err(internal)?);
    }
    let statement = app.circumstances(now_ms).status_freed(&set::encode(&over));
    let entry = Entry {
        statement: statement.sign(&app.keys.statement).map_err(internal)?,
        subject: None,
        policy: None,
        guards: Vec::new(),
        writes,
        parts: Vec::new(),
        effect: Effect::Free {
            entries: over.clone(),
            now,
            margin,
        },
    };
    match app.sequencer.record(entry).await {
        Ok(_) => Ok(over),
        // Something of it was renewed meanwhile.
        Err(EntryError::Conflict { .. } | EntryError::Busy { .. }) => Ok(Vec::new()),
        Err(error) => Err(internal(error)),
    }
}

/// For how many seconds after its end an authorization may still be taken by somebody.
fn margin(app: &App) -> u64 {
    let timers = &app.policy().settings.timers;
    (timers.skew_ms.saturating_add(timers.freshness_window_ms)).div_ceil(1_000) + 1
}
