//! What people read when a machine is refused, word for word: the transcripts in `tests/transcripts/`. The machines are
//! the recorded boots of `swtpm-tests/boots`, judged against a reference from the boot `good`.
//!
//! `TOUCHSTONE_WRITE_TRANSCRIPTS=1 cargo test --test tests transcripts` writes them anew; read the difference before it is
//! committed.

#![allow(clippy::expect_used, clippy::panic, reason = "a test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::dated;

/// A moment at which everything recorded was valid, and every repository here.
const AT: &str = "2026-11-21T05:00:00Z";
/// Set to 1, the transcripts are written instead of compared.
const WRITE: &str = "TOUCHSTONE_WRITE_TRANSCRIPTS";

fn boots() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("swtpm-tests/boots")
}

/// A folder with a policy repository `repo` and the boots as `<boot>.evidence`; commands run in it, so that what they
/// print has no path of this machine.
struct Place(tempfile::TempDir);

impl Place {
    /// A domain that knows the machines of these boots, and takes `good` as reference.
    fn new(machines: &[&str]) -> Self {
        Self::with(machines, false)
    }

    /// The same, with the kernel's measurement lists, if `ima`.
    fn with(machines: &[&str], ima: bool) -> Self {
        let place = Self(tempfile::tempdir().expect("a folder"));
        let ca = boots().join("ca");
        let (root, issuer) = (ca.join("swtpm-localca-rootca-cert.pem"), ca.join("issuercert.pem"));
        let (root, issuer) = (root.to_string_lossy(), issuer.to_string_lossy());
        dated::init(
            &place.0.path().join("repo"),
            "demo.example",
            &place.0.path().join("keys"),
        );
        place.done(&["policy", "trust", "add", "repo", "--ca", &root, &issuer]);
        for boot in machines {
            place.pack_with(boot, ima);
            let evidence = format!("{boot}.evidence");
            place.done(&[
                "policy", "node", "add", "repo", boot, "--from", &evidence, "--region", "eu-1",
            ]);
        }
        place.done(&[
            "reference",
            "add",
            "repo",
            "--evidence",
            "good.evidence",
            "--name",
            "golden",
        ]);
        place.publish();
        place
    }

    fn publish(&self) {
        dated::publish(&self.0.path().join("repo"), &self.0.path().join("keys"));
    }

    fn pack(&self, boot: &str) {
        self.pack_with(boot, false);
    }

    fn pack_with(&self, boot: &str, ima: bool) {
        let quote = quote(ima);
        let file = |name: &str| boots().join(boot).join(name).to_string_lossy().into_owned();
        let out = format!("{boot}.evidence");
        let mut parts = vec![
            ("--tpm-quote", file(&format!("{quote}/quote.msg"))),
            ("--tpm-signature", file(&format!("{quote}/quote.sig"))),
            ("--tpm-pcrs", file(&format!("{quote}/quote.pcrs"))),
            ("--tpm-ak", file("ak-rsa.pub")),
            ("--ek-cert", file("ek-rsa-cert.der")),
            ("--event-log", file("eventlog.bin")),
        ];
        if ima {
            parts.push(("--ima-log", file("ima.bin")));
        }
        let mut arguments = vec!["evidence", "pack", "-o", &out];
        arguments.extend(parts.iter().flat_map(|(flag, path)| [*flag, path.as_str()]));
        self.done(&arguments);
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_touchstone"))
            .args(arguments)
            .current_dir(self.0.path())
            .env_remove("COLUMNS")
            .output()
            .expect("the command runs")
    }

    fn done(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let (stdout, stderr) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(
            output.status.success(),
            "touchstone {}: {stdout}{stderr}",
            arguments.join(" ")
        );
        stdout.into_owned()
    }

    /// What `verify` prints, with the exit code, and the digest of the random root key taken out.
    fn verify(&self, boot: &str, nonce: &str, more: &[&str]) -> String {
        let evidence = format!("{boot}.evidence");
        let mut arguments = vec!["verify", &evidence, "--policy", "repo", "--nonce", nonce];
        if !more.contains(&"--at") {
            arguments.extend(["--at", AT]);
        }
        arguments.extend(more);
        let output = self.run(&arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(1), "{text}");
        let lines = text.lines().map(|line| match line.split_once(", root unpinned ") {
            Some((before, _)) => format!("{before}, root unpinned ROOT"),
            None => line.to_owned(),
        });
        lines.collect::<Vec<_>>().join("\n") + "\n"
    }
}

/// The recorded quote without register 10, or with it.
const fn quote(ima: bool) -> &'static str {
    if ima { "quote-all-rsa" } else { "quote-rsa" }
}

