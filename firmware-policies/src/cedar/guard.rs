//! What must hold for a policy to apply, in so far as that is quickly told: policies that certainly do not are left out
//! before Cedar is asked. Cedar looks at every policy it is given, at about a microsecond each; a guard takes some
//! nanoseconds.
//!
//! A guard never says that a policy does not apply where Cedar would find that it applies *or that it errs*: what it does
//! not understand, what may be absent and what may overflow is unknown, and unknown is asked of Cedar. Conditions are
//! followed from left to right as Cedar does, so that no error hides behind a later "no". The test
//! `what_is_left_out_changes_no_decision` compares with Cedar over everything.
//! Source: Cedar JSON policy format (`docs.cedarpolicy.com/policies/json-format.html`); Cedar 4 language reference,
//! "Policy evaluation".

use std::collections::BTreeSet;

use cedar_policy::{ActionConstraint, EntityUid, Policy, PrincipalConstraint, ResourceConstraint};
use serde_json::Value;

use super::facts::{CLAIMS, CONTEXT_ATTRIBUTES, Facts, Needs, PRINCIPAL_ATTRIBUTES, Seen, Uid, Vocabulary};

/// Deepest condition that is looked into; what is deeper is asked of Cedar.
const MAX_DEPTH: usize = 64;

/// An entity a policy names.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    kind: String,
    id: String,
}

impl Named {
    fn is(&self, uid: Uid<'_>) -> bool {
        self.id == uid.id && self.kind == uid.kind
    }
}

/// What a scope or a condition says of the principal or the resource.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Who {
    kind: Option<String>,
    equals: Option<Named>,
    within: Option<Named>,
}

impl Who {
    fn may_be(&self, uid: Uid<'_>, parent: Option<Uid<'_>>) -> bool {
        self.kind.as_ref().is_none_or(|kind| kind == uid.kind)
            && self.equals.as_ref().is_none_or(|named| named.is(uid))
            && self
                .within
                .as_ref()
                .is_none_or(|named| named.is(uid) || parent.is_some_and(|parent| named.is(parent)))
    }
}

/// What a policy looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Term {
    Principal,
    Resource,
    ResourceName,
    Attribute(usize),
    Context(usize),
    Claim(usize),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Literal {
    Bool(bool),
    Int(i64),
    Text(String),
    Entity(Named),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A condition as far as it is understood.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    Unknown,
    Always(bool),
    Not(Box<Test>),
    And(Box<Test>, Box<Test>),
    Or(Box<Test>, Box<Test>),
    If(Box<Test>, Box<Test>, Box<Test>),
    Holds(Term),
    Has(Term),
    Equal(Term, Literal),
    Compare(Term, Order, i64),
    Contains(Term, String),
    ContainsAny(Term, Vec<String>),
    ContainsAll(Term, Vec<String>),
    OneOf(Term, Vec<Literal>),
    Is(Term, String),
    In(Term, Vec<Named>),
}

/// When a policy may apply.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    /// Bits of the actions.
    actions: u8,
    principal: Who,
    resource: Who,
    /// All must hold, looked at in this order.
    conditions: Vec<Test>,
    /// The claims it may look at.
    pub needs: Needs,
}

impl Guard {
    /// The guard of a policy.
    pub fn of(policy: &Policy, words: &Vocabulary) -> Self {
        let actions = match policy.action_constraint() {
            ActionConstraint::Any => u8::MAX,
            ActionConstraint::Eq(uid) => words.action_bits(&uid),
            ActionConstraint::In(uids) => uids.iter().fold(0, |bits, uid| bits | words.action_bits(uid)),
        };
        let principal = match policy.principal_constraint() {
            PrincipalConstraint::Any => who(None, None, None),
            PrincipalConstraint::Eq(uid) => who(None, Some(&uid), None),
            PrincipalConstraint::In(uid) => who(None, None, Some(&uid)),
            PrincipalConstraint::Is(kind) => who(Some(kind.to_string()), None, None),
            PrincipalConstraint::IsIn(kind, uid) => who(Some(kind.to_string()), None, Some(&uid)),
        };
        let resource = match policy.resource_constraint() {
            ResourceConstraint::Any => who(None, None, None),
            ResourceConstraint::Eq(uid) => who(None, Some(&uid), None),
            ResourceConstraint::In(uid) => who(None, None, Some(&uid)),
            ResourceConstraint::Is(kind) => who(Some(kind.to_string()), None, None),
            ResourceConstraint::IsIn(kind, uid) => who(Some(kind.to_string()), None, Some(&uid)),
        };
        let (conditions, needs) = match policy.to_json() {
            Ok(json) => conditions(&json, words),
            Err(_) => (vec![Test::Unknown], Needs::All),
        };
        Guard {
            actions,
            principal,
            resource,
            conditions,
            needs,
        }
    }

