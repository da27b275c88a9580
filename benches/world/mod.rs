//! What benchmarks of the whole broker share: a domain made by the real commands, the real broker in a process of its own,
//! a node with a software TPM, and the scheduler's account of the broker's CPU.

#![allow(
    dead_code,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a benchmark; each uses its part"
)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use touchstone_attest::agent::attester::Attester;
use touchstone_attest::agent::config::TpmConfig;
use touchstone_attest::agent::owner::TpmOwner;
use touchstone_attest::agent::round::{RoundContext, attest};
use touchstone_attest::agent::state::StateDir;
use touchstone_attest::agent::tails::LogPaths;
use touchstone_attest::client::{BrokerClient, Endpoint};
use touchstone_attest::software_tpm::{STATE_FILE, SoftwareTpm};
use touchstone_attest::trust::DomainTrust;
use touchstone_verifier::eventlog::EventLog;
use touchstone_verifier::tpm::algorithm::HashAlg;

pub const DOMAIN: &str = "bench.example";

pub fn boots() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("swtpm-tests/boots")
}

pub fn touchstone(arguments: &[&str]) {
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

pub fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// CPU nanoseconds of every thread of a process, by the scheduler's own account.
pub fn cpu_ns(pid: u32) -> u64 {
    std::fs::read_dir(format!("/proc/{pid}/task"))
        .expect("threads")
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|stat| stat.split_whitespace().next()?.parse::<u64>().ok())
        .sum()
}

/// What part of a process's CPU time was spent in the kernel so far, in clock ticks: (kernel, all).
pub fn kernel_ticks(pid: u32) -> (u64, u64) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    let after_name = stat.rsplit_once(") ").expect("a name").1;
    let field = |nth: usize| after_name.split(' ').nth(nth).and_then(|n| n.parse::<u64>().ok());
    let (user, kernel) = (field(11).expect("utime"), field(12).expect("stime"));
    (kernel, user + kernel)
}

/// The share of a core that a process takes while nobody asks it for anything.
pub async fn at_rest(pid: u32) -> f64 {
    let (before, started) = (cpu_ns(pid), std::time::Instant::now());
    tokio::time::sleep(AT_REST).await;
    (cpu_ns(pid) - before) as f64 / started.elapsed().as_nanos() as f64
}

/// How long rest is looked at.
const AT_REST: Duration = Duration::from_secs(5);

/// How many rounds: the number given, or `otherwise`.
pub fn rounds_or(otherwise: usize) -> usize {
    let given = std::env::args().skip(1).find_map(|word| word.parse().ok());
    given.unwrap_or(otherwise)
}

/// CPU time of this thread.
fn thread_cpu() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(now.tv_sec).unwrap_or(0),
        u32::try_from(now.tv_nsec).unwrap_or(0),
    )
}

/// The mean CPU time of `work` over `runs`, in microseconds: what is measured of the broker is CPU time too.
pub fn cpu_us(runs: u32, mut work: impl FnMut()) -> f64 {
    work();
    let before = thread_cpu();
    (0..runs).for_each(|_| work());
    (thread_cpu() - before).as_secs_f64() * 1e6 / f64::from(runs)
}

/// What no broker can avoid, in microseconds of CPU, measured in this process and shown.
pub struct Floor {
    pub sign: f64,
    pub verify: f64,
    pub verify_p256: f64,
    pub encrypt: f64,
    pub sha: f64,
    pub sync: f64,
}

