//! The decision about one request for a key. Pure: everything it rests on is an argument.
//!
//! What counts is what the broker holds, not what is presented: the node's record and status, what it last showed, the
//! signed inventory's word on where it stands, the policies in force, the key's settings. The authorization and its proof
//! say who asks, and that the right to ask was granted. All reasons are told, not the first.

use sha2::{Digest as _, Sha256};
use touchstone_authorization::{Asked, KeyKind, StatusIndex, VerifiedAuthorization};
use touchstone_cose::cbor::Value;
use touchstone_ledger::statement::{Kind, Outcome, Reason, Statement};
use touchstone_policies::{LineageFacts, PolicySet, Principal, Request};
use touchstone_verifier::appraisal::{ClaimValue, Claims, claim};
use touchstone_verifier::inventory::{CvmKind, Lookup, Node, Platform};

use super::key::{KeyEntry, KeyVersion};
use super::shown::Shown;
use crate::bootstrap;
use crate::node::NodeRecord;
use crate::presented::{self, against, region_over};
use crate::statements::Circumstances;
use crate::workload::ancestry::{Above, Ancestry, Told};
use crate::workload::decide::{WorkloadCode, node_of};
use crate::workload::record::MAX_TREE_SCOPES;

touchstone_cose::reason_codes! {
    /// Why a key is not released to an authenticated node.
    pub enum ReleaseCode {
        KeyUnknown = "key-unknown": "There is no such key under this resource. Look at its name and resource with key list.",
        KeyVersionUnknown = "key-version-unknown": "The key has no such version, or it was dropped for newer ones.",
        KeyResidency = "key-residency": "The key is marked for other regions than the one the signed inventory places this machine in. What the machine says of itself does not count.",
        KeyResidencyUnproven = "key-residency-unproven": "The machine's evidence names a provider, not a machine, so it proves no place. List provider and region in residency.providers, or use machines known by their chip.",
        KeyLifeOver = "key-life-over": "The life of this version is over. Rotate the key.",
        KeySpent = "key-spent": "This one-time version was released before. Rotate the key for another one.",
        KeyWithheld = "key-withheld": "An operator has revoked this version of the key. Rotate the key; the next version is released again.",
        NodeWithdrawn = "node-withdrawn": "The node's rights were withdrawn. It gets new ones by attesting.",
        NodeNotEnrolled = "node-not-enrolled": "The node is not enrolled, or no longer in the inventory of its region.",
        AuthorizationNotCurrent = "authorization-not-current": "The authorization is of an earlier lineage of this node. Attest again.",
        AuthorizationPolicyStale = "authorization-policy-stale": "The authorization was granted under another policy than the one in force. Attest again.",
        SoftwareKey = "authorization-key-software": "The authorization is bound to a key in software, to which no key is released.",
        ReceiveKeyNotAttested = "receive-key-not-attested": "The node has shown no receive key that its hardware vouches for, so nothing can be encrypted to it. Run an agent of this version and attest again.",
        ResultMissing = "attestation-result-missing": "What the node showed last is not stored as this release needs it. Attest again.",
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The key's name.
    pub key: &'a str,
    /// The version; none for the newest.
    pub version: Option<u64>,
    /// The resource of the scope.
    pub resource: &'a str,
}

impl Wanted<'_> {
    /// The right that a release uses: `action:resource`, the action by the key's name.
    #[must_use]
    pub fn right(&self) -> String {
        format!("{}:{}", bootstrap::action_of(self.key), self.resource)
    }
}

/// What counts of a node's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// Its region when it enrolled.
    pub region: String,
    /// The status entry of its lineage.
    pub status: StatusIndex,
    /// Its rights were withdrawn.
    pub withdrawn: bool,
    /// Digest of the identity under which a confidential VM enrolled.
    pub cvm: Option<[u8; 32]>,
}

