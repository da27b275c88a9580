//! `touchstone evidence collect`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum};

use crate::output::{CommandResult, Failure};

/// Bytes of a nonce that a TPM signs, and of one that a report carries.
#[cfg(feature = "tpm")]
const MAX_NONCE: (usize, usize) = (32, 64);

#[derive(ClapArgs)]
pub(super) struct Args {
    /// TSS TCTI string
    #[arg(long, default_value = "device:/dev/tpmrm0")]
    tcti: String,
    /// The nonce, hexadecimal: at most 32 bytes, for a report alone 64; in a report it is filled up with zeros
    #[arg(long)]
    nonce: String,
    /// Where the agent keeps its attestation key; one is made if there is none
    #[arg(long, default_value = "/var/lib/touchstone")]
    state_dir: PathBuf,
    /// The firmware's event log
    #[arg(long, default_value = touchstone_attest::logs::FIRMWARE_LOG)]
    event_log: PathBuf,
    /// IMA's list of what ran, where the kernel has one and register 10 is quoted
    #[arg(long, default_value = touchstone_attest::logs::IMA_LIST)]
    ima_log: PathBuf,
    /// Registers to quote, in the sha256 bank; without register 10 the IMA list is left out
    #[arg(long, value_delimiter = ',', default_value = "0,1,2,3,4,5,6,7,8,9,10,11,14")]
    registers: Vec<u8>,
    /// This is a confidential VM: collect its report, in the place of a TPM's quote
    #[arg(long, value_name = "SOURCE", num_args = 0..=1, default_missing_value = "auto")]
    tee: Option<Source>,
    /// Where the kernel shows configfs-tsm
    #[arg(long, requires = "tee", default_value = touchstone_attest::tee::configfs::BASE)]
    tee_path: PathBuf,
    /// Certificates of the key that signs SEV-SNP reports, where the host gives none
    #[arg(long, requires = "tee", value_name = "FILE")]
    tee_certificates: Option<PathBuf>,
    /// Intel's collateral for this platform (JSON), sent beside a TDX quote
    #[arg(long, requires = "tee", value_name = "FILE")]
    tee_collateral: Option<PathBuf>,
    /// Quote the TPM as well
    #[arg(long, requires = "tee")]
    with_tpm: bool,
    /// Where to write the envelope
    #[arg(short, long)]
    output: PathBuf,
    /// One JSON object: file, bytes, sha256 (of the envelope)
    #[arg(long)]
    json: bool,
}

/// How reports are asked for.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Source {
    /// The kernel's configfs-tsm, and where that is not there, the older /dev/sev-guest
    Auto,
    /// The kernel's configfs-tsm
    Configfs,
    /// The older /dev/sev-guest
    SevGuest,
    /// NV indices of Azure's virtual TPM, quoted with the key its report names
    Azure,
}

#[cfg(not(feature = "tpm"))]
pub(super) fn run(_args: &Args) -> CommandResult {
    Err(Failure::new("this build has no TPM support").hint("build with the feature `tpm`, or pack tpm2-tools' files"))
}

#[cfg(feature = "tpm")]
pub(super) fn run(args: &Args) -> CommandResult {
    use touchstone_attest::agent::attester::Attester;
    use touchstone_attest::agent::config::{TeeConfig, TeeSource, TpmConfig};
    use touchstone_attest::agent::cvm::Cvm;
    use touchstone_attest::agent::state::StateDir;
    use touchstone_attest::collect::{Collector, Logs};
    use touchstone_attest::tee::azure::ATTESTATION_KEY;

    const SHA256: u16 = 0x000b;

    let azure = matches!(args.tee, Some(Source::Azure));
    let with_tpm = args.tee.is_none() || args.with_tpm || azure;
    let nonce = hex::decode(&args.nonce).map_err(|error| Failure::new(format!("--nonce: {error}")))?;
    let (of_tpm, of_report) = MAX_NONCE;
    let most = if with_tpm { of_tpm } else { of_report };
    if nonce.is_empty() || nonce.len() > most {
        let found = nonce.len();
        return Err(Failure::new(format!(
            "--nonce: expected 1 to {most} bytes, found {found}"
        )));
    }
    let selection = [(SHA256, args.registers.clone())];
    let mut collector = Collector::new(&nonce);
    if let Some(source) = args.tee {
        let config = TeeConfig {
            source: match source {
                Source::Auto => TeeSource::Auto,
                Source::Configfs => TeeSource::Configfs,
                Source::SevGuest => TeeSource::SevGuest,
                Source::Azure => TeeSource::Azure,
            },
            certificates: args.tee_certificates.clone(),
            collateral: args.tee_collateral.clone(),
            ..TeeConfig::configfs(&args.tee_path)
        };
        collector.report(&mut Cvm::open(&config, &args.tcti)?)?;
    }
    if with_tpm {
        let state = StateDir::open(&args.state_dir)?;
        let config = TpmConfig {
            tcti: args.tcti.clone(),
            attestation_key_handle: azure.then_some(ATTESTATION_KEY),
            ..TpmConfig::default()
        };
        let mut attester = Attester::open(&config, &state, &[(SHA256, vec![0])])?;
        let log = args.event_log.exists().then_some(args.event_log.as_path());
        if log.is_none() {
            crate::output::complain!(
                "note: {} is not there; the evidence has no event log",
                args.event_log.display()
            );
        }
        // A list that no quoted register vouches for would be refused.
        let quoted = args.registers.contains(&touchstone_verifier::ima::REGISTER);
        let list = (quoted && args.ima_log.exists()).then_some(args.ima_log.as_path());
        let logs = Logs {
            firmware: log,
            ima: list,
        };
        collector.quote(&mut attester, &selection, logs)?;
    }
    super::save(&args.output, &collector.encode(), args.json)
}
