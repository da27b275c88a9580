//! `tenants.toml`: who shares this domain without sharing anything in it.
//!
//! ```toml
//! [tenants.acme]
//! nodes = 100                  # how many of its nodes count
//! keys = 20                    # how many keys may be kept for it
//! requests_per_minute = 600    # how often its nodes together are granted something
//! ```
//! A tenant owns what is named after it, and nobody else owns anything so named: the nodes `acme.web-1` and
//! `eu-1/acme.web-1` with `owner = "acme"`, and the keys `acme/…`. Its own policy, `tenants/acme/policy.cedar`, must permit
//! beside the domain's and the region's, and is asked about nobody else; without one its nodes are permitted nothing.
//! Every key must be there: no quota never means "any".

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use touchstone_verifier::inventory::{Inventory, Node};

use crate::error::{PolicyCode, PolicyError, Problem};
use crate::layout::TENANTS;
use crate::targets::inventory_file::{AUTHORITY, MAX_NODES};
use crate::targets::node_name::NodeName;

/// Most tenants of a domain.
pub const MAX_TENANTS: usize = 1024;
/// Longest name of a tenant, in bytes: half of what a node's own part may have.
pub const MAX_TENANT_NAME_LEN: usize = 31;
/// Most keys that may be kept for a tenant.
pub const MAX_TENANT_KEYS: u64 = 65_536;
/// Most grants a minute to a tenant's nodes.
pub const MAX_REQUESTS_PER_MINUTE: u64 = 10_000_000;

/// What a tenant may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tenant {
    /// How many of its nodes count; in the order of their names.
    pub nodes: u64,
    /// How many keys may be kept for it.
    pub keys: u64,
    /// How often its nodes together are granted something.
    pub requests_per_minute: u64,
}

/// The tenants of a domain. Without any, nothing is anybody's, and an owner is a word.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tenants {
    tenants: BTreeMap<String, Tenant>,
    /// Names of nodes that are more than their tenant may have.
    beyond: BTreeSet<String>,
}

/// What keeps a node from being one of a tenant, or of none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotApart {
    /// Its owner is no tenant.
    OwnerUnknown,
    /// Its name is a tenant's who does not own it, or not that of the one who does.
    NameOfAnother,
    /// Its tenant has as many nodes as it may.
    Beyond,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TenantsFile {
    tenants: BTreeMap<String, Tenant>,
}

impl Tenants {
    /// Reads and checks `tenants.toml`.
    ///
    /// # Errors
    /// [`PolicyError`] `policy-tenants-unreadable` with every problem.
    pub fn parse(bytes: &[u8]) -> Result<Self, PolicyError> {
        let unreadable = |found: String| PolicyError::new(PolicyCode::TenantsUnreadable, TENANTS, "tenants", found);
        let text = std::str::from_utf8(bytes).map_err(|e| unreadable(e.to_string()))?;
        let file: TenantsFile = toml::from_str(text).map_err(|e| unreadable(e.to_string()))?;
        if file.tenants.is_empty() || file.tenants.len() > MAX_TENANTS {
            return Err(unreadable(format!("{} tenants", file.tenants.len())));
        }
        let mut problems = Vec::new();
        for (name, tenant) in &file.tenants {
            let mut problem = |key: &str, expected: String, found: String| {
                let claim = format!("{TENANTS}: tenants.{name}{key}");
                problems.push(Problem::new(PolicyCode::TenantsUnreadable, claim, expected, found));
            };
            if !is_tenant_name(name) {
                let expected = format!("[a-z0-9][a-z0-9-]*, at most {MAX_TENANT_NAME_LEN} bytes");
                problem("", expected, name.clone());
            }
            for (key, found, most) in [
                (".nodes", tenant.nodes, MAX_NODES as u64),
                (".keys", tenant.keys, MAX_TENANT_KEYS),
                (
                    ".requests_per_minute",
                    tenant.requests_per_minute,
                    MAX_REQUESTS_PER_MINUTE,
                ),
            ] {
                if found > most {
                    problem(key, format!("at most {most}"), found.to_string());
                }
            }
        }
        PolicyError::unless_empty(problems)?;
        Ok(Self {
            tenants: file.tenants,
            beyond: BTreeSet::new(),
        })
    }

