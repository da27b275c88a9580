//! The append-only Merkle log: tree, statements, checkpoints, proofs and receipts.
//!
//! In scope: the arithmetic and the formats. [`tree`] is the RFC 9162 Merkle tree with its proofs, [`statement`] what
//! its leaves say, [`checkpoint`] its signed head (over [`note`]), [`receipt`] the proof that travels with a statement,
//! [`witness`] what somebody else checks before it says so in a [`cosignature`].
//! Out of scope: where entries and hashes are kept (the broker's store), when anything is signed (the broker's
//! sequencer), clocks and all other I/O: the same bytes give the same answer for ever.

pub mod checkpoint;
pub mod cosignature;
pub mod note;
pub mod reason;
pub mod receipt;
pub mod statement;
pub mod tree;
pub mod witness;
