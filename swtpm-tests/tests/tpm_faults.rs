//! What the TPM access does when the TPM is strange, tapped, full or gone.
#![expect(
    clippy::expect_used,
    reason = "test helpers: what is not as it must be fails the test"
)]

use std::process::Command;
use std::sync::{Arc, Mutex};

use swtpm_tests::boots::{Boot, KeyForm, SHA256};
use swtpm_tests::swtpm::Swtpm;
use swtpm_tests::tap::Tap;
use swtpm_tests::tools::{run, tpm2_credential};
use touchstone_attest::tpm::{AkAlgorithm, EkKind, Tpm, TpmError};

const NONCE: [u8; 32] = [0x5A; 32];

fn good() -> Swtpm {
    Swtpm::from_boot(&Boot::GOOD, &Boot::GOOD).expect("a software TPM")
}

fn open(swtpm: &Swtpm) -> Tpm {
    Tpm::open(&swtpm.tcti()).expect("an open TPM")
}

fn boot_selection() -> Vec<(u16, Vec<u8>)> {
    vec![(SHA256, vec![0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 14])]
}

fn nothing_is_left_in(tpm: &mut Tpm) {
    assert_eq!(tpm.loaded_handles(), Ok(vec![]), "objects or sessions left in the TPM");
}

#[test]
fn a_tpm_of_an_unknown_maker_has_certificates_of_its_own_ca() {
    let swtpm = Swtpm::blank().expect("a newly made TPM");
    let mut tpm = open(&swtpm);
    let certificate = tpm
        .ek_certificate(EkKind::Rsa2048)
        .expect("read")
        .expect("a certificate");
    assert_ne!(certificate, Boot::GOOD.ek_certificate(KeyForm::Rsa));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ek.der");
    std::fs::write(&path, &certificate).expect("written");
    let verifies = |[root, issuer]: [String; 2]| {
        let [root_path, issuer_path] = ["root.pem", "issuer.pem"].map(|name| folder.path().join(name));
        std::fs::write(&root_path, root).expect("written");
        std::fs::write(&issuer_path, issuer).expect("written");
        let mut openssl = Command::new("openssl");
        openssl
            .args(["verify", "-ignore_critical", "-CAfile"])
            .arg(&root_path)
            .arg("-untrusted")
            .arg(&issuer_path);
        openssl
            .arg(&path)
            .output()
            .expect("openssl is installed")
            .status
            .success()
    };
    assert!(verifies(swtpm.maker_ca().expect("its CA")));
    assert!(!verifies(swtpm_tests::boots::ca()));
}

#[test]
fn a_tpm_that_goes_away_is_said_so() {
    let swtpm = good();
    let mut tpm = open(&swtpm);
    let ek = tpm.best_endorsement_key().expect("an EK");
    let ak = tpm.ak_at(&ek, KeyForm::Ecc.ak_handle()).expect("an AK");
    drop(swtpm);
    let error = tpm.quote(&ak, &boot_selection(), &NONCE).expect_err("nobody answers");
    assert_eq!(
        error,
        TpmError::NoAnswer {
            command: "TPM2_StartAuthSession"
        }
    );
}

#[test]
fn a_wire_tapper_does_not_hear_the_activated_secret() {
    let swtpm = good();
    let tap = Tap::before(swtpm.port(), Box::new(|_, _| ())).expect("a tap");
    let mut tpm = Tpm::open(&tap.tcti()).expect("an open TPM");
    let read = |file: &str| std::fs::read(Boot::GOOD.path(file)).expect("a recorded file");
    let (blob, secret) = tpm2_credential(&read("cred.blob"));
    let ek = tpm.endorsement_key(EkKind::Rsa2048).expect("an EK");
    let ak = tpm.ak_at(&ek, KeyForm::Rsa.ak_handle()).expect("an AK");
    assert_eq!(
        *tpm.activate_credential(&ek, &ak, &blob, &secret).expect("opened"),
        read("cred.secret")
    );
    assert!(tap.heard(&secret), "the tap works: the encrypted secret went by");
    assert!(!tap.heard(&read("cred.secret")), "the secret went by in the clear");
}

