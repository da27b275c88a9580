//! Checkpoints: the signed head of a log (C2SP tlog-checkpoint 1.0.0 over [`crate::note`]).
//!
//! ```text
//! <origin>
//! <size, decimal>
//! <root, base64>
//!
//! — <origin> base64(key id || Ed25519 signature)
//! ```

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use touchstone_cose::key::Signer;

use crate::note::{NoteError, NoteKey};
use crate::reason::Code;
use crate::tree::{Hash, empty_root};

/// Why a checkpoint is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The note around it is refused.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The text of the note is not that of a checkpoint.
    #[error("the checkpoint's {0} is malformed")]
    Malformed(&'static str),
    /// It is the head of another log.
    #[error("the checkpoint is of log {found:?}, expected {expected:?}")]
    OtherOrigin {
        /// The origin that was asked for: the name of the log's key.
        expected: String,
        /// The origin in the text.
        found: String,
    },
}

impl CheckpointError {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Note(e) => e.code(),
            Self::Malformed(_) => Code::CheckpointMalformed.as_str(),
            Self::OtherOrigin { .. } => Code::CheckpointOrigin.as_str(),
        }
    }
}

/// Writes the signed head of the log whose key is `log`: `size` leaves with root `root`. Sign only what is durable, and
/// never two roots for one size.
///
/// # Errors
/// [`CheckpointError::Note`] if `signer` fails or holds another key than `log`.
pub fn sign_checkpoint(log: &NoteKey, size: u64, root: &Hash, signer: &dyn Signer) -> Result<String, CheckpointError> {
    let text = format!("{}\n{size}\n{}\n", log.name(), STANDARD.encode(root));
    Ok(log.sign(&text, signer)?)
}

/// The head of a log, as its key has signed it. Only [`VerifiedCheckpoint::open`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedCheckpoint {
    text: String,
    origin: String,
    size: u64,
    root: Hash,
}

impl VerifiedCheckpoint {
    /// Verifies the note `bytes` by the key `log`, whose name is the origin of the log, and reads the signed text.
    /// Extension lines and signatures by others (witnesses) are allowed and ignored.
    ///
    /// # Errors
    /// [`CheckpointError`]: the first thing that is wrong.
    pub fn open(bytes: &[u8], log: &NoteKey) -> Result<Self, CheckpointError> {
        let text = log.open(bytes)?;
        Self::read(text, log.name())
    }

    /// The same where the log may have signed with any of several keys of one origin, as while they are rotated.
    ///
    /// # Errors
    /// [`CheckpointError`] of the last key tried; without a key, [`CheckpointError::Malformed`].
    pub fn open_any(bytes: &[u8], keys: &[NoteKey]) -> Result<Self, CheckpointError> {
        let mut last = CheckpointError::Malformed("list of keys it may be signed with");
        for key in keys {
            match Self::open(bytes, key) {
                Ok(open) => return Ok(open),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn read(text: &str, log: &str) -> Result<Self, CheckpointError> {
        let mut lines = text.strip_suffix('\n').unwrap_or(text).split('\n');
        let mut next = |what| {
            lines
                .next()
                .filter(|line| !line.is_empty())
                .ok_or(CheckpointError::Malformed(what))
        };
        let origin = next("origin")?;
        if origin != log {
            return Err(CheckpointError::OtherOrigin {
                expected: log.to_owned(),
                found: origin.to_owned(),
            });
        }
        let size = parse_size(next("size")?).ok_or(CheckpointError::Malformed("size"))?;
        let root = STANDARD
            .decode(next("root")?)
            .ok()
            .and_then(|root| root.try_into().ok());
        let root = root.ok_or(CheckpointError::Malformed("root"))?;
        if lines.any(str::is_empty) {
            return Err(CheckpointError::Malformed("extension"));
        }
        if size == 0 && root != empty_root() {
            return Err(CheckpointError::Malformed("root of an empty log"));
        }
        Ok(Self {
            text: text.to_owned(),
            origin: origin.to_owned(),
            size,
            root,
        })
    }

    /// What was signed: every line with its newline, extension lines too.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Which log.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// How many entries it has.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The root of the tree over them.
    #[must_use]
    pub const fn root(&self) -> &Hash {
        &self.root
    }
}

/// Decimal digits without a leading zero; nothing else that Rust would take for a number.
pub(crate) fn parse_size(line: &str) -> Option<u64> {
    let canonical = line.bytes().all(|byte| byte.is_ascii_digit()) && (line == "0" || !line.starts_with('0'));
    if canonical { line.parse().ok() } else { None }
}
