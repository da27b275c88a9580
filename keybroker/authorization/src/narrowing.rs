//! What a domain lets the authorizations of another one do: a list of scopes below one prefix, and kinds of keys.
//!
//! A scope passes by exact equality with a listed one, like everywhere else ([`crate::scope`]); that every listed one lies
//! below the prefix keeps the names of one foreign domain apart from this domain's own and from those of the others.
//! Source: `docs/protocol.md`, section 12.

use std::collections::BTreeSet;

use crate::scope::{Action, MAX_SCOPES, Scope};
use crate::token::KeyKind;

/// Actions that authorizations of another domain may be let do. The others act on what only its own domain has: the disks
/// of its nodes, its rights, itself.
pub const FOREIGN_ACTIONS: [Action; 2] = [Action::Execute, Action::Release];

/// Why a narrowing is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NarrowingError {
    /// No scope at all. An empty list never means "any".
    #[error("the list of scopes is empty")]
    NoScope,
    /// More than an authorization can hold.
    #[error("more than {MAX_SCOPES} scopes")]
    TooMany,
    /// An action that no foreign authorization may do.
    #[error("{0}: authorizations of another domain may do execute and release only")]
    Action(Scope),
    /// A resource that is not below the prefix.
    #[error("{scope}: not below the prefix {prefix}")]
    OutsidePrefix {
        /// The scope.
        scope: Scope,
        /// The prefix.
        prefix: String,
    },
    /// Not a prefix: it follows the grammar of resources, with no empty, `.` or `..` segment.
    #[error("{0:?} is not a resource with whole segments")]
    Prefix(String),
    /// No kind of key at all.
    #[error("the list of key kinds is empty")]
    NoKeyKind,
}

/// What authorizations of one foreign domain may do here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Narrowing {
    scopes: BTreeSet<Scope>,
    prefix: String,
    key_kinds: BTreeSet<KeyKind>,
    max_state_age_ms: Option<u64>,
}

impl Narrowing {
    /// A narrowing to these scopes, each below `prefix`, for keys of these kinds. With `max_state_age_ms` a trust state that
    /// is not fresh any more counts up to that age.
    ///
    /// # Errors
    /// [`NarrowingError`]
    pub fn new(
        scopes: impl IntoIterator<Item = Scope>,
        prefix: &str,
        key_kinds: impl IntoIterator<Item = KeyKind>,
        max_state_age_ms: Option<u64>,
    ) -> Result<Self, NarrowingError> {
        if Scope::new(Action::Execute, prefix).is_err() || !has_whole_segments(prefix) {
            return Err(NarrowingError::Prefix(prefix.chars().take(80).collect()));
        }
        let scopes: BTreeSet<Scope> = scopes.into_iter().collect();
        let key_kinds: BTreeSet<KeyKind> = key_kinds.into_iter().collect();
        if scopes.is_empty() {
            return Err(NarrowingError::NoScope);
        }
        if scopes.len() > MAX_SCOPES {
            return Err(NarrowingError::TooMany);
        }
        if key_kinds.is_empty() {
            return Err(NarrowingError::NoKeyKind);
        }
        for scope in &scopes {
            if !FOREIGN_ACTIONS.contains(&scope.action()) {
                return Err(NarrowingError::Action(scope.clone()));
            }
            if !is_below(scope.resource(), prefix) {
                return Err(NarrowingError::OutsidePrefix {
                    scope: scope.clone(),
                    prefix: prefix.to_owned(),
                });
            }
        }
        Ok(Self {
            scopes,
            prefix: prefix.to_owned(),
            key_kinds,
            max_state_age_ms,
        })
    }

    /// Whether a foreign authorization that grants `wanted` may be used for it.
    #[must_use]
    pub fn permits(&self, wanted: &Scope) -> bool {
        self.scopes.contains(wanted)
            && FOREIGN_ACTIONS.contains(&wanted.action())
            && is_below(wanted.resource(), &self.prefix)
    }

    /// Whether keys that are kept there count.
    #[must_use]
    pub fn takes(&self, kind: KeyKind) -> bool {
        self.key_kinds.contains(&kind)
    }

    /// Every scope that is permitted, in order.
    pub fn scopes(&self) -> impl Iterator<Item = &Scope> {
        self.scopes.iter()
    }

    /// The prefix below which all of them lie.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// How old a trust state that was carried by hand may be, in milliseconds; nothing where only a live one counts.
    #[must_use]
    pub const fn max_state_age_ms(&self) -> Option<u64> {
        self.max_state_age_ms
    }

