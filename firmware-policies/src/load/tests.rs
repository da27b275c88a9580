//! What a repository served by an attacker gets: one row an attack, each with its code.
//! Source of the list: TUF 1.0.34, 1.5.2 (goals to protect against specific attacks).

use std::num::NonZeroU64;
use std::path::PathBuf;

use sha2::{Digest, Sha256};
use tough::schema::{DelegatedRole, PathPattern, PathSet, RoleType, Root, Signed, Snapshot, Targets, Timestamp};

use super::*;
use crate::files::MAX_METADATA_LEN;
use crate::identity::NodeIdentity;
use crate::keys::{KeyDir, KeyRole, RoleKey};
use crate::signing::{expires_at, sign_role};
use crate::testing::forge::{self, Forge};
use crate::testing::{DAY, NOW, TestRepo, boot_evidence};

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
fn a_pinned_root_is_the_only_one() {
    let (test, other) = (TestRepo::published(), TestRepo::published());
    let root = std::fs::read(test.metadata("1.root.json")).unwrap();
    let pin = |repo: &TestRepo, root: &[u8]| {
        let options = LoadOptions {
            root: Some(root.to_vec()),
            ..LoadOptions::default()
        };
        load_blocking(&repo.repo, options, NOW)
    };
    let policy = pin(&test, &root).unwrap();
    assert!(policy.root_pinned && policy.root_digest == test.load(NOW).unwrap().root_digest);
    assert!(!test.load(NOW).unwrap().root_pinned);
    assert_eq!(
        code(pin(&other, &root)),
        Err(PolicyCode::RootMismatch),
        "another repository"
    );
    assert_eq!(code(pin(&test, b"{}")), Err(PolicyCode::RootInvalid));
    // The attacker takes the first root away, so that there is nothing to compare with.
    std::fs::remove_file(other.metadata("1.root.json")).unwrap();
    assert_eq!(code(pin(&other, &root)), Err(PolicyCode::SignatureInvalid));
    // Or adds a second one to another domain's first.
    std::fs::copy(test.metadata("1.root.json"), other.metadata("1.root.json")).unwrap();
    let mut second: Signed<Root> = read(test.metadata("1.root.json"));
    second.signed.version = NonZeroU64::new(2).unwrap();
    let bytes = sign_role(second.signed, &keys(&other, KeyRole::Root)).unwrap();
    std::fs::write(other.metadata("2.root.json"), bytes).unwrap();
    assert_eq!(code(pin(&other, &root)), Err(PolicyCode::RootMismatch));
}

/// Replaces the root by one with `n` keys and a threshold of `m` for every role, and signs everything with `signers`.
fn rekey(test: &TestRepo, n: usize, m: u64, signers: usize) {
    use touchstone_cose::key::SigningKey;
    let make = |role: usize, i: usize| {
        let key = SigningKey::from_seed([(10 * role + i + 1) as u8; 32]);
        RoleKey::software(format!("key-{role}-{i}"), key)
    };
    let roles = [
        RoleType::Root,
        RoleType::Targets,
        RoleType::Snapshot,
        RoleType::Timestamp,
    ];
    let mut root: Signed<Root> = read(test.metadata("1.root.json"));
    root.signed.keys.clear();
    for (r, role) in roles.into_iter().enumerate() {
        let ids: Vec<_> = (0..n)
            .map(|i| {
                let key = make(r, i).tuf_key().unwrap();
                let id = key.key_id().unwrap();
                root.signed.keys.insert(id.clone(), key);
                id
            })
            .collect();
        let keys = root.signed.roles.get_mut(&role).unwrap();
        (keys.keyids, keys.threshold) = (ids, NonZeroU64::new(m).unwrap());
    }
    let by = |r: usize, count: usize| (0..count).map(|i| make(r, i)).collect::<Vec<_>>();
    let write = |file: &str, bytes: Vec<u8>| {
        std::fs::write(test.metadata(file), &bytes).unwrap();
        crate::publish::metafile(&bytes)
    };
    write("1.root.json", sign_role(root.signed, &by(0, n)).unwrap());
    let targets: Signed<Targets> = read(test.metadata("1.targets.json"));
    let meta = write("1.targets.json", sign_role(targets.signed, &by(1, signers)).unwrap());
    let mut snapshot: Signed<Snapshot> = read(test.metadata("1.snapshot.json"));
    snapshot.signed.meta.insert("targets.json".into(), meta);
    let meta = write("1.snapshot.json", sign_role(snapshot.signed, &by(2, signers)).unwrap());
    let mut timestamp: Signed<Timestamp> = read(test.metadata("timestamp.json"));
    timestamp.signed.meta.insert("snapshot.json".into(), meta);
    write("timestamp.json", sign_role(timestamp.signed, &by(3, signers)).unwrap());
}

