//! COSE_Encrypt (RFC 9052 section 5.1) in one profile of ours: a secret for one receive key.
//!
//! Tag 96; content A256GCM with a random content key and 12-byte nonce; exactly one recipient, ECDH-ES + A256KW
//! (algorithm -31, RFC 9053 section 6.4) with an ephemeral P-256 key. The key derivation's context names both parties by
//! their eight-byte key ids (PartyU the sender's signing key, PartyV the receive key), so an answer made for one pair
//! opens for no other. The private half of the receive key may live in a TPM: opening asks an [`Agreement`] for the
//! shared secret and for nothing else.
//!
//! The object is not authenticated by itself: anybody can encrypt to a public key. It travels inside a COSE_Sign1, and
//! who receives it checks that signature *before* opening (`docs/protocol.md`, "key release").

mod agreement;
mod kdf;
mod open;
mod seal;

pub use agreement::{Agreement, AgreementError, Point, SoftwareReceiveKey};
pub use open::Sealed;
pub use seal::encrypt;

use zeroize::Zeroizing;

use crate::cbor::{self, CborError, Limits, ShapeError};
use crate::code::Code;
use crate::key::{KID_LEN, KeyError};

/// CBOR tag of COSE_Encrypt (RFC 9052 section 2).
pub const TAG: u64 = 96;

/// AES-256 in Galois/Counter mode with a 16-byte tag (IANA "COSE Algorithms").
pub const A256GCM: i64 = 3;

/// ECDH ephemeral-static with HKDF-SHA-256 and AES-256 key wrap (IANA "COSE Algorithms").
pub const ECDH_ES_A256KW: i64 = -31;

/// AES-256 key wrap: what the derived key is for (IANA "COSE Algorithms").
pub const A256KW: i64 = -5;

/// Header labels of this structure beside those of [`crate::sign1::label`].
pub mod label {
    /// Nonce (RFC 9052).
    pub const IV: i64 = 5;
    /// The sender's ephemeral public key (RFC 9053 table 19).
    pub const EPHEMERAL_KEY: i64 = -1;
    /// PartyU identity (RFC 9053 table 21).
    pub const PARTY_U_IDENTITY: i64 = -21;
    /// PartyV identity (RFC 9053 table 21).
    pub const PARTY_V_IDENTITY: i64 = -24;
}

/// Largest content, in bytes. Keys and small bundles of keys, not files.
pub const MAX_CONTENT: usize = 16 * 1024;

/// What a decoder may be made to do: the content, its tag, and the headers.
pub const LIMITS: Limits = Limits {
    max_bytes: MAX_CONTENT + 1024,
    max_depth: 8,
    max_items: 64,
};

/// Length of the content key and of the key that wraps it, in bytes.
const KEY_LEN: usize = 32;

/// Length of a wrapped content key: RFC 3394 adds eight bytes.
const WRAPPED_LEN: usize = KEY_LEN + 8;

/// Length of the nonce of A256GCM, in bytes (RFC 9053 section 4.1).
const IV_LEN: usize = 12;

/// Length of the tag of A256GCM, in bytes.
const TAG_LEN: usize = 16;

/// A secret in memory, wiped when dropped.
pub type Secret = Zeroizing<Vec<u8>>;

/// Why nothing was encrypted, or an object was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncryptError {
    /// Not CBOR that we accept.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// Not the structure of a COSE_Encrypt of our profile.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// Another CBOR tag than 96, or none.
    #[error("expected tag 96 (COSE_Encrypt), found {found}")]
    NotEncrypt {
        /// What was there.
        found: String,
    },
    /// Not exactly one recipient.
    #[error("expected one recipient, found {found}")]
    Recipients {
        /// How many.
        found: usize,
    },
    /// An algorithm other than the profile's.
    #[error("the profile's algorithm is {expected}, the object says {found}")]
    Algorithm {
        /// The number that our profile has in this place.
        expected: i64,
        /// What the header says.
        found: i64,
    },
    /// An object made for another purpose (typ, label 16).
    #[error("expected type {expected}, found {found}")]
    TypeMismatch {
        /// The type the reader wants.
        expected: String,
        /// The type in the header.
        found: String,
    },
    /// Made by, or for, another key.
    #[error("expected {party} {}, found {}", hex(expected), hex(found))]
    Party {
        /// "sender" or "recipient".
        party: &'static str,
        /// The key id the reader wants.
        expected: [u8; KID_LEN],
        /// The key id in the header.
        found: [u8; KID_LEN],
    },
    /// The receive key, or the ephemeral one, is not a point of P-256.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Content over the limit.
    #[error("{found} bytes, at most {MAX_CONTENT} are encrypted")]
    TooLarge {
        /// The length of the content.
        found: usize,
    },
    /// The holder of the private key could not agree on a secret.
    #[error(transparent)]
    Agreement(#[from] AgreementError),
    /// The content key or the content does not open: other bytes, another key, or other additional data.
    #[error("the {what} does not open: it was changed, or it is for another key or another statement")]
    Open {
        /// "content key" or "content".
        what: &'static str,
    },
    /// The library could not make a key, a nonce or a ciphertext.
    #[error("could not {0}")]
    Failed(&'static str),
}

impl EncryptError {
    /// The stable code of this refusal.
    pub const fn code(&self) -> Code {
        match self {
            EncryptError::Cbor(e) => e.code(),
            EncryptError::Shape(e) => e.code(),
            EncryptError::Key(e) => e.code(),
            EncryptError::NotEncrypt { .. } | EncryptError::Recipients { .. } => Code::CoseEncryptMalformed,
            EncryptError::Algorithm { .. } => Code::CoseAlgorithmMismatch,
            EncryptError::TypeMismatch { .. } => Code::CoseTypeMismatch,
            EncryptError::Party { .. } => Code::CoseKidMismatch,
            EncryptError::Agreement(_) => Code::KeyAgreementFailed,
            EncryptError::TooLarge { .. } | EncryptError::Failed(_) => Code::EncryptionFailed,
            EncryptError::Open { .. } => Code::DecryptionFailed,
        }
    }
}

/// The additional data of the content's encryption (RFC 9052 section 5.3): `["Encrypt", protected, external_aad]`.
fn enc_structure(protected: &[u8], external_aad: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(protected.len() + external_aad.len() + 24);
    cbor::write_head(&mut out, cbor::major::ARRAY, 3);
    cbor::write_text(&mut out, "Encrypt");
    cbor::write_bytes(&mut out, protected);
    cbor::write_bytes(&mut out, external_aad);
    out
}

/// Lower-case hexadecimal of a key id, which is public.
fn hex(kid: &[u8; KID_LEN]) -> String {
    kid.iter().map(|byte| format!("{byte:02x}")).collect()
}
