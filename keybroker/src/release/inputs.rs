//! The recorded inputs of a decision about a key: all of them beside the policy, so that it can be made again, byte for
//! byte, years later, by anybody who holds the ledger and the policy (`docs/protocol.md`, sections 9 to 11).
//!
//! A decision is made on this record and nothing else: what is not in it cannot be looked at. Nothing of a secret is in
//! it, sealed or not: of a version it says that it was there.

use touchstone_authorization::{Asked, DomainState, KeyRingError, ListError};
use touchstone_cose::cbor::{self, CborError, Limits, MapReader, ShapeError, Value};
use touchstone_evidence::message::{ReleaseRequest, release_audience};
use touchstone_ledger::statement::{Reason, Statement};
use touchstone_policies::PolicySet;
use touchstone_verifier::inventory::Lookup;

use super::decide::{NodeFacts, Situation, Wanted, decide, statement};
use super::key::{KeyEntry, KeyError};
use super::shown::{Shown, ShownError};
use crate::bootstrap;
use crate::decision::DecisionError;
use crate::inputs::Part;
use crate::node;
use crate::presented::{self, Here, Setting, StatusSeen, is_of, known, unknown};
use crate::record::sha256;
use crate::workload::ancestry::Ancestry;
use crate::workload::decide::node_of;
use crate::workload::record::{Tree, WorkloadRowError};

/// Largest record, in bytes, without the parts that it names by digest: a request, and what stands above who asks.
pub const MAX_RELEASE_INPUTS_BYTES: usize = 32 * 1024 + 128 * 1024;

const FORMAT: &str = "touchstone-release-inputs/1";
const CONTEXT: &str = "release inputs";
const LIMITS: Limits = Limits {
    max_bytes: MAX_RELEASE_INPUTS_BYTES,
    max_depth: 5,
    max_items: 512,
};

/// What a row says, with its revision.
pub type Row<T> = Option<(T, u64)>;

/// Everything a decision about a key rests on, beside the policy.
#[derive(Debug, Clone, PartialEq)]
pub struct ReleaseInputs {
    /// The moment of the request.
    pub setting: Setting,
    /// What was asked for.
    pub request: ReleaseRequest,
    /// The key: its settings and its versions, without what its source keeps of them ([`KeyEntry::without_secrets`]).
    pub key: Row<KeyEntry>,
    /// What counts of the node's record.
    pub node: Row<NodeFacts>,
    /// What the node showed.
    pub shown: Row<Shown>,
    /// What stands above who asks, hangs beside and came before. None in a record of before policies were told of it
    /// (semantics 6 and earlier): no decision is made on one.
    pub ancestry: Option<Ancestry>,
    /// Random. The statement goes to who asked, with the digest of this record: without these bytes it would tell, to who
    /// guesses the rest, whether there is such a key.
    pub blind: [u8; 16],
}

