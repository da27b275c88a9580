//! The Attester: TPM access, evidence, agent. The client side of the broker's protocol is `touchstone-client`, what enforces
//! is `touchstone-enforcer`.
//!
//! The only room that may link the C TPM library, behind the feature `tpm`. Without it what remains is what a machine
//! without a TPM needs: the pinned client, the follower of the trust state, and packing of other tools' files.

pub mod agent;
pub mod bootstrap;
#[cfg(feature = "tpm")]
pub mod collect;
pub mod local;
pub mod logs;
pub mod pack;
pub mod schedule;
pub mod software_tpm;
pub mod tee;
#[cfg(feature = "tpm")]
pub mod tpm;

pub use touchstone_client as client;
pub use touchstone_client::{clock, follow};
pub use touchstone_enforcer::{floors, trust};
