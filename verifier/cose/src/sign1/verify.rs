//! Reading a COSE_Sign1 of our profile: untrusted until [`Unverified::verify`] has said otherwise.

use super::{CoseError, Parts, find, label, to_be_signed};
use crate::cbor::{self, Limits, MapReader, ShapeError, Value};
use crate::key::{Algorithm, KID_LEN, VerifyingKey};

/// A well-formed COSE_Sign1 of our profile whose signature nobody has checked. It shows only what is needed to find
/// the key; the payload comes out of [`Verified`] alone.
pub struct Unverified {
    protected_bytes: Vec<u8>,
    algorithm: Algorithm,
    kid: [u8; KID_LEN],
    typ: Option<String>,
    content_type: Option<String>,
    extra: Vec<(Value, Value)>,
    unprotected: Vec<(Value, Value)>,
    payload: Option<Vec<u8>>,
    signature: Vec<u8>,
}

impl std::fmt::Debug for Unverified {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unverified")
            .field("kid", &self.kid)
            .field("typ", &self.typ)
            .finish_non_exhaustive()
    }
}

impl Unverified {
    /// Reads an object whose unprotected bucket is empty.
    ///
    /// # Errors
    /// See [`CoseError`].
    pub fn parse(input: &[u8], limits: Limits) -> Result<Unverified, CoseError> {
        Self::parse_with_unprotected(input, limits, &[])
    }

    /// Reads an object whose unprotected bucket may hold the labels in `allowed` (receipts and proofs: they carry
    /// their own signature or are checked against what is signed).
    ///
    /// # Errors
    /// See [`CoseError`].
    pub fn parse_with_unprotected(input: &[u8], limits: Limits, allowed: &[i64]) -> Result<Unverified, CoseError> {
        let parts = Parts::split(input, limits, cbor::decode)?;
        let unexpected = parts
            .unprotected
            .iter()
            .find(|(k, _)| !k.as_i64().is_some_and(|k| allowed.contains(&k)));
        if let Some((found, _)) = unexpected {
            return Err(CoseError::Unprotected { found: found.kind() });
        }
        let mut header = MapReader::new(Value::Map(parts.protected), "protected header")?;
        let alg = header.required(label::ALG)?;
        let algorithm = alg.as_i64().and_then(Algorithm::from_id).filter(|a| !a.is_legacy());
        let algorithm = algorithm.ok_or_else(|| CoseError::Algorithm { found: alg.kind() })?;
        let kid = header.fixed(label::KID)?;
        let typ = optional_text(header.optional(label::TYP), "key 16")?;
        let content_type = optional_text(header.optional(label::CONTENT_TYPE), "key 3")?;
        Ok(Unverified {
            protected_bytes: parts.protected_bytes,
            algorithm,
            kid,
            typ,
            content_type,
            extra: header.rest(),
            unprotected: parts.unprotected,
            payload: parts.payload,
            signature: parts.signature,
        })
    }

    /// The id of the key that the object claims to be signed with.
    pub fn kid(&self) -> [u8; KID_LEN] {
        self.kid
    }

    /// What kind of object it claims to be.
    pub fn typ(&self) -> Option<&str> {
        self.typ.as_deref()
    }

    /// The algorithm it claims to be signed with.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Checks algorithm, key id, type and signature, in this order, over the bytes received.
    ///
    /// # Errors
    /// The first of them that does not hold, or a detached payload.
    pub fn verify(
        mut self,
        key: &VerifyingKey,
        expected_typ: &str,
        external_aad: &[u8],
    ) -> Result<Verified, CoseError> {
        let payload = self.payload.take().ok_or(CoseError::Payload {
            expected: "an attached",
        })?;
        self.check(key, Some(expected_typ), external_aad, payload)
    }

    /// As [`Unverified::verify`], for an object whose payload travels elsewhere.
    ///
    /// # Errors
    /// As [`Unverified::verify`], or an attached payload.
    pub fn verify_detached(
        self,
        key: &VerifyingKey,
        expected_typ: &str,
        external_aad: &[u8],
        payload: Vec<u8>,
    ) -> Result<Verified, CoseError> {
        self.require_detached()?;
        self.check(key, Some(expected_typ), external_aad, payload)
    }

    /// As [`Unverified::verify_detached`], for the one standard object of ours that has no typ: a receipt.
    pub(crate) fn verify_detached_untyped(self, key: &VerifyingKey, payload: Vec<u8>) -> Result<Verified, CoseError> {
        self.require_detached()?;
        self.check(key, None, &[], payload)
    }

    pub(crate) fn extra_entries(&self) -> &[(Value, Value)] {
        &self.extra
    }

    pub(crate) fn unprotected(&self, label: i64) -> Option<&Value> {
        find(&self.unprotected, label)
    }

    fn require_detached(&self) -> Result<(), CoseError> {
        match self.payload {
            None => Ok(()),
            Some(_) => Err(CoseError::Payload { expected: "a detached" }),
        }
    }

    fn check(
        self,
        key: &VerifyingKey,
        expected_typ: Option<&str>,
        external_aad: &[u8],
        payload: Vec<u8>,
    ) -> Result<Verified, CoseError> {
        if self.algorithm != key.algorithm() {
            return Err(CoseError::AlgorithmMismatch {
                expected: key.algorithm().id(),
                found: self.algorithm.id(),
            });
        }
        let expected = key.kid();
        if self.kid != expected {
            return Err(CoseError::KidMismatch {
                expected: expected.to_vec(),
                found: self.kid.to_vec(),
            });
        }
        if self.typ.as_deref() != expected_typ {
            return Err(CoseError::TypeMismatch {
                expected: expected_typ.unwrap_or("none").to_owned(),
                found: self.typ.unwrap_or_else(|| "none".to_owned()),
            });
        }
        key.verify(
            &to_be_signed(&self.protected_bytes, external_aad, &payload),
            &self.signature,
        )?;
        Ok(Verified {
            payload,
            kid: self.kid,
            content_type: self.content_type,
            extra: self.extra,
            unprotected: self.unprotected,
        })
    }
}

fn optional_text(value: Option<Value>, key: &str) -> Result<Option<String>, ShapeError> {
    match value {
        None => Ok(None),
        Some(Value::Text(text)) => Ok(Some(text)),
        Some(other) => Err(ShapeError::member("protected header", key, "text", other.kind())),
    }
}

/// What a signature was found to be good for. Only the verifying functions make one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    payload: Vec<u8>,
    kid: [u8; KID_LEN],
    content_type: Option<String>,
    extra: Vec<(Value, Value)>,
    unprotected: Vec<(Value, Value)>,
}

impl Verified {
    /// The signed payload.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The signed payload, taken out.
    pub fn into_payload(self) -> Vec<u8> {
        self.payload
    }

    /// The id of the key that signed.
    pub fn kid(&self) -> [u8; KID_LEN] {
        self.kid
    }

    /// The signed content type (label 3).
    pub fn content_type(&self) -> Option<&str> {
        self.content_type.as_deref()
    }

    /// A further signed header.
    pub fn extra(&self, label: i64) -> Option<&Value> {
        find(&self.extra, label)
    }

    /// How many further signed headers there are, for readers that allow none, or exactly some.
    pub fn extra_len(&self) -> usize {
        self.extra.len()
    }

    /// An unprotected header that the reader had allowed. It is *not* signed.
    pub fn unprotected(&self, label: i64) -> Option<&Value> {
        find(&self.unprotected, label)
    }
}
