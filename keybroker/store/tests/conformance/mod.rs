//! The rules every engine behind [`Store`] keeps. An engine's own test hands [`run`] a way to make empty stores.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test suite shared by engines"
)]

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use touchstone_store::{
    Batch, BatchError, Change, ChangeKind, CommitError, Guard, Key, MAX_RANGE_BYTES, MAX_RANGE_ROWS, MAX_VALUE_LEN,
    Namespace, Revision, Store, StoreError, Versioned,
};

const A: Namespace = Namespace::new("a");
const B: Namespace = Namespace::new("b");

/// Checks every rule, each on a store of its own; `make` returns a new, empty one.
pub fn run(make: impl Fn() -> Box<dyn Store>) {
    for (name, rule) in RULES {
        println!("rule: {name}");
        rule(&*make());
    }
}

type Rule = fn(&dyn Store);

const RULES: &[(&str, Rule)] = &[
    ("an empty store is at revision 0 and has nothing", empty),
    ("a value comes back with the revision that wrote it", round_trip),
    (
        "a commit that changes nothing does not raise the revision",
        nothing_changed,
    ),
    (
        "the first failing guard is named, with what was expected and found",
        conflict_names_the_first,
    ),
    ("a failing guard undoes every write of its batch", all_or_nothing),
    (
        "a guard sees a value that was deleted and put again as changed",
        deleted_and_put_again,
    ),
    ("over-large batches are refused whole", limits),
    (
        "a range is ordered, bounded, exclusive of `after` and keeps to its prefix",
        ranges,
    ),
    (
        "a range stops at the row and byte limits and can be continued",
        range_limits,
    ),
    ("changes are told once each, in order, with deletions", changes),
    ("changes since a future revision are refused", other_history),
    ("of many who claim the same key at once exactly one wins", one_winner),
    ("concurrent counters lose no increment", no_lost_update),
];

fn number(n: u64) -> Key {
    A.numbered(n)
}

fn put(store: &dyn Store, key: Key, value: &[u8]) -> Revision {
    let mut batch = Batch::new();
    batch.put(key, value);
    store.commit(batch).unwrap()
}

fn value(store: &dyn Store, key: &Key) -> Option<Vec<u8>> {
    store.get(key).unwrap().map(|found| found.value)
}

fn empty(store: &dyn Store) {
    assert_eq!(store.revision(), Ok(Revision::ZERO));
    assert_eq!(store.get(&number(1)), Ok(None));
    assert_eq!(store.range(&A.prefix(), None, 10), Ok(vec![]));
    let changes = store.changes_since(Revision::ZERO).unwrap();
    assert_eq!((changes.changes, changes.up_to), (vec![], Revision::ZERO));
}

fn round_trip(store: &dyn Store) {
    let longest = Key::new(vec![0xff; touchstone_store::MAX_KEY_LEN]).unwrap();
    let largest = vec![0x5a; MAX_VALUE_LEN];
    let first = put(store, number(1), b"");
    let second = put(store, longest.clone(), &largest);
    assert!(Revision::ZERO < first && first < second);
    assert_eq!(
        store.get(&number(1)),
        Ok(Some(Versioned {
            value: vec![],
            revision: first
        }))
    );
    assert_eq!(
        store.get(&longest),
        Ok(Some(Versioned {
            value: largest,
            revision: second
        }))
    );
    assert_eq!(store.revision(), Ok(second));

    let third = put(store, number(1), b"");
    assert!(second < third, "the same value again is a new revision");
    assert_eq!(store.get(&number(1)).unwrap().unwrap().revision, third);
}

fn nothing_changed(store: &dyn Store) {
    let at = put(store, number(1), b"x");
    let mut batch = Batch::new();
    batch.guard(Guard::Unchanged(number(1), at)).delete(number(2));
    assert_eq!(store.commit(batch), Ok(at));
    assert_eq!(store.commit(Batch::new()), Ok(at));
    assert_eq!(store.revision(), Ok(at));
}

fn conflict_names_the_first(store: &dyn Store) {
    let at = put(store, number(1), b"x");
    let mut batch = Batch::new();
    batch
        .guard(Guard::Absent(number(9)))
        .guard(Guard::Unchanged(number(2), at))
        .guard(Guard::Absent(number(1)))
        .put(number(3), b"y".as_slice());
    assert_eq!(
        store.commit(batch),
        Err(CommitError::Conflict {
            key: number(2),
            expected: Some(at),
            found: None
        })
    );

    let mut batch = Batch::new();
    batch.guard(Guard::Absent(number(1)));
    assert_eq!(
        store.commit(batch),
        Err(CommitError::Conflict {
            key: number(1),
            expected: None,
            found: Some(at)
        })
    );

    let stale = Revision::new(at.get() + 7);
    let mut batch = Batch::new();
    batch.guard(Guard::Unchanged(number(1), stale));
    assert_eq!(
        store.commit(batch),
        Err(CommitError::Conflict {
            key: number(1),
            expected: Some(stale),
            found: Some(at)
        })
    );
}

