//! The highest policy versions accepted on this machine, kept over restarts: whoever serves the repository can not take
//! back what was accepted once (`docs/protocol.md`, sections 7 and 8).

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use touchstone_policies::RoleVersions;

const FILE: &str = "policy-versions.json";
const STATE_FILE: &str = "trust-state.json";

/// Why the record of accepted versions is unusable. It is never taken for "none", because that would allow a rollback.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FloorsError {
    /// The operating system refused.
    #[error("{}: {kind}", path.display())]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// What it said.
        kind: ErrorKind,
    },
    /// Others may write into the folder: what is in it can not be trusted.
    #[error("{path}: mode {mode:o} lets others in; expected 0700 (chmod 700 {path})", path = path.display())]
    OpenToOthers {
        /// The folder.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The record is not what this program wrote.
    #[error("{}: {cause}", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
}

/// A folder of this program's own, with the record in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyFloors {
    folder: PathBuf,
}

impl PolicyFloors {
    /// Opens the folder, making it (mode 0700) if it is not there.
    ///
    /// # Errors
    /// [`FloorsError::OpenToOthers`] when group or others can reach it; [`FloorsError::Io`].
    pub fn open(folder: &Path) -> Result<Self, FloorsError> {
        let io = |error: std::io::Error| FloorsError::Io {
            path: folder.to_owned(),
            kind: error.kind(),
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(io)?;
        let mode = fs::metadata(folder).map_err(io)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(FloorsError::OpenToOthers {
                path: folder.to_owned(),
                mode,
            });
        }
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    /// The record of another domain's versions, in a folder of its own below this one, by a plain name.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn of_domain(&self, name: &str) -> Result<Self, FloorsError> {
        Self::open(&self.folder.join("federation").join(name))
    }

    /// The versions; `None` before the first.
    ///
    /// # Errors
    /// [`FloorsError`].
    pub fn read(&self) -> Result<Option<RoleVersions>, FloorsError> {
        self.read_record(FILE)
    }

    /// (generation, epoch) of the last trust state; `None` before the first.
    ///
    /// # Errors
    /// [`FloorsError`].
    pub fn read_state(&self) -> Result<Option<(u32, u64)>, FloorsError> {
        self.read_record(STATE_FILE)
    }

