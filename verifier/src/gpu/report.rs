//! The exchange itself, read in place: GET_MEASUREMENTS request and MEASUREMENTS response (DMTF DSP0274 1.1.0, 10.11),
//! little-endian.

use super::opaque::{Opaque, OpaqueError};

/// Length of the request, in bytes: header 4, nonce 32, slot 1.
pub const REQUEST_LEN: usize = 37;
/// Length of a nonce, in bytes.
pub const NONCE_LEN: usize = 32;
/// Length of the signature, in bytes: r ‖ s of P-384.
pub const SIGNATURE_LEN: usize = 96;
/// Length of a measurement, in bytes: SHA-384.
pub const DIGEST_LEN: usize = 48;
/// Longest report, in bytes. One of 64 blocks and every field has 5 KB.
pub const MAX_REPORT: usize = 64 * 1024;

/// SPDM 1.1.
const VERSION: u8 = 0x11;
const GET_MEASUREMENTS: u8 = 0xE0;
const MEASUREMENTS: u8 = 0x60;
/// Request attribute: sign the response.
const SIGNED: u8 = 1;
/// Measurement operation: all of them.
const ALL: u8 = 0xFF;
/// Highest number of a certificate slot.
const MAX_SLOT: u8 = 7;
/// Measurement specification: DMTF.
const DMTF: u8 = 1;
/// Bit of DMTFSpecMeasurementValueType: raw bits instead of a digest.
const RAW: u8 = 0x80;

/// Why bytes are not a report. Offsets are in bytes from the start of the request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// Longer than any report.
    #[error("expected at most {MAX_REPORT} bytes, found {found}")]
    TooLong {
        /// Bytes given.
        found: usize,
    },
    /// The bytes end inside a field.
    #[error("{field} at offset {offset} is cut short")]
    Truncated {
        /// The field, as DSP0274 names it.
        field: &'static str,
        /// Where it begins.
        offset: usize,
    },
    /// A field with another value than a signed exchange of SPDM 1.1 over all measurements has.
    #[error("{field} at offset {offset}: expected {expected}, found {found}")]
    Value {
        /// The field, as DSP0274 names it.
        field: &'static str,
        /// Where it begins.
        offset: usize,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: usize,
    },
    /// Bytes behind the signature.
    #[error("expected the end after the signature, found {found} more bytes")]
    Trailing {
        /// How many.
        found: usize,
    },
    /// NVIDIA's fields.
    #[error("opaque data: {0}")]
    Opaque(#[from] OpaqueError),
}

/// One measurement block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measurement<'a> {
    /// Its number: 1 to 254.
    pub index: u8,
    /// DMTFSpecMeasurementValueType: 0 immutable ROM, 1 mutable firmware, 2 hardware configuration, 3 firmware
    /// configuration; others may follow.
    pub kind: u8,
    /// Its digest (SHA-384); zeros where nothing was measured.
    pub digest: &'a [u8; DIGEST_LEN],
}

/// A report that is well formed. Whether it is true is said by [`super::VerifiedGpu`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuReport<'a> {
    signed: &'a [u8],
    signature: &'a [u8; SIGNATURE_LEN],
    nonce: &'a [u8; NONCE_LEN],
    device_nonce: &'a [u8; NONCE_LEN],
    measurements: Vec<Measurement<'a>>,
    opaque: Opaque<'a>,
}

