//! The decision: the domain's own Cedar policy *and* the region's must both permit. A region can only narrow.
//!
//! Two evaluations, never one merged set: in a merged set a region's `permit` would widen the domain's rights. Any
//! error while evaluating denies, because Cedar skips a policy that errs, and a skipped `forbid` would allow. Policies
//! are validated strictly against the signed schema when they are loaded, and compiled once.
//! Source: Cedar 4 language reference, "Authorization"; `docs/protocol.md`, policy.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::str::FromStr;

use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityId, EntityTypeName, EntityUid, PolicyId, PolicySet,
    RestrictedExpression, Schema, SchemaFragment, ValidationMode, Validator,
};
use touchstone_verifier::appraisal::{ClaimValue, Claims};

pub use crate::decision::{CedarDecision, DecisionCode, DecisionReason, Request};
use crate::error::{PolicyCode, PolicyError, Problem};
use crate::layout::{GLOBAL_POLICY, SCHEMA, TargetKind};
use crate::settings::ACTIONS;

/// Most policies in one file.
pub const MAX_POLICIES: usize = 256;
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
    global: PolicySet,
    regions: BTreeMap<String, PolicySet>,
    /// Claims the schema declares, with the type it gives them.
    declared: BTreeMap<String, ClaimType>,
    types: Types,
    actions: BTreeMap<&'static str, EntityUid>,
    action_entities: Entities,
}

#[derive(Debug, Clone)]
struct Types {
    node: EntityTypeName,
    resource: EntityTypeName,
}

/// The type of a claim in the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClaimType {
    Bool,
    Long,
    String,
    Set,
}

impl ClaimType {
    const ALL: [ClaimType; 4] = [ClaimType::Bool, ClaimType::Long, ClaimType::String, ClaimType::Set];

    fn of(value: &ClaimValue) -> Self {
        match value {
            ClaimValue::Bool(_) => ClaimType::Bool,
            ClaimValue::Int(_) => ClaimType::Long,
            ClaimValue::Text(_) => ClaimType::String,
            ClaimValue::Set(_) => ClaimType::Set,
        }
    }

    fn sample(self) -> RestrictedExpression {
        match self {
            ClaimType::Bool => RestrictedExpression::new_bool(true),
            ClaimType::Long => RestrictedExpression::new_long(1),
            ClaimType::String => RestrictedExpression::new_string("sample".into()),
            ClaimType::Set => RestrictedExpression::new_set([RestrictedExpression::new_string("sample".into())]),
        }
    }
}

impl Cedar {
    /// Compiles and validates: `global` is policy.cedar, `regions` maps a region to its policy.cedar.
    ///
    /// # Errors
    /// [`PolicyError`] with every problem: `policy-schema-invalid`, `policy-cedar-invalid`, `policy-cedar-empty`.
    pub fn compile(schema: &str, global: &str, regions: &BTreeMap<String, String>) -> Result<Self, PolicyError> {
        let schema_error = |found: String| PolicyError::new(PolicyCode::SchemaInvalid, SCHEMA, "a Cedar schema", found);
        let candidates = attribute_names(schema).map_err(schema_error)?;
        let (schema, _warnings) = Schema::from_cedarschema_str(schema).map_err(|e| schema_error(e.to_string()))?;
        let name = |text: &str| EntityTypeName::from_str(text).map_err(|e| schema_error(e.to_string()));
        let types = Types {
            node: name("Node")?,
            resource: name("Resource")?,
        };
        let action_type = name("Action")?;
        let actions = ACTIONS.map(|a| {
            (
                a,
                EntityUid::from_type_name_and_id(action_type.clone(), EntityId::new(a)),
            )
        });
        let actions = BTreeMap::from(actions);
        let action_entities = schema.action_entities().map_err(|e| schema_error(e.to_string()))?;
        let mut cedar = Cedar {
            global: PolicySet::new(),
            regions: BTreeMap::new(),
            declared: BTreeMap::new(),
            types,
            actions,
            action_entities,
        };
        cedar.probe(&schema, candidates)?;
        let validator = Validator::new(schema);
        let mut problems = Vec::new();
        if regions.len() > MAX_REGIONS {
            let expected = format!("at most {MAX_REGIONS} regions");
            problems.push(Problem::new(
                PolicyCode::CedarInvalid,
                "regions",
                expected,
                regions.len(),
            ));
        }
        cedar.global = policies(&validator, GLOBAL_POLICY, global, &mut problems);
        for (region, text) in regions.iter().take(MAX_REGIONS) {
            let file = TargetKind::region_policy(region).name();
            let set = policies(&validator, &file, text, &mut problems);
            cedar.regions.insert(region.clone(), set);
        }
        PolicyError::unless_empty(problems)?;
        Ok(cedar)
    }

