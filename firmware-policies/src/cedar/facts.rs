//! A request as policies see it. What Cedar is given and what guards look at are the same values, made here, once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::str::FromStr as _;

use cedar_policy::{Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, RestrictedExpression, Schema};
use touchstone_verifier::appraisal::ClaimValue;

use crate::cedar::decision::{LineageFacts, MAX_LINEAGE_FACTS, Principal, Request};
use crate::settings::ACTIONS;

/// Attributes of principals, in the order of [`Facts::principal`].
pub(super) const PRINCIPAL_ATTRIBUTES: [&str; 5] = ["name", "region", "zone", "roles", "owner"];
/// Attributes of the context but the claims, in the order of [`Facts::context`].
pub(super) const CONTEXT_ATTRIBUTES: [&str; 7] = [
    "status",
    "ak_binding",
    "now",
    "policy_version",
    "region",
    "purpose",
    "lineage_depth",
];
/// The attribute of the context that holds the claims.
pub(super) const CLAIMS: &str = "claims";

/// The attribute of the context that holds the facts of the lineage.
const LINEAGE: &str = "lineage";
/// The attribute of the lineage that says how often the right that is asked for was used.
const USES_OF_THIS: &str = "uses_of_this";
/// The attribute of the lineage that names the entity whose tags say how often each right was used.
const USES_OF: &str = "uses_of";
/// What that entity is called: there is one in a request.
const USE_COUNTS: Uid<'static> = Uid {
    kind: "UseCounts",
    id: "lineage",
};
/// What holds the key where nothing says.
const NO_KEY_KIND: &str = "none";

/// The type of a claim in the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClaimType {
    Bool,
    Long,
    String,
    Set,
}

impl ClaimType {
    /// The most frequent first: they are tried in this order.
    pub(super) const ALL: [ClaimType; 4] = [ClaimType::String, ClaimType::Bool, ClaimType::Long, ClaimType::Set];

    fn of(value: &ClaimValue) -> Self {
        match value {
            ClaimValue::Bool(_) => ClaimType::Bool,
            ClaimValue::Int(_) => ClaimType::Long,
            ClaimValue::Text(_) => ClaimType::String,
            ClaimValue::Set(_) => ClaimType::Set,
        }
    }

    pub(super) fn sample(self) -> RestrictedExpression {
        match self {
            ClaimType::Bool => RestrictedExpression::new_bool(true),
            ClaimType::Long => RestrictedExpression::new_long(1),
            ClaimType::String => RestrictedExpression::new_string("sample".into()),
            ClaimType::Set => RestrictedExpression::new_set([RestrictedExpression::new_string("sample".into())]),
        }
    }
}

/// Every kind of entity that a request names.
const KINDS: [&str; 9] = [
    "Node",
    "Workload",
    "Operator",
    "WorkloadClass",
    "KeyClass",
    "Key",
    "Domain",
    "Resource",
    USE_COUNTS.kind,
];

