//! A repository as its authors see it: the lock, what is staged, what is published.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{PolicyCode, PolicyError};
use crate::layout::Files;
use crate::layout::{LOCK, METADATA, STAGED, TargetKind};
use crate::load::read_files;
use crate::transport::bounded::MAX_ROLE_LEN;
use crate::transport::bounded::read_bounded;
use crate::tuf::{self, Opened};

/// Deepest folder below `staged`: `regions/<id>/nodes/<file>`.
const MAX_STAGED_DEPTH: usize = 3;
/// What the name of a file that is being written begins with. Nothing reads such files.
pub(crate) const UNFINISHED: &str = ".unfinished-";

/// A repository locked for one author.
#[derive(Debug)]
pub(crate) struct Repository {
    path: PathBuf,
    lock: File,
}

impl Drop for Repository {
    /// Lets go of the lock itself. Only to close the file would leave it to whoever has a copy of the descriptor: a child
    /// process that was forked by another thread meanwhile has one until it becomes its program.
    fn drop(&mut self) {
        // Where it cannot be, it ends with the last copy.
        let _ = self.lock.unlock();
    }
}

impl Repository {
    /// Locks an initialised repository. The lock ends with the process, however it ends.
    pub fn open(path: &Path) -> Result<Self, PolicyError> {
        let root = path.join(METADATA).join("1.root.json");
        if !root.is_file() {
            let found = format!("no {}", root.display());
            return Err(PolicyError::new(
                PolicyCode::RootMissing,
                path.display(),
                "a policy repository",
                found,
            ));
        }
        Self::lock(path)
    }

    /// Locks a folder that is there.
    pub fn lock(path: &Path) -> Result<Self, PolicyError> {
        let file = path.join(LOCK);
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&file);
        let lock = lock.map_err(|e| PolicyError::io(&file, "a lock file", &e))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                lock,
            }),
            Err(TryLockError::WouldBlock) => Err(PolicyError::new(
                PolicyCode::PublishBusy,
                file.display(),
                "no other author",
                "a lock",
            )),
            Err(TryLockError::Error(e)) => Err(PolicyError::io(&file, "a lock", &e)),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a staged target.
    pub fn stage(&self, kind: &TargetKind, bytes: &[u8]) -> Result<String, PolicyError> {
        let name = kind.name();
        if bytes.len() as u64 > kind.max_len() {
            let expected = format!("at most {} bytes", kind.max_len());
            return Err(PolicyError::new(
                PolicyCode::TargetTooLarge,
                name,
                expected,
                bytes.len(),
            ));
        }
        write_file(&self.path.join(STAGED).join(&name), bytes)?;
        Ok(name)
    }

    /// What is staged.
    pub fn staged(&self) -> Result<Files, PolicyError> {
        staged(&self.path)
    }

    /// What is published, verified; expired or not, for authors must be able to renew it. `None` before the first time.
    pub fn published(&self) -> Result<Option<Published>, PolicyError> {
        published(&self.path)
    }

    /// What the next publish would consist of: what is published, and over it what is staged.
    pub fn next(&self) -> Result<Files, PolicyError> {
        let mut files = self.published()?.map(|p| p.files).unwrap_or_default();
        overlay(&mut files, self.staged()?);
        Ok(files)
    }
}

/// The published version.
pub(crate) struct Published {
    pub opened: Opened,
    pub files: Files,
}

/// Puts what is staged over what is published. An empty staged file withdraws its target: no target may be empty, so it
/// cannot mean anything else. Returns the names of what was withdrawn.
pub(crate) fn overlay(files: &mut Files, staged: Files) -> Vec<String> {
    let mut withdrawn = Vec::new();
    for (kind, bytes) in staged {
        if !bytes.is_empty() {
            files.insert(kind, bytes);
        } else if files.remove(&kind).is_some() {
            withdrawn.push(kind.name());
        }
    }
    withdrawn
}

/// What is staged in the repository at `path`.
pub(crate) fn staged(path: &Path) -> Result<Files, PolicyError> {
    let mut files = Files::new();
    collect(&path.join(STAGED), "", 0, &mut files)?;
    Ok(files)
}

