//! A broker whose key-encryption key is sealed to its own TPM, through the real command: it starts again in the same state
//! and in no other.

#![cfg(feature = "tpm")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test")]

use std::io::BufRead as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use touchstone_attest::software_tpm::{STATE_FILE, SoftwareTpm};

const DOMAIN: &str = "test.example";

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_touchstone"));
    command.args(arguments).env("TSS2_LOG", "all+none");
    command
}

fn run(arguments: &[&str]) -> Output {
    command(arguments).output().expect("the command runs")
}

fn done(arguments: &[&str]) -> String {
    let output = run(arguments);
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{arguments:?}: {}", said(&output.stderr));
    said(&output.stdout)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the broker and waits until it listens.
fn start(config: &Path) -> Running {
    let mut child = command(&["broker", "run", "--json", "--config", text(config)])
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

fn domain(folder: &Path, tcti: &str) -> PathBuf {
    let (repo, keys, data) = (folder.join("repo"), folder.join("keys"), folder.join("data"));
    done(&["policy", "init", text(&repo), "--domain", DOMAIN, "--keys", text(&keys)]);
    let config = folder.join("broker.toml");
    let toml = format!(
        "domain = \"{DOMAIN}\"\ndata_dir = {data:?}\npolicy = {repo:?}\nlisten = \"127.0.0.1:0\"\n\
         policy_root = {{ file = {:?} }}\n[keys]\nkek = {{ tpm = {{ tcti = {tcti:?}, registers = {{ sha256 = [7] }} }} }}\n",
        folder.join("root.json")
    );
    std::fs::write(&config, toml).expect("writes");
    done(&["broker", "init", "--config", text(&config)]);
    done(&["policy", "keyset", "add", text(&repo), text(&data.join("keyset.json"))]);
    done(&["policy", "publish", text(&repo), "--keys", text(&keys)]);
    std::fs::copy(repo.join("metadata/1.root.json"), folder.join("root.json")).expect("copies");
    config
}

#[test]
fn a_broker_has_its_keys_again_in_the_state_it_sealed_them_in_and_in_no_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let state = Path::new(env!("CARGO_MANIFEST_DIR")).join("swtpm-tests/boots/good/tpm-state");
    let tpm = SoftwareTpm::start(&state.join(STATE_FILE)).expect("a software TPM");
    let config = domain(folder.path(), &tpm.tcti());
    let data = folder.path().join("data");

    let secret = folder.path().join("secret");
    std::fs::write(&secret, "the-launch-codes-0123456789abcdef").expect("writes");
    let running = start(&config);
    let put = [
        "key",
        "put",
        "db/main",
        "--data",
        text(&data),
        "--file",
        text(&secret),
        "--json",
    ];
    assert!(done(&put).contains("\"version\":1"));
    drop(running);
    let store = std::fs::read(data.join("store.redb")).expect("the store");
    assert!(!store.windows(12).any(|window| window == b"launch-codes"));

    // A rotation to a length of its own opens what is there: the key was unsealed again.
    let running = start(&config);
    assert!(done(&["key", "rotate", "db/main", "--data", text(&data)]).contains("version 2"));
    let listed = done(&["key", "list", "--data", text(&data)]);
    assert!(listed.contains("db/main") && listed.contains("(2 kept)"), "{listed}");
    drop(running);

    tpm.extend_sha256(7, [9; 32]).expect("extends");
    let refused = run(&["broker", "run", "--config", text(&config)]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("tpm-policy-check-failed"), "{said}");
}

#[test]
fn what_the_command_says_of_keys() {
    let help = done(&["key", "--help"]);
    assert!(
        help.contains("touchstone key get db/main") && help.contains("cannot be called back"),
        "{help}"
    );
    let folder = tempfile::tempdir().expect("a folder");
    let nobody = run(&["key", "list", "--data", text(folder.path())]);
    assert_eq!(nobody.status.code(), Some(2));
    let data = text(folder.path());
    for (arguments, words) in [
        (vec!["key", "put", "a", "--data", data], "no secret was given"),
        (
            vec!["key", "put", "a b", "--data", data, "--generate", "32"],
            "is not a name",
        ),
        (
            vec!["key", "put", "a", "--data", data, "--generate", "32", "--file", "x"],
            "cannot be used with",
        ),
    ] {
        let refused = run(&arguments);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}");
        assert!(said.contains(words), "{arguments:?}: {said}");
    }
}
