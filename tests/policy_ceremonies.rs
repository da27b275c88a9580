//! Ceremonies through the real command: signers in folders of their own, a publisher process, and processes that are
//! killed while they publish.

#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest wait for anything here, on a machine however slow.
const PATIENCE: Duration = Duration::from_secs(120);

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_touchstone"));
        command.current_dir(self.0.path()).args(arguments).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the command runs")
    }

    fn done(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = words(&output);
        assert!(output.status.success(), "touchstone {}: {said}", arguments.join(" "));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn refused(&self, arguments: &[&str], code: &str) -> String {
        let output = self.run(arguments);
        let said = words(&output);
        assert!(
            !output.status.success() && said.contains(code),
            "touchstone {}: {said}",
            arguments.join(" ")
        );
        said
    }

    /// A folder with these keys of `keys`, with their names there.
    fn machine(&self, name: &str, keys: &[&str]) {
        std::fs::create_dir_all(self.path(name)).expect("a folder");
        for key in keys {
            let file = format!("{key}.pem");
            std::fs::copy(self.path("keys").join(&file), self.path(name).join(file)).expect("a key");
        }
    }

    /// The published version, where it loads.
    fn version(&self) -> Option<u64> {
        let output = self.run(&["policy", "show", "repo", "--json"]);
        let shown: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let loads = shown["problems"].as_array().expect("problems").is_empty();
        loads.then(|| shown["published"]["version"].as_u64()).flatten()
    }
}

fn words(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn private(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text).expect("written");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("private");
}

#[test]
fn signers_on_machines_of_their_own() {
    let place = Place::new();
    private(&place.path("words"), "seven grey geese over water\n");
    place.done(&[
        "policy",
        "init",
        "repo",
        "--domain",
        "demo.example",
        "--keys",
        "keys",
        "--threshold",
        "2",
        "--signers",
        "3",
        "--passphrase-file",
        "words",
    ]);
    let key = std::fs::read_to_string(place.path("keys/targets-1.pem")).expect("a key");
    assert!(
        key.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"),
        "offline keys are encrypted"
    );
    // Nobody here to ask for the passphrase: refused, and told how.
    place.refused(
        &["policy", "publish", "repo", "--keys", "keys"],
        "policy-key-passphrase",
    );
    place.done(&[
        "policy",
        "publish",
        "repo",
        "--keys",
        "keys",
        "--passphrase-file",
        "words",
    ]);
    assert_eq!(place.version(), Some(1));

    place.machine("online", &["snapshot-1", "timestamp-1"]);
    place.machine("anna", &["targets-1"]);
    place.machine("ben", &["targets-2"]);
    std::fs::copy(place.path("repo/metadata/1.root.json"), place.path("root.json")).expect("the root");
    // A region gets its own keys, made where they stay.
    place.done(&["policy", "key", "make", "--keys", "eu", "--role", "region-eu-1"]);
    place.done(&[
        "policy",
        "region",
        "add",
        "repo",
        "eu-1",
        "--key",
        "eu/region-eu-1-1.pub",
    ]);
    let proposed = place.done(&["policy", "propose", "repo", "--out", "p2", "--json"]);
    let proposed: Value = serde_json::from_str(&proposed).expect("JSON");
    let digest = proposed["review"]["digest"].as_str().expect("a digest");
    place.refused(
        &["policy", "review", "p2", "--root", "p2/proposed/2.targets.json"],
        "policy-root-invalid",
    );
    let review = place.done(&["policy", "review", "p2", "--root", "root.json"]);
    assert!(
        review.contains("region-eu-1 is new: 1 must sign") && review.contains(digest),
        "{review}"
    );
    let sign = |machine: &str, digest: &str, out: &str, encrypted: bool| {
        let mut arguments = vec![
            "policy",
            "sign",
            "p2",
            "--root",
            "root.json",
            "--keys",
            machine,
            "--digest",
            digest,
            "--out",
            out,
        ];
        if encrypted {
            arguments.extend(["--passphrase-file", "words"]);
        }
        place.run(&arguments)
    };
    let other = "00".repeat(32);
    assert!(words(&sign("anna", &other, "anna.sig", true)).contains("policy-proposal-other"));
    let unasked = [
        "policy",
        "sign",
        "p2",
        "--root",
        "root.json",
        "--keys",
        "eu",
        "--out",
        "eu.sig",
    ];
    place.refused(&unasked, "nobody here to say yes");
    for (machine, encrypted) in [("anna", true), ("eu", false)] {
        assert!(
            sign(machine, digest, &format!("{machine}.sig"), encrypted)
                .status
                .success()
        );
    }
    let publish = |signatures: &[&str]| {
        let mut arguments = vec![
            "policy",
            "publish",
            "repo",
            "--keys",
            "online",
            "--proposal",
            "p2",
            "--signatures",
        ];
        arguments.extend(signatures);
        place.run(&arguments)
    };
    let too_few = words(&publish(&["anna.sig", "anna.sig", "eu.sig"]));
    for part in [
        "policy-threshold-not-met",
        "targets version 2",
        "signatures by 2 of its 3 keys",
        "1: targets-1",
    ] {
        assert!(too_few.contains(part), "{too_few}");
    }
    assert_eq!(place.version(), Some(1));
    assert!(sign("ben", digest, "ben.sig", true).status.success());
    let published = publish(&["anna.sig", "ben.sig", "eu.sig"]);
    assert!(published.status.success(), "{}", words(&published));
    assert_eq!(place.version(), Some(2));
    assert!(
        place
            .done(&["policy", "region", "list", "repo"])
            .contains("eu-1: 1 of 1 must sign")
    );

    // The root: what a change would need is told before it is made.
    place.refused(
        &["policy", "root", "threshold", "repo", "--role", "targets", "4"],
        "policy-root-change",
    );
    place.done(&["policy", "root", "threshold", "repo", "--role", "root", "3"]);
    place.done(&[
        "policy",
        "publish",
        "repo",
        "--keys",
        "keys",
        "--passphrase-file",
        "words",
    ]);
    assert!(
        place
            .done(&["policy", "root", "show", "repo"])
            .contains("root: 3 of 3 must sign")
    );
    assert_eq!(place.version(), Some(3));
}

