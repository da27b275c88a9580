//! Genuine quotes, EK certificates and signature vectors, each with the verdict it is published with.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests"
)]

use crate::support;

use std::path::{Path, PathBuf};

use serde_json::Value;
use support::{Values, lookup};
use touchstone_vectors::genuine;
use touchstone_verifier::tpm::public::SigningScheme;
use touchstone_verifier::tpm::{Attest, AttestationKey, HashAlg, TpmCode};
use touchstone_verifier::x509::key::{SaltLength, SignatureAlgorithm};
use touchstone_verifier::x509::{
    Certificate, CertificateCode, CertificateStore, Expiry, SubjectKey, verify_chain, verify_ek_certificate,
};

/// 2026-11-21T00:00:00Z, the day for which the verdicts hold.
const NOW: i64 = 1_795_219_200;

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&read(path)).unwrap()
}

fn pem_key(path: &Path) -> SubjectKey {
    SubjectKey::from_spki_der(pem::parse(read(path)).unwrap().contents()).unwrap()
}

fn values(path: &Path) -> Values {
    let mut values = Values::new();
    for (bank, registers) in json(path).as_object().unwrap() {
        for (register, value) in registers.as_object().unwrap() {
            let value = hex::decode(value.as_str().unwrap()).unwrap();
            values.insert((HashAlg::from_name(bank).unwrap(), register.parse().unwrap()), value);
        }
    }
    values
}

/// GCE, swtpm and keylime quotes: valid signatures, digests with the hash of the scheme whatever the bank.
#[test]
fn genuine_quotes_have_their_published_verdict() {
    let Some(dir) = genuine("tpm-quotes") else { return };
    let gce_nonce = "9009";
    let keylime_nonce = "db1db298db6d60e6385b7231743e9c3056a18003";
    let swtpm_nonce = format!(
        "a04182b506878d4f29b91ee606a71a0d3361ccf1b22db20c98adcaa537bea393ef0e41a18b3569ab678f1497fbc5c120{}",
        "0".repeat(32)
    );
    let rows = [
        ("gce-cos-85-nonce9009.sha1", gce_nonce, "sha1", 24, true),
        ("gce-cos-85-nonce9009.sha256", gce_nonce, "sha256", 24, true),
        ("gce-cos-85-nonce9009.sha384", gce_nonce, "sha384", 24, true),
        ("swtpm_rsa2048_all_pcrs", swtpm_nonce.as_str(), "sha256", 24, true),
        ("keylime_rsa2048_3pcrs", keylime_nonce, "sha256", 3, false),
    ];
    for (name, nonce, bank, registers, has_values) in rows {
        let file = |extension: &str| dir.join(format!("{name}.{extension}"));
        let key = AttestationKey::without_attributes(pem_key(&file("akpub.pem")));
        let message = read(&file("msg"));
        let quote = key.verify_quote(&message, &read(&file("sig"))).unwrap();
        assert_eq!(hex::encode(quote.attest().extra_data), nonce, "{name}");
        assert_eq!(quote.scheme(), SigningScheme::RsaSsa(HashAlg::Sha256), "{name}");
        let [selected] = quote.info().selection.banks() else {
            panic!("{name}: one bank")
        };
        assert_eq!((selected.bank().name(), selected.count()), (bank, registers), "{name}");
        if has_values {
            assert_eq!(
                quote.check_values(lookup(&values(&file("pcrs.json")))),
                Ok(()),
                "{name}"
            );
        } else {
            // Registers 15, 16, 22: valid, but no statement about a boot.
            let error = quote.info().selection.must_be_boot_registers().unwrap_err();
            assert_eq!(error.code(), TpmCode::RegisterResettable, "{name}");
        }
    }
}

/// SHA-1 everywhere: readable, and refused.
#[test]
fn weak_quote_of_the_wire_form_is_refused() {
    use base64::Engine as _;
    let Some(path) = genuine("tpm-quotes/keylime_wire_quote.txt") else {
        return;
    };
    let text = String::from_utf8(read(&path)).unwrap();
    let parts: Vec<Vec<u8>> = text
        .trim()
        .trim_start_matches('r')
        .split(':')
        .map(|part| base64::engine::general_purpose::STANDARD.decode(part).unwrap())
        .collect();
    let attest = Attest::parse(&parts[0]).unwrap();
    assert_eq!(attest.quote().unwrap().selection.banks()[0].bank(), HashAlg::Sha1);
    let key = SubjectKey::Rsa {
        modulus: vec![0xFF; 256],
        exponent: 65537,
    };
    let error = AttestationKey::without_attributes(key)
        .verify(&parts[0], &parts[1])
        .unwrap_err();
    assert_eq!(error.code(), TpmCode::HashWeak);
}

