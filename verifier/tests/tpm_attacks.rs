//! One row an attack, on TPM structures and keys. Forged structures are signed by a key in software, so that nothing but
//! the check under test can refuse them.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests"
)]

mod support;

use proptest::prelude::*;
use support::{
    AK_ATTRIBUTES, Attestation, RECEIVE_KEY_ATTRIBUTES, SIGNING_KEY_ATTRIBUTES, SoftKey, Values, boot_file, lookup,
    selection, sized,
};
use touchstone_verifier::tpm::attest::{Attest, signed_bytes};
use touchstone_verifier::tpm::policy::policy_pcr;
use touchstone_verifier::tpm::reader::Reader;
use touchstone_verifier::tpm::signature::Signature;
use touchstone_verifier::tpm::{AttestationKey, HashAlg, PcrSelection, Public, SessionKeyUse, TpmCode};

const BOOT_REGISTERS: &str = "sha256:0,1,2,3,4,5,6,7";

fn values() -> Values {
    let registers = (0..24u8).flat_map(|i| [((HashAlg::Sha256, i), vec![i; 32]), ((HashAlg::Sha1, i), vec![i; 20])]);
    registers.collect()
}

fn digest(selection: &PcrSelection) -> Vec<u8> {
    selection
        .pcr_digest(HashAlg::Sha256, lookup(&values()))
        .unwrap()
        .as_ref()
        .to_vec()
}

/// Codes of whatever a live check of this forged attestation says; empty if it passes.
fn judge(ak: &SoftKey, attestation: &Attestation, asked: &PcrSelection) -> Vec<&'static str> {
    let public = Public::parse(&ak.public(AK_ATTRIBUTES, &[], true)).unwrap();
    let key = AttestationKey::from(&public.check_ak().unwrap());
    let message = attestation.bytes();
    let signature = ak.sign(&message);
    match key.verify_quote(&message, &signature) {
        Err(e) => vec![e.code().as_str()],
        Ok(quote) => {
            let selection = &quote.info().selection;
            let mut codes = Vec::new();
            codes.extend(selection.must_equal(asked).err().map(|e| e.code().as_str()));
            codes.extend(selection.must_be_boot_registers().err().map(|e| e.code().as_str()));
            codes.extend(quote.check_values(lookup(&values())).err().map(|e| e.code().as_str()));
            codes
        }
    }
}

