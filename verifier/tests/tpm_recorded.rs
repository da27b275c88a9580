//! Quotes, keys and certificates of recorded boots: what a real firmware and a TPM wrote, unedited.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests"
)]

use crate::support;

use support::{BOOTS, boot_file, boot_pem, boot_values, lookup, selection};
use touchstone_verifier::tpm::attest::signed_bytes;
use touchstone_verifier::tpm::ek::{AkParent, EkTemplate, ak_parent, ek_public_from_key};
use touchstone_verifier::tpm::{AttestationKey, HashAlg, Public, attestation};
use touchstone_verifier::x509::{Certificate, CertificateStore, Expiry, SubjectKey, verify_ek_certificate};

/// 2026-11-22T00:00:00Z, a day after the boots.
const NOW: i64 = 1_795_305_600;

fn ak(boot: &str, kind: &str) -> Public {
    Public::from_tpm2b_or_tpmt(&boot_file(&format!("{boot}/ak-{kind}.pub"))).unwrap()
}

fn store() -> CertificateStore {
    let root = Certificate::from_der(&boot_pem("ca/swtpm-localca-rootca-cert.pem")).unwrap();
    let intermediate = Certificate::from_der(&boot_pem("ca/issuercert.pem")).unwrap();
    CertificateStore::new([(root, true), (intermediate, false)])
}

#[test]
fn every_recorded_quote_verifies_over_its_registers() {
    for boot in BOOTS {
        let values = boot_values(boot);
        for quote in ["quote-rsa", "quote-ecc", "quote-all-rsa", "quote-all-ecc"] {
            let file = |name: &str| boot_file(&format!("{boot}/{quote}/{name}"));
            let ak = ak(boot, quote.rsplit('-').next().unwrap());
            let key = AttestationKey::from(&ak.check_ak().unwrap());
            let message = file("quote.msg");
            let verified = key.verify_quote(&message, &file("quote.sig")).unwrap();
            let nonce = String::from_utf8(file("nonce.hex")).unwrap();
            assert_eq!(
                hex::encode(verified.attest().extra_data),
                nonce.trim(),
                "{boot} {quote}"
            );
            let asked = selection(&String::from_utf8(file("selection.txt")).unwrap());
            assert_eq!(verified.info().selection.must_equal(&asked), Ok(()));
            // The all-register quotes were made before IMA went on: only their own value of PCR 10 may differ.
            if !quote.contains("all") {
                assert_eq!(verified.check_values(lookup(&values)), Ok(()), "{boot} {quote}");
                let mut changed = values.clone();
                changed.get_mut(&(HashAlg::Sha256, 4)).unwrap()[0] ^= 1;
                assert!(verified.check_values(lookup(&changed)).is_err(), "{boot} {quote}");
            }
            let as_tpm2b = support::sized(&message);
            assert_eq!(signed_bytes(&as_tpm2b), Ok(message.as_slice()));
            assert_eq!(signed_bytes(&message), Ok(message.as_slice()));
        }
    }
}

#[test]
fn names_equal_what_the_tpm_computed() {
    for boot in BOOTS {
        for kind in ["ak-rsa", "ak-ecc", "ek-rsa"] {
            let public = Public::from_tpm2b_or_tpmt(&boot_file(&format!("{boot}/{kind}.pub"))).unwrap();
            assert_eq!(
                public.name().as_bytes(),
                boot_file(&format!("{boot}/{kind}.name")),
                "{boot} {kind}"
            );
            assert_eq!(Public::parse(public.as_bytes()).unwrap(), public);
        }
    }
}

#[test]
fn pem_and_tpm_forms_of_a_key_are_one_key() {
    for kind in ["ak-rsa", "ak-ecc", "ek-rsa", "ek-ecc"] {
        let public = Public::from_tpm2b_or_tpmt(&boot_file(&format!("good/{kind}.pub"))).unwrap();
        let spki = boot_pem(&format!("good/{kind}.pem"));
        assert_eq!(public.to_spki_der(), spki, "{kind}");
        assert_eq!(SubjectKey::from_spki_der(&spki).unwrap(), public.subject_key());
    }
}

