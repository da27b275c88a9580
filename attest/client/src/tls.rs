//! The pinned TLS 1.3 client configuration.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use touchstone_authorization::TrustedKey;
use touchstone_cose::key::VerifyingKey;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A TLS 1.3 configuration that accepts exactly the servers whose key is one of `keys`, each within its time: also a
/// process that runs for months stops believing a key at its end.
///
/// No tickets and no early data: a resumed session would skip the key check, and 0-RTT can be replayed
/// (`protocol.md` 3, `standards.md` F.22).
///
/// # Errors
/// The TLS library's own words if the provider does not support TLS 1.3.
pub fn pinned_config(keys: &[TrustedKey]) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = PinnedKeys {
        keys: keys
            .iter()
            .map(|trusted| (trusted.key.thumbprint(), (trusted.not_before, trusted.not_after)))
            .collect(),
        algorithms: provider.signature_verification_algorithms,
    };
    let mut config = ClientConfig::builder_with_provider(Arc::<CryptoProvider>::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Accepts a server by the thumbprint (RFC 9679) of its key alone; names and issuers say nothing here.
#[derive(Debug)]
struct PinnedKeys {
    /// First second of each and the first one after it, Unix seconds.
    keys: BTreeMap<[u8; 32], (i64, i64)>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PinnedKeys {
    fn accepts(&self, key: &VerifyingKey, now: UnixTime) -> bool {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        self.keys
            .get(&key.thumbprint())
            .is_some_and(|(from, until)| *from <= now && now < *until)
    }
}

impl ServerCertVerifier for PinnedKeys {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let listed = p256_key(end_entity).is_some_and(|key| self.accepts(&key, now));
        if listed {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(
                rustls::CertificateError::ApplicationVerificationFailure,
            ))
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The P-256 key of a certificate, if that is what it holds.
fn p256_key(certificate: &[u8]) -> Option<VerifyingKey> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let point: &[u8] = &parsed.public_key().subject_public_key.data;
    let (prefix, coordinates) = point.split_first()?;
    let (x, y) = coordinates.split_at_checked(32)?;
    (*prefix == 4).then_some(())?;
    Some(VerifyingKey::P256 {
        x: x.try_into().ok()?,
        y: y.try_into().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn key(n: u8) -> VerifyingKey {
        VerifyingKey::P256 { x: [n; 32], y: [n; 32] }
    }

    #[test]
    fn a_key_counts_within_its_time_only_and_no_other_does() {
        let pinned = PinnedKeys {
            keys: [(key(1).thumbprint(), (100, 200))].into(),
            algorithms: rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms,
        };
        for (name, key, now, expected) in [
            ("before", key(1), 99, false),
            ("first second", key(1), 100, true),
            ("last second", key(1), 199, true),
            ("after", key(1), 200, false),
            ("another key", key(2), 150, false),
        ] {
            let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
            assert_eq!(pinned.accepts(&key, now), expected, "{name}");
        }
    }
}
