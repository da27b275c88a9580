//! Reference values in force, and which of them a machine's registers match.
//!
//! A reference is a *whole* state: registers of several references, or banks of several, are never mixed. A register
//! matches a reference by its value, or, where the log replays to it, by the identity of its events
//! ([`eventlog::identity`](crate::eventlog::identity)): what belongs to the single machine is left out of it.
//!
//! Both are hash look-ups, so that an answer takes the same time whether a thousand values are loaded or a million.

mod gpu;
mod narrow;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::corim::{BankValues, Endorses, MachineReference, ReferenceEvent, VerifiedCorim};
use crate::eventlog::identity::{IdentityDigest, Measured, RegisterIdentity, register_identity};
use crate::ima::FileSet;
use crate::reason::{AppraisalCode, Reason};
use crate::snp::SignedReport;
use crate::snp::reference::MEASUREMENT_LEN;
use crate::tdx::{Quote, RtmrReplay};
use crate::tpm::HashAlg;
use gpu::GpuIndex;
pub use gpu::{FoundGpu, GPU_HOLDERS};

/// Most references of one launch digest that are looked at.
pub const SNP_HOLDERS: usize = 1024;
/// How many holders of each register's value are looked at for the nearest reference: it is a help for people, and its
/// cost must not grow with the number of references.
pub const NEAREST_HOLDERS: usize = 16;
/// How many references of one TDX launch measurement have their events compared, where no values match.
pub const TDX_COMPARED: usize = 256;

/// The register whose start value says from which locality the TPM was started. Its events alone do not say it.
const LOCALITY_REGISTER: u8 = 0;

/// One reference with where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Its registers, events and files.
    pub values: MachineReference,
    /// Its files, compiled: shared by everything that judges by them.
    pub files: Arc<FileSet>,
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

    /// Whether it lists files and no register: then it counts for every machine.
    pub fn is_files_only(&self) -> bool {
        self.values.banks.is_empty() && !self.values.has_guest() && self.values.gpus.is_empty()
    }
}

/// A register as it was quoted.
#[derive(Debug, Clone, Copy)]
pub struct QuotedRegister<'a> {
    /// The bank.
    pub bank: HashAlg,
    /// The register.
    pub pcr: u8,
    /// Its value.
    pub value: &'a [u8],
    /// The identity of its events, where a log replays to the value.
    pub identity: Option<&'a RegisterIdentity<'a>>,
}

