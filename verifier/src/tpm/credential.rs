//! MakeCredential in software, and the answer that proves an activation.
//!
//! A credential blob can be opened only by the TPM that holds the endorsement key *and* a key with exactly the Name the
//! blob was made for. Answering with the secret inside is therefore the only thing that ties an attestation key to an
//! endorsement key (protocol.md 2).
//!
//! Source: TCG TPM 2.0 Library Part 1, 24 (credential protection) and B.10.4, C.6.4; standards.md C.11.3.

use aws_lc_rs::agreement::{ECDH_P256, ECDH_P384, ECDH_P521, PrivateKey, UnparsedPublicKey, agree};
use aws_lc_rs::cipher::{AES_128, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rsa::{
    OAEP_SHA256_MGF1SHA256, OAEP_SHA384_MGF1SHA384, OAEP_SHA512_MGF1SHA512, OaepPublicEncryptingKey,
    PublicEncryptingKey,
};
use thiserror::Error;

use super::algorithm::{Curve, HashAlg};
use super::checks::CheckedAk;
use super::code::TpmCode;
use super::ek::CheckedEk;
use super::kdf::{kdf_a, kdf_e};
use super::public::KeyParameters;

/// Random bytes that one credential needs: a seed, or two to three candidates for an ephemeral scalar.
pub const CREDENTIAL_ENTROPY_LEN: usize = 96;
/// Length of the secret that the service puts into a credential.
pub const CREDENTIAL_SECRET_LEN: usize = 32;

/// Why no credential was made, or an answer refused. Says nothing about the secret.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// The secret is empty or longer than the digest of the EK's nameAlg.
    #[error("credential: expected 1 to {expected} bytes, found {found}")]
    SecretLength {
        /// Most bytes this endorsement key takes.
        expected: usize,
        /// Length of the secret given.
        found: usize,
    },
    /// The endorsement key is not one that anything can be encrypted to.
    #[error("credential: expected a valid {expected} public key, found one that cannot be used")]
    Key {
        /// The kind of key.
        expected: String,
    },
    /// The answer to the challenge is wrong.
    #[error("activation: the answer is not the one this session expects")]
    Activation,
}

impl CredentialError {
    /// The stable code.
    pub const fn code(&self) -> TpmCode {
        match self {
            CredentialError::SecretLength { .. } => TpmCode::CredentialTooLong,
            CredentialError::Key { .. } => TpmCode::CredentialFailed,
            CredentialError::Activation => TpmCode::ActivationWrong,
        }
    }

    /// What was expected and what was found; constant for a wrong answer, so that it teaches nothing.
    pub fn details(&self) -> (String, String) {
        match self {
            CredentialError::SecretLength { expected, found } => {
                (format!("1 to {expected} bytes"), format!("{found} bytes"))
            }
            CredentialError::Key { expected } => (format!("a valid {expected} public key"), "another".into()),
            CredentialError::Activation => ("the answer of this session".into(), "another".into()),
        }
    }
}

/// What TPM2_ActivateCredential takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// TPM2B_ID_OBJECT, with its length.
    pub credential_blob: Vec<u8>,
    /// TPM2B_ENCRYPTED_SECRET, with its length.
    pub encrypted_secret: Vec<u8>,
}

/// Makes the credential that only the TPM with `ek` can open, and only for the key `ak`.
///
/// The order cannot be got wrong: a [`CheckedAk`] exists only after Name and attributes were checked, a [`CheckedEk`]
/// only after the endorsement key was recognised. The hash is the EK's nameAlg, never the AK's.
///
/// `entropy` must be fresh random bytes, used for nothing else. For an RSA key the crypto library adds randomness of
/// its own for the OAEP padding, so the output is not a function of the arguments alone; it is a challenge, and what is
/// recorded of it is the blob itself.
///
/// # Errors
/// [`CredentialError`].
pub fn make_credential(
    ek: &CheckedEk<'_>,
    ak: &CheckedAk<'_>,
    secret: &[u8],
    entropy: &[u8; CREDENTIAL_ENTROPY_LEN],
) -> Result<Credential, CredentialError> {
    let public = ek.public();
    let hash = public.name_alg;
    let digest_len = hash.digest_len();
    if secret.is_empty() || secret.len() > digest_len {
        return Err(CredentialError::SecretLength {
            expected: digest_len,
            found: secret.len(),
        });
    }
    let unusable = |_: Unspecified| CredentialError::Key {
        expected: public.describe_key(),
    };
    let (seed, encrypted_seed) = match &public.parameters {
        KeyParameters::Rsa { .. } => seed_rsa(ek, hash, entropy).map_err(unusable)?,
        KeyParameters::Ecc { curve, x, .. } => seed_ecc(ek, hash, *curve, x, entropy).map_err(unusable)?,
    };
    let name = ak.name().as_bytes();
    let symmetric_key = kdf_a(
        hash,
        &seed,
        b"STORAGE",
        name,
        b"",
        usize::from(ek.symmetric_key_bits() / 8),
    );
    let mut encrypted_identity = tpm2b(&[secret]);
    encrypt_cfb(&symmetric_key, &mut encrypted_identity).map_err(unusable)?;
    let hmac_key = kdf_a(hash, &seed, b"INTEGRITY", b"", b"", digest_len);
    let mut integrity = hmac::Context::with_key(&hmac::Key::new(hash.hmac(), &hmac_key));
    integrity.update(&encrypted_identity);
    integrity.update(name);
    let integrity = tpm2b(&[integrity.sign().as_ref()]);
    Ok(Credential {
        credential_blob: tpm2b(&[&integrity, &encrypted_identity]),
        encrypted_secret: tpm2b(&[&encrypted_seed]),
    })
}

