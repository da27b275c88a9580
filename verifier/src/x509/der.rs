//! The little DER that is written here, and the cut of a certificate to its own length.
//!
//! Source: ITU-T X.690, 8 and 10.

use thiserror::Error;

pub(crate) const TAG_INTEGER: u8 = 0x02;
pub(crate) const TAG_BIT_STRING: u8 = 0x03;
pub(crate) const TAG_NULL: u8 = 0x05;
pub(crate) const TAG_OID: u8 = 0x06;
pub(crate) const TAG_SEQUENCE: u8 = 0x30;

/// One DER element of `parts` joined; content of up to 65,535 bytes, far more than any key here has.
pub(crate) fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let len: usize = parts.iter().map(|p| p.len()).sum();
    let [.., high, low] = len.to_be_bytes();
    let mut out = vec![tag];
    match len {
        0..0x80 => out.push(low),
        0x80..0x100 => out.extend([0x81, low]),
        _ => out.extend([0x82, high, low]),
    }
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}

/// A non-negative INTEGER from big-endian bytes, in its shortest form.
pub(crate) fn unsigned_integer(number: &[u8]) -> Vec<u8> {
    let digits = without_leading_zeros(number);
    match digits.first() {
        None => element(TAG_INTEGER, &[&[0]]),
        Some(top) if top & 0x80 != 0 => element(TAG_INTEGER, &[&[0], digits]),
        Some(_) => element(TAG_INTEGER, &[digits]),
    }
}

/// `number` from its first byte that is not zero.
pub(crate) fn without_leading_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|&&b| b == 0).count();
    number.get(zeros..).unwrap_or_default()
}

/// Why bytes are not one DER SEQUENCE with padding.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TrimError {
    /// The bytes do not start with a SEQUENCE of definite length in shortest form.
    #[error("expected a DER SEQUENCE, found bytes that start with {found}")]
    NotASequence {
        /// The first bytes, hexadecimal.
        found: String,
    },
    /// The SEQUENCE is longer than the bytes.
    #[error("expected a SEQUENCE of {expected} bytes, found {found}")]
    Truncated {
        /// The length it declares, with its header.
        expected: usize,
        /// The bytes there are.
        found: usize,
    },
    /// What follows the SEQUENCE is not padding.
    #[error("expected the end or padding at byte {offset}, found other bytes")]
    Trailing {
        /// Where the SEQUENCE ended.
        offset: usize,
    },
}

/// The one SEQUENCE that `bytes` start with, without the header of a stored certificate ([`without_stored_header`]) and
/// without what a TPM's NV index pads it with (0x00 or 0xFF up to the index's size) or the line end that some makers' CA
/// files have behind it.
///
/// # Errors
/// [`TrimError`] if they do not start with one, if it is cut short, or if anything but padding follows.
pub fn trim_padding(bytes: &[u8]) -> Result<&[u8], TrimError> {
    let (sequence, padding) = leading_sequence(without_stored_header(bytes))?;
    if padding.iter().all(|&b| b == 0) || padding.iter().all(|&b| b == 0xFF) || padding.trim_ascii().is_empty() {
        Ok(sequence)
    } else {
        Err(TrimError::Trailing { offset: sequence.len() })
    }
}

/// The SEQUENCE that `bytes` start with, header included, and what follows it.
///
/// # Errors
/// [`TrimError`] if they do not start with one of definite length in shortest form, or if it is cut short.
pub fn leading_sequence(bytes: &[u8]) -> Result<(&[u8], &[u8]), TrimError> {
    let not_a_sequence = || TrimError::NotASequence {
        found: hex::encode(bytes.get(..4).unwrap_or(bytes)),
    };
    let (header, content) = match *bytes {
        [TAG_SEQUENCE, len, ..] if len < 0x80 => (2, usize::from(len)),
        [TAG_SEQUENCE, 0x81, len, ..] if len >= 0x80 => (3, usize::from(len)),
        [TAG_SEQUENCE, 0x82, high, low, ..] if high != 0 => (4, usize::from(u16::from_be_bytes([high, low]))),
        _ => return Err(not_a_sequence()),
    };
    let end = header + content;
    bytes.split_at_checked(end).ok_or(TrimError::Truncated {
        expected: end,
        found: bytes.len(),
    })
}

