//! Keys are made once, private, and opened with the right words only.

use super::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

fn one_each() -> Vec<(KeyRole, usize)> {
    KeyRole::DOMAIN.into_iter().map(|role| (role, 1)).collect()
}

#[test]
fn keys_are_made_once_private_and_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let keys = KeyDir::new(dir.path().join("keys"));
    let made = keys.complete(&one_each()).unwrap();
    assert_eq!(
        made,
        ["root-1", "targets-1", "snapshot-1", "timestamp-1", "reference-1"]
    );
    assert_eq!(keys.complete(&one_each()).unwrap(), [""; 0]);
    let mut publics = Vec::new();
    for role in KeyRole::DOMAIN {
        let path = keys.path.join(format!("{role}-1.pem"));
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        publics.push(keys.keys(&role).unwrap()[0].verifying_key().clone());
    }
    publics.sort();
    publics.dedup();
    assert_eq!(publics.len(), KeyRole::DOMAIN.len());
}

#[test]
fn key_files_that_others_can_read_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let keys = KeyDir::new(dir.path());
    keys.complete(&one_each()).unwrap();
    let path = dir.path().join("targets-1.pem");
    for mode in [0o640, 0o604, 0o644, 0o620, 0o666, 0o601] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(
            keys.keys(&KeyRole::Targets).unwrap_err().code(),
            PolicyCode::KeyFileExposed,
            "{mode:o}"
        );
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
    assert!(keys.keys(&KeyRole::Targets).is_ok());
}

#[test]
fn missing_and_foreign_key_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let keys = KeyDir::new(dir.path());
    assert_eq!(keys.keys(&KeyRole::Root).unwrap_err().code(), PolicyCode::KeyMissing);
    for (name, text) in [("root-1.pem", "no key"), ("root-2.pem", "")] {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(
            keys.keys(&KeyRole::Root).unwrap_err().code(),
            PolicyCode::KeyFileInvalid
        );
        std::fs::remove_file(path).unwrap();
    }
    std::fs::create_dir(dir.path().join("root-1.pem")).unwrap();
    assert_eq!(
        keys.keys(&KeyRole::Root).unwrap_err().code(),
        PolicyCode::KeyFileInvalid
    );
}

#[test]
fn roles_have_one_name_and_regions_are_not_mixed_up() {
    for role in KeyRole::DOMAIN.into_iter().chain([KeyRole::Region("eu-1".into())]) {
        assert_eq!(KeyRole::parse(&role.to_string()), Some(role));
    }
    for name in [
        "",
        "Root",
        "region-",
        "region-EU",
        "region-a/b",
        "roots",
        "region-targets",
        "region-root",
    ] {
        assert_eq!(KeyRole::parse(name), None, "{name}");
    }
    // Keys of region eu-1 are no keys of region eu, nor the other way round.
    let dir = tempfile::tempdir().unwrap();
    let keys = KeyDir::new(dir.path());
    let (eu, eu_1) = (KeyRole::Region("eu".into()), KeyRole::Region("eu-1".into()));
    keys.complete(&[(eu.clone(), 1), (eu_1.clone(), 2)]).unwrap();
    let names = |role| keys.keys(role).unwrap().into_iter().map(|k| k.name).collect::<Vec<_>>();
    assert_eq!(names(&eu), ["region-eu-1"]);
    assert_eq!(names(&eu_1), ["region-eu-1-1", "region-eu-1-2"]);
}

#[test]
fn public_halves_lie_beside_and_must_be_the_same_keys() {
    let dir = tempfile::tempdir().unwrap();
    let keys = KeyDir::new(dir.path());
    let role = KeyRole::Targets;
    assert_eq!(keys.complete(&[(role.clone(), 2)]).unwrap(), ["targets-1", "targets-2"]);
    let publics = keys.public_keys(&role).unwrap();
    // A key that is elsewhere is known by its public half, and is not made anew.
    std::fs::remove_file(dir.path().join("targets-2.pem")).unwrap();
    assert_eq!(keys.public_keys(&role).unwrap(), publics);
    assert_eq!(keys.keys(&role).unwrap().len(), 1);
    assert_eq!(keys.complete(&[(role.clone(), 3)]).unwrap(), ["targets-3"]);
    assert_eq!(keys.add(&role, 1).unwrap(), ["targets-4"]);
    std::fs::copy(dir.path().join("targets-2.pub"), dir.path().join("targets-1.pub")).unwrap();
    assert_eq!(keys.public_keys(&role).unwrap_err().code(), PolicyCode::KeyFileInvalid);
    // One key under two numbers is one signer who counts twice.
    std::fs::copy(dir.path().join("targets-1.pem"), dir.path().join("targets-9.pem")).unwrap();
    assert_eq!(keys.keys(&role).unwrap_err().code(), PolicyCode::KeyDuplicate);
}
