//! What a public area must say before it counts as an attestation key or as a session key.
//!
//! Source: protocol.md 2; TCG TPM 2.0 Library Part 1, 31 (attestation), Part 2, 8.3 (attributes).

use thiserror::Error;

use super::algorithm::{ALG_ECDH, Curve, HashAlg};
use super::attributes::ObjectAttributes;
use super::code::TpmCode;
use super::public::{KeyParameters, Name, Public, Scheme, SigningScheme, Symmetric};

/// Smallest RSA attestation key.
pub const MIN_AK_RSA_BITS: u16 = 2048;

/// One property that an attestation key lacks.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AkFault {
    /// `restricted` is clear.
    #[error("attestation key: expected restricted, found {found}")]
    NotRestricted {
        /// The attributes found.
        found: ObjectAttributes,
    },
    /// `sign` is clear.
    #[error("attestation key: expected sign, found {found}")]
    NotSigning {
        /// The attributes found.
        found: ObjectAttributes,
    },
    /// `decrypt` is set.
    #[error("attestation key: expected decrypt clear, found {found}")]
    Decrypts {
        /// The attributes found.
        found: ObjectAttributes,
    },
    /// `fixedTPM` is clear.
    #[error("attestation key: expected fixedTPM, found {found}")]
    NotFixedTpm {
        /// The attributes found.
        found: ObjectAttributes,
    },
    /// `fixedParent` is clear.
    #[error("attestation key: expected fixedParent, found {found}")]
    NotFixedParent {
        /// The attributes found.
        found: ObjectAttributes,
    },
    /// `sensitiveDataOrigin` is clear.
    #[error("attestation key: expected sensitiveDataOrigin, found {found}")]
    OriginExternal {
        /// The attributes found.
        found: ObjectAttributes,
    },
    /// The key has no signing scheme of its own.
    #[error("attestation key: expected a signing scheme, found {found:?}")]
    SchemeNull {
        /// The scheme found.
        found: Scheme,
    },
    /// The scheme's hash is SHA-1.
    #[error("attestation key: expected a scheme hash of SHA-256 or better, found {found}")]
    SchemeHashWeak {
        /// The hash found.
        found: HashAlg,
    },
    /// RSA below 2048 bits, or a curve other than P-256 and P-384.
    #[error("attestation key: expected RSA of at least 2048 bits, P-256 or P-384, found {found}")]
    KeyWeak {
        /// The key found.
        found: String,
    },
    /// nameAlg is SHA-1.
    #[error("attestation key: expected a Name hash of SHA-256 or better, found {found}")]
    NameHashWeak {
        /// The hash found.
        found: HashAlg,
    },
}

impl AkFault {
    /// The stable code.
    pub const fn code(&self) -> TpmCode {
        match self {
            AkFault::NotRestricted { .. } => TpmCode::AkNotRestricted,
            AkFault::NotSigning { .. } => TpmCode::AkNotSigning,
            AkFault::Decrypts { .. } => TpmCode::AkDecrypts,
            AkFault::NotFixedTpm { .. } | AkFault::NotFixedParent { .. } => TpmCode::AkNotFixed,
            AkFault::OriginExternal { .. } => TpmCode::AkOriginExternal,
            AkFault::SchemeNull { .. } => TpmCode::AkSchemeNull,
            AkFault::SchemeHashWeak { .. } => TpmCode::HashWeak,
            AkFault::KeyWeak { .. } => TpmCode::AkKeyWeak,
            AkFault::NameHashWeak { .. } => TpmCode::AkNameHashWeak,
        }
    }

    /// What was expected and what was found.
    pub fn details(&self) -> (String, String) {
        match self {
            AkFault::NotRestricted { found } => ("restricted".into(), found.to_string()),
            AkFault::NotSigning { found } => ("sign".into(), found.to_string()),
            AkFault::Decrypts { found } => ("decrypt clear".into(), found.to_string()),
            AkFault::NotFixedTpm { found } => ("fixedTPM".into(), found.to_string()),
            AkFault::NotFixedParent { found } => ("fixedParent".into(), found.to_string()),
            AkFault::OriginExternal { found } => ("sensitiveDataOrigin".into(), found.to_string()),
            AkFault::SchemeNull { found } => ("a signing scheme".into(), format!("{found:?}")),
            AkFault::SchemeHashWeak { found } => ("a scheme hash of SHA-256 or better".into(), found.to_string()),
            AkFault::KeyWeak { found } => ("RSA of at least 2048 bits, P-256 or P-384".into(), found.clone()),
            AkFault::NameHashWeak { found } => ("a Name hash of SHA-256 or better".into(), found.to_string()),
        }
    }
}

