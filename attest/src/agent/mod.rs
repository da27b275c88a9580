//! The agent on a node: attests, keeps re-attesting, renews before expiry, follows the trust state, survives broker
//! restarts, and says plainly in what state the node is.

pub mod config;
pub mod standing;

#[cfg(feature = "tpm")]
pub mod attester;
#[cfg(feature = "tpm")]
pub mod caller;
#[cfg(feature = "tpm")]
pub mod cvm;
#[cfg(feature = "tpm")]
pub mod desk;
#[cfg(feature = "tpm")]
pub mod foreign;
#[cfg(feature = "tpm")]
pub mod machine;
#[cfg(feature = "tpm")]
pub mod memory_key;
#[cfg(feature = "tpm")]
pub mod owner;
#[cfg(feature = "tpm")]
pub mod release;
#[cfg(feature = "tpm")]
pub mod round;
#[cfg(feature = "tpm")]
mod run;
#[cfg(feature = "tpm")]
mod seats;
#[cfg(feature = "tpm")]
pub mod socket;
#[cfg(feature = "tpm")]
pub mod state;
#[cfg(feature = "tpm")]
pub mod tails;
pub mod workload_rules;
#[cfg(feature = "tpm")]
pub mod workloads;

#[cfg(feature = "tpm")]
pub(crate) use run::load;
#[cfg(feature = "tpm")]
pub use run::{AgentError, AgentEvent, run};
