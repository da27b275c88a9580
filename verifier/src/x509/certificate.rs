//! One certificate, parsed once: what chain building and EK rules need, and the bytes that were signed.
//!
//! Liberal in what is parsed (padding, odd serial numbers, keys marked id-RSAES-OAEP), strict in what is verified.
//! Source: RFC 5280 4.1 and 4.2.

use thiserror::Error;
use x509_parser::asn1_rs::{Any, Oid, Tag};
use x509_parser::certificate::{X509Certificate, X509CertificateParser};
use x509_parser::extensions::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, GeneralName, KeyIdentifier, KeyUsage,
    SubjectAlternativeName,
};
use x509_parser::nom::Parser;
use x509_parser::prelude::FromDer;
use x509_parser::signature_algorithm::RsaSsaPssParams;
use x509_parser::x509::{AlgorithmIdentifier, AttributeTypeAndValue, X509Name};

use super::code::CertificateCode;
use super::der::{TrimError, trim_padding};
use super::key::{KeyError, SaltLength, SignatureAlgorithm, SubjectKey, VerifyError};
use crate::reason::sanitise;
use crate::tpm::algorithm::HashAlg;

/// Longest certificate read.
pub const MAX_CERTIFICATE_LEN: usize = 16 * 1024;
/// Most extensions in a certificate.
pub const MAX_EXTENSIONS: usize = 32;
/// Longest name shown, in bytes.
pub const MAX_NAME_TEXT: usize = 256;

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
    pub(crate) basic_constraints: Option<(bool, Option<u32>)>,
    pub(crate) key_usage: Option<KeyUsage>,
    pub(crate) extended_key_usage: Option<Vec<String>>,
    pub(crate) subject_key_id: Option<Vec<u8>>,
    pub(crate) authority_key_id: Option<Vec<u8>>,
    pub(crate) unknown_critical: Vec<String>,
    pub(crate) alternative_attributes: Vec<(String, String)>,
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
        let mut certificate = Self {
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
            basic_constraints: None,
            key_usage: None,
            extended_key_usage: None,
            subject_key_id: None,
            authority_key_id: None,
            unknown_critical: Vec::new(),
            alternative_attributes: Vec::new(),
            der: der.to_vec(),
        };
        certificate.read_extensions(&x509)?;
        Ok(certificate)
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

    fn read_extensions(&mut self, x509: &X509Certificate<'_>) -> Result<(), CertificateError> {
        let malformed = |expected| CertificateError::Malformed { expected };
        let extensions = x509.extensions();
        if extensions.len() > MAX_EXTENSIONS {
            return Err(malformed("at most 32 extensions"));
        }
        let mut seen = Vec::with_capacity(extensions.len());
        for extension in extensions {
            let oid = extension.oid.to_id_string();
            match oid.as_str() {
                "2.5.29.19" => {
                    let basic: BasicConstraints = whole(extension.value).ok_or(malformed("basicConstraints"))?;
                    self.basic_constraints = Some((basic.ca, basic.path_len_constraint));
                }
                "2.5.29.15" => self.key_usage = Some(whole(extension.value).ok_or(malformed("keyUsage"))?),
                "2.5.29.37" => {
                    self.extended_key_usage = Some(purposes(extension.value).ok_or(malformed("extKeyUsage"))?);
                }
                "2.5.29.14" => {
                    let id: KeyIdentifier<'_> = whole(extension.value).ok_or(malformed("subjectKeyIdentifier"))?;
                    self.subject_key_id = Some(id.0.to_vec());
                }
                "2.5.29.35" => {
                    let id: AuthorityKeyIdentifier<'_> =
                        whole(extension.value).ok_or(malformed("authorityKeyIdentifier"))?;
                    self.authority_key_id = id.key_identifier.map(|id| id.0.to_vec());
                }
                "2.5.29.17" => {
                    let names: SubjectAlternativeName<'_> =
                        whole(extension.value).ok_or(malformed("subjectAltName"))?;
                    self.alternative_attributes = names.general_names.iter().flat_map(directory_attributes).collect();
                }
                // certificatePolicies restrict only verifiers that demand a policy, and this one demands none
                // (RFC 5280 6.1.1 (c): any policy is acceptable). TPM makers mark it critical.
                "2.5.29.32" => {}
                _ if extension.critical => self.unknown_critical.push(sanitise(&oid, MAX_NAME_TEXT)),
                _ => {}
            }
            if seen.contains(&oid) {
                return Err(malformed("each extension once"));
            }
            seen.push(oid);
        }
        Ok(())
    }
}