/// A public area that has every property of an attestation key, with its Name computed from the received bytes.
///
/// Only [`Public::check_ak`] makes one, so a credential or a trusted quote for an unchecked key cannot be written down.
/// It is still only a *claim*: that a TPM holds the key is shown by activation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedAk<'p> {
    public: &'p Public,
    scheme: SigningScheme,
    name: Name,
}

impl<'p> CheckedAk<'p> {
    /// The public area.
    pub fn public(&self) -> &'p Public {
        self.public
    }

    /// The key's own signing scheme.
    pub fn scheme(&self) -> SigningScheme {
        self.scheme
    }

    /// The key's Name.
    pub fn name(&self) -> &Name {
        &self.name
    }
}

/// What a session key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SessionKeyUse {
    /// It signs: the authorization's `cnf` key.
    Sign,
    /// It agrees on keys: secrets are encrypted to it.
    Receive,
}

/// One property that a session key lacks.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SessionKeyFault {
    /// An attribute that must be set is clear.
    #[error("session key: expected {expected}, found {found}")]
    AttributeClear {
        /// The attribute that must be set.
        expected: ObjectAttributes,
        /// The attributes found.
        found: ObjectAttributes,
    },
    /// An attribute that must be clear is set.
    #[error("session key: expected {forbidden} clear, found {found}")]
    AttributeSet {
        /// The attribute that must be clear.
        forbidden: ObjectAttributes,
        /// The attributes found.
        found: ObjectAttributes,
    },
    /// authPolicy is not the PolicyPCR of the quoted boot registers.
    #[error("session key: expected authPolicy {expected}, found {found}")]
    AuthPolicy {
        /// The recomputed policy, hexadecimal.
        expected: String,
        /// The policy found, hexadecimal.
        found: String,
    },
    /// Not a P-256 key with a SHA-256 Name and a fitting scheme.
    #[error("session key: expected {expected}, found {found}")]
    Type {
        /// What was expected.
        expected: &'static str,
        /// What was found.
        found: String,
    },
}

impl SessionKeyFault {
    /// The stable code.
    pub const fn code(&self) -> TpmCode {
        match self {
            SessionKeyFault::AttributeClear { .. } | SessionKeyFault::AttributeSet { .. } => {
                TpmCode::SessionKeyAttributes
            }
            SessionKeyFault::AuthPolicy { .. } => TpmCode::SessionKeyPolicy,
            SessionKeyFault::Type { .. } => TpmCode::SessionKeyType,
        }
    }

    /// What was expected and what was found.
    pub fn details(&self) -> (String, String) {
        match self {
            SessionKeyFault::AttributeClear { expected, found } => (expected.to_string(), found.to_string()),
            SessionKeyFault::AttributeSet { forbidden, found } => (format!("{forbidden} clear"), found.to_string()),
            SessionKeyFault::AuthPolicy { expected, found } => (expected.clone(), found.clone()),
            SessionKeyFault::Type { expected, found } => ((*expected).into(), found.clone()),
        }
    }
}

