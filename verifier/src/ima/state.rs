//! What is kept of a list between rounds: the verified prefix, and the distinct entries that were accepted.
//!
//! Both are explicit inputs of an appraisal, named by digest, in deterministic CBOR (RFC 8949 4.2.1): the same list
//! under the same rules gives the same bytes on every replica.

use std::collections::BTreeMap;

use touchstone_cose::cbor::{self, CborError, Limits, MapReader, ShapeError, Value};

use super::{MAX_ENTRIES, MAX_EXCLUSIONS, MAX_LIST, MAX_PATH};
use crate::tpm::HashAlg;

/// Most chunks of seen entries a prefix names: 2 KB of digests. Beyond it the entries are put into one chunk again.
pub const MAX_CHUNKS: usize = 64;
/// Longest encoded [`ImaPrefix`] in bytes.
pub const MAX_PREFIX: usize = 64 << 10;
/// Longest encoded chunk in bytes: a list's distinct entries, each with a few bytes of framing.
const MAX_CHUNK: usize = 2 * MAX_LIST;
/// Longest name of an exclusion.
const MAX_EXCLUSION: usize = MAX_PATH;
/// Longest name of a digest algorithm.
const MAX_ALGORITHM: usize = 32;
/// Longest digest (SHA-512).
const MAX_DIGEST: usize = 64;
const FORMAT: u64 = 1;

const PREFIX_LIMITS: Limits = Limits {
    max_bytes: MAX_PREFIX,
    max_depth: 4,
    max_items: 1024,
};
const CHUNK_LIMITS: Limits = Limits {
    max_bytes: MAX_CHUNK,
    max_depth: 4,
    max_items: 8 * MAX_ENTRIES + 8,
};

/// Why stored bytes are not such a state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// Not deterministic CBOR.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// CBOR of another shape.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// A format this version does not know.
    #[error("expected format {FORMAT}, found {found}")]
    Format {
        /// The format found.
        found: u64,
    },
    /// A member's value cannot be.
    #[error("{member}: expected {expected}, found {found}")]
    Invalid {
        /// Which member.
        member: &'static str,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
}

/// What the list's first record says about the boot: a digest over the boot registers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootAggregate {
    /// Name of the digest algorithm, as the kernel spells it.
    pub algorithm: String,
    /// The digest.
    pub digest: Vec<u8>,
}

/// The part of a node's list that was verified and accepted. Default: nothing yet.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImaPrefix {
    /// Entries in it.
    pub entries: u64,
    /// Their bytes: where the next round's list begins.
    pub bytes: u64,
    /// Register 10 after it, by judged bank.
    pub values: BTreeMap<HashAlg, Vec<u8>>,
    /// Violations in it.
    pub violations: u64,
    /// How many entries each exclusion was used for, by the exclusion's text.
    pub excluded: BTreeMap<String, u64>,
    /// What its first record says about the boot.
    pub boot_aggregate: Option<BootAggregate>,
    /// Whether an entry of it belongs to starting another kernel.
    pub kexec: bool,
    /// Under which rules and reference files its entries were accepted.
    pub judged_under: [u8; 32],
    /// SHA-256 of the chunks of its distinct entries, in the order of the rounds they came in.
    pub seen: Vec<[u8; 32]>,
}

impl ImaPrefix {
    /// Deterministic CBOR.
    pub fn encode(&self) -> Vec<u8> {
        let values = self
            .values
            .iter()
            .map(|(bank, value)| (i64::from(bank.tpm_id()), Value::bytes(value.as_slice())));
        let excluded = self
            .excluded
            .iter()
            .map(|(rule, count)| (rule.as_str(), Value::Unsigned(*count)));
        let aggregate = self.boot_aggregate.as_ref().map_or(Value::Null, |aggregate| {
            Value::array([
                Value::text(aggregate.algorithm.as_str()),
                Value::bytes(aggregate.digest.as_slice()),
            ])
        });
        cbor::encode(&Value::map([
            (0, Value::Unsigned(FORMAT)),
            (1, Value::Unsigned(self.entries)),
            (2, Value::Unsigned(self.bytes)),
            (3, Value::map(values)),
            (4, Value::Unsigned(self.violations)),
            (5, Value::text_map(excluded)),
            (6, aggregate),
            (7, Value::Bool(self.kexec)),
            (8, Value::from(self.judged_under)),
            (9, Value::array(self.seen.iter().map(|digest| Value::from(*digest)))),
        ]))
    }

