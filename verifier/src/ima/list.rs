//! The list in binary, as the kernel gives it in `binary_runtime_measurements`.
//!
//! A record (Linux, ima_fs.c, ima_measurements_show): register u32, SHA-1 template digest, length and name of the
//! template, then, except for template `ima`, the length of the data, and the fields, each with its length; all numbers
//! little-endian. Template `ima` has the digest without a length and the name without its NUL.

use super::error::{ImaError, MAX_SHOWN, words};
use super::template::{Field, MAX_TEMPLATE_NAME, Template};
use super::{MAX_ENTRIES, MAX_LIST, MAX_PATH};
use crate::corim::FileDigest;
use crate::tpm::HashAlg;

/// Longest data of one entry in bytes: a buffer or signature is far shorter.
pub const MAX_TEMPLATE_DATA: usize = 1 << 20;
/// Length of a template digest in the list.
pub const TEMPLATE_DIGEST: usize = 20;
/// Length to which template `ima` pads a name before hashing it (Linux: IMA_EVENT_NAME_LEN_MAX + 1).
const IMA_NAME: usize = 256;
/// Longest name of a digest algorithm, colons included.
const MAX_ALGORITHM: usize = 32;
/// Longest digest.
const MAX_DIGEST: usize = 64;
/// Register, digest, name length.
const HEADER: usize = 28;
const BOOT_AGGREGATE: &[u8] = b"boot_aggregate";
const KEXEC_CMDLINE: &[u8] = b"kexec-cmdline";

/// A file's digest as an entry states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileHash<'a> {
    /// Name of the algorithm as the kernel spells it; `md5 or sha1` where template `ima` does not say.
    pub algorithm: &'a str,
    /// The digest.
    pub digest: &'a [u8],
    /// Whether it is an fs-verity digest.
    pub verity: bool,
}

/// What an entry is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryKind {
    /// The digest of the boot registers: the first entry of a list.
    BootAggregate,
    /// A file.
    File,
    /// A buffer: a key, a kernel state.
    Buffer,
    /// The command line of a kernel about to be started from the running one.
    KexecCmdline,
    /// A file that was written while it was measured.
    Violation,
}

/// One entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its place in the node's list, from 1.
    pub index: usize,
    /// The register it was extended into. Covered by nothing.
    pub pcr: u32,
    /// SHA-1 of the template data; zeros in a violation.
    pub template_digest: &'a [u8; TEMPLATE_DIGEST],
    /// Its shape.
    pub template: Template,
    /// The fields, as the record has them.
    pub template_data: &'a [u8],
    /// Where the record ends, in bytes from the start of what was read.
    pub end: usize,
    digest: Option<FileHash<'a>>,
    path: &'a [u8],
    signature: Option<&'a [u8]>,
    buffer: Option<&'a [u8]>,
}

impl<'a> Entry<'a> {
    /// The file's (or buffer's) digest, where the template has one.
    pub fn file_digest(&self) -> Option<FileHash<'a>> {
        self.digest
    }

    /// The path, without its final NUL; empty where the template has none. May hold any byte.
    pub fn path(&self) -> &'a [u8] {
        self.path
    }

    /// The path made safe to show.
    pub fn path_words(&self) -> String {
        words(self.path, 2 * MAX_SHOWN)
    }

    /// Whether the path holds a NUL or another control character.
    pub fn path_is_unsafe(&self) -> bool {
        has_control(self.path)
    }

    /// The file's signature, where it has one.
    pub fn signature(&self) -> Option<&'a [u8]> {
        self.signature
    }

    /// The buffer that was measured.
    pub fn buffer(&self) -> Option<&'a [u8]> {
        self.buffer
    }

    /// Whether the kernel could not measure reliably: zeros in the list, all ones in the register.
    pub fn is_violation(&self) -> bool {
        *self.template_digest == [0; TEMPLATE_DIGEST]
    }

    /// What it is about.
    pub fn kind(&self) -> EntryKind {
        if self.is_violation() {
            EntryKind::Violation
        } else if self.buffer.is_some() && self.path == KEXEC_CMDLINE {
            EntryKind::KexecCmdline
        } else if self.buffer.is_some() {
            EntryKind::Buffer
        } else if self.path == BOOT_AGGREGATE {
            EntryKind::BootAggregate
        } else {
            EntryKind::File
        }
    }

    /// The digest of the entry in `bank`: what the kernel extends, except for a violation.
    pub fn hash(&self, bank: HashAlg) -> aws_lc_rs::digest::Digest {
        if self.template != Template::Ima {
            return aws_lc_rs::digest::digest(bank.algorithm(), self.template_data);
        }
        let digest = self.digest.map_or(&[][..], |hash| hash.digest);
        let padding = [0; IMA_NAME];
        let padding = padding.get(self.path.len().min(IMA_NAME)..).unwrap_or_default();
        bank.digest([digest, self.path, padding])
    }
}

