//! A publish stopped anywhere leaves the old version or the new one; a failed publish leaves everything as it was.

use std::collections::BTreeMap;

use super::*;
use crate::author::identity::NodeIdentity;
use crate::author::{init, reference_add, withdraw};
use crate::ceremony::RootChange;
use crate::ceremony::signing::{ROOT_LIFE, ROOT_RENEWED_BEFORE};
use crate::repository::UNFINISHED;
use crate::settings::Settings;
use crate::testing::{DAY, NOW, TestRepo, boot_evidence, forge};
use crate::transport::bounded::read_bounded;
use tough::schema::Signed;

/// Every file below a folder with its contents.
fn snapshot(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                files.insert(path.clone(), std::fs::read(path).unwrap());
            }
        }
    }
    files
}

#[test]
fn versions_rise_by_one_and_staged_files_stay_to_be_edited() {
    let test = TestRepo::published();
    let policy = test.load(NOW).unwrap();
    assert_eq!(
        policy.versions,
        RoleVersions {
            root: 1,
            targets: 1,
            snapshot: 1,
            timestamp: 1,
            ..RoleVersions::default()
        }
    );
    let second = test.publish(NOW + DAY).unwrap();
    assert_eq!(
        second.versions,
        RoleVersions {
            root: 1,
            targets: 2,
            snapshot: 2,
            timestamp: 2,
            ..RoleVersions::default()
        }
    );
    let policy = test.load(NOW + DAY).unwrap();
    assert_eq!((policy.version, policy.expires), (2, NOW + 2 * DAY));
    // Nothing staged: the published contents go on.
    std::fs::remove_dir_all(test.repo.join("staged")).unwrap();
    let third = test.publish(NOW + DAY).unwrap();
    assert_eq!(
        (third.versions.targets, third.references_signed),
        (3, Vec::<String>::new())
    );
    let policy = test.load(NOW + DAY).unwrap();
    assert_eq!(
        (policy.references.references().len(), policy.inventory.nodes().len()),
        (1, 1)
    );
}

fn prepared(test: &TestRepo) -> Publication {
    let repository = Repository::open(&test.repo).unwrap();
    Publication::prepare(&repository, &KeyDir::new(&test.keys), &PublishOptions::default(), NOW).unwrap()
}

/// What a crash before the n-th operation on the disk leaves, half of that operation's file included.
fn crash(test: &TestRepo, publication: &Publication, n: usize) -> bool {
    let mut left = n;
    let mut stop = |path: &Path| {
        if left == 0 {
            let aside = path
                .parent()
                .unwrap()
                .join(format!("{UNFINISHED}{}", path.file_name().unwrap().display()));
            drop(std::fs::write(aside, "half"));
            return Err(std::io::Error::other("crash"));
        }
        left -= 1;
        Ok(())
    };
    publication
        .commit
        .steps(&test.repo, NOW, &mut stop, &mut Vec::new())
        .is_ok()
}

#[test]
fn stopped_before_any_step_the_repository_is_the_old_version_or_the_new() {
    let test = TestRepo::published();
    reference_add(&test.repo, &boot_evidence("uki"), Some("uki"), None, None).unwrap();
    test.add_node("web-2", "south", NodeIdentity::Evidence(boot_evidence("uki")))
        .unwrap();
    for stop in 0.. {
        // Made anew each time, as after a restart.
        let done = crash(&test, &prepared(&test), stop);
        let policy = test.load(NOW).unwrap();
        let found = (
            policy.version,
            policy.references.references().len(),
            policy.inventory.nodes().len(),
        );
        if done {
            assert!(stop > 5, "{stop} steps");
            assert_eq!(found, (2, 2, 2));
            assert_eq!(policy.cedar.regions().collect::<Vec<_>>(), ["north", "south"]);
            assert!(!test.repo.join(".next").exists());
            return;
        }
        assert_eq!(found, (1, 1, 1), "stopped before step {stop}");
        assert_eq!(test.show_problems(), [""; 0], "stopped before step {stop}");
    }
}

