//! The first record of the log: the Specification ID event (PFP 1.06, 10.4.5.1), in the SHA-1 record form.

use super::{LogError, MAX_ALGORITHMS, bytes::Reader};
use crate::tpm::HashAlg;

/// Signature of a crypto-agile log.
const SPEC_ID_EVENT03: &[u8; 16] = b"Spec ID Event03\0";
/// Length of a SHA-1 record's digest.
const SHA1_LEN: usize = 20;
/// The `pcrIndex` of the first record is always 0 in a crypto-agile log, and below this in a SHA-1 log.
const REGISTERS: u32 = 24;

/// What the Specification ID event declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header<'a> {
    /// Platform class: 0 client, 1 server.
    pub platform_class: u32,
    /// Version of the profile the firmware follows: major, minor, errata as written. PFP 1.05 and later write 2, 0 and
    /// 105 or more; they are told, never judged.
    pub version: (u8, u8, u8),
    /// Size of a UINTN: 1 for 32 bits, 2 for 64 bits.
    pub uintn_size: u8,
    /// Vendor information, opaque.
    pub vendor_info: &'a [u8],
    algorithms: Algorithms,
}

impl<'a> Header<'a> {
    /// The declared algorithms as (TPM_ALG_ID, digest size in bytes).
    pub fn algorithms(&self) -> impl Iterator<Item = (u16, u16)> + '_ {
        self.algorithms.iter()
    }

    /// Whether the log declares this bank.
    pub fn has_bank(&self, bank: HashAlg) -> bool {
        self.algorithms.size(bank.tpm_id()).is_some()
    }

    pub(super) fn sizes(&self) -> &Algorithms {
        &self.algorithms
    }

    /// Reads the first record and leaves `reader` at the second.
    pub(super) fn parse(reader: &mut Reader<'a>) -> Result<Self, LogError> {
        let pcr = reader.u32()?;
        let event_type = reader.u32()?;
        reader.take(SHA1_LEN)?;
        let size = reader.u32()? as usize;
        if reader.left() < size && !plausible_sha1_record(pcr, event_type) {
            return Err(LogError::NotAnEventLog);
        }
        let body = reader.take(size)?;
        if pcr != 0 || event_type != super::EventType::NO_ACTION.0 || !body.starts_with(SPEC_ID_EVENT03) {
            return Err(if plausible_sha1_record(pcr, event_type) {
                LogError::Sha1Only
            } else {
                LogError::NotAnEventLog
            });
        }
        let base = reader.offset() - size;
        let mut body = Reader::at(body, base);
        body.take(SPEC_ID_EVENT03.len())?;
        let platform_class = body.u32()?;
        let (minor, major, errata, uintn_size) = (body.u8()?, body.u8()?, body.u8()?, body.u8()?);
        let algorithms = Algorithms::parse(&mut body)?;
        let vendor_size = usize::from(body.u8()?);
        // Some firmware leaves the vendor information out of the record's size, so that it follows the record.
        let vendor_info = match body.left() {
            0 => reader.take(vendor_size)?,
            left if left == vendor_size => body.take(vendor_size)?,
            left => {
                return Err(LogError::VendorInfoSize {
                    expected: vendor_size,
                    found: left,
                });
            }
        };
        Ok(Self {
            platform_class,
            version: (major, minor, errata),
            uintn_size,
            vendor_info,
            algorithms,
        })
    }
}

/// Whether this may be the first record of a log in the SHA-1 form (TCG EFI Protocol 1.22, TCG PC Client 1.21).
fn plausible_sha1_record(pcr: u32, event_type: u32) -> bool {
    pcr < REGISTERS && super::EventType(event_type).name().is_some()
}

/// The declared algorithms, at most [`MAX_ALGORITHMS`], kept in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Algorithms {
    entries: [(u16, u16); MAX_ALGORITHMS],
    count: usize,
}

