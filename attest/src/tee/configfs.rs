//! Reports through the kernel's `configfs-tsm` (Linux 6.7 and later, `Documentation/ABI/testing/configfs-tsm-report`).
//!
//! A report is an entry of its own: a folder is made, the data are written to `inblob`, the report is read from `outblob`
//! and what belongs to it from `auxblob`, the folder is removed. `generation` counts the writes; where it counts others
//! than ours, what was read may be over somebody else's data, and it is done again.

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{MAX_BLOB, Provider, REPORT_DATA_LEN, Report, ReportSource, TeeError};

/// Where the kernel has it.
pub const BASE: &str = "/sys/kernel/config/tsm/report";

/// How often a report is asked for while others use the interface.
const ATTEMPTS: u32 = 20;
/// How long between two attempts.
const PAUSE: Duration = Duration::from_millis(25);
/// How long an entry may take to show its attributes. The kernel has them there before the folder; an implementation in
/// user space needs a moment.
const APPEARANCE: Duration = Duration::from_secs(2);
/// The most bytes of an attribute in words.
const MAX_WORDS: u64 = 256;

/// The interface.
#[derive(Debug, Clone)]
pub struct ConfigFs {
    base: PathBuf,
    privilege_level: Option<u8>,
}

impl ConfigFs {
    /// The interface at `base`; reports from this privilege level (SEV-SNP: VMPL), where one is given.
    ///
    /// # Errors
    /// [`TeeError::Missing`] where there is none.
    pub fn open(base: &Path, privilege_level: Option<u8>) -> Result<Self, TeeError> {
        if !base.is_dir() {
            return Err(TeeError::Missing { path: base.to_owned() });
        }
        Ok(Self {
            base: base.to_owned(),
            privilege_level,
        })
    }

    /// One attempt; none where somebody else wrote meanwhile.
    fn attempt(&self, report_data: &[u8; REPORT_DATA_LEN]) -> Result<Option<Report>, TeeError> {
        let entry = Entry::make(&self.base)?;
        let named = entry.words("provider")?;
        let provider = Provider::of_kernel(&named).ok_or(TeeError::Provider { found: named })?;
        let before = entry.generation()?;
        let mut writes = 1;
        if let Some(level) = self.privilege_level {
            entry.write("privlevel", level.to_string().as_bytes())?;
            writes += 1;
        }
        entry.write("inblob", report_data)?;
        let report = entry.blob("outblob")?;
        let auxiliary = entry.auxiliary()?;
        if entry.generation()? != before.wrapping_add(writes) {
            return Ok(None);
        }
        Ok(Some(Report {
            provider,
            report,
            auxiliary,
        }))
    }
}

impl ReportSource for ConfigFs {
    fn report(&mut self, report_data: &[u8; REPORT_DATA_LEN]) -> Result<Report, TeeError> {
        for _ in 0..ATTEMPTS {
            match self.attempt(report_data) {
                Ok(Some(report)) => return Ok(report),
                Ok(None) => {}
                Err(error) if error.is_contention() => {}
                Err(error) => return Err(error),
            }
            // Nothing tells when the other is done.
            std::thread::park_timeout(PAUSE);
        }
        Err(TeeError::Contended { attempts: ATTEMPTS })
    }
}

/// An entry of our own; it goes away with this.
struct Entry {
    path: PathBuf,
}

impl Entry {
    fn make(base: &Path) -> Result<Self, TeeError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|_| TeeError::Io {
            path: base.to_owned(),
            kind: ErrorKind::Other,
        })?;
        // A name that nobody else takes, whoever else runs this program.
        let count = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("touchstone-{}-{count}-{}", std::process::id(), hex::encode(random));
        let path = base.join(name);
        fs::create_dir(&path).map_err(|error| io(&path, &error))?;
        let entry = Self { path };
        let begun = Instant::now();
        while !entry.path.join("outblob").exists() {
            if begun.elapsed() > APPEARANCE {
                return Err(TeeError::Missing {
                    path: entry.path.join("outblob"),
                });
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
        Ok(entry)
    }

    fn words(&self, name: &str) -> Result<String, TeeError> {
        let path = self.path.join(name);
        let mut text = String::new();
        File::open(&path)
            .and_then(|file| file.take(MAX_WORDS).read_to_string(&mut text))
            .map_err(|error| io(&path, &error))?;
        Ok(text.trim().to_owned())
    }

    fn generation(&self) -> Result<u64, TeeError> {
        let found = self.words("generation")?;
        found.parse().map_err(|_| TeeError::Malformed {
            what: "generation",
            expected: "a number".into(),
            found,
        })
    }

    /// One write, whole; a binary attribute counts when the file is closed, which is when this returns.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), TeeError> {
        let path = self.path.join(name);
        File::options()
            .write(true)
            .open(&path)
            .and_then(|mut file| file.write_all(bytes))
            .map_err(|error| io(&path, &error))
    }

    fn blob(&self, name: &'static str) -> Result<Vec<u8>, TeeError> {
        let path = self.path.join(name);
        let mut bytes = Vec::new();
        File::open(&path)
            .and_then(|file| file.take(MAX_BLOB as u64 + 1).read_to_end(&mut bytes))
            .map_err(|error| io(&path, &error))?;
        if bytes.len() > MAX_BLOB {
            return Err(TeeError::Malformed {
                what: name,
                expected: format!("at most {MAX_BLOB} bytes"),
                found: "more".into(),
            });
        }
        Ok(bytes)
    }

    /// What came beside the report. A provider without it has no such attribute, or nothing in it.
    fn auxiliary(&self) -> Result<Vec<u8>, TeeError> {
        match self.blob("auxblob") {
            Err(TeeError::Io {
                kind: ErrorKind::NotFound | ErrorKind::InvalidInput,
                ..
            }) => Ok(Vec::new()),
            other => other,
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // An entry that stays behind costs the kernel a little memory; the report is none the worse for it.
        if let Err(error) = fs::remove_dir(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "a report entry stays behind");
        }
    }
}

fn io(path: &Path, error: &std::io::Error) -> TeeError {
    TeeError::Io {
        path: path.to_owned(),
        kind: error.kind(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_interface_is_told_apart_from_everything_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report");
        assert_eq!(
            ConfigFs::open(&path, None).unwrap_err(),
            TeeError::Missing { path: path.clone() }
        );
    }

    #[test]
    fn only_contention_is_tried_again() {
        let io = |kind| TeeError::Io {
            path: PathBuf::new(),
            kind,
        };
        for kind in [ErrorKind::ResourceBusy, ErrorKind::WouldBlock, ErrorKind::Interrupted] {
            assert!(io(kind).is_contention(), "{kind}");
        }
        assert!(!io(ErrorKind::PermissionDenied).is_contention());
        assert!(!TeeError::Contended { attempts: 1 }.is_contention());
    }
}
