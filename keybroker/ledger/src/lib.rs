//! The append-only Merkle log: tree, statements, checkpoints, proofs and receipts.
