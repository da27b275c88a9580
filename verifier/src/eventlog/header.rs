//! The first record of the log: the Specification ID event (PFP 1.06, 10.4.5.1), in the SHA-1 record form.

use super::bytes::Reader;
use super::{EventType, Format, LogError, MAX_ALGORITHMS, REGISTERS};
use crate::tpm::HashAlg;

/// Length of a Specification ID event's signature.
const SIGNATURE_LEN: usize = 16;
/// Signature of a crypto-agile log, and of a confidential VM's.
const SPEC_ID_EVENT03: &[u8; SIGNATURE_LEN] = b"Spec ID Event03\0";
/// Signatures of logs in the SHA-1 form: conventional BIOS, and UEFI.
const SPEC_ID_EVENT_OLD: [&[u8; SIGNATURE_LEN]; 2] = [b"Spec ID Event00\0", b"Spec ID Event02\0"];
/// Length of a SHA-1 record's digest.
const SHA1_LEN: usize = 20;
/// What the log declares about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header<'a> {
    format: Format,
    specification: Option<Specification<'a>>,
    algorithms: Algorithms,
}

/// The body of the Specification ID event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Specification<'a> {
    /// Platform class: 0 client, 1 server.
    pub platform_class: u32,
    /// Version of the profile the firmware follows: major, minor, errata as written. PFP 1.05 and later write 2, 0 and
    /// 105 or more; they are told, never judged.
    pub version: (u8, u8, u8),
    /// Size of a UINTN: 1 for 32 bits, 2 for 64 bits.
    pub uintn_size: u8,
    /// Vendor information, opaque.
    pub vendor_info: &'a [u8],
}

impl<'a> Header<'a> {
    /// The form of the log.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The Specification ID event; logs in the SHA-1 form may come without one.
    pub fn specification(&self) -> Option<&Specification<'a>> {
        self.specification.as_ref()
    }

    /// The declared algorithms as (TPM_ALG_ID, digest size in bytes); SHA-1 for a log in the SHA-1 form.
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

    /// Reads the first record, if it is a Specification ID event, and leaves `reader` at the first event.
    pub(super) fn parse(reader: &mut Reader<'a>, expected: Option<Format>) -> Result<Self, LogError> {
        let start = reader.clone();
        let pcr = reader.u32()?;
        let event_type = EventType(reader.u32()?);
        reader.take(SHA1_LEN)?;
        let size = reader.u32()? as usize;
        if reader.left() < size && !plausible_first_record(pcr, event_type) {
            return Err(LogError::NotAnEventLog);
        }
        let body = reader.take(size)?;
        let base = reader.offset() - size;
        let mut body = Reader::at(body, base);
        let signature = match event_type {
            EventType::NO_ACTION => body.take(SIGNATURE_LEN).unwrap_or_default(),
            _ => &[],
        };
        if signature == SPEC_ID_EVENT03 {
            let format = match (pcr, expected) {
                (0 | 1, Some(Format::ConfidentialComputing)) | (1, None) => Format::ConfidentialComputing,
                (0, _) => Format::CryptoAgile,
                _ => return Err(LogError::NotAnEventLog),
            };
            return Self::crypto_agile(format, body, reader);
        }
        if !plausible_first_record(pcr, event_type) {
            return Err(LogError::NotAnEventLog);
        }
        if let Some(expected) = expected {
            return Err(LogError::OtherFormat {
                expected,
                found: Format::Sha1,
            });
        }
        let specification = if SPEC_ID_EVENT_OLD.iter().any(|old| *old == signature) {
            Some(Specification::old(&mut body)?)
        } else {
            *reader = start;
            None
        };
        Ok(Self {
            format: Format::Sha1,
            specification,
            algorithms: Algorithms::sha1(),
        })
    }

    fn crypto_agile(format: Format, mut body: Reader<'a>, reader: &mut Reader<'a>) -> Result<Self, LogError> {
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
            format,
            specification: Some(Specification {
                platform_class,
                version: (major, minor, errata),
                uintn_size,
                vendor_info,
            }),
            algorithms,
        })
    }
}

impl<'a> Specification<'a> {
    /// TCG_EfiSpecIdEventStruct (TCG EFI Protocol 1.22, 7.4) and the conventional BIOS's, which differ in the last byte
    /// before the vendor information: the size of a UINTN, or reserved.
    fn old(body: &mut Reader<'a>) -> Result<Self, LogError> {
        let platform_class = body.u32()?;
        let (minor, major, errata, uintn_size) = (body.u8()?, body.u8()?, body.u8()?, body.u8()?);
        let vendor_size = usize::from(body.u8()?);
        let found = body.left();
        if found != vendor_size {
            return Err(LogError::VendorInfoSize {
                expected: vendor_size,
                found,
            });
        }
        Ok(Self {
            platform_class,
            version: (major, minor, errata),
            uintn_size,
            vendor_info: body.take(vendor_size)?,
        })
    }
}

