//! `touchstone policy keyset`: the brokers' public keys.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use touchstone_policies::author;

use crate::output::{self, CommandResult, say};

/// The brokers' public keys
#[derive(ClapArgs)]
#[command(
    after_help = "Example, where broker.toml has data_dir = \"/var/lib/touchstone-broker\":\n  \
    touchstone policy keyset add ./repo /var/lib/touchstone-broker/keyset.json"
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    /// One JSON object: version, keys (how many)
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Stage a broker's public keys, as written by `touchstone broker init`
    Add {
        /// The repository
        repo: PathBuf,
        /// The broker's keyset.json
        keyset: PathBuf,
    },
}

/// Runs the subcommand.
pub fn run(args: &Args) -> CommandResult {
    match &args.command {
        Command::Add { repo, keyset } => {
            let added = author::keyset_add(repo, &output::read(keyset)?)?;
            output::tell(args.json, &added, || {
                say!("staged keyset version {}: {} keys", added.version, added.keys);
            })
        }
    }
}
