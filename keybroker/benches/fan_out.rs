//! From tampered evidence arriving at a broker to the refusal at the last of 1,000 and of 10,000 connected enforcers.
//!
//! `cargo bench -p touchstone-keybroker --bench fan_out`. The broker is a process of its own, the real one over its real
//! HTTPS interface; all enforcers are in this process, on the same cores. The first 100, and of 1,000 in a second run all,
//! are whole enforcers: the follower that guards use, verifying every frame, and the decision about an authorization that was
//! let in. The others read every frame as it comes off TLS and check its form and order.
//!
//! In the same run are measured: the raw fan-out of such a frame over the same connections, until its bytes are read by the
//! last, with no evidence and nothing checked; raw Ed25519 verifications, as many as there are connections, over all cores; what
//! one whole enforcer does with a frame; how long it takes until all who connect at once follow; and the broker's memory.
//!
//! `FAN_OUT=1000` or `10000` runs one of them, `FAN_OUT_ROUNDS=20` so many rounds.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a benchmark"
)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::client::Client;
use common::tpm::SoftNode;
use common::{DOMAIN, Domain};
use rustix::time::{ClockId, clock_gettime};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use touchstone_authorization::chain::{UntrustedChain, VerifiedChain};
use touchstone_authorization::decide::redecide;
use touchstone_authorization::request::OfflineLimits;
use touchstone_authorization::{Body, ChannelPolicy, Enforcer, KeyRing, TrustFrame, TrustView, TrustedKey};
use touchstone_client::follow::{FollowConfig, Follower, OWN_STREAM, Source, Time};
use touchstone_client::{Endpoint, backoff_ms, pinned_config};
use touchstone_cose::key::{Signer as _, SigningKey};
use touchstone_keybroker::clock::Clock;
use touchstone_keybroker::config::Config;
use touchstone_keybroker::service::Broker;
use touchstone_policies::{Job, Keyset};

const SERVE: &str = "FAN_OUT_SERVE";
/// The window is long, so that a slow machine measures and does not go stale.
const WINDOW_MS: u64 = 60_000;

