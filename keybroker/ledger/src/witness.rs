//! What a witness checks before it cosigns (C2SP tlog-witness 1.0.0): that a log's new head continues the one it saw last.
//!
//! Pure: what was seen last comes in, what is seen now goes out. Whoever keeps it compares and keeps in one step: of two
//! requests at once that begin at the same size, one is refused.
//!
//! ```text
//! old <size>
//! <hash, base64>      at most 63, from old to new
//!
//! <checkpoint note>
//! ```

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use touchstone_cose::key::Signer;

use crate::checkpoint::{CheckpointError, VerifiedCheckpoint, parse_size};
use crate::cosignature::CosignerKey;
use crate::note::{MAX_NOTE_LEN, NoteError, NoteKey};
use crate::reason::Code;
use crate::tree::{Hash, ProofError, verify_consistency};

/// Most hashes in a proof, by the specification.
pub const MAX_PROOF_LINES: usize = 63;

/// Longest request, in bytes: a note, and a proof of lines of 45 characters.
pub const MAX_REQUEST_LEN: usize = MAX_NOTE_LEN + 64 * 64;

/// The head of a log that a witness saw last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// How many entries.
    pub size: u64,
    /// Their root.
    pub root: Hash,
}

/// A request to a witness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The size at which the proof begins: what the witness is thought to have seen last, 0 for nothing.
    pub old: u64,
    /// The consistency proof from there; empty from 0 and where nothing was added.
    pub proof: Vec<Hash>,
    /// The new head, a signed note.
    pub checkpoint: String,
}

/// Why a witness does not cosign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WitnessError {
    /// Not a request (HTTP 400).
    #[error("the request's {0} is malformed")]
    Malformed(&'static str),
    /// The log is none that is watched (HTTP 404).
    #[error("log {0:?} is not watched here")]
    UnknownLog(String),
    /// Not signed by a key of the log (HTTP 403), or no checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The proof begins elsewhere (HTTP 409, `text/x.tlog.size`).
    #[error("the head seen last has {seen} entries, the proof begins at {old}")]
    OldSize {
        /// What was seen last.
        seen: u64,
        /// Where the proof begins.
        old: u64,
    },
    /// The log's own key has signed two heads of one size with different roots (HTTP 409).
    #[error("the log signed two roots for {size} entries: {} and {}", hex(seen), hex(found))]
    Rewritten {
        /// The size.
        size: u64,
        /// The root seen before.
        seen: Hash,
        /// The root signed now.
        found: Hash,
    },
    /// The proof does not show that the new head continues the old one (HTTP 422). If no proof does, the log was
    /// rewritten.
    #[error("that the log continues is not shown: {0}")]
    Proof(#[from] ProofError),
    /// The witness could not sign.
    #[error(transparent)]
    Signing(#[from] NoteError),
}

impl WitnessError {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) => Code::WitnessRequest.as_str(),
            Self::UnknownLog(_) => Code::WitnessOrigin.as_str(),
            Self::Checkpoint(error) => error.code(),
            Self::OldSize { .. } => Code::WitnessSize.as_str(),
            Self::Rewritten { .. } => Code::LedgerRewritten.as_str(),
            Self::Proof(error) => error.code(),
            Self::Signing(error) => error.code(),
        }
    }

    /// The HTTP status that tlog-witness gives it.
    #[must_use]
    pub const fn http_status(&self) -> u16 {
        match self {
            Self::Malformed(_) => 400,
            Self::UnknownLog(_) => 404,
            Self::Checkpoint(_) => 403,
            Self::OldSize { .. } | Self::Rewritten { .. } => 409,
            Self::Proof(_) => 422,
            Self::Signing(_) => 500,
        }
    }
}

