//! Appraisal policy: what the domain demands of evidence. Every leniency is a signed line in it, none is code.

use crate::gpu::GpuPolicy;
use crate::ima::ImaPolicy;
use crate::snp::SnpPolicy;
use crate::tdx::TdxPolicy;
use crate::tpm::PcrSelection;
use crate::x509::{ChainRules, CrlRule, Expiry};

/// What happens with evidence that has no firmware event log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EventLogRule {
    /// Without a log that replays: refused.
    #[default]
    Required,
    /// The quoted registers alone may match a reference; the result names the leniency. A log that *is* there must
    /// replay all the same.
    RegistersSuffice,
}

/// What happens with a machine that shows no endorsement certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EkCertificateRule {
    /// The inventory's entry of the endorsement key is enough; the result says `ek_certificate: none`. A certificate that
    /// *is* there must be right all the same.
    #[default]
    WhenPresent,
    /// Refused, unless an IAK certificate shows whose the attestation key is.
    Required,
}

/// Which roots of hardware the evidence must show, with nothing against them (setting `roots.required`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RequiredRoots {
    /// Every kind that the node's own inventory entry lists, and every GPU of it.
    #[default]
    Listed,
    /// Any one; the result names the leniency where something listed was not shown.
    Any,
    /// A TPM, beside what the entry lists.
    Tpm,
    /// A confidential VM's processor, beside what the entry lists.
    Tee,
    /// Both, shown to belong together and independent of each other, beside what the entry lists: a virtual TPM that only
    /// the report vouches for is none of its own.
    TpmAndTee,
}

/// What a domain demands of the composition of evidence.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RootsPolicy {
    /// Which roots must be there.
    pub required: RequiredRoots,
}

/// When the hardware's report about an Azure confidential VM must have been made (setting `azure.report_freshness`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReportFreshness {
    /// For this challenge.
    #[default]
    Session,
    /// When the machine started will do, where a quote of the virtual TPM it endorses is fresh; the result names the
    /// leniency.
    Boot,
}

/// What a domain demands of Azure's confidential VMs beside what their hardware must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AzurePolicy {
    /// When the hardware's report must have been made.
    pub report_freshness: ReportFreshness,
}

/// What a domain demands of evidence (design.md 3, protocol.md 2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppraisalPolicy {
    /// Registers that must be quoted and equal a reference. Never resettable ones.
    pub required_registers: PcrSelection,
    /// Boot registers the session key's authPolicy is bound to. Never one that moves at run time (10).
    pub session_key_registers: PcrSelection,
    /// What to do about expired endorsement certificates.
    pub ek_expiry: Expiry,
    /// When revocation lists are looked at.
    pub crl: CrlRule,
    /// What to do without an endorsement certificate.
    pub ek_certificate: EkCertificateRule,
    /// What to do without an event log.
    pub event_log: EventLogRule,
    /// What is demanded of what ran since the boot.
    pub ima: ImaPolicy,
    /// Which roots of hardware must be there.
    pub roots: RootsPolicy,
    /// What is demanded of SEV-SNP guests and platforms.
    pub snp: SnpPolicy,
    /// What is demanded of TDX guests and platforms.
    pub tdx: TdxPolicy,
    /// What is demanded of Azure's confidential VMs.
    pub azure: AzurePolicy,
    /// What is demanded of GPUs and NVSwitches.
    pub gpu: GpuPolicy,
    /// Name of this policy in Attestation Results (claim 1003).
    pub policy_id: String,
}

impl AppraisalPolicy {
    /// How the chains of device certificates are judged.
    pub fn chain_rules(&self) -> ChainRules {
        ChainRules {
            expiry: self.ek_expiry,
            crl: self.crl,
        }
    }
}
