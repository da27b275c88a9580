//! TPMT_PUBLIC: the public area of a TPM key, kept with the bytes it came as.
//!
//! A key's Name is the digest of exactly these bytes, so they are never re-serialised: what was received is what is
//! hashed. Source: TCG TPM 2.0 Library Part 2, 12.2.4; Part 1, 16 (Names).

use thiserror::Error;
use touchstone_cose::key::{KeyError, VerifyingKey};

use super::algorithm::{
    ALG_AES, ALG_CFB, ALG_ECC, ALG_ECDAA, ALG_ECDH, ALG_ECDSA, ALG_KEYEDHASH, ALG_NULL, ALG_OAEP, ALG_RSA, ALG_RSAES,
    ALG_RSAPSS, ALG_RSASSA, ALG_SYMCIPHER, Curve, HashAlg,
};
use super::attributes::ObjectAttributes;
use super::code::TpmCode;
use super::reader::{ReadError, Reader};
pub use super::scheme::{Scheme, SigningScheme, Symmetric};
use crate::x509::key::SubjectKey;

/// Longest public area read: an RSA-4096 key with a SHA-512 policy is below 700 bytes.
pub const MAX_PUBLIC_LEN: usize = 1024;
/// Longest RSA modulus in bytes (4096 bits).
pub const MAX_RSA_MODULUS_LEN: usize = 512;
/// Longest Name in bytes: a TPM_ALG_ID and a SHA-512 digest.
pub const MAX_NAME_LEN: usize = 2 + 64;
/// The exponent that 0 in a public area stands for.
pub const DEFAULT_RSA_EXPONENT: u32 = 65537;

/// Why bytes are not a public area that can be used here.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PublicError {
    /// The bytes are not a TPMT_PUBLIC.
    #[error("TPMT_PUBLIC: {0}")]
    Read(#[from] ReadError),
    /// Neither RSA nor ECC.
    #[error("object type: expected RSA or ECC, found {name} ({found:#06x})")]
    Type {
        /// Its TCG name where it is known.
        name: &'static str,
        /// The TPM_ALG_ID found.
        found: u16,
    },
    /// A hash that is not known here.
    #[error("{field}: expected SHA-256, SHA-384 or SHA-512, found {found:#06x}")]
    Hash {
        /// TCG name of the field.
        field: &'static str,
        /// The TPM_ALG_ID found.
        found: u16,
    },
    /// A curve that is not known here.
    #[error("curve: expected NIST P-256, P-384 or P-521, found {found:#06x}")]
    Curve {
        /// The TPM_ECC_CURVE found.
        found: u16,
    },
    /// A scheme, symmetric or key derivation algorithm that is not known here.
    #[error("{field}: found {found:#06x}, which is not supported")]
    Algorithm {
        /// TCG name of the field.
        field: &'static str,
        /// The TPM_ALG_ID found.
        found: u16,
    },
    /// The modulus has another size than keyBits says.
    #[error("RSA modulus: expected {expected} bits, found {found}")]
    ModulusSize {
        /// keyBits.
        expected: usize,
        /// Significant bits of the modulus.
        found: usize,
    },
}

impl PublicError {
    /// The stable code.
    pub const fn code(&self) -> TpmCode {
        match self {
            PublicError::Read(_) | PublicError::ModulusSize { .. } => TpmCode::StructureMalformed,
            PublicError::Hash { .. } => TpmCode::HashUnsupported,
            PublicError::Type { .. } | PublicError::Curve { .. } | PublicError::Algorithm { .. } => {
                TpmCode::KeyTypeUnsupported
            }
        }
    }

    /// What was expected and what was found.
    pub fn details(&self) -> (String, String) {
        match self {
            PublicError::Read(e) => e.details(),
            PublicError::Type { name, found } => ("an RSA or ECC key".into(), format!("{name} ({found:#06x})")),
            PublicError::Hash { field, found } => {
                (format!("{field} SHA-256, SHA-384 or SHA-512"), format!("{found:#06x}"))
            }
            PublicError::Curve { found } => ("curve P-256, P-384 or P-521".into(), format!("{found:#06x}")),
            PublicError::Algorithm { field, found } => (format!("a supported {field}"), format!("{found:#06x}")),
            PublicError::ModulusSize { expected, found } => {
                (format!("a modulus of {expected} bits"), format!("{found} bits"))
            }
        }
    }
}

/// The Name of an object: TPM_ALG_ID of its nameAlg, then the digest of its public area.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Vec<u8>);

impl Name {
    pub(crate) fn from_digest(alg: HashAlg, digest: &[u8]) -> Self {
        Name([&alg.tpm_id().to_be_bytes(), digest].concat())
    }

