//! The Merkle tree of RFC 9162, section 2.1 (the same tree as RFC 6962), with SHA-256.
//!
//! A leaf hashes as `SHA-256(0x00 || entry)`, an inner node as `SHA-256(0x01 || left || right)`. A tree of any size is a
//! row of *complete* subtrees; [`NodeId`] names one of those, and whoever keeps their hashes is a [`NodeSource`].

mod frontier;
mod memory;
mod proof;
mod verify;

pub use frontier::Frontier;
pub use memory::MemoryTree;
pub use proof::{TreeError, consistency_proof, inclusion_proof, root_at};
pub use verify::{ProofError, root_from_inclusion, verify_consistency, verify_inclusion};

use sha2::{Digest, Sha256};

/// A SHA-256 digest.
pub type Hash = [u8; 32];

/// The most leaves a tree may have, so that no arithmetic on sizes can overflow.
pub const MAX_TREE_SIZE: u64 = 1 << 62;

/// Domain separation of leaves and inner nodes (RFC 9162, section 2.1.1).
const LEAF: u8 = 0x00;
const NODE: u8 = 0x01;

/// The hash of a leaf: SHA-256(0x00 || entry).
#[must_use]
pub fn leaf_hash(entry: &[u8]) -> Hash {
    Sha256::new().chain_update([LEAF]).chain_update(entry).finalize().into()
}

/// The hash of an inner node: SHA-256(0x01 || left || right).
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::new()
        .chain_update([NODE])
        .chain_update(left)
        .chain_update(right)
        .finalize()
        .into()
}

/// The root of the empty tree: SHA-256 of nothing.
#[must_use]
pub fn empty_root() -> Hash {
    Sha256::digest([]).into()
}

/// A complete subtree: the one over leaves `index << level` up to, and not including, `(index + 1) << level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId {
    /// Its height; 0 is a leaf.
    pub level: u8,
    /// Its place among the subtrees of this height, from the left, from 0.
    pub index: u64,
}

/// Whoever keeps the hashes of complete subtrees.
pub trait NodeSource {
    /// The hash of `id`, or `None` if it is not known, for whatever reason.
    fn node(&self, id: NodeId) -> Option<Hash>;
}
