//! `touchstone broker`: the key broker.

use crate::output::say;
use std::path::{Path, PathBuf};

use clap::{Args as ClapArgs, Subcommand};
use touchstone_keybroker::config::Config;
use touchstone_keybroker::service::{self, Broker};

use crate::output::{CommandResult, Failure, Outcome};
use crate::{clock, output, runtime, vault};

/// How long freshly made broker keys count: two years.
const KEY_LIFE_SECONDS: i64 = 2 * 365 * 24 * 3600;

/// Appraise evidence, decide, record, withdraw.
#[derive(ClapArgs)]
#[command(after_help = "Example broker.toml:\n  \
    domain = \"demo.example\"\n  \
    listen = \"0.0.0.0:8443\"\n  \
    data_dir = \"/var/lib/touchstone-broker\"\n  \
    policy = \"/srv/touchstone/policy\"\n  \
    policy_root = { file = \"/etc/touchstone/root.json\" }\n\n\
    First start:\n  touchstone broker init --config broker.toml\n  \
    touchstone policy keyset add REPO /var/lib/touchstone-broker/keyset.json\n  \
    touchstone policy publish REPO --keys KEYDIR\n  touchstone broker run --config broker.toml")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make the broker's keys and write their public halves to DATA/keyset.json
    Init {
        /// broker.toml
        #[arg(long)]
        config: PathBuf,
        /// This broker's name in the keyset
        #[arg(long, default_value = "broker-1")]
        replica: String,
        /// One JSON object: keyset (the file with the public halves)
        #[arg(long)]
        json: bool,
    },
    /// Run until stopped
    Run {
        /// broker.toml
        #[arg(long)]
        config: PathBuf,
        /// One JSON object an event on standard output: event, and what it tells
        #[arg(long)]
        json: bool,
    },
}

/// Runs the subcommand.
pub fn run(args: Args) -> CommandResult {
    match args.command {
        Command::Init { config, replica, json } => {
            let config = read(&config)?;
            let keyset = service::init(&config.data_dir, &replica, clock::now(), KEY_LIFE_SECONDS)?;
            output::tell(json, &serde_json::json!({ "keyset": keyset }), || {
                say!("keys made; their public halves are in {}", keyset.display());
                say!(
                    "next: touchstone policy keyset add REPO {}, then policy publish",
                    keyset.display()
                );
            })
        }
        Command::Run { config, json } => {
            let config = read(&config)?;
            if json {
                output::events_to_stdout()
            } else {
                output::tracing_to_stderr()
            }
            runtime::raise_file_limit();
            runtime::block_on(serve(config, json))?
        }
    }
}

async fn serve(config: Config, json: bool) -> CommandResult {
    let vault = vault::of(&config)?;
    let mut broker = Broker::start_with(config, vault).await?;
    if json {
        output::json(&serde_json::json!({ "event": "listening", "address": broker.address().to_string() }));
    } else {
        say!("listening on https://{}", broker.address());
    }
    tokio::select! {
        error = broker.failed() => return Err(Failure::from(error).hint("the data is as it was; start it again")),
        () = runtime::stopped() => {}
    }
    broker.shutdown().await?;
    Ok(Outcome::Done)
}

fn read(path: &Path) -> Result<Config, Failure> {
    Config::read(path).map_err(|error| Failure::from(error).hint("touchstone broker --help shows an example"))
}
