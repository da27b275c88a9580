//! Which right a request needs: a closed list, `routes.toml`. What is not on it is refused, whatever the authorization.
//!
//! ```toml
//! [[route]]
//! authority = "tools.example"      # as clients name it, with the port where they send one
//! methods = ["GET", "POST"]
//! path = "/search"                 # this path; or: prefix = "/search/", everything below it
//! scope = "execute:tool-search"
//! ```
//!
//! No two routes may match one request: there is no order and no longest match, so a route that is added can not change
//! what another one says.

use serde::Deserialize;
use touchstone_authorization::Scope;

use super::reason::{AccessCode, Denied};
use super::target::Target;

/// The largest file, in bytes.
pub const MAX_FILE: usize = 256 * 1024;
/// The most routes.
pub const MAX_ROUTES: usize = 1024;
/// The most methods of one route.
pub const MAX_METHODS: usize = 16;

/// Says which right a request needs.
pub trait Routes: Send + Sync {
    /// The scope, or nothing: then the request is refused.
    fn scope(&self, target: &Target) -> Option<Scope>;
}

/// The same right for every request.
impl Routes for Scope {
    fn scope(&self, _: &Target) -> Option<Scope> {
        Some(self.clone())
    }
}

/// As a function says.
impl<F: Fn(&Target) -> Option<Scope> + Send + Sync> Routes for F {
    fn scope(&self, target: &Target) -> Option<Scope> {
        self(target)
    }
}

/// Why a list of routes is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RoutesError {
    /// Too long a file.
    #[error("the routes are longer than {MAX_FILE} bytes")]
    TooLarge,
    /// Not TOML of this shape; unknown keys are refused.
    #[error("{0}")]
    Malformed(String),
    /// No route, or too many.
    #[error("expected 1 to {MAX_ROUTES} routes, found {0}")]
    Count(usize),
    /// One of them.
    #[error("route {number}: {cause}")]
    Route {
        /// Counted from 1.
        number: usize,
        /// What is wrong with it.
        cause: String,
    },
    /// Two match the same requests.
    #[error(
        "routes {first} and {second} match the same requests: which right is needed must not depend on their order"
    )]
    Overlap {
        /// Counted from 1.
        first: usize,
        /// Counted from 1.
        second: usize,
    },
}

/// A list of routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteMap {
    routes: Vec<Route>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Route {
    authority: String,
    methods: Vec<String>,
    place: Place,
    scope: Scope,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// This path and no other.
    Path(String),
    /// What begins with this; it ends with a slash, so that it ends where a segment does.
    Prefix(String),
}

impl Place {
    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Path(own) => own == path,
            Self::Prefix(prefix) => path.starts_with(prefix.as_str()),
        }
    }

    fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Path(path), other) | (other, Self::Path(path)) => other.matches(path),
            (Self::Prefix(a), Self::Prefix(b)) => a.starts_with(b.as_str()) || b.starts_with(a.as_str()),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default, rename = "route")]
    routes: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    authority: String,
    methods: Vec<String>,
    path: Option<String>,
    prefix: Option<String>,
    scope: String,
}

impl RouteMap {
    /// Reads `routes.toml`.
    ///
    /// # Errors
    /// [`RoutesError`]; then none of it counts.
    pub fn parse(text: &str) -> Result<Self, RoutesError> {
        if text.len() > MAX_FILE {
            return Err(RoutesError::TooLarge);
        }
        let file: File = toml::from_str(text).map_err(|error| RoutesError::Malformed(error.to_string()))?;
        if file.routes.is_empty() || file.routes.len() > MAX_ROUTES {
            return Err(RoutesError::Count(file.routes.len()));
        }
        let numbered = file.routes.into_iter().zip(1..);
        let routes = numbered
            .map(|(row, number)| route(row).map_err(|cause| RoutesError::Route { number, cause }))
            .collect::<Result<Vec<_>, _>>()?;
        for (second, (b, before)) in routes
            .iter()
            .zip((0..).map(|n| routes.get(..n).unwrap_or_default()))
            .enumerate()
        {
            let same = |a: &&Route| {
                a.authority == b.authority
                    && a.methods.iter().any(|method| b.methods.contains(method))
                    && a.place.overlaps(&b.place)
            };
            if let Some(first) = before.iter().position(|a| same(&a)) {
                return Err(RoutesError::Overlap {
                    first: first + 1,
                    second: second + 1,
                });
            }
        }
        Ok(Self { routes })
    }
}

impl Routes for RouteMap {
    fn scope(&self, target: &Target) -> Option<Scope> {
        let route = self.routes.iter().find(|route| {
            route.authority == target.authority()
                && route.methods.iter().any(|method| method == target.method())
                && route.place.matches(target.path())
        });
        route.map(|route| route.scope.clone())
    }
}

