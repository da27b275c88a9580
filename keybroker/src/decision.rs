//! The decision: recorded inputs and a policy in; a refusal, or a statement with everything that follows from it, out.
//!
//! Pure and deterministic: no clock, no I/O, no randomness; what is random or read from a clock is an input. Live and
//! replay run this one function, so the same inputs give the same payload bytes on every replica and every year after
//! (`docs/protocol.md`, section 10). Signatures are made elsewhere.

mod shortfall;
mod statement;

use std::collections::BTreeSet;

use touchstone_authorization::token::MAX_LINEAGE_DEPTH;
use touchstone_authorization::{Action, Authorization, DelegationRight, KeyKind, Scope};
use touchstone_evidence::binder::Role;
use touchstone_ledger::statement::{Statement, StatementError};
use touchstone_policies::Job;
use touchstone_policies::PolicySet;
use touchstone_policies::region::appraise_in_region;
use touchstone_policies::{DecisionReason, Demands, Request};
use touchstone_verifier::appraisal::{
    Appraisal, BinderContext, ClaimValue, Freshness, ImaKnown, ImaOutcome, Inputs, Known, appraise, claim,
};
use touchstone_verifier::ear::{Ear, EarReason};
use touchstone_verifier::inventory::{CvmIdentity, EnrolledNode, EnrolledRoot, Inventory, Lookup, Node};
use touchstone_verifier::policy::AppraisalPolicy;
use touchstone_verifier::reason::Code;
use touchstone_verifier::snp::KnownVek;

use crate::bars;
use crate::bootstrap;
use crate::first_use;
use crate::inputs::{DecisionInputs, RecordedInputs};
use crate::tenants;
pub use statement::BODY_SCOPES;
use statement::{digests, statement};

/// Which rules decide; recorded in every statement.
pub use touchstone_verifier::SEMANTICS_ID;

touchstone_cose::reason_codes! {
    /// Why the broker denied an authenticated node, beside what the appraisal and the policies say.
    pub enum DenialCode {
        SemanticsUnknown = "semantics-unknown": "The decision was made by rules this release does not know. Replay it with the release that knows them.",
        PolicyOther = "policy-other": "The policy given is not the one the decision was made under. Give the policy with that digest.",
        RegionChanged = "enrolment-region-changed": "The inventory lists the node in another region than it enrolled in. One name has one region: give the machine another name.",
        SigningKeyUnlisted = "signing-key-unlisted": "The key that would sign the authorization is not in the signed keyset now. Add it, or remove this broker.",
        ValidityOver = "validity-over": "Something the decision rests on has just expired. Renew what the reason names.",
        NothingGranted = "nothing-granted": "The policies permit none of the scopes that the settings offer. Look at the reasons beside this one.",
        PolicyNoLonger = "policy-no-longer-permits": "What the node showed last is not acceptable under the policy that has come into force. It gets new rights by showing something that is.",
        DeadlinePassed = "attestation-overdue": "The node has not attested within the deadline of the policy, so its rights were withdrawn. It gets new ones by attesting.",
        IdentityReplaced = "identity-replaced": "Another machine, listed in the inventory under the same name, has enrolled. The rights of the one before it were withdrawn.",
        Decommissioned = "decommissioned": "An operator has decommissioned the node. Its rights were withdrawn, and it gets none until it is reinstated.",
        FirstUseClosed = "first-use-closed": "The machine is in no entry of the inventory, and enrolled at a time at which the signed settings let none in. Add it to the inventory under its name.",
        FirstUseFull = "first-use-full": "More machines have enrolled on first use than the signed settings allow. Add the machine to the inventory under its name.",
        FirstUseCertificate = "first-use-certificate": "A machine that is in no entry of the inventory enrols only with an endorsement certificate that is valid and leads to a trust anchor. Add the maker's authority, or add the machine to the inventory.",
        FirstUseActivation = "first-use-activation": "A machine that is in no entry of the inventory enrols only by opening a credential made for its endorsement key. Let the agent say hello with both keys.",
        TenantUnknown = "tenant-unknown": "The node's entry names an owner who is no tenant of the domain. List the tenant in tenants.toml, or correct the entry.",
        TenantName = "tenant-name-of-another": "The node is named after a tenant who does not own it, or its owner's nodes are named otherwise. A tenant's nodes are called <tenant>.<name>.",
        TenantNodesFull = "tenant-nodes-full": "The node's tenant has as many nodes as signed policy allows. Raise nodes in tenants.toml, or take one out.",
        OperatorCommand = "operator-command": "An operator withdrew the node's rights.",
        SecurityEvent = "security-event-reported": "A detector that signed policy names reported this subject, so its rights were suspended or withdrawn. Look at what it reported; touchstone lift takes a quarantine back.",
        Quarantined = "quarantined": "The node or workload is in quarantine: what it holds is suspended and it gets nothing new. touchstone lift takes that back, and its next good evidence brings back what was suspended.",
        Contained = "contained": "The node's zone, or the whole domain, is suspended because of one of its members or by command. touchstone lift takes that back.",
        Interrupted = "broker-interrupted": "The broker's last run did not end in order, and something may have been withdrawn that is not on record: everything was suspended. A node or workload comes back when it is granted something again.",
        ReferenceBarred = "reference-barred": "What the node shows rests on a reference value that an operator has barred, or that a barred signer signed. Update the machine to software of another reference, or lift the bar.",
    }
}

