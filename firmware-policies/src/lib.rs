//! The policy repository: author, sign, publish, load and test the signed inputs of every decision.
