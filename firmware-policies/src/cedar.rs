//! The decision: the domain's own Cedar policy *and* the region's must both permit. A region can only narrow.
//!
//! Separate evaluations, never one merged set: in a merged set a region's `permit` would widen the domain's rights. Any
//! error while evaluating denies, because Cedar skips a policy that errs, and a skipped `forbid` would allow. Policies
//! are validated strictly against the signed schema when they are loaded, and compiled once.
//! Source: Cedar 4 language reference, "Authorization"; `docs/protocol.md`, policy.

mod compiled;
pub(crate) mod decision;
mod facts;
mod guard;
mod nesting;

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::{Schema, SchemaFragment, Validator};
use touchstone_verifier::appraisal::ClaimValue;

pub use crate::cedar::decision::{
    CedarDecision, DecisionCode, DecisionReason, LineageFacts, MAX_LINEAGE_FACTS, NodeSeen, Principal, Request,
};
use crate::error::{PolicyCode, PolicyError, Problem};
use crate::layout::{GLOBAL_POLICY, SCHEMA, TargetKind};
use compiled::{Answer, Compiled, Slice};
use facts::{Facts, Needs, Vocabulary};
pub use nesting::{MAX_NESTING, MAX_OPERATORS};

/// Most policies in one file.
pub const MAX_POLICIES: usize = 2048;
/// Most policies in all files together.
pub const MAX_ALL_POLICIES: usize = 16_384;
/// Most attribute names in a schema.
pub const MAX_ATTRIBUTES: usize = 1024;
/// Most regions.
pub const MAX_REGIONS: usize = 1024;
/// The schema `policy init` writes, published with every policy.
pub const DEFAULT_SCHEMA: &str = include_str!("defaults/schema.cedarschema");
/// The domain's policy `policy init` writes.
pub const DEFAULT_POLICY: &str = include_str!("defaults/policy.cedar");

/// The policy a new region starts with.
pub fn default_region_policy(region: &str) -> String {
    include_str!("defaults/region.cedar").replace("@REGION@", region)
}

/// Schema and policies, compiled.
#[derive(Debug, Clone)]
pub struct Cedar {
    words: Vocabulary,
    global: Compiled,
    regions: BTreeMap<String, Compiled>,
    /// Every tenant; with its policies, where it has any.
    tenants: BTreeMap<String, Option<Compiled>>,
}

/// What speaks against a request.
#[derive(Default)]
struct Against {
    reasons: Vec<DecisionReason>,
    forbids: Vec<(String, String)>,
}

/// One of the sets of policies that must all permit.
struct Conjunct<'c> {
    file: String,
    set: Option<&'c Compiled>,
    denied: DecisionCode,
    missing: DecisionCode,
    /// Whether the whole signs it.
    of_whole: bool,
}

impl Cedar {
    /// Compiles and validates: `global` is policy.cedar, `regions` maps a region to its policy.cedar.
    ///
    /// # Errors
    /// [`PolicyError`] with every problem: `policy-schema-invalid`, `policy-cedar-invalid`, `policy-cedar-empty`.
    pub fn compile(schema: &str, global: &str, regions: &BTreeMap<String, String>) -> Result<Self, PolicyError> {
        Self::compile_all(schema, global, regions, &BTreeMap::new())
    }

