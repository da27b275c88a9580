use super::*;
use crate::error::PolicyCode;
use crate::testing::web::{Manner, Web};
use crate::testing::{NOW, TestRepo, forge};
use crate::transport::source::Location;
use crate::tuf::block_on;
use tough::schema::RoleType;

fn source(web: &Web) -> Source {
    Source::new(Location::parse(&web.url).unwrap())
}

fn fetched(mirror: &Mirror, source: &Source) -> Result<Fetched, PolicyError> {
    block_on(mirror.fetch(source, LoadOptions::default(), NOW))
}

fn loaded(mirror: &Mirror) -> Result<PolicySet, PolicyError> {
    block_on(mirror.load(LoadOptions::default(), NOW))
}

#[test]
fn a_copy_is_the_repository_and_only_changes_travel() {
    let test = TestRepo::published();
    let web = Web::honest(&test.repo);
    let mirror = Mirror::new(test.dir.path().join("mirror"));
    assert!(loaded(&mirror).unwrap_err().is_io(), "nothing there yet");
    let first = fetched(&mirror, &source(&web)).unwrap();
    assert!(loaded(&mirror).is_err(), "fetched is not kept");
    mirror.keep(&first).unwrap();
    assert_eq!(loaded(&mirror).unwrap().digest, test.load(NOW).unwrap().digest);
    let all = web.count();
    assert!(all > first.files.len(), "every target was fetched");
    fetched(&mirror, &source(&web)).unwrap();
    assert!(web.count() < 10, "and none of them a second time");
    // The copy of the copy, from the folder and from a server.
    let second = Mirror::new(test.dir.path().join("second"));
    let copy = Web::honest(mirror.folder());
    second.keep(&fetched(&second, &source(&copy)).unwrap()).unwrap();
    assert_eq!(loaded(&second).unwrap().digest, first.policy.digest);
    // The roots before a pinned one are served on, for those who pinned them.
    assert!(second.read("metadata/1.root.json").is_some());
}

#[test]
fn a_copy_that_was_changed_is_fetched_again_or_refused() {
    let test = TestRepo::published();
    let mirror = Mirror::new(test.dir.path().join("mirror"));
    let from = Source::from(&test.repo);
    mirror.keep(&fetched(&mirror, &from).unwrap()).unwrap();
    let policy = std::fs::read(test.staged("policy.cedar")).unwrap();
    let name = digest_name("policy.cedar", &hex::encode(Sha256::digest(&policy)));
    let path = mirror.folder().join(TARGETS).join(&name);
    std::fs::write(&path, "permit (principal, action, resource);").unwrap();
    assert_eq!(loaded(&mirror).unwrap_err().code(), PolicyCode::TargetMismatch);
    let again = fetched(&mirror, &from).unwrap();
    mirror.keep(&again).unwrap();
    assert_eq!(loaded(&mirror).unwrap().digest, again.policy.digest);
}

#[test]
fn what_is_older_than_the_version_before_goes() {
    let test = TestRepo::published();
    let mirror = Mirror::new(test.dir.path().join("mirror"));
    let from = Source::from(&test.repo);
    for version in 1..=3 {
        if version > 1 {
            test.publish(NOW).unwrap();
        }
        mirror.keep(&fetched(&mirror, &from).unwrap()).unwrap();
        assert_eq!(loaded(&mirror).unwrap().version, version);
    }
    assert!(mirror.read("metadata/1.snapshot.json").is_none(), "two versions ago");
    assert!(
        mirror.read("metadata/2.snapshot.json").is_some(),
        "somebody may be reading it"
    );
    assert!(mirror.read("metadata/1.root.json").is_some());
}

#[test]
fn a_copy_stopped_in_the_middle_is_the_version_before() {
    let test = TestRepo::published();
    let mirror = Mirror::new(test.dir.path().join("mirror"));
    let from = Source::from(&test.repo);
    mirror.keep(&fetched(&mirror, &from).unwrap()).unwrap();
    test.publish(NOW).unwrap();
    let next = fetched(&mirror, &from).unwrap();
    // A folder where the snapshot should be stands for a disk that takes no more.
    let blocked = mirror.folder().join("metadata/2.snapshot.json");
    std::fs::create_dir(&blocked).unwrap();
    assert_eq!(mirror.keep(&next).unwrap_err().code(), PolicyCode::Io);
    assert_eq!(loaded(&mirror).unwrap().version, 1);
    std::fs::remove_dir(&blocked).unwrap();
    mirror.keep(&next).unwrap();
    assert_eq!(loaded(&mirror).unwrap().version, 2);
}

/// A second root, with another timestamp key, and the version signed under it.
fn rotated(test: &TestRepo) {
    let mut forge = test.forge();
    let before = forge.keys["root"].clone();
    forge.give_keys(RoleType::Timestamp, vec![forge::key([200; 32])], 1);
    forge.rotate_root(&before);
    forge.publish(NOW);
}

