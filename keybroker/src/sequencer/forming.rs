//! A commit in the making: which entries are in it, and what they touch.

use std::collections::{BTreeSet, HashMap};

use touchstone_authorization::token::StatusIndex;
use touchstone_store::{Key, Write};

use super::handle::Waiting;
use super::{MAX_BATCH_ENTRIES, MAX_BATCH_ENTRY_BYTES, MAX_BATCH_ENTRY_WRITES};
use crate::entry::{Effect, Entry};
use crate::node::NodeRecord;

/// A commit in the making.
#[derive(Default)]
pub(super) struct Forming {
    pub(super) taken: Vec<Waiting>,
    /// Rows that are written.
    pub(super) touched: BTreeSet<Key>,
    /// Rows that are looked at.
    pub(super) guarded: BTreeSet<Key>,
    pub(super) bytes: usize,
    pub(super) writes: usize,
    /// Node records as withdrawals in this commit leave them.
    pub(super) nodes: HashMap<Key, NodeRecord>,
    /// What marked nodes hold, as their records say now.
    pub(super) revoked: Vec<StatusIndex>,
    /// What went out already.
    pub(super) out: Vec<StatusIndex>,
    pub(super) granted: Vec<StatusIndex>,
    /// Entries that are freed.
    pub(super) freed: Vec<StatusIndex>,
    /// Entries of the lineage whose rows are written.
    pub(super) grown: BTreeSet<StatusIndex>,
}

impl Forming {
    /// Whether an entry still fits. One alone always does.
    pub(super) fn has_room(&self, entry: &Entry) -> bool {
        let fits = self.bytes.saturating_add(size(entry)) <= MAX_BATCH_ENTRY_BYTES
            && self.writes + writes(entry) <= MAX_BATCH_ENTRY_WRITES;
        self.taken.is_empty() || (self.taken.len() < MAX_BATCH_ENTRIES && fits)
    }
}

/// The last statement about each subject of a commit whose first statement is `first`.
pub(super) fn latest(forming: &Forming, first: u64) -> HashMap<&str, u64> {
    (first..)
        .zip(&forming.taken)
        .filter_map(|(index, w)| Some((w.entry.subject.as_deref()?, index)))
        .collect()
}

/// Whether an entry takes rights away.
pub(super) fn takes_away(entry: &Entry) -> bool {
    entry.effect.takes_away()
}

/// Bytes an entry adds to a commit.
pub(super) fn size(entry: &Entry) -> usize {
    let writes = entry.writes.iter().map(|write| match write {
        Write::Put(_, value) => value.len(),
        Write::Delete(_) => 0,
    });
    let parts = entry.parts.iter().map(|(_, bytes)| bytes.len());
    entry.statement.bytes.len() + writes.sum::<usize>() + parts.sum::<usize>()
}

/// Guards and writes an entry adds to a commit.
pub(super) fn writes(entry: &Entry) -> usize {
    // Rows of the lineage come on top.
    let lineage = match &entry.effect {
        Effect::Grant { .. } => 1,
        Effect::Free { entries, .. } => entries.len(),
        _ => 0,
    };
    entry.writes.len() + entry.guards.len() + entry.parts.len() + lineage
}
