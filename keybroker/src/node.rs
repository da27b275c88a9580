//! What the broker keeps of each node: who it is, what it last showed, and which authorization it holds.
//!
//! One endorsement key in one name, one name in one region (`docs/protocol.md`, section 2): each tie is a row of its
//! own that is written once, under a guard that it was absent or unchanged.

use touchstone_authorization::token::StatusIndex;
use touchstone_cose::cbor::{self, CborError, Limits, MapReader, ShapeError, Value};
use touchstone_verifier::inventory::{CertifiedKey, EkId, EnrolledNode};
use touchstone_verifier::tpm::ClockInfo;

use crate::logs::SeenLogs;

/// Largest record, in bytes: an endorsement certificate and an attestation key are the most of it.
pub const MAX_RECORD_BYTES: usize = 32 * 1024;

/// The format of records this release writes. Format 1, which says nothing of logs, is read.
const FORMAT: u64 = 2;
const LIMITS: Limits = Limits {
    max_bytes: MAX_RECORD_BYTES,
    max_depth: 4,
    max_items: 64,
};
const CONTEXT: &str = "node record";
const MAX_NAME: usize = 128;

/// Why bytes are not a node's record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Not the CBOR this release writes.
    #[error("a stored record: {0}")]
    Cbor(#[from] CborError),
    /// Another shape.
    #[error("a stored record: {0}")]
    Shape(#[from] ShapeError),
    /// Written in a format this release does not know.
    #[error("a stored record has format {found}, expected 1 to {expected}")]
    Format {
        /// The format this release writes; it reads every one before.
        expected: u64,
        /// The format found.
        found: u64,
    },
}

/// The authorization a node was granted last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// Its `cti`.
    pub cti: [u8; 16],
    /// Its `exp`, in Unix seconds.
    pub expires: u64,
    /// Digest of its statement.
    pub statement: [u8; 32],
    /// Digest of the record of inputs it was decided on.
    pub inputs: [u8; 32],
}

/// One node, as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    /// Its region when it enrolled.
    pub region: String,
    /// What the verifier is given as an input of each appraisal.
    pub enrolled: EnrolledNode,
    /// The status entry of its lineage; kept through renewals, a new one after a withdrawal.
    pub status: StatusIndex,
    /// Its rights were withdrawn and no good evidence has come since.
    pub withdrawn: bool,
    /// What it was granted last.
    pub granted: Granted,
    /// What has been seen of its logs in the boot in which it was granted that.
    pub logs: Option<SeenLogs>,
}

impl NodeRecord {
    /// The record's bytes: a CBOR map, deterministic.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        cbor::encode(&Value::map([
            (0, Value::Unsigned(FORMAT)),
            (1, Value::text(self.region.as_str())),
            (2, enrolled_value(&self.enrolled)),
            (3, status_value(&self.status)),
            (4, Value::Bool(self.withdrawn)),
            (5, Value::bytes(self.granted.cti)),
            (6, Value::Unsigned(self.granted.expires)),
            (7, Value::bytes(self.granted.statement)),
            (8, Value::bytes(self.granted.inputs)),
            (9, self.logs.as_ref().map_or(Value::Null, SeenLogs::value)),
        ]))
    }

    /// Reads a record; accepts only what [`NodeRecord::encode`] writes.
    ///
    /// # Errors
    /// [`RecordError`]: a malformed record denies that node, and no other.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut reader = MapReader::new(cbor::decode(bytes, LIMITS)?, CONTEXT)?;
        let found = format(&mut reader, FORMAT)?;
        let record = Self {
            region: reader.text(1, MAX_NAME)?,
            enrolled: enrolled(reader.required(2)?)?,
            status: status(reader.required(3)?)?,
            withdrawn: reader.bool(4)?,
            granted: Granted {
                cti: reader.fixed(5)?,
                expires: reader.u64(6)?,
                statement: reader.fixed(7)?,
                inputs: reader.fixed(8)?,
            },
            logs: match found {
                1 => None,
                _ => SeenLogs::read(&reader.required(9)?)?,
            },
        };
        reader.finish()?;
        Ok(record)
    }
}

/// Reads the format number under key 0: `newest`, or one before it.
pub(crate) fn format(reader: &mut MapReader, newest: u64) -> Result<u64, RecordError> {
    match reader.u64(0)? {
        found if (1..=newest).contains(&found) => Ok(found),
        found => Err(RecordError::Format {
            expected: newest,
            found,
        }),
    }
}

/// An enrolled node as CBOR: also a part of the recorded inputs of a decision.
pub(crate) fn enrolled_value(node: &EnrolledNode) -> Value {
    let session_key = node.session_key.as_ref().map_or(Value::Null, |key| {
        Value::array([
            Value::bytes(key.thumbprint),
            Value::bytes(key.name.as_slice()),
            Value::bytes(key.auth_policy),
        ])
    });
    Value::map([
        (0, Value::text(node.name.as_str())),
        (1, Value::bytes(node.ek.0)),
        (2, Value::bytes(node.ak_name.as_slice())),
        (3, Value::bytes(node.ak_public.as_slice())),
        (4, node.ek_certificate.as_deref().map_or(Value::Null, Value::bytes)),
        (5, session_key),
        (
            6,
            Value::array([
                Value::Unsigned(node.clock.clock),
                Value::Unsigned(node.clock.reset_count.into()),
                Value::Unsigned(node.clock.restart_count.into()),
                Value::Bool(node.clock.safe),
            ]),
        ),
    ])
}

