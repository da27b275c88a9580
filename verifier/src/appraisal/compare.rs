//! Quoted registers against reference values: one reference must have them all, in every bank of the policy.

use std::collections::BTreeMap;

use super::difference;
use super::findings::Findings;
use super::inputs::Inputs;
use super::log::JudgedLog;
use crate::eventlog::identity::{Measured, RegisterIdentity, register_identity};
use crate::reason::AppraisalCode;
use crate::reference::{Found, QuotedRegister, Reference};
use crate::tpm::HashAlg;

/// Compares every required register. The reference, if *one* matches them all.
///
/// By value first: that is how almost every round ends. Only where it does not, the identities of the log's events are
/// computed; they count where the log replays to the quoted value.
pub(super) fn compare<'a>(
    inputs: &Inputs<'a>,
    registers: &BTreeMap<(HashAlg, u8), Vec<u8>>,
    log: &JudgedLog<'_>,
    findings: &mut Findings,
) -> Option<&'a Reference> {
    let references = inputs.references;
    let mut complete = true;
    let mut quoted = Vec::new();
    for required in inputs.policy.required_registers.banks() {
        let bank = required.bank();
        let before = quoted.len();
        for pcr in required.registers() {
            let Some(value) = registers.get(&(bank, pcr)) else {
                complete = false;
                continue;
            };
            quoted.push(QuotedRegister {
                bank,
                pcr,
                value: log.compared(bank, pcr, value),
                identity: None,
            });
        }
        if quoted.len() > before && !references.has_bank(bank) {
            complete = false;
            let expected = format!("a signed reference for the {bank} bank");
            findings.refuse(
                AppraisalCode::ReferenceMissing,
                format!("registers ({bank})"),
                expected,
                "none",
            );
            quoted.truncate(before);
        }
    }
    if quoted.is_empty() {
        if findings.reasons.is_empty() {
            // Nothing compared is nothing affirmed.
            findings.refuse(
                AppraisalCode::ReferenceMissing,
                "registers",
                "a register to compare",
                "none",
            );
        }
        return None;
    }
    match references.find(&quoted, inputs.now) {
        Found::Match(reference) => return complete.then_some(reference),
        // Final: another one that matches by the identity of its events may ask for less.
        Found::Deselected(reference) => {
            difference::deselected(reference, "registers", findings);
            return None;
        }
        Found::OutOfForce(_) | Found::Nearest(_) | Found::Nothing => {}
    }
    let identities: Vec<Option<RegisterIdentity<'_>>> = quoted
        .iter()
        .map(|register| {
            let events = log.events_of(register.bank, register.pcr)?;
            let measured = events.filter_map(|event| Measured::of(event, register.bank));
            Some(register_identity(register.bank, measured))
        })
        .collect();
    for (register, identity) in quoted.iter_mut().zip(&identities) {
        register.identity = identity.as_ref();
    }
    match references.find(&quoted, inputs.now) {
        Found::Match(reference) => return complete.then_some(reference),
        Found::OutOfForce(reference) => {
            difference::out_of_force(reference, "registers", inputs.now, findings);
        }
        Found::Deselected(reference) => difference::deselected(reference, "registers", findings),
        Found::Nearest(reference) => difference::tell(reference, &quoted, log, findings),
        // Banks without any reference were told above.
        Found::Nothing => {}
    }
    None
}