#[test]
fn thresholds_are_counted() {
    let test = TestRepo::published();
    for (n, m, signers, expected) in [
        (3, 2, 2, Ok(1)),
        (3, 2, 3, Ok(1)),
        (3, 2, 1, Err(PolicyCode::SignatureInvalid)),
        (5, 5, 5, Ok(1)),
        (5, 5, 4, Err(PolicyCode::SignatureInvalid)),
        (1, 1, 0, Err(PolicyCode::SignatureInvalid)),
        (2, 3, 2, Err(PolicyCode::SignatureInvalid)),
    ] {
        rekey(&test, n, m, signers);
        assert_eq!(code(test.load(NOW)), expected, "{m} of {n}, signed by {signers}");
    }
    // One signature given twice is one signature.
    rekey(&test, 3, 2, 1);
    let mut timestamp: Signed<Timestamp> = read(test.metadata("timestamp.json"));
    timestamp.signatures.push(timestamp.signatures[0].clone());
    std::fs::write(test.metadata("timestamp.json"), serde_json::to_vec(&timestamp).unwrap()).unwrap();
    assert_eq!(code(test.load(NOW)), Err(PolicyCode::SignatureInvalid));
}

#[test]
fn a_rotated_root_is_followed_and_not_forgotten() {
    let test = TestRepo::published();
    let first = std::fs::read(test.metadata("1.root.json")).unwrap();
    // Another timestamp key, and a second root that says so.
    let old_keys = keys(&test, KeyRole::Root);
    let mut root: Signed<Root> = read(test.metadata("1.root.json"));
    std::fs::remove_file(test.keys.join("timestamp-1.pem")).unwrap();
    std::fs::remove_file(test.keys.join("timestamp-1.pub")).unwrap();
    KeyDir::new(&test.keys).complete(&[(KeyRole::Timestamp, 1)]).unwrap();
    let key = keys(&test, KeyRole::Timestamp)[0].tuf_key().unwrap();
    let id = key.key_id().unwrap();
    root.signed.keys.insert(id.clone(), key);
    root.signed.roles.get_mut(&RoleType::Timestamp).unwrap().keyids = vec![id];
    root.signed.version = NonZeroU64::new(2).unwrap();
    root.signed.expires = expires_at(NOW, 300 * DAY).unwrap();
    std::fs::write(test.metadata("2.root.json"), sign_role(root.signed, &old_keys).unwrap()).unwrap();
    assert_eq!(
        code(test.load(NOW)),
        Err(PolicyCode::SignatureInvalid),
        "the old key's timestamp counts no more"
    );
    let timestamp: Signed<Timestamp> = read(test.metadata("timestamp.json"));
    let bytes = sign_role(timestamp.signed, &keys(&test, KeyRole::Timestamp)).unwrap();
    std::fs::write(test.metadata("timestamp.json"), bytes).unwrap();
    let policy = test.load(NOW).unwrap();
    assert_eq!(policy.versions.root, 2);
    let pinned = LoadOptions {
        root: Some(first),
        floors: Some(policy.versions),
        ..LoadOptions::default()
    };
    assert_eq!(code(load_blocking(&test.repo, pinned, NOW)), Ok(1));
    // The second root is taken away to bring the stolen old key back.
    let second = std::fs::read(test.metadata("2.root.json")).unwrap();
    std::fs::remove_file(test.metadata("2.root.json")).unwrap();
    assert_eq!(code(test.load(NOW)), Err(PolicyCode::SignatureInvalid));
    let pinned = LoadOptions {
        root: Some(second),
        ..LoadOptions::default()
    };
    assert_eq!(
        code(load_blocking(&test.repo, pinned, NOW)),
        Ok(1),
        "whoever pinned the newer root goes on"
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

/// A published repository in which `eu` and `us` sign for themselves, `eu` by two of its three keys.
fn with_regions() -> (TestRepo, Forge) {
    let test = TestRepo::published();
    let mut forge = test.forge();
    let policy = crate::cedar::default_region_policy("eu");
    forge.delegate("eu", 3, 2, NOW);
    forge.put_in("eu", "regions/eu/policy.cedar", policy.as_bytes());
    forge.delegate("us", 1, 1, NOW);
    forge.publish(NOW);
    (test, forge)
}

#[test]
fn a_region_signs_for_itself() {
    let (test, mut forge) = with_regions();
    let policy = test.load(NOW).unwrap();
    assert_eq!(policy.cedar.regions().collect::<Vec<_>>(), ["eu", "north"]);
    let eu = &policy.regions["eu"];
    assert_eq!(
        (eu.version, eu.threshold, eu.keys.len(), eu.expires),
        (1, 2, 3, NOW + 365 * DAY)
    );
    assert_eq!(policy.regions.keys().collect::<Vec<_>>(), ["eu", "us"]);
    assert_eq!(
        (policy.version, policy.versions.targets, &policy.versions.regions),
        (2, 2, &[("eu".to_owned(), 1), ("us".to_owned(), 1)].into())
    );
    // What a region signs is in the digest of the whole and in no other region's.
    let other = format!("{}// another\n", crate::cedar::default_region_policy("eu"));
    forge.put_in("eu", "regions/eu/policy.cedar", other.as_bytes());
    forge.regions.get_mut("eu").unwrap().list.version = NonZeroU64::new(2).unwrap();
    forge.publish(NOW);
    let after = test.load(NOW).unwrap();
    assert_ne!(after.digest, policy.digest);
    assert_ne!(after.region_digest("eu"), policy.region_digest("eu"));
    assert_eq!((after.version, after.region_digest("asia")), (3, None));
}

#[test]
fn the_digest_of_a_policy_is_over_every_role_that_signs_targets() {
    let region = |n: u8| SignedRegion {
        version: 1,
        digest: [n; 32],
        expires: 0,
        threshold: 1,
        keys: Vec::new(),
    };
    let regions = |rows: &[(&str, u8)]| rows.iter().map(|(name, n)| ((*name).to_owned(), region(*n))).collect();
    let digest = |targets, rows: &[(&str, u8)]| tuf::policy_digest([targets; 32], &regions(rows));
    let mut bytes = vec![0x83, 0x73];
    bytes.extend(b"touchstone-policy/1");
    bytes.extend([0x58, 0x20]);
    bytes.extend([1; 32]);
    bytes.extend([0x81, 0x82, 0x62]);
    bytes.extend(b"eu");
    bytes.extend([0x58, 0x20]);
    bytes.extend([2; 32]);
    let expected: [u8; 32] = Sha256::digest(&bytes).into();
    assert_eq!(digest(1, &[("eu", 2)]), expected);
    let others = [
        digest(1, &[]),
        digest(2, &[("eu", 2)]),
        digest(1, &[("eu", 3)]),
        digest(1, &[("us", 2)]),
    ];
    assert!(others.iter().all(|other| *other != expected));
}

#[test]
fn attacks_over_regions_are_refused_with_their_code() {
    use PolicyCode::*;
    type Attack = fn(&mut Forge);
    fn region<'a>(forge: &'a mut Forge, name: &str) -> &'a mut DelegatedRole {
        let roles = &mut forge.targets.delegations.as_mut().unwrap().roles;
        roles.iter_mut().find(|role| role.name == name).unwrap()
    }
    let rows: &[(&str, PolicyCode, Attack)] = &[
        ("a region signs a target of the whole", RegionOutside, |f| {
            f.put_in("us", "deny.toml", b"# nobody\n");
        }),
        ("a region signs a target of another", RegionOutside, |f| {
            f.put_in("us", "regions/eu/settings.toml", b"# wider\n");
        }),
        ("a region signs beside its folder", RegionOutside, |f| {
            f.put_in(
                "us",
                "regions/us-2/policy.cedar",
                b"permit (principal, action, resource);",
            );
        }),
        ("the paths of a delegation are wider", DelegationRefused, |f| {
            let paths = ["regions/us/*", "*"].map(|p| PathPattern::new(p).unwrap());
            region(f, "region-us").paths = PathSet::Paths(paths.into());
        }),
        ("a wide delegation and a global target in it", DelegationRefused, |f| {
            region(f, "region-us").paths = PathSet::Paths(vec![PathPattern::new("*").unwrap()]);
            f.put_in("us", "deny.toml", b"# nobody\n");
        }),
        ("a delegation by digest prefixes", DelegationRefused, |f| {
            let prefixes = serde_json::from_str(r#"{"path_hash_prefixes": ["00"]}"#).unwrap();
            region(f, "region-us").paths = prefixes;
        }),
        ("a delegation that is not terminating", DelegationRefused, |f| {
            region(f, "region-us").terminating = false;
        }),
        ("a region twice", DelegationRefused, |f| {
            let again = region(f, "region-us").clone();
            f.targets.delegations.as_mut().unwrap().roles.push(again);
        }),
        ("a role that is no region's", DelegationUnknown, |f| {
            region(f, "region-us").name = "north".into();
        }),
        ("a region of no name", DelegationUnknown, |f| {
            region(f, "region-us").name = "region-".into()
        }),
        ("a region called as a role of the whole", DelegationUnknown, |f| {
            region(f, "region-us").name = "region-targets".into()
        }),
        ("a region delegates further", DelegationUnknown, |f| {
            let further = f.targets.delegations.clone();
            let list = &mut f.regions.get_mut("us").unwrap().list;
            list.delegations = further;
            list.delegations.as_mut().unwrap().roles.truncate(1);
        }),
        ("one key under two ids", KeyRepeated, |f| {
            let delegations = f.targets.delegations.as_mut().unwrap();
            let id = delegations.roles[1].keyids[0].clone();
            let mut key = serde_json::to_value(&delegations.keys[&id]).unwrap();
            key["note"] = "again".into();
            let key: tough::schema::key::Key = serde_json::from_value(key).unwrap();
            let second = key.key_id().unwrap();
            assert_ne!(id, second);
            delegations.keys.insert(second.clone(), key);
            delegations.roles[1].keyids.push(second);
        }),
        ("the whole signs in a region's folder", TargetOfRegion, |f| {
            f.put("regions/eu/settings.toml", b"# wider\n");
        }),
        ("the whole signs the region's own target again", TargetOfRegion, |f| {
            f.put("regions/eu/policy.cedar", b"permit (principal, action, resource);");
        }),
        ("a region signed by too few of its keys", SignatureInvalid, |f| {
            f.regions.get_mut("eu").unwrap().keys.truncate(1);
        }),
        ("a region signed by another's keys", SignatureInvalid, |f| {
            let keys = std::mem::take(&mut f.regions.get_mut("us").unwrap().keys);
            f.regions.get_mut("eu").unwrap().keys = keys;
        }),
        ("a region signed by the keys of the whole", SignatureInvalid, |f| {
            let seed = std::mem::take(f.keys.get_mut("targets").unwrap());
            f.regions.get_mut("us").unwrap().keys = seed;
            f.keys.insert(
                "targets",
                vec![std::sync::Arc::new(
                    touchstone_cose::key::SigningKey::from_pkcs8_pem(
                        &std::fs::read_to_string(f.repo.parent().unwrap().join("keys/targets-1.pem")).unwrap(),
                    )
                    .unwrap(),
                )],
            );
        }),
    ];
    for (attack, expected, run) in rows {
        let (test, mut forge) = with_regions();
        assert_eq!(code(test.load(NOW)), Ok(2), "{attack}: good before");
        run(&mut forge);
        forge.publish(NOW);
        let error = test.load(NOW).unwrap_err();
        assert_eq!(error.code(), *expected, "{attack}: {error}");
        let named = ["region-", "targets", "regions/"]
            .iter()
            .any(|part| error.problems()[0].claim.contains(part));
        assert!(
            named && error.problems()[0].claim.contains("version"),
            "{attack}: {error}"
        );
    }
}

#[test]
fn a_regions_list_that_is_missing_or_older_refuses_the_repository() {
    let (test, mut forge) = with_regions();
    let floors = test.load(NOW).unwrap().versions;
    forge.publish_with(NOW, |snapshot| drop(snapshot.meta.remove("region-eu.json")));
    assert_eq!(
        code(test.load(NOW)),
        Err(PolicyCode::MetadataMissing),
        "not in the snapshot"
    );
    forge.publish(NOW);
    std::fs::remove_file(forge.metadata("3.region-eu.json")).unwrap();
    let error = test.load(NOW).unwrap_err();
    assert_eq!(error.code(), PolicyCode::MetadataMissing, "not in the folder");
    assert_eq!(error.problems()[0].claim, "3.region-eu.json (region-eu, version 3)");
    // A newer snapshot that names an older list: only the floors can tell.
    let newer = {
        forge.publish(NOW);
        test.load(NOW).unwrap().versions
    };
    assert!(newer.regions["eu"] > floors.regions["eu"]);
    let old: Signed<Targets> = read(test.metadata("1.region-eu.json"));
    forge.regions.get_mut("eu").unwrap().list = old.signed;
    let bytes = std::fs::read(test.metadata("1.region-eu.json")).unwrap();
    let meta = forge::metafile(&bytes, NonZeroU64::MIN);
    forge.publish_with(NOW, |snapshot| {
        drop(snapshot.meta.insert("region-eu.json".into(), meta))
    });
    assert_eq!(code(test.load(NOW)).map(|_| ()), Ok(()), "whole and signed");
    let options = LoadOptions {
        floors: Some(newer),
        ..LoadOptions::default()
    };
    let error = load_blocking(&test.repo, options, NOW).unwrap_err();
    assert_eq!(
        (error.code(), error.problems()[0].claim.as_str()),
        (PolicyCode::Rollback, "1.region-eu.json (region-eu, version 1)")
    );
}

#[test]
fn a_regions_end_stops_the_region_and_nobody_else() {
    let (test, mut forge) = with_regions();
    forge.regions.get_mut("eu").unwrap().list.expires = expires_at(NOW, 100).unwrap();
    forge.publish(NOW);
    let policy = test.load(NOW + 100).unwrap();
    assert_eq!(policy.check_live(NOW + 100), Ok(()));
    assert_eq!(policy.check_region_live("eu", NOW + 99), Ok(()));
    let error = policy.check_region_live("eu", NOW + 100).unwrap_err();
    assert_eq!(error.code(), PolicyCode::RegionExpired);
    assert_eq!(policy.check_region_live("us", NOW + 100), Ok(()));
    assert_eq!(
        policy.check_region_live("north", NOW + 100),
        Ok(()),
        "signed by the whole"
    );
    assert_eq!(
        policy
            .check_live(policy.expires)
            .unwrap_err()
            .problems()
            .last()
            .unwrap()
            .code,
        PolicyCode::TimestampExpired
    );
}

#[test]
fn one_key_has_one_role() {
    type Change = fn(&mut Forge);
    let rows: &[(&str, Change)] = &[
        ("of the root", |f| {
            let before = f.keys["root"].clone();
            let targets = f.keys["targets"].clone();
            f.give_keys(RoleType::Timestamp, targets, 1);
            f.rotate_root(&before);
        }),
        ("of two regions", |f| {
            let roles = &mut f.targets.delegations.as_mut().unwrap().roles;
            roles[1].keyids = vec![roles[0].keyids[0].clone()];
            f.regions.get_mut("us").unwrap().keys = vec![f.regions["eu"].keys[0].clone()];
        }),
        ("of the whole and a region", |f| {
            let key = f.keys["timestamp"][0].clone();
            let delegations = f.targets.delegations.as_mut().unwrap();
            let id = forge::tuf_key(&key).key_id().unwrap();
            delegations.keys.insert(id.clone(), forge::tuf_key(&key));
            delegations.roles[1].keyids = vec![id];
            f.regions.get_mut("us").unwrap().keys = vec![key];
        }),
    ];
    for (what, change) in rows {
        let (test, mut forge) = with_regions();
        assert!(test.load(NOW).is_ok(), "{what}: good before");
        change(&mut forge);
        forge.publish(NOW);
        assert_eq!(code(test.load(NOW)), Err(PolicyCode::KeyRepeated), "{what}");
    }
}
