//! Whether the machine is in its initramfs and has not opened its disk yet (protocol.md 11). A claim, never a reason: what
//! it means is for whoever is asked for a disk key.

use std::collections::BTreeMap;

use super::findings::{ClaimValue, Findings, claim};
use super::inputs::Inputs;
use crate::bootstrap::{REGISTER, Stage};
use crate::eventlog::phases;
use crate::inventory::Node;
use crate::tpm::HashAlg;

/// Claims the stage, where registers 11 and 15 were quoted in every required bank. Banks that differ are no one stage.
pub(super) fn judge(
    inputs: &Inputs<'_>,
    registers: Option<&BTreeMap<(HashAlg, u8), Vec<u8>>>,
    node: Option<&Node>,
    findings: &mut Findings,
) {
    let Some(registers) = registers else { return };
    let volume = node.and_then(|node| node.volume.as_ref());
    let phase = match findings.claims.get(claim::BOOT_PHASE) {
        Some(ClaimValue::Text(phase)) => Some(phase.clone()),
        _ => None,
    };
    let banks = inputs.policy.required_registers.banks().iter();
    let banks: Vec<HashAlg> = banks.filter(|bank| bank.count() > 0).map(|bank| bank.bank()).collect();
    let mut stages = Vec::with_capacity(banks.len());
    for bank in banks {
        let quoted = |register: u8| registers.get(&(bank, register));
        let (Some(own), Some(kernel)) = (quoted(REGISTER), quoted(phases::REGISTER)) else {
            return;
        };
        stages.push((bank, Stage::of(bank, own, kernel, phase.as_deref(), volume)));
    }
    // The inventory has the volume's value in one bank: where that bank is quoted it says which volume it was.
    let told = |(bank, _): &&(HashAlg, Stage)| volume.and_then(|volume| volume.bank()) == Some(*bank);
    let stage = match stages.as_slice() {
        [] => return,
        all if all.iter().all(|(_, stage)| *stage == Stage::Open) => Stage::Open,
        all if all.iter().any(|(_, stage)| *stage == Stage::Open) => Stage::RegisterMoved,
        all => all
            .iter()
            .find(told)
            .or(all.first())
            .map_or(Stage::RegisterMoved, |(_, stage)| *stage),
    };
    findings.text(claim::BOOTSTRAP, stage.as_str());
}
