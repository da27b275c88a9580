//! A public key, whatever it came in: a certificate, a PEM file or a TPM's public area.
//!
//! Source: RFC 5280 4.1.2.7, RFC 8017 A.1.1, RFC 5480 2; RFC 4055 1.2 for EK certificates whose key is marked
//! id-RSAES-OAEP.

use aws_lc_rs::digest::Digest;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P256_SHA512_ASN1, ECDSA_P384_SHA256_ASN1,
    ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA512_ASN1, ECDSA_P521_SHA256_ASN1, ECDSA_P521_SHA384_ASN1,
    ECDSA_P521_SHA512_ASN1, EcdsaVerificationAlgorithm, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512,
    RsaParameters, RsaPssSaltLength, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use thiserror::Error;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::RSAPublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::der::{TAG_BIT_STRING, TAG_NULL, TAG_OID, TAG_SEQUENCE, element, unsigned_integer, without_leading_zeros};
use crate::tpm::algorithm::{Curve, HashAlg};

const RSA_ENCRYPTION: &str = "1.2.840.113549.1.1.1";
const RSAES_OAEP: &str = "1.2.840.113549.1.1.7";
const EC_PUBLIC_KEY: &str = "1.2.840.10045.2.1";
const OID_RSA_ENCRYPTION: [u8; 9] = [0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 1];
const OID_EC_PUBLIC_KEY: [u8; 7] = [0x2A, 0x86, 0x48, 0xCE, 0x3D, 2, 1];
const UNCOMPRESSED_POINT: u8 = 0x04;

/// Longest RSA modulus in bytes (8192 bits), the largest the signature verification takes.
pub const MAX_MODULUS_LEN: usize = 1024;

/// Why bytes are not a public key that can be used here.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not one SubjectPublicKeyInfo.
    #[error("expected a DER SubjectPublicKeyInfo, found bytes that are none")]
    Malformed,
    /// A key of another kind.
    #[error("expected an RSA or NIST-curve key, found algorithm {found}")]
    Unsupported {
        /// The object identifier found.
        found: String,
    },
    /// An RSA modulus or exponent that no RSA key has.
    #[error("expected an RSA key of at most 8192 bits with an exponent below 2^33, found another")]
    Rsa,
    /// A point in another form than uncompressed, or of another length.
    #[error("expected an uncompressed point of {curve}, found {found} bytes of another form")]
    Point {
        /// The curve.
        curve: Curve,
        /// Length of the point found.
        found: usize,
    },
}

/// A signature algorithm, as a verifier names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SignatureAlgorithm {
    /// RSASSA-PKCS1-v1_5.
    RsaPkcs1(HashAlg),
    /// RSASSA-PSS, MGF1 with the same hash.
    RsaPss(HashAlg, SaltLength),
    /// ECDSA; the signature is a DER SEQUENCE of r and s.
    Ecdsa(HashAlg),
}

/// The salt length of an RSASSA-PSS signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SaltLength {
    /// The digest's length (RFC 4055 recommends it; X.509).
    Digest,
    /// The digest's length, or the most that fits: TPMs differ (TPM 2.0 Library Part 1, B.7).
    DigestOrMax,
}

/// Why a signature was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// Key and algorithm do not fit, or the hash is SHA-1.
    #[error("the algorithm does not fit the key or is too weak")]
    Unsupported,
    /// The signature is not one of these bytes by this key.
    #[error("the signature does not verify")]
    Invalid,
}

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SubjectKey {
    /// RSA.
    Rsa {
        /// Modulus, big-endian, without leading zeros.
        modulus: Vec<u8>,
        /// Public exponent.
        exponent: u64,
    },
    /// A point on a NIST curve. That it lies on the curve is checked wherever it is used.
    Ec {
        /// The curve.
        curve: Curve,
        /// x, of the field's width.
        x: Vec<u8>,
        /// y, of the field's width.
        y: Vec<u8>,
    },
}

