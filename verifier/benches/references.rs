//! What the number of reference values costs, and what judging a log costs.
//!
//! - An appraisal with a million reference values loaded, against the same with a thousand: by register value (the next
//!   round of the same machine) and by event identity (another machine with the same software).
//! - Judging a genuine log whole (reading, replay, each event against its data, the identity of every register), against
//!   hashing its data and extending its registers, raw.
//! - Reading a signed reference with 200,000 files.
//!
//! Prints one line a figure, `name value`. Without `--bench` (under `cargo test`) it runs once with little.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Instant;

use aws_lc_rs::digest::{SHA256, digest};
use common::log::{Machine, RawLog};
use common::{BOOT, Boot, anchors, selection, verified};
use touchstone_verifier::appraisal::Tier;
use touchstone_verifier::corim::{FileDigest, MachineReference};
use touchstone_verifier::eventlog::identity::{Measured, register_identity};
use touchstone_verifier::eventlog::{DataCheck, EventLog, SeparatorDigests};
use touchstone_verifier::reference::ReferenceSet;
use touchstone_verifier::tpm::HashAlg;

const BANK: HashAlg = HashAlg::Sha256;
/// Rounds, each of [`BATCH`]; the best round of each side counts, so that a busy machine disturbs the ratio little.
const ROUNDS: usize = 60;
const BATCH: usize = 50;

fn main() {
    let measured = std::env::args().any(|argument| argument == "--bench");
    let (rounds, batch) = if measured { (ROUNDS, BATCH) } else { (1, 1) };
    let (few, many) = if measured { (1_000, 1_000_000) } else { (500, 1_000) };
    number_of_values(rounds, batch, few, many);
    judging_a_log(rounds, batch);
    reading_files(if measured { 200_000 } else { 200 });
}

/// Machines of the golden software and of another disk, with so many reference values loaded.
fn number_of_values(rounds: usize, batch: usize, few: usize, many: usize) {
    let required = selection(&BOOT);
    let golden = RawLog::of(&Boot::load("good"));
    let mut elsewhere = golden.clone();
    for event in &mut elsewhere.events {
        // Another boot order: the entries of BootOrder in the other order.
        if event.pcr == 1 && event.data.len() == 56 {
            event.data[50..].rotate_left(2);
            let value = event.data[50..].to_vec();
            event.measure(&value);
        }
    }
    let base = golden.reference("golden", &required);
    let each = base.banks[&BANK].registers.len() + base.banks[&BANK].events.len();
    for (kind, log) in [("value", &golden), ("identity", &elsewhere)] {
        let mut best = [f64::MAX; 2];
        let machines = [few, many].map(|values| {
            let mut machine = Machine::new(log, &required, &[]);
            machine.references = ReferenceSet::new(
                fleet(&base, values.div_ceil(each))
                    .map(|reference| verified(&reference))
                    .collect(),
            );
            machine
        });
        let packed: Vec<_> = machines.iter().map(Machine::packed).collect();
        let anchors = anchors();
        for _ in 0..rounds {
            for (side, machine) in machines.iter().enumerate() {
                let (collection, inventory) = &packed[side];
                let time = microseconds(batch, || {
                    let appraisal = black_box(machine).appraise_packed(collection, inventory, &anchors);
                    assert_eq!(appraisal.status, Tier::Affirming, "{:?}", appraisal.reasons);
                });
                best[side] = best[side].min(time);
            }
        }
        println!("appraisal_by_{kind}_{few}_values_us {:.1}", best[0]);
        println!("appraisal_by_{kind}_{many}_values_us {:.1}", best[1]);
        println!("appraisal_by_{kind}_ratio {:.2}", best[1] / best[0]);
    }
}

/// The golden state and others of the same firmware with another kernel each.
fn fleet(base: &MachineReference, count: usize) -> impl Iterator<Item = MachineReference> {
    (0..count).map(|index| {
        let mut reference = base.clone();
        if index > 0 {
            reference.name = format!("reference-{index}");
            let other = BANK.digest([&index.to_be_bytes()[..]]).as_ref().to_vec();
            let values = reference.banks.get_mut(&BANK).unwrap();
            for pcr in [4, 9] {
                values.registers.insert(pcr, other.clone());
                values.events.iter_mut().rfind(|event| event.pcr == pcr).unwrap().digest = other.clone();
            }
        }
        reference
    })
}

