//! Signing keys of SEV-SNP reports whose chains were verified, kept in memory: a chip's certificates are the same at every
//! attestation, and verifying their chain is most of the work of judging its report.
//!
//! A key that is known stands for verifying anew exactly where that would give the same answer (see [`KnownVek`]), so
//! nothing is decided otherwise for it, and a replay does without.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use sha2::{Digest as _, Sha256};
use touchstone_evidence::collection::Collection;
use touchstone_evidence::label::Label;
use touchstone_verifier::snp::KnownVek;

/// The most keys that are kept; one more, and all are forgotten.
pub const MAX_KEYS: usize = 4_096;

/// The keys, by the SHA-256 of the certificates they came with.
#[derive(Debug, Default)]
pub struct Chains {
    keys: Mutex<BTreeMap<[u8; 32], KnownVek>>,
}

impl Chains {
    /// The key that is known by the certificates in this evidence.
    #[must_use]
    pub fn of(&self, evidence: &Collection) -> Option<KnownVek> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.get(&digest(evidence)?).cloned()
    }

    /// Keeps the key that was verified by the certificates in this evidence.
    pub fn keep(&self, evidence: &Collection, key: KnownVek) {
        let Some(digest) = digest(evidence) else { return };
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.len() >= MAX_KEYS && !keys.contains_key(&digest) {
            keys.clear();
        }
        keys.insert(digest, key);
    }

    /// How many are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether none is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn digest(evidence: &Collection) -> Option<[u8; 32]> {
    evidence
        .get(Label::SnpCertificates)
        .map(|record| Sha256::digest(record).into())
}
