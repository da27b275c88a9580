//! `[containment]`: how far the failure of one member reaches.
//!
//! ```toml
//! [containment]
//! default = "subject"      # the failed subject and its whole lineage
//! zones = { payments = { reach = "zone", roles = ["hsm-host"] }, vault = { reach = "cluster", roles = ["key-custodian"] } }
//! ```
//! Beyond the subject a failure reaches only where it is authentic and the node has a role that is named here: an empty list
//! of roles never means any. A signed command widens besides. Source: `docs/protocol.md`, section 12.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use touchstone_verifier::inventory::Node;

use crate::error::{PolicyCode, Problem};
use crate::layout::is_name;
use crate::targets::inventory_file::MAX_ROLES;

/// Most zones with a reach of their own.
pub const MAX_ZONES: usize = 1024;

/// How far a failure reaches; the stricter is the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// The failed subject and its whole lineage, at every enforcer.
    #[default]
    Subject,
    /// Every node of its zone besides.
    Zone,
    /// Every authorization of the domain; for what a region says of its nodes, of the region.
    Cluster,
}

impl Reach {
    /// As it stands in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Subject => "subject",
            Self::Zone => "zone",
            Self::Cluster => "cluster",
        }
    }
}

/// How far the failure of a node with one of some roles reaches.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReachRule {
    /// How far.
    pub reach: Reach,
    /// The roles; empty for [`Reach::Subject`] only.
    pub roles: BTreeSet<String>,
}

impl ReachRule {
    fn of(&self, roles: &[String]) -> Reach {
        match roles.iter().any(|role| self.roles.contains(role)) {
            true => self.reach,
            false => Reach::Subject,
        }
    }

    /// Whether every failure that `other` says reaches as far by this.
    pub(crate) fn is_as_strict_as(&self, other: &Self) -> bool {
        other.reach == Reach::Subject || (self.reach >= other.reach && self.roles.is_superset(&other.roles))
    }
}

/// The setting, checked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Containment {
    /// Where no zone says otherwise.
    pub default: ReachRule,
    /// By zone.
    pub zones: BTreeMap<String, ReachRule>,
}

impl Containment {
    /// How far an authentic failure of a node of this zone and these roles reaches.
    #[must_use]
    pub fn reach(&self, zone: Option<&str>, roles: &[String]) -> Reach {
        self.rule(zone).of(roles)
    }

    /// What holds in a zone.
    pub(crate) fn rule(&self, zone: Option<&str>) -> &ReachRule {
        zone.and_then(|zone| self.zones.get(zone)).unwrap_or(&self.default)
    }
}

/// Who falls with a node, beyond itself and its lineage.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extent {
    /// Every node of a zone; of one region's where the region says so, or where the nodes have no zone.
    Zone {
        /// The zone; nothing stands for the nodes that have none.
        zone: Option<String>,
        /// The region, where only its nodes are meant.
        region: Option<String>,
    },
    /// Every node of a region.
    Region(String),
    /// Every node of the domain.
    Cluster,
}

impl Extent {
    /// Whether a node falls.
    #[must_use]
    pub fn covers(&self, node: &Node) -> bool {
        match self {
            Self::Zone { zone, region } => {
                node.zone == *zone && region.as_ref().is_none_or(|region| node.region == *region)
            }
            Self::Region(region) => node.region == *region,
            Self::Cluster => true,
        }
    }
}

/// `[containment]` as it stands in the file. A file without it has the default.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ContainmentSection {
    default: Option<Reach>,
    roles: Vec<String>,
    zones: BTreeMap<String, ZoneSection>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct ZoneSection {
    reach: Reach,
    #[serde(default)]
    roles: Vec<String>,
}

impl ContainmentSection {
    /// The setting; what is wrong names `settings.toml`.
    pub fn read(&self, problems: &mut Vec<Problem>) -> Containment {
        if self.zones.len() > MAX_ZONES {
            let claim = "settings.toml: containment.zones";
            let expected = format!("at most {MAX_ZONES}");
            problems.push(Problem::new(
                PolicyCode::ContainmentInvalid,
                claim,
                expected,
                self.zones.len(),
            ));
            return Containment::default();
        }
        let zones = self.zones.iter().map(|(zone, section)| {
            let key = format!("zones.{zone}");
            if !is_name(zone) {
                problem(problems, &key, "the name of a zone", zone);
            }
            (zone.clone(), rule(&key, section.reach, &section.roles, problems))
        });
        let zones = zones.collect();
        Containment {
            default: rule("default", self.default.unwrap_or_default(), &self.roles, problems),
            zones,
        }
    }

    /// Whether it says what holds where no zone does.
    pub const fn says_default(&self) -> bool {
        self.default.is_some()
    }
}