/// What comes of evidence.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// Not authentic: the requester is refused, and no state of any node is touched (`docs/protocol.md`, section 4).
    Refused(Vec<EarReason>),
    /// Decided about an authenticated node: recorded, allow and deny alike.
    Decided(Box<Decided>),
}

/// A decision about an authenticated node.
#[derive(Debug, Clone, PartialEq)]
pub struct Decided {
    /// The node.
    pub node: String,
    /// Its region, by the signed inventory.
    pub region: String,
    /// The statement.
    pub statement: Statement,
    /// SHA-256 of the statement's payload.
    pub digest: [u8; 32],
    /// The attestation result.
    pub ear: Ear,
    /// Every reason against; empty where it is allowed.
    pub reasons: Vec<EarReason>,
    /// Scopes that the settings offer and the policies withhold, where it is allowed all the same.
    pub withheld: Vec<EarReason>,
    /// The confidential VM, as the inventory lists it, where the evidence is of one.
    pub cvm: Option<CvmIdentity>,
    /// The key that signed its report, with the chain that was verified for it.
    pub vek: Option<KnownVek>,
    /// The codes of the appraisal's reasons alone, each once.
    pub appraised: BTreeSet<Code>,
    /// What is granted; nothing where it is denied.
    pub grant: Option<Grant>,
    /// The inputs, as they are to be recorded.
    pub recorded: RecordedInputs,
    /// What a grant makes the broker keep of the node's IMA list: what a later appraisal goes on from.
    pub list: Option<ImaOutcome>,
}

/// What an allowed node is granted.
#[derive(Debug, Clone, PartialEq)]
pub struct Grant {
    /// The authorization, to be signed.
    pub authorization: Authorization,
    /// What is to be stored of the node.
    pub enrolled: EnrolledNode,
}

/// Why no decision can be made at all. The caller refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecisionError {
    /// The inputs name other rules than this release has.
    #[error("the rules are {found}, this release has {expected}")]
    Semantics {
        /// The rules of this release.
        expected: &'static str,
        /// The rules in the inputs.
        found: String,
    },
    /// The policy given is another one than the inputs name.
    #[error("the policy is {}, the inputs name {}", hex::encode(found), hex::encode(expected))]
    Policy {
        /// The digest in the inputs.
        expected: [u8; 32],
        /// The digest of the policy given.
        found: [u8; 32],
    },
    /// The statement is not one that can be recorded.
    #[error(transparent)]
    Statement(#[from] StatementError),
}

impl DecisionError {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Semantics { .. } => DenialCode::SemanticsUnknown.as_str(),
            Self::Policy { .. } => DenialCode::PolicyOther.as_str(),
            Self::Statement(error) => error.code(),
        }
    }
}

/// Whether what was recorded under these rules and this policy is decided here: under no others.
pub(crate) fn check(semantics: &str, policy_digest: [u8; 32], policy: &PolicySet) -> Result<(), DecisionError> {
    if semantics != SEMANTICS_ID {
        return Err(DecisionError::Semantics {
            expected: SEMANTICS_ID,
            found: semantics.to_owned(),
        });
    }
    if policy_digest != policy.digest {
        return Err(DecisionError::Policy {
            expected: policy_digest,
            found: policy.digest,
        });
    }
    Ok(())
}

