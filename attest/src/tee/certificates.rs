//! Certificates as a platform or an operator gives them, as one record: DER one after the other.
//!
//! The table of a host (GHCB specification, 4.1.8.1; Linux gives it as `auxblob`): entries of 24 bytes (16 GUID, 4 offset,
//! 4 length, little endian) up to one of zeros, then the data. What a GUID calls a certificate is not relied on: it is
//! one if it is X.509, and a revocation list is none.

use touchstone_verifier::x509::Certificate;

use super::{MAX_BLOB, TeeError};

const ENTRY: usize = 24;
/// The most entries of a table; known ones have five.
const MAX_ENTRIES: usize = 16;

/// The certificates of a table, of DER one after the other, or of PEM. Nothing where there are no bytes.
///
/// # Errors
/// [`TeeError::Malformed`].
pub fn record(bytes: &[u8]) -> Result<Vec<u8>, TeeError> {
    if bytes.len() > MAX_BLOB {
        return Err(malformed("at most 32768 bytes", "more"));
    }
    let parts = match bytes {
        [] => Vec::new(),
        // A certificate is a SEQUENCE with a long length; no GUID of a table begins so.
        [0x30, 0x82, ..] => sequences(bytes)?,
        [b'-', ..] => pems(bytes)?,
        _ => table(bytes)?,
    };
    let certificates = parts.into_iter().filter(|der| Certificate::from_der(der).is_ok());
    Ok(certificates.flatten().collect())
}

/// The single certificates of a record.
#[must_use]
pub fn split(record: &[u8]) -> Vec<Vec<u8>> {
    sequences(record).unwrap_or_default()
}

fn table(bytes: &[u8]) -> Result<Vec<Vec<u8>>, TeeError> {
    let mut parts = Vec::new();
    let (entries, _) = bytes.as_chunks::<ENTRY>();
    for entry in entries {
        let (guid, place) = entry.split_at(16);
        if guid.iter().all(|byte| *byte == 0) {
            return Ok(parts);
        }
        if parts.len() == MAX_ENTRIES {
            return Err(malformed("at most 16 entries", "more"));
        }
        let (offset, length) = place.split_at(4);
        let number = |bytes: &[u8]| {
            let bytes = <[u8; 4]>::try_from(bytes).unwrap_or([0xFF; 4]);
            usize::try_from(u32::from_le_bytes(bytes)).unwrap_or(usize::MAX)
        };
        let (begin, length) = (number(offset), number(length));
        let part = begin.checked_add(length).and_then(|end| bytes.get(begin..end));
        let part = part.ok_or_else(|| malformed("entries within the table", "one outside it"))?;
        parts.push(part.to_vec());
    }
    Err(malformed("an entry of zeros at the end of the table", "none"))
}

fn sequences(mut rest: &[u8]) -> Result<Vec<Vec<u8>>, TeeError> {
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let [0x30, 0x82, high, low, ..] = rest else {
            return Err(malformed("DER certificates one after the other", "something else"));
        };
        let length = 4 + usize::from(u16::from_be_bytes([*high, *low]));
        let (part, behind) = rest
            .split_at_checked(length)
            .ok_or_else(|| malformed("a whole certificate", "one cut short"))?;
        if parts.len() == MAX_ENTRIES {
            return Err(malformed("at most 16 certificates", "more"));
        }
        parts.push(part.to_vec());
        rest = behind;
    }
    Ok(parts)
}

fn pems(bytes: &[u8]) -> Result<Vec<Vec<u8>>, TeeError> {
    let mut parts = Vec::new();
    for pem in x509_parser::pem::Pem::iter_from_buffer(bytes).take(MAX_ENTRIES) {
        let pem = pem.map_err(|error| malformed("PEM", &error.to_string()))?;
        parts.push(pem.contents);
    }
    Ok(parts)
}

fn malformed(expected: &str, found: &str) -> TeeError {
    TeeError::Malformed {
        what: "certificates",
        expected: expected.into(),
        found: found.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table_of(parts: &[&[u8]]) -> Vec<u8> {
        let mut offset = ENTRY * (parts.len() + 1);
        let (mut head, mut data) = (Vec::new(), Vec::new());
        for part in parts {
            head.extend([0xC0; 16]);
            head.extend((offset as u32).to_le_bytes());
            head.extend((part.len() as u32).to_le_bytes());
            data.extend_from_slice(part);
            offset += part.len();
        }
        [head, vec![0; ENTRY], data].concat()
    }

    #[test]
    fn a_table_gives_its_parts() {
        let bytes = table_of(&[b"one", b"other"]);
        assert_eq!(table(&bytes).unwrap(), [b"one".to_vec(), b"other".to_vec()]);
        assert_eq!(record(&bytes).unwrap(), b"", "neither is a certificate");
        assert_eq!(record(b"").unwrap(), b"");
    }

    #[test]
    fn hostile_tables() {
        let good = table_of(&[b"one", b"other"]);
        for cut in 1..good.len() {
            assert!(table(&good[..cut]).is_err(), "cut at {cut}");
        }
        let mut outside = good.clone();
        outside[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(table(&outside).is_err());
        let mut long = good;
        long[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(table(&long).is_err());
        let many = table_of(&[b"x".as_slice(); 17]);
        assert!(table(&many).is_err());
        assert!(record(&vec![0xC0; MAX_BLOB + 1]).is_err());
        assert!(record(&[0x30, 0x82, 0xFF, 0xFF, 0]).is_err());
    }
}