    /// Reads an encoded prefix.
    ///
    /// # Errors
    /// [`StateError`]: not one, or one whose numbers cannot be.
    pub fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        const CONTEXT: &str = "IMA prefix";
        let mut reader = MapReader::new(cbor::decode(bytes, PREFIX_LIMITS)?, CONTEXT)?;
        let found = reader.u64(0)?;
        if found != FORMAT {
            return Err(StateError::Format { found });
        }
        let prefix = Self {
            entries: bounded(reader.u64(1)?, MAX_ENTRIES, "entries")?,
            bytes: bounded(reader.u64(2)?, MAX_LIST, "bytes")?,
            values: read_values(&reader.required(3)?)?,
            violations: bounded(reader.u64(4)?, MAX_ENTRIES, "violations")?,
            excluded: read_excluded(&reader.required(5)?)?,
            boot_aggregate: read_aggregate(&reader.required(6)?)?,
            kexec: reader.bool(7)?,
            judged_under: reader.fixed(8)?,
            seen: reader
                .array(9)?
                .iter()
                .map(|digest| {
                    let digest = digest.as_bytes().and_then(|bytes| bytes.try_into().ok());
                    digest.ok_or_else(|| invalid("seen", "digests of 32 bytes", "another"))
                })
                .collect::<Result<Vec<[u8; 32]>, StateError>>()?,
        };
        reader.finish()?;
        if prefix.seen.len() > MAX_CHUNKS {
            return Err(invalid("seen", "at most 64 chunks", prefix.seen.len()));
        }
        Ok(prefix)
    }

    /// SHA-256 of [`encode`](ImaPrefix::encode): its name in a store and in statements.
    pub fn digest(&self) -> [u8; 32] {
        chunk_digest(&self.encode())
    }
}

fn read_values(value: &Value) -> Result<BTreeMap<HashAlg, Vec<u8>>, StateError> {
    let entries = value.as_map().ok_or_else(|| invalid("values", "a map", value))?;
    let read = |(bank, register): &(Value, Value)| {
        let bank = bank
            .as_u64()
            .and_then(|id| u16::try_from(id).ok())
            .and_then(HashAlg::from_tpm);
        let bank = bank.ok_or_else(|| invalid("values", "banks", "another key"))?;
        match register.as_bytes() {
            Some(register) if register.len() == bank.digest_len() => Ok((bank, register.to_vec())),
            _ => Err(invalid("values", "a register of the bank's length", register)),
        }
    };
    entries.iter().map(read).collect()
}

fn read_excluded(value: &Value) -> Result<BTreeMap<String, u64>, StateError> {
    let entries = value.as_map().ok_or_else(|| invalid("excluded", "a map", value))?;
    if entries.len() > MAX_EXCLUSIONS {
        return Err(invalid("excluded", "at most 256 exclusions", entries.len()));
    }
    let read = |(rule, count): &(Value, Value)| match (rule.as_text(), count.as_u64()) {
        (Some(rule), Some(count)) if rule.len() <= MAX_EXCLUSION => Ok((rule.to_owned(), count)),
        _ => Err(invalid("excluded", "a text and a count", count)),
    };
    entries.iter().map(read).collect()
}

fn read_aggregate(value: &Value) -> Result<Option<BootAggregate>, StateError> {
    match value {
        Value::Null => Ok(None),
        Value::Array(items) => match items.as_slice() {
            [Value::Text(algorithm), Value::Bytes(digest)]
                if algorithm.len() <= MAX_ALGORITHM && digest.len() <= MAX_DIGEST =>
            {
                Ok(Some(BootAggregate {
                    algorithm: algorithm.clone(),
                    digest: digest.clone(),
                }))
            }
            _ => Err(invalid("boot aggregate", "an algorithm and a digest", value)),
        },
        _ => Err(invalid("boot aggregate", "an array or null", value)),
    }
}

fn bounded(value: u64, limit: usize, member: &'static str) -> Result<u64, StateError> {
    if usize::try_from(value).is_ok_and(|value| value <= limit) {
        Ok(value)
    } else {
        Err(invalid(member, "a number within a list's limits", value))
    }
}

fn invalid(member: &'static str, expected: &'static str, found: impl ToString) -> StateError {
    StateError::Invalid {
        member,
        expected,
        found: found.to_string(),
    }
}

/// What an entry is, as far as rules differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SeenKind {
    /// A file by the digest of its contents.
    File,
    /// A file by its fs-verity digest.
    Verity,
    /// A buffer: a key, a kernel state, by its name.
    Buffer,
    /// The command line of a kernel that is being started from the running one.
    KexecCmdline,
    /// A file that was written while it was measured.
    Violation,
}

impl SeenKind {
    const ALL: [SeenKind; 5] = [
        SeenKind::File,
        SeenKind::Verity,
        SeenKind::Buffer,
        SeenKind::KexecCmdline,
        SeenKind::Violation,
    ];

    const fn number(self) -> u64 {
        match self {
            SeenKind::File => 0,
            SeenKind::Verity => 1,
            SeenKind::Buffer => 2,
            SeenKind::KexecCmdline => 3,
            SeenKind::Violation => 4,
        }
    }
}

