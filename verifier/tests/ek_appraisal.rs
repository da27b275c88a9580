//! Device identity in a whole appraisal: deny lists, ROCA keys, demanded certificates, and IAK certificates instead of
//! an endorsement key.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests"
)]

use crate::common;
use crate::pki;

use common::{Boot, NOW, Offline, codes};
use pki::Maker;
use rcgen::{CertificateParams, CustomExtension, DnType, KeyUsagePurpose, PublicKeyData, SignatureAlgorithm};
use touchstone_evidence::collection::Label;
use touchstone_verifier::anchors::{Purpose, TrustAnchors};
use touchstone_verifier::appraisal::{AkBinding, ClaimValue, claim};
use touchstone_verifier::deny::{DeniedFirmware, DenyList};
use touchstone_verifier::inventory::{Inventory, Node};
use touchstone_verifier::policy::EkCertificateRule;
use touchstone_verifier::tpm::Public;
use touchstone_verifier::x509::iak_certificate::DeviceId;
use touchstone_verifier::x509::{CrlRule, Expiry, SubjectKey, verify_iak_certificate};

/// An RSA key by its public half alone (RSAPublicKey, DER): what a CA certifies.
struct RsaKey(Vec<u8>);

impl RsaKey {
    fn of(key: &SubjectKey) -> Self {
        let SubjectKey::Rsa { modulus, .. } = key else {
            panic!("an RSA key")
        };
        let modulus = pki::tlv(0x02, &[&[0], modulus]);
        Self(pki::tlv(0x30, &[&modulus, &[0x02, 3, 1, 0, 1]]))
    }
}

impl PublicKeyData for RsaKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_RSA_SHA256
    }
}

fn good() -> Offline {
    let boot = Boot::load("good");
    Offline::new(&boot, "quote-rsa", "rsa", &boot)
}

fn ak() -> SubjectKey {
    let bytes = Boot::load("good").file("ak-rsa.pub");
    Public::from_tpm2b_or_tpmt(&bytes).unwrap().subject_key()
}

fn firmware(manufacturer: [u8; 4], from: u64, to: u64) -> DenyList {
    let why = "a hole".to_owned();
    DenyList::new(
        [],
        vec![DeniedFirmware {
            manufacturer,
            from,
            to,
            why,
        }],
    )
}

#[test]
fn deny_lists_row_by_row() {
    let boot = Boot::load("good");
    let id = boot.ek_id("rsa");
    let swtpm = [0, 0, 0x10, 0x14];
    // swtpm: 0x20191023 in the certificate and in the upper half of the quote's version.
    let (low, high) = (0x2019_1023_u64 << 32, 0x2019_1023_FFFF_FFFF_u64);
    for (rule, denied, expected) in [
        ("nothing", DenyList::default(), &[][..]),
        (
            "this key",
            DenyList::new([(id, "stolen".into())], vec![]),
            &["ek-denied"][..],
        ),
        (
            "another key",
            DenyList::new([(boot.ek_id("ecc"), "stolen".into())], vec![]),
            &[],
        ),
        ("this firmware", firmware(swtpm, low, high), &["tpm-firmware-denied"]),
        ("older firmware", firmware(swtpm, 0, low - 1), &[]),
        ("newer firmware", firmware(swtpm, high + 1, u64::MAX), &[]),
        ("another maker's", firmware(*b"IFX\0", 0, u64::MAX), &[]),
    ] {
        let mut s = good();
        s.anchors = common::anchors().with_deny_list(denied.clone());
        let mut found = codes(&s.appraise());
        found.dedup();
        assert_eq!(found, expected, "{rule}");
    }
    // Without a certificate nobody says whose firmware it is: every maker's entries hold.
    let mut s = good().without(Label::TpmEkCertificate);
    s.anchors = common::anchors().with_deny_list(firmware(*b"IFX\0", 0, u64::MAX));
    assert!(codes(&s.appraise()).contains(&"tpm-firmware-denied"));
    // And what the attestation key cannot show is not taken for good.
    s.anchors = common::anchors().with_deny_list(firmware(*b"IFX\0", 0, 1));
    assert!(codes(&s.appraise()).contains(&"tpm-firmware-unknown"));
}

