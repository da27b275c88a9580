//! PE/COFF images and their Authenticode digest, as UEFI firmware measures them into register 4.
//!
//! Sources: Microsoft PE format ("Windows Authenticode Portable Executable Signature Format" 1.0, "Calculating the PE
//! Image Hash"); TCG PC Client PFP 1.06, 3.3.4.5 (EV_EFI_BOOT_SERVICES_APPLICATION: the PE/COFF image digest).
//!
//! Left out of the digest: the checksum, the certificate table's directory entry, and the certificate table itself. The
//! rest is hashed header first, then the sections by their place in the file, then what follows them.

use touchstone_verifier::tpm::HashAlg;

use crate::ArtefactError;
use crate::bytes::{array_at, size, u16_at, u32_at};

/// Longest image, in bytes.
pub const MAX_IMAGE: usize = 1 << 30;
/// Most sections: what the Windows loader allows.
pub const MAX_SECTIONS: usize = 96;

/// Start of the DOS header.
const DOS_MAGIC: &[u8] = b"MZ";
/// Where the DOS header names the place of the PE signature.
const PE_POINTER: usize = 0x3C;
const PE_MAGIC: &[u8] = b"PE\0\0";
/// COFF file header, after the signature.
const COFF_HEADER: usize = 20;
const SECTION_HEADER: usize = 40;
/// Within the optional header.
const SIZE_OF_HEADERS: usize = 60;
const CHECKSUM: usize = 64;
/// Index and size of the certificate table's entry in the data directories.
const SECURITY_DIRECTORY: usize = 4;
const DIRECTORY_ENTRY: usize = 8;

/// A parsed image, borrowed from the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image<'a> {
    bytes: &'a [u8],
    sections: Vec<Section<'a>>,
    checksum_at: usize,
    security_at: Option<usize>,
    certificates: usize,
    headers: usize,
}

/// One section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section<'a> {
    /// Its name, up to the first NUL; at most 8 bytes.
    pub name: &'a [u8],
    /// Bytes it has in memory.
    pub virtual_size: usize,
    /// Where its data begins in the file.
    pub offset: usize,
    /// What it has in the file.
    pub data: &'a [u8],
}

fn malformed(what: &'static str, expected: impl ToString, found: impl ToString) -> ArtefactError {
    ArtefactError::malformed(what, expected, found)
}

impl<'a> Image<'a> {
    /// Whether these bytes claim to be an image: nothing else about them is known.
    pub fn is_image(bytes: &[u8]) -> bool {
        u32_at(bytes, PE_POINTER)
            .and_then(|at| bytes.get(size(at)..))
            .is_some_and(|rest| bytes.starts_with(DOS_MAGIC) && rest.starts_with(PE_MAGIC))
    }

    /// Reads headers and section table.
    ///
    /// # Errors
    /// [`ArtefactError`]: no image; sections that overlap, or lie outside the file or within the headers; a certificate
    /// table that is not the end of the file (firmware would hash other bytes than it leaves out).
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ArtefactError> {
        if bytes.len() > MAX_IMAGE {
            return Err(ArtefactError::TooLarge {
                what: "PE image",
                limit: MAX_IMAGE,
            });
        }
        if !bytes.starts_with(DOS_MAGIC) {
            return Err(malformed("PE image", "a DOS header (MZ)", "another"));
        }
        let short = || malformed("PE image", "whole headers", "the end of the file");
        let signature = size(u32_at(bytes, PE_POINTER).ok_or_else(short)?);
        let coff = signature.checked_add(PE_MAGIC.len()).ok_or_else(short)?;
        if bytes.get(signature..coff).ok_or_else(short)? != PE_MAGIC {
            return Err(malformed("PE image", "a PE signature", "another"));
        }
        let count = usize::from(u16_at(bytes, coff + 2).ok_or_else(short)?);
        let optional_len = usize::from(u16_at(bytes, coff + 16).ok_or_else(short)?);
        let optional_at = coff + COFF_HEADER;
        let optional = bytes.get(optional_at..optional_at + optional_len).ok_or_else(short)?;
        // Number of data directories, after which they follow.
        let directories_at = match u16_at(optional, 0) {
            Some(0x010B) => 92,
            Some(0x020B) => 108,
            found => {
                return Err(malformed(
                    "PE image",
                    "PE32 (0x10b) or PE32+ (0x20b)",
                    format!("{found:x?}"),
                ));
            }
        };
        let headers = size(u32_at(optional, SIZE_OF_HEADERS).ok_or_else(short)?);
        let directories = size(u32_at(optional, directories_at).ok_or_else(short)?);
        let table_at = optional_at + optional_len;
        let table_end = table_at + count * SECTION_HEADER;
        if headers > bytes.len() || headers < table_end {
            let expected = format!("headers of {table_end} to {} bytes", bytes.len());
            return Err(malformed("PE image", expected, headers));
        }
        let (mut security_at, mut certificates) = (None, 0);
        if directories > SECURITY_DIRECTORY {
            let at = directories_at + 4 + SECURITY_DIRECTORY * DIRECTORY_ENTRY;
            let (offset, len) = (u32_at(optional, at), u32_at(optional, at + 4));
            let (offset, len) = (size(offset.ok_or_else(short)?), size(len.ok_or_else(short)?));
            if len != 0 && (offset < headers || offset.checked_add(len) != Some(bytes.len())) {
                let expected = "the certificate table at the end of the file";
                return Err(malformed("PE image", expected, format!("{len} bytes at {offset}")));
            }
            security_at = Some(optional_at + at);
            certificates = len;
        }
        if count > MAX_SECTIONS {
            return Err(ArtefactError::TooLarge {
                what: "sections of a PE image",
                limit: MAX_SECTIONS,
            });
        }
        let end = bytes.len() - certificates;
        let table = bytes.get(table_at..table_end).ok_or_else(short)?;
        let sections = table
            .chunks_exact(SECTION_HEADER)
            .map(|header| Section::parse(header, bytes, headers, end))
            .collect::<Result<Vec<_>, _>>()?;
        let image = Self {
            bytes,
            sections,
            checksum_at: optional_at + CHECKSUM,
            security_at,
            certificates,
            headers,
        };
        image.check_overlap()?;
        Ok(image)
    }

