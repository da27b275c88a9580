//! Evidence, Endorsements, Reference Values, policy and a time in; an Attestation Result out. Pure: no I/O, no clock, no panic.
//!
//! In scope: TPM 2.0 structures, the firmware event log, endorsement-key certificates, signed reference values (CoRIM)
//! and the Attestation Result (EAR). Out of scope: talking to a TPM, fetching anything, deciding who may do what.

pub mod anchors;
pub mod appraisal;
pub mod bootstrap;
pub mod corim;
pub mod deny;
pub mod ear;
pub mod eventlog;
pub mod gpu;
pub mod hcl;
pub mod ima;
pub mod inventory;
pub mod policy;
pub mod reason;
pub mod reference;
pub mod snp;
pub mod svsm;
pub mod tdx;
pub mod tpm;
mod utc;
pub mod x509;

/// Name of what this verifier means by its inputs: bumped by any change of verdict or of bytes (protocol.md 10).
pub const SEMANTICS_ID: &str = "touchstone-semantics/7";
