//! What is asked for: well formed, nowhere wider than what stands above and what the settings allow, and over no later than
//! anything it rests on.

use std::collections::BTreeSet;

use touchstone_authorization::name::{is_label, is_subject, is_word};
use touchstone_authorization::token::StatusIndex;
use touchstone_authorization::{Action, DelegationRight, KeyKind, Scope};
use touchstone_cose::cbor;
use touchstone_cose::key::VerifyingKey;
use touchstone_ledger::statement::Reason;
use touchstone_policies::{Job, PolicySet};

use super::{Asking, Wanted, WorkloadCode, label_of, stands_below};
use crate::decision::DenialCode;
use crate::presented::reason;
use crate::workload::ancestry::{Above, is_valid};
use crate::workload::inputs::WorkloadInputs;
use crate::workload::record::{MAX_CHILDREN, MAX_TREE_SCOPES, key_kind};
use crate::workload::stored::is_over;

const KEY_LIMITS: cbor::Limits = cbor::Limits {
    max_bytes: 256,
    max_depth: 2,
    max_items: 16,
};

impl WorkloadInputs {
    /// What is asked for is well formed, and nowhere wider than what stands above and what the settings allow.
    pub(super) fn judge_wanted(&self, asking: &Asking<'_>, policy: &PolicySet, reasons: &mut Vec<Reason>) -> Wanted {
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
            .ancestry
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
        if request.renew.is_none() && self.ancestry.children.0 >= most {
            let (expected, found) = (format!("fewer than {most}"), self.ancestry.children.0.to_string());
            refuse(WorkloadCode::TooManyChildren, "children", &expected, &found);
        }
        if let Some((tree, _)) = &self.ancestry.tree {
            let new = scopes.iter().filter(|scope| !tree.issued.contains(&scope.to_string()));
            // Nor is what could be used without being counted.
            let uncounted = |scope: &Scope| tree.counts_no_more(&scope.to_string());
            if tree.issued.len() + new.count() > MAX_TREE_SCOPES || scopes.iter().any(uncounted) {
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
            if !is_valid(&entry, seen.as_ref(), self.setting.generation) || entry == self.entry {
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
        let now = self.setting.now();
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

    /// A renewal goes on with the same entry: nothing of who it is may differ, and it must not have fallen. Nor have ended:
    /// what has ended counts no more among the children of its parent, whose number is limited.
    pub(super) fn judge_renewal(
        &self,
        asking: &Asking<'_>,
        wanted: &Wanted,
        policy: &PolicySet,
        reasons: &mut Vec<Reason>,
    ) {
        if self.request.renew.is_none() && self.renewed.is_none() {
            return;
        }
        let same = |renewed: &Above| {
            let request = &self.request;
            let record = renewed.record()?;
            let as_asked = request.renew == Some((renewed.entry.list, renewed.entry.generation, renewed.entry.index))
                && renewed.entry == self.entry
                && is_valid(&renewed.entry, renewed.seen.as_ref(), self.setting.generation)
                && record.status == renewed.entry
                && !is_over(record.expires, self.setting.now_ms, policy.settings.timers.skew_ms)
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
}