/// What is published in the repository at `path`.
pub(crate) fn published(path: &Path) -> Result<Option<Published>, PolicyError> {
    published_from(path, None)
}

/// What is published in the repository at `path`, from the root given or from its own first.
pub(crate) fn published_from(path: &Path, pinned: Option<&[u8]>) -> Result<Option<Published>, PolicyError> {
    tuf::block_on(async {
        match tuf::open(&path.into(), None, pinned).await {
            Ok(opened) => {
                let files = read_files(&opened).await?;
                Ok(Some(Published { opened, files }))
            }
            Err(e) if e.code() == PolicyCode::NotPublished => Ok(None),
            Err(e) => Err(e),
        }
    })
}

/// The root that the first publish signs under.
pub(crate) fn first_root(path: &Path) -> Result<tough::schema::Signed<tough::schema::Root>, PolicyError> {
    let file = path.join(METADATA).join("1.root.json");
    let bytes = read_bounded(&file, MAX_ROLE_LEN).map_err(|e| PolicyError::io(&file, "the root", &e))?;
    tuf::parse_root(&bytes).map_err(|e| PolicyError::new(PolicyCode::RootInvalid, "1.root.json", "a root", e))
}

fn collect(folder: &Path, prefix: &str, depth: usize, files: &mut Files) -> Result<(), PolicyError> {
    let io = |e: std::io::Error| PolicyError::io(folder, "a folder to read", &e);
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && depth == 0 => return Ok(()),
        Err(e) => return Err(io(e)),
    };
    for entry in entries {
        let entry = entry.map_err(io)?;
        let file_name = entry.file_name();
        let file_name = file_name.to_string_lossy();
        let name = if prefix.is_empty() {
            file_name.to_string()
        } else {
            format!("{prefix}/{file_name}")
        };
        let kind = entry.file_type().map_err(io)?;
        if kind.is_dir() && depth < MAX_STAGED_DEPTH {
            collect(&entry.path(), &name, depth + 1, files)?;
            continue;
        }
        if file_name.starts_with(UNFINISHED) {
            continue;
        }
        let Some(target) = TargetKind::of(&name) else {
            let claim = entry.path();
            return Err(PolicyError::new(
                PolicyCode::TargetUnknown,
                claim.display(),
                "a target's name",
                name,
            ));
        };
        let bytes = read_bounded(&entry.path(), target.max_len()).map_err(|e| match e.kind() {
            std::io::ErrorKind::FileTooLarge => {
                PolicyError::new(PolicyCode::TargetTooLarge, &name, "a smaller file", e)
            }
            _ => PolicyError::io(&entry.path(), "a staged file", &e),
        })?;
        files.insert(target, bytes);
    }
    Ok(())
}

/// Writes a file so that it is there whole or not at all, also after a power cut: written aside, synced, renamed, and
/// the folder synced.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), PolicyError> {
    let io = |e: std::io::Error| PolicyError::io(path, "a file to write", &e);
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(PolicyError::new(PolicyCode::Io, path.display(), "a file name", "none"));
    };
    // A bare file name lies in the working directory.
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    std::fs::create_dir_all(folder).map_err(io)?;
    let aside = folder.join(format!("{UNFINISHED}{}", name.to_string_lossy()));
    let mut file = File::create(&aside).map_err(io)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io)?;
    std::fs::rename(&aside, path).map_err(io)?;
    sync_folder(folder)
}

/// Makes what was renamed within a folder last.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), PolicyError> {
    let synced = File::open(folder).and_then(|f| f.sync_all());
    synced.map_err(|e| PolicyError::io(folder, "a folder to write", &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_ends_with_its_holder_though_another_process_has_a_copy_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let held = Repository::lock(folder.path()).unwrap();
        // What a child between fork and exec has.
        let copy = held.lock.try_clone().unwrap();
        let busy = Repository::lock(folder.path()).unwrap_err();
        assert_eq!(busy.code(), PolicyCode::PublishBusy);
        drop(held);
        assert!(Repository::lock(folder.path()).is_ok());
        drop(copy);
    }
}
