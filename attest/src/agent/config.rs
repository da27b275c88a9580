//! `agent.toml`: what the agent on a node is told. Unknown keys are refused: a misspelt setting must not vanish.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;
use touchstone_policies::{Location, PolicyError, Source};

use super::workload_rules::WorkloadsConfig;
use crate::bootstrap::config::BootstrapConfig;
use crate::client::Endpoint;

/// The configuration of one agent.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// Brokers of the domain, `https://host:port`, tried in order.
    pub brokers: Vec<String>,
    /// The trust domain's name; everything signed must name it.
    pub domain: String,
    /// The policy repository: a folder, or the `http://` or `https://` URL of any static web server, for example of a
    /// broker's `/v1/policy`. Of one on a server a copy is kept in `state_dir`.
    pub policy: Location,
    /// Certificate authorities, PEM, of an `https://` policy repository.
    #[serde(default)]
    pub policy_ca: Option<PathBuf>,
    /// The `root.json` this agent was given when it was installed: the one thing it trusts from the start.
    pub policy_root: PathBuf,
    /// Where the attestation key and the last accepted policy versions are kept (mode 0700).
    pub state_dir: PathBuf,
    /// Unix socket on which local workloads and `touchstone agent status` ask; mode 0600.
    #[serde(default)]
    pub socket: Option<PathBuf>,
    /// How to reach the TPM.
    #[serde(default)]
    pub tpm: TpmConfig,
    /// The confidential VM this machine is, where it is one.
    #[serde(default)]
    pub tee: Option<TeeConfig>,
    /// When to attest again, where this differs from what the broker says.
    #[serde(default)]
    pub schedule: ScheduleConfig,
    /// The disk that `touchstone bootstrap` opens; the agent itself does not look at it.
    #[serde(default)]
    pub bootstrap: BootstrapConfig,
    /// Workloads that may have an authorization of their own.
    #[serde(default)]
    pub workloads: WorkloadsConfig,
}

/// The `[tpm]` table.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TpmConfig {
    /// A TSS TCTI string: `device:/dev/tpmrm0`, `swtpm:host=127.0.0.1,port=2321`.
    pub tcti: String,
    /// The firmware's event log.
    pub event_log: PathBuf,
    /// IMA's list of measurements, binary form. Where there is no such file the machine has no IMA.
    pub ima_list: PathBuf,
    /// The kernel's id of this boot: by it the broker tells which part of the logs it has seen.
    pub boot_id: PathBuf,
    /// The algorithm of the attestation key made at first start: `ecc` (P-256, ECDSA) or `rsa` (2048, RSASSA).
    pub attestation_key: AttestationKeyKind,
    /// A persistent attestation key that the platform's maker provisioned, in the place of one of our own.
    pub attestation_key_handle: Option<u32>,
}

/// The `[tee]` table: there where the machine is a confidential VM.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeeConfig {
    /// How reports are asked for: `auto` (`configfs`, and where the kernel has none, `sev-guest`), `configfs` (SEV-SNP and
    /// TDX, Linux 6.7), `sev-guest` (SEV-SNP before), or `azure` (NV indices of the virtual TPM; with `with_tpm`).
    #[serde(default)]
    pub source: TeeSource,
    /// Where the kernel shows `configfs-tsm`.
    #[serde(default = "tsm_base")]
    pub path: PathBuf,
    /// The privilege level reports are asked for from (SEV-SNP: VMPL, 0 to 3); the kernel's own where absent.
    #[serde(default)]
    pub privilege_level: Option<u8>,
    /// Certificates of the key that signs SEV-SNP reports, and those above it (PEM, or DER one after the other), where the
    /// host gives none, or too few.
    #[serde(default)]
    pub certificates: Option<PathBuf>,
    /// Intel's collateral for this platform (JSON), sent beside a TDX quote.
    #[serde(default)]
    pub collateral: Option<PathBuf>,
    /// The event log of a TDX guest (CCEL).
    #[serde(default = "ccel")]
    pub event_log: PathBuf,
    /// Whether a TPM, set up in `[tpm]`, attests beside it. Without, the session keys are in the VM's encrypted memory.
    #[serde(default)]
    pub with_tpm: bool,
}

