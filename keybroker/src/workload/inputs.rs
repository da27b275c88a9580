//! The recorded inputs of a decision about an authorization below another one: all of them beside the policy, so that it can
//! be made again, byte for byte, years later (`docs/protocol.md`, sections 9 and 10).

use sha2::{Digest as _, Sha256};
use touchstone_authorization::token::StatusIndex;
use touchstone_authorization::{
    Asked, ChannelPolicy, DomainState, Enforcer, KeyRing, KeyRingError, ListError, OfflineLimits, Presented, Request,
    RequestChannel, StatusLists, TrustedKey, UntrustedAuthorization, VerifiedAuthorization, ask,
};
use touchstone_cose::cbor::{self, CborError, Limits, MapReader, ShapeError, Value};
use touchstone_cose::key::KID_LEN;
use touchstone_evidence::message::{MAX_WORKLOAD_REQUEST, WorkloadRequest, release_nonce, workload_audience};
use touchstone_ledger::statement::StatementError;
use touchstone_policies::{Job, PolicySet};

use super::ancestry::{Above, Ancestry, seen, seen_value};
use super::record::{Tree, WorkloadRowError};
use crate::decision::DecisionError;
use crate::inputs::Part;
use crate::node::{status, status_value};
use crate::release::decide::NodeFacts;
use crate::release::inputs::{Row, StatusSeen, node_facts, node_value};
use crate::release::shown::{Shown, ShownError};

const FORMAT: &str = "touchstone-workload-inputs/1";
const CONTEXT: &str = "workload inputs";
const MAX_TEXT: usize = 255;
const LIMITS: Limits = Limits {
    max_bytes: MAX_WORKLOAD_REQUEST + 128 * 1024,
    max_depth: 5,
    max_items: 1_024,
};

/// Everything a decision about an authorization below another one rests on, beside the policy.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkloadInputs {
    /// Which rules decide.
    pub semantics: String,
    /// Digest of the policy.
    pub policy_digest: [u8; 32],
    /// The clock value, Unix milliseconds.
    pub now_ms: u64,
    /// Generation of the domain.
    pub generation: u32,
    /// Epoch of the trust state.
    pub epoch: u64,
    /// The status entry of the authorization that was presented.
    pub status: Option<StatusSeen>,
    /// The exporter of the connection, for that authorization.
    pub exporter: [u8; 32],
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

/// Who asks, where that is known, and the nonce the request uses up.
#[must_use]
pub fn known(asked: &Asked) -> Option<(&VerifiedAuthorization, [u8; 32])> {
    let (subject, proof) = (asked.subject()?, asked.proof.as_ref()?);
    Some((
        subject,
        release_nonce(subject.confirmation_thumbprint(), &proof.claims().cti),
    ))
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
    let of_job = policy
        .keyset
        .keys
        .iter()
        .filter(|entry| entry.job == Job::Authorization);
    let keys = KeyRing::new(of_job.map(|entry| TrustedKey {
        key: entry.key.clone(),
        not_before: entry.not_before,
        not_after: entry.not_after,
    }))?;
    // What is narrowed to one region or purpose is narrowed further here, and used for nothing else.
    let presented = UntrustedAuthorization::parse(&request.chain).and_then(|token| token.verify(&keys, now_ms));
    let narrowed = presented.ok().map(|token| {
        let contents = token.contents();
        (contents.region.clone(), contents.purpose.clone())
    });
    let (region, purpose) = narrowed.unwrap_or_default();
    let enforcer = Enforcer {
        id: &workload_audience(&policy.domain),
        domain: &policy.domain,
        keys: &keys,
        skew_ms: policy.settings.timers.skew_ms,
        window_ms: policy.settings.timers.freshness_window_ms,
        requires_channel: ChannelPolicy::ExporterOrChallenge,
        region: region.as_deref(),
        purpose: purpose.as_deref(),
        offline: OfflineLimits::NONE,
    };
    let first = request.scopes.first().map(String::as_str).unwrap_or_default();
    let resource = first.split_once(':').map_or("", |(_, resource)| resource);
    Ok(ask(
        &Request {
            authorization: Presented::Bytes(&request.chain),
            proof: &request.proof,
            action: "delegate",
            resource,
            request_digest: None,
            channel: RequestChannel::Exporter(exporter),
        },
        state,
        &enforcer,
        now_ms,
    ))
}

impl WorkloadInputs {
    /// Lists that say of the presented authorization's entry what was seen.
    pub(super) fn lists(&self) -> Result<StatusLists, ListError> {
        match &self.status {
            None => Ok(StatusLists::default()),
            Some(seen) => seen.lists(),
        }
    }

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
        let seen = |seen: &Option<StatusSeen>| seen_value(seen.as_ref());
        let record = cbor::encode(&Value::map([
            (0, Value::text(FORMAT)),
            (1, Value::text(self.semantics.as_str())),
            (2, Value::bytes(self.policy_digest)),
            (3, Value::Unsigned(self.now_ms)),
            (4, Value::Unsigned(self.generation.into())),
            (5, Value::Unsigned(self.epoch)),
            (6, seen(&self.status)),
            (7, Value::bytes(self.exporter)),
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
        ]));
        (record, parts)
    }

    /// Whether a record of inputs says that it is of such a decision.
    #[must_use]
    pub fn are(record: &[u8]) -> bool {
        // The head of the map, and its first key.
        let format = cbor::encode(&Value::text(FORMAT));
        record.get(2..).is_some_and(|rest| rest.starts_with(&format))
    }

    /// Reads a record; `part` gives what it names by digest, which is checked.
    ///
    /// # Errors
    /// [`WorkloadInputsError`]
    pub fn decode(record: &[u8], part: impl Fn(&[u8; 32]) -> Option<Vec<u8>>) -> Result<Self, WorkloadInputsError> {
        let mut reader = MapReader::new(cbor::decode(record, LIMITS)?, CONTEXT)?;
        let format = reader.text(0, MAX_TEXT)?;
        if format != FORMAT {
            return Err(ShapeError::member(CONTEXT, "key 0", FORMAT, format).into());
        }
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
            semantics: reader.text(1, MAX_TEXT)?,
            policy_digest: reader.fixed(2)?,
            now_ms: reader.u64(3)?,
            generation: u32::try_from(reader.u64(4)?).map_err(|_| wrong("key 4", "a generation"))?,
            epoch: reader.u64(5)?,
            status: seen(&reader.required(6)?)?,
            exporter: reader.fixed(7)?,
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
                .map(|value| seen(&value))
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

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}
