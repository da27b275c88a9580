//! What a whole re-attestation costs the broker, by process accounting: TLS kept alive, hello to answer, the durable
//! statement, receipt, authorization and trust state included. Beside it, measured in the same run, the raw costs that
//! no broker can avoid.
//!
//! `cargo bench --bench reattestation` (needs swtpm; the broker is the real binary in a process of its own).

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a benchmark")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use touchstone_attest::agent::attester::Attester;
use touchstone_attest::agent::config::TpmConfig;
use touchstone_attest::agent::owner::TpmOwner;
use touchstone_attest::agent::round::{RoundContext, attest};
use touchstone_attest::agent::state::StateDir;
use touchstone_attest::agent::tails::LogPaths;
use touchstone_attest::client::Endpoint;
use touchstone_attest::software_tpm::{STATE_FILE, SoftwareTpm};
use touchstone_attest::trust::DomainTrust;
use touchstone_cose::key::SigningKey;
use touchstone_verifier::eventlog::EventLog;
use touchstone_verifier::tpm::algorithm::HashAlg;

const DOMAIN: &str = "bench.example";
const WARM_UP: usize = 20;
const ROUNDS: usize = 400;

fn boots() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("swtpm-tests/boots")
}

fn touchstone(arguments: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_touchstone"))
        .args(arguments)
        .output()
        .expect("runs");
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// CPU nanoseconds of every thread of a process, by the scheduler's own account.
fn cpu_ns(pid: u32) -> u64 {
    std::fs::read_dir(format!("/proc/{pid}/task"))
        .expect("threads")
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|stat| stat.split_whitespace().next()?.parse::<u64>().ok())
        .sum()
}

struct Broker(Child);

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn found(folder: &Path) -> (Broker, String) {
    let (repo, keys, data) = (folder.join("repo"), folder.join("keys"), folder.join("broker"));
    let good = boots().join("good");
    let ca = boots().join("ca");
    touchstone(&["policy", "init", text(&repo), "--domain", DOMAIN, "--keys", text(&keys)]);
    let (root, issuer) = (ca.join("swtpm-localca-rootca-cert.pem"), ca.join("issuercert.pem"));
    touchstone(&[
        "policy",
        "trust",
        "add",
        text(&repo),
        "--ca",
        text(&root),
        text(&issuer),
    ]);
    let ek = good.join("ek-rsa-cert.der");
    touchstone(&[
        "policy",
        "node",
        "add",
        text(&repo),
        "node-1",
        "--ek-cert",
        text(&ek),
        "--region",
        "eu-1",
    ]);
    let evidence = folder.join("golden.evidence");
    touchstone(&[
        "evidence",
        "pack",
        "--tpm-quote",
        text(&good.join("quote-rsa/quote.msg")),
        "--tpm-signature",
        text(&good.join("quote-rsa/quote.sig")),
        "--tpm-pcrs",
        text(&good.join("quote-rsa/quote.pcrs")),
        "--tpm-ak",
        text(&good.join("ak-rsa.pub")),
        "--event-log",
        text(&good.join("eventlog.bin")),
        "-o",
        text(&evidence),
    ]);
    touchstone(&["reference", "add", text(&repo), "--evidence", text(&evidence)]);
    let config = folder.join("broker.toml");
    let toml = format!(
        "domain = \"{DOMAIN}\"\ndata_dir = {data:?}\npolicy = {repo:?}\nlisten = \"127.0.0.1:0\"\npolicy_root = {{ file = {:?} }}\n",
        folder.join("root.json")
    );
    std::fs::write(&config, toml).expect("writes");
    touchstone(&["broker", "init", "--config", text(&config)]);
    touchstone(&["policy", "keyset", "add", text(&repo), text(&data.join("keyset.json"))]);
    touchstone(&["policy", "publish", text(&repo), "--keys", text(&keys)]);
    std::fs::copy(repo.join("metadata/1.root.json"), folder.join("root.json")).expect("copies");
    let mut child = Command::new(env!("CARGO_BIN_EXE_touchstone"))
        .args(["broker", "run", "--json", "--config", text(&config)])
        .env("TSS2_LOG", "all+none")
        .stdout(Stdio::piped())
        .spawn()
        .expect("a broker");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("its output");
    let mut reader = std::io::BufReader::new(stdout);
    std::io::BufRead::read_line(&mut reader, &mut line).expect("a line");
    let event: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
    (
        Broker(child),
        format!("https://{}", event["address"].as_str().expect("an address")),
    )
}

