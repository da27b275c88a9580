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
use touchstone_store::Write;

use crate::app::App;
use crate::clock::seconds;
use crate::entry::{Effect, Entry, EntryError};
use crate::hello::internal;
use crate::problem::Refusal;
use crate::withdraw::set;

/// Most entries that one statement frees.
pub const MAX_FREED_AT_ONCE: usize = 1_024;

/// How often is looked for what is over.
pub const PERIOD: Duration = Duration::from_secs(30);

/// Frees what is over, every [`PERIOD`], until `stop` is true.
pub async fn keep(app: Arc<App>, mut stop: watch::Receiver<bool>) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            _ = ticks.tick() => {}
        }
        // Whatever is left is for the next round: what is granted goes before.
        if let Err(refusal) = once(&app, app.clock.now_ms()).await {
            tracing::warn!(
                detail = refusal.detail,
                "status entries that are over could not be freed"
            );
        }
    }
}

/// Frees what is over at `now_ms`, at most [`MAX_FREED_AT_ONCE`]; gives what was freed.
///
/// # Errors
/// The broker's failure: nothing is freed.
pub async fn once(app: &App, now_ms: u64) -> Result<Vec<StatusIndex>, Refusal> {
    let now = u64::try_from(seconds(now_ms)).unwrap_or(0);
    let margin = margin(app);
    let over = app.lineage.read(|graph| graph.over(now, margin, MAX_FREED_AT_ONCE));
    // An entry of an earlier generation is not dealt out anew, and holds up nobody.
    let generation = app.trust.generation();
    let over = set::sorted(over.into_iter().filter(|entry| {
        // What is suspended until it is lifted is nobody else's meanwhile.
        entry.generation == generation && !app.trust.is_kept_back(entry)
    }));
    if over.is_empty() {
        return Ok(over);
    }
    let statement = app.circumstances(now_ms).status_freed(&set::encode(&over));
    let entry = Entry {
        statement: statement.sign(&app.keys.statement).map_err(internal)?,
        subject: None,
        policy: None,
        guards: Vec::new(),
        writes: Vec::<Write>::new(),
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
