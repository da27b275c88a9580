//! One file of policies, compiled once: asked as a whole where it is small, and in the part that may apply where not.

use std::str::FromStr as _;

use cedar_policy::{Authorizer, Decision, Entities, Policy, PolicyId, PolicySet, Request, ValidationMode, Validator};

use super::MAX_POLICIES;
use super::facts::{Facts, Needs, Vocabulary};
use super::guard::Guard;
use super::nesting::deep_policies;
use crate::error::{PolicyCode, Problem};

/// The policies of one file.
#[derive(Debug, Clone)]
pub(super) struct Compiled {
    whole: PolicySet,
    policies: Vec<(Guard, Policy)>,
}

/// The policies of a file that may apply to one request.
pub(super) struct Slice<'c> {
    set: Chosen<'c>,
    /// The claims they look at.
    pub needs: Needs,
}

enum Chosen<'c> {
    Whole(&'c PolicySet),
    Part(Result<Box<PolicySet>, String>),
}

/// What a file of policies says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub allow: bool,
    /// The policies that made it so, sorted: what forbids; nothing where nothing permits.
    pub determining: Vec<String>,
    pub errors: Vec<String>,
}

impl Compiled {
    /// Parses and validates one file. Policies are named by their `@id`, or by their place.
    pub fn read(
        file: &str,
        text: &str,
        words: &Vocabulary,
        validator: &Validator,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let whole = parse(file, text, validator, problems);
        let policies = whole.policies();
        let policies = policies.map(|policy| (Guard::of(policy, words), policy.clone()));
        Compiled {
            policies: policies.collect(),
            whole,
        }
    }

    /// How many policies there are.
    pub fn len(&self) -> usize {
        self.policies.len()
    }

    /// The policies that may apply.
    pub fn slice(&self, facts: &Facts<'_>) -> Slice<'_> {
        let chosen: Vec<&(Guard, Policy)> = self
            .policies
            .iter()
            .filter(|(guard, _)| guard.may_apply(facts))
            .collect();
        let needs = chosen
            .iter()
            .fold(Needs::Nothing, |needs, (guard, _)| needs.and(&guard.needs));
        let set = if chosen.len() == self.policies.len() {
            Chosen::Whole(&self.whole)
        } else {
            let part = PolicySet::from_policies(chosen.into_iter().map(|(_, policy)| policy.clone()));
            Chosen::Part(part.map(Box::new).map_err(|e| e.to_string()))
        };
        Slice { set, needs }
    }

    /// All policies, whatever their guards say: what [`Compiled::slice`] is held against.
    #[cfg(test)]
    pub fn everything(&self) -> Slice<'_> {
        Slice {
            set: Chosen::Whole(&self.whole),
            needs: Needs::All,
        }
    }
}

impl Slice<'_> {
    /// How many policies are left.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        match &self.set {
            Chosen::Whole(set) => set.num_of_policies(),
            Chosen::Part(part) => part.as_ref().map_or(0, |set| set.num_of_policies()),
        }
    }

    /// Asks Cedar.
    pub fn ask(&self, request: &Request, entities: &Entities) -> Answer {
        let set = match &self.set {
            Chosen::Whole(set) => *set,
            Chosen::Part(Ok(set)) => &**set,
            Chosen::Part(Err(error)) => {
                return Answer {
                    allow: false,
                    determining: Vec::new(),
                    errors: vec![error.clone()],
                };
            }
        };
        let response = Authorizer::new().is_authorized(request, set, entities);
        let reasons = response.diagnostics().reason().map(ToString::to_string);
        let mut determining: Vec<String> = reasons.collect();
        determining.sort_unstable();
        let mut errors: Vec<String> = response.diagnostics().errors().map(ToString::to_string).collect();
        errors.sort_unstable();
        Answer {
            allow: response.decision() == Decision::Allow,
            determining,
            errors,
        }
    }
}

/// Parses and validates one file. With any problem there is no policy to ask.
fn parse(file: &str, text: &str, validator: &Validator, problems: &mut Vec<Problem>) -> PolicySet {
    let mut found = Vec::new();
    let set = checked(text, validator, &mut |code, expected, what| {
        found.push(Problem::new(code, file, expected, what));
    });
    let good = found.is_empty();
    problems.append(&mut found);
    set.filter(|_| good).unwrap_or_default()
}

fn checked(text: &str, validator: &Validator, problem: &mut dyn FnMut(PolicyCode, &str, String)) -> Option<PolicySet> {
    if let Some(deep) = deep_policies(text) {
        problem(PolicyCode::CedarInvalid, "policies that are not deep", deep);
        return None;
    }
    let parsed = match PolicySet::from_str(text) {
        Ok(set) => set,
        Err(e) => {
            problem(PolicyCode::CedarInvalid, "Cedar policies", e.to_string());
            return None;
        }
    };
    if parsed.num_of_templates() > 0 {
        let expected = "policies without template slots";
        problem(PolicyCode::CedarInvalid, expected, "a template".into());
    }
    match parsed.num_of_policies() {
        0 => problem(PolicyCode::CedarEmpty, "at least one policy", "none".into()),
        n if n > MAX_POLICIES => {
            let expected = format!("at most {MAX_POLICIES} policies");
            problem(PolicyCode::CedarInvalid, &expected, n.to_string());
            return None;
        }
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
        let expected = "policies that hold against the schema";
        problem(PolicyCode::CedarInvalid, expected, error.to_string());
    }
    Some(set)
}
