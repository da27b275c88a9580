//! One row an attack, on the chain from an EK certificate to a trust anchor.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests"
)]

use crate::pki;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, date_time_ymd,
};
use touchstone_verifier::x509::chain::{MAX_CHAIN_DEPTH, MAX_SIGNATURE_CHECKS};
use touchstone_verifier::x509::ek_certificate::EkCertificateError;
use touchstone_verifier::x509::{
    Certificate, CertificateStore, Expiry, VerifiedEkCertificate, verify_chain, verify_ek_certificate,
};

/// 2026-06-01T00:00:00Z.
const NOW: i64 = 1_780_272_000;
/// 2031-01-01T00:00:00Z, the end of the EK certificate's validity.
const EK_END: i64 = 1_924_992_000;

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2040, 1, 1);
    params.use_authority_key_identifier_extension = true;
    params
}

fn ca(name: &str, path_len: Option<u8>) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(path_len.map_or(BasicConstraints::Unconstrained, BasicConstraints::Constrained));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn ek() -> CertificateParams {
    let mut params = params("EK");
    params.custom_extensions = vec![pki::tpm_name(true, true)];
    params.not_after = date_time_ymd(2031, 1, 1);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::KeyAgreement];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 1])];
    params
}

/// A root, an intermediate and an EK certificate, each of which a row may bend before it is signed.
struct Chain {
    root: CertificateParams,
    intermediate: CertificateParams,
    ek: CertificateParams,
    /// Sign the EK certificate with a key that is not the intermediate's.
    forge: bool,
}

impl Chain {
    fn honest() -> Self {
        Self {
            root: ca("Root", None),
            intermediate: ca("Intermediate", Some(0)),
            ek: ek(),
            forge: false,
        }
    }

    fn with(bend: impl FnOnce(&mut Chain)) -> Self {
        let mut chain = Self::honest();
        bend(&mut chain);
        chain
    }

    /// Root, intermediate and EK certificate.
    fn sign(self) -> [Vec<u8>; 3] {
        let (root_key, intermediate_key, ek_key) = (key(), key(), key());
        let root = self.root.self_signed(&root_key).unwrap();
        let root_issuer = Issuer::new(self.root, root_key);
        let intermediate = self.intermediate.signed_by(&intermediate_key, &root_issuer).unwrap();
        let signer = if self.forge { key() } else { intermediate_key };
        let ek = self
            .ek
            .signed_by(&ek_key, &Issuer::new(self.intermediate, signer))
            .unwrap();
        [root, intermediate, ek].map(|c| c.der().to_vec())
    }
}

fn parsed(der: &[u8]) -> Certificate {
    Certificate::from_der(der).unwrap()
}

fn check(chain: Chain, now: i64, expiry: Expiry) -> Result<VerifiedEkCertificate, EkCertificateError> {
    let [root, intermediate, ek] = chain.sign();
    let store = CertificateStore::new([(parsed(&root), true), (parsed(&intermediate), false)]);
    verify_ek_certificate(&ek, &[], &store, now, expiry)
}

fn extension(oid: &[u64], critical: bool) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, vec![0x30, 0x00]);
    extension.set_criticality(critical);
    extension
}

