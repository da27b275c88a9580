//! One row an attack, on keys: attestation keys, session keys and their certification, endorsement keys.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests"
)]

use crate::support;

use support::{
    AK_ATTRIBUTES, Attestation, RECEIVE_KEY_ATTRIBUTES, SIGNING_KEY_ATTRIBUTES, SoftKey, boot_file, digest, lookup,
    selection, sized, values,
};
use touchstone_verifier::tpm::policy::policy_pcr;
use touchstone_verifier::tpm::{AttestationKey, HashAlg, Public, SessionKeyUse, TpmCode};

const BOOT_REGISTERS: &str = "sha256:0,1,2,3,4,5,6,7";

#[test]
fn keys_that_are_no_attestation_keys_are_refused() {
    let key = SoftKey::generate();
    let with = |attributes| Public::parse(&key.public(attributes, &[], true)).unwrap();
    let codes = |public: &Public| match public.check_ak() {
        Ok(_) => Vec::new(),
        Err(faults) => faults.iter().map(|f| f.code().as_str()).collect::<Vec<_>>(),
    };
    let sha1_name = {
        let mut bytes = key.public(AK_ATTRIBUTES, &[], true);
        bytes[3] = 0x04;
        Public::parse(&bytes).unwrap()
    };
    let sha1_scheme = {
        let mut bytes = key.public(AK_ATTRIBUTES, &[], true);
        assert_eq!(bytes[12..16], [0x00, 0x18, 0x00, 0x0B]);
        bytes[15] = 0x04;
        Public::parse(&bytes).unwrap()
    };
    let rsa_1024 = {
        let head = [
            0, 1, 0, 0x0B, 0, 5, 0, 0x32, 0, 0, 0, 0x10, 0, 0x14, 0, 0x0B, 4, 0, 0, 0, 0, 0,
        ];
        Public::parse(&[&head[..], &sized(&[0xFF; 128])].concat()).unwrap()
    };
    let p521 = {
        let head = [
            0, 0x23, 0, 0x0B, 0, 5, 0, 0x32, 0, 0, 0, 0x10, 0, 0x18, 0, 0x0D, 0, 5, 0, 0x10,
        ];
        Public::parse(&[&head[..], &sized(&[1; 66]), &sized(&[1; 66])].concat()).unwrap()
    };
    let no_scheme = Public::parse(&key.public(AK_ATTRIBUTES, &[], false)).unwrap();
    let rows: [(&str, Public, &[&str]); 13] = [
        ("honest", with(AK_ATTRIBUTES), &[]),
        (
            "honest with userWithAuth, as tpm2-tools make it",
            with(AK_ATTRIBUTES | 1 << 6),
            &[],
        ),
        ("unrestricted", with(AK_ATTRIBUTES & !(1 << 16)), &["ak-not-restricted"]),
        ("not for signing", with(AK_ATTRIBUTES & !(1 << 18)), &["ak-not-signing"]),
        ("decrypts as well", with(AK_ATTRIBUTES | 1 << 17), &["ak-decrypts"]),
        ("not fixedTPM", with(AK_ATTRIBUTES & !(1 << 1)), &["ak-not-fixed"]),
        ("not fixedParent", with(AK_ATTRIBUTES & !(1 << 4)), &["ak-not-fixed"]),
        ("imported", with(AK_ATTRIBUTES & !(1 << 5)), &["ak-origin-external"]),
        ("without a scheme", no_scheme, &["ak-scheme-null"]),
        ("SHA-1 scheme", sha1_scheme, &["tpm-hash-weak"]),
        ("SHA-1 Name", sha1_name, &["ak-name-hash-weak"]),
        ("RSA-1024", rsa_1024, &["ak-key-weak"]),
        ("P-521", p521, &["ak-key-weak"]),
    ];
    for (attack, public, expected) in rows {
        assert_eq!(codes(&public), expected, "{attack}");
    }
    // All faults, not the first.
    assert_eq!(codes(&with(0)).len(), 5);
}

