//! The embedded engine: one private file, every commit synced before it returns.
//!
//! Tables of the file (schema 1): `rows` holds a value under each key, as written down in `row.rs`; `changes` holds what
//! each of the last revisions changed, as in `changes.rs`; `meta` holds the numbers `schema` and `revision`.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::ops::Bound;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::panic;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use redb::{Database, ReadOnlyTable, ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction};

use crate::changes::{self, CHANGE_LOG_REVISIONS, MAX_CHANGES_PER_READ};
use crate::row::{self, HEADER_LEN};
use crate::{
    Batch, Changes, CommitError, Key, MAX_RANGE_BYTES, MAX_RANGE_ROWS, OpenError, RangeRow, Revision, Store,
    StoreError, Versioned, Write,
};

/// The layout of the file this release writes, and the newest it reads.
pub const SCHEMA_VERSION: u64 = 1;

/// Memory the engine may use to cache pages, in bytes.
pub const CACHE_BYTES: usize = 64 * 1024 * 1024;

const ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows");
const CHANGES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("changes");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

const SCHEMA: &str = "schema";
const REVISION: &str = "revision";

/// Permission bits that let anybody but the owner near the file.
const NOT_OWNER: u32 = 0o077;

/// A [`Store`] in one file. One process at a time; the file lock holds the others off.
#[derive(Debug)]
pub struct RedbStore {
    /// Before the database, so that it is closed with nobody reading.
    last: RwLock<LastRows>,
    database: Database,
}

/// The rows as of the last commit, opened once for all who read between two commits: to open them costs several times
/// what looking one up does.
#[derive(Debug, Default)]
struct LastRows {
    /// Beginnings and ends of commits so far.
    moves: u64,
    rows: Option<Arc<Rows>>,
}

type Rows = ReadOnlyTable<&'static [u8], &'static [u8]>;

impl LastRows {
    /// A commit begins, or has ended: what was opened before is closed once those have read who read in it, and its
    /// pages are free for the commit.
    fn pass(last: &RwLock<Self>) {
        let mut last = last.write().unwrap_or_else(PoisonError::into_inner);
        last.moves += 1;
        last.rows = None;
    }

    /// Keeps rows for those who read next. Where a commit has begun or ended since `moves` was counted, they may be the rows
    /// before it: good for who asked before that, and for nobody else.
    fn keep(last: &RwLock<Self>, moves: u64, rows: &Arc<Rows>) {
        let mut last = last.write().unwrap_or_else(PoisonError::into_inner);
        if last.moves == moves {
            last.rows = Some(Arc::clone(rows));
        }
    }
}

/// A commit under way.
struct Committing<'a>(&'a RwLock<LastRows>);

impl<'a> Committing<'a> {
    fn begin(last: &'a RwLock<LastRows>) -> Self {
        LastRows::pass(last);
        Self(last)
    }
}

impl Drop for Committing<'_> {
    fn drop(&mut self) {
        LastRows::pass(self.0);
    }
}

impl RedbStore {
    /// Opens the store in the file `path`, or makes one (mode 0600) if there is no such file. The folder must exist.
    ///
    /// Checks every checksum in the file first, so this takes time in proportion to its size: a torn store is denied
    /// rather than trusted. After an unclean stop, a last commit whose checksum does not hold is one that never
    /// returned, and is undone.
    ///
    /// # Errors
    /// [`OpenError`], one variant for each way in which the file is not fit for use.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let file = open_private(path)?;
        let database = open_checked(path, file)?;
        let schema = prepare(&database).map_err(|e| OpenError::Corrupted {
            path: path.into(),
            detail: e.to_string(),
        })?;
        match schema {
            Some(SCHEMA_VERSION) => Ok(Self {
                last: RwLock::default(),
                database,
            }),
            Some(found) => Err(OpenError::NewerSchema {
                path: path.into(),
                expected: SCHEMA_VERSION,
                found,
            }),
            None => {
                let detail = "it has tables but no schema version".into();
                Err(OpenError::NotAStore {
                    path: path.into(),
                    detail,
                })
            }
        }
    }

    /// The rows, as every commit left them that returned before this was called.
    fn rows(&self) -> Result<Arc<Rows>, StoreError> {
        let moves = {
            let last = self.last.read().unwrap_or_else(PoisonError::into_inner);
            match &last.rows {
                Some(rows) => return Ok(Arc::clone(rows)),
                None => last.moves,
            }
        };
        let rows = Arc::new(self.open_rows()?);
        LastRows::keep(&self.last, moves, &rows);
        Ok(rows)
    }

    fn open_rows(&self) -> Result<Rows, StoreError> {
        let read = self.database.begin_read().map_err(failed("begin a read"))?;
        read.open_table(ROWS).map_err(failed("open the rows"))
    }
}