/// Decides.
///
/// # Errors
/// [`DecisionError`]
pub fn decide(inputs: &DecisionInputs, policy: &PolicySet) -> Result<Decision, DecisionError> {
    decide_under(inputs, policy, None, Known::default())
}

/// Decides, under the demands of the node's region, or with those of `instead` in their place: for what a node showed before
/// it was asked for everything that this policy demands. `known` saves work, and changes no answer.
///
/// # Errors
/// [`DecisionError`]
pub fn decide_under(
    inputs: &DecisionInputs,
    policy: &PolicySet,
    instead: Option<&AppraisalPolicy>,
    known: Known<'_>,
) -> Result<Decision, DecisionError> {
    check(&inputs.semantics, inputs.policy_digest, policy)?;
    let inventory = first_use::inventory(inputs.first_use.as_ref(), policy);
    let mut appraisal = appraise_in_region(policy, &inventory, inputs.region.as_deref(), |demands| {
        if inputs.barred.is_empty() {
            return appraise_with(inputs, (demands, &inventory), instead, known);
        }
        let references = bars::without(demands.references, &inputs.barred);
        let references = &references;
        appraise_with(inputs, (Demands { references, ..demands }, &inventory), instead, known)
    });
    // Whether it would be acceptable but for the bars: then it is told so.
    let by_bars = !inputs.barred.is_empty()
        && !appraisal.reasons.is_empty()
        && appraise_in_region(policy, &inventory, inputs.region.as_deref(), |demands| {
            appraise_with(inputs, (demands, &inventory), instead, known)
        })
        .reasons
        .is_empty();
    let unlisted = appraisal
        .node
        .as_deref()
        .and_then(|name| first_use::speaks_of(inputs.first_use.as_ref(), policy, name));
    let unlisted_reasons = unlisted.as_ref().map_or_else(Vec::new, |(first_use, setting)| {
        first_use::reasons(first_use, setting, &appraisal)
    });
    if unlisted.is_some() {
        let first_use = ClaimValue::Text(first_use::FIRST_USE.to_owned());
        appraisal.claims.insert(claim::ENROLMENT.to_owned(), first_use);
    }
    let mut ear = Ear::of(
        &appraisal,
        &policy.settings.appraisal.policy_id,
        &inputs.nonce,
        inputs.now,
    );
    let named = appraisal.node.as_deref().map(|name| inventory.by_name(name));
    // A machine that nobody has listed and that may not enrol is nobody of this domain: nothing is recorded of it.
    let nobody = inputs.enrolled.is_none() && !unlisted_reasons.is_empty();
    let (true, Some(Lookup::Node(node)), false) = (appraisal.authentic, named, nobody) else {
        let reasons = appraisal.reasons.iter().map(EarReason::from);
        return Ok(Decision::Refused(reasons.chain(unlisted_reasons).collect()));
    };
    let judged = judge(inputs, policy, &appraisal, (node, unlisted_reasons), by_bars);
    ear.expires = Some(
        ear.expires
            .map_or(judged.expires, |expires| expires.min(judged.expires)),
    );
    let recorded = inputs.record();
    let statement = Statement {
        inputs: digests(inputs, &recorded, policy, node),
        ..statement(inputs, policy, &appraisal, node, &judged, &ear)
    };
    let digest = statement.digest()?;
    let appraised = appraisal.reasons.iter().map(|reason| reason.code).collect();
    let grant = match (appraisal.enrol, judged.reasons.is_empty()) {
        (Some(enrolled), true) => Some(Grant {
            authorization: authorization(inputs, policy, node, &judged, (digest, key_kind(&enrolled))),
            enrolled,
        }),
        _ => None,
    };
    Ok(Decision::Decided(Box::new(Decided {
        node: node.name.clone(),
        region: node.region.clone(),
        statement,
        digest,
        ear,
        withheld: if grant.is_some() { judged.withheld } else { Vec::new() },
        reasons: judged.reasons,
        appraised,
        cvm: appraisal.cvm,
        vek: appraisal.vek,
        list: appraisal.ima.filter(|_| grant.is_some()),
        grant,
        recorded,
    })))
}