pub(super) fn has_control(path: &[u8]) -> bool {
    path.iter().any(|byte| *byte < 0x20 || *byte == 0x7F)
}

/// A list, or its tail, that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImaList<'a> {
    entries: Vec<Entry<'a>>,
    trailing: usize,
}

impl<'a> ImaList<'a> {
    /// Reads a list from its first record. A record cut short at the end is no entry.
    ///
    /// # Errors
    /// [`ImaError`], naming the entry.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ImaError> {
        Self::parse_from(bytes, 0)
    }

    /// Reads records that follow `before` entries.
    ///
    /// # Errors
    /// [`ImaError`], naming the entry.
    pub fn parse_from(bytes: &'a [u8], before: usize) -> Result<Self, ImaError> {
        if bytes.len() > MAX_LIST {
            return Err(ImaError::TooLarge {
                limit: MAX_LIST,
                found: bytes.len(),
            });
        }
        let mut entries = Vec::with_capacity((bytes.len() / 64).min(1 << 14));
        let mut rest = bytes;
        while !rest.is_empty() {
            let index = before + entries.len() + 1;
            let Some((entry, left)) = read_entry(rest, index, bytes.len())? else {
                break;
            };
            if index > MAX_ENTRIES {
                return Err(ImaError::TooManyEntries { limit: MAX_ENTRIES });
            }
            entries.push(entry);
            rest = left;
        }
        Ok(Self {
            entries,
            trailing: rest.len(),
        })
    }

    /// The entries, in order.
    pub fn entries(&self) -> &[Entry<'a>] {
        &self.entries
    }

    /// Bytes after the last whole record.
    pub fn trailing(&self) -> usize {
        self.trailing
    }

    pub(super) fn into_entries(self) -> Vec<Entry<'a>> {
        self.entries
    }
}

/// What a reference made from these entries lists: the distinct files and buffers, with their digests. Left out are the
/// boot aggregate, violations, what has no SHA-2 digest, and names that are unsafe or no text: none of these could make
/// a later entry acceptable.
pub fn reference_files(entries: &[Entry<'_>]) -> Vec<FileDigest> {
    let mut files: Vec<FileDigest> = entries.iter().filter_map(reference_file).collect();
    files.sort_by(|a, b| (&a.path, &a.digest).cmp(&(&b.path, &b.digest)));
    files.dedup();
    files
}

fn reference_file(entry: &Entry<'_>) -> Option<FileDigest> {
    if !matches!(entry.kind(), EntryKind::File | EntryKind::Buffer) || entry.path_is_unsafe() || entry.path.is_empty() {
        return None;
    }
    let hash = entry.file_digest().filter(|_| entry.template.is_ordered())?;
    let algorithm = HashAlg::from_name(hash.algorithm).filter(|algorithm| !algorithm.is_weak())?;
    Some(FileDigest {
        algorithm,
        digest: hash.digest.to_vec(),
        path: std::str::from_utf8(entry.path).ok()?.to_owned(),
    })
}

pub(super) fn take_u32(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<4>()?;
    Some((usize::try_from(u32::from_le_bytes(*number)).ok()?, rest))
}

/// Reads one record; none where it is cut short.
fn read_entry(bytes: &[u8], index: usize, whole: usize) -> Result<Option<(Entry<'_>, &[u8])>, ImaError> {
    if bytes.len() < HEADER {
        return Ok(None);
    }
    let Some((pcr, rest)) = take_u32(bytes) else {
        return Ok(None);
    };
    let Some((template_digest, rest)) = rest.split_first_chunk::<TEMPLATE_DIGEST>() else {
        return Ok(None);
    };
    let Some((name_len, rest)) = take_u32(rest) else {
        return Ok(None);
    };
    let limit = |field, limit, found| {
        if found <= limit {
            return Ok(());
        }
        Err(ImaError::FieldTooLong {
            entry: index,
            field,
            limit,
            found,
        })
    };
    limit("template name", MAX_TEMPLATE_NAME, name_len)?;
    let Some((name, rest)) = rest.split_at_checked(name_len) else {
        return Ok(None);
    };
    let template = Template::from_name(name).ok_or_else(|| ImaError::TemplateUnknown {
        entry: index,
        name: words(name, MAX_SHOWN),
    })?;
    let (data, rest) = if template == Template::Ima {
        let Some((len, _)) = rest.get(TEMPLATE_DIGEST..).and_then(take_u32) else {
            return Ok(None);
        };
        limit("n", IMA_NAME - 1, len)?;
        match rest.split_at_checked(TEMPLATE_DIGEST + 4 + len) {
            Some(split) => split,
            None => return Ok(None),
        }
    } else {
        let Some((len, rest)) = take_u32(rest) else {
            return Ok(None);
        };
        limit("template data", MAX_TEMPLATE_DATA, len)?;
        match rest.split_at_checked(len) {
            Some(split) => split,
            None => return Ok(None),
        }
    };
    let mut entry = Entry {
        index,
        pcr: pcr as u32,
        template_digest,
        template,
        template_data: data,
        end: whole - rest.len(),
        digest: None,
        path: &[],
        signature: None,
        buffer: None,
    };
    if template == Template::Ima {
        let (digest, name) = data.split_at_checked(TEMPLATE_DIGEST).unwrap_or_default();
        entry.digest = Some(unnamed(digest));
        entry.path = name.get(4..).unwrap_or_default();
        return Ok(Some((entry, rest)));
    }
    let mut fields = data;
    for field in template.fields() {
        let malformed = || ImaError::Malformed {
            entry: index,
            field: field.name(),
        };
        let (len, left) = take_u32(fields).ok_or_else(malformed)?;
        let (value, left) = left.split_at_checked(len).ok_or_else(malformed)?;
        entry.take_field(*field, value).ok_or_else(malformed)?;
        fields = left;
    }
    if !fields.is_empty() {
        return Err(ImaError::FieldsLeft {
            entry: index,
            found: fields.len(),
        });
    }
    limit("name", MAX_PATH, entry.path.len())?;
    Ok(Some((entry, rest)))
}

fn unnamed(digest: &[u8]) -> FileHash<'_> {
    FileHash {
        algorithm: "md5 or sha1",
        digest,
        verity: false,
    }
}

