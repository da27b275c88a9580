//! Reference values in force, and which of them a machine's registers match.
//!
//! A reference is a *whole* state: registers of several references are never mixed.

use std::collections::BTreeMap;

use crate::corim::{MachineReference, VerifiedCorim};
use crate::tpm::HashAlg;

/// One reference with where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Its registers and events.
    pub values: MachineReference,
    /// Name of the signer of the CoRIM it came in.
    pub authority: String,
    /// First second of its validity, if there is one.
    pub not_before: Option<i64>,
    /// Last second of its validity: the minimum over CoRIM, signature and signer.
    pub not_after: i64,
}

impl Reference {
    /// Whether it is in force at `now`, Unix seconds.
    pub fn in_force(&self, now: i64) -> bool {
        self.not_before.is_none_or(|start| start <= now) && now <= self.not_after
    }
}

/// Answer of [`ReferenceSet::find`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found<'a> {
    /// Every register equals this reference's, and it is in force.
    Match(&'a Reference),
    /// Every register equals this reference's, but none of those that match is in force.
    OutOfForce(&'a Reference),
    /// No reference matches; this one has the most registers in common (of several, the one in force, then the first by
    /// name).
    Nearest(&'a Reference),
    /// There is no reference for this bank at all.
    Nothing,
}

/// Which references hold a value in a register: positions in ascending order.
type Holders = BTreeMap<Vec<u8>, Vec<usize>>;

/// All reference values of a policy, indexed by register value.
#[derive(Debug, Clone, Default)]
pub struct ReferenceSet {
    references: Vec<Reference>,
    by_value: BTreeMap<(HashAlg, u8), Holders>,
    has_files: bool,
    digest: [u8; 32],
}

impl ReferenceSet {
    /// Indexes verified references. The order in which they come has no influence on any answer.
    pub fn new(corims: Vec<VerifiedCorim>) -> Self {
        let mut digests: Vec<[u8; 32]> = corims.iter().map(VerifiedCorim::digest).collect();
        digests.sort_unstable();
        digests.dedup();
        let digest = HashAlg::Sha256.digest(digests.iter().map(<[u8; 32]>::as_slice));
        let mut references: Vec<Reference> = corims.into_iter().flat_map(VerifiedCorim::into_references).collect();
        references.sort_by(|a, b| {
            let key = |r: &'_ Reference| (r.values.clone(), std::cmp::Reverse(r.not_after));
            key(a).cmp(&key(b))
        });
        let mut by_value: BTreeMap<(HashAlg, u8), Holders> = BTreeMap::new();
        for (position, reference) in references.iter().enumerate() {
            for (bank, values) in &reference.values.banks {
                for (pcr, value) in &values.registers {
                    let holders = by_value.entry((*bank, *pcr)).or_default();
                    holders.entry(value.clone()).or_default().push(position);
                }
            }
        }
        Self {
            has_files: references.iter().any(|reference| !reference.values.files.is_empty()),
            references,
            by_value,
            digest: digest.as_ref().try_into().unwrap_or_default(),
        }
    }

    /// SHA-256 over the sorted digests of the signed CoRIMs: what this set *is*, for statements and replay.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// Whether any of them lists files, so that some machine may have to show what it ran.
    pub fn has_files(&self) -> bool {
        self.has_files
    }

    /// Every reference.
    pub fn references(&self) -> &[Reference] {
        &self.references
    }

    /// The reference whose registers of `bank` include exactly `registers`, at the time `now` (Unix seconds).
    ///
    /// A match costs one ordered look-up a register and looks only at references that share the rarest of the values.
    pub fn find(&self, bank: HashAlg, registers: &[(u8, &[u8])], now: i64) -> Found<'_> {
        let rarest = registers
            .iter()
            .map(|(pcr, value)| self.holders(bank, *pcr, value))
            .min_by_key(|holders| holders.len())
            .unwrap_or_default();
        let mut out_of_force = None;
        let mut best: Option<&Reference> = None;
        for reference in rarest.iter().filter_map(|position| self.references.get(*position)) {
            if Self::common(reference, bank, registers) != registers.len() {
                continue;
            }
            if !reference.in_force(now) {
                out_of_force.get_or_insert(reference);
            } else if best.is_none_or(|best| reference.not_after > best.not_after) {
                best = Some(reference);
            }
        }
        match (best, out_of_force) {
            (Some(reference), _) => Found::Match(reference),
            (None, Some(reference)) => Found::OutOfForce(reference),
            (None, None) => self
                .nearest(bank, registers, now)
                .map_or(Found::Nothing, Found::Nearest),
        }
    }

    fn holders(&self, bank: HashAlg, pcr: u8, value: &[u8]) -> &[usize] {
        self.by_value
            .get(&(bank, pcr))
            .and_then(|holders| holders.get(value))
            .map(Vec::as_slice)
            .unwrap_or_default()
    }

    /// How many of `registers` the reference has with these values.
    fn common(reference: &Reference, bank: HashAlg, registers: &[(u8, &[u8])]) -> usize {
        let same = |(pcr, value): &&(u8, &[u8])| reference.values.register(bank, *pcr) == Some(value);
        registers.iter().filter(same).count()
    }

    fn nearest(&self, bank: HashAlg, registers: &[(u8, &[u8])], now: i64) -> Option<&Reference> {
        let mut best: Option<((usize, bool), &Reference)> = None;
        for reference in &self.references {
            if !reference.values.banks.contains_key(&bank) {
                continue;
            }
            let rank = (Self::common(reference, bank, registers), reference.in_force(now));
            if best.is_none_or(|(highest, _)| rank > highest) {
                best = Some((rank, reference));
            }
        }
        best.map(|(_, reference)| reference)
    }
}