/// Whether this may be the first record of a log in the SHA-1 form (TCG EFI Protocol 1.22, TCG PC Client 1.21).
fn plausible_first_record(pcr: u32, event_type: EventType) -> bool {
    pcr < REGISTERS && event_type.name().is_some()
}

/// The declared algorithms, at most [`MAX_ALGORITHMS`], kept in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Algorithms {
    entries: [(u16, u16); MAX_ALGORITHMS],
    count: usize,
}

impl Algorithms {
    /// What a log in the SHA-1 form has.
    fn sha1() -> Self {
        let mut entries = [(0, 0); MAX_ALGORITHMS];
        if let Some(first) = entries.first_mut() {
            *first = (HashAlg::Sha1.tpm_id(), SHA1_LEN as u16);
        }
        Self { entries, count: 1 }
    }

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
        Header::parse(&mut Reader::at(bytes, 0), None)
    }

    #[test]
    fn reads_version_vendor_and_unknown_algorithms() {
        for inside in [true, false] {
            let record = spec_id(&[(0x000B, 32), (0x0012, 32)], b"\xde\xad\xbe\xef", inside);
            let header = parse(&record).unwrap();
            let specification = header.specification().unwrap();
            assert_eq!(specification.version, (2, 0, 106));
            assert_eq!(specification.vendor_info, b"\xde\xad\xbe\xef");
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

    /// The old Specification ID events end with the vendor information, without algorithms.
    fn old_spec_id(signature: &[u8; 16], vendor: &[u8]) -> Vec<u8> {
        let mut body = signature.to_vec();
        body.extend(0u32.to_le_bytes());
        body.extend([2, 1, 2, 2, vendor.len() as u8]);
        body.extend(vendor);
        record(0, EventType::NO_ACTION, &body)
    }

    fn record(pcr: u32, event_type: EventType, body: &[u8]) -> Vec<u8> {
        let mut record = pcr.to_le_bytes().to_vec();
        record.extend(event_type.0.to_le_bytes());
        record.extend([0; SHA1_LEN]);
        record.extend((body.len() as u32).to_le_bytes());
        record.extend(body);
        record
    }

    #[test]
    fn forms_are_told_apart_by_the_first_record() {
        let reader_left = |bytes: &[u8], expected| {
            let mut reader = Reader::at(bytes, 0);
            Header::parse(&mut reader, expected).map(|header| (header.format(), reader.left()))
        };
        let agile = spec_id(&[(0x000C, 48)], b"", true);
        let mut ccel = agile.clone();
        ccel[0] = 1;
        let mut other = agile.clone();
        other[0] = 2;
        let cc = Format::ConfidentialComputing;
        let sha1 = record(0, EventType::S_CRTM_VERSION, b"v1");
        for (what, bytes, expected, format) in [
            ("register 0", &agile, None, Ok((Format::CryptoAgile, 0))),
            ("register 1", &ccel, None, Ok((cc, 0))),
            ("a CCEL by its source", &agile, Some(cc), Ok((cc, 0))),
            ("register 2", &other, None, Err(LogError::NotAnEventLog)),
            (
                "old UEFI",
                &old_spec_id(b"Spec ID Event02\0", b"v"),
                None,
                Ok((Format::Sha1, 0)),
            ),
            (
                "old BIOS",
                &old_spec_id(b"Spec ID Event00\0", b""),
                None,
                Ok((Format::Sha1, 0)),
            ),
            (
                "no header: the record is an event",
                &sha1,
                None,
                Ok((Format::Sha1, sha1.len())),
            ),
            (
                "no CCEL",
                &sha1,
                Some(cc),
                Err(LogError::OtherFormat {
                    expected: cc,
                    found: Format::Sha1,
                }),
            ),
            (
                "an unknown type",
                &record(0, EventType(0x55), b""),
                None,
                Err(LogError::NotAnEventLog),
            ),
            (
                "register 24",
                &record(24, EventType::IPL, b""),
                None,
                Err(LogError::NotAnEventLog),
            ),
            ("no log", &vec![0x7f; 64], None, Err(LogError::NotAnEventLog)),
        ] {
            assert_eq!(reader_left(bytes, expected), format, "{what}");
        }
        assert!(matches!(parse(b"abc").unwrap_err(), LogError::Truncated { .. }));
        let mut long = old_spec_id(b"Spec ID Event02\0", b"vendor");
        long[32 + 24] = 5;
        assert_eq!(
            parse(&long).unwrap_err(),
            LogError::VendorInfoSize { expected: 5, found: 6 }
        );
    }
}
