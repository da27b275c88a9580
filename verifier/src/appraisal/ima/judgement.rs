//! What each entry is judged by, and what of it is kept.

use std::collections::BTreeMap;

use super::{CLAIM, ImaOutcome, Registers, judge_boot_aggregate};
use crate::appraisal::findings::{ClaimValue, Claims, Findings, claim};
use crate::appraisal::inputs::{ImaKnown, Inputs};
use crate::ima::{
    BootAggregate, Entry, EntryKind, FileSet, ImaPrefix, ImaRules, MAX_CHUNKS, REGISTER, Replayed, Seen, SeenEntry,
    SeenKind, SignedBy, Violations, chunk_digest, decode_chunk, encode_seen, signed_by, words,
};
use crate::reason::{AppraisalCode, Hint};
use crate::reference::Reference;
use crate::tpm::HashAlg;

/// Most entries that are named one by one; the others are counted.
const MAX_ENTRY_REASONS: usize = 32;
/// Where the command that starts another kernel lies.
const KEXEC_PATHS: [&[u8]; 4] = [b"/sbin/kexec", b"/usr/sbin/kexec", b"/bin/kexec", b"/usr/bin/kexec"];
/// Most references whose files are looked at to tell reasons where the machine matches no reference.
const MAX_TOLD_SETS: usize = 64;
/// Longest path in a reason.
const MAX_SHOWN_PATH: usize = 256;
/// In place of a digest, where an entry has none.
const NO_DIGEST: &str = "no digest";

/// What entries are judged by, and under which name.
pub(super) struct Judgement<'a> {
    rules: &'a ImaRules,
    /// References whose files count, the matched one first.
    references: Vec<&'a Reference>,
    /// Whether files are judged: not where nothing asks for it.
    pub(super) by_files: bool,
    /// Forms that the matched reference's kernel command line may have when kexec hands it on.
    command_lines: Vec<String>,
    under: [u8; 32],
    pub(super) expires: i64,
}

impl<'a> Judgement<'a> {
    pub(super) fn new(
        inputs: &Inputs<'a>,
        reference: Option<&'a Reference>,
        needed: bool,
        findings: &Findings,
    ) -> Self {
        let mut references: Vec<&Reference> = reference.into_iter().collect();
        let mut by_files = needed;
        if reference.is_none() && !findings.reasons.is_empty() {
            // Refused already. What no reference at all knows is told all the same.
            let machines = inputs.references.selected().map(AsRef::as_ref);
            let with_files = machines.filter(|reference: &&Reference| {
                !reference.files.is_empty() && !reference.values.banks.is_empty() && reference.in_force(inputs.now)
            });
            references.extend(with_files.take(MAX_TOLD_SETS));
            by_files |= !references.is_empty();
        }
        references.extend(inputs.references.files_only());
        let counts = |reference: &&Reference| !reference.files.is_empty() && reference.in_force(inputs.now);
        references.retain(counts);
        let command_lines = match reference {
            Some(_) => command_lines(&findings.claims),
            None => Vec::new(),
        };
        let mut sets: Vec<[u8; 32]> = references.iter().map(|reference| reference.files.digest()).collect();
        sets.sort_unstable();
        sets.dedup();
        let rules = inputs.policy.ima.rules.as_ref();
        let mut context = aws_lc_rs::digest::Context::new(HashAlg::Sha256.algorithm());
        context.update(b"touchstone-ima-judged/1\0");
        context.update(&[by_files.into()]);
        context.update(&rules.digest());
        context.update(&(sets.len() as u64).to_be_bytes());
        sets.iter().for_each(|set| context.update(set));
        for line in &command_lines {
            context.update(&(line.len() as u64).to_be_bytes());
            context.update(line.as_bytes());
        }
        let expires = references.iter().map(|reference| reference.not_after).min();
        Self {
            rules,
            by_files,
            command_lines,
            under: context.finish().as_ref().try_into().unwrap_or_default(),
            expires: expires.filter(|_| by_files).unwrap_or(i64::MAX),
            references,
        }
    }

