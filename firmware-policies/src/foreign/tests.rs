use std::path::Path;

use touchstone_cose::cbor::Value;

use super::*;
use crate::author::federation::{Trust, federation_trust};
use crate::testing::{DAY, NOW};
use crate::transport::source::{Location, Source};
use crate::{init, publish};

const B: &str = "b.example";

/// A published domain: its repository and keys.
struct Made {
    folder: tempfile::TempDir,
}

impl Made {
    fn new(domain: &str) -> Self {
        let made = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        init(&made.repo(), domain, &made.keys(), NOW).unwrap();
        let keyset = r#"{"version":1,"keys":[{"job":"trust-state","key":"KEY","not_before":0,"not_after":9999999999,"replica":"a"}]}"#;
        let key = touchstone_cose::key::SigningKey::from_seed([1; 32]).verifying_key();
        let spki = hex::encode(key.to_spki_der());
        std::fs::write(made.repo().join("staged/keyset.json"), keyset.replace("KEY", &spki)).unwrap();
        made.publish(NOW);
        made
    }

    fn repo(&self) -> std::path::PathBuf {
        self.folder.path().join("repo")
    }

    fn keys(&self) -> std::path::PathBuf {
        self.folder.path().join("keys")
    }

    fn publish(&self, now: i64) {
        publish(&self.repo(), &self.keys(), now).unwrap();
    }

    fn root(&self) -> Vec<u8> {
        std::fs::read(self.repo().join("metadata/1.root.json")).unwrap()
    }

    fn copy(&self) -> RepositoryCopy {
        copy_of(&self.repo())
    }
}

fn copy_of(repo: &Path) -> RepositoryCopy {
    crate::tuf::block_on(async {
        let source = Source::new(Location::Folder(repo.to_owned()));
        Ok(RepositoryCopy::read(&source, 1).await.unwrap())
    })
    .unwrap()
}

fn load(
    copy: &RepositoryCopy,
    root: &[u8],
    floors: Option<&RoleVersions>,
    now: i64,
) -> Result<ForeignPolicy, PolicyError> {
    crate::tuf::block_on(load_foreign(copy, root, floors, B, now))
}

#[test]
fn a_copy_is_verified_and_leads_to_the_keys() {
    let (made, other) = (Made::new(B), Made::new("c.example"));
    federation_trust(
        &made.repo(),
        &Trust {
            domain: "c.example".into(),
            root: Some(other.root()),
            ..Trust::default()
        },
    )
    .unwrap();
    made.publish(NOW + 1);
    let copy = made.copy();
    let policy = load(&copy, &made.root(), None, NOW + 2).unwrap();
    assert_eq!((policy.domain.as_str(), policy.keyset.version), (B, 1));
    assert_eq!(policy.roots.get("c.example"), Some(&other.root()));
    assert_eq!(policy.root, made.root());
    assert_eq!(RepositoryCopy::decode(&copy.encode()), Ok(copy));
}

#[test]
fn a_bad_copy_is_refused() {
    let made = Made::new(B);
    let older = made.copy();
    let held = load(&older, &made.root(), None, NOW + 1).unwrap().versions;
    std::fs::write(
        made.repo().join("staged/policy.cedar"),
        "permit(principal, action, resource);",
    )
    .unwrap();
    made.publish(NOW + 1);
    let copy = made.copy();
    let newer = load(&copy, &made.root(), Some(&held), NOW + 2).unwrap().versions;
    use PolicyCode as P;
    let stranger = Made::new(B);
    let altered = |name: &str, change: fn(&mut Vec<u8>)| {
        let mut files = Value::Array(Vec::new());
        if let Value::Array(items) = &mut files {
            for (file, bytes) in copy.files() {
                let mut bytes = bytes.to_vec();
                if file.ends_with(name) {
                    change(&mut bytes);
                }
                items.push(Value::Array(vec![Value::text(file), Value::bytes(bytes)]));
            }
        }
        RepositoryCopy::from_value(files).unwrap()
    };
    let flip = |bytes: &mut Vec<u8>| *bytes.last_mut().unwrap() ^= 1;
    let empty = RepositoryCopy::default();
    for (attack, copy, root, floors, now, expected) in [
        ("rolled back", &older, made.root(), Some(&newer), NOW + 2, P::Rollback),
        ("frozen", &copy, made.root(), None, NOW + 30 * DAY, P::SnapshotExpired),
        (
            "of a stranger who took its name",
            &stranger.copy(),
            made.root(),
            None,
            NOW + 2,
            P::ForeignRefused,
        ),
        (
            "from another root",
            &copy,
            stranger.root(),
            None,
            NOW + 2,
            P::ForeignRefused,
        ),
        (
            "an altered keyset",
            &altered("keyset.json", flip),
            made.root(),
            None,
            NOW + 2,
            P::ForeignRefused,
        ),
        (
            "altered settings",
            &altered("settings.toml", flip),
            made.root(),
            None,
            NOW + 2,
            P::ForeignRefused,
        ),
        (
            "an altered timestamp",
            &altered("timestamp.json", |b| b.clear()),
            made.root(),
            None,
            NOW + 2,
            P::ForeignRefused,
        ),
        (
            "an altered list",
            &altered("targets.json", flip),
            made.root(),
            None,
            NOW + 2,
            P::ForeignRefused,
        ),
        ("nothing", &empty, made.root(), None, NOW + 2, P::ForeignRefused),
        ("no root", &copy, b"{}".to_vec(), None, NOW + 2, P::ForeignRefused),
    ] {
        let error = load(copy, &root, floors, now).unwrap_err();
        assert!(error.problems().iter().any(|p| p.code == expected), "{attack}: {error}");
    }
    let named_otherwise = crate::tuf::block_on(load_foreign(&copy, &made.root(), None, "x.example", NOW + 2));
    assert_eq!(
        named_otherwise.unwrap_err().code(),
        P::ForeignRefused,
        "another domain's"
    );
}