    /// The Name as the TPM writes it, 2 + digest length bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The Name as bytes that are kept.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

impl PartialEq<[u8]> for Name {
    fn eq(&self, other: &[u8]) -> bool {
        self.0 == other
    }
}

/// What is specific to the key's type, and the public key itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyParameters {
    /// An RSA key.
    Rsa {
        /// Modulus size in bits, as declared and as found.
        key_bits: u16,
        /// Public exponent as written; 0 stands for 65537.
        exponent: u32,
        /// Modulus, big-endian, `key_bits / 8` bytes.
        modulus: Vec<u8>,
    },
    /// An ECC key.
    Ecc {
        /// The curve.
        curve: Curve,
        /// Whether a key derivation scheme other than NULL is set.
        has_kdf: bool,
        /// x, big-endian, left-padded to the field's width.
        x: Vec<u8>,
        /// y, big-endian, left-padded to the field's width.
        y: Vec<u8>,
    },
}

/// A parsed public area and the bytes it was parsed from.
///
/// *Not yet trustworthy*: anyone can write these bytes. [`Public::check_ak`](super::checks) says whether they claim the
/// properties of an attestation key; only a completed activation shows that a TPM stands behind the claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Public {
    raw: Vec<u8>,
    /// The hash of the Name.
    pub name_alg: HashAlg,
    /// The object attributes.
    pub attributes: ObjectAttributes,
    /// The authorization policy digest; empty where there is none.
    pub auth_policy: Vec<u8>,
    /// The symmetric algorithm, for storage keys.
    pub symmetric: Symmetric,
    /// The scheme.
    pub scheme: Scheme,
    /// Type, parameters and public key.
    pub parameters: KeyParameters,
}

impl Public {
    /// Reads a TPMT_PUBLIC that fills `bytes` exactly.
    ///
    /// # Errors
    /// [`PublicError`] for anything but one whole RSA or ECC public area.
    pub fn parse(bytes: &[u8]) -> Result<Self, PublicError> {
        if bytes.len() > MAX_PUBLIC_LEN {
            let (limit, found) = (MAX_PUBLIC_LEN, bytes.len());
            return Err(ReadError::OverLimit {
                field: "TPMT_PUBLIC",
                offset: 0,
                limit,
                found,
            }
            .into());
        }
        let mut r = Reader::new(bytes);
        let object_type = r.u16("type")?;
        if !matches!(object_type, ALG_RSA | ALG_ECC) {
            let name = match object_type {
                ALG_KEYEDHASH => "KEYEDHASH",
                ALG_SYMCIPHER => "SYMCIPHER",
                _ => "unknown",
            };
            return Err(PublicError::Type {
                name,
                found: object_type,
            });
        }
        let name_alg = hash(&mut r, "nameAlg")?;
        let attributes = ObjectAttributes(r.u32("objectAttributes")?);
        let auth_policy = r.sized("authPolicy", HashAlg::Sha512.digest_len())?.to_vec();
        let symmetric = symmetric(&mut r)?;
        let (scheme, parameters) = if object_type == ALG_RSA {
            rsa(&mut r)?
        } else {
            ecc(&mut r)?
        };
        r.finish("TPMT_PUBLIC")?;
        Ok(Self {
            raw: bytes.to_vec(),
            name_alg,
            attributes,
            auth_policy,
            symmetric,
            scheme,
            parameters,
        })
    }

    /// Reads what tools write: a TPM2B_PUBLIC (two bytes of length that must fit exactly) or a bare TPMT_PUBLIC.
    ///
    /// The two cannot be confused: a TPMT_PUBLIC starts with 0x0001 or 0x0023, and no public area is 1 or 35 bytes long.
    ///
    /// # Errors
    /// [`PublicError`] as for [`Public::parse`]; a length that does not fit is reported.
    pub fn from_tpm2b_or_tpmt(bytes: &[u8]) -> Result<Self, PublicError> {
        let mut r = Reader::new(bytes);
        if matches!(r.u16("type")?, ALG_RSA | ALG_ECC | ALG_KEYEDHASH | ALG_SYMCIPHER) {
            return Self::parse(bytes);
        }
        let mut r = Reader::new(bytes);
        let inner = r.sized("TPM2B_PUBLIC", MAX_PUBLIC_LEN)?;
        r.finish("TPM2B_PUBLIC")?;
        Self::parse(inner)
    }

    /// The TPMT_PUBLIC exactly as received, without a length in front.
    pub fn as_bytes(&self) -> &[u8] {
        &self.raw
    }

    /// The object's Name: nameAlg and the digest of the received bytes.
    pub fn name(&self) -> Name {
        Name::from_digest(self.name_alg, self.name_alg.digest([self.raw.as_slice()]).as_ref())
    }

    /// The public key without its TPM attributes.
    pub fn subject_key(&self) -> SubjectKey {
        match &self.parameters {
            KeyParameters::Rsa { exponent, modulus, .. } => {
                let exponent = if *exponent == 0 {
                    DEFAULT_RSA_EXPONENT
                } else {
                    *exponent
                };
                SubjectKey::Rsa {
                    modulus: modulus.clone(),
                    exponent: exponent.into(),
                }
            }
            KeyParameters::Ecc { curve, x, y, .. } => SubjectKey::Ec {
                curve: *curve,
                x: x.clone(),
                y: y.clone(),
            },
        }
    }