impl Public {
    /// Checks that this is an attestation key: restricted, sign, not decrypt, fixedTPM, fixedParent,
    /// sensitiveDataOrigin, a signing scheme, a strong key, a Name hash of SHA-256 or better.
    ///
    /// # Errors
    /// Every [`AkFault`] at once, in declaration order.
    pub fn check_ak(&self) -> Result<CheckedAk<'_>, Vec<AkFault>> {
        let found = self.attributes;
        let mut faults = Vec::new();
        if !found.has(ObjectAttributes::RESTRICTED) {
            faults.push(AkFault::NotRestricted { found });
        }
        if !found.has(ObjectAttributes::SIGN) {
            faults.push(AkFault::NotSigning { found });
        }
        if found.has(ObjectAttributes::DECRYPT) {
            faults.push(AkFault::Decrypts { found });
        }
        if !found.has(ObjectAttributes::FIXED_TPM) {
            faults.push(AkFault::NotFixedTpm { found });
        }
        if !found.has(ObjectAttributes::FIXED_PARENT) {
            faults.push(AkFault::NotFixedParent { found });
        }
        if !found.has(ObjectAttributes::SENSITIVE_DATA_ORIGIN) {
            faults.push(AkFault::OriginExternal { found });
        }
        let scheme = match self.scheme {
            Scheme::Signing(scheme) => Some(scheme),
            _ => None,
        };
        match scheme {
            None => faults.push(AkFault::SchemeNull { found: self.scheme }),
            Some(scheme) if scheme.hash().is_weak() => faults.push(AkFault::SchemeHashWeak { found: scheme.hash() }),
            Some(_) => {}
        }
        let strong = match &self.parameters {
            KeyParameters::Rsa { key_bits, .. } => *key_bits >= MIN_AK_RSA_BITS,
            KeyParameters::Ecc { curve, .. } => matches!(curve, Curve::P256 | Curve::P384),
        };
        if !strong {
            faults.push(AkFault::KeyWeak {
                found: self.describe_key(),
            });
        }
        if self.name_alg.is_weak() {
            faults.push(AkFault::NameHashWeak { found: self.name_alg });
        }
        match scheme {
            Some(scheme) if faults.is_empty() => Ok(CheckedAk {
                public: self,
                scheme,
                name: self.name(),
            }),
            _ => Err(faults),
        }
    }

    /// Checks that this is a session key (protocol.md 2): P-256 with a SHA-256 Name; fixedTPM, fixedParent and
    /// sensitiveDataOrigin set; restricted, userWithAuth and adminWithPolicy clear; exactly the one usage `usage`;
    /// authPolicy equal to `expected_auth_policy`, which the caller recomputed from *quoted* register values.
    ///
    /// # Errors
    /// Every [`SessionKeyFault`] at once.
    pub fn check_session_key(
        &self,
        usage: SessionKeyUse,
        expected_auth_policy: &[u8],
    ) -> Result<(), Vec<SessionKeyFault>> {
        let found = self.attributes;
        let (wanted, other) = match usage {
            SessionKeyUse::Sign => (ObjectAttributes::SIGN, ObjectAttributes::DECRYPT),
            SessionKeyUse::Receive => (ObjectAttributes::DECRYPT, ObjectAttributes::SIGN),
        };
        let set = [
            ObjectAttributes::FIXED_TPM,
            ObjectAttributes::FIXED_PARENT,
            ObjectAttributes::SENSITIVE_DATA_ORIGIN,
            wanted,
        ];
        // adminWithPolicy clear: with it set TPM2_Certify of the key needs its policy and fails (protocol.md 2).
        let clear = [
            ObjectAttributes::USER_WITH_AUTH,
            ObjectAttributes::ADMIN_WITH_POLICY,
            ObjectAttributes::ENCRYPTED_DUPLICATION,
            ObjectAttributes::RESTRICTED,
            other,
            ObjectAttributes::X509_SIGN,
        ];
        let mut faults = Vec::new();
        for expected in set {
            if !found.has(expected) {
                faults.push(SessionKeyFault::AttributeClear { expected, found });
            }
        }
        for forbidden in clear {
            if found.has_any(forbidden) {
                faults.push(SessionKeyFault::AttributeSet { forbidden, found });
            }
        }
        if self.auth_policy.is_empty() || self.auth_policy != expected_auth_policy {
            faults.push(SessionKeyFault::AuthPolicy {
                expected: hex::encode(expected_auth_policy),
                found: hex::encode(&self.auth_policy),
            });
        }
        let fits = |expected: &'static str, fits: bool, found: String| {
            (!fits).then_some(SessionKeyFault::Type { expected, found })
        };
        let p256 = matches!(
            &self.parameters,
            KeyParameters::Ecc {
                curve: Curve::P256,
                has_kdf: false,
                ..
            }
        );
        faults.extend(fits(
            "a P-256 key without a key derivation scheme",
            p256,
            self.describe_key(),
        ));
        let sha256 = self.name_alg == HashAlg::Sha256;
        faults.extend(fits("a SHA-256 Name", sha256, self.name_alg.to_string()));
        let symmetric = self.symmetric == Symmetric::Null;
        faults.extend(fits(
            "no symmetric algorithm",
            symmetric,
            format!("{:?}", self.symmetric),
        ));
        let scheme = match (usage, self.scheme) {
            (_, Scheme::Null) => true,
            (SessionKeyUse::Sign, Scheme::Signing(scheme)) => scheme == SigningScheme::Ecdsa(HashAlg::Sha256),
            (SessionKeyUse::Receive, Scheme::Decryption(alg)) => alg == ALG_ECDH,
            _ => false,
        };
        faults.extend(fits(
            "a scheme that fits the usage",
            scheme,
            format!("{:?}", self.scheme),
        ));
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    /// The kind of key in words: `RSA-2048`, `P-256`.
    pub fn describe_key(&self) -> String {
        match &self.parameters {
            KeyParameters::Rsa { key_bits, .. } => format!("RSA-{key_bits}"),
            KeyParameters::Ecc { curve, .. } => curve.to_string(),
        }
    }
}
