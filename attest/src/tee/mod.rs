//! Reports of a confidential VM's hardware, as a guest asks for them.
//!
//! Three ways: the kernel's `configfs-tsm` (SEV-SNP and TDX), the older `/dev/sev-guest`, and the NV indices of Azure's
//! virtual TPM. Nothing is judged here: what comes is carried to whoever verifies it.

#[cfg(feature = "tpm")]
pub mod azure;
pub mod certificates;
pub mod configfs;
pub mod error;
pub mod identity;
pub mod sev_guest;

pub use error::TeeError;

use touchstone_evidence::label::Label;

/// Bytes of a report's own data: 64, in SEV-SNP and TDX alike.
pub const REPORT_DATA_LEN: usize = 64;

/// The most bytes of a report and of what comes beside it (Linux, `TSM_REPORT_OUTBLOB_MAX`).
pub const MAX_BLOB: usize = 32 << 10;

/// Who makes the report, and so its format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// AMD SEV-SNP: an attestation report of 1184 bytes.
    Snp,
    /// Intel TDX: a quote of version 4 or 5.
    Tdx,
    /// Azure: an HCL report around one of the two.
    Azure,
}

/// A report and what the platform gave beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Who made it.
    pub provider: Provider,
    /// The report, exactly as it came.
    pub report: Vec<u8>,
    /// What came beside it: for SEV-SNP a table of certificates. Empty where nothing came.
    pub auxiliary: Vec<u8>,
}

/// Something that makes reports of the machine it runs on.
pub trait ReportSource: Send + std::fmt::Debug {
    /// A report over these data. It waits for the platform, at most some seconds.
    ///
    /// # Errors
    /// [`TeeError`]; a report over other data than these is an error too.
    fn report(&mut self, report_data: &[u8; REPORT_DATA_LEN]) -> Result<Report, TeeError>;
}

impl Provider {
    /// The provider of this name (Linux, `drivers/virt/coco`).
    #[must_use]
    pub fn of_kernel(name: &str) -> Option<Self> {
        match name {
            "sev_guest" => Some(Self::Snp),
            "tdx_guest" => Some(Self::Tdx),
            _ => None,
        }
    }

    /// The kind of evidence, as it is offered to a broker.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Snp => "snp",
            Self::Tdx => "tdx",
            Self::Azure => "azure",
        }
    }

    /// The record of a collection that the report is.
    #[must_use]
    pub const fn label(self) -> Label {
        match self {
            Self::Snp => Label::SnpReport,
            Self::Tdx => Label::TdxQuote,
            Self::Azure => Label::AzureHclReport,
        }
    }
}
