//! What falls with what, against a model that knows nothing but edges; and what the lineage takes in.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use touchstone_store::{Batch, RedbStore, Store as _};

use super::entry::tests::entry;
use super::graph::{KEPT_IDS, MAX_CHILDREN, MAX_DEPENDANTS, MAX_DEPENDENCIES, MAX_DEPTH};
use super::load::load;
use super::*;
use crate::node::tests::record;
use crate::rows;
use crate::trust::{MAX_STATUS_ENTRIES, number, place};

fn at(number: u64) -> StatusIndex {
    place(number, 1).unwrap()
}

fn numbers(entries: &[StatusIndex]) -> Vec<u64> {
    entries.iter().map(number).collect()
}

/// What one entry of a made-up graph rests on, as shares of those before it.
#[derive(Debug, Clone)]
struct Shape {
    parent: Option<prop::sample::Index>,
    depends_on: Vec<prop::sample::Index>,
}

fn shapes(most: usize) -> impl Strategy<Value = Vec<Shape>> {
    let shape = (
        proptest::option::weighted(0.8, any::<prop::sample::Index>()),
        prop::collection::vec(any::<prop::sample::Index>(), 0..3),
    );
    prop::collection::vec(
        shape.prop_map(|(parent, depends_on)| Shape { parent, depends_on }),
        1..most,
    )
}

/// Entries of this shape in the order in which they can be taken in, under numbers in no order at all, as when numbers
/// of freed entries are dealt again.
fn entries(shapes: &[Shape], salt: u64) -> Vec<Entry> {
    let mut made: Vec<Entry> = Vec::new();
    for (n, shape) in shapes.iter().enumerate() {
        let parent = shape
            .parent
            .filter(|_| n > 0)
            .map(|parent| made[parent.index(n)].clone());
        let parent = parent.filter(|parent| parent.depth < MAX_DEPTH);
        // 7919 is prime and more than there are entries: no number comes twice.
        let mut new = entry((n as u64 * 31 + salt) % 7_919, parent.as_ref());
        let on: BTreeSet<usize> = shape
            .depends_on
            .iter()
            .filter(|_| n > 0)
            .map(|on| on.index(n))
            .collect();
        new.depends_on = on
            .into_iter()
            .map(|on| Dependency {
                on: made[on].status,
                why: Link::DependsOn,
            })
            .collect();
        made.push(new);
    }
    made
}

fn graph(entries: &[Entry]) -> Graph {
    let mut graph = Graph::default();
    for entry in entries {
        graph.insert(entry).unwrap();
    }
    graph
}

/// The model: goes over every edge again and again until nothing is added.
fn reachable(entries: &[Entry], roots: &BTreeSet<u64>) -> BTreeSet<u64> {
    let mut fallen = roots.clone();
    loop {
        let before = fallen.len();
        for entry in entries {
            let mut rests_on = entry.parent.iter().chain(entry.depends_on.iter().map(|d| &d.on));
            if rests_on.any(|on| fallen.contains(&number(on))) {
                fallen.insert(number(&entry.status));
            }
        }
        if fallen.len() == before {
            return fallen;
        }
    }
}

