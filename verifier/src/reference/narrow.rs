//! The references of a part of a domain: some of the whole's, and what the part may add in classes of its own.

use std::sync::Arc;

use super::{Reference, ReferenceSet};
use crate::corim::VerifiedCorim;
use crate::tpm::HashAlg;

/// What the digest of such a set begins with.
const DOMAIN_STRING: &[u8] = b"touchstone-narrowed-references/1\0";

impl ReferenceSet {
    /// This set with those alone selected that `keep` takes, and `own` with it. References are shared, not copied.
    ///
    /// What is not selected is searched all the same, and is no match where it is the best: a selection takes away, and
    /// never puts a reference that asks for less in the place of one that asks for more.
    ///
    /// Which classes `own` may be of is the caller's to have checked.
    #[must_use]
    pub fn narrowed(&self, keep: impl Fn(&Reference) -> bool, own: Vec<VerifiedCorim>) -> Self {
        let own = Self::new(own);
        let selected = (0u32..).zip(&self.references);
        let selected = selected.map(|(position, r)| (Arc::clone(r), self.is_selected(position) && keep(r)));
        let mut references: Vec<(Arc<Reference>, bool)> = selected.collect();
        // Which were kept: the whole is known by its digest, and of it a bit each.
        let bits: Vec<u8> = references.iter().map(|(_, selected)| u8::from(*selected)).collect();
        let digest = HashAlg::Sha256.digest([DOMAIN_STRING, &self.digest, &own.digest, &bits]);
        references.extend(own.references.into_iter().map(|reference| (reference, true)));
        Self::of(references, digest.as_ref().try_into().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use touchstone_cose::key::SigningKey;

    use super::super::{Found, QuotedRegister};
    use super::*;
    use crate::corim::{BankValues, FileDigest, MachineReference, TrustedSigner, UntrustedCorim, sign_corim};

    fn corim(name: &str, value: u8) -> VerifiedCorim {
        with_files(name, value, false, None)
    }

    fn with_files(name: &str, value: u8, files_listed: bool, not_after: Option<i64>) -> VerifiedCorim {
        let values = BankValues {
            registers: BTreeMap::from([(7, vec![value; 32])]),
            events: Vec::new(),
        };
        let files = FileDigest {
            algorithm: HashAlg::Sha256,
            digest: vec![9; 32],
            path: "/bin/sh".into(),
        };
        let files = if files_listed { vec![files] } else { Vec::new() };
        let reference = MachineReference {
            name: name.into(),
            banks: match value {
                0 => BTreeMap::new(),
                _ => [(HashAlg::Sha256, values)].into(),
            },
            files,
            snp: None,
            tdx: None,
            gpus: Vec::new(),
            not_before: None,
            not_after,
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
        set.selected()
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
        assert!(Arc::ptr_eq(&some.references()[1], &whole.references()[1]), "shared");
        // Each is known by its digest: statements name it.
        let none = whole.narrowed(|_| false, Vec::new());
        let all = whole.narrowed(|_| true, Vec::new());
        let digests: std::collections::BTreeSet<[u8; 32]> =
            [&whole, &some, &with_own, &none, &all].map(ReferenceSet::digest).into();
        assert_eq!(digests.len(), 5);
        assert_eq!(all.digest(), whole.narrowed(|_| true, Vec::new()).digest());
        assert_eq!(names(&all), names(&whole));
    }

    /// What a machine whose register 7 has this value matches, or why it does not.
    fn find(set: &ReferenceSet, value: u8) -> Found<'_> {
        let register = QuotedRegister {
            bank: HashAlg::Sha256,
            pcr: 7,
            value: &[value; 32],
            identity: None,
        };
        set.find(&[register], 50)
    }

    #[test]
    fn a_selection_takes_no_demand_away() {
        let whole = ReferenceSet::new(vec![
            with_files("golden", 1, false, None),
            with_files("golden-ima", 1, true, None),
        ]);
        let named = |set: &ReferenceSet| match find(set, 1) {
            Found::Match(found) => format!("match {}", found.values.name),
            Found::Deselected(found) => format!("deselected {}", found.values.name),
            other => format!("{other:?}"),
        };
        assert_eq!(named(&whole), "match golden-ima");
        for (selected, expected) in [("golden", "deselected golden-ima"), ("golden-ima", "match golden-ima")] {
            let part = whole.narrowed(|reference| reference.values.name == selected, Vec::new());
            assert_eq!(named(&part), expected, "{selected}");
            assert!(part.has_files(), "register 10 is asked for as by the whole: {selected}");
            // A part of a part selects no more than it.
            let again = part.narrowed(|_| true, Vec::new());
            assert_eq!(named(&again), expected, "{selected}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        /// Whatever is selected of references with equal registers, with files and without: what a machine matches in the
        /// part is what it matches in the whole, so that the part demands no less.
        #[test]
        fn what_matches_in_a_part_matches_in_the_whole(
            references in proptest::collection::vec((0..3u8, any::<bool>(), 40..60i64, any::<bool>()), 1..8),
        ) {
            // Value 0 has no register: a list of files for every machine, which has files then.
            let corims = references.iter().enumerate().map(|(n, (value, files, end, _))| {
                with_files(&format!("r{n}"), *value, *files || *value == 0, Some(*end))
            });
            let whole = ReferenceSet::new(corims.collect());
            let selected = |reference: &Reference| {
                let place = reference.values.name[1..].parse::<usize>().unwrap();
                references[place].3
            };
            let part = whole.narrowed(selected, Vec::new());
            prop_assert_eq!(part.has_files(), whole.has_files());
            prop_assert!(part.files_only().all(|file| selected(file) && whole.files_only().any(|known| known == file)));
            for value in 1..3 {
                match (find(&part, value), find(&whole, value)) {
                    (Found::Match(in_part), Found::Match(best)) => {
                        prop_assert_eq!(in_part, best);
                        prop_assert!(selected(in_part));
                    }
                    (Found::Match(_), refused) => prop_assert!(false, "the whole: {refused:?}"),
                    (Found::Deselected(in_part), Found::Match(best)) => {
                        prop_assert_eq!(in_part, best);
                        prop_assert!(!selected(in_part));
                    }
                    (_, Found::Match(best)) => prop_assert!(!selected(best)),
                    _ => {}
                }
            }
        }
    }
}