impl From<&NodeRecord> for NodeFacts {
    fn from(record: &NodeRecord) -> Self {
        Self {
            name: record.enrolled.name.clone(),
            region: record.region.clone(),
            status: record.status,
            withdrawn: record.withdrawn,
            cvm: record.enrolled.cvm().map(|cvm| cvm.identity),
        }
    }
}

/// Everything a decision rests on.
#[derive(Clone, Copy)]
pub struct Situation<'a> {
    /// What is asked for.
    pub wanted: Wanted<'a>,
    /// What was presented, judged on the broker's own state.
    pub asked: &'a Asked,
    /// Who asks.
    pub subject: &'a VerifiedAuthorization,
    /// SHA-256 of the proof.
    pub proof: [u8; 32],
    /// The nonce this request uses up.
    pub nonce: [u8; 32],
    /// The policy in force.
    pub policy: &'a PolicySet,
    /// The key, where there is one, with its row's revision.
    pub key: Option<(&'a KeyEntry, u64)>,
    /// What counts of the node's record, with its row's revision.
    pub record: Option<(&'a NodeFacts, u64)>,
    /// What it showed last, with its row's revision.
    pub shown: Option<(&'a Shown, u64)>,
    /// What stands above who asks, hangs beside and came before.
    pub ancestry: &'a Ancestry,
    /// Generation of the domain.
    pub generation: u32,
    /// The time, Unix seconds.
    pub now: i64,
    /// Digest of the record of all of this.
    pub inputs: [u8; 32],
}

/// A decision.
#[derive(Debug, Clone)]
pub struct Judged<'a> {
    /// Every reason against; none where the key is released.
    pub reasons: Vec<Reason>,
    /// The version, where there is one that was asked for.
    pub version: Option<&'a KeyVersion>,
}

/// Decides.
#[must_use]
pub fn decide<'a>(situation: &Situation<'a>) -> Judged<'a> {
    let mut reasons = against(situation.asked);
    node(situation, &mut reasons);
    // Who has no right to ask learns nothing of keys: not which there are, nor where they may go.
    let version = if situation.asked.refusals.is_empty() {
        key(situation, &mut reasons)
    } else {
        None
    };
    reasons.sort_by(|a, b| (&a.code, &a.claim).cmp(&(&b.code, &b.claim)));
    reasons.dedup();
    Judged { reasons, version }
}

