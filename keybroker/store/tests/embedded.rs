//! The embedded engine: the rules all engines keep, and what is its own: one file that must be private and whole.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::conformance;

use std::fs;
use std::io::{Seek, SeekFrom, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, TableDefinition};
use tempfile::TempDir;
use touchstone_store::{
    Batch, CHANGE_LOG_REVISIONS, Changes, CommitError, Guard, Key, MAX_CHANGES_PER_READ, Namespace, OpenError,
    RangeRow, RedbStore, Revision, RowFault, SCHEMA_VERSION, Store, StoreError, Versioned,
};

const N: Namespace = Namespace::new("n");
const ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows");
const CHANGES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("changes");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// A store in a folder that goes away with it.
struct Scratch {
    store: RedbStore,
    folder: TempDir,
}

impl Scratch {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            store: RedbStore::open(&folder.path().join("store")).unwrap(),
            folder,
        }
    }

    /// Closes the store, does something to its file and opens it again.
    fn meddled(self, meddle: impl FnOnce(&Path)) -> (Result<RedbStore, OpenError>, PathBuf, TempDir) {
        drop(self.store);
        let path = self.folder.path().join("store");
        meddle(&path);
        (RedbStore::open(&path), path, self.folder)
    }
}

impl Store for Scratch {
    fn get(&self, key: &Key) -> Result<Option<Versioned>, StoreError> {
        self.store.get(key)
    }
    fn range(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Vec<RangeRow>, StoreError> {
        self.store.range(prefix, after, limit)
    }
    fn commit(&self, batch: Batch) -> Result<Revision, CommitError> {
        self.store.commit(batch)
    }
    fn revision(&self) -> Result<Revision, StoreError> {
        self.store.revision()
    }
    fn changes_since(&self, since: Revision) -> Result<Changes, StoreError> {
        self.store.changes_since(since)
    }
}

fn put(store: &dyn Store, n: u64, value: &[u8]) -> Revision {
    let mut batch = Batch::new();
    batch.put(N.numbered(n), value);
    store.commit(batch).unwrap()
}

/// Changes tables of the file behind the store's back.
fn raw(path: &Path, change: impl FnOnce(&redb::WriteTransaction)) {
    let write = Database::open(path).unwrap().begin_write().unwrap();
    change(&write);
    write.commit().unwrap();
}

#[test]
fn keeps_the_rules_of_every_engine() {
    conformance::run(|| Box::new(Scratch::new()));
}

#[test]
fn what_was_committed_is_there_after_reopening() {
    let scratch = Scratch::new();
    let at = put(&scratch, 1, b"kept");
    let (again, ..) = scratch.meddled(|_| {});
    let again = again.unwrap();
    assert_eq!(
        again.get(&N.numbered(1)),
        Ok(Some(Versioned {
            value: b"kept".to_vec(),
            revision: at
        }))
    );
    assert_eq!(again.revision(), Ok(at));
    assert_eq!(again.changes_since(Revision::ZERO).unwrap().changes.len(), 1);
}

#[test]
fn a_new_file_is_private() {
    let scratch = Scratch::new();
    let mode = fs::metadata(scratch.folder.path().join("store"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o600);
}

#[test]
fn a_file_others_may_touch_is_refused() {
    for found in [0o640, 0o604, 0o620, 0o602, 0o610, 0o666] {
        let scratch = Scratch::new();
        let chmod = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(found)).unwrap();
        let (again, path, _folder) = scratch.meddled(chmod);
        assert_eq!(again.unwrap_err(), OpenError::NotPrivate { path, found });
    }
}

#[test]
fn one_process_at_a_time() {
    let scratch = Scratch::new();
    let path = scratch.folder.path().join("store");
    assert_eq!(RedbStore::open(&path).unwrap_err(), OpenError::InUse { path });
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let found = SCHEMA_VERSION + 1;
    let (again, path, _folder) = Scratch::new().meddled(|path| {
        raw(path, |write| {
            write.open_table(META).unwrap().insert("schema", found).unwrap();
        });
    });
    assert_eq!(
        again.unwrap_err(),
        OpenError::NewerSchema {
            path: path.clone(),
            expected: SCHEMA_VERSION,
            found
        }
    );
    let read = Database::open(&path).unwrap().begin_read().unwrap();
    assert_eq!(
        read.open_table(META).unwrap().get("schema").unwrap().unwrap().value(),
        found
    );
}

#[test]
fn other_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let private = |name: &str| {
        let path = folder.path().join(name);
        fs::write(&path, []).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    };

