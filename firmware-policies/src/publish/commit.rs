//! Writing a version so that, stopped at any instant, the repository is the old version or the new one.
//!
//! Every file of the new version has a name of its own (a version number or a digest), so that nothing of the old version
//! is touched. The metadata is put together in `REPO/.next` first and loaded from there as everyone will load it; what
//! would not load goes no further. Then the versioned files are moved over, and `timestamp.json`, which names the rest,
//! last, by a rename. A new root is found as soon as it is there, before the timestamp that needs it, so a version with a
//! new root is put in place by exchanging the whole folder (renameat2 RENAME_EXCHANGE). Source: TUF 1.0.34, 6.2.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};

use crate::error::{PolicyCode, PolicyError};
use crate::layout::{METADATA, TARGETS};
use crate::load::{LoadOptions, load_blocking};
use crate::repository::{UNFINISHED, sync_folder, write_file};
use crate::transport::bounded::MAX_ROLE_LEN;
use crate::transport::bounded::read_bounded;
use crate::tuf::floors::RoleVersions;

/// Where the next version is put together.
pub(crate) const NEXT: &str = ".next";
const TIMESTAMP: &str = "timestamp.json";

/// How the metadata of a version comes into place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placing {
    /// File by file, the timestamp last.
    Files,
    /// All at once: a new root is found before the timestamp that needs it.
    Folder,
    /// All at once where the file system can: before the first version there is none that could stay.
    FolderIfPossible,
}

/// A file of the new version.
#[derive(Debug)]
pub(crate) struct FileWrite {
    pub path: PathBuf,
    pub bytes: Vec<u8>,
}

/// What is written.
#[derive(Debug)]
pub(crate) struct Commit {
    /// Targets that are not there yet.
    pub targets: Vec<FileWrite>,
    /// Metadata files by name, without the timestamp.
    pub metadata: Vec<(String, Vec<u8>)>,
    /// `timestamp.json`.
    pub timestamp: Vec<u8>,
    /// How they come into place.
    pub placing: Placing,
    /// What is published now: nothing of the new version may be older.
    pub floors: Option<RoleVersions>,
}

/// Asked before each operation on the disk, with what it is about; tests stop there, or fail.
type Before<'a> = &'a mut dyn FnMut(&Path) -> std::io::Result<()>;

impl Commit {
    /// Writes all of it. After an error everything is as it was.
    ///
    /// # Errors
    /// [`PolicyError`]: `policy-io`, and whatever refuses to load the version that was put together.
    pub fn run(&self, repo: &Path, now: i64) -> Result<(), PolicyError> {
        self.run_with(repo, now, &mut |_| Ok(()))
    }

    pub fn run_with(&self, repo: &Path, now: i64, before: Before<'_>) -> Result<(), PolicyError> {
        let mut made = Vec::new();
        let done = self.steps(repo, now, before, &mut made);
        if done.is_err() {
            // In the order in which a reader could miss nothing: the timestamp never named them.
            for path in made.iter().rev() {
                drop(std::fs::remove_file(path));
                let aside = path
                    .file_name()
                    .map(|name| format!("{UNFINISHED}{}", name.to_string_lossy()));
                drop(aside.and_then(|name| Some(std::fs::remove_file(path.parent()?.join(name)))));
            }
            drop(std::fs::remove_dir_all(repo.join(NEXT)));
        }
        done
    }

