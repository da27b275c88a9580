//! `[roots]`: which roots of hardware a machine must show.

use serde::{Deserialize, Serialize};
use touchstone_verifier::policy::{RequiredRoots, RootsPolicy};

/// Which roots must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Required {
    /// Whatever the node's own entry lists.
    #[default]
    #[serde(rename = "listed")]
    Listed,
    /// Any one.
    #[serde(rename = "any")]
    Any,
    /// A TPM.
    #[serde(rename = "tpm")]
    Tpm,
    /// A confidential VM's processor.
    #[serde(rename = "tee")]
    Tee,
    /// Both, shown to belong together.
    #[serde(rename = "tpm+tee")]
    TpmAndTee,
}

/// `[roots]`. A file without it demands every root that a node's entry lists; parts that are there must be right, and of one machine, always.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootsSettings {
    /// Which roots must be there.
    #[serde(default)]
    pub required: Required,
}

impl RootsSettings {
    /// What an appraisal is told.
    pub(crate) fn policy(&self) -> RootsPolicy {
        RootsPolicy {
            required: match self.required {
                Required::Listed => RequiredRoots::Listed,
                Required::Any => RequiredRoots::Any,
                Required::Tpm => RequiredRoots::Tpm,
                Required::Tee => RequiredRoots::Tee,
                Required::TpmAndTee => RequiredRoots::TpmAndTee,
            },
        }
    }
}
