//! The firmware event log against the quoted registers.

use std::collections::BTreeMap;

use touchstone_evidence::collection::Label;

use super::findings::{Findings, claim};
use super::inputs::{Freshness, Inputs};
use crate::eventlog::{DataCheck, Event, EventLog, Format, PrefixError, SeparatorDigests};
use crate::policy::EventLogRule;
use crate::reason::{AppraisalCode, sanitise};
use crate::tpm::HashAlg;

const CLAIM: &str = "event log";
/// IMA's register: its history is another log.
const IMA: u8 = 10;

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
    },
}

impl<'a> JudgedLog<'a> {
    /// The events of one register and bank that a quote vouches for; none where the log does not reach them.
    pub(super) fn events_of(&self, bank: HashAlg, pcr: u8) -> Option<impl Iterator<Item = &Event<'a>>> {
        let JudgedLog::Replayed { log, events } = self else {
            return None;
        };
        let prefix = log.events().get(..*events.get(&bank)?)?;
        Some(
            prefix
                .iter()
                .filter(move |event| event.is_extended() && event.pcr == u32::from(pcr)),
        )
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
    let mut ignored = 0;
    let before = findings.reasons.len();
    for bank in inputs.policy.required_registers.banks().iter().map(|bank| bank.bank()) {
        let judged = judged_registers(inputs, registers, bank);
        match log.match_prefix(bank, &judged) {
            Ok(matched) => {
                events.insert(bank, matched.events);
                ignored = ignored.max(matched.ignored);
                let prefix = log.events().get(..matched.events).unwrap_or_default();
                check_events(prefix, bank, &judged, findings);
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
    let state = if findings.reasons.len() == before {
        "replayed"
    } else {
        "refused"
    };
    findings.text(claim::EVENT_LOG, state);
    findings.int(claim::EVENTS_IGNORED, ignored as u64);
    JudgedLog::Replayed { log, events }
}

fn refuse_log<'a>(code: AppraisalCode, found: String, findings: &mut Findings) -> JudgedLog<'a> {
    findings.refuse(code, CLAIM, "a crypto-agile TCG event log", found);
    findings.text(claim::EVENT_LOG, "refused");
    JudgedLog::None
}

/// The registers of a bank whose history the firmware log must be: in a session all that were quoted, offline those
/// that the policy requires (a packed quote may hold more). Never IMA's.
fn judged_registers<'r>(
    inputs: &Inputs<'_>,
    registers: &'r BTreeMap<(HashAlg, u8), Vec<u8>>,
    bank: HashAlg,
) -> Vec<(u32, &'r [u8])> {
    let all = matches!(inputs.freshness, Freshness::Bound { .. });
    registers
        .range((bank, 0)..=(bank, u8::MAX))
        .filter(|((_, pcr), _)| *pcr != IMA && (all || inputs.policy.required_registers.contains(bank, *pcr)))
        .map(|((_, pcr), value)| (u32::from(*pcr), value.as_slice()))
        .collect()
}

/// Compares each event that a quote vouches for with its data, and takes up the claims that the data support.
fn check_events(prefix: &[Event<'_>], bank: HashAlg, judged: &[(u32, &[u8])], findings: &mut Findings) {
    let registers = judged
        .iter()
        .fold(0u32, |mask, (pcr, _)| mask | 1u32.wrapping_shl(*pcr));
    let separators = SeparatorDigests::new(bank);
    let (mut secure_boot, mut command_line) = (None, None);
    for event in prefix {
        if !event.is_extended() || registers & 1u32.wrapping_shl(event.pcr) == 0 {
            continue;
        }
        match event.check_data(bank) {
            DataCheck::Covered => {
                if event.pcr == 7 && secure_boot.is_none() {
                    secure_boot = event.secure_boot_variable("SecureBoot");
                }
                if event.pcr == 8 && command_line.is_none() {
                    command_line = event.kernel_command_line();
                }
            }
            DataCheck::Commentary => {}
            DataCheck::Mismatch => refuse_event(AppraisalCode::EventDigestMismatch, event, bank, findings),
        }
        if separators.is_smuggled(event, bank) {
            refuse_event(AppraisalCode::SeparatorSmuggled, event, bank, findings);
        }
    }
    match secure_boot {
        Some([1]) => findings.bool(claim::SECURE_BOOT, true),
        Some([0]) => findings.bool(claim::SECURE_BOOT, false),
        _ => {}
    }
    if let Some(text) = command_line {
        let text = sanitise(&String::from_utf8_lossy(text), crate::eventlog::MAX_DESCRIPTION);
        findings.text(claim::KERNEL_COMMAND_LINE, text);
    }
}

fn refuse_event(code: AppraisalCode, event: &Event<'_>, bank: HashAlg, findings: &mut Findings) {
    let claim = format!("event {}, PCR {} ({bank})", event.index, event.pcr);
    let expected = match code {
        AppraisalCode::SeparatorSmuggled => "a separator's digest in separators only",
        _ => "the digest of the event's data",
    };
    let digest = hex::encode(event.digest(bank).unwrap_or_default());
    findings.refuse(
        code,
        claim,
        expected,
        format!("{digest} in {}: {}", event.event_type, event.describe()),
    );
}
