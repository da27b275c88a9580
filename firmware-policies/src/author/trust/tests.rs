//! Bundles, revocation lists and deny lists, staged, published and loaded.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use touchstone_vectors::genuine;

use super::*;
use crate::author::withdraw;
use crate::testing::{NOW, TestRepo};

struct Ca {
    der: Vec<u8>,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn params(name: &str, ca: bool) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    params.is_ca = if ca {
        IsCa::Ca(BasicConstraints::Unconstrained)
    } else {
        IsCa::ExplicitNoCa
    };
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn root() -> Ca {
    let (params, key) = (params("Root", true), KeyPair::generate().unwrap());
    let certificate = params.self_signed(&key).unwrap();
    Ca {
        der: certificate.der().to_vec(),
        pem: certificate.pem(),
        issuer: Issuer::new(params, key),
    }
}

fn below(issuer: &Ca, name: &str, ca: bool) -> Ca {
    let (params, key) = (params(name, ca), KeyPair::generate().unwrap());
    let certificate = params.signed_by(&key, &issuer.issuer).unwrap();
    Ca {
        der: certificate.der().to_vec(),
        pem: certificate.pem(),
        issuer: Issuer::new(params, key),
    }
}

fn crl(issuer: &Ca, month: u8, serials: &[u64]) -> Vec<u8> {
    let revoked = |serial: &u64| RevokedCertParams {
        serial_number: SerialNumber::from(*serial),
        revocation_time: date_time_ymd(2026, 1, 1),
        reason_code: None,
        invalidity_date: None,
    };
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(2026, month, 1),
        next_update: date_time_ymd(2027, 1, 1),
        crl_number: SerialNumber::from(1u64),
        issuing_distribution_point: None,
        revoked_certs: serials.iter().map(revoked).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(&issuer.issuer).unwrap().der().to_vec()
}

fn write(test: &TestRepo, name: &str, bytes: &[u8]) -> PathBuf {
    let path = test.dir.path().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn a_folder_is_sorted_into_roots_intermediates_and_the_rest() {
    let test = TestRepo::new();
    let ca = root();
    let intermediate = below(&ca, "Intermediate", true);
    let device = below(&ca, "Device", false);
    // The root's name, somebody else's signature.
    let forged = below(&ca, "Root", true);
    write(
        &test,
        "bundle/a.pem",
        format!("# a comment\n{}{}", ca.pem, intermediate.pem).as_bytes(),
    );
    write(&test, "bundle/maker/b.der", &intermediate.der);
    write(&test, "bundle/maker/device.der", &device.der);
    write(&test, "bundle/maker/forged.pem", forged.pem.as_bytes());
    write(&test, "bundle/README", b"no certificate");
    let added = trust_bundle(&test.repo, Purpose::Ek, &test.dir.path().join("bundle")).unwrap();
    assert_eq!(added.anchors.len(), 1, "{added:?}");
    assert_eq!(added.intermediates.len(), 1, "{added:?}");
    let why: Vec<&str> = added.skipped.iter().map(|(_, why)| why.as_str()).collect();
    assert_eq!(why.len(), 4, "{added:?}");
    for part in ["DER SEQUENCE", "already", "not a CA's", "another's signature"] {
        assert!(why.iter().any(|why| why.contains(part)), "{part}: {why:?}");
    }
    test.publish(NOW).unwrap();
    let policy = test.load(NOW).unwrap();
    let flags: Vec<bool> = policy
        .anchors
        .store(Purpose::Ek)
        .iter()
        .map(|(_, anchor)| anchor)
        .collect();
    assert_eq!((flags.len(), flags.iter().filter(|anchor| **anchor).count()), (2, 1));
    assert_eq!(policy.anchors.store(Purpose::Ldevid).iter().count(), 0);
    // Nothing usable: nothing staged.
    let only = write(&test, "only.der", &device.der);
    assert_eq!(
        trust_bundle(&test.repo, Purpose::Ek, &only).unwrap_err().code(),
        PolicyCode::AnchorUnreadable
    );
}

#[test]
fn makers_bundles_are_taken_whole() {
    let Some(dir) = genuine("ek-certs/ca") else { return };
    let test = TestRepo::new();
    let added = trust_bundle(&test.repo, Purpose::Ek, &dir).unwrap();
    assert!(added.anchors.len() >= 20, "{} anchors", added.anchors.len());
    assert!(
        added.intermediates.len() >= 140,
        "{} intermediates",
        added.intermediates.len()
    );
    for (name, why) in &added.skipped {
        let known = ["already", "not a CA's", "public key", "another's signature"];
        assert!(known.iter().any(|part| why.contains(part)), "{name}: {why}");
    }
    test.publish(NOW).unwrap();
    let count = test.load(NOW).unwrap().anchors.store(Purpose::Ek).iter().count();
    assert_eq!(count, added.anchors.len() + added.intermediates.len());
}

#[test]
fn revocation_lists_are_bound_to_listed_authorities() {
    let test = TestRepo::new();
    let (ca, stranger) = (root(), root());
    let refused = |file: PathBuf| crl_add(&test.repo, &[file]).unwrap_err().code();
    assert_eq!(
        refused(write(&test, "early.crl", &crl(&ca, 2, &[]))),
        PolicyCode::CrlRefused
    );
    let bundle = write(&test, "root.pem", ca.pem.as_bytes());
    trust_bundle(&test.repo, Purpose::Ek, &bundle).unwrap();
    assert_eq!(
        refused(write(&test, "other.crl", &crl(&stranger, 2, &[]))),
        PolicyCode::CrlRefused
    );
    assert_eq!(refused(write(&test, "no.crl", b"no list")), PolicyCode::CrlRefused);
    let first = write(&test, "first.crl", &crl(&ca, 2, &[7]));
    let added = crl_add(&test.repo, std::slice::from_ref(&first)).unwrap();
    assert_eq!((added[0].revoked, added[0].issuer.contains("Root")), (1, true));
    test.publish(NOW).unwrap();
    assert_eq!(test.load(NOW).unwrap().anchors.store(Purpose::Ek).crls().count(), 1);
    // A newer one takes its place, an older one does not.
    let newer = write(&test, "newer.crl", &crl(&ca, 3, &[7, 8]));
    let added = crl_add(&test.repo, &[newer]).unwrap();
    assert_eq!(added[0].replaced.len(), 1);
    test.publish(NOW).unwrap();
    let policy = test.load(NOW).unwrap();
    let lists: Vec<usize> = policy.anchors.store(Purpose::Ek).crls().map(Crl::len).collect();
    assert_eq!(lists, [2]);
    assert_eq!(refused(first), PolicyCode::CrlRefused);
    // Without the authority the list would be nobody's: such a repository is not published.
    let digest: [u8; 32] = Sha256::digest(&ca.der).into();
    withdraw(&test.repo, &TargetKind::Anchor(Purpose::Ek, digest).name()).unwrap();
    assert_eq!(test.publish(NOW).unwrap_err().code(), PolicyCode::CrlRefused);
}

#[test]
fn a_deny_list_is_loaded_as_staged() {
    let test = TestRepo::new();
    let text = "[[firmware]]\nmanufacturer = \"IFX\"\nfrom = \"7.0\"\nto = \"7.61\"\nwhy = \"ROCA\"\n";
    let file = write(&test, "my-deny.toml", text.as_bytes());
    assert_eq!(deny_set(&test.repo, &file).unwrap(), (0, 1));
    test.publish(NOW).unwrap();
    assert_eq!(test.load(NOW).unwrap().anchors.deny_list().firmware().len(), 1);
    let bad = write(&test, "bad.toml", b"");
    assert_eq!(
        deny_set(&test.repo, &bad).unwrap_err().code(),
        PolicyCode::DenyUnreadable
    );
}
