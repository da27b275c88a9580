//! `[azure]`: what is demanded of Azure's confidential VMs beside what their hardware must be.

use serde::{Deserialize, Serialize};
use touchstone_verifier::policy::{AzurePolicy, ReportFreshness};

/// When the hardware's report must have been made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReportFreshnessName {
    /// For this very challenge.
    #[default]
    Session,
    /// When the machine started will do, as long as a quote of the virtual TPM it endorses is fresh. The result names the
    /// leniency and says `tcb_freshness: boot`.
    Boot,
}

/// `[azure]`. A file without it has the strict value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AzureSettings {
    /// When the hardware's report must have been made.
    pub report_freshness: ReportFreshnessName,
}

impl AzureSettings {
    /// What an appraisal is told.
    pub(crate) fn policy(self) -> AzurePolicy {
        AzurePolicy {
            report_freshness: match self.report_freshness {
                ReportFreshnessName::Session => ReportFreshness::Session,
                ReportFreshnessName::Boot => ReportFreshness::Boot,
            },
        }
    }
}
