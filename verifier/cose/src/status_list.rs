//! Token Status Lists in their CWT form (draft-ietf-oauth-status-list-21), two bits a token.
//!
//! The list is an array of bits, deflated into a signed token; entry i stands in byte i / 4, least significant bits
//! first. Fail closed: an index outside the list has no status, a list of another width or over the cap is refused,
//! and the cap is on what inflation may produce, before it produces it.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::bufread::ZlibDecoder;
use flate2::write::ZlibEncoder;

use crate::cbor::{self, CborError, Limits, MapReader, ShapeError, Value};
use crate::code::Code;
use crate::cwt::{self, CwtError, claim};
use crate::key::{KID_LEN, SignError, Signer, VerifyingKey};
use crate::sign1::{self, CoseError, Protected, Unverified};

/// typ of a status list token (section 5.2). Never under tag 61.
pub const TYP: &str = "application/statuslist+cwt";
/// Bits an entry.
pub const BITS: u64 = 2;
/// Most entries in one list.
pub const MAX_ENTRIES: u64 = 1 << 20;
/// Most bytes of a list, inflated: 256 KiB.
pub const MAX_BYTES: usize = (MAX_ENTRIES * BITS / 8) as usize;
/// Most bytes of a token: a list that does not compress at all, and its frame.
pub const TOKEN_LIMITS: Limits = Limits {
    max_bytes: MAX_BYTES + (8 << 10),
    max_depth: 8,
    max_items: 64,
};
/// Longest subject (the list's URI) in bytes.
pub const MAX_SUBJECT: usize = 512;

const ENTRIES_PER_BYTE: u64 = 8 / BITS;

/// The status of one token (section 7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Status {
    /// In force.
    Valid = 0,
    /// Revoked for good.
    Invalid = 1,
    /// Suspended: quarantined, may come back.
    Suspended = 2,
    /// Application specific. We never set it and do not accept it.
    Reserved = 3,
}

impl Status {
    const fn from_bits(bits: u8) -> Status {
        match bits & 0b11 {
            0 => Status::Valid,
            1 => Status::Invalid,
            2 => Status::Suspended,
            _ => Status::Reserved,
        }
    }
}

/// Why a status list gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatusListError {
    /// An index outside the list.
    #[error("index {index} is outside a list of {entries}")]
    OutOfRange {
        /// The index.
        index: u64,
        /// How many entries there are.
        entries: u64,
    },
    /// Larger than the cap.
    #[error("the list is larger than {limit} bytes")]
    TooLarge {
        /// The cap in bytes, inflated.
        limit: usize,
    },
    /// Not one zlib stream.
    #[error("the list is not exactly one zlib stream")]
    Inflate,
    /// Another width than two bits.
    #[error("expected {BITS} bits an entry, found {found}")]
    Width {
        /// The width.
        found: u64,
    },
    /// The list of another subject.
    #[error("the status list is for another subject than {expected}")]
    Subject {
        /// The URI that the token names.
        expected: String,
    },
    /// Expired, or not yet issued.
    #[error(transparent)]
    Time(#[from] CwtError),
    /// Not the object, or not the signature.
    #[error(transparent)]
    Cose(#[from] CoseError),
    /// The claims are not CBOR that we accept.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// The claims have another shape.
    #[error(transparent)]
    Shape(#[from] ShapeError),
}

impl StatusListError {
    /// The stable code of this refusal.
    pub const fn code(&self) -> Code {
        match self {
            StatusListError::OutOfRange { .. } => Code::StatusIndexOutOfRange,
            StatusListError::TooLarge { .. } | StatusListError::Inflate | StatusListError::Width { .. } => {
                Code::StatusListInvalid
            }
            StatusListError::Subject { .. } => Code::StatusListMismatch,
            StatusListError::Time(e) => e.code(),
            StatusListError::Cose(e) => e.code(),
            StatusListError::Cbor(e) => e.code(),
            StatusListError::Shape(e) => e.code(),
        }
    }
}

/// The uncompressed list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusList {
    bytes: Vec<u8>,
}

impl StatusList {
    /// A list of at least `entries` valid entries: as many as fill the last byte.
    ///
    /// # Errors
    /// More than [`MAX_ENTRIES`].
    pub fn new(entries: u64) -> Result<StatusList, StatusListError> {
        if entries > MAX_ENTRIES {
            return Err(StatusListError::TooLarge { limit: MAX_BYTES });
        }
        Ok(StatusList {
            bytes: vec![0; entries.div_ceil(ENTRIES_PER_BYTE) as usize],
        })
    }

    /// The list with these bytes.
    ///
    /// # Errors
    /// More than [`MAX_BYTES`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<StatusList, StatusListError> {
        if bytes.len() > MAX_BYTES {
            return Err(StatusListError::TooLarge { limit: MAX_BYTES });
        }
        Ok(StatusList { bytes })
    }

    /// The uncompressed bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Number of entries.
    pub fn entries(&self) -> u64 {
        self.bytes.len() as u64 * ENTRIES_PER_BYTE
    }

    /// The status of entry `index`.
    ///
    /// # Errors
    /// The index is outside the list.
    pub fn get(&self, index: u64) -> Result<Status, StatusListError> {
        get(&self.bytes, index)
    }

    /// Sets the status of entry `index`; returns whether that changed anything.
    ///
    /// # Errors
    /// The index is outside the list.
    pub fn set(&mut self, index: u64, status: Status) -> Result<bool, StatusListError> {
        let outside = StatusListError::OutOfRange {
            index,
            entries: self.entries(),
        };
        let (at, shift) = place(index);
        let byte = at.and_then(|at| self.bytes.get_mut(at)).ok_or(outside)?;
        let new = *byte & !(0b11 << shift) | (status as u8) << shift;
        let changed = *byte != new;
        *byte = new;
        Ok(changed)
    }

    /// The list as a zlib stream (RFC 1950), at the best compression.
    pub fn to_zlib(&self) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::with_capacity(64), Compression::best());
        // Writing to a vector cannot fail; an empty stream would be refused by every reader.
        encoder
            .write_all(&self.bytes)
            .and_then(|()| encoder.finish())
            .unwrap_or_default()
    }

    /// Inflates a zlib stream that fills the whole of `input`, to at most [`MAX_BYTES`].
    ///
    /// # Errors
    /// Larger, or not exactly one zlib stream.
    pub fn from_zlib(input: &[u8]) -> Result<StatusList, StatusListError> {
        let mut decoder = ZlibDecoder::new(input);
        let mut bytes = Vec::new();
        let cap = MAX_BYTES as u64 + 1;
        (&mut decoder)
            .take(cap)
            .read_to_end(&mut bytes)
            .map_err(|_| StatusListError::Inflate)?;
        if bytes.len() > MAX_BYTES {
            return Err(StatusListError::TooLarge { limit: MAX_BYTES });
        }
        if !decoder.into_inner().is_empty() {
            return Err(StatusListError::Inflate);
        }
        Ok(StatusList { bytes })
    }
}

