//! Files that are read to a limit, and no further; and how large the metadata of a repository may be.

use std::fmt;
use std::io::Read;
use std::path::Path;

/// Largest metadata file: a hundred thousand targets are about 20 MB.
pub const MAX_METADATA_LEN: u64 = 32 << 20;
/// Largest root, snapshot or timestamp file.
pub const MAX_ROLE_LEN: u64 = 1 << 20;
/// Most root rotations followed from the first root.
pub const MAX_ROOT_UPDATES: u64 = 1024;

/// A file that is larger than any honest one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLarge {
    pub limit: u64,
}

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "more than {} bytes", self.limit)
    }
}

impl std::error::Error for TooLarge {}

/// Reads at most `limit` bytes of a regular file.
///
/// # Errors
/// [`std::io::Error`]; of kind `FileTooLarge` where the file is larger, `InvalidInput` where it is no regular file.
pub fn read_bounded(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    // Opening a pipe would wait for a writer for ever, so the kind is looked at before.
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            "not a regular file",
        ));
    }
    let file = std::fs::File::open(path)?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(std::io::Error::new(
            std::io::ErrorKind::FileTooLarge,
            TooLarge { limit },
        ));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_or_too_large_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            read_bounded(dir.path(), 9).unwrap_err().kind(),
            std::io::ErrorKind::InvalidInput
        );
        let file = dir.path().join("f");
        std::fs::write(&file, [0; 10]).unwrap();
        assert_eq!(read_bounded(&file, 10).unwrap().len(), 10);
        assert_eq!(
            read_bounded(&file, 9).unwrap_err().kind(),
            std::io::ErrorKind::FileTooLarge
        );
        assert_eq!(
            read_bounded(Path::new("/dev/zero"), 9).unwrap_err().kind(),
            std::io::ErrorKind::InvalidInput
        );
    }
}
