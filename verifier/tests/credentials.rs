//! MakeCredential and the activation answer. That a TPM opens what is made here is shown in `swtpm-tests`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests"
)]

use crate::support;

use support::boot_file;
use touchstone_verifier::tpm::credential::{
    CREDENTIAL_ENTROPY_LEN, Credential, CredentialError, activation_answer, check_activation, make_credential,
};
use touchstone_verifier::tpm::{Curve, Public};

fn public(file: &str) -> Public {
    Public::from_tpm2b_or_tpmt(&boot_file(file)).unwrap()
}

fn make(ek: &Public, secret: &[u8], entropy: &[u8; CREDENTIAL_ENTROPY_LEN]) -> Result<Credential, CredentialError> {
    let ak = public("good/ak-ecc.pub");
    make_credential(&ek.check_ek().unwrap(), &ak.check_ak().unwrap(), secret, entropy)
}

#[test]
fn secrets_fit_the_hash_of_the_endorsement_key() {
    let entropy = [0x42; CREDENTIAL_ENTROPY_LEN];
    for (ek, longest) in [("ek-rsa", 32), ("ek-ecc", 48)] {
        let ek = public(&format!("good/{ek}.pub"));
        for len in [1, 20, longest] {
            let made = make(&ek, &vec![7; len], &entropy).unwrap();
            // Two bytes of length, the integrity value with its length, the secret with its length.
            assert_eq!(made.credential_blob.len(), 2 + 2 + longest + 2 + len);
            assert!(
                !made
                    .credential_blob
                    .windows(len.max(8))
                    .any(|w| w.iter().all(|&b| b == 7))
            );
        }
        for len in [0, longest + 1, 1000] {
            let error = make(&ek, &vec![7; len], &entropy).unwrap_err();
            assert_eq!(
                error,
                CredentialError::SecretLength {
                    expected: longest,
                    found: len
                }
            );
            assert_eq!(error.code().as_str(), "credential-too-long");
        }
    }
}

#[test]
fn an_endorsement_key_off_its_curve_gets_nothing() {
    let mut bytes = boot_file("good/ek-ecc.pub");
    *bytes.last_mut().unwrap() ^= 1;
    let ek = Public::from_tpm2b_or_tpmt(&bytes).unwrap();
    let error = make(&ek, &[7; 32], &[0x42; CREDENTIAL_ENTROPY_LEN]).unwrap_err();
    assert_eq!(error.code().as_str(), "credential-failed");
}

/// Random bytes that are no scalar are passed over; the rest of the entropy is used.
#[test]
fn ephemeral_scalars_come_from_the_entropy() {
    let ek = public("good/ek-ecc.pub");
    let mut entropy = [0x42; CREDENTIAL_ENTROPY_LEN];
    let first = make(&ek, &[7; 32], &entropy).unwrap();
    assert_eq!(
        make(&ek, &[7; 32], &entropy).unwrap(),
        first,
        "a function of its arguments for ECC keys"
    );
    entropy[0] ^= 1;
    assert_ne!(
        make(&ek, &[7; 32], &entropy).unwrap().encrypted_secret,
        first.encrypted_secret
    );
    // The first candidate is the order of the curve, so the second one is taken: the same as before.
    entropy = [0x42; CREDENTIAL_ENTROPY_LEN];
    entropy[..48].copy_from_slice(Curve::P384.order());
    assert_eq!(make(&ek, &[7; 32], &entropy).unwrap(), first);
    for hopeless in [[0; CREDENTIAL_ENTROPY_LEN], [0xFF; CREDENTIAL_ENTROPY_LEN]] {
        assert_eq!(
            make(&ek, &[7; 32], &hopeless).unwrap_err().code().as_str(),
            "credential-failed"
        );
    }
}

/// Computed with another implementation: Python's hmac and hashlib.
#[test]
fn activation_answer_is_as_written() {
    let answer = activation_answer(&[0x11; 32], b"binder input");
    assert_eq!(
        hex::encode(answer),
        "ba64764d763129427c34a3cdf18716eb56f61ad02f7a6bc2a734df8bf96fabbb"
    );
}

#[test]
fn only_the_right_answer_activates() {
    let (secret, binder) = ([0x11; 32], b"binder input");
    let right = activation_answer(&secret, binder);
    let mut last_bit = right;
    last_bit[31] ^= 1;
    let rows: [(&str, &[u8], bool); 7] = [
        ("right", &right, true),
        ("last bit", &last_bit, false),
        ("the secret itself", &secret, false),
        ("of another binder", &activation_answer(&secret, b"other"), false),
        ("of another secret", &activation_answer(&[0x12; 32], binder), false),
        ("cut short", &right[..31], false),
        ("empty", &[], false),
    ];
    let mut refusals = Vec::new();
    for (attack, answer, ok) in rows {
        let result = check_activation(&secret, binder, answer);
        assert_eq!(result.is_ok(), ok, "{attack}");
        refusals.extend(result.err().map(|e| (e.code(), e.details(), e.to_string())));
    }
    // Every wrong answer gets the same words, and they hold nothing of the secret.
    refusals.dedup();
    assert_eq!(refusals.len(), 1);
    assert!(!format!("{refusals:?}").contains(&hex::encode(secret)));
}
