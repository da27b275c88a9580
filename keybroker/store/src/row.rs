//! How a value lies in the embedded engine: one format byte, the revision (8 bytes, big-endian), the value.

use crate::{Revision, Versioned};

/// The only row format so far. Another one would be a new number, so that an old release refuses it row by row.
const FORMAT: u8 = 1;

/// Bytes in front of the value.
pub(crate) const HEADER_LEN: usize = 9;

/// What is wrong with one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RowFault {
    /// Shorter than its own header.
    #[error("it has {found} bytes, at least {expected} are expected")]
    TooShort {
        /// The length of the header, in bytes.
        expected: usize,
        /// The length of the row, in bytes.
        found: usize,
    },
    /// Written in a format this release does not know.
    #[error("its format is {found}, expected {expected}")]
    UnknownFormat {
        /// The format this release knows.
        expected: u8,
        /// The format of the row.
        found: u8,
    },
}

/// The header of a row written at `revision`.
pub(crate) fn header(revision: Revision) -> [u8; HEADER_LEN] {
    let mut header = [FORMAT; HEADER_LEN];
    if let Some(number) = header.last_chunk_mut::<8>() {
        *number = revision.get().to_be_bytes();
    }
    header
}

/// The revision and the value in a row, without copying.
pub(crate) fn split(row: &[u8]) -> Result<(Revision, &[u8]), RowFault> {
    let Some((&[found, ref number @ ..], value)) = row.split_first_chunk::<HEADER_LEN>() else {
        return Err(RowFault::TooShort {
            expected: HEADER_LEN,
            found: row.len(),
        });
    };
    if found != FORMAT {
        return Err(RowFault::UnknownFormat {
            expected: FORMAT,
            found,
        });
    }
    Ok((Revision::new(u64::from_be_bytes(*number)), value))
}

/// The row as reads return it.
pub(crate) fn parse(row: &[u8]) -> Result<Versioned, RowFault> {
    split(row).map(|(revision, value)| Versioned {
        value: value.to_vec(),
        revision,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_comes_back_as_written() {
        let row = [header(Revision::new(258)).as_slice(), b"value"].concat();
        assert_eq!(row, *b"\x01\0\0\0\0\0\0\x01\x02value");
        assert_eq!(
            parse(&row),
            Ok(Versioned {
                value: b"value".to_vec(),
                revision: Revision::new(258)
            })
        );
    }

    #[test]
    fn broken_rows_say_how() {
        for found in 0..HEADER_LEN {
            assert_eq!(
                parse(&vec![FORMAT; found]),
                Err(RowFault::TooShort { expected: 9, found })
            );
        }
        assert_eq!(parse(&[2; 20]), Err(RowFault::UnknownFormat { expected: 1, found: 2 }));
    }
}
