//! The firmware event log against the quoted registers.

use std::collections::BTreeMap;

use touchstone_evidence::collection::Label;

use super::findings::{Findings, claim};
use super::inputs::{Freshness, Inputs};
use crate::eventlog::{
    BootClaims, BootStory, DataCheck, Event, EventLog, EventType, Format, MAX_DESCRIPTION, PrefixError, RegisterValue,
    SeparatorDigests, Vouched, phases,
};
use crate::policy::EventLogRule;
use crate::reason::{AppraisalCode, Hint, sanitise};
use crate::tdx::RtmrReplay;
use crate::tpm::HashAlg;

const CLAIM: &str = "event log";
/// IMA's register: its history is another log.
const IMA: u8 = 10;
/// The register of ExitBootServices (PFP 1.06, 10.4.4).
const EXIT_REGISTER: u32 = 5;
/// The firmware's registers; the others belong to the operating system and its loader.
const LAST_FIRMWARE_REGISTER: u32 = 7;

/// What became of the log.
pub(super) enum JudgedLog<'a> {
    /// There is none, or nothing of it may be used.
    None,
    /// A quote vouches for the first `events` events of each bank, as far as judged registers go.
    Replayed {
        /// The log.
        log: EventLog<'a>,
        /// How many events belong to the quoted state, by bank.
        events: BTreeMap<HashAlg, usize>,
        /// The log's value of register 11 in the banks where phases of the boot were measured after it.
        before_phases: BTreeMap<HashAlg, Vec<u8>>,
    },
}

impl<'a> JudgedLog<'a> {
    /// The events of one judged register and bank that a quote vouches for; none where the log does not reach them, and
    /// for IMA's register, whose history is another log.
    pub(super) fn events_of(&self, bank: HashAlg, pcr: u8) -> Option<impl Iterator<Item = &Event<'a>>> {
        let JudgedLog::Replayed { log, events, .. } = self else {
            return None;
        };
        if pcr == IMA {
            return None;
        }
        let prefix = log.events().get(..*events.get(&bank)?)?;
        Some(
            prefix
                .iter()
                .filter(move |event| event.is_extended() && event.pcr == u32::from(pcr)),
        )
    }

    /// The value to compare for a quoted register: in register 11 without the phases measured after the log.
    pub(super) fn compared<'s>(&'s self, bank: HashAlg, pcr: u8, quoted: &'s [u8]) -> &'s [u8] {
        match self {
            JudgedLog::Replayed { before_phases, .. } if pcr == phases::REGISTER => {
                before_phases.get(&bank).map_or(quoted, Vec::as_slice)
            }
            _ => quoted,
        }
    }
}

/// Reads and replays the log, and compares each event with its data.
pub(super) fn judge<'a>(
    inputs: &Inputs<'a>,
    registers: Option<&BTreeMap<(HashAlg, u8), Vec<u8>>>,
    findings: &mut Findings,
) -> JudgedLog<'a> {
    let Some(bytes) = inputs.collection.get(Label::FirmwareEventLog) else {
        findings.text(claim::EVENT_LOG, "none");
        match inputs.policy.event_log {
            EventLogRule::Required => {
                findings.refuse(AppraisalCode::EventLogMissing, CLAIM, "a firmware event log", "none");
            }
            EventLogRule::RegistersSuffice => findings.leniencies.push("event-log: registers-suffice".to_owned()),
        }
        return JudgedLog::None;
    };
    let log = match EventLog::parse(bytes) {
        Ok(log) => log,
        Err(error) => return refuse_log(AppraisalCode::LogUnreadable, error.to_string(), findings),
    };
    // A TPM's registers are judged here: by digests that are not weak, and by a log of a TPM.
    match log.format() {
        Format::CryptoAgile => {}
        // It proves nothing. Where registers suffice it counts as no log.
        Format::Sha1 if inputs.policy.event_log == EventLogRule::RegistersSuffice => {
            findings.leniencies.push("event-log: registers-suffice".to_owned());
            findings.text(claim::EVENT_LOG, "none");
            return JudgedLog::None;
        }
        Format::Sha1 => return refuse_log(AppraisalCode::LogSha1Only, log.format().to_string(), findings),
        Format::ConfidentialComputing => {
            return refuse_log(AppraisalCode::LogUnreadable, log.format().to_string(), findings);
        }
    }
    let Some(registers) = registers else {
        findings.text(claim::EVENT_LOG, "refused");
        return JudgedLog::None;
    };
    let mut events = BTreeMap::new();
    let before_phases = before_phases(inputs, &log, registers, findings);
    let mut ignored = 0;
    let mut first = true;
    let before = findings.count();
    for bank in inputs.policy.required_registers.banks().iter().map(|bank| bank.bank()) {
        let mut judged = judged_registers(inputs, registers, bank);
        if let Some(value) = before_phases.get(&bank) {
            judged.retain(|(pcr, _)| *pcr != u32::from(phases::REGISTER));
            judged.push((u32::from(phases::REGISTER), value.as_slice()));
        }
        match log.match_prefix(bank, &judged) {
            Ok(matched) => {
                events.insert(bank, matched.events);
                ignored = ignored.max(matched.ignored);
                let registers = judged
                    .iter()
                    .fold(0u32, |mask, (pcr, _)| mask | 1u32.wrapping_shl(*pcr));
                let vouched = Vouched {
                    events: matched.events,
                    registers,
                };
                let story = check_events(&log, bank, vouched, findings);
                // One bank proves it; the others are held to the same events.
                if first {
                    claim_boot(story.claims(), "", findings);
                }
                first = false;
            }
            Err(PrefixError::BankAbsent { bank }) => {
                let expected = format!("digests for the {bank} bank");
                findings.refuse(AppraisalCode::LogDoesNotReplay, CLAIM, expected, "none");
            }
            Err(PrefixError::Diverged { registers: diverged }) => {
                for (pcr, replayed) in diverged {
                    let quoted = judged
                        .iter()
                        .find(|(judged, _)| *judged == pcr)
                        .map(|(_, value)| *value);
                    let expected = format!("{}, as quoted", hex::encode(quoted.unwrap_or_default()));
                    let found = format!("{} after replaying the log", hex::encode(replayed));
                    let claim = format!("PCR {pcr} ({bank})");
                    findings.refuse(AppraisalCode::LogDoesNotReplay, claim, expected, found);
                }
            }
        }
    }
    let state = if findings.count() == before {
        "replayed"
    } else {
        "refused"
    };
    findings.text(claim::EVENT_LOG, state);
    findings.int(claim::EVENTS_IGNORED, ignored as u64);
    JudgedLog::Replayed {
        log,
        events,
        before_phases,
    }
}

