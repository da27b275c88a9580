//! The keys whose signatures on files count: targets `ima-keys/<sha256>.der`, each an X.509 certificate or a
//! SubjectPublicKeyInfo, as the kernel's tools (evmctl) and distributions hand them out.
//!
//! A certificate stands for its key alone: its dates and issuer are not looked at, as the kernel does not either once a
//! key is on its keyring. What counts is that the author of the policy signed it.

use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest, Sha256};
use touchstone_verifier::ima::ImaKey;
use touchstone_verifier::x509::{Certificate, SubjectKey};

use crate::error::{PolicyCode, PolicyError};
use crate::evidence::is_pem;
use crate::files::read_bounded;
use crate::layout::TargetKind;
use crate::repository::Repository;

/// Largest file of keys.
pub const MAX_KEY_FILE_LEN: u64 = 1 << 20;
/// Most keys of a domain.
pub const MAX_IMA_KEYS: usize = 64;
/// Shortest RSA modulus whose signatures count, in bytes (2048 bits).
const MIN_MODULUS_LEN: usize = 256;

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

/// The key of a target.
///
/// # Errors
/// `policy-ima-key-unreadable` where it is none, is too weak, or is not what its name says.
pub(crate) fn parse(digest: &[u8; 32], der: &[u8]) -> Result<ImaKey, PolicyError> {
    let name = TargetKind::ImaKey(*digest).name();
    let found: [u8; 32] = Sha256::digest(der).into();
    if found != *digest {
        let expected = hex::encode(digest);
        return Err(PolicyError::new(
            PolicyCode::ImaKeyUnreadable,
            name,
            expected,
            hex::encode(found),
        ));
    }
    let key = read_key(der).map_err(|found| unreadable(&name, found))?;
    // A certificate may name its key by an id of its own, which signatures then carry.
    ImaKey::from_certificate_der(&words(&key), der)
        .or_else(|_| ImaKey::from_spki_der(&words(&key), der))
        .map_err(|error| unreadable(&name, error.to_string()))
}

fn unreadable(claim: &str, found: String) -> PolicyError {
    let expected = "X.509 certificates or public keys, RSA of 2048 bits or more or a NIST curve";
    PolicyError::new(PolicyCode::ImaKeyUnreadable, claim, expected, found)
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

fn read_key(der: &[u8]) -> Result<SubjectKey, String> {
    let key = match Certificate::from_der(der) {
        Ok(certificate) => certificate.key().clone(),
        Err(_) => SubjectKey::from_spki_der(der).map_err(|e| e.to_string())?,
    };
    match &key {
        SubjectKey::Rsa { modulus, .. } if modulus.len() < MIN_MODULUS_LEN => {
            Err(format!("RSA of {} bits", modulus.len() * 8))
        }
        _ => Ok(key),
    }
}

fn words(key: &SubjectKey) -> String {
    let kind = match key {
        SubjectKey::Rsa { modulus, .. } => format!("RSA {}", modulus.len() * 8),
        SubjectKey::Ec { curve, .. } => format!("EC {curve}"),
    };
    let digest = hex::encode(key.spki_sha256());
    format!("{kind} {}", digest.get(..16).unwrap_or_default())
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

    #[test]
    fn a_target_is_what_its_name_says() {
        let der = boot_file("good", "ek-rsa-cert.der");
        let digest = Sha256::digest(&der).into();
        assert!(parse(&digest, &der).is_ok());
        assert_eq!(parse(&[0; 32], &der).unwrap_err().code(), PolicyCode::ImaKeyUnreadable);
    }
}
