//! `touchstone bootstrap`: an initramfs opens its encrypted disk with a key that the broker gives to nobody else.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use touchstone_attest::bootstrap::volume::{Volume, find, read_uuid};
use touchstone_verifier::tpm::HashAlg;
use zeroize::Zeroizing;

use crate::output::{self, CommandResult, Failure, Outcome, say};

/// Longest passphrase that is read: what a key of the broker may have.
const MAX_PASSPHRASE: u64 = 8 * 1024;

/// In an initramfs: attest, fetch this node's disk key, open the disk.
#[derive(ClapArgs)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Example, in an initramfs: touchstone bootstrap --config /etc/touchstone/agent.toml\n\n\
    It tries again with backoff whatever may heal, and says on the console why it waits. It ends with:\n  \
    0  the disk is open as /dev/mapper/NAME\n  \
    1  refused for as long as this boot lasts: another disk than the inventory's, a boot that opened it already, or\n     \
    the time of bootstrap.give_up_after_s is over\n  \
    2  the configuration or the command line cannot be read\n\
    However it ends, register 15 is then marked, and no disk key leaves for this boot any more: a shell that the\n\
    initramfs opens afterwards gets none. To be opened by hand, the disk has its recovery passphrase."
)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// agent.toml, with a [bootstrap] table
    #[arg(long, required = true)]
    config: Option<PathBuf>,
    /// One JSON object an event on standard output: event, and what it tells
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Print what the inventory has to say of a disk: its UUID, and register 15 after its volume key was measured
    #[command(
        after_help = "Example, where the disk is set up (the passphrase goes through a pipe):\n  \
        systemd-ask-password | tr -d '\\n' | touchstone bootstrap measure --device /dev/sda2 --name root\n\
        Then: touchstone policy node volume REPO NODE --luks-uuid UUID --volume-pcr15 HEX"
    )]
    Measure {
        /// The encrypted disk
        #[arg(long)]
        device: PathBuf,
        /// What it is called when it is open, as in the [bootstrap] table
        #[arg(long, default_value = "root")]
        name: String,
        /// A file with a passphrase of the disk, byte for byte; - for standard input
        #[arg(long, default_value = "-")]
        key_file: PathBuf,
        /// The bank of register 15
        #[arg(long, value_enum, default_value_t = Bank::Sha256)]
        bank: Bank,
        /// The cryptsetup program
        #[arg(long, default_value = "/sbin/cryptsetup")]
        cryptsetup: PathBuf,
        /// One JSON object: luks_uuid, volume_pcr15
        #[arg(long)]
        json: bool,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Bank {
    Sha256,
    Sha384,
    Sha512,
}

impl From<Bank> for HashAlg {
    fn from(bank: Bank) -> Self {
        match bank {
            Bank::Sha256 => HashAlg::Sha256,
            Bank::Sha384 => HashAlg::Sha384,
            Bank::Sha512 => HashAlg::Sha512,
        }
    }
}

/// Runs the subcommand.
pub fn run(args: Args) -> CommandResult {
    match (args.command, args.config) {
        (
            Some(Command::Measure {
                device,
                name,
                key_file,
                bank,
                cryptsetup,
                json,
            }),
            _,
        ) => {
            let key = passphrase(&key_file)?;
            let measured = measure(&cryptsetup, &device, &name, &key, bank.into())?;
            if json {
                output::json(&serde_json::to_value(&measured)?);
            } else {
                say!("luks-uuid    {}", measured.luks_uuid);
                say!("volume-pcr15 {}", measured.volume_pcr15);
            }
            Ok(Outcome::Done)
        }
        (None, Some(config)) => with_tpm::run(&config, args.json),
        (None, None) => Err(Failure::new("no configuration given").hint("touchstone bootstrap --config agent.toml")),
    }
}

#[derive(serde::Serialize)]
struct Measured {
    luks_uuid: String,
    volume_pcr15: String,
}

fn measure(
    cryptsetup: &Path,
    device: &Path,
    name: &str,
    key: &Zeroizing<Vec<u8>>,
    bank: HashAlg,
) -> Result<Measured, Failure> {
    let uuid = read_uuid(device).ok_or_else(|| {
        Failure::new(format!("{}: no LUKS2 header", device.display())).hint("cryptsetup luksFormat --type luks2")
    })?;
    let device = find(&uuid, Some(device))?;
    // For the copy of the header; a temporary folder that only its maker can enter.
    let folder = tempfile::tempdir()?;
    let disk = Volume::read(cryptsetup, &device, folder.path())?;
    let register = disk.key(key)?.register(bank, name, disk.uuid());
    Ok(Measured {
        luks_uuid: disk.uuid().to_owned(),
        volume_pcr15: hex::encode(register),
    })
}

/// A passphrase, read into memory that is wiped.
fn passphrase(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let named = |error: std::io::Error| Failure::new(format!("{}: {error}", path.display()));
    let mut bytes = Zeroizing::new(Vec::new());
    // Room for all of it: a vector that grows leaves what it held behind.
    bytes.reserve_exact(usize::try_from(MAX_PASSPHRASE + 2).unwrap_or_default());
    let mut input: Box<dyn std::io::Read> = if path == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(path).map_err(named)?)
    };
    let read = input.by_ref().take(MAX_PASSPHRASE + 1).read_to_end(&mut bytes);
    match read.map_err(named)? {
        0 => Err(Failure::new("an empty passphrase")),
        n if n as u64 > MAX_PASSPHRASE => Err(Failure::new(format!("a passphrase over {MAX_PASSPHRASE} bytes"))),
        _ => Ok(bytes),
    }
}