fn judging_a_log(rounds: usize, batch: usize) {
    let genuine = touchstone_vectors::genuine("tpm-eventlogs/keylime-secureboot.bin");
    let bytes = genuine.map_or_else(|| Boot::load("good").log, |path| std::fs::read(path).unwrap());
    let log = EventLog::parse(&bytes).unwrap();
    let replay = log.replay(BANK).unwrap();
    let quoted: Vec<(u32, Vec<u8>)> = (0..24)
        .map(|pcr| (pcr, replay.register(pcr).unwrap().to_vec()))
        .collect();
    let quoted: Vec<(u32, &[u8])> = quoted.iter().map(|(pcr, value)| (*pcr, value.as_slice())).collect();
    let floor = || {
        for event in log.events() {
            black_box(digest(&SHA256, black_box(event.data)));
            black_box(digest(&SHA256, black_box(&[0u8; 64])));
        }
    };
    let replayed = || {
        let log = EventLog::parse(black_box(&bytes)).unwrap();
        let matched = log.match_prefix(BANK, &quoted).unwrap();
        let separators = SeparatorDigests::new(BANK);
        let lies = log.events().iter().take(matched.events).filter(|event| {
            event.is_extended()
                && (event.check_data(BANK) == DataCheck::Mismatch || separators.is_smuggled(event, BANK))
        });
        black_box(lies.count());
        log
    };
    let identified = || {
        let log = replayed();
        let mut registers: BTreeMap<u32, Vec<Measured<'_>>> = BTreeMap::new();
        for event in log.events().iter().filter(|event| event.is_extended()) {
            registers
                .entry(event.pcr)
                .or_default()
                .extend(Measured::of(event, BANK));
        }
        for events in registers.into_values() {
            black_box(register_identity(BANK, events));
        }
    };
    let mut best = [f64::MAX; 3];
    for _ in 0..rounds {
        best[0] = best[0].min(microseconds(batch, floor));
        best[1] = best[1].min(microseconds(batch, || drop(replayed())));
        best[2] = best[2].min(microseconds(batch, identified));
    }
    println!("log_bytes {}", bytes.len());
    println!("log_events {}", log.events().len());
    println!("log_raw_us {:.1}", best[0]);
    println!("log_judged_us {:.1}", best[1]);
    println!("log_judged_ratio {:.2}", best[1] / best[0]);
    println!("log_judged_with_identities_us {:.1}", best[2]);
    println!("log_judged_with_identities_ratio {:.2}", best[2] / best[0]);
}

fn reading_files(count: usize) {
    let file = |index: usize| FileDigest {
        algorithm: BANK,
        digest: BANK.digest([&index.to_be_bytes()[..]]).as_ref().to_vec(),
        path: format!("/usr/lib/x86_64-linux-gnu/package-{}/file-{index}", index / 100),
    };
    let reference = MachineReference {
        name: "files".into(),
        files: (0..count).map(file).collect(),
        ..MachineReference::default()
    };
    let start = Instant::now();
    let signed = common::signed(&reference);
    println!("reference_{count}_files_bytes {}", signed.len());
    println!(
        "reference_{count}_files_signed_ms {:.0}",
        start.elapsed().as_secs_f64() * 1e3
    );
    let start = Instant::now();
    let read = common::read(&signed);
    println!(
        "reference_{count}_files_read_ms {:.0}",
        start.elapsed().as_secs_f64() * 1e3
    );
    assert_eq!(read.references()[0].files.len(), count);
}

fn microseconds(batch: usize, work: impl Fn()) -> f64 {
    let start = Instant::now();
    for _ in 0..batch {
        work();
    }
    start.elapsed().as_secs_f64() * 1e6 / batch as f64
}
