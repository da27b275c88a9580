//! What an agent holds of the confidential VM it runs in: the way to its reports, the certificates that belong to them,
//! and the session keys of a node that has no TPM.

use std::path::PathBuf;

use touchstone_cose::encrypt::SoftwareReceiveKey;
use touchstone_evidence::label::Label;
use touchstone_verifier::tdx;

use super::attester::AttesterError;
use super::config::{TeeConfig, TeeSource};
use super::memory_key::MemoryKey;
use crate::logs;
use crate::tee::azure::Azure;
use crate::tee::certificates;
use crate::tee::configfs::ConfigFs;
use crate::tee::identity::{self, Claimed};
use crate::tee::sev_guest::SevGuest;
use crate::tee::{Provider, REPORT_DATA_LEN, Report, ReportSource, TeeError};

/// Where an SEV-SNP report has its own data, and the platform it is of: security versions and chip (AMD 56860, table 23).
const SNP_REPORT_DATA: std::ops::Range<usize> = 0x050..0x090;
const SNP_PLATFORM: [std::ops::Range<usize>; 2] = [0x180..0x188, 0x1A0..0x1E0];

/// The confidential VM that the agent runs in.
#[derive(Debug)]
pub struct Cvm {
    config: TeeConfig,
    source: Box<dyn ReportSource>,
    platform: Platform,
    session: MemoryKey,
    receive: SoftwareReceiveKey,
}

/// What changes only when the platform does: learned from a report that is thrown away.
#[derive(Debug)]
struct Platform {
    provider: Provider,
    /// What of a report says which platform it is of.
    mark: Vec<u8>,
    claimed: Claimed,
    records: Vec<(Label, Vec<u8>)>,
}

impl Cvm {
    /// Opens the way to reports and learns what the platform is.
    ///
    /// `tcti` says how to reach the TPM, where reports come from it.
    ///
    /// # Errors
    /// [`AttesterError`]
    pub fn open(config: &TeeConfig, tcti: &str) -> Result<Self, AttesterError> {
        let level = config.privilege_level;
        let mut source: Box<dyn ReportSource> = match config.source {
            TeeSource::Auto => either(ConfigFs::open(&config.path, level), || SevGuest::open(level))?,
            TeeSource::Configfs => Box::new(ConfigFs::open(&config.path, level)?),
            TeeSource::SevGuest => Box::new(SevGuest::open(level)?),
            TeeSource::Azure => Box::new(Azure::open(tcti)?),
        };
        let platform = Platform::learn(source.as_mut(), config)?;
        Ok(Self {
            platform,
            source,
            session: MemoryKey::generate().ok_or(AttesterError::Random)?,
            receive: SoftwareReceiveKey::generate().map_err(|_| AttesterError::Random)?,
            config: config.clone(),
        })
    }

    /// The kind of evidence it gives.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.platform.provider.kind()
    }

    /// What it says of itself.
    #[must_use]
    pub fn claimed(&self) -> &Claimed {
        &self.platform.claimed
    }

    /// The session signing key of a node without a TPM.
    #[must_use]
    pub fn session_key(&self) -> &MemoryKey {
        &self.session
    }

    /// The session receive key of a node without a TPM.
    #[must_use]
    pub fn receive_key(&self) -> &SoftwareReceiveKey {
        &self.receive
    }

    /// The records that a report's data have to cover: certificates and collateral.
    #[must_use]
    pub fn records(&self) -> &[(Label, Vec<u8>)] {
        &self.platform.records
    }

    /// The log that registers in the report authenticate, where there is one: announced before the report, read after it.
    #[must_use]
    pub fn log(&self) -> Option<(Label, PathBuf)> {
        let path = &self.config.event_log;
        (self.platform.provider == Provider::Tdx && path.exists()).then(|| (Label::CcEventLog, path.clone()))
    }

    /// Reads that log.
    ///
    /// # Errors
    /// [`logs::LogReadError`]
    pub fn read_log(path: &std::path::Path) -> Result<Vec<u8>, logs::LogReadError> {
        logs::firmware_log(path)
    }

    /// The report over these data.
    ///
    /// # Errors
    /// [`AttesterError::PlatformChanged`] where the machine has moved or its firmware was updated since its certificates
    /// were read: they are read anew, and the next round has them.
    pub fn report(&mut self, data: &[u8; REPORT_DATA_LEN]) -> Result<(Label, Vec<u8>), AttesterError> {
        let report = self.source.report(data)?;
        // In Azure they stand in the runtime data, or nowhere: how fresh such a report is, is for the verifier to say.
        if report.provider != Provider::Azure && report_data(&report) != Some(data) {
            return Err(AttesterError::Tee(TeeError::Malformed {
                what: "report",
                expected: "the report data that were asked for".into(),
                found: "others".into(),
            }));
        }
        if report.provider != self.platform.provider || mark(&report) != self.platform.mark {
            self.platform = Platform::learn(self.source.as_mut(), &self.config)?;
            return Err(AttesterError::PlatformChanged);
        }
        Ok((report.provider.label(), report.report))
    }
}

