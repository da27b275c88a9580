//! What an OVMF image says about its launch: a table of GUIDs at its end, and SEV metadata that the table points to.
//!
//! Source: OVMF's `ResetVector/Ia16/ResetVectorVtf0.asm` and `X64/OvmfSevMetadata.asm` (edk2); little-endian.

use std::collections::BTreeMap;

use super::PAGE;
use super::hashes::{PADDED_LEN, guid};
use crate::bytes::{array_at, size, u16_at, u32_at};
use crate::error::ArtefactError;

/// Largest image read, in bytes: flash of 16 MiB.
pub const MAX_IMAGE: usize = 16 << 20;
/// Most sections in the metadata.
pub const MAX_SECTIONS: u32 = 64;
/// Most pages of all sections together: 64 MiB.
pub const MAX_SECTION_PAGES: usize = 1 << 14;

/// How far the table's end is from the image's: behind it is the reset vector.
const FOOTER_FROM_END: usize = 32;
/// Length of an entry without data: length 2, GUID 16.
const ENTRY_LEN: usize = 18;
const FOOTER: [u8; 16] = guid(0x96B5_82DE, 0x1FB2, 0x45F7, 0xBAEA_A366_C55A_082D);
const HASH_TABLE: [u8; 16] = guid(0x7255_371F, 0x3A3B, 0x4B04, 0x927B_1DA6_EFA8_D454);
const RESET_BLOCK: [u8; 16] = guid(0x00F7_71DE, 0x1A7E, 0x4FCB, 0x890E_68C7_7E2F_B44E);
const METADATA: [u8; 16] = guid(0xDC88_6566, 0x984A, 0x4798, 0xA75E_5585_A7BF_67CC);
/// The metadata's header: signature, length, version, number of sections.
const HEADER_LEN: usize = 16;
/// A section: address, length, type.
const SECTION_LEN: usize = 12;

const WHAT: &str = "OVMF image";

/// What a section of memory is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SectionType {
    /// Memory that the firmware needs before it can accept any itself.
    SecMemory,
    /// The page into which AMD's firmware puts the guest's secrets.
    Secrets,
    /// The page of CPUID values.
    Cpuid,
    /// The calling area of an SVSM.
    SvsmCaa,
    /// The page of hashes of the kernel.
    KernelHashes,
}

/// A section of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section {
    /// What it is for.
    pub kind: SectionType,
    /// Where it begins.
    pub address: u64,
    /// How many pages it has.
    pub pages: usize,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ovmf<'a> {
    address: u64,
    table: BTreeMap<[u8; 16], &'a [u8]>,
    sections: Vec<Section>,
}

impl<'a> Ovmf<'a> {
    /// Reads an image.
    ///
    /// # Errors
    /// [`ArtefactError`]: no whole pages, no table, no SEV metadata (the usual builds with 4 MB have none), sections of an
    /// unknown type.
    pub fn parse(image: &'a [u8]) -> Result<Self, ArtefactError> {
        if image.len() > MAX_IMAGE {
            return Err(ArtefactError::TooLarge {
                what: WHAT,
                limit: MAX_IMAGE,
            });
        }
        if image.is_empty() || !image.len().is_multiple_of(PAGE) {
            let found = format!("{} bytes", image.len());
            return Err(ArtefactError::malformed(WHAT, "whole pages of 4096 bytes", found));
        }
        let table = table(image)?;
        let sections = sections(image, &table)?;
        // Flash ends at 4 GiB.
        let address = (1u64 << 32) - image.len() as u64;
        Ok(Self {
            address,
            table,
            sections,
        })
    }

    /// Where the image lies.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// The sections, in the order of the metadata.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// Where processors but the first begin.
    ///
    /// # Errors
    /// [`ArtefactError::NotComputable`] where the image does not say.
    pub fn reset_vector(&self) -> Result<u32, ArtefactError> {
        let vector = self.table.get(&RESET_BLOCK).and_then(|block| u32_at(block, 0));
        vector.filter(|vector| *vector != 0).ok_or_else(|| {
            ArtefactError::not_computable(
                WHAT,
                "it does not say where further processors begin (SEV-ES reset block)",
            )
        })
    }

    /// Where in the page of `section` the table of hashes begins.
    ///
    /// # Errors
    /// [`ArtefactError`] where the image names no place, or one outside the section.
    pub(super) fn hash_table(&self, section: &Section) -> Result<usize, ArtefactError> {
        let place = self.table.get(&HASH_TABLE).and_then(|entry| u32_at(entry, 0));
        let offset = place.and_then(|place| u64::from(place).checked_sub(section.address));
        let offset = offset.and_then(|offset| usize::try_from(offset).ok());
        offset
            .filter(|offset| section.pages == 1 && *offset <= PAGE - PADDED_LEN)
            .ok_or_else(|| {
                let found = place.map_or("none".into(), |place| format!("{place:#x}"));
                let expected = format!("the table of hashes in the page at {:#x}", section.address);
                ArtefactError::malformed(WHAT, expected, found)
            })
    }
}