/// The answer to the challenge: HMAC-SHA256(secret, SHA-256(binder_input)) (protocol.md 2).
///
/// It binds the secret to the session whose quote carries the same binder.
pub fn activation_answer(secret: &[u8], binder_input: &[u8]) -> [u8; 32] {
    let digest = HashAlg::Sha256.digest([binder_input]);
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), digest.as_ref());
    let mut answer = [0; 32];
    answer.copy_from_slice(tag.as_ref());
    answer
}

/// Checks an answer in constant time. The caller allows one try.
///
/// # Errors
/// [`CredentialError::Activation`], the same for every wrong answer.
pub fn check_activation(secret: &[u8], binder_input: &[u8], answer: &[u8]) -> Result<(), CredentialError> {
    let expected = activation_answer(secret, binder_input);
    verify_slices_are_equal(&expected, answer).map_err(|_| CredentialError::Activation)
}

/// A seed of the digest's length, encrypted with RSAES-OAEP under the label `IDENTITY` (with its zero).
fn seed_rsa(ek: &CheckedEk<'_>, hash: HashAlg, entropy: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Unspecified> {
    let oaep = match hash {
        HashAlg::Sha256 => &OAEP_SHA256_MGF1SHA256,
        HashAlg::Sha384 => &OAEP_SHA384_MGF1SHA384,
        HashAlg::Sha512 => &OAEP_SHA512_MGF1SHA512,
        HashAlg::Sha1 => return Err(Unspecified),
    };
    let seed = entropy.get(..hash.digest_len()).ok_or(Unspecified)?.to_vec();
    let key = PublicEncryptingKey::from_der(&ek.public().to_spki_der()).map_err(|_| Unspecified)?;
    let key = OaepPublicEncryptingKey::new(key)?;
    let mut encrypted = vec![0; key.ciphertext_size()];
    let len = key.encrypt(oaep, &seed, &mut encrypted, Some(b"IDENTITY\0"))?.len();
    encrypted.truncate(len);
    Ok((seed, encrypted))
}

/// A seed agreed with an ephemeral key, and that key's point: TPM2B x, TPM2B y.
fn seed_ecc(
    ek: &CheckedEk<'_>,
    hash: HashAlg,
    curve: Curve,
    ek_x: &[u8],
    entropy: &[u8],
) -> Result<(Vec<u8>, Vec<u8>), Unspecified> {
    let algorithm = match curve {
        Curve::P256 => &ECDH_P256,
        Curve::P384 => &ECDH_P384,
        Curve::P521 => &ECDH_P521,
    };
    // A random string is no valid scalar with a probability of 2^-32 on P-256: the next part of the entropy is tried.
    let ephemeral = entropy
        .chunks_exact(curve.field_len())
        .find_map(|scalar| PrivateKey::from_private_key(algorithm, &cut_to_field(curve, scalar)).ok())
        .ok_or(Unspecified)?;
    let point = ephemeral.compute_public_key()?;
    let (x, y) = point
        .as_ref()
        .get(1..)
        .and_then(|xy| xy.split_at_checked(curve.field_len()))
        .ok_or(Unspecified)?;
    let peer = UnparsedPublicKey::new(algorithm, ek.public().subject_key().uncompressed_point());
    let seed = agree(&ephemeral, peer, Unspecified, |z| {
        Ok(kdf_e(hash, z, b"IDENTITY", x, ek_x, hash.digest_len()))
    })?;
    Ok((seed, [tpm2b(&[x]), tpm2b(&[y])].concat()))
}

/// A candidate without the bits above the curve's field: P-521 has 521 bits in 66 bytes.
fn cut_to_field(curve: Curve, scalar: &[u8]) -> Vec<u8> {
    let mut cut = scalar.to_vec();
    if let (Curve::P521, Some(top)) = (curve, cut.first_mut()) {
        *top &= 0x01;
    }
    cut
}

/// AES-CFB with a zero IV, in place.
fn encrypt_cfb(key: &[u8], in_out: &mut [u8]) -> Result<(), Unspecified> {
    let algorithm = if key.len() == 16 { &AES_128 } else { &AES_256 };
    let key = EncryptingKey::cfb128(UnboundCipherKey::new(algorithm, key)?)?;
    // The key is used once: a fixed IV is what the TPM expects and is safe.
    key.less_safe_encrypt(in_out, EncryptionContext::Iv128(FixedLength::from([0; 16])))?;
    Ok(())
}

/// A TPM2B of `parts` joined; never longer than a key or digest is, so the length fits.
fn tpm2b(parts: &[&[u8]]) -> Vec<u8> {
    let len: usize = parts.iter().map(|p| p.len()).sum();
    let mut out = (len as u16).to_be_bytes().to_vec();
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}
