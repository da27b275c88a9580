//! Why a machine does not match its nearest reference: which register, which event, what was expected and what was
//! found.
//!
//! Events are compared as [`eventlog::identity`](crate::eventlog::identity) takes them, so that what belongs to the
//! machine is never told as a difference. Texts choose among codes that all refuse; they never decide.

use std::collections::BTreeMap;

use super::findings::Findings;
use super::log::JudgedLog;
use crate::corim::ReferenceEvent;
use crate::eventlog::identity::{Measured, Token, tokens};
use crate::eventlog::{Event, EventType};
use crate::reason::{AppraisalCode, Hint, MAX_REASON_TEXT};
use crate::reference::{Likeness, QuotedRegister, Reference, ReferenceSet, measured};

/// What reference descriptions of a kernel command line start with.
const COMMAND_LINE_WORDS: &str = "kernel command line";
/// How much of what two long texts have in common is shown before the difference, in bytes.
const CONTEXT: usize = 40;
/// What accepts a machine's state as it is.
const ACCEPT: &str = "touchstone reference add REPOSITORY --evidence EVIDENCE";

/// Where a difference from `reference` lies, and how to accept it.
pub(super) fn hint(reference: &Reference, register: Option<u8>, event: Option<usize>) -> Hint {
    Hint {
        event,
        register,
        nearest: Some(reference.values.name.clone()),
        command: Some(ACCEPT.to_owned()),
    }
}

/// Everything matches `reference`, but it is not in force.
pub(super) fn out_of_force(reference: &Reference, claim: &str, now: i64, findings: &mut Findings) {
    let start = reference.not_before.unwrap_or(i64::MIN);
    let validity = format!("{start:?} to {}", reference.not_after);
    let found = format!("{}, in force {validity}, at {now}", reference.values.name);
    let hint = hint(reference, None, None);
    findings.refuse_at(
        AppraisalCode::ReferenceOutOfForce,
        claim,
        "a reference in force",
        found,
        hint,
    );
}

/// Everything matches `reference`, which the node's region does not select.
pub(super) fn deselected(reference: &Reference, claim: &str, findings: &mut Findings) {
    let found = format!("{}, which the node's region does not select", reference.values.name);
    let (expected, hint) = ("a reference that is selected", hint(reference, None, None));
    findings.refuse_at(AppraisalCode::ReferenceMissing, claim, expected, found, hint);
}

