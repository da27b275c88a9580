//! The firmware event log: what the firmware and the boot loader say they measured, and into which register.
//!
//! Source: TCG PC Client Platform Firmware Profile (PFP) 1.06, 10; TCG EFI Protocol. Only crypto-agile logs are judged;
//! logs in the SHA-1 form are recognised and refused.
//!
//! A log proves nothing by itself. [`EventLog::match_prefix`] compares it with quoted register values; what matched is
//! then as trustworthy as the quote, but only its *digests*: an event's type and text are commentary, unless
//! [`Event::check_data`] shows that the digest covers the text. Nothing here copies the log.

mod bytes;
mod check;
mod describe;
mod efi;
mod event;
mod event_type;
mod header;
mod replay;

pub use check::{DataCheck, SeparatorDigests};
pub use describe::{MAX_DESCRIPTION, TextKind};
pub use efi::EfiVariable;
pub use event::Event;
pub use event_type::EventType;
pub use header::Header;
pub use replay::{PrefixError, PrefixMatch, RegisterValue, Replay, ReplayError};

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

/// Smallest record, in bytes: the events' memory is reserved by it. (4 + 4 + 4, one SHA-1 digest, 4.)
const MIN_RECORD: usize = 38;
/// Body of the EV_NO_ACTION event that tells from which locality the TPM was started (PFP 1.06, 10.4.5.3).
const STARTUP_LOCALITY: &[u8; 16] = b"StartupLocality\0";

/// Why a log could not be read. Offsets are in bytes from the start of the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The log is longer than [`MAX_LOG`].
    #[error("the log has {found} bytes, more than the limit of {limit}")]
    TooLarge {
        /// The limit.
        limit: usize,
        /// The log's length.
        found: usize,
    },
    /// The log ends inside a record.
    #[error("the log ends at offset {offset}: {needed} bytes were needed, {left} are left")]
    Truncated {
        /// Where the read began.
        offset: usize,
        /// Bytes needed there.
        needed: usize,
        /// Bytes left there.
        left: usize,
    },
    /// The first record belongs to no kind of TCG event log.
    #[error("this is not a TCG event log")]
    NotAnEventLog,
    /// A log in the old form with SHA-1 digests only.
    #[error("the log is in the SHA-1 form, not crypto-agile")]
    Sha1Only,
    /// No algorithms, or more than [`MAX_ALGORITHMS`].
    #[error("the log declares {found} algorithms; 1 to {limit} are read")]
    AlgorithmCount {
        /// The limit.
        limit: usize,
        /// The declared number.
        found: u32,
    },
    /// The header declares an algorithm twice.
    #[error("the log declares algorithm {algorithm:#06x} twice")]
    AlgorithmRepeated {
        /// TPM_ALG_ID.
        algorithm: u16,
    },
    /// The header declares a known algorithm with another digest size.
    #[error("the log declares {found} bytes for algorithm {algorithm:#06x}, which has {expected}")]
    AlgorithmSize {
        /// TPM_ALG_ID.
        algorithm: u16,
        /// The real size.
        expected: usize,
        /// The declared size.
        found: u16,
    },
    /// The vendor information neither fits into the header record nor follows it.
    #[error("the header declares {expected} bytes of vendor information and has room for {found}")]
    VendorInfoSize {
        /// The declared size.
        expected: usize,
        /// What is left in the record.
        found: usize,
    },
    /// More than [`MAX_EVENTS`] events.
    #[error("the log has more than {limit} events")]
    TooManyEvents {
        /// The limit.
        limit: usize,
    },
    /// An event's data is longer than [`MAX_EVENT_DATA`].
    #[error("the event at offset {offset} has {found} bytes of data, more than the limit of {limit}")]
    EventTooLarge {
        /// Where the event begins.
        offset: usize,
        /// The limit.
        limit: usize,
        /// The declared length.
        found: u32,
    },
    /// An extended event names a register that does not exist.
    #[error("the event at offset {offset} names register {found}; registers are 0 to 23")]
    RegisterOutOfRange {
        /// Where the event begins.
        offset: usize,
        /// The register named.
        found: u32,
    },
    /// An event has no digest, or more than there are algorithms.
    #[error("the event at offset {offset} has {found} digests; 1 to {declared} are declared")]
    DigestCount {
        /// Where the event begins.
        offset: usize,
        /// Algorithms the header declares.
        declared: usize,
        /// Digests of the event.
        found: u32,
    },
    /// An event has two digests of one algorithm.
    #[error("the event at offset {offset} has two digests of algorithm {algorithm:#06x}")]
    DigestRepeated {
        /// Where the event begins.
        offset: usize,
        /// TPM_ALG_ID.
        algorithm: u16,
    },
    /// An event has a digest of an algorithm the header does not declare, so that its size is not known.
    #[error("the event at offset {offset} uses algorithm {algorithm:#06x}, which the log does not declare")]
    AlgorithmUndeclared {
        /// Where the event begins.
        offset: usize,
        /// TPM_ALG_ID.
        algorithm: u16,
    },
    /// A StartupLocality event of another shape, register or locality than 0, 3 or 4.
    #[error("the StartupLocality event at offset {offset} is malformed")]
    StartupLocalityInvalid {
        /// Where the event begins.
        offset: usize,
    },
    /// A second StartupLocality event.
    #[error("a second StartupLocality event at offset {offset}")]
    StartupLocalityRepeated {
        /// Where the event begins.
        offset: usize,
    },
    /// A StartupLocality event after register 0 was extended.
    #[error("the StartupLocality event at offset {offset} comes after register 0 was extended")]
    StartupLocalityLate {
        /// Where the event begins.
        offset: usize,
    },
}

/// A log that was read whole. It is well formed; whether it is true only a quote can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventLog<'a> {
    header: Header<'a>,
    events: Vec<Event<'a>>,
    startup_locality: u8,
    padding: usize,
}

impl<'a> EventLog<'a> {
    /// Reads a crypto-agile log.
    ///
    /// After the last event only padding may follow: bytes that are all zero, or all 0xFF (firmware hands over its whole
    /// log area; an event cannot look like that, for it needs a digest).
    ///
    /// # Errors
    /// [`LogError`], with the offset, for anything that is not such a log.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, LogError> {
        if bytes.len() > MAX_LOG {
            return Err(LogError::TooLarge {
                limit: MAX_LOG,
                found: bytes.len(),
            });
        }
        let mut reader = Reader::at(bytes, 0);
        let header = Header::parse(&mut reader)?;
        let mut events = Vec::with_capacity((bytes.len() / (2 * MIN_RECORD)).clamp(16, 1024));
        let mut startup_locality = None;
        let mut register_0_extended = false;
        while reader.left() > 0 && !is_padding(reader.rest()) {
            if events.len() == MAX_EVENTS {
                return Err(LogError::TooManyEvents { limit: MAX_EVENTS });
            }
            let offset = reader.offset();
            let event = Event::parse(&mut reader, events.len() + 1, header.sizes())?;
            if event.is_extended() {
                register_0_extended |= event.pcr == 0;
            } else if event.data.starts_with(STARTUP_LOCALITY) {
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