#[test]
fn stopped_before_any_step_a_new_root_and_what_it_signs_come_together() {
    use crate::ceremony::{RootChange, change_root, root_roles};
    let test = TestRepo::published();
    let first = read_bounded(&test.metadata("1.root.json"), 1 << 20).unwrap();
    // Every key but one is another afterwards: nothing of the old version loads under the new root.
    let keys = KeyDir::new(&test.keys);
    let mut changes = Vec::new();
    for role in [KeyRole::Targets, KeyRole::Snapshot, KeyRole::Timestamp] {
        let old = root_roles(&test.repo).unwrap()[&role]
            .keys
            .keys()
            .next()
            .unwrap()
            .clone();
        keys.add(&role, 1).unwrap();
        let new = keys.public_keys(&role).unwrap().pop().unwrap().1;
        changes.extend([RootChange::Add(role.clone(), new), RootChange::Remove(role, old)]);
    }
    change_root(&test.repo, &changes).unwrap();
    let load = || {
        let options = crate::LoadOptions {
            root: Some(first.clone()),
            ..Default::default()
        };
        crate::load_blocking(test.repo.as_path(), options, NOW)
            .unwrap()
            .versions
    };
    for stop in 0.. {
        let done = crash(&test, &prepared(&test), stop);
        let versions = load();
        if done {
            assert!(stop > 5, "{stop} steps");
            assert_eq!((versions.root, versions.targets, versions.snapshot), (2, 2, 2));
            return;
        }
        assert_eq!(
            (versions.root, versions.targets, versions.snapshot),
            (1, 1, 1),
            "step {stop}"
        );
    }
}

#[test]
fn stopped_before_any_step_the_first_version_comes_whole_and_can_still_be_made() {
    let test = TestRepo::new();
    for stop in 0.. {
        let done = crash(&test, &prepared(&test), stop);
        if done {
            assert!(stop > 3, "{stop} steps");
            assert_eq!(test.load(NOW).unwrap().version, 1);
            return;
        }
        assert_eq!(
            test.load(NOW).unwrap_err().code(),
            PolicyCode::NotPublished,
            "step {stop}"
        );
    }
}

#[test]
fn a_disk_that_fails_at_any_step_leaves_everything_as_it_was() {
    let test = TestRepo::published();
    reference_add(&test.repo, &boot_evidence("uki"), Some("uki"), None, None).unwrap();
    let before = snapshot(&test.repo);
    for stop in 0.. {
        let publication = prepared(&test);
        let mut left = stop;
        let mut full = |_: &Path| {
            left -= 1;
            if left < 0 {
                Err(std::io::ErrorKind::StorageFull.into())
            } else {
                Ok(())
            }
        };
        match publication.commit.run_with(&test.repo, NOW, &mut full) {
            Err(e) => {
                assert_eq!(e.code(), PolicyCode::Io);
                assert_eq!(snapshot(&test.repo), before, "failed before step {stop}");
            }
            Ok(()) => {
                assert!(stop > 5, "{stop} steps");
                break;
            }
        }
    }
    assert_eq!(test.load(NOW).unwrap().version, 2);
}

