//! What a region says of its own nodes, and how much of it counts for the whole.
//!
//! Below `regions/<id>/nodes/` a region names nodes of its own (its name prefix, its region), with the roles and the owners
//! that are delegated to it, and no others. The domain's own policy is told of such a node what the whole has delegated, and
//! nothing else: not its zone, which only the region's policy sees.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use touchstone_verifier::inventory::Node;

use super::additions::Additions;
use crate::cedar::decision::NodeSeen;
use crate::error::{PolicyCode, Problem};
use crate::targets::inventory_file::AUTHORITY;

/// Everything that a region says of `node` and may not. Whose entry it is must be read already.
pub(crate) fn check(file: &str, node: &Node, additions: Option<&Additions>) -> Vec<Problem> {
    let nothing = Additions::default();
    let additions = additions.unwrap_or(&nothing);
    let listed = |names: &BTreeSet<String>| match names.len() {
        0 => "none: regions.toml delegates none to the region".to_owned(),
        _ => format!(
            "one that regions.toml delegates: {}",
            names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
        ),
    };
    let claim = |key: &str| format!("{file}: {key} of {}", node.name);
    let mut problems = Vec::new();
    for role in node.roles.iter().filter(|role| !additions.roles.contains(*role)) {
        problems.push(Problem::new(
            PolicyCode::RegionRole,
            claim("roles"),
            listed(&additions.roles),
            role,
        ));
    }
    if let Some(owner) = node.owner.as_ref().filter(|owner| !additions.owners.contains(*owner)) {
        problems.push(Problem::new(
            PolicyCode::RegionOwner,
            claim("owner"),
            listed(&additions.owners),
            owner,
        ));
    }
    problems
}

/// What the domain's own policy is told of `node`; nothing where the whole signed the entry itself: then all of it.
///
/// By construction no more than the whole has delegated, whatever was accepted when the entry was read.
pub fn seen_by_whole<'a>(node: &'a Node, additions: &BTreeMap<String, Additions>) -> Option<NodeSeen<'a>> {
    if node.authority == AUTHORITY {
        return None;
    }
    // Whoever signed it speaks for the region the node is in, or for none.
    let additions = additions.get(&node.region).filter(|_| node.authority == node.region);
    let roles = node
        .roles
        .iter()
        .filter(|role| additions.is_some_and(|a| a.roles.contains(*role)));
    Some(NodeSeen {
        zone: None,
        roles: Cow::Owned(roles.cloned().collect()),
        owner: node
            .owner
            .as_deref()
            .filter(|owner| additions.is_some_and(|a| a.owners.contains(*owner))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(authority: &str, region: &str) -> Node {
        Node {
            name: "eu/web".into(),
            region: region.into(),
            zone: Some("a".into()),
            roles: vec!["web".into(), "admin".into()],
            owner: Some("acme".into()),
            authority: authority.into(),
            ..Node::default()
        }
    }

    fn additions(region: &str) -> BTreeMap<String, Additions> {
        let additions = Additions {
            roles: ["web".to_owned()].into(),
            ..Additions::default()
        };
        [(region.to_owned(), additions)].into()
    }

    #[test]
    fn the_whole_is_told_what_it_delegated() {
        let told = |node: &Node, additions| {
            seen_by_whole(node, additions).map(|seen| (seen.zone.is_some(), seen.roles.join(" "), seen.owner.is_some()))
        };
        let delegated = additions("eu");
        for (authority, region, roles) in [
            (AUTHORITY, "eu", None),
            ("eu", "eu", Some("web")),
            ("us", "eu", Some("")),
            ("us", "us", Some("")),
        ] {
            let expected = roles.map(|roles| (false, roles.to_owned(), false));
            assert_eq!(
                told(&node(authority, region), &delegated),
                expected,
                "{authority} {region}"
            );
        }
    }

    #[test]
    fn what_is_not_delegated_is_refused() {
        let file = "regions/eu/nodes/web.json";
        let codes = |additions: Option<&Additions>| -> Vec<PolicyCode> {
            check(file, &node("eu", "eu"), additions)
                .into_iter()
                .map(|p| p.code)
                .collect()
        };
        assert_eq!(
            codes(None),
            [PolicyCode::RegionRole, PolicyCode::RegionRole, PolicyCode::RegionOwner]
        );
        let mut eu = additions("eu").remove("eu").unwrap();
        let problems = check(file, &node("eu", "eu"), Some(&eu));
        assert_eq!(problems[0].claim, "regions/eu/nodes/web.json: roles of eu/web");
        assert_eq!(
            (problems[0].expected.as_str(), problems[0].found.as_str()),
            ("one that regions.toml delegates: web", "admin")
        );
        eu.roles.insert("admin".into());
        eu.owners.insert("acme".into());
        assert_eq!(codes(Some(&eu)), []);
    }
}