#[test]
fn a_copy_stopped_in_the_middle_of_a_new_root_is_the_version_before() {
    let test = TestRepo::published();
    let mirror = Mirror::new(test.dir.path().join("mirror"));
    let from = Source::from(&test.repo);
    mirror.keep(&fetched(&mirror, &from).unwrap()).unwrap();
    rotated(&test);
    let next = fetched(&mirror, &from).unwrap();
    let blocked = mirror.folder().join("metadata/2.snapshot.json");
    std::fs::create_dir(&blocked).unwrap();
    assert_eq!(mirror.keep(&next).unwrap_err().code(), PolicyCode::Io);
    assert_eq!(loaded(&mirror).unwrap().versions.root, 1, "as it was, and it loads");
    std::fs::remove_dir(&blocked).unwrap();
    mirror.keep(&next).unwrap();
    let policy = loaded(&mirror).unwrap();
    assert_eq!((policy.version, policy.versions.root), (2, 2));
    assert!(
        mirror.read("metadata/1.snapshot.json").is_some(),
        "somebody may be reading it"
    );
    assert!(!mirror.folder().join(NEXT).exists());
}

#[test]
fn roots_before_the_pinned_one_are_kept_only_where_they_lead_to_it() {
    let test = TestRepo::published();
    rotated(&test);
    let options = LoadOptions {
        root: Some(std::fs::read(test.metadata("2.root.json")).unwrap()),
        ..LoadOptions::default()
    };
    let first = std::fs::read(test.metadata("1.root.json")).unwrap();
    let stranger = std::fs::read(TestRepo::published().metadata("1.root.json")).unwrap();
    let mirror = Mirror::new(test.dir.path().join("mirror"));
    let from = Source::from(&test.repo);
    let keep = || {
        let fetched = block_on(mirror.fetch(&from, options.clone(), NOW)).unwrap();
        mirror.keep(&fetched).unwrap();
        mirror.read("metadata/1.root.json")
    };
    for junk in [&b"junk"[..], &stranger] {
        std::fs::write(test.metadata("1.root.json"), junk).unwrap();
        assert_eq!(keep(), None, "self-signed or not, it did not sign the next");
    }
    // One that came in some other way is replaced as soon as somebody serves the real one.
    std::fs::write(mirror.folder().join("metadata/1.root.json"), b"junk").unwrap();
    std::fs::write(test.metadata("1.root.json"), &first).unwrap();
    assert_eq!(keep(), Some(first));
    assert_eq!(loaded(&mirror).unwrap().versions.root, 2, "followed from the first");
    // The pinned root is kept as it was pinned, whatever signatures somebody adds.
    let text = String::from_utf8(options.root.clone().unwrap()).unwrap();
    std::fs::write(test.metadata("2.root.json"), format!(" {text}")).unwrap();
    keep();
    assert_eq!(mirror.read("metadata/2.root.json"), options.root);
}

#[test]
fn what_is_verified_is_taken_also_where_it_cannot_be_kept() {
    let test = TestRepo::published();
    let mirror = Mirror::new(test.dir.path().join("mirror"));
    let from = Source::from(&test.repo);
    let latest = || block_on(mirror.latest(&from, LoadOptions::default(), NOW)).unwrap();
    assert_eq!(latest().1, None);
    test.publish(NOW).unwrap();
    std::fs::create_dir(mirror.folder().join("metadata/2.snapshot.json")).unwrap();
    let (policy, why) = latest();
    assert_eq!(policy.version, 2, "not the older copy");
    assert!(matches!(why, Some(Behind::NotKept(e)) if e.code() == PolicyCode::Io));
    assert_eq!(loaded(&mirror).unwrap().version, 1);
}

#[test]
fn only_files_of_a_repository_are_read() {
    let test = TestRepo::published();
    let mirror = Mirror::new(&test.repo);
    assert!(mirror.read("metadata/timestamp.json").is_some());
    let policy = std::fs::read(test.staged("policy.cedar")).unwrap();
    let name = digest_name("policy.cedar", &hex::encode(Sha256::digest(&policy)));
    assert_eq!(mirror.read(&format!("targets/{name}")), Some(policy));
    std::fs::write(test.repo.join("metadata/.unfinished-x.json"), "x").unwrap();
    for path in [
        "",
        "metadata",
        "metadata/",
        "metadata/.unfinished-x.json",
        "metadata/../staged/policy.cedar",
        "staged/policy.cedar",
        "targets/policy.cedar",
        "targets/../metadata/timestamp.json",
        "/etc/passwd",
        "metadata/a/b.json",
        ".lock",
    ] {
        assert_eq!(mirror.read(path), None, "{path}");
    }
}

#[test]
fn a_server_that_stops_in_the_middle_leaves_the_copy() {
    let test = TestRepo::published();
    let mirror = Mirror::new(test.dir.path().join("mirror"));
    mirror
        .keep(&fetched(&mirror, &Source::from(&test.repo)).unwrap())
        .unwrap();
    std::fs::write(test.staged("policy.cedar"), "permit (principal, action, resource);").unwrap();
    test.publish(NOW).unwrap();
    let web = Web::new(&test.repo, |path| match path.starts_with("targets/") {
        true => Manner::Cut,
        false => Manner::Honest,
    });
    let error = fetched(&mirror, &source(&web)).unwrap_err();
    assert_eq!((error.code(), error.is_io()), (PolicyCode::SourceUnreachable, true));
    assert_eq!(loaded(&mirror).unwrap().version, 1);
    let latest = |now| block_on(mirror.latest(&source(&web), LoadOptions::default(), now));
    let (policy, why) = latest(NOW).unwrap();
    assert_eq!(policy.version, 1);
    assert!(matches!(why, Some(Behind::NotTaken(e)) if e.code() == PolicyCode::SourceUnreachable));
    assert_eq!(latest(policy.expires).unwrap_err().code(), PolicyCode::SnapshotExpired);
}
