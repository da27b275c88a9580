//! What can go wrong, precisely enough to act on.

use std::path::PathBuf;

use crate::{Key, Revision, RowFault};

/// Why bytes are not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// A key has at least one byte.
    #[error("a key is empty")]
    Empty,
    /// Longer than [`MAX_KEY_LEN`](crate::MAX_KEY_LEN).
    #[error("a key has {found} bytes, the limit is {limit}")]
    TooLong {
        /// The limit, in bytes.
        limit: usize,
        /// The length, in bytes.
        found: usize,
    },
}

/// Why a batch is not even tried.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// More than [`MAX_BATCH_GUARDS`](crate::MAX_BATCH_GUARDS).
    #[error("a batch has {found} guards, the limit is {limit}")]
    TooManyGuards {
        /// The limit.
        limit: usize,
        /// How many there are.
        found: usize,
    },
    /// More than [`MAX_BATCH_WRITES`](crate::MAX_BATCH_WRITES).
    #[error("a batch has {found} writes, the limit is {limit}")]
    TooManyWrites {
        /// The limit.
        limit: usize,
        /// How many there are.
        found: usize,
    },
    /// Keys and values together are over [`MAX_BATCH_BYTES`](crate::MAX_BATCH_BYTES).
    #[error("a batch writes {found} bytes, the limit is {limit}")]
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
        /// The size, in bytes.
        found: usize,
    },
    /// A value is over [`MAX_VALUE_LEN`](crate::MAX_VALUE_LEN).
    #[error("the value of {key} has {found} bytes, the limit is {limit}")]
    ValueTooLong {
        /// The key it was to be put under.
        key: Key,
        /// The limit, in bytes.
        limit: usize,
        /// The length, in bytes.
        found: usize,
    },
    /// Two writes to one key.
    #[error("a batch writes {key} twice")]
    WrittenTwice {
        /// The key.
        key: Key,
    },
}

/// Why a read, or the reading part of a commit, failed. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// One row cannot be read; the others can.
    #[error("the row of {key} is malformed: {fault}")]
    Malformed {
        /// Whose row.
        key: Key,
        /// What is wrong with it.
        fault: RowFault,
    },
    /// The log of changes no longer reaches back that far.
    #[error("changes are known from revision {oldest} on, older ones are gone")]
    Compacted {
        /// The oldest revision from which changes can still be asked for.
        oldest: Revision,
    },
    /// The caller has seen a revision this store never had: another history, such as before a restore.
    #[error("changes since revision {asked} were asked for, but this store is at {current}")]
    RevisionAhead {
        /// What was asked for.
        asked: Revision,
        /// Where the store is.
        current: Revision,
    },
    /// The engine failed.
    #[error("the store failed to {operation}: {detail}")]
    Engine {
        /// What was tried, as "read a row".
        operation: &'static str,
        /// The engine's own words.
        detail: String,
    },
}

/// Why a commit did not return a revision.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// A guard did not hold. Nothing was changed.
    #[error("{key} was expected {}, found {}", at(*.expected), at(*.found))]
    Conflict {
        /// The first key whose guard failed, in the batch's order.
        key: Key,
        /// The revision the guard demanded; `None` demanded absence.
        expected: Option<Revision>,
        /// The revision that is there; `None` is absence.
        found: Option<Revision>,
    },
    /// The batch is not one that any engine takes. Nothing was changed.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The commit failed before it could change anything.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The commit failed while it was made durable: it has happened or it has not. Read to find out; grant nothing on
    /// it meanwhile.
    #[error("the outcome of a commit is unknown: {detail}")]
    Unknown {
        /// The engine's own words.
        detail: String,
    },
}

fn at(revision: Option<Revision>) -> String {
    revision.map_or_else(|| "absent".to_owned(), |revision| format!("at revision {revision}"))
}

/// Why a store file is not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file system refuses.
    #[error("cannot {operation} {}: {detail}", path.display())]
    Io {
        /// What was tried, as "open".
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's own words.
        detail: String,
    },
    /// A folder, a device, a pipe.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// What was given.
        path: PathBuf,
    },
    /// Others than the owner may read or write it.
    #[error("{} has mode {found:04o}, expected 0600: run chmod 600 on it after finding out who read it", path.display())]
    NotPrivate {
        /// The store file.
        path: PathBuf,
        /// Its permission bits.
        found: u32,
    },
    /// Another process holds it.
    #[error("{} is in use by another process", path.display())]
    InUse {
        /// The store file.
        path: PathBuf,
    },
    /// It was written by a newer release.
    #[error("{} has schema {found}, this release reads up to {expected}: use the newer release", path.display())]
    NewerSchema {
        /// The store file.
        path: PathBuf,
        /// The newest schema this release reads.
        expected: u64,
        /// The schema in the file.
        found: u64,
    },
    /// It is a database, but not one of ours, or its schema row is gone.
    #[error("{} is not a store of this program: {detail}", path.display())]
    NotAStore {
        /// What was given.
        path: PathBuf,
        /// What is missing.
        detail: String,
    },
    /// Its checksums do not hold: commits that were promised to be durable may be missing.
    #[error("{} is corrupted: {detail}: restore it from a backup", path.display())]
    Corrupted {
        /// The store file.
        path: PathBuf,
        /// The engine's own words.
        detail: String,
    },
}
