//! Receipts: each attack is a row.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use crate::common;

use common::{ORIGIN, genesis, log_key, other_key, refusal, statement_key};
use proptest::prelude::*;
use touchstone_cose::key::SigningKey;
use touchstone_cose::receipt::sign_root;
use touchstone_cose::sign1::{self, Protected};
use touchstone_ledger::receipt::{ReceiptError, VerifiedReceipt, issue_batch, verify_receipt};
use touchstone_ledger::statement::{Statement, leaf_hash};
use touchstone_ledger::tree::{Hash, MemoryTree, NodeId, NodeSource, TreeError, inclusion_proof};

const IAT: i64 = 1_790_000_001;

/// A log of a genesis statement and refusals, all different.
struct Log {
    entries: Vec<Vec<u8>>,
    tree: MemoryTree,
}

fn log(size: u64) -> Log {
    let statement = |n| {
        if n == 0 {
            genesis()
        } else {
            Statement {
                policy_version: n,
                ..refusal()
            }
        }
    };
    let entries: Vec<_> = (0..size)
        .map(|n| statement(n).sign(&statement_key()).unwrap().bytes)
        .collect();
    let mut tree = MemoryTree::new();
    for entry in &entries {
        tree.append(leaf_hash(entry)).unwrap();
    }
    Log { entries, tree }
}

impl Log {
    fn issue(&self, index: u64) -> Vec<u8> {
        let (size, root) = (self.tree.size(), self.tree.root());
        issue_batch(&log_key(), ORIGIN, size, &root, index..index + 1, &self.tree, IAT)
            .unwrap()
            .remove(0)
    }

    /// What the log itself would never make: any path, index, size and root, with a right signature.
    fn forge(&self, key: &SigningKey, size: u64, index: u64, path: &[Hash], root: &Hash) -> Vec<u8> {
        sign_root(key, ORIGIN, size, root, IAT)
            .unwrap()
            .encode(index, path)
            .unwrap()
    }
}

/// `bytes` with the only occurrence of `from` replaced: what is not signed can be rewritten by anybody.
fn rewritten(bytes: &[u8], from: [u8; 3], to: [u8; 3]) -> Vec<u8> {
    let mut places = bytes
        .windows(3)
        .enumerate()
        .filter(|(_, window)| *window == from)
        .map(|(at, _)| at);
    let at = places.next().unwrap();
    assert_eq!(places.next(), None);
    let mut bent = bytes.to_vec();
    bent[at..at + 3].copy_from_slice(&to);
    bent
}

fn verify(receipt: &[u8], statement: &[u8]) -> Result<VerifiedReceipt, ReceiptError> {
    verify_receipt(receipt, statement, &log_key().verifying_key(), ORIGIN)
}

#[test]
fn every_leaf_of_every_small_log_has_a_receipt() {
    for size in 2..=20 {
        let log = log(size);
        let root = log.tree.root();
        let receipts = issue_batch(&log_key(), ORIGIN, size, &root, 0..size, &log.tree, IAT).unwrap();
        for (index, (receipt, entry)) in receipts.iter().zip(&log.entries).enumerate() {
            let found = verify(receipt, entry).unwrap();
            assert_eq!((found.origin.as_str(), found.iat, found.root), (ORIGIN, IAT, root));
            assert_eq!((found.tree_size, found.leaf_index), (size, index as u64));
        }
    }
}

/// One signature a batch: the receipts begin and end alike.
#[test]
fn receipts_of_a_batch_share_header_and_signature() {
    let log = log(8);
    let receipts = issue_batch(&log_key(), ORIGIN, 8, &log.tree.root(), 3..5, &log.tree, IAT).unwrap();
    let [first, second] = receipts.try_into().unwrap();
    assert_eq!(first.len(), second.len());
    assert_eq!(first[first.len() - 66..], second[second.len() - 66..], "the signature");
    assert_eq!(first[..56], second[..56], "the header");
    assert_ne!(first, second);
}