/// The status of entry `index` in an uncompressed list, for readers that hold the bytes themselves.
///
/// # Errors
/// The index is outside the list.
pub fn get(bytes: &[u8], index: u64) -> Result<Status, StatusListError> {
    let (at, shift) = place(index);
    let byte = at.and_then(|at| bytes.get(at));
    let entries = bytes.len() as u64 * ENTRIES_PER_BYTE;
    byte.map(|b| Status::from_bits(b >> shift))
        .ok_or(StatusListError::OutOfRange { index, entries })
}

/// Byte and shift of an entry.
fn place(index: u64) -> (Option<usize>, u32) {
    (
        usize::try_from(index / ENTRIES_PER_BYTE).ok(),
        ((index % ENTRIES_PER_BYTE) * BITS) as u32,
    )
}

/// A status list with what its token says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusListToken {
    /// URI of the list: what tokens name in their status claim.
    pub subject: String,
    /// When it was made, Unix seconds.
    pub issued_at: i64,
    /// When it stops counting, Unix seconds.
    pub expires: i64,
    /// How long it may be used before a newer one must be fetched, seconds, not 0.
    pub ttl: u64,
    /// The list.
    pub list: StatusList,
}

impl StatusListToken {
    /// Signs the list as a token.
    ///
    /// # Errors
    /// The signer failed.
    pub fn sign(&self, signer: &dyn Signer) -> Result<Vec<u8>, SignError> {
        let list = Value::text_map([
            ("bits", Value::Unsigned(BITS)),
            ("lst", Value::bytes(self.list.to_zlib())),
        ]);
        let claims = Value::map([
            (claim::SUB, Value::text(self.subject.as_str())),
            (claim::EXP, Value::int(self.expires)),
            (claim::IAT, Value::int(self.issued_at)),
            (claim::TTL, Value::Unsigned(self.ttl)),
            (claim::STATUS_LIST, list),
        ]);
        sign1::sign(signer, &Protected::typ(TYP), &cbor::encode(&claims), &[])
    }

    /// The id of the key that a token claims to be signed with.
    ///
    /// # Errors
    /// Not a COSE_Sign1 of our profile.
    pub fn kid(input: &[u8]) -> Result<[u8; KID_LEN], StatusListError> {
        Ok(Unverified::parse(input, TOKEN_LIMITS)?.kid())
    }

    /// Verifies a token: signature, subject, and `issued_at <= now < expires` give or take `skew` seconds; then
    /// inflates the list.
    ///
    /// # Errors
    /// See [`StatusListError`]. Every failing check refuses the list.
    pub fn verify(
        input: &[u8],
        key: &VerifyingKey,
        expected_subject: &str,
        now: i64,
        skew: i64,
    ) -> Result<StatusListToken, StatusListError> {
        let verified = Unverified::parse(input, TOKEN_LIMITS)?.verify(key, TYP, &[])?;
        let claims = cbor::decode(verified.payload(), TOKEN_LIMITS)?;
        let mut claims = MapReader::new(claims, "status list token")?;
        let subject = claims.text(claim::SUB, MAX_SUBJECT)?;
        let expires = claims.i64(claim::EXP)?;
        let issued_at = claims.i64(claim::IAT)?;
        let ttl = claims.u64(claim::TTL)?;
        let mut list = claims.map(claim::STATUS_LIST, "status list")?;
        claims.finish()?;
        if subject != expected_subject {
            return Err(StatusListError::Subject {
                expected: expected_subject.to_owned(),
            });
        }
        cwt::check_window(Some(issued_at), expires, now, skew)?;
        if ttl == 0 {
            return Err(ShapeError::member("status list token", "key 65534", "positive integer", "0").into());
        }
        let bits = list.required_text_key("bits")?;
        let lst = list.required_text_key("lst")?;
        list.finish()?;
        let wrong = |key: &str, expected: &str, found: &Value| {
            StatusListError::from(ShapeError::member("status list", key, expected, found.kind()))
        };
        let found = bits.as_u64().ok_or_else(|| wrong("key \"bits\"", "integer", &bits))?;
        if found != BITS {
            return Err(StatusListError::Width { found });
        }
        let lst = lst
            .as_bytes()
            .ok_or_else(|| wrong("key \"lst\"", "byte string", &lst))?;
        let list = StatusList::from_zlib(lst)?;
        Ok(StatusListToken {
            subject,
            issued_at,
            expires,
            ttl,
            list,
        })
    }
}