    /// The steps, without what undoes them. `made` is every file that came to lie in the repository for this version.
    pub fn steps(&self, repo: &Path, now: i64, before: Before<'_>, made: &mut Vec<PathBuf>) -> Result<(), PolicyError> {
        let io = |path: &Path, e: &std::io::Error| PolicyError::io(path, "a file of the next version", e);
        let mut ask = |path: &Path| before(path).map_err(|e| io(path, &e));
        let (metadata, next) = (repo.join(METADATA), repo.join(NEXT));
        for write in &self.targets {
            made.push(write.path.clone());
            ask(&write.path)?;
            write_file(&write.path, &write.bytes)?;
        }
        ask(&next)?;
        self.assemble(repo, &next, &mut ask)?;
        ask(&next)?;
        self.must_load(repo, &next, now)?;
        let exchanged = match self.placing {
            Placing::Files => false,
            Placing::Folder | Placing::FolderIfPossible => {
                ask(&metadata)?;
                let done = exchange(&next.join(METADATA), &metadata);
                if self.placing == Placing::Folder {
                    done?;
                    true
                } else {
                    done.is_ok()
                }
            }
        };
        if !exchanged {
            for (name, _) in &self.metadata {
                let to = metadata.join(name);
                made.push(to.clone());
                ask(&to)?;
                std::fs::rename(next.join(METADATA).join(name), &to).map_err(|e| io(&to, &e))?;
            }
            sync_folder(&metadata)?;
            let to = metadata.join(TIMESTAMP);
            ask(&to)?;
            std::fs::rename(next.join(METADATA).join(TIMESTAMP), &to).map_err(|e| io(&to, &e))?;
        }
        // It is published; what fails from here on must not undo it.
        made.clear();
        drop(sync_folder(&metadata));
        drop(sync_folder(repo));
        drop(std::fs::remove_dir_all(&next));
        Ok(())
    }

    /// `.next/metadata` with everything that is published and everything new, `.next/targets` a link.
    fn assemble(
        &self,
        repo: &Path,
        next: &Path,
        ask: &mut dyn FnMut(&Path) -> Result<(), PolicyError>,
    ) -> Result<(), PolicyError> {
        let io = |path: &Path, e: &std::io::Error| PolicyError::io(path, "a file of the next version", e);
        match std::fs::remove_dir_all(next) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(io(next, &e)),
            _ => {}
        }
        let (from, to) = (repo.join(METADATA), next.join(METADATA));
        std::fs::create_dir_all(&to).map_err(|e| io(&to, &e))?;
        // It may take the place of the published folder: whoever may read that may read this.
        let mode = std::fs::metadata(&from).map_err(|e| io(&from, &e))?.permissions();
        std::fs::set_permissions(&to, mode).map_err(|e| io(&to, &e))?;
        std::os::unix::fs::symlink(Path::new("..").join(TARGETS), next.join(TARGETS)).map_err(|e| io(next, &e))?;
        for entry in std::fs::read_dir(&from).map_err(|e| io(&from, &e))? {
            let name = entry.map_err(|e| io(&from, &e))?.file_name();
            if name == TIMESTAMP || name.to_string_lossy().starts_with(UNFINISHED) {
                continue;
            }
            let (old, new) = (from.join(&name), to.join(&name));
            // Published metadata is never written to again, so one file under two names stays one file.
            if std::fs::hard_link(&old, &new).is_err() {
                std::fs::copy(&old, &new).map_err(|e| io(&new, &e))?;
            }
        }
        for (name, bytes) in self
            .metadata
            .iter()
            .map(|(n, b)| (n.as_str(), b))
            .chain([(TIMESTAMP, &self.timestamp)])
        {
            let file = to.join(name);
            ask(&file)?;
            write_file(&file, bytes)?;
        }
        Ok(())
    }

    /// Loads what was put together as everyone will: from the first root, with what is published as the floor.
    fn must_load(&self, repo: &Path, next: &Path, now: i64) -> Result<(), PolicyError> {
        let first = repo.join(METADATA).join("1.root.json");
        let root = read_bounded(&first, MAX_ROLE_LEN).map_err(|e| PolicyError::io(&first, "the first root", &e))?;
        let options = LoadOptions {
            root: Some(root),
            floors: self.floors.clone(),
            ..LoadOptions::default()
        };
        load_blocking(next, options, now).map(drop)
    }
}

/// Puts the folder `next` in the place of `metadata`, and that in its place, at once.
pub(crate) fn exchange(next: &Path, metadata: &Path) -> Result<(), PolicyError> {
    sync_folder(next)?;
    rustix::fs::renameat_with(CWD, next, CWD, metadata, RenameFlags::EXCHANGE).map_err(|e| {
        let expected = "a file system that exchanges two folders (renameat2), for the new root";
        PolicyError::new(PolicyCode::Io, metadata.display(), expected, e)
    })
}
