//! What is asked of the Cedar policies, and what they answer.

use touchstone_verifier::appraisal::Claims;

touchstone_cose::reason_codes! {
    /// Why a decision was no.
    pub enum DecisionCode {
        GlobalDenied = "denied-by-domain-policy": "The domain's policy does not permit this to this node. Look at the policies named, and at the node's claims.",
        RegionDenied = "denied-by-region-policy": "The policy of the node's region does not permit this to this node. Look at the policies named, and at the node's claims.",
        RegionMissing = "region-policy-missing": "The node's region has no policy of its own, so nothing is permitted there. Add regions/<region>/policy.cedar.",
        EvaluationError = "policy-evaluation-error": "A policy could not be evaluated for this request, so nothing is permitted. Correct the policy named.",
        RequestInvalid = "policy-request-invalid": "The request names an action, node or resource that the schema does not know.",
    }
}

/// One reason for a denial.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DecisionReason {
    /// The stable code.
    pub code: DecisionCode,
    /// What it is about: the policy file.
    pub claim: String,
    /// What would have been accepted.
    pub expected: String,
    /// What was decided, naming the policies that did.
    pub found: String,
}

/// A decision. Not allowed without a reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CedarDecision {
    /// Whether both policies permit.
    pub allow: bool,
    /// Why not, sorted; empty where it is allowed.
    pub reasons: Vec<DecisionReason>,
}

/// What is decided about.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The node's name.
    pub node: &'a str,
    /// Its region: which region's policy is asked.
    pub region: &'a str,
    /// Its zone.
    pub zone: Option<&'a str>,
    /// Its roles.
    pub roles: &'a [String],
    /// One of [`ACTIONS`](crate::settings::ACTIONS).
    pub action: &'a str,
    /// What is acted on.
    pub resource: &'a str,
    /// The appraisal's status: `affirming`, `warning`, `contraindicated` or `none`.
    pub status: &'a str,
    /// How the attestation key is tied to the hardware: `activated`, `enrolled`, `inventory` or `none`.
    pub ak_binding: &'a str,
    /// What the appraisal found. A claim that the signed schema does not declare is not shown to policies.
    pub claims: &'a Claims,
    /// Unix seconds.
    pub now: i64,
    /// The version of the policy that decides.
    pub policy_version: u64,
}
