//! The decision about one authorization that is to count in another domain. Pure: everything it rests on is an argument,
//! and is recorded, so that it can be made again byte for byte.
//!
//! It grants nothing new: what the node holds here, which its own domain's policies decided, as far as our signed policy
//! lets such rights be used there; bound to the same key, under the same status entry, ending no later.

use touchstone_authorization::{
    Asked, Authorization, DomainState, KeyRingError, ListError, Scope, VerifiedAuthorization,
};
use touchstone_cose::cbor::{self, CborError, Limits, MapReader, ShapeError, Value};
use touchstone_cose::key::KID_LEN;
use touchstone_evidence::message::{ForeignRequest, MAX_FOREIGN_REQUEST, foreign_audience};
use touchstone_ledger::statement::{Kind, Outcome, Reason, Statement, StatementError};
use touchstone_policies::{Job, PolicySet};
use touchstone_verifier::inventory::Lookup;

use crate::decision::{DecisionError, DenialCode};
use crate::presented::{self, Here, Setting, StatusSeen, against, is_of, known, reason, region_over, unknown};
use crate::record::sha256;
use crate::release::decide::{NodeFacts, ReleaseCode};
use crate::release::inputs::{Row, node_facts, node_value};

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
const LIMITS: Limits = Limits {
    max_bytes: MAX_FOREIGN_REQUEST + 16 * 1024,
    max_depth: 4,
    max_items: 128,
};

/// Everything the decision rests on, beside the policy.
#[derive(Debug, Clone, PartialEq)]
pub struct ForeignInputs {
    /// The moment of the request.
    pub setting: Setting,
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
    let first = request.scopes.first().map(String::as_str).unwrap_or_default();
    let (action, resource) = first.split_once(':').unwrap_or_default();
    let shown = presented::Shown {
        authorization: &request.authorization,
        proof: &request.proof,
        audience: &foreign_audience(&policy.domain),
        action,
        resource,
        exporter,
    };
    presented::judge(&shown, policy, state, now_ms, |_| Here::default())
}

impl ForeignInputs {
    /// Decides, on these inputs and `policy` alone. Live and replay run this one function.
    ///
    /// # Errors
    /// [`ForeignInputsError`]
    pub fn decide(&self, asked: &Asked, policy: &PolicySet) -> Result<ForeignDecision, ForeignInputsError> {
        self.setting.check(policy)?;
        let Some((subject, nonce)) = known(asked) else {
            return Err(ForeignInputsError::Nobody { codes: unknown(asked) });
        };
        let mut reasons = against(asked);
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
        reasons.extend(region_over(policy, &record.region, self.setting.now()));
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
        let now = self.setting.now();
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
        let now = self.setting.now_ms / 1_000;
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
            epoch: self.setting.epoch,
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
        let circumstances = self.setting.circumstances(policy);
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
        let members = [
            (8, Value::Bytes(self.request.encode())),
            (
                9,
                self.node
                    .as_ref()
                    .map_or(Value::Null, |(node, revision)| node_value(node, *revision)),
            ),
            (10, Value::bytes(self.cti)),
            (11, Value::bytes(self.signer)),
        ];
        cbor::encode(&Value::map(self.setting.members(FORMAT).into_iter().chain(members)))
    }

    /// Whether a record of inputs says that it is of such a decision.
    #[must_use]
    pub fn are(record: &[u8]) -> bool {
        is_of(record, FORMAT)
    }

    /// Reads a record.
    ///
    /// # Errors
    /// [`ForeignInputsError`]
    pub fn decode(record: &[u8]) -> Result<Self, ForeignInputsError> {
        let wrong = |key, expected| ShapeError::member(CONTEXT, key, expected, "something else");
        let mut reader = MapReader::new(cbor::decode(record, LIMITS)?, CONTEXT)?;
        let setting = Setting::read(&mut reader, FORMAT)?;
        let inputs = Self {
            setting,
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
