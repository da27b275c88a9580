//! What following 50 other domains costs a broker at rest: 50 whole brokers, each with its own keys, policy repository and
//! stream of heartbeats, in one process; the broker that follows them all, the real binary, in another, whose CPU is
//! counted by the scheduler.
//!
//! `cargo bench -p touchstone --bench federation`. Nothing is attested or revoked meanwhile: this is the price of being
//! able to hear a revocation at once, and of a refusal within the window where nothing is heard.

#![allow(clippy::expect_used, reason = "a benchmark")]

mod world;

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use touchstone_attest::clock;
use touchstone_keybroker::config::Config;
use touchstone_keybroker::service::{Broker, RunningBroker, init};
use touchstone_policies as policies;
use world::{cpu_ns, found_with, touchstone};

const DOMAINS: usize = 50;
const SETTLE: Duration = Duration::from_secs(15);
const MEASURED: Duration = Duration::from_secs(30);
/// The share of one core that following may take.
const BUDGET: f64 = 0.01;

fn main() {
    let folder = tempfile::tempdir().expect("folder");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("runtime");
    let others: Vec<(String, RunningBroker)> = (0..DOMAINS)
        .map(|n| {
            let name = format!("d{n}.example");
            let config = other(&folder.path().join(&name), &name);
            let broker = runtime.block_on(Broker::start(config)).expect("a broker");
            (name, broker)
        })
        .collect();
    let alone = measure(folder.path(), &runtime, "alone", &[]);
    let rows: Vec<(String, SocketAddr)> = others
        .iter()
        .map(|(name, broker)| (name.clone(), broker.address()))
        .collect();
    let following = measure(folder.path(), &runtime, "following", &rows);
    let share = following - alone;
    println!(
        "broker at rest, no other domain      {:>7.3} % of a core",
        alone * 100.0
    );
    println!(
        "broker at rest, {DOMAINS} domains followed  {:>7.3} % of a core",
        following * 100.0
    );
    println!(
        "federation of {DOMAINS} domains at rest     {:>7.3} % of a core, budget {:.0} %, ratio {:.2}",
        share * 100.0,
        BUDGET * 100.0,
        share / BUDGET
    );
}

/// Another domain: published, and ready to start.
fn other(folder: &Path, name: &str) -> Config {
    std::fs::create_dir_all(folder).expect("folder");
    let (repo, keys, data) = (folder.join("repo"), folder.join("keys"), folder.join("data"));
    policies::init(&repo, name, &keys, clock::wall_seconds()).expect("a repository");
    let keyset = init(&data, "a", clock::wall_seconds() - 60, 24 * 3600).expect("keys");
    policies::keyset_add(&repo, &std::fs::read(keyset).expect("a keyset")).expect("staged");
    policies::publish(&repo, &keys, clock::wall_seconds()).expect("published");
    let root = repo.join("metadata/1.root.json");
    Config::parse(&format!(
        "domain = {name:?}\nlisten = \"127.0.0.1:0\"\ndata_dir = {data:?}\npolicy = {repo:?}\npolicy_root = {{ file = {root:?} }}\n"
    ))
    .expect("a configuration")
}

/// The share of a core that a broker following these domains takes, once it follows them all.
fn measure(folder: &Path, runtime: &tokio::runtime::Runtime, name: &str, others: &[(String, SocketAddr)]) -> f64 {
    let folder = folder.join(name);
    std::fs::create_dir_all(&folder).expect("folder");
    let (broker, _) = found_with(&folder, "", |repo| {
        for (other, address) in others {
            let own = folder.parent().expect("a parent").join(other).join("repo");
            touchstone(&[
                "federation",
                "trust",
                &repo.display().to_string(),
                other,
                "--root",
                &own.join("metadata/1.root.json").display().to_string(),
                "--policy",
                &own.display().to_string(),
                "--broker",
                &address.to_string(),
                "--resources",
                &format!("partners/{other}"),
                "--scope",
                &format!("execute:partners/{other}/x"),
            ]);
        }
    });
    let begun = Instant::now();
    loop {
        let list = std::process::Command::new(env!("CARGO_BIN_EXE_touchstone"))
            .args([
                "federation",
                "list",
                "--json",
                "--data",
                &folder.join("broker").display().to_string(),
            ])
            .output()
            .expect("runs");
        let list: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap_or_default();
        let rows = list
            .pointer("/domains")
            .and_then(serde_json::Value::as_array)
            .cloned()
            .unwrap_or_default();
        let fresh = |row: &serde_json::Value| row.pointer("/trust_state/fresh") == Some(&serde_json::Value::Bool(true));
        if rows.len() == others.len() && rows.iter().all(fresh) {
            break;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(120),
            "not all are followed: {list}"
        );
        runtime.block_on(async { tokio::time::sleep(Duration::from_millis(200)).await });
    }
    // The other brokers run in this process meanwhile.
    runtime.block_on(async { tokio::time::sleep(SETTLE).await });
    let (before, started) = (cpu_ns(broker.0.id()), Instant::now());
    runtime.block_on(async { tokio::time::sleep(MEASURED).await });
    let used = cpu_ns(broker.0.id()) - before;
    used as f64 / started.elapsed().as_nanos() as f64
}