/// Why bytes are not recorded inputs of a release, or give no decision.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReleaseInputsError {
    /// Not CBOR.
    #[error("release inputs: {0}")]
    Cbor(#[from] CborError),
    /// Another shape.
    #[error("release inputs: {0}")]
    Shape(#[from] ShapeError),
    /// The key.
    #[error("release inputs: {0}")]
    Key(#[from] KeyError),
    /// What the node showed.
    #[error("release inputs: what the node showed: {0}")]
    Shown(#[from] ShownError),
    /// The status list.
    #[error("release inputs: status list: {0}")]
    List(#[from] ListError),
    /// What is kept of the lineage.
    #[error("release inputs: {0}")]
    Lineage(#[from] WorkloadRowError),
    /// The record says nothing of the lineage, of which policies are told.
    #[error("release inputs: recorded before policies were told of the lineage")]
    NoLineage,
    /// A part is not there.
    #[error("release inputs: part {} is missing", hex::encode(digest))]
    PartMissing {
        /// Its digest.
        digest: [u8; 32],
    },
    /// A part is not what its digest says.
    #[error("release inputs: part {} has digest {}", hex::encode(expected), hex::encode(found))]
    PartAltered {
        /// The digest it is stored under.
        expected: [u8; 32],
        /// The digest it has.
        found: [u8; 32],
    },
    /// The domain's keys.
    #[error("release inputs: {0}")]
    Keys(#[from] KeyRingError),
    /// The rules, or the policy, are others.
    #[error(transparent)]
    Decision(#[from] DecisionError),
    /// Nobody is known to have asked: no decision about a node comes of it.
    #[error("release inputs: it is not known who asks: {}", codes.join(" "))]
    Nobody {
        /// Why, as codes.
        codes: Vec<String>,
    },
}

/// A decision about a key.
#[derive(Debug, Clone, PartialEq)]
pub struct ReleaseDecision {
    /// Who asked.
    pub node: String,
    /// Every reason against; none where the key is released.
    pub reasons: Vec<Reason>,
    /// The number of the version, where there is one that was asked for.
    pub version: Option<u64>,
    /// The statement.
    pub statement: Statement,
    /// The inputs as they are to be recorded, and their digest.
    pub record: ([u8; 32], Vec<u8>),
    /// The parts that the record names by digest.
    pub parts: Vec<Part>,
    /// The right that was used, where the key is released.
    pub used: Option<String>,
}

/// Judges what was presented, on the state of the domain.
///
/// # Errors
/// [`KeyRingError`] for a keyset that is none.
pub fn judge_request(
    request: &ReleaseRequest,
    exporter: &[u8; 32],
    policy: &PolicySet,
    state: &DomainState<'_>,
    now_ms: u64,
) -> Result<Asked, KeyRingError> {
    let shown = presented::Shown {
        authorization: &request.authorization,
        proof: &request.proof,
        audience: &release_audience(&policy.domain),
        // By the key's name: what asks for a disk's key has to hold the right to bootstrap.
        action: bootstrap::action_of(&request.key),
        resource: &request.resource,
        exporter,
    };
    // What counts in one region only counts where the inventory places the node.
    presented::judge(&shown, policy, state, now_ms, |token| {
        let node = token.map(|token| node_of(&token.contents().subject));
        let region = match node.map(|node| policy.inventory.by_name(node)) {
            Some(Lookup::Node(node)) => Some(node.region.clone()),
            _ => None,
        };
        Here { region, purpose: None }
    })
}

impl ReleaseInputs {
    /// Decides, on these inputs and `policy` alone. Live and replay run this one function.
    ///
    /// # Errors
    /// [`ReleaseInputsError::Decision`] under other rules or another policy, [`ReleaseInputsError::Nobody`].
    pub fn decide(&self, asked: &Asked, policy: &PolicySet) -> Result<ReleaseDecision, ReleaseInputsError> {
        self.setting.check(policy)?;
        let Some((subject, nonce)) = known(asked) else {
            return Err(ReleaseInputsError::Nobody { codes: unknown(asked) });
        };
        let Some(ancestry) = &self.ancestry else {
            return Err(ReleaseInputsError::NoLineage);
        };
        let now = self.setting.now();
        let (record, parts) = self.record();
        let digest = sha256(&record);
        let situation = Situation {
            wanted: Wanted {
                key: &self.request.key,
                version: self.request.version,
                resource: &self.request.resource,
            },
            asked,
            subject,
            proof: sha256(&self.request.proof),
            nonce,
            policy,
            key: row(&self.key),
            record: row(&self.node),
            shown: row(&self.shown),
            ancestry,
            generation: self.setting.generation,
            now,
            inputs: digest,
        };
        let judged = decide(&situation);
        let circumstances = self.setting.circumstances(policy);
        Ok(ReleaseDecision {
            node: subject.contents().subject.clone(),
            statement: statement(&situation, &judged, &circumstances),
            version: judged.version.map(|version| version.number),
            used: judged.reasons.is_empty().then(|| situation.wanted.right()),
            reasons: judged.reasons,
            record: (digest, record),
            parts,
        })
    }

    /// Decides again: judges what was presented anew, on the state that was recorded.
    ///
    /// # Errors
    /// [`ReleaseInputsError`]
    pub fn again(&self, policy: &PolicySet) -> Result<ReleaseDecision, ReleaseInputsError> {
        self.setting.check(policy)?;
        let lists = StatusSeen::lists(self.setting.status.as_ref())?;
        let state = self.setting.state(policy, &lists);
        let asked = judge_request(
            &self.request,
            &self.setting.exporter,
            policy,
            &state,
            self.setting.now_ms,
        )?;
        self.decide(&asked, policy)
    }

    /// The record, and the parts it names by digest: what the node showed is the same release after release, and what came
    /// before in the tree as often as nothing comes of a request.
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
        let tree = match self.ancestry.as_ref().and_then(|ancestry| ancestry.tree.as_ref()) {
            Some((tree, revision)) => part(tree.encode(), *revision),
            None => Value::Null,
        };
        let key = self.key.as_ref().map_or(Value::Null, |(entry, revision)| {
            Value::array([
                Value::Unsigned(*revision),
                Value::Bytes(entry.without_secrets().encode()),
            ])
        });
        let members = [
            (8, Value::Bytes(self.request.encode())),
            (9, key),
            (
                10,
                self.node
                    .as_ref()
                    .map_or(Value::Null, |(node, revision)| node_value(node, *revision)),
            ),
            (11, shown),
            (12, Value::bytes(self.blind)),
        ];
        let lineage = self.ancestry.iter().flat_map(|ancestry| {
            [
                (14, StatusSeen::value(ancestry.node_seen.as_ref())),
                (15, ancestry.above_value()),
                (16, ancestry.children_value()),
                (17, tree.clone()),
            ]
        });
        let record = cbor::encode(&Value::map(
            self.setting.members(FORMAT).into_iter().chain(members).chain(lineage),
        ));
        (record, parts)
    }

    /// Whether a record of inputs says that it is of a release.
    #[must_use]
    pub fn are(record: &[u8]) -> bool {
        is_of(record, FORMAT)
    }

    /// Reads a record; `part` gives what it names by digest, which is checked.
    ///
    /// # Errors
    /// [`ReleaseInputsError`]
    pub fn decode(record: &[u8], part: impl Fn(&[u8; 32]) -> Option<Vec<u8>>) -> Result<Self, ReleaseInputsError> {
        let mut reader = MapReader::new(cbor::decode(record, LIMITS)?, CONTEXT)?;
        let setting = Setting::read(&mut reader, FORMAT)?;
        // Until semantics 6 a workload's own record stood alone, as key 13.
        let ancestry = match (reader.optional(13), reader.optional(14)) {
            (_, None) => None,
            (Some(_), Some(_)) => return Err(wrong("key 13", "nothing beside keys 14 to 17").into()),
            (None, Some(node_seen)) => {
                let tree = match reader.required(17)? {
                    Value::Null => None,
                    value => {
                        let (revision, digest) = revised(&value, "key 17")?;
                        let digest = digest.try_into().map_err(|_| wrong("key 17", "a digest"))?;
                        Some((Tree::decode(&whole(digest, &part)?)?, revision))
                    }
                };
                let (above, children) = (reader.array(15)?, reader.required(16)?);
                Some(Ancestry::read(&node_seen, &above, &children, tree)?)
            }
        };
        let inputs = Self {
            setting,
            request: ReleaseRequest::decode(&reader.bytes(8)?)
                .map_err(|error| ShapeError::member(CONTEXT, "key 8", "a request", error.to_string()))?,
            key: match reader.required(9)? {
                Value::Null => None,
                value => {
                    let (revision, bytes) = revised(&value, "key 9")?;
                    let entry = KeyEntry::decode(bytes)?;
                    if entry != entry.without_secrets() {
                        return Err(wrong("key 9", "a key without its secrets").into());
                    }
                    Some((entry, revision))
                }
            },
            node: match reader.required(10)? {
                Value::Null => None,
                value => Some(node_facts(value)?),
            },
            shown: match reader.required(11)? {
                Value::Null => None,
                value => {
                    let (revision, digest) = revised(&value, "key 11")?;
                    let digest = digest.try_into().map_err(|_| wrong("key 11", "a digest"))?;
                    Some((Shown::decode(&whole(digest, &part)?)?, revision))
                }
            },
            blind: reader.fixed(12)?,
            ancestry,
        };
        reader.finish()?;
        Ok(inputs)
    }
}

/// A row of the record: [revision, bytes].
fn revised<'v>(value: &'v Value, key: &'static str) -> Result<(u64, &'v [u8]), ShapeError> {
    match value.as_array() {
        Some([revision, Value::Bytes(bytes)]) => revision.as_u64().map(|revision| (revision, bytes.as_slice())),
        _ => None,
    }
    .ok_or_else(|| wrong(key, "[revision, bytes]"))
}

/// What counts of a node's record: [revision, name, region, status entry, withdrawn, digest of a confidential VM's
/// identity or null].
pub(crate) fn node_value(node: &NodeFacts, revision: u64) -> Value {
    Value::array([
        Value::Unsigned(revision),
        Value::text(node.name.as_str()),
        Value::text(node.region.as_str()),
        node::status_value(&node.status),
        Value::Bool(node.withdrawn),
        node.cvm.map_or(Value::Null, Value::bytes),
    ])
}

pub(crate) fn node_facts(value: Value) -> Result<(NodeFacts, u64), ShapeError> {
    let malformed = || wrong("key 10", "what counts of a node's record");
    let Value::Array(items) = value else {
        return Err(malformed());
    };
    let Ok(
        [
            revision,
            Value::Text(name),
            Value::Text(region),
            status,
            Value::Bool(withdrawn),
            cvm,
        ],
    ) = <[Value; 6]>::try_from(items)
    else {
        return Err(malformed());
    };
    let cvm = match cvm {
        Value::Null => None,
        Value::Bytes(digest) => Some(digest.as_slice().try_into().map_err(|_| malformed())?),
        _ => return Err(malformed()),
    };
    let facts = NodeFacts {
        name,
        region,
        status: node::status(status)?,
        withdrawn,
        cvm,
    };
    Ok((facts, revision.as_u64().ok_or_else(malformed)?))
}

fn whole(expected: [u8; 32], part: impl Fn(&[u8; 32]) -> Option<Vec<u8>>) -> Result<Vec<u8>, ReleaseInputsError> {
    let bytes = part(&expected).ok_or(ReleaseInputsError::PartMissing { digest: expected })?;
    let found = sha256(&bytes);
    if found == expected {
        Ok(bytes)
    } else {
        Err(ReleaseInputsError::PartAltered { expected, found })
    }
}

fn row<T>(row: &Row<T>) -> Option<(&T, u64)> {
    row.as_ref().map(|(row, revision)| (row, *revision))
}

fn wrong(key: &'static str, expected: &'static str) -> ShapeError {
    ShapeError::member(CONTEXT, key, expected, "something else")
}
