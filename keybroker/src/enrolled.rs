//! An enrolled node as CBOR: a part of its record and of the recorded inputs of every decision about it.
//!
//! A map. Key 0 is the name. A TPM: 1 endorsement key, 2 TPM Name and 3 TPMT_PUBLIC of the attestation key, 4 endorsement
//! certificate or null, 5 session key [thumbprint, Name, authPolicy] or null, 6 clock [milliseconds, resets, restarts,
//! safe], 8 receive key as 5, absent where there is none. A confidential VM: 7 [kind, digest of its identity]. One of the two, never both.

use touchstone_cose::cbor::{MapReader, ShapeError, Value};
use touchstone_verifier::inventory::{
    CertifiedKey, CvmKind, EkId, EnrolledCvm, EnrolledNode, EnrolledRoot, EnrolledTpm,
};
use touchstone_verifier::tpm::ClockInfo;

use crate::node::RecordError;

const CONTEXT: &str = "enrolled node";
const MAX_NAME: usize = 128;

/// The first format of records, of nodes and of inputs alike, in which a node may be a confidential VM.
pub(crate) const CVM_FORMAT: u64 = 3;

/// The node as CBOR.
pub(crate) fn value(node: &EnrolledNode) -> Value {
    let name = (0, Value::text(node.name.as_str()));
    match &node.root {
        EnrolledRoot::Tpm(tpm) => {
            let session_key = node.session_key.as_ref().map_or(Value::Null, key_value);
            let receive_key = tpm.receive_key.as_ref().map(|key| (8, key_value(key)));
            let clock = Value::array([
                Value::Unsigned(tpm.clock.clock),
                Value::Unsigned(tpm.clock.reset_count.into()),
                Value::Unsigned(tpm.clock.restart_count.into()),
                Value::Bool(tpm.clock.safe),
            ]);
            let members = [
                name,
                (1, Value::bytes(tpm.ek.0)),
                (2, Value::bytes(tpm.ak_name.as_slice())),
                (3, Value::bytes(tpm.ak_public.as_slice())),
                (4, tpm.ek_certificate.as_deref().map_or(Value::Null, Value::bytes)),
                (5, session_key),
                (6, clock),
            ];
            Value::map(members.into_iter().chain(receive_key))
        }
        EnrolledRoot::Cvm(cvm) => Value::map([
            name,
            (
                7,
                Value::array([Value::text(cvm.kind.as_str()), Value::bytes(cvm.identity)]),
            ),
        ]),
    }
}

fn key_value(key: &CertifiedKey) -> Value {
    Value::array([
        Value::bytes(key.thumbprint),
        Value::bytes(key.name.as_slice()),
        Value::bytes(key.auth_policy),
    ])
}

/// Reads what [`value`] wrote into a record of this format.
pub(crate) fn read(value: Value, format: u64) -> Result<EnrolledNode, RecordError> {
    let mut reader = MapReader::new(value, CONTEXT)?;
    let name = reader.text(0, MAX_NAME)?;
    let node = match reader.optional(7) {
        Some(value) if format >= CVM_FORMAT => EnrolledNode {
            name,
            root: EnrolledRoot::Cvm(cvm(&value)?),
            session_key: None,
        },
        Some(_) => return Err(ShapeError::member(CONTEXT, "key 7", "nothing in this format", "a value").into()),
        None => {
            let tpm = EnrolledTpm {
                ek: EkId(reader.fixed(1)?),
                ak_name: reader.bytes(2)?,
                ak_public: reader.bytes(3)?,
                ek_certificate: match reader.required(4)? {
                    Value::Null => None,
                    Value::Bytes(bytes) => Some(bytes),
                    other => return Err(ShapeError::whole(CONTEXT, "bytes or null", &other).into()),
                },
                receive_key: match reader.optional(8) {
                    None => None,
                    Some(Value::Array(items)) => Some(certified(&items)?),
                    Some(other) => return Err(ShapeError::whole(CONTEXT, "array", &other).into()),
                },
                clock: clock(&reader.array(6)?)?,
            };
            EnrolledNode {
                name,
                root: EnrolledRoot::Tpm(tpm),
                session_key: match reader.required(5)? {
                    Value::Null => None,
                    Value::Array(items) => Some(certified(&items)?),
                    other => return Err(ShapeError::whole(CONTEXT, "array or null", &other).into()),
                },
            }
        }
    };
    reader.finish()?;
    Ok(node)
}

fn cvm(value: &Value) -> Result<EnrolledCvm, ShapeError> {
    let malformed = || ShapeError::member(CONTEXT, "key 7", "[kind, 32 bytes]", value.kind());
    let Some([kind, identity]) = value.as_array() else {
        return Err(malformed());
    };
    Ok(EnrolledCvm {
        kind: kind.as_text().and_then(CvmKind::parse).ok_or_else(malformed)?,
        identity: identity
            .as_bytes()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(malformed)?,
    })
}

fn certified(items: &[Value]) -> Result<CertifiedKey, ShapeError> {
    let malformed = || ShapeError::member(CONTEXT, "key 5 or 8", "[32 bytes, bytes, 32 bytes]", "another array");
    let [thumbprint, name, auth_policy] = items else {
        return Err(malformed());
    };
    let fixed = |value: &Value| value.as_bytes().and_then(|b| b.try_into().ok());
    Ok(CertifiedKey {
        thumbprint: fixed(thumbprint).ok_or_else(malformed)?,
        name: name.as_bytes().ok_or_else(malformed)?.to_vec(),
        auth_policy: fixed(auth_policy).ok_or_else(malformed)?,
    })
}

fn clock(items: &[Value]) -> Result<ClockInfo, ShapeError> {
    let malformed = || ShapeError::member(CONTEXT, "key 6", "[clock, resets, restarts, safe]", "another array");
    let [clock, resets, restarts, safe] = items else {
        return Err(malformed());
    };
    let count = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok());
    Ok(ClockInfo {
        clock: clock.as_u64().ok_or_else(malformed)?,
        reset_count: count(resets).ok_or_else(malformed)?,
        restart_count: count(restarts).ok_or_else(malformed)?,
        safe: safe.as_bool().ok_or_else(malformed)?,
    })
}
