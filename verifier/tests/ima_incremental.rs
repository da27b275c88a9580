//! A list that comes in rounds: the verdict and the state are those of one round, whatever the split; only new entries
//! travel; and what was accepted is judged again when rules or references change.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests"
)]

use crate::common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::node::Session;
use common::{BOOT, Boot, codes, references, selection};
use proptest::prelude::*;
use touchstone_verifier::appraisal::Appraisal;
use touchstone_verifier::corim::MachineReference;
use touchstone_verifier::eventlog::RegisterValue;
use touchstone_verifier::ima::{
    ImaList, ImaPolicy, ImaPrefix, ImaRules, MAX_CHUNKS, PathRule, SeenEntry, decode_chunk, reference_files,
};
use touchstone_verifier::tpm::HashAlg;

/// A node that boots, runs, and attests in rounds; and what its verifier keeps.
struct Node {
    session: Session,
    list: Vec<u8>,
    ends: Vec<usize>,
    prefix: Option<ImaPrefix>,
    chunks: BTreeMap<[u8; 32], Vec<u8>>,
}

impl Node {
    fn new(list: Vec<u8>) -> Self {
        let mut session = Session::first(&Boot::load("good"), &Boot::load("good"));
        let registers: Vec<u8> = BOOT.iter().copied().chain([10]).collect();
        session.asked = selection(&registers);
        session.quoted = selection(&registers);
        let ends = ImaList::parse(&list)
            .unwrap()
            .entries()
            .iter()
            .map(|entry| entry.end)
            .collect();
        let mut node = Self {
            session,
            list,
            ends,
            prefix: None,
            chunks: BTreeMap::new(),
        };
        node.reference(|_| true);
        node
    }

    /// The golden machine with those files of the good boot for which `keep` says so.
    fn reference(&mut self, keep: impl Fn(&str) -> bool) {
        let good = Boot::load("good");
        let list = good.file("ima.bin");
        let mut files = reference_files(ImaList::parse(&list).unwrap().entries());
        files.retain(|file| keep(&file.path));
        self.session.references = references(&[MachineReference {
            files,
            ..good.reference("golden")
        }]);
    }

    /// Attests after `entries` entries, sending what the verifier does not know; keeps what it says to keep.
    fn round(&mut self, entries: usize, with_seen: bool) -> Appraisal {
        let end = entries.checked_sub(1).map_or(0, |last| self.ends[last]);
        let mut value = RegisterValue::initial(HashAlg::Sha256, 10, 0);
        for entry in ImaList::parse(&self.list[..end]).unwrap().entries() {
            match entry.is_violation() {
                true => value.extend(HashAlg::Sha256, &[0xFF; 32]),
                false => value.extend(HashAlg::Sha256, entry.hash(HashAlg::Sha256).as_ref()),
            }
        }
        let known = self.prefix.as_ref().map_or(0, |prefix| prefix.bytes as usize);
        let register = (HashAlg::Sha256.tpm_id(), 10);
        self.session.values.insert(register, value.as_bytes().to_vec());
        self.session.ima_log = Some(self.list[known..end].to_vec());
        self.session.ima_prefix.clone_from(&self.prefix);
        self.session.ima_seen = with_seen.then(|| {
            let named = self.prefix.iter().flat_map(|prefix| &prefix.seen);
            named.map(|digest| self.chunks[digest].clone()).collect()
        });
        let appraisal = self.session.appraise();
        if let Some(outcome) = &appraisal.ima {
            // As a store keeps it: encoded.
            self.prefix = Some(ImaPrefix::decode(&outcome.prefix.encode()).unwrap());
            if let Some(chunk) = &outcome.chunk {
                self.chunks
                    .insert(touchstone_verifier::ima::chunk_digest(chunk), chunk.clone());
            }
        }
        appraisal
    }

    /// All entries the kept state names, with their counts.
    fn seen(&self) -> BTreeMap<SeenEntry, u64> {
        let mut seen = BTreeMap::new();
        for digest in self.prefix.iter().flat_map(|prefix| &prefix.seen) {
            for (entry, count) in decode_chunk(&self.chunks[digest]).unwrap() {
                *seen.entry(entry).or_default() += count;
            }
        }
        seen
    }
}

