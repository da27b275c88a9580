//! The command and a domain of a confidential VM's owner, for the tests that judge genuine evidence offline.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::dated;

/// Runs the command.
pub fn touchstone(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_touchstone"))
        .args(arguments)
        .output()
        .expect("the command runs")
}

/// Runs the command, which must succeed; gives what it printed.
pub fn done(arguments: &[&str]) -> String {
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

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A domain of its own, with the settings of `policy init` but for `settings`.
pub struct Domain {
    pub folder: tempfile::TempDir,
}

impl Domain {
    /// Founds it.
    pub fn new(settings: &[&str]) -> Self {
        let domain = Self {
            folder: tempfile::tempdir().expect("a folder"),
        };
        let (repo, keys) = (domain.repo(), domain.keys());
        dated::init(&repo, "test.example", &keys);
        if !settings.is_empty() {
            done(&[&["policy", "set", text(&repo)][..], settings].concat());
        }
        domain
    }

    /// The policy repository.
    pub fn repo(&self) -> PathBuf {
        self.folder.path().join("repo")
    }

    /// The folder of its keys.
    pub fn keys(&self) -> PathBuf {
        self.folder.path().join("keys")
    }

    /// Packs with these flags and files.
    pub fn pack(&self, files: &[(&str, &Path)]) -> PathBuf {
        let out = self.folder.path().join("packed.evidence");
        let mut arguments = vec!["evidence", "pack"];
        for (flag, file) in files {
            arguments.extend([*flag, text(file)]);
        }
        arguments.extend(["-o", text(&out)]);
        done(&arguments);
        out
    }

    /// Makes the evidence the reference, and its machine a node.
    pub fn golden(&self, evidence: &Path) -> &Self {
        let repo = self.repo();
        done(&[
            "reference",
            "add",
            text(&repo),
            "--evidence",
            text(evidence),
            "--name",
            "golden",
        ]);
        done(&[
            "policy",
            "node",
            "add",
            text(&repo),
            "guest-1",
            "--region",
            "eu-1",
            "--from",
            text(evidence),
        ]);
        self
    }

    /// Publishes what is staged.
    pub fn publish(&self) -> &Self {
        dated::publish(&self.repo(), &self.keys());
        self
    }

    /// The verdict over evidence: exit code and document.
    pub fn verify(&self, evidence: &Path, nonce: &str, at: &str) -> (i32, Value) {
        let repo = self.repo();
        let output = touchstone(&[
            "verify",
            text(evidence),
            "--policy",
            text(&repo),
            "--nonce",
            nonce,
            "--at",
            at,
            "--json",
        ]);
        let json = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
            panic!("{}", String::from_utf8_lossy(&output.stderr));
        });
        (output.status.code().expect("an exit code"), json)
    }

    /// Writes a file beside the repository.
    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}
