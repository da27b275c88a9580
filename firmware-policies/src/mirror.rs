//! A copy of the last repository that was accepted, in a folder of one's own: to start from without the network, to
//! serve to others, and not to fetch twice what has not changed.
//!
//! What is in it is believed for its signatures like any repository. A new version is written whole before it counts:
//! every file has a name of its own (a version or a digest), and `timestamp.json` is replaced last. A new root is found as
//! soon as it is there, before the timestamp that needs it, so with one the whole folder of metadata is exchanged, as a
//! publication does. What the version before it consists of stays until the one after, for whoever is in the middle of
//! reading it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};

use crate::error::PolicyError;
use crate::layout::{METADATA, TARGETS, TargetKind, digest_name};
use crate::load::{Fetched, LoadOptions, PolicySet, fetch, load};
use crate::publish::commit::exchange;
use crate::repository::{UNFINISHED, sync_folder, write_file};
use crate::transport::bounded::read_bounded;
use crate::transport::files::metadata_limit;
use crate::transport::source::Source;

const TIMESTAMP: &str = "timestamp.json";
/// Where metadata with a new root is put together.
const NEXT: &str = ".next-metadata";
/// Deepest folder below `targets`: `regions/<region>/nodes`.
const MAX_DEPTH: usize = 4;

/// Why a copy is not what is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Behind {
    /// What is published could not be had or accepted: the policy is that of the copy.
    NotTaken(PolicyError),
    /// What is published was accepted and could not be written: the policy is that, the copy is the one before.
    NotKept(PolicyError),
}

/// A folder with a copy of a repository. A clone is the same copy.
#[derive(Debug, Clone)]
pub struct Mirror {
    folder: PathBuf,
    /// What the last version written consists of, relative to the folder; nothing before the first.
    last: Arc<Mutex<Option<BTreeSet<String>>>>,
}

impl PartialEq for Mirror {
    fn eq(&self, other: &Self) -> bool {
        self.folder == other.folder
    }
}

impl Eq for Mirror {}

