//! Delegation, and how far a failure reaches.

use super::*;

const ROLES: &[&str] = &["a", "b", "c"];

fn rules() -> impl Strategy<Value = ReachRule> {
    (select(&[Reach::Subject, Reach::Zone, Reach::Cluster][..]), some(ROLES)).prop_map(|(reach, roles)| ReachRule {
        reach,
        roles: roles.into_iter().map(Into::into).collect(),
    })
}

fn delegations() -> impl Strategy<Value = Delegation> {
    let software = select(&[SoftwareKeys::Refused, SoftwareKeys::ShortLived][..]);
    (0..9u8, 0..9u32, 0..9u64, any::<bool>(), 0..9u8, 0..9u64, software).prop_map(
        |(max_depth, max_children, workload_life_ms, offline, offline_depth, offline_life_ms, software_keys)| {
            Delegation {
                max_depth,
                max_children,
                workload_life_ms,
                offline,
                offline_depth,
                offline_life_ms,
                software_keys,
            }
        },
    )
}

fn delegation_said() -> impl Strategy<Value = RegionDelegation> {
    (delegations(), any::<[bool; 7]>()).prop_map(|(all, said)| {
        let [depth, children, life, offline, offline_depth, offline_life, software] = said;
        RegionDelegation {
            max_depth: depth.then_some(all.max_depth),
            max_children: children.then_some(all.max_children),
            workload_life_ms: life.then_some(all.workload_life_ms),
            offline: offline.then_some(all.offline),
            offline_depth: offline_depth.then_some(all.offline_depth),
            offline_life_ms: offline_life.then_some(all.offline_life_ms),
            software_keys: software.then_some(all.software_keys),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn delegation_only_shrinks(whole in delegations(), said in delegation_said()) {
        let mut problems = Vec::new();
        let region = said.narrow(&whole, &mut Rules::new("f", &mut problems));
        prop_assert!(region.max_depth <= whole.max_depth);
        prop_assert!(region.max_children <= whole.max_children);
        prop_assert!(region.workload_life_ms <= whole.workload_life_ms);
        prop_assert!(!region.offline || whole.offline);
        prop_assert!(region.offline_depth <= whole.offline_depth);
        prop_assert!(region.offline_life_ms <= whole.offline_life_ms);
        for kind in [KeyKind::Tpm, KeyKind::Tee, KeyKind::Software] {
            prop_assert!(region.life_ms(kind) <= whole.life_ms(kind));
        }
        let wider = said.max_depth.is_some_and(|n| n > whole.max_depth)
            || said.offline.is_some_and(|offline| offline && !whole.offline);
        prop_assert!(!wider || !problems.is_empty(), "wider, and not refused");
    }

    /// Where nothing is refused a region's rule reaches at least as far as the whole's, for every role.
    #[test]
    fn a_regions_rule_reaches_as_far(whole in rules(), said in rules(), roles in few(ROLES)) {
        let of = |rule: &ReachRule| Containment { default: rule.clone(), zones: BTreeMap::new() };
        let roles: Vec<String> = roles.into_iter().map(Into::into).collect();
        if said.is_as_strict_as(&whole) {
            prop_assert!(of(&said).reach(None, &roles) >= of(&whole).reach(None, &roles));
        }
    }
}