#[test]
fn bent_chains_are_refused() {
    type Bend = fn(&mut Chain);
    let rows: [(&str, Bend, Option<&str>); 28] = [
        ("honest", |_| {}, None),
        (
            "EK without any usage",
            |c| (c.ek.key_usages, c.ek.extended_key_usages) = (vec![], vec![]),
            None,
        ),
        ("EK without basicConstraints", |c| c.ek.is_ca = IsCa::NoCa, None),
        (
            "unknown extension, not critical",
            |c| c.ek.custom_extensions.push(extension(&[1, 2, 3], false)),
            None,
        ),
        (
            "critical certificatePolicies",
            |c| c.root.custom_extensions = vec![extension(&[2, 5, 29, 32], true)],
            None,
        ),
        (
            "forged with the name of the intermediate",
            |c| c.forge = true,
            Some("certificate-issuer-unknown"),
        ),
        (
            "forged with the name of the intermediate, without key id",
            |c| (c.forge, c.ek.use_authority_key_identifier_extension) = (true, false),
            Some("certificate-signature-invalid"),
        ),
        (
            "EK of another purpose",
            |c| c.ek.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth],
            Some("certificate-usage-wrong"),
        ),
        (
            "EK of any purpose",
            |c| c.ek.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any],
            Some("certificate-usage-wrong"),
        ),
        (
            "attestation key purpose",
            |c| c.ek.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 3])],
            Some("certificate-usage-wrong"),
        ),
        (
            "EK for signing",
            |c| c.ek.key_usages = vec![KeyUsagePurpose::DigitalSignature],
            Some("certificate-usage-wrong"),
        ),
        (
            "ECC EK for key encipherment",
            |c| c.ek.key_usages = vec![KeyUsagePurpose::KeyEncipherment],
            Some("certificate-usage-wrong"),
        ),
        (
            "EK that is a CA",
            |c| c.ek.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            Some("certificate-is-a-ca"),
        ),
        (
            "intermediate CA:FALSE",
            |c| c.intermediate.is_ca = IsCa::ExplicitNoCa,
            Some("certificate-not-a-ca"),
        ),
        (
            "intermediate without basicConstraints",
            |c| c.intermediate.is_ca = IsCa::NoCa,
            Some("certificate-not-a-ca"),
        ),
        (
            "intermediate that may not sign certificates",
            |c| c.intermediate.key_usages = vec![KeyUsagePurpose::CrlSign],
            Some("certificate-not-a-ca"),
        ),
        (
            "root CA:FALSE",
            |c| c.root.is_ca = IsCa::ExplicitNoCa,
            Some("certificate-not-a-ca"),
        ),
        (
            "root that may not sign certificates",
            |c| c.root.key_usages = vec![KeyUsagePurpose::DigitalSignature],
            Some("certificate-not-a-ca"),
        ),
        (
            "root with path length 0",
            |c| c.root.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)),
            Some("certificate-path-too-long"),
        ),
        (
            "critical unknown extension in the EK",
            |c| c.ek.custom_extensions.push(extension(&[1, 2, 3], true)),
            Some("certificate-extension-unknown"),
        ),
        (
            "critical unknown extension in the intermediate",
            |c| c.intermediate.custom_extensions = vec![extension(&[1, 2, 3], true)],
            Some("certificate-extension-unknown"),
        ),
        (
            "critical name constraints in the root that constrain nothing",
            |c| c.root.custom_extensions = vec![extension(&[2, 5, 29, 30], true)],
            Some("certificate-extension-unknown"),
        ),
        (
            "EK expired",
            |c| c.ek.not_after = date_time_ymd(2026, 5, 31),
            Some("certificate-expired"),
        ),
        (
            "intermediate expired",
            |c| c.intermediate.not_after = date_time_ymd(2025, 1, 1),
            Some("certificate-expired"),
        ),
        (
            "root expired",
            |c| c.root.not_after = date_time_ymd(2025, 1, 1),
            Some("certificate-expired"),
        ),
        (
            "EK not yet valid",
            |c| c.ek.not_before = date_time_ymd(2026, 6, 2),
            Some("certificate-not-yet-valid"),
        ),
        (
            "intermediate not yet valid",
            |c| c.intermediate.not_before = date_time_ymd(2027, 1, 1),
            Some("certificate-not-yet-valid"),
        ),
        (
            "root not yet valid",
            |c| c.root.not_before = date_time_ymd(2027, 1, 1),
            Some("certificate-not-yet-valid"),
        ),
    ];
    for (attack, bend, expected) in rows {
        let result = check(Chain::with(bend), NOW, Expiry::Deny);
        let found = result.as_ref().err().map(|e| e.code().as_str());
        assert_eq!(found, expected, "{attack}: {:?}", result.err());
    }
}

#[test]
fn unknown_issuers_are_refused() {
    let [root, intermediate, ek] = Chain::honest().sign();
    let [other_root, other_intermediate, _] = Chain::honest().sign();
    let (root, intermediate) = (parsed(&root), parsed(&intermediate));
    let (other_root, other_intermediate) = (parsed(&other_root), parsed(&other_intermediate));
    type Row = (
        &'static str,
        Vec<(Certificate, bool)>,
        Vec<Certificate>,
        Option<&'static str>,
    );
    let rows: [Row; 9] = [
        ("empty store", vec![], vec![], Some("certificate-issuer-unknown")),
        (
            "no intermediate",
            vec![(root.clone(), true)],
            vec![],
            Some("certificate-issuer-unknown"),
        ),
        (
            "no root",
            vec![(intermediate.clone(), false)],
            vec![],
            Some("certificate-issuer-unknown"),
        ),
        (
            "nothing is an anchor",
            vec![(root.clone(), false), (intermediate.clone(), false)],
            vec![],
            Some("certificate-issuer-unknown"),
        ),
        // Same names, other keys: authority and subject key ids tell them apart.
        (
            "another maker's CAs of the same names",
            vec![(other_root.clone(), true), (other_intermediate.clone(), false)],
            vec![],
            Some("certificate-issuer-unknown"),
        ),
        (
            "root that came with the evidence",
            vec![],
            vec![intermediate.clone(), root.clone()],
            Some("certificate-issuer-unknown"),
        ),
        (
            "intermediate that came with the evidence",
            vec![(root.clone(), true)],
            vec![intermediate.clone()],
            None,
        ),
        (
            "intermediate as anchor",
            vec![(intermediate.clone(), true)],
            vec![],
            None,
        ),
        (
            "among others of the same names",
            vec![
                (other_root, true),
                (other_intermediate, false),
                (intermediate, false),
                (root, true),
            ],
            vec![],
            None,
        ),
    ];
    for (attack, store, offered, expected) in rows {
        let result = verify_ek_certificate(&ek, &offered, &CertificateStore::new(store), NOW, Expiry::Deny);
        assert_eq!(result.err().map(|e| e.code().as_str()), expected, "{attack}");
    }
}

