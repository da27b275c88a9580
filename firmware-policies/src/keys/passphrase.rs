//! What opens encrypted key files: words from a file or from a person, never from a command line, which others can read.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::private_file::read_private;
use crate::error::{PolicyCode, PolicyError};

/// Shortest passphrase that a new key is encrypted with, in bytes.
pub const MIN_PASSPHRASE_LEN: usize = 12;

type Asker = dyn Fn(&str) -> Result<Zeroizing<String>, String> + Send + Sync;

/// Where the passphrase of encrypted keys comes from.
#[derive(Clone, Default)]
pub enum Passphrase {
    /// There is none: encrypted keys stay closed, new keys are plain.
    #[default]
    None,
    /// The first line of a file that nobody else can read.
    File(PathBuf),
    /// A person is asked; the argument is the key's name.
    Ask(Arc<Asker>),
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Passphrase::None => "None",
            Passphrase::File(_) => "File",
            Passphrase::Ask(_) => "Ask",
        })
    }
}

impl Passphrase {
    /// The words for the key at `file`; nothing where there are none.
    pub(super) fn of(&self, file: &Path) -> Result<Option<Zeroizing<String>>, PolicyError> {
        let refused = |claim: &Path, expected: &str, found: &str| {
            PolicyError::new(PolicyCode::KeyPassphrase, claim.display(), expected, found)
        };
        let words = match self {
            Passphrase::None => return Ok(None),
            Passphrase::File(path) => {
                let text = read_private(path)?;
                let line = text.lines().next().unwrap_or_default();
                if line.is_empty() {
                    return Err(refused(path, "a passphrase in the first line", "an empty line"));
                }
                Zeroizing::new(line.to_owned())
            }
            Passphrase::Ask(ask) => {
                let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
                ask(&name).map_err(|e| refused(file, "a passphrase", &e))?
            }
        };
        Ok(Some(words))
    }
}
