//! What an appraisal costs, against the physical limit: verifying the quote's signature and hashing the log, raw.
//!
//! The evidence is a 41 KB log of 100 genuine events, repeated from a recorded boot, and a quote that fits it. Prints
//! one line a figure, `name value`, and the ratio last. Without `--bench` (under `cargo test`) it runs once.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::hint::black_box;
use std::time::Instant;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use common::node::{AK_ATTRIBUTES, Attest, MAGIC, QUOTE, SoftKey, name_of, quote_info};
use common::{BOOT, Boot, anchors, encode_values, policy, reference_event, references, selection};
use touchstone_evidence::collection::{Collection, Label};
use touchstone_evidence::pcr_values::PcrValues;
use touchstone_verifier::appraisal::{Freshness, ImaKnown, Inputs, Known, Tier, appraise};
use touchstone_verifier::corim::{BankValues, MachineReference, ReferenceEvent};
use touchstone_verifier::eventlog::EventLog;
use touchstone_verifier::inventory::{Inventory, Node};
use touchstone_verifier::tpm::{ClockInfo, HashAlg};

/// Events in the log.
const EVENTS: usize = 100;
/// Bytes in the log, about.
const LOG_BYTES: usize = 41 << 10;
/// References in the policy: a match must not depend on how many there are.
const REFERENCES: usize = 1_000;
/// Rounds, each of [`BATCH`]; the best round of each side counts, so that a busy machine disturbs the ratio little.
const ROUNDS: usize = 60;
const BATCH: usize = 50;

fn main() {
    let measured = std::env::args().any(|argument| argument == "--bench");
    let (rounds, batch) = if measured { (ROUNDS, BATCH) } else { (1, 1) };
    let scene = Scene::new();
    let log = scene.collection.get(Label::FirmwareEventLog).unwrap();
    let message = scene.collection.get(Label::TpmQuote).unwrap();
    let signature = scene.collection.get(Label::TpmQuoteSignature).unwrap();
    let raw_signature = [&signature[6..38], &signature[40..72]].concat();
    let (x, y) = scene.key.point();
    let point = [&[4][..], &x, &y].concat();
    let floor = || {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point)
            .verify(message, &raw_signature)
            .unwrap();
        black_box(digest(&SHA256, black_box(log)));
    };
    let inputs = scene.inputs();
    let whole = || {
        let appraisal = appraise(black_box(&inputs));
        assert_eq!(appraisal.status, Tier::Affirming, "{:?}", appraisal.reasons);
        black_box(appraisal);
    };
    let (mut best_floor, mut best_whole) = (f64::MAX, f64::MAX);
    for _ in 0..rounds {
        best_floor = best_floor.min(microseconds(batch, floor));
        best_whole = best_whole.min(microseconds(batch, whole));
    }
    println!("log_bytes {}", log.len());
    println!("log_events {EVENTS}");
    println!("references {REFERENCES}");
    println!("raw_verification_and_hash_us {best_floor:.1}");
    println!("appraisal_us {best_whole:.1}");
    println!("appraisal_ratio {:.2}", best_whole / best_floor);
}

fn microseconds(batch: usize, work: impl Fn()) -> f64 {
    let start = Instant::now();
    for _ in 0..batch {
        work();
    }
    start.elapsed().as_secs_f64() * 1e6 / batch as f64
}

/// Everything the appraisal rests on.
struct Scene {
    key: SoftKey,
    collection: Collection,
    references: touchstone_verifier::reference::ReferenceSet,
    anchors: touchstone_verifier::anchors::TrustAnchors,
    inventory: Inventory,
    policy: touchstone_verifier::policy::AppraisalPolicy,
}

impl Scene {
    const NONCE: [u8; 32] = [7; 32];

