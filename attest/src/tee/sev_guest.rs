//! Reports through `/dev/sev-guest`, for kernels before 6.7 (Linux, `Documentation/virt/coco/sev-guest.rst`).

use std::io::ErrorKind;
use std::path::PathBuf;

use sev::firmware::guest::Firmware;

use super::{Provider, REPORT_DATA_LEN, Report, ReportSource, TeeError};

/// Where the kernel has it.
pub const DEVICE: &str = "/dev/sev-guest";

/// The device.
#[derive(Debug, Clone)]
pub struct SevGuest {
    privilege_level: Option<u8>,
}

impl SevGuest {
    /// The device, where there is one; reports from this VMPL, where one is given.
    ///
    /// # Errors
    /// [`TeeError::Missing`], [`TeeError::Io`].
    pub fn open(privilege_level: Option<u8>) -> Result<Self, TeeError> {
        firmware()?;
        Ok(Self { privilege_level })
    }
}

impl ReportSource for SevGuest {
    fn report(&mut self, report_data: &[u8; REPORT_DATA_LEN]) -> Result<Report, TeeError> {
        // The extended request also gives the certificates that the host has for this guest.
        let level = self.privilege_level.map(u32::from);
        let (report, certificates) = firmware()?
            .get_ext_report(None, Some(*report_data), level)
            .map_err(|error| TeeError::Firmware {
                detail: error.to_string(),
            })?;
        let mut auxiliary = Vec::new();
        for certificate in certificates.into_iter().flatten() {
            auxiliary.extend(certificate.data);
        }
        Ok(Report {
            provider: Provider::Snp,
            report,
            auxiliary,
        })
    }
}

fn firmware() -> Result<Firmware, TeeError> {
    let path = PathBuf::from(DEVICE);
    Firmware::open().map_err(|error| match error.kind() {
        ErrorKind::NotFound => TeeError::Missing { path },
        kind => TeeError::Io { path, kind },
    })
}
