//! Why a log could not be read.

use super::Format;
#[cfg(doc)]
use super::{MAX_ALGORITHMS, MAX_EVENT_DATA, MAX_EVENTS, MAX_LOG};

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
    /// The log is of another form than the one asked for.
    #[error("the log is {found}, not {expected}")]
    OtherFormat {
        /// The form asked for.
        expected: Format,
        /// The log's form.
        found: Format,
    },
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
    #[error("the event at offset {offset} names register {found}; registers are 0 to {last}")]
    RegisterOutOfRange {
        /// Where the event begins.
        offset: usize,
        /// The highest register of this form.
        last: u32,
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