/// A process that is ended when the test is.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what} never came");
        std::thread::yield_now();
    }
}

#[test]
fn a_publisher_with_one_key_keeps_the_version_alive_until_it_is_stopped() {
    let place = Place::new();
    place.done(&["policy", "init", "repo", "--domain", "demo.example", "--keys", "keys"]);
    place.done(&[
        "policy",
        "set",
        "repo",
        "timers.timestamp_life_ms=600000",
        "timers.publish_period_ms=1000",
    ]);
    place.done(&["policy", "publish", "repo", "--keys", "keys"]);
    place.machine("publisher", &["timestamp-1"]);
    place.refused(&["policy", "publish", "repo", "--keys", "publisher"], "policy-");
    let publisher = place
        .command(&["policy", "timestamp", "repo", "--keys", "publisher"])
        .stdout(Stdio::piped())
        .spawn();
    let mut publisher = Running(publisher.expect("a publisher"));
    let timestamp = || {
        let file = std::fs::read(place.path("repo/metadata/timestamp.json")).expect("always whole");
        let json: Value = serde_json::from_slice(&file).expect("always whole");
        json["signed"]["version"].as_u64().expect("a version")
    };
    wait_for("a third renewal", || (timestamp() >= 4).then_some(()));
    assert_eq!(place.version(), Some(1), "the same version");
    // Somebody publishes beside it; who comes second waits or is told to.
    wait_for("a publish beside it", || {
        let output = place.run(&["policy", "publish", "repo", "--keys", "keys"]);
        let busy = words(&output).contains("policy-publish-busy");
        assert!(output.status.success() || busy, "{}", words(&output));
        output.status.success().then_some(())
    });
    let seen = timestamp();
    wait_for("a renewal of the new version", || {
        (timestamp() > seen + 1).then_some(())
    });
    assert_eq!(place.version(), Some(2));
    let id = publisher.0.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &id])
            .status()
            .expect("kill")
            .success()
    );
    let ended = wait_for("its end", || publisher.0.try_wait().expect("a process"));
    assert!(ended.success(), "{ended}");
    let state = std::fs::read_to_string(place.path("publisher/publisher.json")).expect("what it signed for");
    assert!(state.contains("\"snapshot\":2"), "{state}");
    // An older copy of the repository: it does not sign for it.
    let old = state.replace("\"snapshot\":2", "\"snapshot\":3");
    std::fs::write(place.path("publisher/publisher.json"), old).expect("written");
    let once = ["policy", "timestamp", "repo", "--keys", "publisher", "--once"];
    place.refused(&once, "policy-rollback");
}

#[test]
fn killed_at_any_moment_a_publish_leaves_a_version_that_loads() {
    let place = Place::new();
    place.done(&["policy", "init", "repo", "--domain", "demo.example", "--keys", "keys"]);
    let begun = Instant::now();
    place.done(&["policy", "publish", "repo", "--keys", "keys"]);
    // Of the shortest that was seen, so that one that was held up does not put every moment behind its end.
    let mut whole = begun.elapsed();
    let mut last = 1;
    let mut killed = 0;
    let rounds = (1..=12u32).cycle().take(60);
    for (n, round) in rounds.enumerate() {
        if n >= 12 && killed > 0 {
            break;
        }
        // Every other one rotates the root too, which exchanges the whole folder.
        if round % 2 == 0 {
            place.done(&["policy", "root", "renew", "repo"]);
        }
        let publish = place
            .command(&["policy", "publish", "repo", "--keys", "keys"])
            .stdout(Stdio::null())
            .spawn();
        let mut publish = Running(publish.expect("a publish"));
        // The first publish is the slowest.
        let moment = whole * round / 18;
        let started = Instant::now();
        while started.elapsed() < moment {
            if publish.0.try_wait().expect("a process").is_some() {
                whole = whole.min(started.elapsed());
                break;
            }
            std::thread::yield_now();
        }
        drop(publish.0.kill());
        killed += u32::from(!publish.0.wait().expect("an end").success());
        let version = place.version().expect("a version that loads");
        assert!(
            version == last || version == last + 1,
            "round {round}: {version} after {last}"
        );
        last = version;
    }
    assert!(killed > 0, "nothing was stopped in the middle");
    place.done(&["policy", "publish", "repo", "--keys", "keys"]);
    assert_eq!(place.version(), Some(last + 1));
}
