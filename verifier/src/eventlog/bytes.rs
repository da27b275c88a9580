//! A bounds-checked little-endian reader that knows its offset in the log.

use super::LogError;

/// Reads forward; every read either succeeds or says where the log ends too early.
#[derive(Debug, Clone)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    /// A reader over `bytes`, whose first byte lies at `offset` of the log.
    pub(super) fn at(bytes: &'a [u8], offset: usize) -> Self {
        Self { rest: bytes, offset }
    }

    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], LogError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(LogError::Truncated {
            offset: self.offset,
            needed: len,
            left: self.rest.len(),
        })?;
        self.rest = rest;
        self.offset += len;
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], LogError> {
        let offset = self.offset;
        let left = self.rest.len();
        self.take(N)?.try_into().map_err(|_| LogError::Truncated {
            offset,
            needed: N,
            left,
        })
    }

    #[inline]
    pub(super) fn u8(&mut self) -> Result<u8, LogError> {
        self.array::<1>().map(|[byte]| byte)
    }

    #[inline]
    pub(super) fn u16(&mut self) -> Result<u16, LogError> {
        self.array().map(u16::from_le_bytes)
    }

    #[inline]
    pub(super) fn u32(&mut self) -> Result<u32, LogError> {
        self.array().map(u32::from_le_bytes)
    }
}
