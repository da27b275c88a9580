//! EK certificates: a TPM maker's statement that an endorsement key is in one of its TPMs.
//!
//! Judged by the TCG's profile; what is tolerated beyond it is named where it is, with who needs it. Nothing tolerated
//! makes a statement stronger: each is a thing left out or written oddly, under the maker's signature.
//!
//! Source: TCG EK Credential Profile 2.5, 3.2; standards.md C.11.2.

use thiserror::Error;

use super::certificate::{Certificate, CertificateError};
use super::chain::{CertificateStore, ChainError, ChainRules, VerifiedChain, verify_chain};
use super::code::CertificateCode;
use super::der::leading_sequence;
use super::key::SubjectKey;
use super::roca::has_roca_fingerprint;
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
/// Longest record of intermediates that may come with the evidence, in bytes.
pub const MAX_EK_CHAIN_LEN: usize = 32 * 1024;
/// Fewest bits of an RSA endorsement key.
pub const MIN_RSA_BITS: usize = 2048;

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
    /// It is not of version 3, so it has no extensions and says nothing about what it is for.
    #[error("EK certificate: expected version 3, found another")]
    Version,
    /// It does not name the TPM once: manufacturer, model and version.
    #[error("EK certificate: expected one {expected} in subjectAltName, found {found}")]
    TpmName {
        /// The attribute.
        expected: &'static str,
        /// What was there instead.
        found: String,
    },
    /// An RSA key that is too short.
    #[error("EK certificate: expected an RSA key of at least {MIN_RSA_BITS} bits, found {found}")]
    KeyWeak {
        /// The kind of key.
        found: String,
    },
    /// An RSA key of the faulty generator.
    #[error("EK certificate: expected a sound RSA key, found one with the ROCA fingerprint")]
    Roca,
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
            EkCertificateError::Version => CertificateCode::UsageWrong,
            EkCertificateError::TpmName { .. } => CertificateCode::TpmNameMissing,
            EkCertificateError::KeyWeak { .. } => CertificateCode::KeyWeak,
            EkCertificateError::Roca => CertificateCode::KeyRoca,
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
            EkCertificateError::Version => ("a certificate of version 3".into(), "another".into()),
            EkCertificateError::TpmName { expected, found } => {
                (format!("one {expected} in subjectAltName"), found.clone())
            }
            EkCertificateError::KeyWeak { found } => {
                (format!("an RSA key of at least {MIN_RSA_BITS} bits"), found.clone())
            }
            EkCertificateError::Roca => ("a sound RSA key".into(), "the ROCA fingerprint (CVE-2017-15361)".into()),
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
        let attributes = &self.certificate.extensions.alternative_attributes;
        let found = attributes.iter().find(|(o, value)| o == oid && !value.is_empty());
        found.map(|(_, value)| value.as_str())
    }
}

/// Checks an EK certificate (DER, NV padding and header allowed) at the time `now` (Unix seconds): that it is one by the
/// TCG's profile, that its key is sound, and its chain to an anchor of `store`, with at most [`MAX_OFFERED`]
/// intermediates of `offered` as help.
///
/// # Errors
/// [`EkCertificateError`].
pub fn verify_ek_certificate(
    der: &[u8],
    offered: &[Certificate],
    store: &CertificateStore,
    now: i64,
    rules: impl Into<ChainRules>,
) -> Result<VerifiedEkCertificate, EkCertificateError> {
    let certificate = Certificate::from_der(der)?;
    check_profile(&certificate)?;
    check_key(certificate.key())?;
    let offered = offered.get(..MAX_OFFERED).unwrap_or(offered);
    let chain = verify_chain(&certificate, offered, store, now, rules)?;
    // Last: of a certificate that nobody vouches for, that tells more than what it calls its TPM.
    check_tpm_name(&certificate)?;
    Ok(VerifiedEkCertificate { certificate, chain })
}