#[test]
fn a_publish_that_fails_changes_nothing() {
    let test = TestRepo::published();
    let before = snapshot(&test.repo);
    let fails = |file: &str, contents: &str, code: PolicyCode| {
        let path = test.staged(file);
        let old = std::fs::read(&path).ok();
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, contents).unwrap();
        assert_eq!(test.publish(NOW).unwrap_err().code(), code, "{file}");
        match old {
            Some(bytes) => std::fs::write(&path, bytes).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        assert_eq!(snapshot(&test.repo), before, "{file}");
    };
    use PolicyCode::*;
    fails("settings.toml", "allow_all = true", SettingsUnreadable);
    fails("settings.toml", &Settings::default_file("another"), SettingsName);
    fails(
        "policy.cedar",
        "permit (principal, action, resource) when { principal.rack == 1 };",
        CedarInvalid,
    );
    fails("policy.cedar", "// nothing", CedarEmpty);
    fails("policy.cedar", "", TargetRequired);
    fails("regions/north/policy.cedar", "permit (", CedarInvalid);
    fails("schema.cedarschema", "entity Node;", SchemaInvalid);
    fails("signers.json", "{\"signers\":[]}", SignersUnreadable);
    fails("nodes/x.json", "{}", NodeUnreadable);
    fails("references/x.corim", "garbage", ReferenceRefused);
    fails("keyset.json", "{}", KeysetUnreadable);
    fails("policy.cedar~", "", TargetUnknown);
    fails("notes.txt", "", TargetUnknown);

    let empty = test.dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    assert_eq!(publish(&test.repo, &empty, NOW).unwrap_err().code(), KeyMissing);
    assert_eq!(
        publish(&test.repo, &test.dir.path().join("absent"), NOW)
            .unwrap_err()
            .code(),
        Io
    );
    let other = test.dir.path().join("other keys");
    init(&test.dir.path().join("other"), "other", &other, NOW).unwrap();
    assert_eq!(
        publish(&test.repo, &other, NOW).unwrap_err().code(),
        ReferenceRefused,
        "signed by an unlisted key"
    );
    for file in ["reference-1.pem", "targets-1.pem"] {
        std::fs::copy(test.keys.join(file), other.join(file)).unwrap();
    }
    assert_eq!(publish(&test.repo, &other, NOW).unwrap_err().code(), KeyNotInRoot);
    assert_eq!(snapshot(&test.repo), before);
}

#[test]
fn two_publishers_at_once_are_one_and_a_refusal() {
    let test = TestRepo::published();
    let held = Repository::open(&test.repo).unwrap();
    assert_eq!(test.publish(NOW).unwrap_err().code(), PolicyCode::PublishBusy);
    let node = test.add_node("web-1", "north", NodeIdentity::Evidence(boot_evidence("good")));
    assert_eq!(node.unwrap_err().code(), PolicyCode::PublishBusy);
    assert!(test.load(NOW).is_ok(), "readers need no lock");
    drop(held);
    // A race: each either publishes or is told that it is busy, and the versions have no gap.
    let published = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| test.publish(NOW))).collect();
        let results = threads.into_iter().map(|t| t.join().unwrap());
        let busy_or_done = |r: &Result<_, PolicyError>| match r {
            Ok(_) => true,
            Err(e) => {
                assert_eq!(e.code(), PolicyCode::PublishBusy);
                false
            }
        };
        results.filter(busy_or_done).count() as u64
    });
    assert!(published >= 1);
    assert_eq!(test.load(NOW).unwrap().version, 1 + published);
}

#[test]
fn the_root_is_renewed_before_it_ends() {
    let test = TestRepo::published();
    let root = read_bounded(&test.metadata("1.root.json"), 1 << 20).unwrap();
    let late = NOW + ROOT_LIFE - ROOT_RENEWED_BEFORE;
    assert_eq!(test.publish(late - 1).unwrap().versions.root, 1);
    let renewed = test.publish(late).unwrap();
    assert_eq!((renewed.versions.root, renewed.notes.len()), (2, 2));
    // Who pinned the first root follows.
    let options = crate::LoadOptions {
        root: Some(root),
        ..Default::default()
    };
    let policy = crate::load_blocking(&test.repo, options, late).unwrap();
    assert_eq!((policy.versions.root, policy.root_pinned), (2, true));
    // Without root keys it goes on until the end, and not after.
    let end = late + ROOT_LIFE;
    std::fs::remove_file(test.keys.join("root-1.pem")).unwrap();
    assert_eq!(test.publish(end - 1).unwrap().versions.root, 2);
    assert_eq!(test.publish(end).unwrap_err().code(), PolicyCode::RootExpired);
}

