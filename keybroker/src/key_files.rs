//! Private keys on disk: one file a key, readable by nobody but the broker.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Longest key or certificate file, in bytes.
pub const MAX_KEY_FILE_BYTES: u64 = 16 * 1024;

/// Permission bits that let anybody but the owner near a file.
const NOT_OWNER: u32 = 0o077;

/// Why a key file is not used or not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// The file system refuses.
    #[error("cannot {operation} {}: {detail}", path.display())]
    Io {
        /// What was tried, as "open".
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's own words.
        detail: String,
    },
    /// Others than the owner may read or write it, so others may have read it.
    #[error("{} has mode {found:04o}, expected {expected:04o}: make new keys unless you know that nobody read it", path.display())]
    NotPrivate {
        /// The file or folder.
        path: PathBuf,
        /// The mode it should have.
        expected: u32,
        /// The mode it has.
        found: u32,
    },
    /// Longer than [`MAX_KEY_FILE_BYTES`].
    #[error("{} has {found} bytes, a key file has at most {limit}", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The limit, in bytes.
        limit: u64,
        /// The length, in bytes.
        found: u64,
    },
    /// Not a key of the kind expected. What it holds instead is not shown.
    #[error("{} is not {expected}", path.display())]
    NotAKey {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
    },
    /// A key is there already, and making another one would lose it.
    #[error("{} exists already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
}

fn io(operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> KeyFileError {
    move |e| KeyFileError::Io {
        operation,
        path: path.into(),
        detail: e.to_string(),
    }
}

/// Makes a folder (mode 0700), or checks that the one there is private.
///
/// # Errors
/// [`KeyFileError::Io`] or [`KeyFileError::NotPrivate`]
pub fn private_folder(path: &Path) -> Result<(), KeyFileError> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => return Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(io("make", path)(e)),
    }
    let found = std::fs::metadata(path).map_err(io("look at", path))?.mode() & 0o7777;
    if found & NOT_OWNER != 0 {
        return Err(KeyFileError::NotPrivate {
            path: path.into(),
            expected: 0o700,
            found,
        });
    }
    Ok(())
}

/// Writes a new file of mode 0600 and makes it durable; never overwrites.
///
/// # Errors
/// [`KeyFileError::Exists`] or [`KeyFileError::Io`]
pub fn write_new(path: &Path, content: &[u8]) -> Result<(), KeyFileError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| {
            if e.kind() == std::io::ErrorKind::AlreadyExists {
                KeyFileError::Exists { path: path.into() }
            } else {
                io("make", path)(e)
            }
        })?;
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .map_err(io("write", path))
}

/// Makes the names in a folder durable.
///
/// # Errors
/// [`KeyFileError::Io`]
pub fn sync_folder(path: &Path) -> Result<(), KeyFileError> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(io("sync", path))
}

/// Reads a file that only its owner may read. The mode is that of the file that was opened, not of its name.
///
/// # Errors
/// [`KeyFileError`]
pub fn read_private(path: &Path) -> Result<Zeroizing<String>, KeyFileError> {
    let mut file = File::open(path).map_err(io("open", path))?;
    let metadata = file.metadata().map_err(io("look at", path))?;
    let found = metadata.mode() & 0o7777;
    if found & NOT_OWNER != 0 {
        return Err(KeyFileError::NotPrivate {
            path: path.into(),
            expected: 0o600,
            found,
        });
    }
    if !metadata.is_file() || metadata.len() > MAX_KEY_FILE_BYTES {
        let found = metadata.len();
        return Err(KeyFileError::TooLong {
            path: path.into(),
            limit: MAX_KEY_FILE_BYTES,
            found,
        });
    }
    let mut text = Zeroizing::new(String::with_capacity(MAX_KEY_FILE_BYTES as usize));
    (&mut file)
        .take(MAX_KEY_FILE_BYTES)
        .read_to_string(&mut text)
        .map_err(io("read", path))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn chmod(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn files_others_may_read_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        write_new(&path, b"secret").unwrap();
        assert_eq!(read_private(&path).unwrap().as_str(), "secret");
        for mode in [0o640, 0o604, 0o660, 0o606, 0o610] {
            chmod(&path, mode);
            let refused = KeyFileError::NotPrivate {
                path: path.clone(),
                expected: 0o600,
                found: mode,
            };
            assert_eq!(read_private(&path), Err(refused), "{mode:o}");
        }
    }

    #[test]
    fn nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        write_new(&path, b"first").unwrap();
        assert_eq!(
            write_new(&path, b"second"),
            Err(KeyFileError::Exists { path: path.clone() })
        );
        assert_eq!(read_private(&path).unwrap().as_str(), "first");
    }

    #[test]
    fn folders_others_may_enter_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        private_folder(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        private_folder(&path).unwrap();
        chmod(&path, 0o711);
        assert!(matches!(
            private_folder(&path),
            Err(KeyFileError::NotPrivate { found: 0o711, .. })
        ));
    }

    #[test]
    fn an_endless_file_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        write_new(&path, &vec![b'x'; MAX_KEY_FILE_BYTES as usize + 1]).unwrap();
        assert!(matches!(read_private(&path), Err(KeyFileError::TooLong { .. })));
    }
}