impl SubjectKey {
    /// Reads a SubjectPublicKeyInfo (DER) that fills `der` exactly.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_spki_der(der: &[u8]) -> Result<Self, KeyError> {
        match SubjectPublicKeyInfo::from_der(der) {
            Ok(([], spki)) => Self::from_spki(&spki),
            _ => Err(KeyError::Malformed),
        }
    }

    pub(crate) fn from_spki(spki: &SubjectPublicKeyInfo<'_>) -> Result<Self, KeyError> {
        let algorithm = spki.algorithm.algorithm.to_id_string();
        let key = spki.subject_public_key.data.as_ref();
        match algorithm.as_str() {
            RSA_ENCRYPTION | RSAES_OAEP => {
                let Ok(([], rsa)) = RSAPublicKey::from_der(key) else {
                    return Err(KeyError::Malformed);
                };
                let modulus = without_leading_zeros(rsa.modulus).to_vec();
                let exponent = rsa.try_exponent().map_err(|_| KeyError::Rsa)?;
                if modulus.is_empty() || modulus.len() > MAX_MODULUS_LEN || exponent >= 1 << 33 {
                    return Err(KeyError::Rsa);
                }
                Ok(SubjectKey::Rsa { modulus, exponent })
            }
            EC_PUBLIC_KEY => {
                let parameters = spki.algorithm.parameters.as_ref().ok_or(KeyError::Malformed)?;
                let found = parameters.as_oid().map_err(|_| KeyError::Malformed)?.to_id_string();
                let curve = match found.as_str() {
                    "1.2.840.10045.3.1.7" => Curve::P256,
                    "1.3.132.0.34" => Curve::P384,
                    "1.3.132.0.35" => Curve::P521,
                    _ => return Err(KeyError::Unsupported { found }),
                };
                let bad_point = KeyError::Point {
                    curve,
                    found: key.len(),
                };
                match key.split_first() {
                    Some((&UNCOMPRESSED_POINT, xy)) if xy.len() == 2 * curve.field_len() => {
                        let (x, y) = xy.split_at_checked(curve.field_len()).ok_or(bad_point)?;
                        Ok(SubjectKey::Ec {
                            curve,
                            x: x.to_vec(),
                            y: y.to_vec(),
                        })
                    }
                    _ => Err(bad_point),
                }
            }
            _ => Err(KeyError::Unsupported { found: algorithm }),
        }
    }

    /// The key as SubjectPublicKeyInfo (DER): rsaEncryption with NULL, or id-ecPublicKey with the named curve and the
    /// uncompressed point. One key has one form here, so that its digest can name it, however a certificate marked it.
    pub fn to_spki_der(&self) -> Vec<u8> {
        match self {
            SubjectKey::Rsa { modulus, exponent } => {
                let key = element(
                    TAG_SEQUENCE,
                    &[&unsigned_integer(modulus), &unsigned_integer(&exponent.to_be_bytes())],
                );
                let algorithm = [element(TAG_OID, &[&OID_RSA_ENCRYPTION]), element(TAG_NULL, &[])].concat();
                spki(&algorithm, &key)
            }
            SubjectKey::Ec { curve, .. } => {
                let curve_oid: &[u8] = match curve {
                    Curve::P256 => &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 3, 1, 7],
                    Curve::P384 => &[0x2B, 0x81, 4, 0, 0x22],
                    Curve::P521 => &[0x2B, 0x81, 4, 0, 0x23],
                };
                let algorithm = [element(TAG_OID, &[&OID_EC_PUBLIC_KEY]), element(TAG_OID, &[curve_oid])].concat();
                spki(&algorithm, &self.uncompressed_point())
            }
        }
    }

    /// SHA-256 of [`to_spki_der`](SubjectKey::to_spki_der): how the inventory names a key.
    pub fn spki_sha256(&self) -> [u8; 32] {
        let mut id = [0; 32];
        id.copy_from_slice(HashAlg::Sha256.digest([self.to_spki_der().as_slice()]).as_ref());
        id
    }

    /// The point as 04 ‖ x ‖ y; empty for an RSA key.
    pub(crate) fn uncompressed_point(&self) -> Vec<u8> {
        match self {
            SubjectKey::Rsa { .. } => Vec::new(),
            SubjectKey::Ec { x, y, .. } => [&[UNCOMPRESSED_POINT], x.as_slice(), y].concat(),
        }
    }

    /// Checks `signature` over `message`.
    ///
    /// # Errors
    /// [`VerifyError`]; RSA keys below 2048 bits and SHA-1 are never accepted.
    pub fn verify(&self, algorithm: SignatureAlgorithm, message: &[u8], signature: &[u8]) -> Result<(), VerifyError> {
        match (self, algorithm) {
            (SubjectKey::Rsa { modulus, exponent }, SignatureAlgorithm::RsaPkcs1(hash)) => {
                let parameters = match hash {
                    HashAlg::Sha1 => return Err(VerifyError::Unsupported),
                    HashAlg::Sha256 => &RSA_PKCS1_2048_8192_SHA256,
                    HashAlg::Sha384 => &RSA_PKCS1_2048_8192_SHA384,
                    HashAlg::Sha512 => &RSA_PKCS1_2048_8192_SHA512,
                };
                verify_rsa(modulus, *exponent, parameters, message, signature)
            }
            (SubjectKey::Rsa { modulus, exponent }, SignatureAlgorithm::RsaPss(hash, salt)) => {
                let digest_salt = match hash {
                    HashAlg::Sha1 => return Err(VerifyError::Unsupported),
                    HashAlg::Sha256 => RSA_PSS_2048_8192_SHA256,
                    HashAlg::Sha384 => RSA_PSS_2048_8192_SHA384,
                    HashAlg::Sha512 => RSA_PSS_2048_8192_SHA512,
                };
                let first = verify_rsa(modulus, *exponent, &digest_salt, message, signature);
                if first.is_ok() || salt == SaltLength::Digest {
                    return first;
                }
                let max_salt = digest_salt.with_pss_salt_length(RsaPssSaltLength::Max);
                verify_rsa(modulus, *exponent, &max_salt, message, signature)
            }
            (SubjectKey::Ec { curve, .. }, SignatureAlgorithm::Ecdsa(hash)) => {
                let algorithm = ecdsa(*curve, hash).ok_or(VerifyError::Unsupported)?;
                let key = UnparsedPublicKey::new(algorithm, self.uncompressed_point());
                key.verify(message, signature).map_err(|_| VerifyError::Invalid)
            }
            _ => Err(VerifyError::Unsupported),
        }
    }

    /// Checks `signature` over a message of which only the digest is known: RSASSA-PKCS1-v1_5, or ECDSA in DER.
    ///
    /// # Errors
    /// [`VerifyError`]; RSA keys below 2048 bits, SHA-1, and a digest of another length are never accepted.
    pub fn verify_digest(&self, hash: HashAlg, digest: &[u8], signature: &[u8]) -> Result<(), VerifyError> {
        let digest = Digest::import_less_safe(digest, hash.algorithm()).map_err(|_| VerifyError::Unsupported)?;
        let algorithm: &'static dyn VerificationAlgorithm = match (self, hash) {
            (_, HashAlg::Sha1) => return Err(VerifyError::Unsupported),
            (SubjectKey::Rsa { .. }, HashAlg::Sha256) => &RSA_PKCS1_2048_8192_SHA256,
            (SubjectKey::Rsa { .. }, HashAlg::Sha384) => &RSA_PKCS1_2048_8192_SHA384,
            (SubjectKey::Rsa { .. }, HashAlg::Sha512) => &RSA_PKCS1_2048_8192_SHA512,
            (SubjectKey::Ec { curve, .. }, hash) => ecdsa(*curve, hash).ok_or(VerifyError::Unsupported)?,
        };
        UnparsedPublicKey::new(algorithm, self.to_spki_der())
            .verify_digest(&digest, signature)
            .map_err(|_| VerifyError::Invalid)
    }

    /// The kind of key in words: `RSA-2048`, `P-256`.
    pub fn describe(&self) -> String {
        match self {
            SubjectKey::Rsa { modulus, .. } => {
                let unused = modulus.first().map_or(0, |b| b.leading_zeros() as usize);
                format!("RSA-{}", modulus.len() * 8 - unused)
            }
            SubjectKey::Ec { curve, .. } => curve.to_string(),
        }
    }
}

