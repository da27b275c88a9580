//! TUF's own list of attacks, one row an attack, over a folder and over a web server alike: whoever sits between author
//! and verifier can make things stop, and nothing else. Source of the list: TUF 1.0.34, 1.5.2.
//!
//! The repositories are signed by hand ([`forge`]), with two of three keys for every role and two regions that sign for
//! themselves; what is asked of each refusal is its code, and that it names file, role and version.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::forge;
use crate::web;

use std::num::NonZeroU64;
use std::path::Path;
use std::time::Duration;

use forge::{Forge, ForgeKey, key, sign};
use touchstone_policies::cedar::{DEFAULT_POLICY, DEFAULT_SCHEMA, default_region_policy};
use touchstone_policies::signers_file::{self, Signers};
use touchstone_policies::source::HttpLimits;
use touchstone_policies::{
    KeysSince, LoadOptions, Location, PolicyCode, PolicyError, PolicySet, RoleVersions, Settings, Source, load_blocking,
};
use touchstone_verifier::corim::TrustedSigner;
use tough::schema::{RoleType, Signed, Snapshot, Targets, Timestamp};
use web::{Manner, Web};

const NOW: i64 = 1_760_000_000;
const DAY: i64 = 86_400;
const POLICY: &str = "regions/eu/policy.cedar";

/// A repository, published once, that loads.
fn good(folder: &Path) -> Forge {
    let signers = signers_file::to_json(&Signers {
        own: vec![TrustedSigner {
            name: "author".into(),
            key: key([9; 32]).verifying_key(),
            not_after: None,
        }],
        vendors: Vec::new(),
    });
    // A snapshot outlives its timestamp, so that each of the two ends can be seen alone.
    let settings = Settings::default_file("attacked.example");
    let settings = settings.replace("\nsnapshot_life_ms = 86400000 ", "\nsnapshot_life_ms = 604800000 ");
    let files: [(&str, &[u8]); 4] = [
        ("settings.toml", settings.as_bytes()),
        ("schema.cedarschema", DEFAULT_SCHEMA.as_bytes()),
        ("policy.cedar", DEFAULT_POLICY.as_bytes()),
        ("signers.json", &signers),
    ];
    let mut forge = Forge::found(folder, &files, 3, 2, NOW);
    forge.delegate("eu", 3, 2, NOW);
    forge.put_in("eu", POLICY, default_region_policy("eu").as_bytes());
    forge.delegate("us", 1, 1, NOW);
    forge.publish(NOW);
    forge
}

/// What the one who is attacked knows.
struct Victim {
    options: LoadOptions,
    now: i64,
}

impl Victim {
    fn accepted(&mut self, policy: &PolicySet) {
        let held = self.options.floors.take().unwrap_or_default();
        self.options.floors = Some(held.raised_to(&policy.versions));
        self.options.last_time = Some(self.now);
    }
}

fn from_folder(forge: &Forge, victim: &Victim) -> Result<PolicySet, PolicyError> {
    load_blocking(&forge.repo, victim.options.clone(), victim.now)
}

fn from_server(web: &Web, victim: &Victim, limits: HttpLimits) -> Result<PolicySet, PolicyError> {
    let source = Source::new(Location::parse(&web.url).unwrap()).with_limits(limits);
    load_blocking(&source, victim.options.clone(), victim.now)
}

/// One kind of attack: its name, the code, what the refusal must name, and what the attacker does.
type Row = (&'static str, PolicyCode, &'static str, fn(&mut Forge, &mut Victim));

/// Writes a list under a snapshot and a timestamp that fit it, all of them signed as they should be.
fn thieves_of_snapshot_and_timestamp(forge: &mut Forge, change: impl FnOnce(&mut Snapshot)) {
    let version = forge.versions.0;
    let mut last: Signed<Snapshot> = forge::read(&forge.metadata(&format!("{version}.snapshot.json")));
    last.signed.version = NonZeroU64::new(version + 1).unwrap();
    change(&mut last.signed);
    forge.write_snapshot(&last.signed, NOW);
}

