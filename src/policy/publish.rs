//! `touchstone policy publish`: sign what is staged and make it the next version.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use touchstone_policies::publish;

use crate::clock;
use crate::output::{CommandResult, Outcome, say};

/// Sign what is staged and publish it as the next version
#[derive(ClapArgs)]
#[command(after_help = "Example: touchstone policy publish ./repo --keys ./keys")]
pub struct Args {
    /// The repository
    repo: PathBuf,
    /// Where the role keys are
    #[arg(long)]
    keys: PathBuf,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> CommandResult {
    let published = publish(&args.repo, &args.keys, clock::now())?;
    say!(
        "published {} version {}: {} targets, valid until {}",
        published.domain,
        published.versions.targets,
        published.targets,
        published.expires
    );
    for reference in &published.references_signed {
        say!("  signed {reference}");
    }
    for note in &published.notes {
        say!("  note: {note}");
    }
    Ok(Outcome::Done)
}
