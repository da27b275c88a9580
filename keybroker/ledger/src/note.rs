//! Signed notes (C2SP signed-note 1.0.0): text, a blank line, and lines of `— name base64(key id || signature)`.
//!
//! Only Ed25519 (type 0x01) is made and verified here, and cosignatures (type 0x04) in [`crate::cosignature`]. Signatures
//! by other keys, and of other types, are carried by the note and ignored, as the specification asks.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use touchstone_cose::key::{SignError, Signer, VerifyingKey};

use crate::reason::Code;

/// Longest note, in bytes: text, and 16 signatures of the largest kind that the specification speaks of.
pub const MAX_NOTE_LEN: usize = 128 * 1024;

/// Most signature lines in a note. The specification asks for at least 16.
pub const MAX_SIGNATURES: usize = 64;

/// Longest key name, in bytes (C2SP tlog-cosignature carries it in one length byte).
pub const MAX_NAME_LEN: usize = 255;

/// Signature type of plain Ed25519.
const ED25519: u8 = 0x01;

/// What every signature line begins with: an em dash and a space.
const DASH: &str = "\u{2014} ";

/// Why something is not a note, or not one to be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoteError {
    /// Longer than [`MAX_NOTE_LEN`].
    #[error("a note has {found} bytes, the limit is {limit}")]
    TooLong {
        /// The limit, in bytes.
        limit: usize,
        /// The length, in bytes.
        found: usize,
    },
    /// More lines than [`MAX_SIGNATURES`].
    #[error("a note has more than {limit} signatures")]
    TooManySignatures {
        /// The limit.
        limit: usize,
    },
    /// Not UTF-8, or with control characters other than the newline.
    #[error("a note is not plain text")]
    NotText,
    /// No text, no blank line, or no signatures.
    #[error("a note lacks its {0}")]
    Incomplete(&'static str),
    /// A signature line that is not one.
    #[error("signature line {0} is malformed")]
    MalformedSignature(usize),
    /// A key name that is empty, too long, or has spaces or a plus sign.
    #[error("the key name is malformed")]
    MalformedName,
    /// A verifier key that is not `name+hex+base64` of an Ed25519 key.
    #[error("the verifier key is malformed: {0}")]
    MalformedKey(&'static str),
    /// A signature by a known key is wrong: the whole note is refused.
    #[error("the signature by {name} does not verify")]
    BadSignature {
        /// The name of the key.
        name: String,
    },
    /// No signature by a known key.
    #[error("the note is not signed by {expected}")]
    NotSigned {
        /// The name of the key that had to sign.
        expected: String,
    },
    /// The private key could not be used.
    #[error(transparent)]
    Signing(#[from] SignError),
}

impl NoteError {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::BadSignature { .. } | Self::NotSigned { .. } => Code::NoteSignature.as_str(),
            Self::Signing(_) => Code::SigningFailed.as_str(),
            _ => Code::NoteMalformed.as_str(),
        }
    }
}

/// The public key of a note signer, and the name it signs under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteKey {
    name: String,
    id: [u8; 4],
    public: [u8; 32],
}

impl NoteKey {
    /// Characters of an unverified name that are shown.
    pub(crate) const MAX_SHOWN: usize = 80;

    /// A key known from elsewhere, such as the signed keyset.
    ///
    /// # Errors
    /// [`NoteError::MalformedName`], or [`NoteError::MalformedKey`] if `key` is not a usable Ed25519 key.
    pub fn new(name: &str, key: &VerifyingKey) -> Result<Self, NoteError> {
        match key {
            VerifyingKey::Ed25519(public) => Self::ed25519(name, *public),
            _ => Err(NoteError::MalformedKey("not of type Ed25519")),
        }
    }

    fn ed25519(name: &str, public: [u8; 32]) -> Result<Self, NoteError> {
        check_name(name)?;
        VerifyingKey::ed25519(public).map_err(|_| NoteError::MalformedKey("not a usable Ed25519 public key"))?;
        Ok(Self {
            name: name.to_owned(),
            id: key_id(name, ED25519, &public),
            public,
        })
    }

    /// Reads a verifier key: `name+hex(key id)+base64(type || public key)`.
    ///
    /// # Errors
    /// [`NoteError::MalformedKey`] says what is wrong; a key id that does not belong to name and key is.
    pub fn parse(vkey: &str) -> Result<Self, NoteError> {
        let (name, public) = parse_vkey(vkey, ED25519)?;
        Self::ed25519(name, public)
    }

    /// The verifier key that [`NoteKey::parse`] reads.
    #[must_use]
    pub fn to_vkey(&self) -> String {
        vkey(&self.name, ED25519, &self.public)
    }

    /// The name it signs under.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Writes the note that says `text`, signed by the private half of this key.
    ///
    /// # Errors
    /// [`NoteError::NotText`] or [`NoteError::Incomplete`] if `text` is not one that a note may have;
    /// [`NoteError::Signing`] if `signer` fails, [`NoteError::BadSignature`] if it holds another key.
    pub fn sign(&self, text: &str, signer: &dyn Signer) -> Result<String, NoteError> {
        check_text(text)?;
        if !text.ends_with('\n') {
            return Err(NoteError::Incomplete("final newline"));
        }
        let signature = signer.sign(text.as_bytes())?;
        self.verify(text, &signature)?;
        Ok(format!("{text}\n{}", signature_line(&self.name, self.id, &signature)))
    }