/// Other keys for a role, signed for by the root before.
fn give_other_keys(forge: &mut Forge, roles: &[RoleType], seed: u8) {
    for role in roles {
        let seed = |i: u8| [seed + 4 * u8::from(*role == RoleType::Snapshot) + i; 32];
        forge.give_keys(*role, (0..3).map(|i| key(seed(i))).collect(), 2);
    }
    let root = forge.keys["root"].clone();
    forge.rotate_root(&root);
}

/// A snapshot and a timestamp of the highest versions there are, by a thief of both roles' keys.
fn beyond_reason(forge: &mut Forge) {
    let honest = forge.versions;
    forge.versions.1 = u64::MAX - 1;
    let mut last: Signed<Snapshot> = forge::read(&forge.metadata(&format!("{}.snapshot.json", honest.0)));
    last.signed.version = NonZeroU64::MAX;
    forge.write_snapshot(&last.signed, NOW);
    // What the domain's owners count on from.
    forge.versions = honest;
}

fn resign_timestamp(forge: &Forge, keys: &[ForgeKey], change: impl FnOnce(&mut Timestamp)) {
    let mut timestamp: Signed<Timestamp> = forge::read(&forge.metadata("timestamp.json"));
    change(&mut timestamp.signed);
    forge.write("timestamp.json", &sign(&timestamp.signed, keys));
}

fn edit(forge: &Forge, file: &str, from: &str, to: &str) {
    let text = std::fs::read_to_string(forge.metadata(file)).unwrap();
    assert!(text.contains(from), "{from} in {file}");
    forge.write(file, text.replacen(from, to, 1).as_bytes());
}