    let text = private("text");
    fs::write(&text, "not a database ".repeat(1_000)).unwrap();
    assert!(
        matches!(RedbStore::open(&text), Err(OpenError::NotAStore { .. })),
        "{:?}",
        RedbStore::open(&text)
    );

    let foreign = private("foreign");
    let write = Database::create(&foreign).unwrap().begin_write().unwrap();
    write
        .open_table(ROWS)
        .unwrap()
        .insert(b"k".as_slice(), b"v".as_slice())
        .unwrap();
    write.commit().unwrap();
    assert!(matches!(RedbStore::open(&foreign), Err(OpenError::NotAStore { .. })));

    let missing = folder.path().join("no/such/folder");
    assert!(matches!(
        RedbStore::open(&missing),
        Err(OpenError::Io {
            operation: "create",
            ..
        })
    ));
    assert!(RedbStore::open(folder.path()).is_err());

    let empty = private("empty");
    assert_eq!(
        RedbStore::open(&empty).unwrap().revision(),
        Ok(Revision::ZERO),
        "a crash before the first byte"
    );
}

#[test]
fn a_malformed_row_is_an_error_for_its_key_only() {
    let scratch = Scratch::new();
    for n in 1..=3 {
        put(&scratch, n, b"v");
    }
    let (again, ..) = scratch.meddled(|path| {
        raw(path, |write| {
            write
                .open_table(ROWS)
                .unwrap()
                .insert(N.numbered(2).as_bytes(), b"\x01old".as_slice())
                .unwrap();
        });
    });
    let store = again.unwrap();
    let fault = RowFault::TooShort { expected: 9, found: 4 };
    let malformed = StoreError::Malformed {
        key: N.numbered(2),
        fault,
    };
    assert_eq!(store.get(&N.numbered(2)), Err(malformed.clone()));
    assert!(store.get(&N.numbered(1)).unwrap().is_some());
    let rows: Vec<_> = store
        .range(&N.prefix(), None, 10)
        .unwrap()
        .into_iter()
        .map(|(_, row)| row.err())
        .collect();
    assert_eq!(rows, [None, Some(fault), None]);

    for guard in [
        Guard::Absent(N.numbered(2)),
        Guard::Unchanged(N.numbered(2), Revision::new(2)),
    ] {
        let mut batch = Batch::new();
        batch.guard(guard).put(N.numbered(2), b"new".as_slice());
        assert_eq!(store.commit(batch), Err(CommitError::Store(malformed.clone())));
    }
    put(&store, 2, b"replaced");
    assert_eq!(store.get(&N.numbered(2)).unwrap().unwrap().value, b"replaced");
}

#[test]
fn the_log_of_changes_is_bounded_and_says_what_is_gone() {
    let scratch = Scratch::new();
    put(&scratch, 1, b"v");
    // Move the store near the end of the log without 16,384 syncs.
    let (again, _, _folder) = scratch.meddled(|path| {
        raw(path, |write| {
            let one: Vec<u8> = [b"\x01\0\x0a".as_slice(), N.numbered(1).as_bytes()].concat();
            let mut changes = write.open_table(CHANGES).unwrap();
            for revision in 1..=CHANGE_LOG_REVISIONS {
                changes.insert(revision, one.as_slice()).unwrap();
            }
            write
                .open_table(META)
                .unwrap()
                .insert("revision", CHANGE_LOG_REVISIONS)
                .unwrap();
        });
    });
    let store = again.unwrap();
    assert!(store.changes_since(Revision::ZERO).is_ok());
    put(&store, 2, b"v");
    let oldest = Revision::new(1);
    assert_eq!(
        store.changes_since(Revision::ZERO),
        Err(StoreError::Compacted { oldest })
    );

    let mut seen = 0;
    let mut at = oldest;
    loop {
        let next = store.changes_since(at).unwrap();
        if next.up_to == at {
            break;
        }
        assert!(next.changes.len() <= MAX_CHANGES_PER_READ);
        seen += next.changes.len() as u64;
        at = next.up_to;
    }
    assert_eq!(
        seen, CHANGE_LOG_REVISIONS,
        "reading on from `up_to` tells every change once"
    );
}