fn node(situation: &Situation<'_>, reasons: &mut Vec<Reason>) {
    let contents = situation.subject.contents();
    let policy = situation.policy;
    if contents.policy_version != policy.version {
        let (expected, found) = (policy.version.to_string(), contents.policy_version.to_string());
        reasons.push(reason(
            ReleaseCode::AuthorizationPolicyStale,
            "policy",
            &expected,
            &found,
        ));
    }
    if contents.key_kind == KeyKind::Software {
        let found = contents.key_kind.as_str();
        reasons.push(reason(ReleaseCode::SoftwareKey, "key kind", "tpm or tee", found));
    }
    match situation.record {
        None => reasons.push(reason(ReleaseCode::NodeNotEnrolled, "record", "a node's", "none")),
        Some((record, _)) => {
            if record.withdrawn {
                reasons.push(reason(ReleaseCode::NodeWithdrawn, "record", "rights", "withdrawn"));
            }
            if contents.depth == 0 && record.status != contents.status {
                reasons.push(reason(
                    ReleaseCode::AuthorizationNotCurrent,
                    "status entry",
                    "the node's",
                    "another",
                ));
            }
        }
    }
    // What a workload is, and all that it hangs below, is what the broker keeps: looked at as where one is issued.
    if contents.depth > 0 {
        let node = situation.record.map(|(record, _)| record.status);
        let name = node_of(&contents.subject);
        situation
            .ancestry
            .judge(situation.subject, (name, node), situation.generation, reasons);
    }
    let right = situation.wanted.right();
    let tree = situation.ancestry.tree.as_ref();
    // What could be released without being counted is not released: a policy that asks how often would be told too little.
    if tree.is_some_and(|(tree, _)| tree.counts_no_more(&right)) {
        let expected = format!("at most {MAX_TREE_SCOPES} scopes in a tree");
        reasons.push(presented::reason(
            WorkloadCode::TreeFull.as_str(),
            "tree",
            &expected,
            "more",
        ));
    }
    let (Some(node), Some((shown, _))) = (place(situation), situation.shown) else {
        if place(situation).is_none() {
            reasons.push(reason(
                ReleaseCode::NodeNotEnrolled,
                "inventory",
                "the node in its region",
                "not there",
            ));
        }
        if situation.shown.is_none() {
            reasons.push(reason(
                ReleaseCode::ResultMissing,
                "result",
                "that of the last attestation",
                "none",
            ));
        }
        return;
    };
    if shown.receive_key.is_none() {
        reasons.push(reason(
            ReleaseCode::ReceiveKeyNotAttested,
            "receive key",
            "an attested one",
            "none",
        ));
    }
    // Nothing of a region counts after the end of what its own keys signed.
    reasons.extend(region_over(policy, &node.region, situation.now));
    // The last word is the policies': on what the node showed, and on who it is by the signed inventory.
    let Some(result) = shown
        .ear
        .submods
        .values()
        .next()
        .filter(|_| shown.ear.submods.len() == 1)
    else {
        reasons.push(reason(
            ReleaseCode::ResultMissing,
            "result",
            "one appraisal",
            "another number",
        ));
        return;
    };
    let ak_binding = match result.claims.get("ak_binding") {
        Some(ClaimValue::Text(binding)) => binding.as_str(),
        _ => "none",
    };
    let disk = bootstrap::key_refusals(node, &result.claims, situation.wanted.key, shown.disk_key_given);
    reasons.extend(disk.into_iter().map(|refusal| Reason {
        code: refusal.code,
        claim: refusal.claim,
        expected: refusal.expected,
        found: refusal.found,
    }));
    let whole = policy.seen_by_whole(node);
    let facts = lineage(situation, node);
    let decision = policy.cedar.decide(
        &node.region,
        &Request {
            principal: match contents.depth {
                0 => Principal::Node,
                _ => Principal::Workload,
            },
            lineage_depth: contents.depth.into(),
            lineage: Some(&facts),
            purpose: contents.purpose.as_deref(),
            zone: node.zone.as_deref(),
            roles: &node.roles,
            owner: node.owner.as_deref(),
            whole: whole.as_ref(),
            item: Some(situation.wanted.key),
            status: result.status.as_str(),
            ak_binding,
            now: situation.now,
            policy_version: policy.version,
            ..Request::of_node(
                &contents.subject,
                &node.region,
                bootstrap::action_of(situation.wanted.key),
                situation.wanted.resource,
                &result.claims,
            )
        },
    );
    if !decision.allow {
        reasons.extend(decision.reasons.iter().map(|denied| Reason {
            code: denied.code.as_str().into(),
            claim: denied.claim.clone(),
            expected: denied.expected.clone(),
            found: denied.found.clone(),
        }));
    }
}

/// What policies are told of the lineage of who asks: as where its authorization is issued, and of a node the same, so that
/// no limit on a tree is a limit on its workloads alone.
fn lineage(situation: &Situation<'_>, node: &Node) -> LineageFacts {
    let contents = situation.subject.contents();
    // The first is itself.
    let mut above = situation.ancestry.above.iter();
    let itself = above.next().and_then(Above::record);
    situation.ancestry.facts(&Told {
        depth: contents.depth,
        above: above.as_slice(),
        node: &node.name,
        key_kind: contents.key_kind.as_str(),
        attributes: itself.and_then(|record| record.attributes.as_ref()),
    })
}

