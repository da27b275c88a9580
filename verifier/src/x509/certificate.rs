//! One certificate, parsed once: what chain building and EK rules need, and the bytes that were signed.
//!
//! Liberal in what is parsed (padding, odd serial numbers, keys marked id-RSAES-OAEP), strict in what is verified.
//! Source: RFC 5280 4.1 and 4.2.

use thiserror::Error;
use x509_parser::asn1_rs::{Any, Tag};
use x509_parser::certificate::X509CertificateParser;
use x509_parser::nom::Parser;
use x509_parser::prelude::FromDer;
use x509_parser::signature_algorithm::RsaSsaPssParams;
use x509_parser::x509::{AlgorithmIdentifier, X509Version};

use super::code::CertificateCode;
use super::der::{TrimError, trim_padding, without_leading_zeros};
use super::extensions::Extensions;
use super::key::{KeyError, SaltLength, SignatureAlgorithm, SubjectKey, VerifyError};
use super::name::{HardwareModuleName, attributes, name_key, name_text};
use crate::tpm::algorithm::HashAlg;

pub use super::extensions::MAX_EXTENSIONS;
pub use super::name::MAX_NAME_TEXT;

/// Longest certificate read.
pub const MAX_CERTIFICATE_LEN: usize = 16 * 1024;
/// `id-at-serialNumber`: a device's serial number in its name.
const SERIAL_NUMBER: &str = "2.5.4.5";

/// Why a certificate could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// More bytes than any certificate has.
    #[error("certificate: expected at most {MAX_CERTIFICATE_LEN} bytes, found {found}")]
    TooLong {
        /// Length found.
        found: usize,
    },
    /// Not one DER SEQUENCE with padding.
    #[error("certificate: {0}")]
    Trim(#[from] TrimError),
    /// Not a certificate.
    #[error("certificate: expected {expected}, found something else")]
    Malformed {
        /// The part that could not be read.
        expected: &'static str,
    },
    /// Its public key.
    #[error("certificate: {0}")]
    Key(#[from] KeyError),
}

impl CertificateError {
    /// The stable code.
    pub const fn code(&self) -> CertificateCode {
        match self {
            CertificateError::Key(KeyError::Unsupported { .. }) => CertificateCode::KeyUnsupported,
            _ => CertificateCode::Malformed,
        }
    }

    /// What was expected and what was found.
    pub fn details(&self) -> (String, String) {
        match self {
            CertificateError::TooLong { found } => {
                (format!("at most {MAX_CERTIFICATE_LEN} bytes"), format!("{found} bytes"))
            }
            CertificateError::Trim(e) => ("one DER certificate".into(), e.to_string()),
            CertificateError::Malformed { expected } => ((*expected).into(), "something else".into()),
            CertificateError::Key(e) => ("a usable public key".into(), e.to_string()),
        }
    }
}

/// The algorithm a certificate is signed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum IssuerSignature {
    /// One that can be verified.
    Known(SignatureAlgorithm),
    /// SHA-1, or one that is not known, by its object identifier.
    Refused(String),
}

/// A parsed certificate.
///
/// *Not yet trustworthy*: only [`verify_chain`](super::chain::verify_chain) says who stands behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    der: Vec<u8>,
    tbs: std::ops::Range<usize>,
    signature: Vec<u8>,
    pub(crate) signature_algorithm: IssuerSignature,
    /// Names in the form of [`name_key`].
    pub(crate) issuer: Vec<u8>,
    pub(crate) subject: Vec<u8>,
    issuer_text: String,
    subject_text: String,
    key: SubjectKey,
    not_before: i64,
    not_after: i64,
    /// Serial number without leading zeros: with the issuer, what a revocation list names it by.
    serial: Vec<u8>,
    version_3: bool,
    subject_serials: Vec<String>,
    pub(crate) extensions: Extensions,
}

