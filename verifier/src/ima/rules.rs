//! What a domain demands of the list. Every leniency is a signed line in it.

use std::sync::Arc;

use crate::tpm::HashAlg;

/// Whether a machine must show its list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum ImaMode {
    /// A machine whose matched reference has files must.
    #[default]
    ByReference,
    /// Every machine must.
    Required,
    /// Nobody must, and a list that is there is not looked at.
    Off,
}

/// What is done about violations: files that were written while they were measured, so that the digest is worth
/// nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Violations {
    /// Refused, unless the path is excluded.
    #[default]
    Refuse,
    /// Counted, and named as a leniency.
    Allow,
}

/// What a domain demands of a list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImaRules {
    /// What is done about violations.
    pub violations: Violations,
}

impl ImaRules {
    /// SHA-256 that names these rules: entries judged under other ones are judged again.
    pub fn digest(&self) -> [u8; 32] {
        let violations = [matches!(self.violations, Violations::Allow).into()];
        let digest = HashAlg::Sha256.digest([&b"touchstone-ima-rules/1\0"[..], &violations]);
        digest.as_ref().try_into().unwrap_or_default()
    }
}

/// The part of an appraisal policy that is about IMA. The default demands the list by reference and excludes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImaPolicy {
    /// Whether a machine must show its list.
    pub mode: ImaMode,
    /// What is demanded of it; compiled once, shared.
    pub rules: Arc<ImaRules>,
}