    /// The regions that have a policy.
    pub fn regions(&self) -> impl Iterator<Item = &str> {
        self.regions.keys().map(String::as_str)
    }

    /// Decides: the domain's policy and that of `region` must both permit `request`, without any error.
    pub fn decide(&self, region: &str, request: &Request<'_>) -> CedarDecision {
        let mut reasons = Vec::new();
        match self.build(request, None) {
            Err(found) => reasons.push(DecisionReason {
                code: DecisionCode::RequestInvalid,
                claim: "request".into(),
                expected: "a node, an action and a resource of the schema".into(),
                found,
            }),
            Ok((request, entities)) => {
                let mut ask = |set: &PolicySet, file: &str, code| {
                    let response = Authorizer::new().is_authorized(&request, set, &entities);
                    let errors: Vec<String> = response.diagnostics().errors().map(ToString::to_string).collect();
                    if !errors.is_empty() {
                        reasons.push(DecisionReason {
                            code: DecisionCode::EvaluationError,
                            claim: file.into(),
                            expected: "no error".into(),
                            found: errors.join("; "),
                        });
                    }
                    if response.decision() != Decision::Allow {
                        reasons.push(DecisionReason {
                            code,
                            claim: file.into(),
                            expected: "a permit and no forbid".into(),
                            found: determining(response.diagnostics().reason()),
                        });
                    }
                };
                ask(&self.global, GLOBAL_POLICY, DecisionCode::GlobalDenied);
                let file = format!("regions/{region}/policy.cedar");
                match self.regions.get(region) {
                    Some(set) => ask(set, &file, DecisionCode::RegionDenied),
                    None => reasons.push(DecisionReason {
                        code: DecisionCode::RegionMissing,
                        claim: file,
                        expected: "a policy".into(),
                        found: "none".into(),
                    }),
                }
            }
        }
        reasons.sort();
        CedarDecision {
            allow: reasons.is_empty(),
            reasons,
        }
    }

    /// Checks that the requests made here fit the schema, and learns which claims it declares.
    fn probe(&mut self, schema: &Schema, candidates: BTreeSet<String>) -> Result<(), PolicyError> {
        let misfit = |found: String| {
            PolicyError::new(
                PolicyCode::SchemaInvalid,
                SCHEMA,
                "a schema that fits the requests made",
                found,
            )
        };
        let (roles, claims) = (["role".to_owned()], Claims::new());
        let mut request = Request {
            node: "node",
            region: "region",
            zone: Some("zone"),
            roles: &roles,
            action: "execute",
            resource: "resource",
            status: "affirming",
            ak_binding: "activated",
            claims: &claims,
            now: 0,
            policy_version: 1,
        };
        for action in ACTIONS {
            request.action = action;
            self.build(&request, Some(schema)).map_err(misfit)?;
        }
        for claim in candidates {
            for claim_type in ClaimType::ALL {
                let context = context(&request, [(claim.clone(), claim_type.sample())]);
                let action = self.actions.get("execute").cloned();
                let fits = context.ok().zip(action).is_some_and(|(context, action)| {
                    let node = uid(&self.types.node, request.node);
                    let resource = uid(&self.types.resource, request.resource);
                    cedar_policy::Request::new(node, action, resource, context, Some(schema)).is_ok()
                });
                if fits {
                    self.declared.insert(claim.clone(), claim_type);
                }
            }
        }
        Ok(())
    }