fn route(row: Row) -> Result<Route, String> {
    let place = match (row.path, row.prefix) {
        (Some(path), None) => Place::Path(path),
        (None, Some(prefix)) if prefix.ends_with('/') => Place::Prefix(prefix),
        (None, Some(_)) => return Err("a prefix ends with a slash, so that it ends where a segment does".into()),
        _ => return Err("expected either path or prefix".into()),
    };
    if row.methods.is_empty() || row.methods.len() > MAX_METHODS {
        return Err(format!("expected 1 to {MAX_METHODS} methods"));
    }
    // A route that no request can be aimed at would look like a rule and be none.
    let (Place::Path(path) | Place::Prefix(path)) = &place;
    for method in &row.methods {
        let target = Target::new(method, &row.authority, path).map_err(|denied| denied.reasons().join("; "))?;
        if target.authority() != row.authority || target.path() != path {
            return Err("the authority is in lower case, and a path has no query".into());
        }
    }
    Ok(Route {
        authority: row.authority,
        methods: row.methods,
        place,
        scope: Scope::parse(&row.scope).map_err(|error| format!("scope: {error}"))?,
    })
}

/// The right that this request needs.
pub(crate) fn needed(routes: &dyn Routes, target: &Target) -> Result<Scope, Denied> {
    routes.scope(target).ok_or_else(|| {
        let found = format!("{} {}{}", target.method(), target.authority(), target.path());
        Denied::access(AccessCode::RequestUnmapped, found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = r#"
        [[route]]
        authority = "tools.example"
        methods = ["GET", "POST"]
        path = "/search"
        scope = "execute:tool-search"
        [[route]]
        authority = "tools.example"
        methods = ["POST"]
        prefix = "/files/"
        scope = "execute:tool-files"
    "#;

    fn scope(routes: &RouteMap, method: &str, authority: &str, path: &str) -> Option<String> {
        let target = Target::new(method, authority, path).unwrap();
        routes.scope(&target).map(|scope| scope.to_string())
    }

    #[test]
    fn a_request_needs_what_its_route_says_and_nothing_else_is_a_route() {
        let routes = RouteMap::parse(TWO).unwrap();
        let search = Some("execute:tool-search".to_owned());
        let files = Some("execute:tool-files".to_owned());
        for (method, authority, path, expected) in [
            ("GET", "tools.example", "/search", &search),
            ("GET", "TOOLS.example", "/search?q=a/../b", &search),
            ("POST", "tools.example", "/files/a/b", &files),
            ("POST", "tools.example", "/files/", &files),
            ("POST", "tools.example", "/files", &None),
            ("GET", "tools.example", "/files/a", &None),
            ("GET", "tools.example", "/search/", &None),
            ("GET", "tools.example", "/Search", &None),
            ("HEAD", "tools.example", "/search", &None),
            ("GET", "tools.example:443", "/search", &None),
            ("GET", "other.example", "/search", &None),
            ("GET", "tools.example", "/", &None),
        ] {
            assert_eq!(
                &scope(&routes, method, authority, path),
                expected,
                "{method} {authority}{path}"
            );
        }
    }

    #[test]
    fn lists_that_are_not_taken() {
        let row = |authority: &str, methods: &str, place: &str, scope: &str| {
            format!("[[route]]\nauthority = \"{authority}\"\nmethods = {methods}\n{place}\nscope = \"{scope}\"\n")
        };
        let good = |place: &str| row("a.example", "[\"GET\"]", place, "execute:x");
        let overlap = |a: &str, b: &str| good(a) + &good(b);
        let many: String = (0..=MAX_ROUTES).map(|n| good(&format!("path = \"/{n}\""))).collect();
        for (flaw, text) in [
            ("empty", String::new()),
            (
                "an unknown key",
                TWO.replace("[[route]]", "[[route]]\nallow_all = true"),
            ),
            ("too long", " ".repeat(MAX_FILE + 1)),
            ("too many", many),
            ("no path", good("")),
            ("path and prefix", good("path = \"/a\"\nprefix = \"/a/\"")),
            ("a prefix that cuts a segment", good("prefix = \"/adm\"")),
            ("a path with a query", good("path = \"/a?b\"")),
            ("a path that is refused anyway", good("path = \"/a/../b\"")),
            (
                "a wildcard as scope",
                row("a.example", "[\"GET\"]", "path = \"/a\"", "execute:*"),
            ),
            ("no method", row("a.example", "[]", "path = \"/a\"", "execute:x")),
            ("any method", row("a.example", "[\"*\"]", "path = \"/a\"", "execute:x")),
            ("any host", row("*", "[\"GET\"]", "path = \"/a\"", "execute:x")),
            (
                "a host in capitals",
                row("A.example", "[\"GET\"]", "path = \"/a\"", "execute:x"),
            ),
            ("the same path twice", overlap("path = \"/a\"", "path = \"/a\"")),
            ("a path below a prefix", overlap("prefix = \"/a/\"", "path = \"/a/b\"")),
            ("a prefix below a prefix", overlap("prefix = \"/\"", "prefix = \"/a/\"")),
        ] {
            assert!(RouteMap::parse(&text).is_err(), "{flaw}");
        }
        let apart = overlap("path = \"/a\"", "prefix = \"/a/\"")
            + &row("b.example", "[\"GET\"]", "prefix = \"/\"", "execute:y");
        assert!(RouteMap::parse(&apart).is_ok());
    }
}
