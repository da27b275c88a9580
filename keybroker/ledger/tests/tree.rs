//! The tree against the recursive definitions of RFC 9162, for every size up to 130, and against published proofs.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use touchstone_ledger::reason::Code;
use touchstone_ledger::tree::{
    Frontier, Hash, MAX_TREE_SIZE, MemoryTree, NodeId, NodeSource, ProofError, TreeError, consistency_proof,
    empty_root, inclusion_proof, leaf_hash, node_hash, root_at, root_from_inclusion, verify_consistency,
    verify_inclusion,
};

const SIZES: u64 = 130;

fn leaves(size: u64) -> Vec<Hash> {
    (0..size).map(|n| leaf_hash(&n.to_be_bytes())).collect()
}

fn tree(size: u64) -> MemoryTree {
    let mut tree = MemoryTree::new();
    for leaf in leaves(size) {
        tree.append(leaf).unwrap();
    }
    tree
}

/// Section 2.1.1: MTH.
fn naive_root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => empty_root(),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
            node_hash(&naive_root(left), &naive_root(right))
        }
    }
}

/// Section 2.1.3.1: PATH.
fn naive_path(index: usize, leaves: &[Hash]) -> Vec<Hash> {
    if leaves.len() == 1 {
        return vec![];
    }
    let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
    let (mut path, sibling) = if index < left.len() {
        (naive_path(index, left), naive_root(right))
    } else {
        (naive_path(index - left.len(), right), naive_root(left))
    };
    path.push(sibling);
    path
}

/// Section 2.1.4.1: SUBPROOF.
fn naive_subproof(old: usize, leaves: &[Hash], whole: bool) -> Vec<Hash> {
    if old == leaves.len() {
        return if whole { vec![] } else { vec![naive_root(leaves)] };
    }
    let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
    let (mut path, sibling) = if old <= left.len() {
        (naive_subproof(old, left, whole), naive_root(right))
    } else {
        (naive_subproof(old - left.len(), right, false), naive_root(left))
    };
    path.push(sibling);
    path
}

#[test]
fn hashes_are_those_of_the_rfc() {
    let hex = |hash: Hash| hex::encode(hash);
    assert_eq!(
        hex(empty_root()),
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    );
    assert_eq!(
        hex(leaf_hash(b"")),
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    );
    assert_eq!(
        node_hash(&[1; 32], &[2; 32]),
        leaf_of_other_kind(&[[1; 32], [2; 32]].concat())
    );
}

/// An inner node differs from a leaf over the same bytes in the first byte only.
fn leaf_of_other_kind(bytes: &[u8]) -> Hash {
    use sha2::Digest as _;
    sha2::Sha256::digest([&[1], bytes].concat()).into()
}

#[test]
fn every_root_and_proof_is_the_one_of_the_definition() {
    let all = leaves(SIZES);
    let whole = tree(SIZES);
    let mut frontier = Frontier::new();
    for size in 0..=SIZES {
        let leaves = &all[..size as usize];
        let root = naive_root(leaves);
        assert_eq!(frontier.root(), root, "size {size}");
        assert_eq!(frontier.size(), size);
        assert_eq!(root_at(size, &whole), Ok(root), "size {size} of a larger tree");
        assert_eq!(Frontier::load(size, &whole), Ok(frontier.clone()));
        for index in 0..size {
            let path = inclusion_proof(index, size, &whole).unwrap();
            assert_eq!(path, naive_path(index as usize, leaves), "leaf {index} of {size}");
            assert_eq!(
                verify_inclusion(&all[index as usize], index, size, &path, &root),
                Ok(())
            );
        }
        for old in 1..=size {
            let path = consistency_proof(old, size, &whole).unwrap();
            assert_eq!(path, naive_subproof(old as usize, leaves, true), "{old} to {size}");
            let old_root = naive_root(&leaves[..old as usize]);
            assert_eq!(
                verify_consistency(old, &old_root, size, &root, &path),
                Ok(()),
                "{old} to {size}"
            );
        }
        if let Some(next) = all.get(size as usize) {
            frontier.append(*next, |_, _| {}).unwrap();
        }
    }
}

