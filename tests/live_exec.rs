//! `touchstone exec` against a real broker and a node with a software TPM: what it runs is refused, renewed, frozen, and dead
//! when its authorization is, with all that it started.
#![cfg(feature = "tpm")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests: what is not as it must be fails"
)]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use swtpm_tests::boots::{Boot, boots};
use swtpm_tests::domain::{ACTION, Domain, Founding, RESOURCE, add_node, eventually, recorded};
use swtpm_tests::node::Node;
use swtpm_tests::observe::PATIENCE;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};
use touchstone_attest::agent::config::AgentConfig;
use touchstone_attest::client::BrokerClient;
use touchstone_attest::{agent, clock};
use touchstone_ledger::statement::{Kind, VerifiedStatement};
use touchstone_policies::Job;

use crate::able::what_a_cage_takes;

/// Timers under which silence is noticed within seconds: for what is about silence, and for nothing else.
const QUICK: [(&str, u64); 4] = [
    ("skew_ms", 250),
    ("heartbeat_ms", 200),
    ("failover_ms", 100),
    ("freshness_window_ms", 4_000),
];

/// Children of every kind: in the background, in a session of its own whose parent is gone, deaf to signals.
const FAMILY: &str =
    "(setsid sh -c 'FOREVER & exit 0' &) ; sh -c \"trap '' TERM HUP INT; FOREVER & wait\" & FOREVER & wait";

/// Whether this machine can do what the test is about; CI must.
fn able() -> bool {
    match what_a_cage_takes() {
        Ok(()) => true,
        Err(reason) => {
            touchstone_vectors::skip(&format!("touchstone exec: {reason}"));
            false
        }
    }
}

/// A node whose rounds the test makes, and a socket at which `touchstone exec` finds its authorization.
struct Post {
    node: Arc<tokio::sync::Mutex<Node>>,
    shown: Arc<Mutex<Option<Vec<u8>>>>,
    client: BrokerClient,
    folder: tempfile::TempDir,
    serving: tokio::task::JoinHandle<()>,
}

impl Post {
    async fn open(domain: &Domain) -> Self {
        let node = Arc::new(tokio::sync::Mutex::new(Node::start(&Boot::GOOD).await));
        let shown = Arc::new(Mutex::new(None));
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent.sock");
        let text = format!(
            "brokers = [\"https://{}\"]\ndomain = {:?}\npolicy = {:?}\npolicy_root = {:?}\nstate_dir = {:?}\nsocket = {socket:?}\n",
            domain.address(),
            domain.name(),
            domain.path("policy"),
            domain.path("root.json"),
            folder.path().join("agent"),
        );
        fs::write(folder.path().join("agent.toml"), text).unwrap();
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let (signer, held) = (Arc::clone(&node), Arc::clone(&shown));
        let serving = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (reader, mut writer) = stream.split();
                let mut line = String::new();
                tokio::io::BufReader::new(reader).read_line(&mut line).await.unwrap();
                let asked: Value = serde_json::from_str(&line).unwrap();
                let text = |name: &str| asked[name].as_str().unwrap().to_owned();
                let authorization: Option<Vec<u8>> = held.lock().unwrap().clone();
                let answer = match authorization {
                    None => json!({ "error": "this node holds no authorization: it is stale" }),
                    Some(authorization) => {
                        let challenge = hex::decode(text("challenge")).unwrap();
                        let scope = format!("{}:{}", text("action"), text("resource"));
                        let signer = signer.lock().await;
                        let proof = signer
                            .prove_for(&authorization, &text("audience"), &challenge, &scope)
                            .await;
                        json!({ "authorization": STANDARD.encode(&authorization), "proof": STANDARD.encode(proof) })
                    }
                };
                let _ = writer.write_all(format!("{answer}\n").as_bytes()).await;
            }
        });
        Self {
            node,
            shown,
            client: domain.client(),
            folder,
            serving,
        }
    }

    /// A round; the agent of this node has what comes of it.
    async fn attest(&mut self) {
        let begun = Instant::now();
        // As an agent does: once more where the connection or the session was over before it was done.
        let granted = loop {
            match self.node.lock().await.attest(&mut self.client).await {
                Ok(granted) => break granted,
                Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
            }
        };
        *self.shown.lock().unwrap() = granted.authorization;
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("agent.toml")
    }
}