    /// Whether the policy may apply to these facts, or may err on them.
    pub fn may_apply(&self, facts: &Facts<'_>) -> bool {
        self.actions & facts.action_bit() != 0
            && self.principal.may_be(facts.principal, None)
            && self.resource.may_be(facts.resource, facts.class)
            && !self.certainly_false(facts)
    }

    fn certainly_false(&self, facts: &Facts<'_>) -> bool {
        for condition in &self.conditions {
            match condition.holds(facts) {
                Some(true) => (),
                Some(false) => return true,
                None => return false,
            }
        }
        false
    }
}

fn who(kind: Option<String>, equals: Option<&EntityUid>, within: Option<&EntityUid>) -> Who {
    let named = |uid: &EntityUid| Named {
        kind: uid.type_name().to_string(),
        id: uid.id().unescaped().to_owned(),
    };
    Who {
        kind,
        equals: equals.map(named),
        within: within.map(named),
    }
}

/// All conditions of a policy in the JSON format, and the claims they may look at.
fn conditions(policy: &Value, words: &Vocabulary) -> (Vec<Test>, Needs) {
    let Some(list) = policy.get("conditions").and_then(Value::as_array) else {
        return (vec![Test::Unknown], Needs::All);
    };
    let mut all = Vec::new();
    let mut looked = Looked {
        words,
        claims: BTreeSet::new(),
        everything: false,
    };
    for condition in list {
        let body = condition.get("body").unwrap_or(&Value::Null);
        let read = test(body, words, 0);
        looked.at(body, 0);
        all.push(match condition.get("kind").and_then(Value::as_str) {
            Some("when") => read,
            Some("unless") => Test::Not(Box::new(read)),
            _ => Test::Unknown,
        });
    }
    let needs = match (looked.everything, looked.claims.is_empty()) {
        (true, _) => Needs::All,
        (false, true) => Needs::Nothing,
        (false, false) => Needs::These(looked.claims),
    };
    (all, needs)
}

/// Which claims a condition names.
struct Looked<'w> {
    words: &'w Vocabulary,
    claims: BTreeSet<usize>,
    everything: bool,
}

impl Looked<'_> {
    /// A claim can be looked at by naming it after `.` or `has`, or by taking the context or the claims as a whole.
    fn at(&mut self, body: &Value, depth: usize) {
        if depth > MAX_DEPTH || is_context(body) || is_claims(body) {
            self.everything = true;
            return;
        }
        match body {
            Value::Array(items) => items.iter().for_each(|item| self.at(item, depth + 1)),
            Value::Object(members) => {
                for (operator, operands) in members {
                    let left = operands.get("left").filter(|_| operator == "." || operator == "has");
                    let Some(left) = left else {
                        self.at(operands, depth + 1);
                        continue;
                    };
                    self.named(operands.get("attr"));
                    if !is_context(left) && !is_claims(left) {
                        self.at(left, depth + 1);
                    }
                }
            }
            _ => (),
        }
    }

    fn named(&mut self, attribute: Option<&Value>) {
        match attribute {
            Some(Value::String(name)) => self.claims.extend(self.words.claim(name)),
            Some(Value::Array(path)) => path.iter().for_each(|name| self.named(Some(name))),
            _ => self.everything = true,
        }
    }
}

fn is_context(body: &Value) -> bool {
    body.get("Var").and_then(Value::as_str) == Some("context")
}

fn is_claims(body: &Value) -> bool {
    let Some(access) = body.get(".") else { return false };
    access.get("attr").and_then(Value::as_str) == Some(CLAIMS) && access.get("left").is_some_and(is_context)
}

