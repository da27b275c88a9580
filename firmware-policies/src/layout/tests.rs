use super::*;

#[test]
fn names_and_kinds_correspond() {
    let kinds = [
        TargetKind::Settings,
        TargetKind::Schema,
        TargetKind::GlobalPolicy,
        TargetKind::Signers,
        TargetKind::Keyset,
        TargetKind::Inventory,
        TargetKind::Regions,
        TargetKind::region_policy("eu-1"),
        TargetKind::Region("eu-1".into(), RegionTarget::Settings),
        TargetKind::Region("eu-1".into(), RegionTarget::Inventory),
        TargetKind::Region("eu-1".into(), RegionTarget::Node("web-1.example".into())),
        TargetKind::Region("eu-1".into(), RegionTarget::Reference("Golden_1".into())),
        TargetKind::Region("eu-1".into(), RegionTarget::Signers),
        TargetKind::Region("eu-1".into(), RegionTarget::Deny),
        TargetKind::Region("eu-1".into(), RegionTarget::Test("a_debug-guest".into())),
        TargetKind::Test("a_debug-guest".into()),
        TargetKind::Tenants,
        TargetKind::Operators,
        TargetKind::Detectors,
        TargetKind::Enforcers,
        TargetKind::Network,
        TargetKind::TenantPolicy("acme".into()),
        TargetKind::Federation("partner.example".into()),
        TargetKind::FederationRoot("partner.example".into()),
        TargetKind::Node("web-1.example".into()),
        TargetKind::Reference("Golden_1".into()),
        TargetKind::Anchor(Purpose::Ek, [0xab; 32]),
        TargetKind::Intermediate(Purpose::Idevid, [0xab; 32]),
        TargetKind::Crl([0xab; 32]),
        TargetKind::Deny,
        TargetKind::ImaKey([0xcd; 32]),
    ];
    for kind in kinds {
        assert_eq!(TargetKind::of(&kind.name()), Some(kind));
    }
}

#[test]
fn names_that_are_not_ours_are_no_targets() {
    let upper = format!("anchors/ek/{}.der", "AB".repeat(32));
    for name in [
        "",
        "settings.toml/",
        "Settings.toml",
        "nodes/.json",
        "nodes/../x.json",
        "nodes/a/b.json",
        "nodes/Web.json",
        "nodes/-a.json",
        "nodes/a.toml",
        "regions/policy.cedar",
        "regions/root/settings.toml",
        "regions/targets/settings.toml",
        "regions/snapshot/settings.toml",
        "regions/timestamp/settings.toml",
        "regions/reference/settings.toml",
        "regions/eu/other.cedar",
        "regions/eu/x/policy.cedar",
        "regions/eu/",
        "regions//settings.toml",
        "regions/EU/settings.toml",
        "regions/../settings.toml",
        "regions/eu/nodes/../x.json",
        "regions/eu/nodes/a/b.json",
        "regions/eu/keyset.json",
        "regions/eu/schema.cedarschema",
        "regions/eu/regions.toml",
        "regions/eu/anchors/ek/0000000000000000000000000000000000000000000000000000000000000000.der",
        "regions/eu/regions/us/settings.toml",
        "tests/a/b.toml",
        "tests/.toml",
        "tenants/policy.cedar",
        "federation/.root.json",
        "federation/.toml",
        "anchors/ek/00.der",
        "intermediates/ek/00.der",
        "crls/00.crl",
        "deny.json",
        "anchors/any/0000000000000000000000000000000000000000000000000000000000000000.der",
        upper.as_str(),
        "references/.corim",
        "ima-keys/00.der",
        "ima-keys/ek/0000000000000000000000000000000000000000000000000000000000000000.der",
        "references/a b.corim",
        "README.md",
    ] {
        assert_eq!(TargetKind::of(name), None, "{name}");
    }
    assert!(is_name(&"a".repeat(63)) && !is_name(&"a".repeat(64)) && !is_name("a_b") && !is_name("é"));
}