fn all_or_nothing(store: &dyn Store) {
    let at = put(store, number(1), b"kept");
    let mut batch = Batch::new();
    batch
        .put(number(1), b"lost".as_slice())
        .delete(number(1))
        .put(number(2), b"lost".as_slice())
        .guard(Guard::Absent(number(1)));
    let mut batch_without_double_write = Batch::new();
    batch_without_double_write
        .put(number(2), b"lost".as_slice())
        .delete(number(1))
        .guard(Guard::Absent(number(1)));
    for batch in [batch, batch_without_double_write] {
        assert!(store.commit(batch).is_err());
        assert_eq!(value(store, &number(1)), Some(b"kept".to_vec()));
        assert_eq!(value(store, &number(2)), None);
        assert_eq!(store.revision(), Ok(at));
        assert_eq!(store.changes_since(at).unwrap().changes, vec![]);
    }
}

fn deleted_and_put_again(store: &dyn Store) {
    let first = put(store, number(1), b"same");
    let mut batch = Batch::new();
    batch.delete(number(1));
    store.commit(batch).unwrap();
    assert_eq!(value(store, &number(1)), None);
    let again = put(store, number(1), b"same");
    let mut batch = Batch::new();
    batch
        .guard(Guard::Unchanged(number(1), first))
        .put(number(1), b"other".as_slice());
    assert_eq!(
        store.commit(batch),
        Err(CommitError::Conflict {
            key: number(1),
            expected: Some(first),
            found: Some(again)
        })
    );
}

fn limits(store: &dyn Store) {
    let mut batch = Batch::new();
    batch
        .put(number(1), b"small".as_slice())
        .put(number(2), vec![0; MAX_VALUE_LEN + 1]);
    assert_eq!(
        store.commit(batch),
        Err(CommitError::Batch(BatchError::ValueTooLong {
            key: number(2),
            limit: MAX_VALUE_LEN,
            found: MAX_VALUE_LEN + 1
        }))
    );
    let mut batch = Batch::new();
    batch
        .put(number(1), b"one".as_slice())
        .put(number(1), b"two".as_slice());
    assert_eq!(
        store.commit(batch),
        Err(CommitError::Batch(BatchError::WrittenTwice { key: number(1) }))
    );
    assert_eq!(value(store, &number(1)), None);

    let mut full = Batch::new();
    for n in 0..touchstone_store::MAX_BATCH_WRITES as u64 {
        full.guard(Guard::Absent(number(n))).put(number(n), b"v".as_slice());
    }
    assert!(store.commit(full).is_ok(), "a batch at the limit is taken");
}

fn keys(store: &dyn Store, prefix: &Key, after: Option<&Key>, limit: usize) -> Vec<Key> {
    store
        .range(prefix, after, limit)
        .unwrap()
        .into_iter()
        .map(|(key, row)| row.map(|_| key).unwrap())
        .collect()
}

fn ranges(store: &dyn Store) {
    let all: Vec<Key> = [3, 1, 256, 2].map(number).into();
    let mut batch = Batch::new();
    for key in &all {
        batch.put(key.clone(), key.as_bytes());
    }
    batch.put(B.numbered(1), b"other".as_slice());
    batch.put(Key::new(*b"a").unwrap(), b"shorter than the prefix".as_slice());
    batch.put(Key::new(*b"a-b/1").unwrap(), b"sorts before it".as_slice());
    let at = store.commit(batch).unwrap();

    let sorted: Vec<Key> = [1, 2, 3, 256].map(number).into();
    assert_eq!(keys(store, &A.prefix(), None, 10), sorted);
    assert_eq!(keys(store, &A.prefix(), None, 0), vec![]);
    assert_eq!(keys(store, &A.prefix(), None, 2), sorted[..2]);
    assert_eq!(keys(store, &A.prefix(), Some(&number(2)), 10), sorted[2..]);
    assert_eq!(keys(store, &A.prefix(), Some(&A.prefix()), 10), sorted);
    assert_eq!(
        keys(store, &A.prefix(), Some(&number(100)), 10),
        sorted[3..],
        "`after` need not exist"
    );
    assert_eq!(
        keys(store, &A.prefix(), Some(&Key::new(*b"A").unwrap()), 10),
        sorted,
        "`after` before the prefix"
    );
    assert_eq!(
        keys(store, &A.prefix(), Some(&B.numbered(0)), 10),
        vec![],
        "`after` behind the prefix"
    );
    assert_eq!(
        keys(store, &number(256), None, 10),
        sorted[3..],
        "the prefix itself may be a key"
    );
    let rows = store.range(&number(3), None, 1).unwrap();
    assert_eq!(
        rows[0].1,
        Ok(Versioned {
            value: number(3).as_bytes().to_vec(),
            revision: at
        })
    );
}

