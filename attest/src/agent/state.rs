//! What an agent keeps across restarts: its attestation key (a blob only its own TPM can use), the highest policy versions
//! it has accepted, and a copy of a policy repository that is on a server.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use touchstone_policies::Mirror;

use crate::floors::{FloorsError, PolicyFloors};
use crate::tpm::{AkBlob, TpmError};

/// The largest state file that is read.
const MAX_FILE: u64 = 64 * 1024;
const AK_FILE: &str = "attestation-key";
const MIRROR: &str = "policy";

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
    /// A file is not what this program wrote.
    #[error("{path}: {cause}", path = path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        cause: TpmError,
    },
    /// The folder is open to others, or its record of accepted policy versions is unusable.
    #[error(transparent)]
    Floors(#[from] FloorsError),
}

/// The state directory of one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDir {
    path: PathBuf,
    floors: PolicyFloors,
    mirror: Mirror,
}

impl StateDir {
    /// Opens the directory, making it (mode 0700) if it is not there.
    ///
    /// # Errors
    /// [`StateError::Floors`] when group or others can reach it.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        Ok(Self {
            path: path.to_owned(),
            floors: PolicyFloors::open(path)?,
            mirror: Mirror::new(path.join(MIRROR)),
        })
    }

    /// The highest policy versions accepted here.
    #[must_use]
    pub fn floors(&self) -> &PolicyFloors {
        &self.floors
    }

    /// The copy of a policy repository that is on a server.
    #[must_use]
    pub fn mirror(&self) -> &Mirror {
        &self.mirror
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
