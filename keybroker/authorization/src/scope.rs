//! Scopes: what an authorization allows, `action:resource`.
//!
//! A scope is granted by exact equality and by nothing else: there are no wildcards, no prefixes and no hierarchy, so
//! a resource is never allowed because it looks like another one. Grammar: `docs/protocol.md`, section 6 (`scope`,
//! CWT claim 9: text, separated by single spaces).

use core::fmt;

/// The longest resource, in bytes.
pub const MAX_RESOURCE: usize = 64;

/// The most scopes in one authorization.
pub const MAX_SCOPES: usize = 16;

/// What a scope allows to do. The list is closed: an action that is not in it cannot be granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Action {
    /// Fetch the secret that opens this node's disk, in the initial RAM disk.
    Bootstrap,
    /// Run a workload.
    Execute,
    /// Fetch a key or a secret.
    Release,
    /// Hand a part of one's own rights on.
    Delegate,
    /// Change the domain.
    Administer,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 5] = [
        Self::Bootstrap,
        Self::Execute,
        Self::Release,
        Self::Delegate,
        Self::Administer,
    ];

    /// The word used in scopes.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bootstrap => "bootstrap",
            Self::Execute => "execute",
            Self::Release => "release",
            Self::Delegate => "delegate",
            Self::Administer => "administer",
        }
    }

    /// The action with this word, if there is one. Case matters.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == text)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a text is not a scope or a list of scopes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScopeError {
    /// There is no `:` between action and resource.
    #[error("a scope is action:resource, this one has no ':'")]
    NoSeparator,
    /// The action is not one of [`Action::ALL`].
    #[error("the action is not one of bootstrap, execute, release, delegate, administer")]
    UnknownAction,
    /// The resource does not follow `[a-z0-9][a-z0-9._/-]{0,63}`.
    #[error("the resource does not follow [a-z0-9][a-z0-9._/-]{{0,63}} (there are no wildcards)")]
    Resource,
    /// No scope at all. An empty list never means "any".
    #[error("the list of scopes is empty")]
    Empty,
    /// More than [`MAX_SCOPES`].
    #[error("more than {MAX_SCOPES} scopes")]
    TooMany,
    /// The same scope twice.
    #[error("a scope is listed twice")]
    Duplicate,
}

/// One right: an [`Action`] on a resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    action: Action,
    resource: String,
}

impl Scope {
    /// Makes a scope from an action and a resource that follows `[a-z0-9][a-z0-9._/-]{0,63}`.
    pub fn new(action: Action, resource: &str) -> Result<Self, ScopeError> {
        if !is_resource(resource) {
            return Err(ScopeError::Resource);
        }
        Ok(Self {
            action,
            resource: resource.to_owned(),
        })
    }

    /// Parses `action:resource`.
    pub fn parse(text: &str) -> Result<Self, ScopeError> {
        let (action, resource) = text.split_once(':').ok_or(ScopeError::NoSeparator)?;
        Self::new(Action::parse(action).ok_or(ScopeError::UnknownAction)?, resource)
    }

    /// What may be done.
    pub fn action(&self) -> Action {
        self.action
    }

    /// To what.
    pub fn resource(&self) -> &str {
        &self.resource
    }

    /// Whether this scope grants `wanted`: only if they are equal.
    pub fn covers(&self, wanted: &Scope) -> bool {
        self == wanted
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.action, self.resource)
    }
}

/// Parses the text of CWT claim 9: one to [`MAX_SCOPES`] different scopes separated by single spaces.
pub fn parse_list(text: &str) -> Result<Vec<Scope>, ScopeError> {
    if text.is_empty() {
        return Err(ScopeError::Empty);
    }
    let mut scopes = Vec::with_capacity(4);
    for part in text.split(' ') {
        if scopes.len() == MAX_SCOPES {
            return Err(ScopeError::TooMany);
        }
        let scope = Scope::parse(part)?;
        if scopes.contains(&scope) {
            return Err(ScopeError::Duplicate);
        }
        scopes.push(scope);
    }
    Ok(scopes)
}

