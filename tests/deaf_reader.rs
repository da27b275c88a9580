//! A standard output that nobody reads, and whoever is behind it: what a guard tells holds up nothing of what it enforces.
#![cfg(feature = "tpm")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests: what is not as it must be fails"
)]

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use swtpm_tests::boots::Boot;
use swtpm_tests::domain::{ACTION, Domain, RESOURCE};
use swtpm_tests::node::Node;
use tokio::time::timeout;
use touchstone_enforcer::guard::client::{challenge, decide};
use touchstone_enforcer::guard::{DecisionRequest, Verdict};

const WINDOW: Duration = Duration::from_millis(1_500);

/// No answer of a guard that lives takes longer, on any machine.
const ANSWERS: Duration = Duration::from_secs(120);

struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn asked(guard: SocketAddr, request: impl AsyncFnOnce(String) -> DecisionRequest) -> Verdict {
    let answered = async {
        let challenge = challenge(guard).await.unwrap();
        let request = request(challenge).await;
        decide(guard, &request).await.unwrap()
    };
    timeout(ANSWERS, answered)
        .await
        .expect("the guard waits for whoever reads what it tells")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_whose_standard_output_is_a_full_pipe_refuses_within_the_window_after_a_revocation() {
    let timers = [
        ("skew_ms", 250),
        ("heartbeat_ms", 50),
        ("failover_ms", 100),
        ("freshness_window_ms", 1_500),
    ];
    let domain = Domain::with(&[("node-1", Boot::GOOD)], &timers, &[]);
    let broker = domain.broker().await;
    let mut node = Node::start(&Boot::GOOD).await;
    let granted = node.attest(&mut domain.client()).await.unwrap();
    let authorization = granted.authorization.unwrap();

    let mut child = Command::new(env!("CARGO_BIN_EXE_touchstone"))
        .args(["guard", "run", "--json", "--id", "guard-1", "--domain", domain.name()])
        .arg("--broker")
        .arg(format!("https://{}", domain.address()))
        .arg("--policy")
        .arg(domain.path("policy"))
        .arg("--root")
        .arg(domain.path("root.json"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // The first line is read, and from then on nobody reads; the pipe stays open.
    let mut reader = BufReader::with_capacity(1, child.stdout.take().unwrap());
    let guard = Guard(child);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let listening: Value = serde_json::from_str(&line).unwrap();
    let address: SocketAddr = listening["address"].as_str().unwrap().parse().unwrap();

    let show = async |challenge: String| {
        let scope = format!("{ACTION}:{RESOURCE}");
        let bytes = hex::decode(&challenge).unwrap();
        let proof = node.prove_for(&authorization, "guard-1", &bytes, &scope).await;
        DecisionRequest {
            authorization: STANDARD.encode(&authorization),
            proof: STANDARD.encode(proof),
            challenge,
            action: ACTION.into(),
            resource: RESOURCE.into(),
        }
    };
    let begun = Instant::now();
    while !asked(address, &show).await.allowed {
        assert!(begun.elapsed() < ANSWERS, "never let in");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Far more than a pipe and the guard's own queue hold.
    let nonsense = async |challenge: String| DecisionRequest {
        authorization: String::new(),
        proof: String::new(),
        challenge,
        action: "a".repeat(2_000),
        resource: RESOURCE.into(),
    };
    for _ in 0..2_500 {
        assert!(!asked(address, &nonsense).await.allowed);
    }
    let begun = Instant::now();
    while !asked(address, &show).await.allowed {
        assert!(begun.elapsed() < ANSWERS, "never let in again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    let revoked = Instant::now();
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_touchstone"))
        .args(["revoke", "--node", "node-1", "--reason", "a test", "--data"])
        .arg(domain.path("data"))
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let out = Instant::now();
    loop {
        let begun = Instant::now();
        let verdict = asked(address, &show).await;
        if verdict.codes == ["authorization-revoked"] {
            break;
        }
        if !verdict.allowed {
            // Who was not let run for a window hears of it late, and lets nobody in until then.
            assert!(
                verdict.codes.iter().any(|code| code == "trust-state-stale"),
                "{:?}",
                verdict.codes
            );
            assert!(begun.duration_since(out) < ANSWERS, "it never hears of the revocation");
            continue;
        }
        let late = begun.duration_since(out);
        assert!(
            late <= WINDOW + Duration::from_millis(100),
            "let in {late:?} after the revocation"
        );
    }
    println!("refused {:?} after the revocation was begun", revoked.elapsed());
    // Somebody reads again, and hears that it has missed something.
    let told = std::thread::spawn(move || {
        let mut reader = BufReader::new(reader);
        let mut line = String::new();
        while reader.read_line(&mut line).is_ok_and(|read| read > 0) {
            let event: Value = serde_json::from_str(&line).unwrap();
            if event["event"] == "not_told" {
                return event["lines"]["denied"].as_u64().unwrap();
            }
            line.clear();
        }
        0
    });
    assert!(told.join().unwrap() > 0, "it says that it left nothing out");
    drop(guard);
    broker.shutdown().await.unwrap();
}
