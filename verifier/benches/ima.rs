//! What IMA costs an appraisal: an entry above its raw hashes, and a round with nothing new under a large policy.
//!
//! Prints one line a figure, `name value`. Without `--bench` (under `cargo test`) it runs once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a benchmark"
)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::hint::black_box;
use std::time::Instant;

use common::node::Session;
use common::{BOOT, Boot, references, selection};
use touchstone_verifier::appraisal::{Freshness, ImaKnown, Inputs, Known, Tier, appraise};
use touchstone_verifier::corim::{FileDigest, MachineReference};
use touchstone_verifier::eventlog::RegisterValue;
use touchstone_verifier::ima::{ImaList, reference_files};
use touchstone_verifier::tpm::HashAlg;

/// Entries of the list that is judged whole.
const ENTRIES: usize = 5_000;
/// Files of the large and of the small policy.
const LARGE: usize = 100_000;
const SMALL: usize = 100;
/// Rounds; the best of each side counts, so that a busy machine disturbs the ratio little.
const ROUNDS: usize = 40;

fn main() {
    let measured = std::env::args().any(|argument| argument == "--bench");
    let (rounds, entries, large) = match measured {
        true => (ROUNDS, ENTRIES, LARGE),
        false => (1, 100, 200),
    };
    let list = long_list(entries);
    let whole = Scene::new(&list, SMALL);
    let without = Scene::new(&first_entry(&list), SMALL);
    let parsed = ImaList::parse(&list).unwrap();
    let raw = || {
        let mut value = RegisterValue::initial(HashAlg::Sha256, 10, 0);
        for entry in parsed.entries() {
            black_box(entry.hash(HashAlg::Sha1));
            value.extend(HashAlg::Sha256, entry.hash(HashAlg::Sha256).as_ref());
        }
        black_box(value);
    };
    let [raw, whole_us, without_us] = best(rounds, [&raw, &|| whole.first(), &|| without.first()]);
    let judged = (whole_us - without_us).max(0.0);
    println!("ima_entries {entries}");
    println!("ima_raw_hashes_us_per_entry {:.3}", raw / entries as f64);
    println!("ima_judged_us_per_entry {:.3}", judged / entries as f64);
    println!("ima_above_raw_us_per_entry {:.3}", (judged - raw) / entries as f64);
    let (small, large) = (Scene::new(&list, SMALL), Scene::new(&list, large));
    let [small_us, large_us] = best(rounds, [&|| small.again(), &|| large.again()]);
    println!("ima_nothing_new_small_policy_us {small_us:.1}");
    println!("ima_nothing_new_large_policy_us {large_us:.1}");
    println!("ima_nothing_new_ratio {:.2}", large_us / small_us);
}

/// The best time of each piece of work, in microseconds; they take turns.
fn best<const N: usize>(rounds: usize, work: [&dyn Fn(); N]) -> [f64; N] {
    let mut best = [f64::MAX; N];
    for _ in 0..rounds {
        for (best, work) in best.iter_mut().zip(work) {
            let start = Instant::now();
            work();
            *best = best.min(start.elapsed().as_secs_f64() * 1e6);
        }
    }
    best
}

/// The recorded list, its entries after the first repeated under other paths.
fn long_list(entries: usize) -> Vec<u8> {
    let recorded = Boot::load("good").file("ima.bin");
    let parsed = ImaList::parse(&recorded).unwrap();
    let put = |value: &[u8]| [&(value.len() as u32).to_le_bytes()[..], value].concat();
    let mut list = first_entry(&recorded);
    for (number, entry) in parsed.entries()[1..].iter().cycle().take(entries - 1).enumerate() {
        let hash = entry.file_digest().unwrap();
        let digest = [&b"sha256:\0"[..], hash.digest].concat();
        let path = [entry.path(), format!(".{number}\0").as_bytes()].concat();
        let data = [put(&digest), put(&path), put(b"")].concat();
        let template_digest = HashAlg::Sha1.digest([data.as_slice()]);
        list.extend(10u32.to_le_bytes());
        list.extend(template_digest.as_ref());
        list.extend(put(b"ima-sig"));
        list.extend(put(&data));
    }
    list
}

fn first_entry(list: &[u8]) -> Vec<u8> {
    list[..ImaList::parse(list).unwrap().entries()[0].end].to_vec()
}

/// A node with a list, in its first session and in one with nothing new.
struct Scene {
    session: Session,
    collection: touchstone_evidence::collection::Collection,
    next: Session,
    next_collection: touchstone_evidence::collection::Collection,
}

impl Scene {
    fn new(list: &[u8], files: usize) -> Self {
        let good = Boot::load("good");
        let mut session = Session::first(&good, &good);
        let registers: Vec<u8> = BOOT.iter().copied().chain([10]).collect();
        session.asked = selection(&registers);
        session.quoted = selection(&registers);
        let mut value = RegisterValue::initial(HashAlg::Sha256, 10, 0);
        for entry in ImaList::parse(list).unwrap().entries() {
            value.extend(HashAlg::Sha256, entry.hash(HashAlg::Sha256).as_ref());
        }
        let register = (HashAlg::Sha256.tpm_id(), 10);
        session.values.insert(register, value.as_bytes().to_vec());
        let recorded = good.file("ima.bin");
        let mut known = reference_files(ImaList::parse(&recorded).unwrap().entries());
        known.extend((0..files).map(|number| FileDigest {
            algorithm: HashAlg::Sha256,
            digest: HashAlg::Sha256.digest([&number.to_be_bytes()[..]]).as_ref().to_vec(),
            path: format!("/usr/lib/some/directory/file-{number}"),
        }));
        session.references = references(&[MachineReference {
            files: known,
            ..good.reference("golden")
        }]);
        session.ima_log = Some(list.to_vec());
        let first = session.appraise();
        assert_eq!(first.status, Tier::Affirming, "{:?}", first.reasons);
        let collection = session.collection();
        let mut next = Session::first(&good, &good);
        next.asked.clone_from(&session.asked);
        next.quoted.clone_from(&session.quoted);
        next.values.clone_from(&session.values);
        next.references.clone_from(&session.references);
        next.ima_prefix = first.ima.map(|outcome| outcome.prefix);
        let next_collection = next.collection();
        Self {
            session,
            collection,
            next,
            next_collection,
        }
    }

    fn first(&self) {
        Self::judge(&self.session, &self.collection);
    }

    fn again(&self) {
        Self::judge(&self.next, &self.next_collection);
    }

    fn judge(session: &Session, collection: &touchstone_evidence::collection::Collection) {
        let appraisal = appraise(black_box(&Inputs {
            collection,
            freshness: Freshness::Bound {
                binder: session.binder,
                asked: &session.asked,
                session_key: &session.session_key.verifying_key(),
                activated: session.activated.as_ref(),
            },
            policy: &session.policy,
            references: &session.references,
            anchors: &session.anchors,
            inventory: &session.inventory,
            enrolled: session.enrolled.as_ref(),
            ima: ImaKnown {
                prefix: session.ima_prefix.as_ref(),
                seen: None,
            },
            known: Known::default(),
            now: session.now,
        }));
        assert_eq!(appraisal.status, Tier::Affirming, "{:?}", appraisal.reasons);
        black_box(appraisal);
    }
}