impl Algorithms {
    fn parse(body: &mut Reader<'_>) -> Result<Self, LogError> {
        let found = body.u32()?;
        let count = usize::try_from(found).unwrap_or(usize::MAX);
        if count == 0 || count > MAX_ALGORITHMS {
            return Err(LogError::AlgorithmCount {
                limit: MAX_ALGORITHMS,
                found,
            });
        }
        let mut algorithms = Self {
            entries: [(0, 0); MAX_ALGORITHMS],
            count: 0,
        };
        for entry in algorithms.entries.iter_mut().take(count) {
            *entry = (body.u16()?, body.u16()?);
        }
        for (position, (id, size)) in algorithms.entries.iter().copied().enumerate().take(count) {
            if algorithms.size(id).is_some() {
                return Err(LogError::AlgorithmRepeated { algorithm: id });
            }
            if let Some(known) = HashAlg::from_tpm(id)
                && known.digest_len() != usize::from(size)
            {
                return Err(LogError::AlgorithmSize {
                    algorithm: id,
                    expected: known.digest_len(),
                    found: size,
                });
            }
            algorithms.count = position + 1;
        }
        Ok(algorithms)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u16, u16)> + '_ {
        self.entries.iter().copied().take(self.count)
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// The digest size declared for an algorithm.
    pub(super) fn size(&self, id: u16) -> Option<usize> {
        self.iter()
            .find(|(declared, _)| *declared == id)
            .map(|(_, size)| usize::from(size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A first record that declares `algorithms`, with `vendor` inside or after the record.
    fn spec_id(algorithms: &[(u16, u16)], vendor: &[u8], vendor_inside: bool) -> Vec<u8> {
        let mut body = SPEC_ID_EVENT03.to_vec();
        body.extend(1u32.to_le_bytes());
        body.extend([0, 2, 106, 2]);
        body.extend((algorithms.len() as u32).to_le_bytes());
        for (id, size) in algorithms {
            body.extend(id.to_le_bytes());
            body.extend(size.to_le_bytes());
        }
        body.push(vendor.len() as u8);
        let mut size = body.len();
        body.extend(vendor);
        if vendor_inside {
            size = body.len();
        }
        let mut record = 0u32.to_le_bytes().to_vec();
        record.extend(3u32.to_le_bytes());
        record.extend([0; SHA1_LEN]);
        record.extend((size as u32).to_le_bytes());
        record.extend(body);
        record
    }

    fn parse(bytes: &[u8]) -> Result<Header<'_>, LogError> {
        Header::parse(&mut Reader::at(bytes, 0))
    }

    #[test]
    fn reads_version_vendor_and_unknown_algorithms() {
        for inside in [true, false] {
            let record = spec_id(&[(0x000B, 32), (0x0012, 32)], b"\xde\xad\xbe\xef", inside);
            let header = parse(&record).unwrap();
            assert_eq!(header.version, (2, 0, 106));
            assert_eq!(header.vendor_info, b"\xde\xad\xbe\xef");
            assert_eq!(header.algorithms().collect::<Vec<_>>(), [(0x000B, 32), (0x0012, 32)]);
            assert!(header.has_bank(HashAlg::Sha256) && !header.has_bank(HashAlg::Sha1));
        }
    }

    #[test]
    fn odd_declarations_are_refused() {
        let cases: [(&[(u16, u16)], LogError); 4] = [
            (
                &[],
                LogError::AlgorithmCount {
                    limit: MAX_ALGORITHMS,
                    found: 0,
                },
            ),
            (
                &[(0x000B, 32); 9],
                LogError::AlgorithmCount {
                    limit: MAX_ALGORITHMS,
                    found: 9,
                },
            ),
            (
                &[(0x000B, 32), (0x000B, 32)],
                LogError::AlgorithmRepeated { algorithm: 0x000B },
            ),
            (
                &[(0x000B, 31)],
                LogError::AlgorithmSize {
                    algorithm: 0x000B,
                    expected: 32,
                    found: 31,
                },
            ),
        ];
        for (algorithms, error) in cases {
            assert_eq!(parse(&spec_id(algorithms, b"", true)).unwrap_err(), error);
        }
    }

    #[test]
    fn sha1_logs_and_other_files_are_told_apart() {
        let mut sha1 = spec_id(&[(4, 20)], b"", true);
        sha1[32 + 14] = b'2';
        assert_eq!(parse(&sha1).unwrap_err(), LogError::Sha1Only);
        assert_eq!(parse(&[0x7f; 64]).unwrap_err(), LogError::NotAnEventLog);
        assert!(matches!(parse(b"abc").unwrap_err(), LogError::Truncated { .. }));
    }
}
