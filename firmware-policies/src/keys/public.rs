//! Public keys of authors: their files, their TUF form and their ids.
//!
//! A file is a SubjectPublicKeyInfo in PEM (RFC 7468, RFC 8410, RFC 5480): Ed25519 or P-256. In TUF metadata they are
//! `ed25519` and `ecdsa` with `ecdsa-sha2-nistp256` (TUF 1.0.34, 4.2); a key id is the SHA-256 of that form.

use std::collections::HashMap;
use std::path::Path;

use touchstone_cose::key::VerifyingKey;
use tough::schema::key::{EcdsaKey, EcdsaScheme, Ed25519Key, Ed25519Scheme, Key};

use crate::error::{PolicyCode, PolicyError};
use crate::repository::write_file;
use crate::transport::bounded::read_bounded;

const LABEL: &str = "PUBLIC KEY";
/// Largest file of a public key.
pub const MAX_PUBLIC_FILE_LEN: u64 = 4096;
const SEC1_UNCOMPRESSED: u8 = 0x04;

/// Reads a public key file.
///
/// # Errors
/// [`PolicyError`]: `policy-io`, `policy-key-file-invalid`.
pub fn read(path: &Path) -> Result<VerifyingKey, PolicyError> {
    let bytes = read_bounded(path, MAX_PUBLIC_FILE_LEN).map_err(|e| PolicyError::io(path, "a public key", &e))?;
    let invalid = |found: String| {
        let expected = "an Ed25519 or P-256 public key in PEM";
        PolicyError::new(PolicyCode::KeyFileInvalid, path.display(), expected, found)
    };
    let pem = pem::parse(&bytes).map_err(|e| invalid(e.to_string()))?;
    if pem.tag() != LABEL {
        return Err(invalid(pem.tag().to_owned()));
    }
    let key = VerifyingKey::from_spki_der(pem.contents()).map_err(|e| invalid(e.to_string()))?;
    to_tuf(&key).map(|_| key)
}

/// Writes a public key file.
///
/// # Errors
/// [`PolicyError`] with `policy-io`.
pub fn write(path: &Path, key: &VerifyingKey) -> Result<(), PolicyError> {
    write_file(path, to_pem(key).as_bytes())
}

/// A public key as PEM.
pub fn to_pem(key: &VerifyingKey) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(LABEL, key.to_spki_der()), config)
}

/// A public key as TUF metadata names it.
///
/// # Errors
/// [`PolicyError`] with `policy-key-file-invalid` for a key that TUF has no scheme for (P-384).
pub fn to_tuf(key: &VerifyingKey) -> Result<Key, PolicyError> {
    match key {
        VerifyingKey::Ed25519(bytes) => Ok(Key::Ed25519 {
            keyval: Ed25519Key {
                public: bytes.to_vec().into(),
                _extra: HashMap::new(),
            },
            scheme: Ed25519Scheme::Ed25519,
            _extra: HashMap::new(),
        }),
        VerifyingKey::P256 { x, y } => Ok(Key::Ecdsa {
            keyval: EcdsaKey {
                public: [&[SEC1_UNCOMPRESSED], x.as_slice(), y].concat().into(),
                _extra: HashMap::new(),
            },
            scheme: EcdsaScheme::EcdsaSha2Nistp256,
            _extra: HashMap::new(),
        }),
        VerifyingKey::P384 { .. } => Err(PolicyError::new(
            PolicyCode::KeyFileInvalid,
            "public key",
            "an Ed25519 or P-256 key",
            "a P-384 key",
        )),
    }
}

/// The public key that TUF metadata names, where it is of a kind that our keys have. Members beyond the key itself are
/// left out, so that one key is one value however it is dressed.
pub(crate) fn from_tuf(key: &Key) -> Option<VerifyingKey> {
    match key {
        Key::Ed25519 { keyval, .. } => VerifyingKey::ed25519(keyval.public.as_ref().try_into().ok()?).ok(),
        Key::Ecdsa { keyval, .. } | Key::EcdsaOld { keyval, .. } => {
            let (form, point) = keyval.public.as_ref().split_first()?;
            let (x, y) = point.split_at_checked(32)?;
            if *form != SEC1_UNCOMPRESSED {
                return None;
            }
            VerifyingKey::p256(x.try_into().ok()?, y.try_into().ok()?).ok()
        }
        Key::Rsa { .. } => None,
    }
}

/// The TUF key id.
///
/// # Errors
/// As [`to_tuf`].
pub fn key_id(key: &VerifyingKey) -> Result<Vec<u8>, PolicyError> {
    let id = to_tuf(key)?.key_id();
    let id = id.map_err(|e| PolicyError::new(PolicyCode::KeyFileInvalid, "public key", "a TUF key", e))?;
    Ok(id.to_vec())
}

/// A signature as TUF metadata carries it: Ed25519 as it is, ECDSA in DER (RFC 3279, 2.2.3).
pub(super) fn tuf_signature(key: &VerifyingKey, raw: &[u8]) -> Vec<u8> {
    match key {
        VerifyingKey::Ed25519(_) => raw.to_vec(),
        VerifyingKey::P256 { .. } | VerifyingKey::P384 { .. } => {
            let (r, s) = raw.split_at(raw.len() / 2);
            let body = [integer(r), integer(s)].concat();
            // Two integers of at most 50 bytes: the length is one byte.
            [&[0x30, u8::try_from(body.len()).unwrap_or(u8::MAX)], body.as_slice()].concat()
        }
    }
}

