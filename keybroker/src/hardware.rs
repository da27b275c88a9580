//! The hardware a hello names: what its evidence will have to show, and by what the store ties it to a name.

use std::fmt;

use touchstone_verifier::inventory::{CvmIdentity, EkId, EnrolledNode, EnrolledRoot, Node};

/// The hardware a hello names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hardware {
    /// A TPM, alone or beside other roots of the same node.
    Tpm {
        /// Its endorsement key.
        ek: EkId,
        /// TPM Name of its attestation key.
        ak_name: Vec<u8>,
    },
    /// A confidential VM, by the identity under which the inventory lists it.
    Cvm(CvmIdentity),
}

impl Hardware {
    /// Whether this is the machine that has enrolled: the same endorsement key, or the same confidential VM.
    #[must_use]
    pub fn is_machine_of(&self, node: &EnrolledNode) -> bool {
        match (self, &node.root) {
            (Self::Tpm { ek, .. }, EnrolledRoot::Tpm(tpm)) => tpm.ek == *ek,
            (Self::Cvm(identity), EnrolledRoot::Cvm(cvm)) => cvm.identity == identity.digest(),
            _ => false,
        }
    }

    /// Whether, beyond that, it speaks with the key that has enrolled. A confidential VM has none: its reports name it.
    #[must_use]
    pub fn has_key_of(&self, node: &EnrolledNode) -> bool {
        let same_key = match (self, &node.root) {
            (Self::Tpm { ak_name, .. }, EnrolledRoot::Tpm(tpm)) => tpm.ak_name == *ak_name,
            _ => true,
        };
        same_key && self.is_machine_of(node)
    }

    /// Whether this is another TPM than the one that has enrolled as `node` and that its entry still lists: two machines
    /// under one name. Where the entry lists the enrolled one no more, its author has replaced it. (A confidential VM's
    /// entry lists the platforms between which one guest moves.)
    #[must_use]
    pub fn conflicts_with(&self, enrolled: &EnrolledNode, node: &Node) -> bool {
        match (self, &enrolled.root) {
            (Self::Tpm { ek, .. }, EnrolledRoot::Tpm(tpm)) => tpm.ek != *ek && node.ek.contains(&tpm.ek),
            _ => false,
        }
    }

    /// What identifies the machine, in words.
    #[must_use]
    pub const fn claim(&self) -> &'static str {
        match self {
            Self::Tpm { .. } => "endorsement key",
            Self::Cvm(_) => "confidential VM",
        }
    }
}

impl fmt::Display for Hardware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tpm { ek, .. } => ek.fmt(f),
            Self::Cvm(identity) => identity.fmt(f),
        }
    }
}

/// What identifies the machine that has enrolled, in words.
#[must_use]
pub fn enrolled_text(node: &EnrolledNode) -> String {
    match &node.root {
        EnrolledRoot::Tpm(tpm) => tpm.ek.to_string(),
        EnrolledRoot::Cvm(cvm) => format!("{} {}", cvm.kind, hex::encode(cvm.identity)),
    }
}
