//! What is asked of the Cedar policies, and what they answer.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use touchstone_verifier::appraisal::Claims;

touchstone_cose::reason_codes! {
    /// Why a decision was no.
    pub enum DecisionCode {
        GlobalDenied = "denied-by-domain-policy": "The domain's policy does not permit this to this node. Look at the policies named, and at the node's claims.",
        RegionDenied = "denied-by-region-policy": "The policy of the node's region does not permit this to this node. Look at the policies named, and at the node's claims.",
        RegionMissing = "region-policy-missing": "The node's region has no policy of its own, so nothing is permitted there. Add regions/<region>/policy.cedar.",
        TenantDenied = "denied-by-tenant-policy": "The policy of the tenant who owns the node does not permit this. Look at the policies named, and at the node's claims.",
        TenantMissing = "tenant-policy-missing": "The tenant who owns the node has no policy of its own, so its nodes are permitted nothing. Add tenants/<tenant>/policy.cedar.",
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
    /// The policies that forbid it, each by its file and `@id`, sorted.
    pub forbids: Vec<(String, String)>,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Principal {
    /// A machine of the inventory.
    Node,
    /// What runs on a machine under an authorization of its own.
    Workload,
    /// A person.
    Operator,
}

/// What a policy is told of a node beside its name and region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSeen<'a> {
    /// Its zone.
    pub zone: Option<&'a str>,
    /// Its roles.
    pub roles: Cow<'a, [String]>,
    /// Its owner.
    pub owner: Option<&'a str>,
}

/// Most entries of one set of [`LineageFacts`]: whoever has more is not shown to policies, and denied.
pub const MAX_LINEAGE_FACTS: usize = 4096;

/// What policies are told of a lineage (`context.lineage`): of the tree of authorizations below one node's own, up to the
/// moment of the request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LineageFacts {
    /// How many authorizations stand above the one that is asked for.
    pub depth: u32,
    /// The subjects above it.
    pub parents: BTreeSet<String>,
    /// The rights (`action:resource`) that were granted in this tree so far.
    pub issued: BTreeSet<String>,
    /// The rights that were used in this tree, as listed enforcers reported or because a key was released, and how often.
    pub used: BTreeMap<String, u64>,
    /// How many uses there were, of all rights.
    pub uses: u64,
    /// How many authorizations stand directly below the one above, the one that asks or is asked for not counted.
    pub children: u64,
    /// What holds the key of the one that asks: `tpm`, `tee`, `software`, or `none` where none was named.
    pub key_kind: String,
    /// Who started it, as its node says.
    pub started_by: Option<String>,
    /// SHA-256 of its executable in hexadecimal, as its node says.
    pub executable: Option<String>,
}

/// What is decided about.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// What kind of principal asks.
    pub principal: Principal,
    /// Its name.
    pub name: &'a str,
    /// Its region: which region's policy is asked.
    pub region: &'a str,
    /// Its zone.
    pub zone: Option<&'a str>,
    /// Its roles.
    pub roles: &'a [String],
    /// Whose it is, where the inventory says.
    pub owner: Option<&'a str>,
    /// What the policies that the whole signs are told of zone, roles and owner, where that is not everything: a region may
    /// say more of its nodes than the whole takes its word for.
    pub whole: Option<&'a NodeSeen<'a>>,
    /// One of [`ACTIONS`](crate::settings::ACTIONS).
    pub action: &'a str,
    /// The class of things that is acted on: the second part of a scope.
    pub resource: &'a str,
    /// The one thing of that class, where one is asked for: the key, the workload.
    pub item: Option<&'a str>,
    /// The appraisal's status: `affirming`, `warning`, `contraindicated` or `none`.
    pub status: &'a str,
    /// How the attestation key is tied to the hardware: `activated`, `enrolled`, `inventory` or `none`.
    pub ak_binding: &'a str,
    /// What the appraisal found. A claim that the signed schema does not declare is not shown to policies.
    pub claims: &'a Claims,
    /// What it is for, as the request says.
    pub purpose: Option<&'a str>,
    /// How many authorizations stand above the one that is asked for: 0 for a node's own. Where [`Request::lineage`] is
    /// there, what it says counts.
    pub lineage_depth: u32,
    /// What the authorization that is asked for hangs below, and what has come of that so far; nothing for a node's own.
    pub lineage: Option<&'a LineageFacts>,
    /// Unix seconds.
    pub now: i64,
    /// The version of the policy that decides.
    pub policy_version: u64,
}

impl<'a> Request<'a> {
    /// A node's request, of which nothing is known but this: no zone, no role, nothing appraised, at time 0 under version 0.
    /// What the caller knows beside, it sets.
    pub fn of_node(name: &'a str, region: &'a str, action: &'a str, resource: &'a str, claims: &'a Claims) -> Self {
        Request {
            principal: Principal::Node,
            name,
            region,
            zone: None,
            roles: &[],
            owner: None,
            whole: None,
            action,
            resource,
            item: None,
            status: "none",
            ak_binding: "none",
            claims,
            purpose: None,
            lineage_depth: 0,
            lineage: None,
            now: 0,
            policy_version: 0,
        }
    }

    /// The request as the policies see it that the whole signs; nothing where that is the request itself.
    pub(crate) fn seen_by_whole(&self) -> Option<Request<'a>> {
        self.whole.map(|seen| Request {
            zone: seen.zone,
            roles: &seen.roles,
            owner: seen.owner,
            whole: None,
            ..*self
        })
    }
}