    /// The public key as SubjectPublicKeyInfo (DER).
    pub fn to_spki_der(&self) -> Vec<u8> {
        self.subject_key().to_spki_der()
    }

    /// The public key as a COSE key, as an authorization's `cnf` names it; that it is on its curve is checked here.
    ///
    /// # Errors
    /// [`touchstone_cose::key::KeyError`] for RSA and P-521 keys, and for points that are not on the curve.
    pub fn to_cose_key(&self) -> Result<VerifyingKey, KeyError> {
        VerifyingKey::from_spki_der(&self.to_spki_der())
    }
}

fn hash(r: &mut Reader<'_>, field: &'static str) -> Result<HashAlg, PublicError> {
    let found = r.u16(field)?;
    HashAlg::from_tpm(found).ok_or(PublicError::Hash { field, found })
}

fn symmetric(r: &mut Reader<'_>) -> Result<Symmetric, PublicError> {
    const CAMELLIA: u16 = 0x0026;
    const SM4: u16 = 0x0013;
    match r.u16("symmetric")? {
        ALG_NULL => Ok(Symmetric::Null),
        algorithm @ (ALG_AES | CAMELLIA | SM4) => {
            let key_bits = r.u16("symmetric.keyBits")?;
            let mode = r.u16("symmetric.mode")?;
            Ok(match (algorithm, mode) {
                (ALG_AES, ALG_CFB) => Symmetric::AesCfb(key_bits),
                _ => Symmetric::Other(algorithm, key_bits, mode),
            })
        }
        found => Err(PublicError::Algorithm {
            field: "symmetric",
            found,
        }),
    }
}

fn rsa(r: &mut Reader<'_>) -> Result<(Scheme, KeyParameters), PublicError> {
    let scheme = match r.u16("scheme")? {
        ALG_NULL => Scheme::Null,
        ALG_RSASSA => Scheme::Signing(SigningScheme::RsaSsa(hash(r, "scheme.hash")?)),
        ALG_RSAPSS => Scheme::Signing(SigningScheme::RsaPss(hash(r, "scheme.hash")?)),
        ALG_RSAES => Scheme::Decryption(ALG_RSAES),
        ALG_OAEP => {
            hash(r, "scheme.hash")?;
            Scheme::Decryption(ALG_OAEP)
        }
        found => return Err(PublicError::Algorithm { field: "scheme", found }),
    };
    let key_bits = r.u16("keyBits")?;
    let exponent = r.u32("exponent")?;
    let modulus = r.sized("unique.rsa", MAX_RSA_MODULUS_LEN)?;
    let found = significant_bits(modulus);
    if found != usize::from(key_bits) || modulus.len() != found.div_ceil(8) {
        return Err(PublicError::ModulusSize {
            expected: key_bits.into(),
            found,
        });
    }
    Ok((
        scheme,
        KeyParameters::Rsa {
            key_bits,
            exponent,
            modulus: modulus.to_vec(),
        },
    ))
}

fn ecc(r: &mut Reader<'_>) -> Result<(Scheme, KeyParameters), PublicError> {
    let scheme = match r.u16("scheme")? {
        ALG_NULL => Scheme::Null,
        ALG_ECDSA => Scheme::Signing(SigningScheme::Ecdsa(hash(r, "scheme.hash")?)),
        ALG_ECDH => {
            hash(r, "scheme.hash")?;
            Scheme::Decryption(ALG_ECDH)
        }
        ALG_ECDAA => {
            hash(r, "scheme.hash")?;
            r.u16("scheme.count")?;
            Scheme::Other(ALG_ECDAA)
        }
        found => return Err(PublicError::Algorithm { field: "scheme", found }),
    };
    let found = r.u16("curveID")?;
    let curve = Curve::from_tpm(found).ok_or(PublicError::Curve { found })?;
    let has_kdf = r.u16("kdf")? != ALG_NULL;
    if has_kdf {
        hash(r, "kdf.hash")?;
    }
    let width = curve.field_len();
    let x = left_padded(r.sized("unique.x", width)?, width);
    let y = left_padded(r.sized("unique.y", width)?, width);
    Ok((scheme, KeyParameters::Ecc { curve, has_kdf, x, y }))
}

/// `bytes` with zeros in front, `width` long; the caller has checked that they are not longer.
pub(crate) fn left_padded(bytes: &[u8], width: usize) -> Vec<u8> {
    let mut padded = vec![0; width.saturating_sub(bytes.len())];
    padded.extend_from_slice(bytes);
    padded
}

fn significant_bits(number: &[u8]) -> usize {
    match number.iter().position(|&b| b != 0) {
        Some(first) => {
            let top = number.get(first).map_or(0, |b| b.leading_zeros() as usize);
            (number.len() - first) * 8 - top
        }
        None => 0,
    }
}