fn test(body: &Value, words: &Vocabulary, depth: usize) -> Test {
    let read = || {
        let Value::Object(members) = body else { return None };
        let (operator, operands) = members.iter().next().filter(|_| members.len() == 1)?;
        let part = |name: &str| operands.get(name);
        let inner = |name: &str| Some(Box::new(test(part(name)?, words, depth + 1)));
        Some(match operator.as_str() {
            "Value" => Test::Always(operands.as_bool()?),
            "!" => Test::Not(inner("arg")?),
            "&&" => Test::And(inner("left")?, inner("right")?),
            "||" => Test::Or(inner("left")?, inner("right")?),
            "if-then-else" => Test::If(inner("if")?, inner("then")?, inner("else")?),
            "." => Test::Holds(term(body, words)?),
            "has" => has(operands, words)?,
            "==" => equal(part("left")?, part("right")?, words)?,
            "!=" => Test::Not(Box::new(equal(part("left")?, part("right")?, words)?)),
            "<" => compare(part("left")?, Order::Less, part("right")?, words)?,
            "<=" => compare(part("left")?, Order::LessOrEqual, part("right")?, words)?,
            ">" => compare(part("left")?, Order::Greater, part("right")?, words)?,
            ">=" => compare(part("left")?, Order::GreaterOrEqual, part("right")?, words)?,
            "contains" => match (term(part("left")?, words), literal(part("right")?)) {
                (Some(set), Some(Literal::Text(text))) => Test::Contains(set, text),
                (None, None) => Test::OneOf(term(part("right")?, words)?, set(part("left")?)?),
                _ => return None,
            },
            "containsAny" => Test::ContainsAny(term(part("left")?, words)?, texts(part("right")?)?),
            "containsAll" => Test::ContainsAll(term(part("left")?, words)?, texts(part("right")?)?),
            "is" if part("in").is_none() => Test::Is(whole(part("left")?)?, part("entity_type")?.as_str()?.to_owned()),
            "in" => Test::In(whole(part("left")?)?, entities(part("right")?)?),
            _ => return None,
        })
    };
    if depth > MAX_DEPTH {
        return Test::Unknown;
    }
    read().unwrap_or(Test::Unknown)
}

/// The principal or the resource itself.
fn whole(body: &Value) -> Option<Term> {
    match body.get("Var")?.as_str()? {
        "principal" => Some(Term::Principal),
        "resource" => Some(Term::Resource),
        _ => None,
    }
}

fn term(body: &Value, words: &Vocabulary) -> Option<Term> {
    if let Some(whole) = whole(body) {
        return Some(whole);
    }
    let access = body.get(".")?;
    attribute(access.get("left")?, access.get("attr")?.as_str()?, words)
}

fn attribute(left: &Value, name: &str, words: &Vocabulary) -> Option<Term> {
    if is_claims(left) {
        return words.claim(name).map(Term::Claim);
    }
    match left.get("Var")?.as_str()? {
        "principal" => place(&PRINCIPAL_ATTRIBUTES, name).map(Term::Attribute),
        "context" => place(&CONTEXT_ATTRIBUTES, name).map(Term::Context),
        "resource" => (name == "name").then_some(Term::ResourceName),
        _ => None,
    }
}

fn place(names: &[&str], name: &str) -> Option<usize> {
    names.iter().position(|known| *known == name)
}

fn has(operands: &Value, words: &Vocabulary) -> Option<Test> {
    let name = operands.get("attr")?.as_str()?;
    Some(Test::Has(attribute(operands.get("left")?, name, words)?))
}

fn equal(left: &Value, right: &Value, words: &Vocabulary) -> Option<Test> {
    let pair = |a: &Value, b: &Value| Some(Test::Equal(term(a, words)?, literal(b)?));
    pair(left, right).or_else(|| pair(right, left))
}

fn compare(left: &Value, order: Order, right: &Value, words: &Vocabulary) -> Option<Test> {
    let number = |value: &Value| match literal(value)? {
        Literal::Int(n) => Some(n),
        _ => None,
    };
    if let (Some(term), Some(n)) = (term(left, words), number(right)) {
        return Some(Test::Compare(term, order, n));
    }
    let turned = match order {
        Order::Less => Order::Greater,
        Order::LessOrEqual => Order::GreaterOrEqual,
        Order::Greater => Order::Less,
        Order::GreaterOrEqual => Order::LessOrEqual,
    };
    Some(Test::Compare(term(right, words)?, turned, number(left)?))
}

fn literal(body: &Value) -> Option<Literal> {
    match body.get("Value")? {
        Value::Bool(b) => Some(Literal::Bool(*b)),
        Value::Number(n) => n.as_i64().map(Literal::Int),
        Value::String(t) => Some(Literal::Text(t.clone())),
        entity => {
            let entity = entity.get("__entity")?;
            let text = |name: &str| Some(entity.get(name)?.as_str()?.to_owned());
            Some(Literal::Entity(Named {
                kind: text("type")?,
                id: text("id")?,
            }))
        }
    }
}

fn set(body: &Value) -> Option<Vec<Literal>> {
    body.get("Set")?.as_array()?.iter().map(literal).collect()
}