    /// Judges what must be judged this round. The outcome, where everything could be.
    pub(super) fn round(
        &self,
        known: ImaKnown<'_>,
        prefix: &ImaPrefix,
        replayed: &Replayed<'_>,
        registers: &Registers,
        findings: &mut Findings,
    ) -> Option<ImaOutcome> {
        let mut new: Vec<(Seen<'_>, usize)> = Vec::with_capacity(replayed.entries.len());
        let mut aggregate = prefix.boot_aggregate.clone();
        let mut tally = Tally::default();
        for entry in &replayed.entries {
            match seen(entry) {
                Some(seen) => new.push((seen, entry.index)),
                None if entry.index == 1 => aggregate = boot_aggregate(entry),
                None => {
                    tally.refused = tally.refused.saturating_add(1);
                    refuse_second_boot(entry, findings);
                }
            }
            check_buffer(entry, findings);
        }
        judge_boot_aggregate(aggregate.as_ref(), registers, findings);
        new.sort_unstable();
        let again = prefix.entries > 0
            && (prefix.judged_under != self.under || (prefix.seen.len() >= MAX_CHUNKS && !new.is_empty()));
        let old = match again {
            true => seen_before(known, prefix, findings),
            false => Some(Vec::new()),
        };
        let complete = old.is_some();
        let old: Vec<BTreeMap<SeenEntry, u64>> = old.unwrap_or_default();
        let old_entries = old
            .iter()
            .flatten()
            .map(|(entry, count)| (entry.as_seen(), *count, None));
        let fresh = new.iter().map(|(seen, index)| (*seen, 1, Some(*index)));
        let mut all: Vec<(Seen<'_>, u64, Option<usize>)> = old_entries.chain(fresh).collect();
        if again {
            all.sort_unstable();
        }
        all.dedup_by(|next, first| {
            let same = next.0 == first.0;
            if same {
                first.1 = first.1.saturating_add(next.1);
                first.2 = first.2.or(next.2);
            }
            same
        });
        if !again {
            tally.excluded.clone_from(&prefix.excluded);
            tally.violations = prefix.violations;
        }
        for (seen, count, index) in &all {
            self.entry(*seen, *count, *index, &mut tally, findings);
        }
        tally.tell_rest(findings);
        let kexec = prefix.kexec || new.iter().any(|(seen, _)| is_kexec(seen));
        self.tell(&tally, kexec, findings);
        if !complete || tally.refused > 0 {
            return None;
        }
        let entries: Vec<(Seen<'_>, u64)> = all.iter().map(|(seen, count, _)| (*seen, *count)).collect();
        let chunk = (!entries.is_empty()).then(|| encode_seen(&entries));
        let kept: &[[u8; 32]] = if again { &[] } else { &prefix.seen };
        Some(ImaOutcome {
            prefix: ImaPrefix {
                entries: prefix.entries.saturating_add(replayed.entries.len() as u64),
                bytes: replayed.bytes,
                values: replayed.values.clone(),
                violations: tally.violations,
                excluded: tally.excluded,
                boot_aggregate: aggregate,
                kexec,
                judged_under: self.under,
                seen: kept.iter().copied().chain(chunk.as_deref().map(chunk_digest)).collect(),
            },
            chunk,
        })
    }

    /// Judges one distinct entry.
    fn entry(&self, seen: Seen<'_>, count: u64, index: Option<usize>, tally: &mut Tally, findings: &mut Findings) {
        if seen.kind == SeenKind::Violation {
            tally.violations = tally.violations.saturating_add(count);
        }
        if !self.by_files {
            return;
        }
        if tally.refused >= MAX_ENTRY_REASONS {
            // The list is refused as it is: nobody may buy more work with it.
            tally.refused = tally.refused.saturating_add(1);
            return;
        }
        let Err((code, expected, found)) = self.accept(seen) else {
            return;
        };
        // A violation's record is covered by nothing, its path neither: no rule about paths can speak for it.
        if code != AppraisalCode::ImaPathUnsafe
            && code != AppraisalCode::ImaKexec
            && seen.kind != SeenKind::Violation
            && let Some(rule) = self.rules.exclusion(seen.path)
        {
            let used = tally.excluded.entry(rule.as_str().to_owned()).or_default();
            *used = used.saturating_add(count);
            return;
        }
        if seen.kind == SeenKind::Violation && self.rules.violations == Violations::Allow {
            return;
        }
        tally.refused = tally.refused.saturating_add(1);
        let claim = match index {
            Some(index) => format!("IMA entry {index}"),
            None => "IMA entry of an earlier round".to_owned(),
        };
        let hint = Hint {
            register: Some(REGISTER),
            nearest: self.references.first().map(|reference| reference.values.name.clone()),
            ..Hint::default()
        };
        findings.refuse_at(code, claim, expected, found, hint);
    }

    /// Whether digest, signature or kind make an entry acceptable; else why not, and what was expected and found.
    fn accept(&self, seen: Seen<'_>) -> Result<(), (AppraisalCode, String, String)> {
        let path = || words(seen.path, MAX_SHOWN_PATH);
        if seen.path.iter().any(|byte| *byte < 0x20 || *byte == 0x7F) {
            let expected = "a path without control characters".to_owned();
            return Err((AppraisalCode::ImaPathUnsafe, expected, path()));
        }
        let algorithm = HashAlg::from_name(seen.algorithm).filter(|algorithm| !algorithm.is_weak());
        match seen.kind {
            SeenKind::Violation => {
                let expected = "no file that is written while it is measured".to_owned();
                return Err((AppraisalCode::ImaViolation, expected, path()));
            }
            SeenKind::KexecCmdline => return self.accept_kexec(algorithm, seen),
            SeenKind::File | SeenKind::Verity | SeenKind::Buffer => {}
        }
        let listed = |set: &FileSet| algorithm.is_some_and(|algorithm| set.contains(algorithm, seen.digest));
        if self.references.iter().any(|reference| listed(&reference.files)) {
            return Ok(());
        }
        let (path, mut expected) = (path(), self.expected());
        let digest = match seen.algorithm {
            "" => NO_DIGEST.to_owned(),
            name => format!("{name} {}", hex::encode(seen.digest)),
        };
        let nearest = self
            .references
            .iter()
            .find_map(|reference| Some((reference, reference.files.at_path(seen.path)?)));
        let mut found = match nearest {
            Some((reference, file)) => {
                let (name, had) = (reference.values.name.as_str(), hex::encode(&file.digest));
                expected = format!("{path}, {} {had}, as in reference {name}", file.algorithm);
                format!("{path}, {digest}: changed file")
            }
            None => format!("{path}, {digest}: not in the golden run"),
        };
        if algorithm.is_none() {
            found.push_str("; no digest of SHA-256 or better, which is needed");
        }
        let mut code = AppraisalCode::ImaFileUnknown;
        let keys = &self.rules.signed_by;
        if let Some(signature) = seen.signature.filter(|_| !keys.is_empty()) {
            match signed_by(keys, signature, algorithm, seen.digest, seen.kind == SeenKind::Verity) {
                SignedBy::Key(_) => return Ok(()),
                SignedBy::UnknownKey(id) => found.push_str(&format!("; signed by key {}, not listed", hex::encode(id))),
                SignedBy::Unsupported(what) => found.push_str(&format!("; {what}")),
                SignedBy::Invalid(key) => {
                    code = AppraisalCode::ImaSignatureInvalid;
                    expected = format!("a signature of {} over the file's digest", key.name());
                }
            }
        }
        Err((code, expected, found))
    }

    /// A command line for another kernel must be the reference's.
    fn accept_kexec(&self, algorithm: Option<HashAlg>, seen: Seen<'_>) -> Result<(), (AppraisalCode, String, String)> {
        let same = |line: &String| {
            algorithm.is_some_and(|algorithm| algorithm.digest([line.as_bytes()]).as_ref() == seen.digest)
        };
        if self.command_lines.iter().any(same) {
            return Ok(());
        }
        let expected = match self.command_lines.first() {
            Some(line) => format!("the reference's kernel command line, {line}"),
            None => "no other kernel".to_owned(),
        };
        let found = format!("another command line, {} {}", seen.algorithm, hex::encode(seen.digest));
        Err((AppraisalCode::ImaKexec, expected, found))
    }

    fn expected(&self) -> String {
        let mut expected = match self.references.as_slice() {
            [] => "a reference that lists the file".to_owned(),
            [reference] => format!("a file of reference {}", reference.values.name),
            [reference, others @ ..] => {
                format!(
                    "a file of reference {} or of {} others",
                    reference.values.name,
                    others.len()
                )
            }
        };
        if !self.rules.signed_by.is_empty() {
            expected.push_str(", or a signature of a listed key");
        }
        expected
    }

    /// What was overlooked, and what the list says of other kernels.
    fn tell(&self, tally: &Tally, kexec: bool, findings: &mut Findings) {
        findings.int(claim::IMA_VIOLATIONS, tally.violations);
        if !tally.excluded.is_empty() {
            let used = tally.excluded.iter().map(|(rule, count)| format!("{rule}: {count}"));
            let used = ClaimValue::Set(used.collect());
            findings.claims.insert(claim::IMA_EXCLUDED.to_owned(), used);
            let lines = tally.excluded.keys().map(|rule| format!("ima: exclude {rule}"));
            findings.leniencies.extend(lines);
        }
        if self.by_files && tally.violations > 0 && self.rules.violations == Violations::Allow {
            findings.leniencies.push("ima: violations allowed".to_owned());
        }
        if self.by_files && tally.refused == 0 {
            // A copy of the command under another name has a listed digest as well.
            let listed =
                |reference: &&Reference| KEXEC_PATHS.iter().any(|path| reference.files.at_path(path).is_some());
            let may = kexec || self.references.iter().any(listed);
            let said = if may { "judged by IMA" } else { "excluded by IMA" };
            findings.text(claim::KEXEC, said);
        }
    }
}

/// What is counted.
#[derive(Default)]
struct Tally {
    excluded: BTreeMap<String, u64>,
    violations: u64,
    refused: usize,
}

impl Tally {
    fn tell_rest(&self, findings: &mut Findings) {
        if let Some(rest @ 1..) = self.refused.checked_sub(MAX_ENTRY_REASONS) {
            let found = format!("{rest} more that were not looked at");
            findings.refuse(AppraisalCode::ImaFileUnknown, CLAIM, "entries that are accepted", found);
        }
    }
}

/// An entry as it is judged; none for a boot aggregate.
fn seen<'a>(entry: &Entry<'a>) -> Option<Seen<'a>> {
    if !entry.template.is_ordered() {
        // Neither its digest nor its path can be believed: no file set, signature or rule speaks for it.
        return Some(Seen {
            path: b"",
            kind: SeenKind::File,
            algorithm: "",
            digest: &[],
            signature: None,
        });
    }
    let hash = entry.file_digest();
    let kind = match entry.kind() {
        EntryKind::BootAggregate => return None,
        EntryKind::Violation => SeenKind::Violation,
        EntryKind::Buffer => SeenKind::Buffer,
        EntryKind::KexecCmdline => SeenKind::KexecCmdline,
        EntryKind::File if hash.is_some_and(|hash| hash.verity) => SeenKind::Verity,
        EntryKind::File => SeenKind::File,
    };
    let hash = hash.filter(|_| kind != SeenKind::Violation);
    Some(Seen {
        path: entry.path(),
        kind,
        algorithm: hash.map_or("", |hash| hash.algorithm),
        digest: hash.map_or(&[], |hash| hash.digest),
        signature: entry.signature().filter(|_| kind != SeenKind::Violation),
    })
}

/// Whether it belongs to starting another kernel: its command line, or the program that asks for it.
fn is_kexec(seen: &Seen<'_>) -> bool {
    seen.kind == SeenKind::KexecCmdline || seen.path.rsplit(|byte| *byte == b'/').next() == Some(b"kexec")
}

fn boot_aggregate(entry: &Entry<'_>) -> Option<BootAggregate> {
    let hash = entry.file_digest().filter(|_| entry.template.is_ordered())?;
    Some(BootAggregate {
        algorithm: hash.algorithm.to_owned(),
        digest: hash.digest.to_vec(),
    })
}

/// The kernel writes one boot aggregate when it starts: a second one is a second kernel's.
fn refuse_second_boot(entry: &Entry<'_>, findings: &mut Findings) {
    let claim = format!("IMA entry {}", entry.index);
    let expected = "one boot aggregate, in the first entry";
    findings.refuse(
        AppraisalCode::ImaKexec,
        claim,
        expected,
        "another: a second kernel was started",
    );
}

/// A buffer stands in the list itself, so that its digest can be checked.
fn check_buffer(entry: &Entry<'_>, findings: &mut Findings) {
    let (Some(buffer), Some(hash)) = (entry.buffer(), entry.file_digest()) else {
        return;
    };
    let Some(algorithm) = HashAlg::from_name(hash.algorithm).filter(|_| !entry.is_violation()) else {
        return;
    };
    let computed = algorithm.digest([buffer]);
    if computed.as_ref() != hash.digest {
        let claim = format!("IMA entry {}", entry.index);
        let expected = format!(
            "{algorithm} {}, the digest of its buffer",
            hex::encode(computed.as_ref())
        );
        let found = format!("{algorithm} {}", hex::encode(hash.digest));
        findings.refuse(AppraisalCode::ImaEntryMismatch, claim, expected, found);
    }
}

/// The chunks that the prefix names, in its order; nothing else will do.
fn seen_before(
    known: ImaKnown<'_>,
    prefix: &ImaPrefix,
    findings: &mut Findings,
) -> Option<Vec<BTreeMap<SeenEntry, u64>>> {
    let chunks = known.seen.unwrap_or_default();
    let named = chunks.len() == prefix.seen.len()
        && chunks
            .iter()
            .zip(&prefix.seen)
            .all(|(chunk, digest)| chunk_digest(chunk) == *digest);
    let read: Option<Vec<_>> = match named {
        true => chunks.iter().map(|chunk| decode_chunk(chunk).ok()).collect(),
        false => None,
    };
    if read.is_none() {
        let expected = format!("the {} stored parts of the list, to be judged again", prefix.seen.len());
        let found = format!("{} parts", chunks.len());
        findings.refuse(AppraisalCode::ImaEntriesUnavailable, CLAIM, expected, found);
    }
    read
}

/// The kernel command line that the registers prove, and the forms it takes when kexec hands it on: the boot loader's
/// path of the kernel before it, or left out, or as `BOOT_IMAGE=`.
fn command_lines(claims: &Claims) -> Vec<String> {
    let Some(ClaimValue::Text(line)) = claims.get(claim::KERNEL_COMMAND_LINE) else {
        return Vec::new();
    };
    let mut lines = vec![line.clone()];
    if let Some((kernel, arguments)) = line.split_once(' ')
        && kernel.starts_with(['/', '('])
    {
        lines.push(arguments.to_owned());
        lines.push(format!("BOOT_IMAGE={line}"));
    }
    lines
}
