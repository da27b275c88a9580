//! NVIDIA's root, as a new repository lists it: see `defaults/nvidia/README.md`. Nothing trusts it but a published policy.

use sha2::{Digest, Sha256};
use touchstone_verifier::anchors::Purpose;

use crate::layout::TargetKind;

/// NVIDIA Device Identity CA.
const ROOT: &[u8] = include_bytes!("../../defaults/nvidia/device-root.der");

/// The target that `policy init` stages.
pub(crate) fn target() -> (TargetKind, &'static [u8]) {
    (TargetKind::Anchor(Purpose::Gpu, Sha256::digest(ROOT).into()), ROOT)
}

#[cfg(test)]
mod tests {
    use touchstone_verifier::x509::Certificate;

    use super::*;

    #[test]
    fn the_root_is_the_one_its_page_names() {
        let root = Certificate::from_der(ROOT).unwrap();
        assert!(root.is_self_issued() && root.is_ca() && !root.is_signed_by_another());
        assert_eq!(root.subject(), "CN=NVIDIA Device Identity CA, O=NVIDIA");
        assert!(include_str!("../../defaults/nvidia/README.md").contains(&hex::encode(Sha256::digest(ROOT))));
    }
}
