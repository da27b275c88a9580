//! Policies to start from: commented files with production strictness, each set with the tests that hold for it.
//!
//! They lie in `firmware-policies/sets/<name>/` as they would in a repository. `policy init --set NAME` stages them; from
//! then on they are the author's.

use crate::layout::{RegionTarget, TargetKind};

/// A set of policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PolicyStart {
    /// Its name.
    pub name: &'static str,
    /// What it is for, in a line.
    pub about: &'static str,
    settings: &'static str,
    policy: &'static str,
    tests: &'static str,
    /// Where the set shows a region.
    region: Option<RegionStart>,
}

/// What a set has of one region, and what the whole says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RegionStart {
    name: &'static str,
    additions: &'static str,
    settings: &'static str,
    policy: &'static str,
    tests: &'static str,
}

/// The files of a set that every set has.
macro_rules! set {
    ($name:literal, $about:literal, $region:expr) => {
        PolicyStart {
            name: $name,
            about: $about,
            settings: include_str!(concat!("../sets/", $name, "/settings.toml")),
            policy: include_str!(concat!("../sets/", $name, "/policy.cedar")),
            tests: include_str!(concat!("../sets/", $name, "/tests/", $name, ".toml")),
            region: $region,
        }
    };
}

/// Every set that is shipped.
pub const SETS: [PolicyStart; 5] = [
    set!(
        "bare-metal-tpm",
        "machines with a TPM of their own, measured boot and measured files",
        None
    ),
    set!(
        "confidential-vm",
        "SEV-SNP and TDX guests on hosts that are not trusted",
        None
    ),
    set!(
        "two-root-ai-node",
        "TPM and confidential computing on one machine, with listed GPUs",
        None
    ),
    set!(
        "sovereign-region",
        "a domain whose regions sign for themselves and only narrow",
        Some(RegionStart {
            name: "region-1",
            additions: include_str!("../sets/sovereign-region/regions.toml"),
            settings: include_str!("../sets/sovereign-region/regions/region-1/settings.toml"),
            policy: include_str!("../sets/sovereign-region/regions/region-1/policy.cedar"),
            tests: include_str!("../sets/sovereign-region/regions/region-1/tests/region-1.toml"),
        })
    ),
    set!(
        "edge-node",
        "small machines outside, with encrypted disks and thin lines",
        None
    ),
];

/// The set of this name.
pub fn named(name: &str) -> Option<&'static PolicyStart> {
    SETS.iter().find(|set| set.name == name)
}