/// How reports of a confidential VM are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TeeSource {
    /// The kernel's `configfs-tsm`, and where that is not there, the older `/dev/sev-guest`.
    #[default]
    Auto,
    /// The kernel's `configfs-tsm`.
    Configfs,
    /// The older `/dev/sev-guest`.
    SevGuest,
    /// NV indices of Azure's virtual TPM.
    Azure,
}

fn tsm_base() -> PathBuf {
    PathBuf::from(crate::tee::configfs::BASE)
}

fn ccel() -> PathBuf {
    PathBuf::from(crate::logs::CC_EVENT_LOG)
}

impl TeeConfig {
    /// Reports through `configfs-tsm` at `path`, and everything else as it is by itself.
    #[must_use]
    pub fn configfs(path: &Path) -> Self {
        Self {
            source: TeeSource::Configfs,
            path: path.to_owned(),
            privilege_level: None,
            certificates: None,
            collateral: None,
            event_log: ccel(),
            with_tpm: false,
        }
    }
}

/// Which attestation key the agent makes at first start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttestationKeyKind {
    /// P-256, ECDSA with SHA-256.
    Ecc,
    /// RSA 2048, RSASSA with SHA-256.
    Rsa,
}

impl Default for TpmConfig {
    fn default() -> Self {
        Self {
            tcti: "device:/dev/tpmrm0".into(),
            event_log: PathBuf::from(crate::logs::FIRMWARE_LOG),
            ima_list: PathBuf::from(crate::logs::IMA_LIST),
            boot_id: PathBuf::from(crate::logs::BOOT_ID),
            attestation_key: AttestationKeyKind::Ecc,
            attestation_key_handle: None,
        }
    }
}

/// The `[schedule]` table. What is absent comes with each answer from the broker, which has it from signed policy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleConfig {
    /// Milliseconds between two attestations. It can only shorten what policy says.
    pub interval_ms: Option<u64>,
    /// How far an interval may be off at random, in percent of it (at most 50; default 10).
    pub jitter_percent: Option<u8>,
}

/// Why a configuration was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{path}: {cause}")]
    Unreadable {
        /// Which file.
        path: String,
        /// Why.
        cause: String,
    },
    /// The file is not the TOML this program reads.
    #[error("{path}: {cause}")]
    Malformed {
        /// Which file.
        path: String,
        /// Where and what.
        cause: String,
    },
    /// A value out of its range.
    #[error("{key}: expected {expected}, found {found}")]
    Value {
        /// The key.
        key: &'static str,
        /// What is accepted.
        expected: &'static str,
        /// What was there.
        found: String,
    },
}

