//! What a domain stores of a node that has enrolled: an explicit input of each later appraisal (`docs/protocol.md`,
//! section 2).

use std::fmt;

use super::EkId;
use crate::tpm::ClockInfo;

/// What the domain stored when a node enrolled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolledNode {
    /// The node's name.
    pub name: String,
    /// The hardware it enrolled with: what holds its session key.
    pub root: EnrolledRoot,
    /// The session key certified last; none for a confidential VM, whose key is bound by the binder each time.
    pub session_key: Option<CertifiedKey>,
}

/// The hardware a node enrolled with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnrolledRoot {
    /// A TPM, alone or beside other roots of the same node.
    Tpm(EnrolledTpm),
    /// A confidential VM without a TPM of its own.
    Cvm(EnrolledCvm),
}

/// A TPM that has enrolled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolledTpm {
    /// The endorsement key that was activated.
    pub ek: EkId,
    /// TPM Name of the attestation key tied to it.
    pub ak_name: Vec<u8>,
    /// The attestation key's TPMT_PUBLIC.
    pub ak_public: Vec<u8>,
    /// The endorsement certificate, DER, where there is one: judged anew every round.
    pub ek_certificate: Option<Vec<u8>>,
    /// The receive key certified last: what secrets are encrypted to.
    pub receive_key: Option<CertifiedKey>,
    /// The TPM's clock when last seen.
    pub clock: ClockInfo,
}

/// A confidential VM that has enrolled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnrolledCvm {
    /// Which technology.
    pub kind: CvmKind,
    /// [`CvmIdentity::digest`](super::CvmIdentity::digest) of the identity by which the inventory lists it.
    pub identity: [u8; 32],
}

/// A technology of confidential VMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum CvmKind {
    /// AMD SEV-SNP.
    Snp,
    /// Intel TDX.
    Tdx,
}

/// A session key the attestation key has certified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertifiedKey {
    /// RFC 9679 thumbprint of its public key.
    pub thumbprint: [u8; 32],
    /// Its TPM Name.
    pub name: Vec<u8>,
    /// The authPolicy that was checked: PolicyPCR over the boot registers quoted then.
    pub auth_policy: [u8; 32],
}

impl EnrolledNode {
    /// Its TPM, where it enrolled with one.
    #[must_use]
    pub fn tpm(&self) -> Option<&EnrolledTpm> {
        match &self.root {
            EnrolledRoot::Tpm(tpm) => Some(tpm),
            EnrolledRoot::Cvm(_) => None,
        }
    }

    /// The confidential VM, where it enrolled as one.
    #[must_use]
    pub fn cvm(&self) -> Option<&EnrolledCvm> {
        match &self.root {
            EnrolledRoot::Tpm(_) => None,
            EnrolledRoot::Cvm(cvm) => Some(cvm),
        }
    }
}

impl CvmKind {
    /// As it stands in results and messages: `snp`, `tdx`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Snp => "snp",
            Self::Tdx => "tdx",
        }
    }

    /// The kind of this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Snp, Self::Tdx].into_iter().find(|kind| kind.as_str() == text)
    }
}

impl fmt::Display for CvmKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