/// A certificate listed as intermediate and as anchor is an anchor, whatever the order.
#[test]
fn anchors_are_remembered() {
    let [root, intermediate, ek] = Chain::honest().sign();
    for flags in [[true, false], [false, true]] {
        let twice = flags.map(|anchor| (parsed(&root), anchor));
        let store = CertificateStore::new(twice.into_iter().chain([(parsed(&intermediate), false)]));
        assert_eq!(store.iter().count(), 2);
        assert!(verify_ek_certificate(&ek, &[], &store, NOW, Expiry::Deny).is_ok());
    }
}

#[test]
fn expiry_is_the_minimum_and_leniency_is_named() {
    let verified = check(Chain::honest(), NOW, Expiry::Deny).unwrap();
    assert_eq!(verified.chain().not_after, EK_END);
    assert_eq!(verified.chain().issuers, ["CN=Intermediate", "CN=Root"]);
    assert!(verified.chain().expired.is_empty());
    let shorter = Chain::with(|c| c.intermediate.not_after = date_time_ymd(2030, 1, 1));
    assert_eq!(
        check(shorter, NOW, Expiry::Deny).unwrap().chain().not_after,
        1_893_456_000
    );

    // The last second of validity counts, the next does not.
    assert!(check(Chain::honest(), EK_END, Expiry::Deny).is_ok());
    let error = check(Chain::honest(), EK_END + 1, Expiry::Deny).unwrap_err();
    assert_eq!(error.code().as_str(), "certificate-expired");
    let (expected, found) = error.details();
    assert!(
        expected.contains("2031-01-01T00:00:00Z") && found.contains("2031-01-01T00:00:01Z"),
        "{error}"
    );

    let lenient = check(Chain::honest(), EK_END + 1, Expiry::IgnoreWithClaim).unwrap();
    let [expired] = lenient.chain().expired.as_slice() else {
        panic!("{lenient:?}")
    };
    assert_eq!((expired.subject.as_str(), expired.not_after), ("CN=EK", EK_END));
    // What has expired does not end the authorization at once; what has not still does.
    assert_eq!(lenient.chain().not_after, 2_208_988_800);
    // Leniency is about the end only.
    assert!(check(Chain::honest(), 0, Expiry::IgnoreWithClaim).is_err());
}

#[test]
fn chains_end_at_the_maximum_depth() {
    for (cas, expected) in [
        (MAX_CHAIN_DEPTH - 1, None),
        (MAX_CHAIN_DEPTH, Some("certificate-path-too-long")),
    ] {
        let root_key = key();
        let root = ca("CA 0", None);
        let mut store = vec![(parsed(root.self_signed(&root_key).unwrap().der()), true)];
        let mut issuer = Issuer::new(root, root_key);
        for i in 1..cas {
            let (params, params_key) = (ca(&format!("CA {i}"), None), key());
            store.push((parsed(params.signed_by(&params_key, &issuer).unwrap().der()), false));
            issuer = Issuer::new(params, params_key);
        }
        let leaf = ek().signed_by(&key(), &issuer).unwrap();
        let result = verify_chain(
            &parsed(leaf.der()),
            &[],
            &CertificateStore::new(store),
            NOW,
            Expiry::Deny,
        );
        assert_eq!(result.err().map(|e| e.code().as_str()), expected, "{cas} CAs");
    }
}

