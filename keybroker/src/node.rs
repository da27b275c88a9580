//! What the broker keeps of each node: who it is, what it last showed, and which authorization it holds.
//!
//! One endorsement key in one name, one name in one region (`docs/protocol.md`, section 2): each tie is a row of its
//! own that is written once, under a guard that it was absent or unchanged.

use touchstone_authorization::token::StatusIndex;
use touchstone_cose::cbor::{self, CborError, Limits, MapReader, ShapeError, Value};
use touchstone_verifier::inventory::EnrolledNode;

use crate::enrolled;
use crate::first_use::FirstUse;
use crate::logs::SeenLogs;

/// Largest record, in bytes: an endorsement certificate and an attestation key are the most of it.
pub const MAX_RECORD_BYTES: usize = 32 * 1024;

/// The format of records this release writes. Format 1, which says nothing of logs, is read, format 2, in which every node
/// has a TPM, and format 3, in which every node is listed.
const FORMAT: u64 = 4;
/// The first format in which a node may have enrolled on first use.
const FIRST_USE_FORMAT: u64 = 4;
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
    /// Set where no entry of the inventory listed it when it was granted that.
    pub first_use: Option<FirstUse>,
}

impl NodeRecord {
    /// The record's bytes: a CBOR map, deterministic.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        cbor::encode(&Value::map([
            (0, Value::Unsigned(FORMAT)),
            (1, Value::text(self.region.as_str())),
            (2, enrolled::value(&self.enrolled)),
            (3, status_value(&self.status)),
            (4, Value::Bool(self.withdrawn)),
            (5, Value::bytes(self.granted.cti)),
            (6, Value::Unsigned(self.granted.expires)),
            (7, Value::bytes(self.granted.statement)),
            (8, Value::bytes(self.granted.inputs)),
            (9, self.logs.as_ref().map_or(Value::Null, SeenLogs::value)),
            (10, self.first_use.as_ref().map_or(Value::Null, FirstUse::value)),
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
            enrolled: enrolled::read(reader.required(2)?, found)?,
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
            first_use: match found {
                ..FIRST_USE_FORMAT => None,
                _ => match reader.required(10)? {
                    Value::Null => None,
                    value => Some(FirstUse::read(&value)?),
                },
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
    use touchstone_verifier::inventory::{CertifiedKey, CvmKind, EkId, EnrolledCvm, EnrolledRoot, EnrolledTpm};
    use touchstone_verifier::tpm::ClockInfo;

    use super::*;

    /// The TPM of a record made here.
    pub(crate) fn tpm(record: &mut NodeRecord) -> &mut EnrolledTpm {
        match &mut record.enrolled.root {
            EnrolledRoot::Tpm(tpm) => tpm,
            EnrolledRoot::Cvm(_) => panic!("a confidential VM"),
        }
    }

    pub(crate) fn cvm_record(name: &str, identity: [u8; 32]) -> NodeRecord {
        let mut record = record(name);
        record.enrolled.root = EnrolledRoot::Cvm(EnrolledCvm {
            kind: CvmKind::Snp,
            identity,
        });
        record.enrolled.session_key = None;
        record.logs = None;
        record
    }

    pub(crate) fn record(name: &str) -> NodeRecord {
        NodeRecord {
            region: "north".into(),
            enrolled: EnrolledNode {
                name: name.into(),
                root: EnrolledRoot::Tpm(EnrolledTpm {
                    ek: EkId([1; 32]),
                    ak_name: vec![2; 34],
                    ak_public: vec![3; 90],
                    ek_certificate: Some(vec![4; 900]),
                    receive_key: None,
                    clock: ClockInfo {
                        clock: 8,
                        reset_count: 9,
                        restart_count: 10,
                        safe: true,
                    },
                }),
                session_key: Some(CertifiedKey {
                    thumbprint: [5; 32],
                    name: vec![6; 34],
                    auth_policy: [7; 32],
                }),
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
            first_use: None,
        }
    }

    #[test]
    fn records_come_back_as_written() {
        let with = record("a");
        let mut without = record("b");
        tpm(&mut without).ek_certificate = None;
        without.enrolled.session_key = None;
        without.withdrawn = true;
        without.logs = None;
        let mut receiving = record("d");
        tpm(&mut receiving).receive_key = Some(CertifiedKey {
            thumbprint: [11; 32],
            name: vec![12; 34],
            auth_policy: [13; 32],
        });
        let mut unlisted = record("e");
        unlisted.first_use = Some(FirstUse {
            ek: EkId([1; 32]),
            since: 1_700_000_000,
            number: 3,
        });
        for record in [with, without, receiving, unlisted, cvm_record("c", [9; 32])] {
            assert_eq!(NodeRecord::decode(&record.encode()), Ok(record));
        }
    }

    #[test]
    fn broken_records_are_errors() {
        let good = record("a").encode();
        for cut in 0..good.len() {
            assert!(NodeRecord::decode(&good[..cut]).is_err(), "cut at {cut}");
        }
        for found in [0, 5] {
            let mut other = good.clone();
            other[2] = found;
            let found = found.into();
            assert_eq!(
                NodeRecord::decode(&other),
                Err(RecordError::Format { expected: 4, found })
            );
        }
        let mut mixed = good;
        mixed[2] = 1;
        assert!(NodeRecord::decode(&mixed).is_err(), "format 1 has no logs");
        let mut early = cvm_record("c", [9; 32]).encode();
        early[2] = 2;
        assert!(NodeRecord::decode(&early).is_err(), "format 2 has no confidential VMs");
    }

    #[test]
    fn records_of_earlier_releases_are_read() {
        // The record `a` as those releases wrote it, made without this code.
        let first = include_bytes!("../fixtures/node-record-1.cbor");
        let without_logs = NodeRecord {
            logs: None,
            ..record("a")
        };
        assert_eq!(NodeRecord::decode(first), Ok(without_logs));
        let second = include_bytes!("../fixtures/node-record-2.cbor");
        assert_eq!(NodeRecord::decode(second), Ok(record("a")));
    }
}