/// A value that policies see.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Seen<'a> {
    Bool(bool),
    Int(i64),
    Text(&'a str),
    Texts(&'a [String]),
    Set(&'a BTreeSet<String>),
    /// The names alone.
    Keys(&'a BTreeMap<String, u64>),
}

impl<'a> Seen<'a> {
    fn of(value: &'a ClaimValue) -> Self {
        match value {
            ClaimValue::Bool(b) => Seen::Bool(*b),
            ClaimValue::Int(n) => Seen::Int(*n),
            ClaimValue::Text(t) => Seen::Text(t),
            ClaimValue::Set(s) => Seen::Set(s),
        }
    }

    fn expression(self) -> RestrictedExpression {
        let text = |t: &str| RestrictedExpression::new_string(t.to_owned());
        match self {
            Seen::Bool(b) => RestrictedExpression::new_bool(b),
            Seen::Int(n) => RestrictedExpression::new_long(n),
            Seen::Text(t) => text(t),
            Seen::Texts(s) => RestrictedExpression::new_set(s.iter().map(|t| text(t))),
            Seen::Set(s) => RestrictedExpression::new_set(s.iter().map(|t| text(t))),
            Seen::Keys(m) => RestrictedExpression::new_set(m.keys().map(|t| text(t))),
        }
    }
}

/// What a principal or resource is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Uid<'a> {
    pub kind: &'static str,
    pub id: &'a str,
}

/// What the signed schema calls things.
#[derive(Debug, Clone)]
pub(super) struct Vocabulary {
    /// Whether it is the schema of before there were classes: every resource is a `Resource`, and the context says nothing
    /// of region, purpose and lineage.
    plain: bool,
    /// Whether the context says anything of the lineage beside its depth: schemas of before there were workloads do not.
    lineage: bool,
    /// Whether it says how often the right that is asked for was used, and each other one: earlier schemas do not.
    uses_of_this: bool,
    uses_of: bool,
    types: BTreeMap<&'static str, EntityTypeName>,
    actions: Vec<EntityUid>,
    action_entities: Entities,
    /// Claims it declares, sorted by name.
    declared: Vec<(String, ClaimType)>,
}

/// The types of a class of resources and of one of them.
fn resource_types(action: &str, plain: bool) -> (&'static str, Option<&'static str>) {
    match action {
        _ if plain => ("Resource", None),
        "bootstrap" | "release" => ("KeyClass", Some("Key")),
        "administer" => ("Domain", None),
        _ => ("WorkloadClass", Some("Workload")),
    }
}

impl Vocabulary {
    /// The words of `schema`; `candidates` are the names its claims may have.
    pub fn of(schema: &Schema, candidates: &BTreeSet<String>) -> Result<Self, String> {
        let mut types = BTreeMap::new();
        for kind in KINDS {
            types.insert(kind, EntityTypeName::from_str(kind).map_err(|e| e.to_string())?);
        }
        let action_type = EntityTypeName::from_str("Action").map_err(|e| e.to_string())?;
        let mut words = Vocabulary {
            plain: !schema.entity_types().any(|name| name.basename() == "KeyClass"),
            lineage: candidates.contains(LINEAGE),
            uses_of_this: candidates.contains(USES_OF_THIS),
            uses_of: candidates.contains(USES_OF),
            types,
            actions: ACTIONS
                .map(|action| EntityUid::from_type_name_and_id(action_type.clone(), EntityId::new(action)))
                .into(),
            action_entities: schema.action_entities().map_err(|e| e.to_string())?,
            declared: Vec::new(),
        };
        words.check(schema)?;
        words.declare(schema, candidates)?;
        Ok(words)
    }

    /// Every kind of request that is made must fit the schema.
    fn check(&self, schema: &Schema) -> Result<(), String> {
        let (roles, claims) = (["role".to_owned()], BTreeMap::new());
        let some = BTreeSet::from(["subject".to_owned()]);
        let lineage = LineageFacts {
            parents: some.clone(),
            issued: some,
            used: [("execute:class".to_owned(), 1)].into(),
            started_by: Some("unit".into()),
            executable: Some("digest".into()),
            ..LineageFacts::default()
        };
        let sample = |principal, action| Request {
            principal,
            zone: Some("zone"),
            roles: &roles,
            owner: Some("owner"),
            purpose: Some("purpose"),
            lineage: Some(&lineage),
            ..Request::of_node("name", "region", action, "class", &claims)
        };
        let mut made: Vec<Request<'_>> = ACTIONS.map(|action| sample(Principal::Node, action)).into();
        if !self.plain {
            for action in ["bootstrap", "execute", "release", "delegate"] {
                made.push(Request {
                    item: Some("item"),
                    ..sample(Principal::Node, action)
                });
            }
            made.extend(["execute", "release", "delegate"].map(|action| sample(Principal::Workload, action)));
            made.push(sample(Principal::Operator, "administer"));
        }
        for request in &made {
            let fits = Facts::new(self, request).and_then(|facts| facts.ask(&Needs::Nothing, Some(schema)));
            fits.map_err(|found| format!("{:?} {}: {found}", request.principal, request.action))?;
        }
        Ok(())
    }

    /// Learns which claims the schema declares, and their types.
    fn declare(&mut self, schema: &Schema, candidates: &BTreeSet<String>) -> Result<(), String> {
        let claims = BTreeMap::new();
        let request = Request::of_node("name", "region", "execute", "class", &claims);
        let mut declared = Vec::new();
        let facts = Facts::new(self, &request)?;
        for claim in candidates {
            for claim_type in ClaimType::ALL {
                let record = RestrictedExpression::new_record([(claim.clone(), claim_type.sample())]);
                let fits = record
                    .map_err(|e| e.to_string())
                    .and_then(|claims| facts.context_with(claims))
                    .and_then(|context| facts.request(context, Some(schema)))
                    .is_ok();
                if fits {
                    declared.push((claim.clone(), claim_type));
                    break;
                }
            }
        }
        self.declared = declared;
        Ok(())
    }

    fn uid(&self, name: Uid<'_>) -> Result<EntityUid, String> {
        let kind = self
            .types
            .get(name.kind)
            .ok_or_else(|| format!("entities {}", name.kind))?;
        Ok(EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(name.id)))
    }

    /// The place of the claim of this name.
    pub fn claim(&self, name: &str) -> Option<usize> {
        self.declared
            .binary_search_by(|(claim, _)| claim.as_str().cmp(name))
            .ok()
    }

    /// Whether it declares this claim, with this type.
    pub fn declares(&self, name: &str, value: &ClaimValue) -> bool {
        let declared = self.claim(name).and_then(|place| self.declared.get(place));
        declared.is_some_and(|(_, kind)| *kind == ClaimType::of(value))
    }

    /// The action of this entity, or of this group: a bit for each.
    pub fn action_bits(&self, uid: &EntityUid) -> u8 {
        let within = |action: &EntityUid| action == uid || self.action_entities.is_ancestor_of(uid, action);
        let bits = self.actions.iter().enumerate().filter(|(_, action)| within(action));
        bits.fold(0, |bits, (place, _)| bits | 1 << place)
    }

    #[cfg(test)]
    pub fn declared(&self) -> &[(String, ClaimType)] {
        &self.declared
    }
}

/// Which claims are needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Needs {
    Nothing,
    These(BTreeSet<usize>),
    All,
}

