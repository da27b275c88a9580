//! Off-line delegations that are taken back one by one: 16-byte ids in the trust state, for as long as anything of such an
//! id may still count (`docs/protocol.md`, sections 6 and 7).
//!
//! A delegation that a holder added off-line has no status entry. It falls with its authorization, and alone by its id,
//! which a command names. Whether there is such a delegation the broker cannot know; to take back what is not there takes
//! nothing.

use touchstone_authorization::revoked::{ID_BYTES, MAX_REVOKED_IDS};
use touchstone_authorization::{RevokedIds, block};
use touchstone_policies::Settings;
use touchstone_store::{Key, MAX_RANGE_ROWS, Store, Write};

use crate::app::App;
use crate::hello::{internal, unreadable};
use crate::nodes::NodesError;
use crate::problem::{Refusal, RefusalCode};
use crate::rows;

/// For how long an id is kept at least, in seconds: longer than any authorization lived under an earlier policy that a
/// broker may have been told before this one.
pub const KEPT_S: u64 = 3_600;

/// An id that is to be taken back, and ids that nothing of can count any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenBack {
    /// What is taken back.
    pub id: [u8; ID_BYTES],
    /// What is dropped with it.
    pub over: Vec<[u8; ID_BYTES]>,
    /// The rows of both.
    pub writes: Vec<Write>,
}

/// Until when an id that is taken back at `now_ms` is kept, Unix seconds. A delegation ends with its authorization, so none
/// counts longer than the longest of these, and the enforcers' window and clocks beside.
fn until(settings: &Settings, now_ms: u64) -> u64 {
    let (timers, delegation) = (&settings.timers, &settings.delegation);
    let longest_ms = timers
        .authorization_life_ms
        .max(delegation.workload_life_ms)
        .max(block::MAX_BLOCK_LIFE_S * 1_000)
        .max(KEPT_S * 1_000);
    let ends_ms = now_ms
        .saturating_add(longest_ms)
        .saturating_add(timers.skew_ms)
        .saturating_add(timers.freshness_window_ms);
    ends_ms.div_ceil(1_000)
}

/// What it takes to take `id` back now.
///
/// # Errors
/// [`RefusalCode::TakenBackFull`] where as many are kept as may be; otherwise the rows cannot be read.
pub fn taking(app: &App, id: [u8; ID_BYTES]) -> Result<TakenBack, Refusal> {
    let now_ms = app.clock.now_ms();
    let kept = rows_of(&*app.store).map_err(unreadable)?;
    let over: Vec<[u8; ID_BYTES]> = kept
        .iter()
        .filter(|(known, until)| *until <= now_ms / 1_000 && *known != id)
        .map(|(known, _)| *known)
        .collect();
    let stay = app
        .trust
        .revoked()
        .ids()
        .iter()
        .filter(|known| !over.contains(known) && **known != id)
        .count();
    if stay >= MAX_REVOKED_IDS {
        let detail = format!("{MAX_REVOKED_IDS} off-line delegations are taken back");
        return Err(Refusal::new(RefusalCode::TakenBackFull, detail));
    }
    let until = until(&app.policy().settings, now_ms);
    let row = rows::TAKEN_BACK.key(&id).map_err(internal)?;
    let mut writes = vec![Write::Put(row, until.to_be_bytes().to_vec())];
    for gone in &over {
        writes.push(Write::Delete(rows::TAKEN_BACK.key(gone).map_err(internal)?));
    }
    Ok(TakenBack { id, over, writes })
}

/// The ids that the trust state begins with after a start.
///
/// # Errors
/// [`NodesError`]: with a row that cannot be read no state is shown, for it would give something back.
pub fn at_start(store: &dyn Store) -> Result<RevokedIds, NodesError> {
    let kept = rows_of(store)?;
    RevokedIds::new(kept.into_iter().map(|(id, _)| id)).map_err(|_| NodesError::Tie {
        key: rows::TAKEN_BACK.prefix(),
    })
}

/// Every row: an id and until when it is kept, Unix seconds.
fn rows_of(store: &dyn Store) -> Result<Vec<([u8; ID_BYTES], u64)>, NodesError> {
    let prefix = rows::TAKEN_BACK.prefix();
    let (mut kept, mut after): (Vec<_>, Option<Key>) = (Vec::new(), None);
    loop {
        let rows = store.range(&prefix, after.as_ref(), MAX_RANGE_ROWS)?;
        let Some((last, _)) = rows.last() else { return Ok(kept) };
        after = Some(last.clone());
        for (key, row) in rows {
            let tie = || NodesError::Tie { key: key.clone() };
            let id = key.as_bytes().strip_prefix(prefix.as_bytes());
            let id = id.and_then(|id| id.try_into().ok()).ok_or_else(tie)?;
            let until = row.map_err(|_| tie())?.value.as_slice().try_into().map_err(|_| tie())?;
            kept.push((id, u64::from_be_bytes(until)));
        }
    }
}