fn nonce(boot: &str) -> String {
    nonce_of(boot, false)
}

fn nonce_of(boot: &str, ima: bool) -> String {
    let path = boots().join(boot).join(quote(ima)).join("nonce.hex");
    std::fs::read_to_string(path).expect("a nonce").trim().to_owned()
}

/// Compares with the transcript of this name.
fn compare(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/transcripts")
        .join(format!("{name}.txt"));
    if std::env::var(WRITE).is_ok_and(|value| value == "1") {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(&path, text).expect("written");
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        expected == text,
        "{}: expected\n{expected}\nfound\n{text}",
        path.display()
    );
}

#[test]
fn refused_boots() {
    let place = Place::new(&["good", "cmdline-changed", "uki"]);
    for boot in ["cmdline-changed", "uki"] {
        compare(boot, &place.verify(boot, &nonce(boot), &[]));
        compare(&format!("{boot}-all"), &place.verify(boot, &nonce(boot), &["--all"]));
    }
    compare("wrong-nonce", &place.verify("cmdline-changed", &"00".repeat(32), &[]));
}

#[test]
fn a_program_the_golden_run_did_not_have() {
    let place = Place::with(&["good", "ima-unknown-exec"], true);
    let good = place.run(&[
        "verify",
        "good.evidence",
        "--policy",
        "repo",
        "--nonce",
        &nonce_of("good", true),
        "--at",
        AT,
    ]);
    assert_eq!(good.status.code(), Some(0), "{}", String::from_utf8_lossy(&good.stdout));
    let nonce = nonce_of("ima-unknown-exec", true);
    compare("ima-unknown-exec", &place.verify("ima-unknown-exec", &nonce, &[]));
    // The same machine without its list, where the reference has one.
    place.pack("ima-unknown-exec");
    let nonce = nonce_of("ima-unknown-exec", false);
    compare("ima-list-missing", &place.verify("ima-unknown-exec", &nonce, &[]));
}

#[test]
fn a_machine_nobody_listed() {
    let place = Place::new(&["good"]);
    place.pack("uki");
    compare("unknown-node", &place.verify("uki", &nonce("uki"), &[]));
}

#[test]
fn a_policy_that_has_expired() {
    let place = Place::new(&["good"]);
    let text = place.verify("good", &nonce("good"), &["--at", "2036-01-01T00:00:00Z"]);
    compare("expired-policy", &text);
}

#[test]
fn references_in_words() {
    let place = Place::new(&["good", "cmdline-changed", "uki"]);
    compare("reference-show", &place.done(&["reference", "show", "repo", "golden"]));
    for boot in ["cmdline-changed", "uki"] {
        let evidence = format!("{boot}.evidence");
        place.done(&["reference", "add", "repo", "--evidence", &evidence, "--name", boot]);
        compare(
            &format!("reference-diff-{boot}"),
            &place.done(&["reference", "diff", "repo", "golden", boot]),
        );
    }
    let all = place.done(&["reference", "show", "repo"]);
    assert!(
        all.contains("golden: published, signed by reference-1") && all.contains("uki: staged"),
        "{all}"
    );
    let unknown = place.run(&["reference", "show", "repo", "gold"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&unknown.stderr).contains("golden"),
        "the error names what there is"
    );
}

#[test]
fn nothing_is_coloured_that_is_no_terminal_and_json_has_all_of_it() {
    let place = Place::new(&["good", "cmdline-changed"]);
    let text = place.verify("cmdline-changed", &nonce("cmdline-changed"), &["--all"]);
    assert!(!text.contains('\u{1b}'));
    let json = place.verify("cmdline-changed", &nonce("cmdline-changed"), &["--json"]);
    let document: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let reasons = document["reasons"].as_array().expect("reasons");
    let line = reasons
        .iter()
        .find(|reason| reason["code"] == "kernel-command-line-mismatch")
        .expect("the reason");
    assert_eq!(
        (&line["register"], line["event"].is_number()),
        (&serde_json::Value::from(8), true),
        "{line}"
    );
    assert!(
        line["meaning"].as_str().is_some_and(|words| words.ends_with('.')) && line["help"].is_array(),
        "{line}"
    );
}

#[test]
fn settings_are_set_by_key_and_count_after_the_next_publish() {
    let place = Place::new(&["good"]);
    let said = place.done(&[
        "policy",
        "set",
        "repo",
        "ima.mode=required",
        "tpm.event_log=registers-suffice",
    ]);
    compare("policy-set", &said);
    let unknown = place.run(&["policy", "set", "repo", "ima.mod=required"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("ima.mode, the nearest known key"));
    place.publish();
}
