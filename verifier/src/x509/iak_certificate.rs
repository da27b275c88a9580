//! Certificates of initial and local attestation keys (IAK, LAK): another root of identity, beside the EK.
//!
//! An OEM that has checked, with MakeCredential, that an attestation key is in the TPM of one of its machines certifies
//! that key, and the machine's name with it (IEEE 802.1AR). The certificate thus says what an activation would show, and
//! it must say so: by the policies below, not by being from somebody who also signs such certificates.
//!
//! Source: TCG TPM 2.0 Keys for Device Identity and Attestation 1.00 r12, 8.2, 8.3 and annex A (OIDs); IEEE 802.1AR-2018, 8.

use thiserror::Error;

use super::certificate::{Certificate, CertificateError};
use super::chain::{CertificateStore, ChainError, ChainRules, VerifiedChain, verify_chain};
use super::cloud_ak::{GceInstance, gce_instance};
use super::code::CertificateCode;
use super::ek_certificate::MAX_OFFERED;
use super::key::SubjectKey;
use super::name::HardwareModuleName;
use super::roca::has_roca_fingerprint;

/// `tcg-cap-verifiedTPMRestricted`: the CA has verified that the key is fixedTPM and restricted. Who relies on what a
/// key signs as being from inside a TPM must look for it.
pub const VERIFIED_TPM_RESTRICTED: &str = "2.23.133.11.1.3";
/// `tcg-kp-AIKCertificate`, the purpose of attestation keys.
pub const ATTESTATION_PURPOSE: &str = "2.23.133.8.3";

/// Why a certificate is not one of an attestation key that this domain trusts.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum IakCertificateError {
    /// It could not be read.
    #[error("{0}")]
    Certificate(#[from] CertificateError),
    /// It is a CA's.
    #[error("IAK certificate: expected a certificate of a device, found that of a CA, {subject}")]
    IsCa {
        /// Its name.
        subject: String,
    },
    /// It does not say that its key is an attestation key.
    #[error("IAK certificate: expected policy {VERIFIED_TPM_RESTRICTED}, found {found}")]
    NotAttestation {
        /// The policies found.
        found: String,
    },
    /// Its key usage or purposes are not those of an attestation key.
    #[error("IAK certificate: expected {expected}, found {found}")]
    Usage {
        /// What it must have.
        expected: &'static str,
        /// What it has.
        found: String,
    },
    /// It names no device.
    #[error("IAK certificate: expected a serial number of the device, found none")]
    NoDevice,
    /// It is for another key.
    #[error("IAK certificate: expected the key {expected}, found {found}")]
    OtherKey {
        /// SHA-256 of the SubjectPublicKeyInfo of the key that signed, hexadecimal.
        expected: String,
        /// That of the certified key.
        found: String,
    },
    /// Its key was made by the faulty generator.
    #[error("IAK certificate: expected a sound RSA key, found one with the ROCA fingerprint")]
    Roca,
    /// The chain above it.
    #[error("{0}")]
    Chain(#[from] ChainError),
}

impl IakCertificateError {
    /// The stable code.
    pub const fn code(&self) -> CertificateCode {
        match self {
            IakCertificateError::Certificate(e) => e.code(),
            IakCertificateError::IsCa { .. } => CertificateCode::Role,
            IakCertificateError::NotAttestation { .. } | IakCertificateError::NoDevice => {
                CertificateCode::NotAnAttestationKey
            }
            IakCertificateError::Usage { .. } => CertificateCode::UsageWrong,
            IakCertificateError::OtherKey { .. } => CertificateCode::OtherKey,
            IakCertificateError::Roca => CertificateCode::KeyRoca,
            IakCertificateError::Chain(e) => e.code(),
        }
    }

    /// What was expected and what was found.
    pub fn details(&self) -> (String, String) {
        match self {
            IakCertificateError::Certificate(e) => e.details(),
            IakCertificateError::IsCa { subject } => ("a device's certificate".into(), format!("the CA {subject}")),
            IakCertificateError::NotAttestation { found } => (
                format!("policy {VERIFIED_TPM_RESTRICTED} (tcg-cap-verifiedTPMRestricted)"),
                found.clone(),
            ),
            IakCertificateError::Usage { expected, found } => ((*expected).into(), found.clone()),
            IakCertificateError::NoDevice => ("a serial number of the device".into(), "none".into()),
            IakCertificateError::OtherKey { expected, found } => (expected.clone(), found.clone()),
            IakCertificateError::Roca => ("a sound RSA key".into(), "the ROCA fingerprint".into()),
            IakCertificateError::Chain(e) => e.details(),
        }
    }
}

/// How a device is known by an IEEE 802.1AR certificate. One device may have several of these.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceId {
    /// SHA-256 of a certified key's SubjectPublicKeyInfo: that of the IDevID, the IAK or an LDevID.
    Key([u8; 32]),
    /// hardwareModuleName: the numbering scheme and the number.
    Hardware(HardwareModuleName),
    /// serialNumber in the subject's name: as unique as the makers that the domain trusts for device identities.
    Serial(String),
    /// An instance of Google Compute Engine.
    Gce(GceInstance),
}