fn rule(key: &str, reach: Reach, roles: &[String], problems: &mut Vec<Problem>) -> ReachRule {
    if roles.is_empty() != (reach == Reach::Subject) {
        let expected = match reach {
            Reach::Subject => "no roles: every failure reaches its subject",
            Reach::Zone | Reach::Cluster => "the roles whose failure reaches so far",
        };
        problem(problems, key, expected, &roles.join(", "));
    }
    if roles.len() > MAX_ROLES {
        problem(
            problems,
            key,
            "at most as many roles as a node has",
            &roles.len().to_string(),
        );
    }
    let mut named = BTreeSet::new();
    for role in roles.iter().take(MAX_ROLES) {
        if !is_name(role) || !named.insert(role.clone()) {
            problem(problems, key, "names of roles, each once", role);
        }
    }
    ReachRule { reach, roles: named }
}

fn problem(problems: &mut Vec<Problem>, key: &str, expected: &str, found: &str) {
    let claim = format!("settings.toml: containment.{key}");
    problems.push(Problem::new(PolicyCode::ContainmentInvalid, claim, expected, found));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Containment, usize) {
        let section: ContainmentSection = toml::from_str(text).unwrap();
        let mut problems = Vec::new();
        (section.read(&mut problems), problems.len())
    }

    fn reach(containment: &Containment, zone: Option<&str>, roles: &[&str]) -> Reach {
        let roles: Vec<String> = roles.iter().map(|role| (*role).to_owned()).collect();
        containment.reach(zone, &roles)
    }

    #[test]
    fn a_failure_reaches_beyond_its_subject_only_by_zone_and_role() {
        let (containment, problems) = read(
            "default = \"zone\"\nroles = [\"gateway\"]\n\
             zones.vault = { reach = \"cluster\", roles = [\"custodian\"] }\nzones.office = { reach = \"subject\" }\n",
        );
        assert_eq!(problems, 0);
        for (zone, roles, expected) in [
            (Some("vault"), ["custodian"].as_slice(), Reach::Cluster),
            (Some("vault"), &["web", "custodian"], Reach::Cluster),
            (Some("vault"), &["gateway"], Reach::Subject),
            (Some("vault"), &[], Reach::Subject),
            (Some("office"), &["gateway"], Reach::Subject),
            (Some("elsewhere"), &["gateway"], Reach::Zone),
            (Some("elsewhere"), &["custodian"], Reach::Subject),
            (None, &["gateway"], Reach::Zone),
            (None, &[], Reach::Subject),
        ] {
            assert_eq!(reach(&containment, zone, roles), expected, "{zone:?} {roles:?}");
        }
        let without = Containment::default();
        assert_eq!(reach(&without, Some("vault"), &["custodian"]), Reach::Subject);
    }

    #[test]
    fn an_empty_list_of_roles_never_means_any() {
        for text in [
            "default = \"cluster\"",
            "default = \"zone\"\nroles = []",
            "zones.a = { reach = \"zone\" }",
            "zones.a = { reach = \"cluster\", roles = [] }",
            "default = \"subject\"\nroles = [\"web\"]",
            "zones.a = { reach = \"zone\", roles = [\"*\"] }",
            "zones.a = { reach = \"zone\", roles = [\"web\", \"web\"] }",
            "zones.\"*\" = { reach = \"zone\", roles = [\"web\"] }",
        ] {
            assert_eq!(read(text).1, 1, "{text}");
        }
        for text in [
            "default = \"all\"",
            "zones.a = { roles = [\"a\"] }",
            "default = \"zone\"\nrole = [\"a\"]",
        ] {
            assert!(toml::from_str::<ContainmentSection>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn who_falls() {
        let node = |zone: Option<&str>, region: &str| Node {
            zone: zone.map(Into::into),
            region: region.into(),
            ..Node::default()
        };
        let zone = |zone: Option<&str>, region: Option<&str>| Extent::Zone {
            zone: zone.map(Into::into),
            region: region.map(Into::into),
        };
        for (extent, node, falls) in [
            (zone(Some("a"), None), node(Some("a"), "north"), true),
            (zone(Some("a"), None), node(Some("a"), "south"), true),
            (zone(Some("a"), None), node(Some("b"), "north"), false),
            (zone(Some("a"), None), node(None, "north"), false),
            (zone(Some("a"), Some("north")), node(Some("a"), "south"), false),
            (zone(None, Some("north")), node(None, "north"), true),
            (zone(None, Some("north")), node(None, "south"), false),
            (zone(None, Some("north")), node(Some("a"), "north"), false),
            (Extent::Region("north".into()), node(Some("a"), "north"), true),
            (Extent::Region("north".into()), node(Some("a"), "south"), false),
            (Extent::Cluster, node(None, "south"), true),
        ] {
            assert_eq!(extent.covers(&node), falls, "{extent:?} {node:?}");
        }
    }
}
