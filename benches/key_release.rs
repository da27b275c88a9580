//! What releasing one key costs the broker, by process accounting: request to answer, with proof of possession, Cedar, the
//! durable statement, receipt, unsealing, encryption to the receive key and signature. Once over a TLS connection that is
//! kept, once with a new connection each, as `touchstone key get` makes one.
//!
//! `cargo bench --bench key_release [-- ROUNDS]` (needs swtpm; the broker is the real binary in a process of its own).

#![allow(clippy::expect_used, reason = "a benchmark")]

mod world;

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use touchstone_attest::agent::owner::TpmOwner;
use touchstone_attest::client::{BrokerClient, Endpoint};
use touchstone_authorization::proof::EXPORTER_LABEL;
use touchstone_authorization::{Channel, Proof, Scope, authorization_digest};
use touchstone_evidence::message::{ReleaseRequest, release_audience};
use world::{
    DOMAIN, Floor, at_rest, attester, authorization, cpu_ns, found, kernel_ticks, node, rounds_or, text, touchstone,
};

/// The bound, in microseconds of CPU.
const BOUND: f64 = 1_200.0;
const WARM_UP: usize = 20;
const ROUNDS: usize = 400;
/// Releases under one authorization: it lives two minutes.
const PER_AUTHORIZATION: usize = 50;

fn main() {
    let folder = tempfile::tempdir().expect("folder");
    let passphrase = folder.path().join("passphrase");
    std::fs::write(&passphrase, "correct horse battery staple").expect("writes");
    std::fs::set_permissions(&passphrase, std::fs::Permissions::from_mode(0o600)).expect("sets");
    let keys = format!("[keys]\nkek = {{ passphrase_file = {passphrase:?} }}\n");
    let (broker, address) = found(folder.path(), &keys);
    let data = folder.path().join("broker");
    touchstone(&[
        "key",
        "put",
        "db/main",
        "--data",
        text(&data),
        "--generate",
        "32",
        "--region",
        "eu-1",
    ]);
    let tpm = node(folder.path());
    let floor = Floor::measure(folder.path());
    let rounds = rounds_or(ROUNDS);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime");
    runtime.block_on(async {
        let (trust, owner, mut client, mut context) = attester(folder.path(), &tpm, &address).await;
        let endpoint = Endpoint::parse(&address).expect("address");
        let rest = at_rest(broker.0.id()).await;
        for kept in [true, false] {
            let mut wall = Duration::ZERO;
            let (mut spent, mut kernel, mut all, mut done) = (0, 0, 0, 0);
            while done < WARM_UP + rounds {
                let held = authorization(&mut client, &owner, &mut context).await;
                let mut asking = trust.client(vec![endpoint.clone()]);
                asking.connect().await.expect("a connection");
                let pid = broker.0.id();
                let (before, ticks) = (cpu_ns(pid), kernel_ticks(pid));
                let started = Instant::now();
                for _ in 0..PER_AUTHORIZATION {
                    if !kept {
                        asking = trust.client(vec![endpoint.clone()]);
                        asking.connect().await.expect("a connection");
                    }
                    release(&mut asking, &owner, &held).await;
                }
                if done >= WARM_UP {
                    let now = kernel_ticks(pid);
                    spent += cpu_ns(pid) - before;
                    wall += started.elapsed();
                    (kernel, all) = (kernel + now.0 - ticks.0, all + now.1 - ticks.1);
                }
                done += PER_AUTHORIZATION;
            }
            // The first round, which is not counted, is longer than the warm-up asks for.
            let counted = done - PER_AUTHORIZATION;
            let cpu = spent as f64 / counted as f64 / 1e3;
            let what = if kept { "connection kept" } else { "a connection each" };
            println!(
                "key release, broker CPU, {what:<18} {cpu:>8.1} µs   bound {BOUND} µs, ratio {:.2}; {:.0} % in the kernel; {counted} of them",
                cpu / BOUND,
                kernel as f64 * 100.0 / (all as f64).max(1.0),
            );
            // What a broker does by the clock goes on meanwhile, however long the requester's TPM takes.
            let cpu = cpu - rest * wall.as_secs_f64() * 1e6 / counted as f64;
            println!(
                "key release, above rest ({:.2} %)             {cpu:>8.1} µs   ratio {:.2}",
                rest * 100.0,
                cpu / BOUND
            );
            // Authorization and proof are verified; statement, receipt and answer are signed.
            let least = floor.verify + floor.verify_p256 + 3.0 * floor.sign + floor.encrypt + floor.sync;
            println!("ratio to what no broker can avoid ({least:.0} µs) {:.2}", cpu / least);
        }
    });
}

async fn release(client: &mut BrokerClient, owner: &TpmOwner, held: &[u8]) {
    let digest = authorization_digest(held);
    let mut cti = [0; 16];
    getrandom::fill(&mut cti).expect("randomness");
    let proof = Proof {
        audience: release_audience(DOMAIN),
        issued_at: touchstone_attest::clock::wall_ms() / 1000,
        cti,
        authorization_digest: digest,
        scope: Scope::parse("release:keys").expect("a scope"),
        request_digest: None,
        channel: Channel::Exporter(client.export(EXPORTER_LABEL, &digest).expect("an exporter")),
    };
    let proof = owner
        .run(move |machine| proof.encode_signed(&*machine.signer()))
        .await
        .expect("the TPM's thread")
        .expect("a proof");
    let request = ReleaseRequest {
        authorization: held.to_vec(),
        proof,
        key: "db/main".into(),
        version: None,
        resource: "keys".into(),
    };
    let answer = client.release(&request).await.expect("an answer");
    assert!(answer.sealed.is_some(), "{:?}", answer.reasons);
}
