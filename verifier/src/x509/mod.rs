//! X.509 certificates of hardware: chains to the domain's own trust anchors, and what an EK certificate says.
//!
//! In scope: parsing, signatures, constraints, dates at a given time, revocation lists that are given, key usage of TPM
//! endorsement and attestation-key certificates. Out of scope: fetching anything (AIA, CRL, OCSP), host names, TLS.

pub mod certificate;
pub mod chain;
mod chain_error;
pub mod cloud_ak;
pub mod code;
pub mod crl;
pub mod der;
pub mod ek_certificate;
mod extensions;
pub mod iak_certificate;
pub mod key;
mod name;
mod name_constraints;
mod remembered;
pub mod roca;

pub use certificate::Certificate;
pub use chain::{CertificateStore, ChainRules, CrlRule, Expiry, VerifiedChain, verify_chain};
pub use cloud_ak::verify_cloud_ak_certificate;
pub use code::CertificateCode;
pub use crl::{Crl, CrlError};
pub use ek_certificate::{VerifiedEkCertificate, verify_ek_certificate};
pub use iak_certificate::{VerifiedIakCertificate, verify_iak_certificate};
pub use key::SubjectKey;
pub use name::HardwareModuleName;
pub use remembered::MAX_REMEMBERED;
