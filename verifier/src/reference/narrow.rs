//! The references of a part of a domain: some of the whole's, and what the part may add in classes of its own.

use std::sync::Arc;

use super::{Reference, ReferenceSet};
use crate::corim::VerifiedCorim;
use crate::tpm::HashAlg;

/// What the digest of such a set begins with.
const DOMAIN_STRING: &[u8] = b"touchstone-narrowed-references/1\0";

impl ReferenceSet {
    /// The references of this set that `keep` takes, and those of `own` with it. References are shared, not copied.
    ///
    /// Which classes `own` may be of is the caller's to have checked.
    #[must_use]
    pub fn narrowed(&self, keep: impl Fn(&Reference) -> bool, own: Vec<VerifiedCorim>) -> Self {
        let own = Self::new(own);
        let kept = self.references.iter().filter(|reference| keep(reference));
        let mut references: Vec<Arc<Reference>> = kept.cloned().collect();
        // Which were kept: the whole is known by its digest, and of it a bit each.
        let bits: Vec<u8> = self.references.iter().map(|r| u8::from(keep(r))).collect();
        let digest = HashAlg::Sha256.digest([DOMAIN_STRING, &self.digest, &own.digest, &bits]);
        references.extend(own.references);
        Self::of(references, digest.as_ref().try_into().unwrap_or_default())
    }
}