impl Drop for Post {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// A running `touchstone exec`.
struct Running {
    child: Child,
    events: Receiver<Value>,
    heard: Vec<Value>,
    mark: String,
}

impl Running {
    fn start(config: &Path, options: &[&str], script: &str) -> Self {
        Self::start_below(None, config, options, script)
    }

    /// As a service manager that listens at this address starts it.
    fn start_below(manager: Option<&str>, config: &Path, options: &[&str], script: &str) -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mark = format!(
            "{}.{}",
            40_000 + std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let script = script.replace("FOREVER", &format!("sleep {mark}"));
        let scope = if options.contains(&"--resource") {
            vec!["--action", ACTION]
        } else {
            vec!["--action", ACTION, "--resource", RESOURCE]
        };
        let user = if rustix::process::geteuid().is_root() {
            vec!["--user", "root"]
        } else {
            Vec::new()
        };
        // Software TPMs of other tests live in this process.
        let mut child = touchstone_vectors::alone(env!("CARGO_BIN_EXE_touchstone"))
            .envs(manager.map(|address| ("NOTIFY_SOCKET", address)))
            .arg("exec")
            .args(scope)
            .args(user)
            .args(options)
            .args(["--json", "--config"])
            .arg(config)
            .args(["--", "bash", "-c", &script])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (tell, events) = channel();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                match serde_json::from_str(&line) {
                    Ok(event) => drop(tell.send(event)),
                    Err(_) => println!("exec: {line}"),
                }
            }
        });
        Self {
            child,
            events,
            heard: Vec::new(),
            mark,
        }
    }

    /// Waits for an event.
    async fn hear(&mut self, name: &str) -> Value {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            match self.events.try_recv() {
                Ok(event) => {
                    self.heard.push(event.clone());
                    if event["event"] == name {
                        return event;
                    }
                }
                Err(std::sync::mpsc::TryRecvError::Disconnected) => break,
                Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
        panic!("{name:?} never came: {:#?}", self.heard);
    }

    fn alive(&self) -> usize {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let lines = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
        let sleeper = format!("sleep\0{}\0", self.mark);
        lines.filter(|line| *line == sleeper.as_bytes()).count()
    }

    async fn family(&self) {
        eventually("all of the family", || self.alive() == 3).await;
    }

    /// The exit code, with every reason's text. Nothing of it is left.
    async fn ends(mut self) -> (i32, String) {
        let ended = self.hear("ended").await;
        assert_eq!(
            self.alive(),
            0,
            "when it says that it has ended, it has: {:#?}",
            self.heard
        );
        let code = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status.code().unwrap(),
                None => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        };
        assert_eq!(ended["code"], code);
        (code, ended["reasons"].to_string())
    }
}

/// A command that was let in, and what it said then. Where its agent did not answer in time, another one is started.
async fn let_in(start: impl Fn() -> Running) -> (Running, Value) {
    let begun = Instant::now();
    loop {
        let mut running = start();
        let event = loop {
            match running.events.recv_timeout(Duration::from_millis(2)) {
                Ok(event) if event["event"] == "allowed" => return (running, event),
                Ok(event) if event["event"] == "ended" => break event,
                Ok(_) => {}
                Err(_) => tokio::task::yield_now().await,
            }
            assert!(begun.elapsed() < PATIENCE, "neither let in nor refused");
        };
        let reasons = event["reasons"].to_string();
        assert!(reasons.contains("no answer within"), "{reasons}");
        println!("once more: {reasons}");
        running.child.wait().unwrap();
    }
}

