//! Crates are layers and imports go only downwards (`docs/architecture.md`). This test holds the crate graph to it.

#![allow(clippy::expect_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};

/// Each crate and the crates of ours it may use, directly. What is not written here is not allowed.
const LAYERS: &[(&str, &[&str])] = &[
    ("touchstone-cose", &[]),
    ("touchstone-evidence", &["touchstone-cose"]),
    ("touchstone-authorization", &["touchstone-cose"]),
    ("touchstone-ledger", &["touchstone-cose"]),
    ("touchstone-store", &[]),
    ("touchstone-verifier", &["touchstone-cose", "touchstone-evidence"]),
    ("touchstone-artefacts", &["touchstone-verifier"]),
    (
        "touchstone-policies",
        &[
            "touchstone-artefacts",
            "touchstone-authorization",
            "touchstone-cose",
            "touchstone-evidence",
            "touchstone-verifier",
        ],
    ),
    (
        "touchstone-client",
        &["touchstone-authorization", "touchstone-cose", "touchstone-evidence"],
    ),
    ("touchstone-cage", &[]),
    (
        "touchstone-enforcer",
        &[
            "touchstone-authorization",
            "touchstone-cage",
            "touchstone-client",
            "touchstone-cose",
            "touchstone-ledger",
            "touchstone-policies",
        ],
    ),
    (
        "touchstone-attest",
        &[
            "touchstone-authorization",
            "touchstone-client",
            "touchstone-cose",
            "touchstone-enforcer",
            "touchstone-evidence",
            "touchstone-ledger",
            "touchstone-policies",
            "touchstone-verifier",
        ],
    ),
    (
        "touchstone-keybroker",
        &[
            "touchstone-authorization",
            "touchstone-client",
            "touchstone-cose",
            "touchstone-evidence",
            "touchstone-ledger",
            "touchstone-policies",
            "touchstone-store",
            "touchstone-verifier",
        ],
    ),
];

/// Crates that must not be able to reach the network, the disk, a clock or an async runtime, by any path.
const PURE: &[&str] = &[
    "touchstone-cose",
    "touchstone-evidence",
    "touchstone-authorization",
    "touchstone-ledger",
    "touchstone-verifier",
    "touchstone-artefacts",
];
const IMPURE: &[&str] = &[
    "tokio",
    "hyper",
    "axum",
    "rustls",
    "redb",
    "tss-esapi",
    "tough",
    "rustix",
    "reqwest",
];

/// The simulated confidential VM: its root proves nothing.
const SIMULATED: &str = "touchstone-simulated-platform";

fn metadata() -> cargo_metadata::Metadata {
    cargo_metadata::MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .other_options(vec!["--offline".into(), "--locked".into()])
        .exec()
        .expect("cargo metadata")
}

/// The folders of the pure crates; their sources are read in `pure_sources`.
pub(super) fn pure_folders() -> Vec<std::path::PathBuf> {
    let metadata = metadata();
    let packages = metadata.workspace_packages();
    let pure = packages.iter().filter(|package| PURE.contains(&package.name.as_str()));
    let folders: Vec<_> = pure
        .filter_map(|package| package.manifest_path.parent())
        .map(|folder| folder.as_std_path().to_owned())
        .collect();
    assert_eq!(folders.len(), PURE.len(), "each pure crate is in the workspace");
    folders
}

#[test]
fn imports_go_only_downwards() {
    let metadata = metadata();
    let allowed: BTreeMap<&str, BTreeSet<&str>> = LAYERS
        .iter()
        .map(|(name, below)| (*name, below.iter().copied().collect()))
        .collect();
    for package in metadata.workspace_packages() {
        let Some(allowed) = allowed.get(package.name.as_str()) else {
            assert!(
                ["touchstone", "swtpm-tests", "touchstone-vectors", SIMULATED].contains(&package.name.as_str()),
                "{} is a new crate: give it a layer in tests/layers.rs",
                package.name
            );
            continue;
        };
        for dependency in &package.dependencies {
            let ours = dependency.name.starts_with("touchstone-") && dependency.name != "touchstone-vectors";
            if ours && dependency.kind == cargo_metadata::DependencyKind::Normal {
                assert!(
                    allowed.contains(dependency.name.as_str()),
                    "{} must not use {}: that arrow points upwards",
                    package.name,
                    dependency.name
                );
            }
        }
    }
}

#[test]
fn pure_crates_reach_no_world() {
    let metadata = metadata();
    let resolve = metadata.resolve.as_ref().expect("a resolved graph");
    let names: BTreeMap<_, _> = metadata.packages.iter().map(|p| (&p.id, p.name.as_str())).collect();
    let normal: BTreeMap<_, Vec<_>> = resolve
        .nodes
        .iter()
        .map(|node| {
            let deps = node
                .deps
                .iter()
                .filter(|d| {
                    d.dep_kinds
                        .iter()
                        .any(|k| k.kind == cargo_metadata::DependencyKind::Normal)
                })
                .map(|d| &d.pkg)
                .collect();
            (&node.id, deps)
        })
        .collect();
    for package in metadata
        .workspace_packages()
        .iter()
        .filter(|p| PURE.contains(&p.name.as_str()))
    {
        let mut seen = BTreeSet::new();
        let mut open = vec![&package.id];
        while let Some(id) = open.pop() {
            if seen.insert(id) {
                open.extend(normal.get(id).into_iter().flatten());
            }
        }
        for id in seen {
            let name = names.get(id).expect("a named package");
            assert!(
                !IMPURE.contains(name),
                "{} reaches {name}: it decides, it must not touch the world",
                package.name
            );
        }
    }
}

#[test]
fn nothing_that_is_shipped_can_reach_the_simulated_platform() {
    let metadata = metadata();
    let test_support = ["swtpm-tests", "touchstone-vectors", SIMULATED];
    for package in metadata
        .workspace_packages()
        .iter()
        .filter(|package| !test_support.contains(&package.name.as_str()))
    {
        for dependency in &package.dependencies {
            assert!(
                dependency.kind == cargo_metadata::DependencyKind::Development
                    || !test_support.contains(&dependency.name.as_str()),
                "{} depends on {}",
                package.name,
                dependency.name
            );
        }
    }
    let there = metadata
        .workspace_packages()
        .iter()
        .any(|package| package.name.as_str() == SIMULATED);
    assert!(there, "the rule is about a crate that exists");
}

#[test]
fn only_attest_links_the_tpm_library() {
    for package in metadata().workspace_packages() {
        let links = package.dependencies.iter().any(|d| d.name.starts_with("tss-esapi"));
        // The test harness makes odd keys of its own with it; nothing that is shipped depends on the harness.
        assert!(
            !links || ["touchstone-attest", "swtpm-tests"].contains(&package.name.as_str()),
            "{} links the C TPM library",
            package.name
        );
    }
}
