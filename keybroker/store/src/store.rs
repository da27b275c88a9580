//! The trait, and what reads return.

use std::fmt;

use crate::{Batch, Changes, CommitError, Key, RowFault, StoreError};

/// Most rows one [`Store::range`] returns.
pub const MAX_RANGE_ROWS: usize = 1_000;

/// Most bytes of values one [`Store::range`] returns, except that one row is always returned.
pub const MAX_RANGE_BYTES: usize = 8 * 1024 * 1024;

/// A point in the history of a store: 0 is the empty store, and every commit that changes something adds at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(u64);

impl Revision {
    /// The revision of a store to which nothing was ever written.
    pub const ZERO: Self = Self(0);

    /// The revision with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A value and the revision of the commit that last wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned {
    /// The bytes that were put.
    pub value: Vec<u8>,
    /// The commit that put them; what [`Guard::Unchanged`](crate::Guard::Unchanged) compares.
    pub revision: Revision,
}

/// One row of a range: a broken row is an error of its own, so that it takes nobody else down and nobody overlooks it.
pub type RangeRow = (Key, Result<Versioned, RowFault>);

/// A linearizable key-value store: every read sees every commit that returned before the read began.
///
/// Calls block on the disk or the network; the broker runs them on a thread of their own. There is no cheaper, stale
/// read: nothing may be granted from one (`protocol.md` 7).
pub trait Store: Send + Sync {
    /// The value of `key`, or `None` if it was never put or has been deleted.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] if this one row cannot be read; otherwise the engine's failure.
    fn get(&self, key: &Key) -> Result<Option<Versioned>, StoreError>;

    /// Rows whose keys start with `prefix`, in key order, strictly after `after`, all from one revision.
    ///
    /// Returns at most `limit` rows, and fewer at the limits [`MAX_RANGE_ROWS`] and [`MAX_RANGE_BYTES`]: only an empty
    /// answer (to a `limit` above 0) means that there are no more.
    ///
    /// # Errors
    /// The engine's failure. A malformed row is an error *in* the list.
    fn range(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Vec<RangeRow>, StoreError>;

    /// Does everything in `batch`, or nothing: when this returns `Ok`, all guards held at one instant and all writes
    /// are durable. Returns the revision at which the writes took place; a batch that changes nothing (guards only, or
    /// deletes of absent keys) returns the current revision and does not raise it.
    ///
    /// # Errors
    /// [`CommitError::Conflict`] names the first guard that failed, in the batch's order; after
    /// [`CommitError::Unknown`] the batch may or may not have taken place, and the caller must read to find out.
    fn commit(&self, batch: Batch) -> Result<Revision, CommitError>;

    /// The revision of the last commit that changed something.
    ///
    /// # Errors
    /// The engine's failure.
    fn revision(&self) -> Result<Revision, StoreError>;

    /// What changed after `since`, oldest first, in whole commits. It may stop early: go on from
    /// [`Changes::up_to`] until that no longer moves.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] if the log no longer reaches back to `since`: the caller has missed something, reads
    /// everything anew and treats what it held as uncertain. [`StoreError::RevisionAhead`] if `since` lies in the
    /// future, which means that the caller has seen another history than this store's.
    fn changes_since(&self, since: Revision) -> Result<Changes, StoreError>;
}