impl Store for RedbStore {
    fn get(&self, key: &Key) -> Result<Option<Versioned>, StoreError> {
        let rows = self.rows()?;
        match rows.get(key.as_bytes()).map_err(failed("read a row"))? {
            None => Ok(None),
            Some(found) => match row::parse(found.value()) {
                Ok(versioned) => Ok(Some(versioned)),
                Err(fault) => Err(StoreError::Malformed {
                    key: key.clone(),
                    fault,
                }),
            },
        }
    }

    fn range(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Vec<RangeRow>, StoreError> {
        let rows = self.rows()?;
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after.as_bytes()),
            _ => Bound::Included(prefix.as_bytes()),
        };
        let mut found = Vec::new();
        let mut bytes = 0;
        for entry in rows
            .range::<&[u8]>((from, Bound::Unbounded))
            .map_err(failed("read a range"))?
        {
            if found.len() == limit.min(MAX_RANGE_ROWS) {
                break;
            }
            let (key, value) = entry.map_err(failed("read a range"))?;
            if !key.value().starts_with(prefix.as_bytes()) {
                break;
            }
            bytes += value.value().len().saturating_sub(HEADER_LEN);
            if bytes > MAX_RANGE_BYTES && !found.is_empty() {
                break;
            }
            let key = Key::new(key.value()).map_err(|e| StoreError::Engine {
                operation: "read a key",
                detail: e.to_string(),
            })?;
            found.push((key, row::parse(value.value())));
        }
        Ok(found)
    }

    fn commit(&self, batch: Batch) -> Result<Revision, CommitError> {
        batch.check()?;
        let _committing = Committing::begin(&self.last);
        let write = self.database.begin_write().map_err(failed("begin a commit"))?;
        // Leaving early drops the transaction, which undoes it.
        let (revision, changed) = apply(&write, &batch)?;
        if changed {
            write
                .commit()
                .map_err(|e| CommitError::Unknown { detail: e.to_string() })?;
        } else {
            write.abort().map_err(failed("end a commit"))?;
        }
        Ok(revision)
    }

    fn revision(&self) -> Result<Revision, StoreError> {
        let read = self.database.begin_read().map_err(failed("begin a read"))?;
        let meta = read.open_table(META).map_err(failed("open the meta table"))?;
        current(&meta)
    }

    fn changes_since(&self, since: Revision) -> Result<Changes, StoreError> {
        let read = self.database.begin_read().map_err(failed("begin a read"))?;
        let meta = read.open_table(META).map_err(failed("open the meta table"))?;
        let log = read.open_table(CHANGES).map_err(failed("open the changes"))?;
        let current = current(&meta)?;
        if since > current {
            return Err(StoreError::RevisionAhead { asked: since, current });
        }
        let mut found = Changes {
            changes: Vec::new(),
            up_to: since,
        };
        // The range begins at 1 or above.
        for entry in log
            .range(since.get().saturating_add(1)..)
            .map_err(failed("read the changes"))?
        {
            let (number, record) = entry.map_err(failed("read the changes"))?;
            let revision = Revision::new(number.value());
            // A gap or an unreadable record is history that is gone: whoever needs it starts anew behind it.
            if revision.get() - 1 != found.up_to.get() {
                return Err(StoreError::Compacted {
                    oldest: Revision::new(revision.get() - 1),
                });
            }
            let changes = changes::parse(revision, record.value()).ok_or(StoreError::Compacted { oldest: revision })?;
            found.changes.extend(changes);
            found.up_to = revision;
            if found.changes.len() >= MAX_CHANGES_PER_READ {
                return Ok(found);
            }
        }
        if found.up_to < current {
            return Err(StoreError::Compacted { oldest: current });
        }
        Ok(found)
    }
}

