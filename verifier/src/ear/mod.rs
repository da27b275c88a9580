//! The Attestation Result: an EAR (draft-ietf-rats-ear-04) as a signed CWT and, for people, as JSON.
//!
//! In scope: one submodule an attester, status, AR4SI vector, policy ids, our verifier claims (1006: what was found,
//! and every reason). Out of scope: raw evidence, device topology, results of other verifiers.

mod codec;
mod json;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use touchstone_cose::cbor::{CborError, Limits, ShapeError};
use touchstone_cose::cwt::{self, CwtError};
use touchstone_cose::key::{SignError, Signer, VerifyingKey};
use touchstone_cose::sign1::{self, CoseError, Protected, Unverified};

use crate::appraisal::{Appraisal, Claims, Tier, TrustVector, claim};
use crate::reason::{AppraisalCode, Code, Reason};

/// Profile of this version of the draft: it changes with each.
pub const PROFILE: &str = "tag:ietf.org,2026:rats/ear#04";
/// typ (RFC 9596) of a signed EAR.
pub const TYP: &str = "application/eat+cwt";
/// Limits of a signed EAR: every reason of an appraisal fits.
pub const LIMITS: Limits = Limits {
    max_bytes: 1 << 20,
    max_depth: 12,
    max_items: 1 << 14,
};
/// Most submodules.
pub const MAX_SUBMODS: usize = 16;
/// Longest text in an EAR, in bytes.
pub const MAX_TEXT: usize = 4096;

/// Members of our verifier claims.
mod member {
    pub(super) const CLAIMS: &str = "claims";
    pub(super) const REASONS: &str = "reasons";
    pub(super) const NODE: &str = "node";
}

/// Why an EAR was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EarError {
    /// No CWT, or one without validity.
    #[error("attestation result: {0}")]
    Cwt(#[from] CwtError),
    /// The COSE envelope or its signature.
    #[error("attestation result: {0}")]
    Cose(#[from] CoseError),
    /// The payload is no CBOR that is accepted.
    #[error("attestation result: {0}")]
    Cbor(#[from] CborError),
    /// The payload has another shape.
    #[error("attestation result: {0}")]
    Shape(#[from] ShapeError),
    /// Another profile.
    #[error("attestation result: expected profile {PROFILE}, found {found}")]
    Profile {
        /// What was there.
        found: String,
    },
    /// The composite says something better than a part, or a code is unknown.
    #[error("attestation result: expected {expected}, found {found}")]
    Value {
        /// What the format says.
        expected: &'static str,
        /// What was there.
        found: String,
    },
}

impl EarError {
    /// The stable code.
    pub const fn code(&self) -> AppraisalCode {
        match self {
            EarError::Cwt(CwtError::Expired { .. } | CwtError::NotYetValid { .. }) => AppraisalCode::EarExpired,
            EarError::Cose(CoseError::Key(_) | CoseError::KidMismatch { .. } | CoseError::AlgorithmMismatch { .. }) => {
                AppraisalCode::EarSignatureInvalid
            }
            _ => AppraisalCode::EarUnreadable,
        }
    }
}

/// Who verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierId {
    /// Maker of the verifier.
    pub developer: String,
    /// Its build.
    pub build: String,
}

/// A reason as it stands in an EAR: the code is text, since a reader may be older than the writer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct EarReason {
    /// The stable code.
    pub code: String,
    /// What it is about.
    pub claim: String,
    /// What would have been accepted.
    pub expected: String,
    /// What came.
    pub found: String,
}

impl From<&Reason> for EarReason {
    fn from(reason: &Reason) -> Self {
        let Reason {
            code,
            claim,
            expected,
            found,
            hint: _,
        } = reason.clone();
        Self {
            code: Code::as_str(code).to_owned(),
            claim,
            expected,
            found,
        }
    }
}

/// The appraisal of one attester.
#[derive(Debug, Clone, PartialEq)]
pub struct Submod {
    /// The verdict.
    pub status: Tier,
    /// The verdict by aspect.
    pub vector: TrustVector,
    /// The policies it was appraised by.
    pub policy_ids: Vec<String>,
    /// The node, where it is known.
    pub node: Option<String>,
    /// What was found.
    pub claims: Claims,
    /// Every reason against, sorted.
    pub reasons: Vec<EarReason>,
}

impl Submod {
    /// The submodule of an appraisal under a policy.
    pub fn new(appraisal: &Appraisal, policy_id: &str) -> Self {
        Self {
            status: appraisal.status,
            vector: appraisal.vector,
            policy_ids: vec![policy_id.to_owned()],
            node: appraisal.node.clone(),
            claims: appraisal.claims.clone(),
            reasons: appraisal.reasons.iter().map(EarReason::from).collect(),
        }
    }
}

/// What a machine's one submodule is called: by its root, or `machine` where several belong together.
fn attester(appraisal: &Appraisal) -> &'static str {
    let mut roots = appraisal.roots.iter();
    match (roots.next(), roots.next()) {
        (Some(root), None) => root.as_str(),
        (Some(_), Some(_)) => "machine",
        // Something speaks against every root that came.
        (None, _) if appraisal.claims.contains_key(claim::TCB_FRESHNESS) => "machine",
        (None, _) => "tpm",
    }
}

/// An Attestation Result.
#[derive(Debug, Clone, PartialEq)]
pub struct Ear {
    /// When it was made, Unix seconds.
    pub issued_at: i64,
    /// First second at which it no longer counts, Unix seconds.
    pub expires: Option<i64>,
    /// Who verified.
    pub verifier: VerifierId,
    /// The nonce of the challenge, 8 to 64 bytes.
    pub nonce: Option<Vec<u8>>,
    /// The appraisals by attester, at least one.
    pub submods: BTreeMap<String, Submod>,
}

impl Ear {
    /// The result of one machine's appraisal at the time it was made for. It expires with what it rests on.
    pub fn of(appraisal: &Appraisal, policy_id: &str, nonce: &[u8], now: i64) -> Self {
        Self {
            issued_at: now,
            expires: (appraisal.expires != i64::MAX).then(|| appraisal.expires.saturating_add(1)),
            verifier: VerifierId {
                developer: "touchstone".to_owned(),
                build: format!(
                    "touchstone-verifier {} {}",
                    env!("CARGO_PKG_VERSION"),
                    crate::SEMANTICS_ID
                ),
            },
            nonce: (8..=64).contains(&nonce.len()).then(|| nonce.to_vec()),
            submods: [(attester(appraisal).to_owned(), Submod::new(appraisal, policy_id))].into(),
        }
    }

    /// Signs it: a CWT under tag 61.
    ///
    /// # Errors
    /// The signing key failed.
    pub fn sign(&self, signer: &dyn Signer) -> Result<Vec<u8>, SignError> {
        Ok(cwt::wrap(&sign1::sign(
            signer,
            &Protected::typ(TYP),
            &self.encode(),
            &[],
        )?))
    }

    /// Checks a signed EAR under `verifier_key` at `now` (Unix seconds), and reads it.
    ///
    /// # Errors
    /// [`EarError`]; the contents are looked at only after the signature.
    pub fn verify(token: &[u8], verifier_key: &VerifyingKey, now: i64) -> Result<Self, EarError> {
        let verified = Unverified::parse(cwt::unwrap(token)?, LIMITS)?.verify(verifier_key, TYP, &[])?;
        let ear = Self::decode(verified.payload())?;
        cwt::check_window(None, ear.expires.unwrap_or(i64::MAX), now, 0)?;
        Ok(ear)
    }
}