proptest! {
    #[test]
    fn exactly_the_descendants_fall_no_more_and_no_fewer(
        shapes in shapes(60),
        salt in 0..7_919_u64,
        roots in prop::collection::vec(any::<prop::sample::Index>(), 1..4),
    ) {
        let entries = entries(&shapes, salt);
        let lineage = Lineage::new(graph(&entries));
        let roots: Vec<StatusIndex> = roots.iter().map(|root| root.get(&entries).status).collect();
        let expected = reachable(&entries, &roots.iter().map(number).collect());
        let set = lineage.fall(&roots, |set| set.to_vec());
        prop_assert_eq!(numbers(&set), expected.iter().copied().collect::<Vec<_>>(), "each once, by number");
        let below = lineage.descendants(&roots);
        let below_expected: Vec<u64> = expected.into_iter().filter(|n| !numbers(&roots).contains(n)).collect();
        prop_assert_eq!(numbers(&below), below_expected);
    }

    #[test]
    fn a_restart_changes_nothing_and_what_cannot_be_read_takes_exactly_what_rests_on_it(
        shapes in shapes(40),
        salt in 0..7_919_u64,
        broken in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
    ) {
        let entries = entries(&shapes, salt);
        let folder = tempfile::tempdir().unwrap();
        let store = RedbStore::open(&folder.path().join("store")).unwrap();
        let broken: BTreeSet<u64> = broken.iter().map(|of| number(&of.get(&entries).status)).collect();
        let mut batch = Batch::new();
        for entry in &entries {
            let n = number(&entry.status);
            let row = if broken.contains(&n) { b"?".to_vec() } else { entry.encode() };
            batch.put(rows::LINEAGE.numbered(n), row);
        }
        store.commit(batch).unwrap();
        let loaded = load(&store, &[], 1).unwrap();
        let lost = reachable(&entries, &broken);
        prop_assert_eq!(loaded.orphans.iter().map(number).collect::<BTreeSet<_>>(), lost.clone());
        let highest = entries.iter().map(|entry| number(&entry.status)).max().unwrap();
        prop_assert_eq!(loaded.dealt, highest + 1);
        let used: BTreeSet<u64> = entries.iter().map(|entry| number(&entry.status)).collect();
        prop_assert!(loaded.unused.iter().all(|n| !used.contains(n)));
        prop_assert_eq!(loaded.unused.len() + used.len(), usize::try_from(loaded.dealt).unwrap());
        for entry in entries.iter().filter(|entry| !lost.contains(&number(&entry.status))) {
            prop_assert_eq!(loaded.graph.get(&entry.status), Some(entry.clone()));
            let expected = reachable(&entries, &[number(&entry.status)].into());
            let found = numbers(&loaded.graph.closure(&[entry.status]));
            prop_assert_eq!(found, expected.into_iter().filter(|n| !lost.contains(n)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn nothing_is_freed_while_something_that_rests_on_it_may_live(
        shapes in shapes(50),
        salt in 0..7_919_u64,
        ends in prop::collection::vec(0..40_u64, 50),
        margin in 0..20_u64,
    ) {
        // A child ends no later than its parent; what depends on something may end later.
        let mut entries = entries(&shapes, salt);
        let mut by: BTreeMap<u64, u64> = BTreeMap::new();
        for (entry, end) in entries.iter_mut().zip(&ends) {
            let most = entry.parent.map_or(u64::MAX, |parent| by[&number(&parent)]);
            entry.expires = most.min(100 + end);
            by.insert(number(&entry.status), entry.expires);
        }
        let mut graph = graph(&entries);
        let now = 140;
        let over = graph.over(now, margin, 0..usize::MAX, usize::MAX, |_| true);
        let over_numbers: BTreeSet<u64> = over.iter().map(number).collect();
        for entry in &entries {
            let rests = reachable(&entries, &[number(&entry.status)].into());
            let all_over = rests.iter().all(|n| by[n] + margin < now);
            let goes = over_numbers.contains(&number(&entry.status));
            // A node's entry is named by its record until it has another one; each node here has one.
            prop_assert!(!goes || all_over, "freed too early");
            prop_assert!(!goes || entry.parent.is_some(), "the record of a node names it");
        }
        prop_assert!(graph.are_over(&over, now, margin));
        if let Some(alive) = entries.iter().find(|entry| !over_numbers.contains(&number(&entry.status))) {
            let rests: Vec<StatusIndex> = graph.closure(&[alive.status]);
            let living = rests.iter().any(|e| by[&number(e)] + margin >= now);
            prop_assert!(!living || !graph.are_over(&[&over[..], &[alive.status]].concat(), now, margin));
        }
        for entry in &over {
            graph.remove(entry);
        }
        let left: Vec<Entry> = entries.iter().filter(|e| !over_numbers.contains(&number(&e.status))).cloned().collect();
        prop_assert_eq!(graph.len(), left.len());
        for entry in &left {
            let expected = reachable(&left, &[number(&entry.status)].into());
            prop_assert_eq!(numbers(&graph.closure(&[entry.status])), expected.into_iter().collect::<Vec<_>>());
        }
        // Another round frees what only waited for something that depended on it; then nothing more.
        for _ in 0..entries.len() {
            let more = graph.over(now, margin, 0..usize::MAX, usize::MAX, |_| true);
            more.iter().for_each(|entry| graph.remove(entry));
        }
        for entry in &left {
            let held = graph.get(&entry.status).is_some();
            let rests = reachable(&entries, &[number(&entry.status)].into());
            let kept_by_record = |n: &u64| entries.iter().any(|e| number(&e.status) == *n && e.parent.is_none());
            let all_over = rests.iter().all(|n| by[n] + margin < now && !kept_by_record(n));
            prop_assert_eq!(held, !all_over, "what is over and named by nobody goes in the end");
        }
    }
}

#[test]
fn what_is_refused_changes_nothing() {
    let root = entry(0, None);
    let child = entry(1, Some(&root));
    let other = entry(2, None);
    let mut held = graph(&[root.clone(), child.clone(), other.clone()]);
    let new = |change: &dyn Fn(&mut Entry)| {
        let mut new = entry(9, Some(&child));
        change(&mut new);
        new
    };
    let on = |n: u64| Dependency {
        on: at(n),
        why: Link::DependsOn,
    };
    let renewed = |of: &Entry, change: &dyn Fn(&mut Entry)| {
        let mut renewed = of.clone();
        change(&mut renewed);
        renewed
    };
    let outside = StatusIndex {
        list: 99,
        generation: 1,
        index: 0,
    };
    type Case<'a> = (&'a str, Entry, bool, LineageError);
    let cases: Vec<Case<'_>> = vec![
        (
            "a place in use",
            new(&|e| e.status = other.status),
            false,
            LineageError::Taken(other.status),
        ),
        (
            "a place that is none",
            new(&|e| e.status = outside),
            false,
            LineageError::Taken(outside),
        ),
        (
            "an unknown parent",
            new(&|e| e.parent = Some(at(77))),
            false,
            LineageError::ParentMissing(at(77)),
        ),
        (
            "a parent of another generation",
            new(&|e| e.parent = place(1, 2)),
            false,
            LineageError::ParentMissing(place(1, 2).unwrap()),
        ),
        (
            "itself as parent",
            new(&|e| e.parent = Some(at(9))),
            false,
            LineageError::ParentMissing(at(9)),
        ),
        (
            "a child outliving its parent",
            new(&|e| e.expires = 1_001),
            false,
            LineageError::Outlives {
                expected: 1_000,
                found: 1_001,
            },
        ),
        (
            "a depth that is not one below",
            new(&|e| e.depth = 1),
            false,
            LineageError::Depth { expected: 2, found: 1 },
        ),
        (
            "a node at a depth",
            new(&|e| e.parent = None),
            false,
            LineageError::Depth { expected: 0, found: 2 },
        ),
        (
            "an unknown dependency",
            new(&|e| e.depends_on = vec![on(77)]),
            false,
            LineageError::DependencyMissing(at(77)),
        ),
        (
            "itself as dependency",
            new(&|e| e.depends_on = vec![on(9)]),
            false,
            LineageError::Loop(at(9)),
        ),
        (
            "a renewal of what is not held",
            new(&|_| {}),
            true,
            LineageError::NotHeld(at(9)),
        ),
        (
            "a renewal under another parent",
            renewed(&child, &|e| e.parent = Some(other.status)),
            true,
            LineageError::OtherParent {
                expected: Some(root.status),
                found: Some(other.status),
            },
        ),
        (
            "a renewal without its parent",
            renewed(&child, &|e| e.parent = None),
            true,
            LineageError::OtherParent {
                expected: Some(root.status),
                found: None,
            },
        ),
        (
            "a renewal for another subject",
            renewed(&child, &|e| e.subject = "mallory@node".into()),
            true,
            LineageError::OtherSubject {
                expected: child.subject.clone(),
                found: "mallory@node".into(),
            },
        ),
        (
            "a dependency on what hangs below it",
            renewed(&root, &|e| e.depends_on = vec![on(1)]),
            true,
            LineageError::Loop(at(1)),
        ),
        (
            "a subject too long",
            new(&|e| e.subject = "x".repeat(193)),
            false,
            LineageError::TooLong {
                member: "subject",
                limit: 192,
                found: 193,
            },
        ),
    ];
    for (what, entry, renews, error) in cases {
        let done = if renews {
            held.renew(&entry)
        } else {
            held.insert(&entry)
        };
        assert_eq!(done, Err(error), "{what}");
        assert_eq!(held.len(), 3, "{what}");
        for known in [&root, &child, &other] {
            assert_eq!(held.get(&known.status).as_ref(), Some(known), "{what}");
        }
    }
}

#[test]
fn a_loop_over_dependencies_is_refused() {
    // b depends on a, c hangs below b; a renewal of a that depends on c would rest on itself.
    let a = entry(0, None);
    let mut b = entry(1, None);
    b.depends_on = vec![Dependency {
        on: a.status,
        why: Link::DependsOn,
    }];
    let c = entry(2, Some(&b));
    let mut held = graph(&[a.clone(), b, c.clone()]);
    let mut again = a;
    again.depends_on = vec![Dependency {
        on: c.status,
        why: Link::MovedFrom,
    }];
    assert_eq!(held.renew(&again), Err(LineageError::Loop(c.status)));
}

#[test]
fn bombs_end_at_their_limits() {
    let mut held = Graph::default();
    let mut last = entry(0, None);
    held.insert(&last).unwrap();
    for n in 1..=u64::from(MAX_DEPTH) {
        last = entry(n, Some(&last));
        held.insert(&last).unwrap();
    }
    assert_eq!(held.insert(&entry(500, Some(&last))), Err(LineageError::TooDeep));
    let root = entry(0, None);
    let wide = 1_000..1_000 + MAX_CHILDREN as u64 - 1;
    for n in wide.clone() {
        held.insert(&entry(n, Some(&root))).unwrap();
    }
    assert_eq!(
        held.insert(&entry(wide.end, Some(&root))),
        Err(LineageError::TooManyChildren)
    );
    assert_eq!(held.children(&root.status), MAX_CHILDREN);
    let on = |n: u64| Dependency {
        on: at(n),
        why: Link::DependsOn,
    };
    let mut greedy = entry(20_000, None);
    greedy.depends_on = (0..=MAX_DEPENDENCIES as u64).map(on).collect();
    assert_eq!(held.insert(&greedy), Err(LineageError::TooManyDependencies));
    for n in 0..MAX_DEPENDANTS as u64 {
        let mut dependant = entry(30_000 + n, None);
        dependant.depends_on = vec![on(3)];
        held.insert(&dependant).unwrap();
    }
    let mut one_more = entry(50_000, None);
    one_more.depends_on = vec![on(3)];
    assert_eq!(held.insert(&one_more), Err(LineageError::TooManyDependants(at(3))));
    // A renewal adds nothing to a parent that is full.
    held.renew(&entry(1_000, Some(&root))).unwrap();
}

#[test]
fn renewals_keep_the_entry_its_end_and_what_it_rests_on() {
    let root = entry(0, None);
    let mut held = graph(&[root.clone(), entry(1, None), entry(2, None)]);
    let mut renewed = root.clone();
    for round in 1..=KEPT_IDS as u8 + 1 {
        renewed.cti = [round; 16];
        renewed.expires = 1_000 - u64::from(round);
        renewed.scopes = format!("execute:{round}");
        renewed.depends_on = vec![Dependency {
            on: at(1 + u64::from(round % 2)),
            why: Link::DependsOn,
        }];
        held.renew(&renewed).unwrap();
    }
    let now = held.get(&root.status).unwrap();
    assert_eq!(
        (now.expires, now.scopes.as_str()),
        (1_000, "execute:5"),
        "an earlier end takes nothing back"
    );
    assert_eq!(now.depends_on.len(), 2, "what it rested on before stays");
    assert_eq!(numbers(&held.closure(&[at(1)])), [0, 1]);
    assert_eq!(held.by_id(&[5; 16]), Some(root.status));
    assert_eq!(held.by_id(&[2; 16]), Some(root.status), "one of its last");
    assert_eq!(held.by_id(&[1; 16]), None, "too old to be alive");
    assert_eq!(held.by_id(&root.cti), None);
}

#[test]
fn an_entry_that_a_node_has_left_is_freed_and_its_present_one_never() {
    let root = entry(0, None);
    let mut held = graph(std::slice::from_ref(&root));
    assert_eq!(held.over(u64::MAX, 0, 0..9, 9, |_| true), [], "its record names it");
    let mut new = entry(1, None);
    new.subject.clone_from(&root.subject);
    held.insert(&new).unwrap();
    assert_eq!(held.over(1_010, 10, 0..9, 9, |_| true), [], "the margin is not over");
    assert_eq!(held.over(1_011, 10, 0..9, 9, |_| true), [root.status]);
    held.remove(&root.status);
    assert_eq!(held.by_subject(&root.subject), Some(new.status));
    assert_eq!(held.over(u64::MAX, 0, 0..9, 9, |_| true), []);
}

#[test]
fn records_of_nodes_are_roots_also_where_no_row_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let store = RedbStore::open(&folder.path().join("store")).unwrap();
    let mut old = entry(4, None);
    old.subject = "node-1".into();
    // It ended later than what the record says, and yet is not what the node holds.
    old.expires = 9_000;
    let mut batch = Batch::new();
    batch.put(rows::LINEAGE.numbered(4), old.encode());
    store.commit(batch).unwrap();
    let mut held = record("node-1");
    held.status = at(2);
    let loaded = load(&store, &[("node-1".into(), held)], 1).unwrap();
    assert_eq!(loaded.graph.by_subject("node-1"), Some(at(2)));
    assert_eq!((loaded.dealt, loaded.unused, loaded.graph.len()), (5, vec![0, 1, 3], 2));
}

#[test]
fn whoever_rests_on_what_falls_meanwhile_is_in_the_set_or_refused() {
    // Grants race with a cascade: each child ends in the set, or its grant is refused; none is granted and missed.
    let root = entry(0, None);
    let lineage = Lineage::new(graph(std::slice::from_ref(&root)));
    let fallen = std::sync::atomic::AtomicBool::new(false);
    let start = std::sync::Barrier::new(3);
    let (granted, set) = std::thread::scope(|scope| {
        let grow = |from: u64| {
            let (lineage, root, fallen, start) = (&lineage, &root, &fallen, &start);
            scope.spawn(move || {
                start.wait();
                let mut granted = Vec::new();
                for n in from..from + 1_000 {
                    let stands = || {
                        let counts = !fallen.load(std::sync::atomic::Ordering::Relaxed);
                        counts.then_some(()).ok_or_else(|| "it does not count".to_owned())
                    };
                    let growth = Growth {
                        entry: entry(n, Some(root)),
                        renews: false,
                    };
                    if lineage.grow(&growth, stands).is_ok() {
                        granted.push(n);
                    }
                }
                granted
            })
        };
        let growing = [grow(1), grow(2_000)];
        start.wait();
        let set = lineage.fall(&[root.status], |set| {
            fallen.store(true, std::sync::atomic::Ordering::Relaxed);
            set.to_vec()
        });
        let granted: Vec<u64> = growing.into_iter().flat_map(|grown| grown.join().unwrap()).collect();
        (granted, set)
    });
    let mut expected = granted;
    expected.push(0);
    expected.sort_unstable();
    assert_eq!(numbers(&set), expected);
    assert!(number(&set[0]) < MAX_STATUS_ENTRIES);
}
