//! Computed events, and the event log they would make.

use touchstone_verifier::eventlog::{EventType, MAX_EVENT_DATA};
use touchstone_verifier::tpm::HashAlg;

use crate::ArtefactError;

/// Register of images firmware loads.
pub const REGISTER_IMAGES: u8 = 4;
/// Register of GRUB's commands.
pub const REGISTER_COMMANDS: u8 = 8;
/// Register of files GRUB reads, and of the EFI stub's load options and initrd.
pub const REGISTER_FILES: u8 = 9;
/// Register of a unified kernel image's sections.
pub const REGISTER_SECTIONS: u8 = 11;

/// One event as the machine's log will have it: what is hashed is known, so every bank's digest can be computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComputedEvent {
    /// The register.
    pub pcr: u8,
    /// Its type.
    pub event_type: EventType,
    /// The event's data in the log. What machines write differently (device paths, addresses) is left at its plainest:
    /// no digest covers it.
    pub data: Vec<u8>,
    /// One digest a bank, in the order of the banks asked for.
    pub digests: Vec<(HashAlg, Vec<u8>)>,
}

impl ComputedEvent {
    /// An event whose digest is that of `measured`.
    pub fn of(banks: &[HashAlg], pcr: u8, event_type: EventType, data: Vec<u8>, measured: &[u8]) -> Self {
        let digests = banks
            .iter()
            .map(|bank| (*bank, bank.digest([measured]).as_ref().to_vec()));
        Self {
            pcr,
            event_type,
            data,
            digests: digests.collect(),
        }
    }

    /// Its digest in a bank.
    pub fn digest(&self, bank: HashAlg) -> Option<&[u8]> {
        let mut digests = self.digests.iter();
        digests
            .find(|(own, _)| *own == bank)
            .map(|(_, digest)| digest.as_slice())
    }
}

/// The separator that ends the firmware's own part of registers 0 to 7 (PFP 1.06, 3.3.2.2).
pub fn separator(banks: &[HashAlg], pcr: u8) -> ComputedEvent {
    ComputedEvent::of(banks, pcr, EventType::SEPARATOR, vec![0; 4], &[0; 4])
}

/// A crypto-agile event log (PFP 1.06, 10.2.2 and 10.4.5.1) with these events: what reads a machine's log reads computed
/// events as well, in the same words and by the same rules.
///
/// # Errors
/// [`ArtefactError::TooLarge`] for event data over the log's limit.
pub fn to_event_log(banks: &[HashAlg], events: &[ComputedEvent]) -> Result<Vec<u8>, ArtefactError> {
    let mut body = Vec::new();
    body.extend(b"Spec ID Event03\0");
    body.extend(0u32.to_le_bytes());
    // Version 2.0, errata 0, UINTN of eight bytes.
    body.extend([0, 2, 0, 2]);
    body.extend((banks.len() as u32).to_le_bytes());
    for bank in banks {
        body.extend(bank.tpm_id().to_le_bytes());
        body.extend((bank.digest_len() as u16).to_le_bytes());
    }
    body.push(0);
    let mut log = Vec::new();
    log.extend(0u32.to_le_bytes());
    log.extend(EventType::NO_ACTION.0.to_le_bytes());
    log.extend([0; 20]);
    log.extend((body.len() as u32).to_le_bytes());
    log.extend(body);
    for event in events {
        if event.data.len() > MAX_EVENT_DATA {
            return Err(ArtefactError::TooLarge {
                what: "data of an event",
                limit: MAX_EVENT_DATA,
            });
        }
        log.extend(u32::from(event.pcr).to_le_bytes());
        log.extend(event.event_type.0.to_le_bytes());
        log.extend((event.digests.len() as u32).to_le_bytes());
        for (bank, digest) in &event.digests {
            log.extend(bank.tpm_id().to_le_bytes());
            log.extend(digest);
        }
        log.extend((event.data.len() as u32).to_le_bytes());
        log.extend(&event.data);
    }
    Ok(log)
}