/// The log's value of register 11, by bank, where the same run of systemd's phases leads from it to the quoted value in
/// every bank. Only after events of a unified kernel image: nothing else has phases measured.
fn before_phases(
    inputs: &Inputs<'_>,
    log: &EventLog<'_>,
    registers: &BTreeMap<(HashAlg, u8), Vec<u8>>,
    findings: &mut Findings,
) -> BTreeMap<HashAlg, Vec<u8>> {
    let mut values = BTreeMap::new();
    let mut runs = Vec::new();
    for bank in inputs.policy.required_registers.banks().iter().map(|bank| bank.bank()) {
        let judged = judged_registers(inputs, registers, bank);
        let pcr = u32::from(phases::REGISTER);
        let Some((_, quoted)) = judged.iter().find(|(judged, _)| *judged == pcr) else {
            continue;
        };
        let mut value = RegisterValue::initial(bank, pcr, 0);
        let events = log
            .events()
            .iter()
            .filter(|event| event.is_extended() && event.pcr == pcr);
        let digests: Vec<&[u8]> = events.filter_map(|event| event.digest(bank)).collect();
        digests.iter().for_each(|digest| value.extend(bank, digest));
        if digests.is_empty() || value.as_bytes() == *quoted {
            continue;
        }
        if let Some(run) = phases::run_between(bank, value.as_bytes(), quoted) {
            values.insert(bank, value.as_bytes().to_vec());
            runs.push(run);
        }
    }
    runs.dedup();
    match runs.as_slice() {
        [run] => findings.text(claim::BOOT_PHASE, phases::last(*run)),
        // Banks that tell of different phases were not extended by one boot: they replay to nothing.
        _ => values.clear(),
    }
    values
}

fn refuse_log<'a>(code: AppraisalCode, found: String, findings: &mut Findings) -> JudgedLog<'a> {
    findings.refuse(code, CLAIM, "a crypto-agile TCG event log", found);
    findings.text(claim::EVENT_LOG, "refused");
    JudgedLog::None
}

/// The registers of a bank whose history the firmware log must be: in a session all that were quoted, offline those
/// that the policy requires (a packed quote may hold more). Never IMA's; register 15, which user space extends after the
/// log, only where the policy requires it.
fn judged_registers<'r>(
    inputs: &Inputs<'_>,
    registers: &'r BTreeMap<(HashAlg, u8), Vec<u8>>,
    bank: HashAlg,
) -> Vec<(u32, &'r [u8])> {
    let all = matches!(inputs.freshness, Freshness::Bound { .. });
    registers
        .range((bank, 0)..=(bank, u8::MAX))
        .filter(|((_, pcr), _)| {
            let required = inputs.policy.required_registers.contains(bank, *pcr);
            *pcr != IMA && (required || all && *pcr != crate::bootstrap::REGISTER)
        })
        .map(|((_, pcr), value)| (u32::from(*pcr), value.as_slice()))
        .collect()
}

/// Compares each event of a confidential VM's log that the quote vouches for with its data, and takes up what they prove.
pub(super) fn judge_ccel(replayed: &RtmrReplay<'_>, findings: &mut Findings) {
    let vouched = Vouched {
        events: replayed.events,
        registers: replayed.mask(),
    };
    let story = check_events(&replayed.log, crate::tdx::measured::BANK, vouched, findings);
    claim_boot(story.claims(), claim::CC_PREFIX, findings);
}