fn certificates(path: &Path) -> Vec<Certificate> {
    let bytes = read(path);
    let ders: Vec<Vec<u8>> = if bytes.starts_with(b"-----") || bytes.windows(11).any(|w| w == b"-----BEGIN ") {
        pem::parse_many(&bytes)
            .unwrap()
            .into_iter()
            .map(pem::Pem::into_contents)
            .collect()
    } else {
        vec![bytes]
    };
    let read = |der: &Vec<u8>| {
        Certificate::from_der(der)
            .inspect_err(|e| println!("{}: {e}", path.display()))
            .ok()
    };
    ders.iter().filter_map(read).collect()
}

/// Every CA certificate of the vectors: self-issued ones as anchors, the others as intermediates.
fn store(dir: &Path) -> CertificateStore {
    let mut files: Vec<PathBuf> = vec![
        dir.join("ca/tpm-ca-certificates.pem"),
        dir.join("ca/tpm-intermediate-ca-certificates.pem"),
    ];
    for vendor in ["ca/amd", "ca/gce", "ca/keylime"] {
        files.extend(
            std::fs::read_dir(dir.join(vendor))
                .unwrap()
                .map(|entry| entry.unwrap().path()),
        );
    }
    files.sort();
    let all: Vec<_> = files.iter().flat_map(|file| certificates(file)).collect();
    assert!(all.len() >= 200, "only {} CA certificates could be read", all.len());
    CertificateStore::new(all.into_iter().map(|certificate| {
        let anchor = certificate.is_self_issued();
        (certificate, anchor)
    }))
}

#[test]
fn genuine_ek_certificates_have_their_published_verdict() {
    let Some(dir) = genuine("ek-certs") else { return };
    let store = store(&dir);
    let rows: [(&str, i64, Expiry, Result<&str, CertificateCode>); 11] = [
        ("stm_st33htphahd4_rsa.der", NOW, Expiry::Deny, Ok("id:53544D20")),
        // The day after its last: 2031-01-01T00:00:01Z.
        (
            "stm_st33htphahd4_rsa.der",
            1_924_992_001,
            Expiry::Deny,
            Err(CertificateCode::Expired),
        ),
        (
            "stm_st33htphahd4_rsa.der",
            1_924_992_001,
            Expiry::IgnoreWithClaim,
            Ok("id:53544D20"),
        ),
        (
            "stm_st33htphahd4_rsa.der",
            1_500_000_000,
            Expiry::IgnoreWithClaim,
            Err(CertificateCode::NotYetValid),
        ),
        ("gce_uca_tpm_rsa_enc_cert.der", NOW, Expiry::Deny, Ok("id:474F4F47")),
        // An AK's certificate of the same CA, with the EK purpose but for signing.
        (
            "gce_uca_tpm_rsa_sign_cert.der",
            NOW,
            Expiry::Deny,
            Err(CertificateCode::UsageWrong),
        ),
        (
            "gce_pca_tpm_rsa_sign_cert.der",
            NOW,
            Expiry::Deny,
            Err(CertificateCode::UsageWrong),
        ),
        (
            "keylime_certificate_modeltype_1.der",
            NOW,
            Expiry::Deny,
            Ok("id:4E544300"),
        ),
        (
            "keylime_certificate_modeltype_0.der",
            NOW,
            Expiry::IgnoreWithClaim,
            Err(CertificateCode::IssuerUnknown),
        ),
        (
            "keylime_registrar_agent_cert_compliance_0.der",
            NOW,
            Expiry::IgnoreWithClaim,
            Err(CertificateCode::Role),
        ),
        // Signed with SHA-1.
        (
            "stm_st33zp24_rsa_nuc1.der",
            1_500_000_000,
            Expiry::Deny,
            Err(CertificateCode::AlgorithmRefused),
        ),
    ];
    for (name, now, expiry, expected) in rows {
        let result = verify_ek_certificate(&read(&dir.join(name)), &[], &store, now, expiry);
        let found = result
            .as_ref()
            .map(|v| v.manufacturer().unwrap_or_default())
            .map_err(|e| e.code());
        assert_eq!(found, expected, "{name} at {now}: {:?}", result.as_ref().err());
        if let Ok(verified) = &result {
            verified.ek_public().unwrap().check_ek().unwrap();
            assert_eq!(
                expiry == Expiry::IgnoreWithClaim,
                !verified.chain().expired.is_empty(),
                "{name}"
            );
        }
    }
}

/// A key marked id-RSAES-OAEP is read, and has the same id as the TPM's public area of it.
#[test]
fn oaep_marked_keys_are_read() {
    let Some(path) = genuine("ek-certs/stm_st33zp24_rsa_nuc1.der") else {
        return;
    };
    let certificate = Certificate::from_der(&read(&path)).unwrap();
    assert_eq!(certificate.key().describe(), "RSA-2048");
    let again = SubjectKey::from_spki_der(&certificate.key().to_spki_der()).unwrap();
    assert_eq!(&again, certificate.key());
    // As it lies in NV memory, with the header of a stored certificate: the same key of another chip's.
    let nv = Certificate::from_der(&read(&path.with_file_name("stm_st33zp24_rsa_nuc1_raw_nv.bin"))).unwrap();
    assert_eq!(nv.key().describe(), "RSA-2048");
}

