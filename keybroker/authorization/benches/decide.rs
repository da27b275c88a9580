//! What a decision costs beside the one signature it cannot avoid: a ratio in one run, so that the machine cancels out.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a bench stops where it cannot go on"
)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use common::*;
use touchstone_authorization::{Presented, ReplayMemory, Request, VerifiedChain, decide, redecide};
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
    let decided = |proof: &[u8], authorization: Presented<'_>| {
        let request = Request {
            authorization,
            proof: black_box(proof),
            action: case.action,
            resource: case.resource,
            request_digest: None,
            channel: case.channel,
        };
        let (decision, _) = decide(&request, Some(&view), &enforcer, ReplayMemory::new(16), NOW_MS);
        assert!(decision.is_ok());
    };
    let chains = [1, 2, 4].map(|links| {
        let case = links::chain(links);
        let verified = case.decide().0.map(|allowed| allowed.chain).expect("a good chain");
        (case.chain_bytes(), case.proof_bytes(), verified)
    });
    let [one, two, four] = &chains;
    let presented = |(bytes, proof, _): &(Vec<u8>, Vec<u8>, _)| decided(proof, Presented::Bytes(black_box(bytes)));
    let kept = |(_, proof, chain): &(Vec<u8>, Vec<u8>, Arc<VerifiedChain>)| {
        decided(proof, Presented::Verified(Arc::clone(chain)));
    };
    let open = |(_, _, chain): &(Vec<u8>, Vec<u8>, Arc<VerifiedChain>)| {
        assert!(redecide(black_box(chain), Some(&view), &enforcer, NOW_MS).is_ok());
    };
    let [
        raw,
        cached,
        whole,
        one_cached,
        four_cached,
        one_whole,
        two_whole,
        four_whole,
        again,
    ] = least([
        &mut || key.verify(black_box(&message), &signature).expect("a good signature"),
        &mut || decided(&proof, Presented::Verified(verified.clone())),
        &mut || decided(&proof, Presented::Bytes(black_box(&authorization))),
        &mut || kept(one),
        &mut || kept(four),
        &mut || presented(one),
        &mut || presented(two),
        &mut || presented(four),
        &mut || open(four),
    ]);
    println!("raw P-256 verification                  {raw:8.2} µs");
    for (what, took, budget) in [
        ("decide, authorization cached", cached, true),
        ("decide, chain of one link cached", one_cached, true),
        ("decide, chain of four links cached", four_cached, true),
        ("decide, authorization verified anew", whole, false),
        ("decide, chain of one link anew", one_whole, false),
        ("decide, chain of two links anew", two_whole, false),
        ("decide, chain of four links anew", four_whole, false),
        ("redecide, chain of four links", again, false),
    ] {
        let budget = if budget {
            format!("   (budget {TARGET} x)")
        } else {
            String::new()
        };
        println!("{what:<40}{took:8.2} µs   {:5.2} x{budget}", took / raw);
    }
    println!(
        "authorization                           {:8} bytes",
        authorization.len()
    );
    for (links, (bytes, _, _)) in [1, 2, 4].iter().zip(&chains) {
        println!("chain of {links} links                        {:8} bytes", bytes.len());
    }
    println!("proof of possession                     {:8} bytes", proof.len());
}