/// Every register that differs from the nearest reference, with the first event of each kind that differs.
pub(super) fn tell(reference: &Reference, quoted: &[QuotedRegister<'_>], log: &JudgedLog<'_>, findings: &mut Findings) {
    for register in quoted {
        if ReferenceSet::likeness(reference, register) == Likeness::Other {
            tell_register(reference, register, log, findings);
        }
    }
}

fn tell_register(reference: &Reference, register: &QuotedRegister<'_>, log: &JudgedLog<'_>, findings: &mut Findings) {
    let QuotedRegister { bank, pcr, value, .. } = *register;
    let (values, name) = (&reference.values, reference.values.name.as_str());
    let claim = format!("PCR {pcr} ({bank})");
    let expected = values.register(bank, pcr);
    if expected.is_none() && !values.has_events(bank, pcr) {
        let expected = format!("a value in reference {name}");
        let hint = hint(reference, Some(pcr), None);
        findings.refuse_at(AppraisalCode::ReferenceIncomplete, claim, expected, "none", hint);
        return;
    }
    let told = log.events_of(bank, pcr).is_some_and(|events| {
        let found: Vec<&Event<'_>> = events.collect();
        tell_events(reference, register, &claim, &found, findings)
    });
    if !told {
        let expected = match expected {
            Some(expected) => format!("{} (reference {name})", hex::encode(expected)),
            None => format!("a log of the events of reference {name}"),
        };
        let hint = hint(reference, Some(pcr), None);
        findings.refuse_at(code_of_register(pcr), claim, expected, hex::encode(value), hint);
    }
}

/// The events that differ between what both have in common at the start and at the end: the first of each kind.
/// Whether there was one.
fn tell_events(
    reference: &Reference,
    register: &QuotedRegister<'_>,
    claim: &str,
    found: &[&Event<'_>],
    findings: &mut Findings,
) -> bool {
    let QuotedRegister { bank, pcr, .. } = *register;
    let found: Vec<Present<'_, '_>> = {
        let events: Vec<(&Event<'_>, Measured<'_>)> = found
            .iter()
            .filter_map(|event| Some((*event, Measured::of(event, bank)?)))
            .collect();
        let tokens = tokens(bank, events.iter().map(|(_, measured)| *measured));
        events.into_iter().zip(tokens).collect()
    };
    // A reference of the first days has kept no data: what the log has under the same digest is the same event.
    let known: BTreeMap<&[u8], &Token<'_>> = found
        .iter()
        .map(|((_, measured), token)| (measured.digest, token))
        .collect();
    let wanted: Vec<Wanted<'_>> = {
        let events: Vec<&ReferenceEvent> = reference.values.events_of(bank, pcr).collect();
        let tokens = tokens(bank, events.iter().map(|event| measured(event)));
        let tokens = tokens.into_iter().map(|token| match token {
            Token::Fixed(digest) => known.get(digest).map_or(token, |token| (*token).clone()),
            token => token,
        });
        events.into_iter().zip(tokens).collect()
    };
    let (wanted, found) = (software(wanted), software(found.clone()));
    if wanted.is_empty() {
        return false;
    }
    let same = |(want, have): &(&Wanted<'_>, &Present<'_, '_>)| is_same(&want.1, &have.1);
    let start = wanted.iter().zip(&found).take_while(same).count();
    let (wanted, found) = (rest(&wanted, start), rest(&found, start));
    let end = wanted.iter().rev().zip(found.iter().rev()).take_while(same).count();
    let (wanted, found) = (but_last(wanted, end), but_last(found, end));
    let mut told = Vec::new();
    for position in 0..wanted.len().max(found.len()) {
        let (want, have) = (wanted.get(position), found.get(position));
        if let (Some(want), Some(have)) = (want, have)
            && is_same(&want.1, &have.1)
        {
            continue;
        }
        let (want_event, have_event) = (want.map(|want| want.0), have.map(|have| have.0.0));
        let code = code_of_event(pcr, want_event, have_event);
        if told.contains(&code) {
            continue;
        }
        let (expected, present) = words(want, have);
        let hint = hint(reference, Some(pcr), have_event.map(|event| event.index));
        findings.refuse_at(code, claim, expected, present, hint);
        told.push(code);
        // Lists that have lost step agree nowhere: one difference is all there is to tell.
        if wanted.len() != found.len() {
            break;
        }
    }
    !told.is_empty()
}

/// A reference's event and what of it must be the same.
type Wanted<'w> = (&'w ReferenceEvent, Token<'w>);
/// A log's event and what of it must be the same.
type Present<'e, 'l> = ((&'e Event<'l>, Measured<'l>), Token<'l>);

/// Without what belongs to the machine.
fn software<E>(mut events: Vec<(E, Token<'_>)>) -> Vec<(E, Token<'_>)> {
    events.retain(|(_, token)| *token != Token::Machine);
    events
}

fn is_same(want: &Token<'_>, have: &Token<'_>) -> bool {
    match (want, have) {
        (Token::NoOlder(want), Token::NoOlder(have)) => want.kind == have.kind && have.no_older_than(want).is_ok(),
        _ => want == have,
    }
}

fn rest<T>(list: &[T], from: usize) -> &[T] {
    list.get(from..).unwrap_or_default()
}

fn but_last<T>(list: &[T], count: usize) -> &[T] {
    list.get(..list.len().saturating_sub(count)).unwrap_or_default()
}

/// Both sides in words. Where the words are the same, the digests tell the difference; where they are long, what they
/// have in common is left out.
fn words(want: Option<&Wanted<'_>>, have: Option<&Present<'_, '_>>) -> (String, String) {
    let mut expected = want.map_or_else(|| "no further event".to_owned(), |(event, _)| event.description.clone());
    let mut found = have.map_or_else(|| "no further event".to_owned(), |((event, _), _)| event.describe());
    if let (Some((want_event, want)), Some(((_, measured), have))) = (want, have) {
        if let (Token::NoOlder(want), Token::NoOlder(have)) = (want, have)
            && let Err(fault) = have.no_older_than(want)
        {
            (expected, found) = (format!("{expected} or newer"), fault.to_string());
        } else if expected == found {
            expected = format!("{expected}, digest {}", hex::encode(&want_event.digest));
            found = format!("{found}, digest {}", hex::encode(measured.digest));
        } else if expected.len().max(found.len()) > MAX_REASON_TEXT - CONTEXT {
            (expected, found) = (differing_part(&expected, &found), differing_part(&found, &expected));
        }
    }
    let index = have.map(|((event, _), _)| format!("event {}: ", event.index));
    (expected, format!("{}{found}", index.unwrap_or_default()))
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

/// What kind of difference it is.
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
