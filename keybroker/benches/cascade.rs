//! What it takes to let an ancestor fall: its descendants found, marked, hashed, signed and encoded for every enforcer, and
//! the set and the status pages made durable. In-process, with the embedded store on a disk.
//!
//! `cargo bench -p touchstone-keybroker --bench cascade`; fails where 100,000 descendants take longer than the bound.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a benchmark")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use touchstone_authorization::token::StatusIndex;
use touchstone_cose::key::SigningKey;
use touchstone_keybroker::lineage::{Dependency, Entry, Graph, Lineage, Link};
use touchstone_keybroker::rows;
use touchstone_keybroker::trust::{EPOCH_BLOCK, Facts, Mark, Start, Trust, new_lists, place};
use touchstone_keybroker::withdraw::set;
use touchstone_store::{Batch, RedbStore, Store as _};

/// Descendants.
const DESCENDANTS: u64 = 100_000;
/// The bound.
const BOUND: Duration = Duration::from_millis(200);
const ROUNDS: usize = 20;

fn at(number: u64) -> StatusIndex {
    place(number, 1).unwrap()
}

fn entry(number: u64, parent: Option<(u64, u8)>, depends_on: Vec<u64>) -> Entry {
    let mut cti = [0; 16];
    cti[..8].copy_from_slice(&number.to_be_bytes());
    let on = |on| Dependency {
        on: at(on),
        why: Link::DependsOn,
    };
    Entry {
        status: at(number),
        parent: parent.map(|(parent, _)| at(parent)),
        subject: parent.map_or_else(|| format!("node-{number}"), |_| format!("work-{number}@node-0")),
        cti,
        depth: parent.map_or(0, |(_, depth)| depth + 1),
        expires: 1_000,
        scopes: "execute:job".into(),
        depends_on: depends_on.into_iter().map(on).collect(),
    }
}

/// A tree of two levels: 400 below the node, 250 and a bit below each.
fn wide() -> Graph {
    let mut graph = Graph::default();
    graph.insert(&entry(0, None, vec![])).unwrap();
    for n in 1..=400 {
        graph.insert(&entry(n, Some((0, 0)), vec![])).unwrap();
    }
    for n in 401..=DESCENDANTS {
        graph.insert(&entry(n, Some((1 + n % 400, 1)), vec![])).unwrap();
    }
    graph
}

/// As many with two dependencies each beside their parent, every number far from that of what it rests on.
fn tangled() -> Graph {
    let mut graph = Graph::default();
    let scattered = |n: u64| n * 30_011 % 1_200_007;
    let mut depths = vec![0_u8];
    graph.insert(&entry(0, None, vec![])).unwrap();
    for n in 1..=DESCENDANTS {
        let parent = n / 9;
        let depth = depths[usize::try_from(parent).unwrap()];
        depths.push(depth + 1);
        let mut on = vec![scattered(n / 2), scattered(n / 5)];
        on.dedup();
        graph
            .insert(&entry(scattered(n), Some((scattered(parent), depth)), on))
            .unwrap();
    }
    graph
}

fn main() {
    let mut worst = Duration::ZERO;
    for (what, graph) in [("two levels", wide()), ("three edges each, scattered", tangled())] {
        let lineage = Lineage::new(graph);
        let folder = tempfile::tempdir().unwrap();
        let store = RedbStore::open(&folder.path().join("store")).unwrap();
        let all = lineage.fall(&[at(0)], <[StatusIndex]>::to_vec);
        let mut at_once = Vec::new();
        let mut durable = Vec::new();
        for _ in 0..ROUNDS {
            let trust = trust();
            // Lists are as long as what was granted needs before anything falls.
            trust.granted(&all, (0, [0; 32]), 1_500).unwrap();
            let began = Instant::now();
            let (set, withdrawal) = lineage.fall(&[at(0)], |set| (set.to_vec(), trust.take(set, Mark::Revoked, 2_000)));
            at_once.push(began.elapsed());
            let bytes = set::encode(&set);
            let mut batch = Batch::new();
            batch.put(rows::PART.key(&set::digest(&bytes)).unwrap(), bytes);
            for (list, page, bytes) in trust.pages(&set, &[], &[]) {
                batch.put(rows::status(list, page), bytes);
            }
            store.commit(batch).unwrap();
            trust.durable(withdrawal.unwrap());
            durable.push(began.elapsed());
            assert_eq!(set.len() as u64, DESCENDANTS + 1);
        }
        for (how, times) in [("out at every subscriber", &mut at_once), ("durable", &mut durable)] {
            times.sort_unstable();
            let (p50, max) = (times[ROUNDS / 2], times[ROUNDS - 1]);
            println!("{DESCENDANTS} descendants, {what}: {how} p50 {p50:?}, max {max:?}");
            worst = worst.max(max);
        }
    }
    assert!(worst < BOUND, "{worst:?}, the bound is {BOUND:?}");
}

fn trust() -> Trust {
    let start = Start {
        facts: Facts {
            domain: "demo".into(),
            generation: 1,
            term: 1,
            policy_version: 1,
            policy_digest: [1; 32],
            keyset_version: 1,
            window_ms: 10_000,
        },
        lists: new_lists().unwrap(),
        dealt: 0,
        unused: Vec::new(),
        epoch: 0,
        epoch_limit: EPOCH_BLOCK,
        ledger: (0, [0; 32]),
        kept_back: std::collections::HashSet::new(),
        revoked: touchstone_authorization::RevokedIds::default(),
    };
    Trust::start(start, Arc::new(SigningKey::from_seed([7; 32])), 1_000).unwrap()
}
