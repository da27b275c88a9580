//! COSE_Sign1 objects that others define and sign: CoRIM, status lists and EARs of other makers.
//!
//! COSE leaves them more freedom: map keys in any order, key ids of any form, unprotected headers, the legacy
//! algorithm identifiers. What stays: one reading only (no key twice, shortest forms, no label in both buckets), the
//! algorithm in the signed header, no critical headers, and that the *caller* brings the key.

use super::{CoseError, Parts, find, label, to_be_signed};
use crate::cbor::{self, Limits, ShapeError, Value};
use crate::key::{Algorithm, VerifyingKey};

/// Most certificates in an x5chain.
pub const MAX_CHAIN: usize = 8;

/// A well-formed COSE_Sign1 of another maker whose signature nobody has checked.
pub struct ThirdParty {
    parts: Parts,
    algorithm: Algorithm,
}

impl std::fmt::Debug for ThirdParty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ThirdParty")
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

impl ThirdParty {
    /// Reads a tagged COSE_Sign1 with its payload inside.
    ///
    /// # Errors
    /// See [`CoseError`].
    pub fn parse(input: &[u8], limits: Limits) -> Result<ThirdParty, CoseError> {
        let parts = Parts::split(input, limits, cbor::decode_lenient_order)?;
        let alg = find(&parts.protected, label::ALG);
        let algorithm = alg.and_then(Value::as_i64).and_then(Algorithm::from_id);
        let found = || alg.map_or_else(|| "none".to_owned(), Value::kind);
        let algorithm = algorithm.ok_or_else(|| CoseError::Algorithm { found: found() })?;
        if parts.payload.is_none() {
            return Err(CoseError::Payload {
                expected: "an attached",
            });
        }
        Ok(ThirdParty { parts, algorithm })
    }

    /// The algorithm in the protected header.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The key id, from whichever bucket has it: a hint for finding the key, no more.
    pub fn kid(&self) -> Option<&[u8]> {
        self.either(label::KID).and_then(Value::as_bytes)
    }

    /// The certificate chain (label 33, RFC 9360), leaf first, from whichever bucket has it: a claim, until it is
    /// checked against trust anchors.
    ///
    /// # Errors
    /// Not a certificate or an array of at most [`MAX_CHAIN`] of them.
    pub fn x5chain(&self) -> Result<Vec<&[u8]>, ShapeError> {
        let wrong = |found: &Value| {
            let expected = format!("certificate, or array of 1 to {MAX_CHAIN}");
            ShapeError::member("COSE header", "key 33", expected, found.kind())
        };
        match self.either(label::X5CHAIN) {
            None => Ok(Vec::new()),
            Some(Value::Bytes(one)) => Ok(vec![one]),
            Some(Value::Array(many)) if (1..=MAX_CHAIN).contains(&many.len()) => {
                many.iter().map(|c| c.as_bytes().ok_or_else(|| wrong(c))).collect()
            }
            Some(other) => Err(wrong(other)),
        }
    }

    /// Checks that the signed content type (label 3) is exactly `expected_content_type`, and the signature under `key`.
    ///
    /// # Errors
    /// See [`CoseError`].
    pub fn verify_third_party(
        self,
        key: &VerifyingKey,
        expected_content_type: &str,
        external_aad: &[u8],
    ) -> Result<VerifiedThirdParty, CoseError> {
        self.verify_labelled(key, label::CONTENT_TYPE, expected_content_type, external_aad)
    }

    /// As [`ThirdParty::verify_third_party`], for formats that say what they are by typ (label 16, RFC 9596).
    ///
    /// # Errors
    /// See [`CoseError`].
    pub fn verify_third_party_typ(
        self,
        key: &VerifyingKey,
        expected_typ: &str,
        external_aad: &[u8],
    ) -> Result<VerifiedThirdParty, CoseError> {
        self.verify_labelled(key, label::TYP, expected_typ, external_aad)
    }

    fn verify_labelled(
        self,
        key: &VerifyingKey,
        label: i64,
        expected: &str,
        external_aad: &[u8],
    ) -> Result<VerifiedThirdParty, CoseError> {
        let found = find(&self.parts.protected, label);
        if found.and_then(Value::as_text) != Some(expected) {
            let found = found.map_or_else(
                || "none".to_owned(),
                |v| v.as_text().map_or_else(|| v.kind(), str::to_owned),
            );
            let expected = expected.to_owned();
            return Err(match label {
                label::TYP => CoseError::TypeMismatch { expected, found },
                _ => CoseError::ContentTypeMismatch { expected, found },
            });
        }
        let Parts {
            protected_bytes,
            protected,
            payload,
            signature,
            ..
        } = self.parts;
        let payload = payload.ok_or(CoseError::Payload {
            expected: "an attached",
        })?;
        let message = to_be_signed(&protected_bytes, external_aad, &payload);
        key.verify_third_party(self.algorithm, &message, &signature)?;
        Ok(VerifiedThirdParty { payload, protected })
    }

    fn either(&self, label: i64) -> Option<&Value> {
        find(&self.parts.protected, label).or_else(|| find(&self.parts.unprotected, label))
    }
}

/// What another maker's signature was found to be good for. Unprotected headers are gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedThirdParty {
    payload: Vec<u8>,
    protected: Vec<(Value, Value)>,
}

impl VerifiedThirdParty {
    /// The signed payload.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The signed payload, taken out.
    pub fn into_payload(self) -> Vec<u8> {
        self.payload
    }

    /// A signed header.
    pub fn protected(&self, label: i64) -> Option<&Value> {
        find(&self.protected, label)
    }
}
