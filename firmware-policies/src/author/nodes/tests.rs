//! Nodes of the whole and of regions, taken out again.

use super::*;
use crate::author::withdraw;
use crate::testing::{NOW, TestRepo, boot_evidence, boot_file};

const EU: NodePlace<'static> = NodePlace {
    name: "eu-1/web-1",
    region: "eu-1",
    zone: Some("a"),
    roles: &[],
    owner: Some("acme"),
};

fn certificate(boot: &str) -> NodeIdentity {
    NodeIdentity::EkCert(boot_file(boot, "ek-rsa-cert.der"))
}

fn code<T: std::fmt::Debug>(result: Result<T, PolicyError>) -> PolicyCode {
    result.unwrap_err().code()
}

#[test]
fn a_regions_node_stands_in_its_region_under_its_name() {
    let test = TestRepo::new();
    let added = node_add(&test.repo, &certificate("good"), EU).unwrap();
    assert_eq!(
        added.staged,
        ["regions/eu-1/nodes/web-1.json", "regions/eu-1/policy.cedar"]
    );
    let listed = node_list(&test.repo).unwrap();
    let [only] = listed.as_slice() else { panic!("one node") };
    assert_eq!(
        (only.node.name.as_str(), only.node.owner.as_deref()),
        ("eu-1/web-1", Some("acme"))
    );
    assert!(only.staged && only.file == "regions/eu-1/nodes/web-1.json");
    // Its hardware is nobody else's, whoever names it; and it is one node, whoever adds to it.
    let other = NodePlace { name: "web-1", ..EU };
    assert_eq!(
        code(node_add(&test.repo, &certificate("good"), other)),
        PolicyCode::IdentityConflict
    );
    assert!(
        node_add(&test.repo, &NodeIdentity::Evidence(boot_evidence("good")), EU)
            .unwrap()
            .merged
    );
    for (row, place) in [
        ("another region", NodePlace { region: "us-1", ..EU }),
        ("another zone", NodePlace { zone: Some("b"), ..EU }),
        (
            "another owner",
            NodePlace {
                owner: Some("rival"),
                ..EU
            },
        ),
    ] {
        assert_eq!(
            code(node_add(&test.repo, &certificate("good"), place)),
            PolicyCode::NodeConflict,
            "{row}"
        );
    }
    let placed = NodePlace {
        name: "us-1/web-1",
        ..EU
    };
    let refused = node_add(&test.repo, &certificate("uki"), placed);
    assert_eq!(code(refused), PolicyCode::NodeOutsideRegion);
}

#[test]
fn hostile_names_stage_nothing() {
    let test = TestRepo::new();
    for name in crate::targets::node_name::hostile() {
        let place = NodePlace { name: &name, ..EU };
        let shown: String = name.chars().take(40).collect();
        assert_eq!(
            code(node_add(&test.repo, &certificate("good"), place)),
            PolicyCode::SettingsName,
            "{shown:?}"
        );
        assert_eq!(
            code(node_remove(&test.repo, &name)),
            PolicyCode::SettingsName,
            "{shown:?}"
        );
    }
    assert!(node_list(&test.repo).unwrap().is_empty() && !test.staged("nodes").exists());
    assert!(!test.staged("regions").exists(), "not even a folder");
}

#[test]
fn a_node_is_taken_out_wherever_it_stands() {
    let test = TestRepo::published();
    let row = |n: u8| {
        format!(
            r#"{{"name":"n-{n}","region":"north","ek":["{}"]}}"#,
            hex::encode([n; 32])
        )
    };
    let inventory = |rows: &[u8]| {
        let rows: Vec<String> = rows.iter().map(|n| row(*n)).collect();
        format!("{{\"nodes\":[{}]}}", rows.join(","))
    };
    std::fs::write(test.staged("inventory.json"), inventory(&[1, 2])).unwrap();
    test.publish(NOW).unwrap();
    assert_eq!(test.load(NOW).unwrap().inventory.nodes().len(), 3);
    for (name, file, left) in [
        ("web-1", "nodes/web-1.json", 2),
        ("n-1", "inventory.json", 1),
        ("n-2", "inventory.json", 0),
    ] {
        let removed = node_remove(&test.repo, name).unwrap();
        assert_eq!((removed.node.name.as_str(), removed.denied), (name, 0));
        assert_eq!(removed.staged, [file]);
        test.publish(NOW).unwrap();
        let names: Vec<String> = test
            .load(NOW)
            .unwrap()
            .inventory
            .nodes()
            .iter()
            .map(|n| n.name.clone())
            .collect();
        assert!(names.len() == left && !names.contains(&name.to_owned()), "{names:?}");
        assert_eq!(code(node_remove(&test.repo, name)), PolicyCode::TargetMissing);
    }
    assert_eq!(code(withdraw(&test.repo, "inventory.json")), PolicyCode::TargetMissing);
}

#[test]
fn what_is_taken_out_does_not_come_back_by_first_use() {
    let test = TestRepo::published();
    let setting = "enrolment.first_use={ from = \"2027-03-01T08:00:00Z\", until = \"2027-03-02T08:00:00Z\", \
                   region = \"north\", roles = [], name_prefix = \"edge-\", most = 1 }";
    let change = crate::settings::Assignment::parse(setting).unwrap();
    crate::settings::settings_set(&test.repo, &[change]).unwrap();
    let ek = node_list(&test.repo).unwrap()[0].node.ek[0].parse_ek();
    let removed = node_remove(&test.repo, "web-1").unwrap();
    assert_eq!(
        (removed.denied, removed.staged),
        (1, vec!["deny.toml".to_owned(), "nodes/web-1.json".into()])
    );
    test.publish(NOW).unwrap();
    let policy = test.load(NOW).unwrap();
    assert_eq!(policy.anchors.deny_list().key(&ek), Some("decommissioned: web-1"));
    // Said once.
    test.add_node("web-2", "north", certificate("good")).unwrap();
    assert_eq!(node_remove(&test.repo, "web-2").unwrap().denied, 0);
}

trait ParseEk {
    fn parse_ek(&self) -> touchstone_verifier::inventory::EkId;
}

impl ParseEk for String {
    fn parse_ek(&self) -> touchstone_verifier::inventory::EkId {
        touchstone_verifier::inventory::EkId(hex::decode(self).unwrap().try_into().unwrap())
    }
}
