//! Regions that sign for themselves, and for nobody else.

use super::*;

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
