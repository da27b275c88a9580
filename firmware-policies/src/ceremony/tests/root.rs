//! Rotating keys: the old and the new threshold sign, and who was rotated out counts no more.

use super::*;
use crate::keys::public;

fn add(domain: &Domain, role: &KeyRole) -> RootChange {
    let keys = KeyDir::new(&domain.keys);
    keys.add(role, 1).unwrap();
    RootChange::Add(role.clone(), keys.public_keys(role).unwrap().pop().unwrap().1)
}

fn id(domain: &Domain, key: &str) -> String {
    let key = public::read(&domain.keys.join(format!("{key}.pub"))).unwrap();
    hex::encode(public::key_id(&key).unwrap())
}

#[test]
fn old_and_new_thresholds_sign_a_new_root() {
    let domain = Domain::new();
    // One of three goes, one comes: 1, 2, 3 become 2, 3, 4, of which two sign.
    let changes = [
        add(&domain, &KeyRole::Root),
        RootChange::Remove(KeyRole::Root, id(&domain, "root-1")),
    ];
    let roles = change_root(&domain.repo, &changes).unwrap();
    assert_eq!(
        (roles[&KeyRole::Root].threshold, roles[&KeyRole::Root].keys.len()),
        (2, 3)
    );
    let proposal = domain.propose("p", &Scope::Global).unwrap();
    let targets = domain
        .sign(&proposal, &domain.machine("t", &["targets-1", "targets-2"]))
        .unwrap();
    let mut files = std::collections::BTreeMap::new();
    for n in 1..=4 {
        let machine = domain.machine(&format!("r{n}"), &[&format!("root-{n}")]);
        files.insert(n, domain.sign(&proposal, &machine).unwrap());
    }
    let with = |keys: &[i32]| {
        let files: Vec<&PathBuf> = keys.iter().map(|n| &files[n]).chain([&targets]).collect();
        domain.publish(&proposal, &files)
    };
    for (signers, why) in [
        (&[2][..], "one of each"),
        (&[1, 2], "the old threshold, one of the new"),
        (&[4, 2], "the new threshold, one of the old"),
        (&[1, 4], "one of each, and two in all"),
        (&[4], "the new key alone"),
    ] {
        let refused = with(signers).unwrap_err();
        assert_eq!(refused.code(), PolicyCode::ThresholdNotMet, "{why}");
        assert_eq!(refused.problems()[0].claim, "root version 2", "{why}");
    }
    assert_eq!(domain.load().unwrap().versions.root, 1);
    with(&[1, 2, 4]).unwrap();
    assert_eq!(domain.load().unwrap().versions.root, 2, "followed from the first root");
    assert!(!domain.repo.join("changes/root.json").exists(), "done");
    // The next root: the key that went counts no more.
    change_root(&domain.repo, &[]).unwrap();
    let renewal = domain.propose("renewal", &Scope::Global).unwrap();
    let gone = domain.machine("r1", &["root-1"]);
    assert_eq!(code(domain.sign(&renewal, &gone)), PolicyCode::KeyNotInRoot);
}

#[test]
fn a_key_that_was_rotated_out_signs_no_version() {
    let domain = Domain::new();
    domain.stage_policy("before the rotation");
    let early = domain.propose("early", &Scope::All).unwrap();
    let file = domain.sign(&early, &domain.machine("old", &["targets-1"])).unwrap();
    let changes = [
        add(&domain, &KeyRole::Targets),
        RootChange::Remove(KeyRole::Targets, id(&domain, "targets-1")),
    ];
    change_root(&domain.repo, &changes).unwrap();
    publish(&domain.repo, &domain.keys, NOW).unwrap();
    let policy = domain.load().unwrap();
    assert_eq!(
        (policy.versions.root, policy.versions.targets),
        (2, 2),
        "signed anew by the keys that stay"
    );
    // Its signature from before is over a version that was never published; and a new one is a stranger's.
    assert_eq!(code(domain.publish(&early, &[&file])), PolicyCode::ProposalStale);
    let late = domain.propose("late", &Scope::All).unwrap();
    assert_eq!(
        code(domain.sign(&late, &domain.machine("old", &["targets-1"]))),
        PolicyCode::KeyNotInRoot
    );
    let good = domain.sign(&late, &domain.machine("new", &["targets-4"])).unwrap();
    let text = std::fs::read_to_string(&good).unwrap();
    let forged = domain.dir.path().join("forged");
    std::fs::write(
        &forged,
        text.replace(&id(&domain, "targets-4"), &id(&domain, "targets-1")),
    )
    .unwrap();
    assert_eq!(
        code(domain.publish(&late, &[&good, &forged])),
        PolicyCode::SignatureKeyUnknown
    );
    let mixed = domain.machine("mixed", &[&ONLINE[..], &["targets-1", "targets-4"]].concat());
    assert_eq!(
        code(publish(&domain.repo, mixed.path(), NOW)),
        PolicyCode::ThresholdNotMet
    );
}

#[test]
fn changes_of_the_root_that_are_refused() {
    let domain = Domain::new();
    let change = |change: RootChange| change_root(&domain.repo, &[change]).map(drop);
    let timestamp = public::read(&domain.keys.join("timestamp-1.pub")).unwrap();
    let targets = public::read(&domain.keys.join("targets-1.pub")).unwrap();
    let rows = [
        (
            "no key would be left",
            RootChange::Remove(KeyRole::Timestamp, id(&domain, "timestamp-1")),
            PolicyCode::RootChange,
        ),
        (
            "a key that is not there",
            RootChange::Remove(KeyRole::Root, "abcdef".into()),
            PolicyCode::RootChange,
        ),
        (
            "which key is not said",
            RootChange::Remove(KeyRole::Root, String::new()),
            PolicyCode::RootChange,
        ),
        (
            "more must sign than can",
            RootChange::Threshold(KeyRole::Targets, 4),
            PolicyCode::RootChange,
        ),
        (
            "nobody must sign",
            RootChange::Threshold(KeyRole::Targets, 0),
            PolicyCode::RootChange,
        ),
        (
            "no role of the root",
            RootChange::Threshold(KeyRole::Reference, 1),
            PolicyCode::RootChange,
        ),
        (
            "a region's role",
            RootChange::Threshold(KeyRole::Region("eu".into()), 1),
            PolicyCode::RootChange,
        ),
        (
            "one key twice",
            RootChange::Add(KeyRole::Targets, targets),
            PolicyCode::KeyDuplicate,
        ),
        (
            "one key for two roles",
            RootChange::Add(KeyRole::Targets, timestamp),
            PolicyCode::KeyDuplicate,
        ),
    ];
    for (what, row, expected) in rows {
        assert_eq!(code(change(row)), expected, "{what}");
        assert!(!domain.repo.join("changes/root.json").exists(), "{what}");
    }
    // A change that was staged before another root came is not made over it.
    change(RootChange::Threshold(KeyRole::Targets, 3)).unwrap();
    let staged = std::fs::read(domain.repo.join("changes/root.json")).unwrap();
    publish(&domain.repo, &domain.keys, NOW).unwrap();
    change(RootChange::Threshold(KeyRole::Targets, 2)).unwrap();
    publish(&domain.repo, &domain.keys, NOW).unwrap();
    std::fs::write(domain.repo.join("changes/root.json"), staged).unwrap();
    assert_eq!(
        code(publish(&domain.repo, &domain.keys, NOW)),
        PolicyCode::ProposalStale
    );
    assert!(drop_changes(&domain.repo).unwrap());
    assert_eq!(publish(&domain.repo, &domain.keys, NOW + DAY).unwrap().versions.root, 3);
}