#[test]
fn hostile_bytes_are_no_copy() {
    let copy = Made::new(B).copy();
    let bytes = copy.encode();
    for end in (0..bytes.len()).step_by(97).chain(bytes.len() - 40..bytes.len()) {
        assert!(RepositoryCopy::decode(&bytes[..end]).is_err(), "cut at {end}");
    }
    let one = |name: &str| Value::Array(vec![Value::text(name), Value::bytes(*b"x")]);
    for (attack, items) in [
        ("the way up", vec![one("metadata/../../etc/passwd")]),
        ("an absolute name", vec![one("/etc/passwd")]),
        ("another folder", vec![one("keys/root-1.pem")]),
        ("an empty segment", vec![one("targets//x")]),
        ("a NUL", vec![one("targets/a\0")]),
        ("twice", vec![one("targets/a"), one("targets/a")]),
        ("out of order", vec![one("targets/b"), one("targets/a")]),
        ("no pair", vec![Value::text("targets/a")]),
        (
            "too many",
            (0..=MAX_COPY_FILES).map(|n| one(&format!("targets/{n:05}"))).collect(),
        ),
    ] {
        assert!(RepositoryCopy::from_value(Value::Array(items)).is_err(), "{attack}");
    }
}

#[test]
fn rotated_roots_are_followed_and_a_gap_in_them_is_not_bridged() {
    use crate::ceremony::{RootChange, change_root, root_roles};
    use crate::keys::{KeyDir, KeyRole};
    let made = Made::new(B);
    let first = made.root();
    let keys = KeyDir::new(made.keys());
    for rotation in 1..=2 {
        let held = root_roles(&made.repo()).unwrap();
        let old = held[&KeyRole::Root].keys.keys().next().unwrap().clone();
        keys.add(&KeyRole::Root, 1).unwrap();
        let new = keys.public_keys(&KeyRole::Root).unwrap().pop().unwrap().1;
        let changes = [
            RootChange::Add(KeyRole::Root, new),
            RootChange::Remove(KeyRole::Root, old),
        ];
        change_root(&made.repo(), &changes).unwrap();
        made.publish(NOW + rotation);
    }
    let copy = made.copy();
    let policy = load(&copy, &first, None, NOW + 3).unwrap();
    assert_eq!(policy.versions.root, 3);
    let newest = std::fs::read(made.repo().join("metadata/3.root.json")).unwrap();
    assert_eq!(policy.root, newest);
    let without: Vec<Value> = copy
        .files()
        .filter(|(name, _)| *name != "metadata/2.root.json")
        .map(|(name, bytes)| Value::Array(vec![Value::text(name), Value::bytes(bytes)]))
        .collect();
    let gap = RepositoryCopy::from_value(Value::Array(without)).unwrap();
    // Whoever holds the old root goes no further than it: never to a root that nobody he knows has signed.
    let held = load(&gap, &first, Some(&policy.versions), NOW + 3).unwrap_err();
    assert!(
        matches!(held.code(), PolicyCode::ForeignRefused | PolicyCode::Rollback),
        "{held}"
    );
    // Trusted again by command, with the new root.
    assert_eq!(load(&gap, &newest, None, NOW + 3).unwrap().versions.root, 3);
    assert!(load(&copy, &newest, None, NOW + 3).is_ok());
}
