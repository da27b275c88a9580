//! Signatures of files: keys that a domain lists, and the value of security.ima.
//!
//! Source: Linux, security/integrity/integrity.h (struct signature_v2_hdr), include/uapi/linux/hash_info.h (numbers of
//! hashes), security/integrity/ima/ima_appraise.c (calc_file_id_hash, fs-verity). The signature is over the file's
//! digest, not over the file.

use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::tpm::HashAlg;
use crate::x509::SubjectKey;
use crate::x509::key::{KeyError, VerifyError};

/// security.ima: signature over the file's digest.
const DIGSIG: u8 = 0x03;
/// security.evm: portable signature over the inode's attributes.
const EVM_PORTABLE: u8 = 0x05;
/// security.ima: signature over the fs-verity digest.
const VERITY_DIGSIG: u8 = 0x06;
/// Version of the header for [`DIGSIG`].
const VERSION_DIGEST: u8 = 2;
/// Version of the header where the signed digest is that of a small structure.
const VERSION_FILE_ID: u8 = 3;
/// Kind, version, hash, key id, length.
const HEADER: usize = 9;
/// Bytes of a key id.
const KEY_ID: usize = 4;

/// A key that signs files.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImaKey {
    name: String,
    key: SubjectKey,
    ids: Vec<[u8; KEY_ID]>,
}

impl ImaKey {
    /// A key from a SubjectPublicKeyInfo (DER). Its id is the end of the SHA-1 of the key's bits, as evmctl computes it.
    ///
    /// # Errors
    /// [`KeyError`]: not an RSA or NIST-curve key.
    pub fn from_spki_der(name: &str, der: &[u8]) -> Result<Self, KeyError> {
        let Ok(([], spki)) = SubjectPublicKeyInfo::from_der(der) else {
            return Err(KeyError::Malformed);
        };
        Self::new(name, SubjectKey::from_spki_der(der)?, &spki, None)
    }

    /// A key from an X.509 certificate (DER). The end of its subject key identifier counts as an id too: that is what
    /// the kernel looks a key up by. Nothing else of the certificate counts.
    ///
    /// # Errors
    /// [`KeyError`]: no certificate, or not of an RSA or NIST-curve key.
    pub fn from_certificate_der(name: &str, der: &[u8]) -> Result<Self, KeyError> {
        let Ok(([], certificate)) = x509_parser::certificate::X509Certificate::from_der(der) else {
            return Err(KeyError::Malformed);
        };
        let spki = &certificate.tbs_certificate.subject_pki;
        let identifier = certificate
            .extensions()
            .iter()
            .find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(identifier) => identifier.0.last_chunk().copied(),
                _ => None,
            });
        Self::new(name, SubjectKey::from_spki_der(spki.raw)?, spki, identifier)
    }

    fn new(
        name: &str,
        key: SubjectKey,
        spki: &SubjectPublicKeyInfo<'_>,
        identifier: Option<[u8; KEY_ID]>,
    ) -> Result<Self, KeyError> {
        let digest = HashAlg::Sha1.digest([spki.subject_public_key.data.as_ref()]);
        let mut ids: Vec<[u8; KEY_ID]> = digest
            .as_ref()
            .last_chunk()
            .copied()
            .into_iter()
            .chain(identifier)
            .collect();
        ids.dedup();
        Ok(Self {
            name: name.to_owned(),
            key,
            ids,
        })
    }

    /// What the domain calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key.
    pub fn key(&self) -> &SubjectKey {
        &self.key
    }

    /// By which ids signatures name it.
    pub fn ids(&self) -> &[[u8; KEY_ID]] {
        &self.ids
    }
}

/// What a signature is worth under a list of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignedBy<'k> {
    /// This key signed the digest.
    Key(&'k ImaKey),
    /// It names a key that is not listed.
    UnknownKey([u8; KEY_ID]),
    /// It names a listed key that did not sign this digest.
    Invalid(&'k ImaKey),
    /// It is of a kind that is not judged here.
    Unsupported(&'static str),
}

/// Looks at the value of security.ima beside a digest.
pub fn signed_by<'k>(
    keys: &'k [ImaKey],
    signature: &[u8],
    algorithm: Option<HashAlg>,
    digest: &[u8],
    verity: bool,
) -> SignedBy<'k> {
    let Some((&[kind, version, hash, a, b, c, d, high, low], value)) = signature.split_first_chunk::<HEADER>() else {
        return SignedBy::Unsupported("no signature of a kind that is known");
    };
    let file_id = match (kind, version, verity) {
        (DIGSIG, VERSION_DIGEST, false) => false,
        (VERITY_DIGSIG, VERSION_FILE_ID, true) => true,
        (EVM_PORTABLE, ..) => return SignedBy::Unsupported("a portable EVM signature, which does not sign the digest"),
        (VERITY_DIGSIG, ..) => return SignedBy::Unsupported("a signature for fs-verity beside another digest"),
        _ => return SignedBy::Unsupported("a signature of another kind or version"),
    };
    if value.len() != usize::from(u16::from_be_bytes([high, low])) {
        return SignedBy::Unsupported("a signature whose length is not the one it states");
    }
    let hash = match hash {
        4 => HashAlg::Sha256,
        5 => HashAlg::Sha384,
        6 => HashAlg::Sha512,
        _ => return SignedBy::Unsupported("a signature over a digest that is not of the SHA-2 family"),
    };
    if algorithm != Some(hash) {
        return SignedBy::Unsupported("a signature over a digest of another algorithm than the entry's");
    }
    let id = [a, b, c, d];
    let mut named = None;
    for key in keys.iter().filter(|key| key.ids.contains(&id)) {
        named.get_or_insert(key);
        let verified = if file_id {
            // struct ima_file_id: kind of the signature, number of the hash, digest.
            let number = signature.get(2).copied().unwrap_or_default();
            let signed = hash.digest([&[VERITY_DIGSIG, number][..], digest]);
            key.verify(hash, signed.as_ref(), value)
        } else {
            key.verify(hash, digest, value)
        };
        if verified.is_ok() {
            return SignedBy::Key(key);
        }
    }
    named.map_or(SignedBy::UnknownKey(id), SignedBy::Invalid)
}

impl ImaKey {
    fn verify(&self, hash: HashAlg, digest: &[u8], signature: &[u8]) -> Result<(), VerifyError> {
        self.key.verify_digest(hash, digest, signature)
    }
}
