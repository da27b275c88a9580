//! What a whole re-attestation costs the broker, by process accounting: TLS kept alive, hello to answer, the durable
//! statement, receipt, authorization and trust state included. Beside it, measured in the same run, the raw costs that
//! no broker can avoid.
//!
//! `cargo bench --bench reattestation` (needs swtpm; the broker is the real binary in a process of its own).

#![allow(clippy::expect_used, reason = "a benchmark")]

mod world;

use std::path::Path;
use std::time::{Duration, Instant};

use touchstone_attest::software_tpm::SoftwareTpm;
use touchstone_cose::key::SigningKey;
use touchstone_verifier::tpm::algorithm::HashAlg;
use world::{attester, authorization, boots, cpu_ns, found, median, node};

const WARM_UP: usize = 20;
const ROUNDS: usize = 400;

fn main() {
    let folder = tempfile::tempdir().expect("folder");
    let (broker, address) = found(folder.path(), "");
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
    let (_, owner, mut client, mut context) = attester(folder, tpm, address).await;
    let mut before = 0;
    let mut started = Instant::now();
    for round in 0..WARM_UP + ROUNDS {
        if round == WARM_UP {
            before = cpu_ns(broker);
            started = Instant::now();
        }
        authorization(&mut client, &owner, &mut context).await;
    }
    let wall = started.elapsed() / u32::try_from(ROUNDS).expect("few");
    (((cpu_ns(broker) - before) as f64) / ROUNDS as f64 / 1e3, wall)
}
