//! From the store to a running trust state: what is shown after a start, clean or not.
//!
//! Epochs go on above every one that may have been used. After an unclean stop a withdrawal may have gone out that was
//! not recorded; nobody can say whose. So every entry that still counts is suspended until its node shows fresh evidence
//! (`docs/protocol.md`, section 7: an authorization whose subject's state cannot be shown is refused).

use std::collections::{BTreeMap, HashMap, HashSet};

use touchstone_authorization::lists::{MAX_ENTRIES, PAGE_BYTES, PAGE_ENTRIES};
use touchstone_authorization::token::StatusIndex;
use touchstone_authorization::{ListError, Status, StatusArray, StatusLists};
use touchstone_store::{Batch, CommitError, Key, KeyError, Store, StoreError};

use crate::holds::{self, Hold, HoldError};
use crate::lineage::graph::Graph;
use crate::lineage::load::{Loaded, load};
use crate::log::LogHead;
use crate::node::NodeRecord;
use crate::nodes::NodesError;
use crate::rows;
use crate::sequencer::EPOCH_LIMIT;
use crate::taken_back;
use crate::trust::{EPOCH_BLOCK, Facts, STATUS_LISTS, Start, place};
use crate::withdraw::set;

/// The key, in [`rows::META`], of the mark that the last process ended in order.
pub const CLEAN_STOP: &[u8] = b"clean-stop";

/// The key, in [`rows::META`], of the domain's generation.
pub const GENERATION: &[u8] = b"generation";

/// Rows read or deleted at a time.
const STEP: usize = 1_000;

