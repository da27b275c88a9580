//! X.509 certificates of hardware: chains to the domain's own trust anchors, and what an EK certificate says.
//!
//! In scope: parsing, signatures, constraints, dates at a given time, key usage of TPM endorsement certificates.
//! Out of scope: fetching anything (AIA, CRL, OCSP), host names, TLS.

pub mod certificate;
pub mod chain;
mod chain_error;
pub mod code;
pub mod der;
pub mod ek_certificate;
pub mod key;

pub use certificate::Certificate;
pub use chain::{CertificateStore, Expiry, VerifiedChain, verify_chain};
pub use code::CertificateCode;
pub use ek_certificate::{VerifiedEkCertificate, verify_ek_certificate};
pub use key::SubjectKey;
