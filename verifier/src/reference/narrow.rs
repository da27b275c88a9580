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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use touchstone_cose::key::SigningKey;

    use super::*;
    use crate::corim::{BankValues, MachineReference, TrustedSigner, UntrustedCorim, sign_corim};

    fn corim(name: &str, value: u8) -> VerifiedCorim {
        let values = BankValues {
            registers: BTreeMap::from([(7, vec![value; 32])]),
            events: Vec::new(),
        };
        let reference = MachineReference {
            name: name.into(),
            banks: [(HashAlg::Sha256, values)].into(),
            files: Vec::new(),
            snp: None,
            tdx: None,
            gpus: Vec::new(),
            not_before: None,
            not_after: None,
        };
        let key = SigningKey::from_seed([1; 32]);
        let signer = TrustedSigner {
            name: "signer".into(),
            key: key.verifying_key(),
            not_after: None,
        };
        let signed = sign_corim(&reference.to_corim_unsigned().unwrap(), &key, "signer", None).unwrap();
        UntrustedCorim::new(&signed).verify(&[signer], 0).unwrap()
    }

    fn names(set: &ReferenceSet) -> Vec<(&str, &str)> {
        let references = set.references().iter();
        references
            .map(|r| (r.values.name.as_str(), r.authority.as_str()))
            .collect()
    }

    #[test]
    fn a_part_has_some_of_the_wholes_and_its_own() {
        let whole = ReferenceSet::new(vec![corim("a", 1), corim("b", 2)]);
        let some = whole.narrowed(|reference| reference.values.name == "b", Vec::new());
        assert_eq!(names(&some), [("b", "signer")]);
        let with_own = whole.narrowed(|_| false, vec![corim("eu", 3).under("eu-1")]);
        assert_eq!(names(&with_own), [("eu", "eu-1/signer")]);
        assert!(Arc::ptr_eq(&some.references()[0], &whole.references()[1]), "shared");
        // Each is known by its digest: statements name it.
        let none = whole.narrowed(|_| false, Vec::new());
        let all = whole.narrowed(|_| true, Vec::new());
        let digests: std::collections::BTreeSet<[u8; 32]> =
            [&whole, &some, &with_own, &none, &all].map(ReferenceSet::digest).into();
        assert_eq!(digests.len(), 5);
        assert_eq!(all.digest(), whole.narrowed(|_| true, Vec::new()).digest());
        assert_eq!(names(&all), names(&whole));
    }
}
