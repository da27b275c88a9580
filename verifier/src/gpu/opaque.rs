//! NVIDIA's typed fields in a response's opaque data: type u16, length u16, value; little-endian.
//!
//! Source: the field numbers and value forms of NVIDIA's attestation SDK (nv-attestation-sdk-cpp, GPU and switch opaque
//! data parsers), checked against genuine reports of GH100 and LS_10.

use std::collections::{BTreeMap, BTreeSet};

use super::product::Kind;
use super::report::DIGEST_LEN;
use super::version::Version;

/// Newest version of the fields that is read.
pub const MAX_OPAQUE_VERSION: u64 = 1;
/// Most ports or peers a device names.
const MAX_PEERS: usize = 256;

/// Numbers of fields.
mod field {
    pub(super) const DRIVER_VERSION: u16 = 3;
    pub(super) const VBIOS_VERSION: u16 = 6;
    pub(super) const NVDEC0_STATUS: u16 = 11;
    pub(super) const MEASUREMENT_COUNTS: u16 = 12;
    pub(super) const CHIP_SKU: u16 = 15;
    pub(super) const PROJECT: u16 = 17;
    pub(super) const PROJECT_SKU: u16 = 18;
    pub(super) const FWID: u16 = 20;
    pub(super) const PROTECTED_PCIE: u16 = 21;
    /// Of a GPU: the switches it is linked to. Of a switch: itself.
    pub(super) const PDI: u16 = 22;
    pub(super) const SWITCH_LOCK: u16 = 25;
    pub(super) const SWITCH_GPU_PDIS: u16 = 26;
    pub(super) const VERSION: u16 = 34;
    pub(super) const FEATURE_FLAG: u16 = 36;
}

/// Fields with a known meaning or at least a known name.
const KNOWN: [std::ops::RangeInclusive<u16>; 2] = [1..=27, 32..=36];
/// What one-byte fields say for on, and for off.
const ON: u8 = 0xAA;
const OFF: u8 = 0x55;
/// What the lock field of a switch says when it is locked.
const LOCKED: u16 = 1;

/// Why opaque data could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpaqueError {
    /// The bytes end inside a field.
    #[error("the field at offset {offset} is cut short")]
    Truncated {
        /// Where it begins.
        offset: usize,
    },
    /// A type this version does not know: what it says could matter.
    #[error("expected known fields, found type {found}")]
    Unknown {
        /// Its type.
        found: u16,
    },
    /// Twice the same: which one counts?
    #[error("expected each field once, found type {found} twice")]
    Twice {
        /// Its type.
        found: u16,
    },
    /// A later version of the fields.
    #[error("expected fields of version {MAX_OPAQUE_VERSION} at most, found {found}")]
    Version {
        /// Its version.
        found: u64,
    },
    /// A field whose value has another form.
    #[error("field {field}: expected {expected}")]
    Value {
        /// Its name.
        field: &'static str,
        /// What it must be.
        expected: &'static str,
    },
}

/// The fields by type, not yet read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opaque<'a>(BTreeMap<u16, &'a [u8]>);

impl<'a> Opaque<'a> {
    /// Splits the fields, which fill `bytes` exactly.
    ///
    /// # Errors
    /// [`OpaqueError`] for what is cut short, unknown, twice or of a later version.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, OpaqueError> {
        let (mut rest, mut fields) = (bytes, BTreeMap::new());
        while !rest.is_empty() {
            let truncated = OpaqueError::Truncated {
                offset: bytes.len() - rest.len(),
            };
            let [t0, t1, l0, l1, after @ ..] = rest else {
                return Err(truncated);
            };
            let (found, len) = (u16::from_le_bytes([*t0, *t1]), u16::from_le_bytes([*l0, *l1]));
            let (value, after) = after.split_at_checked(usize::from(len)).ok_or(truncated)?;
            if !KNOWN.iter().any(|known| known.contains(&found)) {
                return Err(OpaqueError::Unknown { found });
            }
            if fields.insert(found, value).is_some() {
                return Err(OpaqueError::Twice { found });
            }
            rest = after;
        }
        let opaque = Self(fields);
        match opaque.0.get(&field::VERSION).map(|value| number(value)) {
            None => Ok(opaque),
            Some(Some(found)) if found <= MAX_OPAQUE_VERSION => Ok(opaque),
            Some(Some(found)) => Err(OpaqueError::Version { found }),
            Some(None) => Err(wrong("OPAQUE_DATA_VERSION", "a number of 1 to 8 bytes")),
        }
    }

    /// Types and values, ascending.
    pub fn fields(&self) -> impl Iterator<Item = (u16, &'a [u8])> {
        self.0.iter().map(|(kind, value)| (*kind, *value))
    }

    fn get(&self, field: u16) -> Option<&'a [u8]> {
        self.0.get(&field).copied()
    }
}