#[test]
fn appending_reports_each_complete_subtree_once() {
    let mut frontier = Frontier::new();
    let mut seen = std::collections::BTreeMap::new();
    for leaf in leaves(SIZES) {
        frontier
            .append(leaf, |id, hash| assert_eq!(seen.insert(id, hash), None))
            .unwrap();
    }
    assert_eq!(seen.len() as u64, (0..8).map(|level| SIZES >> level).sum::<u64>());
    let whole = tree(SIZES);
    assert!(seen.iter().all(|(id, hash)| whole.node(*id) == Some(*hash)));
}

#[test]
fn questions_without_an_answer_are_refused() {
    let whole = tree(7);
    assert_eq!(
        inclusion_proof(7, 7, &whole),
        Err(TreeError::NoSuchLeaf { index: 7, size: 7 })
    );
    assert_eq!(
        inclusion_proof(0, 0, &whole),
        Err(TreeError::NoSuchLeaf { index: 0, size: 0 })
    );
    assert_eq!(
        consistency_proof(0, 7, &whole),
        Err(TreeError::NoSuchGrowth { old: 0, new: 7 })
    );
    assert_eq!(
        consistency_proof(7, 6, &whole),
        Err(TreeError::NoSuchGrowth { old: 7, new: 6 })
    );
    assert_eq!(
        root_at(8, &whole),
        Err(TreeError::NodeMissing(NodeId { level: 3, index: 0 }))
    );
    let found = MAX_TREE_SIZE + 1;
    assert_eq!(
        root_at(found, &whole),
        Err(TreeError::TooLarge {
            limit: MAX_TREE_SIZE,
            found
        })
    );
    for size in [found, u64::MAX] {
        let found = size;
        assert_eq!(
            inclusion_proof(0, size, &whole),
            Err(TreeError::TooLarge {
                limit: MAX_TREE_SIZE,
                found
            })
        );
        assert_eq!(
            consistency_proof(1, size, &whole),
            Err(TreeError::TooLarge {
                limit: MAX_TREE_SIZE,
                found
            })
        );
    }
}

#[test]
fn the_largest_sizes_overflow_nothing() {
    let hash = [0; 32];
    for size in [1 << 62, (1 << 63) + 1, u64::MAX] {
        for index in [0, size / 2, size - 1] {
            for len in [0, 62, 63, 64, 65, 66] {
                let path = vec![hash; len];
                let _ = root_from_inclusion(&hash, index, size, &path);
                let _ = verify_consistency(index, &hash, size, &hash, &path);
            }
        }
    }
    assert_eq!(
        root_from_inclusion(&hash, u64::MAX - 1, u64::MAX, &[]),
        Err(ProofError::TooShort { found: 0 })
    );
}

/// What is bent; leaf, index, size, path, root.
type Bent<'a> = (&'a str, &'a Hash, u64, u64, &'a [Hash], &'a Hash);

