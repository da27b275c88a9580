//! Keys and algorithms: three curves, one algorithm each, and one name per key.
//!
//! A key's name is its RFC 9679 thumbprint; the key id in our objects is the first eight bytes of it. Algorithms are
//! the fully specified ones of RFC 9864. The older, looser identifiers are understood only where objects of other
//! makers are verified, never emitted.

mod cose_key;
mod signing;
mod verifying;

pub use signing::{SignError, Signer, SigningKey};
pub use verifying::VerifyingKey;

use crate::cbor::ShapeError;
use crate::code::Code;

/// Length in bytes of a key id: the head of the RFC 9679 thumbprint.
pub const KID_LEN: usize = 8;

/// A COSE signature algorithm (IANA "COSE Algorithms").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i64)]
pub enum Algorithm {
    /// EdDSA over Ed25519 (RFC 9864).
    Ed25519 = -19,
    /// ECDSA over P-256 with SHA-256 (RFC 9864).
    Esp256 = -9,
    /// ECDSA over P-384 with SHA-384 (RFC 9864).
    Esp384 = -51,
    /// EdDSA over a curve that the key names (RFC 9053): third-party objects only.
    EdDsa = -8,
    /// ECDSA with SHA-256 over a curve that the key names (RFC 9053): third-party objects only.
    Es256 = -7,
    /// ECDSA with SHA-384 over a curve that the key names (RFC 9053): third-party objects only.
    Es384 = -35,
}

impl Algorithm {
    const ALL: [Algorithm; 6] = [
        Algorithm::Ed25519,
        Algorithm::Esp256,
        Algorithm::Esp384,
        Algorithm::EdDsa,
        Algorithm::Es256,
        Algorithm::Es384,
    ];

    /// The IANA number.
    pub const fn id(self) -> i64 {
        self as i64
    }

    /// The algorithm with the IANA number `id`, if we know it.
    pub fn from_id(id: i64) -> Option<Algorithm> {
        Self::ALL.into_iter().find(|a| a.id() == id)
    }

    /// Whether it is one of the identifiers that only third-party objects may carry.
    pub const fn is_legacy(self) -> bool {
        matches!(self, Algorithm::EdDsa | Algorithm::Es256 | Algorithm::Es384)
    }

    /// Length of a signature in bytes: Ed25519, or fixed-width r || s.
    pub const fn signature_len(self) -> usize {
        match self {
            Algorithm::Esp384 | Algorithm::Es384 => 96,
            _ => 64,
        }
    }

    /// The fully specified algorithm that this one means together with a key of ours: itself unless it is a legacy
    /// identifier. ES256 and ES384 are taken with their customary curve only (RFC 9864 section 2).
    pub const fn fully_specified(self) -> Algorithm {
        match self {
            Algorithm::EdDsa => Algorithm::Ed25519,
            Algorithm::Es256 => Algorithm::Esp256,
            Algorithm::Es384 => Algorithm::Esp384,
            other => other,
        }
    }
}

/// Why a key, or a signature under it, was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The COSE_Key lacks a member, has one too many, or one of a wrong type or length.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// A key type, curve or encoding that we do not use.
    #[error("{what} {found} is not supported")]
    Unsupported {
        /// Which property of the key.
        what: &'static str,
        /// Its value.
        found: String,
    },
    /// The key says that it is for another algorithm.
    #[error("the key is for algorithm {found}, its curve wants {expected}")]
    AlgorithmMismatch {
        /// The algorithm of the curve.
        expected: i64,
        /// What the key, or the header, says.
        found: i64,
    },
    /// The coordinates are not a point of the curve, or a point of small order.
    #[error("not a valid public key on {curve}")]
    NotOnCurve {
        /// The curve.
        curve: &'static str,
    },
    /// The signature does not verify.
    #[error("the {algorithm:?} signature does not verify")]
    BadSignature {
        /// The algorithm it was checked with.
        algorithm: Algorithm,
    },
    /// A private key file that is not an Ed25519 key in PKCS#8 PEM.
    #[error("not an Ed25519 private key in PKCS#8 PEM form")]
    PrivateKeyFile,
}

impl KeyError {
    /// The stable code of this refusal.
    pub const fn code(&self) -> Code {
        match self {
            KeyError::Shape(_) => Code::ShapeMismatch,
            KeyError::Unsupported { .. } => Code::KeyUnsupported,
            KeyError::AlgorithmMismatch { .. } => Code::CoseAlgorithmMismatch,
            KeyError::NotOnCurve { .. } | KeyError::PrivateKeyFile => Code::KeyInvalid,
            KeyError::BadSignature { .. } => Code::SignatureInvalid,
        }
    }
}