/// In which way a GPU is set up to work on secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// One GPU of a confidential VM.
    Single,
    /// Several GPUs of a confidential VM.
    Multiple,
    /// Protected PCIe: several GPUs and the switches between them; what goes over NVLink is not encrypted.
    ProtectedPcie,
    /// The driver does not say (before version 1 of the fields); protected PCIe is off.
    Unstated,
}

impl Mode {
    /// Every mode.
    pub const ALL: [Mode; 4] = [Mode::Single, Mode::Multiple, Mode::ProtectedPcie, Mode::Unstated];

    /// Its name in claims and references: `spt`, `mpt`, `ppcie` (NVIDIA's), `unstated`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Mode::Single => "spt",
            Mode::Multiple => "mpt",
            Mode::ProtectedPcie => "ppcie",
            Mode::Unstated => "unstated",
        }
    }

    /// The mode of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.as_str() == name)
    }
}

/// What the fields say about a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Details {
    /// The driver that set a GPU up; a switch has none.
    pub driver: Option<Version>,
    /// The firmware's version.
    pub vbios: Version,
    /// The mode of a GPU; of a switch [`Mode::Unstated`].
    pub mode: Mode,
    /// Whether the first video decoder is on, where that is said.
    pub nvdec0: Option<bool>,
    /// Identity of the firmware that holds the attestation key, where it is said.
    pub fwid: Option<[u8; DIGEST_LEN]>,
    /// Board: project, project SKU, chip SKU, as far as they are said.
    pub board: [Option<String>; 3],
    /// Whether a switch is locked against reconfiguration, where that is said.
    pub locked: Option<bool>,
    /// The device's own number on the NVLink fabric, where it is said: a switch's.
    pub own_pdi: Option<[u8; 8]>,
    /// Numbers of the devices it is linked to: of a GPU its switches, of a switch its GPUs.
    pub peer_pdis: BTreeSet<[u8; 8]>,
}

