//! ECDSA signers for the tests: in the product these keys live in TPMs.

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "helpers of tests")]

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair,
};
use touchstone_cose::cbor::{self, Value};
use touchstone_cose::key::{Algorithm, SignError, Signer, SigningKey, VerifyingKey};

/// An ECDSA key made on the spot.
pub struct Ecdsa(EcdsaKeyPair);

impl Ecdsa {
    pub fn p256() -> Ecdsa {
        Self::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
    }

    pub fn p384() -> Ecdsa {
        Self::generate(&ECDSA_P384_SHA384_FIXED_SIGNING)
    }

    fn generate(algorithm: &'static EcdsaSigningAlgorithm) -> Ecdsa {
        Ecdsa(EcdsaKeyPair::generate(algorithm).expect("generates"))
    }

    pub fn verifying_key(&self) -> VerifyingKey {
        let point = &self.0.public_key().as_ref()[1..];
        let (x, y) = point.split_at(point.len() / 2);
        match x.len() {
            32 => VerifyingKey::p256(x.try_into().expect("x"), y.try_into().expect("y")).expect("on the curve"),
            _ => VerifyingKey::p384(x.try_into().expect("x"), y.try_into().expect("y")).expect("on the curve"),
        }
    }
}

impl Signer for Ecdsa {
    fn algorithm(&self) -> Algorithm {
        self.verifying_key().algorithm()
    }

    fn kid(&self) -> [u8; 8] {
        self.verifying_key().kid()
    }

    fn sign(&self, to_be_signed: &[u8]) -> Result<Vec<u8>, SignError> {
        let signature = self.0.sign(&SystemRandom::new(), to_be_signed);
        signature
            .map(|s| s.as_ref().to_vec())
            .map_err(|e| SignError::Device(e.to_string()))
    }
}

/// An Ed25519 key.
pub fn ed25519(seed: u8) -> SigningKey {
    SigningKey::from_seed([seed; 32])
}

/// A COSE_Sign1 put together from parts, whatever they are, signed by `key` over the usual structure.
pub fn forge(key: &SigningKey, protected: &[u8], unprotected: Value, payload: Value) -> Vec<u8> {
    let message = cbor::encode(&Value::array([
        Value::text("Signature1"),
        Value::bytes(protected),
        Value::bytes([]),
        Value::bytes(payload.as_bytes().unwrap_or_default()),
    ]));
    let signature = Value::bytes(key.sign(&message).expect("signs"));
    cbor::encode(&Value::tag(
        18,
        Value::array([Value::bytes(protected), unprotected, payload, signature]),
    ))
}