#[test]
fn forged_quotes_are_refused() {
    let ak = SoftKey::generate();
    let asked = selection(BOOT_REGISTERS);
    let honest = || Attestation::quote(&asked.to_tpml(), &digest(&asked));
    let quoted = |text: &str| {
        let selection = selection(text);
        Attestation::quote(&selection.to_tpml(), &digest(&selection))
    };
    let tpml = |entries: &[&[u8]]| [&(entries.len() as u32).to_be_bytes(), entries.concat().as_slice()].concat();
    let rows: [(&str, Attestation, &[&str]); 21] = [
        ("honest", honest(), &[]),
        (
            "wrong magic",
            Attestation {
                magic: 0xFF54_4348,
                ..honest()
            },
            &["tpm-attest-magic"],
        ),
        ("no magic", Attestation { magic: 0, ..honest() }, &["tpm-attest-magic"]),
        (
            "certify instead of quote",
            Attestation::certify(&[0; 34]),
            &["tpm-attest-type"],
        ),
        (
            "time instead of quote",
            Attestation {
                kind: 0x8019,
                ..honest()
            },
            &["tpm-attest-type"],
        ),
        (
            "creation instead of quote",
            Attestation {
                kind: 0x801A,
                ..honest()
            },
            &["tpm-attest-type"],
        ),
        (
            "NV instead of quote",
            Attestation {
                kind: 0x8014,
                ..honest()
            },
            &["tpm-attest-type"],
        ),
        (
            "NV digest instead of quote",
            Attestation {
                kind: 0x801C,
                ..honest()
            },
            &["tpm-attest-type"],
        ),
        (
            "session audit instead of quote",
            Attestation {
                kind: 0x8016,
                ..honest()
            },
            &["tpm-attest-type"],
        ),
        (
            "command audit instead of quote",
            Attestation {
                kind: 0x8015,
                ..honest()
            },
            &["tpm-attest-type"],
        ),
        (
            "quote type, certify contents",
            Attestation {
                kind: 0x8018,
                ..Attestation::certify(&[0; 34])
            },
            &["pcr-selection-malformed"],
        ),
        (
            "other registers",
            quoted("sha256:0,1,2,3,4,5,6,8"),
            &["pcr-selection-mismatch"],
        ),
        ("fewer registers", quoted("sha256:0,1,2,3"), &["pcr-selection-mismatch"]),
        (
            "more registers",
            quoted("sha256:0,1,2,3,4,5,6,7,8"),
            &["pcr-selection-mismatch"],
        ),
        (
            "no registers",
            Attestation::quote(&tpml(&[]), &[0; 32]),
            &["pcr-selection-mismatch", "pcr-digest-mismatch"],
        ),
        (
            "other bank",
            quoted("sha1:0,1,2,3,4,5,6,7"),
            &["pcr-selection-mismatch"],
        ),
        (
            "another bank besides",
            quoted("sha256:0,1,2,3,4,5,6,7+sha1:0"),
            &["pcr-selection-mismatch"],
        ),
        (
            "resettable register in place",
            quoted("sha256:0,1,2,3,4,5,6,16"),
            &["pcr-selection-mismatch", "pcr-register-resettable"],
        ),
        (
            "one bank twice",
            Attestation::quote(&tpml(&[&[0, 0x0B, 3, 0x0F, 0, 0], &[0, 0x0B, 3, 0xF0, 0, 0]]), &[0; 32]),
            &["pcr-selection-malformed"],
        ),
        (
            "unknown bank",
            Attestation::quote(&tpml(&[&[0, 0x12, 3, 0xFF, 0, 0]]), &[0; 32]),
            &["pcr-selection-malformed"],
        ),
        (
            "digest of other values",
            Attestation::quote(&asked.to_tpml(), &[9; 32]),
            &["pcr-digest-mismatch"],
        ),
    ];
    for (attack, attestation, expected) in rows {
        assert_eq!(judge(&ak, &attestation, &asked), expected, "{attack}");
    }
}

/// The digest depends on the order of banks: a selection in another order is another selection.
#[test]
fn order_of_banks_must_be_as_asked() {
    let ak = SoftKey::generate();
    let (asked, other) = (selection("sha1:0,1+sha256:0,1"), selection("sha256:0,1+sha1:0,1"));
    assert_ne!(digest(&asked), digest(&other));
    let same = Attestation::quote(&asked.to_tpml(), &digest(&asked));
    assert_eq!(judge(&ak, &same, &asked), [""; 0]);
    let swapped = Attestation::quote(&other.to_tpml(), &digest(&other));
    assert_eq!(judge(&ak, &swapped, &asked), ["pcr-selection-mismatch"]);
    assert!(!asked.eq(&other) && asked.covers(&other) && other.covers(&asked));
}

#[test]
fn an_empty_question_is_never_answered() {
    let empty = PcrSelection::default();
    assert!(empty.must_equal(&empty).is_err());
    assert!(selection(BOOT_REGISTERS).must_cover(&empty).is_err());
    assert!(selection("sha256:").must_equal(&selection("sha256:")).is_err());
}

#[test]
fn offline_a_quote_may_hold_more() {
    let quoted = selection("sha1:0+sha256:0,1,2,3,7,10");
    assert_eq!(quoted.must_cover(&selection("sha256:0,7")), Ok(()));
    for required in ["sha256:0,4", "sha384:0", "sha1:0,1"] {
        assert_eq!(
            quoted.must_cover(&selection(required)).unwrap_err().code(),
            TpmCode::SelectionMissing,
            "{required}"
        );
    }
}

/// standards.md F 14: the digest in a quote is made with the hash of the signing scheme, not that of the bank.
#[test]
fn pcr_digest_uses_the_hash_of_the_scheme() {
    let ak = SoftKey::generate();
    let asked = selection("sha1:0,1,2,3");
    let by_bank = asked.pcr_digest(HashAlg::Sha1, lookup(&values())).unwrap();
    let by_scheme = asked.pcr_digest(HashAlg::Sha256, lookup(&values())).unwrap();
    assert_eq!(
        judge(&ak, &Attestation::quote(&asked.to_tpml(), by_scheme.as_ref()), &asked),
        [""; 0]
    );
    let attestation = Attestation::quote(&asked.to_tpml(), by_bank.as_ref());
    assert_eq!(judge(&ak, &attestation, &asked), ["pcr-digest-mismatch"]);
}