    /// The same with the tenants of the domain, each with its policy.cedar where it has one.
    ///
    /// # Errors
    /// As [`Cedar::compile`].
    pub fn compile_all(
        schema: &str,
        global: &str,
        regions: &BTreeMap<String, String>,
        tenants: &BTreeMap<String, Option<String>>,
    ) -> Result<Self, PolicyError> {
        let schema_error = |found: String| PolicyError::new(PolicyCode::SchemaInvalid, SCHEMA, "a Cedar schema", found);
        if let Some(deep) = nesting::deep_schema(schema) {
            return Err(schema_error(deep));
        }
        let candidates = attribute_names(schema).map_err(schema_error)?;
        let (schema, _warnings) = Schema::from_cedarschema_str(schema).map_err(|e| schema_error(e.to_string()))?;
        let words = Vocabulary::of(&schema, &candidates).map_err(|found| {
            let expected = "a schema that fits the requests made";
            PolicyError::new(PolicyCode::SchemaInvalid, SCHEMA, expected, found)
        })?;
        let validator = Validator::new(schema);
        let mut problems = Vec::new();
        let too_many =
            |expected: String, found: usize| Problem::new(PolicyCode::CedarInvalid, "regions", expected, found);
        if regions.len() > MAX_REGIONS {
            problems.push(too_many(format!("at most {MAX_REGIONS} regions"), regions.len()));
        }
        let global = Compiled::read(GLOBAL_POLICY, global, &words, &validator, &mut problems);
        let mut all = global.len();
        let mut compiled = BTreeMap::new();
        for (region, text) in regions.iter().take(MAX_REGIONS) {
            let file = TargetKind::region_policy(region).name();
            let set = Compiled::read(&file, text, &words, &validator, &mut problems);
            all = all.saturating_add(set.len());
            if all > MAX_ALL_POLICIES {
                problems.push(too_many(
                    format!("at most {MAX_ALL_POLICIES} policies in all files"),
                    all,
                ));
                break;
            }
            compiled.insert(region.clone(), set);
        }
        let mut owners = BTreeMap::new();
        for (tenant, text) in tenants {
            let file = TargetKind::TenantPolicy(tenant.clone()).name();
            let set = text
                .as_ref()
                .map(|text| Compiled::read(&file, text, &words, &validator, &mut problems));
            all = all.saturating_add(set.as_ref().map_or(0, Compiled::len));
            if all > MAX_ALL_POLICIES {
                problems.push(too_many(
                    format!("at most {MAX_ALL_POLICIES} policies in all files"),
                    all,
                ));
                break;
            }
            owners.insert(tenant.clone(), set);
        }
        PolicyError::unless_empty(problems)?;
        Ok(Cedar {
            words,
            global,
            regions: compiled,
            tenants: owners,
        })
    }

    /// The regions that have a policy.
    pub fn regions(&self) -> impl Iterator<Item = &str> {
        self.regions.keys().map(String::as_str)
    }

    /// Decides: every set of policies that has a say must permit `request`, without any error: the domain's, and that of
    /// `region`.
    pub fn decide(&self, region: &str, request: &Request<'_>) -> CedarDecision {
        self.decide_with(self.conjuncts(region, request.owner), request, Compiled::slice)
    }

    /// What the domain's policies alone say, or those of `region` alone: for tests of policies, never for a decision that
    /// counts.
    pub(crate) fn decide_alone(&self, region: Option<&str>, request: &Request<'_>) -> CedarDecision {
        let conjunct = region.map_or_else(|| self.of_domain(), |region| self.of_region(region));
        self.decide_with(vec![conjunct], request, Compiled::slice)
    }

    /// Whether the schema declares this claim, with this type.
    pub(crate) fn declares(&self, name: &str, value: &ClaimValue) -> bool {
        self.words.declares(name, value)
    }