impl Needs {
    /// Both.
    pub fn and(self, other: &Needs) -> Needs {
        match (self, other) {
            (Needs::All, _) | (_, Needs::All) => Needs::All,
            (Needs::Nothing, other) => other.clone(),
            (these, Needs::Nothing) => these,
            (Needs::These(mut these), Needs::These(others)) => {
                these.extend(others);
                Needs::These(these)
            }
        }
    }
}

/// One request in the schema's words.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    words: &'a Vocabulary,
    /// Place of the action in [`ACTIONS`].
    action: usize,
    pub principal: Uid<'a>,
    /// By [`PRINCIPAL_ATTRIBUTES`].
    pub attributes: [Option<Seen<'a>>; 5],
    pub resource: Uid<'a>,
    /// The class the resource is one of.
    pub class: Option<Uid<'a>>,
    /// By [`CONTEXT_ATTRIBUTES`].
    pub context: [Option<Seen<'a>>; 7],
    lineage: Option<&'a LineageFacts>,
    /// How often the right that is asked for was used.
    uses_of_this: u64,
    depth: u32,
    /// By the vocabulary's claims.
    pub claims: Vec<Option<Seen<'a>>>,
}

impl<'a> Facts<'a> {
    /// What policies see of `request`. A claim of another type than the schema says, or of none, is absent.
    pub fn new(words: &'a Vocabulary, request: &Request<'a>) -> Result<Self, String> {
        let action = ACTIONS.iter().position(|action| *action == request.action);
        let action = action.ok_or_else(|| format!("action {:?}", request.action))?;
        let (class_type, item_type) = resource_types(request.action, words.plain);
        let class = Uid {
            kind: class_type,
            id: request.resource,
        };
        let (resource, class) = match (request.item, item_type) {
            (None, _) => (class, None),
            (Some(id), Some(kind)) => (Uid { kind, id }, Some(class)),
            (Some(_), None) if words.plain => (class, None),
            (Some(item), None) => return Err(format!("{item:?} of {class_type} {:?}", request.resource)),
        };
        // A version beyond what Cedar can count would be a wrong number: there is none.
        let version = i64::try_from(request.policy_version).map_err(|e| e.to_string())?;
        let depth = request.lineage.map_or(request.lineage_depth, |lineage| lineage.depth);
        let sets = request.lineage.map_or([0; 3], |lineage| {
            [lineage.parents.len(), lineage.issued.len(), lineage.used.len()]
        });
        if sets.iter().any(|len| *len > MAX_LINEAGE_FACTS) {
            return Err(format!(
                "a lineage with more than {MAX_LINEAGE_FACTS} facts of one kind"
            ));
        }
        let used = request.lineage.map(|lineage| &lineage.used);
        let this = format!("{}:{}", request.action, request.resource);
        let newer = |value: Option<Seen<'a>>| value.filter(|_| !words.plain);
        let mut claims = vec![None; words.declared.len()];
        let mut given = request.claims.iter().peekable();
        for (place, (name, kind)) in claims.iter_mut().zip(&words.declared) {
            while given.next_if(|(claim, _)| *claim < name).is_some() {}
            if let Some((_, value)) = given.next_if(|(claim, value)| *claim == name && ClaimType::of(value) == *kind) {
                *place = Some(Seen::of(value));
            }
        }
        Ok(Facts {
            words,
            action,
            principal: Uid {
                kind: match request.principal {
                    Principal::Node => "Node",
                    Principal::Workload => "Workload",
                    Principal::Operator => "Operator",
                },
                id: request.name,
            },
            attributes: [
                Some(Seen::Text(request.name)),
                Some(Seen::Text(request.region)),
                request.zone.map(Seen::Text),
                Some(Seen::Texts(request.roles)),
                newer(request.owner.map(Seen::Text)),
            ],
            resource,
            class,
            context: [
                Some(Seen::Text(request.status)),
                Some(Seen::Text(request.ak_binding)),
                Some(Seen::Int(request.now)),
                Some(Seen::Int(version)),
                newer(Some(Seen::Text(request.region))),
                newer(request.purpose.map(Seen::Text)),
                newer(Some(Seen::Int(depth.into()))),
            ],
            lineage: request.lineage,
            uses_of_this: used.and_then(|used| used.get(&this)).copied().unwrap_or(0),
            depth,
            claims,
        })
    }

    /// The action's bit.
    pub fn action_bit(&self) -> u8 {
        1 << self.action
    }

    /// The request and its entities in Cedar's terms, with the claims that are needed; with a schema, checked against it.
    pub fn ask(&self, needs: &Needs, schema: Option<&Schema>) -> Result<(cedar_policy::Request, Entities), String> {
        let seen = |(place, claim): (usize, &Option<Seen<'a>>)| {
            let needed = match needs {
                Needs::Nothing => false,
                Needs::These(these) => these.contains(&place),
                Needs::All => true,
            };
            let (name, _) = self.words.declared.get(place).filter(|_| needed)?;
            Some((name.clone(), (*claim)?.expression()))
        };
        let claims = RestrictedExpression::new_record(self.claims.iter().enumerate().filter_map(seen));
        let context = self.context_with(claims.map_err(|e| e.to_string())?)?;
        Ok((self.request(context, schema)?, self.entities(schema)?))
    }

    fn context_with(&self, claims: RestrictedExpression) -> Result<Context, String> {
        let known = CONTEXT_ATTRIBUTES.iter().zip(self.context);
        let known = known.filter_map(|(name, value)| Some(((*name).to_owned(), value?.expression())));
        let lineage = self.words.lineage.then(|| self.lineage()).transpose()?;
        let lineage = lineage.map(|lineage| (LINEAGE.to_owned(), lineage));
        let records = [(CLAIMS.to_owned(), claims)].into_iter().chain(lineage);
        Context::from_pairs(known.chain(records)).map_err(|e| e.to_string())
    }

    /// The facts of the lineage; those of a node's own authorization, which hangs below nothing, where there are none.
    fn lineage(&self) -> Result<RestrictedExpression, String> {
        let none = LineageFacts::default();
        let facts = self.lineage.unwrap_or(&none);
        let kind = match facts.key_kind.as_str() {
            "" => NO_KEY_KIND,
            kind => kind,
        };
        let known = [
            ("depth", Seen::Int(self.depth.into())),
            ("parents", Seen::Set(&facts.parents)),
            ("issued", Seen::Set(&facts.issued)),
            ("used", Seen::Keys(&facts.used)),
            ("uses", Seen::Int(count(facts.uses)?)),
            ("children", Seen::Int(count(facts.children)?)),
            ("key_kind", Seen::Text(kind)),
        ];
        let told = [("started_by", &facts.started_by), ("executable", &facts.executable)];
        let told = told
            .into_iter()
            .filter_map(|(name, text)| Some((name, Seen::Text(text.as_deref()?))));
        let this = self.words.uses_of_this.then(|| count(self.uses_of_this)).transpose()?;
        let this = this.map(|uses| (USES_OF_THIS, Seen::Int(uses)));
        let all = known.into_iter().chain(told).chain(this);
        let pairs = all.map(|(name, seen)| (name.to_owned(), seen.expression()));
        let counts = self.words.uses_of.then(|| self.words.uid(USE_COUNTS)).transpose()?;
        let counts = counts.map(|uid| (USES_OF.to_owned(), RestrictedExpression::new_entity_uid(uid)));
        RestrictedExpression::new_record(pairs.chain(counts)).map_err(|e| e.to_string())
    }

    /// How often each right was used, as tags: a policy asks for one of them by name, and whether it is there.
    fn use_counts(&self) -> Result<Option<Entity>, String> {
        if !self.words.uses_of {
            return Ok(None);
        }
        let used = self.lineage.into_iter().flat_map(|facts| &facts.used);
        let tags = used.map(|(right, uses)| Ok((right.clone(), RestrictedExpression::new_long(count(*uses)?))));
        let tags = tags.collect::<Result<Vec<_>, String>>()?;
        let entity = Entity::new_with_tags(self.words.uid(USE_COUNTS)?, [], [], tags);
        entity.map(Some).map_err(|e| e.to_string())
    }

    fn request(&self, context: Context, schema: Option<&Schema>) -> Result<cedar_policy::Request, String> {
        let action = self.words.actions.get(self.action).ok_or("an action")?;
        let request = cedar_policy::Request::new(
            self.words.uid(self.principal)?,
            action.clone(),
            self.words.uid(self.resource)?,
            context,
            schema,
        );
        request.map_err(|e| e.to_string())
    }

    fn entities(&self, schema: Option<&Schema>) -> Result<Entities, String> {
        let attributes = PRINCIPAL_ATTRIBUTES.iter().zip(self.attributes);
        let attributes: HashMap<String, RestrictedExpression> = attributes
            .filter_map(|(name, value)| Some(((*name).to_owned(), value?.expression())))
            .collect();
        let principal = Entity::new(self.words.uid(self.principal)?, attributes.clone(), [].into());
        // A workload that is started has the place and the roles of who starts it.
        let named = HashMap::from([("name".to_owned(), Seen::Text(self.resource.id).expression())]);
        let attributes = match self.resource.kind {
            "Workload" => attributes.into_iter().chain(named).collect(),
            _ => named,
        };
        let parents = self.class.map(|class| self.words.uid(class)).transpose()?;
        let resource = Entity::new(
            self.words.uid(self.resource)?,
            attributes,
            parents.into_iter().collect(),
        );
        let added = [principal, resource].map(|entity| entity.map_err(|e| e.to_string()));
        let [principal, resource] = added;
        self.words
            .action_entities
            .clone()
            .add_entities([principal?, resource?].into_iter().chain(self.use_counts()?), schema)
            .map_err(|e| e.to_string())
    }
}

/// A number as Cedar counts; one beyond would be a wrong one, so there is none.
fn count(n: u64) -> Result<i64, String> {
    i64::try_from(n).map_err(|e| e.to_string())
}