impl Request {
    /// The request's bytes.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = format!("old {}\n", self.old);
        for hash in &self.proof {
            text.push_str(&STANDARD.encode(hash));
            text.push('\n');
        }
        text.push('\n');
        text.push_str(&self.checkpoint);
        text
    }

    /// Reads a request. The checkpoint in it is not looked into.
    ///
    /// # Errors
    /// [`WitnessError::Malformed`]
    pub fn decode(bytes: &[u8]) -> Result<Self, WitnessError> {
        if bytes.len() > MAX_REQUEST_LEN {
            return Err(WitnessError::Malformed("length"));
        }
        let text = str::from_utf8(bytes).map_err(|_| WitnessError::Malformed("encoding"))?;
        let (first, mut rest) = text.split_once('\n').ok_or(WitnessError::Malformed("old size"))?;
        let old = first.strip_prefix("old ").and_then(parse_size);
        let old = old.ok_or(WitnessError::Malformed("old size"))?;
        let mut proof = Vec::new();
        loop {
            let (line, after) = rest.split_once('\n').ok_or(WitnessError::Malformed("proof"))?;
            rest = after;
            if line.is_empty() {
                break;
            }
            if proof.len() == MAX_PROOF_LINES {
                return Err(WitnessError::Malformed("proof: over 63 lines"));
            }
            let hash = STANDARD.decode(line).ok().and_then(|hash| hash.try_into().ok());
            proof.push(hash.ok_or(WitnessError::Malformed("proof"))?);
        }
        Ok(Self {
            old,
            proof,
            checkpoint: rest.to_owned(),
        })
    }

    /// The origin that the checkpoint claims, unverified: which log's keys and last head are to be looked up.
    #[must_use]
    pub fn origin(&self) -> &str {
        self.checkpoint.split('\n').next().unwrap_or_default()
    }
}

/// Checks a request against what was seen last of its log, whose keys are `keys`. Gives the head that is seen now: keep it
/// in place of `seen` in one step, then cosign it ([`CosignerKey::cosign`]), never the other way round.
///
/// # Errors
/// [`WitnessError`]; then `seen` stays.
pub fn observe(
    seen: Option<&Seen>,
    request: &Request,
    keys: &[NoteKey],
) -> Result<(Seen, VerifiedCheckpoint), WitnessError> {
    if !keys.iter().any(|key| key.name() == request.origin()) {
        return Err(WitnessError::UnknownLog(
            request.origin().escape_debug().take(NoteKey::MAX_SHOWN).collect(),
        ));
    }
    let checkpoint = VerifiedCheckpoint::open_any(request.checkpoint.as_bytes(), keys)?;
    let found = Seen {
        size: checkpoint.size(),
        root: *checkpoint.root(),
    };
    if request.old > found.size {
        return Err(WitnessError::Malformed("old size: over that of the checkpoint"));
    }
    let before = seen.map_or(0, |seen| seen.size);
    if request.old != before {
        return Err(WitnessError::OldSize {
            seen: before,
            old: request.old,
        });
    }
    match seen {
        Some(seen) if seen.size == found.size && seen.root != found.root => Err(WitnessError::Rewritten {
            size: seen.size,
            seen: seen.root,
            found: found.root,
        }),
        Some(seen) if seen.size > 0 => {
            verify_consistency(seen.size, &seen.root, found.size, &found.root, &request.proof)?;
            Ok((found, checkpoint))
        }
        _ if request.proof.is_empty() => Ok((found, checkpoint)),
        _ => Err(ProofError::TooLong {
            found: request.proof.len(),
        }
        .into()),
    }
}

/// The whole of it: checks, and signs at `now` (Unix seconds). Gives what is to be kept before the line is given away.
///
/// # Errors
/// [`WitnessError`]
pub fn witness(
    seen: Option<&Seen>,
    request: &Request,
    keys: &[NoteKey],
    cosigner: (&CosignerKey, &dyn Signer),
    now: u64,
) -> Result<(Seen, String), WitnessError> {
    let (found, checkpoint) = observe(seen, request, keys)?;
    let line = cosigner.0.cosign(checkpoint.text(), now, cosigner.1)?;
    Ok((found, line))
}

fn hex(hash: &Hash) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}
