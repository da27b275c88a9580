//! EK certificates: a TPM maker's statement that an endorsement key is in one of its TPMs.
//!
//! Source: TCG EK Credential Profile 2.5, 3.2; standards.md C.11.2.

use thiserror::Error;

use super::certificate::{Certificate, CertificateError};
use super::chain::{CertificateStore, ChainError, Expiry, VerifiedChain, verify_chain};
use super::code::CertificateCode;
use super::key::SubjectKey;
use crate::tpm::ek::{EkError, ek_public_from_key};
use crate::tpm::public::Public;

/// `tcg-kp-EKCertificate`.
pub const EK_CERTIFICATE_PURPOSE: &str = "2.23.133.8.1";
/// `tcg-at-tpmManufacturer`.
pub const TPM_MANUFACTURER: &str = "2.23.133.2.1";
/// `tcg-at-tpmModel`.
pub const TPM_MODEL: &str = "2.23.133.2.2";
/// `tcg-at-tpmVersion`.
pub const TPM_VERSION: &str = "2.23.133.2.3";
/// Most intermediates that may come with the evidence.
pub const MAX_OFFERED: usize = 8;

/// Why a certificate is not an EK certificate of a TPM that this domain trusts.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EkCertificateError {
    /// It could not be read.
    #[error("{0}")]
    Certificate(#[from] CertificateError),
    /// It is a CA's.
    #[error("EK certificate: expected a certificate of a device, found that of a CA, {subject}")]
    IsCa {
        /// Its name.
        subject: String,
    },
    /// It has an extended key usage without the EK purpose.
    #[error("EK certificate: expected extended key usage {EK_CERTIFICATE_PURPOSE}, found {found}")]
    ExtendedKeyUsage {
        /// The purposes found.
        found: String,
    },
    /// Its key usage does not fit an endorsement key.
    #[error("EK certificate: expected key usage {expected}, found another")]
    KeyUsage {
        /// The usage that the kind of key must have.
        expected: &'static str,
    },
    /// The chain above it.
    #[error("{0}")]
    Chain(#[from] ChainError),
}

impl EkCertificateError {
    /// The stable code.
    pub const fn code(&self) -> CertificateCode {
        match self {
            EkCertificateError::Certificate(e) => e.code(),
            EkCertificateError::IsCa { .. } => CertificateCode::Role,
            EkCertificateError::ExtendedKeyUsage { .. } | EkCertificateError::KeyUsage { .. } => {
                CertificateCode::UsageWrong
            }
            EkCertificateError::Chain(e) => e.code(),
        }
    }

    /// What was expected and what was found.
    pub fn details(&self) -> (String, String) {
        match self {
            EkCertificateError::Certificate(e) => e.details(),
            EkCertificateError::IsCa { subject } => ("a device's certificate".into(), format!("the CA {subject}")),
            EkCertificateError::ExtendedKeyUsage { found } => {
                (format!("extended key usage {EK_CERTIFICATE_PURPOSE}"), found.clone())
            }
            EkCertificateError::KeyUsage { expected } => (format!("key usage {expected}"), "another".into()),
            EkCertificateError::Chain(e) => e.details(),
        }
    }
}

/// An EK certificate whose chain ends at a trust anchor of the domain; only [`verify_ek_certificate`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedEkCertificate {
    certificate: Certificate,
    chain: VerifiedChain,
}

impl VerifiedEkCertificate {
    /// The certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The chain: issuers, earliest end of validity, what had expired.
    pub fn chain(&self) -> &VerifiedChain {
        &self.chain
    }

    /// The certified key.
    pub fn key(&self) -> &SubjectKey {
        self.certificate.key()
    }

    /// SHA-256 of the key's SubjectPublicKeyInfo: the inventory's EkId.
    pub fn id(&self) -> [u8; 32] {
        self.key().spki_sha256()
    }

    /// The TPM's public area for the certified key, by the low-range template of its kind.
    ///
    /// # Errors
    /// [`EkError::Kind`].
    pub fn ek_public(&self) -> Result<Public, EkError> {
        ek_public_from_key(self.key())
    }

    /// Manufacturer, `id:` and eight hexadecimal digits of the TCG vendor registry, as the certificate has it.
    pub fn manufacturer(&self) -> Option<&str> {
        self.attribute(TPM_MANUFACTURER)
    }

    /// Model.
    pub fn model(&self) -> Option<&str> {
        self.attribute(TPM_MODEL)
    }

    /// Firmware version at the time of issue.
    pub fn version(&self) -> Option<&str> {
        self.attribute(TPM_VERSION)
    }

    fn attribute(&self, oid: &str) -> Option<&str> {
        self.certificate
            .alternative_attributes
            .iter()
            .find(|(o, _)| o == oid)
            .map(|(_, value)| value.as_str())
    }
}

/// Checks an EK certificate (DER, NV padding allowed) at the time `now` (Unix seconds): its usage, and its chain to an
/// anchor of `store`, with at most [`MAX_OFFERED`] intermediates of `offered` as help.
///
/// # Errors
/// [`EkCertificateError`].
pub fn verify_ek_certificate(
    der: &[u8],
    offered: &[Certificate],
    store: &CertificateStore,
    now: i64,
    expiry: Expiry,
) -> Result<VerifiedEkCertificate, EkCertificateError> {
    let certificate = Certificate::from_der(der)?;
    if matches!(certificate.basic_constraints, Some((true, _))) {
        return Err(EkCertificateError::IsCa {
            subject: certificate.subject().to_owned(),
        });
    }
    if let Some(purposes) = &certificate.extended_key_usage
        && !purposes.iter().any(|p| p == EK_CERTIFICATE_PURPOSE)
    {
        return Err(EkCertificateError::ExtendedKeyUsage {
            found: purposes.join(", "),
        });
    }
    if let Some(usage) = certificate.key_usage {
        let (expected, fits) = match certificate.key() {
            SubjectKey::Rsa { .. } => ("keyEncipherment", usage.key_encipherment()),
            SubjectKey::Ec { .. } => ("keyAgreement", usage.key_agreement()),
        };
        if !fits {
            return Err(EkCertificateError::KeyUsage { expected });
        }
    }
    let offered = offered.get(..MAX_OFFERED).unwrap_or(offered);
    let chain = verify_chain(&certificate, offered, store, now, expiry)?;
    Ok(VerifiedEkCertificate { certificate, chain })
}
