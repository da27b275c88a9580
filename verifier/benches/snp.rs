//! What the appraisal of an SEV-SNP guest costs with a known signing key, against the physical limit: one raw
//! verification of its P-384 signature.
//!
//! Prints one line a figure, `name value`, and the ratio last. Without `--bench` (under `cargo test`) it runs once.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark")]

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/simulated_snp/mod.rs"]
mod simulated_snp;

use std::hint::black_box;
use std::time::Instant;

use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};
use common::{policy, references};
use simulated_snp::{NOW, Platform, VekShape};
use touchstone_evidence::collection::{Collection, Label};
use touchstone_verifier::anchors::{Purpose, TrustAnchors};
use touchstone_verifier::appraisal::{Freshness, ImaKnown, Inputs, Known, Tier, appraise};
use touchstone_verifier::corim::MachineReference;
use touchstone_verifier::inventory::{Inventory, Node};
use touchstone_verifier::snp::{Report, SignedReport, SnpReference, Vek};
use touchstone_verifier::x509::Certificate;

/// Rounds, each of [`BATCH`]; the best round of each side counts, so that a busy machine disturbs the ratio little.
const ROUNDS: usize = 60;
const BATCH: usize = 50;
/// Length of an uncompressed point of P-384.
const POINT: usize = 97;

fn main() {
    let measured = std::env::args().any(|argument| argument == "--bench");
    let (rounds, batch) = if measured { (ROUNDS, BATCH) } else { (1, 1) };
    let platform = Platform::new(&VekShape::default());
    let bytes = platform.report(|_| {});
    let report = Report::parse(&bytes).unwrap();
    let signature = report.signature().unwrap();
    let key = Certificate::from_der(&platform.vek).unwrap().key().to_spki_der();
    let point = key[key.len() - POINT..].to_vec();
    let floor = || {
        UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, &point)
            .verify(black_box(report.signed()), &signature)
            .unwrap();
    };
    let signed = SignedReport::verify(report, Vek::from_der(&platform.vek).unwrap()).unwrap();
    let references = references(&[MachineReference {
        name: "golden".into(),
        snp: Some(SnpReference::of_golden(&signed)),
        ..MachineReference::default()
    }]);
    let inventory = Inventory::new(vec![Node {
        name: "guest-1".into(),
        platforms: vec![format!("snp:{}", "c1".repeat(64)).parse().unwrap()],
        ..Node::default()
    }]);
    let anchors = TrustAnchors::new([(Purpose::Snp, &platform.root)]).unwrap();
    let anchors = anchors
        .with_intermediates([(Purpose::Snp, &platform.intermediate)])
        .unwrap();
    let mut collection = Collection::unbound();
    collection.insert(Label::SnpReport, bytes.clone()).unwrap();
    collection.insert(Label::SnpCertificates, platform.vek.clone()).unwrap();
    let policy = policy();
    let judge = |known| {
        let appraisal = appraise(black_box(&Inputs {
            collection: &collection,
            freshness: Freshness::Unbound { nonce: &[0xDA; 64] },
            policy: &policy,
            references: &references,
            anchors: &anchors,
            inventory: &inventory,
            enrolled: None,
            ima: ImaKnown::default(),
            known,
            now: NOW,
        }));
        assert_eq!(appraisal.status, Tier::Affirming, "{:?}", appraisal.reasons);
        appraisal
    };
    let first = judge(Known::default());
    let known = Known {
        vek: first.vek.as_ref(),
    };
    let (mut best_floor, mut best_known, mut best_new) = (f64::MAX, f64::MAX, f64::MAX);
    for _ in 0..rounds {
        best_floor = best_floor.min(microseconds(batch, floor));
        best_known = best_known.min(microseconds(batch, || drop(black_box(judge(known)))));
        best_new = best_new.min(microseconds(batch, || drop(black_box(judge(Known::default())))));
    }
    println!("snp_raw_p384_us {best_floor:.1}");
    println!("snp_appraisal_new_chain_us {best_new:.1}");
    println!("snp_appraisal_known_chain_us {best_known:.1}");
    println!("snp_appraisal_ratio {:.2}", best_known / best_floor);
}

fn microseconds(batch: usize, work: impl Fn()) -> f64 {
    let start = Instant::now();
    (0..batch).for_each(|_| work());
    start.elapsed().as_secs_f64() * 1e6 / batch as f64
}
