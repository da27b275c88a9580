//! The sections of a unified kernel image that came with the evidence, against register 11.
//!
//! Sources: UAPI.5 Unified Kernel Image; systemd-stub(7): each section is measured as its name with the closing NUL, then
//! its content. The record explains what the register holds. It makes nothing acceptable: where it is not exactly what
//! was measured, the evidence is refused.

use std::collections::BTreeMap;

use touchstone_evidence::collection::Label;
use touchstone_evidence::uki_sections::{Content, Section, decode};

use super::findings::{Findings, claim};
use super::inputs::Inputs;
use super::log::JudgedLog;
use crate::eventlog::{Event, MAX_DESCRIPTION, RegisterValue};
use crate::reason::{AppraisalCode, Hint, sanitise};
use crate::tpm::HashAlg;

const CLAIM: &str = "unified kernel image";
/// The register of systemd-stub's sections.
const REGISTER: u8 = 11;

/// Holds the sections to register 11 of each judged bank, and claims what is in them.
pub(super) fn judge(
    inputs: &Inputs<'_>,
    registers: Option<&BTreeMap<(HashAlg, u8), Vec<u8>>>,
    log: &JudgedLog<'_>,
    findings: &mut Findings,
) {
    let Some(record) = inputs.collection.get(Label::UkiSections) else {
        return;
    };
    match prove(record, inputs, registers, log) {
        Ok(sections) => claim_sections(&sections, findings),
        Err(Mismatch {
            claim,
            expected,
            found,
            event,
        }) => {
            let hint = Hint {
                event,
                register: Some(REGISTER),
                ..Hint::default()
            };
            findings.refuse_at(AppraisalCode::UkiSectionsMismatch, claim, expected, found, hint);
        }
    }
}

/// The first thing that is not as the record says.
struct Mismatch {
    claim: String,
    expected: String,
    found: String,
    event: Option<usize>,
}

impl Mismatch {
    fn new(claim: impl Into<String>, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            claim: claim.into(),
            expected: expected.into(),
            found: found.into(),
            event: None,
        }
    }
}

fn prove(
    record: &[u8],
    inputs: &Inputs<'_>,
    registers: Option<&BTreeMap<(HashAlg, u8), Vec<u8>>>,
    log: &JudgedLog<'_>,
) -> Result<Vec<Section>, Mismatch> {
    let sections =
        decode(record).map_err(|error| Mismatch::new(CLAIM, "a list of measured sections", error.to_string()))?;
    let mut proven = false;
    for bank in inputs.policy.required_registers.banks().iter().map(|bank| bank.bank()) {
        let quoted = registers.and_then(|registers| registers.get(&(bank, REGISTER)));
        let Some(quoted) = quoted else { continue };
        let claim = format!("PCR {REGISTER} ({bank})");
        let Some(events) = log.events_of(bank, REGISTER) else {
            return Err(Mismatch::new(claim, "an event log that the quote vouches for", "none"));
        };
        let value = compare(&sections, bank, events)?;
        // The log's events of this register count only as far as the quoted value is made of them.
        let compared = log.compared(bank, REGISTER, quoted);
        if value.as_bytes() != compared {
            let expected = format!("{}, as the sections give", hex::encode(value.as_bytes()));
            return Err(Mismatch::new(claim, expected, hex::encode(compared)));
        }
        proven = true;
    }
    if !proven {
        return Err(Mismatch::new(CLAIM, "a quoted register 11 in a judged bank", "none"));
    }
    Ok(sections)
}