impl PolicyStart {
    /// Its files, for a repository of `domain`: in the place of what `policy init` stages otherwise, and beside it.
    pub fn files(&self, domain: &str) -> Vec<(TargetKind, Vec<u8>)> {
        let bytes = |text: &str| text.as_bytes().to_vec();
        let mut files = vec![
            (
                TargetKind::Settings,
                self.settings.replace("@DOMAIN@", domain).into_bytes(),
            ),
            (TargetKind::GlobalPolicy, bytes(self.policy)),
            (TargetKind::Test(self.name.to_owned()), bytes(self.tests)),
        ];
        if let Some(region) = self.region {
            let mut add = |target, text| {
                let kind = TargetKind::Region(region.name.to_owned(), target);
                files.push((kind, bytes(text)));
            };
            add(RegionTarget::Policy, region.policy);
            add(RegionTarget::Settings, region.settings);
            add(RegionTarget::Test(region.name.to_owned()), region.tests);
            files.push((TargetKind::Regions, bytes(region.additions)));
        }
        files
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::author::init::{InitOptions, init_with};
    use crate::keys::KeyDir;
    use crate::layout::Files;
    use crate::load::contents::Contents;
    use crate::policy_tests;
    use crate::preview::run_tests;
    use crate::settings::{CrlRule, Settings};
    use crate::testing::{DAY, NOW};
    use touchstone_verifier::policy::{EkCertificateRule, EventLogRule};
    use touchstone_verifier::x509::Expiry;

    /// A repository made of the set and published, and its files.
    fn published(set: &PolicyStart) -> (tempfile::TempDir, Files) {
        let dir = tempfile::tempdir().unwrap();
        let (repo, keys) = (dir.path().join("repo"), dir.path().join("keys"));
        let options = InitOptions {
            files: set.files("demo.example").into_iter().collect(),
            ..InitOptions::new("demo.example")
        };
        init_with(&repo, &KeyDir::new(&keys), &options, NOW).unwrap();
        let results = run_tests(&repo, NOW).unwrap();
        let failed: Vec<_> = results.iter().filter(|result| !result.passed()).collect();
        assert!(failed.is_empty() && results.len() >= 6, "{}: {failed:#?}", set.name);
        crate::publish::publish(&repo, &keys, NOW).unwrap();
        let files = crate::repository::published(&repo).unwrap().unwrap().files;
        (dir, files)
    }

    #[test]
    fn every_set_is_published_as_it_is_and_its_tests_hold() {
        for set in SETS {
            let (dir, _) = published(&set);
            let repo = dir.path().join("repo");
            let policy = crate::load_blocking(repo.as_path(), crate::LoadOptions::default(), NOW).unwrap();
            assert_eq!(policy.domain, "demo.example");
            // Without its publisher nothing is in force for longer than a timestamp lives, and a thief of the publisher's key
            // prolongs that by a day at most.
            let timers = &policy.settings.timers;
            let ends = |life_ms: u64| {
                let at = NOW + i64::try_from(life_ms / 1_000).unwrap();
                let later = crate::load_blocking(repo.as_path(), crate::LoadOptions::default(), at).unwrap_err();
                later.problems().iter().map(|problem| problem.code).collect::<Vec<_>>()
            };
            let stale = ends(timers.timestamp_life_ms);
            assert!(stale.contains(&crate::PolicyCode::TimestampExpired), "{}", set.name);
            assert_eq!(timers.snapshot_life_ms, DAY.unsigned_abs() * 1_000, "{}", set.name);
            let frozen = ends(timers.snapshot_life_ms);
            assert!(frozen.contains(&crate::PolicyCode::SnapshotExpired), "{}", set.name);
        }
    }

    #[test]
    fn no_set_is_lenient() {
        for set in SETS {
            let settings = Settings::parse(set.settings.replace("@DOMAIN@", "a").as_bytes()).unwrap();
            assert_eq!(settings.crl, CrlRule::Required, "{}", set.name);
            let appraisal = &settings.appraisal;
            assert_eq!(appraisal.ek_certificate, EkCertificateRule::Required, "{}", set.name);
            assert_eq!(appraisal.ek_expiry, Expiry::Deny, "{}", set.name);
            assert_eq!(appraisal.event_log, EventLogRule::Required, "{}", set.name);
            assert!(settings.residency.providers.is_empty(), "{}", set.name);
            assert!(settings.timers.timestamp_life_ms <= 900_000, "{}", set.name);
            for lenient in [
                "\"allow\"",
                "\"any\"\nrequired",
                "ignored",
                "\"boot\"\n",
                "registers-suffice\"\n",
            ] {
                let lines = set.settings.lines().filter(|line| !line.trim_start().starts_with('#'));
                let text: String = lines.map(|line| format!("{line}\n")).collect();
                assert!(!text.contains(lenient), "{}: {lenient}", set.name);
            }
        }
    }

    /// Which failures reach how far in each set as it is shipped, and what may stand below a node.
    #[test]
    fn what_falls_with_a_node_is_what_each_set_says() {
        use crate::settings::{Extent, SoftwareKeys};
        use touchstone_verifier::inventory::Node;
        let node = |zone: Option<&str>, role: &str, authority: &str| Node {
            region: "region-1".into(),
            zone: zone.map(Into::into),
            roles: vec![role.to_owned()],
            authority: authority.into(),
            ..Node::default()
        };
        let zone = |zone: Option<&str>, region: Option<&str>| Extent::Zone {
            zone: zone.map(Into::into),
            region: region.map(Into::into),
        };
        let region = || Extent::Region("region-1".into());
        let fabric = Some("fabric-1");
        let rows: [(&str, Node, Vec<Extent>); 13] = [
            ("bare-metal-tpm", node(fabric, "key-user", "targets"), vec![]),
            ("bare-metal-tpm", node(None, "ai", "targets"), vec![]),
            ("confidential-vm", node(fabric, "key-custodian", "targets"), vec![]),
            ("edge-node", node(fabric, "edge", "targets"), vec![]),
            (
                "two-root-ai-node",
                node(fabric, "ai", "targets"),
                vec![zone(fabric, None)],
            ),
            // Without a zone it is the region's nodes that have none either.
            (
                "two-root-ai-node",
                node(None, "ai", "targets"),
                vec![zone(None, Some("region-1"))],
            ),
            ("two-root-ai-node", node(fabric, "web", "targets"), vec![]),
            (
                "sovereign-region",
                node(fabric, "key-custodian", "targets"),
                vec![Extent::Cluster, region()],
            ),
            ("sovereign-region", node(fabric, "web", "targets"), vec![]),
            ("sovereign-region", node(fabric, "key-user", "targets"), vec![region()]),
            // A region stops nobody else's nodes: not by a role that nobody delegated to it, and not by one that is.
            (
                "sovereign-region",
                node(fabric, "key-custodian", "region-1"),
                vec![region()],
            ),
            ("sovereign-region", node(fabric, "key-user", "region-1"), vec![region()]),
            (
                "sovereign-region",
                node(fabric, "key-custodian", "region-2"),
                vec![region()],
            ),
        ];
        for (name, node, expected) in rows {
            let (dir, _) = published(named(name).unwrap());
            let repo = dir.path().join("repo");
            let policy = crate::load_blocking(repo.as_path(), crate::LoadOptions::default(), NOW).unwrap();
            assert_eq!(policy.extents_of(&node), expected, "{name}: {node:?}");
            let delegation = policy.settings.delegation;
            assert_eq!(delegation.software_keys, SoftwareKeys::Refused, "{name}");
            assert_eq!(delegation.max_depth > 0, name != "edge-node", "{name}");
            assert_eq!(delegation.offline, name == "two-root-ai-node", "{name}");
            let in_region = policy.demands("region-1").delegation.max_depth;
            assert_eq!(
                in_region,
                if name == "sovereign-region" {
                    1
                } else {
                    delegation.max_depth
                }
            );
        }
    }

    #[test]
    fn every_line_is_explained() {
        for set in SETS {
            // A key of the settings has a comment above it, or above its neighbours, or beside it.
            let mut explained = false;
            for line in set.settings.lines() {
                explained = match line.trim() {
                    "" => false,
                    text if text.starts_with('#') => true,
                    text if text.starts_with('[') => {
                        explained || text.contains("timers") || text.contains("tpm") || text.contains("grants")
                    }
                    text => {
                        assert!(explained || text.contains('#'), "{}: {text}", set.name);
                        explained
                    }
                };
            }
            for text in [Some(set.policy), set.region.map(|region| region.policy)]
                .into_iter()
                .flatten()
            {
                for policy in text.split("\n\n").filter(|part| part.contains("@id(")) {
                    assert!(policy.starts_with("// "), "{}: {policy}", set.name);
                }
            }
        }
    }

    /// A forbid that no case runs into could be taken out unseen, and so could a permit that no case needs.
    #[test]
    fn every_policy_of_a_set_has_a_case_that_fails_without_it() {
        for set in SETS {
            let (_dir, files) = published(&set);
            for (kind, bytes) in &files {
                let (TargetKind::GlobalPolicy | TargetKind::Region(_, RegionTarget::Policy)) = kind else {
                    continue;
                };
                let policy = std::str::from_utf8(bytes).unwrap();
                for (start, _) in policy.match_indices("@id(") {
                    let end = start + policy[start..].find(";\n").unwrap() + 2;
                    let without = format!("{}{}", &policy[..start], &policy[end..]);
                    let mut files = files.clone();
                    files.insert(kind.clone(), without.into_bytes());
                    let results = policy_tests::run(&files, &Contents::untested(&files, NOW).unwrap()).unwrap();
                    let failed = results.iter().filter(|result| !result.passed()).count();
                    assert!(failed > 0, "{}: {}", set.name, policy[start..].lines().next().unwrap());
                }
            }
        }
    }
}
