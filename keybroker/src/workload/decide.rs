//! The decision about one authorization below another. Pure: everything it rests on is an argument, and is recorded.
//!
//! Nothing is granted that the one above does not hold: scopes are a subset by exact equality, each with the right to hand
//! it on; time, depth, region and purpose only shrink; what stands above must all be there, be readable and count now. The
//! last word is the policies', of the domain, the region and the tenant. All reasons are told, not the first.

mod issued;
mod policies;
mod wanted;

use touchstone_authorization::{Asked, Authorization, DelegationRight, KeyKind, Scope, VerifiedAuthorization};
use touchstone_cose::key::VerifyingKey;
use touchstone_ledger::statement::{Reason, Statement};
use touchstone_policies::PolicySet;
use touchstone_verifier::inventory::{Lookup, Node};

pub(super) use policies::{Held, denied};

use super::inputs::{WorkloadInputs, WorkloadInputsError, judge_request};
use super::record::WorkloadRecord;
use crate::inputs::Part;
use crate::presented::{StatusSeen, against, known, reason, region_over, unknown};
use crate::record::sha256;
use crate::release::decide::ReleaseCode;

touchstone_cose::reason_codes! {
    /// Why no authorization below another one is issued to an authenticated holder.
    pub enum WorkloadCode {
        ParentMissing = "workload-parent-missing": "The broker keeps nothing of an authorization above the one that is asked for, or of the one that asks, so nothing is issued below it and no key is released to it. Ask the node for a new one.",
        ParentUnreadable = "workload-parent-unreadable": "What the broker keeps of an authorization above the one that is asked for, or of the one that asks, cannot be read, so nothing is issued below it and no key is released to it. Ask the node for a new one, and look at the store.",
        ParentOther = "workload-parent-other": "An authorization above the one that is asked for is not the one the broker keeps under its entry. Ask the node for a new one.",
        ParentFallen = "workload-parent-fallen": "An authorization above the one that is asked for is withdrawn or suspended. The ledger says why.",
        Label = "workload-label": "A workload is called [a-z0-9][a-z0-9._-]{0,31}, and with its node's name at most 128 bytes. Directly below a node its label has no dot; below a workload it is that one's label, a dot and a name, so that no workload names a child as another one is called.",
        Key = "workload-key": "The workload's key is no P-256 or Ed25519 COSE_Key, or is that of an authorization above it. Make a key for this workload alone.",
        KeyKindNotVouched = "workload-key-kind-not-vouched": "Nobody who could know says that the key is kept there: only the node itself vouches for keys in its own hardware. Ask through the node's agent, or with a key in software.",
        KeyKindRefused = "workload-key-kind-refused": "The signed settings issue no authorizations for keys that are kept there. Let the agent hold the key, or change [delegation] software_keys.",
        ScopeMalformed = "workload-scope-malformed": "A scope is action:resource, without wildcards, and named once.",
        ScopeNotHeld = "workload-scope-not-held": "The authorization above does not grant this scope, so none below it can.",
        ScopeNotDelegable = "workload-scope-not-delegable": "The authorization above does not grant delegate on this resource, so nothing on it can be handed on.",
        ScopeOfNode = "workload-scope-of-node": "bootstrap and administer are never handed on.",
        NotPermitted = "delegation-not-permitted": "The authorization above may not hand rights on, or not any deeper. Ask for one that may, or change [delegation] in the signed settings.",
        TooDeep = "workload-too-deep": "The authorization would stand deeper than the signed settings allow.",
        TooManyChildren = "workload-too-many-children": "As many authorizations hang below that one as the signed settings allow. They go when they run out.",
        TreeFull = "workload-tree-full": "More different scopes were issued or used below this node than are kept track of. Attest again under a new entry, or use fewer.",
        OfflineNotPermitted = "delegation-offline-not-permitted": "The right to hand on without asking is not given here: every authorization above must have it, and the signed settings must allow it.",
        Region = "workload-region-wider": "The authorization above counts in one region alone, and what is below it counts there or nowhere.",
        Purpose = "workload-purpose-wider": "The authorization above is for one purpose, and what is below it is for that or for nothing.",
        Word = "workload-word": "A region or purpose follows [a-z0-9][a-z0-9._-]{0,63}.",
        Dependency = "workload-dependency": "Something that it is to depend on is not there, or does not count now.",
        Attributes = "workload-attributes-not-vouched": "Only a node says what runs on it. Ask through its agent.",
        RenewalOther = "workload-renewal-other": "The entry that was to go on is not there, has ended, does not count, or is of another workload: another parent, label, key, region, purpose or dependency. Ask for a new one.",
        RegionPolicy = "workload-node-place": "The node is not in the inventory of its region now.",
    }
}

/// A decision.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkloadDecision {
    /// The node at the root.
    pub node: String,
    /// What the workload is called.
    pub subject: String,
    /// Every reason against; none where it is issued.
    pub reasons: Vec<Reason>,
    /// The statement.
    pub statement: Statement,
    /// The authorization, to be signed, and what is to be kept of it, where it is issued.
    pub issued: Option<(Authorization, WorkloadRecord)>,
    /// The inputs as they are to be recorded, and their digest.
    pub record: ([u8; 32], Vec<u8>),
    /// The parts that the record names by digest.
    pub parts: Vec<Part>,
}