    /// The same with the nodes counted, by name: those after the last that its tenant may have count no more.
    #[must_use]
    pub fn counting(mut self, inventory: &Inventory) -> Self {
        let mut names: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for node in inventory.nodes() {
            if let Some(owner) = node.owner.as_deref().filter(|owner| self.tenants.contains_key(*owner)) {
                names.entry(owner).or_default().insert(&node.name);
            }
        }
        let mut beyond = BTreeSet::new();
        for (tenant, names) in names {
            let most = self.tenants.get(tenant).map_or(0, |tenant| tenant.nodes);
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            beyond.extend(names.into_iter().skip(most).map(str::to_owned));
        }
        self.beyond = beyond;
        self
    }

    /// The tenant of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Tenant> {
        self.tenants.get(name)
    }

    /// Every tenant's name.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tenants.keys().map(String::as_str)
    }

    /// The tenant after whom a node is named.
    #[must_use]
    pub fn of_node_name(&self, name: &str) -> Option<&str> {
        let (tenant, _) = NodeName::parse(name)?.file.split_once('.')?;
        self.tenants.get_key_value(tenant).map(|(name, _)| name.as_str())
    }

    /// The tenant after whom a key is named.
    #[must_use]
    pub fn of_key(&self, key: &str) -> Option<&str> {
        let (tenant, _) = key.split_once('/')?;
        self.tenants.get_key_value(tenant).map(|(name, _)| name.as_str())
    }

    /// Whether a key may go to a node of this owner: a tenant's to that tenant's nodes alone, any other to whom the
    /// policies say.
    #[must_use]
    pub fn may_have(&self, owner: Option<&str>, key: &str) -> bool {
        self.of_key(key).is_none_or(|tenant| owner == Some(tenant))
    }

    /// Whether a node is one that can be told from those of every other tenant.
    ///
    /// # Errors
    /// [`NotApart`]
    pub fn check(&self, node: &Node) -> Result<(), NotApart> {
        if self.tenants.is_empty() {
            return Ok(());
        }
        match (node.owner.as_deref(), self.of_node_name(&node.name)) {
            (Some(owner), _) if !self.tenants.contains_key(owner) => Err(NotApart::OwnerUnknown),
            (owner, named) if owner != named => Err(NotApart::NameOfAnother),
            _ if self.beyond.contains(&node.name) => Err(NotApart::Beyond),
            _ => Ok(()),
        }
    }

    /// What is wrong with the nodes that the whole has signed: its author is told before it is published. Those of
    /// regions are denied one by one where they are not apart.
    pub(crate) fn problems(&self, inventory: &Inventory) -> Vec<Problem> {
        let signed = inventory.nodes().iter().filter(|node| node.authority == AUTHORITY);
        let told = signed.filter_map(|node| {
            let expected = match self.check(node) {
                Err(NotApart::OwnerUnknown) => "an owner that tenants.toml lists, or none",
                Err(NotApart::NameOfAnother) => "<tenant>.<name> where a tenant owns it, and nowhere else",
                Err(NotApart::Beyond) | Ok(()) => return None,
            };
            let found = format!("{} of {}", node.name, node.owner.as_deref().unwrap_or("nobody"));
            Some(Problem::new(PolicyCode::TenantNode, &node.name, expected, found))
        });
        told.collect()
    }
}

