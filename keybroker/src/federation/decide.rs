//! The decision about one authorization that is to count in another domain. Pure: everything it rests on is an argument,
//! and is recorded, so that it can be made again byte for byte.
//!
//! It grants nothing new: what the node holds here, which its own domain's policies decided, as far as our signed policy
//! lets such rights be used there; bound to the same key, under the same status entry, ending no later.

use sha2::{Digest as _, Sha256};
use touchstone_authorization::{
    Asked, Authorization, ChannelPolicy, DomainState, Enforcer, KeyRing, KeyRingError, ListError, OfflineLimits,
    Presented, Request, RequestChannel, RevokedIds, Scope, StatusLists, TrustedKey, VerifiedAuthorization, ask,
};
use touchstone_cose::cbor::{self, CborError, Limits, MapReader, ShapeError, Value};
use touchstone_cose::key::KID_LEN;
use touchstone_evidence::message::{ForeignRequest, MAX_FOREIGN_REQUEST, foreign_audience, release_nonce};
use touchstone_ledger::statement::{Kind, Outcome, Reason, Statement, StatementError};
use touchstone_policies::{Job, PolicySet};
use touchstone_verifier::inventory::Lookup;

use crate::clock::seconds;
use crate::decision::{DecisionError, DenialCode, SEMANTICS_ID};
use crate::release::decide::{NodeFacts, ReleaseCode};
use crate::release::inputs::{Row, StatusSeen, node_facts, node_value};
use crate::statements::Circumstances;

touchstone_cose::reason_codes! {
    /// Why no authorization for another domain is issued to an authenticated node.
    pub enum FederationCode {
        DomainUnknown = "federation-audience-unknown": "The signed policy issues no authorizations for that domain. Look at the issue list of its federation file.",
        ScopeNotIssued = "federation-scope-not-issued": "The signed policy lets no authorization for that domain have this scope. Look at the issue list of its federation file.",
        ScopeNotHeld = "federation-scope-not-held": "The node's own authorization does not grant this scope, so none for another domain can.",
    }
}

const FORMAT: &str = "touchstone-federation-inputs/1";
const CONTEXT: &str = "federation inputs";
const MAX_TEXT: usize = 255;
const LIMITS: Limits = Limits {
    max_bytes: MAX_FOREIGN_REQUEST + 16 * 1024,
    max_depth: 4,
    max_items: 128,
};

/// Everything the decision rests on, beside the policy.
#[derive(Debug, Clone, PartialEq)]
pub struct ForeignInputs {
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
    /// The status entry of the authorization, where its list is there.
    pub status: Option<StatusSeen>,
    /// The exporter of the connection, for this authorization.
    pub exporter: [u8; 32],
    /// What was asked for.
    pub request: ForeignRequest,
    /// What counts of the node's record.
    pub node: Row<NodeFacts>,
    /// The id of the new authorization.
    pub cti: [u8; 16],
    /// The id of the key that will sign it.
    pub signer: [u8; KID_LEN],
}

