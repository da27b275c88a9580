//! `touchstone ledger`: check the log, fetch proofs and records, make a decision again.

pub mod check;
mod replay;

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

use crate::output::CommandResult;

/// Check the ledger, make a recorded decision again.
#[derive(ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Fetch the whole log from a broker and check it: every signature, every leaf, the signed root
    #[command(
        after_help = "Example:\n  touchstone ledger verify --broker https://127.0.0.1:8443 --domain demo.example --policy ./repo --root ./root.json"
    )]
    Verify(check::VerifyArgs),
    /// Make a decision again from its recorded inputs and compare the statement byte for byte
    #[command(
        after_help = "Example:\n  touchstone ledger replay --data /var/lib/touchstone-broker --policy ./repo --root ./root.json --subject node-2"
    )]
    Replay(replay::ReplayArgs),
    /// Save the evidence that a recorded decision was made on
    #[command(
        after_help = "Example:\n  touchstone ledger record --data /var/lib/touchstone-broker --subject node-2 --output node-2.evidence"
    )]
    Record(replay::RecordArgs),
}

/// Which entry of the ledger is meant.
#[derive(ClapArgs)]
#[group(required = true, multiple = false)]
pub struct EntryArgs {
    /// Entry number
    #[arg(long)]
    index: Option<u64>,
    /// The latest decision about this node
    #[arg(long)]
    subject: Option<String>,
}

/// Where the broker's own socket is.
#[derive(ClapArgs)]
pub struct DataArgs {
    /// The broker's data directory
    #[arg(long)]
    data: PathBuf,
}

/// Runs the subcommand.
pub fn run(args: Args) -> CommandResult {
    match args.command {
        Command::Verify(args) => check::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Record(args) => replay::record(&args),
    }
}