impl AgentConfig {
    /// Reads and checks a configuration file.
    ///
    /// # Errors
    /// [`ConfigError`], naming file or key.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Unreadable {
            path: path.display().to_string(),
            cause: error.to_string(),
        })?;
        Self::parse(&text).map_err(|error| match error {
            ConfigError::Malformed { cause, .. } => ConfigError::Malformed {
                path: path.display().to_string(),
                cause,
            },
            other => other,
        })
    }

    pub(super) fn parse(text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| ConfigError::Malformed {
            path: String::new(),
            cause: error.to_string(),
        })?;
        if config.brokers.is_empty() {
            return Err(ConfigError::Value {
                key: "brokers",
                expected: "at least one broker",
                found: "none".into(),
            });
        }
        if let Some(percent) = config.schedule.jitter_percent.filter(|percent| *percent > 50) {
            return Err(ConfigError::Value {
                key: "schedule.jitter_percent",
                expected: "0 to 50",
                found: percent.to_string(),
            });
        }
        let azure = config.tee.as_ref().is_some_and(|tee| tee.source == TeeSource::Azure);
        if azure && !config.tee.as_ref().is_some_and(|tee| tee.with_tpm) {
            return Err(ConfigError::Value {
                key: "tee.with_tpm",
                expected: "true: in Azure the report only endorses the virtual TPM",
                found: "false".into(),
            });
        }
        let level = config.tee.as_ref().and_then(|tee| tee.privilege_level);
        if let Some(level) = level.filter(|level| *level > 3) {
            return Err(ConfigError::Value {
                key: "tee.privilege_level",
                expected: "0 to 3",
                found: level.to_string(),
            });
        }
        if let Some((key, expected, found)) = config.bootstrap.problem() {
            return Err(ConfigError::Value { key, expected, found });
        }
        config.workloads.check()?;
        config.endpoints()?;
        Ok(config)
    }

    /// Where the policy repository is and how it is reached.
    ///
    /// # Errors
    /// `policy-source-invalid` or `policy-io` where the file of certificate authorities cannot be used.
    pub fn repository(&self) -> Result<Source, PolicyError> {
        let source = Source::new(self.policy.clone());
        match &self.policy_ca {
            Some(ca) => source.with_ca(ca),
            None => Ok(source),
        }
    }

    /// The brokers as endpoints.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for one that is not `https://host:port`.
    pub fn endpoints(&self) -> Result<Vec<Endpoint>, ConfigError> {
        self.brokers
            .iter()
            .map(|broker| {
                Endpoint::parse(broker).map_err(|_| ConfigError::Value {
                    key: "brokers",
                    expected: "https://host:port",
                    found: broker.clone(),
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        brokers = ["https://127.0.0.1:8443"]
        domain = "demo.example"
        policy = "/srv/policy"
        policy_root = "/etc/touchstone/root.json"
        state_dir = "/var/lib/touchstone"
        [tpm]
        tcti = "swtpm:host=127.0.0.1,port=2321"
    "#;

    #[test]
    fn a_short_file_is_enough() {
        let config = AgentConfig::parse(GOOD).expect("parses");
        assert_eq!(config.tpm.attestation_key, AttestationKeyKind::Ecc);
        assert_eq!(config.schedule, ScheduleConfig::default());
    }

    #[test]
    fn a_confidential_vm_is_told_by_its_table() {
        assert_eq!(AgentConfig::parse(GOOD).expect("parses").tee, None);
        let text = format!("{GOOD}\n[tee]\nsource = \"configfs\"\n");
        let tee = AgentConfig::parse(&text).expect("parses").tee;
        assert_eq!(
            tee,
            Some(TeeConfig::configfs(Path::new("/sys/kernel/config/tsm/report")))
        );
        let tee = AgentConfig::parse(&format!("{GOOD}\n[tee]\n")).expect("parses").tee;
        assert_eq!(tee.map(|tee| tee.source), Some(TeeSource::Auto));
        let text = format!("{GOOD}\n[tee]\nsource = \"sev-guest\"\nprivilege_level = 2\nwith_tpm = true\n");
        let tee = AgentConfig::parse(&text).expect("parses").tee.expect("a table");
        assert_eq!(
            (tee.source, tee.privilege_level, tee.with_tpm),
            (TeeSource::SevGuest, Some(2), true)
        );
    }

    #[test]
    fn what_is_refused() {
        let rows: &[(&str, String)] = &[
            ("unknown key", format!("{GOOD}\n[schedule]\nintervall_ms = 3\n")),
            ("unknown table", format!("{GOOD}\n[tpn]\n")),
            (
                "a source nobody knows",
                format!("{GOOD}\n[tee]\nsource = \"simulated\"\n"),
            ),
            (
                "unknown key of a tee",
                format!("{GOOD}\n[tee]\nsource = \"configfs\"\nwith_tmp = true\n"),
            ),
            ("azure without its TPM", format!("{GOOD}\n[tee]\nsource = \"azure\"\n")),
            (
                "a privilege level there is not",
                format!("{GOOD}\n[tee]\nsource = \"configfs\"\nprivilege_level = 4\n"),
            ),
            (
                "a volume's name with a slash",
                format!("{GOOD}\n[bootstrap]\nname = \"a/b\"\n"),
            ),
            (
                "unknown key of bootstrap",
                format!("{GOOD}\n[bootstrap]\npassphrase = \"x\"\n"),
            ),
            ("no broker", GOOD.replace("[\"https://127.0.0.1:8443\"]", "[]")),
            ("broker in clear", GOOD.replace("https", "http")),
            (
                "jitter over the limit",
                format!("{GOOD}\n[schedule]\njitter_percent = 51\n"),
            ),
        ];
        for (name, text) in rows {
            assert!(AgentConfig::parse(text).is_err(), "{name}");
        }
    }
}
