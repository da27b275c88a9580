//! `touchstone ledger verify --since`, through the real command: a ledger that goes on, and one that was begun anew under
//! the same keys.

#![allow(clippy::expect_used, clippy::panic, reason = "a test")]

use std::io::{BufRead as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const DOMAIN: &str = "test.example";

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_touchstone"));
    command.args(arguments);
    command
}

fn done(arguments: &[&str]) -> String {
    let output = command(arguments).output().expect("the command runs");
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    said(&output)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// How long what is not reached is tried again.
const PATIENCE: Duration = Duration::from_secs(120);

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Domain {
    folder: tempfile::TempDir,
}

impl Domain {
    fn new() -> Self {
        let domain = Self {
            folder: tempfile::tempdir().expect("a folder"),
        };
        let path = |name: &str| domain.path(name);
        let (repo, keys, config) = (path("repo"), path("keys"), path("broker.toml"));
        done(&["policy", "init", text(&repo), "--domain", DOMAIN, "--keys", text(&keys)]);
        let mut passphrase = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path("passphrase"))
            .expect("a file");
        passphrase.write_all(b"correct horse battery staple\n").expect("writes");
        let toml = format!(
            "domain = \"{DOMAIN}\"\ndata_dir = {:?}\npolicy = {repo:?}\nlisten = \"127.0.0.1:0\"\n\
             policy_root = {{ file = {:?} }}\n[keys]\nkek = {{ passphrase_file = {:?} }}\n\
             [limits]\nhandshake_ms = 60000\nbody_ms = 60000\nhead_ms = 600000\n",
            path("data"),
            path("root.json"),
            path("passphrase"),
        );
        std::fs::write(&config, toml).expect("writes");
        done(&["broker", "init", "--config", text(&config)]);
        let keyset = path("data/keyset.json");
        done(&["policy", "keyset", "add", text(&repo), text(&keyset)]);
        done(&["policy", "publish", text(&repo), "--keys", text(&keys)]);
        std::fs::copy(repo.join("metadata/1.root.json"), path("root.json")).expect("copies");
        domain
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the broker and waits until it listens.
    fn broker(&self) -> Running {
        let mut child = command(&["broker", "run", "--json", "--config", text(&self.path("broker.toml"))])
            .stdout(Stdio::piped())
            .spawn()
            .expect("a broker");
        let mut line = String::new();
        let mut reader = std::io::BufReader::new(child.stdout.take().expect("its output"));
        reader.read_line(&mut line).expect("a line");
        assert!(line.contains("listening"), "{line}");
        std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
        Running(child)
    }

    /// One more entry in the ledger.
    fn grows(&self, key: &str) {
        done(&[
            "key",
            "put",
            key,
            "--data",
            text(&self.path("data")),
            "--generate",
            "32",
        ]);
    }

    fn verify(&self, more: &[&str]) -> Output {
        let address = std::fs::read_to_string(self.path("data/address")).expect("an address");
        let (broker, repo, root) = (
            format!("https://{}", address.trim()),
            self.path("repo"),
            self.path("root.json"),
        );
        let fixed = [
            "ledger",
            "verify",
            "--broker",
            &broker,
            "--domain",
            DOMAIN,
            "--policy",
            text(&repo),
            "--root",
            text(&root),
        ];
        // On a machine that stands still for seconds a connection may be given up on either side: then once more.
        let begun = Instant::now();
        loop {
            let output = command(&[&fixed[..], more].concat()).output();
            let output = output.expect("the command runs");
            if !said(&output).contains("is unreachable") || begun.elapsed() > PATIENCE {
                return output;
            }
        }
    }
}

#[test]
fn a_ledger_that_goes_on_is_shown_to_and_one_begun_anew_is_noticed() {
    let domain = Domain::new();
    let running = domain.broker();
    domain.grows("first");
    let (first, second) = (domain.path("first.checkpoint"), domain.path("second.checkpoint"));
    let (first, second) = (text(&first), text(&second));
    let whole = domain.verify(&["--save", first]);
    assert!(whole.status.success(), "{}", said(&whole));
    let nothing_new = domain.verify(&["--since", first]);
    assert!(said(&nothing_new).contains("0 of them since"), "{}", said(&nothing_new));
    for key in ["second", "third", "fourth"] {
        domain.grows(key);
        let since = domain.verify(&["--since", first, "--save", second, "--json"]);
        assert!(
            since.status.success() && said(&since).contains("\"holds\":true"),
            "{}",
            said(&since)
        );
    }
    let shown = domain.verify(&["--since", first]);
    assert!(
        said(&shown).contains("3 of them since the checkpoint: it continues"),
        "{}",
        said(&shown)
    );

    // The other way round: what the broker shows now is older than what was seen.
    let kept = std::fs::read(second).expect("a checkpoint");
    drop(running);
    // A new ledger under the same keys, as whoever owns the broker can make.
    std::fs::remove_file(domain.path("data/store.redb")).expect("removed");
    let _running = domain.broker();
    let rewritten = |since: &str| {
        let output = domain.verify(&["--since", since]);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains("ledger-rewritten"), "{}", said(&output));
    };
    rewritten(second);
    // As many entries, and then more.
    for key in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        domain.grows(key);
        rewritten(second);
    }
    rewritten(first);
    let whole = domain.verify(&[]);
    assert!(whole.status.success(), "by itself it holds: {}", said(&whole));
    // What is not signed by the domain proves nothing.
    let forged = domain.path("forged.checkpoint");
    let mut bytes = kept;
    if let Some(byte) = bytes.iter_mut().find(|byte| byte.is_ascii_digit()) {
        *byte ^= 1;
    }
    std::fs::write(&forged, bytes).expect("writes");
    let refused = domain.verify(&["--since", text(&forged)]);
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
}
