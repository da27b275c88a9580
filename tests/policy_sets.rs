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

/// Who commands, who reports, who acknowledges and what is reached are listed by command, shown, published and taken out.
#[test]
fn operators_detectors_enforcers_and_segments_are_listed_by_command() {
    let folder = tempfile::tempdir().unwrap();
    let (repo, _) = init(folder.path(), "bare-metal-tpm");
    let jwk = |name: &str, x: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}"}}"#)).unwrap();
        text(&file)
    };
    // RFC 8037, appendix A.2, and RFC 8032, section 7.1, tests 2 and 3: public keys.
    let alice = jwk("alice.jwk", "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
    let monitor = jwk("monitor.jwk", "PUAXw-hDiVqStwqnTRt-vJyYLM8uxJaMwM1V8Sr0Zgw");
    let guard = jwk("guard.jwk", "_FHNjmIYoaONpH7QAjDwWAgW7RO6MwOsXeuRFUiQgCU");
    let issuer = [
        "--issuer",
        "https://monitor.example/",
        "--audience",
        "https://broker.example/v1/events",
    ];
    let done = |arguments: &[&str]| {
        let output = policy(arguments);
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        told
    };
    let added = done(&[
        "operator", "add", &repo, "alice", "--key", &alice, "--may", "revoke", "lift",
    ]);
    assert_eq!(added, "staged operators.toml: alice added, 1 in all\n");
    let mut detector = vec![
        "detector", "add", &repo, "monitor", "--key", &monitor, "--region", "eu-1",
    ];
    detector.extend(issuer);
    done(&detector);
    done(&[
        "enforcer",
        "add",
        &repo,
        "guard:edge-7",
        "--key",
        &guard,
        "--region",
        "eu-1",
    ]);
    done(&[
        "segment",
        "add",
        &repo,
        "execute:db",
        "--allow",
        "tcp 10.0.0.5:5432",
        "udp [fd00::53]:53",
    ]);
    done(&["publish", &repo, "--keys", &text(&folder.path().join("keys"))]);

    let listed = |what: &str| -> Value { serde_json::from_str(&done(&[what, "list", &repo, "--json"])).unwrap() };
    assert_eq!(
        listed("operator")["operators"][0]["may"],
        serde_json::json!(["revoke", "lift"])
    );
    assert_eq!(listed("detector")["detectors"][0]["reach"], "quarantine");
    assert_eq!(listed("enforcer")["enforcers"][0]["id"], "guard:edge-7");
    assert_eq!(listed("segment")["segments"][0]["allow"][0], "tcp 10.0.0.5:5432");

    // A key has one job, nothing means any, and what is not listed is not taken out.
    for (arguments, code) in [
        (
            vec!["enforcer", "add", &repo, "guard:x", "--key", &alice],
            "policy-key-of-two",
        ),
        (
            vec!["segment", "add", &repo, "execute:db", "--allow", "tcp 0.0.0.0/0:80"],
            "policy-network-unreadable",
        ),
        (vec!["operator", "remove", &repo, "bob"], "policy-target-missing"),
    ] {
        let output = policy(&arguments);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && told.contains(code), "{arguments:?}: {told}");
    }
    let power = policy(&["operator", "add", &repo, "bob", "--key", &monitor, "--may", "anything"]);
    assert!(!power.status.success());
    let last = done(&["operator", "remove", &repo, "alice"]);
    assert!(
        last.contains("alice was the last of it") && last.contains("without a signature"),
        "{last}"
    );
}