#[test]
fn missing_or_misshapen_values_are_refused() {
    let asked = selection("sha256:0,1");
    let mut values = values();
    values.insert((HashAlg::Sha256, 1), vec![0; 20]);
    assert_eq!(
        asked.pcr_digest(HashAlg::Sha256, lookup(&values)).unwrap_err().code(),
        TpmCode::ValueMissing
    );
    values.remove(&(HashAlg::Sha256, 1));
    assert_eq!(
        asked.pcr_digest(HashAlg::Sha256, lookup(&values)).unwrap_err().code(),
        TpmCode::ValueMissing
    );
}

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
fn signatures_of_another_shape_are_refused() {
    let ak = SoftKey::generate();
    let public = Public::parse(&ak.public(AK_ATTRIBUTES, &[], true)).unwrap();
    let key = AttestationKey::from(&public.check_ak().unwrap());
    let good = ak.sign(b"message");
    let (r, s) = (good[6..38].to_vec(), good[40..72].to_vec());
    let ecdsa = |hash: u8, r: &[u8], s: &[u8]| [&[0x00, 0x18, 0x00, hash][..], &sized(r), &sized(s)].concat();
    let order = touchstone_verifier::tpm::Curve::P256.order();
    let padded = |n: &[u8]| [&[0; 34][..], n].concat();
    let rows: [(&str, Vec<u8>, Option<&str>); 14] = [
        ("honest", good.clone(), None),
        ("zero-padded", ecdsa(0x0B, &padded(&r), &padded(&s)), None),
        (
            "SHA-384 instead of the key's SHA-256",
            ecdsa(0x0C, &r, &s),
            Some("tpm-signature-scheme"),
        ),
        (
            "SHA-1 instead of the key's SHA-256",
            ecdsa(0x04, &r, &s),
            Some("tpm-signature-scheme"),
        ),
        ("unknown hash", ecdsa(0x12, &r, &s), Some("tpm-hash-unsupported")),
        ("r zero", ecdsa(0x0B, &[0; 32], &s), Some("tpm-signature-invalid")),
        ("s zero", ecdsa(0x0B, &r, &[]), Some("tpm-signature-invalid")),
        ("r is the order", ecdsa(0x0B, order, &s), Some("tpm-signature-invalid")),
        (
            "s above the order",
            ecdsa(0x0B, &r, &[0xFF; 32]),
            Some("tpm-signature-invalid"),
        ),
        (
            "r wider than the field",
            ecdsa(0x0B, &[1; 33], &s),
            Some("tpm-signature-invalid"),
        ),
        (
            "r wider than any field",
            ecdsa(0x0B, &[0; 67], &s),
            Some("tpm-structure-malformed"),
        ),
        ("r and s swapped", ecdsa(0x0B, &s, &r), Some("tpm-signature-invalid")),
        (
            "RSASSA",
            [&[0, 0x14, 0, 0x0B][..], &sized(&[1; 256])].concat(),
            Some("tpm-signature-scheme"),
        ),
        (
            "ECDAA",
            [&[0, 0x1A, 0, 0x0B][..], &sized(&r), &sized(&s)].concat(),
            Some("tpm-signature-scheme"),
        ),
    ];
    for (attack, signature, expected) in rows {
        let found = key.verify(b"message", &signature).err().map(|e| e.code().as_str());
        assert_eq!(found, expected, "{attack}");
    }
    // r and s may come shorter than the field: fixed width again, same verdict.
    let short = loop {
        let signature = ak.sign(b"message");
        if signature[6] == 0 {
            break signature;
        }
    };
    let trimmed = ecdsa(0x0B, &short[7..38], &short[40..72]);
    assert_eq!(key.verify(b"message", &trimmed), Ok(()));
    let fixed = Signature::parse(&trimmed).unwrap().to_fixed_width(key.key()).unwrap();
    assert_eq!(fixed, [&short[6..38], &short[40..72]].concat());
}