#[test]
fn a_wire_tapper_cannot_change_what_the_tpm_answers() {
    const TPM_CC_QUOTE: [u8; 4] = [0, 0, 0x01, 0x58];
    const TPM_CC_CERTIFY: [u8; 4] = [0, 0, 0x01, 0x48];
    const TPM_CC_SIGN: [u8; 4] = [0, 0, 0x01, 0x5D];
    let swtpm = good();
    for (command, name) in [
        (TPM_CC_QUOTE, "TPM2_Quote"),
        (TPM_CC_CERTIFY, "TPM2_Certify"),
        (TPM_CC_SIGN, "TPM2_Sign"),
    ] {
        let flip = move |asked: &[u8], answer: &mut Vec<u8>| {
            if asked[6..10] == command {
                answer[30] ^= 1;
            }
        };
        let tap = Tap::before(swtpm.port(), Box::new(flip)).expect("a tap");
        let mut tpm = Tpm::open(&tap.tcti()).expect("an open TPM");
        let ek = tpm.best_endorsement_key().expect("an EK");
        let ak = tpm.ak_at(&ek, KeyForm::Ecc.ak_handle()).expect("an AK");
        let key = tpm.create_session_key(&ek, &boot_selection()).expect("a session key");
        let outcome = match name {
            "TPM2_Quote" => tpm.quote(&ak, &boot_selection(), &NONCE).map(drop),
            "TPM2_Certify" => tpm.certify(&key, &ak, &NONCE).map(drop),
            _ => tpm.session_sign(&key, &[7; 32]).map(drop),
        };
        assert_eq!(outcome, Err(TpmError::AnswerAltered { command: name }));
        // The next operation puts right what the broken one left behind.
        tpm.pcr_values(&boot_selection()).expect("values");
        nothing_is_left_in(&mut tpm);
    }
}

#[test]
fn a_user_killed_in_the_middle_of_an_operation_does_not_block_the_next() {
    let fill = |swtpm: &Swtpm| {
        let folder = tempfile::tempdir().expect("a folder");
        for number in 0..3 {
            // Each leaves its key loaded, as a killed agent would.
            let context = folder.path().join(format!("context-{number}"));
            let mut tool = Command::new("tpm2_createprimary");
            run(
                tool.args(["-Q", "-C", "n", "-G", "ecc", "-T", &swtpm.tcti()])
                    .arg("-c")
                    .arg(&context),
                None,
            );
        }
    };
    let swtpm = good();
    fill(&swtpm);
    let mut tpm = open(&swtpm);
    assert_eq!(tpm.loaded_handles().expect("handles").len(), 3, "the slots are full");
    let ek = tpm.best_endorsement_key().expect("an EK, the slots freed");
    nothing_is_left_in(&mut tpm);
    fill(&swtpm);
    let key = tpm.create_session_key(&ek, &boot_selection());
    assert!(
        matches!(key, Err(TpmError::OutOfSlots { .. })),
        "somebody else filled them"
    );
    let key = tpm
        .create_session_key(&ek, &boot_selection())
        .expect("a session key, the slots freed");
    tpm.session_sign(&key, &[7; 32]).expect("a signature");
    nothing_is_left_in(&mut tpm);
}