fn main() {
    if let Some(config) = std::env::var_os(SERVE) {
        return serve(&std::fs::read_to_string(config).unwrap());
    }
    let sizes: Vec<usize> = match std::env::var("FAN_OUT") {
        Ok(size) => vec![size.parse().unwrap()],
        Err(_) => vec![1_000, 10_000],
    };
    let profile = if cfg!(debug_assertions) {
        "with debug assertions (a profile built on dev)"
    } else {
        "without debug assertions (release)"
    };
    println!("our crates are built {profile}; {} cores", cores());
    for size in sizes {
        let raw_ms = measure(size, 100, None);
        if size <= 1_000 {
            measure(size, size, Some(raw_ms));
        }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Nanoseconds of the machine's own clock, the same in every process.
fn now_ns() -> u64 {
    let at = clock_gettime(ClockId::Monotonic);
    u64::try_from(at.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(at.tv_nsec).unwrap()
}

// The broker's process.

fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}

fn serve(config: &str) {
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let broker = runtime.block_on(Broker::start(Config::parse(config).unwrap())).unwrap();
    let mut out = std::io::stdout();
    let mut say = |line: String| {
        writeln!(out, "{line}").unwrap();
        out.flush().unwrap();
    };
    say(broker.address().to_string());
    let (trust, clock) = (Arc::clone(&broker.app().trust), broker.app().clock);
    for command in std::io::stdin().lock().lines() {
        match command.unwrap().as_str() {
            // A frame as a withdrawal sends it, and nothing else: no evidence, no decision, no statement.
            "raw" => {
                let place = trust.deal().unwrap();
                let begun = now_ns();
                let gone = trust.withdraw(&[place], clock.now_ms()).unwrap();
                trust.durable(gone);
                say(begun.to_string());
            }
            "streams" => say(trust.subscribers().to_string()),
            "memory" => say(resident_kb().to_string()),
            _ => break,
        }
    }
    std::process::exit(0);
}

fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

struct Server {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl Server {
    fn start(domain: &Domain) -> Self {
        let file = domain.path("broker.toml");
        let path = |name: &str| toml::Value::String(domain.path(name).to_str().unwrap().into()).to_string();
        let text = format!(
            "data_dir = {}\nlisten = \"127.0.0.1:0\"\npolicy = {}\npolicy_root = {{ file = {} }}\ndomain = \"{DOMAIN}\"\n\
             [limits]\nhead_ms = 600000\nhandshake_ms = 60000\n",
            path("data"),
            path("policy"),
            path("root.json"),
        );
        std::fs::write(&file, text).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(SERVE, &file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        Self {
            input: child.stdin.take().unwrap(),
            output,
            address: line.trim().parse().unwrap(),
            child,
        }
    }

    fn ask(&mut self, command: &str) -> u64 {
        writeln!(self.input, "{command}").unwrap();
        self.input.flush().unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// The enforcers.

/// One round: how many have what is waited for, and when the last of them had it.
#[derive(Default)]
struct Round {
    armed: AtomicBool,
    /// Bytes of a frame that takes something away were read.
    read: AtomicUsize,
    read_ns: AtomicU64,
    /// It was checked, and what rested on it is refused.
    refused: AtomicUsize,
    refused_ns: AtomicU64,
    connected: AtomicUsize,
    attempts: AtomicUsize,
    bytes: AtomicU64,
    /// What one whole enforcer did with a frame, summed over all.
    whole_ns: AtomicU64,
    whole_frames: AtomicU64,
}

impl Round {
    fn arm(&self) {
        for counter in [&self.read, &self.refused] {
            counter.store(0, Ordering::SeqCst);
        }
        for at in [&self.read_ns, &self.refused_ns] {
            at.store(0, Ordering::SeqCst);
        }
        self.armed.store(true, Ordering::SeqCst);
    }

    fn note(&self, count: &AtomicUsize, at: &AtomicU64, ns: u64) {
        if self.armed.load(Ordering::SeqCst) {
            at.fetch_max(ns, Ordering::SeqCst);
            count.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// What whole enforcers let in, and under which keys.
struct LetIn {
    chain: RwLock<Option<Arc<VerifiedChain>>>,
    keys: KeyRing,
}

fn ring(keyset: &Keyset, job: Job) -> KeyRing {
    let keys = keyset.keys.iter().filter(|entry| entry.job == job);
    KeyRing::new(keys.map(trusted)).unwrap()
}

fn trusted(entry: &touchstone_policies::keyset_file::KeysetEntry) -> TrustedKey {
    TrustedKey {
        key: entry.key.clone(),
        not_before: entry.not_before,
        not_after: entry.not_after,
    }
}

/// A whole enforcer.
async fn whole(source: Source, let_in: Arc<LetIn>, round: Arc<Round>, follows: Arc<AtomicUsize>) {
    let follower = Follower::start(source);
    let clock = follower.clock();
    let mut views = follower.views();
    let mut epoch = 0;
    let mut first = true;
    let mut refused = None;
    while views.changed().await.is_ok() {
        let view = views.borrow_and_update().clone().unwrap();
        let begun = now_ns();
        if first {
            first = false;
            round.connected.fetch_add(1, Ordering::SeqCst);
            follows.fetch_add(1, Ordering::SeqCst);
        }
        if view.head().epoch == epoch {
            continue;
        }
        epoch = view.head().epoch;
        let Some(chain) = let_in.chain.read().unwrap().clone() else {
            continue;
        };
        let enforcer = Enforcer {
            id: "guard",
            domain: DOMAIN,
            keys: &let_in.keys,
            skew_ms: 500,
            window_ms: WINDOW_MS,
            requires_channel: ChannelPolicy::Challenge,
            region: None,
            purpose: None,
            offline: OfflineLimits::NONE,
        };
        let Ok(now_ms) = clock.now_ms() else { continue };
        let decided = redecide(&chain, Some(&view), &enforcer, now_ms);
        let done = now_ns();
        round.whole_ns.fetch_add(done - begun, Ordering::SeqCst);
        round.whole_frames.fetch_add(1, Ordering::SeqCst);
        if decided.is_err() && refused != Some(*chain.digest()) {
            refused = Some(*chain.digest());
            round.note(&round.refused, &round.refused_ns, done);
        }
    }
}

/// One that reads every frame and checks form and order only.
async fn light(n: usize, address: SocketAddr, config: Arc<ClientConfig>, round: Arc<Round>) {
    let mut failures = 0;
    loop {
        round.attempts.fetch_add(1, Ordering::SeqCst);
        let opened = tokio::time::timeout(Duration::from_secs(5), open(n, address, &config)).await;
        match opened {
            Ok(Ok(stream)) => {
                if read(stream, &round).await.is_none() {
                    eprintln!("enforcer {n} lost its stream");
                }
                failures = 0;
            }
            _ => failures += 1,
        }
        let pause = backoff_ms(failures.max(1), getrandom::u64().unwrap());
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}

async fn open(n: usize, address: SocketAddr, config: &Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let socket = TcpSocket::new_v4()?;
    // Several addresses, so that no port of one runs out.
    let last = u8::try_from(2 + n % 16).unwrap();
    socket.bind((Ipv4Addr::new(127, 0, 0, last), 0).into())?;
    let tcp = socket.connect(address).await?;
    tcp.set_nodelay(true)?;
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = TlsConnector::from(Arc::clone(config)).connect(name, tcp).await?;
    let request = format!("GET {OWN_STREAM}?subscriber=light-{n} HTTP/1.1\r\nhost: broker\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    Ok(stream)
}

/// Reads frames until the stream ends.
async fn read(mut stream: TlsStream<TcpStream>, round: &Round) -> Option<()> {
    let mut buffer: Vec<u8> = Vec::new();
    let mut chunk = [0u8; 2048];
    let mut last_base = 0;
    let mut first = true;
    loop {
        let count = stream.read(&mut chunk).await.ok().filter(|count| *count > 0)?;
        let at = now_ns();
        round.bytes.fetch_add(count as u64, Ordering::Relaxed);
        buffer.extend_from_slice(&chunk[..count]);
        while let Some((frame, rest)) = event(&buffer) {
            let frame = URL_SAFE_NO_PAD.decode(frame).ok()?;
            buffer.drain(..rest);
            let frame = TrustFrame::parse(&frame).ok()?;
            match frame.body {
                Body::Full { .. } if first => {
                    first = false;
                    round.connected.fetch_add(1, Ordering::SeqCst);
                }
                Body::Delta { base_epoch, .. } => {
                    assert!(base_epoch >= last_base, "out of order");
                    last_base = base_epoch;
                    round.note(&round.read, &round.read_ns, at);
                    round.note(&round.refused, &round.refused_ns, now_ns());
                }
                _ => {}
            }
        }
    }
}

/// The data of the first whole event in `buffer`, and where the next begins.
fn event(buffer: &[u8]) -> Option<(&[u8], usize)> {
    const BEFORE: &[u8] = b"\ndata: ";
    let from = buffer.windows(BEFORE.len()).position(|bytes| bytes == BEFORE)? + BEFORE.len();
    let length = buffer[from..].iter().position(|byte| *byte == b'\n')?;
    Some((&buffer[from..from + length], from + length))
}

// What is measured.

struct Figures(Vec<f64>);

impl Figures {
    fn of(mut all: Vec<f64>) -> Self {
        all.sort_by(f64::total_cmp);
        Self(all)
    }

    /// The smallest that so many hundredths of all do not exceed.
    fn at(&self, hundredths: usize) -> f64 {
        let rank = (self.0.len() * hundredths).div_ceil(100).max(1);
        self.0[rank - 1]
    }

    fn line(&self) -> String {
        let max = self.0[self.0.len() - 1];
        format!(
            "p50 {:>8.1} ms   p99 {:>8.1} ms   max {max:>8.1} ms   ({} rounds)",
            self.at(50),
            self.at(99),
            self.0.len()
        )
    }
}

/// Measures, and gives the median of the raw fan-out in milliseconds. Where all are whole there is nobody who reads without
/// verifying: then it is that of the run before, `raw_before`.
fn measure(size: usize, whole_ones: usize, raw_before: Option<f64>) -> f64 {
    raise_file_limit();
    println!("\n{size} enforcers, {whole_ones} of them whole");
    let mut node = SoftNode::new("good");
    let window = WINDOW_MS.to_string();
    let settings = [
        ("freshness_window_ms", window.as_str()),
        ("attestation_deadline_ms", "600000"),
        ("authorization_life_ms", "1200000"),
    ];
    let domain = Domain::new(&[("node-1", &node)], &settings);
    let mut server = Server::start(&domain);
    let keyset = Keyset::parse(&std::fs::read(domain.path("data/keyset.json")).unwrap()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let let_in = Arc::new(LetIn {
        chain: RwLock::default(),
        keys: ring(&keyset, Job::Authorization),
    });
    let round = Arc::new(Round::default());
    let pins: Vec<TrustedKey> = keyset.keys(Job::Tls, common::now()).map(trusted).collect();
    let tls = pinned_config(&pins).unwrap();

    let empty_kb = server.ask("memory");
    let begun = Instant::now();
    let follows = Arc::new(AtomicUsize::new(0));
    for n in 0..size {
        if n < whole_ones {
            let source = Source {
                brokers: vec![Endpoint::parse(&server.address.to_string()).unwrap()],
                tls: Arc::clone(&tls),
                config: FollowConfig {
                    domain: DOMAIN.into(),
                    subscriber: format!("whole-{n}"),
                    keys: ring(&keyset, Job::TrustState),
                    skew_ms: 60_000,
                    route: OWN_STREAM.into(),
                    time: Time::Asked,
                    floor: None,
                },
            };
            let (let_in, round, follows) = (Arc::clone(&let_in), Arc::clone(&round), Arc::clone(&follows));
            runtime.spawn(whole(source, let_in, round, follows));
        } else {
            runtime.spawn(light(n, server.address, Arc::clone(&tls), Arc::clone(&round)));
        }
    }
    wait("all to follow", Duration::from_secs(300), || {
        round.connected.load(Ordering::SeqCst) >= size
    });
    let connected = begun.elapsed();
    // Those that were told of a time on another connection have closed it.
    std::thread::sleep(Duration::from_secs(2));
    let full_kb = server.ask("memory");
    assert_eq!(server.ask("streams"), size as u64);
    println!(
        "all that connected at once follow after {connected:.1?}; connections tried by those that are not whole: {}",
        round.attempts.load(Ordering::SeqCst)
    );
    println!(
        "broker memory for each: {:.1} KB, limit 30 KB",
        (full_kb as f64 - empty_kb as f64) * 1.024 / size as f64
    );

    let rounds: usize = std::env::var("FAN_OUT_ROUNDS").map_or(30, |rounds| rounds.parse().unwrap());
    let verifying_ms = raw_verifications(size);
    let (mut raw, mut real, mut known) = (Vec::new(), Vec::new(), false);
    let mut frame_bytes = 0;
    for _ in 0..rounds {
        // Nothing is let in here: the frame alone.
        *let_in.chain.write().unwrap() = None;
        let before = round.bytes.load(Ordering::SeqCst);
        round.arm();
        let begun_ns = server.ask("raw");
        let light_ones = size - whole_ones;
        // Whole ones verify what they read before anybody sees it: they are not in the raw figure.
        if light_ones > 0 {
            wait("a raw frame", Duration::from_secs(60), || {
                round.read.load(Ordering::SeqCst) >= light_ones
            });
            raw.push((round.read_ns.load(Ordering::SeqCst) - begun_ns) as f64 / 1e6);
            frame_bytes = (round.bytes.load(Ordering::SeqCst) - before) / light_ones as u64;
        }
        round.armed.store(false, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(200));

        // Let in, then tampered with.
        let (authorization, submission, mut client) = runtime.block_on(async {
            let mut client = Client::connect(server.address).await;
            let answer = common::attest(&mut client, &mut node, known).await.unwrap();
            assert!(answer.allowed);
            let kept = node.values.clone();
            node.extend(7);
            let challenge = client.hello(&node.hello(true)).await.unwrap();
            let submission = node.answer(DOMAIN, &challenge, client.export(&challenge.nonce));
            node.values = kept;
            (answer.authorization.unwrap(), submission, client)
        });
        known = true;
        let now_ms = Clock::start().now_ms();
        let chain = UntrustedChain::parse(&authorization)
            .unwrap()
            .verify(&let_in.keys, now_ms)
            .unwrap();
        *let_in.chain.write().unwrap() = Some(Arc::new(chain));
        // What that changed has been seen by all.
        std::thread::sleep(Duration::from_millis(500));
        round.arm();
        let begun_ns = now_ns();
        let denied = runtime.block_on(client.submit(&submission)).unwrap();
        assert!(!denied.allowed);
        wait("the last refusal", Duration::from_secs(60), || {
            round.refused.load(Ordering::SeqCst) >= size
        });
        real.push((round.refused_ns.load(Ordering::SeqCst) - begun_ns) as f64 / 1e6);
        round.armed.store(false, Ordering::SeqCst);
    }
    let (raw, real) = (Figures::of(raw), Figures::of(real));
    println!("evidence arrives → last refusal     {}", real.line());
    let raw_ms = match raw_before {
        Some(before) => {
            println!("raw fan-out of the frame            p50 {before:>8.1} ms   (of the run before)");
            before
        }
        None => {
            println!("raw fan-out of the frame            {}", raw.line());
            raw.at(50)
        }
    };
    println!(
        "{size} raw Ed25519 verifications over {} cores: {verifying_ms:.1} ms",
        cores()
    );
    let bound = 1.5 * (raw_ms + verifying_ms);
    println!(
        "p99 {:.1} ms, bound 1.5 x ({:.1} + {verifying_ms:.1}) = {bound:.1} ms: ratio to the sum {:.2}",
        real.at(99),
        raw_ms,
        real.at(99) / (raw_ms + verifying_ms)
    );
    let each_ms = accept_ms(&domain, &keyset);
    let more_ms = (size - whole_ones) as f64 * each_ms / cores() as f64;
    println!(
        "a whole enforcer verifies and takes a frame in {:.3} ms; computed for {size} whole ones: p99 {:.1} ms",
        each_ms,
        real.at(99) + more_ms
    );
    if frame_bytes > 0 {
        println!("bytes to each for one withdrawal: {frame_bytes}");
    }
    println!(
        "a decision about what was let in, at whole enforcers: {:.3} ms on average, waiting for a core included",
        round.whole_ns.load(Ordering::SeqCst) as f64 / round.whole_frames.load(Ordering::SeqCst).max(1) as f64 / 1e6
    );
    runtime.shutdown_background();
    raw_ms
}

fn wait(what: &str, patience: Duration, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < patience, "waited {patience:?} for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// So many raw verifications spread over the cores, in milliseconds.
fn raw_verifications(count: usize) -> f64 {
    let key = SigningKey::from_seed([5; 32]);
    let message = [7; 400];
    let signature = key.sign(&message).unwrap();
    let verifying = key.verifying_key();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for core in 0..cores() {
            let (verifying, signature) = (&verifying, &signature);
            scope.spawn(move || {
                for _ in (core..count).step_by(cores()) {
                    verifying.verify(&message, signature).unwrap();
                }
            });
        }
    });
    begun.elapsed().as_secs_f64() * 1e3
}

/// What it costs to verify and take one delta, by itself, in milliseconds.
fn accept_ms(domain: &Domain, keyset: &Keyset) -> f64 {
    use touchstone_keybroker::trust::{Facts, Start, Trust, new_lists};
    const TIMES: u32 = 200;
    let keys = touchstone_keybroker::keys::BrokerKeys::load(&domain.path("data")).unwrap();
    let now_ms = Clock::start().now_ms();
    let start = Start {
        facts: Facts {
            domain: DOMAIN.into(),
            generation: 1,
            term: 1,
            policy_version: 1,
            policy_digest: [1; 32],
            keyset_version: 1,
            window_ms: WINDOW_MS,
        },
        lists: new_lists().unwrap(),
        dealt: 0,
        unused: Vec::new(),
        epoch: 1,
        epoch_limit: 10_000,
        ledger: (1, [0; 32]),
        kept_back: Default::default(),
        revoked: Default::default(),
    };
    let trust = Trust::start(start, Arc::clone(&keys.trust_state), now_ms).unwrap();
    let place = trust.deal().unwrap();
    trust.granted(&[place], (2, [1; 32]), now_ms).unwrap();
    let ring = ring(keyset, Job::TrustState);
    let (first, mut frames) = trust.subscribe();
    let view = TrustView::accept(None, &first.bytes, &ring, DOMAIN, now_ms).unwrap();
    let gone = trust.withdraw(&[place], now_ms).unwrap();
    trust.durable(gone);
    let frame = frames.try_recv().unwrap();
    let begun = Instant::now();
    for _ in 0..TIMES {
        TrustView::accept(Some(&view), &frame.bytes, &ring, DOMAIN, now_ms).unwrap();
    }
    begun.elapsed().as_secs_f64() * 1e3 / f64::from(TIMES)
}
