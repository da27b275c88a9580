//! Certificates that a cloud provider's CA makes for the attestation keys of its virtual TPMs.
//!
//! They are no IAK certificates of the TCG's profile (no policy says what was verified), so a domain lists such a CA for
//! this purpose alone: everything below it that may sign is taken to be the restricted key of a virtual TPM of that
//! provider. Google's name the instance in an extension of their own (1.3.6.1.4.1.11129.2.1.21), which becomes a device
//! identity; Microsoft's name the key only. Source: the published certificates of both, and Google's go-tpm-tools
//! (GCEInstanceInfo); EK Credential Profile 2.5, 3.2.16 for the purposes.

use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::certificate::Certificate;
use super::chain::{CertificateStore, ChainRules, verify_chain};
use super::ek_certificate::{EK_CERTIFICATE_PURPOSE, MAX_OFFERED};
use super::iak_certificate::{ATTESTATION_PURPOSE, IakCertificateError, VerifiedIakCertificate};
use super::key::SubjectKey;
use super::roca::has_roca_fingerprint;

/// Google's extension that names an instance.
pub const GCE_INSTANCE: &str = "1.3.6.1.4.1.11129.2.1.21";

const SEQUENCE: u8 = 0x30;
const UTF8: u8 = 0x0C;
const INTEGER: u8 = 0x02;
const BOOLEAN: u8 = 0x01;
/// securityProperties, and isProduction within it.
const PROPERTIES: u8 = 0xA0;
const PRODUCTION: u8 = 0xA1;

/// An instance of Google Compute Engine. Both numbers are never used again for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GceInstance {
    /// The project's number.
    pub project: u64,
    /// The instance's id.
    pub instance: u64,
}

/// The instance that a certificate names; none where it names none, or one of a virtual TPM that is not in production.
pub fn gce_instance(certificate: &Certificate) -> Option<GceInstance> {
    let (_, x509) = X509Certificate::from_der(certificate.as_der()).ok()?;
    let mut named = x509
        .extensions()
        .iter()
        .filter(|extension| extension.oid.to_id_string() == GCE_INSTANCE);
    let (extension, None) = (named.next()?, named.next()) else {
        return None;
    };
    let mut rest = extension.value;
    let mut info = element(&mut rest, SEQUENCE)?;
    if !rest.is_empty() {
        return None;
    }
    let _zone = element(&mut info, UTF8)?;
    let project = number(element(&mut info, INTEGER)?)?;
    let _project_name = element(&mut info, UTF8)?;
    let instance = number(element(&mut info, INTEGER)?)?;
    let _instance_name = element(&mut info, UTF8)?;
    let mut properties = element(&mut info, PROPERTIES)?;
    let mut properties = element(&mut properties, SEQUENCE)?;
    let mut production = false;
    while let Some(tag) = properties.first().copied() {
        let mut value = element(&mut properties, tag)?;
        if tag == PRODUCTION {
            production = element(&mut value, BOOLEAN)? == [0xFF];
        }
    }
    production.then_some(GceInstance { project, instance })
}

/// Checks, as [`verify_iak_certificate`](super::verify_iak_certificate) does, the certificate of a virtual TPM's attestation
/// key at the time `now` (Unix seconds): that it is for `key`, may sign, is no CA's, and chains to an anchor of `store`,
/// which lists CAs of such keys and nothing else.
///
/// # Errors
/// [`IakCertificateError`].
pub fn verify_cloud_ak_certificate(
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
    let usage = |expected, found: String| IakCertificateError::Usage { expected, found };
    if !extensions.key_usage.is_some_and(|usage| usage.digital_signature()) {
        return Err(usage("key usage digitalSignature", "another".into()));
    }
    // Google's older CA gives endorsement and attestation keys the same purpose; the usage tells them apart.
    if let Some(purposes) = &extensions.extended_key_usage
        && !purposes
            .iter()
            .any(|purpose| purpose == ATTESTATION_PURPOSE || purpose == EK_CERTIFICATE_PURPOSE)
    {
        return Err(usage("a purpose of TPM keys, or none", purposes.join(", ")));
    }
    if has_roca_fingerprint(key) {
        return Err(IakCertificateError::Roca);
    }
    let offered = offered.get(..MAX_OFFERED).unwrap_or(offered);
    let chain = verify_chain(&certificate, offered, store, now, rules)?;
    Ok(VerifiedIakCertificate::new(certificate, chain))
}

/// Cuts the element of this tag off the front; short and two-byte lengths, in their one form.
fn element<'a>(bytes: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let (len, content) = match **bytes {
        [first, len, ref content @ ..] if first == tag && len < 0x80 => (usize::from(len), content),
        [first, 0x81, len, ref content @ ..] if first == tag && len >= 0x80 => (usize::from(len), content),
        _ => return None,
    };
    let (element, rest) = content.split_at_checked(len)?;
    *bytes = rest;
    Some(element)
}

/// A DER INTEGER of 0 to 2^64 - 1.
fn number(content: &[u8]) -> Option<u64> {
    let digits = match content {
        [0, rest @ ..] if rest.first().is_some_and(|byte| *byte >= 0x80) => rest,
        [0] => content,
        [first, ..] if *first != 0 && *first < 0x80 => content,
        _ => return None,
    };
    (digits.len() <= 8).then(|| digits.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_one_form() {
        for (content, expected) in [
            (&[0x00][..], Some(0)),
            (&[0x7F], Some(127)),
            (&[0x00, 0x80], Some(128)),
            (&[0x00, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF], Some(u64::MAX)),
            (&[0x80], None),
            (&[0x00, 0x7F], None),
            (&[0x01; 9], None),
            (&[], None),
        ] {
            assert_eq!(number(content), expected, "{content:?}");
        }
    }

    #[test]
    fn elements_have_one_form() {
        for (bytes, expected) in [
            (&[0x0C, 1, b'a', 9][..], Some(&b"a"[..])),
            (&[0x0C, 0x81, 1, b'a'], None),
            (&[0x0C, 2, b'a'], None),
            (&[0x30, 1, b'a'], None),
            (&[0x0C], None),
        ] {
            assert_eq!(element(&mut &bytes[..], UTF8), expected, "{bytes:?}");
        }
    }
}