#[test]
fn every_session_is_salted() {
    const TPM_CC_START_AUTH_SESSION: [u8; 4] = [0, 0, 0x01, 0x76];
    const TPM_RH_NULL: [u8; 4] = [0x40, 0, 0, 0x07];
    const TRIAL: u8 = 0x03;
    /// Of each session: whether a key to salt it to was named, and its type.
    type Seen = Arc<Mutex<Vec<(bool, u8)>>>;
    let seen = Seen::default();
    let notes = Arc::clone(&seen);
    let note = move |asked: &[u8], _: &mut Vec<u8>| {
        if asked[6..10] == TPM_CC_START_AUTH_SESSION {
            // Header 10, tpmKey 4, bind 4, then TPM2B nonceCaller, TPM2B encryptedSalt, sessionType (part 3, 11.1).
            let size = |at: usize| 2 + usize::from(u16::from_be_bytes([asked[at], asked[at + 1]]));
            let salt = 18 + size(18);
            let session_type = asked[salt + size(salt)];
            notes
                .lock()
                .expect("a lock")
                .push((asked[10..14] != TPM_RH_NULL && size(salt) > 2, session_type));
        }
    };
    let swtpm = good();
    let tap = Tap::before(swtpm.port(), Box::new(note)).expect("a tap");
    let mut tpm = Tpm::open(&tap.tcti()).expect("an open TPM");
    for kind in EkKind::COMMON {
        let ek = tpm.endorsement_key(kind).expect("an EK");
        let blob = tpm.create_ak(&ek, AkAlgorithm::EcdsaP256).expect("an AK");
        let ak = tpm.load_ak(&ek, &blob).expect("loaded");
        let key = tpm.create_session_key(&ek, &boot_selection()).expect("a session key");
        tpm.quote(&ak, &boot_selection(), &NONCE).expect("a quote");
        tpm.certify(&key, &ak, &NONCE).expect("a certification");
        tpm.session_sign(&key, &[7; 32]).expect("a signature");
    }
    let seen = seen.lock().expect("a lock");
    // Create, load, make, quote, certify, sign, and one trial session that authorizes nothing.
    assert_eq!(seen.len(), 7 * EkKind::COMMON.len());
    assert_eq!(
        seen.iter().filter(|(salted, kind)| !salted && *kind != TRIAL).count(),
        0,
        "{seen:?}"
    );
}

#[test]
fn the_session_key_hangs_in_the_null_hierarchy() {
    const TPM_CC_CREATE_PRIMARY: [u8; 4] = [0, 0, 0x01, 0x31];
    const TPM_RH_NULL: [u8; 4] = [0x40, 0, 0, 0x07];
    let hierarchies = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&hierarchies);
    let note = move |asked: &[u8], _: &mut Vec<u8>| {
        if asked[6..10] == TPM_CC_CREATE_PRIMARY {
            notes
                .lock()
                .expect("a lock")
                .push([asked[10], asked[11], asked[12], asked[13]]);
        }
    };
    let swtpm = good();
    let tap = Tap::before(swtpm.port(), Box::new(note)).expect("a tap");
    let mut tpm = Tpm::open(&tap.tcti()).expect("an open TPM");
    let ek = tpm.endorsement_key(EkKind::Rsa2048).expect("a persistent EK");
    tpm.create_session_key(&ek, &boot_selection()).expect("a session key");
    assert_eq!(*hierarchies.lock().expect("a lock"), [TPM_RH_NULL]);
}

#[test]
fn a_certificate_that_is_not_the_keys_own_is_not_used() {
    const EMPTY: &[u8] = &[0xFF; 64];
    let other = Boot::UKI.ek_certificate(KeyForm::Ecc);
    let padded = [&other[..], EMPTY].concat();
    for (written, read) in [
        (padded.as_slice(), Ok(Some(other.clone()))),
        (EMPTY, Err("it does not begin with a DER sequence")),
        (&other[..other.len() - 1], Err("it is cut short")),
    ] {
        let swtpm = good();
        let folder = tempfile::tempdir().expect("a folder");
        let contents = folder.path().join("contents");
        std::fs::write(&contents, written).expect("written");
        // The index of the P-256 certificate, which the recorded TPM does not have.
        let tool = |name: &str, arguments: &[&str]| {
            let mut tool = Command::new(name);
            run(
                tool.args(["-T", &swtpm.tcti(), "0x01C0000A", "-C", "o"])
                    .args(arguments),
                None,
            );
        };
        let size = written.len().to_string();
        tool("tpm2_nvdefine", &["-s", &size, "-a", "ownerread|ownerwrite|authread"]);
        tool("tpm2_nvwrite", &["-i", contents.to_str().expect("a path")]);
        let mut tpm = open(&swtpm);
        let malformed = |problem| TpmError::CertificateMalformed {
            index: 0x01C0_000A,
            problem,
        };
        assert_eq!(tpm.ek_certificate(EkKind::EccP256), read.map_err(malformed));
        assert_eq!(tpm.endorsement_key(EkKind::EccP256).expect("an EK").certificate(), None);
        nothing_is_left_in(&mut tpm);
    }
}