/// What follows the header that TPM 1.2 makers put before a certificate in NV memory, and that some TPM 2.0 chips of
/// STMicroelectronics still have: TCG_PCCLIENT_STORED_CERT {tag 0x1001, type 0 (full), size u16} and TCG_FULL_CERT
/// {tag 0x1002}. The size must be that of the tag and the certificate; bytes without exactly this header are given back
/// as they are.
///
/// Source: TCG PC Client Specific Implementation Specification for Conventional BIOS 1.21, 7.4.5.
pub fn without_stored_header(bytes: &[u8]) -> &[u8] {
    match bytes {
        [0x10, 0x01, 0x00, high, low, 0x10, 0x02, certificate @ ..] => {
            let size = usize::from(u16::from_be_bytes([*high, *low]));
            // What lies behind the stated size is the index's padding.
            match (size.checked_sub(2), certificate) {
                (Some(len), [TAG_SEQUENCE, 0x82, high, low, ..])
                    if len == 4 + usize::from(u16::from_be_bytes([*high, *low])) =>
                {
                    certificate
                }
                _ => bytes,
            }
        }
        _ => bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_certificates_header_is_cut_where_it_fits() {
        let certificate = [&[TAG_SEQUENCE, 0x82, 1, 0][..], &[7; 0x100]].concat();
        let stored = |size: u16, tail: &[u8]| {
            let [high, low] = size.to_be_bytes();
            [&[0x10, 1, 0, high, low, 0x10, 2][..], &certificate, tail].concat()
        };
        for tail in [&[][..], &[0xFF; 9], &[0; 9]] {
            assert_eq!(trim_padding(&stored(0x106, tail)), Ok(certificate.as_slice()));
        }
        // Another size, another type, two headers.
        let mut partial = stored(0x106, &[]);
        partial[2] = 1;
        let twice = [&[0x10, 1, 0, 1, 0x0D, 0x10, 2][..], &stored(0x106, &[])].concat();
        for bad in [stored(0x105, &[]), stored(0x107, &[]), partial, twice] {
            assert!(matches!(trim_padding(&bad), Err(TrimError::NotASequence { .. })));
        }
    }

    #[test]
    fn writes_the_shortest_form() {
        assert_eq!(unsigned_integer(&[0, 0, 0x7F]), [2, 1, 0x7F]);
        assert_eq!(unsigned_integer(&[0x80]), [2, 2, 0, 0x80]);
        assert_eq!(unsigned_integer(&[0, 0]), [2, 1, 0]);
        assert_eq!(element(4, &[&[1; 0x7F]])[..2], [4, 0x7F]);
        assert_eq!(element(4, &[&[1; 0x80]])[..3], [4, 0x81, 0x80]);
        assert_eq!(element(4, &[&[1; 0x100]])[..4], [4, 0x82, 1, 0]);
    }

    #[test]
    fn cuts_padding_and_nothing_else() {
        assert_eq!(trim_padding(&[0x30, 1, 5]), Ok(&[0x30, 1, 5][..]));
        assert_eq!(trim_padding(&[0x30, 1, 5, 0, 0]), Ok(&[0x30, 1, 5][..]));
        assert_eq!(trim_padding(&[0x30, 1, 5, 0xFF, 0xFF]), Ok(&[0x30, 1, 5][..]));
        assert_eq!(
            trim_padding(&[0x30, 1, 5, 0, 1]),
            Err(TrimError::Trailing { offset: 3 })
        );
        assert_eq!(
            trim_padding(&[0x30, 1, 5, 0, 0xFF]),
            Err(TrimError::Trailing { offset: 3 })
        );
        assert_eq!(
            trim_padding(&[0x30, 2, 5]),
            Err(TrimError::Truncated { expected: 4, found: 3 })
        );
        for bad in [
            &[][..],
            &[0x30],
            &[0x31, 0],
            &[0x30, 0x80, 0, 0],
            &[0x30, 0x81, 5],
            &[0x30, 0x83, 1, 0, 0],
        ] {
            assert!(
                matches!(trim_padding(bad), Err(TrimError::NotASequence { .. })),
                "{bad:?}"
            );
        }
    }
}
