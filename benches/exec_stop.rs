//! How long what runs goes on running: from a trust state's arrival, and from the last one before silence, until the whole
//! process tree is dead. A real broker, a software TPM, `touchstone exec`'s own code and binary, all on this machine.
//!
//! `cargo bench --bench exec_stop [-- ROUNDS]`; as root, with a cgroup version 2.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a benchmark"
)]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use swtpm_tests::boots::Boot;
use swtpm_tests::domain::{ACTION, Domain, RESOURCE};
use swtpm_tests::node::Node;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use touchstone_attest::local;
use touchstone_authorization::TrustView;
use touchstone_enforcer::agent::Holder;
use touchstone_enforcer::exec::{self, Ending, Exec, ExecEvent};
use touchstone_enforcer::guard::{Guard, GuardConfig};
use touchstone_keybroker::admin::SOCKET;

/// The window that silence is measured against, in milliseconds.
const WINDOW_MS: u64 = 2_000;

/// Processes in the tree: a shell and what it starts.
const TREE: &str = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19; do sleep 1000 & done; wait";

struct Bench {
    domain: Domain,
    node: Arc<tokio::sync::Mutex<Node>>,
    shown: Arc<Mutex<Vec<u8>>>,
    folder: tempfile::TempDir,
}

impl Bench {
    async fn open() -> Self {
        let timers = [
            ("skew_ms", 250),
            ("heartbeat_ms", 100),
            ("failover_ms", 100),
            ("freshness_window_ms", WINDOW_MS),
        ];
        let domain = Domain::with(&[("node-1", Boot::GOOD)], &timers, &[]);
        let node = Arc::new(tokio::sync::Mutex::new(Node::start(&Boot::GOOD).await));
        let shown = Arc::new(Mutex::new(Vec::new()));
        let folder = tempfile::tempdir().unwrap();
        let listener = tokio::net::UnixListener::bind(folder.path().join("agent.sock")).unwrap();
        let (signer, held) = (Arc::clone(&node), Arc::clone(&shown));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (reader, mut writer) = stream.split();
                let mut line = String::new();
                tokio::io::BufReader::new(reader).read_line(&mut line).await.unwrap();
                let asked: serde_json::Value = serde_json::from_str(&line).unwrap();
                let text = |name: &str| asked[name].as_str().unwrap().to_owned();
                let authorization: Vec<u8> = held.lock().unwrap().clone();
                let challenge = hex::decode(text("challenge")).unwrap();
                let scope = format!("{ACTION}:{RESOURCE}");
                let signer = signer.lock().await;
                let proof = signer
                    .prove_for(&authorization, &text("audience"), &challenge, &scope)
                    .await;
                let answer = serde_json::json!({
                    "authorization": STANDARD.encode(&authorization), "proof": STANDARD.encode(proof),
                });
                let _ = writer.write_all(format!("{answer}\n").as_bytes()).await;
            }
        });
        Self {
            domain,
            node,
            shown,
            folder,
        }
    }

    async fn attest(&self) {
        let mut client = self.domain.client();
        let mut node = self.node.lock().await;
        node.forget();
        *self.shown.lock().unwrap() = node.attest(&mut client).await.unwrap().authorization.unwrap();
    }

    /// Runs the tree until it is dead; `stop` does what ends it, once it runs. Gives when the guard had its last trust
    /// state, when the tree was dead, and how long the killing took.
    async fn round<F: Future<Output = ()>>(&self, stop: impl FnOnce() -> F) -> (Instant, Instant, Duration) {
        let trust = self.domain.trust().await;
        let follower = trust.follow(vec![self.domain.endpoint()], "bench".into());
        let mut views = follower.views();
        let guard = Arc::new(Guard::new(GuardConfig::of(&trust, "bench"), follower));
        let watched = Arc::clone(&guard);
        let watching = tokio::spawn(async move { watched.watch(|_| ()).await });
        // When the last frame was taken, looked at by somebody who does nothing else.
        let last = Arc::new(Mutex::new(Instant::now()));
        let seen = Arc::clone(&last);
        let looking = tokio::spawn(async move {
            while views.changed().await.is_ok() {
                let _: Option<Arc<TrustView>> = views.borrow_and_update().clone();
                *seen.lock().unwrap() = Instant::now();
            }
        });
        let exec = Exec {
            action: ACTION.into(),
            resource: RESOURCE.into(),
            agent: self.folder.path().join("agent.sock"),
            holder: Holder::Node,
            program: env!("CARGO_BIN_EXE_touchstone").into(),
            command: ["sh", "-c", TREE].map(Into::into).to_vec(),
            user: None,
            uses: None,
            network: false,
            end_when_suspended: false,
        };
        let (started, mut starts) = mpsc::channel(1);
        let dead = Arc::new(Mutex::new(None));
        let told = Arc::clone(&dead);
        let frozen_last = Arc::clone(&last);
        let tell = move |event: ExecEvent| match event {
            ExecEvent::Started => drop(started.try_send(())),
            ExecEvent::Killed { took_us, .. } => {
                let last = *frozen_last.lock().unwrap();
                *told.lock().unwrap() = Some((last, Instant::now(), Duration::from_micros(took_us)));
            }
            _ => {}
        };
        let (_pass_on, mut signals) = mpsc::channel(1);
        let running = exec::run(&exec, &guard, &mut signals, &tell);
        let stopping = async {
            starts.recv().await.expect("it starts");
            // Until the shell has started its children.
            tokio::time::sleep(Duration::from_millis(200)).await;
            stop().await;
        };
        let (ending, ()) = tokio::join!(running, stopping);
        assert!(matches!(ending, Ending::Lost { .. }), "{ending:?}");
        watching.abort();
        looking.abort();
        let measured = *dead.lock().unwrap();
        measured.expect("killed")
    }
}