/// The bytes of `whole` from the start of `part` on, if `part` lies inside it.
fn remaining(whole: &[u8], part: &[u8]) -> Option<usize> {
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

fn whole<'a, T: FromDer<'a, x509_parser::error::X509Error>>(value: &'a [u8]) -> Option<T> {
    match T::from_der(value) {
        Ok(([], parsed)) => Some(parsed),
        _ => None,
    }
}

fn purposes(value: &[u8]) -> Option<Vec<String>> {
    let usage: ExtendedKeyUsage<'_> = whole(value)?;
    let named = [
        (usage.any, "2.5.29.37.0"),
        (usage.server_auth, "1.3.6.1.5.5.7.3.1"),
        (usage.client_auth, "1.3.6.1.5.5.7.3.2"),
        (usage.code_signing, "1.3.6.1.5.5.7.3.3"),
        (usage.email_protection, "1.3.6.1.5.5.7.3.4"),
        (usage.time_stamping, "1.3.6.1.5.5.7.3.8"),
        (usage.ocsp_signing, "1.3.6.1.5.5.7.3.9"),
    ];
    let named = named.into_iter().filter(|(set, _)| *set).map(|(_, oid)| oid.to_owned());
    Some(named.chain(usage.other.iter().map(Oid::to_id_string)).collect())
}

fn directory_attributes(name: &GeneralName<'_>) -> Vec<(String, String)> {
    match name {
        GeneralName::DirectoryName(name) => name
            .iter_attributes()
            .map(|a| (a.attr_type().to_id_string(), text(a.as_str().unwrap_or_default())))
            .collect(),
        _ => Vec::new(),
    }
}

fn text(value: &str) -> String {
    sanitise(value, MAX_NAME_TEXT)
}

/// A name in a form in which equal names are equal bytes (RFC 5280 7.1): PrintableString, UTF8String and IA5String are
/// text, ASCII letters without case, white space as one space; any other value is its tag and bytes.
///
/// Makers do need it: an intermediate of STMicroelectronics writes its issuer's name in another string type than the
/// issuer does. Names only lead to candidates; whether one issued the certificate is decided by the signature.
fn name_key(name: &X509Name<'_>) -> Vec<u8> {
    let mut key = Vec::with_capacity(name.as_raw().len() + 32);
    for rdn in name.iter() {
        let mut attributes: Vec<Vec<u8>> = rdn.iter().map(attribute_key).collect();
        attributes.sort_unstable();
        key.extend((attributes.len() as u32).to_be_bytes());
        for attribute in attributes {
            key.extend((attribute.len() as u32).to_be_bytes());
            key.extend(attribute);
        }
    }
    key
}

fn attribute_key(attribute: &AttributeTypeAndValue<'_>) -> Vec<u8> {
    let value = attribute.attr_value();
    let mut key = attribute.attr_type().as_bytes().to_vec();
    match (value.tag(), attribute.as_str()) {
        (Tag::PrintableString | Tag::Utf8String | Tag::Ia5String, Ok(text)) => {
            key.push(0);
            let words: Vec<&str> = text.split_ascii_whitespace().collect();
            key.extend(words.join(" ").to_ascii_lowercase().into_bytes());
        }
        (tag, _) => {
            key.push(1);
            key.extend(tag.0.to_be_bytes());
            key.extend_from_slice(value.data);
        }
    }
    key
}

/// `CN=…, O=…` in the order of the certificate; attributes without a short name by their object identifier.
fn name_text(name: &X509Name<'_>) -> String {
    let parts = name.iter_attributes().map(|attribute| {
        let oid = attribute.attr_type().to_id_string();
        let label = match oid.as_str() {
            "2.5.4.3" => "CN",
            "2.5.4.5" => "serialNumber",
            "2.5.4.6" => "C",
            "2.5.4.7" => "L",
            "2.5.4.8" => "ST",
            "2.5.4.10" => "O",
            "2.5.4.11" => "OU",
            other => other,
        };
        format!("{label}={}", attribute.as_str().unwrap_or("?"))
    });
    text(&parts.collect::<Vec<_>>().join(", "))
}

fn issuer_signature(algorithm: &AlgorithmIdentifier<'_>) -> IssuerSignature {
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
