//! `touchstone policy keyset`: the brokers' public keys.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use touchstone_policies::author;

use crate::output::{self, CommandResult, Outcome, say};

/// The brokers' public keys
#[derive(ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
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
            say!("staged keyset version {}: {} keys", added.version, added.keys);
        }
    }
    Ok(Outcome::Done)
}