/// Reads what [`enrolled_value`] wrote.
pub(crate) fn enrolled(value: Value) -> Result<EnrolledNode, RecordError> {
    const CONTEXT: &str = "enrolled node";
    let mut reader = MapReader::new(value, CONTEXT)?;
    let node = EnrolledNode {
        name: reader.text(0, MAX_NAME)?,
        ek: EkId(reader.fixed(1)?),
        ak_name: reader.bytes(2)?,
        ak_public: reader.bytes(3)?,
        ek_certificate: match reader.required(4)? {
            Value::Null => None,
            Value::Bytes(bytes) => Some(bytes),
            other => return Err(ShapeError::whole(CONTEXT, "bytes or null", &other).into()),
        },
        session_key: match reader.required(5)? {
            Value::Null => None,
            Value::Array(items) => Some(certified(&items)?),
            other => return Err(ShapeError::whole(CONTEXT, "array or null", &other).into()),
        },
        clock: clock(&reader.array(6)?)?,
    };
    reader.finish()?;
    Ok(node)
}

fn certified(items: &[Value]) -> Result<CertifiedKey, ShapeError> {
    let malformed = || ShapeError::member("enrolled node", "key 5", "[32 bytes, bytes, 32 bytes]", "another array");
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
    let malformed = || {
        ShapeError::member(
            "enrolled node",
            "key 6",
            "[clock, resets, restarts, safe]",
            "another array",
        )
    };
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

/// A status entry as CBOR: [list, generation, index].
pub(crate) fn status_value(status: &StatusIndex) -> Value {
    Value::array([status.list.into(), u64::from(status.generation), status.index.into()].map(Value::Unsigned))
}

/// Reads what [`status_value`] wrote.
pub(crate) fn status(value: Value) -> Result<StatusIndex, ShapeError> {
    let malformed = || ShapeError::whole("status entry", "[list, generation, index]", &value);
    let Some([list, generation, index]) = value.as_array() else {
        return Err(malformed());
    };
    Ok(StatusIndex {
        list: list.as_u64().and_then(|n| n.try_into().ok()).ok_or_else(malformed)?,
        generation: generation
            .as_u64()
            .and_then(|n| n.try_into().ok())
            .ok_or_else(malformed)?,
        index: index.as_u64().and_then(|n| n.try_into().ok()).ok_or_else(malformed)?,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn record(name: &str) -> NodeRecord {
        NodeRecord {
            region: "north".into(),
            enrolled: EnrolledNode {
                name: name.into(),
                ek: EkId([1; 32]),
                ak_name: vec![2; 34],
                ak_public: vec![3; 90],
                ek_certificate: Some(vec![4; 900]),
                session_key: Some(CertifiedKey {
                    thumbprint: [5; 32],
                    name: vec![6; 34],
                    auth_policy: [7; 32],
                }),
                clock: ClockInfo {
                    clock: 8,
                    reset_count: 9,
                    restart_count: 10,
                    safe: true,
                },
            },
            status: StatusIndex {
                list: 1,
                generation: 2,
                index: 3,
            },
            withdrawn: false,
            granted: Granted {
                cti: [4; 16],
                expires: 5,
                statement: [6; 32],
                inputs: [7; 32],
            },
            logs: Some(crate::logs::tests::seen()),
        }
    }

    #[test]
    fn records_come_back_as_written() {
        let with = record("a");
        let mut without = record("b");
        without.enrolled.ek_certificate = None;
        without.enrolled.session_key = None;
        without.withdrawn = true;
        without.logs = None;
        for record in [with, without] {
            assert_eq!(NodeRecord::decode(&record.encode()), Ok(record));
        }
    }

    #[test]
    fn broken_records_are_errors() {
        let good = record("a").encode();
        for cut in 0..good.len() {
            assert!(NodeRecord::decode(&good[..cut]).is_err(), "cut at {cut}");
        }
        for found in [0, 3] {
            let mut other = good.clone();
            other[2] = found;
            let found = found.into();
            assert_eq!(
                NodeRecord::decode(&other),
                Err(RecordError::Format { expected: 2, found })
            );
        }
        let mut mixed = good;
        mixed[2] = 1;
        assert!(NodeRecord::decode(&mixed).is_err(), "format 1 has no logs");
    }

    #[test]
    fn records_of_the_release_before_are_read() {
        // The record `a` as that release wrote it, made without this code.
        let fixture = include_bytes!("../fixtures/node-record-1.cbor");
        let expected = NodeRecord {
            logs: None,
            ..record("a")
        };
        assert_eq!(NodeRecord::decode(fixture), Ok(expected));
    }
}
