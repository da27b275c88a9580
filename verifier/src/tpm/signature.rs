//! TPMT_SIGNATURE: reading it and checking it against a key.
//!
//! Source: TCG TPM 2.0 Library Part 2, 11.3.4; standards.md C.11.1.

use thiserror::Error;

use super::algorithm::{ALG_ECDSA, ALG_RSAPSS, ALG_RSASSA, HashAlg};
use super::code::TpmCode;
use super::public::{MAX_RSA_MODULUS_LEN, SigningScheme, left_padded};
use super::reader::{ReadError, Reader};
use crate::x509::der::{TAG_SEQUENCE, element, unsigned_integer, without_leading_zeros};
use crate::x509::key::{SaltLength, SignatureAlgorithm, SubjectKey, VerifyError};

/// Widest r or s read: P-521.
const MAX_SCALAR_LEN: usize = 66;

/// Why a signature was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// The bytes are not a TPMT_SIGNATURE.
    #[error("TPMT_SIGNATURE: {0}")]
    Read(#[from] ReadError),
    /// A signature algorithm that is not supported.
    #[error("signature algorithm: expected RSASSA, RSAPSS or ECDSA, found {found:#06x}")]
    Algorithm {
        /// The TPM_ALG_ID found.
        found: u16,
    },
    /// A hash that is not known here.
    #[error("signature hash: expected SHA-256, SHA-384 or SHA-512, found {found:#06x}")]
    Hash {
        /// The TPM_ALG_ID found.
        found: u16,
    },
    /// SHA-1.
    #[error("signature hash: expected SHA-256 or better, found {found}")]
    WeakHash {
        /// The hash found.
        found: HashAlg,
    },
    /// Another scheme or hash than the key's own.
    #[error("signature scheme: expected {expected}, found {found}")]
    Scheme {
        /// The key's scheme, or the kind of key.
        expected: String,
        /// The signature's scheme.
        found: SigningScheme,
    },
    /// r or s is zero, or not below the order of the curve.
    #[error("ECDSA {component}: expected a number from 1 to the order of {curve} less one")]
    OutOfRange {
        /// `r` or `s`.
        component: &'static str,
        /// The curve's name.
        curve: &'static str,
    },
    /// The signature does not verify.
    #[error("the signature does not verify under the key")]
    Invalid,
}

impl SignatureError {
    /// The stable code.
    pub const fn code(&self) -> TpmCode {
        match self {
            SignatureError::Read(_) => TpmCode::StructureMalformed,
            SignatureError::Algorithm { .. } | SignatureError::Scheme { .. } => TpmCode::SignatureScheme,
            SignatureError::Hash { .. } => TpmCode::HashUnsupported,
            SignatureError::WeakHash { .. } => TpmCode::HashWeak,
            SignatureError::OutOfRange { .. } | SignatureError::Invalid => TpmCode::SignatureInvalid,
        }
    }

    /// What was expected and what was found.
    pub fn details(&self) -> (String, String) {
        match self {
            SignatureError::Read(e) => e.details(),
            SignatureError::Algorithm { found } => ("RSASSA, RSAPSS or ECDSA".into(), format!("{found:#06x}")),
            SignatureError::Hash { found } => ("SHA-256, SHA-384 or SHA-512".into(), format!("{found:#06x}")),
            SignatureError::WeakHash { found } => ("SHA-256 or better".into(), found.to_string()),
            SignatureError::Scheme { expected, found } => (expected.clone(), found.to_string()),
            SignatureError::OutOfRange { component, curve } => (
                format!("{component} from 1 to the order of {curve} less one"),
                "a number out of range".into(),
            ),
            SignatureError::Invalid => ("a signature by this key over these bytes".into(), "another".into()),
        }
    }
}