fn texts(body: &Value) -> Option<Vec<String>> {
    let text = |literal| match literal {
        Literal::Text(text) => Some(text),
        _ => None,
    };
    set(body)?.into_iter().map(text).collect()
}

fn entities(body: &Value) -> Option<Vec<Named>> {
    let literals = match literal(body) {
        Some(one) => vec![one],
        None => set(body)?,
    };
    let entity = |literal| match literal {
        Literal::Entity(named) => Some(named),
        _ => None,
    };
    literals.into_iter().map(entity).collect()
}

impl Test {
    /// Whether it holds; nothing where only Cedar can say, or where it may err.
    fn holds(&self, facts: &Facts<'_>) -> Option<bool> {
        match self {
            Test::Unknown => None,
            Test::Always(answer) => Some(*answer),
            Test::Not(inner) => inner.holds(facts).map(|holds| !holds),
            Test::And(left, right) => {
                if left.holds(facts)? {
                    right.holds(facts)
                } else {
                    Some(false)
                }
            }
            Test::Or(left, right) => {
                if left.holds(facts)? {
                    Some(true)
                } else {
                    right.holds(facts)
                }
            }
            Test::If(condition, then, other) => {
                if condition.holds(facts)? {
                    then.holds(facts)
                } else {
                    other.holds(facts)
                }
            }
            Test::Holds(term) => match seen(*term, facts)? {
                Seen::Bool(holds) => Some(holds),
                _ => None,
            },
            Test::Has(term) => match term {
                Term::Principal | Term::Resource => None,
                term => Some(seen(*term, facts).is_some()),
            },
            Test::Equal(term, literal) => is(*term, literal, facts),
            Test::Compare(term, order, number) => match seen(*term, facts)? {
                Seen::Int(found) => Some(match order {
                    Order::Less => found < *number,
                    Order::LessOrEqual => found <= *number,
                    Order::Greater => found > *number,
                    Order::GreaterOrEqual => found >= *number,
                }),
                _ => None,
            },
            Test::Contains(term, text) => contains(seen(*term, facts)?, text),
            Test::ContainsAny(term, texts) => {
                let set = seen(*term, facts)?;
                texts
                    .iter()
                    .try_fold(false, |any, text| Some(any | contains(set, text)?))
            }
            Test::ContainsAll(term, texts) => {
                let set = seen(*term, facts)?;
                texts
                    .iter()
                    .try_fold(true, |all, text| Some(all & contains(set, text)?))
            }
            Test::OneOf(term, literals) => literals
                .iter()
                .try_fold(false, |any, literal| Some(any | is(*term, literal, facts)?)),
            Test::Is(term, kind) => Some(entity(*term, facts)?.0.kind == kind),
            Test::In(term, named) => {
                let (uid, parent) = entity(*term, facts)?;
                Some(
                    named
                        .iter()
                        .any(|named| named.is(uid) || parent.is_some_and(|parent| named.is(parent))),
                )
            }
        }
    }
}

fn seen<'a>(term: Term, facts: &Facts<'a>) -> Option<Seen<'a>> {
    match term {
        Term::Principal | Term::Resource => None,
        Term::ResourceName => Some(Seen::Text(facts.resource.id)),
        Term::Attribute(place) => *facts.attributes.get(place)?,
        Term::Context(place) => *facts.context.get(place)?,
        Term::Claim(place) => *facts.claims.get(place)?,
    }
}

fn entity<'a>(term: Term, facts: &Facts<'a>) -> Option<(Uid<'a>, Option<Uid<'a>>)> {
    match term {
        Term::Principal => Some((facts.principal, None)),
        Term::Resource => Some((facts.resource, facts.class)),
        _ => None,
    }
}

/// Whether it is this literal; nothing for one of another type.
fn is(term: Term, literal: &Literal, facts: &Facts<'_>) -> Option<bool> {
    if let Literal::Entity(named) = literal {
        return entity(term, facts).map(|(uid, _)| named.is(uid));
    }
    match (seen(term, facts)?, literal) {
        (Seen::Bool(found), Literal::Bool(literal)) => Some(found == *literal),
        (Seen::Int(found), Literal::Int(literal)) => Some(found == *literal),
        (Seen::Text(found), Literal::Text(literal)) => Some(found == literal),
        _ => None,
    }
}

fn contains(set: Seen<'_>, text: &str) -> Option<bool> {
    match set {
        Seen::Texts(texts) => Some(texts.iter().any(|found| found == text)),
        Seen::Set(texts) => Some(texts.contains(text)),
        Seen::Keys(names) => Some(names.contains_key(text)),
        _ => None,
    }
}
