//! The Attester: TPM access, evidence, agent and guard; and the client side of the broker's protocol.
//!
//! The only room that may link the C TPM library, behind the feature `tpm`. Without it what remains is what a machine
//! without a TPM needs: the pinned client, the follower of the trust state, the guard, and packing of other tools' files.

pub mod agent;
pub mod bootstrap;
pub mod client;
pub mod clock;
#[cfg(feature = "tpm")]
pub mod collect;
pub mod floors;
pub mod follow;
pub mod guard;
pub mod local;
pub mod logs;
pub mod pack;
pub mod schedule;
pub mod software_tpm;
pub mod tee;
#[cfg(feature = "tpm")]
pub mod tpm;
pub mod trust;
