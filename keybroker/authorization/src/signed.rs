//! What the signed formats of this crate have in common: COSE_Sign1 in the strict profile of `touchstone-cose`,
//! a mandatory typ that separates their jobs, empty external_aad, and claims read from the bytes that were verified.

use touchstone_cose::cbor::{CborError, Limits, ShapeError, Value, decode};
use touchstone_cose::cwt;
use touchstone_cose::key::{KID_LEN, KeyError, SignError, Signer, VerifyingKey};
use touchstone_cose::sign1::{self, CoseError, Protected, Unverified, Verified};

use crate::ack::{ACK_TYPE, MAX_ACK_BYTES};
use crate::block::{BLOCK_TYPE, MAX_BLOCK_BYTES};
use crate::command::{COMMAND_TYPE, MAX_COMMAND_BYTES};
use crate::keys::KeyRing;
use crate::proof::{MAX_PROOF_BYTES, PROOF_TYPE};
use crate::refusal::{Hex, Refusal, RefusalCode};
use crate::token::{AUTHORIZATION_TYPE, MAX_AUTHORIZATION_BYTES};
use crate::trust_head::{MAX_HEAD_BYTES, TRUST_HEAD_TYPE};
use crate::usage::{MAX_USE_BYTES, USE_TYPE};

const MAX_DEPTH: usize = 8;
const MAX_ITEMS: usize = 256;

/// Which of the signed formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SignedKind {
    /// [`crate::token`].
    Authorization,
    /// [`crate::proof`].
    Proof,
    /// [`crate::trust_head`].
    TrustHead,
    /// [`crate::block`].
    Block,
    /// [`crate::ack`].
    Ack,
    /// [`crate::usage`].
    Use,
    /// [`crate::command`].
    Command,
}

impl SignedKind {
    /// Its typ (COSE header 16).
    pub const fn typ(self) -> &'static str {
        match self {
            Self::Authorization => AUTHORIZATION_TYPE,
            Self::Proof => PROOF_TYPE,
            Self::TrustHead => TRUST_HEAD_TYPE,
            Self::Block => BLOCK_TYPE,
            Self::Ack => ACK_TYPE,
            Self::Use => USE_TYPE,
            Self::Command => COMMAND_TYPE,
        }
    }

    const fn limits(self) -> Limits {
        let max_bytes = match self {
            Self::Authorization => MAX_AUTHORIZATION_BYTES,
            Self::Proof => MAX_PROOF_BYTES,
            Self::TrustHead => MAX_HEAD_BYTES,
            Self::Block => MAX_BLOCK_BYTES,
            Self::Ack => MAX_ACK_BYTES,
            Self::Use => MAX_USE_BYTES,
            Self::Command => MAX_COMMAND_BYTES,
        };
        Limits {
            max_bytes,
            max_depth: MAX_DEPTH,
            max_items: MAX_ITEMS,
        }
    }
}

/// Why bytes are not a signed object of the wanted kind, or contents cannot be signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignedError {
    /// Over the limit of its kind.
    #[error("{found} bytes, at most {limit} are taken")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
        /// The size in bytes.
        found: usize,
    },
    /// Not of this profile.
    #[error("{0}")]
    Malformed(String),
    /// Signed for another job.
    #[error("type {found} instead of {expected}")]
    Type {
        /// The typ of the wanted kind.
        expected: &'static str,
        /// The typ found, or "none".
        found: String,
    },
    /// No key with this id counts now.
    #[error("no key with the id {} counts now", Hex(kid))]
    KeyUnknown {
        /// The key id in the object.
        kid: [u8; KID_LEN],
    },
    /// The signature does not verify under the key.
    #[error("the signature does not verify under the key {}", Hex(kid))]
    Signature {
        /// The key id in the object.
        kid: [u8; KID_LEN],
    },
    /// The signer failed.
    #[error(transparent)]
    Signer(#[from] SignError),
}

