//! Decompression with a limit on what comes out: gzip, xz and zstd, as initrds and packages use them.
//!
//! The format is told by its first bytes. Memory is bounded by [`MAX_WINDOW`] beside what the caller keeps.

use std::io::{self, BufRead, Read};

use crate::ArtefactError;

/// Most bytes that are unpacked from one artefact, whatever it claims.
pub const MAX_UNPACKED: u64 = 1 << 30;
/// Largest dictionary or window of a compressed stream, in bytes.
pub const MAX_WINDOW: usize = 128 << 20;

/// How something is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// gzip (RFC 1952).
    Gzip,
    /// xz.
    Xz,
    /// Zstandard (RFC 8878).
    Zstd,
}

/// First bytes of what is read here.
const READ: &[(&[u8], Compression)] = &[
    (&[0x1F, 0x8B], Compression::Gzip),
    (b"\xFD7zXZ\0", Compression::Xz),
    (&[0x28, 0xB5, 0x2F, 0xFD], Compression::Zstd),
];
/// First bytes of what kernels read as well and this does not.
const NAMED: &[(&[u8], &str)] = &[
    (b"BZh", "bzip2"),
    (&[0x5D, 0, 0], "lzma"),
    (&[0x89, b'L', b'Z', b'O'], "lzo"),
    (&[0x02, 0x21, 0x4C, 0x18], "lz4"),
];

impl Compression {
    /// The format these bytes begin with.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let mut known = READ.iter();
        known
            .find(|(magic, _)| bytes.starts_with(magic))
            .map(|(_, format)| *format)
    }

    /// Name of a format that is recognised, but not read.
    pub fn unread(bytes: &[u8]) -> Option<&'static str> {
        let mut known = NAMED.iter();
        known.find(|(magic, _)| bytes.starts_with(magic)).map(|(_, name)| *name)
    }

    /// A reader of one compressed stream at the start of `input`. When it has ended, `input` is what follows.
    ///
    /// # Errors
    /// [`ArtefactError::Malformed`] where the stream's own header is wrong.
    pub fn reader<'r>(self, input: &'r mut &[u8]) -> Result<Box<dyn Read + 'r>, ArtefactError> {
        Ok(match self {
            Compression::Gzip => Box::new(flate2::bufread::GzDecoder::new(input)),
            Compression::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(
                input,
                false,
                u32::try_from(MAX_WINDOW >> 10).unwrap_or(u32::MAX),
            )),
            Compression::Zstd => {
                let decoder = ruzstd::decoding::StreamingDecoder::new_with_max_window_size(input, MAX_WINDOW as u64);
                Box::new(decoder.map_err(|e| ArtefactError::malformed("zstd stream", "a frame", e))?)
            }
        })
    }
}

/// A reader that ends in an error once more than its limit has come out of it.
pub(crate) struct Capped<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Capped<R> {
    pub(crate) fn new(inner: R, limit: u64) -> Self {
        Self { inner, left: limit }
    }

    /// What may still be read.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }
}

impl<R: Read> Read for Capped<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let left = self.left.checked_sub(read as u64);
        self.left = left.ok_or_else(|| io::Error::new(io::ErrorKind::FileTooLarge, LIMIT_REACHED))?;
        Ok(read)
    }
}

/// What [`Capped`] says; [`unpacking`] turns it into the error of ours.
const LIMIT_REACHED: &str = "the limit of what is unpacked";

/// An error while unpacking `what`.
pub(crate) fn unpacking(what: &'static str, error: &io::Error) -> ArtefactError {
    if error.kind() == io::ErrorKind::FileTooLarge || error.to_string().contains(LIMIT_REACHED) {
        return ArtefactError::TooLarge {
            what,
            limit: usize::try_from(MAX_UNPACKED).unwrap_or(usize::MAX),
        };
    }
    ArtefactError::malformed(what, "data that can be unpacked", error)
}

/// As many zero bytes as are skipped at once.
const ZEROS: [u8; 4096] = [0; 4096];

/// Skips zero bytes; whether anything follows them.
pub(crate) fn skip_zeros(input: &mut impl BufRead) -> io::Result<bool> {
    loop {
        let buffer = input.fill_buf()?;
        // Whole stretches at once: padding may be long.
        let start = buffer.get(..ZEROS.len()).unwrap_or(buffer);
        let zeros = if ZEROS.starts_with(start) {
            start.len()
        } else {
            start.iter().take_while(|byte| **byte == 0).count()
        };
        let len = start.len();
        input.consume(zeros);
        if zeros < len || len == 0 {
            return Ok(len != 0);
        }
    }
}
