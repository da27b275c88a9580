//! A decision as it was recorded, everything of it in one file, and the same decision made again.

use touchstone_cose::cbor::{self, CborError, Limits, MapReader, ShapeError, Value};
use touchstone_cose::key::VerifyingKey;
use touchstone_ledger::statement::{Outcome, Statement, StatementError, VerifiedStatement};
use touchstone_policies::PolicySet;
use touchstone_store::Store;

use crate::decision::{Decision, DecisionError, decide};
use crate::federation::decide::{ForeignInputs, ForeignInputsError};
use crate::inputs::{DecisionInputs, InputsError};
use crate::log::{self, LogError};
use crate::parts;
use crate::release::inputs::{ReleaseInputs, ReleaseInputsError};
use crate::rows;
use crate::workload::inputs::{WorkloadInputs, WorkloadInputsError};

/// Largest record file, in bytes: evidence at its limit, with what was kept of an IMA list before it.
pub const MAX_RECORD_BYTES: usize = 64 * 1024 * 1024;

const LIMITS: Limits = Limits {
    max_bytes: MAX_RECORD_BYTES,
    max_depth: 3,
    max_items: 256,
};
const CONTEXT: &str = "decision record";

/// A recorded decision: where it stands in the ledger, what was said, and what it rested on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecisionRecord {
    /// Index of the statement.
    pub index: u64,
    /// The signed statement.
    pub statement: Vec<u8>,
    /// The record of inputs ([`RecordedDecision`]).
    pub inputs: Vec<u8>,
    /// The parts that it names by digest.
    pub parts: Vec<Vec<u8>>,
}

/// The inputs of a decision, by what was decided.
#[derive(Debug, Clone, PartialEq)]
pub enum RecordedDecision {
    /// About a node's evidence.
    Evidence(Box<DecisionInputs>),
    /// About a key that a node asked for.
    Release(Box<ReleaseInputs>),
    /// About an authorization that is to count in another domain.
    Foreign(Box<ForeignInputs>),
    /// About an authorization below another one.
    Workload(Box<WorkloadInputs>),
}

impl RecordedDecision {
    fn decode(record: &[u8], part: impl Fn(&[u8; 32]) -> Option<Vec<u8>>) -> Result<Self, RecordError> {
        Ok(if ReleaseInputs::are(record) {
            Self::Release(Box::new(ReleaseInputs::decode(record, part)?))
        } else if ForeignInputs::are(record) {
            Self::Foreign(Box::new(ForeignInputs::decode(record)?))
        } else if WorkloadInputs::are(record) {
            Self::Workload(Box::new(WorkloadInputs::decode(record, part)?))
        } else {
            Self::Evidence(Box::new(DecisionInputs::decode(record, part)?))
        })
    }

    /// When it was made, Unix seconds.
    #[must_use]
    pub fn now(&self) -> i64 {
        match self {
            Self::Evidence(inputs) => inputs.now,
            Self::Release(inputs) => inputs.setting.now(),
            Self::Foreign(inputs) => inputs.setting.now(),
            Self::Workload(inputs) => inputs.setting.now(),
        }
    }
}

