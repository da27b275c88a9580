use super::*;
use crate::testing::{NOW, TestRepo};
use touchstone_cose::key::SigningKey;

fn pem(seed: u8) -> String {
    crate::targets::public_key::to_pem(&SigningKey::from_seed([seed; 32]).verifying_key())
}

fn operator(name: &str, seed: u8) -> NewOperator {
    NewOperator {
        name: name.into(),
        key: pem(seed),
        may: vec![Power::Revoke, Power::Lift],
        regions: Vec::new(),
    }
}

fn detector() -> NewDetector {
    NewDetector {
        name: "monitor".into(),
        issuer: "https://m.example/".into(),
        audience: "https://b.example/v1/events".into(),
        keys: vec![pem(2)],
        regions: vec!["north".into()],
        most_per_minute: 60,
        ..NewDetector::default()
    }
}

#[test]
fn what_is_listed_is_in_the_next_policy_and_gone_when_it_is_removed() {
    let test = TestRepo::published();
    let repo = test.repo.as_path();
    assert_eq!(operator_add(repo, &operator("alice", 1)).unwrap().entries, 1);
    assert_eq!(operator_add(repo, &operator("bob", 4)).unwrap().entries, 2);
    assert!(operator_add(repo, &operator("bob", 5)).unwrap().before, "replaced");
    detector_add(repo, &detector()).unwrap();
    let enforcer = NewEnforcer {
        name: "guard:edge-7".into(),
        key: pem(3),
        region: Some("north".into()),
    };
    enforcer_add(repo, &enforcer).unwrap();
    segment_add(repo, "execute:db-reader", &["tcp 10.0.0.5:5432".into()]).unwrap();
    assert!(test.load(NOW).unwrap().operators.is_empty(), "staged is not published");
    test.publish(NOW).unwrap();
    let policy = test.load(NOW).unwrap();
    let names: Vec<&str> = policy.operators.iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["alice", "bob"]);
    assert!(policy.operators.get("bob").unwrap().may(Power::Lift, None));
    assert!(policy.detectors.by_issuer("https://m.example/").is_some());
    assert!(policy.enforcers.get("guard:edge-7").is_some());
    assert_eq!(policy.network.of("db-reader").len(), 1);

    operator_remove(repo, "alice").unwrap();
    assert_eq!(operator_remove(repo, "bob").unwrap().entries, 0);
    detector_remove(repo, "monitor").unwrap();
    enforcer_remove(repo, "guard:edge-7").unwrap();
    segment_remove(repo, "execute:db-reader").unwrap();
    test.publish(NOW).unwrap();
    let policy = test.load(NOW).unwrap();
    assert!(policy.operators.is_empty() && policy.detectors.is_empty() && policy.enforcers.is_empty());
    assert_eq!(policy.network, Network::default());
    assert_eq!(
        operator_remove(repo, "alice").unwrap_err().code(),
        PolicyCode::TargetMissing
    );
    assert_eq!(
        segment_remove(repo, "execute:x").unwrap_err().code(),
        PolicyCode::TargetMissing
    );
}

#[test]
fn what_does_not_read_is_not_staged() {
    let test = TestRepo::published();
    let repo = test.repo.as_path();
    operator_add(repo, &operator("alice", 1)).unwrap();
    let two = NewDetector {
        keys: vec![pem(1)],
        ..detector()
    };
    assert_eq!(
        detector_add(repo, &two).unwrap_err().code(),
        PolicyCode::KeyOfTwo,
        "an operator's key"
    );
    assert_eq!(
        operator_add(repo, &operator("Bob", 2)).unwrap_err().code(),
        PolicyCode::OperatorsUnreadable
    );
    let nobody = NewDetector {
        regions: Vec::new(),
        ..detector()
    };
    assert_eq!(
        detector_add(repo, &nobody).unwrap_err().code(),
        PolicyCode::DetectorsUnreadable
    );
    assert_eq!(
        segment_add(repo, "execute:a", &["tcp any:1".into()])
            .unwrap_err()
            .code(),
        PolicyCode::NetworkUnreadable
    );
    assert!(detector_list(repo).unwrap().is_empty() && operator_list(repo).unwrap().iter().count() == 1);
    assert_eq!(segment_list(repo).unwrap(), Network::default());
    assert!(enforcer_list(repo).unwrap().is_empty());
}

#[test]
fn comments_stay() {
    let test = TestRepo::published();
    let repo = test.repo.as_path();
    operator_add(repo, &operator("alice", 1)).unwrap();
    let file = test.staged("operators.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("# On duty.\n{text}")).unwrap();
    operator_add(repo, &operator("bob", 2)).unwrap();
    operator_remove(repo, "bob").unwrap();
    assert!(
        std::fs::read_to_string(&file)
            .unwrap()
            .starts_with("# On duty.\n[operators.alice]")
    );
}