/// Does what the batch asks inside `write`; returns the revision, and whether anything changed.
fn apply(write: &WriteTransaction, batch: &Batch) -> Result<(Revision, bool), CommitError> {
    let mut rows = write.open_table(ROWS).map_err(failed("open the rows"))?;
    let mut meta = write.open_table(META).map_err(failed("open the meta table"))?;
    let current = current(&meta)?;
    for guard in batch.guards() {
        let key = guard.key();
        let found = match rows.get(key.as_bytes()).map_err(failed("read a row"))? {
            None => None,
            Some(row) => match row::split(row.value()) {
                Ok((revision, _)) => Some(revision),
                Err(fault) => {
                    return Err(StoreError::Malformed {
                        key: key.clone(),
                        fault,
                    }
                    .into());
                }
            },
        };
        if found != guard.expected() {
            return Err(CommitError::Conflict {
                key: key.clone(),
                expected: guard.expected(),
                found,
            });
        }
    }

    let next = current
        .get()
        .checked_add(1)
        .map(Revision::new)
        .ok_or(StoreError::Engine {
            operation: "count revisions",
            detail: "the last number is used up".into(),
        })?;
    let mut log = Vec::new();
    for change in batch.writes() {
        if write_row(&mut rows, change, next)? {
            changes::record(&mut log, change);
        }
    }
    if log.is_empty() {
        return Ok((current, false));
    }
    meta.insert(REVISION, next.get())
        .map_err(failed("write the revision"))?;
    let mut changes = write.open_table(CHANGES).map_err(failed("open the changes"))?;
    changes
        .insert(next.get(), log.as_slice())
        .map_err(failed("write the changes"))?;
    if let Some(gone) = next.get().checked_sub(CHANGE_LOG_REVISIONS) {
        changes
            .retain_in(..=gone, |_, _| false)
            .map_err(failed("shorten the changes"))?;
    }
    Ok((next, true))
}

/// Makes one change at `revision`; whether there was anything to change.
fn write_row(
    rows: &mut Table<'_, &'static [u8], &'static [u8]>,
    change: &Write,
    revision: Revision,
) -> Result<bool, StoreError> {
    match change {
        Write::Put(key, value) => {
            let mut room = rows
                .insert_reserve(key.as_bytes(), HEADER_LEN + value.len())
                .map_err(failed("write a row"))?;
            if let Some((header, rest)) = room.as_mut().split_first_chunk_mut::<HEADER_LEN>() {
                *header = row::header(revision);
                rest.copy_from_slice(value);
            }
            Ok(true)
        }
        Write::Delete(key) => Ok(rows.remove(key.as_bytes()).map_err(failed("remove a row"))?.is_some()),
    }
}

fn current(meta: &impl ReadableTable<&'static str, u64>) -> Result<Revision, StoreError> {
    match meta.get(REVISION).map_err(failed("read the revision"))? {
        Some(number) => Ok(Revision::new(number.value())),
        None => Err(StoreError::Engine {
            operation: "read the revision",
            detail: "there is none".into(),
        }),
    }
}

/// Gives an empty file its tables; returns the schema version of the file, if it has one.
fn prepare(database: &Database) -> Result<Option<u64>, redb::Error> {
    let write = database.begin_write()?;
    let fresh = write.list_tables()?.next().is_none();
    let mut meta = write.open_table(META)?;
    if fresh {
        meta.insert(SCHEMA, SCHEMA_VERSION)?;
        meta.insert(REVISION, 0)?;
        write.open_table(ROWS)?;
        write.open_table(CHANGES)?;
    }
    let schema = meta.get(SCHEMA)?.map(|found| found.value());
    drop(meta);
    if fresh {
        write.commit()?
    } else {
        write.abort()?
    }
    Ok(schema)
}

/// Opens or makes the file, and looks at the very file that was opened.
fn open_private(path: &Path) -> Result<File, OpenError> {
    let io = |operation| {
        move |e: std::io::Error| OpenError::Io {
            operation,
            path: path.into(),
            detail: e.to_string(),
        }
    };
    let made = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match made {
        Ok(file) => {
            // The name must survive a crash as well as the contents.
            let folder = path
                .parent()
                .filter(|folder| !folder.as_os_str().is_empty())
                .unwrap_or(Path::new("."));
            File::open(folder)
                .and_then(|folder| folder.sync_all())
                .map_err(io("sync the folder of"))?;
            Ok(file)
        }
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .open(path)
                .map_err(io("open"))?;
            let metadata = file.metadata().map_err(io("look at"))?;
            let found = metadata.permissions().mode() & 0o7777;
            if !metadata.is_file() {
                return Err(OpenError::NotAFile { path: path.into() });
            }
            if found & NOT_OWNER != 0 {
                return Err(OpenError::NotPrivate {
                    path: path.into(),
                    found,
                });
            }
            Ok(file)
        }
        Err(e) => Err(io("create")(e)),
    }
}

