//! COSE_Sign1 (RFC 9052 section 4.2), in one profile of ours and one door for objects of other makers.
//!
//! Ours: tag 18; protected header with alg, the eight-byte key id and typ (RFC 9596); nothing unprotected except what
//! the reader allows by name; no critical headers; `external_aad` as the format says, empty in standard objects.
//! What is checked is the received bytes of header and payload, never a re-encoding.

mod sign;
mod third_party;
mod verify;

pub use sign::{Protected, sign, sign_detached};
pub(crate) use sign::{assemble, header_and_signature};
pub use third_party::{MAX_CHAIN, ThirdParty, VerifiedThirdParty};
pub use verify::{Unverified, Verified};

use crate::cbor::{self, CborError, Limits, ShapeError, Value};
use crate::code::Code;
use crate::key::KeyError;

/// CBOR tag of COSE_Sign1 (RFC 9052 section 2).
pub const TAG: u64 = 18;

/// Header labels (IANA "COSE Header Parameters").
pub mod label {
    /// Algorithm (RFC 9052).
    pub const ALG: i64 = 1;
    /// Labels that the reader must understand (RFC 9052). We refuse them all.
    pub const CRIT: i64 = 2;
    /// Content type (RFC 9052).
    pub const CONTENT_TYPE: i64 = 3;
    /// Key id (RFC 9052).
    pub const KID: i64 = 4;
    /// CWT claims in a header (RFC 9597).
    pub const CWT_CLAIMS: i64 = 15;
    /// What kind of object this is (RFC 9596).
    pub const TYP: i64 = 16;
    /// Certificate chain, leaf first (RFC 9360).
    pub const X5CHAIN: i64 = 33;
    /// Receipts attached to a signed statement (RFC 9942).
    pub const RECEIPTS: i64 = 394;
    /// Verifiable data structure (RFC 9942).
    pub const VDS: i64 = 395;
    /// Verifiable data structure proofs (RFC 9942).
    pub const VDP: i64 = 396;
}

/// Why an object was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoseError {
    /// Not CBOR that we accept.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// Not the structure of a COSE_Sign1, or a header value of a wrong type.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// Another CBOR tag than 18, or none.
    #[error("expected tag 18 (COSE_Sign1), found {found}")]
    NotSign1 {
        /// What was there.
        found: String,
    },
    /// An empty protected header.
    #[error("the protected header is empty")]
    NoProtectedHeader,
    /// A label in the unprotected bucket that the reader did not allow.
    #[error("header {found} may not be unprotected here")]
    Unprotected {
        /// The label.
        found: String,
    },
    /// A label in both buckets.
    #[error("header {found} is both protected and unprotected")]
    BothBuckets {
        /// The label.
        found: String,
    },
    /// A critical-headers list (label 2).
    #[error("critical headers are not understood")]
    Critical,
    /// An algorithm we do not know, or a legacy one in an object of ours.
    #[error("algorithm {found} is not accepted")]
    Algorithm {
        /// Its number or kind.
        found: String,
    },
    /// The algorithm in the header is not the key's.
    #[error("the key's algorithm is {expected}, the object says {found}")]
    AlgorithmMismatch {
        /// The algorithm of the key.
        expected: i64,
        /// The algorithm in the header.
        found: i64,
    },
    /// The object names another key.
    #[error("the key's id differs from the one in the object")]
    KidMismatch {
        /// The id of the key given.
        expected: Vec<u8>,
        /// The id in the object.
        found: Vec<u8>,
    },
    /// An object made for another purpose (typ, label 16).
    #[error("expected type {expected}, found {found}")]
    TypeMismatch {
        /// The type the reader wants.
        expected: String,
        /// The type in the header, "none" without one.
        found: String,
    },
    /// Another content type (label 3).
    #[error("expected content type {expected}, found {found}")]
    ContentTypeMismatch {
        /// The type the reader wants.
        expected: String,
        /// The type in the header, "none" without one.
        found: String,
    },
    /// A detached payload where one must be inside, or the other way round.
    #[error("expected {expected} payload")]
    Payload {
        /// "an attached" or "a detached".
        expected: &'static str,
    },
    /// The signature, or the key, is not valid.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl CoseError {
    /// The stable code of this refusal.
    pub const fn code(&self) -> Code {
        match self {
            CoseError::Cbor(e) => e.code(),
            CoseError::Shape(e) => e.code(),
            CoseError::Key(e) => e.code(),
            CoseError::NotSign1 { .. } | CoseError::NoProtectedHeader | CoseError::Payload { .. } => {
                Code::CoseMalformed
            }
            CoseError::Unprotected { .. } | CoseError::BothBuckets { .. } | CoseError::Critical => {
                Code::CoseHeaderRefused
            }
            CoseError::Algorithm { .. } | CoseError::AlgorithmMismatch { .. } => Code::CoseAlgorithmMismatch,
            CoseError::KidMismatch { .. } => Code::CoseKidMismatch,
            CoseError::TypeMismatch { .. } | CoseError::ContentTypeMismatch { .. } => Code::CoseTypeMismatch,
        }
    }
}