impl Details {
    /// Reads the fields of a device of this kind.
    ///
    /// # Errors
    /// [`OpaqueError::Value`].
    pub fn read(opaque: &Opaque<'_>, kind: Kind) -> Result<Self, OpaqueError> {
        let driver = opaque.get(field::DRIVER_VERSION).map(|value| {
            let version = text(value).and_then(|text| Version::driver(&text));
            version.ok_or(wrong("DRIVER_VERSION", "decimal numbers with dots between"))
        });
        let vbios = opaque.get(field::VBIOS_VERSION).and_then(|value| match kind {
            Kind::Gpu => gpu_vbios(value),
            Kind::Switch => text(value).and_then(|text| Version::vbios(&text)),
        });
        let board = |field, name| {
            let value = opaque.get(field).map(text);
            value
                .map(|text| text.ok_or(wrong(name, "ASCII text padded with zeros")))
                .transpose()
        };
        let switch = |field, name| match opaque.get(field) {
            None => Ok(None),
            Some([ON]) => Ok(Some(true)),
            Some([OFF]) => Ok(Some(false)),
            Some(_) => Err(wrong(name, "0xAA or 0x55")),
        };
        if opaque
            .get(field::MEASUREMENT_COUNTS)
            .is_some_and(|counts| counts.len() % 4 != 0)
        {
            return Err(wrong("MSRSCNT", "numbers of 4 bytes"));
        }
        let own_pdi = match (kind, opaque.get(field::PDI)) {
            (Kind::Switch, Some(value)) => Some(value.try_into().map_err(|_| wrong("DEVICE_PDI", "8 bytes"))?),
            _ => None,
        };
        let peer_pdis = match kind {
            // A GPU has the numbers of its switches in the other byte order.
            Kind::Gpu => pdis(opaque.get(field::PDI))?.into_iter().map(reversed).collect(),
            Kind::Switch => {
                // Eight numbers, then which of them is at which of the ports.
                let value = opaque.get(field::SWITCH_GPU_PDIS);
                pdis(value.map(|value| value.get(..64).unwrap_or(value)))?
            }
        };
        let locked = opaque.get(field::SWITCH_LOCK).map(|value| {
            let value: [u8; 2] = value.try_into().map_err(|_| wrong("SWITCH_LOCK_STATUS", "2 bytes"))?;
            Ok(u16::from_le_bytes(value) == LOCKED)
        });
        let fwid = opaque.get(field::FWID);
        Ok(Self {
            driver: driver.transpose()?,
            vbios: vbios.ok_or(wrong("VBIOS_VERSION", "a version of this kind of device"))?,
            mode: mode(
                opaque.get(field::FEATURE_FLAG),
                switch(field::PROTECTED_PCIE, "PROTECTED_PCIE_STATUS")?,
            )?,
            nvdec0: switch(field::NVDEC0_STATUS, "NVDEC0_STATUS")?,
            fwid: fwid
                .map(|value| value.try_into().map_err(|_| wrong("FWID", "48 bytes")))
                .transpose()?,
            board: [
                board(field::PROJECT, "PROJECT")?,
                board(field::PROJECT_SKU, "PROJECT_SKU")?,
                board(field::CHIP_SKU, "CHIP_SKU")?,
            ],
            locked: locked.transpose()?,
            own_pdi,
            peer_pdis,
        })
    }
}

fn wrong(field: &'static str, expected: &'static str) -> OpaqueError {
    OpaqueError::Value { field, expected }
}

/// Feature flag and protected-PCIe status must not contradict each other.
fn mode(flag: Option<&[u8]>, protected_pcie: Option<bool>) -> Result<Mode, OpaqueError> {
    let flag = match flag {
        None => None,
        Some(value) => Some(number(value).ok_or(wrong("FEATURE_FLAG", "a number of 1 to 8 bytes"))?),
    };
    match (flag, protected_pcie) {
        (None, None | Some(false)) => Ok(Mode::Unstated),
        (None | Some(2), Some(true)) | (Some(2), None) => Ok(Mode::ProtectedPcie),
        (Some(0), None | Some(false)) => Ok(Mode::Single),
        (Some(1), None | Some(false)) => Ok(Mode::Multiple),
        _ => Err(wrong("FEATURE_FLAG", "0 to 2, in agreement with PROTECTED_PCIE_STATUS")),
    }
}

/// A little-endian number of 1 to 8 bytes.
fn number(value: &[u8]) -> Option<u64> {
    (1..=8).contains(&value.len()).then(|| {
        value
            .iter()
            .rev()
            .fold(0, |number, byte| number << 8 | u64::from(*byte))
    })
}

/// Printable ASCII before any padding of zeros.
fn text(value: &[u8]) -> Option<String> {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    let (text, padding) = value.split_at_checked(end)?;
    let plain = text.iter().all(|byte| (b' '..=b'~').contains(byte)) && padding.iter().all(|byte| *byte == 0);
    plain.then(|| text.iter().map(|byte| char::from(*byte)).collect())
}

/// A GPU's VBIOS version in 8 bytes: four of the version in reverse order, then its last one, then zeros.
fn gpu_vbios(value: &[u8]) -> Option<Version> {
    let [d, c, b, a, e, 0, 0, 0] = value else {
        return None;
    };
    Version::vbios(&format!("{a:02X}.{b:02X}.{c:02X}.{d:02X}.{e:02X}"))
}

fn pdis(value: Option<&[u8]>) -> Result<BTreeSet<[u8; 8]>, OpaqueError> {
    let (numbers, rest) = value.unwrap_or_default().as_chunks::<8>();
    if !rest.is_empty() || numbers.len() > MAX_PEERS {
        return Err(wrong("PDI", "at most 256 numbers of 8 bytes"));
    }
    Ok(numbers.iter().copied().collect())
}