impl<'a> GpuReport<'a> {
    /// Reads request and response, which fill `bytes` exactly.
    ///
    /// # Errors
    /// [`ReportError`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ReportError> {
        if bytes.len() > MAX_REPORT {
            return Err(ReportError::TooLong { found: bytes.len() });
        }
        let mut cursor = Cursor { bytes, offset: 0 };
        cursor.expect("request SPDMVersion", VERSION, "0x11 (SPDM 1.1)")?;
        cursor.expect("request code", GET_MEASUREMENTS, "0xE0 (GET_MEASUREMENTS)")?;
        cursor.expect("request Param1", SIGNED, "1 (a signature)")?;
        cursor.expect("request Param2", ALL, "0xFF (all measurements)")?;
        let nonce = cursor.array::<NONCE_LEN>("request Nonce")?;
        let slot = cursor.u8("SlotIDParam")?;
        if slot > MAX_SLOT {
            return Err(cursor.wrong("SlotIDParam", 1, "0 to 7", usize::from(slot)));
        }
        cursor.expect("response SPDMVersion", VERSION, "0x11 (SPDM 1.1)")?;
        cursor.expect("response code", MEASUREMENTS, "0x60 (MEASUREMENTS)")?;
        cursor.expect("response Param1", 0, "0")?;
        cursor.expect("response Param2", slot, "the slot of the request")?;
        let blocks = cursor.u8("NumberOfBlocks")?;
        let [low, middle, high] = *cursor.array::<3>("MeasurementRecordLength")?;
        let length = usize::try_from(u32::from_le_bytes([low, middle, high, 0])).unwrap_or(usize::MAX);
        let measurements = cursor.measurements(blocks, length)?;
        let device_nonce = cursor.array::<NONCE_LEN>("response Nonce")?;
        let length = cursor.u16("OpaqueLength")?;
        let opaque = Opaque::parse(cursor.take("OpaqueData", length)?)?;
        let signed = bytes.get(..cursor.offset).unwrap_or_default();
        let signature = cursor.array::<SIGNATURE_LEN>("Signature")?;
        match bytes.len() - cursor.offset {
            0 => Ok(Self {
                signed,
                signature,
                nonce,
                device_nonce,
                measurements,
                opaque,
            }),
            found => Err(ReportError::Trailing { found }),
        }
    }

    /// What is signed: request and response up to the signature.
    pub fn signed(&self) -> &'a [u8] {
        self.signed
    }

    /// The signature, r ‖ s.
    pub fn signature(&self) -> &'a [u8; SIGNATURE_LEN] {
        self.signature
    }

    /// The challenge in the request.
    pub fn nonce(&self) -> &'a [u8; NONCE_LEN] {
        self.nonce
    }

    /// The nonce the device added.
    pub fn device_nonce(&self) -> &'a [u8; NONCE_LEN] {
        self.device_nonce
    }

    /// The measurements, ascending by index, each index once.
    pub fn measurements(&self) -> &[Measurement<'a>] {
        &self.measurements
    }

    /// NVIDIA's fields.
    pub fn opaque(&self) -> &Opaque<'a> {
        &self.opaque
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, field: &'static str, len: usize) -> Result<&'a [u8], ReportError> {
        let offset = self.offset;
        let end = offset.checked_add(len);
        let taken = end.and_then(|end| self.bytes.get(offset..end));
        let taken = taken.ok_or(ReportError::Truncated { field, offset })?;
        self.offset += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<&'a [u8; N], ReportError> {
        let offset = self.offset;
        let bytes = self.take(field, N)?;
        bytes.try_into().map_err(|_| ReportError::Truncated { field, offset })
    }

    fn u8(&mut self, field: &'static str) -> Result<u8, ReportError> {
        let [byte] = *self.array::<1>(field)?;
        Ok(byte)
    }

    fn u16(&mut self, field: &'static str) -> Result<usize, ReportError> {
        Ok(usize::from(u16::from_le_bytes(*self.array::<2>(field)?)))
    }

    /// The refusal of a field of `len` bytes that was just read.
    fn wrong(&self, field: &'static str, len: usize, expected: &'static str, found: usize) -> ReportError {
        ReportError::Value {
            field,
            offset: self.offset.saturating_sub(len),
            expected,
            found,
        }
    }

    fn expect(&mut self, field: &'static str, value: u8, expected: &'static str) -> Result<(), ReportError> {
        match self.u8(field)? {
            found if found == value => Ok(()),
            found => Err(self.wrong(field, 1, expected, usize::from(found))),
        }
    }

    /// `count` measurement blocks that fill `length` bytes exactly (DSP0274 1.1.0, tables 43 and 44).
    fn measurements(&mut self, count: u8, length: usize) -> Result<Vec<Measurement<'a>>, ReportError> {
        let end = self.offset.saturating_add(length);
        if count == 0 {
            return Err(self.wrong("NumberOfBlocks", 4, "at least one", 0));
        }
        let mut blocks: Vec<Measurement<'a>> = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            let index = self.u8("measurement Index")?;
            let after_last = blocks.last().is_none_or(|last| last.index < index);
            if index == 0 || index == u8::MAX || !after_last {
                return Err(self.wrong("measurement Index", 1, "1 to 254, ascending", usize::from(index)));
            }
            self.expect("MeasurementSpecification", DMTF, "1 (DMTF)")?;
            let size = self.u16("MeasurementSize")?;
            if size != 3 + DIGEST_LEN {
                return Err(self.wrong("MeasurementSize", 2, "51", size));
            }
            let kind = self.u8("DMTFSpecMeasurementValueType")?;
            if kind & RAW != 0 {
                let expected = "a digest, no raw bits";
                return Err(self.wrong("DMTFSpecMeasurementValueType", 1, expected, usize::from(kind)));
            }
            let size = self.u16("DMTFSpecMeasurementValueSize")?;
            if size != DIGEST_LEN {
                return Err(self.wrong("DMTFSpecMeasurementValueSize", 2, "48", size));
            }
            let digest = self.array::<DIGEST_LEN>("DMTFSpecMeasurementValue")?;
            blocks.push(Measurement { index, kind, digest });
        }
        if self.offset != end {
            let field = "MeasurementRecordLength";
            return Err(self.wrong(field, 0, "the length of the blocks", length));
        }
        Ok(blocks)
    }
}
