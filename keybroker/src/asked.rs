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

/// Whether some machine's IMA list may have to be judged.
fn needs_ima(policy: Demands<'_>) -> bool {
    match policy.appraisal.ima.mode {
        ImaMode::Off => false,
        ImaMode::Required => true,
        ImaMode::ByReference => policy.references.has_files(),
    }
}
