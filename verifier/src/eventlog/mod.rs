//! The firmware event log: what the firmware and the boot loader say they measured, and into which register.
//!
//! Source: TCG PC Client Platform Firmware Profile (PFP) 1.06, 10; TCG EFI Protocol 1.22 (the SHA-1 form); UEFI 2.10, 38
//! (logs of confidential VMs). All three forms are read, replayed and described by the same code; which one it was is
//! [`EventLog::format`], and a policy judges that.
//!
//! A log proves nothing by itself. [`EventLog::match_prefix`] compares it with quoted register values; what matched is
//! then as trustworthy as the quote, but only its *digests*: an event's type and text are commentary, unless
//! [`Event::check_data`] shows that the digest covers the text. Nothing here copies the log.

mod boot_text;
mod bytes;
mod chapters;
mod check;
mod claims;
mod describe;
mod efi;
mod error;
mod event;
mod event_type;
mod format;
pub mod guid;
mod header;
pub mod identity;
pub mod phases;
mod platform;
mod replay;
mod secure_boot;
pub mod signature_list;
mod story;
mod tag;

pub use boot_text::TextKind;
pub use chapters::{Chapter, Line, MAX_COMMANDS, MAX_LINE, MAX_LISTED, Standing};
pub use check::{DataCheck, SeparatorDigests};
pub use claims::{BootClaims, MAX_CLAIM_SET};
pub use describe::MAX_DESCRIPTION;
pub use efi::EfiVariable;
pub use error::LogError;
pub use event::Event;
pub use event_type::EventType;
pub use format::{Format, MEASUREMENT_REGISTERS};
pub use header::{Header, Specification};
pub use phases::PHASES;
pub use replay::{PrefixError, PrefixMatch, RegisterValue, Replay, ReplayError};
pub use secure_boot::{Authority, AuthorityKind, Database, SecureBoot};
pub use signature_list::{Signature, SignatureKind, SignatureListError, SignatureLists, certificate_name};
pub use story::{
    BootStory, CommandLine, CommandLineSource, ExitBootServices, Fact, Image, Missing, Section, Told, Vouched, text_of,
};
pub use tag::{Tag, TagKind};

use bytes::Reader;

/// Longest log that is read, in bytes.
pub const MAX_LOG: usize = 4 << 20;
/// Most events in a log.
pub const MAX_EVENTS: usize = 65_536;
/// Longest data of one event, in bytes.
pub const MAX_EVENT_DATA: usize = 1 << 20;
/// Most digest algorithms a log may declare.
pub const MAX_ALGORITHMS: usize = 8;
/// Registers of a PC Client TPM.
pub const REGISTERS: u32 = 24;

/// Smallest record, in bytes: the events' memory is reserved by it. (4 + 4, one SHA-1 digest, 4.)
const MIN_RECORD: usize = 32;
/// Body of the EV_NO_ACTION event that tells from which locality the TPM was started (PFP 1.06, 10.4.5.3).
const STARTUP_LOCALITY: &[u8; 16] = b"StartupLocality\0";

/// A log that was read whole: the digests, types and data of its events borrow from the bytes. It is well formed; whether it is true only a quote can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventLog<'a> {
    header: Header<'a>,
    events: Vec<Event<'a>>,
    startup_locality: u8,
    padding: usize,
}

impl<'a> EventLog<'a> {
    /// Reads a log of any form: crypto-agile, SHA-1 only, or a confidential VM's.
    ///
    /// After the last event only padding may follow: bytes that are all zero, or all 0xFF (firmware hands over its whole
    /// log area; a crypto-agile event cannot look like that, for it needs a digest).
    ///
    /// # Errors
    /// [`LogError`], with the offset, for anything that is not such a log.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, LogError> {
        Self::read(bytes, None)
    }

    /// Reads the log of a confidential VM (the memory the ACPI table CCEL points at). Where it came from says what it is,
    /// so its first record may name register 0 or 1.
    ///
    /// # Errors
    /// [`LogError`], as [`parse`](EventLog::parse), and [`LogError::OtherFormat`] for a log with SHA-1 records.
    pub fn parse_ccel(bytes: &'a [u8]) -> Result<Self, LogError> {
        Self::read(bytes, Some(Format::ConfidentialComputing))
    }

    fn read(bytes: &'a [u8], expected: Option<Format>) -> Result<Self, LogError> {
        if bytes.len() > MAX_LOG {
            return Err(LogError::TooLarge {
                limit: MAX_LOG,
                found: bytes.len(),
            });
        }
        let mut reader = Reader::at(bytes, 0);
        let header = Header::parse(&mut reader, expected)?;
        let mut events = Vec::with_capacity((bytes.len() / (2 * MIN_RECORD)).clamp(16, 1024));
        let mut startup_locality = None;
        let mut register_0_extended = false;
        while reader.left() > 0 && !is_padding(reader.rest()) {
            if events.len() == MAX_EVENTS {
                return Err(LogError::TooManyEvents { limit: MAX_EVENTS });
            }
            let offset = reader.offset();
            let event = Event::parse(&mut reader, events.len() + 1, &header)?;
            if event.is_extended() {
                register_0_extended |= event.pcr == 0;
            } else if event.event_type == EventType::NO_ACTION && event.data.starts_with(STARTUP_LOCALITY) {
                let locality = read_startup_locality(&event).ok_or(LogError::StartupLocalityInvalid { offset })?;
                if register_0_extended {
                    return Err(LogError::StartupLocalityLate { offset });
                }
                if startup_locality.replace(locality).is_some() {
                    return Err(LogError::StartupLocalityRepeated { offset });
                }
            }
            events.push(event);
        }
        Ok(Self {
            header,
            events,
            startup_locality: startup_locality.unwrap_or(0),
            padding: reader.left(),
        })
    }

    /// Which of the three forms the log has.
    pub fn format(&self) -> Format {
        self.header.format()
    }

    /// What the log declares about itself.
    pub fn header(&self) -> &Header<'a> {
        &self.header
    }

    /// The events after the header, in order.
    pub fn events(&self) -> &[Event<'a>] {
        &self.events
    }

    /// The locality TPM2_Startup came from: the start value of register 0. 0 where the log does not say.
    pub fn startup_locality(&self) -> u8 {
        self.startup_locality
    }

    /// Bytes of padding after the last event.
    pub fn padding(&self) -> usize {
        self.padding
    }
}

/// Whether the rest of the log is filling: all zeros, or all ones. Stops at the first byte that differs.
fn is_padding(rest: &[u8]) -> bool {
    match rest.first() {
        Some(&filling @ (0x00 | 0xFF)) => rest.iter().all(|byte| *byte == filling),
        _ => false,
    }
}

/// The locality, where the event is well formed: register 0, one byte, 0, 3 or (after an H-CRTM) 4.
fn read_startup_locality(event: &Event<'_>) -> Option<u8> {
    match event.data.strip_prefix(STARTUP_LOCALITY)? {
        &[locality @ (0 | 3 | 4)] if event.pcr == 0 => Some(locality),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