/// CAs that certify each other in a ring: the search ends, with few signatures checked.
#[test]
fn rings_of_cas_end() {
    let names = ["A", "B", "C"];
    let keys = [key(), key(), key()];
    let no_key_ids = |name: &str| {
        let mut params = ca(name, None);
        params.use_authority_key_identifier_extension = false;
        params
    };
    let mut offered = Vec::new();
    for _ in 0..MAX_SIGNATURE_CHECKS {
        for i in 0..3 {
            let issuer_key = KeyPair::from_pem(&keys[(i + 1) % 3].serialize_pem()).unwrap();
            let issuer = Issuer::new(no_key_ids(names[(i + 1) % 3]), issuer_key);
            offered.push(parsed(no_key_ids(names[i]).signed_by(&keys[i], &issuer).unwrap().der()));
        }
    }
    let issuer = Issuer::new(no_key_ids("A"), KeyPair::from_pem(&keys[0].serialize_pem()).unwrap());
    let leaf = ek().signed_by(&key(), &issuer).unwrap();
    let result = verify_chain(
        &parsed(leaf.der()),
        &offered,
        &CertificateStore::default(),
        NOW,
        Expiry::Deny,
    );
    assert_eq!(result.unwrap_err().code().as_str(), "certificate-path-too-long");
}

/// A P-384 CA over a P-256 EK certificate: hash and curve go by the issuer.
#[test]
fn curves_may_differ_along_the_chain() {
    let ca_key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let root = ca("Root", None);
    let store = CertificateStore::new([(parsed(root.self_signed(&ca_key).unwrap().der()), true)]);
    let leaf = ek().signed_by(&key(), &Issuer::new(root, ca_key)).unwrap();
    assert!(verify_ek_certificate(leaf.der(), &[], &store, NOW, Expiry::Deny).is_ok());
}

/// Key ids are compared only where both are there.
#[test]
fn chains_without_key_ids_are_found() {
    let chain = Chain::with(|c| {
        for params in [&mut c.intermediate, &mut c.ek] {
            params.use_authority_key_identifier_extension = false;
        }
        c.intermediate.key_identifier_method = KeyIdMethod::PreSpecified(vec![1, 2, 3]);
    });
    assert!(check(chain, NOW, Expiry::Deny).is_ok());
}

/// Makers write one name in several string types (RFC 5280 7.1): the chain is found, and other names are others.
#[test]
fn names_are_compared_by_what_they_say() {
    let root_key = key();
    let named = |value: DnValue| {
        let mut params = ca("", None);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, value);
        params
    };
    let printable = |text: &str| DnValue::PrintableString(text.try_into().unwrap());
    let root = named(printable("TPM Root  CA")).self_signed(&root_key).unwrap();
    let store = CertificateStore::new([(parsed(root.der()), true)]);
    for (issuer, expected) in [
        (printable("TPM Root  CA"), None),
        (DnValue::Utf8String("TPM Root CA".into()), None),
        (DnValue::Utf8String(" tpm root ca".into()), None),
        (
            DnValue::Utf8String("TPM RootCA".into()),
            Some("certificate-issuer-unknown"),
        ),
        (
            DnValue::Utf8String("TPM Root CA 2".into()),
            Some("certificate-issuer-unknown"),
        ),
        (
            DnValue::BmpString("TPM Root CA".try_into().unwrap()),
            Some("certificate-issuer-unknown"),
        ),
    ] {
        let issuer_key = KeyPair::from_pem(&root_key.serialize_pem()).unwrap();
        let leaf = ek()
            .signed_by(&key(), &Issuer::new(named(issuer.clone()), issuer_key))
            .unwrap();
        let result = verify_ek_certificate(leaf.der(), &[], &store, NOW, Expiry::Deny);
        assert_eq!(result.err().map(|e| e.code().as_str()), expected, "{issuer:?}");
    }
}

/// Names from a certificate are shown in logs and reasons: control characters do not get that far, nor do 100 KB.
#[test]
fn hostile_names_are_made_harmless() {
    for name in ["\x1b[31mred", "line\nbreak", "\u{202E}evil", &"x".repeat(5000)] {
        let chain = Chain::with(|c| {
            c.ek.distinguished_name = DistinguishedName::new();
            c.ek.distinguished_name.push(DnType::CommonName, name);
        });
        let verified = check(chain, NOW, Expiry::Deny).unwrap();
        let shown = verified.certificate().subject();
        assert!(
            shown.len() <= 256 && !shown.chars().any(|c| c.is_control() || c == '\u{202E}'),
            "{shown}"
        );
    }
}

/// Every changed byte of an EK certificate makes it another, unsigned one.
#[test]
fn any_changed_byte_is_noticed() {
    let [root, intermediate, ek] = Chain::honest().sign();
    let store = CertificateStore::new([(parsed(&root), true), (parsed(&intermediate), false)]);
    assert!(verify_ek_certificate(&ek, &[], &store, NOW, Expiry::Deny).is_ok());
    for i in 0..ek.len() {
        let mut changed = ek.clone();
        changed[i] ^= 0x01;
        assert!(
            verify_ek_certificate(&changed, &[], &store, NOW, Expiry::Deny).is_err(),
            "byte {i}"
        );
    }
}
