//! One event of the log: TCG_PCR_EVENT2 (PFP 1.06, 10.2.2), CC_EVENT (UEFI 2.10, 38.2.5), or TCG_PCR_EVENT with its one
//! SHA-1 digest (PFP 1.06, 10.2.1).

use super::bytes::Reader;
use super::header::Algorithms;
use super::{EventType, Format, Header, LogError, MAX_ALGORITHMS, MAX_EVENT_DATA};
use crate::tpm::HashAlg;

/// Marks a bank the event carries no digest for.
const ABSENT: u32 = u32::MAX;

/// One event, borrowed from the log.
///
/// Only the digests take part in a register. The type and the data are commentary unless
/// [`check_data`](Event::check_data) says that the digest covers the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// Position in the log; the first event after the Specification ID event is 1.
    pub index: usize,
    /// The register it was extended into, as the log's form counts them: a TPM's register, or the index of a confidential
    /// VM's measurement register. Above the last only for events that were never extended.
    pub pcr: u32,
    /// How to read the data.
    pub event_type: EventType,
    /// What the event says was measured.
    pub data: &'a [u8],
    format: Format,
    digests: &'a [u8],
    offsets: Offsets,
}

/// Where each bank's digest begins.
type Offsets = [u32; HashAlg::ALL.len()];

impl<'a> Event<'a> {
    /// The digest that was extended into this bank. Firmware and operating systems exist that leave out a declared bank.
    #[inline]
    pub fn digest(&self, bank: HashAlg) -> Option<&'a [u8]> {
        let offset = *self.offsets.get(slot(bank))?;
        if offset == ABSENT {
            return None;
        }
        self.digests.get(offset as usize..)?.get(..bank.digest_len())
    }

    /// Whether a register was extended with it: everything but EV_NO_ACTION. A confidential VM's launch measurement
    /// (index 0) is fixed before the firmware runs, so nothing is extended into it.
    #[inline]
    pub fn is_extended(&self) -> bool {
        self.event_type != EventType::NO_ACTION && (self.format != Format::ConfidentialComputing || self.pcr != 0)
    }

    /// The form of the log it is from.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether it is in the register that holds this TPM register's events.
    #[inline]
    pub fn belongs_to(&self, pcr: u32) -> bool {
        self.format.register_of(pcr) == Some(self.pcr)
    }

    /// Reads the event at `reader`, in the form that `header` declares.
    pub(super) fn parse(reader: &mut Reader<'a>, index: usize, header: &Header<'_>) -> Result<Self, LogError> {
        let offset = reader.offset();
        let format = header.format();
        let pcr = reader.u32()?;
        let event_type = EventType(reader.u32()?);
        if pcr >= format.registers() && event_type != EventType::NO_ACTION {
            return Err(LogError::RegisterOutOfRange {
                offset,
                last: format.registers().saturating_sub(1),
                found: pcr,
            });
        }
        let (digests, offsets) = match format {
            Format::Sha1 => {
                let mut offsets = [ABSENT; HashAlg::ALL.len()];
                if let Some(entry) = offsets.get_mut(slot(HashAlg::Sha1)) {
                    *entry = 0;
                }
                (reader.take(HashAlg::Sha1.digest_len())?, offsets)
            }
            Format::CryptoAgile | Format::ConfidentialComputing => read_digests(reader, offset, header.sizes())?,
        };
        let size = reader.u32()?;
        if size as usize > MAX_EVENT_DATA {
            return Err(LogError::EventTooLarge {
                offset,
                limit: MAX_EVENT_DATA,
                found: size,
            });
        }
        let data = reader.take(size as usize)?;
        Ok(Self {
            index,
            pcr,
            event_type,
            data,
            format,
            digests,
            offsets,
        })
    }
}

/// TPML_DIGEST_VALUES: a count, then algorithm and digest each. Every algorithm must be declared, and none may come twice.
fn read_digests<'a>(
    reader: &mut Reader<'a>,
    offset: usize,
    algorithms: &Algorithms,
) -> Result<(&'a [u8], Offsets), LogError> {
    let count = reader.u32()?;
    if count == 0 || usize::try_from(count).is_ok_and(|count| count > algorithms.len()) {
        return Err(LogError::DigestCount {
            offset,
            declared: algorithms.len(),
            found: count,
        });
    }
    let start = reader.rest();
    let first = reader.offset();
    let mut offsets = [ABSENT; HashAlg::ALL.len()];
    let mut seen = [None; MAX_ALGORITHMS];
    for seen_slot in 0..count as usize {
        let algorithm = reader.u16()?;
        if seen.contains(&Some(algorithm)) {
            return Err(LogError::DigestRepeated { offset, algorithm });
        }
        if let Some(entry) = seen.get_mut(seen_slot) {
            *entry = Some(algorithm);
        }
        let size = algorithms
            .size(algorithm)
            .ok_or(LogError::AlgorithmUndeclared { offset, algorithm })?;
        if let Some(bank) = HashAlg::from_tpm(algorithm)
            && let Some(entry) = offsets.get_mut(slot(bank))
        {
            *entry = (reader.offset() - first) as u32;
        }
        reader.take(size)?;
    }
    Ok((start.get(..reader.offset() - first).unwrap_or_default(), offsets))
}

/// Where a bank's digest position is kept in an event.
#[inline]
fn slot(bank: HashAlg) -> usize {
    match bank {
        HashAlg::Sha1 => 0,
        HashAlg::Sha256 => 1,
        HashAlg::Sha384 => 2,
        HashAlg::Sha512 => 3,
    }
}