    /// The sections in the order of the section table.
    pub fn sections(&self) -> &[Section<'a>] {
        &self.sections
    }

    /// The one section of this name.
    ///
    /// # Errors
    /// [`ArtefactError::Malformed`] if there are two: which of them counts would be a guess.
    pub fn section(&self, name: &str) -> Result<Option<Section<'a>>, ArtefactError> {
        let mut found = self.sections.iter().filter(|section| section.name == name.as_bytes());
        let first = found.next().copied();
        match found.next() {
            Some(_) => Err(malformed("PE image", format!("one section {name}"), "two")),
            None => Ok(first),
        }
    }

    /// Whether it carries signatures. Who made them, and whether they hold, is not looked at.
    pub fn is_signed(&self) -> bool {
        self.certificates != 0
    }

    /// The Authenticode digest: what firmware extends into register 4 when it loads the image.
    ///
    /// Firmware hashes the bytes as they are. (shim pads what follows the sections to eight bytes; signed images are
    /// padded already.)
    pub fn authenticode(&self, algorithm: HashAlg) -> Vec<u8> {
        let mut parts: Vec<&[u8]> = Vec::with_capacity(self.sections.len() + 4);
        let part = |from: usize, to: usize| self.bytes.get(from..to).unwrap_or_default();
        let after_checksum = self.checksum_at + 4;
        parts.push(part(0, self.checksum_at));
        match self.security_at {
            Some(entry) => {
                parts.push(part(after_checksum, entry));
                parts.push(part(entry + DIRECTORY_ENTRY, self.headers));
            }
            None => parts.push(part(after_checksum, self.headers)),
        }
        let mut hashed = self.headers;
        for section in self.in_file_order() {
            hashed += section.data.len();
            parts.push(section.data);
        }
        // Everything behind as many bytes as were hashed, as firmware reckons: gaps between sections are not skipped.
        parts.push(part(hashed, self.bytes.len() - self.certificates));
        algorithm.digest(parts).as_ref().to_vec()
    }

    fn in_file_order(&self) -> Vec<&Section<'a>> {
        let mut sections: Vec<_> = self
            .sections
            .iter()
            .filter(|section| !section.data.is_empty())
            .collect();
        sections.sort_by_key(|section| section.offset);
        sections
    }

    fn check_overlap(&self) -> Result<(), ArtefactError> {
        let sections = self.in_file_order();
        for (one, next) in sections.iter().zip(sections.iter().skip(1)) {
            if one.offset + one.data.len() > next.offset {
                let found = format!("{} over {}", lossy(one.name), lossy(next.name));
                return Err(malformed("PE image", "sections side by side", found));
            }
        }
        Ok(())
    }
}

impl<'a> Section<'a> {
    fn parse(header: &'a [u8], bytes: &'a [u8], headers: usize, end: usize) -> Result<Self, ArtefactError> {
        let short = || malformed("PE image", "a section header", "less");
        let name: &[u8] = header.get(..8).ok_or_else(short)?;
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let [virtual_size, len, offset] = [8, 16, 20].map(|at| u32_at(header, at).map(size));
        let (virtual_size, len) = (virtual_size.ok_or_else(short)?, len.ok_or_else(short)?);
        let offset = offset.ok_or_else(short)?;
        // A section without data in the file (.bss) may name any place.
        let data = if len == 0 {
            &[]
        } else {
            let outside = || {
                let expected = format!("sections within {headers} to {end}");
                malformed(
                    "PE image",
                    expected,
                    format!("{} at {offset}, {len} bytes", lossy(name)),
                )
            };
            let last = offset.checked_add(len).filter(|last| *last <= end && offset >= headers);
            bytes.get(offset..last.ok_or_else(outside)?).ok_or_else(outside)?
        };
        Ok(Self {
            name,
            virtual_size,
            offset,
            data,
        })
    }

    /// The section as it lies in memory: its data up to its size in memory. What is beyond the data is zero there, and
    /// as no tool that makes unified kernel images leaves such an end, it is refused.
    ///
    /// # Errors
    /// [`ArtefactError::Malformed`].
    pub fn in_memory(&self) -> Result<&'a [u8], ArtefactError> {
        self.data.get(..self.virtual_size).ok_or_else(|| {
            let expected = format!("{} bytes of section {}", self.virtual_size, lossy(self.name));
            malformed("PE image", expected, self.data.len())
        })
    }
}

/// The version that shim names at the start of a section (`$Version: 16.1 $`): major and minor.
pub fn shim_version(image: &Image<'_>) -> Option<(u32, u32)> {
    let mut sections = image.sections().iter();
    let text = sections.find_map(|section| section.data.strip_prefix(b"UEFI SHIM\n$Version: "))?;
    let text = std::str::from_utf8(text.split(|byte| *byte == b' ').next()?).ok()?;
    let (major, minor) = text.split_once('.')?;
    let minor: String = minor.chars().take_while(char::is_ascii_digit).collect();
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Whether the image is Linux's EFI stub kernel for x86 (boot protocol header `HdrS`).
pub fn is_linux(bytes: &[u8]) -> bool {
    array_at(bytes, 0x202) == Some(*b"HdrS")
}

fn lossy(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}
