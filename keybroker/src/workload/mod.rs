//! Authorizations below a node's own: for its workloads, and for whom those hand a part of their rights on to.
//!
//! Who holds an authorization asks for one below it (`POST /v1/authorizations`); it is decided in [`decide`] on recorded
//! inputs, so that `ledger replay` makes the decision again byte for byte, and answered in [`serve`], durable first. What is
//! kept of it is in [`record`]. Source of the rules: `docs/protocol.md`, section 6.

pub mod ancestry;
pub mod decide;
pub mod inputs;
pub mod record;
pub mod rejudge;
pub mod serve;
pub(crate) mod stored;
pub mod uses;