#[test]
fn what_is_withdrawn_is_gone_with_the_next_version() {
    let test = TestRepo::published();
    for target in ["nodes/web-1.json", "references/golden.corim"] {
        withdraw(&test.repo, target).unwrap();
    }
    assert_eq!(
        withdraw(&test.repo, "nodes/unheard-of.json").unwrap_err().code(),
        PolicyCode::TargetMissing
    );
    assert_eq!(
        withdraw(&test.repo, "policy.cedar").unwrap_err().code(),
        PolicyCode::TargetRequired
    );
    assert_eq!(
        withdraw(&test.repo, "../x").unwrap_err().code(),
        PolicyCode::TargetUnknown
    );
    assert_eq!(
        test.load(NOW).unwrap().inventory.nodes().len(),
        1,
        "staging changes nothing"
    );
    assert_eq!(
        test.publish(NOW).unwrap().withdrawn,
        ["nodes/web-1.json", "references/golden.corim"]
    );
    let policy = test.load(NOW).unwrap();
    assert_eq!(
        (policy.inventory.nodes().len(), policy.references.references().len()),
        (0, 0)
    );
    // Gone for good, until it is added anew: the hardware may get another name now.
    assert_eq!(test.publish(NOW).unwrap().withdrawn, [""; 0]);
    test.add_node("web-9", "north", NodeIdentity::Evidence(boot_evidence("good")))
        .unwrap();
    reference_add(&test.repo, &boot_evidence("good"), Some("golden"), None, None).unwrap();
    test.publish(NOW).unwrap();
    let policy = test.load(NOW).unwrap();
    assert_eq!(
        (policy.inventory.nodes().len(), policy.references.references().len()),
        (1, 1)
    );
}

#[test]
fn versions_beyond_reason_end_with_the_keys_that_signed_them() {
    let test = TestRepo::published();
    test.publish(NOW).unwrap();
    let mut thief = test.forge();
    let mut last: Signed<Snapshot> = forge::read(&test.metadata("2.snapshot.json"));
    last.signed.version = NonZeroU64::MAX;
    thief.versions.1 = u64::MAX - 1;
    thief.write_snapshot(&last.signed, NOW);
    let stolen = test.load(NOW).unwrap().versions;
    assert_eq!((stolen.snapshot, stolen.timestamp), (u64::MAX, u64::MAX));
    // There is no version after it, whoever signs, until its keys are taken out.
    assert_eq!(test.publish(NOW).unwrap_err().code(), PolicyCode::Rollback);
    let keys = KeyDir::new(&test.keys);
    let mut changes = Vec::new();
    for role in [KeyRole::Snapshot, KeyRole::Timestamp] {
        let of = || keys.public_keys(&role).unwrap();
        let old = of().pop().unwrap().1;
        keys.add(&role, 1).unwrap();
        let new = of().into_iter().map(|(_, key)| key).find(|key| *key != old).unwrap();
        changes.push(RootChange::Add(role.clone(), new));
        let id = hex::encode(crate::keys::public::key_id(&old).unwrap());
        changes.push(RootChange::Remove(role.clone(), id));
    }
    ceremony::change_root(&test.repo, &changes).unwrap();
    let published = test.publish(NOW).unwrap();
    assert_eq!(
        published
            .notes
            .iter()
            .filter(|note| note.contains("begins anew"))
            .count(),
        2
    );
    let first = published.versions;
    assert_eq!((first.root, first.snapshot, first.timestamp), (2, 3, 1));
    // Whoever accepted the thief's takes it, and so does everybody else.
    for floors in [stolen.clone(), RoleVersions::default()] {
        let options = crate::LoadOptions {
            floors: Some(floors),
            ..Default::default()
        };
        assert_eq!(crate::load_blocking(&test.repo, options, NOW).unwrap().versions, first);
    }
    assert_eq!(stolen.raised_to(&first).snapshot, 3);
    let second = test.publish(NOW).unwrap().versions;
    assert_eq!((second.root, second.snapshot, second.timestamp), (2, 4, 2));
}
