//! Intel's root, as a new repository lists it: see `defaults/intel/README.md`. Nothing trusts it but a published policy.

use sha2::{Digest, Sha256};
use touchstone_verifier::anchors::Purpose;

use crate::layout::TargetKind;

/// The root of SGX and TDX provisioning certification.
const ROOT: &[u8] = include_bytes!("../../defaults/intel/sgx-root-ca.der");

/// The targets that `policy init` stages.
pub(crate) fn targets() -> impl Iterator<Item = (TargetKind, &'static [u8])> {
    let digest: [u8; 32] = Sha256::digest(ROOT).into();
    std::iter::once((TargetKind::Anchor(Purpose::Tdx, digest), ROOT))
}

#[cfg(test)]
mod tests {
    use touchstone_verifier::x509::Certificate;

    use super::*;

    /// It is a root, and the page that tells where it is from names it.
    #[test]
    fn the_page_names_the_root() {
        let root = Certificate::from_der(ROOT).unwrap();
        assert!(root.is_ca() && root.is_self_issued());
        let page = include_str!("../../defaults/intel/README.md");
        assert!(page.contains(&hex::encode(Sha256::digest(ROOT))));
    }
}
