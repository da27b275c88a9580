//! Reading measurement logs from the machine. What they say is judged by the verifier, never here.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

/// Where Linux shows the firmware's event log (TCG PC Client Platform Firmware Profile, crypto-agile format).
pub const FIRMWARE_LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";
/// The longest firmware log that is read, in bytes. Logs of real machines are 5-100 KiB; firmware reserves at most
/// a few hundred.
pub const MAX_FIRMWARE_LOG: usize = 1 << 20;

/// Why a log could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogReadError {
    /// There is no such file: the kernel has no log (Secure Boot off with an old loader), or securityfs is not mounted.
    #[error("no firmware event log at {path}: is securityfs mounted, and was the kernel started through its EFI stub?")]
    Absent {
        /// The path looked at.
        path: PathBuf,
    },
    /// The file exists but this user may not read it.
    #[error("not allowed to read {path}: run as root or with CAP_DAC_READ_SEARCH")]
    NotAllowed {
        /// The path looked at.
        path: PathBuf,
    },
    /// The log is longer than [`MAX_FIRMWARE_LOG`]. It is not cut: a cut log would replay to other values.
    #[error("{path} is longer than {limit} bytes")]
    TooLong {
        /// The path looked at.
        path: PathBuf,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The file is empty.
    #[error("{path} is empty")]
    Empty {
        /// The path looked at.
        path: PathBuf,
    },
    /// Reading failed otherwise.
    #[error("cannot read {path}: {kind}")]
    Io {
        /// The path looked at.
        path: PathBuf,
        /// What the system said.
        kind: ErrorKind,
    },
}

/// Reads the firmware event log at `path` (usually [`FIRMWARE_LOG`]), whole.
///
/// # Errors
/// [`LogReadError`]; a log over [`MAX_FIRMWARE_LOG`] bytes is refused, never cut.
pub fn firmware_log(path: &Path) -> Result<Vec<u8>, LogReadError> {
    read_bounded(path, MAX_FIRMWARE_LOG)
}

fn read_bounded(path: &Path, limit: usize) -> Result<Vec<u8>, LogReadError> {
    let failed = |e: std::io::Error| match e.kind() {
        ErrorKind::NotFound => LogReadError::Absent { path: path.into() },
        ErrorKind::PermissionDenied => LogReadError::NotAllowed { path: path.into() },
        kind => LogReadError::Io {
            path: path.into(),
            kind,
        },
    };
    let mut log = Vec::new();
    // securityfs files report a size of 0, so the limit is put on what is read. One byte more shows "too long".
    let bound = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path)
        .map_err(failed)?
        .take(bound)
        .read_to_end(&mut log)
        .map_err(failed)?;
    if log.len() > limit {
        return Err(LogReadError::TooLong {
            path: path.into(),
            limit,
        });
    }
    if log.is_empty() {
        return Err(LogReadError::Empty { path: path.into() });
    }
    Ok(log)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str, contents: &[u8]) -> PathBuf {
        let path = std::env::temp_dir().join(format!("touchstone-logs-{}-{name}", std::process::id()));
        std::fs::write(&path, contents).expect("a scratch file");
        path
    }

    #[test]
    fn a_log_of_exactly_the_limit_is_read_whole() {
        let path = scratch("exact", &[7; 64]);
        assert_eq!(read_bounded(&path, 64), Ok(vec![7; 64]));
        std::fs::remove_file(path).expect("removed");
    }

    #[test]
    fn a_log_over_the_limit_is_refused_not_cut() {
        let path = scratch("over", &[7; 65]);
        assert_eq!(
            read_bounded(&path, 64),
            Err(LogReadError::TooLong {
                path: path.clone(),
                limit: 64
            })
        );
        std::fs::remove_file(path).expect("removed");
    }

    #[test]
    fn an_endless_file_ends_at_the_limit() {
        let path = Path::new("/dev/zero");
        assert_eq!(
            firmware_log(path),
            Err(LogReadError::TooLong {
                path: path.into(),
                limit: MAX_FIRMWARE_LOG
            })
        );
    }

    #[test]
    fn an_absent_or_empty_log_is_an_error_of_its_own() {
        let path = std::env::temp_dir().join("touchstone-no-such-log");
        assert_eq!(firmware_log(&path), Err(LogReadError::Absent { path }));
        let path = scratch("empty", &[]);
        assert_eq!(firmware_log(&path), Err(LogReadError::Empty { path: path.clone() }));
        std::fs::remove_file(path).expect("removed");
    }
}
