//! Making proofs from the hashes of complete subtrees (RFC 9162, sections 2.1.3.1 and 2.1.4.1).

use super::frontier::{fold, subtrees};
use super::{Hash, NodeId, NodeSource, empty_root};
use crate::reason::Code;

/// Why a root or a proof cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// More leaves than [`MAX_TREE_SIZE`](super::MAX_TREE_SIZE).
    #[error("a tree of {found} leaves was asked for, the limit is {limit}")]
    TooLarge {
        /// The limit.
        limit: u64,
        /// What was asked for.
        found: u64,
    },
    /// The leaf is not in the tree.
    #[error("leaf {index} was asked for in a tree of {size}")]
    NoSuchLeaf {
        /// The leaf.
        index: u64,
        /// The size of the tree.
        size: u64,
    },
    /// There is no consistency proof from an empty tree, nor to a smaller one.
    #[error("a proof from size {old} to size {new} was asked for")]
    NoSuchGrowth {
        /// The earlier size.
        old: u64,
        /// The later size.
        new: u64,
    },
    /// The source does not have this hash.
    #[error("the hash of level {}, index {} is missing", .0.level, .0.index)]
    NodeMissing(NodeId),
}

impl TreeError {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } | Self::NoSuchLeaf { .. } | Self::NoSuchGrowth { .. } => Code::ProofIndex.as_str(),
            Self::NodeMissing(_) => Code::NodeMissing.as_str(),
        }
    }
}

/// The root of the first `size` leaves.
///
/// # Errors
/// [`TreeError::TooLarge`] or [`TreeError::NodeMissing`].
pub fn root_at(size: u64, source: &dyn NodeSource) -> Result<Hash, TreeError> {
    if size == 0 {
        Ok(empty_root())
    } else {
        range_hash(0, size, source)
    }
}

/// The hashes that lead from leaf `index` to the root of the first `size` leaves, the leaf's sibling first.
///
/// # Errors
/// [`TreeError`]; a source that has all complete subtrees of the tree only leaves those that speak of sizes.
pub fn inclusion_proof(index: u64, size: u64, source: &dyn NodeSource) -> Result<Vec<Hash>, TreeError> {
    if index >= size {
        return Err(TreeError::NoSuchLeaf { index, size });
    }
    let mut path = Vec::new();
    let (mut start, mut end) = (0, size);
    while end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            path.push(range_hash(middle, end, source)?);
            end = middle;
        } else {
            path.push(range_hash(start, middle, source)?);
            start = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// The hashes that show that the tree of `old` leaves is the beginning of the tree of `new` leaves; none if the sizes
/// are equal.
///
/// # Errors
/// [`TreeError::NoSuchGrowth`] if `old` is 0 or above `new`; otherwise as [`inclusion_proof`].
pub fn consistency_proof(old: u64, new: u64, source: &dyn NodeSource) -> Result<Vec<Hash>, TreeError> {
    if old == 0 || old > new {
        return Err(TreeError::NoSuchGrowth { old, new });
    }
    let mut path = Vec::new();
    let (mut start, mut end) = (0, new);
    // Descend to the subtree that ends where the old tree ends.
    while end != old {
        let middle = start + split(end - start);
        if old <= middle {
            path.push(range_hash(middle, end, source)?);
            end = middle;
        } else {
            path.push(range_hash(start, middle, source)?);
            start = middle;
        }
    }
    // If that is the old tree itself, its root is known to the verifier.
    if start != 0 {
        path.push(range_hash(start, end, source)?);
    }
    path.reverse();
    Ok(path)
}

/// Where RFC 9162 splits a range of `size` > 1 leaves: at the largest power of two below `size`.
fn split(size: u64) -> u64 {
    1 << (size - 1).ilog2()
}

/// The hash over leaves `start` up to `end`, a range that came about by [`split`].
fn range_hash(start: u64, end: u64, source: &dyn NodeSource) -> Result<Hash, TreeError> {
    let hashes = subtrees(start, end)?
        .rev()
        .map(|id| source.node(id).ok_or(TreeError::NodeMissing(id)));
    let hashes: Vec<Hash> = hashes.collect::<Result<_, _>>()?;
    Ok(fold(hashes).unwrap_or_else(empty_root))
}
