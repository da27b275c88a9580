//! What changed from one reference to another.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use touchstone_verifier::corim::{FileDigest, MachineReference, ReferenceEvent};
use touchstone_verifier::eventlog::identity::{Measured, Token, tokens};
use touchstone_verifier::tpm::HashAlg;

use super::aspect::{Aspect, command_line};
use super::guest;
use super::story::{kernel_versions, told_bank};

/// Most events of one aspect that are matched one by one after what both have in common at the start and the end; beyond
/// that they are told as removed and added.
pub const MAX_COMPARED: usize = 512;

/// How one event differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EventChange {
    /// The register.
    pub register: u8,
    /// What was measured, in the old reference.
    pub old: Option<String>,
    /// Its digest, hexadecimal.
    pub old_digest: Option<String>,
    /// What was measured, in the new reference.
    pub new: Option<String>,
    /// Its digest, hexadecimal.
    pub new_digest: Option<String>,
}

/// What became of a part of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// Neither has it.
    Absent,
    /// The same in both.
    Unchanged,
    /// Only the new one has it.
    Added,
    /// Only the old one has it.
    Removed,
    /// Different.
    Changed,
}

/// One part of the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AspectDiff {
    /// Which.
    pub aspect: Aspect,
    /// What became of it.
    pub change: Change,
    /// In words, where there is more to say than that: versions, words of a command line.
    pub words: Option<String>,
    /// The events that differ.
    pub events: Vec<EventChange>,
}

/// Files, by path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct FilesDiff {
    /// Paths only the new reference has.
    pub added: Vec<String>,
    /// Paths only the old reference has.
    pub removed: Vec<String>,
    /// Paths whose digests differ.
    pub changed: Vec<String>,
    /// How many paths are the same.
    pub unchanged: usize,
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReferenceDiff {
    /// The old reference's name.
    pub old: String,
    /// The new reference's name.
    pub new: String,
    /// The bank whose events were compared; none where they have none in common.
    pub bank: Option<String>,
    /// Whether both accept the same: nothing differs but what belongs to the single machine.
    pub same: bool,
    /// Every part that either has, in order.
    pub aspects: Vec<AspectDiff>,
    /// Registers whose values differ though no event does, or that only one states: no event says why.
    pub registers: Vec<u8>,
    /// Banks only one of them has.
    pub banks: Vec<String>,
    /// What is stated of a confidential VM and differs.
    pub guest: Vec<FieldChange>,
    /// Files.
    pub files: FilesDiff,
}

/// A field of a confidential VM's values that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldChange {
    /// The field, in words.
    pub field: String,
    /// In the old reference; none where it does not state it.
    pub old: Option<String>,
    /// In the new reference; none where it does not state it.
    pub new: Option<String>,
}

/// Every field that only one states, or that they state differently, in order.
fn guest_changes(old: &MachineReference, new: &MachineReference) -> Vec<FieldChange> {
    let (old, new) = (guest::words(old), guest::words(new));
    let value = |fields: &[(String, String)], name: &str| {
        let field = fields.iter().find(|(field, _)| field == name);
        field.map(|(_, value)| value.clone())
    };
    let only_new = new.iter().filter(|(name, _)| value(&old, name).is_none());
    old.iter()
        .chain(only_new)
        .map(|(name, _)| FieldChange {
            field: name.clone(),
            old: value(&old, name),
            new: value(&new, name),
        })
        .filter(|change| change.old != change.new)
        .collect()
}

impl ReferenceDiff {
    /// Compares two references.
    pub fn of(old: &MachineReference, new: &MachineReference) -> Self {
        let common = common_bank(old, new);
        let (old_events, new_events) = (told(old, common), told(new, common));
        let mut aspects: Vec<AspectDiff> = Aspect::ALL
            .into_iter()
            .map(|aspect| compare(aspect, &about(&old_events, aspect), &about(&new_events, aspect)))
            .filter(|diff| diff.change != Change::Absent)
            .collect();
        name_versions(&mut aspects, old, new);
        let registers = unexplained(old, new, common, &aspects);
        let banks: Vec<String> = old
            .banks
            .keys()
            .collect::<BTreeSet<_>>()
            .symmetric_difference(&new.banks.keys().collect())
            .map(|bank| bank.name().to_owned())
            .collect();
        let files = FilesDiff::of(&old.files, &new.files);
        let guest = guest_changes(old, new);
        let same = aspects
            .iter()
            .all(|diff| diff.change == Change::Unchanged || diff.aspect == Aspect::Machine)
            && registers.is_empty()
            && banks.is_empty()
            && guest.is_empty()
            && files.added.is_empty()
            && files.removed.is_empty()
            && files.changed.is_empty();
        Self {
            old: old.name.clone(),
            new: new.name.clone(),
            bank: common.map(|bank| bank.name().to_owned()),
            same,
            aspects,
            registers,
            banks,
            guest,
            files,
        }
    }
}