/// The entries of the table by GUID. It is read backwards: each entry ends with its length and GUID.
fn table(image: &[u8]) -> Result<BTreeMap<[u8; 16], &[u8]>, ArtefactError> {
    let wrong = |expected: &str, found: String| ArtefactError::malformed(WHAT, expected, found);
    let footer = image.len().saturating_sub(FOOTER_FROM_END + ENTRY_LEN);
    let (len, found) = (u16_at(image, footer), array_at::<16>(image, footer + 2));
    if found != Some(FOOTER) {
        let found = found.map_or("nothing".into(), |found| format!("{found:02x?}"));
        return Err(wrong("a table of GUIDs at its end", found));
    }
    let len = usize::from(len.unwrap_or_default());
    let rest = len.checked_sub(ENTRY_LEN).and_then(|len| footer.checked_sub(len));
    let mut rest = rest
        .and_then(|start| image.get(start..footer))
        .ok_or_else(|| wrong("a table within the image", format!("{len} bytes")))?;
    let mut table = BTreeMap::new();
    while !rest.is_empty() {
        let head = rest.len().checked_sub(ENTRY_LEN);
        let entry = head.and_then(|head| {
            let len = usize::from(u16_at(rest, head)?);
            let start = rest.len().checked_sub(len)?;
            Some((start, array_at::<16>(rest, head + 2)?, rest.get(start..head)?))
        });
        let (start, guid, data) = entry.ok_or_else(|| wrong("entries that fill the table", "another length".into()))?;
        if table.insert(guid, data).is_some() {
            return Err(wrong("each entry of the table once", format!("{guid:02x?} twice")));
        }
        rest = rest.get(..start).unwrap_or_default();
    }
    Ok(table)
}

fn sections(image: &[u8], table: &BTreeMap<[u8; 16], &[u8]>) -> Result<Vec<Section>, ArtefactError> {
    let Some(entry) = table.get(&METADATA) else {
        return Err(ArtefactError::not_computable(
            WHAT,
            "it has no SEV metadata, so it can not be launched as an SEV-SNP guest: use a build for it (Debian's OVMF.fd)",
        ));
    };
    let wrong = |expected: &str, found: String| ArtefactError::malformed("SEV metadata", expected, found);
    let start = u32_at(entry, 0).and_then(|from_end| image.len().checked_sub(size(from_end)));
    let start = start.ok_or_else(|| wrong("a place in the image", format!("{entry:02x?}")))?;
    let header = (
        array_at::<4>(image, start),
        u32_at(image, start + 4),
        u32_at(image, start + 8),
        u32_at(image, start + 12),
    );
    let (Some(signature), Some(len), Some(version), Some(count)) = header else {
        return Err(wrong("a header", "the end of the image".into()));
    };
    if signature != *b"ASEV" || version != 1 {
        return Err(wrong(
            "ASEV of version 1",
            format!("{signature:02x?} of version {version}"),
        ));
    }
    if count > MAX_SECTIONS || size(len) != HEADER_LEN + size(count) * SECTION_LEN {
        return Err(wrong(
            "at most 64 sections that fill it",
            format!("{count} in {len} bytes"),
        ));
    }
    let (mut sections, mut pages) = (Vec::new(), 0);
    for index in 0..size(count) {
        let at = start + HEADER_LEN + index * SECTION_LEN;
        let fields = (u32_at(image, at), u32_at(image, at + 4), u32_at(image, at + 8));
        let (Some(address), Some(len), Some(kind)) = fields else {
            return Err(wrong("sections within the image", format!("section {index} cut short")));
        };
        let kind = match kind {
            1 => SectionType::SecMemory,
            2 => SectionType::Secrets,
            3 => SectionType::Cpuid,
            4 => SectionType::SvsmCaa,
            0x10 => SectionType::KernelHashes,
            other => return Err(wrong("sections of type 1 to 4 or 16", format!("type {other}"))),
        };
        let whole = size(address).is_multiple_of(PAGE) && size(len).is_multiple_of(PAGE) && len != 0;
        let single = kind == SectionType::SecMemory || size(len) == PAGE;
        if !whole || !single {
            return Err(wrong(
                "whole pages, and one for anything but memory",
                format!("{len:#x} bytes at {address:#x}"),
            ));
        }
        pages += size(len) / PAGE;
        if pages > MAX_SECTION_PAGES {
            return Err(ArtefactError::TooLarge {
                what: "pages of SEV metadata",
                limit: MAX_SECTION_PAGES,
            });
        }
        sections.push(Section {
            kind,
            address: u64::from(address),
            pages: size(len) / PAGE,
        });
    }
    Ok(sections)
}