#[test]
fn receipts_that_do_not_prove_this_statement_are_refused() {
    let log = log(7);
    let (root, key) = (log.tree.root(), log_key());
    let path = inclusion_proof(3, 7, &log.tree).unwrap();
    let entry = log.entries[3].clone();
    let mut altered = entry.clone();
    altered[150] ^= 1;
    let mut other_hash = path.clone();
    other_hash[1][0] ^= 1;
    let longer = [path.clone(), vec![[0; 32]]].concat();
    let elsewhere = sign_root(&key, "ledger.example/eu-2", 7, &root, IAT)
        .unwrap()
        .encode(3, &path)
        .unwrap();
    let typed = sign1::sign_detached(&key, &Protected::typ("application/x"), &root, &[]).unwrap();
    let attached = sign1::sign(&key, &Protected::default(), &root, &[]).unwrap();
    let by_other = log.forge(&other_key(), 7, 3, &path, &root);
    let leaf = leaf_hash(&entry);
    let rows = [
        ("receipt for another leaf", log.issue(4), &entry, "signature-invalid"),
        (
            "same path for another index",
            log.forge(&key, 7, 2, &path, &root),
            &entry,
            "signature-invalid",
        ),
        (
            "index outside the tree",
            rewritten(&log.issue(3), [0x83, 7, 3], [0x83, 7, 7]),
            &entry,
            "receipt-invalid",
        ),
        (
            "path truncated",
            log.forge(&key, 7, 3, &path[..2], &root),
            &entry,
            "ledger-proof-length",
        ),
        (
            "path extended",
            log.forge(&key, 7, 3, &longer, &root),
            &entry,
            "ledger-proof-length",
        ),
        (
            "hash in the path altered",
            log.forge(&key, 7, 3, &other_hash, &root),
            &entry,
            "signature-invalid",
        ),
        (
            "another size",
            log.forge(&key, 2, 1, &path, &root),
            &entry,
            "ledger-proof-length",
        ),
        ("another log, same key", elsewhere, &entry, "receipt-origin"),
        ("another key", by_other, &entry, "cose-kid-mismatch"),
        (
            "root swapped",
            log.forge(&key, 7, 3, &path, &leaf),
            &entry,
            "signature-invalid",
        ),
        ("statement altered", log.issue(3), &altered, "signature-invalid"),
        ("another object by the log's key", typed, &entry, "shape-mismatch"),
        ("root inside, no proof", attached, &entry, "shape-mismatch"),
        (
            "the statement as its own receipt",
            entry.clone(),
            &entry,
            "shape-mismatch",
        ),
        ("padded", [log.issue(3), vec![0]].concat(), &entry, "cbor-trailing"),
        ("nothing", vec![], &entry, "cbor-truncated"),
    ];
    assert!(verify(&log.issue(3), &entry).is_ok());
    for (name, receipt, statement, code) in rows {
        assert_eq!(verify(&receipt, statement).map_err(|e| e.code()), Err(code), "{name}");
    }
}

/// A size that the header signs and another one in the (unsigned) proof.
#[test]
fn the_size_in_the_proof_is_the_one_that_was_signed() {
    // A leaf of the left half climbs the same way in every tree of 9 to 16.
    let log = log(11);
    let receipt = log.issue(5);
    let bent = rewritten(&receipt, [0x83, 11, 5], [0x83, 12, 5]);
    let refused = verify(&bent, &log.entries[5]).map_err(|e| e.code());
    assert_eq!(refused, Err("receipt-invalid"));
}

#[test]
fn a_log_of_one_leaf_issues_nothing() {
    let log = log(1);
    let issue = |size| issue_batch(&log_key(), ORIGIN, size, &log.tree.root(), 0..1, &log.tree, IAT);
    assert_eq!(issue(1), Err(ReceiptError::TreeTooSmall { expected: 2, found: 1 }));
    assert_eq!(issue(0), Err(ReceiptError::TreeTooSmall { expected: 2, found: 0 }));
    assert!(
        sign_root(&log_key(), ORIGIN, 1, &log.tree.root(), IAT)
            .unwrap()
            .encode(0, &[])
            .is_err()
    );
    let claims_one = self::log(2).forge(&log_key(), 1, 0, &[[0; 32]], &log.tree.root());
    assert_eq!(
        verify(&claims_one, &log.entries[0]).map_err(|e| e.code()),
        Err("ledger-proof-length")
    );
}

/// A source that has lost or changed a hash.
struct Damaged<'a>(&'a MemoryTree, NodeId, Option<Hash>);

impl NodeSource for Damaged<'_> {
    fn node(&self, id: NodeId) -> Option<Hash> {
        if id == self.1 { self.2 } else { self.0.node(id) }
    }
}

#[test]
fn a_damaged_store_of_hashes_signs_nothing() {
    let log = log(7);
    let root = log.tree.root();
    let issue = |source: &dyn NodeSource| issue_batch(&log_key(), ORIGIN, 7, &root, 0..7, source, IAT);
    let peak = NodeId { level: 1, index: 2 };
    let changed = issue(&Damaged(&log.tree, peak, Some([0; 32])));
    assert!(matches!(changed, Err(ReceiptError::Root { expected, .. }) if expected == root));
    let lost = issue(&Damaged(&log.tree, peak, None));
    assert_eq!(lost, Err(ReceiptError::Tree(TreeError::NodeMissing(peak))));
    let outside = issue_batch(&log_key(), ORIGIN, 7, &root, 6..8, &log.tree, IAT);
    assert_eq!(
        outside,
        Err(ReceiptError::Tree(TreeError::NoSuchLeaf { index: 7, size: 7 }))
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_bit_is_always_noticed(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let log = log(7);
        let mut receipt = log.issue(3);
        let at = at.index(receipt.len());
        receipt[at] ^= 1 << bit;
        prop_assert!(verify(&receipt, &log.entries[3]).is_err());
    }

    #[test]
    fn noise_is_refused_without_panic(noise in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(verify(&noise, b"").is_err());
    }
}
