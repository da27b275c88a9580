//! The node's TPM access against real software TPMs in the state of recorded boots.
//!
//! What the TPM signs is checked with tpm2-tools and with p256, so by other code than that which made it.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "test helpers: what is not as it must be fails the test"
)]

use std::process::Command;

use p256::ecdsa::signature::Verifier as _;
use p256::ecdsa::signature::hazmat::PrehashVerifier as _;
use swtpm_tests::boots::{Boot, KeyForm, SHA1, SHA256};
use swtpm_tests::swtpm::Swtpm;
use swtpm_tests::tools::{check_quote, run, tpm2_credential};
use touchstone_attest::tpm::{AkAlgorithm, AkBlob, EkKind, Tpm, TpmError};

const BOOT_REGISTERS: [u8; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 14];
const NONCE: [u8; 32] = [0x5A; 32];

fn good() -> Swtpm {
    Swtpm::from_boot(&Boot::GOOD, &Boot::GOOD).expect("a software TPM")
}

fn open(swtpm: &Swtpm) -> Tpm {
    Tpm::open(&swtpm.tcti()).expect("an open TPM")
}

fn boot_selection() -> Vec<(u16, Vec<u8>)> {
    vec![(SHA256, BOOT_REGISTERS.to_vec())]
}

fn nothing_is_left_in(tpm: &mut Tpm) {
    assert_eq!(tpm.loaded_handles(), Ok(vec![]), "objects or sessions left in the TPM");
}

/// The P-256 key in the last 68 bytes of a TPMT_PUBLIC: two TPM2B of 32 bytes.
fn p256_key(public: &[u8]) -> p256::ecdsa::VerifyingKey {
    let unique = &public[public.len() - 68..];
    let point = [&[4], &unique[2..34], &unique[36..]].concat();
    p256::ecdsa::VerifyingKey::from_sec1_bytes(&point).expect("a point")
}

/// The r and s of a TPMT_SIGNATURE with ECDSA and SHA-256, each of which may be shorter than 32 bytes.
fn p256_signature(signature: &[u8]) -> p256::ecdsa::Signature {
    assert_eq!(signature[..4], [0x00, 0x18, 0x00, 0x0B]);
    let r_size = usize::from(signature[5]);
    let (r, s) = (&signature[6..6 + r_size], &signature[8 + r_size..]);
    let mut both = [0u8; 64];
    both[32 - r.len()..32].copy_from_slice(r);
    both[64 - s.len()..].copy_from_slice(s);
    p256::ecdsa::Signature::from_slice(&both).expect("a signature")
}

#[test]
fn a_recorded_boot_comes_back_with_every_register_in_both_banks() {
    for boot in Boot::ALL {
        let swtpm = Swtpm::from_boot(&boot, &boot).expect("a software TPM");
        swtpm.extend_ima(&boot, None).expect("extended");
        let recorded = boot.pcrs();
        for bank in [SHA1, SHA256] {
            let values = swtpm.pcr_values(bank).expect("values");
            for (index, value) in (0..).zip(values) {
                assert_eq!(
                    recorded.get(&(bank, index)),
                    Some(&value),
                    "{} bank {bank:#x} PCR {index}",
                    boot.name()
                );
            }
        }
    }
}