/// Why no decision comes of inputs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ForeignInputsError {
    /// Not CBOR.
    #[error("federation inputs: {0}")]
    Cbor(#[from] CborError),
    /// Another shape.
    #[error("federation inputs: {0}")]
    Shape(#[from] ShapeError),
    /// The status list.
    #[error("federation inputs: status list: {0}")]
    List(#[from] ListError),
    /// The domain's keys.
    #[error("federation inputs: {0}")]
    Keys(#[from] KeyRingError),
    /// The rules, or the policy, are others.
    #[error(transparent)]
    Decision(#[from] DecisionError),
    /// The statement is not one that can be recorded.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// Nobody is known to have asked.
    #[error("federation inputs: it is not known who asks: {}", codes.join(" "))]
    Nobody {
        /// Why, as codes.
        codes: Vec<String>,
    },
}

/// A decision.
#[derive(Debug, Clone, PartialEq)]
pub struct ForeignDecision {
    /// Who asked.
    pub node: String,
    /// Every reason against; none where it is issued.
    pub reasons: Vec<Reason>,
    /// The statement.
    pub statement: Statement,
    /// The authorization, to be signed, where it is issued.
    pub authorization: Option<Authorization>,
    /// The inputs as they are to be recorded, and their digest.
    pub record: ([u8; 32], Vec<u8>),
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

/// Judges what was presented, on the state of the domain.
///
/// # Errors
/// [`KeyRingError`] for a keyset that is none.
pub fn judge_request(
    request: &ForeignRequest,
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
    let enforcer = Enforcer {
        id: &foreign_audience(&policy.domain),
        domain: &policy.domain,
        keys: &keys,
        skew_ms: policy.settings.timers.skew_ms,
        window_ms: policy.settings.timers.freshness_window_ms,
        requires_channel: ChannelPolicy::ExporterOrChallenge,
        region: None,
        purpose: None,
        offline: OfflineLimits::NONE,
    };
    let first = request.scopes.first().map(String::as_str).unwrap_or_default();
    let (action, resource) = first.split_once(':').unwrap_or_default();
    Ok(ask(
        &Request {
            authorization: Presented::Bytes(&request.authorization),
            proof: &request.proof,
            action,
            resource,
            request_digest: None,
            channel: RequestChannel::Exporter(exporter),
        },
        state,
        &enforcer,
        now_ms,
    ))
}

impl ForeignInputs {
    /// Decides, on these inputs and `policy` alone. Live and replay run this one function.
    ///
    /// # Errors
    /// [`ForeignInputsError`]
    pub fn decide(&self, asked: &Asked, policy: &PolicySet) -> Result<ForeignDecision, ForeignInputsError> {
        self.check(policy)?;
        let Some((subject, nonce)) = known(asked) else {
            let codes = asked.refusals.iter().map(|refusal| refusal.code.as_str().to_owned());
            return Err(ForeignInputsError::Nobody { codes: codes.collect() });
        };
        let mut reasons: Vec<Reason> = asked
            .refusals
            .iter()
            .map(|refusal| Reason {
                code: refusal.code.as_str().into(),
                claim: "authorization".into(),
                expected: refusal.expected.clone(),
                found: refusal.found.clone(),
            })
            .collect();
        self.judge_node(subject, policy, &mut reasons);
        let scopes = self.judge_scopes(subject, policy, &mut reasons);
        let expires = self.judge_end(subject, policy, &mut reasons);
        reasons.sort_by(|a, b| (&a.code, &a.claim).cmp(&(&b.code, &b.claim)));
        reasons.dedup();
        let record = self.record();
        let digest = sha256(&record);
        let statement = self.statement(subject, policy, (&scopes, expires), &reasons, (nonce, digest));
        let authorization = if reasons.is_empty() {
            Some(self.authorization(subject, policy, scopes, expires, statement.digest()?))
        } else {
            None
        };
        Ok(ForeignDecision {
            node: subject.contents().subject.clone(),
            reasons,
            statement,
            authorization,
            record: (digest, record),
        })
    }

    /// Decides again: judges what was presented anew, on the state that was recorded.
    ///
    /// # Errors
    /// [`ForeignInputsError`]
    pub fn again(&self, policy: &PolicySet) -> Result<ForeignDecision, ForeignInputsError> {
        self.check(policy)?;
        let lists = match &self.status {
            None => StatusLists::default(),
            Some(seen) => seen.lists()?,
        };
        let state = DomainState {
            generation: self.generation,
            epoch: self.epoch,
            policy_version: policy.version,
            lists: &lists,
            revoked: RevokedIds::none(),
        };
        let asked = judge_request(&self.request, &self.exporter, policy, &state, self.now_ms)?;
        self.decide(&asked, policy)
    }

    fn check(&self, policy: &PolicySet) -> Result<(), DecisionError> {
        if self.semantics != SEMANTICS_ID {
            return Err(DecisionError::Semantics {
                expected: SEMANTICS_ID,
                found: self.semantics.clone(),
            });
        }
        if self.policy_digest != policy.digest {
            return Err(DecisionError::Policy {
                expected: self.policy_digest,
                found: policy.digest,
            });
        }
        Ok(())
    }

    /// What counts is what the broker holds of the node, not what is presented.
    fn judge_node(&self, subject: &VerifiedAuthorization, policy: &PolicySet, reasons: &mut Vec<Reason>) {
        let contents = subject.contents();
        if contents.policy_version != policy.version {
            let (expected, found) = (policy.version.to_string(), contents.policy_version.to_string());
            reasons.push(reason(
                ReleaseCode::AuthorizationPolicyStale.as_str(),
                "policy",
                &expected,
                &found,
            ));
        }
        let Some((record, _)) = &self.node else {
            reasons.push(reason(
                ReleaseCode::NodeNotEnrolled.as_str(),
                "record",
                "a node's",
                "none",
            ));
            return;
        };
        if record.withdrawn {
            reasons.push(reason(
                ReleaseCode::NodeWithdrawn.as_str(),
                "record",
                "rights",
                "withdrawn",
            ));
        }
        if record.status != contents.status {
            let code = ReleaseCode::AuthorizationNotCurrent.as_str();
            reasons.push(reason(code, "status entry", "the node's", "another"));
        }
        let listed = policy.inventory.by_name(&record.name);
        if !matches!(listed, Lookup::Node(node) if node.region == record.region) {
            let code = ReleaseCode::NodeNotEnrolled.as_str();
            reasons.push(reason(code, "inventory", "the node in its region", "not there"));
        }
        // Nothing of a region counts after the end of what its own keys signed.
        if let Err(error) = policy.check_region_live(&record.region, seconds(self.now_ms)) {
            let problems = error.into_problems().into_iter();
            reasons.extend(problems.map(|problem| Reason {
                code: problem.code.as_str().into(),
                claim: problem.claim,
                expected: problem.expected,
                found: problem.found,
            }));
        }
    }

    /// The scopes that are issued: each held here, each on the list of our policy for that domain.
    fn judge_scopes(
        &self,
        subject: &VerifiedAuthorization,
        policy: &PolicySet,
        reasons: &mut Vec<Reason>,
    ) -> Vec<Scope> {
        let audience = &self.request.audience;
        let issue = policy.federation.get(audience).map(|entry| entry.issue.as_slice());
        let Some(issue) = issue.filter(|issue| !issue.is_empty()) else {
            let expected = "a domain that authorizations are issued for";
            reasons.push(reason(
                FederationCode::DomainUnknown.as_str(),
                "audience",
                expected,
                audience,
            ));
            return Vec::new();
        };
        let mut scopes = Vec::new();
        for text in &self.request.scopes {
            let scope = Scope::parse(text).ok();
            let Some(scope) = scope.filter(|scope| issue.contains(scope) && !scopes.contains(scope)) else {
                let expected = format!("a scope that is issued for {audience}, once");
                reasons.push(reason(
                    FederationCode::ScopeNotIssued.as_str(),
                    "scope",
                    &expected,
                    text,
                ));
                continue;
            };
            if !subject.contents().scopes.contains(&scope) {
                reasons.push(reason(
                    FederationCode::ScopeNotHeld.as_str(),
                    "scope",
                    "a scope that is held",
                    text,
                ));
            }
            scopes.push(scope);
        }
        scopes
    }

    /// The first Unix second at which nothing of it counts: no later than anything it rests on.
    fn judge_end(&self, subject: &VerifiedAuthorization, policy: &PolicySet, reasons: &mut Vec<Reason>) -> i64 {
        let now = seconds(self.now_ms);
        let signer = policy.keyset.find(Job::Authorization, &self.signer, now);
        if signer.is_none() {
            let (code, found) = (DenialCode::SigningKeyUnlisted.as_str(), hex::encode(self.signer));
            reasons.push(reason(code, "signing key", "a key of the keyset", &found));
        }
        let life = i64::try_from(policy.settings.timers.authorization_life_ms / 1_000).unwrap_or(0);
        let ends = [
            now.saturating_add(life),
            policy.expires,
            i64::try_from(subject.contents().expires).unwrap_or(i64::MAX),
            signer.map_or(i64::MAX, |key| key.not_after.saturating_add(1)),
        ];
        let expires = ends.into_iter().min().unwrap_or(now);
        if expires <= now {
            let code = DenialCode::ValidityOver.as_str();
            reasons.push(reason(
                code,
                "validity",
                &format!("an end after {now}"),
                &expires.to_string(),
            ));
        }
        expires
    }

    fn authorization(
        &self,
        subject: &VerifiedAuthorization,
        policy: &PolicySet,
        scopes: Vec<Scope>,
        expires: i64,
        statement: [u8; 32],
    ) -> Authorization {
        let parent = subject.contents();
        let now = self.now_ms / 1_000;
        Authorization {
            issuer: policy.domain.clone(),
            subject: parent.subject.clone(),
            audience: self.request.audience.clone(),
            expires: u64::try_from(expires).unwrap_or(0),
            not_before: now,
            issued_at: now,
            cti: self.cti,
            confirmation: parent.confirmation.clone(),
            scopes,
            policy_version: policy.version,
            epoch: self.epoch,
            parent: Some(parent.cti),
            statement,
            // One lineage, one entry: what is taken from the node here is taken from it there.
            status: parent.status,
            key_kind: parent.key_kind,
            // What counts there is a node's own right; nothing is handed on from it.
            depth: parent.depth,
            delegation: None,
            region: parent.region.clone(),
            purpose: parent.purpose.clone(),
        }
    }

    /// The statement. Body: 0 audience, 1 scopes asked for, 2 cti of the authorization held, 3 cti of the new one or null,
    /// 4 when it ends, Unix seconds, or null.
    fn statement(
        &self,
        subject: &VerifiedAuthorization,
        policy: &PolicySet,
        (scopes, expires): (&[Scope], i64),
        reasons: &[Reason],
        (nonce, inputs): ([u8; 32], [u8; 32]),
    ) -> Statement {
        let allowed = reasons.is_empty();
        let issued = |value: Value| if allowed { value } else { Value::Null };
        let asked = self.request.scopes.iter().map(|scope| Value::text(scope.as_str()));
        let granted = Value::array(scopes.iter().map(|scope| Value::text(scope.to_string())));
        let body = Value::map([
            (0, Value::text(self.request.audience.as_str())),
            (1, if allowed { granted } else { Value::array(asked) }),
            (2, Value::bytes(subject.contents().cti)),
            (3, issued(Value::bytes(self.cti))),
            (4, issued(Value::int(expires))),
        ]);
        let circumstances = Circumstances {
            domain: policy.domain.clone(),
            policy_version: policy.version,
            policy_digest: policy.global_digest,
            semantics: self.semantics.clone(),
            now: seconds(self.now_ms),
        };
        let outcome = if allowed { Outcome::Allow } else { Outcome::Deny };
        Statement {
            subject: Some(subject.contents().subject.clone()),
            region_policy: self
                .node
                .as_ref()
                .and_then(|(record, _)| policy.region_digest(&record.region)),
            reasons: Reason::bounded(reasons.to_vec()),
            inputs: [
                ("authorization".to_owned(), *subject.digest()),
                ("proof".to_owned(), sha256(&self.request.proof)),
                ("inputs".to_owned(), inputs),
            ]
            .into(),
            revisions: [(
                "node".to_owned(),
                self.node.as_ref().map_or(0, |(_, revision)| *revision),
            )]
            .into(),
            nonce: Some(nonce.to_vec()),
            ..circumstances.statement(Kind::FederatedAuthorization, outcome, body)
        }
    }

    /// The record: a CBOR map, deterministic.
    #[must_use]
    pub fn record(&self) -> Vec<u8> {
        cbor::encode(&Value::map([
            (0, Value::text(FORMAT)),
            (1, Value::text(self.semantics.as_str())),
            (2, Value::bytes(self.policy_digest)),
            (3, Value::Unsigned(self.now_ms)),
            (4, Value::Unsigned(self.generation.into())),
            (5, Value::Unsigned(self.epoch)),
            (6, self.status.as_ref().map_or(Value::Null, StatusSeen::value)),
            (7, Value::bytes(self.exporter)),
            (8, Value::Bytes(self.request.encode())),
            (
                9,
                self.node
                    .as_ref()
                    .map_or(Value::Null, |(node, revision)| node_value(node, *revision)),
            ),
            (10, Value::bytes(self.cti)),
            (11, Value::bytes(self.signer)),
        ]))
    }

    /// Whether a record of inputs says that it is of such a decision.
    #[must_use]
    pub fn are(record: &[u8]) -> bool {
        // The head of the map, and its first key.
        let format = cbor::encode(&Value::text(FORMAT));
        record.get(2..).is_some_and(|rest| rest.starts_with(&format))
    }

    /// Reads a record.
    ///
    /// # Errors
    /// [`ForeignInputsError`]
    pub fn decode(record: &[u8]) -> Result<Self, ForeignInputsError> {
        let wrong = |key, expected| ShapeError::member(CONTEXT, key, expected, "something else");
        let mut reader = MapReader::new(cbor::decode(record, LIMITS)?, CONTEXT)?;
        let format = reader.text(0, MAX_TEXT)?;
        if format != FORMAT {
            return Err(ShapeError::member(CONTEXT, "key 0", FORMAT, format).into());
        }
        let inputs = Self {
            semantics: reader.text(1, MAX_TEXT)?,
            policy_digest: reader.fixed(2)?,
            now_ms: reader.u64(3)?,
            generation: u32::try_from(reader.u64(4)?).map_err(|_| wrong("key 4", "a generation"))?,
            epoch: reader.u64(5)?,
            status: match reader.required(6)? {
                Value::Null => None,
                value => Some(StatusSeen::read(&value).ok_or_else(|| wrong("key 6", "a status entry"))?),
            },
            exporter: reader.fixed(7)?,
            request: ForeignRequest::decode(&reader.bytes(8)?).map_err(|_| wrong("key 8", "a request"))?,
            node: match reader.required(9)? {
                Value::Null => None,
                value => Some(node_facts(value)?),
            },
            cti: reader.fixed(10)?,
            signer: reader.fixed(11)?,
        };
        reader.finish()?;
        Ok(inputs)
    }
}

fn reason(code: &str, claim: &str, expected: &str, found: &str) -> Reason {
    Reason {
        code: code.into(),
        claim: claim.into(),
        expected: expected.into(),
        found: found.into(),
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}