/// A command all of whose family is seen. Where the timers are short, one whose guard was not let run for a window, or that was
/// not let in any more, has ended before: then another one is started.
async fn whole_family(start: impl Fn() -> Running) -> Running {
    let begun = Instant::now();
    loop {
        let mut running = start();
        loop {
            if running.alive() == 3 {
                return running;
            }
            if running.child.try_wait().unwrap().is_some() {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "never all of the family");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        println!("once more: {}", running.ends().await.1);
    }
}

/// A size once it grows no more. The kernel is told to freeze; what is under way then arrives.
async fn settled(size: impl Fn() -> u64) -> u64 {
    let begun = Instant::now();
    loop {
        let before = size();
        tokio::time::sleep(Duration::from_millis(300)).await;
        if size() == before {
            return before;
        }
        assert!(begun.elapsed() < PATIENCE, "it runs on");
    }
}

/// An operator's command about the node, through the command line.
async fn command(domain: &Domain, verb: &str) {
    command_about(domain, verb, ["--node", "node-1"]).await;
}

async fn command_about(domain: &Domain, verb: &str, what: [&str; 2]) {
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_touchstone"))
        .arg(verb)
        .args(what)
        .args(["--reason", "a test", "--data"])
        .arg(domain.path("data"))
        .output()
        .await
        .unwrap();
    assert!(
        output.status.success(),
        "{verb}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_authorization_nothing_starts() {
    let domain = Domain::with(&[("node-1", Boot::GOOD)], &[], &[]);
    let broker = domain.broker().await;
    let mut post = Post::open(&domain).await;
    let witness = post.folder.path().join("it-ran");
    let script = format!("touch {}", witness.display());

    let none = Running::start(&post.config(), &[], &script);
    let (code, reasons) = none.ends().await;
    assert_eq!(code, 121, "{reasons}");
    assert!(reasons.contains("holds no authorization"), "{reasons}");

    post.attest().await;
    for (name, options, expected) in [
        (
            "what is not granted",
            &["--resource", "payroll"][..],
            "scope-not-granted",
        ),
        (
            "an agent that is not there",
            &["--agent", "/no/such/socket"],
            "/no/such/socket",
        ),
    ] {
        let (code, reasons) = Running::start(&post.config(), options, &script).ends().await;
        assert_eq!(code, 121, "{name}: {reasons}");
        assert!(reasons.contains(expected), "{name}: {reasons}");
    }
    command(&domain, "revoke").await;
    let (code, reasons) = Running::start(&post.config(), &[], &script).ends().await;
    assert_eq!(code, 121, "{reasons}");
    assert!(reasons.contains("authorization-revoked"), "{reasons}");
    assert!(!witness.exists(), "nothing of all this ran");

    post.attest().await;
    let (code, _) = Running::start(&post.config(), &[], &format!("{script}; exit 7"))
        .ends()
        .await;
    assert_eq!((code, witness.exists()), (7, true), "and with one it does");
    broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_kills_all_of_it() {
    if !able() {
        return;
    }
    let domain = Domain::with(&[("node-1", Boot::GOOD)], &[], &[]);
    let broker = domain.broker().await;
    let mut post = Post::open(&domain).await;
    post.attest().await;
    // Listed with the key it made itself, what it let in and what it stopped is known to the broker.
    let key = post.folder.path().join("exec.pem");
    let options = ["--key", key.to_str().unwrap()];
    let (code, _) = Running::start(&post.config(), &options, "true").ends().await;
    assert_eq!(code, 0);
    let public = PathBuf::from(format!("{}.pub", key.display()));
    let mut add = Command::new(env!("CARGO_BIN_EXE_touchstone"));
    add.args(["policy", "enforcer", "add"]).arg(domain.path("policy"));
    let listed = add.args(["exec", "--key"]).arg(&public).output().unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    domain.publish();
    let reported = || {
        let (store, size) = (&broker.app().store, broker.app().head().size);
        let entries = (0..size).filter_map(|index| touchstone_keybroker::log::entry(&**store, index).unwrap());
        let kinds = entries.map(|entry| {
            let verified = VerifiedStatement::parse(&entry, &domain.key(Job::Statement)).unwrap();
            verified.into_statement().kind
        });
        kinds.filter(|kind| *kind == Kind::UseReport).count()
    };
    eventually("the policy at the broker", || broker.app().policy().version >= 2).await;
    post.attest().await;
    let before = reported();
    let mut running = Running::start(&post.config(), &options, FAMILY);
    running.hear("started").await;
    running.family().await;
    eventually("the report of a use", || reported() > before).await;
    let begun = Instant::now();
    command(&domain, "revoke").await;
    let killed = running.hear("killed").await;
    println!(
        "revoked -> dead: {:?}; decided -> dead: {} us",
        begun.elapsed(),
        killed["took_us"]
    );
    let (code, reasons) = running.ends().await;
    assert_eq!(code, 122);
    assert!(reasons.contains("authorization-revoked"), "{reasons}");
    eventually("the report that it was stopped", || reported() > before + 1).await;
    broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarantine_freezes_it_and_a_lift_lets_it_go_on() {
    if !able() {
        return;
    }
    let domain = Domain::with(&[("node-1", Boot::GOOD)], &[], &[]);
    let broker = domain.broker().await;
    let mut post = Post::open(&domain).await;
    post.attest().await;
    let count = post.folder.path().join("count");
    let script = format!("while :; do echo x >> {}; sleep 0.005; done & FOREVER", count.display());
    let mut running = Running::start(&post.config(), &[], &script);
    let size = || fs::metadata(&count).map_or(0, |data| data.len());
    eventually("it to run", || size() > 4).await;

    command(&domain, "quarantine").await;
    let frozen = running.hear("frozen").await;
    assert!(frozen.to_string().contains("authorization-suspended"), "{frozen}");
    let still = settled(&size).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(size(), still, "frozen");

    // Lifted, it comes back with fresh good evidence, and not before.
    command(&domain, "lift").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(size(), still, "lifted, and nothing shown yet");
    post.attest().await;
    running.hear("thawed").await;
    eventually("it to go on", || size() > still).await;
    // What stands for something that cannot be frozen with it ends instead.
    let mut bound = Running::start(&post.config(), &["--end-when-suspended"], FAMILY);
    bound.family().await;
    command(&domain, "quarantine").await;
    let killed = bound.hear("killed").await;
    assert!(killed.to_string().contains("authorization-suspended"), "{killed}");
    assert!(bound.heard.iter().all(|event| event["event"] != "frozen"));
    assert_eq!(bound.ends().await.0, 122);
    running.hear("frozen").await;
    command(&domain, "revoke").await;
    assert_eq!(running.ends().await.0, 122);
    broker.shutdown().await.unwrap();
}

/// A service manager that waits until a unit is ready.
struct Manager {
    socket: std::os::unix::net::UnixDatagram,
    address: String,
    _folder: tempfile::TempDir,
}

impl Manager {
    fn wait() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self {
            socket,
            address: path.to_str().unwrap().to_owned(),
            _folder: folder,
        }
    }

    /// What it was told since it was asked last.
    fn told(&self) -> Vec<String> {
        let mut room = [0; 256];
        std::iter::from_fn(|| self.socket.recv(&mut room).ok().map(|length| room[..length].to_vec()))
            .map(|said| String::from_utf8(said).unwrap())
            .collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_is_active_when_its_authorization_is_valid_and_not_before() {
    let domain = Domain::with(&[("node-1", Boot::GOOD)], &[], &[]);
    let broker = domain.broker().await;
    let mut post = Post::open(&domain).await;
    let manager = Manager::wait();
    let none = Vec::<String>::new();
    let start = |config: &Path, options: &[&str]| {
        Running::start_below(
            Some(&manager.address),
            config,
            options,
            "[ -z \"$NOTIFY_SOCKET\" ] && exit 7",
        )
    };
    let refused = start(&post.config(), &[]).ends().await;
    assert_eq!((refused.0, manager.told()), (121, none.clone()), "no authorization");
    let absent = start(&post.config(), &["--agent", "/no/such/socket"]).ends().await;
    assert_eq!((absent.0, manager.told()), (121, none.clone()), "no agent");

    // A server of policies that takes every connection and answers none.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let text = fs::read_to_string(post.config()).unwrap();
    let line = text.lines().find(|line| line.starts_with("policy = ")).unwrap();
    let elsewhere = format!("policy = \"http://{}/\"", silent.local_addr().unwrap());
    let config = post.folder.path().join("silent.toml");
    fs::write(&config, text.replace(line, &elsewhere)).unwrap();
    let mut hanging = start(&config, &[]);
    let asked = tokio::time::timeout(PATIENCE, silent.accept()).await;
    let _connection = asked.expect("it asks for the policy").unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(hanging.child.try_wait().unwrap(), None, "it waits");
    assert_eq!(manager.told(), none, "no policy");
    hanging.child.kill().unwrap();
    hanging.child.wait().unwrap();

    // An agent that takes its time.
    post.attest().await;
    let node = Arc::clone(&post.node);
    let busy = node.lock().await;
    let mut good = start(&post.config(), &[]);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(manager.told(), none, "not shown yet");
    drop(busy);
    good.hear("started").await;
    assert!(good.heard.iter().any(|event| event["event"] == "allowed"));
    assert_eq!(good.ends().await.0, 7, "the command has no such socket");
    assert_eq!(manager.told(), ["READY=1"], "once");
    broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_kills_it_within_the_window() {
    if !able() {
        return;
    }
    let domain = Domain::with(&[("node-1", Boot::GOOD)], &QUICK, &[]);
    let broker = domain.broker().await;
    let mut post = Post::open(&domain).await;
    post.attest().await;
    let mut running = whole_family(|| Running::start(&post.config(), &[], FAMILY)).await;
    broker.shutdown().await.unwrap();
    let begun = Instant::now();
    running.hear("killed").await;
    println!("silence -> dead: {:?}, window 4000 ms", begun.elapsed());
    let (code, reasons) = running.ends().await;
    assert_eq!(code, 122);
    assert!(reasons.contains("trust-state-stale"), "{reasons}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authorization_that_is_not_renewed_kills_it_when_it_runs_out() {
    if !able() {
        return;
    }
    let settings = [
        ("skew_ms", 250),
        ("failover_ms", 100),
        ("freshness_window_ms", 12_000),
        ("attestation_interval_ms", 2_000),
        ("attestation_retry_ms", 500),
        ("attestation_deadline_ms", 12_000),
        ("authorization_life_ms", 12_000),
        ("workload_life_ms", 12_000),
    ];
    let domain = Domain::with(&[("node-1", Boot::GOOD)], &settings, &[]);
    let broker = domain.broker().await;
    let mut post = Post::open(&domain).await;
    // Where this machine stood still for longer than a timer, that ends it first, and it is tried again.
    for _ in 0..10 {
        post.attest().await;
        let old = post.shown.lock().unwrap().clone();
        let mut running = whole_family(|| Running::start(&post.config(), &[], FAMILY)).await;
        let until_ms = running.hear("allowed").await["until_ms"].as_u64().unwrap();
        // The node attests on, so that nothing is withdrawn, but this agent shows what it had.
        while clock::wall_ms() + 1_000 < until_ms {
            post.attest().await;
            post.shown.lock().unwrap().clone_from(&old);
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
        running.hear("killed").await;
        let late = clock::wall_ms().saturating_sub(until_ms);
        println!("expired -> dead: {late} ms, skew bound 250 ms");
        let (code, reasons) = running.ends().await;
        assert_eq!(code, 122);
        if reasons.contains("authorization-expired") {
            broker.shutdown().await.unwrap();
            return;
        }
        assert!(
            reasons.contains("authorization-revoked") || reasons.contains("trust-state-stale"),
            "{reasons}"
        );
    }
    panic!("something else ended it every time");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_agent_renews_it_past_its_first_expiry() {
    if !able() {
        return;
    }
    let settings = [
        ("failover_ms", 100),
        ("freshness_window_ms", 6_000),
        ("attestation_interval_ms", 1_000),
        ("attestation_retry_ms", 500),
        ("attestation_deadline_ms", 12_000),
        ("authorization_life_ms", 12_000),
        ("workload_life_ms", 12_000),
    ];
    let domain = Domain::with(&[("node-1", Boot::GOOD)], &settings, &[]);
    let broker = domain.broker().await;
    let node = Node::start(&Boot::GOOD).await;
    drop(node.desk(&domain, Vec::new()));
    let (config, _swtpm, state) = node.into_agent();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let granted = Arc::new(Mutex::new(false));
    let seen = Arc::clone(&granted);
    let tell = move |event| {
        if matches!(event, agent::AgentEvent::Granted { .. }) {
            *seen.lock().unwrap() = true;
        }
    };
    let agent = tokio::spawn(agent::run(config, tell, async { drop(stopped.await) }));
    eventually("an authorization", || *granted.lock().unwrap()).await;
    let config = state.path().join("agent.toml");
    // Where this machine stood still for as long as an authorization lives, nobody could renew it: it is tried again.
    let begun = Instant::now();
    let running = loop {
        let mut running = whole_family(|| Running::start(&config, &[], FAMILY)).await;
        let first = running.hear("allowed").await["until_ms"].as_u64().unwrap();
        eventually("the first expiry to pass", || clock::wall_ms() > first + 1_000).await;
        if running.alive() == 3 {
            assert!(running.hear("renewed").await["until_ms"].as_u64().unwrap() > first);
            break running;
        }
        assert!(begun.elapsed() < PATIENCE, "it does not run on: {:#?}", running.heard);
        assert_eq!(running.ends().await.0, 122);
    };
    drop(stop);
    agent.await.unwrap().unwrap();
    broker.shutdown().await.unwrap();
    assert_eq!(running.ends().await.0, 122, "and not without them");
}

#[tokio::test(flavor = "multi_thread")]
async fn under_an_authorization_of_its_own_it_falls_alone() {
    if !able() {
        return;
    }
    let domain = Domain::found(&Founding {
        anchors: &["swtpm-localca-rootca-cert.pem", "issuercert.pem"].map(|file| boots().join("ca").join(file)),
        nodes: &[],
        golden: &recorded(&Boot::GOOD),
        settings: &[],
        limits: &[],
        stage: &|repo: &Path| {
            add_node(repo, "node-1", &Boot::GOOD).unwrap();
            let path = repo.join("staged/settings.toml");
            let text = fs::read_to_string(&path).unwrap();
            let line = text.lines().find(|line| line.starts_with("scopes = ")).unwrap();
            let scopes = format!("scopes = [\"{ACTION}:{RESOURCE}\", \"delegate:{RESOURCE}\"]");
            fs::write(&path, text.replace(line, &scopes)).unwrap();
        },
    });
    let broker = domain.broker().await;
    let node = Node::start(&Boot::GOOD).await;
    drop(node.desk(&domain, Vec::new()));
    let (_, _swtpm, state) = node.into_agent();
    let file = state.path().join("agent.toml");
    let own = hex::encode(Sha256::digest(fs::read(env!("CARGO_BIN_EXE_touchstone")).unwrap()));
    let rule = format!(
        "\n[[workloads.rule]]\nlabel = \"reader\"\nuid = 0\nexecutable = \"{own}\"\nscopes = [\"{ACTION}:{RESOURCE}\"]\n"
    );
    fs::write(&file, fs::read_to_string(&file).unwrap() + &rule).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let granted = Arc::new(Mutex::new(false));
    let seen = Arc::clone(&granted);
    let tell = move |event| {
        if matches!(event, agent::AgentEvent::Granted { .. }) {
            *seen.lock().unwrap() = true;
        }
    };
    let config = AgentConfig::load(&file).unwrap();
    let agent = tokio::spawn(agent::run(config, tell, async { drop(stopped.await) }));
    eventually("an authorization", || *granted.lock().unwrap()).await;

    let (code, reasons) = Running::start(&file, &["--workload", "writer"], "true").ends().await;
    assert_eq!(code, 121, "no rule names it: {reasons}");
    let (own, allowed) = let_in(|| Running::start(&file, &["--workload", "reader"], FAMILY)).await;
    assert_eq!(allowed["subject"], "reader@node-1");
    let (nodes, allowed) = let_in(|| Running::start(&file, &[], FAMILY)).await;
    assert_eq!(allowed["subject"], "node-1");
    own.family().await;
    nodes.family().await;
    command_about(&domain, "revoke", ["--workload", "reader@node-1"]).await;
    let (code, reasons) = own.ends().await;
    assert_eq!(code, 122, "{reasons}");
    assert!(reasons.contains("authorization-revoked"), "{reasons}");
    assert_eq!(nodes.alive(), 3, "the node's own goes on");

    // And with its node falls everything below it.
    let (again, _) = let_in(|| Running::start(&file, &["--workload", "reader"], FAMILY)).await;
    again.family().await;
    command(&domain, "revoke").await;
    assert_eq!((again.ends().await.0, nodes.ends().await.0), (122, 122));
    drop(stop);
    agent.await.unwrap().unwrap();
    broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_outlives_a_guard_that_is_killed_or_stopped() {
    if !able() {
        return;
    }
    let domain = Domain::with(&[("node-1", Boot::GOOD)], &QUICK, &[]);
    let broker = domain.broker().await;
    let mut post = Post::open(&domain).await;
    post.attest().await;
    for signal in ["KILL", "STOP"] {
        let mut running = Running::start(&post.config(), &[], FAMILY);
        running.family().await;
        let pid = running.child.id().to_string();
        let sent = Command::new("kill").args([&format!("-{signal}"), &pid]).status();
        assert!(sent.unwrap().success());
        eventually(signal, || running.alive() == 0).await;
        let _ = running.child.kill();
        let _ = running.child.wait();
    }
    broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_reaches_what_policy_names_and_is_cut_off_in_quarantine() {
    if !able() {
        return;
    }
    if !["/usr/sbin/nft", "/sbin/nft"]
        .iter()
        .any(|path| Path::new(path).exists())
    {
        touchstone_vectors::lacking("touchstone exec's network: it takes nftables and iproute2");
        return;
    }
    // An address of this machine that no other test has, on its loopback device.
    let address = format!(
        "10.213.{}.{}",
        std::process::id() % 250,
        (std::process::id() / 250) % 250 + 1
    );
    let address = Loopback::add(address);
    let (named, other) = (serve_lines(&address.0), serve_lines(&address.0));
    let domain = Domain::with(&[("node-1", Boot::GOOD)], &[], &[]);
    let segment = format!("[[segment]]\nscope = \"{ACTION}:{RESOURCE}\"\nallow = [\"tcp {address}:{named}\"]\n");
    fs::write(domain.path("policy").join("staged/network.toml"), segment).unwrap();
    domain.publish();
    let broker = domain.broker().await;
    let mut post = Post::open(&domain).await;
    post.attest().await;
    let said = post.folder.path().join("said");
    let knock =
        |port: u16| format!("timeout 2 bash -c 'exec 3<>/dev/tcp/{address}/{port} && read -u 3 line && echo $line'");
    let script = format!(
        "({} || echo closed) > {said}.other 2>/dev/null; ip link > {said}.links 2>&1; nft flush ruleset 2> {said}.nft; \
         while :; do {} > {said}.now 2>/dev/null || echo closed > {said}.now; cp {said}.now {said}.named; sleep 0.05; done",
        knock(other),
        knock(named),
        said = said.display(),
    );
    let read = |name: &str| fs::read_to_string(format!("{}.{name}", said.display())).unwrap_or_default();
    let mut running = Running::start(&post.config(), &[], &script);
    let segmented = running.hear("segmented").await;
    assert_eq!(segmented["reaches"], json!([format!("tcp {address}:{named}")]));
    eventually("what is named", || read("named").contains("hello")).await;
    assert!(read("other").contains("closed"), "{}", read("other"));
    assert!(!read("nft").is_empty(), "the workload may not change the rules");

    let device = format!("link show tse{}", running.child.id());
    let is_up = || {
        let shown = Command::new("ip").args(device.split(' ')).output().unwrap().stdout;
        String::from_utf8_lossy(&shown).contains(",UP")
    };
    assert!(is_up());
    command(&domain, "quarantine").await;
    running.hear("frozen").await;
    assert!(!is_up(), "the way out is gone, whatever the workload has sent already");
    command(&domain, "lift").await;
    post.attest().await;
    running.hear("thawed").await;
    fs::remove_file(format!("{}.named", said.display())).unwrap();
    eventually("what is named, again", || read("named").contains("hello")).await;

    // Another policy closes it, without a restart.
    let elsewhere = format!("[[segment]]\nscope = \"{ACTION}:payroll\"\nallow = [\"tcp {address}:{named}\"]\n");
    fs::write(domain.path("policy").join("staged/network.toml"), elsewhere).unwrap();
    domain.publish();
    eventually("what is closed", || read("named").contains("closed")).await;
    let pid = running.child.id();
    command(&domain, "revoke").await;
    assert_eq!(running.ends().await.0, 122);
    let tables = Command::new("nft").args(["list", "tables"]).output().unwrap().stdout;
    let left = format!("touchstone_exec_{pid}");
    assert!(!String::from_utf8_lossy(&tables).contains(&left));
    broker.shutdown().await.unwrap();
}

/// An address on the loopback device, taken away again however the test ends.
struct Loopback(String);

impl Loopback {
    fn add(address: String) -> Self {
        assert!(Self::ip("add", &address));
        Self(address)
    }

    fn ip(verb: &str, address: &str) -> bool {
        let arguments = ["addr", verb, &format!("{address}/32"), "dev", "lo"];
        Command::new("ip").args(arguments).status().unwrap().success()
    }
}

impl std::fmt::Display for Loopback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Drop for Loopback {
    fn drop(&mut self) {
        let _ = Self::ip("del", &self.0);
    }
}

/// Says hello to everybody who connects; gives the port.
fn serve_lines(address: &str) -> u16 {
    use std::io::Write as _;
    let listener = std::net::TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = { stream }.write_all(b"hello\n");
        }
    });
    port
}