const ROWS: &[Row] = &[
    // Arbitrary software.
    (
        "a target replaced",
        PolicyCode::TargetMismatch,
        "policy.cedar (targets, version 1)",
        |f, _| {
            let path = f.target_path("policy.cedar", DEFAULT_POLICY.as_bytes());
            std::fs::write(path, "permit (principal, action, resource);").unwrap();
        },
    ),
    (
        "a region's target replaced",
        PolicyCode::TargetMismatch,
        "regions/eu/policy.cedar (region-eu, version 1)",
        |f, _| {
            let path = f.target_path(POLICY, default_region_policy("eu").as_bytes());
            std::fs::write(path, "permit (principal, action, resource);").unwrap();
        },
    ),
    (
        "a list of the attacker's",
        PolicyCode::SignatureInvalid,
        "2.targets.json (targets, version 2)",
        |f, _| {
            f.keys.insert("targets", vec![key([77; 32]), key([78; 32])]);
            f.put("policy.cedar", b"permit (principal, action, resource);");
            f.publish(NOW);
        },
    ),
    (
        "a target that is not known",
        PolicyCode::TargetUnknown,
        "install.sh (targets, version 2)",
        |f, _| {
            f.put("install.sh", b"#!/bin/sh\n");
            f.publish(NOW);
        },
    ),
    // Wrong key, altered, unsigned.
    (
        "a timestamp by the snapshot's keys",
        PolicyCode::SignatureInvalid,
        "timestamp.json (timestamp, version 1)",
        |f, _| {
            resign_timestamp(f, &f.keys["snapshot"], |_| ());
        },
    ),
    (
        "a timestamp with a later end",
        PolicyCode::SignatureInvalid,
        "timestamp.json (timestamp, version 1)",
        |f, _| {
            edit(f, "timestamp.json", "\"2025-", "\"2035-");
        },
    ),
    (
        "an unsigned timestamp",
        PolicyCode::SignatureInvalid,
        "timestamp.json (timestamp, version 1)",
        |f, _| {
            resign_timestamp(f, &[], |_| ());
        },
    ),
    // Threshold not met.
    (
        "a list by one of the two keys it needs",
        PolicyCode::SignatureInvalid,
        "2.targets.json (targets, version 2)",
        |f, _| {
            f.keys.get_mut("targets").unwrap().truncate(1);
            f.publish(NOW);
        },
    ),
    (
        "a snapshot by one key twice",
        PolicyCode::SignatureInvalid,
        "2.snapshot.json (snapshot, version 2)",
        |f, _| {
            let keys = f.keys.get_mut("snapshot").unwrap();
            keys[1] = keys[0].clone();
            keys.truncate(2);
            f.publish(NOW);
        },
    ),
    (
        "a region's list by one of the two keys it needs",
        PolicyCode::SignatureInvalid,
        "2.region-eu.json (region-eu, version 2)",
        |f, _| {
            f.regions.get_mut("eu").unwrap().keys.truncate(1);
            f.publish(NOW);
        },
    ),
    (
        "a root in which one key is two",
        PolicyCode::KeyRepeated,
        "2.root.json (root, version 2)",
        |f, _| {
            let old = f.keys["root"].clone();
            let id = f.root.roles[&RoleType::Targets].keyids[0].clone();
            let mut key = serde_json::to_value(&f.root.keys[&id]).unwrap();
            key["note"] = "again".into();
            let key: tough::schema::key::Key = serde_json::from_value(key).unwrap();
            let second = key.key_id().unwrap();
            f.root.keys.insert(second.clone(), key);
            f.root.roles.get_mut(&RoleType::Targets).unwrap().keyids.push(second);
            f.rotate_root(&old);
        },
    ),
    // Key rotated out.
    (
        "a timestamp by a key that was rotated out",
        PolicyCode::SignatureInvalid,
        "timestamp.json (timestamp, version 2)",
        |f, _| {
            let (old, root) = (f.keys["timestamp"].clone(), f.keys["root"].clone());
            let new = (0..3).map(|i| key([0xA0 + i; 32])).collect();
            f.give_keys(RoleType::Timestamp, new, 2);
            f.rotate_root(&root);
            f.keys.insert("timestamp", old);
            f.publish(NOW);
        },
    ),
    (
        "a root that its predecessor's keys did not sign",
        PolicyCode::RootMismatch,
        "2.root.json (root, version 2)",
        |f, v| {
            v.options.root = Some(std::fs::read(f.metadata("1.root.json")).unwrap());
            let own: Vec<_> = (0..3).map(|i| key([0xB0 + i; 32])).collect();
            f.give_keys(RoleType::Root, own, 2);
            f.rotate_root(&[]);
        },
    ),
    (
        "a root signed by too few of its predecessor's keys",
        PolicyCode::RootMismatch,
        "2.root.json (root, version 2)",
        |f, v| {
            v.options.root = Some(std::fs::read(f.metadata("1.root.json")).unwrap());
            let old = f.keys["root"].clone();
            let own: Vec<_> = (0..3).map(|i| key([0xB0 + i; 32])).collect();
            f.give_keys(RoleType::Root, own, 2);
            f.rotate_root(&old[..1]);
        },
    ),
    (
        "another domain's root in the place of the pinned one",
        PolicyCode::RootMismatch,
        "1.root.json (root, version 1)",
        |f, v| {
            v.options.root = Some(std::fs::read(f.metadata("1.root.json")).unwrap());
            let own: Vec<_> = (0..3).map(|i| key([0xB0 + i; 32])).collect();
            f.give_keys(RoleType::Root, own, 2);
            f.write("1.root.json", &sign(&f.root, &f.keys["root"]));
        },
    ),
    // Rollback.
    (
        "the timestamp of the version before",
        PolicyCode::Rollback,
        "timestamp.json (timestamp, version 1)",
        |f, v| {
            let old = std::fs::read(f.metadata("timestamp.json")).unwrap();
            f.publish(NOW);
            v.accepted(&from_folder(f, v).unwrap());
            f.write("timestamp.json", &old);
        },
    ),
    (
        "an older list under a newer snapshot",
        PolicyCode::Rollback,
        "1.targets.json (targets, version 1)",
        |f, v| {
            let bytes = std::fs::read(f.metadata("1.targets.json")).unwrap();
            f.publish(NOW);
            v.accepted(&from_folder(f, v).unwrap());
            thieves_of_snapshot_and_timestamp(f, |snapshot| {
                snapshot
                    .meta
                    .insert("targets.json".into(), forge::metafile(&bytes, NonZeroU64::MIN));
            });
        },
    ),
    (
        "an older list of a region under a newer snapshot",
        PolicyCode::Rollback,
        "1.region-eu.json (region-eu, version 1)",
        |f, v| {
            let bytes = std::fs::read(f.metadata("1.region-eu.json")).unwrap();
            f.publish(NOW);
            v.accepted(&from_folder(f, v).unwrap());
            thieves_of_snapshot_and_timestamp(f, |snapshot| {
                snapshot
                    .meta
                    .insert("region-eu.json".into(), forge::metafile(&bytes, NonZeroU64::MIN));
            });
        },
    ),
    (
        "a rotated root taken away",
        PolicyCode::Rollback,
        "1.root.json (root, version 1)",
        |f, v| {
            let root = f.keys["root"].clone();
            f.rotate_root(&root);
            v.accepted(&from_folder(f, v).unwrap());
            std::fs::remove_file(f.metadata("2.root.json")).unwrap();
        },
    ),
    // What begins anew with other keys, and what does not.
    (
        "an older snapshot after the timestamp's keys alone were changed",
        PolicyCode::Rollback,
        "1.snapshot.json (snapshot, version 1)",
        |f, v| {
            let first: Signed<Snapshot> = forge::read(&f.metadata("1.snapshot.json"));
            f.publish(NOW);
            v.accepted(&from_folder(f, v).unwrap());
            give_other_keys(f, &[RoleType::Timestamp], 0xD0);
            f.write_snapshot(&first.signed, NOW);
        },
    ),
    (
        "an older timestamp after the snapshot's keys alone were changed",
        PolicyCode::Rollback,
        "timestamp.json (timestamp, version 2)",
        |f, v| {
            f.publish(NOW);
            f.publish(NOW);
            v.accepted(&from_folder(f, v).unwrap());
            give_other_keys(f, &[RoleType::Snapshot], 0xD0);
            f.versions.1 = 1;
            f.publish(NOW);
        },
    ),
    (
        "an older timestamp after keys were added and none was taken out",
        PolicyCode::Rollback,
        "timestamp.json (timestamp, version 1)",
        |f, v| {
            let old = std::fs::read(f.metadata("timestamp.json")).unwrap();
            f.publish(NOW);
            v.accepted(&from_folder(f, v).unwrap());
            let mut more = f.keys["timestamp"].clone();
            more.push(key([0xE0; 32]));
            f.give_keys(RoleType::Timestamp, more, 2);
            let root = f.keys["root"].clone();
            f.rotate_root(&root);
            f.write("timestamp.json", &old);
        },
    ),
    (
        "an older list under the new keys of snapshot and timestamp",
        PolicyCode::Rollback,
        "1.targets.json (targets, version 1)",
        |f, v| {
            let bytes = std::fs::read(f.metadata("1.targets.json")).unwrap();
            f.publish(NOW);
            v.accepted(&from_folder(f, v).unwrap());
            give_other_keys(f, &[RoleType::Snapshot, RoleType::Timestamp], 0xD0);
            thieves_of_snapshot_and_timestamp(f, |snapshot| {
                snapshot
                    .meta
                    .insert("targets.json".into(), forge::metafile(&bytes, NonZeroU64::MIN));
            });
        },
    ),
    (
        "an older list of a region under the new keys of snapshot and timestamp",
        PolicyCode::Rollback,
        "1.region-eu.json (region-eu, version 1)",
        |f, v| {
            let bytes = std::fs::read(f.metadata("1.region-eu.json")).unwrap();
            f.publish(NOW);
            v.accepted(&from_folder(f, v).unwrap());
            give_other_keys(f, &[RoleType::Snapshot, RoleType::Timestamp], 0xD0);
            thieves_of_snapshot_and_timestamp(f, |snapshot| {
                snapshot
                    .meta
                    .insert("region-eu.json".into(), forge::metafile(&bytes, NonZeroU64::MIN));
            });
        },
    ),
    (
        "an older timestamp by the new keys, once one of them was accepted",
        PolicyCode::Rollback,
        "timestamp.json (timestamp, version 2)",
        |f, v| {
            beyond_reason(f);
            v.accepted(&from_folder(f, v).unwrap());
            give_other_keys(f, &[RoleType::Snapshot, RoleType::Timestamp], 0xD0);
            f.publish(NOW);
            let old = std::fs::read(f.metadata("timestamp.json")).unwrap();
            f.publish(NOW);
            v.accepted(&from_folder(f, v).unwrap());
            f.write("timestamp.json", &old);
        },
    ),
    (
        "the thief's versions again, the root that took the keys out kept back",
        PolicyCode::Rollback,
        "1.root.json (root, version 1)",
        |f, v| {
            beyond_reason(f);
            let stolen = std::fs::read(f.metadata("timestamp.json")).unwrap();
            v.accepted(&from_folder(f, v).unwrap());
            give_other_keys(f, &[RoleType::Snapshot, RoleType::Timestamp], 0xD0);
            f.publish(NOW);
            v.accepted(&from_folder(f, v).unwrap());
            std::fs::remove_file(f.metadata("2.root.json")).unwrap();
            f.write("timestamp.json", &stolen);
        },
    ),
    (
        "versions beyond reason, and keys that were not changed",
        PolicyCode::Rollback,
        "timestamp.json (timestamp, version 2)",
        |f, v| {
            beyond_reason(f);
            v.accepted(&from_folder(f, v).unwrap());
            let root = f.keys["root"].clone();
            f.rotate_root(&root);
            f.publish(NOW);
        },
    ),
    // Freeze.
    (
        "nothing new any more",
        PolicyCode::TimestampExpired,
        "timestamp.json (timestamp, version 1)",
        |_, v| v.now = NOW + DAY,
    ),
    (
        "an old snapshot, its timestamp made anew by a thief",
        PolicyCode::SnapshotExpired,
        "1.snapshot.json (snapshot, version 1)",
        |f, v| {
            let later = jiff::Timestamp::from_second(NOW + 30 * DAY).unwrap();
            resign_timestamp(f, &f.keys["timestamp"], |timestamp| {
                timestamp.version = NonZeroU64::new(9).unwrap();
                timestamp.expires = later;
            });
            v.now = NOW + 7 * DAY;
        },
    ),
    (
        "a timestamp that outlives what the settings let one live, by a thief",
        PolicyCode::TimestampLife,
        "timestamp.json (timestamp, version 9)",
        |f, _| {
            let later = jiff::Timestamp::from_second(NOW + DAY + 2).unwrap();
            resign_timestamp(f, &f.keys["timestamp"], |timestamp| {
                timestamp.version = NonZeroU64::new(9).unwrap();
                timestamp.expires = later;
            });
        },
    ),
    (
        "a snapshot that outlives what the settings let one live, by a thief of both roles",
        PolicyCode::SnapshotLife,
        "2.snapshot.json (snapshot, version 2)",
        |f, _| {
            thieves_of_snapshot_and_timestamp(f, |snapshot| {
                snapshot.expires = jiff::Timestamp::from_second(NOW + 7 * DAY + 2).unwrap();
            });
        },
    ),
    (
        "a freeze until the lists end, by a thief of both roles",
        PolicyCode::SnapshotLife,
        "2.snapshot.json (snapshot, version 2)",
        |f, v| {
            f.lives = (300 * DAY, 300 * DAY);
            thieves_of_snapshot_and_timestamp(f, |snapshot| {
                snapshot.expires = jiff::Timestamp::from_second(NOW + 300 * DAY).unwrap();
            });
            v.now = NOW + 200 * DAY;
        },
    ),
    (
        "a clock that is so far back that nothing published can be expired",
        PolicyCode::SnapshotLife,
        "1.snapshot.json (snapshot, version 1)",
        |_, v| v.now = NOW - 2,
    ),
    (
        "a clock set back before what was accepted",
        PolicyCode::ClockWentBack,
        "the time given",
        |f, v| {
            v.now = NOW + 100;
            v.accepted(&from_folder(f, v).unwrap());
            v.now = NOW + 99;
        },
    ),
    // Mix and match.
    (
        "the list of another version",
        PolicyCode::MetadataMismatch,
        "2.targets.json (targets, version 2)",
        |f, _| {
            f.publish(NOW);
            std::fs::copy(f.metadata("1.targets.json"), f.metadata("2.targets.json")).unwrap();
        },
    ),
    (
        "the snapshot of another version",
        PolicyCode::MetadataMismatch,
        "2.snapshot.json (snapshot, version 2)",
        |f, _| {
            f.publish(NOW);
            std::fs::copy(f.metadata("1.snapshot.json"), f.metadata("2.snapshot.json")).unwrap();
        },
    ),
    (
        "a region's list of another version",
        PolicyCode::MetadataMismatch,
        "2.region-us.json (region-us, version 2)",
        |f, _| {
            f.publish(NOW);
            std::fs::copy(f.metadata("1.region-us.json"), f.metadata("2.region-us.json")).unwrap();
        },
    ),
    (
        "a list of the same version that was signed beside",
        PolicyCode::MetadataMismatch,
        "1.targets.json (targets, version 1)",
        |f, _| {
            let mut list: Signed<Targets> = forge::read(&f.metadata("1.targets.json"));
            list.signed.expires = jiff::Timestamp::from_second(NOW + DAY).unwrap();
            f.write("1.targets.json", &sign(&list.signed, &f.keys["targets"]));
        },
    ),
    (
        "a list missing",
        PolicyCode::MetadataMissing,
        "1.region-us.json (region-us, version 1)",
        |f, _| {
            std::fs::remove_file(f.metadata("1.region-us.json")).unwrap();
        },
    ),
    (
        "a target missing",
        PolicyCode::TargetMissing,
        "policy.cedar (targets, version 1)",
        |f, _| {
            std::fs::remove_file(f.target_path("policy.cedar", DEFAULT_POLICY.as_bytes())).unwrap();
        },
    ),
    // Endless data, as files; as a server's answers below.
    (
        "an endless timestamp",
        PolicyCode::MetadataTooLarge,
        "timestamp.json (timestamp",
        |f, _| {
            f.write("timestamp.json", &vec![b' '; (1 << 20) + 1]);
        },
    ),
    (
        "an endless target, signed as such",
        PolicyCode::TargetTooLarge,
        "settings.toml (targets, version 2)",
        |f, _| {
            let name = tough::TargetName::new("settings.toml").unwrap();
            f.targets.targets.get_mut(&name).unwrap().length = u64::MAX;
            f.publish(NOW);
        },
    ),
    // Regions: none signs for another or for the whole, and nobody else for it.
    (
        "a region signs a target of the whole",
        PolicyCode::RegionOutside,
        "2.region-us.json (region-us, version 2)",
        |f, _| {
            f.put_in("us", "deny.toml", b"# nobody\n");
            f.publish(NOW);
        },
    ),
    (
        "a region signs another's target",
        PolicyCode::RegionOutside,
        "2.region-us.json (region-us, version 2)",
        |f, _| {
            f.put_in("us", "regions/eu/settings.toml", b"# wider\n");
            f.publish(NOW);
        },
    ),
    (
        "the whole signs a region's target",
        PolicyCode::TargetOfRegion,
        "regions/eu/settings.toml",
        |f, _| {
            f.put("regions/eu/settings.toml", b"# wider\n");
            f.publish(NOW);
        },
    ),
];

