//! The sets of policies that are shipped, their tests, and what is told of them: the real command.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn policy(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_touchstone"))
        .arg("policy")
        .args(arguments)
        .output()
        .unwrap()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn init(folder: &Path, set: &str) -> (String, Output) {
    let (repo, keys) = (text(&folder.join("repo")), text(&folder.join("keys")));
    let made = policy(&["init", &repo, "--domain", "demo.example", "--keys", &keys, "--set", set]);
    (repo, made)
}

#[test]
fn every_set_begins_a_repository_whose_tests_hold() {
    for set in [
        "bare-metal-tpm",
        "confidential-vm",
        "two-root-ai-node",
        "sovereign-region",
        "edge-node",
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (repo, made) = init(folder.path(), set);
        assert!(
            made.status.success(),
            "{set}: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        let tested = policy(&["test", &repo, "--json"]);
        assert_eq!(tested.status.code(), Some(0), "{set}");
        let told: Value = serde_json::from_slice(&tested.stdout).unwrap();
        assert!(told["passed"].as_u64().unwrap() >= 14, "{set}: {told}");
        assert_eq!(told["failed"], 0, "{set}");
    }
}

#[test]
fn a_test_that_does_not_hold_is_told_and_stands_in_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let (repo, _) = init(folder.path(), "edge-node");
    let keys = text(&folder.path().join("keys"));
    let file = folder.path().join("repo/staged/policy.cedar");
    let policies = std::fs::read_to_string(&file).unwrap();
    std::fs::write(
        &file,
        policies.replace("roles.contains(\"edge\")", "roles.contains(\"web\")"),
    )
    .unwrap();
    let tested = policy(&["test", &repo]);
    assert_eq!(tested.status.code(), Some(1));
    let words = String::from_utf8_lossy(&tested.stdout).into_owned();
    assert!(
        words.contains("FAILED tests/edge-node.toml: an edge node gets a key"),
        "{words}"
    );
    assert!(words.contains("decision: expected allow, found deny"), "{words}");
    // One case alone: this one holds, and one of no name is a mistake of whoever asks.
    let one = policy(&["test", &repo, "--case", "Secure Boot is off"]);
    assert_eq!(one.status.code(), Some(0));
    assert_eq!(
        policy(&["test", &repo, "--case", "no such case"]).status.code(),
        Some(2)
    );
    let published = policy(&["publish", &repo, "--keys", &keys]);
    assert_ne!(published.status.code(), Some(0));
    let words = String::from_utf8_lossy(&published.stderr).into_owned();
    assert!(words.contains("policy-test-failed"), "{words}");
    std::fs::write(&file, policies).unwrap();
    let published = policy(&["publish", &repo, "--keys", &keys]);
    assert!(
        published.status.success(),
        "{}",
        String::from_utf8_lossy(&published.stderr)
    );
}

#[test]
fn what_cannot_be_compared_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (repo, made) = init(folder.path(), "no-such-set");
    assert_eq!(made.status.code(), Some(2));
    let words = String::from_utf8_lossy(&made.stderr).into_owned();
    assert!(words.contains("bare-metal-tpm"), "the sets there are: {words}");
    let (_, made) = init(folder.path(), "bare-metal-tpm");
    assert!(made.status.success());
    let empty = text(folder.path());
    // Nothing published, no decisions given, none there.
    assert_eq!(policy(&["diff", &repo, "--records", &empty]).status.code(), Some(2));
    assert_eq!(policy(&["diff", &repo]).status.code(), Some(2));
    let keys = text(&folder.path().join("keys"));
    assert!(policy(&["publish", &repo, "--keys", &keys]).status.success());
    let compared = policy(&["diff", &repo, "--records", &empty]);
    assert_eq!(compared.status.code(), Some(2));
    let words = String::from_utf8_lossy(&compared.stderr).into_owned();
    assert!(words.contains("no decision is recorded there"), "{words}");
}