/// The text of CWT claim 9 for these scopes, in their order. The same limits as [`parse_list`].
pub fn format_list(scopes: &[Scope]) -> Result<String, ScopeError> {
    if scopes.is_empty() {
        return Err(ScopeError::Empty);
    }
    if scopes.len() > MAX_SCOPES {
        return Err(ScopeError::TooMany);
    }
    let mut text = String::new();
    for (index, scope) in scopes.iter().enumerate() {
        if scopes.iter().take(index).any(|earlier| earlier == scope) {
            return Err(ScopeError::Duplicate);
        }
        if index > 0 {
            text.push(' ');
        }
        text.push_str(scope.action.as_str());
        text.push(':');
        text.push_str(&scope.resource);
    }
    Ok(text)
}

fn is_resource(text: &str) -> bool {
    let mut bytes = text.bytes();
    let first_fits = bytes
        .next()
        .is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    first_fits
        && text.len() <= MAX_RESOURCE
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'/' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_read_and_write_back() {
        for text in [
            "execute:workloads",
            "release:node-secrets",
            "delegate:a",
            "bootstrap:0",
            "administer:eu/west_1.x",
        ] {
            assert_eq!(Scope::parse(text).unwrap().to_string(), text);
        }
        let text = "execute:workloads release:node-secrets delegate:workloads";
        assert_eq!(format_list(&parse_list(text).unwrap()).unwrap(), text);
    }

    #[test]
    fn what_is_not_a_scope() {
        let long = format!("execute:{}", "a".repeat(MAX_RESOURCE + 1));
        for (attack, text, expected) in [
            ("wildcard resource", "execute:*", ScopeError::Resource),
            ("wildcard tail", "execute:workloads/*", ScopeError::Resource),
            ("wildcard action", "*:workloads", ScopeError::UnknownAction),
            ("question mark", "execute:workload?", ScopeError::Resource),
            ("brace", "execute:{a,b}", ScopeError::Resource),
            ("percent-encoded wildcard", "execute:%2a", ScopeError::Resource),
            ("full-width wildcard", "execute:\u{ff0a}", ScopeError::Resource),
            ("second colon", "execute:a:b", ScopeError::Resource),
            ("no resource", "execute:", ScopeError::Resource),
            ("no action", ":workloads", ScopeError::UnknownAction),
            ("no separator", "execute", ScopeError::NoSeparator),
            ("unknown action", "sudo:workloads", ScopeError::UnknownAction),
            ("action in capitals", "Execute:workloads", ScopeError::UnknownAction),
            ("resource in capitals", "execute:Workloads", ScopeError::Resource),
            ("leading dot", "execute:.a", ScopeError::Resource),
            ("leading slash", "execute:/a", ScopeError::Resource),
            ("newline", "execute:a\n", ScopeError::Resource),
            ("NUL", "execute:a\0", ScopeError::Resource),
            ("ANSI escape", "execute:a\u{1b}[31m", ScopeError::Resource),
            ("look-alike letter", "execute:w\u{043e}rkloads", ScopeError::Resource),
            ("too long", &long, ScopeError::Resource),
        ] {
            assert_eq!(Scope::parse(text), Err(expected), "{attack}");
        }
    }

    #[test]
    fn lists_that_are_refused() {
        let seventeen: Vec<String> = (0..=MAX_SCOPES).map(|n| format!("execute:n{n}")).collect();
        for (attack, text, expected) in [
            ("empty means any", "", ScopeError::Empty),
            ("leading space", " execute:a", ScopeError::NoSeparator),
            ("trailing space", "execute:a ", ScopeError::NoSeparator),
            ("double space", "execute:a  execute:b", ScopeError::NoSeparator),
            ("tab as separator", "execute:a\texecute:b", ScopeError::Resource),
            ("twice the same", "execute:a execute:a", ScopeError::Duplicate),
            ("too many", &seventeen.join(" "), ScopeError::TooMany),
        ] {
            assert_eq!(parse_list(text), Err(expected), "{attack}");
        }
        let scopes: Vec<Scope> = seventeen.iter().map(|s| Scope::parse(s).unwrap()).collect();
        assert_eq!(format_list(&scopes), Err(ScopeError::TooMany));
        assert_eq!(format_list(&[]), Err(ScopeError::Empty));
    }

    #[test]
    fn only_equality_covers() {
        let held = Scope::parse("execute:workloads").unwrap();
        assert!(held.covers(&Scope::parse("execute:workloads").unwrap()));
        for other in [
            "execute:workloads/a",
            "execute:workload",
            "execute:w",
            "release:workloads",
            "execute:workloads.",
        ] {
            assert!(!held.covers(&Scope::parse(other).unwrap()), "{other}");
        }
    }
}
