//! The recorded inputs of a decision about an authorization below another one: all of them beside the policy, so that it can
//! be made again, byte for byte, years later (`docs/protocol.md`, sections 9 and 10).

use touchstone_authorization::token::StatusIndex;
use touchstone_authorization::{Asked, DomainState, KeyRingError, ListError};
use touchstone_cose::cbor::{self, CborError, Limits, MapReader, ShapeError, Value};
use touchstone_cose::key::KID_LEN;
use touchstone_evidence::message::{MAX_WORKLOAD_REQUEST, WorkloadRequest, workload_audience};
use touchstone_ledger::statement::StatementError;
use touchstone_policies::PolicySet;

use super::ancestry::{Above, Ancestry};
use super::record::{Tree, WorkloadRowError};
use crate::decision::DecisionError;
use crate::inputs::Part;
use crate::node::{status, status_value};
use crate::presented::{self, Here, Setting, StatusSeen, is_of};
use crate::record::sha256;
use crate::release::decide::NodeFacts;
use crate::release::inputs::{Row, node_facts, node_value};
use crate::release::shown::{Shown, ShownError};

const FORMAT: &str = "touchstone-workload-inputs/1";
const CONTEXT: &str = "workload inputs";
const LIMITS: Limits = Limits {
    max_bytes: MAX_WORKLOAD_REQUEST + 128 * 1024,
    max_depth: 5,
    max_items: 1_024,
};

/// Everything a decision about an authorization below another one rests on, beside the policy.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkloadInputs {
    /// The moment of the request.
    pub setting: Setting,
    /// What was asked for.
    pub request: WorkloadRequest,
    /// What counts of the node's record.
    pub node: Row<NodeFacts>,
    /// What the node showed.
    pub shown: Row<Shown>,
    /// What stands above, hangs beside and came before.
    pub ancestry: Ancestry,
    /// The entries that the new one is to depend on, in the order of the request; none for one that nobody holds.
    pub depends: Vec<Option<StatusSeen>>,
    /// The entry that is to go on.
    pub renewed: Option<Above>,
    /// The entry of the new authorization.
    pub entry: StatusIndex,
    /// The id of the new authorization.
    pub cti: [u8; 16],
    /// The id of the key that will sign it.
    pub signer: [u8; KID_LEN],
}

