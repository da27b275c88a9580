//! The ledger in the store: entries, hashes of complete subtrees, and the head that ties them.
//!
//! An entry, the hashes it completes and the head are written in one commit, so after any crash they agree; at start
//! the head is computed anew from every entry, and a store where it differs is not used.

use std::collections::VecDeque;
use std::sync::Arc;

use touchstone_cose::cbor::{self, Limits, Value};
use touchstone_ledger::tree::{Frontier, Hash, NodeId, NodeSource, TreeError, leaf_hash};
use touchstone_store::{Batch, KeyError, RowFault, Store, StoreError};

use crate::rows;

/// Hashes of each level kept in memory, so that receipts of fresh entries read nothing from the store.
pub const CACHED_HASHES: usize = 1_024;

/// Entries read at a time.
pub const READ_AHEAD: usize = 512;

/// Most bytes of a ledger entry (C2SP tlog-tiles: entries have a 16-bit length).
pub const MAX_ENTRY_BYTES: usize = 65_535;

/// Why the ledger in the store is not used, or does not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The arithmetic of the tree.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A key cannot be made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A row of the ledger cannot be read.
    #[error("ledger entry {index} is malformed: {fault}")]
    Entry {
        /// The entry.
        index: u64,
        /// What is wrong with its row.
        fault: RowFault,
    },
    /// The head is not what this release writes.
    #[error("the ledger's head is malformed")]
    Head,
    /// Entries and head disagree: the store was altered or damaged.
    #[error(
        "the ledger's head says {expected_size} entries with root {}, the entries give {found_size} with {}",
        hex::encode(expected_root),
        hex::encode(found_root)
    )]
    Torn {
        /// Size in the head.
        expected_size: u64,
        /// Root in the head.
        expected_root: Hash,
        /// Entries there are.
        found_size: u64,
        /// Their root.
        found_root: Hash,
    },
}

/// Size and root of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogHead {
    /// How many entries.
    pub size: u64,
    /// Their root.
    pub root: Hash,
}

impl LogHead {
    fn encode(self) -> Vec<u8> {
        cbor::encode(&Value::array([Value::Unsigned(self.size), Value::bytes(self.root)]))
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let value = cbor::decode(bytes, Limits::TOKEN).ok()?;
        let [size, root] = value.as_array()? else { return None };
        Some(Self {
            size: size.as_u64()?,
            root: root.as_bytes()?.try_into().ok()?,
        })
    }
}

/// The right edge of the ledger, held by the one writer.
#[derive(Debug)]
pub struct LogEdge {
    frontier: Frontier,
    cache: Cache,
}

impl LogEdge {
    /// Reads the ledger: every entry once, in order, and compares what they give with the stored head.
    ///
    /// # Errors
    /// [`LogError::Torn`] if they disagree; otherwise what could not be read.
    pub fn open(store: &dyn Store) -> Result<Self, LogError> {
        let mut edge = Self {
            frontier: Frontier::new(),
            cache: Cache::default(),
        };
        let prefix = rows::LEAF.prefix();
        let mut after = None;
        loop {
            let read = store.range(&prefix, after.as_ref(), READ_AHEAD)?;
            let Some((last, _)) = read.last() else { break };
            after = Some(last.clone());
            for (key, row) in read {
                let index = edge.frontier.size();
                let row = row.map_err(|fault| LogError::Entry { index, fault })?;
                if key != rows::LEAF.numbered(index) {
                    // A gap: what follows it is not what the head was made over.
                    return Err(edge.torn(head(store)?));
                }
                let cache = &mut edge.cache;
                edge.frontier
                    .append(leaf_hash(&row.value), |id, hash| cache.put(id, hash))?;
            }
        }
        let stored = head(store)?;
        if stored.map_or(edge.head().size == 0, |stored| stored == edge.head()) {
            Ok(edge)
        } else {
            Err(edge.torn(stored))
        }
    }

    /// Size and root.
    #[must_use]
    pub fn head(&self) -> LogHead {
        LogHead {
            size: self.frontier.size(),
            root: self.frontier.root(),
        }
    }

