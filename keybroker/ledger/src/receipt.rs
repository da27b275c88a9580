//! Receipts: proof, to be carried along, that a statement is in the log (RFC 9942, `protocol.md` 10).
//!
//! The framing and the signature are `touchstone_cose::receipt`; the arithmetic is here. All receipts of a batch share
//! one signature. A receipt proves inclusion under a root that the log signed; that the log did not later grow from
//! another root is what checkpoints and consistency proofs are for.

use std::ops::Range;

use touchstone_cose::key::{SignError, Signer, VerifyingKey};
pub use touchstone_cose::receipt::VerifiedReceipt;
use touchstone_cose::receipt::{self, Receipt};

use crate::reason::Code;
use crate::statement::leaf_hash;
use crate::tree::{Hash, NodeSource, ProofError, TreeError, inclusion_proof, root_at, root_from_inclusion};

/// The smallest tree that has receipts: RFC 9942 cannot express a proof without hashes. Every log begins with a genesis
/// leaf, so that the first statement is in a tree of two.
pub const MIN_TREE_SIZE: u64 = 2;

/// Why a receipt is not issued, or not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiptError {
    /// The tree has no receipts yet.
    #[error("a tree of {found} has no receipts, the smallest is {expected}")]
    TreeTooSmall {
        /// [`MIN_TREE_SIZE`].
        expected: u64,
        /// The size of the tree.
        found: u64,
    },
    /// The hashes at hand do not lead to the root that was to be signed: the store of hashes is damaged.
    #[error("the stored hashes of the tree do not lead to its root")]
    Root {
        /// The root that was to be signed.
        expected: Hash,
        /// The root that the hashes lead to.
        found: Hash,
    },
    /// No proof can be made.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The signing key failed.
    #[error(transparent)]
    Signing(#[from] SignError),
    /// It is from another log.
    #[error("the receipt is of another log, expected {expected:?}")]
    OtherOrigin {
        /// The origin that was asked for.
        expected: String,
        /// The origin in the receipt.
        found: String,
    },
    /// Its path does not fit its leaf index and tree size.
    #[error(transparent)]
    Proof(#[from] ProofError),
    /// It is no receipt of our profile, or the log's signature is not good for the root that statement and path lead to.
    #[error("the receipt: {0}")]
    Refused(#[from] receipt::ReceiptError),
}

impl ReceiptError {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TreeTooSmall { .. } => Code::ReceiptTreeSize.as_str(),
            Self::Root { .. } => Code::ProofRoot.as_str(),
            Self::Signing(_) => Code::SigningFailed.as_str(),
            Self::OtherOrigin { .. } => Code::ReceiptOrigin.as_str(),
            Self::Tree(e) => e.code(),
            Self::Proof(e) => e.code(),
            Self::Refused(e) => e.code().as_str(),
        }
    }
}

/// Issues receipts for the leaves `leaves` of the log `origin`, under its first `size` leaves with root `root`, at `iat`
/// (Unix seconds): one signature, and one receipt a leaf in the same order. Call it only once (`size`, `root`) is
/// durable.
///
/// # Errors
/// [`ReceiptError`]; [`ReceiptError::Root`] before anything is signed.
pub fn issue_batch(
    signer: &dyn Signer,
    origin: &str,
    size: u64,
    root: &Hash,
    leaves: Range<u64>,
    source: &dyn NodeSource,
    iat: i64,
) -> Result<Vec<Vec<u8>>, ReceiptError> {
    if size < MIN_TREE_SIZE {
        return Err(ReceiptError::TreeTooSmall {
            expected: MIN_TREE_SIZE,
            found: size,
        });
    }
    let found = root_at(size, source)?;
    if found != *root {
        return Err(ReceiptError::Root { expected: *root, found });
    }
    let signed = receipt::sign_root(signer, origin, size, root, iat)?;
    leaves
        .map(|index| Ok(signed.encode(index, &inclusion_proof(index, size, source)?)?))
        .collect()
}

/// Verifies that `receipt` proves the signed statement `statement` to be in the log `origin`, whose key is `key`: first
/// the root that statement and path lead to, then the signature over it (RFC 9942, section 5.2.1). Whether the
/// statement itself is to be believed is [`VerifiedStatement::parse`](crate::statement::VerifiedStatement::parse).
///
/// # Errors
/// [`ReceiptError`]: the first thing that does not hold.
pub fn verify_receipt(
    receipt: &[u8],
    statement: &[u8],
    key: &VerifyingKey,
    origin: &str,
) -> Result<VerifiedReceipt, ReceiptError> {
    let receipt = Receipt::parse(receipt)?;
    if receipt.origin() != origin {
        return Err(ReceiptError::OtherOrigin {
            expected: origin.to_owned(),
            found: receipt.origin().to_owned(),
        });
    }
    let proof = receipt.proof();
    let root = root_from_inclusion(&leaf_hash(statement), proof.leaf_index, proof.tree_size, &proof.path)?;
    Ok(receipt.verify_signature(key, &root)?)
}
