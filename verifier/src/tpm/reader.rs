//! A bounds-checked reader of the TPM's big-endian structures.
//!
//! Nothing here allocates, loops over attacker-chosen lengths, or panics: each read either yields a part of the input
//! or says at which byte what was missing.

use thiserror::Error;

/// Why bytes are not the structure they should be; offsets count from the start of the outermost structure.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The input ends inside a field.
    #[error("{field} at byte {offset} needs {expected} bytes, {found} are left")]
    Truncated {
        /// TCG name of the field.
        field: &'static str,
        /// Where the field starts.
        offset: usize,
        /// Bytes it needs.
        expected: usize,
        /// Bytes that are left.
        found: usize,
    },
    /// Bytes are left over behind the structure.
    #[error("{field} ends at byte {offset}, but {found} more bytes follow")]
    Trailing {
        /// TCG name of the structure.
        field: &'static str,
        /// Where the structure ended.
        offset: usize,
        /// Bytes that follow.
        found: usize,
    },
    /// A length or count is over the limit of its type.
    #[error("{field} at byte {offset} is {found}, over the limit of {limit}")]
    OverLimit {
        /// TCG name of the field.
        field: &'static str,
        /// Where the field starts.
        offset: usize,
        /// The largest value accepted.
        limit: usize,
        /// The value found.
        found: usize,
    },
    /// A field has a value that its type does not allow.
    #[error("{field} at byte {offset}: expected {expected}, found {found:#06x}")]
    Value {
        /// TCG name of the field.
        field: &'static str,
        /// Where the field starts.
        offset: usize,
        /// What the type allows.
        expected: &'static str,
        /// The value found.
        found: u64,
    },
}

impl ReadError {
    /// What was expected and what was found, in words, for a reason.
    pub fn details(&self) -> (String, String) {
        match self {
            ReadError::Truncated {
                field,
                offset,
                expected,
                found,
            } => (
                format!("{expected} bytes of {field} at byte {offset}"),
                format!("{found} bytes"),
            ),
            ReadError::Trailing { field, offset, found } => (
                format!("end of {field} at byte {offset}"),
                format!("{found} more bytes"),
            ),
            ReadError::OverLimit {
                field,
                offset,
                limit,
                found,
            } => (
                format!("{field} at byte {offset} of at most {limit}"),
                found.to_string(),
            ),
            ReadError::Value {
                field,
                offset,
                expected,
                found,
            } => (format!("{field} at byte {offset}: {expected}"), format!("{found:#06x}")),
        }
    }
}

/// Reads fields one after the other from a slice.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    /// Starts at the first byte of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, offset: 0 }
    }

    /// Bytes read so far.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// What has not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// [`ReadError::Truncated`] if fewer are left.
    pub fn take(&mut self, field: &'static str, len: usize) -> Result<&'a [u8], ReadError> {
        let Some((head, rest)) = self.rest.split_at_checked(len) else {
            return Err(ReadError::Truncated {
                field,
                offset: self.offset,
                expected: len,
                found: self.rest.len(),
            });
        };
        self.rest = rest;
        self.offset += len;
        Ok(head)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], ReadError> {
        let truncated = ReadError::Truncated {
            field,
            offset: self.offset,
            expected: N,
            found: self.rest.len(),
        };
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(truncated)?;
        self.rest = rest;
        self.offset += N;
        Ok(*head)
    }

    /// UINT8.
    ///
    /// # Errors
    /// [`ReadError::Truncated`].
    pub fn u8(&mut self, field: &'static str) -> Result<u8, ReadError> {
        self.array::<1>(field).map(|[b]| b)
    }

    /// UINT16, big-endian.
    ///
    /// # Errors
    /// [`ReadError::Truncated`].
    pub fn u16(&mut self, field: &'static str) -> Result<u16, ReadError> {
        self.array(field).map(u16::from_be_bytes)
    }

    /// UINT32, big-endian.
    ///
    /// # Errors
    /// [`ReadError::Truncated`].
    pub fn u32(&mut self, field: &'static str) -> Result<u32, ReadError> {
        self.array(field).map(u32::from_be_bytes)
    }

    /// UINT64, big-endian.
    ///
    /// # Errors
    /// [`ReadError::Truncated`].
    pub fn u64(&mut self, field: &'static str) -> Result<u64, ReadError> {
        self.array(field).map(u64::from_be_bytes)
    }

    /// TPMI_YES_NO: one byte, 0 or 1.
    ///
    /// # Errors
    /// [`ReadError::Truncated`], or [`ReadError::Value`] for any other byte.
    pub fn yes_no(&mut self, field: &'static str) -> Result<bool, ReadError> {
        let offset = self.offset;
        match self.u8(field)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(ReadError::Value {
                field,
                offset,
                expected: "0 or 1",
                found: other.into(),
            }),
        }
    }

    /// A TPM2B: two bytes of length, then that many bytes, at most `limit`.
    ///
    /// # Errors
    /// [`ReadError::Truncated`] or [`ReadError::OverLimit`].
    pub fn sized(&mut self, field: &'static str, limit: usize) -> Result<&'a [u8], ReadError> {
        let offset = self.offset;
        let len = usize::from(self.u16(field)?);
        if len > limit {
            return Err(ReadError::OverLimit {
                field,
                offset,
                limit,
                found: len,
            });
        }
        self.take(field, len)
    }

    /// Ends the structure.
    ///
    /// # Errors
    /// [`ReadError::Trailing`] if anything is left.
    pub fn finish(self, field: &'static str) -> Result<(), ReadError> {
        match self.rest.len() {
            0 => Ok(()),
            found => Err(ReadError::Trailing {
                field,
                offset: self.offset,
                found,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_in_order_and_ends() {
        let mut r = Reader::new(&[1, 0, 2, 0, 0, 0, 3, 0, 2, 0xAA, 0xBB]);
        assert_eq!(r.u8("a"), Ok(1));
        assert_eq!(r.u16("b"), Ok(2));
        assert_eq!(r.u32("c"), Ok(3));
        assert_eq!(r.sized("d", 2), Ok(&[0xAA, 0xBB][..]));
        assert_eq!(r.offset(), 11);
        assert_eq!(r.finish("all"), Ok(()));
    }

    #[test]
    fn says_where_what_was_missing() {
        let mut r = Reader::new(&[0, 9, 1]);
        assert_eq!(
            r.clone().sized("name", 66),
            Err(ReadError::Truncated {
                field: "name",
                offset: 2,
                expected: 9,
                found: 1
            })
        );
        assert_eq!(
            r.clone().sized("name", 8),
            Err(ReadError::OverLimit {
                field: "name",
                offset: 0,
                limit: 8,
                found: 9
            })
        );
        assert_eq!(
            r.u64("clock"),
            Err(ReadError::Truncated {
                field: "clock",
                offset: 0,
                expected: 8,
                found: 3
            })
        );
        r.u16("x").unwrap();
        assert_eq!(
            r.finish("s"),
            Err(ReadError::Trailing {
                field: "s",
                offset: 2,
                found: 1
            })
        );
    }

    #[test]
    fn yes_no_is_0_or_1() {
        assert_eq!(Reader::new(&[1]).yes_no("safe"), Ok(true));
        assert!(matches!(
            Reader::new(&[2]).yes_no("safe"),
            Err(ReadError::Value { found: 2, .. })
        ));
    }
}