    /// The request and its entities in Cedar's terms; with a schema, also checked against it.
    fn build(
        &self,
        request: &Request<'_>,
        schema: Option<&Schema>,
    ) -> Result<(cedar_policy::Request, Entities), String> {
        let action = self
            .actions
            .get(request.action)
            .ok_or_else(|| format!("action {:?}", request.action))?;
        let text = |t: &str| RestrictedExpression::new_string(t.to_owned());
        let mut attributes = HashMap::from([
            ("name".to_owned(), text(request.node)),
            ("region".to_owned(), text(request.region)),
            (
                "roles".to_owned(),
                RestrictedExpression::new_set(request.roles.iter().map(|r| text(r))),
            ),
        ]);
        if let Some(zone) = request.zone {
            attributes.insert("zone".to_owned(), text(zone));
        }
        let name = HashMap::from([("name".to_owned(), text(request.resource))]);
        let (node, resource) = (
            uid(&self.types.node, request.node),
            uid(&self.types.resource, request.resource),
        );
        let node_entity = Entity::new(node.clone(), attributes, [].into()).map_err(|e| e.to_string())?;
        let resource_entity = Entity::new(resource.clone(), name, [].into()).map_err(|e| e.to_string())?;
        let entities = self
            .action_entities
            .clone()
            .add_entities([node_entity, resource_entity], schema);
        let entities = entities.map_err(|e| e.to_string())?;
        let claims = request.claims.iter().filter_map(|(name, value)| {
            let declared = self.declared.get(name.as_str()).copied();
            (declared == Some(ClaimType::of(value))).then(|| (name.clone(), expression(value)))
        });
        let context = context(request, claims)?;
        let request = cedar_policy::Request::new(node, action.clone(), resource, context, schema);
        Ok((request.map_err(|e| e.to_string())?, entities))
    }
}

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

fn expression(value: &ClaimValue) -> RestrictedExpression {
    match value {
        ClaimValue::Bool(b) => RestrictedExpression::new_bool(*b),
        ClaimValue::Int(n) => RestrictedExpression::new_long(*n),
        ClaimValue::Text(t) => RestrictedExpression::new_string(t.clone()),
        ClaimValue::Set(s) => {
            RestrictedExpression::new_set(s.iter().map(|t| RestrictedExpression::new_string(t.clone())))
        }
    }
}

fn context(
    request: &Request<'_>,
    claims: impl IntoIterator<Item = (String, RestrictedExpression)>,
) -> Result<Context, String> {
    let claims = RestrictedExpression::new_record(claims).map_err(|e| e.to_string())?;
    // A version beyond what Cedar can count would be a wrong number: there is none.
    let version = i64::try_from(request.policy_version).map_err(|e| e.to_string())?;
    let pairs = [
        (
            "status".to_owned(),
            RestrictedExpression::new_string(request.status.to_owned()),
        ),
        (
            "ak_binding".to_owned(),
            RestrictedExpression::new_string(request.ak_binding.to_owned()),
        ),
        ("claims".to_owned(), claims),
        ("now".to_owned(), RestrictedExpression::new_long(request.now)),
        ("policy_version".to_owned(), RestrictedExpression::new_long(version)),
    ];
    Context::from_pairs(pairs).map_err(|e| e.to_string())
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

/// Parses and validates one file. Policies are named by their `@id`, or by their place.
fn policies(validator: &Validator, file: &str, text: &str, problems: &mut Vec<Problem>) -> PolicySet {
    let mut problem = |code, expected: &str, found: String| problems.push(Problem::new(code, file, expected, found));
    let parsed = match PolicySet::from_str(text) {
        Ok(set) => set,
        Err(e) => {
            problem(PolicyCode::CedarInvalid, "Cedar policies", e.to_string());
            return PolicySet::new();
        }
    };
    if parsed.num_of_templates() > 0 {
        problem(
            PolicyCode::CedarInvalid,
            "policies without template slots",
            "a template".into(),
        );
    }
    match parsed.num_of_policies() {
        0 => problem(PolicyCode::CedarEmpty, "at least one policy", "none".into()),
        n if n > MAX_POLICIES => problem(PolicyCode::CedarInvalid, "fewer policies", n.to_string()),
        _ => (),
    }
    let mut set = PolicySet::new();
    for policy in parsed.policies() {
        let policy = match policy.annotation("id") {
            Some(id) => policy.new_id(PolicyId::new(id)),
            None => policy.clone(),
        };
        if let Err(e) = set.add(policy) {
            problem(PolicyCode::CedarInvalid, "each @id once", e.to_string());
        }
    }
    for error in validator.validate(&set, ValidationMode::Strict).validation_errors() {
        problem(
            PolicyCode::CedarInvalid,
            "policies that hold against the schema",
            error.to_string(),
        );
    }
    set
}

/// The policies that made a decision, sorted.
fn determining<'a>(ids: impl Iterator<Item = &'a PolicyId>) -> String {
    let mut ids: Vec<&str> = ids.map(AsRef::as_ref).collect();
    ids.sort_unstable();
    match ids.as_slice() {
        [] => "no policy permits it".into(),
        ids => format!("forbidden by {}", ids.join(", ")),
    }
}

#[cfg(test)]
mod tests;
