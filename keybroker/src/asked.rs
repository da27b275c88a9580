//! Which registers a node is asked to quote.

use touchstone_policies::Demands;
use touchstone_verifier::bootstrap;
use touchstone_verifier::eventlog::phases;
use touchstone_verifier::ima::ImaMode;
use touchstone_verifier::policy::AppraisalPolicy;
use touchstone_verifier::tpm::{HashAlg, PcrSelection};

use crate::bootstrap::ACTION;

/// IMA's register.
pub const IMA_REGISTER: u8 = 10;

/// The registers a node is asked for: those that its region's policy requires, and in each bank of theirs IMA's wherever some
/// machine's list may have to be judged, and those that tell the phase of the boot wherever a disk key may be granted. One
/// answer for a whole region, so that a challenge says nothing about which reference a machine is expected to match.
#[must_use]
pub fn asked(policy: Demands<'_>) -> PcrSelection {
    let required = &policy.appraisal.required_registers;
    let mut more = Vec::new();
    if needs_ima(policy) {
        more.push(IMA_REGISTER);
    }
    if policy.scopes.iter().any(|scope| scope.action == ACTION) {
        more.extend([phases::REGISTER, bootstrap::REGISTER]);
    }
    if more.is_empty() {
        return required.clone();
    }
    let banks = required.banks().iter().filter(|bank| bank.count() > 0);
    let banks = banks.map(|bank| {
        let mut registers: Vec<u8> = bank.registers().chain(more.iter().copied()).collect();
        registers.sort_unstable();
        registers.dedup();
        (bank.bank(), registers)
    });
    // Registers of a selection with others that every TPM has: there is nothing in it to refuse.
    PcrSelection::new(banks).unwrap_or_else(|_| required.clone())
}

/// What a policy demands, as far as a node was asked for it: what an earlier policy did not ask for does not speak against
/// what was shown then.
#[must_use]
pub fn as_far_as_asked(policy: Demands<'_>, before: &PcrSelection) -> AppraisalPolicy {
    let mut demands = policy.appraisal.clone();
    let required = demands.required_registers.banks().iter().map(|bank| {
        let registers = bank
            .registers()
            .filter(|register| before.contains(bank.bank(), *register));
        (bank.bank(), registers.collect::<Vec<u8>>())
    });
    let mut common: Vec<(HashAlg, Vec<u8>)> = required.filter(|(_, registers)| !registers.is_empty()).collect();
    if common.is_empty() {
        // Another bank is required now: what was asked for then is judged, for something must be.
        let banks = before.banks().iter();
        common = banks
            .map(|bank| {
                (
                    bank.bank(),
                    bank.registers()
                        .filter(|register| ![IMA_REGISTER, bootstrap::REGISTER].contains(register))
                        .collect(),
                )
            })
            .collect();
    }
    if let Ok(required) = PcrSelection::new(common) {
        demands.required_registers = required;
    }
    if !before.iter().any(|(_, register)| register == IMA_REGISTER) {
        demands.ima.mode = ImaMode::Off;
    }
    demands
}

/// What a policy asks for and a node was not asked for, in words: what it shows of it may refuse it, and nobody knows yet.
#[must_use]
pub fn not_asked_before(policy: Demands<'_>, before: &PcrSelection) -> Vec<String> {
    lacking(&policy.appraisal.required_registers, needs_ima(policy), before)
}

fn lacking(required: &PcrSelection, list: bool, before: &PcrSelection) -> Vec<String> {
    let banks = || required.banks().iter().filter(|bank| bank.count() > 0);
    let mut lacking = Vec::new();
    for bank in banks() {
        let name = bank.bank();
        if !before
            .banks()
            .iter()
            .any(|asked| asked.bank() == name && asked.count() > 0)
        {
            lacking.push(format!("the {name} bank is required and was not quoted"));
            continue;
        }
        let of = if banks().count() > 1 {
            format!(" of the {name} bank")
        } else {
            String::new()
        };
        let registers = bank.registers().filter(|register| !before.contains(name, *register));
        lacking.extend(registers.map(|register| format!("register {register}{of} is required and was not quoted")));
    }
    if list && !before.iter().any(|(_, register)| register == IMA_REGISTER) {
        lacking.push("the list of measured files is required and was not shown".into());
    }
    lacking
}

/// Whether some machine's IMA list may have to be judged.
fn needs_ima(policy: Demands<'_>) -> bool {
    match policy.appraisal.ima.mode {
        ImaMode::Off => false,
        ImaMode::Required => true,
        ImaMode::ByReference => policy.references.has_files(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_asked_for_is_named_and_nothing_else() {
        type Banks = &'static [(HashAlg, &'static [u8])];
        const OLD: Banks = &[(HashAlg::Sha256, &[0, 4, 7])];
        let of = |banks: Banks| PcrSelection::new(banks.iter().map(|(bank, r)| (*bank, r.iter().copied()))).unwrap();
        let rows: &[(Banks, bool, Banks, &[&str])] = &[
            (OLD, false, OLD, &[]),
            (&[(HashAlg::Sha256, &[0])], false, OLD, &[]),
            (
                &[(HashAlg::Sha256, &[0, 11, 14])],
                false,
                OLD,
                &[
                    "register 11 is required and was not quoted",
                    "register 14 is required and was not quoted",
                ],
            ),
            (
                &[(HashAlg::Sha384, &[0, 11])],
                false,
                OLD,
                &["the sha384 bank is required and was not quoted"],
            ),
            (
                &[(HashAlg::Sha256, &[0, 11]), (HashAlg::Sha384, &[0])],
                false,
                OLD,
                &[
                    "register 11 of the sha256 bank is required and was not quoted",
                    "the sha384 bank is required and was not quoted",
                ],
            ),
            (
                OLD,
                true,
                OLD,
                &["the list of measured files is required and was not shown"],
            ),
            (OLD, true, &[(HashAlg::Sha256, &[0, 4, 7, 10])], &[]),
        ];
        for (required, list, before, expected) in rows {
            assert_eq!(lacking(&of(required), *list, &of(before)), *expected, "{required:?}");
        }
    }
}
