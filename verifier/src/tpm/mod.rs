//! TPM 2.0 structures, keys and signatures, over the bytes as they were signed.
//!
//! In scope: what a Verifier needs to decide about a quote — the public areas, Names and attributes of keys, TPMS_ATTEST,
//! TPMT_SIGNATURE, PCR selections and digests, PolicyPCR, the endorsement key templates and MakeCredential in software.
//! Out of scope: talking to a TPM (that is `attest`), event logs, and any decision about what the values mean.
//!
//! Types go from *parsed* to *checked*: [`Public`](public::Public) and [`Attest`](attest::Attest) are what someone sent;
//! [`CheckedAk`](checks::CheckedAk), [`CheckedEk`](ek::CheckedEk), [`VerifiedQuote`](attestation::VerifiedQuote) and
//! [`VerifiedCertify`](attestation::VerifiedCertify) exist only after the check that their names say.

pub mod algorithm;
pub mod attest;
pub mod attestation;
pub mod attributes;
pub mod checks;
pub mod code;
pub mod credential;
pub mod ek;
mod kdf;
pub mod policy;
pub mod public;
pub mod reader;
pub mod scheme;
pub mod selection;
mod selection_error;
pub mod signature;

pub use algorithm::{Curve, HashAlg};
pub use attest::{Attest, ClockInfo};
pub use attestation::{AttestationKey, VerifiedCertify, VerifiedQuote};
pub use checks::{CheckedAk, SessionKeyUse};
pub use code::TpmCode;
pub use ek::{CheckedEk, EkTemplate};
pub use public::{Name, Public};
pub use selection::PcrSelection;
