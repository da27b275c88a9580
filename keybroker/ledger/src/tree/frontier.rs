//! The right edge of a tree: all that is needed to append and to give the root.

use super::verify::old_peaks;
use super::{Hash, MAX_TREE_SIZE, NodeId, NodeSource, ProofError, TreeError, empty_root, node_hash};

/// The complete subtrees that make up a tree, largest first: one for each bit set in the size.
///
/// Appending and the root take O(log n) time and memory; no other hash of the tree is needed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    peaks: Vec<Hash>,
}

impl Frontier {
    /// The empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The tree of `size` leaves whose complete subtrees are in `source`.
    ///
    /// # Errors
    /// [`TreeError::TooLarge`], or [`TreeError::NodeMissing`] naming what `source` does not have.
    pub fn load(size: u64, source: &dyn NodeSource) -> Result<Self, TreeError> {
        let peaks = subtrees(0, size)?.map(|id| source.node(id).ok_or(TreeError::NodeMissing(id)));
        Ok(Self {
            size,
            peaks: peaks.collect::<Result<_, _>>()?,
        })
    }

    /// The tree of `old` leaves with root `old_root`, from a proof that a larger tree of `new` leaves begins with it
    /// (RFC 9162, section 2.1.4.2): such a proof holds every complete subtree of the old tree. What is appended to it
    /// gives the roots of the larger trees.
    ///
    /// # Errors
    /// [`ProofError`] where the proof does not give `old_root`.
    pub fn from_consistency(old: u64, old_root: &Hash, new: u64, path: &[Hash]) -> Result<Self, ProofError> {
        let peaks = old_peaks(old, old_root, new, path)?;
        let frontier = Self { size: old, peaks };
        let found = frontier.root();
        if found == *old_root {
            Ok(frontier)
        } else {
            Err(ProofError::WrongRoot {
                expected: *old_root,
                found,
            })
        }
    }

    /// How many leaves the tree has.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf and reports every subtree that this completes, the leaf itself first: what a [`NodeSource`] keeps.
    ///
    /// # Errors
    /// [`TreeError::TooLarge`] at [`MAX_TREE_SIZE`]; nothing is changed then.
    pub fn append(&mut self, leaf: Hash, mut completed: impl FnMut(NodeId, Hash)) -> Result<(), TreeError> {
        if self.size >= MAX_TREE_SIZE {
            return Err(TreeError::TooLarge {
                limit: MAX_TREE_SIZE,
                found: self.size.saturating_add(1),
            });
        }
        let (mut hash, mut level, mut index) = (leaf, 0, self.size);
        completed(NodeId { level, index }, hash);
        // As in binary addition: each set bit carries, and its subtree becomes the left half of a larger one.
        while index & 1 == 1 {
            let Some(left) = self.peaks.pop() else { break };
            hash = node_hash(&left, &hash);
            level += 1;
            index >>= 1;
            completed(NodeId { level, index }, hash);
        }
        self.peaks.push(hash);
        self.size += 1;
        Ok(())
    }

    /// The root of the tree.
    #[must_use]
    pub fn root(&self) -> Hash {
        fold(self.peaks.iter().rev().copied()).unwrap_or_else(empty_root)
    }
}

/// The complete subtrees that make up leaves `start` up to `end`, from the left. `start` must be a multiple of the
/// largest of them, as it is wherever RFC 9162 splits a tree.
pub(super) fn subtrees(start: u64, end: u64) -> Result<impl DoubleEndedIterator<Item = NodeId>, TreeError> {
    if end > MAX_TREE_SIZE {
        return Err(TreeError::TooLarge {
            limit: MAX_TREE_SIZE,
            found: end,
        });
    }
    let size = end.saturating_sub(start);
    Ok((0..u64::BITS as u8)
        .rev()
        .filter(move |level| size >> level & 1 == 1)
        .map(move |level| {
            // What lies before this subtree: the bits of the size above its own.
            let before = size >> level & !1;
            NodeId {
                level,
                index: (start >> level) + before,
            }
        }))
}

/// The hash over subtrees given from the right: each is the left neighbour of all that came before it.
pub(super) fn fold(from_the_right: impl IntoIterator<Item = Hash>) -> Option<Hash> {
    from_the_right
        .into_iter()
        .reduce(|right, left| node_hash(&left, &right))
}
