//! A signing key that was verified before, so that its chain need not be verified for every report.

use super::vek::{VekKind, VerifiedVek};
use crate::tpm::HashAlg;
use crate::x509::{CertificateStore, CrlRule};

/// A verified signing key with everything its verification rested on. It stands for verifying anew exactly where that
/// would give the same answer: the same certificates, the same trust anchors and revocation lists, the same rule, and a
/// time from the one it was verified at until the first at which anything it rests on ends or a newer list begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownVek {
    vek: VerifiedVek,
    certificates: [u8; 32],
    store: [u8; 32],
    crl: CrlRule,
    from: i64,
    until: i64,
}

impl KnownVek {
    /// Keeps what was verified at `now` (Unix seconds) from the certificates `record` under `store` and `crl`.
    pub fn new(vek: VerifiedVek, record: &[u8], store: &CertificateStore, crl: CrlRule, now: i64) -> Self {
        Self {
            until: vek.not_after().min(store.next_crl_after(now).saturating_sub(1)),
            vek,
            certificates: digest(record),
            store: store.digest(),
            crl,
            from: now,
        }
    }

    /// The key, where verifying the certificates `record` for a VLEK or for a VCEK would give it again.
    pub fn get(
        &self,
        record: &[u8],
        vlek: bool,
        store: &CertificateStore,
        crl: CrlRule,
        now: i64,
    ) -> Option<&VerifiedVek> {
        let same = matches!(self.vek.vek().kind(), VekKind::Vlek { .. }) == vlek
            && self.crl == crl
            && (self.from..=self.until).contains(&now)
            && self.store == store.digest()
            && self.certificates == digest(record);
        same.then_some(&self.vek)
    }
}

fn digest(record: &[u8]) -> [u8; 32] {
    HashAlg::Sha256.digest([record]).as_ref().try_into().unwrap_or_default()
}