#[test]
fn bent_inclusion_proofs_are_refused() {
    let (whole, all) = (tree(11), leaves(11));
    let root = whole.root();
    let path = inclusion_proof(5, 11, &whole).unwrap();
    let mut swapped = path.clone();
    swapped.swap(0, 1);
    let longer = [path.clone(), vec![[0; 32]]].concat();
    let rows: [Bent<'_>; 9] = [
        ("another leaf", &all[4], 5, 11, &path, &root),
        ("another index", &all[5], 4, 11, &path, &root),
        ("an index outside the tree", &all[5], 11, 11, &path, &root),
        ("a larger size", &all[5], 5, 17, &path, &root),
        ("a smaller size", &all[5], 5, 8, &path, &root),
        ("path truncated", &all[5], 5, 11, &path[..3], &root),
        ("path extended", &all[5], 5, 11, &longer, &root),
        ("path out of order", &all[5], 5, 11, &swapped, &root),
        ("another root", &all[5], 5, 11, &path, &all[5]),
    ];
    assert_eq!(verify_inclusion(&all[5], 5, 11, &path, &root), Ok(()));
    // A path alone does not fix the size (leaf 5 climbs the same way in every tree of 9 to 16): a size that is to be
    // believed has to be signed beside the root, as checkpoints and our receipts do.
    assert_eq!(verify_inclusion(&all[5], 5, 12, &path, &root), Ok(()));
    for (name, leaf, index, size, path, root) in rows {
        assert!(verify_inclusion(leaf, index, size, path, root).is_err(), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_flipped_bit_anywhere_is_noticed(
        size in 1u64..200, at in any::<prop::sample::Index>(), old in any::<prop::sample::Index>(),
        place in any::<prop::sample::Index>(), bit in 0u8..8,
    ) {
        let (whole, all) = (tree(size), leaves(size));
        let root = whole.root();
        let index = at.index(size as usize) as u64;
        let flip = |path: &mut [Hash]| {
            let byte = place.index(path.len() * 32);
            path[byte / 32][byte % 32] ^= 1 << bit;
        };
        let mut path = inclusion_proof(index, size, &whole).unwrap();
        if !path.is_empty() {
            flip(&mut path);
            let refused = verify_inclusion(&all[index as usize], index, size, &path, &root);
            prop_assert_eq!(refused.map_err(|e| e.code()), Err(Code::ProofRoot.as_str()));
        }
        let old = 1 + old.index(size as usize) as u64;
        let mut path = consistency_proof(old, size, &whole).unwrap();
        if !path.is_empty() {
            flip(&mut path);
            let old_root = root_at(old, &whole).unwrap();
            let refused = verify_consistency(old, &old_root, size, &root, &path);
            prop_assert_eq!(refused.map_err(|e| e.code()), Err(Code::ProofRoot.as_str()));
        }
    }

    #[test]
    fn no_numbers_make_a_proof_of_noise_true_or_panic(
        a in any::<u64>(), b in any::<u64>(), path in prop::collection::vec(any::<Hash>(), 0..70),
    ) {
        let hash = [7; 32];
        prop_assert!(verify_inclusion(&hash, a, b, &path, &[9; 32]).is_err());
        prop_assert!(verify_consistency(a, &hash, b, &[9; 32], &path).is_err());
    }
}

/// All `.json` files below `folder`.
fn published(folder: &Path) -> Vec<(String, serde_json::Value)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push((
                    path.display().to_string(),
                    serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap(),
                ));
            }
        }
    }
    found
}

/// A hash in the published files; what is not 32 bytes is none.
fn hash(value: &serde_json::Value) -> Option<Hash> {
    STANDARD.decode(value.as_str()?).unwrap().try_into().ok()
}

fn path(value: &serde_json::Value) -> Option<Vec<Hash>> {
    value
        .as_array()
        .map_or(Some(vec![]), |hashes| hashes.iter().map(hash).collect())
}

#[test]
fn published_inclusion_proofs_are_judged_as_published() {
    let Some(folder) = touchstone_vectors::genuine("merkle/inclusion") else {
        return;
    };
    let all = published(&folder);
    assert!(all.len() > 30, "only {} files", all.len());
    for (name, proof) in all {
        let judge = || {
            let (leaf, root) = (hash(&proof["leafHash"])?, hash(&proof["root"])?);
            let (index, size) = (proof["leafIdx"].as_u64()?, proof["treeSize"].as_u64()?);
            verify_inclusion(&leaf, index, size, &path(&proof["proof"])?, &root).ok()
        };
        assert_eq!(judge().is_none(), proof["wantErr"].as_bool().unwrap(), "{name}");
    }
}

#[test]
fn published_consistency_proofs_are_judged_as_published() {
    let Some(folder) = touchstone_vectors::genuine("merkle/consistency") else {
        return;
    };
    let all = published(&folder);
    assert!(all.len() > 40, "only {} files", all.len());
    for (name, proof) in all {
        let judge = || {
            let (old_root, new_root) = (hash(&proof["root1"])?, hash(&proof["root2"])?);
            let (old, new) = (proof["size1"].as_u64()?, proof["size2"].as_u64()?);
            verify_consistency(old, &old_root, new, &new_root, &path(&proof["proof"])?).ok()
        };
        // Its two roots are equal texts of 12 bytes; ours are 32 bytes by type.
        let not_hashes = name.ends_with("sizes-are-equal-one-and-proof-is-empty.json");
        assert_eq!(
            judge().is_none(),
            proof["wantErr"].as_bool().unwrap() || not_hashes,
            "{name}"
        );
    }
}