fn range_limits(store: &dyn Store) {
    let count = MAX_RANGE_ROWS as u64 + 5;
    let mut batch = Batch::new();
    for n in 0..count {
        batch.put(number(n), b"v".as_slice());
    }
    store.commit(batch).unwrap();
    let first = keys(store, &A.prefix(), None, usize::MAX);
    assert_eq!(first.len(), MAX_RANGE_ROWS);
    let rest = keys(store, &A.prefix(), first.last(), usize::MAX);
    assert_eq!(rest, (count - 5..count).map(number).collect::<Vec<_>>());
    assert_eq!(keys(store, &A.prefix(), rest.last(), usize::MAX), vec![]);

    let heavy = MAX_RANGE_BYTES / MAX_VALUE_LEN;
    for n in 0..=heavy as u64 {
        put(store, B.numbered(n), &vec![0; MAX_VALUE_LEN]);
    }
    let first = keys(store, &B.prefix(), None, usize::MAX);
    assert_eq!(first.len(), heavy);
    assert_eq!(
        keys(store, &B.prefix(), first.last(), usize::MAX),
        vec![B.numbered(heavy as u64)]
    );
}

fn changes(store: &dyn Store) {
    let first = put(store, number(1), b"x");
    let mut batch = Batch::new();
    batch
        .put(number(2), b"y".as_slice())
        .delete(number(1))
        .delete(number(7));
    let second = store.commit(batch).unwrap();
    let third = put(store, number(2), b"y");

    let change = |revision, n, kind| Change {
        revision,
        key: number(n),
        kind,
    };
    let expected = vec![
        change(first, 1, ChangeKind::Put),
        change(second, 2, ChangeKind::Put),
        change(second, 1, ChangeKind::Delete),
        change(third, 2, ChangeKind::Put),
    ];
    let mut all = store.changes_since(Revision::ZERO).unwrap();
    assert_eq!(all.up_to, third);
    // Within one revision an engine may order by key.
    all.changes
        .sort_by_key(|c| (c.revision, std::cmp::Reverse(c.key.clone())));
    assert_eq!(all.changes, expected);
    assert_eq!(store.changes_since(second).unwrap().changes, expected[3..]);
    let none = store.changes_since(third).unwrap();
    assert_eq!((none.changes, none.up_to), (vec![], third));
}

fn other_history(store: &dyn Store) {
    let current = put(store, number(1), b"x");
    let asked = Revision::new(current.get() + 1);
    assert_eq!(
        store.changes_since(asked),
        Err(StoreError::RevisionAhead { asked, current })
    );
}

fn one_winner(store: &dyn Store) {
    const RIVALS: usize = 8;
    let start = Barrier::new(RIVALS);
    let won = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for rival in 0..RIVALS {
            let (start, won) = (&start, &won);
            scope.spawn(move || {
                let mut batch = Batch::new();
                batch
                    .guard(Guard::Absent(number(1)))
                    .put(number(1), rival.to_be_bytes());
                start.wait();
                match store.commit(batch) {
                    Ok(_) => won.fetch_add(1, Ordering::SeqCst),
                    Err(CommitError::Conflict { key, .. }) if key == number(1) => 0,
                    Err(e) => panic!("{e}"),
                };
            });
        }
    });
    assert_eq!(won.into_inner(), 1);
}

fn no_lost_update(store: &dyn Store) {
    const WORKERS: usize = 4;
    const EACH: u64 = 10;
    put(store, number(1), &0u64.to_be_bytes());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                let mut done = 0;
                while done < EACH {
                    let seen = store.get(&number(1)).unwrap().unwrap();
                    let count = u64::from_be_bytes(seen.value.try_into().unwrap());
                    let mut batch = Batch::new();
                    batch.guard(Guard::Unchanged(number(1), seen.revision));
                    batch.put(number(1), (count + 1).to_be_bytes());
                    match store.commit(batch) {
                        Ok(_) => done += 1,
                        Err(CommitError::Conflict { .. }) => {}
                        Err(e) => panic!("{e}"),
                    }
                }
            });
        }
    });
    assert_eq!(
        value(store, &number(1)),
        Some((WORKERS as u64 * EACH).to_be_bytes().to_vec())
    );
}
