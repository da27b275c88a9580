//! Why a reference value file was refused.

use touchstone_cose::key::SignError;
use touchstone_cose::sign1::CoseError;

use super::{MAX_NAME, PROFILE};
use crate::reason::{AppraisalCode, Reason, sanitise};
use crate::tpm::HashAlg;

/// Why a reference value file was refused, or could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CorimError {
    /// Longer than [`MAX_CORIM`](super::MAX_CORIM).
    #[error("the CoRIM has {found} bytes, more than the limit of {limit}")]
    TooLarge {
        /// The limit.
        limit: usize,
        /// Its length.
        found: usize,
    },
    /// A CoRIM without a signature around it.
    #[error("the CoRIM is not signed")]
    Unsigned,
    /// The COSE envelope is not one.
    #[error("the signed CoRIM's envelope: {0}")]
    Envelope(CoseError),
    /// Nobody listed has the key that the signature names, or the issuer is another than the key's owner.
    #[error("the CoRIM is signed by {found}, who is not listed as a reference signer")]
    SignerUnknown {
        /// Key id or issuer.
        found: String,
    },
    /// The signer's key is past its end.
    #[error("reference signer {signer} was valid until {not_after}, it is {now}")]
    SignerExpired {
        /// Name of the signer.
        signer: String,
        /// Unix seconds.
        not_after: i64,
        /// Unix seconds.
        now: i64,
    },
    /// The header's algorithm is not the key's.
    #[error("the CoRIM's algorithm does not belong to the signer's key: {0}")]
    Algorithm(CoseError),
    /// The signature does not verify.
    #[error("the CoRIM's signature does not verify under the key of {signer}")]
    SignatureInvalid {
        /// Name of the signer.
        signer: String,
    },
    /// Signature or contents have expired.
    #[error("the CoRIM has expired")]
    Expired,
    /// Signature or contents are not valid yet.
    #[error("the CoRIM is not valid yet")]
    NotYetValid,
    /// Another profile, or none.
    #[error("the CoRIM's profile is {found}, only {PROFILE} is known")]
    ProfileUnknown {
        /// What was there.
        found: String,
    },
    /// The payload is not what the profile says.
    #[error("the CoRIM's contents: expected {expected}, found {found}")]
    Malformed {
        /// What the profile says.
        expected: &'static str,
        /// What was there, safe to show.
        found: String,
    },
    /// A reference over SHA-1 registers.
    #[error("references over the {bank} bank are not made")]
    WeakBank {
        /// The bank.
        bank: HashAlg,
    },
    /// The signing key failed.
    #[error("{0}")]
    Sign(#[from] SignError),
}

impl CorimError {
    /// The stable code.
    pub const fn code(&self) -> AppraisalCode {
        match self {
            CorimError::TooLarge { .. } | CorimError::Envelope(_) | CorimError::Malformed { .. } => {
                AppraisalCode::ReferenceUnreadable
            }
            CorimError::Unsigned => AppraisalCode::ReferenceUnsigned,
            CorimError::SignerUnknown { .. } => AppraisalCode::ReferenceSignerUnknown,
            CorimError::SignerExpired { .. } => AppraisalCode::ReferenceSignerExpired,
            CorimError::Algorithm(_) => AppraisalCode::ReferenceAlgorithmWrong,
            CorimError::SignatureInvalid { .. } | CorimError::Sign(_) => AppraisalCode::ReferenceSignatureInvalid,
            CorimError::Expired => AppraisalCode::ReferenceExpired,
            CorimError::NotYetValid => AppraisalCode::ReferenceNotYetValid,
            CorimError::ProfileUnknown { .. } => AppraisalCode::ReferenceProfileUnknown,
            CorimError::WeakBank { .. } => AppraisalCode::WeakAlgorithm,
        }
    }

    /// As a reason; `claim` names the file.
    pub fn reason(&self, claim: &str) -> Reason {
        Reason::new(
            self.code(),
            claim,
            "a CoRIM signed by a listed reference signer, in force",
            self.to_string(),
        )
    }

    pub(super) fn malformed(expected: &'static str, found: impl std::fmt::Display) -> Self {
        CorimError::Malformed {
            expected,
            found: sanitise(&found.to_string(), MAX_NAME),
        }
    }
}
