//! Cosignatures of checkpoints (C2SP tlog-cosignature 1.0.0, the Ed25519 type 0x04): a witness says that at a time this
//! was the largest consistent head of a log that it had seen.
//!
//! ```text
//! — <witness> base64(key id || u64 time, big-endian || Ed25519 signature)
//! ```
//! The signature is over `cosignature/v1`, `time <seconds>` and the text of the checkpoint, each line with its newline.

use touchstone_cose::key::{Signer, VerifyingKey};

use crate::note::{self, NoteError, check_name, key_id};

/// Signature type of Ed25519 cosignatures.
const COSIGNATURE: u8 = 0x04;

/// Length of time and signature.
const LENGTH: usize = 8 + 64;

/// The first line of what is signed: no other signature is over such a text.
const HEADER: &str = "cosignature/v1";

/// The public key of a witness, and the name it signs under. The message does not hold the name, so a key is of one
/// witness only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CosignerKey {
    name: String,
    id: [u8; 4],
    public: [u8; 32],
}

/// What a witness has said of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cosigned {
    /// When, Unix seconds.
    pub time: u64,
}

impl CosignerKey {
    /// A key known from elsewhere, such as a signed keyset.
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
            id: key_id(name, COSIGNATURE, &public),
            public,
        })
    }

    /// Reads a verifier key: `name+hex(key id)+base64(0x04 || public key)`.
    ///
    /// # Errors
    /// [`NoteError::MalformedKey`] says what is wrong.
    pub fn parse(vkey: &str) -> Result<Self, NoteError> {
        let (name, public) = note::parse_vkey(vkey, COSIGNATURE)?;
        Self::ed25519(name, public)
    }

    /// The verifier key that [`CosignerKey::parse`] reads.
    #[must_use]
    pub fn to_vkey(&self) -> String {
        note::vkey(&self.name, COSIGNATURE, &self.public)
    }

    /// The name it signs under.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The signature line, with its newline, of this witness under a checkpoint's `text` at `time` (Unix seconds). Sign
    /// only what [`crate::witness`] let pass.
    ///
    /// # Errors
    /// [`NoteError::Signing`] if `signer` fails, [`NoteError::BadSignature`] if it holds another key.
    pub fn cosign(&self, text: &str, time: u64, signer: &dyn Signer) -> Result<String, NoteError> {
        let signature = signer.sign(&message(text, time))?;
        self.verify(text, time, &signature)?;
        let stamped = [time.to_be_bytes().as_slice(), &signature].concat();
        Ok(note::signature_line(&self.name, self.id, &stamped))
    }

    /// What this witness says of the checkpoint `note`; nothing where it does not say anything. The newest time, where
    /// it says several.
    ///
    /// # Errors
    /// [`NoteError`] if the note is malformed, or a cosignature by this key does not verify: then the note is refused
    /// even beside a right one.
    pub fn open(&self, note: &[u8]) -> Result<Option<Cosigned>, NoteError> {
        let (text, signatures) = note::split(note)?;
        let mut newest: Option<Cosigned> = None;
        for parsed in note::parse_signatures(signatures) {
            let (name, id, stamped) = parsed?;
            if name != self.name || id != self.id {
                continue;
            }
            let bad = || NoteError::BadSignature {
                name: self.name.clone(),
            };
            let (time, signature) = stamped.split_first_chunk::<8>().ok_or_else(bad)?;
            let time = u64::from_be_bytes(*time);
            if stamped.len() != LENGTH || i64::try_from(time).is_err() {
                return Err(bad());
            }
            self.verify(text, time, signature)?;
            newest = newest.filter(|newest| newest.time >= time).or(Some(Cosigned { time }));
        }
        Ok(newest)
    }

    /// The lines of this witness in `note`, each with its newline; [`CosignerKey::open`] says whether they hold.
    ///
    /// # Errors
    /// [`NoteError`] if the note is malformed.
    pub fn lines(&self, note: &[u8]) -> Result<String, NoteError> {
        let (_, signatures) = note::split(note)?;
        let mut lines = String::new();
        for parsed in note::parse_signatures(signatures) {
            let (name, id, stamped) = parsed?;
            if name == self.name && id == self.id {
                lines.push_str(&note::signature_line(name, id, &stamped));
            }
        }
        Ok(lines)
    }

    fn verify(&self, text: &str, time: u64, signature: &[u8]) -> Result<(), NoteError> {
        let verified = VerifyingKey::Ed25519(self.public).verify(&message(text, time), signature);
        verified.map_err(|_| NoteError::BadSignature {
            name: self.name.clone(),
        })
    }
}

fn message(text: &str, time: u64) -> Vec<u8> {
    format!("{HEADER}\ntime {time}\n{text}").into_bytes()
}
