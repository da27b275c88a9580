//! What a repository served by an attacker gets: one row an attack, each with its code.
//! Source of the list: TUF 1.0.34, 1.5.2 (goals to protect against specific attacks).

use std::num::NonZeroU64;
use std::path::PathBuf;

use sha2::{Digest, Sha256};
use tough::schema::{DelegatedRole, PathPattern, PathSet, RoleType, Root, Signed, Snapshot, Targets, Timestamp};

use super::*;
use crate::author::identity::NodeIdentity;
use crate::ceremony::signing::{expires_at, sign_role};
use crate::keys::{KeyDir, KeyRole, RoleKey};
use crate::testing::forge::{self, Forge};
use crate::testing::{DAY, NOW, TestRepo, boot_evidence};
use crate::transport::bounded::MAX_METADATA_LEN;

mod regions;
mod roots;

fn code(result: Result<PolicySet, PolicyError>) -> Result<u64, PolicyCode> {
    result.map(|p| p.version).map_err(|e| e.code())
}

fn keys(test: &TestRepo, role: KeyRole) -> Vec<RoleKey> {
    KeyDir::new(&test.keys).keys(&role).unwrap()
}

fn read<T: serde::de::DeserializeOwned>(path: PathBuf) -> Signed<T> {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn copy(test: &TestRepo, from: &str, to: &str) {
    std::fs::copy(test.metadata(from), test.metadata(to)).unwrap();
}

/// Replaces text in a metadata file.
fn edit(test: &TestRepo, file: &str, from: &str, to: &str) {
    let text = std::fs::read_to_string(test.metadata(file)).unwrap();
    assert!(text.contains(from), "{from} in {file}");
    std::fs::write(test.metadata(file), text.replacen(from, to, 1)).unwrap();
}

/// The only published file of a target.
fn target_file(test: &TestRepo, suffix: &str) -> PathBuf {
    let folder = test.repo.join("targets");
    let mut found = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    found.find(|p| p.to_str().unwrap().ends_with(suffix)).unwrap()
}

/// Signs changed targets, and a snapshot and timestamp that fit them.
fn resign(test: &TestRepo, change: impl FnOnce(&mut Targets)) {
    let mut targets: Signed<Targets> = read(test.metadata("1.targets.json"));
    change(&mut targets.signed);
    let write = |file: &str, bytes: Vec<u8>| {
        std::fs::write(test.metadata(file), &bytes).unwrap();
        crate::publish::metafile(&bytes)
    };
    let meta = write(
        "1.targets.json",
        sign_role(targets.signed, &keys(test, KeyRole::Targets)).unwrap(),
    );
    let mut snapshot: Signed<Snapshot> = read(test.metadata("1.snapshot.json"));
    snapshot.signed.meta.insert("targets.json".into(), meta);
    let meta = write(
        "1.snapshot.json",
        sign_role(snapshot.signed, &keys(test, KeyRole::Snapshot)).unwrap(),
    );
    let mut timestamp: Signed<Timestamp> = read(test.metadata("timestamp.json"));
    timestamp.signed.meta.insert("snapshot.json".into(), meta);
    write(
        "timestamp.json",
        sign_role(timestamp.signed, &keys(test, KeyRole::Timestamp)).unwrap(),
    );
}

/// A new version with another node in it.
fn publish_second(test: &TestRepo) {
    test.add_node("web-2", "north", NodeIdentity::Evidence(boot_evidence("uki")))
        .unwrap();
    test.publish(NOW).unwrap();
}

#[test]
fn attacks_on_a_repository_are_refused_with_their_code() {
    use PolicyCode::*;
    type Attack = fn(&TestRepo);
    let rows: &[(&str, PolicyCode, Attack)] = &[
        ("unsigned timestamp", SignatureInvalid, |t| {
            let mut timestamp: Signed<Timestamp> = read(t.metadata("timestamp.json"));
            timestamp.signatures.clear();
            std::fs::write(t.metadata("timestamp.json"), serde_json::to_vec(&timestamp).unwrap()).unwrap();
        }),
        ("timestamp by another role's key", SignatureInvalid, |t| {
            let timestamp: Signed<Timestamp> = read(t.metadata("timestamp.json"));
            let bytes = sign_role(timestamp.signed, &keys(t, KeyRole::Targets)).unwrap();
            std::fs::write(t.metadata("timestamp.json"), bytes).unwrap();
        }),
        ("timestamp with a later end", SignatureInvalid, |t| {
            edit(t, "timestamp.json", "\"2025-", "\"2035-")
        }),
        ("snapshot altered", MetadataMismatch, |t| {
            edit(t, "1.snapshot.json", "\"2025-", "\"2035-")
        }),
        ("targets altered", MetadataMismatch, |t| {
            edit(t, "1.targets.json", "\"2026-", "\"2036-")
        }),
        (
            "targets signed by nobody, under a fitting snapshot",
            SignatureInvalid,
            |t| {
                let real = std::fs::read(t.keys.join("targets-1.pem")).unwrap();
                std::fs::copy(t.keys.join("reference-1.pem"), t.keys.join("targets-1.pem")).unwrap();
                resign(t, |_| ());
                std::fs::write(t.keys.join("targets-1.pem"), real).unwrap();
            },
        ),
        ("root altered", SignatureInvalid, |t| {
            edit(t, "1.root.json", "\"2026-", "\"2036-")
        }),
        ("root not JSON", MetadataUnreadable, |t| {
            std::fs::write(t.metadata("1.root.json"), "{").unwrap()
        }),
        ("root missing", RootMissing, |t| {
            std::fs::remove_file(t.metadata("1.root.json")).unwrap()
        }),
        ("new root by a stranger", SignatureInvalid, |t| {
            let mut root: Signed<Root> = read(t.metadata("1.root.json"));
            root.signed.version = NonZeroU64::new(2).unwrap();
            let bytes = sign_role(root.signed, &keys(t, KeyRole::Timestamp)).unwrap();
            std::fs::write(t.metadata("2.root.json"), bytes).unwrap();
        }),
        ("new root that repeats the old", MetadataMismatch, |t| {
            copy(t, "1.root.json", "2.root.json")
        }),
        ("new root that cannot be read", Io, |t| {
            std::fs::create_dir(t.metadata("2.root.json")).unwrap()
        }),
        ("timestamp missing", MetadataMissing, |t| {
            std::fs::remove_file(t.metadata("timestamp.json")).unwrap()
        }),
        ("timestamp empty", MetadataUnreadable, |t| {
            std::fs::write(t.metadata("timestamp.json"), "").unwrap()
        }),
        ("snapshot missing", MetadataMissing, |t| {
            std::fs::remove_file(t.metadata("1.snapshot.json")).unwrap()
        }),
        ("targets missing", MetadataMissing, |t| {
            std::fs::remove_file(t.metadata("1.targets.json")).unwrap()
        }),
        ("mix: old targets under a new snapshot", MetadataMismatch, |t| {
            publish_second(t);
            copy(t, "1.targets.json", "2.targets.json");
        }),
        ("mix: old snapshot under a new timestamp", MetadataMismatch, |t| {
            publish_second(t);
            copy(t, "1.snapshot.json", "2.snapshot.json");
        }),
        ("target altered", TargetMismatch, |t| {
            let file = target_file(t, ".policy.cedar");
            let text = std::fs::read_to_string(&file).unwrap();
            std::fs::write(file, text.replacen("affirming", "warning..", 1)).unwrap();
        }),
        ("target longer than signed", TargetMismatch, |t| {
            let file = target_file(t, ".settings.toml");
            let text = std::fs::read_to_string(&file).unwrap();
            std::fs::write(file, text + "# more\n").unwrap();
        }),
        ("target shorter than signed", TargetMismatch, |t| {
            let file = target_file(t, ".settings.toml");
            let text = std::fs::read_to_string(&file).unwrap();
            std::fs::write(file, &text[..100]).unwrap();
        }),
        ("target missing", TargetMissing, |t| {
            std::fs::remove_file(target_file(t, ".settings.toml")).unwrap()
        }),
        ("unknown target, signed", TargetUnknown, |t| {
            resign(t, |targets| {
                let target = targets.targets.values().next().unwrap().clone();
                targets.targets.insert("extra.txt".try_into().unwrap(), target);
            });
        }),
        ("target name with a path in it", TargetUnknown, |t| {
            resign(t, |targets| {
                let target = targets.targets.values().next().unwrap().clone();
                targets
                    .targets
                    .insert("nodes/../settings.toml".try_into().unwrap(), target);
            });
        }),
        ("required target taken off the list", TargetRequired, |t| {
            resign(t, |targets| {
                targets.targets.retain(|name, _| name.raw() != "policy.cedar")
            });
        }),
        ("endless target, signed as such", TargetTooLarge, |t| {
            resign(t, |targets| {
                targets
                    .targets
                    .get_mut(&"settings.toml".try_into().unwrap())
                    .unwrap()
                    .length = u64::MAX;
            });
        }),
        ("target signed as longer than its kind may be", TargetTooLarge, |t| {
            resign(t, |targets| {
                targets
                    .targets
                    .get_mut(&"settings.toml".try_into().unwrap())
                    .unwrap()
                    .length = 65_537;
            });
        }),
        ("endless timestamp", MetadataTooLarge, |t| endless(t, "timestamp.json")),
        ("endless root", MetadataTooLarge, |t| endless(t, "2.root.json")),
        ("endless targets, signed as such", MetadataTooLarge, |t| {
            let mut snapshot: Signed<Snapshot> = read(t.metadata("1.snapshot.json"));
            let meta = snapshot.signed.meta.get_mut("targets.json").unwrap();
            (meta.length, meta.hashes) = (None, None);
            let bytes = sign_role(snapshot.signed, &keys(t, KeyRole::Snapshot)).unwrap();
            std::fs::write(t.metadata("1.snapshot.json"), &bytes).unwrap();
            let mut timestamp: Signed<Timestamp> = read(t.metadata("timestamp.json"));
            timestamp
                .signed
                .meta
                .insert("snapshot.json".into(), crate::publish::metafile(&bytes));
            let bytes = sign_role(timestamp.signed, &keys(t, KeyRole::Timestamp)).unwrap();
            std::fs::write(t.metadata("timestamp.json"), bytes).unwrap();
            endless(t, "1.targets.json");
        }),
        ("delegation to a role of its own", DelegationUnknown, |t| {
            resign(t, |targets| {
                let delegations = serde_json::json!({"keys": {}, "roles": [{
                    "name": "north", "keyids": [], "threshold": 1, "terminating": false, "paths": ["nodes/north-*"],
                }]});
                targets.delegations = Some(serde_json::from_value(delegations).unwrap());
            });
        }),
    ];
    for (attack, expected, run) in rows {
        let test = TestRepo::published();
        assert_eq!(code(test.load(NOW)), Ok(1), "{attack}: good before");
        run(&test);
        assert_eq!(code(test.load(NOW)), Err(*expected), "{attack}");
    }
}

fn endless(test: &TestRepo, file: &str) {
    // A sparse file: long, and nothing on the disk.
    let file = std::fs::File::create(test.metadata(file)).unwrap();
    file.set_len(4 * MAX_METADATA_LEN).unwrap();
}

#[test]
fn what_is_not_listed_is_not_read() {
    let test = TestRepo::published();
    std::fs::write(test.repo.join("targets/extra.txt"), "extra").unwrap();
    std::fs::write(test.metadata("extra.json"), "extra").unwrap();
    std::fs::write(test.staged("settings.toml"), "allow_all = true").unwrap();
    assert_eq!(code(test.load(NOW)), Ok(1));
}

#[test]
fn every_role_expires_at_the_given_time() {
    let test = TestRepo::published();
    // The snapshot lives longer than the timestamp, so that each end is seen by itself.
    let set = crate::settings::Assignment::parse("timers.snapshot_life_ms=604800000").unwrap();
    crate::settings_set(&test.repo, &[set]).unwrap();
    test.publish(NOW).unwrap();
    use PolicyCode::*;
    let codes = |now| {
        test.load_of_today(now)
            .map_or_else(|e| e.problems().iter().map(|p| p.code).collect(), |_| Vec::new())
    };
    assert_eq!(codes(i64::MIN), []);
    assert_eq!(codes(NOW + DAY - 1), []);
    assert_eq!(codes(NOW + DAY), [TimestampExpired], "frozen");
    assert_eq!(codes(NOW + 7 * DAY), [SnapshotExpired, TimestampExpired]);
    assert_eq!(
        codes(NOW + 365 * DAY),
        [RootExpired, TargetsExpired, SnapshotExpired, TimestampExpired]
    );
    let error = test.load(NOW + DAY).unwrap_err();
    assert_eq!(error.problems()[0].claim, "timestamp.json (timestamp, version 2)");
}

#[test]
fn an_older_version_is_refused_by_the_floors() {
    let test = TestRepo::published();
    let old = std::fs::read(test.metadata("timestamp.json")).unwrap();
    publish_second(&test);
    let floors = test.load(NOW).unwrap().versions;
    std::fs::write(test.metadata("timestamp.json"), &old).unwrap();
    assert_eq!(
        code(test.load(NOW)),
        Ok(1),
        "whole and signed: only who saw the newer version can tell"
    );
    let options = LoadOptions {
        floors: Some(floors),
        ..LoadOptions::default()
    };
    let error = load_blocking(&test.repo, options.clone(), NOW).unwrap_err();
    let claims: Vec<_> = error.problems().iter().map(|p| (p.code, p.claim.as_str())).collect();
    assert_eq!(
        claims,
        [
            "1.snapshot.json (snapshot, version 1)",
            "1.targets.json (targets, version 1)",
            "timestamp.json (timestamp, version 1)"
        ]
        .map(|role| (PolicyCode::Rollback, role))
    );
    let earlier = LoadOptions {
        last_time: Some(NOW + 1),
        ..LoadOptions::default()
    };
    assert_eq!(
        code(load_blocking(&test.repo, earlier, NOW)),
        Err(PolicyCode::ClockWentBack)
    );
}

#[test]
fn reference_values_that_nobody_listed_signed_refuse_the_repository() {
    let test = TestRepo::published();
    let other = TestRepo::published();
    let corim = |t: &TestRepo| {
        let folder = t.repo.join("targets/references");
        std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path()
    };
    let unsigned = std::fs::read(test.staged("references/golden.corim")).unwrap();
    for (what, bytes) in [
        ("unsigned", unsigned),
        ("by another domain's key", std::fs::read(corim(&other)).unwrap()),
        ("no CoRIM", b"garbage".to_vec()),
        ("empty", Vec::new()),
    ] {
        let name = crate::layout::TargetKind::Reference("golden".into()).name();
        let digest: [u8; 32] = Sha256::digest(&bytes).into();
        std::fs::write(crate::layout::target_path(&test.repo, &name, &digest), &bytes).unwrap();
        resign(&test, |targets| {
            let target = targets.targets.get_mut(&name.clone().try_into().unwrap()).unwrap();
            (target.length, target.hashes.sha256) = (bytes.len() as u64, digest.to_vec().into());
        });
        assert_eq!(code(test.load(NOW)), Err(PolicyCode::ReferenceRefused), "{what}");
    }
}

#[test]
fn what_is_no_repository_is_said_to_be_none() {
    let dir = tempfile::tempdir().unwrap();
    let load = |path: PathBuf| load_blocking(&path, LoadOptions::default(), NOW).unwrap_err();
    let absent = load(dir.path().join("absent"));
    assert!(absent.is_io());
    let empty = load(dir.path().to_owned());
    assert_eq!((empty.code(), empty.is_io()), (PolicyCode::RootMissing, false));
}

#[test]
fn loading_works_within_a_runtime_too() {
    let test = TestRepo::published();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let version = runtime.block_on(async {
        let direct = load(&test.repo, LoadOptions::default(), NOW).await.unwrap();
        let blocking = test.load(NOW).unwrap();
        assert_eq!(direct.digest, blocking.digest);
        direct.version
    });
    assert_eq!(version, 1);
}