/// Whether this may name a tenant: no dot and no slash, which end it in the names of what it owns.
fn is_tenant_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    name.len() <= MAX_TENANT_NAME_LEN
        && name.bytes().next().is_some_and(allowed)
        && name.bytes().all(|b| allowed(b) || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &[u8] = b"[tenants.acme]\nnodes = 2\nkeys = 1\nrequests_per_minute = 60\n\
                         [tenants.rival]\nnodes = 1\nkeys = 1\nrequests_per_minute = 60\n";

    fn node(name: &str, owner: Option<&str>) -> Node {
        Node {
            name: name.into(),
            region: "north".into(),
            owner: owner.map(Into::into),
            authority: AUTHORITY.into(),
            ..Node::default()
        }
    }

    #[test]
    fn what_a_tenant_is_called_after_is_its_own() {
        let tenants = Tenants::parse(TWO).unwrap();
        for (row, name, owner, expected) in [
            ("its own", "acme.web", Some("acme"), Ok(())),
            ("its own in a region", "north/acme.web", Some("acme"), Ok(())),
            ("the domain's", "web", None, Ok(())),
            ("the domain's, with a dot", "web.acme", None, Ok(())),
            (
                "another's name",
                "rival.web",
                Some("acme"),
                Err(NotApart::NameOfAnother),
            ),
            (
                "another's name in a region",
                "north/rival.web",
                Some("acme"),
                Err(NotApart::NameOfAnother),
            ),
            ("nobody's name", "web", Some("acme"), Err(NotApart::NameOfAnother)),
            (
                "a name like it",
                "acme-2.web",
                Some("acme"),
                Err(NotApart::NameOfAnother),
            ),
            ("the name alone", "acme", Some("acme"), Err(NotApart::NameOfAnother)),
            (
                "a tenant's name without an owner",
                "acme.web",
                None,
                Err(NotApart::NameOfAnother),
            ),
            (
                "an owner who is no tenant",
                "other.web",
                Some("other"),
                Err(NotApart::OwnerUnknown),
            ),
            (
                "a region named after a tenant",
                "acme/web",
                Some("acme"),
                Err(NotApart::NameOfAnother),
            ),
        ] {
            assert_eq!(tenants.check(&node(name, owner)), expected, "{row}");
        }
        assert_eq!(
            Tenants::default().check(&node("x", Some("anybody"))),
            Ok(()),
            "without tenants an owner is a word"
        );
    }

    #[test]
    fn a_key_is_for_whom_it_is_named_after() {
        let tenants = Tenants::parse(TWO).unwrap();
        for (owner, key, may) in [
            (Some("acme"), "acme/db", true),
            (Some("rival"), "acme/db", false),
            (None, "acme/db", false),
            (Some("rival"), "shared/db", true),
            (Some("rival"), "acme-2/db", true),
            (Some("rival"), "acme", true),
            (None, "db", true),
        ] {
            assert_eq!(tenants.may_have(owner, key), may, "{owner:?} {key}");
        }
    }

    #[test]
    fn nodes_beyond_the_quota_count_no_more_and_take_nobody_elses_place() {
        let nodes = ["acme.c", "acme.a", "acme.b", "north/acme.a"].map(|name| node(name, Some("acme")));
        let others = [node("rival.a", Some("rival")), node("web", None)];
        let all: Vec<Node> = nodes.into_iter().chain(others).collect();
        let tenants = Tenants::parse(TWO).unwrap().counting(&Inventory::new(all.clone()));
        let beyond: Vec<&str> = all
            .iter()
            .filter(|node| tenants.check(node) == Err(NotApart::Beyond))
            .map(|node| node.name.as_str())
            .collect();
        assert_eq!(beyond, ["acme.c", "north/acme.a"]);
        assert!(tenants.problems(&Inventory::new(all)).is_empty());
    }

    #[test]
    fn files_that_are_none() {
        let long = format!(
            "[tenants.{}]\nnodes = 1\nkeys = 1\nrequests_per_minute = 1\n",
            "a".repeat(32)
        );
        for text in [
            "",
            "[tenants]\n",
            "[tenants.acme]\nnodes = 1\nkeys = 1\n",
            "[tenants.acme]\nnodes = 1\nkeys = 1\nrequests_per_minute = 1\nadmin = true\n",
            "[tenants.acme]\nnodes = -1\nkeys = 1\nrequests_per_minute = 1\n",
            "[tenants.acme]\nnodes = 65537\nkeys = 1\nrequests_per_minute = 1\n",
            "[tenants.\"a.b\"]\nnodes = 1\nkeys = 1\nrequests_per_minute = 1\n",
            "[tenants.\"a/b\"]\nnodes = 1\nkeys = 1\nrequests_per_minute = 1\n",
            "[tenants.\"\"]\nnodes = 1\nkeys = 1\nrequests_per_minute = 1\n",
            "[tenants.\"a\\n\"]\nnodes = 1\nkeys = 1\nrequests_per_minute = 1\n",
            "[tenants.Acme]\nnodes = 1\nkeys = 1\nrequests_per_minute = 1\n",
            &long,
        ] {
            assert_eq!(
                Tenants::parse(text.as_bytes()).unwrap_err().code(),
                PolicyCode::TenantsUnreadable,
                "{text}"
            );
        }
        assert!(Tenants::parse(b"\xff").is_err());
    }
}
