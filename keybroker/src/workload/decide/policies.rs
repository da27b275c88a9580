//! The last word: what the policies of the domain, the region and the tenant say, and what they are told of the lineage.

use touchstone_authorization::Scope;
use touchstone_ledger::statement::Reason;
use touchstone_policies::{LineageFacts, PolicySet, Principal};
use touchstone_verifier::appraisal::ClaimValue;
use touchstone_verifier::inventory::Node;

use super::{Asking, Wanted};
use crate::presented::reason;
use crate::release::decide::ReleaseCode;
use crate::release::shown::Shown;
use crate::workload::ancestry::Told;
use crate::workload::inputs::WorkloadInputs;

impl WorkloadInputs {
    /// The policies of the domain, the region and the tenant are asked for each scope, as the workload's.
    pub(super) fn judge_policies(
        &self,
        asking: &Asking<'_>,
        wanted: &Wanted,
        policy: &PolicySet,
        reasons: &mut Vec<Reason>,
    ) {
        let (Some(node), Some((shown, _))) = (asking.place, &self.shown) else {
            return;
        };
        let facts = self.ancestry.facts(&Told {
            depth: wanted.depth,
            above: &self.ancestry.above,
            node: asking.node_name,
            key_kind: wanted.key_kind.as_str(),
            attributes: self.request.attributes.as_ref(),
        });
        let held = Held {
            subject: &wanted.subject,
            scopes: &wanted.scopes,
            purpose: self.request.purpose.as_deref(),
            facts: &facts,
        };
        reasons.extend(denied(policy, node, shown, &held, self.setting.now()));
    }
}

/// What a workload holds or wants, as policies are asked about it.
pub(in crate::workload) struct Held<'a> {
    pub subject: &'a str,
    pub scopes: &'a [Scope],
    pub purpose: Option<&'a str>,
    pub facts: &'a LineageFacts,
}

/// What the policies of the domain, the region and the tenant have against it, by what its node showed last.
pub(in crate::workload) fn denied(
    policy: &PolicySet,
    node: &Node,
    shown: &Shown,
    held: &Held<'_>,
    now: i64,
) -> Vec<Reason> {
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