/// Why the state in the store is not taken up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The commit that begins this run.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// A key cannot be made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The status lists.
    #[error("the stored status lists: {0}")]
    List(#[from] ListError),
    /// What is held back cannot be told: with it a quarantine might be lifted by nobody.
    #[error("what is suspended by command: {0}")]
    Hold(#[from] HoldError),
    /// Which off-line delegations were taken back cannot be told: without them they would count again.
    #[error("what was taken back: {0}")]
    TakenBack(#[from] NodesError),
    /// A row that this release does not understand.
    #[error("the row {key} is malformed")]
    Row {
        /// Its key.
        key: String,
    },
    /// The policy is of an earlier generation than the store: one of them was set back.
    #[error("the policy has generation {found}, the store has {expected}")]
    Generation {
        /// The generation in the store.
        expected: u64,
        /// The generation in the policy.
        found: u64,
    },
}

/// What a run begins with.
#[derive(Debug)]
pub struct Restored {
    /// The trust state.
    pub start: Start,
    /// Nodes whose authorization may still count: their status entries.
    pub live: HashMap<String, StatusIndex>,
    /// Which authorization hangs below which.
    pub lineage: Graph,
    /// What is suspended until it is lifted.
    pub holds: Vec<(Hold, HashSet<StatusIndex>)>,
    /// Whether the last process ended in order.
    pub clean: bool,
    /// If it did not: what counts for nothing until it shows itself, all that lives and was not revoked.
    pub suspended: Vec<StatusIndex>,
}

/// Takes up the state in the store, durably: reserves epochs, suspends what must be, forgets used nonces (the sessions
/// they belonged to are gone), and marks this run as not ended.
///
/// # Errors
/// [`RestoreError`]: the broker does not start.
pub fn restore(store: &dyn Store, facts: Facts, head: LogHead, now: u64) -> Result<Restored, RestoreError> {
    let generation = u64::from(facts.generation);
    let stored_generation = number_in(store, GENERATION)?;
    if let Some(expected) = stored_generation.filter(|stored| *stored > generation) {
        return Err(RestoreError::Generation {
            expected,
            found: generation,
        });
    }
    let clean = head.size == 0 || store.get(&rows::META.key(CLEAN_STOP)?)?.is_some();
    let nodes = nodes(store)?;
    let Loaded {
        graph: lineage,
        orphans,
        dealt,
        unused,
    } = load(store, &nodes, facts.generation)?;
    let mut lists = lists(store, dealt)?;
    let unused = unused
        .into_iter()
        .filter_map(|unused| place(unused, facts.generation))
        // Marked, and nobody knows whose it was: what had it may still live.
        .filter(|place| lists.get(place.list).and_then(|list| list.status(place.index)) == Some(Status::Valid))
        .collect();
    let live: HashMap<String, StatusIndex> = nodes
        .into_iter()
        .filter(|(_, record)| !record.withdrawn && record.granted.expires > now)
        .map(|(name, record)| (name, record.status))
        .collect();

    let holds = holds::load(store, facts.generation)?;
    let mut suspended = Vec::new();
    let mut batch = Batch::new();
    if !clean {
        // Something may have fallen that nobody can name: a lift brings back no more than what shows itself.
        for (hold, _) in holds.iter().filter(|(hold, _)| hold.exact) {
            let hold = Hold {
                exact: false,
                ..hold.clone()
            };
            batch.put(hold.key(), hold.encode());
        }
    }
    if !clean || !orphans.is_empty() {
        let below = lineage.live(now);
        // Whose lineage cannot be told falls with nothing any more, so it falls now.
        lists = mark(&lists, orphans.iter(), Status::Invalid)?;
        if !clean {
            lists = mark(&lists, live.values().chain(&below), Status::Suspended)?;
            // Also what a start suspended that ended before it could say so.
            suspended = set::sorted(live.values().chain(&below).copied());
            suspended.retain(|entry| {
                lists.get(entry.list).and_then(|list| list.status(entry.index)) == Some(Status::Suspended)
            });
        }
        for (number, list) in lists.iter() {
            for page in 0..list.page_count() {
                let bytes = list.page(page).unwrap_or_default();
                if bytes.iter().any(|byte| *byte != 0) {
                    batch.put(rows::status(number, page as u32), bytes);
                }
            }
        }
    }
    let epoch = number_in(store, EPOCH_LIMIT)?.unwrap_or(0);
    let epoch_limit = epoch.saturating_add(EPOCH_BLOCK);
    batch.put(rows::META.key(EPOCH_LIMIT)?, epoch_limit.to_be_bytes());
    batch.put(rows::META.key(GENERATION)?, generation.to_be_bytes());
    batch.delete(rows::META.key(CLEAN_STOP)?);
    store.commit(batch)?;
    forget_nonces(store)?;
    let ledger = (head.size, head.root);
    Ok(Restored {
        start: Start {
            facts,
            lists,
            dealt,
            unused,
            epoch,
            epoch_limit,
            ledger,
            kept_back: holds::kept_back(&holds),
            revoked: taken_back::at_start(store)?,
        },
        live,
        lineage,
        holds: holds
            .into_iter()
            .map(|(hold, set)| {
                let exact = hold.exact && clean;
                (Hold { exact, ..hold }, set)
            })
            .collect(),
        clean,
        suspended,
    })
}

/// Marks that this run ended in order: nothing went out that is not recorded. Only after the sequencer has ended.
///
/// # Errors
/// [`RestoreError`]; the next start then counts this run as ended in disorder, which is the safe side.
pub fn mark_clean(store: &dyn Store) -> Result<(), RestoreError> {
    let mut batch = Batch::new();
    batch.put(rows::META.key(CLEAN_STOP)?, *b"1");
    store.commit(batch)?;
    Ok(())
}

/// A number stored under a key of [`rows::META`].
fn number_in(store: &dyn Store, key: &[u8]) -> Result<Option<u64>, RestoreError> {
    let key = rows::META.key(key)?;
    match store.get(&key)? {
        None => Ok(None),
        Some(row) => match row.value.as_slice().try_into() {
            Ok(bytes) => Ok(Some(u64::from_be_bytes(bytes))),
            Err(_) => Err(RestoreError::Row { key: key.to_string() }),
        },
    }
}

/// Every node's record. One that cannot be read denies that node and no other: it is named in the log and passed over.
fn nodes(store: &dyn Store) -> Result<Vec<(String, NodeRecord)>, RestoreError> {
    let mut nodes = Vec::new();
    for_each(store, &rows::NODE.prefix(), |key, value| {
        match value.map(NodeRecord::decode) {
            Some(Ok(record)) => nodes.push((record.enrolled.name.clone(), record)),
            _ => tracing::error!(%key, "a node's record cannot be read; that node is denied"),
        }
        Ok(())
    })?;
    Ok(nodes)
}

/// The status lists, long enough for every entry dealt out.
fn lists(store: &dyn Store, dealt: u64) -> Result<StatusLists, RestoreError> {
    let mut pages: BTreeMap<(u16, u32), Vec<u8>> = BTreeMap::new();
    for_each(store, &rows::STATUS.prefix(), |key, value| {
        let malformed = || RestoreError::Row { key: key.to_string() };
        let place = rows::parse_status(key).ok_or_else(malformed)?;
        let page = value.filter(|page| page.len() == PAGE_BYTES).ok_or_else(malformed)?;
        pages.insert(place, page.to_vec());
        Ok(())
    })?;
    let per_list = u32::try_from(dealt / u64::from(STATUS_LISTS)).unwrap_or(MAX_ENTRIES);
    let last = pages
        .keys()
        .map(|(_, page)| *page)
        .max()
        .unwrap_or(0)
        .max(per_list / PAGE_ENTRIES);
    let count = (last + 1).min(MAX_ENTRIES / PAGE_ENTRIES);
    let mut lists = Vec::with_capacity(STATUS_LISTS.into());
    for number in 0..STATUS_LISTS {
        let mut bytes = Vec::with_capacity(count as usize * PAGE_BYTES);
        for page in 0..count {
            match pages.get(&(number, page)) {
                Some(page) => bytes.extend_from_slice(page),
                None => bytes.resize(bytes.len() + PAGE_BYTES, 0),
            }
        }
        lists.push((number, StatusArray::from_bytes(count * PAGE_ENTRIES, &bytes)?));
    }
    Ok(StatusLists::new(lists)?)
}

/// The lists with those of these entries that are valid, or suspended where they are to be revoked, set to `to`.
fn mark<'a>(
    lists: &StatusLists,
    entries: impl Iterator<Item = &'a StatusIndex>,
    to: Status,
) -> Result<StatusLists, ListError> {
    let mut changes: BTreeMap<u16, Vec<(u32, Status)>> = BTreeMap::new();
    for entry in entries {
        let list = lists.get(entry.list);
        let status = list.and_then(|list| list.status(entry.index));
        if matches!(
            (status, to),
            (Some(Status::Valid), _) | (Some(Status::Suspended), Status::Invalid)
        ) {
            changes.entry(entry.list).or_default().push((entry.index, to));
        }
    }
    let changed: Result<Vec<_>, ListError> = lists
        .iter()
        .map(|(number, list)| Ok((number, list.with(changes.remove(&number).unwrap_or_default())?)))
        .collect();
    StatusLists::new(changed?)
}

fn forget_nonces(store: &dyn Store) -> Result<(), RestoreError> {
    let prefix = rows::NONCE.prefix();
    loop {
        let rows = store.range(&prefix, None, STEP)?;
        if rows.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new();
        for (key, _) in rows {
            batch.delete(key);
        }
        store.commit(batch)?;
    }
}

fn for_each(
    store: &dyn Store,
    prefix: &Key,
    mut row: impl FnMut(&Key, Option<&[u8]>) -> Result<(), RestoreError>,
) -> Result<(), RestoreError> {
    let mut after = None;
    loop {
        let read = store.range(prefix, after.as_ref(), STEP)?;
        let Some((last, _)) = read.last() else { return Ok(()) };
        after = Some(last.clone());
        for (key, value) in &read {
            row(key, value.as_ref().ok().map(|value| value.value.as_slice()))?;
        }
    }
}

#[cfg(test)]
mod tests {
    use touchstone_store::RedbStore;

    use super::*;
    use crate::node::tests::record;
    use crate::trust::tests::facts;

    const NOW: u64 = 1_000;
    const USED: LogHead = LogHead { size: 5, root: [1; 32] };

    fn store() -> (tempfile::TempDir, RedbStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = RedbStore::open(&folder.path().join("store")).unwrap();
        (folder, store)
    }

    fn put_node(store: &RedbStore, name: &str, at: u64, expires: u64, withdrawn: bool) -> StatusIndex {
        let mut node = record(name);
        node.status = place(at, 1).unwrap();
        node.granted.expires = expires;
        node.withdrawn = withdrawn;
        let mut batch = Batch::new();
        batch.put(rows::NODE.key(name.as_bytes()).unwrap(), node.encode());
        store.commit(batch).unwrap();
        node.status
    }

    fn status(restored: &Restored, place: StatusIndex) -> Status {
        restored
            .start
            .lists
            .get(place.list)
            .unwrap()
            .status(place.index)
            .unwrap()
    }

    #[test]
    fn epochs_are_never_used_twice() {
        let (_folder, store) = store();
        let first = restore(&store, facts(), LogHead { size: 0, root: [0; 32] }, NOW).unwrap();
        assert_eq!((first.start.epoch, first.start.epoch_limit), (0, EPOCH_BLOCK));
        let killed = restore(&store, facts(), USED, NOW).unwrap();
        assert_eq!(killed.start.epoch, EPOCH_BLOCK, "above every epoch it may have used");
        mark_clean(&store).unwrap();
        let clean = restore(&store, facts(), USED, NOW).unwrap();
        assert_eq!(clean.start.epoch, 2 * EPOCH_BLOCK);
        assert!(clean.clean && !killed.clean);
    }

    #[test]
    fn after_a_kill_what_still_counts_is_suspended_and_what_was_revoked_stays_so() {
        let (_folder, store) = store();
        let live = put_node(&store, "live", 0, NOW + 60, false);
        let over = put_node(&store, "over", 1, NOW, false);
        let revoked = put_node(&store, "revoked", 2, NOW + 60, true);
        let lists = crate::trust::new_lists().unwrap();
        let page = lists
            .get(revoked.list)
            .unwrap()
            .with([(revoked.index, Status::Invalid)])
            .unwrap();
        let mut batch = Batch::new();
        batch.put(rows::status(revoked.list, 0), page.page(0).unwrap());
        store.commit(batch).unwrap();

        mark_clean(&store).unwrap();
        let clean = restore(&store, facts(), USED, NOW).unwrap();
        let expected = [Status::Valid, Status::Valid, Status::Invalid];
        assert_eq!([live, over, revoked].map(|place| status(&clean, place)), expected);
        assert_eq!(clean.suspended, []);
        for _ in 0..2 {
            let killed = restore(&store, facts(), USED, NOW).unwrap();
            let expected = [Status::Suspended, Status::Valid, Status::Invalid];
            assert_eq!([live, over, revoked].map(|place| status(&killed, place)), expected);
            assert_eq!(
                killed.suspended,
                [live],
                "also where the start before this one could not say so"
            );
            assert_eq!(killed.live.keys().collect::<Vec<_>>(), ["live"]);
            assert_eq!(killed.start.dealt, 3);
        }
        mark_clean(&store).unwrap();
        let later = restore(&store, facts(), USED, NOW).unwrap();
        assert_eq!(
            status(&later, live),
            Status::Suspended,
            "a clean stop does not lift what a kill suspended"
        );
    }

    #[test]
    fn lists_are_long_enough_for_what_was_dealt() {
        let (_folder, store) = store();
        let far = put_node(&store, "far", u64::from(PAGE_ENTRIES) * 4 + 2, NOW + 60, false);
        let restored = restore(&store, facts(), USED, NOW).unwrap();
        assert_eq!(status(&restored, far), Status::Suspended);
    }

    #[test]
    fn used_nonces_are_forgotten_and_a_generation_never_goes_back() {
        let (_folder, store) = store();
        let mut batch = Batch::new();
        for n in 0..2_500u64 {
            batch.put(rows::NONCE.numbered(n), []);
        }
        store.commit(batch).unwrap();
        let mut later = facts();
        later.generation = 2;
        restore(&store, later, USED, NOW).unwrap();
        assert_eq!(store.range(&rows::NONCE.prefix(), None, 1).unwrap(), []);
        let back = restore(&store, facts(), USED, NOW).unwrap_err();
        assert_eq!(back, RestoreError::Generation { expected: 2, found: 1 });
    }
}
