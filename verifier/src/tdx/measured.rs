//! A confidential VM's event log against the quoted run-time measurement registers.

use super::quote::Quote;
use crate::eventlog::identity::{Measured, RegisterIdentity, register_identity};
use crate::eventlog::{Event, EventLog, EventType, PrefixError};
use crate::reason::{AppraisalCode, Reason};
use crate::tpm::HashAlg;

/// How many run-time measurement registers there are.
pub const RTMRS: u8 = 4;
/// The bank of every register.
pub const BANK: HashAlg = HashAlg::Sha384;
/// The register that guest software extends for its own ends: the firmware's log need not say how.
const APPLICATION: u8 = 3;
const CLAIM: &str = "CCEL event log";

/// A log whose prefix leads to the quoted registers.
#[derive(Debug, Clone)]
pub struct RtmrReplay<'a> {
    /// The log.
    pub log: EventLog<'a>,
    /// How many of its events belong to the quoted state.
    pub events: usize,
    /// How many follow it.
    pub ignored: usize,
    /// The registers it leads to.
    pub registers: Vec<u8>,
    /// The identity of the events of each, hashed once for all comparisons.
    identities: Vec<(u8, RegisterIdentity<'a>)>,
}

impl<'a> RtmrReplay<'a> {
    /// The extended events of one register that the quote vouches for; none where the log does not lead to it.
    pub fn events_of(&self, rtmr: u8) -> Option<impl Iterator<Item = &Event<'a>>> {
        let prefix = self.log.events().get(..self.events)?;
        self.registers.contains(&rtmr).then(|| {
            prefix
                .iter()
                .filter(move |event| event.is_extended() && event.pcr == log_register(rtmr))
        })
    }

    /// The identity of one register's events that the quote vouches for; none where the log does not lead to it.
    pub fn identity_of(&self, rtmr: u8) -> Option<&RegisterIdentity<'a>> {
        self.identities
            .iter()
            .find(|(known, _)| *known == rtmr)
            .map(|(_, identity)| identity)
    }

    /// The registers of the log's own numbering that it leads to, as a mask.
    pub fn mask(&self) -> u32 {
        self.registers
            .iter()
            .fold(0, |mask, rtmr| mask | 1u32.wrapping_shl(log_register(*rtmr)))
    }
}

/// The register's index in a log: 0 is the launch measurement (UEFI 2.10, 38.4.1).
pub const fn log_register(rtmr: u8) -> u32 {
    rtmr as u32 + 1
}

/// Replays a log (the memory that the ACPI table CCEL points at) to the registers of `quote`. Register 3 is asked of the
/// log only where the log has events of it.
///
/// # Errors
/// Every reason against it.
pub fn replay<'a>(quote: &Quote<'_>, bytes: &'a [u8]) -> Result<RtmrReplay<'a>, Vec<Reason>> {
    let unreadable = |found: String| {
        let expected = "the event log of a confidential VM";
        vec![Reason::new(AppraisalCode::LogUnreadable, CLAIM, expected, found)]
    };
    let log = EventLog::parse_ccel(bytes).map_err(|error| unreadable(error.to_string()))?;
    let has_events = |rtmr: u8| {
        let mut events = log.events().iter();
        events.any(|event| event.is_extended() && event.pcr == log_register(rtmr))
    };
    let registers: Vec<u8> = (0..RTMRS)
        .filter(|rtmr| *rtmr != APPLICATION || has_events(*rtmr))
        .collect();
    let quoted: Vec<(u32, &[u8])> = registers
        .iter()
        .filter_map(|rtmr| Some((log_register(*rtmr), quote.rtmr(*rtmr)?.as_slice())))
        .collect();
    let matched = log.match_prefix(BANK, &quoted);
    match matched {
        Ok(matched) => {
            let mut replayed = RtmrReplay {
                events: matched.events,
                ignored: matched.ignored,
                log,
                registers,
                identities: Vec::new(),
            };
            let identity = |rtmr: &u8| {
                let events = replayed.events_of(*rtmr)?.filter_map(|event| {
                    let digest = event.digest(BANK)?;
                    Some(as_tpm_event(*rtmr, event.event_type, digest, event.data))
                });
                Some((*rtmr, register_identity(BANK, events)))
            };
            replayed.identities = replayed.registers.iter().filter_map(identity).collect();
            Ok(replayed)
        }
        Err(PrefixError::BankAbsent { bank }) => Err(unreadable(format!("no digests for {bank}"))),
        Err(PrefixError::Diverged { registers }) => Err(registers
            .into_iter()
            .map(|(register, replayed)| {
                let value = quoted.iter().find(|(asked, _)| *asked == register);
                let expected = format!("{}, as quoted", hex::encode(value.map_or(&[][..], |(_, value)| value)));
                let found = format!("{} after replaying the log", hex::encode(replayed));
                let claim = log.format().register_name(register);
                Reason::new(AppraisalCode::LogDoesNotReplay, claim, expected, found)
            })
            .collect()),
    }
}

/// An event of a register as the comparison takes it: under the number of the TPM register that holds such events
/// (UEFI 2.10, 38.4.1), so that what belongs to the machine is told from its software in the same way. The number is
/// chosen by register and type and proves nothing; the digest must cover the data all the same.
pub(super) fn as_tpm_event<'e>(rtmr: u8, event_type: EventType, digest: &'e [u8], data: &'e [u8]) -> Measured<'e> {
    let pcr = match (rtmr, event_type) {
        (0, EventType::EFI_VARIABLE_BOOT | EventType::EFI_VARIABLE_BOOT2) => 1,
        (0, EventType::EFI_VARIABLE_DRIVER_CONFIG | EventType::EFI_VARIABLE_AUTHORITY) => 7,
        (1, EventType::EFI_ACTION) => 4,
        (1, EventType::EFI_GPT_EVENT | EventType::EFI_GPT_EVENT2) => 5,
        (2, EventType::IPL) => 8,
        // Compared by its digest, whatever the register.
        _ => 0,
    };
    Measured {
        pcr,
        event_type,
        digest,
        data,
    }
}