#[test]
fn certificates_can_be_demanded() {
    for (rule, expected) in [
        (EkCertificateRule::WhenPresent, &[][..]),
        (EkCertificateRule::Required, &["ek-certificate-missing"][..]),
    ] {
        let mut s = good().without(Label::TpmEkCertificate);
        s.policy.ek_certificate = rule;
        assert_eq!(codes(&s.appraise()), expected, "{rule:?}");
        let mut s = good();
        s.policy.ek_certificate = rule;
        assert_eq!(codes(&s.appraise()), [""; 0], "{rule:?}");
    }
    let mut s = good();
    s.policy.crl = CrlRule::Required;
    assert_eq!(codes(&s.appraise()), ["certificate-crl-missing"]);
    let appraisal = good().appraise();
    assert_eq!(appraisal.claims[claim::EK_CRL], ClaimValue::Text("none".into()));
}

fn policies(last: u64) -> CustomExtension {
    let policy = pki::tlv(0x30, &[&pki::oid(&[2, 23, 133, 11, 1, last])]);
    CustomExtension::from_oid_content(&[2, 5, 29, 32], pki::tlv(0x30, &[&policy]))
}

/// A certificate of the recorded attestation key, as `bend` leaves it.
fn iak(maker: &Maker, bend: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    maker.certify(
        |params| {
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages.clear();
            params.custom_extensions = vec![policies(3)];
            params
                .distinguished_name
                .push(DnType::CustomDnType(vec![2, 5, 4, 5]), "SN-1");
            bend(params);
        },
        &RsaKey::of(&ak()),
    )
}

/// Evidence with an IAK certificate and no endorsement key, of a machine listed by its serial number.
fn by_device(certificate: Vec<u8>, maker: &Maker, purpose: Purpose, serial: &str) -> Offline {
    let mut s = good()
        .without(Label::TpmEkCertificate)
        .with(Label::TpmIakCertificate, certificate);
    s.anchors = TrustAnchors::new([(purpose, maker.root.as_der())])
        .unwrap()
        .with_intermediates([(purpose, maker.intermediate.as_der())])
        .unwrap();
    s.inventory = Inventory::new(vec![Node {
        name: "node-1".into(),
        region: "north".into(),
        devices: vec![DeviceId::Serial(serial.into())],
        ..Node::default()
    }]);
    s
}

#[test]
fn a_listed_device_identity_ties_the_attestation_key() {
    let maker = Maker::new();
    for purpose in [Purpose::Idevid, Purpose::Ldevid] {
        let mut s = by_device(iak(&maker, |_| {}), &maker, purpose, "SN-1");
        s.policy.ek_certificate = EkCertificateRule::Required;
        let appraisal = s.appraise();
        assert_eq!(codes(&appraisal), [""; 0], "{:?}", appraisal.reasons);
        assert_eq!(
            (appraisal.ak_binding, appraisal.node.as_deref()),
            (AkBinding::IakCertificate, Some("node-1"))
        );
        assert_eq!(
            appraisal.claims[claim::AK_BINDING],
            ClaimValue::Text("iak-certificate".into())
        );
        assert_eq!(
            appraisal.claims[claim::IAK_CERTIFICATE],
            ClaimValue::Text(purpose.as_str().into())
        );
        // 2040-01-01, the end of the certificates.
        assert_eq!(appraisal.expires, 2_208_988_800);
    }
}

