//! The keys whose signatures on files count: targets `ima-keys/<sha256>.der`, each an X.509 certificate or a
//! SubjectPublicKeyInfo, as the kernel's tools (evmctl) and distributions hand them out.
//!
//! A certificate stands for its key alone: its dates and issuer are not looked at, as the kernel does not either once a
//! key is on its keyring. What counts is that the author of the policy signed it.

use sha2::{Digest, Sha256};
use touchstone_verifier::ima::ImaKey;
use touchstone_verifier::x509::{Certificate, SubjectKey};

use crate::error::{PolicyCode, PolicyError};
use crate::layout::TargetKind;

/// Most keys of a domain.
pub const MAX_IMA_KEYS: usize = 64;
/// Shortest RSA modulus whose signatures count, in bytes (2048 bits).
const MIN_MODULUS_LEN: usize = 256;

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

/// A key that is strong enough, from a certificate or a SubjectPublicKeyInfo.
pub(crate) fn read_key(der: &[u8]) -> Result<SubjectKey, String> {
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

/// A key in words.
pub(crate) fn words(key: &SubjectKey) -> String {
    let kind = match key {
        SubjectKey::Rsa { modulus, .. } => format!("RSA {}", modulus.len() * 8),
        SubjectKey::Ec { curve, .. } => format!("EC {curve}"),
    };
    let digest = hex::encode(key.spki_sha256());
    format!("{kind} {}", digest.get(..16).unwrap_or_default())
}

pub(crate) fn unreadable(claim: &str, found: String) -> PolicyError {
    let expected = "X.509 certificates or public keys, RSA of 2048 bits or more or a NIST curve";
    PolicyError::new(PolicyCode::ImaKeyUnreadable, claim, expected, found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::boot_file;

    #[test]
    fn a_target_is_what_its_name_says() {
        let der = boot_file("good", "ek-rsa-cert.der");
        let digest = Sha256::digest(&der).into();
        assert!(parse(&digest, &der).is_ok());
        assert_eq!(parse(&[0; 32], &der).unwrap_err().code(), PolicyCode::ImaKeyUnreadable);
    }
}