impl FilesDiff {
    fn of(old: &[FileDigest], new: &[FileDigest]) -> Self {
        type Digests<'a> = BTreeMap<&'a str, BTreeSet<(HashAlg, &'a [u8])>>;
        let by_path = |files: &'_ [FileDigest]| -> BTreeMap<String, BTreeSet<(HashAlg, Vec<u8>)>> {
            let mut paths: Digests<'_> = BTreeMap::new();
            for file in files {
                paths
                    .entry(&file.path)
                    .or_default()
                    .insert((file.algorithm, &file.digest));
            }
            paths
                .into_iter()
                .map(|(path, digests)| {
                    (
                        path.to_owned(),
                        digests
                            .into_iter()
                            .map(|(alg, digest)| (alg, digest.to_vec()))
                            .collect(),
                    )
                })
                .collect()
        };
        let (old, new) = (by_path(old), by_path(new));
        let mut diff = FilesDiff::default();
        for (path, digests) in &new {
            match old.get(path) {
                None => diff.added.push(path.clone()),
                Some(before) if before != digests => diff.changed.push(path.clone()),
                Some(_) => diff.unchanged += 1,
            }
        }
        diff.removed = old.keys().filter(|path| !new.contains_key(*path)).cloned().collect();
        diff
    }
}

/// The bank that both explain, and the new one best.
fn common_bank(old: &MachineReference, new: &MachineReference) -> Option<HashAlg> {
    let has_events =
        |values: &MachineReference, bank: &HashAlg| values.banks.get(bank).is_some_and(|bank| !bank.events.is_empty());
    told_bank(new)
        .filter(|bank| has_events(old, bank))
        .or_else(|| {
            new.banks
                .keys()
                .find(|bank| has_events(old, bank) && has_events(new, bank))
                .copied()
        })
        .or_else(|| new.banks.keys().find(|bank| old.banks.contains_key(bank)).copied())
}

/// An event with what of it is compared, and what it is about.
#[derive(Clone)]
struct Told<'a> {
    event: &'a ReferenceEvent,
    token: Token<'a>,
    aspect: Aspect,
}

impl Told<'_> {
    /// Whether an appraisal would take one for the other.
    fn same(&self, other: &Told<'_>) -> bool {
        let machine = self.aspect == Aspect::Machine && other.aspect == Aspect::Machine;
        self.event.pcr == other.event.pcr
            && self.token == other.token
            && (!machine || self.event.digest == other.event.digest)
    }
}

fn about<'a>(events: &[Told<'a>], aspect: Aspect) -> Vec<Told<'a>> {
    events.iter().filter(|told| told.aspect == aspect).cloned().collect()
}

/// The events of a bank, register by register, as appraisals compare them.
fn told(values: &MachineReference, bank: Option<HashAlg>) -> Vec<Told<'_>> {
    let Some((bank, values)) = bank.and_then(|bank| Some((bank, values.banks.get(&bank)?))) else {
        return Vec::new();
    };
    let registers: BTreeSet<u8> = values.events.iter().map(|event| event.pcr).collect();
    let of_register = |pcr: u8| {
        let measured = values.events_of(pcr).map(|event| Measured {
            pcr: u32::from(event.pcr),
            event_type: event.event_type,
            digest: &event.digest,
            data: event.data.as_deref().unwrap_or_default(),
        });
        values
            .events_of(pcr)
            .zip(tokens(bank, measured))
            .map(|(event, token)| Told {
                event,
                aspect: if token == Token::Machine {
                    Aspect::Machine
                } else {
                    Aspect::of(event)
                },
                token,
            })
    };
    registers.into_iter().flat_map(of_register).collect()
}