/// Why there is no record, or it does not give the decision that was recorded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The ledger.
    #[error(transparent)]
    Log(#[from] LogError),
    /// There is no such statement, or it is none about evidence or a key.
    #[error("no decision about evidence or a key is recorded {0}")]
    NotFound(String),
    /// Not the CBOR of a record.
    #[error("the record: {0}")]
    Cbor(#[from] CborError),
    /// Not the shape of a record.
    #[error("the record: {0}")]
    Shape(#[from] ShapeError),
    /// The inputs.
    #[error(transparent)]
    Inputs(#[from] InputsError),
    /// The inputs of a release, or no decision comes of them.
    #[error(transparent)]
    Release(#[from] ReleaseInputsError),
    /// The inputs of an authorization for another domain, or no decision comes of them.
    #[error(transparent)]
    Foreign(#[from] ForeignInputsError),
    /// The inputs of an authorization below another one, or no decision comes of them.
    #[error(transparent)]
    Workload(#[from] WorkloadInputsError),
    /// The evidence was asked for of a decision that rests on none.
    #[error(
        "entry {0} is about a key, another domain or a workload: it rests on what the node had shown before, and no evidence came with it"
    )]
    NoEvidence(u64),
    /// The statement.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// The decision cannot be made again.
    #[error(transparent)]
    Decision(#[from] DecisionError),
    /// The inputs are not those the statement names.
    #[error(
        "the statement names inputs {}, these are {}",
        hex::encode(expected),
        hex::encode(found)
    )]
    OtherInputs {
        /// The digest in the statement.
        expected: [u8; 32],
        /// The digest of the inputs given.
        found: [u8; 32],
    },
    /// The same inputs gave another decision.
    #[error("the decision recorded is {}, made again it is {found}", hex::encode(expected))]
    Differs {
        /// Digest of the payload that was recorded.
        expected: [u8; 32],
        /// Digest of the payload made now, or that nothing was decided.
        found: String,
    },
}

/// A decision that was made again and came out the same.
#[derive(Debug, Clone, PartialEq)]
pub struct Replayed {
    /// Index of the statement.
    pub index: u64,
    /// Bytes of the payload that are the same.
    pub payload_bytes: usize,
    /// The statement, made again.
    pub statement: Statement,
}

impl Replayed {
    /// The node it is about.
    #[must_use]
    pub fn node(&self) -> &str {
        self.statement.subject.as_deref().unwrap_or_default()
    }

    /// Whether it was allowed.
    #[must_use]
    pub fn allowed(&self) -> bool {
        self.statement.outcome == Outcome::Allow
    }
}

impl DecisionRecord {
    /// Collects the decision whose statement is entry `index`.
    ///
    /// # Errors
    /// [`RecordError`]
    pub fn read(store: &dyn Store, index: u64, statement_key: &VerifyingKey) -> Result<Self, RecordError> {
        let statement = log::entry(store, index)?.ok_or_else(|| RecordError::NotFound(format!("as entry {index}")))?;
        let verified = VerifiedStatement::parse(&statement, statement_key)?;
        let digest = verified.statement().inputs.get("inputs").copied();
        let digest = digest.ok_or_else(|| RecordError::NotFound(format!("as entry {index}")))?;
        let get = |key| {
            store
                .get(&key)
                .map_err(LogError::from)
                .map(|row| row.map(|row| row.value))
        };
        let inputs = get(rows::INPUTS.key(&digest).map_err(LogError::from)?)?
            .ok_or_else(|| RecordError::NotFound(format!("under {}", hex::encode(digest))))?;
        let parts = std::cell::RefCell::new(Vec::new());
        RecordedDecision::decode(&inputs, |digest| {
            let part = parts::read(store, digest).ok()??;
            parts.borrow_mut().push(part.clone());
            Some(part)
        })?;
        Ok(Self {
            index,
            statement,
            inputs,
            parts: parts.into_inner(),
        })
    }

    /// Collects the latest decision about the node `name`.
    ///
    /// # Errors
    /// [`RecordError`]
    pub fn latest(store: &dyn Store, name: &str, statement_key: &VerifyingKey) -> Result<Self, RecordError> {
        let none = || RecordError::NotFound(format!("about {name:?}"));
        let key = rows::LATEST.key(name.as_bytes()).map_err(|_| none())?;
        let row = store.get(&key).map_err(LogError::from)?.ok_or_else(none)?;
        let index = row
            .value
            .as_slice()
            .try_into()
            .map(u64::from_be_bytes)
            .map_err(|_| none())?;
        Self::read(store, index, statement_key)
    }

    /// The record as one file: a CBOR map.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        cbor::encode(&Value::map([
            (0, Value::Unsigned(self.index)),
            (1, Value::bytes(self.statement.as_slice())),
            (2, Value::bytes(self.inputs.as_slice())),
            (
                3,
                Value::array(self.parts.iter().map(|part| Value::bytes(part.as_slice()))),
            ),
        ]))
    }

    /// Reads such a file.
    ///
    /// # Errors
    /// [`RecordError::Cbor`] or [`RecordError::Shape`]
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut reader = MapReader::new(cbor::decode(bytes, LIMITS)?, CONTEXT)?;
        let part = |value: Value| match value {
            Value::Bytes(bytes) => Ok(bytes),
            other => Err(ShapeError::member(CONTEXT, "key 3", "byte strings", other.kind())),
        };
        let record = Self {
            index: reader.u64(0)?,
            statement: reader.bytes(1)?,
            inputs: reader.bytes(2)?,
            parts: reader.array(3)?.into_iter().map(part).collect::<Result<_, _>>()?,
        };
        reader.finish()?;
        Ok(record)
    }

    /// The recorded inputs of a decision about evidence.
    ///
    /// # Errors
    /// [`RecordError::Inputs`]
    pub fn inputs(&self) -> Result<DecisionInputs, RecordError> {
        match self.recorded()? {
            RecordedDecision::Evidence(inputs) => Ok(*inputs),
            RecordedDecision::Release(_) | RecordedDecision::Foreign(_) | RecordedDecision::Workload(_) => {
                Err(RecordError::NoEvidence(self.index))
            }
        }
    }

    /// The recorded inputs, of whichever decision.
    ///
    /// # Errors
    /// [`RecordError::Inputs`] or [`RecordError::Release`]
    pub fn recorded(&self) -> Result<RecordedDecision, RecordError> {
        let parts: std::collections::HashMap<[u8; 32], &Vec<u8>> =
            self.parts.iter().map(|part| (sha256(part), part)).collect();
        RecordedDecision::decode(&self.inputs, |digest| parts.get(digest).map(|part| (*part).clone()))
    }

    /// Makes the decision again under `policy` and compares it with what was recorded, byte for byte.
    ///
    /// # Errors
    /// [`RecordError::Differs`] if it comes out otherwise; what is wrong with the record before that.
    pub fn replay(&self, policy: &PolicySet, statement_key: &VerifyingKey) -> Result<Replayed, RecordError> {
        let recorded = VerifiedStatement::parse(&self.statement, statement_key)?;
        let none = || RecordError::NotFound(format!("as entry {}", self.index));
        let expected = recorded.statement().inputs.get("inputs").copied().ok_or_else(none)?;
        let found = sha256(&self.inputs);
        if expected != found {
            return Err(RecordError::OtherInputs { expected, found });
        }
        let expected = *recorded.digest();
        let statement = match self.recorded()? {
            RecordedDecision::Release(inputs) => inputs.again(policy)?.statement,
            RecordedDecision::Foreign(inputs) => inputs.again(policy)?.statement,
            RecordedDecision::Workload(inputs) => inputs.again(policy)?.statement,
            RecordedDecision::Evidence(inputs) => match decide(&inputs, policy)? {
                Decision::Decided(decided) => decided.statement,
                Decision::Refused(_) => {
                    return Err(RecordError::Differs {
                        expected,
                        found: "a refusal".into(),
                    });
                }
            },
        };
        let digest = statement.digest()?;
        if digest != expected {
            return Err(RecordError::Differs {
                expected,
                found: hex::encode(digest),
            });
        }
        Ok(Replayed {
            index: self.index,
            payload_bytes: statement.payload_bytes()?.len(),
            statement,
        })
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::{Digest as _, Sha256};
    Sha256::digest(bytes).into()
}