/// The key, where it may go to this node. A key under another resource, and one of another tenant, is not told from one
/// that is not there.
fn key<'a>(situation: &Situation<'a>, reasons: &mut Vec<Reason>) -> Option<&'a KeyVersion> {
    let wanted = situation.wanted;
    let entry = situation
        .key
        .map(|(entry, _)| entry)
        .filter(|entry| entry.settings.resource == wanted.resource)
        .filter(|entry| {
            let owner = place(situation).and_then(|node| node.owner.as_deref());
            situation.policy.tenants.may_have(owner, &entry.settings.name)
        });
    let Some(entry) = entry else {
        reasons.push(reason(ReleaseCode::KeyUnknown, "key", "one of this resource", "none"));
        return None;
    };
    residency(situation, entry, reasons);
    let Some(version) = entry.version(wanted.version) else {
        let found = wanted
            .version
            .map_or_else(|| "none".to_owned(), |version| version.to_string());
        reasons.push(reason(
            ReleaseCode::KeyVersionUnknown,
            "version",
            "one that is kept",
            &found,
        ));
        return None;
    };
    if let Some(ends) = entry.ends(version).filter(|ends| situation.now >= *ends) {
        let expected = format!("before {ends}");
        reasons.push(reason(
            ReleaseCode::KeyLifeOver,
            "life",
            &expected,
            &situation.now.to_string(),
        ));
    }
    if version.number <= entry.withheld {
        let expected = format!("after {}", entry.withheld);
        reasons.push(reason(
            ReleaseCode::KeyWithheld,
            "version",
            &expected,
            &version.number.to_string(),
        ));
    }
    if version.kept.is_none() {
        reasons.push(reason(ReleaseCode::KeySpent, "version", "not released yet", "released"));
    }
    Some(version)
}

/// Where the machine stands is what the signed inventory says; a class of machines stands nowhere, unless signed policy
/// says where.
fn residency(situation: &Situation<'_>, entry: &KeyEntry, reasons: &mut Vec<Reason>) {
    let regions = &entry.settings.regions;
    if regions.is_empty() {
        return;
    }
    let Some(node) = place(situation) else {
        reasons.push(reason(
            ReleaseCode::KeyResidency,
            "region",
            &regions.join(" "),
            "unknown",
        ));
        return;
    };
    if !regions.contains(&node.region) {
        reasons.push(reason(
            ReleaseCode::KeyResidency,
            "region",
            &regions.join(" "),
            &node.region,
        ));
    }
    let shown = situation.shown.map(|(shown, _)| shown);
    let enrolled = situation.record.and_then(|(record, _)| record.cvm);
    let identity = enrolled.or(shown.and_then(|shown| shown.cvm));
    // A TPM of its own stands where the inventory says. One inside a confidential VM stands where that VM's platform does.
    if identity.is_none() && !shown.is_some_and(is_confidential) {
        return;
    }
    let listed = identity.and_then(|identity| node.platforms.iter().find(|listed| listed.digest() == identity));
    let proven = match listed.map(|listed| &listed.platform) {
        Some(Platform::SnpProvider(provider)) => situation.policy.settings.residency.covers(provider, &node.region),
        // The certificate beside a report whose chip is masked names a chip that the report does not.
        Some(_) => !shown.is_some_and(is_masked),
        None => false,
    };
    if !proven {
        let found = listed.map_or_else(
            || "a class of machines".to_owned(),
            |listed| listed.platform.to_string(),
        );
        let expected = "a machine, or a provider signed for this region";
        reasons.push(reason(ReleaseCode::KeyResidencyUnproven, "platform", expected, &found));
    }
}

/// Whether a confidential VM's report was among what the node showed.
fn is_confidential(shown: &Shown) -> bool {
    let roots = |claims: &Claims| match claims.get(claim::ROOTS) {
        Some(ClaimValue::Set(roots)) => [CvmKind::Snp, CvmKind::Tdx]
            .iter()
            .any(|kind| roots.contains(kind.as_str())),
        _ => false,
    };
    shown.ear.submods.values().any(|result| roots(&result.claims))
}