#[test]
fn quote_of_another_tpm_is_refused() {
    let message = boot_file("good/quote-ecc/quote.msg");
    let signature = boot_file("good/quote-ecc/quote.sig");
    let other = ak("uki", "ecc");
    let key = AttestationKey::from(&other.check_ak().unwrap());
    assert_eq!(
        key.verify_quote(&message, &signature).unwrap_err().code().as_str(),
        "tpm-signature-invalid"
    );
    assert_eq!(attestation::verify(&ak("good", "ecc"), &message, &signature), Ok(()));
}

/// The qualified Name that the TPM signed shows that the AK hangs under the endorsement key of the certificate.
#[test]
fn attestation_keys_hang_under_the_endorsement_key() {
    for boot in BOOTS {
        let ek = Public::from_tpm2b_or_tpmt(&boot_file(&format!("{boot}/ek-rsa.pub"))).unwrap();
        let ek = ek.check_ek().unwrap();
        let ak = ak(boot, "ecc");
        let key = AttestationKey::from(&ak.check_ak().unwrap());
        let message = boot_file(&format!("{boot}/quote-ecc/quote.msg"));
        let quote = key
            .verify_quote(&message, &boot_file(&format!("{boot}/quote-ecc/quote.sig")))
            .unwrap();
        assert_eq!(
            ak_parent(quote.attest().qualified_signer, &ak, &ek),
            AkParent::EndorsementKey,
            "{boot}"
        );
        let other = Public::from_tpm2b_or_tpmt(&boot_file(&format!("{boot}/ek-ecc.pub"))).unwrap();
        let other = other.check_ek().unwrap();
        assert_eq!(
            ak_parent(quote.attest().qualified_signer, &ak, &other),
            AkParent::Unknown,
            "{boot}"
        );
    }
}

#[test]
fn endorsement_keys_follow_their_template_and_their_certificate() {
    let store = store();
    for boot in BOOTS {
        for (kind, template) in [("rsa", EkTemplate::L1Rsa2048), ("ecc", EkTemplate::H3P384)] {
            let public = Public::from_tpm2b_or_tpmt(&boot_file(&format!("{boot}/ek-{kind}.pub"))).unwrap();
            let ek = public.check_ek().unwrap();
            assert_eq!(ek.template(), template);
            let der = boot_file(&format!("{boot}/ek-{kind}-cert.der"));
            let certificate = verify_ek_certificate(&der, &[], &store, NOW, Expiry::Deny).unwrap();
            assert_eq!(ek.must_be(certificate.key()), Ok(()));
            assert_eq!(ek.id(), certificate.id());
            // The certificate alone gives the very public area that the TPM has.
            assert_eq!(certificate.ek_public().unwrap(), public);
            assert_eq!(
                ek_public_from_key(certificate.key()).unwrap().as_bytes(),
                public.as_bytes()
            );
            assert_eq!(certificate.manufacturer(), Some("id:00001014"));
            assert_eq!(certificate.model(), Some("swtpm"));
            assert_eq!(certificate.version(), Some("id:20191023"));
            assert_eq!(certificate.certificate().subject(), format!("CN=mbtest-{boot}"));
            // 9999-12-31T23:59:59Z, the date for "never".
            assert_eq!(certificate.chain().not_after, 253_402_300_799);
            assert_eq!(
                certificate.chain().issuers,
                ["CN=swtpm-localca", "CN=swtpm-localca-rootca"]
            );
        }
        let rsa = Public::from_tpm2b_or_tpmt(&boot_file(&format!("{boot}/ek-rsa.pub"))).unwrap();
        let other = Certificate::from_der(&boot_file(&format!("{boot}/ek-ecc-cert.der"))).unwrap();
        let error = rsa.check_ek().unwrap().must_be(other.key()).unwrap_err();
        assert_eq!(error.code().as_str(), "ek-certificate-key-mismatch");
    }
}

/// The platform certificate of the same CA is not an EK certificate.
#[test]
fn platform_certificate_is_refused() {
    let result = verify_ek_certificate(&boot_file("good/platform-cert.der"), &[], &store(), NOW, Expiry::Deny);
    assert_eq!(result.unwrap_err().code().as_str(), "certificate-usage-wrong");
}

