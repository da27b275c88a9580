//! Making signatures: the trait, and the software key that implements it.

use ed25519_dalek::Signer as _;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey, KeypairBytes};
use zeroize::Zeroizing;

use super::{Algorithm, KID_LEN, KeyError, VerifyingKey};
use crate::code::Code;

/// Why nothing was signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The device or service that holds the key refused or failed.
    #[error("the signing key could not sign: {0}")]
    Device(String),
    /// A header label that the signing function sets itself, or one given twice.
    #[error("header label {0} is set by the signing function, or given twice")]
    Label(i64),
    /// A signature of another length than the algorithm makes.
    #[error("the signing key made {found} bytes, {expected} are expected")]
    Length {
        /// What the algorithm makes.
        expected: usize,
        /// What came.
        found: usize,
    },
    /// An algorithm identifier that we verify but never emit.
    #[error("{0:?} is never signed with")]
    Legacy(Algorithm),
}

impl SignError {
    /// The stable code of this refusal.
    pub const fn code(&self) -> Code {
        Code::SigningFailed
    }
}

/// A private key that signs for us: in memory, or in a TPM.
pub trait Signer {
    /// The algorithm of the key, never a legacy one.
    fn algorithm(&self) -> Algorithm;

    /// The key id: see [`VerifyingKey::kid`].
    fn kid(&self) -> [u8; KID_LEN];

    /// Signs `to_be_signed`: 64 bytes of Ed25519, or fixed-width r || s of ECDSA over its hash.
    ///
    /// # Errors
    /// The device refused or failed.
    fn sign(&self, to_be_signed: &[u8]) -> Result<Vec<u8>, SignError>;
}

/// An Ed25519 private key in memory, wiped when dropped.
pub struct SigningKey {
    key: ed25519_dalek::SigningKey,
    kid: [u8; KID_LEN],
}

impl SigningKey {
    /// The key with this seed (RFC 8032 section 5.1.5).
    pub fn from_seed(seed: [u8; 32]) -> SigningKey {
        let seed = Zeroizing::new(seed);
        Self::new(ed25519_dalek::SigningKey::from_bytes(&seed))
    }

    /// Reads a PKCS#8 PEM file (RFC 8410), with or without the public key in it.
    ///
    /// # Errors
    /// Not such a file; nothing of its contents is in the error.
    pub fn from_pkcs8_pem(pem: &str) -> Result<SigningKey, KeyError> {
        let key = ed25519_dalek::SigningKey::from_pkcs8_pem(pem).map_err(|_| KeyError::PrivateKeyFile)?;
        Ok(Self::new(key))
    }

    /// The key as a PKCS#8 version 1 PEM file, which every tool reads (version 2, with the public key, not all do).
    ///
    /// # Errors
    /// The encoder failed.
    pub fn to_pkcs8_pem(&self) -> Result<Zeroizing<String>, KeyError> {
        let pair = KeypairBytes {
            secret_key: self.key.to_bytes(),
            public_key: None,
        };
        pair.to_pkcs8_pem(LineEnding::LF).map_err(|_| KeyError::PrivateKeyFile)
    }

    /// The public half.
    pub fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey::Ed25519(self.key.verifying_key().to_bytes())
    }

    fn new(key: ed25519_dalek::SigningKey) -> SigningKey {
        let kid = VerifyingKey::Ed25519(key.verifying_key().to_bytes()).kid();
        SigningKey { key, kid }
    }
}

impl std::fmt::Debug for SigningKey {
    /// Shows the public key id only.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey")
            .field("kid", &self.kid)
            .finish_non_exhaustive()
    }
}

impl Signer for SigningKey {
    fn algorithm(&self) -> Algorithm {
        Algorithm::Ed25519
    }

    fn kid(&self) -> [u8; KID_LEN] {
        self.kid
    }

    fn sign(&self, to_be_signed: &[u8]) -> Result<Vec<u8>, SignError> {
        let signature = self
            .key
            .try_sign(to_be_signed)
            .map_err(|e| SignError::Device(e.to_string()))?;
        Ok(signature.to_bytes().to_vec())
    }
}