/// Whether `signature`, as TUF metadata carries it, is this key's over `message`.
pub(crate) fn verifies(key: &VerifyingKey, message: &[u8], signature: &[u8]) -> bool {
    let raw = match key {
        VerifyingKey::Ed25519(_) => Some(signature.to_vec()),
        // Only the one encoding that is written: whatever reads loosely and writes the same again.
        VerifyingKey::P256 { .. } | VerifyingKey::P384 { .. } => {
            raw_signature(signature).filter(|raw| tuf_signature(key, raw) == signature)
        }
    };
    raw.is_some_and(|raw| key.verify(message, &raw).is_ok())
}

/// r || s of 32 bytes each out of a DER signature.
fn raw_signature(der: &[u8]) -> Option<Vec<u8>> {
    let mut rest = der.get(2..)?;
    let mut raw = Vec::with_capacity(64);
    for _ in 0..2 {
        let (len, tail) = rest.get(1).copied().zip(rest.get(2..))?;
        let (digits, tail) = tail.split_at_checked(usize::from(len))?;
        let zeros = digits.iter().take_while(|b| **b == 0).count();
        let digits = digits.get(zeros..)?;
        raw.resize(raw.len() + 32usize.checked_sub(digits.len())?, 0);
        raw.extend(digits);
        rest = tail;
    }
    Some(raw)
}

/// A positive INTEGER in DER: no leading zeros but one where the first bit is set.
fn integer(bytes: &[u8]) -> Vec<u8> {
    let digits: Vec<u8> = bytes.iter().copied().skip_while(|b| *b == 0).collect();
    let pad = digits.first().is_none_or(|b| b & 0x80 != 0);
    let len = digits.len() + usize::from(pad);
    let mut der = vec![0x02, u8::try_from(len).unwrap_or(u8::MAX)];
    if pad {
        der.push(0);
    }
    der.extend(digits);
    der
}

#[cfg(test)]
mod tests {
    use super::*;
    use touchstone_cose::key::SigningKey;

    #[test]
    fn a_public_key_file_is_read_as_written() {
        let dir = tempfile::tempdir().unwrap();
        let key = SigningKey::from_seed([7; 32]).verifying_key();
        let file = dir.path().join("targets-1.pub");
        write(&file, &key).unwrap();
        assert_eq!(read(&file).unwrap(), key);
        assert_eq!(from_tuf(&to_tuf(&key).unwrap()), Some(key));
        std::fs::write(&file, "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n").unwrap();
        assert_eq!(read(&file).unwrap_err().code(), PolicyCode::KeyFileInvalid);
        let private = SigningKey::from_seed([7; 32]).to_pkcs8_pem().unwrap();
        std::fs::write(&file, private.as_bytes()).unwrap();
        assert_eq!(read(&file).unwrap_err().code(), PolicyCode::KeyFileInvalid);
    }

    #[test]
    fn signatures_of_both_kinds_verify_and_no_other_encoding_does() {
        use touchstone_cose::key::Signer;
        let key = SigningKey::from_seed([7; 32]);
        let (public, raw) = (key.verifying_key(), key.sign(b"m").unwrap());
        assert!(verifies(&public, b"m", &tuf_signature(&public, &raw)));
        assert!(!verifies(&public, b"n", &raw) && !verifies(&public, b"m", &raw[1..]));
        // ECDSA: every raw form comes back from its DER, whatever leading zeros it has.
        let p256 = VerifyingKey::P256 { x: [0; 32], y: [0; 32] };
        for raw in [[0; 64], [0xff; 64], [0x7f; 64], [1; 64]] {
            let der = tuf_signature(&p256, &raw);
            assert_eq!(raw_signature(&der), Some(raw.to_vec()));
            for n in 0..der.len() {
                assert_eq!(raw_signature(&der[..n]), None, "{n}");
            }
        }
        assert_eq!(raw_signature(&[0x30, 37, 0x02, 35]), None);
    }

    proptest::proptest! {
        #[test]
        fn hostile_signatures_and_key_files_are_refused(bytes: Vec<u8>) {
            let key = SigningKey::from_seed([7; 32]).verifying_key();
            proptest::prop_assert!(!verifies(&key, b"m", &bytes));
            drop(raw_signature(&bytes));
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("x.pub");
            std::fs::write(&file, &bytes).unwrap();
            proptest::prop_assert!(read(&file).is_err());
        }
    }

    #[test]
    fn integers_of_a_signature_are_minimal_and_positive() {
        assert_eq!(integer(&[0, 0, 1]), [2, 1, 1]);
        assert_eq!(integer(&[0x80]), [2, 2, 0, 0x80]);
        assert_eq!(integer(&[0, 0]), [2, 1, 0]);
        assert_eq!(integer(&[0x7f, 0]), [2, 2, 0x7f, 0]);
    }
}
