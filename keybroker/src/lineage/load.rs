//! The lineage at start, from its rows and from the records of nodes.

use std::collections::{BTreeMap, HashMap};

use touchstone_authorization::token::StatusIndex;
use touchstone_store::{Key, Store, StoreError};

use super::entry::Entry;
use super::graph::Graph;
use crate::node::NodeRecord;
use crate::rows;
use crate::trust::{number, place};

/// Rows read at a time.
const STEP: usize = 1_000;

/// What the store knows of the lineage.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The graph.
    pub graph: Graph,
    /// Entries whose row cannot be read, or hangs below one that cannot: nobody can say what they fall with, so they must
    /// not count.
    pub orphans: Vec<StatusIndex>,
    /// One more than the highest number in use.
    pub dealt: u64,
    /// Numbers below that which nobody uses.
    pub unused: Vec<u64>,
}

/// Reads every row. `nodes` are the records of nodes: what they hold is a root also where an earlier release has written no
/// row of it. `generation` is the domain's: a row that cannot be read is taken to be of it.
///
/// # Errors
/// [`StoreError`]
pub fn load(store: &dyn Store, nodes: &[(String, NodeRecord)], generation: u32) -> Result<Loaded, StoreError> {
    let mut entries: BTreeMap<u64, Entry> = BTreeMap::new();
    let mut orphans = Vec::new();
    let mut after: Option<Key> = None;
    loop {
        let read = store.range(&rows::LINEAGE.prefix(), after.as_ref(), STEP)?;
        let Some((last, _)) = read.last() else { break };
        after = Some(last.clone());
        for (key, row) in read {
            let found = key
                .as_bytes()
                .last_chunk::<8>()
                .map(|number| u64::from_be_bytes(*number));
            let entry = row.ok().and_then(|row| Entry::decode(&row.value).ok());
            match (found, entry) {
                (Some(found), Some(entry)) if number(&entry.status) == found => drop(entries.insert(found, entry)),
                (found, _) => {
                    tracing::error!(%key, "an entry of the lineage cannot be read; what it stands for does not count");
                    orphans.extend(found.and_then(|found| place(found, generation)));
                }
            }
        }
    }
    for (name, record) in nodes {
        entries
            .entry(number(&record.status))
            .or_insert_with(|| root(name.clone(), record));
    }
    let dealt = entries
        .keys()
        .copied()
        .chain(orphans.iter().map(number))
        .max()
        .map_or(0, |last| last + 1);
    let taken: std::collections::HashSet<u64> = orphans.iter().map(number).collect();
    let unused = (0..dealt)
        .filter(|n| !entries.contains_key(n) && !taken.contains(n))
        .collect();
    let (mut graph, lost) = build(entries);
    orphans.extend(lost);
    for (_, record) in nodes {
        graph.is_latest(&record.status);
    }
    Ok(Loaded {
        graph,
        orphans,
        dealt,
        unused,
    })
}

/// The root that a node's record stands for.
#[must_use]
pub fn root(name: String, record: &NodeRecord) -> Entry {
    Entry {
        status: record.status,
        parent: None,
        subject: name,
        cti: record.granted.cti,
        depth: 0,
        expires: record.granted.expires,
        scopes: String::new(),
        depends_on: Vec::new(),
    }
}

/// The graph of these entries, each after what it rests on; and those that rest on something which is not there.
fn build(entries: BTreeMap<u64, Entry>) -> (Graph, Vec<StatusIndex>) {
    let mut graph = Graph::default();
    // Who waits for the entry of this number, and for how many an entry still waits.
    let mut waited_for: HashMap<u64, Vec<u64>> = HashMap::new();
    let mut missing: HashMap<u64, usize> = HashMap::new();
    let mut ready = Vec::new();
    for (n, entry) in &entries {
        let mut rests_on: Vec<u64> = entry.depends_on.iter().map(|d| number(&d.on)).collect();
        rests_on.extend(entry.parent.as_ref().map(number));
        rests_on.sort_unstable();
        rests_on.dedup();
        for on in &rests_on {
            waited_for.entry(*on).or_default().push(*n);
        }
        missing.insert(*n, rests_on.len());
        if rests_on.is_empty() {
            ready.push(*n);
        }
    }
    while let Some(n) = ready.pop() {
        let Some(entry) = entries.get(&n) else { continue };
        if let Err(error) = graph.insert(entry) {
            tracing::error!(subject = entry.subject, %error, "an entry of the lineage does not fit; it does not count");
            continue;
        }
        for waiting in waited_for.remove(&n).unwrap_or_default() {
            let left = missing.entry(waiting).or_default();
            *left = left.saturating_sub(1);
            if *left == 0 {
                ready.push(waiting);
            }
        }
    }
    let mut latest: HashMap<&str, &Entry> = HashMap::new();
    for entry in entries.values() {
        let held = latest.entry(&entry.subject).or_insert(entry);
        if entry.expires > held.expires {
            *held = entry;
        }
    }
    for entry in latest.values() {
        graph.is_latest(&entry.status);
    }
    let lost = entries.values().filter(|entry| graph.get(&entry.status).is_none());
    let lost = lost.map(|entry| entry.status).collect();
    (graph, lost)
}
