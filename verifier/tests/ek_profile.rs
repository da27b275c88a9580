//! What the TCG's profile demands of an endorsement certificate, one row a rule, and the files of makers that need the
//! tolerances.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests"
)]

use crate::pki;

use pki::{Maker, NOW, gce_extension, san, san_of, tpm_name};
use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use touchstone_vectors::genuine;
use touchstone_verifier::x509::ek_certificate::{MAX_OFFERED, read_ek_chain};
use touchstone_verifier::x509::{Certificate, CertificateCode, CertificateStore, Expiry, verify_ek_certificate};

const MANUFACTURER: &[u64] = &[2, 23, 133, 2, 1];
const MODEL: &[u64] = &[2, 23, 133, 2, 2];
const VERSION: &[u64] = &[2, 23, 133, 2, 3];

#[test]
fn the_profile_row_by_row() {
    type Bend = fn(&mut CertificateParams);
    let rows: &[(&str, Bend, Option<&str>)] = &[
        ("as the profile has it", |_| {}, None),
        (
            "subjectAltName not critical",
            |p| p.custom_extensions = vec![tpm_name(false, true)],
            None,
        ),
        (
            "one RDN with three attributes",
            |p| p.custom_extensions = vec![tpm_name(true, false)],
            None,
        ),
        (
            "PrintableString and BMPString",
            |p| {
                p.custom_extensions = vec![san(
                    &[
                        (MANUFACTURER, 0x13, b"id:494E5443"),
                        (MODEL, 0x1E, b"\0I\0n\0t\0e\0l"),
                        (VERSION, 0x13, b"id:00020000"),
                    ],
                    true,
                    true,
                )];
            },
            None,
        ),
        ("no extended key usage", |p| p.extended_key_usages.clear(), None),
        ("no key usage", |p| p.key_usages.clear(), None),
        ("no basicConstraints", |p| p.is_ca = IsCa::NoCa, None),
        (
            "GCE: no TPM name, but a description of the instance",
            |p| p.custom_extensions = vec![gce_extension()],
            None,
        ),
        (
            "subjectAltName missing",
            |p| p.custom_extensions.clear(),
            Some("certificate-tpm-name-missing"),
        ),
        (
            "no version in it",
            |p| {
                let two: &[(&[u64], u8, &[u8])] = &[(MANUFACTURER, 0x0C, b"id:494E5443"), (MODEL, 0x0C, b"x")];
                p.custom_extensions = vec![san(two, true, true)];
            },
            Some("certificate-tpm-name-missing"),
        ),
        (
            "two manufacturers",
            |p| p.custom_extensions = vec![san_of(b"id:494E5443", Some(b"id:53544D20"))],
            Some("certificate-tpm-name-missing"),
        ),
        (
            "an empty manufacturer",
            |p| p.custom_extensions = vec![san_of(b"", None)],
            Some("certificate-tpm-name-missing"),
        ),
        (
            "GCE's description does not excuse half a name",
            |p| {
                let one: &[(&[u64], u8, &[u8])] = &[(MANUFACTURER, 0x0C, b"id:494E5443")];
                p.custom_extensions = vec![gce_extension(), san(one, true, true)];
            },
            Some("certificate-tpm-name-missing"),
        ),
        (
            "another purpose",
            |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
            Some("certificate-usage-wrong"),
        ),
        (
            "a signing key",
            |p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature],
            Some("certificate-usage-wrong"),
        ),
        (
            "a CA's certificate",
            |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            Some("certificate-is-a-ca"),
        ),
    ];
    for (rule, bend, expected) in rows {
        let maker = Maker::new();
        let der = maker.ek(bend);
        let result = verify_ek_certificate(&der, &[], &maker.store(), NOW, Expiry::Deny);
        let found = result.as_ref().err().map(|e| e.code().as_str());
        assert_eq!(found, *expected, "{rule}: {:?}", result.err());
    }
}

#[test]
fn a_tpm_is_named_by_its_certificate() {
    let maker = Maker::new();
    let der = maker.ek(|p| p.custom_extensions = vec![tpm_name(true, false)]);
    let verified = verify_ek_certificate(&der, &[], &maker.store(), NOW, Expiry::Deny).unwrap();
    assert_eq!(
        (verified.manufacturer(), verified.model(), verified.version()),
        (Some("id:494E5443"), Some("Model"), Some("id:0007003E"))
    );
}

