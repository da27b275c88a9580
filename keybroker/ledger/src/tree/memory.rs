//! A tree that keeps every hash: for verification tools, which hold the whole log anyway.

use super::{Frontier, Hash, NodeId, NodeSource, TreeError};

/// All complete subtrees of a tree, in memory: 64 bytes a leaf.
#[derive(Debug, Clone, Default)]
pub struct MemoryTree {
    frontier: Frontier,
    levels: Vec<Vec<Hash>>,
}

impl MemoryTree {
    /// The empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many leaves the tree has.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.frontier.size()
    }

    /// The root of the tree.
    #[must_use]
    pub fn root(&self) -> Hash {
        self.frontier.root()
    }

    /// Adds a leaf.
    ///
    /// # Errors
    /// [`TreeError::TooLarge`], as [`Frontier::append`].
    pub fn append(&mut self, leaf: Hash) -> Result<(), TreeError> {
        let levels = &mut self.levels;
        self.frontier
            .append(leaf, |id, hash| match levels.get_mut(usize::from(id.level)) {
                // Subtrees of one level are completed from the left, so each comes at the end.
                Some(level) => level.push(hash),
                None => levels.push(vec![hash]),
            })
    }
}

impl NodeSource for MemoryTree {
    fn node(&self, id: NodeId) -> Option<Hash> {
        self.levels
            .get(usize::from(id.level))?
            .get(usize::try_from(id.index).ok()?)
            .copied()
    }
}