    /// Writes `entries`, the hashes they complete and the new head into `batch`. The edge is as before until what is
    /// returned is given to [`LogEdge::settle`], after the commit.
    ///
    /// # Errors
    /// [`LogError::Tree`]
    pub fn stage<'a>(
        &self,
        entries: impl IntoIterator<Item = &'a [u8]>,
        batch: &mut Batch,
    ) -> Result<Staged, LogError> {
        let mut staged = Staged {
            frontier: self.frontier.clone(),
            completed: Vec::new(),
        };
        for entry in entries {
            batch.put(rows::LEAF.numbered(staged.frontier.size()), entry);
            let completed = &mut staged.completed;
            staged
                .frontier
                .append(leaf_hash(entry), |id, hash| completed.push((id, hash)))?;
        }
        for (id, hash) in staged.completed.iter().filter(|(id, _)| id.level > 0) {
            batch.put(rows::hash(*id)?, *hash);
        }
        batch.put(rows::log_head()?, staged.head().encode());
        Ok(staged)
    }

    /// Takes over what is committed.
    pub fn settle(&mut self, staged: Staged) {
        self.frontier = staged.frontier;
        for (id, hash) in staged.completed {
            self.cache.put(id, hash);
        }
    }

    /// The hashes of the ledger: the newest from memory, the others from the store.
    #[must_use]
    pub fn source<'a>(&'a self, store: &'a dyn Store) -> impl NodeSource + 'a {
        Cached {
            cache: &self.cache,
            below: Stored(store),
        }
    }

    fn torn(&self, stored: Option<LogHead>) -> LogError {
        let expected = stored.unwrap_or(LogHead {
            size: 0,
            root: touchstone_ledger::tree::empty_root(),
        });
        let found = self.head();
        LogError::Torn {
            expected_size: expected.size,
            expected_root: expected.root,
            found_size: found.size,
            found_root: found.root,
        }
    }
}

/// Entries that are in a batch and not yet committed.
#[derive(Debug)]
#[must_use = "the edge is behind the store until this is settled"]
pub struct Staged {
    frontier: Frontier,
    completed: Vec<(NodeId, Hash)>,
}

impl Staged {
    /// Size and root once it is committed.
    #[must_use]
    pub fn head(&self) -> LogHead {
        LogHead {
            size: self.frontier.size(),
            root: self.frontier.root(),
        }
    }
}

/// The stored head; `None` before the first entry.
///
/// # Errors
/// [`LogError::Head`] if it is malformed.
pub fn head(store: &dyn Store) -> Result<Option<LogHead>, LogError> {
    match store.get(&rows::log_head()?)? {
        None => Ok(None),
        Some(row) => LogHead::decode(&row.value).map(Some).ok_or(LogError::Head),
    }
}

/// One entry.
///
/// # Errors
/// [`LogError::Store`]
pub fn entry(store: &dyn Store, index: u64) -> Result<Option<Vec<u8>>, LogError> {
    Ok(store.get(&rows::LEAF.numbered(index))?.map(|row| row.value))
}

/// Up to `count` entries from `start` on, at most [`READ_AHEAD`].
///
/// # Errors
/// [`LogError`]
pub fn entries(store: &dyn Store, start: u64, count: usize) -> Result<Vec<Vec<u8>>, LogError> {
    let after = start.checked_sub(1).map(|before| rows::LEAF.numbered(before));
    let read = store.range(&rows::LEAF.prefix(), after.as_ref(), count.clamp(1, READ_AHEAD))?;
    let mut found = Vec::with_capacity(read.len());
    for (index, (_, row)) in (start..).zip(read) {
        found.push(row.map_err(|fault| LogError::Entry { index, fault })?.value);
    }
    Ok(found)
}

/// The hashes of the ledger as stored.
pub struct Stored<'a>(pub &'a dyn Store);

impl NodeSource for Stored<'_> {
    fn node(&self, id: NodeId) -> Option<Hash> {
        if id.level == 0 {
            return entry(self.0, id.index).ok()?.map(|entry| leaf_hash(&entry));
        }
        self.0.get(&rows::hash(id).ok()?).ok()??.value.try_into().ok()
    }
}

/// The store behind a shared pointer, as the routes hold it.
pub type SharedStore = Arc<dyn Store>;

/// The newest hashes of each level.
#[derive(Debug, Clone, Default)]
struct Cache {
    levels: Vec<Level>,
}

#[derive(Debug, Clone, Default)]
struct Level {
    /// Index of the first hash held.
    first: u64,
    hashes: VecDeque<Hash>,
}

impl Cache {
    fn put(&mut self, id: NodeId, hash: Hash) {
        let number = usize::from(id.level);
        if self.levels.len() <= number {
            self.levels.resize_with(number + 1, Level::default);
        }
        let Some(level) = self.levels.get_mut(number) else {
            return;
        };
        if level.hashes.is_empty() {
            level.first = id.index;
        }
        level.hashes.push_back(hash);
        if level.hashes.len() > CACHED_HASHES {
            level.hashes.pop_front();
            level.first += 1;
        }
    }

    fn get(&self, id: NodeId) -> Option<Hash> {
        let level = self.levels.get(usize::from(id.level))?;
        let at = usize::try_from(id.index.checked_sub(level.first)?).ok()?;
        level.hashes.get(at).copied()
    }
}

struct Cached<'a> {
    cache: &'a Cache,
    below: Stored<'a>,
}

impl NodeSource for Cached<'_> {
    fn node(&self, id: NodeId) -> Option<Hash> {
        self.cache.get(id).or_else(|| self.below.node(id))
    }
}

#[cfg(test)]
mod tests;