fn show(name: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    println!(
        "{name:<44} p50 {:>9.2?}  p99 {:>9.2?}  max {:>9.2?}  (n = {})",
        at(50),
        at(99),
        at(100),
        times.len()
    );
}

fn main() {
    let rounds = std::env::args()
        .skip(1)
        .find_map(|word| word.parse().ok())
        .unwrap_or(100);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(measure(rounds));
}

async fn measure(rounds: usize) {
    let bench = Bench::open().await;
    let broker = bench.domain.broker().await;
    let socket = bench.domain.path("data").join(SOCKET);
    let (mut from_frame, mut from_command, mut killing) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        bench.attest().await;
        let begun = Arc::new(Mutex::new(None));
        let (socket, told) = (socket.clone(), Arc::clone(&begun));
        let (frame, dead, took) = bench
            .round(|| async move {
                *told.lock().unwrap() = Some(Instant::now());
                let body = r#"{"node":"node-1","reason":"a benchmark"}"#;
                let (code, _) = local::request(&socket, "POST", "/revoke", body.into()).await.unwrap();
                assert_eq!(code, 200);
            })
            .await;
        let begun = begun.lock().unwrap().expect("revoked");
        // Where the guard was faster than who looks for the benchmark, the command stands for the frame: it was before it.
        from_frame.push(dead.saturating_duration_since(frame.max(begun)));
        from_command.push(dead.saturating_duration_since(begun));
        killing.push(took);
    }
    println!("a tree of 20 processes, debug_assertions = {}", cfg!(debug_assertions));
    show("frame taken -> tree dead", from_frame);
    show("operator's command -> tree dead", from_command);
    show("of that: decided -> tree dead", killing);
    broker.shutdown().await.unwrap();

    let mut beyond = Vec::new();
    for _ in 0..rounds.div_ceil(20) {
        let broker = bench.domain.broker().await;
        bench.attest().await;
        let (last, dead, _) = bench.round(|| async { broker.shutdown().await.unwrap() }).await;
        let silent = dead.saturating_duration_since(last);
        println!("  last frame -> tree dead {silent:?}, window {WINDOW_MS} ms");
        beyond.push(silent.saturating_sub(Duration::from_millis(WINDOW_MS)));
    }
    show("silence: beyond the window -> tree dead", beyond);
}