/// The bytes that are signed (RFC 9052 section 4.4): `["Signature1", protected, external_aad, payload]`.
pub(crate) fn to_be_signed(protected: &[u8], external_aad: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(protected.len() + external_aad.len() + payload.len() + 32);
    cbor::write_head(&mut out, cbor::major::ARRAY, 4);
    cbor::write_text(&mut out, "Signature1");
    cbor::write_bytes(&mut out, protected);
    cbor::write_bytes(&mut out, external_aad);
    cbor::write_bytes(&mut out, payload);
    out
}

/// The parts of a COSE_Sign1 as received.
pub(crate) struct Parts {
    /// The contents of the protected byte string: what is signed.
    pub(crate) protected_bytes: Vec<u8>,
    pub(crate) protected: Vec<(Value, Value)>,
    pub(crate) unprotected: Vec<(Value, Value)>,
    pub(crate) payload: Option<Vec<u8>>,
    pub(crate) signature: Vec<u8>,
}

type Decode = fn(&[u8], Limits) -> Result<Value, CborError>;

impl Parts {
    /// Splits a tagged COSE_Sign1 and applies the rules that hold for every maker: tag 18, a protected header that is
    /// not empty, no label in both buckets, no critical headers.
    pub(crate) fn split(input: &[u8], limits: Limits, decode: Decode) -> Result<Parts, CoseError> {
        const CONTEXT: &str = "COSE_Sign1";
        let inner = match decode(input, limits)? {
            Value::Tag(TAG, inner) => *inner,
            other => return Err(CoseError::NotSign1 { found: other.kind() }),
        };
        let shape = |found: &Value| ShapeError::whole(CONTEXT, "[bytes, map, bytes or null, bytes]", found);
        let Value::Array(items) = inner else {
            return Err(shape(&inner).into());
        };
        let [protected, unprotected, payload, signature] =
            <[Value; 4]>::try_from(items).map_err(|items| shape(&Value::Array(items)))?;
        let (protected_bytes, unprotected, payload, signature) = match (protected, unprotected, payload, signature) {
            (Value::Bytes(p), Value::Map(u), Value::Bytes(payload), Value::Bytes(s)) => (p, u, Some(payload), s),
            (Value::Bytes(p), Value::Map(u), Value::Null, Value::Bytes(s)) => (p, u, None, s),
            (p, u, payload, s) => return Err(shape(&Value::array([p, u, payload, s])).into()),
        };
        if protected_bytes.is_empty() {
            return Err(CoseError::NoProtectedHeader);
        }
        let protected = match decode(&protected_bytes, Limits::HEADER)? {
            Value::Map(entries) if entries.is_empty() => return Err(CoseError::NoProtectedHeader),
            Value::Map(entries) => entries,
            other => return Err(ShapeError::whole("protected header", "map", &other).into()),
        };
        if find(&protected, label::CRIT).is_some() || find(&unprotected, label::CRIT).is_some() {
            return Err(CoseError::Critical);
        }
        // The unprotected bucket is small or refused; the protected one is bounded by Limits::HEADER.
        if unprotected.len() > MAX_UNPROTECTED {
            return Err(CoseError::Unprotected {
                found: format!("list of {}", unprotected.len()),
            });
        }
        if let Some((both, _)) = unprotected.iter().find(|(u, _)| protected.iter().any(|(p, _)| p == u)) {
            return Err(CoseError::BothBuckets { found: both.kind() });
        }
        Ok(Parts {
            protected_bytes,
            protected,
            unprotected,
            payload,
            signature,
        })
    }
}

/// More unprotected headers than any object we read has.
const MAX_UNPROTECTED: usize = 16;

pub(crate) fn find(entries: &[(Value, Value)], label: i64) -> Option<&Value> {
    let label = Value::int(label);
    entries.iter().find(|(k, _)| *k == label).map(|(_, v)| v)
}
