//! Replaying a list: which part of it register 10 vouches for.
//!
//! Since Linux 5.8 each bank is extended with the digest, in that bank's algorithm, of the template data. Older kernels,
//! and banks whose algorithm the kernel did not have when IMA began, are extended with the SHA-1 digest padded with
//! zeros: such a bank is worth no more than SHA-1, and is refused by name.

use std::collections::BTreeMap;

use super::REGISTER;
use super::error::ImaError;
use super::list::{Entry, ImaList};
use super::state::ImaPrefix;
use crate::eventlog::RegisterValue;
use crate::tpm::HashAlg;

/// Longest digest of any bank.
const MAX_DIGEST: usize = 64;

/// What a quote vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed<'a> {
    /// The entries of the tail that belong to the quoted value.
    pub entries: Vec<Entry<'a>>,
    /// Entries after them: not looked at, and to come again in the next round.
    pub ignored: usize,
    /// The whole list's bytes up to the last entry that counts.
    pub bytes: u64,
    /// Register 10 after it, by bank.
    pub values: BTreeMap<HashAlg, Vec<u8>>,
}

/// One bank on its way.
struct Bank<'q> {
    bank: HashAlg,
    value: RegisterValue,
    quoted: &'q [u8],
}

impl Bank<'_> {
    fn agrees(&self) -> bool {
        self.value.as_bytes() == self.quoted
    }
}

/// Finds the longest part of `tail`, from its start, after which every bank holds its quoted value. `prefix` is what was
/// verified before; of it, nothing is hashed again.
///
/// # Errors
/// [`ImaError`]: the tail cannot be read, or no part of it gives the quoted values.
pub fn replay<'a>(prefix: &ImaPrefix, tail: &'a [u8], quoted: &[(HashAlg, &[u8])]) -> Result<Replayed<'a>, ImaError> {
    let before = usize::try_from(prefix.entries).unwrap_or(usize::MAX);
    let list = ImaList::parse_from(tail, before)?;
    let mut banks = start(prefix, quoted)?;
    let mut longest = banks.iter().all(Bank::agrees).then_some(0);
    let mut altered = None;
    for (position, entry) in list.entries().iter().enumerate() {
        if entry.pcr != u32::from(REGISTER) {
            return Err(ImaError::OtherRegister {
                entry: entry.index,
                register: entry.pcr,
            });
        }
        let violation = entry.is_violation();
        let sha1 = (!violation).then(|| entry.hash(HashAlg::Sha1));
        if altered.is_none() && sha1.is_some_and(|sha1| sha1.as_ref() != entry.template_digest) {
            altered = Some(entry.index);
        }
        let mut all = true;
        for bank in &mut banks {
            match (violation, bank.bank, &sha1) {
                (true, ..) => bank.extend(&[0xFF; MAX_DIGEST]),
                (false, HashAlg::Sha1, Some(sha1)) => bank.extend(sha1.as_ref()),
                (false, algorithm, _) => bank.extend(entry.hash(algorithm).as_ref()),
            }
            all &= bank.agrees();
        }
        if all {
            longest = Some(position + 1);
        }
    }
    let Some(count) = longest else {
        return Err(why_not(prefix, list.entries(), quoted, &banks, altered));
    };
    let ignored = list.entries().len() - count;
    let mut entries = list.into_entries();
    entries.truncate(count);
    if let Some(entry) = altered.filter(|entry| *entry <= before + count) {
        return Err(ImaError::EntryDigest { entry });
    }
    let end = entries.last().map_or(0, |entry| entry.end);
    Ok(Replayed {
        ignored,
        bytes: prefix.bytes.saturating_add(end as u64),
        values: quoted.iter().map(|(bank, value)| (*bank, value.to_vec())).collect(),
        entries,
    })
}

/// The registers after the prefix.
fn start<'q>(prefix: &ImaPrefix, quoted: &[(HashAlg, &'q [u8])]) -> Result<Vec<Bank<'q>>, ImaError> {
    if quoted.is_empty() {
        return Err(ImaError::NoBank);
    }
    let bank = |(bank, quoted): &(HashAlg, &'q [u8])| {
        let value = match prefix.values.get(bank) {
            Some(value) => RegisterValue::from_bytes(*bank, value),
            None if prefix.entries == 0 => Some(RegisterValue::initial(*bank, u32::from(REGISTER), 0)),
            None => None,
        };
        Ok(Bank {
            bank: *bank,
            value: value.ok_or(ImaError::BankUnknown { bank: *bank })?,
            quoted,
        })
    };
    quoted.iter().map(bank).collect()
}

impl Bank<'_> {
    /// Extends with the first bytes of `digest`, as many as the bank takes; fewer are padded with zeros.
    fn extend(&mut self, digest: &[u8]) {
        let len = self.bank.digest_len();
        match digest.get(..len) {
            Some(digest) => self.value.extend(self.bank, digest),
            None => {
                let mut padded = [0; MAX_DIGEST];
                padded.iter_mut().zip(digest).for_each(|(to, from)| *to = *from);
                self.value.extend(self.bank, padded.get(..len).unwrap_or_default());
            }
        }
    }
}

/// Names what is wrong: the older form of extending, or the first bank that is not reached.
fn why_not(
    prefix: &ImaPrefix,
    entries: &[Entry<'_>],
    quoted: &[(HashAlg, &[u8])],
    ended: &[Bank<'_>],
    altered: Option<usize>,
) -> ImaError {
    for pair in quoted.iter().filter(|(bank, _)| *bank != HashAlg::Sha1) {
        let Ok(mut banks) = start(prefix, &[*pair]) else {
            continue;
        };
        for bank in &mut banks {
            for entry in entries {
                match entry.is_violation() {
                    true => bank.extend(&[0xFF; MAX_DIGEST]),
                    false => bank.extend(entry.template_digest),
                }
                if bank.agrees() {
                    return ImaError::BankWeak { bank: bank.bank };
                }
            }
        }
    }
    let wrong = ended.iter().find(|bank| !bank.agrees()).or(ended.first());
    wrong.map_or(ImaError::NoBank, |bank| ImaError::DoesNotReplay {
        bank: bank.bank,
        quoted: bank.quoted.to_vec(),
        found: bank.value.as_bytes().to_vec(),
        altered,
    })
}
