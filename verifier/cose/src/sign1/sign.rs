//! Making a COSE_Sign1 of our profile.

use super::{TAG, label, to_be_signed};
use crate::cbor::{self, Value};
use crate::key::{SignError, Signer};

/// What goes into the protected header beside alg and kid, which the signer provides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Protected {
    /// typ, label 16 (RFC 9596): mandatory in every object of ours; `None` only for formats of others.
    pub typ: Option<String>,
    /// Content type, label 3.
    pub content_type: Option<String>,
    /// Further labels; 1, 2, 3, 4 and 16 are not among them.
    pub extra: Vec<(i64, Value)>,
}

impl Protected {
    /// The header of an object of ours: typ alone.
    pub fn typ(typ: impl Into<String>) -> Protected {
        Protected {
            typ: Some(typ.into()),
            ..Protected::default()
        }
    }

    pub(crate) fn encode(&self, signer: &dyn Signer) -> Result<Vec<u8>, SignError> {
        const SET_HERE: [i64; 5] = [label::ALG, label::CRIT, label::CONTENT_TYPE, label::KID, label::TYP];
        let algorithm = signer.algorithm();
        if algorithm.is_legacy() {
            return Err(SignError::Legacy(algorithm));
        }
        let mut entries = vec![
            (label::ALG, Value::int(algorithm.id())),
            (label::KID, Value::from(signer.kid())),
        ];
        entries.extend(
            self.content_type
                .iter()
                .map(|t| (label::CONTENT_TYPE, Value::text(t.as_str()))),
        );
        entries.extend(self.typ.iter().map(|t| (label::TYP, Value::text(t.as_str()))));
        for (at, (key, value)) in self.extra.iter().enumerate() {
            let twice = self.extra.iter().take(at).any(|(k, _)| k == key);
            if twice || SET_HERE.contains(key) {
                return Err(SignError::Label(*key));
            }
            entries.push((*key, value.clone()));
        }
        Ok(cbor::encode(&Value::map(entries)))
    }
}

/// Signs `payload` and puts it inside.
///
/// # Errors
/// The signer failed, or `protected.extra` has a label that is set here.
pub fn sign(
    signer: &dyn Signer,
    protected: &Protected,
    payload: &[u8],
    external_aad: &[u8],
) -> Result<Vec<u8>, SignError> {
    let (header, signature) = header_and_signature(signer, protected, payload, external_aad)?;
    Ok(assemble(&header, &[], Some(payload), &signature))
}

/// Signs `payload` without putting it inside: who verifies brings it along.
///
/// # Errors
/// As [`sign`].
pub fn sign_detached(
    signer: &dyn Signer,
    protected: &Protected,
    payload: &[u8],
    external_aad: &[u8],
) -> Result<Vec<u8>, SignError> {
    let (header, signature) = header_and_signature(signer, protected, payload, external_aad)?;
    Ok(assemble(&header, &[], None, &signature))
}

/// The encoded protected header, and the signature over it and `payload`.
pub(crate) fn header_and_signature(
    signer: &dyn Signer,
    protected: &Protected,
    payload: &[u8],
    external_aad: &[u8],
) -> Result<(Vec<u8>, Vec<u8>), SignError> {
    let header = protected.encode(signer)?;
    let signature = signer.sign(&to_be_signed(&header, external_aad, payload))?;
    let expected = signer.algorithm().signature_len();
    if signature.len() != expected {
        return Err(SignError::Length {
            expected,
            found: signature.len(),
        });
    }
    Ok((header, signature))
}

/// The tagged object. `unprotected` is in deterministic order already.
pub(crate) fn assemble(
    protected: &[u8],
    unprotected: &[(i64, &[u8])],
    payload: Option<&[u8]>,
    signature: &[u8],
) -> Vec<u8> {
    let size = protected.len() + payload.map_or(0, <[u8]>::len) + signature.len() + 64;
    let mut out = Vec::with_capacity(size);
    cbor::write_head(&mut out, cbor::major::TAG, TAG);
    cbor::write_head(&mut out, cbor::major::ARRAY, 4);
    cbor::write_bytes(&mut out, protected);
    cbor::write_head(&mut out, cbor::major::MAP, unprotected.len() as u64);
    for (key, encoded_value) in unprotected {
        out.extend_from_slice(&cbor::encode(&Value::int(*key)));
        out.extend_from_slice(encoded_value);
    }
    match payload {
        Some(payload) => cbor::write_bytes(&mut out, payload),
        None => out.extend_from_slice(&cbor::encode(&Value::Null)),
    }
    cbor::write_bytes(&mut out, signature);
    out
}
