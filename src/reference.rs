//! `touchstone reference`: reference values.

use crate::output::say;
use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use touchstone_policies::author;

use crate::clock;
use crate::output::{self, CommandResult, Outcome};

/// Make reference values that a publish will sign.
#[derive(ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Stage reference values taken from the evidence of a golden machine
    #[command(
        after_help = "Example:\n  touchstone reference add ./repo --evidence golden.evidence --name debian-12-2026-11\n\n\
        The evidence must hold: its quote verifies and its log replays to the quoted registers."
    )]
    Add {
        /// The repository
        repo: PathBuf,
        /// Evidence of the golden machine
        #[arg(long)]
        evidence: PathBuf,
        /// Name of the reference values (default: from their digest)
        #[arg(long)]
        name: Option<String>,
        /// Not valid before (RFC 3339); by default they judge any time
        #[arg(long)]
        valid_from: Option<String>,
        /// Not valid from then on (RFC 3339)
        #[arg(long)]
        valid_until: Option<String>,
    },
    /// Stage the withdrawal of reference values; what rests on them falls at the next publish
    #[command(after_help = "Example:\n  touchstone reference withdraw ./repo debian-12-2026-11")]
    Withdraw {
        /// The repository
        repo: PathBuf,
        /// Name of the reference values
        name: String,
    },
}

/// Runs the subcommand.
pub fn run(args: Args) -> CommandResult {
    let (repo, evidence, name, valid_from, valid_until) = match args.command {
        Command::Add {
            repo,
            evidence,
            name,
            valid_from,
            valid_until,
        } => (repo, evidence, name, valid_from, valid_until),
        Command::Withdraw { repo, name } => {
            author::withdraw(&repo, &format!("references/{name}.corim"))?;
            say!("{name} is withdrawn with the next publish");
            return Ok(Outcome::Done);
        }
    };
    let added = author::reference_add(
        &repo,
        &output::read(&evidence)?,
        name.as_deref(),
        valid_from.as_deref().map(clock::parse).transpose()?,
        valid_until.as_deref().map(clock::parse).transpose()?,
    )?;
    let registers: Vec<String> = added.registers.iter().map(ToString::to_string).collect();
    say!(
        "staged {}: registers {}, {} events",
        added.name,
        registers.join(" "),
        added.events
    );
    for note in &added.notes {
        say!("  note: {note}");
    }
    Ok(Outcome::Done)
}