/// A parsed TPMT_SIGNATURE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature<'a> {
    scheme: SigningScheme,
    value: Value<'a>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Value<'a> {
    Rsa(&'a [u8]),
    Ecdsa { r: &'a [u8], s: &'a [u8] },
}

impl<'a> Signature<'a> {
    /// Reads a TPMT_SIGNATURE that fills `bytes` exactly. SHA-1 can be read; it never verifies.
    ///
    /// # Errors
    /// [`SignatureError`] for other algorithms and for bytes missing or left over.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, SignatureError> {
        let mut r = Reader::new(bytes);
        let algorithm = r.u16("sigAlg")?;
        if !matches!(algorithm, ALG_RSASSA | ALG_RSAPSS | ALG_ECDSA) {
            return Err(SignatureError::Algorithm { found: algorithm });
        }
        let found = r.u16("hash")?;
        let hash = HashAlg::from_tpm(found).ok_or(SignatureError::Hash { found })?;
        let signature = match algorithm {
            ALG_ECDSA => {
                let value = Value::Ecdsa {
                    r: r.sized("signatureR", MAX_SCALAR_LEN)?,
                    s: r.sized("signatureS", MAX_SCALAR_LEN)?,
                };
                Self {
                    scheme: SigningScheme::Ecdsa(hash),
                    value,
                }
            }
            _ => {
                let value = Value::Rsa(r.sized("sig", MAX_RSA_MODULUS_LEN)?);
                let scheme = if algorithm == ALG_RSASSA {
                    SigningScheme::RsaSsa(hash)
                } else {
                    SigningScheme::RsaPss(hash)
                };
                Self { scheme, value }
            }
        };
        r.finish("TPMT_SIGNATURE")?;
        Ok(signature)
    }

    /// Scheme and hash that the signature says it was made with.
    pub fn scheme(&self) -> SigningScheme {
        self.scheme
    }

    /// r and s as one string of twice the field's width, for ECDSA signatures in range on the key's curve.
    ///
    /// # Errors
    /// [`SignatureError::OutOfRange`], or [`SignatureError::Scheme`] if either is not ECDSA.
    pub fn to_fixed_width(&self, key: &SubjectKey) -> Result<Vec<u8>, SignatureError> {
        let (Value::Ecdsa { r, s }, SubjectKey::Ec { curve, .. }) = (&self.value, key) else {
            return Err(SignatureError::Scheme {
                expected: key.describe(),
                found: self.scheme,
            });
        };
        let mut fixed = Vec::with_capacity(2 * curve.field_len());
        for (component, number) in [("r", r), ("s", s)] {
            let digits = without_leading_zeros(number);
            let in_width = !digits.is_empty() && digits.len() <= curve.field_len();
            let padded = left_padded(digits, curve.field_len());
            if !in_width || padded.as_slice() >= curve.order() {
                return Err(SignatureError::OutOfRange {
                    component,
                    curve: curve.name(),
                });
            }
            fixed.extend_from_slice(&padded);
        }
        Ok(fixed)
    }

    /// Checks the signature over `message` under `key`.
    ///
    /// # Errors
    /// [`SignatureError`].
    pub fn verify(&self, key: &SubjectKey, message: &[u8]) -> Result<(), SignatureError> {
        if self.scheme.hash().is_weak() {
            return Err(SignatureError::WeakHash {
                found: self.scheme.hash(),
            });
        }
        let result = match (&self.value, self.scheme) {
            (Value::Ecdsa { .. }, _) => {
                let fixed = self.to_fixed_width(key)?;
                let (r, s) = fixed.split_at_checked(fixed.len() / 2).ok_or(SignatureError::Invalid)?;
                let der = element(TAG_SEQUENCE, &[&unsigned_integer(r), &unsigned_integer(s)]);
                key.verify(SignatureAlgorithm::Ecdsa(self.scheme.hash()), message, &der)
            }
            (Value::Rsa(value), SigningScheme::RsaPss(hash)) => key.verify(
                SignatureAlgorithm::RsaPss(hash, SaltLength::DigestOrMax),
                message,
                value,
            ),
            (Value::Rsa(value), _) => key.verify(SignatureAlgorithm::RsaPkcs1(self.scheme.hash()), message, value),
        };
        result.map_err(|e| match e {
            VerifyError::Unsupported => SignatureError::Scheme {
                expected: key.describe(),
                found: self.scheme,
            },
            VerifyError::Invalid => SignatureError::Invalid,
        })
    }
}