impl SignedError {
    /// The stable code of this error in an object of this kind.
    pub const fn code(&self, kind: SignedKind) -> RefusalCode {
        match (kind, self) {
            (SignedKind::Authorization, Self::TooLarge { .. }) => RefusalCode::AuthorizationTooLarge,
            (SignedKind::Authorization, Self::Malformed(_) | Self::Signer(_)) => RefusalCode::AuthorizationMalformed,
            (SignedKind::Authorization, Self::Type { .. }) => RefusalCode::AuthorizationType,
            (SignedKind::Authorization, Self::KeyUnknown { .. }) => RefusalCode::AuthorizationKeyUnknown,
            (SignedKind::Authorization, Self::Signature { .. }) => RefusalCode::AuthorizationSignature,
            (SignedKind::Proof, Self::TooLarge { .. }) => RefusalCode::ProofTooLarge,
            (SignedKind::Proof, Self::Malformed(_) | Self::Signer(_)) => RefusalCode::ProofMalformed,
            (SignedKind::Proof, Self::Type { .. }) => RefusalCode::ProofType,
            (SignedKind::Proof, Self::KeyUnknown { .. } | Self::Signature { .. }) => RefusalCode::ProofSignature,
            (SignedKind::TrustHead, Self::TooLarge { .. }) => RefusalCode::TrustStateTooLarge,
            (SignedKind::TrustHead, Self::Malformed(_) | Self::Signer(_)) => RefusalCode::TrustStateMalformed,
            (SignedKind::TrustHead, Self::Type { .. }) => RefusalCode::TrustStateType,
            (SignedKind::TrustHead, Self::KeyUnknown { .. }) => RefusalCode::TrustStateKeyUnknown,
            (SignedKind::TrustHead, Self::Signature { .. }) => RefusalCode::TrustStateSignature,
            (SignedKind::Block, Self::TooLarge { .. }) => RefusalCode::DelegationTooLarge,
            (SignedKind::Block, Self::Malformed(_) | Self::Signer(_)) => RefusalCode::DelegationMalformed,
            (SignedKind::Block, Self::Type { .. }) => RefusalCode::DelegationType,
            (SignedKind::Block, Self::KeyUnknown { .. } | Self::Signature { .. }) => RefusalCode::DelegationSignature,
            (SignedKind::Ack, Self::TooLarge { .. }) => RefusalCode::AckTooLarge,
            (SignedKind::Ack, Self::Malformed(_) | Self::Signer(_)) => RefusalCode::AckMalformed,
            (SignedKind::Ack, Self::Type { .. }) => RefusalCode::AckType,
            (SignedKind::Ack, Self::KeyUnknown { .. }) => RefusalCode::AckKeyUnknown,
            (SignedKind::Ack, Self::Signature { .. }) => RefusalCode::AckSignature,
            (SignedKind::Use, Self::TooLarge { .. }) => RefusalCode::UseTooLarge,
            (SignedKind::Use, Self::Malformed(_) | Self::Signer(_)) => RefusalCode::UseMalformed,
            (SignedKind::Use, Self::Type { .. }) => RefusalCode::UseType,
            (SignedKind::Use, Self::KeyUnknown { .. }) => RefusalCode::UseKeyUnknown,
            (SignedKind::Use, Self::Signature { .. }) => RefusalCode::UseSignature,
            (SignedKind::Command, Self::TooLarge { .. }) => RefusalCode::CommandTooLarge,
            (SignedKind::Command, Self::Malformed(_) | Self::Signer(_)) => RefusalCode::CommandMalformed,
            (SignedKind::Command, Self::Type { .. }) => RefusalCode::CommandType,
            (SignedKind::Command, Self::KeyUnknown { .. }) => RefusalCode::CommandKeyUnknown,
            (SignedKind::Command, Self::Signature { .. }) => RefusalCode::CommandSignature,
        }
    }

    /// This error in an object of this kind, as a refusal.
    pub fn refusal(&self, kind: SignedKind) -> Refusal {
        Refusal::new(self.code(kind), format_args!("a valid {}", kind.typ()), self)
    }