impl Certificate {
    /// Reads a DER certificate, with or without the padding of a TPM's NV index.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn from_der(bytes: &[u8]) -> Result<Self, CertificateError> {
        if bytes.len() > MAX_CERTIFICATE_LEN {
            return Err(CertificateError::TooLong { found: bytes.len() });
        }
        let der = trim_padding(bytes)?;
        let malformed = |expected| CertificateError::Malformed { expected };
        // Extensions are read one by one below: one that is of no concern here may be as odd as it likes.
        let mut parser = X509CertificateParser::new().with_deep_parse_extensions(false);
        let Ok(([], x509)) = parser.parse(der) else {
            return Err(malformed("an X.509 certificate"));
        };
        let tbs_bytes = x509.tbs_certificate.as_ref();
        let start = der.len() - remaining(der, tbs_bytes).ok_or(malformed("a TBSCertificate"))?;
        if !algorithms_agree(der).unwrap_or(false) {
            return Err(malformed("the same signature algorithm inside and outside"));
        }
        if x509.signature_value.unused_bits != 0 || x509.public_key().subject_public_key.unused_bits != 0 {
            return Err(malformed("bit strings of whole bytes"));
        }
        Ok(Self {
            tbs: start..start + tbs_bytes.len(),
            signature: x509.signature_value.data.to_vec(),
            signature_algorithm: issuer_signature(&x509.signature_algorithm),
            issuer: name_key(x509.issuer()),
            subject: name_key(x509.subject()),
            issuer_text: name_text(x509.issuer()),
            subject_text: name_text(x509.subject()),
            key: SubjectKey::from_spki(x509.public_key())?,
            not_before: x509.validity().not_before.timestamp(),
            not_after: x509.validity().not_after.timestamp(),
            serial: without_leading_zeros(x509.raw_serial()).to_vec(),
            version_3: x509.version() == X509Version::V3,
            subject_serials: attributes(x509.subject())
                .into_iter()
                .filter_map(|(oid, text)| (oid == SERIAL_NUMBER && !text.is_empty()).then_some(text))
                .collect(),
            extensions: Extensions::read(x509.extensions()).map_err(malformed)?,
            der: der.to_vec(),
        })
    }

    /// The DER bytes, without padding.
    pub fn as_der(&self) -> &[u8] {
        &self.der
    }

    /// The public key.
    pub fn key(&self) -> &SubjectKey {
        &self.key
    }

    /// The subject's name, safe to show; empty for the many EK certificates without one.
    pub fn subject(&self) -> &str {
        &self.subject_text
    }

    /// The issuer's name, safe to show.
    pub fn issuer(&self) -> &str {
        &self.issuer_text
    }

    /// First second at which it is valid, Unix time.
    pub fn not_before(&self) -> i64 {
        self.not_before
    }

    /// Last second at which it is valid, Unix time.
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// Whether issuer and subject are the same: a root, as far as names go. `trust add` makes such certificates anchors.
    pub fn is_self_issued(&self) -> bool {
        self.issuer == self.subject
    }

    /// Whether it says that it is a CA's.
    pub fn is_ca(&self) -> bool {
        matches!(self.extensions.basic_constraints, Some((true, _)))
    }

    /// Whether its own key provably did not sign it. A root signed with SHA-1 is not told: that signature is not read.
    pub fn is_signed_by_another(&self) -> bool {
        self.check_signed_by(&self.key) == Err(VerifyError::Invalid)
    }

    /// The certificate's serial number, without leading zeros.
    pub fn serial(&self) -> &[u8] {
        &self.serial
    }

    /// Serial numbers in the subject's name (2.5.4.5), safe to show: a device's, in an IEEE 802.1AR identity.
    pub fn subject_serials(&self) -> &[String] {
        &self.subject_serials
    }

    /// Names of hardware modules in subjectAltName (RFC 4108).
    pub fn hardware_module_names(&self) -> &[HardwareModuleName] {
        &self.extensions.hardware_module_names
    }

    /// Whether it is of version 3: others have no extensions, so they say nothing about what they are for.
    pub(crate) fn is_version_3(&self) -> bool {
        self.version_3
    }

    /// Whether `issuer` signed this certificate.
    ///
    /// # Errors
    /// [`VerifyError::Unsupported`] for SHA-1 and unknown algorithms, [`VerifyError::Invalid`] if it did not.
    pub(crate) fn check_signed_by(&self, issuer: &SubjectKey) -> Result<(), VerifyError> {
        let IssuerSignature::Known(algorithm) = &self.signature_algorithm else {
            return Err(VerifyError::Unsupported);
        };
        let signed = self.der.get(self.tbs.clone()).ok_or(VerifyError::Invalid)?;
        issuer.verify(*algorithm, signed, &self.signature)
    }
}