/// What is kept of an accepted entry so that it can be judged again under other rules. The boot aggregate is not one:
/// it is judged in every round.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeenEntry {
    /// The path or, for a buffer, its name.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: SeenKind,
    /// Name of the digest algorithm, as the kernel spells it.
    pub algorithm: String,
    /// The digest; empty for a violation.
    pub digest: Vec<u8>,
    /// The signature found with the file (security.ima), as it stands in the list.
    pub signature: Option<Vec<u8>>,
}

impl SeenEntry {
    pub(crate) fn as_seen(&self) -> Seen<'_> {
        Seen {
            path: &self.path,
            kind: self.kind,
            algorithm: &self.algorithm,
            digest: &self.digest,
            signature: self.signature.as_deref(),
        }
    }
}

/// A [`SeenEntry`] that borrows: what entries are judged as, new ones and kept ones alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seen<'a> {
    pub(crate) path: &'a [u8],
    pub(crate) kind: SeenKind,
    pub(crate) algorithm: &'a str,
    pub(crate) digest: &'a [u8],
    pub(crate) signature: Option<&'a [u8]>,
}

/// Distinct entries, each with how often it was seen, as one chunk: deterministic CBOR, sorted.
pub fn encode_chunk(entries: &BTreeMap<SeenEntry, u64>) -> Vec<u8> {
    let entries: Vec<(Seen<'_>, u64)> = entries.iter().map(|(entry, count)| (entry.as_seen(), *count)).collect();
    encode_seen(&entries)
}

/// The chunk of distinct entries that are in order already. Written straight: a list has thousands of them.
pub(crate) fn encode_seen(entries: &[(Seen<'_>, u64)]) -> Vec<u8> {
    let bytes = entries.iter().map(|(seen, _)| {
        seen.path.len() + seen.digest.len() + seen.signature.unwrap_or_default().len() + MAX_ALGORITHM
    });
    let mut out = Vec::with_capacity(16 + bytes.sum::<usize>());
    head(&mut out, ARRAY, 2);
    head(&mut out, UNSIGNED, FORMAT);
    head(&mut out, ARRAY, entries.len() as u64);
    for (seen, count) in entries {
        head(&mut out, ARRAY, 6);
        string(&mut out, BYTES, seen.path);
        head(&mut out, UNSIGNED, seen.kind.number());
        string(&mut out, TEXT, seen.algorithm.as_bytes());
        string(&mut out, BYTES, seen.digest);
        match seen.signature {
            Some(signature) => string(&mut out, BYTES, signature),
            None => out.push(NULL),
        }
        head(&mut out, UNSIGNED, *count);
    }
    out
}

/// Major types of RFC 8949 3.1, shifted into place.
const UNSIGNED: u8 = 0x00;
const BYTES: u8 = 0x40;
const TEXT: u8 = 0x60;
const ARRAY: u8 = 0x80;
const NULL: u8 = 0xF6;

/// An initial byte and its argument in the shortest form.
fn head(out: &mut Vec<u8>, major: u8, argument: u64) {
    let bytes = argument.to_be_bytes();
    let (additional, len) = match argument {
        0..=23 => {
            out.push(major | argument as u8);
            return;
        }
        24..=0xFF => (24, 1),
        0x100..=0xFFFF => (25, 2),
        0x1_0000..=0xFFFF_FFFF => (26, 4),
        _ => (27, 8),
    };
    out.push(major | additional);
    out.extend(bytes.iter().skip(bytes.len() - len));
}

fn string(out: &mut Vec<u8>, major: u8, value: &[u8]) {
    head(out, major, value.len() as u64);
    out.extend_from_slice(value);
}

/// Reads a chunk.
///
/// # Errors
/// [`StateError`]: not one, or entries that are out of order or there twice.
pub fn decode_chunk(bytes: &[u8]) -> Result<BTreeMap<SeenEntry, u64>, StateError> {
    let chunk = cbor::decode(bytes, CHUNK_LIMITS)?;
    let Some([format, entries]) = chunk.as_array() else {
        return Err(invalid("chunk", "a format and entries", &chunk));
    };
    match format.as_u64() {
        Some(FORMAT) => {}
        found => {
            return Err(StateError::Format {
                found: found.unwrap_or(u64::MAX),
            });
        }
    }
    let entries = entries.as_array().ok_or_else(|| invalid("chunk", "entries", entries))?;
    let mut read = BTreeMap::new();
    for entry in entries {
        let (entry, count) = read_entry(entry)?;
        if read.last_key_value().is_some_and(|(last, _)| *last >= entry) {
            return Err(invalid("chunk", "entries in order", "one out of order"));
        }
        read.insert(entry, count);
    }
    Ok(read)
}

fn read_entry(value: &Value) -> Result<(SeenEntry, u64), StateError> {
    let odd = || invalid("entry", "path, kind, algorithm, digest, signature, count", value);
    let Some(
        [
            Value::Bytes(path),
            Value::Unsigned(kind),
            Value::Text(algorithm),
            Value::Bytes(digest),
            signature,
            Value::Unsigned(count),
        ],
    ) = value.as_array()
    else {
        return Err(odd());
    };
    let kind = SeenKind::ALL.into_iter().find(|known| known.number() == *kind);
    let signature = match signature {
        Value::Null => None,
        Value::Bytes(signature) => Some(signature.clone()),
        _ => return Err(odd()),
    };
    if path.len() > MAX_PATH || algorithm.len() > MAX_ALGORITHM || digest.len() > MAX_DIGEST || *count == 0 {
        return Err(odd());
    }
    Ok((
        SeenEntry {
            path: path.clone(),
            kind: kind.ok_or_else(odd)?,
            algorithm: algorithm.clone(),
            digest: digest.clone(),
            signature,
        },
        *count,
    ))
}

/// SHA-256 of a chunk: how a prefix names it.
pub fn chunk_digest(chunk: &[u8]) -> [u8; 32] {
    HashAlg::Sha256.digest([chunk]).as_ref().try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use super::*;
    use proptest::prelude::*;

    fn prefix() -> ImaPrefix {
        ImaPrefix {
            entries: 3,
            bytes: 400,
            values: BTreeMap::from([(HashAlg::Sha256, vec![1; 32]), (HashAlg::Sha384, vec![2; 48])]),
            violations: 1,
            excluded: BTreeMap::from([("/var/log/**".to_owned(), 2)]),
            boot_aggregate: Some(BootAggregate {
                algorithm: "sha256".into(),
                digest: vec![3; 32],
            }),
            kexec: false,
            judged_under: [4; 32],
            seen: vec![[5; 32], [6; 32]],
        }
    }

    fn entry(path: &str) -> SeenEntry {
        SeenEntry {
            path: path.into(),
            kind: SeenKind::File,
            algorithm: "sha256".into(),
            digest: vec![7; 32],
            signature: Some(vec![3, 2, 4]),
        }
    }

    #[test]
    fn a_prefix_comes_back_as_it_was_and_its_bytes_are_the_only_form() {
        for prefix in [prefix(), ImaPrefix::default()] {
            let bytes = prefix.encode();
            assert_eq!(ImaPrefix::decode(&bytes), Ok(prefix.clone()));
            assert_eq!(ImaPrefix::decode(&bytes).unwrap().encode(), bytes);
        }
    }

    #[test]
    fn a_prefix_cut_anywhere_or_with_impossible_numbers_is_refused() {
        let bytes = prefix().encode();
        for len in 0..bytes.len() {
            assert!(ImaPrefix::decode(&bytes[..len]).is_err(), "{len}");
        }
        type Spoil = fn(&mut ImaPrefix);
        let rows: [(&str, Spoil); 6] = [
            ("entries", |p| p.entries = MAX_ENTRIES as u64 + 1),
            ("bytes", |p| p.bytes = MAX_LIST as u64 + 1),
            ("violations", |p| p.violations = u64::MAX),
            ("values", |p| drop(p.values.insert(HashAlg::Sha512, vec![0; 32]))),
            ("seen", |p| p.seen = vec![[0; 32]; MAX_CHUNKS + 1]),
            ("excluded", |p| {
                p.excluded = (0..=MAX_EXCLUSIONS).map(|n| (n.to_string(), 1)).collect();
            }),
        ];
        for (member, spoil) in rows {
            let mut spoilt = prefix();
            spoil(&mut spoilt);
            let refused = ImaPrefix::decode(&spoilt.encode());
            assert!(
                matches!(&refused, Err(StateError::Invalid { member: found, .. }) if *found == member),
                "{member}: {refused:?}"
            );
        }
    }

    #[test]
    fn a_chunk_comes_back_as_it_was_and_is_refused_out_of_order() {
        let entries = BTreeMap::from([(entry("/b"), 1), (entry("/a"), 2)]);
        let chunk = encode_chunk(&entries);
        assert_eq!(decode_chunk(&chunk), Ok(entries));
        let mut turned = cbor::decode(&chunk, CHUNK_LIMITS).unwrap();
        if let Value::Array(parts) = &mut turned
            && let Value::Array(entries) = &mut parts[1]
        {
            entries.reverse();
        }
        assert!(decode_chunk(&cbor::encode(&turned)).is_err());
        let none = BTreeMap::from([(entry("/a"), 0)]);
        assert!(decode_chunk(&encode_chunk(&none)).is_err(), "a count of none");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = ImaPrefix::decode(&bytes);
            let _ = decode_chunk(&bytes);
        }
    }
}