#[test]
fn every_attack_is_refused_with_its_code_from_a_folder_and_from_a_server() {
    for (attack, code, named, run) in ROWS {
        let folder = tempfile::tempdir().unwrap();
        let mut forge = good(folder.path());
        let mut victim = Victim {
            options: LoadOptions::default(),
            now: NOW,
        };
        assert!(from_folder(&forge, &victim).is_ok(), "{attack}: good before");
        run(&mut forge, &mut victim);
        let web = Web::honest(&forge.repo);
        let outcomes = [
            ("folder", from_folder(&forge, &victim)),
            ("server", from_server(&web, &victim, HttpLimits::default())),
        ];
        for (place, outcome) in outcomes {
            let error = outcome
                .err()
                .unwrap_or_else(|| panic!("{attack}: accepted from a {place}"));
            assert_eq!(error.code(), *code, "{attack}, {place}: {error}");
            let mut of_code = error.problems().iter().filter(|problem| problem.code == *code);
            assert!(
                of_code.any(|problem| problem.claim.contains(named)),
                "{attack}, {place}: {error}"
            );
            let said = |p: &touchstone_policies::Problem| !p.expected.is_empty() && !p.found.is_empty();
            assert!(error.problems().iter().all(said), "{attack}: {error}");
        }
    }
}

