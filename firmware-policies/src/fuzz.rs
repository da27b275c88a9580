//! What a fuzzer calls: any bytes, no panic, bounded work, and what is taken is the same when it is written and read again.
//! Each tells whether it was taken. The seeds are in `fuzz/seeds`, made by the tests below.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use crate::author::import;
use crate::cedar::{Cedar, DEFAULT_POLICY, DEFAULT_SCHEMA};
use crate::ceremony;
use crate::foreign::RepositoryCopy;
use crate::layout::TargetKind;
use crate::policy_tests;
use crate::region;
use crate::settings::{Assignment, Settings};
use crate::targets::deny_file;
use crate::targets::detectors_file::Detectors;
use crate::targets::enforcers_file::Enforcers;
use crate::targets::federation_file::FederatedDomain;
use crate::targets::inventory_file::{NodeFile, Place};
use crate::targets::keyset_file::Keyset;
use crate::targets::network_file::Network;
use crate::targets::operators_file::Operators;
use crate::targets::signers_file;
use crate::targets::tenants_file::Tenants;

/// The region and the other domain that files are read for.
const REGION: &str = "eu";
const OTHER_DOMAIN: &str = "b.example";

fn cedar() -> Option<&'static Cedar> {
    static CEDAR: OnceLock<Option<Cedar>> = OnceLock::new();
    let compiled = CEDAR.get_or_init(|| Cedar::compile(DEFAULT_SCHEMA, DEFAULT_POLICY, &BTreeMap::new()).ok());
    compiled.as_ref()
}

/// Every file that people write or tools write for them: settings, lists of who may what, what regions say, tests.
pub fn files(bytes: &[u8]) -> bool {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    if let Some(kind) = TargetKind::of(text) {
        assert_eq!(kind.name(), text, "a target has one name");
    }
    drop(Assignment::parse(text));
    let keyset = Keyset::parse(bytes);
    if let Ok(keyset) = &keyset {
        assert_eq!(Keyset::parse(&keyset.to_json()).as_ref(), Ok(keyset));
    }
    let signers = signers_file::parse(bytes);
    if let Ok(signers) = &signers {
        assert_eq!(
            signers_file::parse(&signers_file::to_json(signers)).as_ref(),
            Ok(signers)
        );
    }
    let tests = cedar().map(|cedar| {
        let of_region = policy_tests::reads("tests/a.toml", bytes, Some(REGION), cedar);
        policy_tests::reads("tests/a.toml", bytes, None, cedar) || of_region
    });
    [
        keyset.is_ok(),
        signers.is_ok(),
        tests.unwrap_or_default(),
        Settings::parse(bytes).is_ok(),
        region::reads("regions/eu/settings.toml", bytes),
        Tenants::parse(bytes).is_ok(),
        Operators::parse(bytes).is_ok(),
        Detectors::parse(bytes).is_ok(),
        Enforcers::parse(bytes).is_ok(),
        Network::parse(bytes).is_ok(),
        deny_file::parse(bytes).is_ok(),
        FederatedDomain::parse(OTHER_DOMAIN, bytes, None).is_ok(),
        FederatedDomain::parse(OTHER_DOMAIN, bytes, Some(bytes)).is_ok(),
    ]
    .contains(&true)
}

/// A region's Cedar policies beside the whole's.
pub fn policy(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return false;
    };
    let regions = BTreeMap::from([(REGION.to_owned(), text.to_owned())]);
    Cedar::compile(DEFAULT_SCHEMA, DEFAULT_POLICY, &regions).is_ok()
}

/// Inventories and batches of machines, JSON and CSV.
pub fn machines(bytes: &[u8]) -> bool {
    let inventory = NodeFile::parse_all("inventory.json", bytes);
    if let Ok(nodes) = &inventory {
        assert_eq!(
            NodeFile::parse_all("inventory.json", &NodeFile::all_to_json(nodes)).as_ref(),
            Ok(nodes)
        );
        for node in nodes {
            drop(node.to_node_at("inventory.json", Place::WHOLE));
        }
    }
    // No file lies beside the table that a column could name.
    let nowhere = Path::new("/nonexistent");
    let batch = |file: &str, region| import::reads(&nowhere.join(file), bytes, region);
    let taken = [
        batch("a.csv", None),
        batch("a.csv", Some(REGION)),
        batch("a.json", None),
    ];
    inventory.is_ok() || taken.contains(&true)
}

/// The roles and the signature files of a proposal.
pub fn proposal(bytes: &[u8]) -> bool {
    ceremony::reads(bytes)
}