    /// The text of `note`, if this key has signed it.
    ///
    /// # Errors
    /// [`NoteError`]: the first thing that is wrong. A wrong signature by this key refuses the note even beside a
    /// right one.
    pub fn open<'a>(&self, note: &'a [u8]) -> Result<&'a str, NoteError> {
        let (text, signatures) = split(note)?;
        let mut signed = false;
        for parsed in parse_signatures(signatures) {
            let (name, id, signature) = parsed?;
            if name == self.name && id == self.id {
                self.verify(text, &signature)?;
                signed = true;
            }
        }
        if signed {
            Ok(text)
        } else {
            Err(NoteError::NotSigned {
                expected: self.name.clone(),
            })
        }
    }

    fn verify(&self, text: &str, signature: &[u8]) -> Result<(), NoteError> {
        let verified = VerifyingKey::Ed25519(self.public).verify(text.as_bytes(), signature);
        verified.map_err(|_| NoteError::BadSignature {
            name: self.name.clone(),
        })
    }
}

/// The verifier key of a public key of this type.
pub(crate) fn vkey(name: &str, kind: u8, public: &[u8; 32]) -> String {
    let mut key = vec![kind];
    key.extend_from_slice(public);
    let id = u32::from_be_bytes(key_id(name, kind, public));
    format!("{name}+{id:08x}+{}", STANDARD.encode(key))
}

/// Name and public key of a verifier key of this type; its key id is checked.
pub(crate) fn parse_vkey(text: &str, kind: u8) -> Result<(&str, [u8; 32]), NoteError> {
    // Base64 may contain the separator, so it is the first two that count.
    let mut parts = text.splitn(3, '+');
    let (Some(name), Some(_), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(NoteError::MalformedKey("not of three parts"));
    };
    let key = STANDARD
        .decode(key)
        .map_err(|_| NoteError::MalformedKey("not base64"))?;
    let public = match key.split_first() {
        Some((found, public)) if *found == kind => public
            .try_into()
            .map_err(|_| NoteError::MalformedKey("not of 32 bytes"))?,
        _ => return Err(NoteError::MalformedKey("of another type of signature")),
    };
    if vkey(name, kind, &public) == text {
        Ok((name, public))
    } else {
        Err(NoteError::MalformedKey("its key id is of another key"))
    }
}

/// SHA-256(name || 0x0A || type || public key), the first four bytes.
pub(crate) fn key_id(name: &str, kind: u8, public: &[u8; 32]) -> [u8; 4] {
    let digest = Sha256::new()
        .chain_update(name)
        .chain_update([b'\n', kind])
        .chain_update(public)
        .finalize();
    let [a, b, c, d, ..]: [u8; 32] = digest.into();
    [a, b, c, d]
}

pub(crate) fn check_name(name: &str) -> Result<(), NoteError> {
    let bad = |c: char| c.is_whitespace() || c.is_control() || c == '+';
    if name.is_empty() || name.len() > MAX_NAME_LEN || name.contains(bad) {
        return Err(NoteError::MalformedName);
    }
    Ok(())
}

fn check_text(text: &str) -> Result<(), NoteError> {
    if text.len() > MAX_NOTE_LEN {
        return Err(NoteError::TooLong {
            limit: MAX_NOTE_LEN,
            found: text.len(),
        });
    }
    if text.bytes().any(|byte| byte < b' ' && byte != b'\n') {
        return Err(NoteError::NotText);
    }
    Ok(())
}

/// The text with its final newline, and the signature lines.
pub(crate) fn split(note: &[u8]) -> Result<(&str, &str), NoteError> {
    if note.len() > MAX_NOTE_LEN {
        return Err(NoteError::TooLong {
            limit: MAX_NOTE_LEN,
            found: note.len(),
        });
    }
    let note = str::from_utf8(note).map_err(|_| NoteError::NotText)?;
    check_text(note)?;
    // The text may have empty lines of its own: it is the last one that counts.
    let blank = note.rfind("\n\n").ok_or(NoteError::Incomplete("blank line"))?;
    let (text, rest) = note.split_at(blank + 1);
    let signatures = rest.strip_prefix('\n').unwrap_or(rest);
    if signatures.is_empty() {
        return Err(NoteError::Incomplete("signatures"));
    }
    if !signatures.ends_with('\n') {
        return Err(NoteError::Incomplete("final newline"));
    }
    Ok((text, signatures))
}

/// A signature line, and the bytes behind the key id.
pub(crate) type SignatureLine<'a> = (&'a str, [u8; 4], Vec<u8>);

/// Each signature line in order, at most [`MAX_SIGNATURES`].
pub(crate) fn parse_signatures(lines: &str) -> impl Iterator<Item = Result<SignatureLine<'_>, NoteError>> {
    lines.lines().enumerate().map(|(number, line)| {
        if number >= MAX_SIGNATURES {
            return Err(NoteError::TooManySignatures { limit: MAX_SIGNATURES });
        }
        parse_signature(line).ok_or(NoteError::MalformedSignature(number + 1))
    })
}

/// A signature line with its final newline.
pub(crate) fn signature_line(name: &str, id: [u8; 4], signature: &[u8]) -> String {
    let encoded = STANDARD.encode([id.as_slice(), signature].concat());
    format!("{DASH}{name} {encoded}\n")
}

/// Key name, key id and signature of one line.
fn parse_signature(line: &str) -> Option<SignatureLine<'_>> {
    let (name, encoded) = line.strip_prefix(DASH)?.split_once(' ')?;
    check_name(name).ok()?;
    let decoded = STANDARD.decode(encoded).ok()?;
    let (id, signature) = decoded.split_first_chunk()?;
    (!signature.is_empty()).then(|| (name, *id, signature.to_vec()))
}
