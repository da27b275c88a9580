//! Quoted registers against reference values, and, where they differ, which event differs first.

use std::collections::BTreeMap;

use super::findings::Findings;
use super::inputs::Inputs;
use super::log::JudgedLog;
use crate::corim::ReferenceEvent;
use crate::eventlog::{Event, EventType};
use crate::reason::{AppraisalCode, MAX_REASON_TEXT};
use crate::reference::{Found, Reference};
use crate::tpm::HashAlg;

/// What reference descriptions of a kernel command line start with.
const COMMAND_LINE_WORDS: &str = "kernel command line";
/// How much of what two long texts have in common is shown before the difference, in bytes.
const CONTEXT: usize = 40;

/// Compares every required register. The reference, if *one* matches them all.
pub(super) fn compare<'a>(
    inputs: &Inputs<'a>,
    registers: &BTreeMap<(HashAlg, u8), Vec<u8>>,
    log: &JudgedLog<'_>,
    findings: &mut Findings,
) -> Option<&'a Reference> {
    let mut matched: Option<&'a Reference> = None;
    let mut complete = true;
    for required in inputs.policy.required_registers.banks() {
        let bank = required.bank();
        let quoted: Vec<(u8, &[u8])> = required
            .registers()
            .filter_map(|pcr| Some((pcr, registers.get(&(bank, pcr))?.as_slice())))
            .collect();
        if quoted.is_empty() {
            complete &= required.count() == 0;
            continue;
        }
        complete &= quoted.len() == required.count();
        match inputs.references.find(bank, &quoted, inputs.now) {
            Found::Match(reference) if matched.is_none_or(|first| first.values.name == reference.values.name) => {
                matched = Some(
                    matched
                        .filter(|first| first.not_after < reference.not_after)
                        .unwrap_or(reference),
                );
            }
            Found::Match(reference) => {
                complete = false;
                let expected = matched.map(|first| first.values.name.as_str()).unwrap_or_default();
                let claim = format!("registers ({bank})");
                findings.refuse(
                    AppraisalCode::RegisterMismatch,
                    claim,
                    expected,
                    reference.values.name.as_str(),
                );
            }
            Found::OutOfForce(reference) => {
                complete = false;
                let validity = format!(
                    "{:?} to {}",
                    reference.not_before.unwrap_or(i64::MIN),
                    reference.not_after
                );
                let found = format!("{}, in force {validity}, at {}", reference.values.name, inputs.now);
                let claim = format!("registers ({bank})");
                findings.refuse(AppraisalCode::ReferenceOutOfForce, claim, "a reference in force", found);
            }
            Found::Nearest(reference) => {
                complete = false;
                tell_differences(reference, bank, &quoted, log, findings);
            }
            Found::Nothing => {
                complete = false;
                let (claim, expected) = (
                    format!("registers ({bank})"),
                    format!("a signed reference for the {bank} bank"),
                );
                findings.refuse(AppraisalCode::ReferenceMissing, claim, expected, "none");
            }
        }
    }
    matched.filter(|_| complete)
}

/// Every register that differs from the nearest reference, with the first event that differs.
fn tell_differences(
    reference: &Reference,
    bank: HashAlg,
    quoted: &[(u8, &[u8])],
    log: &JudgedLog<'_>,
    findings: &mut Findings,
) {
    let name = reference.values.name.as_str();
    for (pcr, value) in quoted {
        let claim = format!("PCR {pcr} ({bank})");
        let Some(expected) = reference.values.register(bank, *pcr) else {
            let expected = format!("a value in reference {name}");
            findings.refuse(AppraisalCode::ReferenceIncomplete, claim, expected, "none");
            continue;
        };
        if expected == *value {
            continue;
        }
        let told = match log.events_of(bank, *pcr) {
            Some(events) => {
                let wanted: Vec<&ReferenceEvent> = reference.values.events_of(bank, *pcr).collect();
                let events: Vec<&Event<'_>> = events.collect();
                tell_events(*pcr, bank, &claim, &wanted, &events, findings)
            }
            None => false,
        };
        if !told {
            let expected = format!("{} (reference {name})", hex::encode(expected));
            findings.refuse(code_of_register(*pcr), claim, expected, hex::encode(value));
        }
    }
}