    pub(crate) fn malformed(text: &str) -> Self {
        Self::Malformed(text.to_owned())
    }

    pub(crate) fn out_of_range(what: &str, found: u64) -> Self {
        Self::Malformed(format!("{what} {found} is out of range"))
    }

    fn of_cose(error: CoseError, kind: SignedKind, kid: [u8; KID_LEN]) -> Self {
        match error {
            CoseError::TypeMismatch { found, .. } => Self::Type {
                expected: kind.typ(),
                found,
            },
            CoseError::KidMismatch { .. } => Self::KeyUnknown { kid },
            CoseError::AlgorithmMismatch { .. } | CoseError::Key(KeyError::BadSignature { .. }) => {
                Self::Signature { kid }
            }
            other => Self::Malformed(other.to_string()),
        }
    }
}

impl From<CborError> for SignedError {
    fn from(error: CborError) -> Self {
        Self::Malformed(error.to_string())
    }
}

impl From<ShapeError> for SignedError {
    fn from(error: ShapeError) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// Signs encoded claims as an object of this kind.
pub(crate) fn sign(kind: SignedKind, claims: &[u8], signer: &dyn Signer) -> Result<Vec<u8>, SignedError> {
    let object = sign1::sign(signer, &Protected::typ(kind.typ()), claims, &[])?;
    let object = if matches!(kind, SignedKind::Authorization) {
        cwt::wrap(&object)
    } else {
        object
    };
    within_limit(kind, &object)?;
    Ok(object)
}

/// A signed object of a wanted kind whose signature nobody has checked.
#[derive(Debug)]
pub(crate) struct UntrustedSigned {
    kind: SignedKind,
    object: Unverified,
}

impl UntrustedSigned {
    pub(crate) fn parse(kind: SignedKind, bytes: &[u8]) -> Result<Self, SignedError> {
        within_limit(kind, bytes)?;
        let bytes = match kind {
            SignedKind::Authorization => {
                cwt::unwrap(bytes).map_err(|error| SignedError::Malformed(error.to_string()))?
            }
            _ => bytes,
        };
        let object =
            Unverified::parse(bytes, kind.limits()).map_err(|error| SignedError::Malformed(error.to_string()))?;
        if object.typ() != Some(kind.typ()) {
            let found = object.typ().unwrap_or("none").to_owned();
            return Err(SignedError::Type {
                expected: kind.typ(),
                found,
            });
        }
        Ok(Self { kind, object })
    }

    pub(crate) fn kid(&self) -> [u8; KID_LEN] {
        self.object.kid()
    }

    /// The claims, if the signature verifies under the key that the object names and that counts at `now_ms`.
    pub(crate) fn verify_with(self, keys: &KeyRing, now_ms: u64) -> Result<Value, SignedError> {
        let kid = self.kid();
        let key = keys.find(&kid, now_ms).ok_or(SignedError::KeyUnknown { kid })?;
        self.verify_under(key)
    }

    /// The claims, if the signature verifies under `key`.
    pub(crate) fn verify_under(self, key: &VerifyingKey) -> Result<Value, SignedError> {
        let (kind, kid) = (self.kind, self.kid());
        let verified: Verified = self
            .object
            .verify(key, kind.typ(), &[])
            .map_err(|error| SignedError::of_cose(error, kind, kid))?;
        if verified.extra_len() > 0 || verified.content_type().is_some() {
            return Err(SignedError::malformed(
                "the protected header holds alg, kid and typ only",
            ));
        }
        Ok(decode(verified.payload(), kind.limits())?)
    }
}

fn within_limit(kind: SignedKind, bytes: &[u8]) -> Result<(), SignedError> {
    let limit = kind.limits().max_bytes;
    if bytes.len() > limit {
        return Err(SignedError::TooLarge {
            limit,
            found: bytes.len(),
        });
    }
    Ok(())
}
