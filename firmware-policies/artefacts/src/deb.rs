//! Debian packages: an `ar` archive with the files in `data.tar`, compressed with gzip, xz or zstd.
//!
//! Source: deb(5), ar(5). The package's own signature or its place in a signed archive is not looked at: the author says
//! which package it is, and signs the reference values.

use std::io::Read;

use tar::EntryType;
use touchstone_verifier::tpm::HashAlg;

use crate::ArtefactError;
use crate::files::{FileList, MAX_FILE};
use crate::inflate::{Capped, Compression, MAX_UNPACKED, unpacking};

/// Longest package, in bytes.
pub const MAX_DEB: usize = 1 << 30;
/// Most members of the outer archive.
pub const MAX_MEMBERS: usize = 16;
/// Most entries of the inner archive.
pub const MAX_ENTRIES: usize = 400_000;

const WHAT: &str = "Debian package";
const AR_MAGIC: &[u8] = b"!<arch>\n";
const AR_HEADER: usize = 60;
const AR_END: &[u8] = b"`\n";

/// The digests of every regular file of a package.
///
/// # Errors
/// [`ArtefactError`]: not a package of format 2, another compression, limits.
pub fn deb_files(bytes: &[u8], algorithm: HashAlg) -> Result<FileList, ArtefactError> {
    if bytes.len() > MAX_DEB {
        return Err(ArtefactError::TooLarge {
            what: WHAT,
            limit: MAX_DEB,
        });
    }
    let members = members(bytes)?;
    match members.first() {
        Some((b"debian-binary", content)) if content.starts_with(b"2.") => (),
        _ => {
            return Err(ArtefactError::malformed(
                WHAT,
                "debian-binary 2.x first",
                "another member",
            ));
        }
    }
    let mut data = members.iter().filter(|(name, _)| name.starts_with(b"data.tar"));
    let (Some((name, data)), None) = (data.next(), data.next()) else {
        return Err(ArtefactError::malformed(WHAT, "one member data.tar", "none or two"));
    };
    if *name == b"data.tar" {
        return tar_files(*data, algorithm);
    }
    let compression = Compression::of(data).ok_or_else(|| {
        let found = Compression::unread(data).unwrap_or("another compression");
        ArtefactError::malformed(WHAT, "data.tar, plain or with gzip, xz or zstd", found)
    })?;
    tar_files(compression.reader(&mut &**data)?, algorithm)
}

/// A member's name and content.
type Member<'a> = (&'a [u8], &'a [u8]);

fn members(bytes: &[u8]) -> Result<Vec<Member<'_>>, ArtefactError> {
    let short = || ArtefactError::malformed(WHAT, "whole members", "the end of the file");
    let mut rest = bytes
        .strip_prefix(AR_MAGIC)
        .ok_or_else(|| ArtefactError::malformed(WHAT, "an ar archive", "another file"))?;
    let mut members = Vec::new();
    while !rest.is_empty() {
        let (header, after) = rest.split_at_checked(AR_HEADER).ok_or_else(short)?;
        if !header.ends_with(AR_END) {
            return Err(ArtefactError::malformed(WHAT, "a member's header", "another"));
        }
        let digits = header.get(48..58).unwrap_or_default().trim_ascii_end();
        let len = std::str::from_utf8(digits)
            .ok()
            .filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
        let len: usize = len
            .and_then(|digits| digits.parse().ok())
            .ok_or_else(|| ArtefactError::malformed(WHAT, "a member's length", "another"))?;
        let (content, after) = after.split_at_checked(len).ok_or_else(short)?;
        let name = header.get(..16).unwrap_or_default().trim_ascii_end();
        members.push((name.strip_suffix(b"/").unwrap_or(name), content));
        // Members begin at even places.
        rest = after.get(len % 2..).unwrap_or_default();
        if members.len() > MAX_MEMBERS {
            return Err(ArtefactError::TooLarge {
                what: "members of a Debian package",
                limit: MAX_MEMBERS,
            });
        }
    }
    Ok(members)
}

/// The digests of every regular file of a tar archive.
fn tar_files(input: impl Read, algorithm: HashAlg) -> Result<FileList, ArtefactError> {
    let mut archive = tar::Archive::new(Capped::new(input, MAX_UNPACKED));
    let mut files = FileList::new(algorithm);
    let entries = archive.entries().map_err(|e| unpacking(WHAT, &e))?;
    for (number, entry) in entries.enumerate() {
        let mut entry = entry.map_err(|e| unpacking(WHAT, &e))?;
        if number >= MAX_ENTRIES {
            return Err(ArtefactError::TooLarge {
                what: "entries of a Debian package",
                limit: MAX_ENTRIES,
            });
        }
        let path = entry.path_bytes().into_owned();
        match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => {
                if entry.size() > MAX_FILE as u64 {
                    return Err(ArtefactError::TooLarge {
                        what: "a file of a Debian package",
                        limit: MAX_FILE,
                    });
                }
                let mut content = Vec::new();
                entry.read_to_end(&mut content).map_err(|e| unpacking(WHAT, &e))?;
                files.add(&path, &content)?;
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                files.link(&path, &target)?;
            }
            // Folders, symbolic links and devices have no content of their own.
            EntryType::Directory | EntryType::Symlink | EntryType::Char | EntryType::Block | EntryType::Fifo => (),
            other => {
                let found = format!("{other:?}");
                return Err(ArtefactError::malformed(WHAT, "files, folders and links", found));
            }
        }
    }
    Ok(files)
}