fn good() -> Vec<u8> {
    Boot::load("good").file("ima.bin")
}

fn excluding(rules: &[&str]) -> ImaPolicy {
    ImaPolicy {
        rules: Arc::new(ImaRules {
            exclude: rules.iter().map(|rule| PathRule::parse(rule).unwrap()).collect(),
            ..ImaRules::default()
        }),
        ..ImaPolicy::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_split_into_rounds_gives_the_verdict_and_state_of_one_round(
        mut cuts in proptest::collection::vec(1usize..40, 0..5),
    ) {
        let mut whole = Node::new(good());
        let all = whole.ends.len();
        prop_assert_eq!(codes(&whole.round(all, false)), [] as [&str; 0]);
        let mut split = Node::new(good());
        cuts.retain(|cut| *cut <= all);
        cuts.sort_unstable();
        cuts.push(all);
        for cut in cuts {
            let appraisal = split.round(cut, false);
            prop_assert_eq!(codes(&appraisal), [] as [&str; 0], "{:?}", appraisal.reasons);
        }
        prop_assert_eq!(whole.seen(), split.seen());
        let mut states = [whole.prefix.unwrap(), split.prefix.unwrap()];
        states.iter_mut().for_each(|state| state.seen.clear());
        prop_assert_eq!(&states[0], &states[1]);
    }

    #[test]
    fn an_entry_that_is_refused_is_refused_in_every_split(cut in 1usize..16) {
        let mut node = Node::new(Boot::load("ima-unknown-exec").file("ima.bin"));
        let all = node.ends.len();
        prop_assert_eq!(codes(&node.round(cut.min(15), false)), [] as [&str; 0]);
        let before = node.prefix.clone();
        prop_assert_eq!(codes(&node.round(all, false)), ["ima-file-unknown"]);
        prop_assert_eq!(&node.prefix, &before, "nothing of it is kept");
        prop_assert_eq!(codes(&node.round(all, false)), ["ima-file-unknown"], "and it stays refused");
    }

    #[test]
    fn a_state_that_was_changed_never_passes(bit in 0usize..256, member in 0usize..3) {
        let mut node = Node::new(good());
        node.round(10, false);
        let prefix = node.prefix.as_mut().unwrap();
        match member {
            0 => prefix.values.get_mut(&HashAlg::Sha256).unwrap()[bit / 8] ^= 1 << (bit % 8),
            1 => prefix.boot_aggregate.as_mut().unwrap().digest[bit / 8] ^= 1 << (bit % 8),
            _ => prefix.bytes = node.ends[bit % 9] as u64,
        }
        prop_assert!(!codes(&node.round(20, false)).is_empty());
    }
}

#[test]
fn nothing_new_needs_no_list_and_leaves_the_state_as_it_is() {
    let mut node = Node::new(good());
    node.round(20, false);
    let before = node.prefix.clone();
    let appraisal = node.round(20, false);
    assert_eq!(codes(&appraisal), [] as [&str; 0]);
    assert_eq!(appraisal.ima.as_ref().unwrap().chunk, None);
    assert_eq!(node.prefix, before);
    node.session.ima_log = None;
    assert_eq!(codes(&node.session.appraise()), [] as [&str; 0], "no record at all");
    node.session.values.insert((HashAlg::Sha256.tpm_id(), 10), vec![1; 32]);
    assert_eq!(
        codes(&node.session.appraise()),
        ["ima-log-does-not-replay"],
        "something ran that it does not show"
    );
}

#[test]
fn other_rules_or_references_have_everything_judged_again() {
    let mut node = Node::new(good());
    node.round(20, false);
    node.session.policy.ima = excluding(&["/opt/**"]);
    assert_eq!(codes(&node.round(20, false)), ["ima-entries-unavailable"]);
    assert_eq!(
        codes(&node.round(20, true)),
        [] as [&str; 0],
        "at hand, they are judged again"
    );
    assert_eq!(
        codes(&node.round(20, false)),
        [] as [&str; 0],
        "and then need not be again"
    );
    // A reference from which a file that ran was withdrawn.
    node.reference(|path| path != "/bin/busybox");
    assert_eq!(codes(&node.round(20, false)), ["ima-entries-unavailable"]);
    let appraisal = node.round(20, true);
    assert_eq!(codes(&appraisal), ["ima-file-unknown"]);
    assert_eq!(appraisal.reasons[0].claim, "IMA entry of an earlier round");
    // The whole list anew has the same answer.
    node.prefix = None;
    assert_eq!(codes(&node.round(20, false)), ["ima-file-unknown"]);
}

#[test]
fn only_the_chunks_that_the_state_names_are_judged_again() {
    let mut node = Node::new(good());
    node.round(5, false);
    node.round(20, false);
    node.session.policy.ima = excluding(&["/opt/**"]);
    node.round(20, true);
    let chunks = node.session.ima_seen.clone().unwrap();
    assert_eq!(chunks.len(), 2);
    node.session.ima_prefix.as_mut().unwrap().judged_under = [0; 32];
    let rows: [(&str, Vec<Vec<u8>>); 4] = [
        ("one is missing", vec![chunks[0].clone()]),
        ("out of order", vec![chunks[1].clone(), chunks[0].clone()]),
        ("one twice", vec![chunks[0].clone(), chunks[0].clone()]),
        ("another", vec![chunks[0].clone(), vec![0x82, 1, 0x80]]),
    ];
    for (row, seen) in rows {
        node.session.ima_seen = Some(seen);
        assert_eq!(codes(&node.session.appraise()), ["ima-entries-unavailable"], "{row}");
    }
}

#[test]
fn exclusions_are_counted_over_all_rounds() {
    let mut node = Node::new(good());
    node.reference(|path| !path.starts_with("/lib/modules/"));
    node.session.policy.ima = excluding(&["/lib/modules/*"]);
    let all = node.ends.len();
    for round in [6, 9, all] {
        assert_eq!(codes(&node.round(round, false)), [] as [&str; 0]);
    }
    let counted = node.prefix.clone().unwrap().excluded;
    let expected = ImaList::parse(&node.list)
        .unwrap()
        .entries()
        .iter()
        .filter(|entry| entry.path().starts_with(b"/lib/modules/"))
        .count() as u64;
    assert_eq!(counted, [("/lib/modules/*".to_owned(), expected)].into());
    // Judged again under other rules: the same count.
    node.session.policy.ima = excluding(&["/lib/modules/**"]);
    assert_eq!(codes(&node.round(all, true)), [] as [&str; 0]);
    let prefix = node.prefix.unwrap();
    assert_eq!(prefix.excluded, [("/lib/modules/**".to_owned(), expected)].into());
    assert_eq!(prefix.seen.len(), 1, "and the chunks are one again");
}

#[test]
fn many_rounds_end_in_one_chunk_again() {
    let good = good();
    let ends: Vec<usize> = ImaList::parse(&good)
        .unwrap()
        .entries()
        .iter()
        .map(|entry| entry.end)
        .collect();
    // The golden list, and its entries but the first once more: the kernel lists a file again when it changed back.
    let list = [good.as_slice(), &good[ends[0]..]].concat();
    let mut node = Node::new(list);
    for entries in 2..2 + MAX_CHUNKS {
        assert_eq!(codes(&node.round(entries, false)), [] as [&str; 0], "{entries}");
    }
    assert_eq!(node.prefix.as_ref().unwrap().seen.len(), MAX_CHUNKS);
    assert_eq!(codes(&node.round(2 + MAX_CHUNKS, false)), ["ima-entries-unavailable"]);
    assert_eq!(codes(&node.round(2 + MAX_CHUNKS, true)), [] as [&str; 0]);
    assert_eq!(node.prefix.unwrap().seen.len(), 1);
}