#[cfg(not(feature = "tpm"))]
mod with_tpm {
    use std::path::Path;

    use crate::output::{CommandResult, Failure};

    pub(super) fn run(_config: &Path, _json: bool) -> CommandResult {
        Err(Failure::new("this build has no TPM support").hint("build with the feature `tpm`"))
    }
}

#[cfg(feature = "tpm")]
mod with_tpm {
    use std::path::Path;

    use touchstone_attest::agent::config::{AgentConfig, TpmConfig};
    use touchstone_attest::bootstrap::{BootstrapEvent, Ending, end_phase, run as bootstrap};

    use crate::output::{CommandResult, Outcome, complain, say};
    use crate::why::{self, Look, Places, Why};
    use crate::{output, runtime};

    pub(super) fn run(config: &Path, json: bool) -> CommandResult {
        output::tracing_to_stderr();
        let config = match AgentConfig::load(config) {
            Ok(config) => config,
            Err(error) => {
                // Whatever the initramfs does without a configuration, it gets no key.
                if let Err(error) = end_phase(&TpmConfig::default().tcti) {
                    complain!("the phase could not be ended: {error}");
                }
                return Err(error.into());
            }
        };
        let ending = runtime::block_on(bootstrap(config, move |event| tell(&event, json), runtime::stopped()))?;
        match ending {
            Ending::Opened => return Ok(Outcome::Done),
            Ending::Refused => complain!("bootstrap: refused for this boot; the disk stays closed"),
            Ending::GaveUp => complain!("bootstrap: given up after bootstrap.give_up_after_s; the disk stays closed"),
            Ending::Stopped => complain!("bootstrap: stopped; the disk stays closed in this boot"),
        }
        Ok(Outcome::Refused)
    }

    fn tell(event: &BootstrapEvent, json: bool) {
        if json {
            output::json(&serde_json::to_value(event).unwrap_or_default());
            return;
        }
        let again = |retry_ms: u64| format!("again in {}.{} s", retry_ms / 1000, retry_ms % 1000 / 100);
        match event {
            BootstrapEvent::Granted { node } => say!("bootstrap: this is {node}, and may open its disk"),
            BootstrapEvent::Found { device, luks_uuid } => say!("bootstrap: its disk is {device}, LUKS2 {luks_uuid}"),
            BootstrapEvent::Refused { reasons, retry_ms } => {
                say!(
                    "bootstrap: refused, {}",
                    retry_ms.map_or_else(|| "for as long as this boot lasts".into(), again)
                );
                let reasons: Vec<Why> = reasons.iter().map(|words| Why::from_words(words)).collect();
                let text = why::tell(&reasons, &Places::default(), &Look::of_stdout(true));
                say!("{}", text.trim_end());
            }
            BootstrapEvent::Waiting { because, retry_ms } => {
                say!("bootstrap: waiting: {because}; {}", again(*retry_ms))
            }
            BootstrapEvent::Opened { volume, took_ms } => say!("bootstrap: {volume} is open after {took_ms} ms"),
            BootstrapEvent::NotEnded { because } => {
                complain!("bootstrap: register 15 could not be marked: {because}");
            }
        }
    }
}
