//! Why bytes are not CBOR that we accept.

use crate::code::Code;

/// Why bytes are not CBOR that we accept. `offset` is where in the input the trouble starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CborError {
    /// The input is longer than the limit.
    #[error("{found} bytes, at most {limit} are accepted")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
        /// The length of the input.
        found: usize,
    },
    /// Too many arrays, maps and tags inside one another.
    #[error("nested deeper than {limit} at byte {offset}")]
    TooDeep {
        /// The limit.
        limit: usize,
        /// Where.
        offset: usize,
    },
    /// More data items than the limit.
    #[error("more than {limit} data items at byte {offset}")]
    TooManyItems {
        /// The limit.
        limit: usize,
        /// Where.
        offset: usize,
    },
    /// The input ends inside an item, or a length says more than there is.
    #[error("item at byte {offset} needs {expected} bytes, {found} are left")]
    Truncated {
        /// Where.
        offset: usize,
        /// How many bytes (for arrays and maps: at least) the item needs.
        expected: u64,
        /// How many there are.
        found: usize,
    },
    /// An indefinite length or a stray "break".
    #[error("indefinite length at byte {offset}")]
    Indefinite {
        /// Where.
        offset: usize,
    },
    /// Additional information 28 to 30.
    #[error("reserved initial byte {found:#04x} at byte {offset}")]
    Reserved {
        /// Where.
        offset: usize,
        /// The initial byte.
        found: u8,
    },
    /// An integer, length or tag that has a shorter form.
    #[error("{value} at byte {offset} is not in its shortest form")]
    NotShortest {
        /// Where.
        offset: usize,
        /// The value that was written too long.
        value: u64,
    },
    /// A map key that sorts before the one ahead of it.
    #[error("map key at byte {offset} is out of order")]
    KeyOrder {
        /// Where.
        offset: usize,
    },
    /// A map key that is there twice.
    #[error("map key at byte {offset} is there twice")]
    DuplicateKey {
        /// Where the second one is.
        offset: usize,
    },
    /// A floating-point number.
    #[error("floating-point number at byte {offset}")]
    Float {
        /// Where.
        offset: usize,
    },
    /// `undefined` or another simple value than true, false and null.
    #[error("simple value {value} at byte {offset}")]
    Simple {
        /// Where.
        offset: usize,
        /// Which.
        value: u8,
    },
    /// A text string that is not UTF-8.
    #[error("text at byte {offset} is not UTF-8")]
    Utf8 {
        /// Where.
        offset: usize,
    },
    /// Bytes after the item.
    #[error("{extra} bytes after the end of the item at byte {offset}")]
    Trailing {
        /// Where the item ends.
        offset: usize,
        /// How many follow.
        extra: usize,
    },
}

impl CborError {
    /// The stable code of this refusal.
    pub const fn code(&self) -> Code {
        match self {
            CborError::TooLarge { .. } | CborError::TooDeep { .. } | CborError::TooManyItems { .. } => Code::CborLimit,
            CborError::Truncated { .. } => Code::CborTruncated,
            CborError::Trailing { .. } => Code::CborTrailing,
            CborError::DuplicateKey { .. } => Code::CborDuplicateKey,
            CborError::Indefinite { .. } | CborError::NotShortest { .. } | CborError::KeyOrder { .. } => {
                Code::CborNotDeterministic
            }
            CborError::Reserved { .. }
            | CborError::Float { .. }
            | CborError::Simple { .. }
            | CborError::Utf8 { .. } => Code::CborUnsupported,
        }
    }
}
