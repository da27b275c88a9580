//! Reports of a confidential VM in Azure: its paravisor keeps them in NV indices of the virtual TPM.
//!
//! Source: Azure, "Guest attestation for confidential VMs": the guest writes 64 bytes to 0x01400002 and reads the report
//! from 0x01400001; what it wrote stands in the report's runtime data. A paravisor without that gives the report it made
//! when the machine started: it endorses the TPM's attestation key and is as old as the boot.

use std::time::{Duration, Instant};

use touchstone_verifier::hcl::HclReport;

use super::{Provider, REPORT_DATA_LEN, Report, ReportSource, TeeError};
use crate::tpm::{Tpm, TpmError};

/// Where the report is.
pub const REPORT_INDEX: u32 = 0x0140_0001;
/// Where the data go that it is made over.
pub const DATA_INDEX: u32 = 0x0140_0002;
/// The attestation key that the report names.
pub const ATTESTATION_KEY: u32 = 0x8100_0003;

/// How long the paravisor may take to make a report over new data.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);

/// The virtual TPM as a source of reports.
#[derive(Debug)]
pub struct Azure {
    tcti: String,
    /// Whether the paravisor takes data, once that is known: it is not waited for every time.
    takes_data: Option<bool>,
}

impl Azure {
    /// The virtual TPM at `tcti`, where there is a report in it.
    ///
    /// # Errors
    /// [`TeeError::Missing`], [`TeeError::Tpm`].
    pub fn open(tcti: &str) -> Result<Self, TeeError> {
        read(&mut Tpm::open(tcti).map_err(failed)?)?;
        Ok(Self {
            tcti: tcti.to_owned(),
            takes_data: None,
        })
    }
}

impl ReportSource for Azure {
    fn report(&mut self, report_data: &[u8; REPORT_DATA_LEN]) -> Result<Report, TeeError> {
        let mut tpm = Tpm::open(&self.tcti).map_err(failed)?;
        if self.takes_data != Some(false) {
            match tpm.nv_store(DATA_INDEX, report_data) {
                Ok(()) => {}
                Err(error) => tracing::debug!(%error, "the paravisor takes no report data"),
            }
        }
        let begun = Instant::now();
        let report = loop {
            let report = read(&mut tpm)?;
            if is_over(&report, report_data) {
                self.takes_data = Some(true);
                break report;
            }
            if self.takes_data == Some(false) || begun.elapsed() > PATIENCE {
                if self.takes_data.is_none() {
                    tracing::warn!("the paravisor takes no report data: its report is as old as this boot");
                    self.takes_data = Some(false);
                }
                break report;
            }
            // Nothing tells when the paravisor is done.
            std::thread::park_timeout(PAUSE);
        };
        Ok(Report {
            provider: Provider::Azure,
            report,
            auxiliary: Vec::new(),
        })
    }
}

/// Whether the report's runtime data hold these data.
fn is_over(report: &[u8], report_data: &[u8; REPORT_DATA_LEN]) -> bool {
    HclReport::parse(report).is_ok_and(|report| report.user_data() == Some(report_data))
}

fn read(tpm: &mut Tpm) -> Result<Vec<u8>, TeeError> {
    let contents = tpm.nv_contents(REPORT_INDEX).map_err(failed)?;
    contents.ok_or_else(|| TeeError::Tpm {
        detail: format!("NV index {REPORT_INDEX:#010x} holds no report: this is no confidential VM of Azure"),
    })
}

fn failed(error: TpmError) -> TeeError {
    TeeError::Tpm {
        detail: error.to_string(),
    }
}