    fn read_record<T: serde::de::DeserializeOwned>(&self, file: &str) -> Result<Option<T>, FloorsError> {
        let path = self.folder.join(file);
        match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(FloorsError::Io {
                path,
                kind: error.kind(),
            }),
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| FloorsError::Malformed {
                    path,
                    cause: error.to_string(),
                }),
        }
    }

    /// Raises the record to `accepted`, whole or not at all; a version is never lowered.
    ///
    /// # Errors
    /// [`FloorsError`].
    pub fn raise(&self, accepted: &RoleVersions) -> Result<(), FloorsError> {
        let before = self.read()?;
        let after = before.clone().unwrap_or_default().raised_to(accepted);
        if before.as_ref() == Some(&after) {
            return Ok(());
        }
        self.write_record(FILE, &after)
    }

    /// The same for a policy that goes in the place of one that is `held`, if any is: what takes something away does not wait
    /// for a disk that is full. This process goes back behind neither; only a later start could, so what begins with a
    /// policy is on record before.
    ///
    /// # Errors
    /// [`FloorsError`], where nothing is held.
    pub fn raise_beside(&self, held: bool, accepted: &RoleVersions) -> Result<(), FloorsError> {
        match self.raise(accepted) {
            Err(error) if held => {
                tracing::error!(
                    target: "touchstone::policy",
                    %error,
                    "the policy counts, and its versions are not on record"
                );
                Ok(())
            }
            raised => raised,
        }
    }

    /// The same for the (generation, epoch) of a trust state.
    ///
    /// # Errors
    /// [`FloorsError`].
    pub fn raise_state(&self, accepted: (u32, u64)) -> Result<(), FloorsError> {
        if self.read_state()?.is_some_and(|before| before >= accepted) {
            return Ok(());
        }
        self.write_record(STATE_FILE, &accepted)
    }

    fn write_record<T: serde::Serialize>(&self, file: &str, after: &T) -> Result<(), FloorsError> {
        let path = self.folder.join(file);
        let partial = self.folder.join(format!("{file}.partial"));
        let io = |error: std::io::Error| FloorsError::Io {
            path: path.clone(),
            kind: error.kind(),
        };
        fs::write(&partial, serde_json::to_vec(after).unwrap_or_default()).map_err(io)?;
        fs::set_permissions(&partial, fs::Permissions::from_mode(0o600)).map_err(io)?;
        fs::File::open(&partial).and_then(|file| file.sync_all()).map_err(io)?;
        fs::rename(&partial, &path).map_err(io)?;
        fs::File::open(&self.folder)
            .and_then(|folder| folder.sync_all())
            .map_err(io)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(targets: u64) -> RoleVersions {
        RoleVersions {
            root: 1,
            targets,
            snapshot: targets,
            timestamp: 9,
            regions: [("eu".to_owned(), targets)].into(),
            ..RoleVersions::default()
        }
    }

    #[test]
    fn versions_are_kept_and_only_raised() {
        let folder = tempfile::tempdir().expect("a folder");
        let floors = PolicyFloors::open(&folder.path().join("state")).expect("opens");
        assert_eq!(floors.read(), Ok(None));
        floors.raise(&versions(7)).expect("kept");
        floors.raise(&versions(3)).expect("kept");
        assert_eq!(floors.read(), Ok(Some(versions(7))));
    }

    #[test]
    fn how_far_a_trust_state_came_is_kept_and_only_raised() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state");
        let floors = PolicyFloors::open(&path).expect("opens");
        assert_eq!(floors.read_state(), Ok(None));
        for (reached, expected) in [((1, 9), (1, 9)), ((1, 3), (1, 9)), ((2, 1), (2, 1)), ((1, 99), (2, 1))] {
            floors.raise_state(reached).expect("kept");
            assert_eq!(floors.read_state(), Ok(Some(expected)));
        }
        fs::write(path.join(STATE_FILE), b"{}").expect("writes");
        assert!(matches!(floors.read_state(), Err(FloorsError::Malformed { .. })));
    }

    #[test]
    fn a_disk_that_takes_nothing_keeps_no_newer_policy_out_of_a_guard_that_runs() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state");
        let floors = PolicyFloors::open(&path).expect("opens");
        floors.raise(&versions(7)).expect("kept");
        // As where no byte can be written.
        let partial = path.join(format!("{FILE}.partial"));
        fs::create_dir(&partial).expect("a folder in the way");
        assert_eq!(floors.raise_beside(true, &versions(8)), Ok(()));
        assert!(matches!(
            floors.raise_beside(false, &versions(8)),
            Err(FloorsError::Io { .. })
        ));
        assert_eq!(floors.read(), Ok(Some(versions(7))), "what is on record stays");
        fs::remove_dir(&partial).expect("room");
        assert_eq!(floors.raise_beside(true, &versions(9)), Ok(()));
        assert_eq!(floors.read(), Ok(Some(versions(9))));
    }

    #[test]
    fn a_malformed_record_is_not_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state");
        let floors = PolicyFloors::open(&path).expect("opens");
        fs::write(path.join(FILE), b"{}").expect("writes");
        assert!(matches!(floors.read(), Err(FloorsError::Malformed { .. })));
        assert!(matches!(floors.raise(&versions(1)), Err(FloorsError::Malformed { .. })));
    }

    #[test]
    fn a_folder_open_to_others_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("mode");
        assert!(matches!(
            PolicyFloors::open(folder.path()),
            Err(FloorsError::OpenToOthers { mode: 0o755, .. })
        ));
    }
}