#[test]
fn what_only_a_server_can_do_is_refused_with_its_code() {
    type ServerRow = (&'static str, PolicyCode, &'static str, fn(&str) -> Manner);
    fn at(path: &str, file: &str, manner: Manner) -> Manner {
        if path.ends_with(file) { manner } else { Manner::Honest }
    }
    let rows: &[ServerRow] = &[
        (
            "an endless timestamp",
            PolicyCode::MetadataTooLarge,
            "timestamp.json",
            |p| at(p, "timestamp.json", Manner::Endless),
        ),
        (
            "an endless newer root",
            PolicyCode::MetadataTooLarge,
            "2.root.json (root, version 2)",
            |p| at(p, "2.root.json", Manner::Endless),
        ),
        (
            "an endless target",
            PolicyCode::TargetTooLarge,
            "policy.cedar (targets, version 1)",
            |p| at(p, ".policy.cedar", Manner::Endless),
        ),
        (
            "slow retrieval of the list",
            PolicyCode::SourceSlow,
            "1.targets.json (targets, version 1)",
            |p| at(p, ".targets.json", Manner::Slow(50)),
        ),
        (
            "slow retrieval of a target",
            PolicyCode::SourceSlow,
            "settings.toml (targets, version 1)",
            |p| at(p, ".settings.toml", Manner::Slow(50)),
        ),
        (
            "no answer",
            PolicyCode::SourceSlow,
            "1.snapshot.json (snapshot, version 1)",
            |p| at(p, ".snapshot.json", Manner::Silent),
        ),
        ("a redirect", PolicyCode::SourceUnreachable, "timestamp.json", |p| {
            at(p, "timestamp.json", Manner::Redirect)
        }),
        (
            "a newer root that cannot be had is not one that is not there",
            PolicyCode::SourceUnreachable,
            "2.root.json (root, version 2)",
            |p| at(p, "2.root.json", Manner::Status(500)),
        ),
        (
            "half a list",
            PolicyCode::SourceUnreachable,
            "1.targets.json (targets, version 1)",
            |p| at(p, ".targets.json", Manner::Cut),
        ),
        (
            "an encoded list",
            PolicyCode::SourceUnreachable,
            "1.targets.json (targets, version 1)",
            |p| at(p, ".targets.json", Manner::Encoded),
        ),
    ];
    let limits = HttpLimits {
        connect: Duration::from_secs(60),
        // The files before the one that is slow must be in time.
        file_grace: Duration::from_secs(8),
        total_grace: Duration::from_secs(600),
        min_rate: 1 << 20,
    };
    let patient = HttpLimits {
        file_grace: Duration::from_secs(60),
        ..limits
    };
    let folder = tempfile::tempdir().unwrap();
    let forge = good(folder.path());
    let victim = Victim {
        options: LoadOptions::default(),
        now: NOW,
    };
    for (attack, code, named, manner) in rows {
        let limits = if *code == PolicyCode::SourceSlow {
            limits
        } else {
            patient
        };
        let error = from_server(&Web::new(&forge.repo, manner), &victim, limits).unwrap_err();
        assert_eq!(error.code(), *code, "{attack}: {error}");
        assert!(error.problems()[0].claim.contains(named), "{attack}: {error}");
        // What a server does says nothing of the repository; what it sends does.
        let of_the_server = matches!(code, PolicyCode::SourceSlow | PolicyCode::SourceUnreachable);
        assert_eq!(error.is_io(), of_the_server, "{attack}");
    }
}