#[test]
fn keys_that_are_no_session_keys_are_refused() {
    let key = SoftKey::generate();
    let policy = policy_pcr(&selection(BOOT_REGISTERS), lookup(&values())).unwrap();
    let sign = SIGNING_KEY_ATTRIBUTES;
    let p384 = {
        let head = [0, 0x23, 0, 0x0B, 0, 4, 0, 0x32, 0, 0x20];
        let rest = [0, 0x10, 0, 0x10, 0, 4, 0, 0x10];
        [&head[..], &policy, &rest, &sized(&[1; 48]), &sized(&[1; 48])].concat()
    };
    let sha384_name = {
        let mut bytes = key.public(sign, &policy, true);
        bytes[3] = 0x0C;
        bytes
    };
    let (attributes, wrong_policy, wrong_type) = ("session-key-attributes", "session-key-policy", "session-key-type");
    let usage = SessionKeyUse::Sign;
    let rows: [(&str, Vec<u8>, SessionKeyUse, &[&str]); 19] = [
        ("honest", key.public(sign, &policy, true), usage, &[]),
        ("honest without a scheme", key.public(sign, &policy, false), usage, &[]),
        (
            "honest with noDA",
            key.public(sign | 1 << 10, &policy, true),
            usage,
            &[],
        ),
        (
            "honest receive key",
            key.public(RECEIVE_KEY_ATTRIBUTES, &policy, false),
            SessionKeyUse::Receive,
            &[],
        ),
        (
            "not fixedTPM",
            key.public(sign & !(1 << 1), &policy, true),
            usage,
            &[attributes],
        ),
        (
            "not fixedParent",
            key.public(sign & !(1 << 4), &policy, true),
            usage,
            &[attributes],
        ),
        (
            "imported",
            key.public(sign & !(1 << 5), &policy, true),
            usage,
            &[attributes],
        ),
        (
            "userWithAuth set",
            key.public(sign | 1 << 6, &policy, true),
            usage,
            &[attributes],
        ),
        (
            "adminWithPolicy set",
            key.public(sign | 1 << 7, &policy, true),
            usage,
            &[attributes],
        ),
        (
            "encryptedDuplication set",
            key.public(sign | 1 << 11, &policy, true),
            usage,
            &[attributes],
        ),
        (
            "restricted",
            key.public(sign | 1 << 16, &policy, true),
            usage,
            &[attributes],
        ),
        (
            "two usages",
            key.public(sign | 1 << 17, &policy, true),
            usage,
            &[attributes],
        ),
        (
            "the other usage",
            key.public(RECEIVE_KEY_ATTRIBUTES, &policy, false),
            usage,
            &[attributes, attributes],
        ),
        (
            "x509sign set",
            key.public(sign | 1 << 19, &policy, true),
            usage,
            &[attributes],
        ),
        ("no policy", key.public(sign, &[], true), usage, &[wrong_policy]),
        ("wrong policy", key.public(sign, &[7; 32], true), usage, &[wrong_policy]),
        ("P-384", p384, usage, &[wrong_type]),
        ("SHA-384 Name", sha384_name, usage, &[wrong_type]),
        (
            "signing scheme on a receive key",
            key.public(RECEIVE_KEY_ATTRIBUTES, &policy, true),
            SessionKeyUse::Receive,
            &[wrong_type],
        ),
    ];
    for (attack, bytes, usage, expected) in rows {
        let codes = match Public::parse(&bytes).unwrap().check_session_key(usage, &policy) {
            Ok(()) => Vec::new(),
            Err(faults) => faults.iter().map(|f| f.code().as_str()).collect(),
        };
        assert_eq!(codes, expected, "{attack}");
    }
    // A verifier that could compute no policy expects none: that must not let a key without one pass.
    let without = Public::parse(&key.public(sign, &[], true)).unwrap();
    assert!(without.check_session_key(SessionKeyUse::Sign, &[]).is_err());
}

/// The policy follows the quoted values: other values, another policy.
#[test]
fn session_policy_follows_the_registers() {
    let selected = selection(BOOT_REGISTERS);
    let policy = policy_pcr(&selected, lookup(&values())).unwrap();
    for register in 0..8 {
        let mut changed = values();
        changed.insert((HashAlg::Sha256, register), vec![0xEE; 32]);
        assert_ne!(
            policy_pcr(&selected, lookup(&changed)).unwrap(),
            policy,
            "register {register}"
        );
    }
    let mut unrelated = values();
    unrelated.insert((HashAlg::Sha256, 10), vec![0xEE; 32]);
    assert_eq!(policy_pcr(&selected, lookup(&unrelated)).unwrap(), policy);
    assert_ne!(
        policy_pcr(&selection("sha256:0,1,2,3,4,5,6"), lookup(&values())).unwrap(),
        policy
    );
}