#[test]
fn device_identities_row_by_row() {
    let maker = Maker::new();
    type Bend = fn(&mut CertificateParams);
    let rows: [(&str, Bend, &str); 6] = [
        (
            "no policy",
            |p| p.custom_extensions.clear(),
            "iak-certificate-not-attestation",
        ),
        (
            "fixed to a TPM, but not restricted",
            |p| p.custom_extensions = vec![policies(2)],
            "iak-certificate-not-attestation",
        ),
        (
            "no device named",
            |p| p.distinguished_name = rcgen::DistinguishedName::new(),
            "iak-certificate-not-attestation",
        ),
        (
            "not for signing",
            |p| p.key_usages = vec![KeyUsagePurpose::KeyAgreement],
            "certificate-usage-wrong",
        ),
        (
            "an endorsement key's purpose",
            |p| p.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 1])],
            "certificate-usage-wrong",
        ),
        (
            "a CA's",
            |p| p.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained),
            "certificate-is-a-ca",
        ),
    ];
    for (attack, bend, code) in rows {
        let found = codes(&by_device(iak(&maker, bend), &maker, Purpose::Idevid, "SN-1").appraise());
        assert!(
            found.contains(&code) && found.contains(&"ak-not-bound"),
            "{attack}: {found:?}"
        );
    }
    let honest = || iak(&maker, |_| {});
    // Another device, another maker, an anchor for other things, another key.
    let found = codes(&by_device(honest(), &maker, Purpose::Idevid, "SN-2").appraise());
    assert_eq!(found, ["ak-not-bound", "node-unknown"]);
    let found = codes(&by_device(honest(), &Maker::new(), Purpose::Idevid, "SN-1").appraise());
    assert!(
        found.contains(&"certificate-issuer-unknown") && found.contains(&"ak-not-bound"),
        "{found:?}"
    );
    let found = codes(&by_device(honest(), &maker, Purpose::Ek, "SN-1").appraise());
    assert!(
        found.contains(&"certificate-issuer-unknown") && found.contains(&"ak-not-bound"),
        "{found:?}"
    );
    let other = maker.certify(|p| p.custom_extensions = vec![policies(3)], &pki::key());
    let found = codes(&by_device(other, &maker, Purpose::Idevid, "SN-1").appraise());
    assert!(
        found.contains(&"iak-certificate-other-key") && found.contains(&"ak-not-bound"),
        "{found:?}"
    );
    // Two machines with one serial number.
    let mut s = by_device(honest(), &maker, Purpose::Idevid, "SN-1");
    let mut twin = s.inventory.nodes()[0].clone();
    twin.name = "node-2".into();
    s.inventory = Inventory::new(vec![s.inventory.nodes()[0].clone(), twin]);
    assert!(codes(&s.appraise()).contains(&"node-ambiguous"));
    // A certificate that is wrong is refused although the inventory ties the key by itself.
    let mut s = good().with(Label::TpmIakCertificate, honest());
    s.anchors = common::anchors();
    assert_eq!(codes(&s.appraise()), ["certificate-issuer-unknown"]);
}

/// A key of the faulty generator, certified in every form.
#[test]
fn roca_keys_are_refused_whoever_certifies_them() {
    let modulus = hex::decode(include_str!("fixtures/roca-modulus.hex").trim()).unwrap();
    let key = SubjectKey::Rsa {
        modulus,
        exponent: 65537,
    };
    let maker = Maker::new();
    let spki = RsaKey::of(&key);
    let ek = maker.certify(|p| p.key_usages = vec![KeyUsagePurpose::KeyEncipherment], &spki);
    let mut s = good().with(Label::TpmEkCertificate, ek);
    s.policy.ek_expiry = Expiry::IgnoreWithClaim;
    s.anchors = TrustAnchors::new([(Purpose::Ek, maker.intermediate.as_der())]).unwrap();
    assert!(codes(&s.appraise()).contains(&"key-roca-weak"));
    let iak = maker.certify(
        |p| {
            p.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            p.extended_key_usages.clear();
            p.custom_extensions = vec![policies(3)];
            p.distinguished_name
                .push(DnType::CustomDnType(vec![2, 5, 4, 5]), "SN-1");
        },
        &spki,
    );
    let error = verify_iak_certificate(&iak, &key, &[], &maker.store(), NOW, Expiry::Deny).unwrap_err();
    assert_eq!(error.code().as_str(), "key-roca-weak");
}
