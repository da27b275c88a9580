//! The Attester: TPM, logs, agent and guard.

pub mod logs;
pub mod software_tpm;
#[cfg(feature = "tpm")]
pub mod tpm;