#[test]
fn honest_rotations_and_newer_versions_are_followed() {
    let folder = tempfile::tempdir().unwrap();
    let mut forge = good(folder.path());
    let pinned = std::fs::read(forge.metadata("1.root.json")).unwrap();
    let mut victim = Victim {
        options: LoadOptions {
            root: Some(pinned),
            ..LoadOptions::default()
        },
        now: NOW,
    };
    victim.accepted(&from_folder(&forge, &victim).unwrap());
    // Every key of every role is another one, signed for by those before.
    for (n, role) in [
        RoleType::Timestamp,
        RoleType::Snapshot,
        RoleType::Targets,
        RoleType::Root,
    ]
    .into_iter()
    .enumerate()
    {
        let old = forge.keys["root"].clone();
        let seed = |i: u8| [0xC0 + 4 * u8::try_from(n).unwrap() + i; 32];
        forge.give_keys(role, (0..3).map(|i| key(seed(i))).collect(), 2);
        forge.rotate_root(&old);
        forge.publish(NOW);
        let web = Web::honest(&forge.repo);
        let policy = from_server(&web, &victim, HttpLimits::default()).unwrap();
        assert_eq!(policy.versions.root, n as u64 + 2, "{role}");
        victim.accepted(&policy);
    }
    let expected = RoleVersions {
        root: 5,
        targets: 5,
        snapshot: 5,
        timestamp: 5,
        regions: [("eu".to_owned(), 5), ("us".to_owned(), 5)].into(),
        keys_since: KeysSince {
            snapshot: 3,
            timestamp: 2,
        },
    };
    assert_eq!(victim.options.floors, Some(expected));
}

