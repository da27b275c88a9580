//! Lists and levels of revocation that may be newer than a reference's: UEFI's `dbx`, shim's `SbatLevel`.

use std::collections::BTreeSet;

use super::{EfiVariable, EventType, is_variable, whole_variable};

/// EFI_IMAGE_SECURITY_DATABASE_GUID d719b2cb-3d3a-4596-a3bc-dad00e67656f (UEFI 2.10, 32.6.1), as on the wire.
const IMAGE_SECURITY_DATABASE: [u8; 16] = *b"\xcb\xb2\x19\xd7\x3a\x3d\x96\x45\xa3\xbc\xda\xd0\x0e\x67\x65\x6f";
/// SHIM_LOCK_GUID 605dab50-e046-4300-abb6-3dd810dd8b23, as on the wire.
const SHIM: [u8; 16] = *b"\x50\xab\x5d\x60\x46\xe0\x00\x43\xab\xb6\x3d\xd8\x10\xdd\x8b\x23";
/// EFI_SIGNATURE_LIST before its header: type, three sizes (UEFI 2.10, 32.4.1).
const LIST_HEAD: usize = 28;
/// EFI_SIGNATURE_DATA before its data: the owner.
const OWNER: usize = 16;
/// Digits of the date in an SBAT level: year, month, day and a running number.
/// Most components of an SBAT level that are looked at.
const MAX_SBAT_COMPONENTS: usize = 256;
const DATE: usize = 10;

/// Which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FloorKind {
    /// The list of forbidden images and keys: at least every entry of the reference's.
    Dbx,
    /// Shim's revocation level: at least the reference's date.
    SbatLevel,
}

impl FloorKind {
    /// The variable's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            FloorKind::Dbx => "dbx",
            FloorKind::SbatLevel => "SbatLevel",
        }
    }
}

/// A revocation list or level, as it was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Floor<'a> {
    /// Which one.
    pub kind: FloorKind,
    value: &'a [u8],
}

/// Why it is older than the reference's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FloorFault {
    /// Entries of the reference's list are missing.
    #[error("dbx with {found} entries, {missing} of the reference's {expected} are missing")]
    DbxOlder {
        /// Entries of the reference.
        expected: usize,
        /// Entries found.
        found: usize,
        /// How many of the reference's are not there.
        missing: usize,
    },
    /// An earlier date.
    #[error("SbatLevel of {found}, the reference has {expected}")]
    SbatOlder {
        /// Date of the reference: YYYYMMDDNN.
        expected: u64,
        /// Date found.
        found: u64,
    },
}

impl<'a> Floor<'a> {
    /// Reads the variable that `data` is, if it is one of these two, measured as its kind is, and well formed.
    pub(super) fn read(event_type: EventType, data: &'a [u8]) -> Option<Self> {
        let variable: EfiVariable<'a> = whole_variable(data)?;
        let value = variable.value;
        let kind = match event_type {
            EventType::EFI_VARIABLE_DRIVER_CONFIG if is_variable(&variable, &IMAGE_SECURITY_DATABASE, "dbx") => {
                entries(value).map(|_| FloorKind::Dbx)
            }
            EventType::EFI_VARIABLE_AUTHORITY if is_variable(&variable, &SHIM, "SbatLevel") => {
                sbat_date(value).map(|_| FloorKind::SbatLevel)
            }
            _ => None,
        };
        kind.map(|kind| Self { kind, value })
    }

    /// Whether this is at least `wanted`.
    pub(crate) fn no_older_than(&self, wanted: &Floor<'_>) -> Result<(), FloorFault> {
        if self.value == wanted.value {
            return Ok(());
        }
        match wanted.kind {
            FloorKind::Dbx => {
                let (found, wanted) = (self.entries(), wanted.entries());
                match wanted.difference(&found).count() {
                    0 => Ok(()),
                    missing => Err(FloorFault::DbxOlder {
                        expected: wanted.len(),
                        found: found.len(),
                        missing,
                    }),
                }
            }
            FloorKind::SbatLevel => {
                let date = |floor: &Floor<'_>| sbat_date(floor.value).unwrap_or_default();
                let (found, expected) = (date(self), date(wanted));
                // A later date revokes at least as much only if no component is left out or set back.
                let (mine, theirs) = (sbat_components(self.value), sbat_components(wanted.value));
                let kept = theirs
                    .iter()
                    .all(|(name, least)| mine.iter().any(|(other, found)| other == name && found >= least));
                if found >= expected && kept {
                    Ok(())
                } else {
                    Err(FloorFault::SbatOlder { expected, found })
                }
            }
        }
    }

    fn entries(&self) -> BTreeSet<Entry<'a>> {
        entries(self.value).unwrap_or_default()
    }
}

/// Signature type and data: whoever owns an entry, it forbids the same.
type Entry<'a> = (&'a [u8], &'a [u8]);

/// The entries of a list of EFI_SIGNATURE_LISTs; none unless the lists fill the value exactly.
fn entries(mut rest: &[u8]) -> Option<BTreeSet<Entry<'_>>> {
    let mut entries = BTreeSet::new();
    while !rest.is_empty() {
        let word = |at: usize| Some(u32::from_le_bytes(rest.get(at..at + 4)?.try_into().ok()?) as usize);
        let (kind, size, header, each) = (rest.get(..16)?, word(16)?, word(20)?, word(24)?);
        let (list, after) = rest.split_at_checked(size)?;
        let signatures = list.get(LIST_HEAD.checked_add(header)?..)?;
        if each <= OWNER || signatures.len() % each != 0 {
            return None;
        }
        entries.extend(
            signatures
                .chunks_exact(each)
                .filter_map(|one| Some((kind, one.get(OWNER..)?))),
        );
        rest = after;
    }
    Some(entries)
}

/// The components of an SBAT level and the least generation of each: `shim,4` in the lines after the first. Lines that
/// are no such pair revoke nothing and are left out.
fn sbat_components(value: &[u8]) -> Vec<(&[u8], u64)> {
    let lines = value.split(|byte| *byte == b'\n').skip(1);
    lines
        .filter_map(|line| {
            let mut fields = line.split(|byte| *byte == b',');
            let (name, generation) = (fields.next()?, fields.next()?);
            Some((name, std::str::from_utf8(generation).ok()?.parse().ok()?))
        })
        .take(MAX_SBAT_COMPONENTS)
        .collect()
}

/// The date of an SBAT level: `sbat,1,2025021800` in its first line (shim, SBAT.md).
fn sbat_date(value: &[u8]) -> Option<u64> {
    let line = value.split(|byte| *byte == b'\n').next()?;
    let digits = line.strip_prefix(b"sbat,1,")?;
    if digits.len() != DATE || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}
