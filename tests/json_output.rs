//! `--json` of the commands that author, sign and set up: one line, one object, with the very members that the help names.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn boots() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("swtpm-tests/boots")
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_touchstone"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("the command runs")
}

/// Runs a command that must succeed, with `--json`: its members are these, no more and no fewer, and its help names them.
fn told(folder: &Path, command: &str, rest: &[&str], members: &[&str]) -> Value {
    let name: Vec<&str> = command.split(' ').collect();
    let arguments: Vec<&str> = name.iter().chain(rest).chain(&["--json"]).copied().collect();
    let output = run(folder, &arguments);
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{arguments:?}: {out}{err}");
    assert_eq!(out.lines().count(), 1, "{arguments:?}: {out}");
    let told: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {out}"));
    let found: BTreeSet<&str> = told
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(found, members.iter().copied().collect(), "{arguments:?}");
    let help: Vec<&str> = name.iter().chain(&["--help"]).copied().collect();
    let help = String::from_utf8(run(folder, &help).stdout).unwrap();
    let words: BTreeSet<&str> = help
        .split(|char: char| !char.is_alphanumeric() && char != '_')
        .collect();
    for member in members {
        assert!(
            words.contains(member),
            "{command} --help does not name {member}: {help}"
        );
    }
    told
}

/// The same without `--json`: words, which are no JSON.
fn in_words(folder: &Path, arguments: &str) -> String {
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let output = run(folder, &arguments);
    let words = String::from_utf8(output.stdout).unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {words}{err}");
    assert!(!words.trim().is_empty(), "{arguments:?} says nothing");
    assert!(serde_json::from_str::<Value>(&words).is_err(), "{arguments:?}: {words}");
    words
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn an_author_reads_by_machine_what_was_staged_and_signed() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let told = |command: &str, rest: &[&str], members: &[&str]| told(at, command, rest, members);
    let made = told(
        "policy init",
        &["repo", "--domain", "demo.example", "--keys", "keys"],
        &["domain", "root_digest", "keys_made", "staged"],
    );
    assert_eq!(made.pointer("/domain").unwrap(), "demo.example");
    assert_eq!(made.pointer("/root_digest").unwrap().as_str().unwrap().len(), 64);

    // Whose certificates are believed.
    let ca = |name: &str| text(&boots().join("ca").join(name));
    let (root, issuer) = (ca("swtpm-localca-rootca-cert.pem"), ca("issuercert.pem"));
    let trusted = ["anchors", "intermediates", "skipped"];
    let added = told("policy trust add", &["repo", "--ca", &root, &issuer], &trusted);
    let sha256 = added.pointer("/anchors/0/sha256").unwrap().as_str().unwrap();
    let target = format!("anchors/ek/{sha256}.der");
    told("policy trust add", &["repo", "--bundle", &root], &trusted);
    let removed = told("policy trust remove", &["repo", &target], &["removed"]);
    assert_eq!(removed.pointer("/removed/0").unwrap(), target.as_str());
    in_words(at, &format!("policy trust add repo --ca {root} {issuer}"));
    std::fs::write(
        at.join("deny.toml"),
        "[[endorsement_key]]\nid = \"".to_owned() + &"ab".repeat(32) + "\"\nwhy = \"stolen\"\n",
    )
    .unwrap();
    let denied = told(
        "policy trust deny",
        &["repo", "deny.toml"],
        &["endorsement_keys", "firmware"],
    );
    assert_eq!(denied.pointer("/endorsement_keys").unwrap(), 1);

    // Machines, their evidence and references.
    let good = |name: &str| text(&boots().join("good").join(name));
    let parts = [
        ("--tpm-quote", good("quote-rsa/quote.msg")),
        ("--tpm-signature", good("quote-rsa/quote.sig")),
        ("--tpm-pcrs", good("quote-rsa/quote.pcrs")),
        ("--tpm-ak", good("ak-rsa.pub")),
        ("--ek-cert", good("ek-rsa-cert.der")),
        ("--event-log", good("eventlog.bin")),
    ];
    let mut pack = vec!["-o", "good.evidence"];
    pack.extend(parts.iter().flat_map(|(flag, path)| [*flag, path.as_str()]));
    let packed = told("evidence pack", &pack, &["file", "bytes", "sha256"]);
    let length = std::fs::metadata(at.join("good.evidence")).unwrap().len();
    assert_eq!(packed.pointer("/bytes").unwrap().as_u64(), Some(length));
    let node = ["repo", "node-1", "--from", "good.evidence", "--region", "eu-1"];
    told("policy node add", &node, &["node", "merged", "staged", "notes"]);
    let uuid = "4878cbe9-f3c5-4d20-82da-b2bb10ae2940";
    let pcr15 = "9f".repeat(32);
    let volume = ["repo", "node-1", "--luks-uuid", uuid, "--volume-pcr15", &pcr15];
    let volume = told("policy node volume", &volume, &["node"]);
    assert_eq!(volume.pointer("/node/volume/luks_uuid").unwrap(), uuid);
    told("policy node list", &["repo"], &["nodes"]);
    assert!(in_words(at, "policy node list repo").starts_with("node-1 in eu-1"));
    let reference = ["repo", "--evidence", "good.evidence", "--name", "golden"];
    told(
        "reference add",
        &reference,
        &[
            "name",
            "banks",
            "registers",
            "events",
            "files",
            "measurement",
            "gpus",
            "staged",
            "notes",
        ],
    );
    told("reference withdraw", &["repo", "golden"], &["removed"]);
    let key = good("ak-ecc.pem");
    told("policy ima-key add", &["repo", "--key", &key], &["keys"]);
    let keys = std::fs::read_dir(at.join("repo/staged/ima-keys")).unwrap();
    let name = keys.map(|entry| entry.unwrap().file_name()).next().unwrap();
    let name = name.to_string_lossy();
    let sha256 = name.trim_end_matches(".der");
    told("policy ima-key remove", &["repo", sha256], &["removed"]);

    // People and services that are listed.
    let entry = ["name", "file", "entries", "before"];
    let added = told(
        "policy operator add",
        &["repo", "alice", "--key", &key, "--may", "revoke", "lift"],
        &entry,
    );
    assert_eq!(added.pointer("/entries").unwrap(), 1);
    told("policy operator list", &["repo"], &["operators"]);
    let gone = told("policy operator remove", &["repo", "alice"], &entry);
    assert_eq!(gone.pointer("/entries").unwrap(), 0);
    told(
        "policy segment add",
        &["repo", "execute:db", "--allow", "tcp 10.0.0.5:5432"],
        &entry,
    );
    assert_eq!(
        in_words(at, "policy segment list repo"),
        "execute:db: tcp 10.0.0.5/32:5432\n".replace("/32", "")
    );
    told("policy node remove", &["repo", "node-1"], &["node", "staged", "denied"]);

    // Brokers.
    std::fs::write(
        at.join("broker.toml"),
        "domain = \"demo.example\"\nlisten = \"127.0.0.1:0\"\ndata_dir = \"broker\"\npolicy = \"repo\"\npolicy_root = { file = \"root.json\" }\n",
    )
    .unwrap();
    let broker = told("broker init", &["--config", "broker.toml"], &["keyset"]);
    let keyset = broker.pointer("/keyset").unwrap().as_str().unwrap();
    let staged = told("policy keyset add", &["repo", keyset], &["version", "keys"]);
    assert_eq!(staged.pointer("/version").unwrap(), 1);
    let relay = ["--data", "relay", "--name", "site-7", "--keyset", keyset];
    told("relay init", &relay, &["keyset"]);
}