impl Mirror {
    /// The copy in `folder`, which need not be there yet.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            last: Arc::default(),
        }
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Fetches what is published at `source` and verifies it whole, at `now`, Unix seconds. Only targets that are not
    /// here already travel. Nothing is written.
    ///
    /// # Errors
    /// As [`load`](crate::load::load).
    pub async fn fetch(&self, source: &Source, options: LoadOptions, now: i64) -> Result<Fetched, PolicyError> {
        fetch(source, Some(&self.folder), options, now).await
    }

    /// Loads the copy, at `now`, Unix seconds.
    ///
    /// # Errors
    /// As [`load`](crate::load::load).
    pub async fn load(&self, options: LoadOptions, now: i64) -> Result<PolicySet, PolicyError> {
        load(self.folder.as_path(), options, now).await
    }

    /// Fetches, verifies and keeps what is published at `source`; where that cannot be had or cannot be accepted, the copy
    /// will do until the life of what is in it ends. What is verified is taken, also where it cannot be kept: never the
    /// older copy for want of room on a disk. Either way also what went wrong.
    ///
    /// # Errors
    /// Those of the source, where the copy does not serve either.
    pub async fn latest(
        &self,
        source: &Source,
        options: LoadOptions,
        now: i64,
    ) -> Result<(PolicySet, Option<Behind>), PolicyError> {
        match self.fetch(source, options.clone(), now).await {
            Ok(fetched) => {
                let kept = self.keep(&fetched);
                Ok((fetched.policy, kept.err().map(Behind::NotKept)))
            }
            Err(error) => match self.load(options, now).await {
                Ok(policy) => Ok((policy, Some(Behind::NotTaken(error)))),
                Err(_) => Err(error),
            },
        }
    }

    /// Makes this version the copy, durably, or changes nothing that counts.
    ///
    /// # Errors
    /// [`PolicyError`] with `policy-io`: a full disk, for example.
    pub fn keep(&self, fetched: &Fetched) -> Result<(), PolicyError> {
        let mut present = BTreeSet::new();
        let mut written = Vec::new();
        for (kind, bytes) in &fetched.files {
            let name = digest_name(&kind.name(), &hex::encode(Sha256::digest(bytes)));
            let relative = format!("{TARGETS}/{name}");
            let path = self.folder.join(&relative);
            present.insert(relative);
            if !read_bounded(&path, kind.max_len()).is_ok_and(|there| there == *bytes) {
                write_aside(&path, bytes)?;
                written.push(path);
            }
        }
        // Written all and then synced all: one after the other each would wait for the disk.
        for path in &written {
            let synced = File::open(path).and_then(|file| file.sync_all());
            synced.map_err(|e| PolicyError::io(path, "a file to write", &e))?;
        }
        let folders: BTreeSet<&Path> = written.iter().filter_map(|path| path.parent()).collect();
        for folder in folders {
            let synced = File::open(folder).and_then(|file| file.sync_all());
            synced.map_err(|e| PolicyError::io(folder, "a folder to write", &e))?;
        }
        let (timestamp, rest): (Vec<_>, Vec<_>) = fetched
            .metadata
            .iter()
            .filter(|(_, bytes)| !bytes.is_empty())
            .partition(|(file, _)| file == TIMESTAMP);
        let mut changed = Vec::new();
        for (file, bytes) in rest.into_iter().chain(timestamp) {
            let relative = format!("{METADATA}/{file}");
            let path = self.folder.join(&relative);
            present.insert(relative);
            if !read_bounded(&path, metadata_limit(file)).is_ok_and(|there| there == *bytes) {
                changed.push((file.as_str(), bytes.as_slice()));
            }
        }
        let metadata = self.folder.join(METADATA);
        let new_root = changed.iter().any(|(file, _)| file.ends_with(".root.json"));
        if !(new_root && metadata.join(TIMESTAMP).exists() && self.exchange_metadata(&metadata, &changed)?) {
            for (file, bytes) in changed {
                write_file(&metadata.join(file), bytes)?;
            }
        }
        self.tidy(present);
        Ok(())
    }

    /// Puts the metadata together aside and in place at once. False, and nothing is changed, on a file system that does
    /// not exchange folders.
    fn exchange_metadata(&self, metadata: &Path, changed: &[(&str, &[u8])]) -> Result<bool, PolicyError> {
        let next = self.folder.join(NEXT);
        let io = |path: &Path, e: &std::io::Error| PolicyError::io(path, "a file to write", e);
        match std::fs::remove_dir_all(&next) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(io(&next, &e)),
            _ => std::fs::create_dir_all(&next).map_err(|e| io(&next, &e))?,
        }
        let mode = std::fs::metadata(metadata).map(|folder| folder.permissions());
        mode.and_then(|mode| std::fs::set_permissions(&next, mode))
            .map_err(|e| io(&next, &e))?;
        for entry in std::fs::read_dir(metadata).map_err(|e| io(metadata, &e))? {
            let name = entry.map_err(|e| io(metadata, &e))?.file_name();
            let (old, new) = (metadata.join(&name), next.join(&name));
            // Files are replaced and never written to again, so one file under two names stays one file.
            if std::fs::hard_link(&old, &new).is_err() {
                std::fs::copy(&old, &new).map_err(|e| io(&old, &e))?;
            }
        }
        for (file, bytes) in changed {
            write_file(&next.join(file), bytes)?;
        }
        let exchanged = exchange(&next, metadata).is_ok();
        drop(sync_folder(&self.folder));
        drop(std::fs::remove_dir_all(&next));
        Ok(exchanged)
    }

    /// The copy's `timestamp.json`; nothing where there is no copy.
    #[must_use]
    pub fn timestamp(&self) -> Option<Vec<u8>> {
        self.read(&format!("{METADATA}/{TIMESTAMP}"))
    }

    /// A file of the copy by its path, `metadata/…` or `targets/…`; nothing for a path that is no file of a repository.
    #[must_use]
    pub fn read(&self, path: &str) -> Option<Vec<u8>> {
        let (path, limit) = self.locate(path)?;
        read_bounded(&path, limit).ok()
    }

    /// Where a file of the copy is, by its path as [`Mirror::read`] takes it, and its greatest length. It need not exist.
    #[must_use]
    pub fn locate(&self, path: &str) -> Option<(PathBuf, u64)> {
        let plain = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        };
        if !path.split('/').all(plain) {
            return None;
        }
        let limit = match path.split_once('/')? {
            (METADATA, file) if !file.contains('/') => metadata_limit(file),
            (TARGETS, name) => {
                let (folder, file) = name
                    .rsplit_once('/')
                    .map_or((None, name), |(folder, file)| (Some(folder), file));
                let (_, file) = file.split_once('.')?;
                let name = folder.map_or_else(|| file.to_owned(), |folder| format!("{folder}/{file}"));
                TargetKind::of(&name)?.max_len()
            }
            _ => return None,
        };
        Some((self.folder.join(path), limit))
    }

    /// Removes what belongs neither to this version nor to the one before. A file that stays is no harm.
    fn tidy(&self, present: BTreeSet<String>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        // After a start it is not known which files the version before consists of: they go the next time.
        if let Some(before) = last.as_ref().filter(|before| **before != present) {
            let mut files = Vec::new();
            collect(&self.folder, "", 0, &mut files);
            let stays = |file: &String| {
                // Whoever has an old root pinned follows all of them.
                present.contains(file) || before.contains(file) || file.ends_with(".root.json")
            };
            for file in files.iter().filter(|file| !stays(file)) {
                let _ = std::fs::remove_file(self.folder.join(file));
            }
        }
        if last.as_ref() != Some(&present) {
            *last = Some(present);
        }
    }
}

fn collect(folder: &Path, prefix: &str, depth: usize, files: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let name = if prefix.is_empty() {
            name
        } else {
            format!("{prefix}/{name}")
        };
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth < MAX_DEPTH => collect(&entry.path(), &name, depth + 1, files),
            Ok(kind) if kind.is_file() => files.push(name),
            _ => {}
        }
    }
}

fn write_aside(path: &Path, bytes: &[u8]) -> Result<(), PolicyError> {
    let io = |e: std::io::Error| PolicyError::io(path, "a file to write", &e);
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    std::fs::create_dir_all(folder).map_err(io)?;
    let aside = folder.join(format!("{UNFINISHED}{}", name.to_string_lossy()));
    std::fs::write(&aside, bytes).map_err(io)?;
    std::fs::rename(&aside, path).map_err(io)
}

#[cfg(test)]
mod tests;
