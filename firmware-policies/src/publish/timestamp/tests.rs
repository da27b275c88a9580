//! The publisher's key says that a version is the newest, for so long, and nothing else.

use std::num::NonZeroU64;

use tough::schema::{Signed, Snapshot, Targets};

use super::*;
use crate::ceremony::signing::sign_role;
use crate::testing::{DAY, NOW, TestRepo};

/// A folder with the timestamp key alone.
fn publisher(test: &TestRepo) -> KeyDir {
    let folder = test.dir.path().join("publisher");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::copy(test.keys.join("timestamp-1.pem"), folder.join("timestamp-1.pem")).unwrap();
    KeyDir::new(folder)
}

fn renew(test: &TestRepo, now: i64) -> Result<Renewed, PolicyError> {
    renew_timestamp(&test.repo, &publisher(test), &PublisherOptions::default(), now)
}

fn code<T: std::fmt::Debug>(result: Result<T, PolicyError>) -> PolicyCode {
    result.unwrap_err().code()
}

fn read<T: serde::de::DeserializeOwned>(test: &TestRepo, file: &str) -> T {
    serde_json::from_slice(&std::fs::read(test.metadata(file)).unwrap()).unwrap()
}

#[test]
fn it_renews_what_is_published_until_its_snapshot_ends() {
    let test = TestRepo::published();
    let set = crate::settings::Assignment::parse("timers.timestamp_life_ms=900000").unwrap();
    crate::settings_set(&test.repo, &[set]).unwrap();
    test.publish(NOW).unwrap();
    let before = test.load(NOW).unwrap();
    assert_eq!(
        code(test.load(NOW + 900)),
        PolicyCode::TimestampExpired,
        "stale without a publisher"
    );
    // After the timestamp's end too: the publisher was away.
    let renewed = renew(&test, NOW + 1_000).unwrap();
    assert_eq!((renewed.expires, renewed.period), (NOW + 1_900, 300));
    assert_eq!((renewed.versions.timestamp, renewed.versions.snapshot), (3, 2));
    let after = test.load(NOW + 1_000).unwrap();
    assert_eq!(
        (after.version, after.digest),
        (before.version, before.digest),
        "never a new target"
    );
    // No timestamp outlives the snapshot, and then it stops.
    let end = renewed.snapshot_expires;
    assert_eq!(renew(&test, end - 10).unwrap().expires, end);
    assert_eq!(test.load(end - 1).unwrap().version, 2);
    let old = std::fs::read(test.metadata("timestamp.json")).unwrap();
    assert_eq!(code(renew(&test, end)), PolicyCode::SnapshotExpired);
    assert_eq!(std::fs::read(test.metadata("timestamp.json")).unwrap(), old);
}

#[test]
fn it_signs_nothing_that_would_not_load() {
    let test = TestRepo::published();
    let timestamp = std::fs::read(test.metadata("timestamp.json")).unwrap();
    let refuses = |code_expected: PolicyCode, what: &str| {
        assert_eq!(code(renew(&test, NOW)), code_expected, "{what}");
    };
    // A target that was altered.
    let folder = test.repo.join("targets");
    let file = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path());
    let file = file
        .into_iter()
        .find(|p| p.to_string_lossy().ends_with(".policy.cedar"))
        .unwrap();
    let good = std::fs::read(&file).unwrap();
    std::fs::write(&file, "permit (principal, action, resource);").unwrap();
    refuses(PolicyCode::TargetMismatch, "an altered target");
    std::fs::write(&file, good).unwrap();
    // An older copy of the repository than it has signed for.
    let mut versions = test.load(NOW).unwrap().versions;
    versions.snapshot += 1;
    let options = PublisherOptions {
        floors: Some(versions),
        ..PublisherOptions::default()
    };
    let rolled_back = renew_timestamp(&test.repo, &publisher(&test), &options, NOW);
    assert_eq!(code(rolled_back), PolicyCode::Rollback);
    // Another domain than the one whose root it holds.
    let other = TestRepo::published();
    let options = PublisherOptions {
        root: Some(std::fs::read(other.metadata("1.root.json")).unwrap()),
        ..PublisherOptions::default()
    };
    let replaced = renew_timestamp(&test.repo, &publisher(&test), &options, NOW);
    assert_eq!(code(replaced), PolicyCode::RootMismatch);
    // Another key.
    let strange = renew_timestamp(&test.repo, &publisher(&other), &PublisherOptions::default(), NOW);
    assert_eq!(code(strange), PolicyCode::KeyNotInRoot);
    // While somebody publishes.
    let held = Repository::open(&test.repo).unwrap();
    refuses(PolicyCode::PublishBusy, "two publishers at once");
    drop(held);
    assert_eq!(std::fs::read(test.metadata("timestamp.json")).unwrap(), timestamp);
    assert!(!test.repo.join(".next").exists());
    renew(&test, NOW).unwrap();
}

