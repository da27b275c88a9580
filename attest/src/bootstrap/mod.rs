//! Opening a node's encrypted disk in its initramfs: attest, fetch the disk's key, see that it is the right disk, open it
//! (`docs/protocol.md`, section 11).

pub mod config;
#[cfg(feature = "tpm")]
mod fetch;
pub mod header;
#[cfg(feature = "tpm")]
mod run;
pub mod volume;

#[cfg(feature = "tpm")]
pub use run::{BootstrapEvent, Ending, end_phase, run};
