//! Lists whose template digests are of another bank than SHA-1 (Linux 6.10: `binary_runtime_measurements_sha256` and the
//! like beside the list of old), made into the one form that travels.
//!
//! A record is the same but for the digest after the register, which is of the bank's hash over the same data.

use super::error::ImaError;
use super::list::{ImaList, TEMPLATE_DIGEST, take_u32};
use super::template::{MAX_TEMPLATE_NAME, Template};
use super::{MAX_ENTRIES, MAX_LIST};
use crate::tpm::HashAlg;

/// Bytes of the register.
const REGISTER: usize = 4;
/// Bytes of the digest in template `ima`, whatever the list's bank.
const IMA_DIGEST: usize = 20;

/// The list with SHA-1 template digests, where its own are of another bank, each of which must be that of its entry's data.
/// Every other list is given back as it is: whether it is one, is for its reader to say. A record cut short at the end is
/// left out.
///
/// # Errors
/// [`ImaError`], naming the entry.
pub fn canonical(list: Vec<u8>) -> Result<Vec<u8>, ImaError> {
    let Some(bank) = bank_of(&list) else {
        return Ok(list);
    };
    if list.len() > MAX_LIST {
        return Err(ImaError::TooLarge {
            limit: MAX_LIST,
            found: list.len(),
        });
    }
    let mut canonical = Vec::with_capacity(list.len());
    let mut rest = list.as_slice();
    let mut entry = 0;
    while let Some(first) = First::of(rest, bank) {
        entry += 1;
        if entry > MAX_ENTRIES {
            return Err(ImaError::TooManyEntries { limit: MAX_ENTRIES });
        }
        let record = [first.register, &[0; TEMPLATE_DIGEST], first.data].concat();
        canonical.extend(confirmed(record, first.digest, bank).ok_or(ImaError::EntryDigest { entry })?);
        rest = first.after;
    }
    Ok(canonical)
}

/// A record with the SHA-1 digest of its data, or with zeros where it is a violation, if `digest` is what `bank` has of it.
/// What stands in the place of the digest is overwritten.
pub(super) fn confirmed(mut record: Vec<u8>, digest: &[u8], bank: HashAlg) -> Option<Vec<u8>> {
    let parsed = ImaList::parse(&record).ok().filter(|parsed| parsed.trailing() == 0)?;
    let [entry] = parsed.entries() else { return None };
    let mut sha1 = [0; TEMPLATE_DIGEST];
    if digest.iter().any(|byte| *byte != 0) {
        if entry.hash(bank).as_ref() != digest {
            return None;
        }
        sha1.copy_from_slice(entry.hash(HashAlg::Sha1).as_ref().get(..TEMPLATE_DIGEST)?);
    }
    record
        .get_mut(REGISTER..REGISTER + TEMPLATE_DIGEST)?
        .copy_from_slice(&sha1);
    Some(record)
}

/// The bank of a list that is not SHA-1's, by its first record: behind the digest stands the name of a template.
fn bank_of(list: &[u8]) -> Option<HashAlg> {
    if ImaList::parse(list).is_ok_and(|parsed| !parsed.entries().is_empty()) {
        return None;
    }
    let banks = HashAlg::ALL
        .into_iter()
        .filter(|bank| bank.digest_len() != TEMPLATE_DIGEST);
    banks.into_iter().find(|bank| {
        let name = First::of(list, *bank).and_then(|first| name_of(first.data));
        name.and_then(|(name, _)| Template::from_name(name)).is_some()
    })
}

/// The first record of a list.
struct First<'a> {
    register: &'a [u8],
    digest: &'a [u8],
    /// The template's name and its data, with their lengths.
    data: &'a [u8],
    /// What is after the record.
    after: &'a [u8],
}

impl<'a> First<'a> {
    /// None where it is cut short.
    fn of(list: &'a [u8], bank: HashAlg) -> Option<Self> {
        let (register, rest) = list.split_at_checked(REGISTER)?;
        let (digest, rest) = rest.split_at_checked(bank.digest_len())?;
        let (name, fields) = name_of(rest)?;
        // Template `ima` has no length of its own: its digest, then the length of the name.
        let before = if name == Template::Ima.name().as_bytes() {
            IMA_DIGEST
        } else {
            0
        };
        let (len, _) = take_u32(fields.get(before..)?)?;
        let end = (rest.len() - fields.len()).checked_add(before + 4)?.checked_add(len)?;
        let (data, after) = rest.split_at_checked(end)?;
        Some(Self {
            register,
            digest,
            data,
            after,
        })
    }
}

/// The template's name, and what is after it.
fn name_of(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = take_u32(data)?;
    if len > MAX_TEMPLATE_NAME {
        return None;
    }
    rest.split_at_checked(len)
}
