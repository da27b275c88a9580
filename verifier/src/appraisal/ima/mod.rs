//! The IMA list against register 10, the matched reference and the domain's rules.
//!
//! What a file is judged by: its digest in the matched reference or in a reference of files only, the signature of a
//! listed key over that digest, or an exclusion, which the result names. Only what a quoted register 10 vouches for is
//! judged, and only the entries that no earlier round judged under the same rules.

mod judgement;

use std::collections::BTreeMap;

use touchstone_evidence::collection::Label;

use super::findings::{Findings, claim};
use super::inputs::Inputs;
use crate::ima::{BootAggregate, ImaError, ImaMode, ImaPrefix, MAX_LIST, REGISTER, replay};
use crate::reason::AppraisalCode;
use crate::reference::Reference;
use crate::tpm::HashAlg;
use judgement::Judgement;

const CLAIM: &str = "IMA list";

/// What an accepted list leaves for the next round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImaOutcome {
    /// The verified prefix, this round's entries included.
    pub prefix: ImaPrefix,
    /// The chunk of distinct entries this round brought, where it brought any: the last one [`ImaPrefix::seen`] names.
    pub chunk: Option<Vec<u8>>,
}

/// An outcome, and how long it holds.
pub(super) struct Judged {
    pub(super) outcome: ImaOutcome,
    /// Last second at which every reference that was consulted is in force.
    pub(super) expires: i64,
}

/// Register values by bank and register.
/// Most entries that may follow the quoted state: what ran between the quote and the reading of the list. More would be
/// kept for nothing.
const MAX_IGNORED: usize = 4096;

type Registers = BTreeMap<(HashAlg, u8), Vec<u8>>;

/// Replays and judges the list. None where there is nothing to keep; the reasons say why.
pub(super) fn judge(
    inputs: &Inputs<'_>,
    registers: Option<&Registers>,
    reference: Option<&Reference>,
    findings: &mut Findings,
) -> Option<Judged> {
    let mode = inputs.policy.ima.mode;
    if mode == ImaMode::Off {
        findings.text(claim::IMA, "off");
        findings.leniencies.push("ima: off".to_owned());
        return None;
    }
    let needed = mode == ImaMode::Required || reference.is_some_and(|reference| !reference.files.is_empty());
    let record = inputs.collection.get(Label::ImaLog);
    let nothing = ImaPrefix::default();
    let prefix = inputs.ima.prefix.unwrap_or(&nothing);
    let Some(registers) = registers else {
        findings.text(claim::IMA, if record.is_some() { "refused" } else { "none" });
        return None;
    };
    let quoted: Vec<(HashAlg, &[u8])> = registers
        .iter()
        .filter(|((_, pcr), _)| *pcr == REGISTER)
        .map(|((bank, _), value)| (*bank, value.as_slice()))
        .collect();
    let strong = quoted.iter().any(|(bank, _)| !bank.is_weak());
    // Nothing new needs no record; but then the quote must hold the value that is known.
    let tail = match record {
        Some(tail) => tail,
        None if prefix.entries > 0 && strong => &[],
        None => return missing(needed, "no list", findings),
    };
    if !strong {
        findings.text(claim::IMA, "refused");
        let found = match quoted.first() {
            Some((bank, _)) => format!("register {REGISTER} in the {bank} bank only"),
            None => "a list alone".to_owned(),
        };
        let expected = format!("register {REGISTER} in the quote, in a bank of SHA-256 or better");
        findings.refuse(AppraisalCode::ImaRegisterNotQuoted, CLAIM, expected, found);
        return None;
    }
    let replayed = match replay(prefix, tail, &quoted) {
        Ok(replayed) => replayed,
        Err(error) => {
            findings.text(claim::IMA, "refused");
            refuse_list(&error, findings);
            return None;
        }
    };
    if replayed.bytes > MAX_LIST as u64 {
        findings.text(claim::IMA, "refused");
        let (expected, found) = (format!("at most {MAX_LIST} bytes"), format!("{} bytes", replayed.bytes));
        findings.refuse(AppraisalCode::ImaLogUnreadable, CLAIM, expected, found);
        return None;
    }
    if replayed.ignored > MAX_IGNORED {
        findings.text(claim::IMA, "refused");
        let expected = format!("at most {MAX_IGNORED} entries after the quoted state");
        findings.refuse(
            AppraisalCode::ImaLogUnreadable,
            CLAIM,
            expected,
            replayed.ignored.to_string(),
        );
        return None;
    }
    let entries = prefix.entries.saturating_add(replayed.entries.len() as u64);
    findings.int(claim::IMA_IGNORED, replayed.ignored as u64);
    if entries == 0 {
        return missing(needed, "a register 10 that nothing was extended into", findings);
    }
    let before = findings.count();
    let judgement = Judgement::new(inputs, reference, needed, findings);
    let judged = judgement.round(inputs.ima, prefix, &replayed, registers, findings);
    findings.int(claim::IMA_ENTRIES, entries);
    let state = match (findings.count() == before, judgement.by_files) {
        (false, _) => "refused",
        (true, true) => "judged",
        (true, false) => "replayed",
    };
    findings.text(claim::IMA, state);
    judged.map(|outcome| Judged {
        outcome,
        expires: judgement.expires,
    })
}