/// What of a request could be read, and how far it may go.
struct Wanted {
    subject: String,
    scopes: Vec<Scope>,
    key: Option<VerifyingKey>,
    key_kind: KeyKind,
    delegation: Option<DelegationRight>,
    depth: u8,
    expires: i64,
}

/// Who asks, and the node at the root.
struct Asking<'a> {
    subject: &'a VerifiedAuthorization,
    node_name: &'a str,
    /// Entry of the inventory, where the node stands in the region it enrolled in.
    place: Option<&'a Node>,
}

impl WorkloadInputs {
    /// Decides, on these inputs and `policy` alone. Live and replay run this one function.
    ///
    /// # Errors
    /// [`WorkloadInputsError`]
    pub fn decide(&self, asked: &Asked, policy: &PolicySet) -> Result<WorkloadDecision, WorkloadInputsError> {
        self.setting.check(policy)?;
        let Some((subject, nonce)) = known(asked) else {
            return Err(WorkloadInputsError::Nobody { codes: unknown(asked) });
        };
        let asking = Asking {
            subject,
            node_name: node_of(&subject.contents().subject),
            place: self.place(policy),
        };
        let mut reasons = against(asked);
        self.judge_node(&asking, policy, &mut reasons);
        let node = self.node.as_ref().map(|(record, _)| record.status);
        self.ancestry
            .judge(subject, (asking.node_name, node), self.setting.generation, &mut reasons);
        let wanted = self.judge_wanted(&asking, policy, &mut reasons);
        self.judge_renewal(&asking, &wanted, policy, &mut reasons);
        self.judge_policies(&asking, &wanted, policy, &mut reasons);
        reasons.sort_by(|a, b| (&a.code, &a.claim, &a.found).cmp(&(&b.code, &b.claim, &b.found)));
        reasons.dedup();
        let (record, parts) = self.record();
        let digest = sha256(&record);
        let kept = wanted.key.as_ref().filter(|_| reasons.is_empty());
        let kept = kept.map(|key| self.kept(&asking, &wanted, key));
        let statement = self.statement(&asking, policy, &wanted, (&reasons, kept.as_ref()), (nonce, digest));
        let issued = match (&wanted.key, kept) {
            (Some(key), Some(kept)) => {
                let authorization = self.authorization(&asking, policy, &kept, key, statement.digest()?);
                Some((authorization, kept))
            }
            _ => None,
        };
        Ok(WorkloadDecision {
            node: asking.node_name.to_owned(),
            subject: wanted.subject,
            reasons,
            statement,
            issued,
            record: (digest, record),
            parts,
        })
    }

    /// Decides again: judges what was presented anew, on the state that was recorded.
    ///
    /// # Errors
    /// [`WorkloadInputsError`]
    pub fn again(&self, policy: &PolicySet) -> Result<WorkloadDecision, WorkloadInputsError> {
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

    fn place<'p>(&self, policy: &'p PolicySet) -> Option<&'p Node> {
        let (record, _) = self.node.as_ref()?;
        match policy.inventory.by_name(&record.name) {
            Lookup::Node(node) if node.region == record.region => Some(node),
            _ => None,
        }
    }

    /// What counts of the node at the root is what the broker holds of it.
    fn judge_node(&self, asking: &Asking<'_>, policy: &PolicySet, reasons: &mut Vec<Reason>) {
        let contents = asking.subject.contents();
        if contents.policy_version != policy.version {
            let (expected, found) = (policy.version.to_string(), contents.policy_version.to_string());
            let code = ReleaseCode::AuthorizationPolicyStale.as_str();
            reasons.push(reason(code, "policy", &expected, &found));
        }
        let not_enrolled = ReleaseCode::NodeNotEnrolled.as_str();
        let Some((record, _)) = self.node.as_ref().filter(|(record, _)| record.name == asking.node_name) else {
            reasons.push(reason(not_enrolled, "record", "a node's", "none"));
            return;
        };
        if record.withdrawn {
            let code = ReleaseCode::NodeWithdrawn.as_str();
            reasons.push(reason(code, "record", "rights", "withdrawn"));
        }
        if asking.place.is_none() {
            let code = WorkloadCode::RegionPolicy.as_str();
            reasons.push(reason(code, "inventory", "the node in its region", "not there"));
        }
        if self.shown.is_none() {
            let code = ReleaseCode::ResultMissing.as_str();
            reasons.push(reason(code, "result", "that of the last attestation", "none"));
        }
        // Nothing of a region counts after the end of what its own keys signed.
        reasons.extend(region_over(policy, &record.region, self.setting.now()));
    }
}

/// The node of a subject: what follows `@`, or all of it.
#[must_use]
pub fn node_of(subject: &str) -> &str {
    subject.split_once('@').map_or(subject, |(_, node)| node)
}

/// The label of a workload's subject: what stands before `@`.
fn label_of(subject: &str) -> &str {
    subject.split_once('@').map_or("", |(label, _)| label)
}

/// Whether `parent` may call something below it so. A name is given by whoever stands directly above, and within its own
/// name alone: what a node starts has no dot, and what a workload hands on begins with that workload's label and a dot. So
/// no two parents on one node can give the same name.
fn stands_below(label: &str, parent: &Authorization) -> bool {
    if parent.depth == 0 {
        return !label.contains('.');
    }
    label
        .strip_prefix(label_of(&parent.subject))
        .and_then(|rest| rest.strip_prefix('.'))
        .is_some_and(|name| !name.is_empty())
}