    fn new() -> Self {
        let log = long_log();
        let parsed = EventLog::parse(&log).unwrap();
        assert_eq!(parsed.events().len(), EVENTS);
        let replay = parsed.replay(HashAlg::Sha256).unwrap();
        let registers: Vec<(u8, Vec<u8>)> = BOOT
            .iter()
            .map(|pcr| (*pcr, replay.register(u32::from(*pcr)).unwrap().to_vec()))
            .collect();
        let values: PcrValues = registers
            .iter()
            .map(|(pcr, value)| ((HashAlg::Sha256.tpm_id(), *pcr), value.clone()))
            .collect();
        let key = SoftKey::new();
        let public = key.public(AK_ATTRIBUTES, &[]);
        let clock = ClockInfo {
            clock: 1,
            reset_count: 1,
            restart_count: 0,
            safe: true,
        };
        let attested = quote_info(&selection(&BOOT), &values);
        let extra_data = Self::NONCE.to_vec();
        let quote = Attest {
            magic: MAGIC,
            kind: QUOTE,
            extra_data,
            clock,
            attested,
        }
        .encode();
        let inventory = Inventory::new(vec![Node {
            name: "node-1".into(),
            region: "north".into(),
            ak_names: vec![name_of(&public)],
            ..Node::default()
        }]);
        let mut collection = Collection::unbound();
        for (label, bytes) in [
            (Label::TpmQuoteSignature, key.sign(&quote)),
            (Label::TpmQuote, quote),
            (Label::TpmAkPublic, public),
            (Label::TpmPcrValues, encode_values(&values)),
        ] {
            collection.insert(label, bytes).unwrap();
        }
        let events: Vec<ReferenceEvent> = {
            let event = |event| reference_event(event, HashAlg::Sha256);
            parsed.events().iter().map(event).collect()
        };
        let reference = |index: usize| {
            let mut registers: std::collections::BTreeMap<u8, Vec<u8>> = registers.iter().cloned().collect();
            if index > 0 {
                // Other machines of the fleet: the same firmware, another kernel command line.
                registers.insert(8, HashAlg::Sha256.digest([&index.to_be_bytes()[..]]).as_ref().to_vec());
            }
            let events = if index == 0 { events.clone() } else { Vec::new() };
            MachineReference {
                name: format!("reference-{index}"),
                banks: [(HashAlg::Sha256, BankValues { registers, events })].into(),
                ..MachineReference::default()
            }
        };
        let references = references(&(0..REFERENCES).map(reference).collect::<Vec<_>>());
        collection.insert(Label::FirmwareEventLog, log).unwrap();
        Self {
            key,
            collection,
            references,
            anchors: anchors(),
            inventory,
            policy: policy(),
        }
    }

    fn inputs(&self) -> Inputs<'_> {
        Inputs {
            collection: &self.collection,
            freshness: Freshness::Unbound { nonce: &Self::NONCE },
            policy: &self.policy,
            references: &self.references,
            anchors: &self.anchors,
            inventory: &self.inventory,
            enrolled: None,
            ima: ImaKnown::default(),
            known: Known::default(),
            now: common::NOW,
        }
    }
}

/// The recorded log's header, its events twice, then as many as are missing, chosen so that the size is reached.
fn long_log() -> Vec<u8> {
    let recorded = Boot::load("good").log;
    let (header, mut events) = split(&recorded);
    // The end of the firmware comes once in a boot; here the events of one are repeated.
    const EFI_ACTION: [u8; 4] = 0x8000_0007u32.to_le_bytes();
    events.retain(|event| event[4..8] != EFI_ACTION);
    let mut log = header.to_vec();
    for position in 0..EVENTS {
        let event = if position < 2 * events.len() {
            &events[position % events.len()]
        } else {
            let wanted = LOG_BYTES.saturating_sub(log.len()) / (EVENTS - position);
            events.iter().min_by_key(|event| event.len().abs_diff(wanted)).unwrap()
        };
        log.extend(event);
    }
    log
}

/// The header record and each event record.
fn split(log: &[u8]) -> (&[u8], Vec<Vec<u8>>) {
    let word = |at: usize| u32::from_le_bytes(log[at..at + 4].try_into().unwrap()) as usize;
    let mut at = 32 + word(28);
    let header = &log[..at];
    let mut events = Vec::new();
    while at < log.len() {
        let start = at;
        // Register, type, count, a SHA-1 and a SHA-256 digest, then the data with its length.
        at += 12 + 22 + 34;
        at += 4 + word(at);
        events.push(log[start..at].to_vec());
    }
    (header, events)
}