    /// Decides on what `select` takes of each file.
    fn decide_with<'c>(
        &'c self,
        conjuncts: Vec<Conjunct<'c>>,
        request: &Request<'_>,
        select: impl Fn(&'c Compiled, &Facts<'_>) -> Slice<'c>,
    ) -> CedarDecision {
        let mut against = match request.seen_by_whole() {
            None => self.ask(conjuncts, request, &select),
            // What a region says of a node counts for the region's policy; the whole's own are told what it delegated.
            Some(seen) => {
                let (of_whole, others) = conjuncts.into_iter().partition(|conjunct| conjunct.of_whole);
                let mut against = self.ask(of_whole, &seen, &select);
                let of_others = self.ask(others, request, &select);
                against.reasons.extend(of_others.reasons);
                against.forbids.extend(of_others.forbids);
                against
            }
        };
        against.reasons.sort();
        against.reasons.dedup();
        against.forbids.sort();
        CedarDecision {
            allow: against.reasons.is_empty(),
            reasons: against.reasons,
            forbids: against.forbids,
        }
    }

    /// Why these sets do not all permit `request`; nothing where they do.
    fn ask<'c>(
        &'c self,
        conjuncts: Vec<Conjunct<'c>>,
        request: &Request<'_>,
        select: &impl Fn(&'c Compiled, &Facts<'_>) -> Slice<'c>,
    ) -> Against {
        let facts = match Facts::new(&self.words, request) {
            Ok(facts) => facts,
            Err(found) => return refused(found),
        };
        let slices: Vec<_> = conjuncts
            .iter()
            .map(|conjunct| conjunct.set.map(|set| select(set, &facts)))
            .collect();
        let needs = slices
            .iter()
            .flatten()
            .fold(Needs::Nothing, |needs, slice| needs.and(&slice.needs));
        let (asked, entities) = match facts.ask(&needs, None) {
            Ok(asked) => asked,
            Err(found) => return refused(found),
        };
        let mut against = Against::default();
        for (conjunct, slice) in conjuncts.into_iter().zip(slices) {
            let answer = slice.map(|slice| slice.ask(&asked, &entities));
            against.forbids.extend(conjunct.forbids(answer.as_ref()));
            against.reasons.extend(conjunct.reasons(answer));
        }
        against
    }

    fn of_domain(&self) -> Conjunct<'_> {
        Conjunct {
            file: GLOBAL_POLICY.into(),
            set: Some(&self.global),
            denied: DecisionCode::GlobalDenied,
            missing: DecisionCode::GlobalDenied,
            of_whole: true,
        }
    }

    fn of_region(&self, region: &str) -> Conjunct<'_> {
        Conjunct {
            file: TargetKind::region_policy(region).name(),
            set: self.regions.get(region),
            denied: DecisionCode::RegionDenied,
            missing: DecisionCode::RegionMissing,
            of_whole: false,
        }
    }

    /// That of the tenant who owns what is decided about, where it is a tenant.
    fn of_tenant(&self, owner: Option<&str>) -> Option<Conjunct<'_>> {
        let (tenant, set) = self.tenants.get_key_value(owner?)?;
        Some(Conjunct {
            file: TargetKind::TenantPolicy(tenant.clone()).name(),
            set: set.as_ref(),
            denied: DecisionCode::TenantDenied,
            missing: DecisionCode::TenantMissing,
            of_whole: true,
        })
    }

    /// The sets that have a say about what happens in `region` with what is `owner`'s.
    fn conjuncts(&self, region: &str, owner: Option<&str>) -> Vec<Conjunct<'_>> {
        let everywhere = [self.of_domain(), self.of_region(region)];
        everywhere.into_iter().chain(self.of_tenant(owner)).collect()
    }
}

impl Conjunct<'_> {
    /// The policies that forbid, with their file.
    fn forbids(&self, answer: Option<&Answer>) -> Vec<(String, String)> {
        let ids = answer.filter(|answer| !answer.allow).map(|answer| &answer.determining);
        let ids = ids.into_iter().flatten();
        ids.map(|id| (self.file.clone(), id.clone())).collect()
    }

    /// Why this set does not permit; nothing where it does.
    fn reasons(self, answer: Option<Answer>) -> Vec<DecisionReason> {
        let reason = |code, expected: &str, found: String| DecisionReason {
            code,
            claim: self.file.clone(),
            expected: expected.into(),
            found,
        };
        let Some(answer) = answer else {
            return vec![reason(self.missing, "a policy", "none".into())];
        };
        let mut reasons = Vec::new();
        if !answer.errors.is_empty() {
            let found = answer.errors.join("; ");
            reasons.push(reason(DecisionCode::EvaluationError, "no error", found));
        }
        if !answer.allow {
            let found = match answer.determining.as_slice() {
                [] => "no policy permits it".into(),
                ids => format!("forbidden by {}", ids.join(", ")),
            };
            reasons.push(reason(self.denied, "a permit and no forbid", found));
        }
        reasons
    }
}

fn refused(found: String) -> Against {
    Against {
        reasons: vec![DecisionReason {
            code: DecisionCode::RequestInvalid,
            claim: "request".into(),
            expected: "a principal, an action and a resource of the schema".into(),
            found,
        }],
        forbids: Vec::new(),
    }
}

/// Every attribute name in a schema: what a claim may be called.
fn attribute_names(schema: &str) -> Result<BTreeSet<String>, String> {
    let (fragment, _warnings) = SchemaFragment::from_cedarschema_str(schema).map_err(|e| e.to_string())?;
    let mut open = vec![fragment.to_json_value().map_err(|e| e.to_string())?];
    let mut names = BTreeSet::new();
    while let Some(value) = open.pop() {
        match value {
            serde_json::Value::Object(members) => {
                if let Some(serde_json::Value::Object(attributes)) = members.get("attributes") {
                    names.extend(attributes.keys().cloned());
                }
                open.extend(members.into_iter().map(|(_, member)| member));
            }
            serde_json::Value::Array(items) => open.extend(items),
            _ => (),
        }
    }
    if names.len() > MAX_ATTRIBUTES {
        return Err(format!("{} attribute names, more than {MAX_ATTRIBUTES}", names.len()));
    }
    Ok(names)
}

#[cfg(test)]
mod tests;