/// Whether the report that the node showed names no chip.
fn is_masked(shown: &Shown) -> bool {
    let masked =
        |claims: &Claims| matches!(claims.get("snp_chip_id"), Some(ClaimValue::Text(chip)) if chip == "masked");
    shown.ear.submods.values().any(|result| masked(&result.claims))
}

/// The inventory's entry of the node, where it is in the region it enrolled in.
fn place<'a>(situation: &Situation<'a>) -> Option<&'a Node> {
    let (record, _) = situation.record?;
    match situation.policy.inventory.by_name(&record.name) {
        Lookup::Node(node) if node.region == record.region => Some(node),
        _ => None,
    }
}

/// The statement of a decision. Body: 0 key, 1 version or null, 2 resource, 3 the node's region by the inventory or null,
/// 4 regions of the key, 5 cti of the authorization, 6 thumbprint of the receive key or null, 7 whether the version is
/// spent by this.
#[must_use]
pub fn statement(situation: &Situation<'_>, judged: &Judged<'_>, circumstances: &Circumstances) -> Statement {
    let allowed = judged.reasons.is_empty();
    let entry = situation.key.map(|(entry, _)| entry);
    let receive_key = situation.shown.and_then(|(shown, _)| shown.receive_key.as_ref());
    let regions = entry.map(|entry| entry.settings.regions.as_slice()).unwrap_or_default();
    let contents = situation.subject.contents();
    // A denial says nothing of a key: whoever is denied sees the statement.
    let of_key = |value: Value| if allowed { value } else { Value::Null };
    let body = Value::map([
        (0, Value::text(situation.wanted.key)),
        (
            1,
            of_key(
                judged
                    .version
                    .map_or(Value::Null, |version| Value::Unsigned(version.number)),
            ),
        ),
        (2, Value::text(situation.wanted.resource)),
        (
            3,
            place(situation).map_or(Value::Null, |node| Value::text(node.region.as_str())),
        ),
        (
            4,
            of_key(Value::array(regions.iter().map(|region| Value::text(region.as_str())))),
        ),
        (5, Value::bytes(contents.cti)),
        (6, receive_key.map_or(Value::Null, |key| Value::bytes(key.thumbprint()))),
        (
            7,
            Value::Bool(allowed && entry.is_some_and(|entry| entry.settings.one_time)),
        ),
    ]);
    let sha256 = |bytes: &[u8]| <[u8; 32]>::from(Sha256::digest(bytes));
    let mut inputs = std::collections::BTreeMap::from([
        ("authorization".to_owned(), *situation.subject.digest()),
        ("proof".to_owned(), situation.proof),
        ("inputs".to_owned(), situation.inputs),
    ]);
    inputs.extend(
        situation
            .shown
            .map(|(shown, _)| ("result".to_owned(), sha256(&shown.ear.encode()))),
    );
    let told = entry.filter(|_| allowed);
    inputs.extend(told.map(|entry| ("key".to_owned(), sha256(&KeyEntry::context(&entry.settings, 0, 0)))));
    let revision = |row: Option<u64>| row.unwrap_or(0);
    let outcome = if allowed { Outcome::Allow } else { Outcome::Deny };
    Statement {
        subject: Some(contents.subject.clone()),
        region_policy: place(situation).and_then(|node| situation.policy.region_digest(&node.region)),
        reasons: Reason::bounded(judged.reasons.clone()),
        inputs,
        revisions: [
            (
                "key",
                revision(situation.key.filter(|_| allowed).map(|(_, revision)| revision)),
            ),
            ("node", revision(situation.record.map(|(_, revision)| revision))),
            ("shown", revision(situation.shown.map(|(_, revision)| revision))),
        ]
        .map(|(label, revision)| (label.to_owned(), revision))
        .into(),
        nonce: Some(situation.nonce.to_vec()),
        ..circumstances.statement(Kind::KeyRelease, outcome, body)
    }
}

fn reason(code: ReleaseCode, claim: &str, expected: &str, found: &str) -> Reason {
    presented::reason(code.as_str(), claim, expected, found)
}
