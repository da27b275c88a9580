//! `touchstone reference add`: reference values from the evidence of a golden machine.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use touchstone_policies::author;

use crate::clock;
use crate::output::{self, CommandResult, say};

/// Stage reference values taken from the evidence of a golden machine
#[derive(ClapArgs)]
#[command(
    after_help = "Example:\n  touchstone reference add ./repo --evidence golden.evidence --name debian-12-2026-11\n\n\
    The evidence must hold: its quote verifies and its log replays to the quoted registers; a confidential VM's report\n    verifies under the key beside it, and its security versions become floors."
)]
pub struct Args {
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
    /// One JSON object: name, banks, registers, events, files (how many), measurement, gpus, staged, notes
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> CommandResult {
    let added = author::reference_add(
        &args.repo,
        &output::read(&args.evidence)?,
        args.name.as_deref(),
        args.valid_from.as_deref().map(clock::parse).transpose()?,
        args.valid_until.as_deref().map(clock::parse).transpose()?,
    )?;
    output::tell(args.json, &added, || {
        if let Some(measurement) = &added.measurement {
            say!("staged {}: launch measurement {measurement}", added.name);
        }
        for state in &added.gpus {
            say!("staged {}: {state}", added.name);
        }
        let registers: Vec<String> = added.registers.iter().map(ToString::to_string).collect();
        if !registers.is_empty() {
            say!(
                "staged {}: registers {}, {} events",
                added.name,
                registers.join(" "),
                added.events
            );
        }
        for note in &added.notes {
            say!("  note: {note}");
        }
    })
}