fn appraise_with(
    inputs: &DecisionInputs,
    (demands, inventory): (Demands<'_>, &Inventory),
    instead: Option<&AppraisalPolicy>,
    known: Known<'_>,
) -> Appraisal {
    appraise(&Inputs {
        collection: &inputs.evidence,
        freshness: Freshness::Bound {
            binder: BinderContext {
                role: Role::Node,
                domain: &inputs.domain,
                session_id: inputs.session_id,
                nonce: inputs.nonce,
                receive_key: inputs.receive_key,
                tls_exporter: inputs.tls_exporter,
            },
            asked: &inputs.asked,
            session_key: &inputs.session_key,
            activated: inputs.activated.as_ref(),
        },
        policy: instead.unwrap_or(demands.appraisal),
        references: demands.references,
        anchors: demands.anchors,
        inventory,
        enrolled: inputs.enrolled.as_ref(),
        ima: inputs.ima.as_ref().map_or_else(ImaKnown::default, |known| ImaKnown {
            prefix: Some(&known.prefix),
            seen: known.entries.as_deref(),
        }),
        known,
        now: inputs.now,
    })
}

/// The verdict over everything.
struct Judged {
    scopes: Vec<Scope>,
    /// Unix second from which on nothing of it counts.
    expires: i64,
    reasons: Vec<EarReason>,
    /// Scopes that the settings offer and the policies withhold.
    withheld: Vec<EarReason>,
}

fn judge(
    inputs: &DecisionInputs,
    policy: &PolicySet,
    appraisal: &Appraisal,
    (node, unlisted): (&Node, Vec<EarReason>),
    by_bars: bool,
) -> Judged {
    let mut reasons: Vec<EarReason> = appraisal.reasons.iter().map(EarReason::from).collect();
    reasons.extend(unlisted);
    reasons.extend(tenants::against(policy, node));
    if by_bars {
        let barred: Vec<String> = inputs
            .barred
            .iter()
            .map(|bar| format!("{} {}", bar.kind(), bar.name()))
            .collect();
        reasons.push(reason(
            DenialCode::ReferenceBarred,
            "references",
            "none that is barred",
            &barred.join(", "),
        ));
    }
    if let Some(held) = &inputs.held {
        reasons.push(reason(
            held.code(),
            &format!("{} {}", held.over, held.name),
            "not suspended",
            &held.why,
        ));
    }
    if let Some(enrolled) = inputs.region.as_deref().filter(|region| *region != node.region) {
        reasons.push(reason(DenialCode::RegionChanged, "region", enrolled, &node.region));
    }
    // Nothing of a region counts after the end of what its own keys signed.
    if let Err(error) = policy.check_region_live(&node.region, inputs.now) {
        let problems = error.into_problems().into_iter();
        reasons.extend(problems.map(|problem| EarReason {
            code: problem.code.as_str().into(),
            claim: problem.claim,
            expected: problem.expected,
            found: problem.found,
        }));
    }
    let (scopes, withheld) = scopes(inputs, policy, appraisal, node);
    if scopes.is_empty() {
        reasons.extend(withheld.iter().cloned());
        reasons.push(reason(DenialCode::NothingGranted, "scopes", "at least one", "none"));
    }
    let life = i64::try_from(policy.demands(&node.region).timers.authorization_life_ms / 1_000).unwrap_or(0);
    let signer = policy.keyset.find(Job::Authorization, &inputs.signer, inputs.now);
    if signer.is_none() {
        let found = hex::encode(inputs.signer);
        reasons.push(reason(
            DenialCode::SigningKeyUnlisted,
            "signing key",
            "a key of the keyset",
            &found,
        ));
    }
    // `expires` of an appraisal and `not_after` of a key are their last second; ours is the first one after.
    let ends = [
        ("authorization life", inputs.now.saturating_add(life)),
        ("policy", inputs.policy_expires),
        (
            "policy of the region",
            policy
                .regions
                .get(&node.region)
                .map_or(i64::MAX, |region| region.expires),
        ),
        ("evidence and endorsements", appraisal.expires.saturating_add(1)),
        (
            "signing key",
            signer.map_or(i64::MAX, |key| key.not_after.saturating_add(1)),
        ),
    ];
    let (what, expires) = ends
        .into_iter()
        .min_by_key(|(_, end)| *end)
        .unwrap_or(("nothing", inputs.now));
    if expires <= inputs.now {
        let expected = format!("an end after {}", inputs.now);
        reasons.push(reason(DenialCode::ValidityOver, what, &expected, &expires.to_string()));
    }
    // An affirming appraisal without anything to store cannot be renewed: it is not one that is understood here.
    if reasons.is_empty() && appraisal.enrol.is_none() {
        reasons.push(reason(
            DenialCode::NothingGranted,
            "enrolment",
            "an identity to store",
            "none",
        ));
    }
    reasons.dedup();
    Judged {
        scopes,
        expires,
        reasons,
        withheld,
    }
}

/// The scopes of the settings that both policies permit, and why not the others.
fn scopes(
    inputs: &DecisionInputs,
    policy: &PolicySet,
    appraisal: &Appraisal,
    node: &Node,
) -> (Vec<Scope>, Vec<EarReason>) {
    let (mut granted, mut withheld) = (Vec::new(), Vec::new());
    let whole = policy.seen_by_whole(node);
    for scope in policy.demands(&node.region).scopes {
        if scope.action == bootstrap::ACTION
            && let Some(refusal) = bootstrap::refusal(node, &appraisal.claims)
        {
            withheld.push(refusal);
            continue;
        }
        let decision = policy.cedar.decide(
            &node.region,
            &Request {
                zone: node.zone.as_deref(),
                roles: &node.roles,
                owner: node.owner.as_deref(),
                whole: whole.as_ref(),
                status: appraisal.status.as_str(),
                ak_binding: appraisal.ak_binding.as_str(),
                now: inputs.now,
                policy_version: policy.version,
                ..Request::of_node(
                    &node.name,
                    &node.region,
                    &scope.action,
                    &scope.resource,
                    &appraisal.claims,
                )
            },
        );
        let text = scope.to_string();
        match (decision.allow, Scope::parse(&text)) {
            (true, Ok(scope)) => granted.push(scope),
            _ => withheld.extend(decision.reasons.iter().map(|denied| withheld_reason(&text, denied))),
        }
    }
    granted.truncate(touchstone_authorization::scope::MAX_SCOPES);
    (granted, withheld)
}

fn withheld_reason(scope: &str, denied: &DecisionReason) -> EarReason {
    EarReason {
        code: denied.code.as_str().to_owned(),
        claim: format!("{scope}: {}", denied.claim),
        expected: denied.expected.clone(),
        found: denied.found.clone(),
    }
}

fn reason(code: DenialCode, claim: &str, expected: &str, found: &str) -> EarReason {
    EarReason {
        code: code.as_str().into(),
        claim: claim.into(),
        expected: expected.into(),
        found: found.into(),
    }
}

fn authorization(
    inputs: &DecisionInputs,
    policy: &PolicySet,
    node: &Node,
    judged: &Judged,
    (statement, key_kind): ([u8; 32], KeyKind),
) -> Authorization {
    let seconds = |value: i64| u64::try_from(value).unwrap_or(0);
    Authorization {
        issuer: inputs.domain.clone(),
        subject: node.name.clone(),
        audience: inputs.domain.clone(),
        expires: seconds(judged.expires),
        not_before: seconds(inputs.now),
        issued_at: seconds(inputs.now),
        cti: inputs.cti,
        confirmation: inputs.session_key.clone(),
        scopes: judged.scopes.clone(),
        policy_version: policy.version,
        epoch: inputs.epoch,
        parent: None,
        statement,
        status: inputs.status,
        key_kind,
        depth: 0,
        delegation: delegation(policy, node, &judged.scopes),
        region: None,
        purpose: None,
    }
}

/// Whether and how far a node may hand its rights on: as the settings say, where it holds the right to for anything at all.
fn delegation(policy: &PolicySet, node: &Node, scopes: &[Scope]) -> Option<DelegationRight> {
    let bounds = policy.demands(&node.region).delegation;
    let holds = scopes.iter().any(|scope| scope.action() == Action::Delegate);
    let depth = bounds.max_depth.min(MAX_LINEAGE_DEPTH);
    (holds && depth > 0).then_some(DelegationRight {
        depth,
        offline: bounds.offline,
    })
}

/// What holds the session key: a TPM only where it has certified the key. A node with a TPM whose session key is certified
/// by nothing is one whose confidential VM vouches for a key in its memory; an appraisal affirms no third kind.
const fn key_kind(enrolled: &EnrolledNode) -> KeyKind {
    match (&enrolled.root, &enrolled.session_key) {
        (EnrolledRoot::Tpm(_), Some(_)) => KeyKind::Tpm,
        _ => KeyKind::Tee,
    }
}