/// A look-alike with the name of a genuine intermediate.
#[test]
fn look_alike_intermediate_is_not_trusted() {
    let Some(dir) = genuine("ek-certs") else { return };
    let store = store(&dir);
    for fake in certificates(&dir.join("fake/fakestmtpmekint02.pem")) {
        let error = verify_chain(&fake, &[], &store, 1_500_000_000, Expiry::Deny).unwrap_err();
        assert!(
            matches!(
                error.code(),
                CertificateCode::IssuerUnknown | CertificateCode::SignatureInvalid
            ),
            "{error}"
        );
    }
}

/// The CA certificates of TPM makers lead to their roots under our rules, or are refused for a reason we know.
#[test]
fn makers_intermediates_lead_to_their_roots() {
    let Some(dir) = genuine("ek-certs") else { return };
    let store = store(&dir);
    let mut verified = 0;
    let mut refused = std::collections::BTreeMap::<&str, usize>::new();
    for (certificate, anchor) in store.iter() {
        if anchor {
            continue;
        }
        match verify_chain(certificate, &[], &store, NOW, Expiry::IgnoreWithClaim) {
            Ok(_) => verified += 1,
            Err(e) => *refused.entry(e.code().as_str()).or_default() += 1,
        }
    }
    // The roots of the refused ones, AMD's R4 and VeriSign's, are not among the vectors.
    assert!(verified >= 140, "{verified} verified, refused: {refused:?}");
    assert!(
        refused.keys().all(|code| *code == "certificate-issuer-unknown"),
        "{refused:?}"
    );
}

/// Runs a Wycheproof file; `acceptable` cases may go either way.
fn wycheproof(file: &str, algorithm: SignatureAlgorithm) {
    let Some(path) = genuine(&format!("signatures/{file}")) else {
        return;
    };
    let mut run = 0;
    for group in json(&path)["testGroups"].as_array().unwrap() {
        let spki = hex::decode(group["publicKeyDer"].as_str().unwrap()).unwrap();
        let key = SubjectKey::from_spki_der(&spki);
        for test in group["tests"].as_array().unwrap() {
            let field = |name: &str| hex::decode(test[name].as_str().unwrap()).unwrap();
            let (message, signature) = (field("msg"), field("sig"));
            let verdict = key
                .as_ref()
                .is_ok_and(|k| k.verify(algorithm, &message, &signature).is_ok());
            match test["result"].as_str().unwrap() {
                "valid" => assert!(verdict, "{file} {}", test["tcId"]),
                "invalid" => assert!(!verdict, "{file} {}: {}", test["tcId"], test["comment"]),
                _ => {}
            }
            run += 1;
        }
    }
    assert!(run > 100, "{file}: {run} cases");
}

#[test]
fn wycheproof_signatures() {
    wycheproof(
        "ecdsa_secp256r1_sha256_test.json",
        SignatureAlgorithm::Ecdsa(HashAlg::Sha256),
    );
    wycheproof(
        "rsa_signature_2048_sha256_test.json",
        SignatureAlgorithm::RsaPkcs1(HashAlg::Sha256),
    );
    let pss = |hash| SignatureAlgorithm::RsaPss(hash, SaltLength::Digest);
    wycheproof("rsa_pss_2048_sha256_mgf1_32_test.json", pss(HashAlg::Sha256));
    wycheproof("rsa_pss_4096_sha384_mgf1_48_test.json", pss(HashAlg::Sha384));
}

/// r ‖ s of the vectors, as a TPM writes them: two sized numbers.
#[test]
fn wycheproof_ecdsa_as_tpm_signatures() {
    let Some(path) = genuine("signatures/ecdsa_secp384r1_sha384_p1363_test.json") else {
        return;
    };
    let mut run = 0;
    for group in json(&path)["testGroups"].as_array().unwrap() {
        let spki = hex::decode(group["publicKeyDer"].as_str().unwrap()).unwrap();
        let key = AttestationKey::without_attributes(SubjectKey::from_spki_der(&spki).unwrap());
        for test in group["tests"].as_array().unwrap() {
            let message = hex::decode(test["msg"].as_str().unwrap()).unwrap();
            let signature = hex::decode(test["sig"].as_str().unwrap()).unwrap();
            let comment = test["comment"].as_str().unwrap();
            // A TPM's numbers have their own lengths: only cases of the usual length say anything about it.
            if signature.len() != 96 {
                continue;
            }
            let (r, s) = signature.split_at(48);
            let tpmt = [&[0, 0x18, 0, 0x0C][..], &support::sized(r), &support::sized(s)].concat();
            let verdict = key.verify(&message, &tpmt).is_ok();
            assert_eq!(verdict, test["result"] == "valid", "{}: {comment}", test["tcId"]);
            run += 1;
        }
    }
    assert!(run > 200, "{run} cases");
}
