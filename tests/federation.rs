//! `touchstone federation trust|list|drop`, as an author runs it: what is staged, what is refused, and that a refusal
//! stages nothing.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::path::Path;
use std::process::{Command, Output};

fn touchstone(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_touchstone"))
        .args(arguments)
        .output()
        .expect("runs")
}

fn good(arguments: &[&str]) -> String {
    let output = touchstone(arguments);
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {words}");
    String::from_utf8(output.stdout).unwrap()
}

fn init(folder: &Path, domain: &str) -> String {
    let repo = folder.join(domain).display().to_string();
    let keys = folder.join(format!("{domain}-keys")).display().to_string();
    good(&["policy", "init", &repo, "--domain", domain, "--keys", &keys]);
    good(&["policy", "publish", &repo, "--keys", &keys]);
    repo
}

#[test]
fn a_domain_is_trusted_listed_and_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (init(folder.path(), "a.example"), init(folder.path(), "b.example"));
    let root = format!("{b}/metadata/1.root.json");
    let keys = folder.path().join("a.example-keys").display().to_string();
    let trust = [
        "federation",
        "trust",
        &a,
        "b.example",
        "--root",
        &root,
        "--policy",
        &b,
        "--broker",
        "b.example:7440",
        "--resources",
        "partners/b",
        "--scope",
        "execute:partners/b/render",
        "--depth",
        "1",
    ];
    let listed =
        || -> serde_json::Value { serde_json::from_str(&good(&["federation", "list", &a, "--json"])).unwrap() };
    let swap = |at: &str, with: &'static str| -> Vec<String> {
        let at = trust.iter().position(|word| *word == at).unwrap() + 1;
        let words = trust.iter().enumerate();
        words
            .map(|(n, word)| if n == at { with.to_owned() } else { (*word).to_owned() })
            .collect()
    };
    for (attack, arguments, code) in [
        ("a wildcard", swap("--scope", "execute:*"), "policy-federation-scope"),
        (
            "administer",
            swap("--scope", "administer:partners/b"),
            "policy-federation-scope",
        ),
        (
            "outside the prefix",
            swap("--scope", "execute:workloads"),
            "policy-federation-scope",
        ),
        (
            "a relative folder",
            swap("--policy", "b"),
            "policy-federation-unreadable",
        ),
        (
            "a broker without a port",
            swap("--broker", "b.example"),
            "policy-federation-unreadable",
        ),
        ("a depth beyond all", swap("--depth", "5"), "policy-federation-path"),
        (
            "this domain itself",
            swap(&a, "a.example"),
            "policy-federation-unreadable",
        ),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = touchstone(&arguments);
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && words.contains(code), "{attack}: {words}");
        assert_eq!(listed()["domains"], serde_json::json!([]), "{attack} stages nothing");
    }
    let nothing_said = touchstone(&["federation", "trust", &a, "b.example"]);
    assert_eq!(nothing_said.status.code(), Some(2));
    let over_nobody = touchstone(&[
        "federation",
        "trust",
        &a,
        "c.example",
        "--path",
        "b.example",
        "--resources",
        "partners/b",
        "--scope",
        "execute:partners/b/render",
    ]);
    assert!(String::from_utf8_lossy(&over_nobody.stderr).contains("policy-federation-path"));

    let said = good(&trust);
    assert!(
        said.contains("staged federation/b.example.toml") && said.contains("trust begins"),
        "{said}"
    );
    good(&["policy", "publish", &a, "--keys", &keys]);
    let entry = listed()["domains"][0].clone();
    assert_eq!(
        (entry["domain"].as_str(), entry["depth"].as_u64()),
        (Some("b.example"), Some(1))
    );
    assert_eq!(entry["scopes"], serde_json::json!(["execute:partners/b/render"]));

    // Over it, and then it cannot be dropped alone.
    good(&[
        "federation",
        "trust",
        &a,
        "c.example",
        "--path",
        "b.example",
        "--resources",
        "partners/b",
        "--scope",
        "execute:partners/b/render",
    ]);
    let kept = touchstone(&["federation", "drop", &a, "b.example"]);
    assert!(String::from_utf8_lossy(&kept.stderr).contains("policy-federation-path"));
    good(&["federation", "drop", &a, "c.example"]);
    good(&["federation", "drop", &a, "b.example"]);
    good(&["policy", "publish", &a, "--keys", &keys]);
    assert_eq!(listed()["domains"], serde_json::json!([]));
    assert!(!touchstone(&["federation", "drop", &a, "b.example"]).status.success());
}
