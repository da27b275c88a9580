//! What a whole re-attestation costs the broker, by process accounting: TLS kept alive, hello to answer, the durable
//! statement, receipt, authorization and trust state included. Beside it, measured in the same run, the raw costs that
//! no broker can avoid.
//!
//! `cargo bench --bench reattestation [-- ROUNDS]` (needs swtpm; the broker is the real binary in a process of its own).

#![allow(clippy::expect_used, reason = "a benchmark")]

mod world;

use std::path::Path;
use std::time::{Duration, Instant};

use touchstone_attest::software_tpm::SoftwareTpm;
use world::{Floor, at_rest, attester, authorization, cpu_ns, found, kernel_ticks, node, rounds_or};

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
    let floor = Floor::measure(folder.path());
    let (cpu, kernel, wall, rest) = runtime.block_on(rounds(folder.path(), &tpm, &address, broker.0.id()));
    println!(
        "re-attestation, broker CPU        {cpu:>8.1} µs   budget 400 µs, ratio {:.2}; {:.0} % in the kernel",
        cpu / 400.0,
        kernel * 100.0
    );
    println!(
        "re-attestation, wall, TPM included {:>7.1} ms",
        wall.as_secs_f64() * 1e3
    );
    // What a broker does by the clock goes on meanwhile, however long the TPM takes.
    let cpu = cpu - rest * wall.as_secs_f64() * 1e6;
    println!(
        "re-attestation, above rest ({:.2} %) {cpu:>7.1} µs   ratio {:.2}",
        rest * 100.0,
        cpu / 400.0
    );
    // Statement, receipt, result and authorization are signed; the quote's P-256 or RSA signature is verified.
    let least = 4.0 * floor.sign + floor.verify_p256 + floor.sha + floor.sync;
    println!("ratio to what no broker can avoid ({least:.0} µs) {:.2}", cpu / least);
}

async fn rounds(folder: &Path, tpm: &SoftwareTpm, address: &str, broker: u32) -> (f64, f64, Duration, f64) {
    let (_, owner, mut client, mut context) = attester(folder, tpm, address).await;
    let rounds = rounds_or(ROUNDS);
    let (mut before, mut ticks) = (0, (0, 0));
    let mut started = Instant::now();
    for round in 0..WARM_UP + rounds {
        if round == WARM_UP {
            (before, ticks) = (cpu_ns(broker), kernel_ticks(broker));
            started = Instant::now();
        }
        authorization(&mut client, &owner, &mut context).await;
    }
    let wall = started.elapsed() / u32::try_from(rounds).expect("few");
    let (cpu, now) = (cpu_ns(broker) - before, kernel_ticks(broker));
    let kernel = (now.0 - ticks.0) as f64 / ((now.1 - ticks.1) as f64).max(1.0);
    (cpu as f64 / rounds as f64 / 1e3, kernel, wall, at_rest(broker).await)
}