impl Floor {
    /// Measures; `folder` is on the disk that the broker writes to.
    pub fn measure(folder: &Path) -> Self {
        use std::hint::black_box;
        use touchstone_cose::encrypt::{SoftwareReceiveKey, encrypt};
        use touchstone_cose::key::{Signer as _, SigningKey, VerifyingKey};
        let message = [1; 400];
        let key = SigningKey::from_seed([7; 32]);
        let (public, signature) = (key.verifying_key(), key.sign(&message).expect("signs"));
        let receive = SoftwareReceiveKey::generate().expect("a key");
        let (p256, p256_signature) = p256_signature(&message);
        let p256 = VerifyingKey::from_spki_der(&p256).expect("a key");
        let log = std::fs::read(boots().join("good/eventlog.bin")).expect("log");
        let file = std::fs::File::create(folder.join("sync")).expect("file");
        let floor = Self {
            sign: cpu_us(300, || drop(black_box(key.sign(&message).expect("signs")))),
            verify: cpu_us(300, || public.verify(&message, &signature).expect("verifies")),
            verify_p256: cpu_us(300, || p256.verify(&message, &p256_signature).expect("verifies")),
            encrypt: cpu_us(300, || {
                drop(black_box(
                    encrypt(receive.public(), [0; 8], "t", &[1; 64], &[0; 32]).expect("encrypts"),
                ));
            }),
            sha: cpu_us(300, || {
                let _ = black_box(HashAlg::Sha256.digest([log.as_slice()]));
            }),
            sync: cpu_us(200, || {
                std::os::unix::fs::FileExt::write_all_at(&file, &[1; 4096], 0).expect("writes");
                file.sync_data().expect("syncs");
            }),
        };
        println!("raw Ed25519 signature             {:>8.1} µs", floor.sign);
        println!("raw Ed25519 verification          {:>8.1} µs", floor.verify);
        println!("raw P-256 verification            {:>8.1} µs", floor.verify_p256);
        println!("raw ECDH-ES + A256KW + A256GCM    {:>8.1} µs", floor.encrypt);
        println!("raw SHA-256 of the 14.8 KB log    {:>8.1} µs", floor.sha);
        println!("raw 4 KiB write and fdatasync     {:>8.1} µs", floor.sync);
        floor
    }
}

/// A P-256 key as SubjectPublicKeyInfo, and its signature, r || s.
fn p256_signature(message: &[u8]) -> (Vec<u8>, Vec<u8>) {
    use aws_lc_rs::encoding::AsDer as _;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
    let public = key.public_key().as_der().expect("its form").as_ref().to_vec();
    let signature = key
        .sign(&SystemRandom::new(), message)
        .expect("signs")
        .as_ref()
        .to_vec();
    (public, signature)
}

/// The broker's process.
pub struct Broker(pub Child);

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A published domain and its broker, with `more` at the end of its configuration.
pub fn found(folder: &Path, more: &str) -> (Broker, String) {
    found_with(folder, more, |_| ())
}

/// The same with more staged before it is published.
pub fn found_with(folder: &Path, more: &str, stage: impl Fn(&Path)) -> (Broker, String) {
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
        "domain = \"{DOMAIN}\"\ndata_dir = {data:?}\npolicy = {repo:?}\nlisten = \"127.0.0.1:0\"\npolicy_root = {{ file = {:?} }}\n{more}",
        folder.join("root.json")
    );
    std::fs::write(&config, toml).expect("writes");
    touchstone(&["broker", "init", "--config", text(&config)]);
    touchstone(&["policy", "keyset", "add", text(&repo), text(&data.join("keyset.json"))]);
    stage(&repo);
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

pub fn node(folder: &Path) -> SoftwareTpm {
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

/// A node of the domain and a connection to the broker, before the first attestation.
pub async fn attester(
    folder: &Path,
    tpm: &SoftwareTpm,
    address: &str,
) -> (DomainTrust, TpmOwner, BrokerClient, RoundContext) {
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
    let client = trust.client(vec![Endpoint::parse(address).expect("address")]);
    let context = RoundContext {
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
    (trust, owner, client, context)
}

/// One attestation; gives the authorization.
pub async fn authorization(client: &mut BrokerClient, owner: &TpmOwner, context: &mut RoundContext) -> Vec<u8> {
    let answer = attest(client, owner, context).await.expect("an answer");
    assert!(answer.allowed, "{:?}", answer.reasons);
    context.known = true;
    answer.authorization.expect("an authorization")
}