fn spki(algorithm: &[u8], key: &[u8]) -> Vec<u8> {
    let algorithm = element(TAG_SEQUENCE, &[algorithm]);
    let key = element(TAG_BIT_STRING, &[&[0], key]);
    element(TAG_SEQUENCE, &[&algorithm, &key])
}

fn verify_rsa(
    modulus: &[u8],
    exponent: u64,
    parameters: &RsaParameters,
    message: &[u8],
    signature: &[u8],
) -> Result<(), VerifyError> {
    let exponent = exponent.to_be_bytes();
    let key = RsaPublicKeyComponents {
        n: modulus,
        e: without_leading_zeros(&exponent),
    };
    key.verify(parameters, message, signature)
        .map_err(|_| VerifyError::Invalid)
}

fn ecdsa(curve: Curve, hash: HashAlg) -> Option<&'static EcdsaVerificationAlgorithm> {
    Some(match (curve, hash) {
        (_, HashAlg::Sha1) => return None,
        (Curve::P256, HashAlg::Sha256) => &ECDSA_P256_SHA256_ASN1,
        (Curve::P256, HashAlg::Sha384) => &ECDSA_P256_SHA384_ASN1,
        (Curve::P256, HashAlg::Sha512) => &ECDSA_P256_SHA512_ASN1,
        (Curve::P384, HashAlg::Sha256) => &ECDSA_P384_SHA256_ASN1,
        (Curve::P384, HashAlg::Sha384) => &ECDSA_P384_SHA384_ASN1,
        (Curve::P384, HashAlg::Sha512) => &ECDSA_P384_SHA512_ASN1,
        (Curve::P521, HashAlg::Sha256) => &ECDSA_P521_SHA256_ASN1,
        (Curve::P521, HashAlg::Sha384) => &ECDSA_P521_SHA384_ASN1,
        (Curve::P521, HashAlg::Sha512) => &ECDSA_P521_SHA512_ASN1,
    })
}
