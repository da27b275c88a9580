//! What is stored of the lineage of who asks, read for one decision, with what must hold of it at the commit: whoever
//! changes a row of it meanwhile sends the decision back to be made again.

use touchstone_authorization::StatusLists;
use touchstone_authorization::token::StatusIndex;
use touchstone_store::{Guard, Key, KeyError, Revision, Store, Versioned, Write};

use super::ancestry::{Above, Ancestry, Kept};
use super::record::{Branch, MAX_DEPTH, Tree, WorkloadRecord, WorkloadRowError};
use crate::hello::internal;
use crate::presented::StatusSeen;
use crate::problem::Refusal;
use crate::rows;

/// Who asks, and for what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asks {
    /// The entry that was presented.
    pub(crate) entry: StatusIndex,
    /// Whether it is a node's own.
    pub(crate) is_node: bool,
    /// The entry that the node's record has now.
    pub(crate) root: Option<StatusIndex>,
    /// For something below it, or for itself.
    pub(crate) wanted: For,
}

/// For whom something is asked.
#[derive(Debug, Clone, Copy)]
pub(crate) enum For {
    /// For what hangs below who asks: this entry, where it is a renewal.
    Below(Option<StatusIndex>),
    /// For who asks.
    Itself,
}

/// What is stored, as it was found.
pub(crate) struct Stored {
    /// What decisions rest on.
    pub(crate) ancestry: Ancestry,
    /// What hangs below the one above whom something is asked for, without those that have run out.
    pub(crate) children: Branch,
    /// What must hold at the commit.
    pub(crate) guards: Vec<Guard>,
}

impl Stored {
    /// Reads it. `skew_ms` is the skew bound of the policy in force.
    ///
    /// # Errors
    /// The store, or a row about the tree that cannot be read: nothing is decided.
    pub(crate) fn read(
        store: &dyn Store,
        lists: &StatusLists,
        asks: &Asks,
        (now_ms, skew_ms): (u64, u64),
    ) -> Result<Self, Refusal> {
        let mut above: Vec<Above> = Vec::new();
        let mut guards = Vec::new();
        let mut next = (!asks.is_node).then_some(asks.entry);
        while let Some(entry) = next.filter(|_| above.len() < MAX_DEPTH) {
            let found = kept(store, lists, entry)?;
            guards.push(guard(rows::workload(&entry), found.kept.1)?);
            next = found
                .record()
                .filter(|record| record.depth > 1)
                .map(|record| record.parent);
            above.push(found);
        }
        let (parent, own) = match asks.wanted {
            For::Below(renewed) => (Some(asks.entry), renewed),
            // What stands directly above it is as its record says; above a node stands nobody.
            For::Itself => {
                let record = above.first().and_then(Above::record);
                (record.map(|record| record.parent), Some(asks.entry))
            }
        };
        let (children, revision) = match parent {
            None => (Branch::default(), 0),
            Some(parent) => {
                let (children, revision) = branch(store, lists, &parent, (now_ms, skew_ms))?;
                guards.push(guard(rows::branch(&parent), revision)?);
                (children, revision)
            }
        };
        let others = children.children.keys().filter(|entry| Some(**entry) != own).count();
        let tree = match asks.root {
            None => None,
            Some(root) => {
                let tree = row(store, rows::tree(&root), Tree::decode)?;
                guards.push(guard(rows::tree(&root), tree.as_ref().map_or(0, |(_, at)| *at))?);
                tree
            }
        };
        Ok(Self {
            ancestry: Ancestry {
                node_seen: asks.root.and_then(|root| StatusSeen::of(lists, &root)),
                above,
                children: (u64::try_from(others).unwrap_or(u64::MAX), revision),
                tree,
            },
            children,
            guards,
        })
    }
}

/// What hangs directly below `parent` and has not run out, and the revision of that row.
fn branch(
    store: &dyn Store,
    lists: &StatusLists,
    parent: &StatusIndex,
    (now_ms, skew_ms): (u64, u64),
) -> Result<(Branch, u64), Refusal> {
    let Some((mut branch, revision)) = row(store, rows::branch(parent), Branch::decode)? else {
        return Ok((Branch::default(), 0));
    };
    // A child that was renewed since ends later than is written here: its own row says when.
    let mut gone = Vec::new();
    for (entry, expires) in &mut branch.children {
        if is_over(*expires, now_ms, skew_ms) {
            let renewed = kept(store, lists, *entry)?;
            // Its place may be another's by now.
            let own = renewed.record().filter(|record| record.parent == *parent);
            *expires = own.map_or(*expires, |record| record.expires.max(*expires));
        }
        if is_over(*expires, now_ms, skew_ms) {
            gone.push(*entry);
        }
    }
    for entry in gone {
        branch.children.remove(&entry);
    }
    Ok((branch, revision))
}

/// Whether what ends at `expires`, Unix seconds, has ended for everybody, however far clocks are apart.
pub(crate) const fn is_over(expires: u64, now_ms: u64, skew_ms: u64) -> bool {
    now_ms > expires.saturating_mul(1_000).saturating_add(skew_ms)
}

/// What is kept of an entry.
///
/// # Errors
/// The store.
pub(crate) fn kept(store: &dyn Store, lists: &StatusLists, entry: StatusIndex) -> Result<Above, Refusal> {
    let found = store
        .get(&rows::workload(&entry).map_err(internal)?)
        .map_err(internal)?;
    let kept = match found {
        None => (Kept::Missing, 0),
        Some(Versioned { value, revision }) => match WorkloadRecord::decode(&value) {
            Ok(record) => (Kept::Record(Box::new(record)), revision.get()),
            Err(error) => {
                tracing::error!(%error, ?entry, "what is kept of an authorization cannot be read");
                (Kept::Unreadable, revision.get())
            }
        },
    };
    Ok(Above {
        entry,
        kept,
        seen: StatusSeen::of(lists, &entry),
    })
}

fn row<T>(
    store: &dyn Store,
    key: Result<Key, KeyError>,
    decode: impl Fn(&[u8]) -> Result<T, WorkloadRowError>,
) -> Result<Option<(T, u64)>, Refusal> {
    match store.get(&key.map_err(internal)?).map_err(internal)? {
        None => Ok(None),
        Some(Versioned { value, revision }) => Ok(Some((decode(&value).map_err(internal)?, revision.get()))),
    }
}

/// Nothing is known of this place: what is written when it is given back, and again when it is dealt out, so that no tree
/// begins with what was issued and used under another holder.
///
/// # Errors
/// Never: the keys are short.
pub(crate) fn emptied(entry: &StatusIndex) -> Result<[Write; 3], KeyError> {
    let keys = [rows::workload(entry)?, rows::branch(entry)?, rows::tree(entry)?];
    Ok(keys.map(Write::Delete))
}

/// What must hold of a row that was found at this revision; 0 is absence.
pub(crate) fn guard(key: Result<Key, KeyError>, revision: u64) -> Result<Guard, Refusal> {
    let key = key.map_err(internal)?;
    Ok(match revision {
        0 => Guard::Absent(key),
        revision => Guard::Unchanged(key, Revision::new(revision)),
    })
}

/// One that is only looked at twice is guarded once.
pub(crate) fn once(mut guards: Vec<Guard>) -> Vec<Guard> {
    guards.sort_by(|a, b| a.key().cmp(b.key()));
    guards.dedup_by(|a, b| a.key() == b.key());
    guards
}
