//! `[containment]` and `[delegation]` of a region: a failure reaches further, less is handed on.

use serde::Deserialize;
use touchstone_verifier::inventory::Node;

use super::rules::Rules;
use crate::load::PolicySet;
use crate::settings::containment::ContainmentSection;
use crate::settings::{Containment, Delegation, Extent, Reach, SoftwareKeys};

/// `[delegation]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RegionDelegation {
    pub max_depth: Option<u8>,
    pub max_children: Option<u32>,
    pub workload_life_ms: Option<u64>,
    pub offline: Option<bool>,
    pub offline_depth: Option<u8>,
    pub offline_life_ms: Option<u64>,
    pub software_keys: Option<SoftwareKeys>,
}

impl RegionDelegation {
    /// The whole's limits with this region's smaller ones.
    pub fn narrow(&self, whole: &Delegation, rules: &mut Rules<'_>) -> Delegation {
        let key = |name: &str| format!("delegation.{name}");
        Delegation {
            max_depth: rules.at_most(&key("max_depth"), whole.max_depth, self.max_depth),
            max_children: rules.at_most(&key("max_children"), whole.max_children, self.max_children),
            workload_life_ms: rules.at_most(&key("workload_life_ms"), whole.workload_life_ms, self.workload_life_ms),
            offline: rules.leniency(&key("offline"), whole.offline, self.offline),
            offline_depth: rules.at_most(&key("offline_depth"), whole.offline_depth, self.offline_depth),
            offline_life_ms: rules.at_most(&key("offline_life_ms"), whole.offline_life_ms, self.offline_life_ms),
            software_keys: rules.one(
                &key("software_keys"),
                &whole.software_keys,
                self.software_keys,
                |said, whole| said == whole || *said == SoftwareKeys::Refused,
            ),
        }
    }
}

/// What a region says of the failures of its nodes, beside the whole. A zone it names, and its default where it says one,
/// must reach as far as the whole's do for every role that the whole names.
pub(super) fn containment(
    said: Option<&ContainmentSection>,
    whole: &Containment,
    rules: &mut Rules<'_>,
) -> Option<Containment> {
    let said = said?;
    let mut wrong = Vec::new();
    let read = said.read(&mut wrong);
    rules.take(wrong);
    let zones = read.zones.iter().map(|(zone, rule)| {
        let key = format!("containment.zones.{zone}");
        (key, rule, whole.rule(Some(zone)))
    });
    let default = said
        .says_default()
        .then(|| ("containment.default".to_owned(), &read.default, &whole.default));
    for (key, rule, of_whole) in zones.chain(default) {
        if !rule.is_as_strict_as(of_whole) {
            let roles: Vec<&str> = of_whole.roles.iter().map(String::as_str).collect();
            let expected = format!("{} with roles {}", of_whole.reach.as_str(), roles.join(", "));
            rules.widens(&key, expected, rule.reach.as_str());
        }
    }
    Some(read)
}

impl PolicySet {
    /// Who falls with `node` when it fails authentically, beyond itself and its lineage; empty: nobody. What the whole says
    /// is judged by what the whole knows of the node, and what a region says reaches no further than the region.
    #[must_use]
    pub fn extents_of(&self, node: &Node) -> Vec<Extent> {
        let seen = self.seen_by_whole(node);
        let (zone, roles) = match &seen {
            Some(seen) => (seen.zone, seen.roles.as_ref()),
            None => (node.zone.as_deref(), node.roles.as_slice()),
        };
        let in_region = |zone: Option<&str>| Extent::Zone {
            zone: zone.map(Into::into),
            region: Some(node.region.clone()),
        };
        let of_whole = match self.settings.containment.reach(zone, roles) {
            Reach::Subject => None,
            // A name of a zone is the whole's; without one, or by a region's word, it is the region's nodes.
            Reach::Zone => Some(match zone {
                Some(zone) => Extent::Zone {
                    zone: Some(zone.into()),
                    region: None,
                },
                None => in_region(node.zone.as_deref()),
            }),
            Reach::Cluster => Some(Extent::Cluster),
        };
        let view = self.views.get(&node.region);
        let of_region = view.and_then(|view| view.containment.as_ref()).and_then(|said| {
            match said.reach(node.zone.as_deref(), &node.roles) {
                Reach::Subject => None,
                Reach::Zone => Some(in_region(node.zone.as_deref())),
                Reach::Cluster => Some(Extent::Region(node.region.clone())),
            }
        });
        of_whole.into_iter().chain(of_region).collect()
    }
}