#[test]
fn certifications_are_of_the_very_key() {
    let (ak, session) = (SoftKey::generate(), SoftKey::generate());
    let ak_public = Public::parse(&ak.public(AK_ATTRIBUTES, &[], true)).unwrap();
    let key = AttestationKey::from(&ak_public.check_ak().unwrap());
    let public = Public::parse(&session.public(SIGNING_KEY_ATTRIBUTES, &[7; 32], true)).unwrap();
    let certify = Attestation::certify(public.name().as_bytes()).bytes();
    let verified = |message: &[u8]| {
        key.verify_certify(message, &ak.sign(message))
            .map(|v| v.info().name.to_vec())
    };

    let honest_signature = ak.sign(&certify);
    let honest = key.verify_certify(&certify, &honest_signature).unwrap();
    assert_eq!(honest.check_key(&public), Ok(()));
    assert_eq!(honest.attest().extra_data, [7; 32]);
    // Certify of another key: same key, other attributes is another Name as well.
    for other in [
        SoftKey::generate().public(SIGNING_KEY_ATTRIBUTES, &[7; 32], true),
        session.public(SIGNING_KEY_ATTRIBUTES & !2, &[7; 32], true),
        session.public(SIGNING_KEY_ATTRIBUTES, &[8; 32], true),
    ] {
        let error = honest.check_key(&Public::parse(&other).unwrap()).unwrap_err();
        assert_eq!(error.code().as_str(), "tpm-certify-name");
    }
    let selected = selection(BOOT_REGISTERS);
    let quote = Attestation::quote(&selected.to_tpml(), &digest(&selected)).bytes();
    assert_eq!(verified(&quote).unwrap_err().code(), TpmCode::AttestType);
    // Signed by another key, or over other bytes.
    let foreign = session.sign(&certify);
    assert_eq!(
        key.verify_certify(&certify, &foreign).unwrap_err().code(),
        TpmCode::SignatureInvalid
    );
    let old = Attestation {
        extra_data: vec![8; 32],
        ..Attestation::certify(public.name().as_bytes())
    }
    .bytes();
    assert_eq!(
        key.verify_certify(&old, &honest_signature).unwrap_err().code(),
        TpmCode::SignatureInvalid
    );
}

#[test]
fn public_areas_that_are_no_keys_are_refused() {
    let rsa = boot_file("good/ak-rsa.pub");
    let mut longer_exponent = rsa[2..].to_vec();
    longer_exponent[16] = 0x0C; // keyBits 3072 over a 2048-bit modulus
    let rows: [(&str, Vec<u8>, TpmCode); 7] = [
        (
            "KEYEDHASH",
            vec![0, 8, 0, 0x0B, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0],
            TpmCode::KeyTypeUnsupported,
        ),
        (
            "SYMCIPHER",
            vec![0, 0x25, 0, 0x0B, 0, 0, 0, 0, 0, 0],
            TpmCode::KeyTypeUnsupported,
        ),
        ("empty", vec![], TpmCode::StructureMalformed),
        (
            "TPM2B length too long",
            [&[0x01, 0x19][..], &rsa[2..]].concat(),
            TpmCode::StructureMalformed,
        ),
        (
            "TPM2B length too short",
            [&[0x01, 0x17][..], &rsa[2..]].concat(),
            TpmCode::StructureMalformed,
        ),
        (
            "keyBits that are not the modulus'",
            longer_exponent,
            TpmCode::StructureMalformed,
        ),
        ("oversized", vec![0xFF; 70_000], TpmCode::StructureMalformed),
    ];
    for (attack, bytes, code) in rows {
        assert_eq!(Public::from_tpm2b_or_tpmt(&bytes).unwrap_err().code(), code, "{attack}");
    }
    let sm2_curve = {
        let mut bytes = boot_file("good/ak-ecc.pub")[2..].to_vec();
        assert_eq!(bytes[16..18], [0x00, 0x03]);
        bytes[17] = 0x20;
        bytes
    };
    assert_eq!(
        Public::parse(&sm2_curve).unwrap_err().code(),
        TpmCode::KeyTypeUnsupported
    );
    // A point that is not on the curve parses, and verifies nothing.
    let mut off_curve = boot_file("good/ak-ecc.pub");
    *off_curve.last_mut().unwrap() ^= 1;
    let off_curve = Public::from_tpm2b_or_tpmt(&off_curve).unwrap();
    let key = AttestationKey::from(&off_curve.check_ak().unwrap());
    let (message, signature) = (
        boot_file("good/quote-ecc/quote.msg"),
        boot_file("good/quote-ecc/quote.sig"),
    );
    assert_eq!(
        key.verify(&message, &signature).unwrap_err().code(),
        TpmCode::SignatureInvalid
    );
}

#[test]
fn endorsement_keys_of_another_shape_are_refused() {
    let original = boot_file("good/ek-rsa.pub")[2..].to_vec();
    let bent = |at: usize, value: u8| {
        let mut bytes = original.clone();
        bytes[at] = value;
        Public::parse(&bytes).unwrap()
    };
    assert!(Public::parse(&original).unwrap().check_ek().is_ok());
    for (attack, public) in [
        ("SHA-1 Name", bent(3, 0x04)),
        ("unrestricted", bent(5, 0x02)),
        ("not fixedTPM", bent(7, 0xB0)),
        ("userWithAuth", bent(7, 0xF2)),
        ("other policy", bent(10, 0)),
        ("AES-256", bent(44, 1)),
        ("OAEP scheme", {
            let bytes = [&original[..48], &[0, 0x17, 0, 0x0B], &original[50..]].concat();
            Public::parse(&bytes).unwrap()
        }),
        (
            "an attestation key",
            Public::from_tpm2b_or_tpmt(&boot_file("good/ak-rsa.pub")).unwrap(),
        ),
    ] {
        assert_eq!(
            public.check_ek().map(|_| ()).unwrap_err().code(),
            TpmCode::EkTemplate,
            "{attack}"
        );
    }
}