#[test]
fn versions_beyond_reason_by_a_thief_go_with_the_keys_that_signed_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut forge = good(folder.path());
    let pinned = std::fs::read(forge.metadata("1.root.json")).unwrap();
    let mut victim = Victim {
        options: LoadOptions {
            root: Some(pinned),
            ..LoadOptions::default()
        },
        now: NOW,
    };
    beyond_reason(&mut forge);
    let stolen = from_folder(&forge, &victim).unwrap();
    assert_eq!(
        (stolen.versions.snapshot, stolen.versions.timestamp),
        (u64::MAX, u64::MAX)
    );
    victim.accepted(&stolen);
    // Nobody can publish above it, and whoever accepted it takes nothing else under these keys.
    forge.publish(NOW);
    assert_eq!(from_folder(&forge, &victim).unwrap_err().code(), PolicyCode::Rollback);
    // Taken out one role after the other, with a rotation of the root's own keys after them.
    give_other_keys(&mut forge, &[RoleType::Timestamp], 0xD0);
    forge.publish(NOW);
    let error = from_folder(&forge, &victim).unwrap_err();
    let claims: Vec<_> = error.problems().iter().map(|problem| problem.claim.as_str()).collect();
    assert_eq!(claims, ["3.snapshot.json (snapshot, version 3)"]);
    give_other_keys(&mut forge, &[RoleType::Snapshot], 0xD0);
    let old = forge.keys["root"].clone();
    forge.give_keys(RoleType::Root, (0..3).map(|i| key([0xF0 + i; 32])).collect(), 2);
    forge.rotate_root(&old);
    forge.publish(NOW);
    let web = Web::honest(&forge.repo);
    let policy = from_server(&web, &victim, HttpLimits::default()).unwrap();
    assert_eq!(from_folder(&forge, &victim).unwrap().versions, policy.versions);
    let since = KeysSince {
        snapshot: 3,
        timestamp: 2,
    };
    assert_eq!((policy.versions.root, policy.versions.keys_since), (4, since));
    victim.accepted(&policy);
    assert_eq!(victim.options.floors, Some(policy.versions));
    // From here on nothing goes back again.
    forge.publish(NOW);
    victim.accepted(&from_folder(&forge, &victim).unwrap());
}

#[test]
fn snapshot_and_timestamp_may_live_as_long_as_the_settings_say_and_the_skew_bound_more() {
    let folder = tempfile::tempdir().unwrap();
    let mut forge = good(folder.path());
    let mut victim = Victim {
        options: LoadOptions::default(),
        now: NOW,
    };
    forge.lives = (7 * DAY + 1, DAY + 1);
    forge.publish(NOW);
    assert!(from_folder(&forge, &victim).is_ok());
    // Who judges the past by what is published today says by when it was made.
    victim.now = NOW - 365 * DAY;
    assert_eq!(
        from_folder(&forge, &victim).unwrap_err().code(),
        PolicyCode::SnapshotLife
    );
    victim.options.made_by = Some(NOW);
    assert!(from_folder(&forge, &victim).is_ok());
    victim.options.made_by = Some(NOW - 1);
    assert_eq!(
        from_folder(&forge, &victim).unwrap_err().code(),
        PolicyCode::SnapshotLife
    );
    // Nothing is made after it was loaded: a time before that widens nothing.
    (victim.now, victim.options.made_by) = (NOW, Some(0));
    assert!(from_folder(&forge, &victim).is_ok());
}