/// What a TPM keeps above its certificate helps to find an anchor, and is never one.
#[test]
fn intermediates_of_the_tpm_help_and_vouch_for_nothing() {
    let maker = Maker::new();
    let der = maker.ek(|_| {});
    let root_only = CertificateStore::new([(maker.root.clone(), true)]);
    let judge = |chain: &[u8], store: &CertificateStore| {
        let offered = read_ek_chain(chain).unwrap();
        let result = verify_ek_certificate(&der, &offered, store, NOW, Expiry::Deny);
        result.map(drop).map_err(|e| e.code())
    };
    let (root, intermediate) = (maker.root.as_der(), maker.intermediate.as_der());
    let padded = [intermediate, &[0xFF; 300], root, &[0; 40]].concat();
    assert_eq!(judge(intermediate, &root_only), Ok(()));
    assert_eq!(judge(&padded, &root_only), Ok(()));
    assert_eq!(judge(&[], &root_only), Err(CertificateCode::IssuerUnknown));
    assert_eq!(
        judge(&padded, &CertificateStore::default()),
        Err(CertificateCode::IssuerUnknown)
    );
    let forged = Maker::new();
    assert!(
        judge(forged.intermediate.as_der(), &root_only).is_err(),
        "the same name, another key"
    );
    // Bounds and rubbish.
    assert_eq!(
        read_ek_chain(&intermediate.repeat(MAX_OFFERED)).unwrap().len(),
        MAX_OFFERED
    );
    for bad in [
        intermediate.repeat(MAX_OFFERED + 1),
        vec![0xFF; 40_000],
        b"0000".to_vec(),
    ] {
        assert!(read_ek_chain(&bad).is_err());
    }
    for cut in 1..intermediate.len() {
        assert!(read_ek_chain(&intermediate[..cut]).is_err(), "{cut}");
    }
}

#[test]
fn name_constraints_are_kept() {
    for (names, expected) in [
        (&["Device"][..], None),
        (&["Other"][..], Some("certificate-name-constrained")),
    ] {
        let maker = Maker::constrained(names);
        let der = maker.ek(|p| p.custom_extensions = vec![gce_extension()]);
        let result = verify_ek_certificate(&der, &[], &maker.store(), NOW, Expiry::Deny);
        assert_eq!(result.err().map(|e| e.code().as_str()), expected, "{names:?}");
    }
}

/// The ST33 of an Intel NUC: header in NV memory, key marked id-RSAES-OAEP, no key usage, signed with SHA-1.
#[test]
fn the_nuc_is_read_and_refused_for_its_signature_alone() {
    let Some(dir) = genuine("ek-certs") else { return };
    let raw = std::fs::read(dir.join("stm_st33zp24_rsa_nuc1_raw_nv.bin")).unwrap();
    let certificate = Certificate::from_der(&raw).unwrap();
    let der = std::fs::read(dir.join("stm_st33zp24_rsa_nuc1.der")).unwrap();
    assert_eq!(certificate.key().describe(), "RSA-2048");
    assert_eq!(raw[7..], *certificate.as_der());
    let intermediate = std::fs::read(dir.join("ca/keylime/STM_RSA_02I.pem")).unwrap();
    let intermediate = Certificate::from_der(pem::parse(intermediate).unwrap().contents()).unwrap();
    let store = CertificateStore::new([(intermediate, true)]);
    for bytes in [&raw, &der] {
        let error = verify_ek_certificate(bytes, &[], &store, 1_500_000_000, Expiry::Deny).unwrap_err();
        assert_eq!(error.code(), CertificateCode::AlgorithmRefused, "{error}");
    }
    for cut in 0..raw.len() {
        assert!(Certificate::from_der(&raw[..cut]).is_err(), "{cut}");
    }
}

proptest! {
    #[test]
    fn hostile_bytes_make_no_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        at in 0usize..900,
        with in any::<u8>(),
    ) {
        drop(Certificate::from_der(&bytes));
        drop(read_ek_chain(&bytes));
        let mut changed = pki::sample().to_vec();
        let at = at % changed.len();
        changed[at] = with;
        if let Ok(certificate) = Certificate::from_der(&changed) {
            drop(verify_ek_certificate(certificate.as_der(), &[], &CertificateStore::default(), NOW, Expiry::Deny));
        }
    }
}