/// Compares each event that a quote vouches for with its data, and tells the boot.
fn check_events<'a>(log: &EventLog<'a>, bank: HashAlg, vouched: Vouched, findings: &mut Findings) -> BootStory<'a> {
    let separators = SeparatorDigests::new(bank);
    let story = BootStory::tell(log, bank, vouched);
    let mut handed_over = false;
    let last = log.format().register_of(LAST_FIRMWARE_REGISTER - 1);
    let is_firmware = |event: &Event<'_>| match log.format() {
        // Register 7 shares RTMR0 with register 1, and 2 to 6 are RTMR1.
        Format::ConfidentialComputing => Some(event.pcr) <= last,
        Format::CryptoAgile | Format::Sha1 => event.pcr <= LAST_FIRMWARE_REGISTER,
    };
    for (event, check) in log.events().iter().zip(&story.checks).take(vouched.events) {
        let exit = exit_action(event, bank, log.format());
        handed_over = match exit {
            Some(Exit::Invoked) => true,
            // The boot loader goes on, and may measure before it tries again.
            Some(Exit::Failed) => false,
            Some(Exit::Succeeded) | None => handed_over,
        };
        if !event.is_extended() || vouched.registers & 1u32.wrapping_shl(event.pcr) == 0 {
            continue;
        }
        if *check == DataCheck::Mismatch {
            refuse_event(AppraisalCode::EventDigestMismatch, event, bank, findings);
        }
        if separators.is_smuggled(event, bank) {
            refuse_event(AppraisalCode::SeparatorSmuggled, event, bank, findings);
        }
        if handed_over && exit.is_none() && is_firmware(event) {
            refuse_event(AppraisalCode::EventAfterExit, event, bank, findings);
        }
    }
    story
}

/// Takes up what the boot's digests prove, under names that begin with `prefix`. Every claim is absent where they do not.
fn claim_boot(claims: BootClaims, prefix: &str, findings: &mut Findings) {
    let named = |name: &str| format!("{prefix}{name}");
    let hexadecimal = |digest: [u8; 32]| hex::encode(digest);
    for (name, value) in [
        (claim::SECURE_BOOT, claims.secure_boot),
        (claim::SETUP_MODE, claims.setup_mode),
        (claim::BOOT_LOG_COMPLETE, claims.complete),
    ] {
        if let Some(value) = value {
            findings.bool(&named(name), value);
        }
    }
    for (name, value) in [
        (claim::SECURE_BOOT_PK, claims.pk),
        (claim::SECURE_BOOT_KEK, claims.kek),
        (claim::SECURE_BOOT_DB, claims.db),
        (claim::BOOT_AUTHORITIES, claims.authorities),
    ] {
        if let Some(set) = value {
            findings.set(&named(name), set.into_iter().map(hexadecimal));
        }
    }
    if let Some(images) = claims.boot_images {
        findings.set(&named(claim::BOOT_IMAGES), images.into_iter().map(hex::encode));
    }
    if let Some(entries) = claims.dbx_entries {
        findings.int(&named(claim::DBX_ENTRIES), entries);
    }
    for (name, value) in [
        (claim::SBAT_LEVEL, claims.sbat_level),
        (claim::FIRMWARE_VERSION, claims.firmware_version),
        (claim::KERNEL_COMMAND_LINE, claims.kernel_command_line),
    ] {
        if let Some(text) = value {
            findings.text(&named(name), sanitise(&text, MAX_DESCRIPTION));
        }
    }
}

/// What the firmware measures into register 5 when the boot loader ends it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Exit {
    Invoked,
    Failed,
    Succeeded,
}

/// Which of these an event is; its digest must cover the words.
fn exit_action(event: &Event<'_>, bank: HashAlg, format: Format) -> Option<Exit> {
    if Some(event.pcr) != format.register_of(EXIT_REGISTER) || event.event_type != EventType::EFI_ACTION {
        return None;
    }
    let exit = match event.data {
        b"Exit Boot Services Invocation" => Exit::Invoked,
        b"Exit Boot Services Returned with Failure" => Exit::Failed,
        b"Exit Boot Services Returned with Success" => Exit::Succeeded,
        _ => return None,
    };
    (event.check_data(bank) == DataCheck::Covered).then_some(exit)
}

fn refuse_event(code: AppraisalCode, event: &Event<'_>, bank: HashAlg, findings: &mut Findings) {
    let register = event.format().register_name(event.pcr);
    let claim = format!("event {}, {register} ({bank})", event.index);
    let expected = match code {
        AppraisalCode::SeparatorSmuggled => "a separator's digest in separators only",
        AppraisalCode::EventAfterExit => "no firmware event after ExitBootServices",
        _ => "the digest of the event's data",
    };
    let digest = hex::encode(event.digest(bank).unwrap_or_default());
    let found = format!("{digest} in {}: {}", event.event_type, event.describe());
    // A log that lies is nothing to accept: the hint says where, and no command.
    let hint = Hint {
        event: Some(event.index),
        register: u8::try_from(event.pcr).ok(),
        ..Hint::default()
    };
    findings.refuse_at(code, claim, expected, found, hint);
}
