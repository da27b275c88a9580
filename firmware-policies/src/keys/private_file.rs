//! Small files with a secret in them, which nobody but their owner may read or change.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use zeroize::Zeroizing;

use crate::error::{PolicyCode, PolicyError};

/// Largest key file; an encrypted PKCS#8 Ed25519 key in PEM is about 400 bytes.
pub const MAX_KEY_FILE_LEN: u64 = 4096;
/// Bits of the mode of a file that others can read or change.
const EXPOSED: u32 = 0o077;

/// Reads a small file that nobody but its owner can read or change.
pub(super) fn read_private(path: &Path) -> Result<Zeroizing<String>, PolicyError> {
    let io = |e: std::io::Error| PolicyError::io(path, "a key file", &e);
    // Opening a pipe would wait for a writer for ever, so the kind is looked at before.
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(invalid(path, "no regular file"));
    }
    let file = std::fs::File::open(path).map_err(io)?;
    // The mode of the file that is read, not of one that was there a moment before.
    let meta = file.metadata().map_err(io)?;
    if !meta.is_file() || meta.len() > MAX_KEY_FILE_LEN {
        return Err(invalid(path, &format!("no file of at most {MAX_KEY_FILE_LEN} bytes")));
    }
    if meta.mode() & EXPOSED != 0 {
        let found = format!("mode {:04o}", meta.mode() & 0o7777);
        return Err(PolicyError::new(
            PolicyCode::KeyFileExposed,
            path.display(),
            "mode 0600",
            found,
        ));
    }
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_KEY_FILE_LEN).read_to_string(&mut text).map_err(io)?;
    Ok(text)
}

/// What is no key.
pub(super) fn invalid(path: &Path, found: &str) -> PolicyError {
    PolicyError::new(PolicyCode::KeyFileInvalid, path.display(), "an Ed25519 key", found)
}