fn reversed(mut pdi: [u8; 8]) -> [u8; 8] {
    pdi.reverse();
    pdi
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(fields: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (kind, value) in fields {
            bytes.extend(kind.to_le_bytes());
            bytes.extend((value.len() as u16).to_le_bytes());
            bytes.extend_from_slice(value);
        }
        bytes
    }

    fn read(extra: &[(u16, &[u8])]) -> Result<Details, OpaqueError> {
        let mut all: Vec<(u16, &[u8])> = vec![(6, &[0, 0x9F, 0, 0x96, 1, 0, 0, 0])];
        all.extend(extra);
        let bytes = fields(&all);
        Details::read(&Opaque::parse(&bytes)?, Kind::Gpu)
    }

    /// Feature flag, protected-PCIe status, mode.
    type ModeRow = (Option<&'static [u8]>, Option<u8>, Option<Mode>);

    #[test]
    fn modes_agree_or_are_refused() {
        let rows: [ModeRow; 13] = [
            (None, None, Some(Mode::Unstated)),
            (None, Some(0x55), Some(Mode::Unstated)),
            (None, Some(0xAA), Some(Mode::ProtectedPcie)),
            (Some(&[0, 0]), Some(0x55), Some(Mode::Single)),
            (Some(&[1, 0]), Some(0x55), Some(Mode::Multiple)),
            (Some(&[2, 0]), Some(0xAA), Some(Mode::ProtectedPcie)),
            (Some(&[2, 0]), None, Some(Mode::ProtectedPcie)),
            (Some(&[2, 0]), Some(0x55), None),
            (Some(&[0, 0]), Some(0xAA), None),
            (Some(&[3, 0]), None, None),
            (Some(&[0, 1]), None, None),
            (Some(&[]), None, None),
            (None, Some(0x00), None),
        ];
        for (flag, pcie, expected) in rows {
            let pcie = pcie.map(|status| [status]);
            let mut extra: Vec<(u16, &[u8])> = Vec::new();
            extra.extend(flag.map(|flag| (36, flag)));
            extra.extend(pcie.as_ref().map(|status| (21, status.as_slice())));
            assert_eq!(
                read(&extra).ok().map(|details| details.mode),
                expected,
                "{flag:?} {pcie:?}"
            );
        }
    }

    #[test]
    fn unknown_repeated_and_later_fields_are_refused() {
        for (extra, error) in [
            (&[(28, &[][..])][..], OpaqueError::Unknown { found: 28 }),
            (&[(0, &[])], OpaqueError::Unknown { found: 0 }),
            (&[(37, &[])], OpaqueError::Unknown { found: 37 }),
            (&[(6, &[])], OpaqueError::Twice { found: 6 }),
            (&[(34, &[2, 0])], OpaqueError::Version { found: 2 }),
            (&[(34, &[0, 0, 1])], OpaqueError::Version { found: 0x10000 }),
        ] {
            assert_eq!(read(extra), Err(error));
        }
        assert!(read(&[(34, &[1, 0])]).is_ok());
        assert!(read(&[(34, &[])]).is_err());
    }

    #[test]
    fn values_of_another_form_are_refused() {
        for extra in [
            (3, &b"550.90.07x\0"[..]),
            (3, b"550\x0090"),
            (3, b"\0"),
            (11, &[0]),
            (11, &[0x55, 0x55]),
            (12, &[0; 5]),
            (17, &[0xFF]),
            (20, &[0; 47]),
            (22, &[0; 9]),
            (25, &[1]),
        ] {
            assert!(matches!(read(&[extra]), Err(OpaqueError::Value { .. })), "{extra:?}");
        }
        let vbios = [(6, &[0, 0x9F, 0, 0x96, 1, 0, 0, 1][..])];
        let bytes = fields(&vbios);
        assert!(Details::read(&Opaque::parse(&bytes).unwrap(), Kind::Gpu).is_err());
        assert_eq!(read(&[]).unwrap().vbios.as_str(), "96.00.9F.00.01");
    }
}
