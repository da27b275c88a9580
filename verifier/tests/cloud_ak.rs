//! Attestation keys of cloud providers' virtual TPMs: genuine certificates, and what they are not.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests"
)]

use std::path::Path;

use touchstone_vectors::genuine;
use touchstone_verifier::x509::cloud_ak::{GceInstance, gce_instance};
use touchstone_verifier::x509::iak_certificate::{DeviceId, device_ids};
use touchstone_verifier::x509::{
    Certificate, CertificateCode, CertificateStore, Expiry, verify_cloud_ak_certificate, verify_iak_certificate,
};

/// 2026-11-21T00:00:00Z.
const NOW: i64 = 1_795_219_200;

fn certificate(path: &Path) -> Certificate {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    match pem::parse(&bytes) {
        Ok(pem) => Certificate::from_der(pem.contents()).unwrap(),
        Err(_) => Certificate::from_der(&bytes).unwrap(),
    }
}

#[test]
fn googles_certificates_name_the_instance() {
    let (Some(certs), Some(evidence)) = (genuine("ek-certs"), genuine("tpm-evidence")) else {
        return;
    };
    let ca = |name: &str| certificate(&certs.join("ca/gce").join(name));
    let store = CertificateStore::new([
        (ca("tpm_ek_root_1.cer"), true),
        (ca("tpm_ek_intermediate_2.crt"), false),
        (ca("tpm_ek_intermediate_3.crt"), false),
        (ca("gcp_ek_ak_ca_root.crt"), true),
        (ca("gcp_ek_ak_ca_intermediate_v3.crt"), false),
    ]);
    const PROJECT: u64 = 0x1B_5A47_5C69;
    for (path, instance) in [
        (evidence.join("gce-cos-85-nonce9009.ak.der"), 0x5E53_E3FB_BF83_06C5),
        (certs.join("gce_pca_tpm_rsa_sign_cert.der"), 0x0308_78C5_BDD3_D99D),
        (certs.join("gce_uca_tpm_rsa_sign_cert.der"), 0),
    ] {
        let ak = certificate(&path);
        let verified = verify_cloud_ak_certificate(ak.as_der(), ak.key(), &[], &store, NOW, Expiry::Deny)
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let named = gce_instance(&ak).unwrap();
        assert_eq!(named.project, PROJECT, "{}", path.display());
        if instance != 0 {
            assert_eq!(named.instance, instance, "{}", path.display());
        }
        assert!(verified.device_ids().contains(&DeviceId::Gce(named)));
        assert_eq!(device_ids(&ak).len(), 2);
        // It is no IAK certificate of the TCG's profile, and counts as one nowhere.
        let error = verify_iak_certificate(ak.as_der(), ak.key(), &[], &store, NOW, Expiry::Deny).unwrap_err();
        assert_eq!(error.code(), CertificateCode::NotAnAttestationKey);
        // Another key's, and one whose CA is not listed.
        let other = ca("tpm_ek_root_1.cer");
        let error = verify_cloud_ak_certificate(ak.as_der(), other.key(), &[], &store, NOW, Expiry::Deny).unwrap_err();
        assert_eq!(error.code(), CertificateCode::OtherKey);
        let nobody = CertificateStore::default();
        let error = verify_cloud_ak_certificate(ak.as_der(), ak.key(), &[], &nobody, NOW, Expiry::Deny).unwrap_err();
        assert_eq!(error.code(), CertificateCode::IssuerUnknown);
    }
    // The endorsement key's certificate of the same CA may not sign.
    let ek = certificate(&certs.join("gce_uca_tpm_rsa_enc_cert.der"));
    let error = verify_cloud_ak_certificate(ek.as_der(), ek.key(), &[], &store, NOW, Expiry::Deny).unwrap_err();
    assert_eq!(error.code(), CertificateCode::UsageWrong);
    // Nor may a CA's.
    let root = ca("tpm_ek_root_1.cer");
    let error = verify_cloud_ak_certificate(root.as_der(), root.key(), &[], &store, NOW, Expiry::Deny).unwrap_err();
    assert_eq!(error.code(), CertificateCode::Role);
}

#[test]
fn microsofts_certificate_leads_to_its_root_and_names_the_key_only() {
    let Some(azure) = genuine("azure") else { return };
    let text = std::fs::read_to_string(azure.join("azure-tdx-with-ak-intermediates-1780922561.yaml")).unwrap();
    let unindented: String = text.lines().map(|line| format!("{}\n", line.trim())).collect();
    let all: Vec<Certificate> = pem::parse_many(unindented)
        .unwrap()
        .iter()
        .filter(|block| block.tag() == "CERTIFICATE")
        .map(|block| Certificate::from_der(block.contents()).unwrap())
        .collect();
    let (ak, offered) = all.split_first().unwrap();
    let root = certificate(&azure.join("ca/azure-virtual-tpm-root-2023.pem"));
    let store = CertificateStore::new([(root, true)]);
    // 2026-06-08T12:42:41Z, the day it was made for a year.
    let then = 1_780_922_561;
    verify_cloud_ak_certificate(ak.as_der(), ak.key(), offered, &store, then, Expiry::Deny).unwrap();
    let error = verify_cloud_ak_certificate(ak.as_der(), ak.key(), &[], &store, then, Expiry::Deny).unwrap_err();
    assert_eq!(error.code(), CertificateCode::IssuerUnknown);
    let late = then + 2 * 366 * 86_400;
    let error = verify_cloud_ak_certificate(ak.as_der(), ak.key(), offered, &store, late, Expiry::Deny).unwrap_err();
    assert_eq!(error.code(), CertificateCode::Expired);
    assert_eq!(gce_instance(ak), None);
    assert_eq!(device_ids(ak), [DeviceId::Key(ak.key().spki_sha256())]);
}

/// Only Google's own form of the extension names an instance, and only of a virtual TPM in production.
#[test]
fn an_extension_of_another_form_names_nobody() {
    use rcgen::{CertificateParams, CustomExtension, KeyPair};
    let of = |value: Vec<u8>, times: usize| {
        let mut params = CertificateParams::default();
        let oid = [1, 3, 6, 1, 4, 1, 11129, 2, 1, 21];
        for _ in 0..times {
            params
                .custom_extensions
                .push(CustomExtension::from_oid_content(&oid, value.clone()));
        }
        let der = params
            .self_signed(&KeyPair::generate().unwrap())
            .unwrap()
            .der()
            .to_vec();
        Certificate::from_der(&der)
            .ok()
            .and_then(|certificate| gce_instance(&certificate))
    };
    let good = |production: u8| {
        let mut body = vec![0x0C, 1, b'z', 2, 1, 7, 0x0C, 1, b'p', 2, 2, 1, 0, 0x0C, 1, b'n'];
        body.extend([0xA0, 12, 0x30, 10, 0xA0, 3, 2, 1, 0, 0xA1, 3, 1, 1, production]);
        [vec![0x30, body.len() as u8], body].concat()
    };
    let named = Some(GceInstance {
        project: 7,
        instance: 256,
    });
    assert_eq!(of(good(0xFF), 1), named);
    assert_eq!(of(good(0), 1), None, "not in production");
    assert_eq!(of(good(0xFF), 2), None, "two of them");
    let whole = good(0xFF);
    for len in 0..whole.len() {
        assert_eq!(of(whole[..len].to_vec(), 1), None, "cut at {len}");
    }
    assert_eq!(of([whole.clone(), vec![0]].concat(), 1), None, "something behind it");
}