#[test]
fn truncation_at_every_byte_is_an_error() {
    let whole_attest = boot_file("good/quote-rsa/quote.msg");
    let key = AttestationKey::without_attributes(ak("good", "rsa").subject_key());
    let signature = boot_file("good/quote-rsa/quote.sig");
    for len in 0..whole_attest.len() {
        assert!(
            touchstone_verifier::tpm::Attest::parse(&whole_attest[..len]).is_err(),
            "TPMS_ATTEST cut at {len}"
        );
        assert!(key.verify_quote(&whole_attest[..len], &signature).is_err());
    }
    for kind in ["rsa", "ecc"] {
        let public = boot_file(&format!("good/ak-{kind}.pub"));
        for len in 0..public.len() {
            assert!(
                Public::from_tpm2b_or_tpmt(&public[..len]).is_err(),
                "TPM2B_PUBLIC cut at {len}"
            );
            assert!(
                Public::parse(&public[2..len.max(2)]).is_err(),
                "TPMT_PUBLIC cut at {len}"
            );
        }
        let signature = boot_file(&format!("good/quote-{kind}/quote.sig"));
        let message = boot_file(&format!("good/quote-{kind}/quote.msg"));
        let key = AttestationKey::without_attributes(ak("good", kind).subject_key());
        assert_eq!(key.verify(&message, &signature), Ok(()));
        for len in 0..signature.len() {
            assert!(
                key.verify(&message, &signature[..len]).is_err(),
                "TPMT_SIGNATURE cut at {len}"
            );
        }
        let certificate = boot_file(&format!("good/ek-{kind}-cert.der"));
        for len in 0..certificate.len() {
            assert!(
                Certificate::from_der(&certificate[..len]).is_err(),
                "certificate cut at {len}"
            );
        }
    }
}

/// Bytes behind the structure are refused, whatever they are.
#[test]
fn trailing_bytes_are_refused() {
    let with = |file: &str| [boot_file(file), vec![0]].concat();
    assert!(touchstone_verifier::tpm::Attest::parse(&with("good/quote-rsa/quote.msg")).is_err());
    assert!(Public::from_tpm2b_or_tpmt(&with("good/ak-rsa.pub")).is_err());
    assert!(Public::parse(&with("good/ak-rsa.pub")[2..]).is_err());
    let inside = support::sized(&with("good/ak-rsa.pub")[2..]);
    assert!(
        Public::from_tpm2b_or_tpmt(&inside).is_err(),
        "a TPM2B whose length covers one byte more"
    );
    let key = AttestationKey::without_attributes(ak("good", "rsa").subject_key());
    assert!(
        key.verify(
            &boot_file("good/quote-rsa/quote.msg"),
            &with("good/quote-rsa/quote.sig")
        )
        .is_err()
    );
}

/// Every single changed byte of the signed structure or its signature is noticed.
#[test]
fn any_changed_byte_is_noticed() {
    let message = boot_file("good/quote-ecc/quote.msg");
    let signature = boot_file("good/quote-ecc/quote.sig");
    let ak = ak("good", "ecc");
    let key = AttestationKey::from(&ak.check_ak().unwrap());
    for i in 0..message.len() {
        let mut changed = message.clone();
        changed[i] ^= 0x01;
        assert!(key.verify_quote(&changed, &signature).is_err(), "message byte {i}");
    }
    for i in 0..signature.len() {
        let mut changed = signature.clone();
        changed[i] ^= 0x01;
        assert!(key.verify_quote(&message, &changed).is_err(), "signature byte {i}");
    }
}

/// An EK certificate as it comes out of an NV index larger than itself.
#[test]
fn padding_of_an_nv_index_is_cut() {
    let der = boot_file("good/ek-ecc-cert.der");
    for padding in [0x00, 0xFF] {
        let padded = [der.clone(), vec![padding; 200]].concat();
        let certificate = verify_ek_certificate(&padded, &[], &store(), NOW, Expiry::Deny).unwrap();
        assert_eq!(certificate.certificate().as_der(), der);
    }
    assert!(Certificate::from_der(&[der, vec![1]].concat()).is_err());
}