/// The first event that differs and, where the two lists otherwise run in parallel, the first of each further kind.
fn tell_events(
    pcr: u8,
    bank: HashAlg,
    claim: &str,
    wanted: &[&ReferenceEvent],
    found: &[&Event<'_>],
    findings: &mut Findings,
) -> bool {
    if wanted.is_empty() {
        return false;
    }
    let parallel = wanted.len() == found.len();
    let mut told = Vec::new();
    for position in 0..wanted.len().max(found.len()) {
        let (want, have) = (wanted.get(position).copied(), found.get(position).copied());
        if let (Some(want), Some(have)) = (want, have)
            && have.digest(bank) == Some(want.digest.as_slice())
        {
            continue;
        }
        let code = code_of_event(pcr, want, have);
        if told.contains(&code) {
            continue;
        }
        let (expected, present) = words(want, have, bank);
        findings.refuse(code, claim, expected, present);
        told.push(code);
        if !parallel {
            break;
        }
    }
    !told.is_empty()
}

/// Both sides in words. Where the words are the same, the digests tell the difference; where they are long, what they
/// have in common is left out.
fn words(want: Option<&ReferenceEvent>, have: Option<&Event<'_>>, bank: HashAlg) -> (String, String) {
    let mut expected = want.map_or_else(|| "no further event".to_owned(), |event| event.description.clone());
    let mut found = have.map_or_else(|| "no further event".to_owned(), Event::describe);
    if let (Some(want), Some(have)) = (want, have) {
        if expected == found {
            expected = format!("{expected}, digest {}", hex::encode(&want.digest));
            found = format!("{found}, digest {}", hex::encode(have.digest(bank).unwrap_or_default()));
        } else if expected.len().max(found.len()) > MAX_REASON_TEXT - CONTEXT {
            (expected, found) = (differing_part(&expected, &found), differing_part(&found, &expected));
        }
    }
    let index = have.map(|event| format!("event {}: ", event.index)).unwrap_or_default();
    (expected, format!("{index}{found}"))
}

/// The text from shortly before the first difference from `other`.
fn differing_part(text: &str, other: &str) -> String {
    let common = text.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
    let mut start = common.saturating_sub(CONTEXT);
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    match text.get(start..) {
        Some(rest) if start > 0 => format!("…{rest}"),
        _ => text.to_owned(),
    }
}

/// What kind of difference it is. Texts choose among codes that all refuse; they never decide.
fn code_of_event(pcr: u8, want: Option<&ReferenceEvent>, have: Option<&Event<'_>>) -> AppraisalCode {
    let wanted_line = want.is_none_or(|want| {
        matches!(want.event_type, EventType::IPL | EventType::EVENT_TAG)
            && want.description.starts_with(COMMAND_LINE_WORDS)
    });
    let command_line = wanted_line && have.is_none_or(Event::is_kernel_command_line);
    match pcr {
        8 | 9 if command_line => AppraisalCode::KernelCommandLineMismatch,
        _ => code_of_register(pcr),
    }
}

const fn code_of_register(pcr: u8) -> AppraisalCode {
    match pcr {
        0 => AppraisalCode::FirmwareCodeMismatch,
        1 => AppraisalCode::FirmwareConfigMismatch,
        2 | 3 => AppraisalCode::OptionRomMismatch,
        4 => AppraisalCode::BootApplicationMismatch,
        5 => AppraisalCode::BootConfigurationMismatch,
        7 => AppraisalCode::SecureBootMismatch,
        8 => AppraisalCode::GrubCommandMismatch,
        9 => AppraisalCode::BootFileMismatch,
        11 => AppraisalCode::UkiSectionMismatch,
        14 => AppraisalCode::MokMismatch,
        _ => AppraisalCode::RegisterMismatch,
    }
}
