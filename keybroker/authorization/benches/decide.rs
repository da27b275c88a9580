//! What a decision costs beside the one signature it cannot avoid: a ratio in one run, so that the machine cancels out.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a bench stops where it cannot go on"
)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::hint::black_box;
use std::time::Instant;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use common::*;
use touchstone_authorization::{Presented, ReplayMemory, Request, decide};
use touchstone_cose::key::{Signer as _, VerifyingKey};

/// The budget: a decision with a cached authorization, over one raw P-256 verification.
const TARGET: f64 = 1.3;
const ROUNDS: usize = 60;
const TIMES: usize = 50;

/// The least microseconds a call of each took. Their rounds alternate, so that what else the machine does meets all.
fn least<const N: usize>(mut calls: [&mut dyn FnMut(); N]) -> [f64; N] {
    let mut least = [f64::INFINITY; N];
    for _ in 0..ROUNDS {
        for (call, least) in calls.iter_mut().zip(&mut least) {
            let start = Instant::now();
            for _ in 0..TIMES {
                call();
            }
            *least = least.min(start.elapsed().as_secs_f64() * 1e6 / TIMES as f64);
        }
    }
    least
}

fn main() {
    let case = Case::default();
    let (authorization, proof, view) = (case.authorization_bytes(), case.proof_bytes(), case.view());
    let verified = case.decide().0.map(|allowed| allowed.chain).expect("a good request");

    let holder = HolderKey::new(7);
    let message = vec![0x5a; 240];
    let signature = holder.sign(&message).expect("a software key signs");
    let VerifyingKey::P256 { x, y } = holder.verifying_key() else {
        unreachable!("a P-256 key")
    };
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, [&[4], x.as_slice(), &y].concat());

    let keys = ring(&[&issuer()]);
    let enforcer = case.enforcer(&keys);
    let request = |authorization| Request {
        authorization,
        proof: black_box(&proof),
        action: case.action,
        resource: case.resource,
        request_digest: None,
        channel: case.channel,
    };
    let decided = |authorization| {
        let memory = ReplayMemory::new(16);
        assert!(
            decide(&request(authorization), Some(&view), &enforcer, memory, NOW_MS)
                .0
                .is_ok()
        );
    };
    let [raw, cached, whole] = least([
        &mut || key.verify(black_box(&message), &signature).expect("a good signature"),
        &mut || decided(Presented::Verified(verified.clone())),
        &mut || decided(Presented::Bytes(black_box(&authorization))),
    ]);
    println!("raw P-256 verification               {raw:8.2} µs");
    println!(
        "decide, authorization cached         {cached:8.2} µs   {:.2} x (budget {TARGET} x)",
        cached / raw
    );
    println!(
        "decide, authorization verified anew  {whole:8.2} µs   {:.2} x",
        whole / raw
    );
    println!("authorization                        {:8} bytes", authorization.len());
    println!("proof of possession                  {:8} bytes", proof.len());
}
