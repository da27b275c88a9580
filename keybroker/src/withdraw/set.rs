//! The set that a withdrawal took, as it is recorded: a part that the statement names by its digest.
//!
//! Version, generation, count, and then the numbers of the entries ([`crate::trust::number`]) in rising order, each as the
//! distance from the one before; all unsigned LEB128, in the shortest form. A set has one encoding, so its digest is one.

use sha2::{Digest as _, Sha256};
use touchstone_authorization::token::StatusIndex;

use crate::trust::{MAX_STATUS_ENTRIES, number, place};

/// The format this release writes.
pub const VERSION: u64 = 1;

/// Why bytes are not a set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SetError {
    /// They end in the middle.
    #[error("the set ends in the middle, at byte {at}")]
    Short {
        /// Where.
        at: usize,
    },
    /// A number that is not in its shortest form, or over 64 bits.
    #[error("the number at byte {at} is not in its shortest form")]
    Number {
        /// Where it begins.
        at: usize,
    },
    /// Another format.
    #[error("the set has format {found}, expected {VERSION}")]
    Version {
        /// The format found.
        found: u64,
    },
    /// Something that no set has.
    #[error("{what} is {found}, expected {expected}")]
    Member {
        /// What.
        what: &'static str,
        /// What was expected.
        expected: String,
        /// What it is.
        found: u64,
    },
    /// More bytes than the set.
    #[error("{found} bytes after the set")]
    Trailing {
        /// How many.
        found: usize,
    },
}

/// A set of entries of one generation, sorted, none twice. Entries of other generations than the first are left out: what
/// is of another generation does not count any more.
#[must_use]
pub fn sorted(entries: impl IntoIterator<Item = StatusIndex>) -> Vec<StatusIndex> {
    let mut entries: Vec<StatusIndex> = entries.into_iter().collect();
    let Some(generation) = entries.iter().map(|entry| entry.generation).max() else {
        return entries;
    };
    entries.retain(|entry| entry.generation == generation);
    entries.sort_unstable_by_key(number);
    entries.dedup();
    entries
}

/// The bytes of a set made by [`sorted`].
#[must_use]
pub fn encode(entries: &[StatusIndex]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 + entries.len().saturating_mul(2));
    put(&mut bytes, VERSION);
    put(&mut bytes, entries.first().map_or(0, |entry| entry.generation.into()));
    put(&mut bytes, entries.len() as u64);
    put_rising(&mut bytes, entries.iter().map(number));
    bytes
}

fn put_rising(bytes: &mut Vec<u8>, numbers: impl Iterator<Item = u64>) {
    let mut before = None;
    for number in numbers {
        put(bytes, before.map_or(number, |before| number.saturating_sub(before)));
        before = Some(number);
    }
}

/// Its SHA-256.
#[must_use]
pub fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// What a command shows and compares ([`crate::command::Plan::digest`]): of a command that takes, the digest of the set. One
/// that gives back names besides what is given back, for a set does not tell two holds over it apart: behind the bytes of
/// the set the count of `given_back`, and its numbers, rising, as those of the set.
#[must_use]
pub fn shown(entries: &[StatusIndex], given_back: &[u64]) -> [u8; 32] {
    let mut bytes = encode(entries);
    if !given_back.is_empty() {
        put(&mut bytes, given_back.len() as u64);
        put_rising(&mut bytes, given_back.iter().copied());
    }
    digest(&bytes)
}

