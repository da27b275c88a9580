//! What a guest's report may vouch for beside itself.

use std::fmt;

/// What a reference of a confidential VM is of: a guest, or what runs below one and makes a virtual TPM.
///
/// A module's or paravisor's launch measurement says nothing of the system above it, so a report that matches such a
/// reference counts only with the virtual TPM it names; and an ordinary guest, which could ask for a report over any key,
/// vouches for none (SVSM specification 58019, 6; Azure's guest attestation design).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Endorses {
    /// Nothing: the report is the guest's own. What files without the measurement say.
    #[default]
    None,
    /// The virtual TPM in the manifest of a secure VM service module.
    Svsm,
    /// The virtual TPM in the report of Azure's paravisor.
    AzureVtpm,
}

impl Endorses {
    /// Every value.
    pub const ALL: [Self; 3] = [Self::None, Self::Svsm, Self::AzureVtpm];

    /// As it stands in files and results: `none`, `svsm`, `azure-vtpm`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Svsm => "svsm",
            Self::AzureVtpm => "azure-vtpm",
        }
    }

    /// The value of this word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|endorses| endorses.as_str() == word)
    }
}

impl fmt::Display for Endorses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
