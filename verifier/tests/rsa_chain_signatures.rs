//! Signature algorithms of RSA certificate authorities: what is accepted, and what is refused by its name.
//!
//! The certificates are made by `fixtures/rsa-chains/make.sh`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests"
)]

use std::path::Path;

use touchstone_verifier::tpm::HashAlg;
use touchstone_verifier::x509::key::{SaltLength, SignatureAlgorithm, VerifyError};
use touchstone_verifier::x509::{Certificate, CertificateStore, Expiry, verify_chain};

/// 2027-01-01T00:00:00Z.
const NOW: i64 = 1_798_761_600;

fn fixture(name: &str) -> Vec<u8> {
    let dir = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/rsa-chains"));
    std::fs::read(dir.join(name).with_extension("der")).unwrap()
}

#[test]
fn only_strong_signatures_count() {
    let anchors = ["root", "root-rsa1024"].map(|name| (Certificate::from_der(&fixture(name)).unwrap(), true));
    let store = CertificateStore::new(anchors);
    let refused = Some("certificate-algorithm-refused");
    for (name, expected) in [
        ("pkcs1-sha256", None),
        ("pkcs1-sha384", None),
        ("pkcs1-sha512", None),
        ("pss-sha256", None),
        ("pss-sha384", None),
        ("negative-serial", None),
        ("pkcs1-sha1", refused),
        ("pss-sha1", refused),
        ("pss-sha256-mgf1-sha1", refused),
        ("pss-sha256-salt20", refused),
        // A key of 1024 bits verifies nothing here.
        ("rsa1024-sha256", Some("certificate-signature-invalid")),
    ] {
        let leaf = Certificate::from_der(&fixture(name)).unwrap();
        let result = verify_chain(&leaf, &[], &store, NOW, Expiry::Deny);
        assert_eq!(result.err().map(|e| e.code().as_str()), expected, "{name}");
    }
}

/// SHA-1 is refused by the key itself, before any signature is looked at, whoever asks.
#[test]
fn no_key_verifies_sha1() {
    let root = Certificate::from_der(&fixture("root")).unwrap();
    let ek = Certificate::from_der(&fixture("pkcs1-sha1")).unwrap();
    for (key, algorithm) in [
        (root.key(), SignatureAlgorithm::RsaPkcs1(HashAlg::Sha1)),
        (
            root.key(),
            SignatureAlgorithm::RsaPss(HashAlg::Sha1, SaltLength::DigestOrMax),
        ),
        (ek.key(), SignatureAlgorithm::Ecdsa(HashAlg::Sha1)),
        (ek.key(), SignatureAlgorithm::RsaPkcs1(HashAlg::Sha256)),
    ] {
        assert_eq!(
            key.verify(algorithm, b"", &[0; 256]),
            Err(VerifyError::Unsupported),
            "{algorithm:?}"
        );
    }
}