/// SHA-1 signatures are read, so that the refusal can name them, and never verify, whatever the key says.
#[test]
fn sha1_signatures_never_verify() {
    let key = AttestationKey::without_attributes(
        Public::parse(&SoftKey::generate().public(AK_ATTRIBUTES, &[], true))
            .unwrap()
            .subject_key(),
    );
    let signature = [&[0, 0x18, 0, 0x04][..], &sized(&[1; 32]), &sized(&[1; 32])].concat();
    assert_eq!(key.verify(b"", &signature).unwrap_err().code(), TpmCode::HashWeak);
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

#[test]
fn oversized_everything_is_refused_at_once() {
    let huge = vec![0xFF; 1 << 20];
    assert!(Attest::parse(&huge).is_err());
    assert!(signed_bytes(&huge).is_err());
    assert!(Signature::parse(&huge).is_err());
    assert!(touchstone_verifier::x509::Certificate::from_der(&huge).is_err());
    let many_banks = [&u32::MAX.to_be_bytes()[..], &[0; 64]].concat();
    assert_eq!(
        PcrSelection::read(&mut Reader::new(&many_banks)).unwrap_err().code(),
        TpmCode::SelectionMalformed
    );
    for size in [0u8, 5, 255] {
        let bytes = [&[0, 0, 0, 1, 0, 0x0B, size][..], &[0; 255]].concat();
        assert!(
            PcrSelection::read(&mut Reader::new(&bytes)).is_err(),
            "sizeofSelect {size}"
        );
    }
}

/// A quote asked for over a challenge's selection is compared in the shape the wire has.
#[test]
fn wire_selections_are_strict() {
    let wire = vec![(0x000B, vec![0, 1, 7]), (0x0004, vec![])];
    let parsed = PcrSelection::from_wire(&wire).unwrap();
    assert_eq!(parsed.to_wire(), wire);
    for bad in [
        vec![(0x000B, vec![0]), (0x000B, vec![1])],
        vec![(0x000B, vec![0, 0])],
        vec![(0x000B, vec![32])],
        vec![(0x0007, vec![0])],
    ] {
        assert_eq!(
            PcrSelection::from_wire(&bad).unwrap_err().code(),
            TpmCode::SelectionMalformed,
            "{bad:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn parsers_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Attest::parse(&bytes);
        let _ = signed_bytes(&bytes);
        let _ = Signature::parse(&bytes);
        let _ = Public::from_tpm2b_or_tpmt(&bytes);
        let _ = touchstone_verifier::x509::Certificate::from_der(&bytes);
    }

    #[test]
    fn bent_structures_never_panic(at in 0usize..1100, value: u8, cut in 0usize..1100) {
        for file in ["quote-rsa/quote.msg", "quote-ecc/quote.sig", "ak-rsa.pub", "ek-ecc.pub", "ek-ecc-cert.der"] {
            let mut bytes = boot_file(&format!("good/{file}"));
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            bytes.truncate(cut.max(at));
            let _ = Attest::parse(&bytes);
            let _ = Signature::parse(&bytes);
            if let Ok(public) = Public::from_tpm2b_or_tpmt(&bytes) {
                let _ = (public.check_ak().is_ok(), public.check_ek().is_ok(), public.to_spki_der());
            }
            let _ = touchstone_verifier::x509::Certificate::from_der(&bytes);
        }
    }

    #[test]
    fn selections_survive_writing_and_reading(masks in proptest::collection::vec(any::<u32>(), 0..=4)) {
        let banks = HashAlg::ALL.into_iter().zip(&masks).map(|(bank, mask)| {
            (bank, (0..32u8).filter(|i| mask >> i & 1 == 1).collect::<Vec<_>>())
        });
        let selection = PcrSelection::new(banks).unwrap();
        let tpml = selection.to_tpml();
        let mut reader = Reader::new(&tpml);
        prop_assert_eq!(&PcrSelection::read(&mut reader).unwrap(), &selection);
        prop_assert_eq!(reader.finish("TPML"), Ok(()));
        prop_assert_eq!(&PcrSelection::from_wire(&selection.to_wire()).unwrap(), &selection);
        prop_assert!(selection.covers(&selection));
    }
}
