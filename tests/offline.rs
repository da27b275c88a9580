//! The contract of offline use, through the real command: policy repository, packed evidence, verdict, exit codes.
//! The machines are the recorded boots of `swtpm-tests/boots`.

#![allow(clippy::expect_used, reason = "a test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use crate::dated;

/// A moment at which everything recorded was valid, and every repository here.
const AT: &str = "2026-11-21T05:00:00Z";

fn boots() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("swtpm-tests/boots")
}

fn touchstone(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_touchstone"))
        .args(arguments)
        .output()
        .expect("the command runs")
}

fn done(arguments: &[&str]) -> String {
    let output = touchstone(arguments);
    assert!(
        output.status.success(),
        "touchstone {}: {}{}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A policy repository in a folder of its own.
struct Domain {
    folder: tempfile::TempDir,
}

impl Domain {
    fn new() -> Self {
        let domain = Self {
            folder: tempfile::tempdir().expect("a folder"),
        };
        dated::init(&domain.repo(), "test.example", &domain.keys());
        let ca = boots().join("ca");
        let (root, issuer) = (ca.join("swtpm-localca-rootca-cert.pem"), ca.join("issuercert.pem"));
        done(&[
            "policy",
            "trust",
            "add",
            text(&domain.repo()),
            "--ca",
            text(&root),
            text(&issuer),
        ]);
        domain
    }

    fn repo(&self) -> PathBuf {
        self.folder.path().join("repo")
    }

    fn keys(&self) -> PathBuf {
        self.folder.path().join("keys")
    }

    fn node(&self, name: &str, identity: &[&str]) -> &Self {
        let repo = self.repo();
        let mut arguments = vec!["policy", "node", "add", text(&repo), name, "--region", "eu-1"];
        arguments.extend(identity);
        done(&arguments);
        self
    }

    fn reference(&self, evidence: &Path) -> &Self {
        let name = if evidence.to_string_lossy().contains("good") {
            "golden"
        } else {
            "other"
        };
        done(&[
            "reference",
            "add",
            text(&self.repo()),
            "--evidence",
            text(evidence),
            "--name",
            name,
        ]);
        self
    }

    fn publish(&self) -> &Self {
        dated::publish(&self.repo(), &self.keys());
        self
    }

    /// Packs a recorded quote, with the keys and the log of that boot unless `parts` says otherwise.
    fn pack(&self, boot: &str, quote: &str, parts: &[(&str, Option<PathBuf>)]) -> PathBuf {
        let boot_path = boots().join(boot);
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let out = self
            .folder
            .path()
            .join(format!("{boot}-{}.evidence", COUNT.fetch_add(1, Ordering::Relaxed)));
        let algorithm = if quote.ends_with("ecc") { "ecc" } else { "rsa" };
        let mut files: Vec<(&str, PathBuf)> = vec![
            ("--tpm-quote", boot_path.join(quote).join("quote.msg")),
            ("--tpm-signature", boot_path.join(quote).join("quote.sig")),
            ("--tpm-pcrs", boot_path.join(quote).join("quote.pcrs")),
            ("--tpm-ak", boot_path.join(format!("ak-{algorithm}.pub"))),
            ("--ek-cert", boot_path.join("ek-rsa-cert.der")),
            ("--event-log", boot_path.join("eventlog.bin")),
        ];
        for (flag, replacement) in parts {
            files.retain(|(name, _)| name != flag);
            if let Some(path) = replacement {
                files.push((flag, path.clone()));
            }
        }
        let mut arguments = vec!["evidence", "pack"];
        for (flag, path) in &files {
            arguments.extend([*flag, text(path)]);
        }
        arguments.extend(["-o", text(&out)]);
        done(&arguments);
        out
    }

    fn verify(&self, evidence: &Path, nonce: &str, extra: &[&str]) -> (i32, Value) {
        let repo = self.repo();
        let mut arguments = vec![
            "verify",
            text(evidence),
            "--policy",
            text(&repo),
            "--nonce",
            nonce,
            "--json",
        ];
        if !extra.contains(&"--at") {
            arguments.extend(["--at", AT]);
        }
        arguments.extend(extra);
        let output = touchstone(&arguments);
        let json = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        (output.status.code().expect("an exit code"), json)
    }
}

fn nonce(boot: &str) -> String {
    std::fs::read_to_string(boots().join(boot).join("quote-rsa/nonce.hex"))
        .expect("a nonce")
        .trim()
        .to_owned()
}

fn codes(verdict: &Value) -> Vec<String> {
    verdict["reasons"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|reason| {
            for key in ["code", "claim", "expected", "found"] {
                assert!(reason[key].is_string(), "{key} of {reason}");
            }
            reason["code"].as_str().unwrap_or_default().to_owned()
        })
        .collect()
}

/// A domain that knows the machine of boot `good` and takes its measurements as reference.
fn golden() -> (Domain, PathBuf) {
    let domain = Domain::new();
    let good = domain.pack("good", "quote-rsa", &[]);
    domain.node("good", &["--from", text(&good)]).reference(&good).publish();
    (domain, good)
}

#[test]
fn the_golden_boot_is_affirmed() {
    let (domain, good) = golden();
    let (code, verdict) = domain.verify(&good, &nonce("good"), &[]);
    assert_eq!((code, &verdict["verdict"]), (0, &Value::from("affirming")), "{verdict}");
    assert_eq!(codes(&verdict), Vec::<String>::new());
    assert_eq!(verdict["binding"], "none");
    assert_eq!(verdict["ak_binding"], "inventory");
    assert_eq!(verdict["policy_root"], "unpinned");
    assert!(verdict["ear"].is_object());
}

#[test]
fn a_changed_command_line_is_refused_and_named() {
    let (domain, _) = golden();
    let changed = domain.pack("cmdline-changed", "quote-rsa", &[]);
    domain.node("changed", &["--from", text(&changed)]).publish();
    let (code, verdict) = domain.verify(&changed, &nonce("cmdline-changed"), &[]);
    assert_eq!(
        (code, &verdict["verdict"]),
        (1, &Value::from("contraindicated")),
        "{verdict}"
    );
    assert!(
        codes(&verdict).contains(&"kernel-command-line-mismatch".to_owned()),
        "{verdict}"
    );
    let told = verdict["reasons"].to_string();
    assert!(
        told.contains("module.sig_enforce=0"),
        "the reason shows the command line: {told}"
    );
}

#[test]
fn another_boot_path_is_refused_against_good_and_accepted_against_itself() {
    let (domain, _) = golden();
    let uki = domain.pack("uki", "quote-rsa", &[]);
    domain.node("uki", &["--from", text(&uki)]).publish();
    let (code, verdict) = domain.verify(&uki, &nonce("uki"), &[]);
    assert_eq!(code, 1, "{verdict}");
    assert!(
        codes(&verdict).contains(&"secure-boot-mismatch".to_owned()),
        "{verdict}"
    );
    domain.reference(&uki).publish();
    let (code, verdict) = domain.verify(&uki, &nonce("uki"), &[]);
    assert_eq!(code, 0, "{verdict}");
}

/// A PE32+ image with these sections (Microsoft PE format).
fn image(sections: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let four = |number: usize| u32::try_from(number).expect("small").to_le_bytes();
    let headers = (328 + 40 * sections.len()).next_multiple_of(512);
    let mut table = Vec::new();
    let mut contents = Vec::new();
    for (name, content) in sections {
        let mut entry = name.as_bytes().to_vec();
        entry.resize(8, 0);
        entry.extend(four(content.len()));
        entry.extend([0; 4]);
        entry.extend(four(content.len()));
        entry.extend(four(headers + contents.len()));
        entry.resize(40, 0);
        table.extend(entry);
        contents.extend_from_slice(content);
    }
    let mut optional = vec![0x0B, 0x02];
    optional.resize(60, 0);
    optional.extend(four(headers));
    optional.resize(108, 0);
    optional.extend(four(16));
    optional.resize(240, 0);
    let mut out = b"MZ".to_vec();
    out.resize(0x3C, 0);
    out.extend(four(64));
    out.extend(b"PE\0\0\0\0");
    out.push(u8::try_from(sections.len()).expect("few"));
    out.resize(84, 0);
    out.extend([240, 0, 0, 0]);
    out.extend(optional);
    out.extend(table);
    out.resize(headers, 0);
    out.extend(contents);
    out
}

/// The recorded image itself is not kept, so one with another kernel and initrd stands in: it is packed, and refused for
/// the very section that differs.
#[test]
fn a_unified_kernel_image_that_was_not_measured_is_refused() {
    let (domain, _) = golden();
    let path = domain.folder.path().join("linux.efi");
    let uki = boots().join("uki");
    let part = |name: &str| std::fs::read(uki.join(name)).expect("a recorded file");
    let sections = [
        (".linux", image(&[(".text", b"another kernel".to_vec())])),
        (".osrel", part("uki.osrel")),
        (".cmdline", part("uki.cmdline")),
        (".initrd", b"another initrd".to_vec()),
        (".sdmagic", b"#### LoaderInfo: systemd-stub 252.39 ####".to_vec()),
    ];
    std::fs::write(&path, image(&sections)).expect("written");
    let genuine = domain.pack("uki", "quote-rsa", &[]);
    domain
        .node("uki", &["--from", text(&genuine)])
        .reference(&genuine)
        .publish();
    let evidence = domain.pack("uki", "quote-rsa", &[("--uki", Some(path.clone()))]);
    let (code, verdict) = domain.verify(&evidence, &nonce("uki"), &[]);
    assert_eq!(
        (code, codes(&verdict)),
        (1, vec!["uki-sections-mismatch".to_owned()]),
        "{verdict}"
    );
    assert!(
        verdict.to_string().contains("of the content of section .linux"),
        "{verdict}"
    );
    // A boot without a unified kernel image was not from this file either.
    let other = domain.pack("good", "quote-rsa", &[("--uki", Some(path))]);
    let (code, verdict) = domain.verify(&other, &nonce("good"), &[]);
    assert_eq!(
        (code, codes(&verdict)),
        (1, vec!["uki-sections-mismatch".to_owned()]),
        "{verdict}"
    );
}

#[test]
fn every_quote_of_the_same_boot_is_affirmed() {
    for (quote, key) in [("quote-all-rsa", "rsa"), ("quote-ecc", "ecc"), ("quote-all-ecc", "ecc")] {
        let (domain, _) = golden();
        let evidence = domain.pack("good", quote, &[]);
        if key == "ecc" {
            let (code, verdict) = domain.verify(&evidence, &nonce("good"), &[]);
            assert_eq!(code, 1, "{quote}: the inventory knows only the RSA key: {verdict}");
            assert!(codes(&verdict).contains(&"ak-not-bound".to_owned()), "{verdict}");
            domain.node("good", &["--from", text(&evidence)]).publish();
        }
        let (code, verdict) = domain.verify(&evidence, &nonce("good"), &[]);
        assert_eq!(code, 0, "{quote}: {verdict}");
    }
}

#[test]
fn attacks_on_packed_evidence() {
    let (domain, _) = golden();
    let other = boots().join("uki");
    let good = boots().join("good");
    let rows: Vec<(&str, PathBuf, String, &str)> = vec![
        (
            "wrong nonce",
            domain.pack("good", "quote-rsa", &[]),
            "00".repeat(32),
            "nonce-mismatch",
        ),
        (
            "quote of another machine",
            domain.pack(
                "good",
                "quote-rsa",
                &[("--tpm-quote", Some(other.join("quote-rsa/quote.msg")))],
            ),
            nonce("good"),
            "tpm-signature-invalid",
        ),
        (
            "register values of another machine",
            domain.pack(
                "good",
                "quote-rsa",
                &[("--tpm-pcrs", Some(other.join("quote-rsa/quote.pcrs")))],
            ),
            nonce("good"),
            "pcr-digest-mismatch",
        ),
        (
            "log of another machine",
            domain.pack(
                "good",
                "quote-rsa",
                &[("--event-log", Some(other.join("eventlog.bin")))],
            ),
            nonce("good"),
            "log-does-not-replay",
        ),
        (
            "no log",
            domain.pack("good", "quote-rsa", &[("--event-log", None)]),
            nonce("good"),
            "event-log-missing",
        ),
        (
            "endorsement key of another machine",
            domain.pack(
                "good",
                "quote-rsa",
                &[("--ek-cert", Some(other.join("ek-rsa-cert.der")))],
            ),
            nonce("good"),
            "node-unknown",
        ),
        (
            "key without attributes",
            domain.pack("good", "quote-rsa", &[("--tpm-ak", Some(good.join("ak-rsa.pem")))]),
            nonce("good"),
            "ak-attributes-unknown",
        ),
    ];
    for (name, evidence, nonce, expected) in rows {
        let (code, verdict) = domain.verify(&evidence, &nonce, &[]);
        assert_eq!(code, 1, "{name}: {verdict}");
        assert!(
            codes(&verdict).contains(&expected.to_owned()),
            "{name}: expected {expected}: {verdict}"
        );
        assert_ne!(verdict["verdict"], "affirming", "{name}");
    }
}

#[test]
fn a_key_vouched_for_by_name_is_enough_without_attributes() {
    let domain = Domain::new();
    let pem = boots().join("good/ak-rsa.pem");
    let good = domain.pack("good", "quote-rsa", &[]);
    let bare = domain.pack(
        "good",
        "quote-rsa",
        &[("--tpm-ak", Some(pem.clone())), ("--ek-cert", None)],
    );
    domain.node("good", &["--ak", text(&pem)]).reference(&good).publish();
    let (code, verdict) = domain.verify(&bare, &nonce("good"), &[]);
    assert_eq!(code, 0, "{verdict}");
}

#[test]
fn an_unknown_maker_is_refused() {
    let domain = Domain {
        folder: tempfile::tempdir().expect("a folder"),
    };
    dated::init(&domain.repo(), "test.example", &domain.keys());
    let good = domain.pack("good", "quote-rsa", &[]);
    domain.node("good", &["--from", text(&good)]).reference(&good).publish();
    let (code, verdict) = domain.verify(&good, &nonce("good"), &[]);
    assert_eq!(code, 1, "{verdict}");
    assert!(
        codes(&verdict).iter().any(|code| code == "certificate-issuer-unknown"),
        "{verdict}"
    );
}

#[test]
fn a_repository_that_is_not_to_be_believed_is_a_verdict() {
    let (domain, good) = golden();
    let (code, verdict) = domain.verify(&good, &nonce("good"), &["--at", "2036-01-01T00:00:00Z"]);
    assert_eq!((code, &verdict["verdict"]), (1, &Value::from("none")), "{verdict}");
    assert!(
        codes(&verdict).iter().all(|code| code.starts_with("policy-")),
        "{verdict}"
    );
    assert!(!codes(&verdict).is_empty());

    // A target altered after it was signed.
    let targets = domain.repo().join("targets");
    for entry in std::fs::read_dir(&targets).expect("targets").flatten() {
        if entry.file_name().to_string_lossy().contains("policy.cedar") {
            let mut bytes = std::fs::read(entry.path()).expect("reads");
            bytes.extend_from_slice(b"\n// harmless?\n");
            std::fs::write(entry.path(), bytes).expect("writes");
        }
    }
    let (code, verdict) = domain.verify(&good, &nonce("good"), &[]);
    assert_eq!((code, &verdict["verdict"]), (1, &Value::from("none")), "{verdict}");
    assert!(
        codes(&verdict).iter().all(|code| code.starts_with("policy-")),
        "{verdict}"
    );
}

#[test]
fn another_root_is_refused_and_the_right_one_is_pinned() {
    let (domain, good) = golden();
    let (stranger, _) = golden();
    let own = domain.repo().join("metadata/1.root.json");
    let foreign = stranger.repo().join("metadata/1.root.json");
    let (code, verdict) = domain.verify(&good, &nonce("good"), &["--root", text(&own)]);
    assert_eq!(
        (code, &verdict["policy_root"]),
        (0, &Value::from("pinned")),
        "{verdict}"
    );
    let (code, verdict) = domain.verify(&good, &nonce("good"), &["--root", text(&foreign)]);
    assert_eq!((code, &verdict["verdict"]), (1, &Value::from("none")), "{verdict}");
}

#[test]
fn what_is_only_staged_does_not_count() {
    let (domain, _) = golden();
    let uki = domain.pack("uki", "quote-rsa", &[]);
    domain.node("uki", &["--from", text(&uki)]).reference(&uki);
    let (code, verdict) = domain.verify(&uki, &nonce("uki"), &[]);
    assert_eq!(code, 1, "nothing was published: {verdict}");
}

#[test]
fn what_is_withdrawn_no_longer_counts_after_the_next_publish() {
    let (domain, good) = golden();
    done(&["reference", "withdraw", text(&domain.repo()), "golden"]);
    assert_eq!(domain.verify(&good, &nonce("good"), &[]).0, 0, "only staged");
    domain.publish();
    let (code, verdict) = domain.verify(&good, &nonce("good"), &[]);
    assert_eq!(code, 1, "{verdict}");
    assert!(codes(&verdict).contains(&"reference-missing".to_owned()), "{verdict}");
    done(&["policy", "node", "remove", text(&domain.repo()), "good"]);
    domain.publish();
    let (_, verdict) = domain.verify(&good, &nonce("good"), &[]);
    assert!(codes(&verdict).contains(&"node-unknown".to_owned()), "{verdict}");
}

#[test]
fn usage_and_unreadable_input_exit_with_2() {
    let (domain, good) = golden();
    let repo = domain.repo();
    let rows: Vec<(&str, Vec<&str>)> = vec![
        ("no arguments", vec!["verify"]),
        (
            "a nonce that is no hexadecimal",
            vec!["verify", text(&good), "--policy", text(&repo), "--nonce", "zz"],
        ),
        (
            "no such evidence",
            vec!["verify", "/nonexistent", "--policy", text(&repo), "--nonce", "00"],
        ),
        (
            "no such repository",
            vec!["verify", text(&good), "--policy", "/nonexistent", "--nonce", "00"],
        ),
        (
            "a time that is none",
            vec![
                "verify",
                text(&good),
                "--policy",
                text(&repo),
                "--nonce",
                "00",
                "--at",
                "now",
            ],
        ),
        (
            "evidence that is none",
            vec!["verify", "Cargo.toml", "--policy", text(&repo), "--nonce", "00"],
        ),
    ];
    for (name, arguments) in rows {
        let output = touchstone(&arguments);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{name}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(!output.stderr.is_empty(), "{name} says what is wrong");
    }
}
