//! What is suspended until somebody lifts it: the quarantine of a node or a workload, the containment of a zone or of the
//! whole domain.
//!
//! A hold keeps what it took: the entries stay suspended whatever their nodes show. Meanwhile a node it is over goes on
//! attesting, and is denied for that reason alone; what fails its appraisal falls for good. Lifted, a node gets back by its
//! next good evidence exactly what the hold took below it, and nothing that fell otherwise since. Holds are a row each and
//! are read whole at start.

mod book;
mod change;
mod over;
mod reached;
mod room;
mod row;
#[cfg(test)]
mod tests;

use std::collections::HashSet;

use touchstone_authorization::token::StatusIndex;
use touchstone_cose::cbor::ShapeError;
use touchstone_store::{Key, Revision, Store};

pub use book::{Held, Holds};
pub use change::{coming_back, hold, hold_by, lift};
pub use over::Over;
pub use reached::{Due, Reached};
pub use room::{MAX_HOLDS, MAX_HOLDS_OF_A_DETECTOR, MAX_HOLDS_OF_DETECTORS};
pub use row::{Hold, HoldError, Maker};

use crate::app::App;
use crate::nodes::NodesError;
use crate::parts;
use crate::rows;
use crate::withdraw::set;
use row::CONTEXT;

/// For how many seconds a lifted hold is remembered: by then nothing it took counts any more that has not come back.
pub const LIFTED_KEPT_S: i64 = 24 * 3_600;

/// Most lifted holds that are remembered; of more the oldest are forgotten first. What one that is forgotten took comes back
/// by a grant of its own.
pub const MAX_LIFTED: usize = 1_024;

/// Most holds that one command lifts, the oldest first: its statement names each.
pub const MAX_LIFTED_AT_ONCE: usize = 1_024;

/// The key, in [`rows::META`], of the number of the change of holds that was made last: what a grant is decided on.
pub const HOLDS: &[u8] = b"holds";

/// Longest reason and longest name in a hold, in bytes.
pub const MAX_TEXT: usize = 512;

/// Every hold in the store, with its set. What is of another generation holds nothing back.
///
/// # Errors
/// [`HoldError`]: a broker that cannot tell what it holds back does not start.
pub fn load(store: &dyn Store, generation: u32) -> Result<Vec<(Hold, HashSet<StatusIndex>)>, HoldError> {
    let (mut holds, mut after) = (Vec::new(), None);
    loop {
        // Only an empty answer says that there are no more: whoever is passed over here would be let go.
        let read = store.range(&rows::HOLD.prefix(), after.as_ref(), READ_AT_ONCE)?;
        let Some((last, _)) = read.last() else { return Ok(holds) };
        after = Some(last.clone());
        for (key, row) in read {
            let hold = Hold::decode(&row?.value)?;
            if hold.key() != key {
                return Err(ShapeError::member(CONTEXT, "key 1", "the number of the row", "another").into());
            }
            let (number, digest) = (hold.number, hold.set);
            let bytes = parts::read(store, &digest)?.filter(|bytes| set::digest(bytes) == digest);
            let bytes = bytes.ok_or(HoldError::SetMissing { number, digest })?;
            let set = set::decode(&bytes).map_err(|error| HoldError::Set { number, error })?;
            let set = set.into_iter().filter(|entry| entry.generation == generation).collect();
            holds.push((hold, set));
        }
    }
}

/// Rows read at once.
const READ_AT_ONCE: usize = 256;

/// Every entry that a hold which is not lifted keeps back.
#[must_use]
pub fn kept_back<'a>(holds: impl IntoIterator<Item = &'a (Hold, HashSet<StatusIndex>)>) -> HashSet<StatusIndex> {
    let standing = holds.into_iter().filter(|(hold, _)| hold.lifted.is_none());
    standing.flat_map(|(_, set)| set).copied().collect()
}

/// The row that says how often holds were changed, with its revision: a grant is decided on it.
///
/// # Errors
/// [`NodesError`]
pub fn revision(store: &dyn Store) -> Result<(Key, Option<Revision>), NodesError> {
    let key = rows::META.key(HOLDS)?;
    let revision = store.get(&key)?.map(|row| row.revision);
    Ok((key, revision))
}

/// Whether a hold over exactly these stands, and is on record: one that is on its way may not outlive a crash.
#[must_use]
pub fn stands(app: &App, over: &Over) -> bool {
    let standing: Vec<Key> = app.holds.read(|all| {
        let standing = all
            .values()
            .filter(|(hold, _)| hold.lifted.is_none() && hold.over == *over);
        standing.map(|(hold, _)| hold.key()).collect()
    });
    standing.iter().any(|key| matches!(app.store.get(key), Ok(Some(_))))
}

/// The holds that a command to lift `over` lifts, with what they took; at most [`MAX_LIFTED_AT_ONCE`].
#[must_use]
pub fn standing(app: &App, over: &Over) -> Vec<(Hold, HashSet<StatusIndex>)> {
    app.holds.read(|all| {
        let standing = all
            .values()
            .filter(|(hold, _)| hold.lifted.is_none() && hold.over.is_lifted_by(over));
        standing.take(MAX_LIFTED_AT_ONCE).cloned().collect()
    })
}
