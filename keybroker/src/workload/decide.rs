//! The decision about one authorization below another. Pure: everything it rests on is an argument, and is recorded.
//!
//! Nothing is granted that the one above does not hold: scopes are a subset by exact equality, each with the right to hand
//! it on; time, depth, region and purpose only shrink; what stands above must all be there, be readable and count now. The
//! last word is the policies', of the domain, the region and the tenant. All reasons are told, not the first.

use std::collections::BTreeSet;

use touchstone_authorization::name::{is_label, is_subject, is_word};
use touchstone_authorization::token::StatusIndex;
use touchstone_authorization::{
    Action, Asked, Authorization, DelegationRight, DomainState, KeyKind, RevokedIds, Scope, VerifiedAuthorization,
};
use touchstone_cose::cbor::{self, Value};
use touchstone_cose::key::VerifyingKey;
use touchstone_evidence::message::{Attributes, dependency_values};
use touchstone_ledger::statement::{Kind, Outcome, Reason, Statement};
use touchstone_policies::{Job, LineageFacts, PolicySet, Principal};
use touchstone_verifier::appraisal::ClaimValue;
use touchstone_verifier::inventory::{Lookup, Node};

use super::inputs::{Above, Kept, WorkloadInputs, WorkloadInputsError, is_valid, judge_request, known, sha256};
use super::record::{MAX_CHILDREN, MAX_TREE_SCOPES, Tree, WorkloadRecord, delegation_value, key_kind, scope_values};
use crate::clock::seconds;
use crate::decision::{DecisionError, DenialCode, SEMANTICS_ID};
use crate::inputs::Part;
use crate::lineage::BODY_LINEAGE;
use crate::node::status_value;
use crate::release::decide::ReleaseCode;
use crate::release::shown::Shown;
use crate::statements::Circumstances;