#[test]
fn register_values_are_read_in_the_order_asked_for() {
    let swtpm = good();
    let mut tpm = open(&swtpm);
    let recorded = Boot::GOOD.pcrs();
    let values = tpm
        .pcr_values(&[(SHA256, (0..10).rev().collect()), (SHA1, vec![14, 7])])
        .expect("values");
    let expected = |bank, indices: &[u8]| {
        (
            bank,
            indices
                .iter()
                .map(|index| (*index, recorded[&(bank, *index)].clone()))
                .collect::<Vec<_>>(),
        )
    };
    assert_eq!(
        values,
        [
            expected(SHA256, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
            expected(SHA1, &[7, 14])
        ]
    );
    assert_eq!(
        tpm.pcr_values(&[(0x000C, vec![0])]),
        Err(TpmError::BankAbsent { algorithm: 0x000C })
    );
}

#[test]
fn endorsement_keys_and_certificates_are_the_recorded_ones() {
    let swtpm = good();
    let mut tpm = open(&swtpm);
    for (kind, form) in [(EkKind::Rsa2048, KeyForm::Rsa), (EkKind::EccP384, KeyForm::Ecc)] {
        let key = tpm.endorsement_key(kind).expect("a key");
        assert_eq!(key.public(), Boot::GOOD.ek_public(form), "{kind:?}");
        assert_eq!(key.certificate(), Some(&*Boot::GOOD.ek_certificate(form)), "{kind:?}");
    }
    let uncertified = tpm
        .endorsement_key(EkKind::EccP256)
        .expect("a key made from the template");
    assert_eq!(uncertified.certificate(), None);
    assert_eq!(
        tpm.endorsement_key(EkKind::EccP256).expect("again").public(),
        uncertified.public()
    );
    assert_eq!(tpm.best_endorsement_key().expect("a key").kind(), EkKind::Rsa2048);
    nothing_is_left_in(&mut tpm);
}

#[test]
fn a_quote_verifies_under_every_endorsement_key_and_both_algorithms() {
    let swtpm = good();
    let mut tpm = open(&swtpm);
    for kind in EkKind::COMMON {
        let ek = tpm.endorsement_key(kind).expect("an EK");
        for algorithm in [AkAlgorithm::EcdsaP256, AkAlgorithm::RsassaRsa2048] {
            let blob = tpm.create_ak(&ek, algorithm).expect("an AK");
            let ak = tpm.load_ak(&ek, &blob).expect("loaded");
            let quote = tpm.quote(&ak, &boot_selection(), &NONCE).expect("a quote");
            assert!(check_quote(ak.public(), &quote, &NONCE), "{kind:?} {algorithm:?}");
            assert!(!check_quote(ak.public(), &quote, &[0; 32]), "the nonce is checked");
        }
    }
    nothing_is_left_in(&mut tpm);
}

#[test]
fn the_recorded_attestation_keys_quote_again() {
    let swtpm = good();
    let mut tpm = open(&swtpm);
    let ek = tpm.best_endorsement_key().expect("an EK");
    for form in [KeyForm::Rsa, KeyForm::Ecc] {
        let ak = tpm.ak_at(&ek, form.ak_handle()).expect("a persistent AK");
        assert_eq!(
            (ak.public(), ak.name()),
            (&*Boot::GOOD.ak_public(form), &*Boot::GOOD.ak_name(form))
        );
        let quote = tpm.quote(&ak, &boot_selection(), &NONCE).expect("a quote");
        assert!(check_quote(ak.public(), &quote, &NONCE), "{form:?}");
    }
    assert_eq!(tpm.ak_at(&ek, 0x8101_00FF).map(drop), Err(TpmError::KeyLost));
    assert!(
        matches!(tpm.ak_at(&ek, 0x8101_0001), Err(TpmError::KeyUnsuitable(_))),
        "an EK is no AK"
    );
}

#[test]
fn banks_are_quoted_in_the_order_asked_for() {
    let swtpm = good();
    let mut tpm = open(&swtpm);
    let ek = tpm.best_endorsement_key().expect("an EK");
    let ak = tpm.ak_at(&ek, KeyForm::Ecc.ak_handle()).expect("an AK");
    let sha256: &[u8] = &[0x00, 0x0B, 3, 0x01, 0, 0];
    let sha1: &[u8] = &[0x00, 0x04, 3, 0x80, 0, 0];
    for (selection, wire) in [
        ([(SHA256, vec![0]), (SHA1, vec![7])], [sha256, sha1].concat()),
        ([(SHA1, vec![7]), (SHA256, vec![0])], [sha1, sha256].concat()),
    ] {
        let quote = tpm.quote(&ak, &selection, &NONCE).expect("a quote");
        assert!(
            quote.attested.windows(wire.len()).any(|part| part == wire),
            "{selection:?}"
        );
    }
}

#[test]
fn an_attestation_key_survives_agent_and_machine_restarts_but_no_other_tpm_takes_it() {
    let swtpm = good();
    let (stored, name) = {
        let mut tpm = open(&swtpm);
        let ek = tpm.best_endorsement_key().expect("an EK");
        let blob = tpm.create_ak(&ek, AkAlgorithm::EcdsaP256).expect("an AK");
        let name = tpm.load_ak(&ek, &blob).expect("loaded").name().to_vec();
        (blob.encode(), name)
    };
    swtpm.reboot(&Boot::GOOD).expect("rebooted");
    let blob = AkBlob::decode(&stored).expect("what was stored");
    let mut tpm = open(&swtpm);
    let ek = tpm.best_endorsement_key().expect("an EK");
    let ak = tpm.load_ak(&ek, &blob).expect("loaded again");
    assert_eq!(ak.name(), name);
    assert!(check_quote(
        &blob.public,
        &tpm.quote(&ak, &boot_selection(), &NONCE).expect("a quote"),
        &NONCE
    ));

    let other = Swtpm::from_boot(&Boot::UKI, &Boot::UKI).expect("another TPM");
    let mut other = open(&other);
    let other_ek = other.best_endorsement_key().expect("an EK");
    let refused = |blob: &AkBlob, tpm: &mut Tpm, ek| tpm.load_ak(ek, blob).map(drop);
    assert_eq!(
        refused(&blob, &mut other, &other_ek),
        Err(TpmError::BlobRejected("made under another endorsement key"))
    );
    let relabelled = AkBlob {
        ek_name: other_ek.name().to_vec(),
        ..blob.clone()
    };
    assert_eq!(
        refused(&relabelled, &mut other, &other_ek),
        Err(TpmError::BlobRejected("the TPM does not know it as its own"))
    );
    let mut altered = blob;
    altered.private[20] ^= 1;
    assert_eq!(
        refused(&altered, &mut tpm, &ek),
        Err(TpmError::BlobRejected("the TPM does not know it as its own"))
    );
    nothing_is_left_in(&mut tpm);
    nothing_is_left_in(&mut other);
}

#[test]
fn certification_names_the_session_key_and_verifies() {
    let swtpm = good();
    let mut tpm = open(&swtpm);
    for kind in [EkKind::Rsa2048, EkKind::EccP256] {
        let ek = tpm.endorsement_key(kind).expect("an EK");
        let blob = tpm.create_ak(&ek, AkAlgorithm::EcdsaP256).expect("an AK");
        let ak = tpm.load_ak(&ek, &blob).expect("loaded");
        let key = tpm.create_session_key(&ek, &boot_selection()).expect("a session key");
        let certified = tpm.certify(&key, &ak, &NONCE).expect("a certification");
        p256_key(ak.public())
            .verify(&certified.attested, &p256_signature(&certified.signature))
            .expect("signed by the AK");
        assert_eq!(
            certified.attested[..6],
            [0xFF, 0x54, 0x43, 0x47, 0x80, 0x17],
            "TPM_ST_ATTEST_CERTIFY"
        );
        let holds = |part: &[u8]| certified.attested.windows(part.len()).any(|window| window == part);
        assert!(holds(&NONCE), "the qualifying data");
        assert!(holds(key.name()), "the session key's Name");
        // The Name is that of the public area that travels (part 1, 16).
        let digest = <sha2::Sha256 as sha2::Digest>::digest(key.public());
        assert_eq!(key.name(), [&[0x00, 0x0B], &digest[..]].concat());
        assert_eq!(key.public()[key.public().len() - 66..][..32], key.point()[..32]);
        nothing_is_left_in(&mut tpm);
    }
}

#[test]
fn a_session_key_signs_until_one_of_its_registers_changes() {
    let swtpm = good();
    let mut tpm = open(&swtpm);
    let ek = tpm.best_endorsement_key().expect("an EK");
    let key = tpm.create_session_key(&ek, &boot_selection()).expect("a session key");
    let digest = [7u8; 32];
    let verify = |signature: [u8; 64]| {
        let signature = p256::ecdsa::Signature::from_slice(&signature).expect("r and s");
        p256_key(key.public()).verify_prehash(&digest, &signature)
    };
    verify(tpm.session_sign(&key, &digest).expect("a signature")).expect("it verifies");
    swtpm
        .extend(10, [1; 32])
        .expect("a register outside of the policy moves");
    verify(tpm.session_sign(&key, &digest).expect("still signs")).expect("it verifies");
    swtpm.extend(8, [1; 32]).expect("a register of the policy moves");
    assert_eq!(tpm.session_sign(&key, &digest), Err(TpmError::PolicyCheckFailed));
    assert_eq!(
        tpm.session_sign(&key, &digest),
        Err(TpmError::PolicyCheckFailed),
        "and stays unusable"
    );
    nothing_is_left_in(&mut tpm);
}

#[test]
fn a_session_key_dies_with_the_boot_even_into_the_same_state() {
    let swtpm = good();
    let mut tpm = open(&swtpm);
    let ek = tpm.best_endorsement_key().expect("an EK");
    let blob = tpm.create_ak(&ek, AkAlgorithm::EcdsaP256).expect("an AK");
    let ak = tpm.load_ak(&ek, &blob).expect("loaded");
    let key = tpm.create_session_key(&ek, &boot_selection()).expect("a session key");
    let before = tpm.clock_info(&ak).expect("a clock");
    swtpm.reboot(&Boot::GOOD).expect("rebooted");
    assert_eq!(tpm.session_sign(&key, &[7; 32]), Err(TpmError::KeyLost));
    assert_eq!(tpm.certify(&key, &ak, &NONCE), Err(TpmError::KeyLost));
    // The attestation key is loaded again from its blob and shows the reset.
    let ak = tpm.load_ak(&ek, &blob).expect("loaded again");
    let after = tpm.clock_info(&ak).expect("a clock");
    assert_eq!(after.reset_count, before.reset_count + 1);
    let key = tpm
        .create_session_key(&ek, &boot_selection())
        .expect("a new session key");
    tpm.session_sign(&key, &[7; 32]).expect("the new key signs");
    nothing_is_left_in(&mut tpm);
}

#[test]
fn the_recorded_credential_opens_for_its_own_keys_only() {
    let swtpm = good();
    let mut tpm = open(&swtpm);
    let read = |file: &str| std::fs::read(Boot::GOOD.path(file)).expect("a recorded file");
    let (blob, secret) = tpm2_credential(&read("cred.blob"));
    let ek = tpm.endorsement_key(EkKind::Rsa2048).expect("an EK");
    let ak = tpm.ak_at(&ek, KeyForm::Rsa.ak_handle()).expect("an AK");
    assert_eq!(
        *tpm.activate_credential(&ek, &ak, &blob, &secret).expect("opened"),
        read("cred.secret")
    );

    let other_ak = tpm.ak_at(&ek, KeyForm::Ecc.ak_handle()).expect("an AK");
    let mut activate = |ek, ak, blob: &[u8], secret: &[u8]| tpm.activate_credential(ek, ak, blob, secret).map(drop);
    let refused = Err(TpmError::CredentialRejected);
    assert_eq!(
        activate(&ek, &other_ak, &blob, &secret),
        refused,
        "another attestation key"
    );
    let mut altered = blob.clone();
    altered[42] ^= 1;
    assert_eq!(activate(&ek, &ak, &altered, &secret), refused, "altered blob");
    assert_eq!(activate(&ek, &ak, &[], &secret), refused, "no blob");
    assert_eq!(activate(&ek, &ak, &blob, &[0, 2, 9, 9]), refused, "no secret");
    assert_eq!(activate(&ek, &ak, &vec![0; 70_000], &secret), refused, "endless blob");
    assert_eq!(
        activate(&ek, &ak, &[&blob[..], &[0]].concat(), &secret),
        refused,
        "a byte too many"
    );
    assert_eq!(
        activate(&ek, &ak, &blob[..blob.len() - 1], &secret),
        refused,
        "cut short"
    );
    assert_eq!(
        activate(&ek, &ak, &[&[0xFF, 0xFF], &[0; 0xFFFF][..]].concat(), &secret),
        refused,
        "as long as can be"
    );
    let other_ek = tpm.endorsement_key(EkKind::EccP384).expect("an EK");
    assert_eq!(
        tpm.activate_credential(&other_ek, &ak, &blob, &secret).map(drop),
        Err(TpmError::CredentialRejected),
        "another endorsement key"
    );
    nothing_is_left_in(&mut tpm);
}

#[test]
fn a_credential_for_an_elliptic_curve_endorsement_key_opens() {
    let swtpm = good();
    let mut tpm = open(&swtpm);
    let ek = tpm.endorsement_key(EkKind::EccP384).expect("an EK");
    let blob = tpm.create_ak(&ek, AkAlgorithm::EcdsaP256).expect("an AK");
    let ak = tpm.load_ak(&ek, &blob).expect("loaded");
    let folder = tempfile::tempdir().expect("a folder");
    let secret = folder.path().join("secret");
    let credential = folder.path().join("credential");
    std::fs::write(&secret, [3u8; 32]).expect("written");
    run(
        Command::new("tpm2_makecredential")
            .args(["-T", "none", "-n", &hex::encode(ak.name())])
            .arg("-u")
            .arg(Boot::GOOD.path("ek-ecc.pub"))
            .arg("-s")
            .arg(&secret)
            .arg("-o")
            .arg(&credential),
        None,
    );
    let (blob, secret) = tpm2_credential(&std::fs::read(&credential).expect("made"));
    assert_eq!(
        *tpm.activate_credential(&ek, &ak, &blob, &secret).expect("opened"),
        [3u8; 32]
    );
    nothing_is_left_in(&mut tpm);
}

#[test]
fn two_tpms_and_two_users_of_one_do_not_disturb_each_other() {
    let nodes = [(Boot::GOOD, Boot::GOOD), (Boot::UKI, Boot::GOOD)];
    std::thread::scope(|scope| {
        for (state_of, digests_of) in nodes {
            scope.spawn(move || {
                let swtpm = Swtpm::from_boot(&state_of, &digests_of).expect("a software TPM");
                let mut users = [open(&swtpm), open(&swtpm)];
                let keys: Vec<_> = users
                    .iter_mut()
                    .map(|tpm| {
                        let ek = tpm.best_endorsement_key().expect("an EK");
                        let ak = tpm.ak_at(&ek, KeyForm::Ecc.ak_handle()).expect("an AK");
                        assert_eq!(ak.public(), state_of.ak_public(KeyForm::Ecc), "its own keys");
                        (
                            ak,
                            tpm.create_session_key(&ek, &boot_selection()).expect("a session key"),
                        )
                    })
                    .collect();
                for round in 0..4u8 {
                    for (tpm, (ak, key)) in users.iter_mut().zip(&keys) {
                        tpm.certify(key, ak, &[round; 32]).expect("a certification");
                        tpm.session_sign(key, &[round; 32]).expect("a signature");
                    }
                }
                let values = users[0].pcr_values(&[(SHA256, vec![4])]).expect("values");
                let recorded = digests_of.pcrs()[&(SHA256, 4)].clone();
                assert_eq!(
                    values,
                    [(SHA256, vec![(4, recorded)])],
                    "the registers of the boot it replays"
                );
                nothing_is_left_in(&mut users[1]);
            });
        }
    });
}

/// One command, every bank; and the register cannot be set back without a reset.
#[test]
fn a_register_is_extended_in_every_bank() {
    use touchstone_verifier::tpm::HashAlg;
    let swtpm = good();
    let mut tpm = open(&swtpm);
    let ek = tpm.best_endorsement_key().expect("an endorsement key");
    let banks = tpm.banks_of(15).expect("banks");
    assert!(banks.contains(&HashAlg::Sha256), "{banks:?}");
    for (bank, value) in tpm.register(15).expect("values") {
        assert_eq!(value, vec![0; bank.digest_len()], "{bank}");
    }
    tpm.extend(&ek, 15, |bank| bank.digest([b"mark".as_slice()]).as_ref().to_vec())
        .expect("extended");
    let values = tpm.register(15).expect("values");
    assert_eq!(values.keys().copied().collect::<Vec<_>>(), banks);
    for (bank, value) in values {
        let mark = bank.digest([b"mark".as_slice()]);
        let expected = bank.digest([vec![0; bank.digest_len()].as_slice(), mark.as_ref()]);
        assert_eq!(value, expected.as_ref(), "{bank}");
    }
    let short = tpm.extend(&ek, 15, |_| vec![0; 5]);
    assert!(matches!(short, Err(TpmError::BankAbsent { .. })), "{short:?}");
    nothing_is_left_in(&mut tpm);
}