impl<'a> Entry<'a> {
    /// Takes up what a field says; none where it does not have its form.
    fn take_field(&mut self, field: Field, value: &'a [u8]) -> Option<()> {
        match field {
            Field::Digest if value.len() == TEMPLATE_DIGEST => self.digest = Some(unnamed(value)),
            Field::Digest => return None,
            Field::DigestNg => self.digest = Some(named(value, false)?),
            Field::DigestNgV2 => self.digest = Some(named(value, true)?),
            Field::Name | Field::NameNg => self.path = value.strip_suffix(&[0])?,
            Field::Sig | Field::EvmSig | Field::Buf if value.is_empty() => {}
            Field::Sig | Field::EvmSig => self.signature = Some(value),
            Field::Buf => self.buffer = Some(value),
            Field::DigestModsig if value.is_empty() => {}
            Field::DigestModsig => {
                named(value, false)?;
            }
            Field::Uid | Field::Gid if value.len() != 4 => return None,
            Field::Mode if value.len() != 2 => return None,
            Field::Uid | Field::Gid | Field::Mode => {}
            Field::Modsig | Field::XattrNames | Field::XattrLengths | Field::XattrValues => {}
        }
        Some(())
    }
}

/// `algorithm:` NUL digest, in the second form with `ima:` or `verity:` before it.
fn named(value: &[u8], typed: bool) -> Option<FileHash<'_>> {
    let end = value.iter().take(MAX_ALGORITHM).position(|byte| *byte == 0)?;
    let (name, rest) = value.split_at_checked(end)?;
    let digest = rest.get(1..).filter(|digest| digest.len() <= MAX_DIGEST)?;
    let name = std::str::from_utf8(name).ok()?.strip_suffix(':')?;
    let (verity, algorithm) = match (typed, name.split_once(':')) {
        (false, None) => (false, name),
        (true, Some(("ima", algorithm))) => (false, algorithm),
        (true, Some(("verity", algorithm))) => (true, algorithm),
        _ => return None,
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if algorithm.is_empty() || !algorithm.bytes().all(plain) {
        return None;
    }
    if HashAlg::from_name(algorithm).is_some_and(|known| known.digest_len() != digest.len()) {
        return None;
    }
    Some(FileHash {
        algorithm,
        digest,
        verity,
    })
}