fn compare(aspect: Aspect, old: &[Told<'_>], new: &[Told<'_>]) -> AspectDiff {
    let events = changes(old, new);
    let change = match (old.is_empty(), new.is_empty()) {
        (true, true) => Change::Absent,
        (true, false) => Change::Added,
        (false, true) => Change::Removed,
        _ if events.is_empty() => Change::Unchanged,
        _ => Change::Changed,
    };
    let words = match (aspect, change) {
        (Aspect::CommandLine, Change::Changed) => {
            let line = |events: &[Told<'_>]| events.iter().find_map(|told| command_line(told.event));
            line(old).zip(line(new)).and_then(|(old, new)| word_changes(&old, &new))
        }
        _ => None,
    };
    AspectDiff {
        aspect,
        change,
        words,
        events,
    }
}

/// `6.1.0-44 -> 6.1.0-45`, where what both say of their kernels differs.
fn name_versions(aspects: &mut [AspectDiff], old: &MachineReference, new: &MachineReference) {
    let (old, new) = (kernel_versions(old), kernel_versions(new));
    if old.is_empty() || new.is_empty() || old == new {
        return;
    }
    if let Some(kernel) = aspects.iter_mut().find(|diff| diff.aspect == Aspect::Kernel) {
        let (old, new) = (old.join(" and "), new.join(" and "));
        let (old, new) = without_common_flavour(&old, &new);
        kernel.words = Some(format!("{old} -> {new}"));
    }
}

/// Both without the flavour (`-amd64`) that they have in common.
fn without_common_flavour<'a>(old: &'a str, new: &'a str) -> (&'a str, &'a str) {
    match (old.rsplit_once('-'), new.rsplit_once('-')) {
        (Some((a, x)), Some((b, y))) if x == y && a != b && x.starts_with(|c: char| c.is_ascii_alphabetic()) => (a, b),
        _ => (old, new),
    }
}

/// Words of a command line that came and went.
fn word_changes(old: &str, new: &str) -> Option<String> {
    let words = |text: &str| -> Vec<String> { text.split_whitespace().map(str::to_owned).collect() };
    let (old, new) = (words(old), words(new));
    let only = |these: &[String], those: &[String]| -> Vec<String> {
        these.iter().filter(|word| !those.contains(word)).cloned().collect()
    };
    let (gone, come) = (only(&old, &new), only(&new, &old));
    let part = |verb: &str, words: Vec<String>| (!words.is_empty()).then(|| format!("{verb} {}", words.join(" ")));
    let parts: Vec<String> = [part("added", come), part("removed", gone)]
        .into_iter()
        .flatten()
        .collect();
    match parts.is_empty() {
        true if old != new => Some("the same words in another order or number".into()),
        true => None,
        false => Some(parts.join("; ")),
    }
}

/// Registers whose values differ, or that one of them lacks, without an event that differs.
fn unexplained(
    old: &MachineReference,
    new: &MachineReference,
    told: Option<HashAlg>,
    aspects: &[AspectDiff],
) -> Vec<u8> {
    let explained: BTreeSet<u8> = aspects
        .iter()
        .flat_map(|diff| &diff.events)
        .map(|event| event.register)
        .collect();
    let mut registers = BTreeSet::new();
    for (bank, values) in &new.banks {
        let Some(before) = old.banks.get(bank) else { continue };
        let both = values.registers.keys().chain(before.registers.keys());
        for register in both.copied() {
            let differs = values.registers.get(&register) != before.registers.get(&register);
            if differs && !(told.is_some() && explained.contains(&register)) {
                registers.insert(register);
            }
        }
    }
    registers.into_iter().collect()
}