/// Every identity a device certificate states.
pub fn device_ids(certificate: &Certificate) -> Vec<DeviceId> {
    let hardware = certificate
        .hardware_module_names()
        .iter()
        .cloned()
        .map(DeviceId::Hardware);
    let serials = certificate.subject_serials().iter().cloned().map(DeviceId::Serial);
    std::iter::once(DeviceId::Key(certificate.key().spki_sha256()))
        .chain(hardware)
        .chain(serials)
        .chain(gce_instance(certificate).map(DeviceId::Gce))
        .collect()
}

/// An attestation key's certificate whose chain ends at a trust anchor; only [`verify_iak_certificate`] and
/// [`verify_cloud_ak_certificate`](super::verify_cloud_ak_certificate) make one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedIakCertificate {
    certificate: Certificate,
    chain: VerifiedChain,
}

impl VerifiedIakCertificate {
    /// Of a certificate that was checked, with its chain.
    pub(super) fn new(certificate: Certificate, chain: VerifiedChain) -> Self {
        Self { certificate, chain }
    }

    /// The certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The chain.
    pub fn chain(&self) -> &VerifiedChain {
        &self.chain
    }

    /// How the device is known.
    pub fn device_ids(&self) -> Vec<DeviceId> {
        device_ids(&self.certificate)
    }
}

/// Checks the certificate of an attestation key at the time `now` (Unix seconds): that it is for `key`, says that this
/// is a restricted key of a TPM, names a device, and chains to an anchor of `store`.
///
/// # Errors
/// [`IakCertificateError`].
pub fn verify_iak_certificate(
    der: &[u8],
    key: &SubjectKey,
    offered: &[Certificate],
    store: &CertificateStore,
    now: i64,
    rules: impl Into<ChainRules>,
) -> Result<VerifiedIakCertificate, IakCertificateError> {
    let certificate = Certificate::from_der(der)?;
    let extensions = &certificate.extensions;
    if matches!(extensions.basic_constraints, Some((true, _))) {
        return Err(IakCertificateError::IsCa {
            subject: certificate.subject().to_owned(),
        });
    }
    if certificate.key() != key {
        return Err(IakCertificateError::OtherKey {
            expected: hex::encode(key.spki_sha256()),
            found: hex::encode(certificate.key().spki_sha256()),
        });
    }
    if !extensions
        .policies
        .iter()
        .any(|policy| policy == VERIFIED_TPM_RESTRICTED)
    {
        return Err(IakCertificateError::NotAttestation {
            found: list(&extensions.policies, "no policies"),
        });
    }
    if !extensions.key_usage.is_some_and(|usage| usage.digital_signature()) {
        return Err(IakCertificateError::Usage {
            expected: "key usage digitalSignature",
            found: "another".into(),
        });
    }
    // The purpose need not be there (the TCG's profile recommends none for an IAK); another one must not be.
    if let Some(purposes) = &extensions.extended_key_usage
        && !purposes.iter().any(|purpose| purpose == ATTESTATION_PURPOSE)
    {
        return Err(IakCertificateError::Usage {
            expected: "extended key usage 2.23.133.8.3, or none",
            found: list(purposes, "none"),
        });
    }
    if certificate.hardware_module_names().is_empty() && certificate.subject_serials().is_empty() {
        return Err(IakCertificateError::NoDevice);
    }
    if has_roca_fingerprint(key) {
        return Err(IakCertificateError::Roca);
    }
    let offered = offered.get(..MAX_OFFERED).unwrap_or(offered);
    let chain = verify_chain(&certificate, offered, store, now, rules)?;
    Ok(VerifiedIakCertificate { certificate, chain })
}

fn list(items: &[String], none: &str) -> String {
    if items.is_empty() {
        none.to_owned()
    } else {
        items.join(", ")
    }
}
