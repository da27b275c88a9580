//! Initrds: cpio archives in the `newc` form, compressed or not, several one after the other.
//!
//! Source: Linux Documentation/driver-api/early-userspace/buffer-format.rst. As the kernel does it: archives follow one
//! another with zero bytes between them, each may be compressed, and a later file replaces an earlier one.

use std::collections::BTreeMap;
use std::io::{BufReader, Read};

use touchstone_verifier::tpm::HashAlg;

use crate::ArtefactError;
use crate::files::{FileList, MAX_FILE, MAX_PATH};
use crate::inflate::{Capped, Compression, MAX_UNPACKED, skip_zeros, unpacking};

/// A file under several names: the names so far, and its contents once they came.
type Linked = (Vec<Vec<u8>>, Option<Vec<u8>>);

/// Most archives in one initrd.
pub const MAX_ARCHIVES: usize = 64;
/// Most entries of all archives.
pub const MAX_ENTRIES: usize = 400_000;

const WHAT: &str = "initrd";
/// The two forms of header, without and with a checksum (which nothing is based on).
const MAGICS: [&[u8]; 2] = [b"070701", b"070702"];
const HEADER: usize = 110;
/// Name of the entry that ends an archive.
const TRAILER: &[u8] = b"TRAILER!!!";
/// File type bits of a mode, and those of a regular file.
const TYPE: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;

/// The digests of every regular file of an initrd.
///
/// # Errors
/// [`ArtefactError`]: no archive, another compression, an archive that ends too early, limits.
pub fn initrd_files(bytes: &[u8], algorithm: HashAlg) -> Result<FileList, ArtefactError> {
    let mut files = FileList::new(algorithm);
    let mut rest = bytes;
    let (mut left, mut entries, mut archives) = (MAX_UNPACKED, 0, 0);
    while skip_zeros(&mut rest).map_err(|e| unpacking(WHAT, &e))? {
        archives += 1;
        if archives > MAX_ARCHIVES {
            return Err(ArtefactError::TooLarge {
                what: "archives of an initrd",
                limit: MAX_ARCHIVES,
            });
        }
        if is_cpio(rest) {
            let mut archive = Capped::new(&mut rest, left);
            read_archive(&mut archive, &mut files, &mut entries)?;
            left = archive.left();
        } else if let Some(compression) = Compression::of(rest) {
            let mut archive = BufReader::new(Capped::new(compression.reader(&mut rest)?, left));
            // Up to the stream's own end, which also checks its checksum.
            while skip_zeros(&mut archive).map_err(|e| unpacking(WHAT, &e))? {
                read_archive(&mut archive, &mut files, &mut entries)?;
            }
            left = archive.get_ref().left();
        } else {
            let found = Compression::unread(rest).map_or_else(
                || format!("bytes {:02x?}", rest.get(..6).unwrap_or(rest)),
                |name| format!("{name}, which is not read here"),
            );
            return Err(ArtefactError::malformed(WHAT, "cpio (newc), gzip, xz or zstd", found));
        }
    }
    if archives == 0 {
        return Err(ArtefactError::malformed(WHAT, "an archive", "nothing"));
    }
    Ok(files)
}

fn is_cpio(bytes: &[u8]) -> bool {
    MAGICS.iter().any(|magic| bytes.starts_with(magic))
}

/// One archive up to its trailer.
fn read_archive(input: &mut impl Read, files: &mut FileList, entries: &mut usize) -> Result<(), ArtefactError> {
    // Hard links have one inode; its content comes with one of them, before or after the others.
    let mut linked: BTreeMap<[u32; 3], Linked> = BTreeMap::new();
    loop {
        *entries += 1;
        if *entries > MAX_ENTRIES {
            return Err(ArtefactError::TooLarge {
                what: "entries of an initrd",
                limit: MAX_ENTRIES,
            });
        }
        let header = Header::read(input)?;
        let mut name = take(input, header.name_len)?;
        take(input, padding(HEADER + header.name_len))?;
        if name.pop() != Some(0) || name.contains(&0) {
            return Err(ArtefactError::malformed(WHAT, "names that end in one NUL", "another"));
        }
        if name == TRAILER {
            break;
        }
        let content = take(input, header.len)?;
        take(input, padding(header.len))?;
        if header.mode & TYPE != REGULAR {
            continue;
        }
        if header.links < 2 {
            files.add(&name, &content)?;
            continue;
        }
        let (names, known) = linked.entry(header.inode).or_default();
        names.push(name);
        if !content.is_empty() || known.is_none() {
            *known = Some(content);
        }
    }
    for (names, content) in linked.into_values() {
        for name in names {
            files.add(&name, content.as_deref().unwrap_or_default())?;
        }
    }
    Ok(())
}

struct Header {
    inode: [u32; 3],
    mode: u32,
    links: u32,
    len: usize,
    name_len: usize,
}

impl Header {
    fn read(input: &mut impl Read) -> Result<Self, ArtefactError> {
        let bytes = take(input, HEADER)?;
        if !is_cpio(&bytes) {
            return Err(ArtefactError::malformed(WHAT, "a cpio header (070701)", "another"));
        }
        // Thirteen numbers of eight hexadecimal digits: ino, mode, uid, gid, nlink, mtime, filesize, devmajor,
        // devminor, rdevmajor, rdevminor, namesize, check.
        let number = |index: usize| {
            let digits = bytes.get(6 + index * 8..14 + index * 8).unwrap_or_default();
            let digits = std::str::from_utf8(digits)
                .ok()
                .filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
            let value = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
            value.ok_or_else(|| ArtefactError::malformed(WHAT, "hexadecimal digits in a header", "another"))
        };
        let (len, name_len) = (crate::bytes::size(number(6)?), crate::bytes::size(number(11)?));
        if len > MAX_FILE {
            return Err(ArtefactError::TooLarge {
                what: "a file of an initrd",
                limit: MAX_FILE,
            });
        }
        if name_len > MAX_PATH {
            return Err(ArtefactError::TooLarge {
                what: "a name of an initrd",
                limit: MAX_PATH,
            });
        }
        Ok(Self {
            inode: [number(7)?, number(8)?, number(0)?],
            mode: number(1)?,
            links: number(4)?,
            len,
            name_len,
        })
    }
}

/// Bytes up to the next multiple of four.
const fn padding(len: usize) -> usize {
    len.next_multiple_of(4) - len
}

/// Exactly `len` bytes. Memory grows with what comes, not with what a header claims.
fn take(input: &mut impl Read, len: usize) -> Result<Vec<u8>, ArtefactError> {
    let mut bytes = Vec::new();
    let read = input.take(len as u64).read_to_end(&mut bytes);
    if read.map_err(|e| unpacking(WHAT, &e))? != len {
        let expected = format!("{len} more bytes");
        return Err(ArtefactError::malformed(WHAT, expected, bytes.len()));
    }
    Ok(bytes)
}
