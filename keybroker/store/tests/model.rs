//! The embedded engine against the simplest thing that keeps the same rules: a map and a counter.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use touchstone_store::{
    Batch, Change, ChangeKind, CommitError, Guard, Key, Namespace, RedbStore, Revision, Store, Versioned,
};

const N: Namespace = Namespace::new("n");

/// Few keys, so that batches meet each other.
const KEYS: u64 = 6;

/// One step of a history; how a guard is drawn decides how likely it is to hold.
#[derive(Debug, Clone)]
enum Step {
    Guard(u64, Expect),
    Put(u64, Vec<u8>),
    Delete(u64),
}

#[derive(Debug, Clone)]
enum Expect {
    Absent,
    AsSeen,
    At(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..KEYS;
    let expect = prop_oneof![
        1 => Just(Expect::Absent),
        3 => Just(Expect::AsSeen),
        1 => (0u64..12).prop_map(Expect::At),
    ];
    prop_oneof![
        2 => (key.clone(), expect).prop_map(|(key, expect)| Step::Guard(key, expect)),
        3 => (key.clone(), prop::collection::vec(any::<u8>(), 0..20)).prop_map(|(key, value)| Step::Put(key, value)),
        2 => key.prop_map(Step::Delete),
    ]
}

#[derive(Default)]
struct Model {
    rows: BTreeMap<Key, Versioned>,
    revision: u64,
    changes: Vec<Change>,
}

impl Model {
    fn batch(&self, steps: &[Step]) -> Batch {
        let mut batch = Batch::new();
        let mut written = BTreeSet::new();
        for step in steps {
            match step {
                Step::Guard(n, expect) => {
                    let key = N.numbered(*n);
                    let seen = self.rows.get(&key).map(|row| row.revision);
                    batch.guard(match (expect, seen) {
                        (Expect::Absent, _) | (Expect::AsSeen, None) => Guard::Absent(key),
                        (Expect::AsSeen, Some(revision)) => Guard::Unchanged(key, revision),
                        (Expect::At(revision), _) => Guard::Unchanged(key, Revision::new(*revision)),
                    });
                }
                Step::Put(n, value) if written.insert(*n) => {
                    batch.put(N.numbered(*n), value.clone());
                }
                Step::Delete(n) if written.insert(*n) => {
                    batch.delete(N.numbered(*n));
                }
                Step::Put(..) | Step::Delete(_) => {}
            }
        }
        batch
    }

    fn commit(&mut self, batch: &Batch) -> Result<Revision, CommitError> {
        for guard in batch.guards() {
            let found = self.rows.get(guard.key()).map(|row| row.revision);
            if found != guard.expected() {
                return Err(CommitError::Conflict {
                    key: guard.key().clone(),
                    expected: guard.expected(),
                    found,
                });
            }
        }
        let revision = Revision::new(self.revision + 1);
        let before = self.changes.len();
        for write in batch.writes() {
            let kind = match write {
                touchstone_store::Write::Put(key, value) => {
                    self.rows.insert(
                        key.clone(),
                        Versioned {
                            value: value.clone(),
                            revision,
                        },
                    );
                    ChangeKind::Put
                }
                touchstone_store::Write::Delete(key) => {
                    if self.rows.remove(key).is_none() {
                        continue;
                    }
                    ChangeKind::Delete
                }
            };
            self.changes.push(Change {
                revision,
                key: write.key().clone(),
                kind,
            });
        }
        if self.changes.len() > before {
            self.revision += 1;
        }
        Ok(Revision::new(self.revision))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn does_what_a_map_does(
        history in prop::collection::vec((prop::collection::vec(step(), 0..6), prop::bool::weighted(0.15)), 1..25),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store");
        let mut store = RedbStore::open(&path).unwrap();
        let mut model = Model::default();
        for (steps, reopen) in history {
            let batch = model.batch(&steps);
            prop_assert_eq!(store.commit(batch.clone()), model.commit(&batch));
            if reopen {
                drop(store);
                store = RedbStore::open(&path).unwrap();
            }
            prop_assert_eq!(store.revision(), Ok(Revision::new(model.revision)));
            let rows: Vec<_> = store.range(&N.prefix(), None, 100).unwrap();
            let expected: Vec<_> = model.rows.iter().map(|(key, row)| (key.clone(), Ok(row.clone()))).collect();
            prop_assert_eq!(rows, expected);
            for n in 0..KEYS {
                prop_assert_eq!(store.get(&N.numbered(n)), Ok(model.rows.get(&N.numbered(n)).cloned()));
            }
        }
        for since in 0..=model.revision {
            let since = Revision::new(since);
            let expected: Vec<_> = model.changes.iter().filter(|c| c.revision > since).cloned().collect();
            prop_assert_eq!(store.changes_since(since).unwrap().changes, expected);
        }
    }
}