/// The first interface, or where it is not there, the second. One that is there and fails is not passed over: the other
/// would not be this machine's any more.
fn either<F: ReportSource + 'static, S: ReportSource + 'static>(
    first: Result<F, TeeError>,
    second: impl FnOnce() -> Result<S, TeeError>,
) -> Result<Box<dyn ReportSource>, TeeError> {
    match first {
        Ok(first) => Ok(Box::new(first)),
        Err(TeeError::Missing { path: configfs }) => match second() {
            Ok(second) => Ok(Box::new(second)),
            Err(TeeError::Missing { path: device }) => Err(TeeError::NoInterface { configfs, device }),
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    }
}

impl Platform {
    fn learn(source: &mut dyn ReportSource, config: &TeeConfig) -> Result<Self, AttesterError> {
        let mut data = [0; REPORT_DATA_LEN];
        getrandom::fill(&mut data).map_err(|_| AttesterError::Random)?;
        let report = source.report(&data)?;
        let read = |path: &PathBuf| -> Result<Vec<u8>, TeeError> {
            std::fs::read(path).map_err(|error| TeeError::Io {
                path: path.clone(),
                kind: error.kind(),
            })
        };
        let mut records = Vec::new();
        let claimed = match report.provider {
            Provider::Snp => {
                // The operator's file comes first: it is there because what the host gives is not enough.
                let given = match &config.certificates {
                    Some(path) => certificates::record(&read(path)?)?,
                    None => certificates::record(&report.auxiliary)?,
                };
                let claimed = identity::of_snp(&report, &given)?;
                records.push((Label::SnpCertificates, given));
                claimed
            }
            Provider::Azure => {
                if let Some(path) = &config.certificates {
                    records.push((Label::SnpCertificates, certificates::record(&read(path)?)?));
                }
                // Its TPM says who it is.
                Claimed {
                    platform: "azure".into(),
                    guests: Vec::new(),
                }
            }
            Provider::Tdx => {
                let collateral = config.collateral.as_ref().map(read).transpose()?;
                let claimed = identity::of_tdx(&report, collateral.as_deref())?;
                records.extend(collateral.map(|collateral| (Label::TdxCollateral, collateral)));
                claimed
            }
        };
        Ok(Self {
            provider: report.provider,
            mark: mark(&report),
            claimed,
            records,
        })
    }
}

fn report_data(report: &Report) -> Option<&[u8; REPORT_DATA_LEN]> {
    match report.provider {
        Provider::Snp => report.report.get(SNP_REPORT_DATA)?.try_into().ok(),
        Provider::Tdx => Some(tdx::Quote::parse(&report.report).ok()?.report_data()),
        Provider::Azure => None,
    }
}

/// What of a report says which platform it is of. A TDX quote brings its own certificates, or has none.
fn mark(report: &Report) -> Vec<u8> {
    match report.provider {
        Provider::Snp => SNP_PLATFORM
            .into_iter()
            .filter_map(|range| report.report.get(range))
            .flatten()
            .copied()
            .collect(),
        Provider::Tdx | Provider::Azure => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    #[derive(Debug)]
    struct Source(Provider);

    impl ReportSource for Source {
        fn report(&mut self, _: &[u8; REPORT_DATA_LEN]) -> Result<Report, TeeError> {
            Ok(Report {
                provider: self.0,
                report: Vec::new(),
                auxiliary: Vec::new(),
            })
        }
    }

    #[test]
    fn only_an_interface_that_is_not_there_is_passed_over() {
        let missing = |path: &str| TeeError::Missing { path: path.into() };
        let broken = |path: &str| TeeError::Io {
            path: path.into(),
            kind: ErrorKind::PermissionDenied,
        };
        let both = TeeError::NoInterface {
            configfs: "a".into(),
            device: "b".into(),
        };
        let (first, second) = (Provider::Tdx, Provider::Snp);
        type Row = (
            &'static str,
            Result<Provider, TeeError>,
            Result<Provider, TeeError>,
            Result<Provider, TeeError>,
        );
        let rows: [Row; 6] = [
            ("both", Ok(first), Ok(second), Ok(first)),
            ("the first alone", Ok(first), Err(missing("b")), Ok(first)),
            ("the second alone", Err(missing("a")), Ok(second), Ok(second)),
            ("the first refuses", Err(broken("a")), Ok(second), Err(broken("a"))),
            (
                "the second refuses",
                Err(missing("a")),
                Err(broken("b")),
                Err(broken("b")),
            ),
            ("neither", Err(missing("a")), Err(missing("b")), Err(both)),
        ];
        for (row, first, second, wanted) in rows {
            let chosen = either(first.map(Source), || second.map(Source));
            let chosen = chosen.map(|mut source| source.report(&[0; REPORT_DATA_LEN]).expect("a report").provider);
            assert_eq!(chosen, wanted, "{row}");
        }
    }
}
