//! Reading measurement logs from the machine. What they say is judged by the verifier, never here.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use touchstone_evidence::label;
use touchstone_evidence::message::BOOT_ID_LEN;

/// Where Linux shows the firmware's event log (TCG PC Client Platform Firmware Profile, crypto-agile format).
pub const FIRMWARE_LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";
/// Where Linux shows the event log of a TDX guest (ACPI table CCEL, Intel GHCI 4.3.2).
pub const CC_EVENT_LOG: &str = "/sys/firmware/acpi/tables/data/CCEL";
/// Where Linux shows the list of IMA's measurements, binary form.
pub const IMA_LIST: &str = "/sys/kernel/security/ima/binary_runtime_measurements";
/// Where Linux shows the id it drew for this boot (`Documentation/admin-guide/sysctl/kernel.rst`, `random`): a UUID.
pub const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// The longest firmware log that is read, in bytes.
pub const MAX_FIRMWARE_LOG: usize = label::MAX_FIRMWARE_LOG;
/// The most of an IMA list that is sent at once, in bytes.
pub const MAX_IMA_LIST: usize = label::MAX_IMA_LOG;

/// Why a log could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogReadError {
    /// There is no such file: the kernel has no log (Secure Boot off with an old loader), or securityfs is not mounted.
    #[error(
        "no log at {path}: is securityfs mounted, and was the kernel started through its EFI stub (firmware log) or with an IMA policy (IMA list)?"
    )]
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
    /// The log is longer than [`MAX_FIRMWARE_LOG`] or [`MAX_IMA_LIST`]. It is not cut: a cut log would replay to other values.
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

/// Reads the IMA list at `path` (usually [`IMA_LIST`]), whole; `known` bytes of it have been sent before and do not count
/// towards the limit.
///
/// # Errors
/// [`LogReadError`]; a list with over [`MAX_IMA_LIST`] bytes behind the known ones is refused, never cut.
pub fn ima_list(path: &Path, known: usize) -> Result<Vec<u8>, LogReadError> {
    read_bounded(path, MAX_IMA_LIST.saturating_add(known))
}

/// The kernel's id of this boot at `path` (usually [`BOOT_ID`]). `None` where there is none, or no UUID: it is a hint, and
/// without it logs are sent whole.
#[must_use]
pub fn boot_id(path: &Path) -> Option<[u8; BOOT_ID_LEN]> {
    /// A UUID in text and a line break.
    const MAX_TEXT: usize = 64;
    let text = String::from_utf8(read_bounded(path, MAX_TEXT).ok()?).ok()?;
    let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
    hex::decode(digits).ok()?.try_into().ok()
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
    fn what_was_sent_before_does_not_count_towards_the_limit_of_a_list() {
        let path = scratch("list", &vec![7; MAX_IMA_LIST + 1]);
        assert!(matches!(
            ima_list(&path, 0),
            Err(LogReadError::TooLong {
                limit: MAX_IMA_LIST,
                ..
            })
        ));
        assert_eq!(ima_list(&path, 1).map(|list| list.len()), Ok(MAX_IMA_LIST + 1));
        std::fs::remove_file(path).expect("removed");
    }

    #[test]
    fn a_boot_id_is_a_uuid_or_nothing() {
        let uuid = "6f1e2d3c-4b5a-4978-8796-a5b4c3d2e1f0\n";
        for (name, contents, expected) in [
            ("uuid", uuid, hex::decode("6f1e2d3c4b5a49788796a5b4c3d2e1f0").ok()),
            ("short", "6f1e2d3c-4b5a-4978-8796-a5b4c3d2e1\n", None),
            ("words", "no boot id of this kernel here\n", None),
            ("long", &uuid.repeat(2), None),
            ("empty", "", None),
        ] {
            let path = scratch(&format!("boot-id-{name}"), contents.as_bytes());
            assert_eq!(boot_id(&path).map(|id| id.to_vec()), expected, "{name}");
            std::fs::remove_file(path).expect("removed");
        }
        assert_eq!(boot_id(&std::env::temp_dir().join("touchstone-no-boot-id")), None);
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