#[test]
fn a_ceremony_is_read_by_machine() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let told = |command: &str, rest: &[&str], members: &[&str]| told(at, command, rest, members);
    in_words(at, "policy init repo --domain demo.example --keys keys");
    in_words(at, "policy publish repo --keys keys");

    let key = ["--keys", "mine", "--role", "targets"];
    let made = told("policy key make", &key, &["keys"]);
    let id = made.pointer("/keys/0/id").unwrap().as_str().unwrap().to_owned();
    assert_eq!(
        told("policy key show", &key, &["keys"]).pointer("/keys/0/id").unwrap(),
        id.as_str()
    );
    assert!(in_words(at, "policy key show --keys mine --role targets").contains(&id));
    let public = made.pointer("/keys/0/public").unwrap().as_str().unwrap();
    let signers_of_targets = |told: &Value| {
        let roles = told.pointer("/roles").unwrap().as_array().unwrap();
        let targets = roles.iter().find(|role| role.pointer("/role").unwrap() == "targets");
        targets.unwrap().pointer("/keys").unwrap().as_array().unwrap().len()
    };
    assert_eq!(signers_of_targets(&told("policy root show", &["repo"], &["roles"])), 1);
    let added = told(
        "policy root add",
        &["repo", "--role", "targets", "--key", public],
        &["roles"],
    );
    assert_eq!(signers_of_targets(&added), 2);
    told("policy root threshold", &["repo", "--role", "targets", "2"], &["roles"]);
    told("policy root threshold", &["repo", "--role", "targets", "1"], &["roles"]);
    let removed = told(
        "policy root remove",
        &["repo", "--role", "targets", "--id", &id],
        &["roles"],
    );
    assert_eq!(signers_of_targets(&removed), 1);
    told("policy root renew", &["repo"], &["roles"]);
    assert_eq!(
        told("policy root drop", &["repo"], &["dropped"])
            .pointer("/dropped")
            .unwrap(),
        true
    );

    in_words(at, "policy key make --keys mine --role region-eu-1");
    let region = ["region", "threshold", "keys"];
    told(
        "policy region add",
        &["repo", "eu-1", "--key", "mine/region-eu-1-1.pub"],
        &region,
    );
    let listed = told("policy region list", &["repo"], &["regions"]);
    assert_eq!(listed.pointer("/regions/0/region").unwrap(), "eu-1");
    assert!(in_words(at, "policy region list repo").starts_with("eu-1: 1 of 1 must sign"));
    told("policy region remove", &["repo", "eu-1"], &["region"]);

    in_words(
        at,
        "policy set repo timers.heartbeat_ms=2000 timers.freshness_window_ms=12000",
    );
    let proposed = told(
        "policy propose",
        &["repo", "--out", "p2"],
        &["folder", "review", "references_signed"],
    );
    let digest = proposed.pointer("/review/digest").unwrap().as_str().unwrap();
    let sign = [
        "p2",
        "--root",
        "repo/metadata/1.root.json",
        "--keys",
        "keys",
        "--out",
        "anna.sig",
    ];
    let unasked = [&["policy", "sign"], &sign[..], &["--json"]].concat();
    assert_eq!(
        run(at, &unasked).status.code(),
        Some(2),
        "nobody is asked, so the digest must be given"
    );
    let by_digest = [&sign[..], &["--digest", digest]].concat();
    let signed = told("policy sign", &by_digest, &["review", "signed", "file"]);
    assert_eq!(signed.pointer("/review/digest").unwrap(), digest);
    assert!(!signed.pointer("/signed").unwrap().as_array().unwrap().is_empty());
    std::fs::create_dir(at.join("publisher")).unwrap();
    std::fs::copy(at.join("keys/timestamp-1.pem"), at.join("publisher/timestamp-1.pem")).unwrap();
    let renewed = told(
        "policy timestamp",
        &["repo", "--keys", "publisher", "--once"],
        &["domain", "versions", "expires", "snapshot_expires", "period"],
    );
    assert_eq!(renewed.pointer("/versions/timestamp").unwrap(), 2);
}