/// Reads a set.
///
/// # Errors
/// [`SetError`]: only what [`encode`] writes is one.
pub fn decode(bytes: &[u8]) -> Result<Vec<StatusIndex>, SetError> {
    let mut rest = Reader { bytes, at: 0 };
    match rest.number()? {
        VERSION => {}
        found => return Err(SetError::Version { found }),
    }
    let member = |what, expected: &str, found| SetError::Member {
        what,
        expected: expected.to_owned(),
        found,
    };
    let generation = rest.number()?;
    let generation = u32::try_from(generation).map_err(|_| member("the generation", "32 bits", generation))?;
    let count = rest.number()?;
    // Each takes a byte at least: what is not there is not made room for.
    let most = rest.left() as u64;
    if count > most || (count == 0 && generation != 0) {
        return Err(member("the count", &format!("1 to {most}"), count));
    }
    let mut entries = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
    let mut before: Option<u64> = None;
    for _ in 0..count {
        let step = rest.number()?;
        let found = match before {
            None => step,
            Some(_) if step == 0 => return Err(member("a distance", "at least 1", 0)),
            Some(before) => before.saturating_add(step),
        };
        let entry = place(found, generation);
        entries.push(entry.ok_or_else(|| member("an entry", &format!("below {MAX_STATUS_ENTRIES}"), found))?);
        before = Some(found);
    }
    match rest.left() {
        0 => Ok(entries),
        found => Err(SetError::Trailing { found }),
    }
}

fn put(bytes: &mut Vec<u8>, mut number: u64) {
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return;
        }
        bytes.push(low | 0x80);
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn left(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    fn number(&mut self) -> Result<u64, SetError> {
        let began = self.at;
        let (mut number, mut shift) = (0u64, 0u32);
        loop {
            let byte = *self.bytes.get(self.at).ok_or(SetError::Short { at: self.at })?;
            self.at += 1;
            let low = u64::from(byte & 0x7f);
            if shift > 63 || (shift == 63 && low > 1) || (byte == 0 && shift > 0) {
                return Err(SetError::Number { at: began });
            }
            number |= low << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
            shift += 7;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(numbers: &[u64]) -> Vec<StatusIndex> {
        sorted(numbers.iter().map(|n| place(*n, 3).unwrap()))
    }

    #[test]
    fn what_is_given_back_is_shown_beside_the_set() {
        let set = of(&[1, 2, 7]);
        assert_eq!(shown(&set, &[]), digest(&encode(&set)), "what is taken is the set");
        let all = [&[][..], &[1], &[2], &[1, 2], &[3], &[u64::MAX]].map(|given_back| shown(&set, given_back));
        let different: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len());
        // Nothing of the one can be taken for a part of the other.
        assert_ne!(shown(&of(&[1, 2]), &[7]), shown(&of(&[1, 2, 7]), &[]));
    }

    proptest! {
        #[test]
        fn sets_come_back_as_written(numbers in proptest::collection::vec(0..MAX_STATUS_ENTRIES, 0..200)) {
            let set = of(&numbers);
            let bytes = encode(&set);
            prop_assert_eq!(decode(&bytes), Ok(set));
            for cut in 0..bytes.len() {
                prop_assert!(decode(&bytes[..cut]).is_err());
            }
        }

        #[test]
        fn whatever_is_read_is_written_the_same(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(set) = decode(&bytes) {
                prop_assert_eq!(encode(&set), bytes);
            }
        }
    }

    #[test]
    fn other_bytes_are_no_set() {
        for (what, bytes) in [
            ("another version", &[2, 0, 0][..]),
            ("a longer form of a number", &[1, 3, 1, 0x85, 0]),
            ("an entry twice", &[1, 3, 2, 5, 0]),
            (
                "an entry that is never dealt out",
                &[1, 3, 1, 0xff, 0xff, 0xff, 0xff, 0x0f],
            ),
            ("a count that is not there", &[1, 3, 0xff, 0xff, 0xff, 0x7f, 1]),
            ("something after it", &[1, 3, 1, 5, 5]),
            ("an empty set with a generation", &[1, 3, 0]),
            (
                "a number of 65 bits",
                &[1, 3, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
            ),
        ] {
            assert!(decode(bytes).is_err(), "{what}");
        }
    }

    #[test]
    fn a_hundred_thousand_neighbours_take_a_byte_each() {
        let set: Vec<_> = (7..100_007).map(|n| place(n, 1).unwrap()).collect();
        assert_eq!(encode(&set).len(), 100_000 + 5);
    }
}