/// Answer of [`ReferenceSet::find`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found<'a> {
    /// Every register matches this reference, and it is in force.
    Match(&'a Reference),
    /// Every register matches this reference, but none of those that match is in force.
    OutOfForce(&'a Reference),
    /// The best that matches is one that this part of the domain does not select
    /// ([`ReferenceSet::narrowed`]): no other stands in its place.
    Deselected(&'a Reference),
    /// No reference matches; of those looked at ([`NEAREST_HOLDERS`]), this one has the most registers in common (of
    /// several, the one in force, then the first by name).
    Nearest(&'a Reference),
    /// There is no reference with registers of these banks at all.
    Nothing,
}

/// Answer of [`ReferenceSet::find_snp`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundSnp<'a> {
    /// The report matches this reference, and it is in force.
    Match(&'a Reference),
    /// The report matches this reference, but none of those that it matches is in force.
    OutOfForce(&'a Reference),
    /// The best that matches is one that this part of the domain does not select
    /// ([`ReferenceSet::narrowed`]): no other stands in its place.
    Deselected(&'a Reference),
    /// It matches none. This one is nearest, with every difference from it.
    Nearest(&'a Reference, Vec<Reason>),
    /// There is no reference of an SEV-SNP guest.
    Nothing,
}

/// Answer of [`ReferenceSet::find_tdx`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundTdx<'a> {
    /// The quote matches this reference, and it is in force.
    Match(&'a Reference),
    /// The quote matches this reference, but none of those that it matches is in force.
    OutOfForce(&'a Reference),
    /// The best that matches is one that this part of the domain does not select
    /// ([`ReferenceSet::narrowed`]): no other stands in its place.
    Deselected(&'a Reference),
    /// It matches none. This one is nearest, with every difference from it.
    Nearest(&'a Reference, Vec<Reason>),
    /// There is no reference of a TDX guest.
    Nothing,
}

/// How a register of a reference compares with a quoted one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Likeness {
    /// Its value is the quoted one.
    Value,
    /// Its events have the identity of the log's, and nothing is older.
    Identity,
    /// It differs.
    Other,
}

/// Positions of references, in ascending order.
type Positions = Vec<u32>;

/// The references that have a register of one bank, by what they state of it.
#[derive(Debug, Clone, Default)]
struct Slot {
    by_value: HashMap<Vec<u8>, Positions>,
    by_identity: HashMap<IdentityDigest, Positions>,
}

/// All reference values of a policy, indexed by register value and identity.
#[derive(Debug, Clone, Default)]
pub struct ReferenceSet {
    /// Shared with the sets that are narrowed from this one.
    references: Vec<Arc<Reference>>,
    /// Which of them this part of the domain does not select, by position; empty where it selects all. They are searched
    /// like the others: what they demand is not escaped by leaving them out.
    deselected: Vec<bool>,
    slots: BTreeMap<(HashAlg, u8), Slot>,
    /// The first references of each bank: what is nearest where nothing is in common.
    first: BTreeMap<HashAlg, Positions>,
    files_only: Positions,
    /// References of SEV-SNP guests by launch digest.
    snp: HashMap<[u8; MEASUREMENT_LEN], Positions>,
    /// The first of them.
    first_snp: Positions,
    /// References of TDX guests by launch measurement.
    tdx: HashMap<[u8; MEASUREMENT_LEN], Positions>,
    /// The first of them.
    first_tdx: Positions,
    gpus: GpuIndex,
    has_files: bool,
    digest: [u8; 32],
}

impl ReferenceSet {
    /// Indexes verified references. The order in which they come has no influence on any answer.
    pub fn new(corims: Vec<VerifiedCorim>) -> Self {
        let digests: BTreeSet<[u8; 32]> = corims.iter().map(VerifiedCorim::digest).collect();
        let digest = HashAlg::Sha256.digest(digests.iter().map(<[u8; 32]>::as_slice));
        let references = corims.into_iter().flat_map(VerifiedCorim::into_references);
        Self::of(
            references.map(|reference| (Arc::new(reference), true)).collect(),
            digest.as_ref().try_into().unwrap_or_default(),
        )
    }

    /// Indexes references, each with whether it is selected; `digest` is what they are.
    fn of(mut references: Vec<(Arc<Reference>, bool)>, digest: [u8; 32]) -> Self {
        references.sort_by(|(a, _), (b, _)| a.values.cmp(&b.values).then_with(|| b.not_after.cmp(&a.not_after)));
        let mut set = Self {
            digest,
            ..Self::default()
        };
        for (position, (reference, _)) in (0u32..).zip(&references) {
            set.index(position, reference);
        }
        if references.iter().any(|(_, selected)| !selected) {
            set.deselected = references.iter().map(|(_, selected)| !selected).collect();
        }
        set.references = references.into_iter().map(|(reference, _)| reference).collect();
        set
    }

    fn is_selected(&self, position: u32) -> bool {
        !self.deselected.get(position as usize).copied().unwrap_or(false)
    }

    fn get(&self, position: u32) -> Option<&Reference> {
        self.references.get(position as usize).map(Arc::as_ref)
    }

    fn index(&mut self, position: u32, reference: &Reference) {
        self.has_files |= !reference.values.files.is_empty();
        if reference.is_files_only() {
            self.files_only.push(position);
        }
        if let Some(snp) = &reference.values.snp {
            self.snp.entry(snp.measurement).or_default().push(position);
            if self.first_snp.len() < NEAREST_HOLDERS {
                self.first_snp.push(position);
            }
        }
        if let Some(tdx) = &reference.values.tdx {
            self.tdx.entry(tdx.mrtd).or_default().push(position);
            if self.first_tdx.len() < NEAREST_HOLDERS {
                self.first_tdx.push(position);
            }
        }
        self.gpus.add(position, &reference.values.gpus);
        for (bank, values) in &reference.values.banks {
            let first = self.first.entry(*bank).or_default();
            if first.len() < NEAREST_HOLDERS {
                first.push(position);
            }
            for (pcr, value) in &values.registers {
                let slot = self.slots.entry((*bank, *pcr)).or_default();
                slot.by_value.entry(value.clone()).or_default().push(position);
            }
            for (pcr, events) in by_register(values) {
                // Every event of this register is its software's, and the start value is more than the events tell.
                if pcr == LOCALITY_REGISTER && values.registers.contains_key(&pcr) {
                    continue;
                }
                let identity = register_identity(*bank, events.into_iter().map(measured)).digest;
                let slot = self.slots.entry((*bank, pcr)).or_default();
                slot.by_identity.entry(identity).or_default().push(position);
            }
        }
    }

    /// SHA-256 over the sorted digests of the signed CoRIMs: what this set *is*, for statements and replay.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// Every reference, those that are not selected with them.
    pub fn references(&self) -> &[Arc<Reference>] {
        &self.references
    }

    /// The references that may be matched.
    pub fn selected(&self) -> impl Iterator<Item = &Arc<Reference>> {
        let references = (0u32..).zip(&self.references);
        references.filter_map(|(position, reference)| self.is_selected(position).then_some(reference))
    }

    /// The selected references that list files and no register: they count for every machine.
    pub fn files_only(&self) -> impl Iterator<Item = &Reference> {
        let selected = self
            .at(&self.files_only)
            .filter(|(position, _)| self.is_selected(*position));
        selected.map(|(_, reference)| reference)
    }

    /// Whether any reference lists files, selected or not.
    pub fn has_files(&self) -> bool {
        self.has_files
    }

    /// Whether any reference has registers or events of this bank.
    pub fn has_bank(&self, bank: HashAlg) -> bool {
        self.first.contains_key(&bank)
    }

    /// The reference that *all* of `registers` match, of whatever banks, at the time `now` (Unix seconds).
    ///
    /// Costs one look-up a register and a look at those references only that share the rarest of the registers.
    pub fn find(&self, registers: &[QuotedRegister<'_>], now: i64) -> Found<'_> {
        let rarest = registers
            .iter()
            .map(|register| self.holders(register))
            .min_by_key(|[by_value, by_identity]| by_value.len() + by_identity.len())
            .unwrap_or_default();
        let mut out_of_force = None;
        let mut best: Option<(u32, &Reference)> = None;
        for (position, reference) in self.merged(rarest) {
            let all = registers
                .iter()
                .all(|register| self.likeness_at(position, reference, register) != Likeness::Other);
            if !all {
                continue;
            }
            if !reference.in_force(now) {
                out_of_force.get_or_insert(reference);
            } else if best.is_none_or(|(_, best)| rank(reference) > rank(best)) {
                best = Some((position, reference));
            }
        }
        match (best, out_of_force) {
            (Some((position, reference)), _) if self.is_selected(position) => Found::Match(reference),
            (Some((_, reference)), _) => Found::Deselected(reference),
            (None, Some(reference)) => Found::OutOfForce(reference),
            (None, None) => self.nearest(registers, now).map_or(Found::Nothing, Found::Nearest),
        }
    }

    /// The reference that a report of an SEV-SNP guest matches in everything it states, at the time `now` (Unix seconds).
    /// `endorses` is what the report is shown to vouch for: a reference of another purpose is none of it.
    ///
    /// Costs one look-up and a look at the references with that launch digest, at most [`SNP_HOLDERS`] of them; one
    /// guest has few.
    pub fn find_snp(&self, report: &SignedReport<'_>, endorses: Endorses, now: i64) -> FoundSnp<'_> {
        let holders = self.snp.get(report.report().measurement()).map(Vec::as_slice);
        let mut out_of_force = None;
        let mut best: Option<(u32, &Reference)> = None;
        let mut nearest: Option<(&Reference, Vec<Reason>)> = None;
        let candidates = holders.unwrap_or(&self.first_snp);
        for (position, reference) in self.at(candidates).take(SNP_HOLDERS) {
            let Some(snp) = &reference.values.snp else { continue };
            let mut reasons = snp.mismatches(report);
            reasons.extend(other_purpose(&reference.values.name, snp.endorses, endorses));
            if !reasons.is_empty() {
                let nearer = |(_, before): &(&Reference, Vec<Reason>)| reasons.len() < before.len();
                if nearest.as_ref().is_none_or(nearer) {
                    nearest = Some((reference, reasons));
                }
            } else if !reference.in_force(now) {
                out_of_force.get_or_insert(reference);
            } else if best.is_none_or(|(_, best)| rank(reference) > rank(best)) {
                best = Some((position, reference));
            }
        }
        match (best, out_of_force, nearest) {
            (Some((position, reference)), ..) if self.is_selected(position) => FoundSnp::Match(reference),
            (Some((_, reference)), ..) => FoundSnp::Deselected(reference),
            (None, Some(reference), _) => FoundSnp::OutOfForce(reference),
            (None, None, Some((reference, reasons))) => FoundSnp::Nearest(reference, reasons),
            (None, None, None) => FoundSnp::Nothing,
        }
    }

    /// The reference that a quote of a TDX guest matches in everything it states and in these `registers`, at the time
    /// `now` (Unix seconds).
    ///
    /// `endorses` is what the guest's report is shown to vouch for: a reference of another purpose is none of it.
    ///
    /// By values first, over every reference with that launch measurement: firmware is shared by many guests. Only where
    /// none matches, the events of `replay` are compared, with at most [`TDX_COMPARED`] of them.
    pub fn find_tdx(
        &self,
        quote: &Quote<'_>,
        endorses: Endorses,
        registers: &BTreeSet<u8>,
        replay: Option<&RtmrReplay<'_>>,
        now: i64,
    ) -> FoundTdx<'_> {
        let holders = self.tdx.get(quote.mrtd()).map(Vec::as_slice).unwrap_or_default();
        let compared = holders.get(..TDX_COMPARED).unwrap_or(holders);
        let mut out_of_force = None;
        for (positions, replay) in [(holders, None), (compared, replay)] {
            let mut best: Option<(u32, &Reference)> = None;
            for (position, reference) in self.at(positions) {
                let Some(tdx) = &reference.values.tdx else { continue };
                if tdx.endorses != endorses || !tdx.matches(quote, registers, replay) {
                    continue;
                }
                if !reference.in_force(now) {
                    out_of_force.get_or_insert(reference);
                } else if best.is_none_or(|(_, best)| rank(reference) > rank(best)) {
                    best = Some((position, reference));
                }
            }
            match best {
                Some((position, reference)) if self.is_selected(position) => return FoundTdx::Match(reference),
                Some((_, reference)) => return FoundTdx::Deselected(reference),
                None => {}
            }
        }
        if let Some(reference) = out_of_force {
            return FoundTdx::OutOfForce(reference);
        }
        let looked_at = if holders.is_empty() { &self.first_tdx } else { holders };
        let looked_at = looked_at.get(..NEAREST_HOLDERS).unwrap_or(looked_at);
        let mut nearest: Option<(&Reference, Vec<Reason>)> = None;
        for (_, reference) in self.at(looked_at) {
            let Some(tdx) = &reference.values.tdx else { continue };
            let name = &reference.values.name;
            let mut reasons = tdx.differences(name, quote, registers.iter().copied(), replay);
            reasons.extend(other_purpose(name, tdx.endorses, endorses));
            if nearest.as_ref().is_none_or(|(_, before)| reasons.len() < before.len()) {
                nearest = Some((reference, reasons));
            }
        }
        nearest.map_or(FoundTdx::Nothing, |(reference, reasons)| {
            FoundTdx::Nearest(reference, reasons)
        })
    }

    /// How a reference's register compares with the quoted one.
    pub fn likeness(reference: &Reference, register: &QuotedRegister<'_>) -> Likeness {
        let values = &reference.values;
        if values.register(register.bank, register.pcr) == Some(register.value) {
            return Likeness::Value;
        }
        let has_value = values.register(register.bank, register.pcr).is_some();
        let Some(found) = register.identity else {
            return Likeness::Other;
        };
        if (register.pcr == LOCALITY_REGISTER && has_value) || !values.has_events(register.bank, register.pcr) {
            return Likeness::Other;
        }
        let wanted = identity_of(reference, register.bank, register.pcr);
        if wanted.digest == found.digest && found.no_older_than(&wanted).is_ok() {
            Likeness::Identity
        } else {
            Likeness::Other
        }
    }

    /// The same by look-ups; the events are read again only where something may be newer.
    fn likeness_at(&self, position: u32, reference: &Reference, register: &QuotedRegister<'_>) -> Likeness {
        if reference.values.register(register.bank, register.pcr) == Some(register.value) {
            return Likeness::Value;
        }
        let [_, by_identity] = self.holders(register);
        let Some(found) = register
            .identity
            .filter(|_| by_identity.binary_search(&position).is_ok())
        else {
            return Likeness::Other;
        };
        if found.floors.is_empty() {
            return Likeness::Identity;
        }
        let wanted = identity_of(reference, register.bank, register.pcr);
        match found.no_older_than(&wanted) {
            Ok(()) => Likeness::Identity,
            Err(_) => Likeness::Other,
        }
    }

    /// Who states this register's value, and who has its identity.
    fn holders(&self, register: &QuotedRegister<'_>) -> [&[u32]; 2] {
        let Some(slot) = self.slots.get(&(register.bank, register.pcr)) else {
            return [&[], &[]];
        };
        let by_value = slot.by_value.get(register.value);
        let by_identity = register
            .identity
            .and_then(|identity| slot.by_identity.get(&identity.digest));
        [by_value, by_identity].map(|positions| positions.map(Vec::as_slice).unwrap_or_default())
    }

    fn at(&self, positions: &[u32]) -> impl Iterator<Item = (u32, &Reference)> {
        positions
            .iter()
            .filter_map(|position| Some((*position, self.get(*position)?)))
    }

    /// Both lists in ascending order, each reference once.
    fn merged(&self, [a, b]: [&[u32]; 2]) -> impl Iterator<Item = (u32, &Reference)> {
        let mut positions = [a, b].concat();
        positions.sort_unstable();
        positions.dedup();
        positions
            .into_iter()
            .filter_map(|position| Some((position, self.get(position)?)))
    }

    /// The reference with the most in common, among a bounded number of those that share a register.
    fn nearest(&self, registers: &[QuotedRegister<'_>], now: i64) -> Option<&Reference> {
        let mut candidates = BTreeSet::new();
        for holders in registers.iter().flat_map(|register| self.holders(register)) {
            candidates.extend(holders.iter().take(NEAREST_HOLDERS));
        }
        for register in registers {
            candidates.extend(self.first.get(&register.bank).into_iter().flatten());
        }
        let mut best: Option<((usize, bool), &Reference)> = None;
        for position in candidates {
            let Some(reference) = self.get(position) else {
                continue;
            };
            let like =
                |register: &&QuotedRegister<'_>| self.likeness_at(position, reference, register) != Likeness::Other;
            let rank = (registers.iter().filter(like).count(), reference.in_force(now));
            if best.is_none_or(|(highest, _)| rank > highest) {
                best = Some((rank, reference));
            }
        }
        best.map(|(_, reference)| reference)
    }
}

/// The identity of a reference's register.
pub fn identity_of(reference: &Reference, bank: HashAlg, pcr: u8) -> RegisterIdentity<'_> {
    register_identity(bank, reference.values.events_of(bank, pcr).map(measured))
}

/// A reference's event as the comparison takes it.
pub fn measured(event: &ReferenceEvent) -> Measured<'_> {
    Measured {
        pcr: u32::from(event.pcr),
        event_type: event.event_type,
        digest: &event.digest,
        data: event.data.as_deref().unwrap_or_default(),
    }
}

fn by_register(values: &BankValues) -> BTreeMap<u8, Vec<&ReferenceEvent>> {
    let mut registers: BTreeMap<u8, Vec<&ReferenceEvent>> = BTreeMap::new();
    for event in &values.events {
        registers.entry(event.pcr).or_default().push(event);
    }
    registers
}
/// Of several that match, the one that says more: who lists files is not outdone by who lists none.
fn rank(reference: &Reference) -> (bool, i64) {
    (!reference.files.is_empty(), reference.not_after)
}

/// Why a reference of another purpose does not count.
fn other_purpose(name: &str, stated: Endorses, shown: Endorses) -> Option<Reason> {
    (stated != shown).then(|| {
        let (expected, found) = (format!("{stated} (reference {name})"), shown.as_str());
        Reason::new(
            AppraisalCode::ReferencePurpose,
            "what the report vouches for",
            expected,
            found,
        )
    })
}