/// The bytes of `whole` from the start of `part` on, if `part` lies inside it.
pub(super) fn remaining(whole: &[u8], part: &[u8]) -> Option<usize> {
    let (start, begin) = (whole.as_ptr() as usize, part.as_ptr() as usize);
    let offset = begin.checked_sub(start)?;
    (offset + part.len() <= whole.len()).then(|| whole.len() - offset)
}

/// Whether the signature algorithm outside, which nobody signed, has the very bytes of the one inside (RFC 5280 4.1.1.2).
fn algorithms_agree(der: &[u8]) -> Option<bool> {
    let (_, certificate) = Any::from_der(der).ok()?;
    let (outer, tbs) = Any::from_der(certificate.data).ok()?;
    let (rest, first) = Any::from_der(tbs.data).ok()?;
    // The version may be left out: then the first element is the serial number.
    let inner = if first.tag() == Tag::Integer {
        rest
    } else {
        Any::from_der(rest).ok()?.0
    };
    Some(first_element(outer)? == first_element(inner)?)
}

fn first_element(bytes: &[u8]) -> Option<&[u8]> {
    let (rest, _) = Any::from_der(bytes).ok()?;
    bytes.get(..bytes.len() - rest.len())
}

pub(super) fn issuer_signature(algorithm: &AlgorithmIdentifier<'_>) -> IssuerSignature {
    let oid = algorithm.algorithm.to_id_string();
    let known = match oid.as_str() {
        "1.2.840.113549.1.1.11" => Some(SignatureAlgorithm::RsaPkcs1(HashAlg::Sha256)),
        "1.2.840.113549.1.1.12" => Some(SignatureAlgorithm::RsaPkcs1(HashAlg::Sha384)),
        "1.2.840.113549.1.1.13" => Some(SignatureAlgorithm::RsaPkcs1(HashAlg::Sha512)),
        "1.2.840.10045.4.3.2" => Some(SignatureAlgorithm::Ecdsa(HashAlg::Sha256)),
        "1.2.840.10045.4.3.3" => Some(SignatureAlgorithm::Ecdsa(HashAlg::Sha384)),
        "1.2.840.10045.4.3.4" => Some(SignatureAlgorithm::Ecdsa(HashAlg::Sha512)),
        "1.2.840.113549.1.1.10" => pss(algorithm),
        _ => None,
    };
    known.map_or(IssuerSignature::Refused(oid), IssuerSignature::Known)
}

/// RSASSA-PSS with one hash for message and mask and a salt of its length (RFC 4055 3.1); anything else is refused.
fn pss(algorithm: &AlgorithmIdentifier<'_>) -> Option<SignatureAlgorithm> {
    const MGF1: &str = "1.2.840.113549.1.1.8";
    let parameters = RsaSsaPssParams::try_from(algorithm.parameters.as_ref()?).ok()?;
    let mask = parameters.mask_gen_algorithm().ok()?;
    let oid = parameters.hash_algorithm_oid().to_id_string();
    let hash = match oid.as_str() {
        "2.16.840.1.101.3.4.2.1" => HashAlg::Sha256,
        "2.16.840.1.101.3.4.2.2" => HashAlg::Sha384,
        "2.16.840.1.101.3.4.2.3" => HashAlg::Sha512,
        _ => return None,
    };
    let one_hash = mask.mgf.to_id_string() == MGF1 && mask.hash.to_id_string() == oid;
    let usual = parameters.salt_length() as usize == hash.digest_len() && parameters.trailer_field() == 1;
    (one_hash && usual).then_some(SignatureAlgorithm::RsaPss(hash, SaltLength::Digest))
}
