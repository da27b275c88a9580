//! The Attester: TPM, logs, agent and guard.
