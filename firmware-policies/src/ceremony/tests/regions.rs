//! Regions with keys of their own: the whole delegates, the region signs, and neither signs for the other.

use super::*;
use crate::keys::public;
use touchstone_cose::key::VerifyingKey;

/// Keys of a region in a folder of its own.
fn region_keys(domain: &Domain, id: &str, count: usize) -> (KeyDir, Vec<VerifyingKey>) {
    let keys = KeyDir::new(domain.dir.path().join(format!("region {id}")));
    let role = KeyRole::Region(id.into());
    keys.complete(&[(role.clone(), count)]).unwrap();
    let publics = keys.public_keys(&role).unwrap().into_iter().map(|(_, key)| key);
    let publics = publics.collect();
    (keys, publics)
}

const FORBID: &str = "permit (principal, action, resource);\nforbid (principal, action, resource) when { false };\n";

#[test]
fn a_region_signs_for_itself_and_only_for_itself() {
    let domain = Domain::new();
    domain.stage("regions/eu/policy.cedar", FORBID);
    publish(&domain.repo, &domain.keys, NOW).unwrap();
    let (eu, publics) = region_keys(&domain, "eu", 3);
    region_add(&domain.repo, "eu", 2, &publics).unwrap();
    let proposal = domain.propose("delegate", &Scope::All).unwrap();
    let review = review(&proposal, &domain.root, NOW).unwrap();
    let roles: Vec<_> = review.roles.iter().map(|r| (r.role.as_str(), r.version)).collect();
    assert_eq!(roles, [("targets", 3), ("region-eu", 1)]);
    assert_eq!(review.keys.len(), 1);
    let moved = &review.targets[0];
    assert_eq!(
        (moved.target.as_str(), moved.authority.as_str()),
        ("regions/eu/policy.cedar", "region-eu")
    );
    assert_eq!(moved.change, crate::show::Change::Moved);
    let whole = domain
        .sign(&proposal, &domain.machine("w", &["targets-1", "targets-2"]))
        .unwrap();
    let own = domain.sign(&proposal, &eu).unwrap();
    let refused = domain.publish(&proposal, &[&whole]).unwrap_err();
    assert_eq!(refused.code(), PolicyCode::ThresholdNotMet);
    assert_eq!(
        refused.problems()[0].claim,
        "region-eu version 1",
        "the whole cannot sign for the region"
    );
    assert_eq!(
        code(domain.publish(&proposal, &[&own])),
        PolicyCode::ThresholdNotMet,
        "nor the other way round"
    );
    domain.publish(&proposal, &[&whole, &own]).unwrap();
    let policy = domain.load().unwrap();
    assert_eq!(policy.regions["eu"].version, 1);
    assert_eq!(policy.cedar.regions().collect::<Vec<_>>(), ["eu"]);

    // From a copy of the repository the region changes its own policy; the whole's people publish, without their keys.
    let copied = domain.dir.path().join("copy of the repository");
    copy(&domain.repo, &copied);
    let file = copied.join("staged/regions/eu/policy.cedar");
    std::fs::write(file, "permit (principal, action, resource);\n").unwrap();
    std::fs::write(
        copied.join("staged/policy.cedar"),
        "permit (principal, action, resource);\n",
    )
    .unwrap();
    let scope = Scope::Region("eu".into());
    let change = propose(&copied, None, &scope, &domain.dir.path().join("change"), NOW).unwrap();
    let targets: Vec<_> = change.review.targets.iter().map(|t| t.target.as_str()).collect();
    assert_eq!(
        targets,
        ["regions/eu/policy.cedar"],
        "what is staged for the whole waits"
    );
    let own = domain.sign(&change.folder, &eu).unwrap();
    domain.stage_policy("the whole moves on meanwhile");
    publish_with(
        &domain.repo,
        &KeyDir::new(&domain.keys),
        &PublishOptions {
            scope: Scope::Global,
            ..PublishOptions::default()
        },
        NOW,
    )
    .unwrap();
    domain.publish(&change.folder, &[&own]).unwrap();
    let policy = domain.load().unwrap();
    assert_eq!((policy.regions["eu"].version, policy.versions.targets), (2, 4));
    assert_eq!(policy.version, 5, "the snapshot counts both");

    // Its keys sign nothing of the whole's.
    domain.stage_policy("again");
    let global = domain.propose("global", &Scope::Global).unwrap();
    assert_eq!(code(domain.sign(&global, &eu)), PolicyCode::KeyNotInRoot);
    // A region's role with a target outside of its folder is refused before anybody signs.
    let outside = domain.dir.path().join("outside");
    copy(&change.folder, &outside);
    let (old, new) = (
        outside.join("proposed/2.region-eu.json"),
        outside.join("proposed/3.region-eu.json"),
    );
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&old).unwrap()).unwrap();
    json["signed"]["version"] = 3.into();
    let target = json["signed"]["targets"]["regions/eu/policy.cedar"].clone();
    for name in ["policy.cedar", "regions/us/policy.cedar"] {
        let mut evil = json.clone();
        evil["signed"]["targets"][name] = target.clone();
        std::fs::write(&new, serde_json::to_vec(&evil).unwrap()).unwrap();
        drop(std::fs::remove_file(&old));
        assert_eq!(
            code(domain.publish(&outside, &[])),
            PolicyCode::DelegationRefused,
            "{name}"
        );
    }
}