fn missing(needed: bool, found: &str, findings: &mut Findings) -> Option<Judged> {
    findings.text(claim::IMA, "none");
    if needed {
        let expected = "the list of what ran, vouched for by register 10";
        findings.refuse(AppraisalCode::ImaLogMissing, CLAIM, expected, found);
    }
    None
}

/// A list that cannot be read or does not replay, in words.
fn refuse_list(error: &ImaError, findings: &mut Findings) {
    let (claim, expected, found) = match error {
        ImaError::DoesNotReplay {
            bank, quoted, found, ..
        } => (
            format!("PCR {REGISTER} ({bank})"),
            format!("{}, as quoted", hex::encode(quoted)),
            format!("{} after replaying the list", hex::encode(found)),
        ),
        ImaError::BankWeak { bank } => (
            format!("PCR {REGISTER} ({bank})"),
            format!("{bank} digests of the entries"),
            "SHA-1 digests padded with zeros".to_owned(),
        ),
        other => (
            CLAIM.to_owned(),
            "a list that register 10 vouches for".to_owned(),
            other.to_string(),
        ),
    };
    findings.refuse(error.code(), claim, expected, found);
    let altered = match error {
        ImaError::DoesNotReplay { altered, .. } => *altered,
        _ => None,
    };
    if let Some(entry) = altered {
        let claim = format!("IMA entry {entry}");
        let (expected, found) = ("the digest of its data", "another: the entry was altered");
        findings.refuse(AppraisalCode::ImaEntryMismatch, claim, expected, found);
    }
}

/// The first entry against the quoted boot registers, where they are all quoted: registers 0 to 7 for SHA-1, 0 to 9
/// otherwise, of the bank of its algorithm (Linux, ima_crypto.c, ima_calc_boot_aggregate_tfm).
fn judge_boot_aggregate(aggregate: Option<&BootAggregate>, registers: &Registers, findings: &mut Findings) {
    const FIRST: &str = "IMA entry 1";
    let code = AppraisalCode::ImaBootAggregateMismatch;
    let Some(aggregate) = aggregate else {
        findings.text(claim::IMA_BOOT_AGGREGATE, "refused");
        findings.refuse(code, FIRST, "the boot aggregate", "another entry");
        return;
    };
    if aggregate.digest.iter().all(|byte| *byte == 0) {
        findings.text(claim::IMA_BOOT_AGGREGATE, "refused");
        findings.refuse(
            code,
            FIRST,
            "a digest of the boot registers",
            "zeros: IMA began without the TPM",
        );
        return;
    }
    // Template `ima` does not name the algorithm; the boot aggregate in it is always SHA-1.
    let bank = match (HashAlg::from_name(&aggregate.algorithm), aggregate.digest.len()) {
        (Some(bank), _) => bank,
        (None, 20) => HashAlg::Sha1,
        _ => {
            findings.text(claim::IMA_BOOT_AGGREGATE, "not checked: unknown algorithm");
            return;
        }
    };
    let last = if bank == HashAlg::Sha1 { 7 } else { 9 };
    let values: Option<Vec<&[u8]>> = (0..=last)
        .map(|pcr| registers.get(&(bank, pcr)).map(Vec::as_slice))
        .collect();
    let Some(values) = values else {
        let said = format!("not checked: registers 0 to {last} ({bank}) are not all quoted");
        findings.text(claim::IMA_BOOT_AGGREGATE, said);
        return;
    };
    let computed = bank.digest(values);
    if computed.as_ref() == aggregate.digest {
        findings.text(claim::IMA_BOOT_AGGREGATE, "matches");
    } else {
        findings.text(claim::IMA_BOOT_AGGREGATE, "refused");
        let expected = format!("{bank} {}, of the quoted registers", hex::encode(computed.as_ref()));
        let found = format!("{bank} {}", hex::encode(&aggregate.digest));
        findings.refuse(code, FIRST, expected, found);
    }
}