    /// Whether everything this permits is permitted by `other` too.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        self.scopes.iter().all(|scope| other.permits(scope)) && self.key_kinds.is_subset(&other.key_kinds)
    }
}

/// Whether `resource` is `prefix` or lies below it, segment by segment.
#[must_use]
pub fn is_below(resource: &str, prefix: &str) -> bool {
    let rest = match resource.strip_prefix(prefix) {
        Some("") => return has_whole_segments(resource),
        Some(rest) => rest,
        None => return false,
    };
    rest.starts_with('/') && has_whole_segments(resource)
}

fn has_whole_segments(resource: &str) -> bool {
    resource.split('/').all(|segment| !matches!(segment, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(text: &str) -> Scope {
        Scope::parse(text).unwrap()
    }

    fn narrowing(scopes: &[&str], prefix: &str) -> Result<Narrowing, NarrowingError> {
        Narrowing::new(scopes.iter().map(|text| scope(text)), prefix, [KeyKind::Tpm], None)
    }

    #[test]
    fn prefixes_end_at_a_segment() {
        for (attack, resource, below) in [
            ("the prefix itself", "partners/b", true),
            ("below it", "partners/b/render", true),
            ("a longer name", "partners/bad", false),
            ("a longer name below", "partners/bad/x", false),
            ("a dot after it", "partners/b.x", false),
            ("the way up", "partners/b/../a", false),
            ("the way up at the end", "partners/b/..", false),
            ("a segment of one dot", "partners/b/./x", false),
            ("an empty segment", "partners/b//x", false),
            ("a slash at the end", "partners/b/", false),
            ("above it", "partners", false),
            ("another tree", "workloads", false),
        ] {
            assert_eq!(is_below(resource, "partners/b"), below, "{attack}");
        }
    }

    #[test]
    fn narrowings_that_are_none() {
        let seventeen: Vec<String> = (0..=MAX_SCOPES).map(|n| format!("execute:b/n{n}")).collect();
        let seventeen: Vec<&str> = seventeen.iter().map(String::as_str).collect();
        let outside = |text: &str| NarrowingError::OutsidePrefix {
            scope: scope(text),
            prefix: "b".into(),
        };
        for (attack, scopes, prefix, expected) in [
            ("an empty list", &[][..], "b", NarrowingError::NoScope),
            ("too many", &seventeen, "b", NarrowingError::TooMany),
            (
                "administer",
                &["administer:b/x"],
                "b",
                NarrowingError::Action(scope("administer:b/x")),
            ),
            (
                "delegate",
                &["delegate:b/x"],
                "b",
                NarrowingError::Action(scope("delegate:b/x")),
            ),
            (
                "bootstrap",
                &["bootstrap:b/x"],
                "b",
                NarrowingError::Action(scope("bootstrap:b/x")),
            ),
            (
                "another tree",
                &["execute:workloads"],
                "b",
                outside("execute:workloads"),
            ),
            ("a longer name", &["execute:bb"], "b", outside("execute:bb")),
            ("the way up", &["execute:b/../a"], "b", outside("execute:b/../a")),
            ("no prefix", &["execute:b"], "", NarrowingError::Prefix(String::new())),
            (
                "the root as prefix",
                &["execute:b"],
                "/",
                NarrowingError::Prefix("/".into()),
            ),
            (
                "a slash at its end",
                &["execute:b"],
                "b/",
                NarrowingError::Prefix("b/".into()),
            ),
            ("a wildcard", &["execute:b"], "*", NarrowingError::Prefix("*".into())),
        ] {
            assert_eq!(narrowing(scopes, prefix), Err(expected), "{attack}");
        }
        let no_kind = Narrowing::new([scope("execute:b")], "b", [], None);
        assert_eq!(no_kind, Err(NarrowingError::NoKeyKind));
    }

    #[test]
    fn one_narrowing_lies_within_another() {
        let wide = narrowing(&["execute:b/x", "execute:b/y"], "b").unwrap();
        assert!(narrowing(&["execute:b/x"], "b/x").unwrap().is_within(&wide));
        assert!(!wide.is_within(&narrowing(&["execute:b/x"], "b").unwrap()));
        let other_keys = Narrowing::new([scope("execute:b/x")], "b", [KeyKind::Software], None).unwrap();
        assert!(!other_keys.is_within(&wide));
    }
}