#[test]
fn a_region_that_is_taken_back_keeps_what_it_narrowed() {
    let domain = Domain::new();
    domain.stage("regions/eu/policy.cedar", FORBID);
    let (eu, publics) = region_keys(&domain, "eu", 1);
    region_add(&domain.repo, "eu", 1, &publics).unwrap();
    let publish_all = || {
        for key in ["region-eu-1.pem", "region-eu-2.pem"] {
            drop(std::fs::copy(eu.path().join(key), domain.keys.join(key)));
        }
        publish(&domain.repo, &domain.keys, NOW)
    };
    publish_all().unwrap();
    assert_eq!(domain.load().unwrap().regions["eu"].version, 1);
    assert!(!domain.repo.join("changes/regions.json").exists(), "done");
    // Other keys: its list is signed anew, by them.
    eu.add(&KeyRole::Region("eu".into()), 1).unwrap();
    std::fs::remove_file(eu.path().join("region-eu-1.pem")).unwrap();
    std::fs::remove_file(domain.keys.join("region-eu-1.pem")).unwrap();
    let key = public::read(&eu.path().join("region-eu-2.pub")).unwrap();
    region_add(&domain.repo, "eu", 1, &[key]).unwrap();
    let refused = publish(&domain.repo, &domain.keys, NOW).unwrap_err();
    assert_eq!(refused.problems()[0].claim, "region-eu version 2");
    publish_all().unwrap();
    assert_eq!(domain.load().unwrap().regions["eu"].version, 2);

    region_remove(&domain.repo, "eu").unwrap();
    publish(&domain.repo, &domain.keys, NOW).unwrap();
    let policy = domain.load().unwrap();
    assert!(policy.regions.is_empty());
    assert_eq!(
        policy.cedar.regions().collect::<Vec<_>>(),
        ["eu"],
        "its policy stays, signed by the whole"
    );
    // Delegated once more its versions go on: nobody can bring the old list back.
    region_add(
        &domain.repo,
        "eu",
        1,
        &[public::read(&eu.path().join("region-eu-2.pub")).unwrap()],
    )
    .unwrap();
    publish_all().unwrap();
    assert_eq!(domain.load().unwrap().regions["eu"].version, 3);
}

#[test]
fn delegations_that_are_refused() {
    let domain = Domain::new();
    let (_, eu) = region_keys(&domain, "eu", 2);
    let (_, us) = region_keys(&domain, "us", 1);
    let root = public::read(&domain.keys.join("root-1.pub")).unwrap();
    region_add(&domain.repo, "us", 1, &us).unwrap();
    let add = |id: &str, threshold, keys: &[VerifyingKey]| code(region_add(&domain.repo, id, threshold, keys));
    assert_eq!(add("EU", 1, &eu), PolicyCode::DelegationRefused, "no name");
    assert_eq!(
        add("eu/x", 1, &eu),
        PolicyCode::DelegationRefused,
        "a folder in a folder"
    );
    assert_eq!(add("eu", 3, &eu), PolicyCode::RootChange, "more must sign than can");
    assert_eq!(add("eu", 0, &eu), PolicyCode::RootChange, "nobody must sign");
    assert_eq!(add("eu", 1, &[]), PolicyCode::RootChange, "no key");
    assert_eq!(
        add("eu", 1, &[eu[0].clone(), eu[0].clone()]),
        PolicyCode::KeyDuplicate,
        "one key twice"
    );
    assert_eq!(add("eu", 1, &[root]), PolicyCode::KeyDuplicate, "a key of the whole");
    assert_eq!(add("eu", 1, &us), PolicyCode::KeyDuplicate, "another region's key");
    assert_eq!(
        code(region_remove(&domain.repo, "eu")),
        PolicyCode::DelegationRefused,
        "not delegated"
    );
    assert_eq!(delegations(&domain.repo).unwrap().keys().collect::<Vec<_>>(), ["us"]);
    let unknown = domain.propose("p", &Scope::Region("us".into()));
    assert_eq!(
        code(unknown),
        PolicyCode::DelegationRefused,
        "not before the whole has published it"
    );
}