touchstone_cose::reason_codes! {
    /// Why no authorization below another one is issued to an authenticated holder.
    pub enum WorkloadCode {
        ParentMissing = "workload-parent-missing": "The broker keeps nothing of an authorization above the one that is asked for, so nothing is issued below it. Ask the node for a new one.",
        ParentUnreadable = "workload-parent-unreadable": "What the broker keeps of an authorization above the one that is asked for cannot be read, so nothing is issued below it. Ask the node for a new one, and look at the store.",
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
        TreeFull = "workload-tree-full": "More different scopes were issued below this node than are kept track of. Attest again under a new entry, or use fewer.",
        OfflineNotPermitted = "delegation-offline-not-permitted": "The right to hand on without asking is not given here: every authorization above must have it, and the signed settings must allow it.",
        Region = "workload-region-wider": "The authorization above counts in one region alone, and what is below it counts there or nowhere.",
        Purpose = "workload-purpose-wider": "The authorization above is for one purpose, and what is below it is for that or for nothing.",
        Word = "workload-word": "A region or purpose follows [a-z0-9][a-z0-9._-]{0,63}.",
        Dependency = "workload-dependency": "Something that it is to depend on is not there, or does not count now.",
        Attributes = "workload-attributes-not-vouched": "Only a node says what runs on it. Ask through its agent.",
        RenewalOther = "workload-renewal-other": "The entry that was to go on is not there, does not count, or is of another workload: another parent, label, key, region, purpose or dependency. Ask for a new one.",
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
        self.check(policy)?;
        let Some((subject, nonce)) = known(asked) else {
            let codes = asked.refusals.iter().map(|refusal| refusal.code.as_str().to_owned());
            return Err(WorkloadInputsError::Nobody { codes: codes.collect() });
        };
        let asking = Asking {
            subject,
            node_name: node_of(&subject.contents().subject),
            place: self.place(policy),
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
        self.judge_node(&asking, policy, &mut reasons);
        self.judge_above(&asking, &mut reasons);
        let wanted = self.judge_wanted(&asking, policy, &mut reasons);
        self.judge_renewal(&asking, &wanted, &mut reasons);
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
        self.check(policy)?;
        let lists = self.lists()?;
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

    /// Everything from who asks up to the node is there, is what it says, and counts now. Missing and unreadable deny.
    fn judge_above(&self, asking: &Asking<'_>, reasons: &mut Vec<Reason>) {
        let contents = asking.subject.contents();
        let mut next = contents.status;
        let mut depth = contents.depth;
        let at = |entry: &StatusIndex| format!("entry {} of list {}", entry.index, entry.list);
        let mut refuse = |code: WorkloadCode, entry: &StatusIndex, expected: &str, found: &str| {
            let claim = format!("lineage, {}", at(entry));
            reasons.push(reason(code.as_str(), &claim, expected, found));
        };
        for above in &self.above {
            let (code, found) = match &above.kept.0 {
                Kept::Missing => (WorkloadCode::ParentMissing, "nothing"),
                Kept::Unreadable => (WorkloadCode::ParentUnreadable, "not readable"),
                Kept::Record(record) => {
                    let first = above.entry == contents.status;
                    let same = above.entry == next
                        && record.status == next
                        && record.depth == depth
                        && depth > 0
                        && record.node == asking.node_name
                        && (!first
                            || (record.key == *asking.subject.confirmation_thumbprint()
                                && record.subject == contents.subject));
                    if !same {
                        refuse(WorkloadCode::ParentOther, &above.entry, "what was presented", "another");
                        return;
                    }
                    if !is_valid(&above.entry, above.seen.as_ref(), self.generation) {
                        refuse(
                            WorkloadCode::ParentFallen,
                            &above.entry,
                            "valid",
                            "withdrawn or suspended",
                        );
                    }
                    (next, depth) = (record.parent, depth - 1);
                    continue;
                }
            };
            refuse(code, &above.entry, "a record", found);
            return;
        }
        let node = self.node.as_ref().map(|(record, _)| record.status);
        if depth != 0 || node != Some(next) {
            refuse(WorkloadCode::ParentOther, &next, "the node's entry", "another");
        } else if !is_valid(&next, self.node_seen.as_ref(), self.generation) {
            refuse(WorkloadCode::ParentFallen, &next, "valid", "withdrawn or suspended");
        }
    }

    /// What is asked for is well formed, and nowhere wider than what stands above and what the settings allow.
    fn judge_wanted(&self, asking: &Asking<'_>, policy: &PolicySet, reasons: &mut Vec<Reason>) -> Wanted {
        let request = &self.request;
        let parent = asking.subject.contents();
        let of_node = parent.depth == 0;
        let mut refuse = |code: WorkloadCode, claim: &str, expected: &str, found: &str| {
            reasons.push(reason(code.as_str(), claim, expected, found));
        };
        let region = self.node.as_ref().map_or("", |(record, _)| record.region.as_str());
        let bounds = policy.demands(region).delegation;

        let subject = format!("{}@{}", request.label, asking.node_name);
        if !is_label(&request.label) || !is_subject(&subject) {
            refuse(WorkloadCode::Label, "label", "a label", &request.label);
        } else if !stands_below(&request.label, parent) {
            let expected = match of_node {
                true => "a label without a dot".to_owned(),
                false => format!("{}.NAME", label_of(&parent.subject)),
            };
            refuse(WorkloadCode::Label, "label", &expected, &request.label);
        }
        let key = cbor::decode(&request.key, KEY_LIMITS)
            .ok()
            .and_then(|key| VerifyingKey::from_cose_key(&key).ok())
            .filter(|key| {
                use touchstone_cose::key::Algorithm;
                matches!(key.algorithm(), Algorithm::Ed25519 | Algorithm::Esp256)
            });
        let above: BTreeSet<[u8; 32]> = self
            .above
            .iter()
            .filter_map(|above| above.record().map(|record| record.key))
            .chain([*asking.subject.confirmation_thumbprint()])
            .collect();
        match &key {
            None => refuse(WorkloadCode::Key, "key", "a P-256 or Ed25519 key", "none"),
            Some(key) if above.contains(&key.thumbprint()) => {
                refuse(WorkloadCode::Key, "key", "one of its own", "that of one above it");
            }
            Some(_) => {}
        }
        let kind = key_kind(&request.key_kind);
        // A node vouches for what its own hardware keeps; nobody else for any.
        let vouched = match kind {
            Some(KeyKind::Software) => true,
            Some(kind) => of_node && kind == parent.key_kind,
            None => false,
        };
        if !vouched {
            let code = WorkloadCode::KeyKindNotVouched;
            refuse(code, "key kind", "what the node vouches for", &request.key_kind);
        }
        let kind = kind.unwrap_or(KeyKind::Software);
        let life_ms = bounds.life_ms(kind);
        if life_ms.is_none() {
            let code = WorkloadCode::KeyKindRefused;
            refuse(code, "key kind", "one that the settings take", kind.as_str());
        }
        if request.attributes.is_some() && !of_node {
            refuse(WorkloadCode::Attributes, "attributes", "none", "some");
        }

        let mut scopes: Vec<Scope> = Vec::new();
        for text in &request.scopes {
            let Some(scope) = Scope::parse(text).ok().filter(|scope| !scopes.contains(scope)) else {
                refuse(WorkloadCode::ScopeMalformed, "scope", "action:resource, once", text);
                continue;
            };
            if matches!(scope.action(), Action::Bootstrap | Action::Administer) {
                refuse(WorkloadCode::ScopeOfNode, "scope", "execute, release or delegate", text);
            }
            if !parent.scopes.contains(&scope) {
                refuse(WorkloadCode::ScopeNotHeld, "scope", "a scope that is held", text);
            }
            let right = Scope::new(Action::Delegate, scope.resource());
            if !right.is_ok_and(|right| parent.scopes.contains(&right)) {
                let expected = format!("delegate:{}", scope.resource());
                refuse(WorkloadCode::ScopeNotDelegable, "scope", &expected, text);
            }
            scopes.push(scope);
        }

        let depth = parent.depth.saturating_add(1);
        let right = parent.delegation.filter(|right| right.depth > 0);
        if right.is_none() {
            refuse(WorkloadCode::NotPermitted, "delegation", "the right to hand on", "none");
        }
        if depth > bounds.max_depth {
            let expected = format!("at most {}", bounds.max_depth);
            refuse(WorkloadCode::TooDeep, "depth", &expected, &depth.to_string());
        }
        let delegation = request
            .delegation
            .map(|(depth, offline)| DelegationRight { depth, offline });
        if let Some(wanted) = delegation {
            let left = right.map_or(0, |right| right.depth.saturating_sub(1));
            let left = left.min(bounds.max_depth.saturating_sub(depth));
            if wanted.depth == 0 || wanted.depth > left {
                let expected = format!("1 to {left}");
                refuse(
                    WorkloadCode::NotPermitted,
                    "further depth",
                    &expected,
                    &wanted.depth.to_string(),
                );
            }
            let offline = bounds.offline && right.is_some_and(|right| right.offline);
            if wanted.offline && !offline {
                refuse(WorkloadCode::OfflineNotPermitted, "delegation", "on-line", "off-line");
            }
        }
        let most = u64::from(bounds.max_children).min(MAX_CHILDREN as u64);
        if request.renew.is_none() && self.children.0 >= most {
            let (expected, found) = (format!("fewer than {most}"), self.children.0.to_string());
            refuse(WorkloadCode::TooManyChildren, "children", &expected, &found);
        }
        if let Some((tree, _)) = &self.tree {
            let new = scopes.iter().filter(|scope| !tree.issued.contains(&scope.to_string()));
            if tree.issued.len() + new.count() > MAX_TREE_SCOPES {
                let expected = format!("at most {MAX_TREE_SCOPES} scopes in a tree");
                refuse(WorkloadCode::TreeFull, "tree", &expected, "more");
            }
        }

        for (code, claim, held, wanted) in [
            (WorkloadCode::Region, "region", &parent.region, &request.region),
            (WorkloadCode::Purpose, "purpose", &parent.purpose, &request.purpose),
        ] {
            if held.is_some() && held != wanted {
                let words = |word: &Option<String>| word.clone().unwrap_or_else(|| "any".to_owned());
                refuse(code, claim, &words(held), &words(wanted));
            }
            if wanted.as_deref().is_some_and(|word| !is_word(word)) {
                refuse(
                    WorkloadCode::Word,
                    claim,
                    "a word",
                    wanted.as_deref().unwrap_or_default(),
                );
            }
        }
        for (dependency, seen) in request.depends_on.iter().zip(&self.depends) {
            let (list, generation, index) = dependency.on;
            let entry = StatusIndex {
                list,
                generation,
                index,
            };
            if !is_valid(&entry, seen.as_ref(), self.generation) || entry == self.entry {
                let found = format!("entry {index} of list {list}");
                refuse(
                    WorkloadCode::Dependency,
                    dependency.kind.as_str(),
                    "one that counts",
                    &found,
                );
            }
        }
        let expires = self.judge_end(asking, policy, life_ms.unwrap_or(0), reasons);
        Wanted {
            subject,
            scopes,
            key,
            key_kind: kind,
            delegation,
            depth,
            expires,
        }
    }

    /// The first Unix second at which nothing of it counts: no later than anything it rests on.
    fn judge_end(&self, asking: &Asking<'_>, policy: &PolicySet, life_ms: u64, reasons: &mut Vec<Reason>) -> i64 {
        let now = seconds(self.now_ms);
        let signer = policy.keyset.find(Job::Authorization, &self.signer, now);
        if signer.is_none() {
            let (code, found) = (DenialCode::SigningKeyUnlisted.as_str(), hex::encode(self.signer));
            reasons.push(reason(code, "signing key", "a key of the keyset", &found));
        }
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let region = self
            .node
            .as_ref()
            .and_then(|(record, _)| policy.regions.get(&record.region));
        let ends = [
            now.saturating_add(number(life_ms / 1_000)),
            now.saturating_add(self.request.life.map_or(i64::MAX, number)),
            number(asking.subject.contents().expires),
            policy.expires,
            region.map_or(i64::MAX, |region| region.expires),
            signer.map_or(i64::MAX, |key| key.not_after.saturating_add(1)),
        ];
        let expires = ends.into_iter().min().unwrap_or(now);
        if expires <= now {
            let (expected, found) = (format!("an end after {now}"), expires.to_string());
            reasons.push(reason(DenialCode::ValidityOver.as_str(), "validity", &expected, &found));
        }
        expires
    }

    /// A renewal goes on with the same entry: nothing of who it is may differ, and it must not have fallen.
    fn judge_renewal(&self, asking: &Asking<'_>, wanted: &Wanted, reasons: &mut Vec<Reason>) {
        if self.request.renew.is_none() && self.renewed.is_none() {
            return;
        }
        let same = |renewed: &Above| {
            let request = &self.request;
            let record = renewed.record()?;
            let as_asked = request.renew == Some((renewed.entry.list, renewed.entry.generation, renewed.entry.index))
                && renewed.entry == self.entry
                && is_valid(&renewed.entry, renewed.seen.as_ref(), self.generation)
                && record.status == renewed.entry
                && record.parent == asking.subject.contents().status
                && record.subject == wanted.subject
                && record.depth == wanted.depth
                && wanted.key.as_ref().map(VerifyingKey::thumbprint) == Some(record.key)
                && record.key_kind == wanted.key_kind
                && record.region == request.region
                && record.purpose == request.purpose
                && record.depends_on == request.depends_on;
            as_asked.then_some(())
        };
        if self.renewed.as_ref().and_then(same).is_none() {
            let code = WorkloadCode::RenewalOther.as_str();
            reasons.push(reason(
                code,
                "renewal",
                "the same workload",
                "another, or none that counts",
            ));
        }
    }

    /// The policies of the domain, the region and the tenant are asked for each scope, as the workload's.
    fn judge_policies(&self, asking: &Asking<'_>, wanted: &Wanted, policy: &PolicySet, reasons: &mut Vec<Reason>) {
        let (Some(node), Some((shown, _))) = (asking.place, &self.shown) else {
            return;
        };
        let facts = self.lineage(asking, wanted);
        let held = Held {
            subject: &wanted.subject,
            scopes: &wanted.scopes,
            purpose: self.request.purpose.as_deref(),
            facts: &facts,
        };
        reasons.extend(denied(policy, node, shown, &held, seconds(self.now_ms)));
    }

    /// What policies are told of where it hangs, and of what came before it.
    fn lineage(&self, asking: &Asking<'_>, wanted: &Wanted) -> LineageFacts {
        let above = self.above.iter().filter_map(Above::record);
        let tree = self.tree.as_ref().map(|(tree, _)| tree);
        let attributes = self.request.attributes.as_ref();
        LineageFacts {
            depth: wanted.depth.into(),
            parents: above
                .map(|record| record.subject.clone())
                .chain([asking.node_name.to_owned()])
                .collect(),
            issued: tree.map(|tree| tree.issued.clone()).unwrap_or_default(),
            used: tree.map(|tree| tree.used.keys().cloned().collect()).unwrap_or_default(),
            uses: tree.map_or(0, Tree::uses),
            children: self.children.0,
            key_kind: wanted.key_kind.as_str().to_owned(),
            started_by: attributes.map(|attributes| format!("uid:{}", attributes.uid)),
            executable: attributes.map(|attributes| hex::encode(attributes.executable)),
        }
    }

    /// What is to be kept of what is issued.
    fn kept(&self, asking: &Asking<'_>, wanted: &Wanted, key: &VerifyingKey) -> WorkloadRecord {
        let parent = asking.subject.contents();
        WorkloadRecord {
            status: self.entry,
            subject: wanted.subject.clone(),
            node: asking.node_name.to_owned(),
            root: self.node.as_ref().map_or(parent.status, |(record, _)| record.status),
            parent: parent.status,
            depth: wanted.depth,
            key: key.thumbprint(),
            key_kind: wanted.key_kind,
            scopes: wanted.scopes.clone(),
            delegation: wanted.delegation,
            region: self.request.region.clone(),
            purpose: self.request.purpose.clone(),
            depends_on: self.request.depends_on.clone(),
            attributes: self.request.attributes.clone(),
            cti: self.cti,
            expires: u64::try_from(wanted.expires).unwrap_or(0),
        }
    }

    fn authorization(
        &self,
        asking: &Asking<'_>,
        policy: &PolicySet,
        kept: &WorkloadRecord,
        key: &VerifyingKey,
        statement: [u8; 32],
    ) -> Authorization {
        let now = self.now_ms / 1_000;
        Authorization {
            issuer: policy.domain.clone(),
            subject: kept.subject.clone(),
            audience: policy.domain.clone(),
            expires: kept.expires,
            not_before: now,
            issued_at: now,
            cti: kept.cti,
            confirmation: key.clone(),
            scopes: kept.scopes.clone(),
            policy_version: policy.version,
            epoch: self.epoch,
            parent: Some(asking.subject.contents().cti),
            statement,
            status: kept.status,
            key_kind: kept.key_kind,
            depth: kept.depth,
            delegation: kept.delegation,
            region: kept.region.clone(),
            purpose: kept.purpose.clone(),
        }
    }

    /// The statement: `workload-authorization` where a node asks, `delegation` where something below one does. Subject: what
    /// it is for. Body: 0 who asks, 1 entry of who asks, 2 `cti` of the authorization held, 3 entry of the new one, 4 its
    /// `cti` or null, 5 when it ends, Unix seconds, or null, 6 scopes, 7 thumbprint of the key or null, 8 what keeps it,
    /// 9 depth, 10 [further depth, off-line] or null, 11 region or null, 12 purpose or null, 13 dependencies: [kind,
    /// entry], 14 what the node says of it or null, 15 whether it is a renewal, 16 entry of the node, 20 the
    /// entry of the lineage or null. Where it is denied, 3, 4 and 5 are null (3 is the entry that was to go on, where it was a renewal).
    fn statement(
        &self,
        asking: &Asking<'_>,
        policy: &PolicySet,
        wanted: &Wanted,
        (reasons, kept): (&[Reason], Option<&WorkloadRecord>),
        (nonce, inputs): ([u8; 32], [u8; 32]),
    ) -> Statement {
        let parent = asking.subject.contents();
        let allowed = kept.is_some();
        let issued = |value: Value| if allowed { value } else { Value::Null };
        let text = |text: &Option<String>| text.as_deref().map_or(Value::Null, Value::text);
        let request = &self.request;
        let scopes = match allowed {
            true => scope_values(&wanted.scopes),
            false => Value::array(request.scopes.iter().map(|scope| Value::text(scope.as_str()))),
        };
        let named = allowed || request.renew.is_some();
        let root = self.node.as_ref().map(|(record, _)| status_value(&record.status));
        let body = Value::map([
            (0, Value::text(parent.subject.as_str())),
            (1, status_value(&parent.status)),
            (2, Value::bytes(parent.cti)),
            (3, if named { status_value(&self.entry) } else { Value::Null }),
            (4, issued(Value::bytes(self.cti))),
            (5, issued(Value::int(wanted.expires))),
            (6, scopes),
            (
                7,
                wanted
                    .key
                    .as_ref()
                    .map_or(Value::Null, |key| Value::bytes(key.thumbprint())),
            ),
            (8, Value::text(wanted.key_kind.as_str())),
            (9, Value::Unsigned(wanted.depth.into())),
            (10, delegation_value(wanted.delegation)),
            (11, text(&request.region)),
            (12, text(&request.purpose)),
            (13, dependency_values(&request.depends_on)),
            (14, request.attributes.as_ref().map_or(Value::Null, Attributes::value)),
            (15, Value::Bool(request.renew.is_some())),
            (16, root.unwrap_or(Value::Null)),
            (BODY_LINEAGE, kept.map_or(Value::Null, |kept| kept.entry().value())),
        ]);
        let circumstances = Circumstances {
            domain: policy.domain.clone(),
            policy_version: policy.version,
            policy_digest: policy.global_digest,
            semantics: self.semantics.clone(),
            now: seconds(self.now_ms),
        };
        let outcome = if allowed { Outcome::Allow } else { Outcome::Deny };
        let kind = match parent.depth {
            0 => Kind::WorkloadAuthorization,
            _ => Kind::Delegation,
        };
        // A label that is none, or none of the parent's to give, names nobody: then the statement is about who asked.
        let subject =
            Some(&wanted.subject).filter(|_| is_label(&request.label) && stands_below(&request.label, parent));
        let region = self.node.as_ref().map(|(record, _)| record.region.as_str());
        let revision = |revision: Option<u64>| revision.unwrap_or(0);
        Statement {
            subject: Some(subject.unwrap_or(&parent.subject).clone()),
            region_policy: region.and_then(|region| policy.region_digest(region)),
            reasons: Reason::bounded(reasons.to_vec()),
            inputs: [
                ("authorization".to_owned(), *asking.subject.digest()),
                ("proof".to_owned(), sha256(&request.proof)),
                ("inputs".to_owned(), inputs),
            ]
            .into(),
            revisions: [
                ("node", revision(self.node.as_ref().map(|(_, revision)| *revision))),
                ("shown", revision(self.shown.as_ref().map(|(_, revision)| *revision))),
                ("parent", revision(self.above.first().map(|above| above.kept.1))),
            ]
            .map(|(label, revision)| (label.to_owned(), revision))
            .into(),
            nonce: Some(nonce.to_vec()),
            ..circumstances.statement(kind, outcome, body)
        }
    }
}

const KEY_LIMITS: cbor::Limits = cbor::Limits {
    max_bytes: 256,
    max_depth: 2,
    max_items: 16,
};

/// What a workload holds or wants, as policies are asked about it.
pub(super) struct Held<'a> {
    pub subject: &'a str,
    pub scopes: &'a [Scope],
    pub purpose: Option<&'a str>,
    pub facts: &'a LineageFacts,
}

/// What the policies of the domain, the region and the tenant have against it, by what its node showed last.
pub(super) fn denied(policy: &PolicySet, node: &Node, shown: &Shown, held: &Held<'_>, now: i64) -> Vec<Reason> {
    let only = shown.ear.submods.values().next();
    let Some(result) = only.filter(|_| shown.ear.submods.len() == 1) else {
        let code = ReleaseCode::ResultMissing.as_str();
        return vec![reason(code, "result", "one appraisal", "another number")];
    };
    let ak_binding = match result.claims.get("ak_binding") {
        Some(ClaimValue::Text(binding)) => binding.as_str(),
        _ => "none",
    };
    let whole = policy.seen_by_whole(node);
    let mut reasons = Vec::new();
    for scope in held.scopes {
        let decision = policy.cedar.decide(
            &node.region,
            &touchstone_policies::Request {
                principal: Principal::Workload,
                zone: node.zone.as_deref(),
                roles: &node.roles,
                owner: node.owner.as_deref(),
                whole: whole.as_ref(),
                status: result.status.as_str(),
                ak_binding,
                purpose: held.purpose,
                lineage_depth: held.facts.depth,
                lineage: Some(held.facts),
                now,
                policy_version: policy.version,
                ..touchstone_policies::Request::of_node(
                    held.subject,
                    &node.region,
                    scope.action().as_str(),
                    scope.resource(),
                    &result.claims,
                )
            },
        );
        reasons.extend(
            decision
                .reasons
                .iter()
                .filter(|_| !decision.allow)
                .map(|denied| Reason {
                    code: denied.code.as_str().into(),
                    claim: format!("{} for {scope}", denied.claim),
                    expected: denied.expected.clone(),
                    found: denied.found.clone(),
                }),
        );
    }
    reasons
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

fn reason(code: &str, claim: &str, expected: &str, found: &str) -> Reason {
    Reason {
        code: code.into(),
        claim: claim.into(),
        expected: expected.into(),
        found: found.into(),
    }
}