/// What of another domain's repository is sent, pushed or carried.
pub fn copy(bytes: &[u8]) -> bool {
    let copy = RepositoryCopy::decode(bytes);
    if let Ok(copy) = &copy {
        assert_eq!(copy.encode(), bytes);
    }
    copy.is_ok()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;
    use touchstone_cose::key::SigningKey;

    use super::*;
    use crate::author::federation::{Accepted, Trust};
    use crate::targets::keyset_file::{Job, KeysetEntry};
    use crate::targets::signers_file::Signers;
    use crate::testing::{NOW, TestRepo};
    use touchstone_verifier::corim::TrustedSigner;

    /// Set, the seeds are written; otherwise they must be there.
    const WRITE: &str = "TOUCHSTONE_WRITE_SEEDS";

    type Target = fn(&[u8]) -> bool;
    const TARGETS: [(&str, Target); 5] = [
        ("policy_files", files),
        ("policy_cedar", policy),
        ("policy_machines", machines),
        ("policy_proposal", proposal),
        ("policy_copy", copy),
    ];

    fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds")
    }

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_seed([seed; 32])
    }

    /// Files that our own writers make, and those that people write. What is random in some of them is random again.
    fn made() -> Vec<(String, Vec<u8>)> {
        let spki = |seed| hex::encode(key(seed).verifying_key().to_spki_der());
        let keyset = Keyset {
            version: 3,
            keys: [Job::Authorization, Job::TrustState]
                .into_iter()
                .zip(1..)
                .map(|(job, seed)| KeysetEntry {
                    key: key(seed).verifying_key(),
                    job,
                    not_before: NOW,
                    not_after: NOW + 86_400,
                    replica: "a".into(),
                })
                .collect(),
        };
        let signers = Signers {
            own: vec![TrustedSigner {
                name: "reference-1".into(),
                key: key(7).verifying_key(),
                not_after: Some(NOW),
            }],
            vendors: Vec::new(),
        };
        let test = TestRepo::published();
        let node = test.load(NOW).unwrap().inventory.nodes()[0].clone();
        let listed = crate::repository::published(&test.repo).unwrap().unwrap().files;
        let inventory: Vec<NodeFile> = listed
            .iter()
            .filter_map(|(kind, bytes)| match kind {
                TargetKind::Node(name) => NodeFile::parse("a", name, bytes).ok(),
                _ => None,
            })
            .collect();
        assert_eq!(inventory[0].name, node.name);
        let own = |file: &str| std::fs::read(test.metadata(file)).unwrap();
        let copied = crate::tuf::block_on(async {
            let source = crate::transport::source::Source::from(&test.repo);
            Ok(RepositoryCopy::read(&source, 0).await.unwrap())
        });
        let signatures = ceremony::SignatureFile {
            format: ceremony::SIGNATURES_FORMAT.into(),
            domain: "demo.example".into(),
            proposal: "00".repeat(32),
            signatures: Vec::new(),
        };
        let federation = Trust {
            domain: OTHER_DOMAIN.into(),
            path: vec!["c.example".into()],
            accept: Some(Accepted {
                resources: "partners/b".into(),
                scopes: vec!["execute:partners/b/render".into()],
                ..Accepted::default()
            }),
            ..Trust::default()
        };
        let text = |text: &str| text.as_bytes().to_vec();
        [
            ("policy_files-keyset.json", keyset.to_json()),
            ("policy_files-signers.json", signers_file::to_json(&signers)),
            ("policy_files-settings.toml", text(&Settings::default_file("demo.example"))),
            ("policy_files-federation.toml", text(&federation.to_toml())),
            (
                "policy_files-region.toml",
                text("[timers]\nauthorization_life_ms = 60000\n[tpm]\nrequired_registers = { sha256 = [5] }\ncrl = \"required\"\n[snp]\nfloors = { milan = { bl = 4, tee = 0, snp = 24, ucode = 219 } }\n[grants]\nscopes = [\"execute:workloads\"]\n[select]\nreferences = [\"golden-1\"]\n"),
            ),
            (
                "policy_files-additions.toml",
                text("[regions.eu-1]\nenvironments = [\"eu-1-image\", \"eu-1-edge-*\"]\nroles = [\"edge\"]\nowners = [\"acme\"]\n"),
            ),
            (
                "policy_files-tenants.toml",
                text("[tenants.acme]\nnodes = 100\nkeys = 20\nrequests_per_minute = 600\n"),
            ),
            (
                "policy_files-operators.toml",
                format!("[operators.alice]\nkey = \"{}\"\nmay = [\"revoke\", \"lift\"]\nregions = [\"eu-1\"]\n", spki(1)).into_bytes(),
            ),
            (
                "policy_files-detectors.toml",
                format!("[detectors.monitor]\nissuer = \"https://m.example/\"\naudience = \"https://b.example/v1/events\"\nkeys = [\"{}\"]\nmost_per_minute = 60\nregions = [\"eu-1\"]\nreach = \"revoke\"\n", spki(1)).into_bytes(),
            ),
            (
                "policy_files-enforcers.toml",
                format!("[enforcers.\"guard:edge-7\"]\nkey = \"{}\"\nregion = \"eu-1\"\n", spki(1)).into_bytes(),
            ),
            (
                "policy_files-network.toml",
                text("[[segment]]\nscope = \"execute:db-reader\"\nallow = [\"tcp 10.0.0.5:5432\", \"tcp 10.1.0.0/16:443\", \"udp [fd00::53]:53\"]\n"),
            ),
            (
                "policy_files-deny.toml",
                format!("[[endorsement_key]]\nid = \"{}\"\nwhy = \"stolen\"\n[[firmware]]\nmanufacturer = \"IFX\"\nfrom = \"7.0\"\nto = \"7.61\"\nwhy = \"CVE-2017-15361\"\n", "11".repeat(32)).into_bytes(),
            ),
            (
                "policy_files-tests.toml",
                text("[[case]]\nname = \"another does not\"\nregion = \"north\"\naction = \"execute\"\nresource = \"workloads\"\nstatus = \"warning\"\nexpect = \"deny\"\nreasons = [\"denied-by-domain-policy\"]\n"),
            ),
            ("policy_cedar-default.cedar", text(DEFAULT_POLICY)),
            (
                "policy_cedar-region.cedar",
                text(&(crate::cedar::default_region_policy("eu") + "\n@id(\"a\") forbid (principal == Node::\"eu/web-1\", action == Action::\"execute\", resource) when { principal.name == \"a\" && !(context.status == \"affirming\") };\n")),
            ),
            ("policy_machines-inventory.json", NodeFile::all_to_json(&inventory)),
            (
                "policy_machines-batch.csv",
                format!("name,region,zone,roles,owner,ek\nweb-1,eu-1,eu-1a,web;edge,acme,{}\n", "9f".repeat(32)).into_bytes(),
            ),
            ("policy_proposal-root.json", own("1.root.json")),
            ("policy_proposal-targets.json", own("1.targets.json")),
            ("policy_proposal-signatures.json", serde_json::to_vec(&signatures).unwrap()),
            ("policy_copy-published.cbor", copied.unwrap().encode()),
        ]
        .map(|(name, bytes)| (name.to_owned(), bytes))
        .into()
    }

    fn target_of(name: &str) -> Target {
        let of = |(target, _): &&(&str, Target)| name.split_once('-').is_some_and(|(first, _)| first == *target);
        TARGETS.iter().find(of).unwrap().1
    }

    #[test]
    fn every_seed_is_there_and_what_our_writers_make_is_taken() {
        for (name, bytes) in made() {
            let path = folder().join(&name);
            if std::env::var_os(WRITE).is_some() {
                std::fs::write(&path, &bytes).unwrap();
            }
            assert!(target_of(&name)(&bytes), "{name} as it is made now");
            let kept = std::fs::read(&path).unwrap_or_else(|e| panic!("{name}: {e}: set {WRITE}=1 to write it"));
            assert!(target_of(&name)(&kept), "{name} as it is kept");
        }
    }

    fn kept() -> Vec<(String, Vec<u8>)> {
        let names = TARGETS.map(|(target, _)| format!("{target}-"));
        let entries = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
        let mut kept: Vec<(String, Vec<u8>)> = entries
            .filter_map(|path| {
                let name = path.file_name()?.to_str()?.to_owned();
                let ours = names.iter().any(|start| name.starts_with(start));
                ours.then(|| (name, std::fs::read(&path).unwrap()))
            })
            .collect();
        kept.sort();
        kept
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// Whatever is changed: taken or not, it holds together, and nothing panics.
        #[test]
        fn damaged_seeds_hold_together(
            seed in any::<prop::sample::Index>(),
            edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            length in any::<prop::sample::Index>(),
        ) {
            let kept = kept();
            let (name, bytes) = &kept[seed.index(kept.len())];
            let mut damaged = bytes.clone();
            for (place, byte) in edits {
                let place = place.index(damaged.len());
                damaged[place] = byte;
            }
            target_of(name)(&damaged);
            target_of(name)(&bytes[..length.index(bytes.len())]);
        }
    }
}