/// Why no decision comes of inputs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WorkloadInputsError {
    /// Not CBOR.
    #[error("workload inputs: {0}")]
    Cbor(#[from] CborError),
    /// Another shape.
    #[error("workload inputs: {0}")]
    Shape(#[from] ShapeError),
    /// What is kept of an entry.
    #[error("workload inputs: {0}")]
    Row(#[from] WorkloadRowError),
    /// What the node showed.
    #[error("workload inputs: what the node showed: {0}")]
    Shown(#[from] ShownError),
    /// The status list.
    #[error("workload inputs: status list: {0}")]
    List(#[from] ListError),
    /// A part is not there.
    #[error("workload inputs: part {} is missing", hex::encode(digest))]
    PartMissing {
        /// Its digest.
        digest: [u8; 32],
    },
    /// A part is not what its digest says.
    #[error("workload inputs: part {} has digest {}", hex::encode(expected), hex::encode(found))]
    PartAltered {
        /// The digest it is stored under.
        expected: [u8; 32],
        /// The digest it has.
        found: [u8; 32],
    },
    /// The domain's keys.
    #[error("workload inputs: {0}")]
    Keys(#[from] KeyRingError),
    /// The rules, or the policy, are others.
    #[error(transparent)]
    Decision(#[from] DecisionError),
    /// The statement is not one that can be recorded.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// Nobody is known to have asked.
    #[error("workload inputs: it is not known who asks: {}", codes.join(" "))]
    Nobody {
        /// Why, as codes.
        codes: Vec<String>,
    },
}

/// Judges what was presented, on the state of the domain. Takes an authorization that the domain signed, and no off-line
/// links: those have no entry of their own below which anything could be found again.
///
/// # Errors
/// [`KeyRingError`] for a keyset that is none.
pub fn judge_request(
    request: &WorkloadRequest,
    exporter: &[u8; 32],
    policy: &PolicySet,
    state: &DomainState<'_>,
    now_ms: u64,
) -> Result<Asked, KeyRingError> {
    let first = request.scopes.first().map(String::as_str).unwrap_or_default();
    let shown = presented::Shown {
        authorization: &request.chain,
        proof: &request.proof,
        audience: &workload_audience(&policy.domain),
        action: "delegate",
        resource: first.split_once(':').map_or("", |(_, resource)| resource),
        exporter,
    };
    // What is narrowed to one region or purpose is narrowed further here, and used for nothing else.
    presented::judge(&shown, policy, state, now_ms, |token| {
        token.map_or_else(Here::default, |token| Here {
            region: token.contents().region.clone(),
            purpose: token.contents().purpose.clone(),
        })
    })
}

impl WorkloadInputs {
    /// The record, and the parts it names by digest: what the node showed, and what was issued in its tree.
    #[must_use]
    pub fn record(&self) -> (Vec<u8>, Vec<Part>) {
        let mut parts = Vec::new();
        let mut part = |bytes: Vec<u8>, revision: u64| {
            let digest = sha256(&bytes);
            parts.push((digest, bytes));
            Value::array([Value::Unsigned(revision), Value::bytes(digest)])
        };
        let shown = match &self.shown {
            Some((shown, revision)) => part(shown.encode(), *revision),
            None => Value::Null,
        };
        let tree = match &self.ancestry.tree {
            Some((tree, revision)) => part(tree.encode(), *revision),
            None => Value::Null,
        };
        let seen = |seen: &Option<StatusSeen>| StatusSeen::value(seen.as_ref());
        let members = [
            (8, Value::Bytes(self.request.encode())),
            (
                9,
                self.node
                    .as_ref()
                    .map_or(Value::Null, |(node, revision)| node_value(node, *revision)),
            ),
            (10, seen(&self.ancestry.node_seen)),
            (11, shown),
            (12, self.ancestry.above_value()),
            (13, self.ancestry.children_value()),
            (14, tree),
            (15, Value::array(self.depends.iter().map(seen))),
            (16, self.renewed.as_ref().map_or(Value::Null, Above::value)),
            (17, status_value(&self.entry)),
            (18, Value::bytes(self.cti)),
            (19, Value::bytes(self.signer)),
        ];
        let record = cbor::encode(&Value::map(self.setting.members(FORMAT).into_iter().chain(members)));
        (record, parts)
    }

    /// Whether a record of inputs says that it is of such a decision.
    #[must_use]
    pub fn are(record: &[u8]) -> bool {
        is_of(record, FORMAT)
    }

    /// Reads a record; `part` gives what it names by digest, which is checked.
    ///
    /// # Errors
    /// [`WorkloadInputsError`]
    pub fn decode(record: &[u8], part: impl Fn(&[u8; 32]) -> Option<Vec<u8>>) -> Result<Self, WorkloadInputsError> {
        let mut reader = MapReader::new(cbor::decode(record, LIMITS)?, CONTEXT)?;
        let setting = Setting::read(&mut reader, FORMAT)?;
        let whole = |value: Value, key| -> Result<Option<(Vec<u8>, u64)>, WorkloadInputsError> {
            let named = match &value {
                Value::Null => return Ok(None),
                value => match value.as_array() {
                    Some([revision, Value::Bytes(digest)]) => {
                        revision.as_u64().zip(<[u8; 32]>::try_from(digest.as_slice()).ok())
                    }
                    _ => None,
                },
            };
            let (revision, expected) = named.ok_or_else(|| wrong(key, "[revision, digest]"))?;
            let bytes = part(&expected).ok_or(WorkloadInputsError::PartMissing { digest: expected })?;
            let found = sha256(&bytes);
            if found == expected {
                Ok(Some((bytes, revision)))
            } else {
                Err(WorkloadInputsError::PartAltered { expected, found })
            }
        };
        let tree = match whole(reader.required(14)?, "key 14")? {
            None => None,
            Some((bytes, revision)) => Some((Tree::decode(&bytes)?, revision)),
        };
        let ancestry = Ancestry::read(&reader.required(10)?, &reader.array(12)?, &reader.required(13)?, tree)?;
        let inputs = Self {
            setting,
            request: WorkloadRequest::decode(&reader.bytes(8)?).map_err(|_| wrong("key 8", "a request"))?,
            node: match reader.required(9)? {
                Value::Null => None,
                value => Some(node_facts(value)?),
            },
            shown: match whole(reader.required(11)?, "key 11")? {
                None => None,
                Some((bytes, revision)) => Some((Shown::decode(&bytes)?, revision)),
            },
            ancestry,
            depends: reader
                .array(15)?
                .into_iter()
                .map(|value| StatusSeen::read(&value))
                .collect::<Result<_, _>>()?,
            renewed: match reader.required(16)? {
                Value::Null => None,
                value => Some(Above::read(value)?),
            },
            entry: status(reader.required(17)?)?,
            cti: reader.fixed(18)?,
            signer: reader.fixed(19)?,
        };
        reader.finish()?;
        if inputs.depends.len() != inputs.request.depends_on.len() {
            return Err(wrong("key 15", "what the request asks for").into());
        }
        Ok(inputs)
    }
}

fn wrong(key: &'static str, expected: &'static str) -> ShapeError {
    ShapeError::member(CONTEXT, key, expected, "something else")
}
