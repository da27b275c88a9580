//! Checking proofs, step by step as RFC 9162 writes them down (sections 2.1.3.2 and 2.1.4.2).

use super::{Hash, node_hash};
use crate::reason::Code;

/// Why a proof is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// The leaf is not in a tree of this size.
    #[error("leaf {index} cannot be in a tree of {size}")]
    NoSuchLeaf {
        /// The leaf.
        index: u64,
        /// The size of the tree.
        size: u64,
    },
    /// Nothing can be shown about growth from an empty tree or to a smaller one.
    #[error("a tree cannot be shown to have grown from {old} to {new}")]
    NoSuchGrowth {
        /// The earlier size.
        old: u64,
        /// The later size.
        new: u64,
    },
    /// The proof has hashes left over.
    #[error("the proof has {found} hashes, more than these sizes need")]
    TooLong {
        /// How many there are.
        found: usize,
    },
    /// The proof ends before the root.
    #[error("the proof has {found} hashes, fewer than these sizes need")]
    TooShort {
        /// How many there are.
        found: usize,
    },
    /// The proof leads somewhere else.
    #[error("the proof leads to root {}, expected {}", Hex(.found), Hex(.expected))]
    WrongRoot {
        /// The root that was given.
        expected: Hash,
        /// The root that the proof leads to.
        found: Hash,
    },
}

impl ProofError {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoSuchLeaf { .. } | Self::NoSuchGrowth { .. } => Code::ProofIndex.as_str(),
            Self::TooLong { .. } | Self::TooShort { .. } => Code::ProofLength.as_str(),
            Self::WrongRoot { .. } => Code::ProofRoot.as_str(),
        }
    }
}

/// The root that `path` leads to from the leaf `index` of a tree of `size` leaves (RFC 9162, section 2.1.3.2, steps 1
/// to 4). Whoever believes it needs a signature over it.
///
/// # Errors
/// [`ProofError`] if the path does not have the length that these sizes need.
pub fn root_from_inclusion(leaf: &Hash, index: u64, size: u64, path: &[Hash]) -> Result<Hash, ProofError> {
    if index >= size {
        return Err(ProofError::NoSuchLeaf { index, size });
    }
    let (mut f, mut s) = (index, size - 1);
    let mut root = *leaf;
    for hash in path {
        if s == 0 {
            return Err(ProofError::TooLong { found: path.len() });
        }
        if f & 1 == 1 || f == s {
            root = node_hash(hash, &root);
            skip_levels_without_sibling(&mut f, &mut s);
        } else {
            root = node_hash(&root, hash);
        }
        f >>= 1;
        s >>= 1;
    }
    if s != 0 {
        return Err(ProofError::TooShort { found: path.len() });
    }
    Ok(root)
}

/// Whether the leaf `index` of the tree of `size` leaves with this `root` has this hash.
///
/// # Errors
/// [`ProofError`]: the first thing that does not hold.
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, path: &[Hash], root: &Hash) -> Result<(), ProofError> {
    expect_root(root, root_from_inclusion(leaf, index, size, path)?)
}

/// Whether the tree of `old` leaves with root `old_root` is the beginning of the tree of `new` leaves with `new_root`.
///
/// # Errors
/// [`ProofError`]: the first thing that does not hold. From an empty tree nothing can be shown (every tree begins with
/// it), except that two empty trees are the same.
pub fn verify_consistency(
    old: u64,
    old_root: &Hash,
    new: u64,
    new_root: &Hash,
    path: &[Hash],
) -> Result<(), ProofError> {
    if old == new {
        return match path.len() {
            0 => expect_root(old_root, *new_root),
            found => Err(ProofError::TooLong { found }),
        };
    }
    if old == 0 || old > new {
        return Err(ProofError::NoSuchGrowth { old, new });
    }
    let (mut f, mut s) = (old - 1, new - 1);
    while f & 1 == 1 {
        f >>= 1;
        s >>= 1;
    }
    // An old tree that is one complete subtree is where the climb begins; otherwise the proof says where.
    let (start, rest) = match path.split_first() {
        None => return Err(ProofError::TooShort { found: 0 }),
        Some(_) if old.is_power_of_two() => (old_root, path),
        Some((first, rest)) => (first, rest),
    };
    let (mut old_found, mut new_found) = (*start, *start);
    for hash in rest {
        if s == 0 {
            return Err(ProofError::TooLong { found: path.len() });
        }
        if f & 1 == 1 || f == s {
            old_found = node_hash(hash, &old_found);
            new_found = node_hash(hash, &new_found);
            skip_levels_without_sibling(&mut f, &mut s);
        } else {
            new_found = node_hash(&new_found, hash);
        }
        f >>= 1;
        s >>= 1;
    }
    if s != 0 {
        return Err(ProofError::TooShort { found: path.len() });
    }
    expect_root(old_root, old_found)?;
    expect_root(new_root, new_found)
}

/// The complete subtrees of the old tree, largest first, out of a consistency proof: where the climb begins, and every
/// left neighbour it meets. That they give the old root is for the caller to see.
pub(super) fn old_peaks(old: u64, old_root: &Hash, new: u64, path: &[Hash]) -> Result<Vec<Hash>, ProofError> {
    if old == 0 || old > new {
        return Err(ProofError::NoSuchGrowth { old, new });
    }
    if old.is_power_of_two() {
        return Ok(vec![*old_root]);
    }
    if old == new {
        return Err(ProofError::TooShort { found: path.len() });
    }
    let (mut f, mut s) = (old - 1, new - 1);
    while f & 1 == 1 {
        f >>= 1;
        s >>= 1;
    }
    let (first, rest) = path.split_first().ok_or(ProofError::TooShort { found: 0 })?;
    let mut peaks = vec![*first];
    for hash in rest {
        if f & 1 == 1 || f == s {
            peaks.push(*hash);
            skip_levels_without_sibling(&mut f, &mut s);
        }
        f >>= 1;
        s >>= 1;
    }
    if peaks.len() != old.count_ones() as usize {
        return Err(ProofError::TooShort { found: path.len() });
    }
    peaks.reverse();
    Ok(peaks)
}

/// At the right edge a subtree may climb several levels before it meets a left neighbour.
fn skip_levels_without_sibling(f: &mut u64, s: &mut u64) {
    while *f & 1 == 0 && *f != 0 {
        *f >>= 1;
        *s >>= 1;
    }
}

fn expect_root(expected: &Hash, found: Hash) -> Result<(), ProofError> {
    if *expected == found {
        Ok(())
    } else {
        Err(ProofError::WrongRoot {
            expected: *expected,
            found,
        })
    }
}

/// Writes a hash as lower-case hexadecimal digits.
struct Hex<'a>(&'a Hash);

impl std::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
