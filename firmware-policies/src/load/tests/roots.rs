//! Trust begins with one root, and goes on from root to root by thresholds.

use super::*;

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