/// The events that differ: what both have in the same order is left out, and what came where something went is told as
/// its change.
fn changes(old: &[Told<'_>], new: &[Told<'_>]) -> Vec<EventChange> {
    let start = old.iter().zip(new).take_while(|(a, b)| a.same(b)).count();
    let most = old.len().min(new.len()) - start;
    let end = old
        .iter()
        .rev()
        .zip(new.iter().rev())
        .take(most)
        .take_while(|(a, b)| a.same(b))
        .count();
    let old = old.get(start..old.len() - end).unwrap_or_default();
    let new = new.get(start..new.len() - end).unwrap_or_default();
    let mut changes = Vec::new();
    let (mut gone, mut come): (Vec<&ReferenceEvent>, Vec<&ReferenceEvent>) = (Vec::new(), Vec::new());
    for step in steps(old, new) {
        match step {
            Step::Both => {
                pair_up(&mut gone, &mut come, &mut changes);
            }
            Step::Gone(event) => gone.push(event),
            Step::Come(event) => come.push(event),
        }
    }
    pair_up(&mut gone, &mut come, &mut changes);
    changes
}

enum Step<'a> {
    Both,
    Gone(&'a ReferenceEvent),
    Come(&'a ReferenceEvent),
}

/// A longest common subsequence, as steps from one list to the other.
fn steps<'a>(old: &[Told<'a>], new: &[Told<'a>]) -> Vec<Step<'a>> {
    if old.len() > MAX_COMPARED || new.len() > MAX_COMPARED {
        let gone = old.iter().map(|told| Step::Gone(told.event));
        return gone.chain(new.iter().map(|told| Step::Come(told.event))).collect();
    }
    // lengths[i][j]: the longest common subsequence of old[i..] and new[j..].
    let mut lengths = vec![vec![0u16; new.len() + 1]; old.len() + 1];
    let at = |lengths: &[Vec<u16>], i: usize, j: usize| lengths.get(i).and_then(|row| row.get(j)).copied().unwrap_or(0);
    for (i, a) in old.iter().enumerate().rev() {
        for (j, b) in new.iter().enumerate().rev() {
            let longest = if a.same(b) {
                at(&lengths, i + 1, j + 1) + 1
            } else {
                at(&lengths, i + 1, j).max(at(&lengths, i, j + 1))
            };
            if let Some(cell) = lengths.get_mut(i).and_then(|row| row.get_mut(j)) {
                *cell = longest;
            }
        }
    }
    let (mut i, mut j, mut steps) = (0, 0, Vec::new());
    loop {
        match (old.get(i), new.get(j)) {
            (Some(a), Some(b)) if a.same(b) => {
                steps.push(Step::Both);
                (i, j) = (i + 1, j + 1);
            }
            (Some(a), Some(_)) if at(&lengths, i + 1, j) >= at(&lengths, i, j + 1) => {
                steps.push(Step::Gone(a.event));
                i += 1;
            }
            (_, Some(b)) => {
                steps.push(Step::Come(b.event));
                j += 1;
            }
            (Some(a), None) => {
                steps.push(Step::Gone(a.event));
                i += 1;
            }
            (None, None) => return steps,
        }
    }
}

/// What went and what came in one place, matched: first by what they are called, then in order.
fn pair_up(gone: &mut Vec<&ReferenceEvent>, come: &mut Vec<&ReferenceEvent>, changes: &mut Vec<EventChange>) {
    let subject = |event: &ReferenceEvent| -> (u8, String) {
        let text = event
            .description
            .split([' ', '='])
            .take(2)
            .collect::<Vec<_>>()
            .join(" ");
        (event.pcr, text)
    };
    let mut rest = Vec::new();
    for old in gone.drain(..) {
        match come.iter().position(|new| subject(new) == subject(old)) {
            Some(position) => changes.push(change(Some(old), Some(come.remove(position)))),
            None => rest.push(old),
        }
    }
    for old in rest {
        let position = come
            .iter()
            .position(|new| new.pcr == old.pcr && new.event_type == old.event_type);
        changes.push(change(Some(old), position.map(|position| come.remove(position))));
    }
    changes.extend(come.drain(..).map(|new| change(None, Some(new))));
}

fn change(old: Option<&ReferenceEvent>, new: Option<&ReferenceEvent>) -> EventChange {
    let digest = |event: &ReferenceEvent| hex::encode(&event.digest);
    EventChange {
        register: old.or(new).map_or(0, |event| event.pcr),
        old: old.map(|event| event.description.clone()),
        old_digest: old.map(digest),
        new: new.map(|event| event.description.clone()),
        new_digest: new.map(digest),
    }
}