/// Opens the database in `file` and checks all of it.
fn open_checked(path: &Path, file: File) -> Result<Database, OpenError> {
    // The engine panics on some damage to its own bookkeeping. Damage is an answer here, not a crash.
    panic::catch_unwind(move || {
        let mut database = redb::Builder::new().set_cache_size(CACHE_BYTES).create_file(file)?;
        let intact = database.check_integrity()?;
        if intact {
            Ok(database)
        } else {
            Err(damaged("checksums did not hold"))
        }
    })
    .unwrap_or_else(|_| Err(damaged("bookkeeping does not add up")))
    .map_err(|e| opening(path, e))
}

fn damaged(what: &str) -> redb::DatabaseError {
    redb::StorageError::Corrupted(what.to_owned()).into()
}

/// Turns the engine's refusal to open a file into ours.
fn opening(path: &Path, error: redb::DatabaseError) -> OpenError {
    let path = path.to_path_buf();
    let detail = error.to_string();
    match error {
        redb::DatabaseError::DatabaseAlreadyOpen => OpenError::InUse { path },
        redb::DatabaseError::Storage(redb::StorageError::Io(e)) if e.kind() != ErrorKind::InvalidData => {
            OpenError::Io {
                operation: "read",
                path,
                detail,
            }
        }
        redb::DatabaseError::Storage(redb::StorageError::Io(_)) | redb::DatabaseError::UpgradeRequired(_) => {
            OpenError::NotAStore { path, detail }
        }
        _ => OpenError::Corrupted { path, detail },
    }
}

/// Turns the engine's failure to do `operation` into ours.
fn failed<E: Into<redb::Error>>(operation: &'static str) -> impl Fn(E) -> StoreError {
    move |e| StoreError::Engine {
        operation,
        detail: e.into().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Namespace;

    const N: Namespace = Namespace::new("n");

    fn put(store: &RedbStore, value: u8) {
        let mut batch = Batch::new();
        batch.put(N.numbered(0), [value]);
        store.commit(batch).unwrap();
    }

    fn value(store: &RedbStore) -> Option<Vec<u8>> {
        store.get(&N.numbered(0)).unwrap().map(|row| row.value)
    }

    #[test]
    fn rows_that_were_opened_before_a_commit_are_kept_for_nobody_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = RedbStore::open(&folder.path().join("store")).unwrap();
        put(&store, 1);
        let moves = || store.last.read().unwrap().moves;
        let (before, rows) = (moves(), Arc::new(store.open_rows().unwrap()));
        put(&store, 2);
        LastRows::keep(&store.last, before, &rows);
        assert_eq!(value(&store), Some(vec![2]), "opened before, kept after");

        let committing = Committing::begin(&store.last);
        let (within, rows) = (moves(), Arc::new(store.open_rows().unwrap()));
        drop(committing);
        LastRows::keep(&store.last, within, &rows);
        assert!(store.last.read().unwrap().rows.is_none(), "opened within, kept after");

        assert_eq!(value(&store), Some(vec![2]));
        assert!(store.last.read().unwrap().rows.is_some(), "kept between two commits");
        put(&store, 3);
        assert_eq!(value(&store), Some(vec![3]), "and closed by the next");
    }

    #[test]
    fn a_read_sees_every_commit_that_returned_before_it_began() {
        use std::sync::atomic::{AtomicU8, Ordering};
        let folder = tempfile::tempdir().unwrap();
        let store = RedbStore::open(&folder.path().join("store")).unwrap();
        let committed = AtomicU8::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    loop {
                        let least = committed.load(Ordering::Acquire);
                        let found = value(&store).map_or(0, |value| value[0]);
                        assert!(found >= least, "{found} after {least} was committed");
                        if least == u8::MAX {
                            break;
                        }
                    }
                });
            }
            for n in 1..=u8::MAX {
                put(&store, n);
                committed.store(n, Ordering::Release);
            }
        });
    }
}
