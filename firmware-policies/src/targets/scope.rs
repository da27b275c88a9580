//! Scopes: what may be done, and with what. No wildcards.

use std::fmt;

/// Actions a scope may name, also the actions of the Cedar schema.
pub const ACTIONS: [&str; 5] = ["bootstrap", "execute", "release", "delegate", "administer"];
/// What may be done: `action:resource`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scope {
    /// One of [`ACTIONS`].
    pub action: String,
    /// `[a-z0-9][a-z0-9._/-]{0,63}`.
    pub resource: String,
}

impl Scope {
    /// Longest action or resource.
    pub const MAX_PART_LEN: usize = 64;

    /// Reads `action:resource`; nothing where it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (action, resource) = text.split_once(':')?;
        let first = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let good = resource.len() <= Self::MAX_PART_LEN
            && resource.bytes().next().is_some_and(first)
            && resource
                .bytes()
                .all(|b| first(b) || matches!(b, b'.' | b'_' | b'/' | b'-'));
        (good && ACTIONS.contains(&action)).then(|| Scope {
            action: action.into(),
            resource: resource.into(),
        })
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.action, self.resource)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_have_no_wildcards() {
        for good in ["execute:workloads", "release:keys/db-1", "administer:a"] {
            assert_eq!(Scope::parse(good).unwrap().to_string(), good);
        }
        for bad in [
            "",
            "execute",
            "execute:",
            ":a",
            "execute:*",
            "execute:A",
            "execute:/a",
            "run:a",
            "execute:a:b",
        ] {
            assert_eq!(Scope::parse(bad), None, "{bad}");
        }
        assert_eq!(Scope::parse(&format!("execute:{}", "a".repeat(65))), None);
    }
}