#[test]
fn a_gap_or_an_unreadable_record_in_the_log_is_history_that_is_gone() {
    type Meddle = fn(&mut redb::Table<'_, u64, &'static [u8]>);
    let rows: [(&str, Meddle, u64, usize); 3] = [
        ("a gap", |changes| drop(changes.remove(2).unwrap()), 2, 1),
        (
            "an unreadable record",
            |changes| drop(changes.insert(2, b"\x09".as_slice()).unwrap()),
            2,
            1,
        ),
        ("an end cut off", |changes| drop(changes.remove(3).unwrap()), 3, 0),
    ];
    for (name, meddle, oldest, left) in rows {
        let scratch = Scratch::new();
        for n in 1..=3 {
            put(&scratch, n, b"v");
        }
        let (again, _, _folder) =
            scratch.meddled(|path| raw(path, |write| meddle(&mut write.open_table(CHANGES).unwrap())));
        let store = again.unwrap();
        let oldest = Revision::new(oldest);
        assert_eq!(
            store.changes_since(Revision::ZERO),
            Err(StoreError::Compacted { oldest }),
            "{name}"
        );
        assert_eq!(store.changes_since(oldest).unwrap().changes.len(), left, "{name}");
    }
}

/// Every place would take minutes on a busy disk, so: the page that says where everything is, some rows, the engine's
/// list of free pages (which it believes so much that it panics), and here and there.
fn places_to_damage(file: &[u8]) -> Vec<usize> {
    let find = |what: &[u8]| -> Vec<usize> {
        let places = file
            .windows(what.len())
            .enumerate()
            .filter(|(_, window)| *window == what);
        places.map(|(at, _)| at + 3).take(8).collect()
    };
    let mut places: Vec<usize> = (0..0x200)
        .step_by(37)
        .chain((0x200..file.len()).step_by(30_011))
        .collect();
    for n in [0, 7, 19] {
        places.extend(find(&[n; 600]));
    }
    places.extend(find(&[4, 0, 0, 0, 0x20, 0, 0, 0, 0x2c, 0, 0, 0]));
    places
}

/// Whatever single byte of a closed file rots: either the file is refused, and stays refused, or nothing was lost.
#[test]
fn a_damaged_file_is_refused_or_whole() {
    let scratch = Scratch::new();
    for n in 0..20 {
        put(&scratch, n, &[n as u8; 600]);
    }
    let (store, path, _folder) = scratch.meddled(|_| {});
    drop(store);
    let good = fs::read(&path).unwrap();
    let (mut refused, mut whole) = (0, 0);
    for offset in places_to_damage(&good) {
        fs::write(&path, &good).unwrap();
        let mut file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.seek(SeekFrom::Start(offset as u64)).unwrap();
        file.write_all(&[good[offset] ^ 0x10]).unwrap();
        drop(file);
        match RedbStore::open(&path) {
            Ok(store) => {
                whole += 1;
                assert_eq!(store.revision(), Ok(Revision::new(20)), "offset {offset}");
                for n in 0..20 {
                    let found = store.get(&N.numbered(n)).unwrap().unwrap();
                    assert_eq!(found.value, [n as u8; 600], "offset {offset}, row {n}");
                }
            }
            Err(_) => {
                refused += 1;
                assert!(
                    RedbStore::open(&path).is_err(),
                    "offset {offset}: the second try must not be more trusting"
                );
            }
        }
    }
    assert!(
        refused > 0 && whole > 0,
        "{refused} refused, {whole} whole: the test did not see both"
    );
}