/// Compares the sections with the events of the register, one by one; gives the value they lead to.
fn compare<'l, 'a: 'l>(
    sections: &[Section],
    bank: HashAlg,
    mut events: impl Iterator<Item = &'l Event<'a>>,
) -> Result<RegisterValue, Mismatch> {
    let mut value = RegisterValue::initial(bank, u32::from(REGISTER), 0);
    let claim = format!("PCR {REGISTER} ({bank})");
    for section in sections {
        let name = &section.name;
        let content = content_digest(section, bank).ok_or_else(|| {
            Mismatch::new(
                claim.as_str(),
                format!("a digest of section {name}"),
                "none in this bank",
            )
        })?;
        let measured = [
            (bank.digest([name.as_bytes(), b"\0"]).as_ref().to_vec(), "the name"),
            (content, "the content"),
        ];
        for (digest, part) in measured {
            let expected = || format!("{} of {part} of section {name}", hex::encode(&digest));
            let event = events
                .next()
                .ok_or_else(|| Mismatch::new(claim.as_str(), expected(), "no further event"))?;
            if event.digest(bank) != Some(digest.as_slice()) {
                return Err(at_event(event, bank, expected()));
            }
            value.extend(bank, &digest);
        }
    }
    match events.next() {
        Some(event) => Err(at_event(event, bank, "no further section".to_owned())),
        None => Ok(value),
    }
}

fn at_event(event: &Event<'_>, bank: HashAlg, expected: String) -> Mismatch {
    let digest = hex::encode(event.digest(bank).unwrap_or_default());
    Mismatch {
        claim: format!("event {}, PCR {REGISTER} ({bank})", event.index),
        expected,
        found: format!("{digest}: {}", event.describe()),
        event: Some(event.index),
    }
}

fn content_digest(section: &Section, bank: HashAlg) -> Option<Vec<u8>> {
    match (&section.content, bank) {
        (Content::Bytes(bytes), _) => Some(bank.digest([bytes.as_slice()]).as_ref().to_vec()),
        (Content::Digests { sha256, .. }, HashAlg::Sha256) => Some(sha256.to_vec()),
        (Content::Digests { sha384, .. }, HashAlg::Sha384) => Some(sha384.to_vec()),
        (Content::Digests { sha512, .. }, HashAlg::Sha512) => Some(sha512.to_vec()),
        _ => None,
    }
}

fn claim_sections(sections: &[Section], findings: &mut Findings) {
    for section in sections {
        let Content::Bytes(bytes) = &section.content else {
            continue;
        };
        let Ok(text) = std::str::from_utf8(bytes) else { continue };
        let text = text.trim_end_matches(['\0', '\n']);
        let (name, value) = match section.name.as_str() {
            ".cmdline" => (claim::UKI_COMMAND_LINE, Some(text)),
            ".uname" => (claim::UKI_UNAME, Some(text)),
            ".osrel" => (claim::UKI_OS, system(text)),
            _ => continue,
        };
        // A text that was cut could hide what a policy looks for: then there is no claim.
        let shown = value.map(|value| sanitise(value, usize::MAX));
        if let Some(shown) = shown.filter(|shown| shown.len() <= MAX_DESCRIPTION) {
            findings.text(name, shown);
        }
    }
}

/// PRETTY_NAME of os-release(5), else ID. The last assignment counts, as in a shell.
fn system(text: &str) -> Option<&str> {
    let value = |key: &str| {
        let assigned = |line: &'_ str| line.strip_prefix(key).is_some_and(|rest| rest.starts_with('='));
        let line = text.lines().rev().find(|line| assigned(line))?;
        let value = line.get(key.len().saturating_add(1)..)?.trim();
        let unquoted = |mark: char| value.strip_prefix(mark)?.strip_suffix(mark);
        Some(unquoted('"').or_else(|| unquoted('\'')).unwrap_or(value))
    };
    value("PRETTY_NAME").or_else(|| value("ID"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_of_an_os_release() {
        for (text, expected) in [
            ("ID=debian\nPRETTY_NAME=\"Debian 13\"\n", Some("Debian 13")),
            ("PRETTY_NAME='A'\nPRETTY_NAME='B'", Some("B")),
            ("ID=debian\nVERSION_ID=13", Some("debian")),
            ("VERSION_ID=13\nIDLE=1\n#ID=x", None),
            ("PRETTY_NAME=\"half", Some("\"half")),
            ("PRETTY_NAME=", Some("")),
            ("", None),
        ] {
            assert_eq!(system(text), expected, "{text:?}");
        }
    }
}
