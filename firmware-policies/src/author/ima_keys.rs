//! Staging of [keys whose signatures on files count](crate::targets::ima_keys).

use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::author::evidence::is_pem;
use crate::error::{PolicyCode, PolicyError};
use crate::layout::TargetKind;
use crate::repository::Repository;
use crate::targets::ima_keys::{MAX_IMA_KEYS, read_key, unreadable, words};
use crate::transport::bounded::read_bounded;

/// Largest file of keys.
pub const MAX_KEY_FILE_LEN: u64 = 1 << 20;

/// The keys [`ima_key_add`] staged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImaKeysAdded {
    /// Each key in words, and its target.
    pub keys: Vec<(String, String)>,
}

/// Stages keys from files, DER or PEM (`CERTIFICATE` or `PUBLIC KEY`; several in one PEM file are all taken).
///
/// # Errors
/// [`PolicyError`] `policy-ima-key-unreadable`, `policy-targets-too-many`, or file errors; then nothing is staged.
pub fn ima_key_add(repo: &Path, files: &[PathBuf]) -> Result<ImaKeysAdded, PolicyError> {
    let repository = Repository::open(repo)?;
    let mut read = Vec::new();
    for path in files {
        let bytes = read_bounded(path, MAX_KEY_FILE_LEN).map_err(|e| PolicyError::io(path, "a key file", &e))?;
        let unreadable = |found: String| unreadable(&path.display().to_string(), found);
        for der in ders_in(&bytes).map_err(unreadable)? {
            read.push((read_key(&der).map_err(unreadable)?, der));
        }
    }
    if read.is_empty() {
        return Err(unreadable("IMA keys", "none".into()));
    }
    let mut next = repository.next()?;
    let mut staged = Vec::new();
    for (key, der) in read {
        let kind = TargetKind::ImaKey(Sha256::digest(&der).into());
        next.insert(kind.clone(), Vec::new());
        staged.push((kind, words(&key), der));
    }
    let count = next.keys().filter(|kind| matches!(kind, TargetKind::ImaKey(_))).count();
    if count > MAX_IMA_KEYS {
        let expected = format!("at most {MAX_IMA_KEYS}");
        return Err(PolicyError::new(
            PolicyCode::TargetsTooMany,
            "IMA keys",
            expected,
            count,
        ));
    }
    let keys = staged
        .into_iter()
        .map(|(kind, words, der)| Ok((words, repository.stage(&kind, &der)?)));
    Ok(ImaKeysAdded {
        keys: keys.collect::<Result<_, PolicyError>>()?,
    })
}

fn ders_in(bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    if !is_pem(bytes) {
        return Ok(vec![bytes.to_vec()]);
    }
    let blocks = pem::parse_many(bytes).map_err(|e| e.to_string())?;
    match blocks.iter().find(|b| !matches!(b.tag(), "CERTIFICATE" | "PUBLIC KEY")) {
        Some(block) => Err(format!("PEM of {}", block.tag())),
        None if blocks.is_empty() => Err("PEM without a whole block".into()),
        None => Ok(blocks.into_iter().map(pem::Pem::into_contents).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestRepo, boot_file, boots};

    fn file(test: &TestRepo, name: &str, bytes: &[u8]) -> PathBuf {
        let path = test.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn certificates_and_public_keys_of_either_form_are_taken_and_load() {
        let test = TestRepo::published();
        let der = file(&test, "cert.der", &boot_file("good", "ek-rsa-cert.der"));
        let pem = file(&test, "key.pem", &boot_file("good", "ak-ecc.pem"));
        let added = ima_key_add(&test.repo, &[der, pem, boots().join("ca/issuercert.pem")]).unwrap();
        assert_eq!(added.keys.len(), 3);
        assert!(
            added.keys[0].0.starts_with("RSA 2048 ") && added.keys[1].0.starts_with("EC "),
            "{added:?}"
        );
        assert!(added.keys.iter().all(|(_, target)| target.starts_with("ima-keys/")));
        test.publish(crate::testing::NOW).unwrap();
        test.load(crate::testing::NOW).unwrap();
    }

    #[test]
    fn what_is_no_strong_public_key_is_refused_and_nothing_staged() {
        let test = TestRepo::published();
        // A 1024-bit modulus in a SubjectPublicKeyInfo (RFC 8017, A.1.1).
        let mut weak = hex::decode("30819f300d06092a864886f70d010101050003818d0030818902818100").unwrap();
        weak.extend([0xC1; 128]);
        weak.extend([2, 3, 1, 0, 1]);
        let good = file(&test, "good.der", &boot_file("good", "ek-rsa-cert.der"));
        let private = pem::encode(&pem::Pem::new("PRIVATE KEY", vec![0x30, 0]));
        for (name, bytes) in [
            ("empty", Vec::new()),
            ("weak", weak),
            ("private", private.into_bytes()),
            ("cut", boot_file("good", "ek-rsa-cert.der")[..100].to_vec()),
            ("text", b"-----BEGIN CERTIFICATE-----\n".to_vec()),
        ] {
            let bad = file(&test, name, &bytes);
            let error = ima_key_add(&test.repo, &[good.clone(), bad]).unwrap_err();
            assert_eq!(error.code(), PolicyCode::ImaKeyUnreadable, "{name}: {error}");
            assert!(!test.staged("ima-keys").exists(), "{name}");
        }
    }
}
