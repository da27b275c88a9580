//! What an agent keeps across restarts: its attestation key (a blob only its own TPM can use) and the highest policy
//! versions it has accepted.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use touchstone_policies::RoleVersions;

use crate::tpm::{AkBlob, TpmError};

/// The largest state file that is read.
const MAX_FILE: u64 = 64 * 1024;
const AK_FILE: &str = "attestation-key";
const POLICY_FILE: &str = "policy-versions.json";

/// Why the state directory is unusable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// The operating system refused.
    #[error("{path}: {kind}")]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// What it said.
        kind: ErrorKind,
    },
    /// Others may write into it: what is in it cannot be trusted.
    #[error("{path}: mode {mode:o} lets others in; expected 0700 (chmod 700 {path})", path = path.display())]
    OpenToOthers {
        /// The folder.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A file is not what this program wrote.
    #[error("{path}: {cause}", path = path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        cause: TpmError,
    },
    /// The record of accepted policy versions is not what this program wrote.
    #[error("{path}: {cause}", path = path.display())]
    PolicyVersions {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
}

/// The state directory of one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDir {
    path: PathBuf,
}

impl StateDir {
    /// Opens the directory, making it (mode 0700) if it is not there.
    ///
    /// # Errors
    /// [`StateError::OpenToOthers`] when group or others can reach it; [`StateError::Io`].
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let io = |error: std::io::Error| StateError::Io {
            path: path.to_owned(),
            kind: error.kind(),
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(io)?;
        let mode = fs::metadata(path).map_err(io)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(StateError::OpenToOthers {
                path: path.to_owned(),
                mode,
            });
        }
        Ok(Self { path: path.to_owned() })
    }

    /// The attestation key kept here, if there is one.
    ///
    /// # Errors
    /// [`StateError`]; a malformed file is never silently replaced, because that would change the node's identity.
    pub fn attestation_key(&self) -> Result<Option<AkBlob>, StateError> {
        let path = self.path.join(AK_FILE);
        let io = |error: std::io::Error| StateError::Io {
            path: path.clone(),
            kind: error.kind(),
        };
        match fs::metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(error)),
            Ok(metadata) if metadata.len() > MAX_FILE => {
                return Err(StateError::Io {
                    path,
                    kind: ErrorKind::FileTooLarge,
                });
            }
            Ok(_) => {}
        }
        let bytes = fs::read(&path).map_err(io)?;
        AkBlob::decode(&bytes)
            .map(Some)
            .map_err(|cause| StateError::Malformed { path, cause })
    }

    /// Keeps the attestation key, whole or not at all.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn keep_attestation_key(&self, blob: &AkBlob) -> Result<(), StateError> {
        self.write(AK_FILE, &blob.encode())
    }

    /// The highest policy versions that were accepted here; `None` before the first.
    ///
    /// # Errors
    /// [`StateError`]; a malformed record is never taken for none, because that would allow a rollback.
    pub fn policy_versions(&self) -> Result<Option<RoleVersions>, StateError> {
        let path = self.path.join(POLICY_FILE);
        match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StateError::Io {
                path,
                kind: error.kind(),
            }),
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| StateError::PolicyVersions {
                    path,
                    cause: error.to_string(),
                }),
        }
    }

    /// Keeps accepted policy versions, whole or not at all.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn keep_policy_versions(&self, versions: RoleVersions) -> Result<(), StateError> {
        self.write(POLICY_FILE, &serde_json::to_vec(&versions).unwrap_or_default())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        let path = self.path.join(name);
        let partial = self.path.join(format!("{name}.partial"));
        let io = |error: std::io::Error| StateError::Io {
            path: path.clone(),
            kind: error.kind(),
        };
        fs::write(&partial, bytes).map_err(io)?;
        fs::set_permissions(&partial, fs::Permissions::from_mode(0o600)).map_err(io)?;
        fs::File::open(&partial).and_then(|file| file.sync_all()).map_err(io)?;
        fs::rename(&partial, &path).map_err(io)?;
        fs::File::open(&self.path)
            .and_then(|directory| directory.sync_all())
            .map_err(io)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_policy_versions_are_kept_and_a_malformed_record_is_not_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = StateDir::open(&folder.path().join("state")).expect("opens");
        assert_eq!(state.policy_versions(), Ok(None));
        let versions = RoleVersions {
            root: 1,
            targets: 7,
            snapshot: 7,
            timestamp: 9,
        };
        state.keep_policy_versions(versions).expect("kept");
        assert_eq!(state.policy_versions(), Ok(Some(versions)));
        fs::write(folder.path().join("state").join(POLICY_FILE), b"{}").expect("writes");
        assert!(matches!(
            state.policy_versions(),
            Err(StateError::PolicyVersions { .. })
        ));
    }

    #[test]
    fn a_folder_open_to_others_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("mode");
        assert!(matches!(
            StateDir::open(folder.path()),
            Err(StateError::OpenToOthers { mode: 0o755, .. })
        ));
    }
}
