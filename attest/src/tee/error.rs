//! Why there is no report.

use std::io::ErrorKind;
use std::path::PathBuf;

/// Why there is no report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TeeError {
    /// The interface is not there: this is no confidential VM, or its driver is not loaded.
    #[error("{}: not there: this is no confidential VM, or the driver (sev-guest, tdx-guest) is not loaded", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// Neither interface is there, and either would do.
    #[error(
        "neither {} nor {} is there: this is no confidential VM, or the driver (sev-guest, tdx-guest) is not loaded",
        configfs.display(),
        device.display()
    )]
    NoInterface {
        /// Where `configfs-tsm` was looked for.
        configfs: PathBuf,
        /// The older device.
        device: PathBuf,
    },
    /// The operating system refused.
    #[error("{}: {kind}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What it said.
        kind: ErrorKind,
    },
    /// The kernel's driver is one whose reports are not known here.
    #[error("reports by {found:?} are not known here: expected sev_guest or tdx_guest")]
    Provider {
        /// What it calls itself.
        found: String,
    },
    /// Others use the interface all the time.
    #[error("others kept the report interface busy during {attempts} attempts")]
    Contended {
        /// How often it was tried.
        attempts: u32,
    },
    /// What came is not what it should be.
    #[error("{what}: expected {expected}, found {found}")]
    Malformed {
        /// Which part.
        what: &'static str,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The platform's firmware refused.
    #[error("the platform's firmware refused: {detail}")]
    Firmware {
        /// Its own words.
        detail: String,
    },
    /// The virtual TPM through which reports come failed.
    #[error("the virtual TPM: {detail}")]
    Tpm {
        /// What it said.
        detail: String,
    },
}

impl TeeError {
    /// Whether another attempt may succeed at once: somebody else had the interface.
    #[must_use]
    pub(super) const fn is_contention(&self) -> bool {
        matches!(
            self,
            Self::Io {
                kind: ErrorKind::ResourceBusy | ErrorKind::WouldBlock | ErrorKind::Interrupted,
                ..
            }
        )
    }
}
