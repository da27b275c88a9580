//! AMD's roots, as a new repository lists them: see `defaults/amd/README.md`. Nothing trusts them but a published policy.

use sha2::{Digest, Sha256};
use touchstone_verifier::anchors::Purpose;

use crate::layout::TargetKind;

/// The root (ARK) of each product line.
const ROOTS: [&[u8]; 3] = [
    include_bytes!("../../defaults/amd/milan-ark.der"),
    include_bytes!("../../defaults/amd/genoa-ark.der"),
    include_bytes!("../../defaults/amd/turin-ark.der"),
];
/// The authorities of chips' own keys (ASK) and of providers' keys (ASVK).
const AUTHORITIES: [&[u8]; 6] = [
    include_bytes!("../../defaults/amd/milan-ask.der"),
    include_bytes!("../../defaults/amd/milan-asvk.der"),
    include_bytes!("../../defaults/amd/genoa-ask.der"),
    include_bytes!("../../defaults/amd/genoa-asvk.der"),
    include_bytes!("../../defaults/amd/turin-ask.der"),
    include_bytes!("../../defaults/amd/turin-asvk.der"),
];

/// The targets that `policy init` stages.
pub(crate) fn targets() -> impl Iterator<Item = (TargetKind, &'static [u8])> {
    let digest = |der: &[u8]| -> [u8; 32] { Sha256::digest(der).into() };
    let roots = ROOTS.into_iter();
    let roots = roots.map(move |der| (TargetKind::Anchor(Purpose::Snp, digest(der)), der));
    let authorities = AUTHORITIES.into_iter();
    roots.chain(authorities.map(move |der| (TargetKind::Intermediate(Purpose::Snp, digest(der)), der)))
}

#[cfg(test)]
mod tests {
    use touchstone_verifier::x509::{Certificate, CertificateStore, Expiry, verify_chain};

    use super::*;

    /// Each authority leads to a root that is shipped, and the page that tells where they are from names every file.
    #[test]
    fn every_authority_leads_to_a_root() {
        let parse = |der: &[u8]| Certificate::from_der(der).unwrap();
        let store = CertificateStore::new(ROOTS.map(|der| (parse(der), true)));
        // 2026-11-21.
        let now = 1_795_219_200;
        for der in AUTHORITIES {
            verify_chain(&parse(der), &[], &store, now, Expiry::Deny).unwrap();
        }
        let page = include_str!("../../defaults/amd/README.md");
        assert_eq!(targets().count(), 9);
        for (_, der) in targets() {
            assert!(page.contains(&hex::encode(Sha256::digest(der))));
        }
    }
}