/// EK Credential Profile 2.5, 3.2: what makes a certificate one of an endorsement key.
fn check_profile(certificate: &Certificate) -> Result<(), EkCertificateError> {
    let extensions = &certificate.extensions;
    // 3.2.12 demands basicConstraints with cA FALSE. Tolerated: the extension left out, which RFC 5280 4.2.1.9 defines
    // to mean the same; early makers' generators did so.
    if matches!(extensions.basic_constraints, Some((true, _))) {
        return Err(EkCertificateError::IsCa {
            subject: certificate.subject().to_owned(),
        });
    }
    if !certificate.is_version_3() {
        return Err(EkCertificateError::Version);
    }
    // 3.2.13 recommends the purpose; where purposes are listed at all, it must be among them. Tolerated: none listed
    // (GCE's private CA). anyExtendedKeyUsage is not it.
    if let Some(purposes) = &extensions.extended_key_usage
        && !purposes.iter().any(|p| p == EK_CERTIFICATE_PURPOSE)
    {
        return Err(EkCertificateError::ExtendedKeyUsage {
            found: purposes.join(", "),
        });
    }
    // 3.2.11 demands the usage. Tolerated: the extension left out (STMicroelectronics ST33ZP24): then nothing is
    // said against its being an encryption key, and only what its key can decrypt ever counts.
    if let Some(usage) = extensions.key_usage {
        let (expected, fits) = match certificate.key() {
            SubjectKey::Rsa { .. } => ("keyEncipherment", usage.key_encipherment()),
            SubjectKey::Ec { .. } => ("keyAgreement", usage.key_agreement()),
        };
        if !fits {
            return Err(EkCertificateError::KeyUsage { expected });
        }
    }
    Ok(())
}

/// EK Credential Profile 2.5, 3.2.9: what TPM it is.
fn check_tpm_name(certificate: &Certificate) -> Result<(), EkCertificateError> {
    let extensions = &certificate.extensions;
    // 3.2.9 demands the TPM's name in subjectAltName as directoryName. Tolerated: critical or not, one RDN or several
    // (Nuvoton writes one), any string type, other names beside it. Tolerated without: certificates of GCE's private
    // CA, which describe the virtual machine in an extension of their own; manufacturer and model then stay unknown.
    if !(extensions.gce_instance && extensions.alternative_attributes.is_empty()) {
        for (oid, expected) in [
            (TPM_MANUFACTURER, "tpmManufacturer"),
            (TPM_MODEL, "tpmModel"),
            (TPM_VERSION, "tpmVersion"),
        ] {
            tpm_attribute(&extensions.alternative_attributes, oid, expected)?;
        }
    }
    Ok(())
}

/// An attribute must be there, say something, and say one thing: two values would let a rule see the other one.
fn tpm_attribute(attributes: &[(String, String)], oid: &str, expected: &'static str) -> Result<(), EkCertificateError> {
    let mut values = attributes.iter().filter(|(o, _)| o == oid).map(|(_, value)| value);
    let found = match values.next() {
        None => "none".to_owned(),
        Some(value) if value.is_empty() => "an empty one".to_owned(),
        Some(value) => match values.find(|other| *other != value) {
            None => return Ok(()),
            Some(other) => format!("{value} and {other}"),
        },
    };
    Err(EkCertificateError::TpmName { expected, found })
}

/// Refuses RSA keys that are short or made by the faulty generator, whatever the policy says.
pub(crate) fn check_key(key: &SubjectKey) -> Result<(), EkCertificateError> {
    if let SubjectKey::Rsa { modulus, .. } = key {
        let unused = modulus.first().map_or(0, |top| top.leading_zeros() as usize);
        if modulus.len() * 8 - unused < MIN_RSA_BITS {
            return Err(EkCertificateError::KeyWeak { found: key.describe() });
        }
        if has_roca_fingerprint(key) {
            return Err(EkCertificateError::Roca);
        }
    }
    Ok(())
}

/// Reads the intermediates that a TPM keeps beside its EK certificate: DER certificates one after the other, padding of
/// the NV indices between and behind them. At most [`MAX_OFFERED`] of them, of at most [`MAX_EK_CHAIN_LEN`] bytes.
///
/// They are help, never trust: each must still lead to an anchor of the domain.
///
/// # Errors
/// [`CertificateError`] of the first one that cannot be read.
pub fn read_ek_chain(bytes: &[u8]) -> Result<Vec<Certificate>, CertificateError> {
    if bytes.len() > MAX_EK_CHAIN_LEN {
        return Err(CertificateError::TooLong { found: bytes.len() });
    }
    let mut chain = Vec::new();
    let mut rest = bytes;
    loop {
        // Unused bytes of an index are 00 or FF; no certificate begins with either.
        let padding = rest.iter().take_while(|byte| matches!(byte, 0x00 | 0xFF)).count();
        rest = rest.get(padding..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(chain);
        }
        if chain.len() == MAX_OFFERED {
            return Err(CertificateError::Malformed {
                expected: "at most 8 intermediate certificates",
            });
        }
        let (certificate, behind) = leading_sequence(rest)?;
        chain.push(Certificate::from_der(certificate)?);
        rest = behind;
    }
}