#[test]
fn it_judges_the_ends_of_the_roles_it_does_not_sign() {
    let test = TestRepo::published();
    std::fs::remove_file(test.keys.join("root-1.pem")).unwrap();
    let end = NOW + crate::ceremony::signing::ROOT_LIFE;
    test.publish(end - 3_600).unwrap();
    renew(&test, end - 1).unwrap();
    let old = std::fs::read(test.metadata("timestamp.json")).unwrap();
    assert_eq!(code(renew(&test, end)), PolicyCode::RootExpired);
    assert_eq!(std::fs::read(test.metadata("timestamp.json")).unwrap(), old);
}

#[test]
fn its_thief_gains_a_freeze_that_ends_with_the_snapshot_and_no_target() {
    let test = TestRepo::published();
    let key = || publisher(&test).keys(&KeyRole::Timestamp).unwrap();
    let sign_timestamp = |timestamp: Timestamp| {
        std::fs::write(test.metadata("timestamp.json"), sign_role(timestamp, &key()).unwrap()).unwrap();
    };
    let honest: Signed<Timestamp> = read(&test, "timestamp.json");
    let old = honest.signed;
    let floors = test.load(NOW).unwrap().versions;

    // A version of the thief's own: no snapshot and no list of targets is the timestamp key's to sign.
    let mut targets: Signed<Targets> = read(&test, "1.targets.json");
    targets.signed.version = NonZeroU64::new(2).unwrap();
    targets.signed.targets.clear();
    let bytes = sign_role(targets.signed, &key()).unwrap();
    std::fs::write(test.metadata("2.targets.json"), &bytes).unwrap();
    let mut snapshot: Signed<Snapshot> = read(&test, "1.snapshot.json");
    snapshot.signed.version = NonZeroU64::new(2).unwrap();
    snapshot
        .signed
        .meta
        .insert("targets.json".into(), crate::publish::metafile(&bytes));
    let bytes = sign_role(snapshot.signed, &key()).unwrap();
    std::fs::write(test.metadata("2.snapshot.json"), &bytes).unwrap();
    let mut forged = old.clone();
    let mut meta = crate::publish::metafile(&bytes);
    meta.version = NonZeroU64::new(2).unwrap();
    forged.meta.insert("snapshot.json".into(), meta);
    sign_timestamp(forged);
    assert_eq!(code(test.load(NOW)), PolicyCode::SignatureInvalid);

    // The freeze: version 2 is published, and the thief's timestamp for version 1 hides it from who never saw it …
    for file in ["2.targets.json", "2.snapshot.json"] {
        std::fs::remove_file(test.metadata(file)).unwrap();
    }
    sign_timestamp(old.clone());
    test.publish(NOW).unwrap();
    let seen = test.load(NOW).unwrap().versions;
    let mut frozen = old;
    frozen.version = NonZeroU64::new(1_000).unwrap();
    frozen.expires = crate::ceremony::signing::expires_at(NOW, 10 * 365 * DAY).unwrap();
    sign_timestamp(frozen.clone());
    assert_eq!(code(test.load(NOW)), PolicyCode::TimestampLife);
    frozen.expires = crate::ceremony::signing::expires_at(NOW, DAY).unwrap();
    sign_timestamp(frozen.clone());
    assert_eq!(test.load(NOW).unwrap().version, 1);
    // … until the old snapshot ends, however often the timestamp is made anew.
    let end = {
        let snapshot: Signed<Snapshot> = read(&test, "1.snapshot.json");
        snapshot.signed.expires.as_second()
    };
    assert_eq!(end, NOW + DAY, "a day, unless the signed settings say more");
    let at_first = frozen.clone();
    frozen.expires = crate::ceremony::signing::expires_at(end, DAY - 1).unwrap();
    sign_timestamp(frozen);
    assert_eq!(test.load(end - 1).unwrap().version, 1);
    assert_eq!(code(test.load(end)), PolicyCode::SnapshotExpired);
    // Who saw version 2 is not taken back at all.
    sign_timestamp(at_first);
    let load = |floors| {
        let options = crate::LoadOptions {
            floors: Some(floors),
            ..crate::LoadOptions::default()
        };
        crate::load_blocking(test.repo.as_path(), options, NOW)
    };
    assert!(load(floors).is_ok());
    assert_eq!(code(load(seen)), PolicyCode::Rollback);
}