fn node(folder: &Path) -> SoftwareTpm {
    let tpm = SoftwareTpm::start(&boots().join("good/tpm-state").join(STATE_FILE)).expect("swtpm");
    let log = std::fs::read(boots().join("good/eventlog.bin")).expect("log");
    let log = EventLog::parse(&log).expect("a log");
    let measurements: Vec<_> = log
        .events()
        .iter()
        .filter(|event| event.is_extended())
        .map(|event| {
            let digests = [HashAlg::Sha1, HashAlg::Sha256]
                .map(|bank| (bank.tpm_id(), event.digest(bank).expect("both banks").to_vec()));
            (u8::try_from(event.pcr).expect("a register"), digests.to_vec())
        })
        .collect();
    tpm.extend(&measurements).expect("extends");
    std::fs::create_dir_all(folder).expect("folder");
    tpm
}

/// The median of `runs` timings of `work`.
fn median(runs: usize, mut work: impl FnMut()) -> Duration {
    let mut times: Vec<Duration> = (0..runs)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed()
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

fn main() {
    let folder = tempfile::tempdir().expect("folder");
    let (broker, address) = found(folder.path());
    let tpm = node(folder.path());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime");
    let (cpu, wall) = runtime.block_on(rounds(folder.path(), &tpm, &address, broker.0.id()));

    let log = std::fs::read(boots().join("good/eventlog.bin")).expect("log");
    let sha = median(200, || {
        std::hint::black_box(HashAlg::Sha256.digest([log.as_slice()]));
    });
    let key = SigningKey::from_seed([7; 32]);
    let sign = median(200, || {
        std::hint::black_box(touchstone_cose::key::Signer::sign(&key, &[1; 400]).expect("signs"));
    });
    let file = std::fs::File::create(folder.path().join("fsync")).expect("file");
    let fsync = median(100, || {
        std::io::Write::write_all(&mut &file, &[0; 4096]).expect("writes");
        file.sync_data().expect("syncs");
    });
    println!(
        "re-attestation, broker CPU       {:>8.1} µs   budget 400 µs, ratio {:.2}",
        cpu,
        cpu / 400.0
    );
    println!(
        "re-attestation, wall, TPM included {:>6.1} ms",
        wall.as_secs_f64() * 1e3
    );
    println!("raw SHA-256 of the 14.8 KB log   {:>8.1} µs", sha.as_secs_f64() * 1e6);
    println!("raw Ed25519 signature            {:>8.1} µs", sign.as_secs_f64() * 1e6);
    println!("raw 4 KiB write and fdatasync    {:>8.1} µs", fsync.as_secs_f64() * 1e6);
    println!(
        "ratio to (4 signatures + SHA-256 + fdatasync): {:.2}",
        cpu / ((4 * sign + sha + fsync).as_secs_f64() * 1e6)
    );
}

async fn rounds(folder: &Path, tpm: &SoftwareTpm, address: &str, broker: u32) -> (f64, Duration) {
    let (repo, root) = (folder.join("repo"), folder.join("root.json"));
    let trust = DomainTrust::load(&repo, &root, DOMAIN, touchstone_attest::clock::wall_seconds())
        .await
        .expect("policy");
    let registers = trust.policy.settings.appraisal.session_key_registers.to_wire();
    let config = TpmConfig {
        tcti: tpm.tcti(),
        ..TpmConfig::default()
    };
    let state = StateDir::open(&folder.join("node")).expect("state");
    let for_tpm = registers.clone();
    let owner = TpmOwner::start(move || Attester::open(&config, &state, &for_tpm))
        .await
        .expect("thread")
        .expect("TPM");
    let mut client = trust.client(vec![Endpoint::parse(address).expect("address")]);
    let mut context = RoundContext {
        domain: DOMAIN.into(),
        logs: LogPaths {
            event_log: boots().join("good/eventlog.bin"),
            ima_list: folder.join("no-ima-list"),
            boot_id: touchstone_attest::logs::BOOT_ID.into(),
        },
        whole: false,
        known: false,
        session_registers: registers,
    };
    let mut before = 0;
    let mut started = Instant::now();
    for round in 0..WARM_UP + ROUNDS {
        if round == WARM_UP {
            before = cpu_ns(broker);
            started = Instant::now();
        }
        let answer = attest(&mut client, &owner, &context).await.expect("an answer");
        assert!(answer.allowed, "{:?}", answer.reasons);
        context.known = true;
    }
    let wall = started.elapsed() / u32::try_from(ROUNDS).expect("few");
    (((cpu_ns(broker) - before) as f64) / ROUNDS as f64 / 1e3, wall)
}
