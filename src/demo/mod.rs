//! `touchstone demo`: three software-TPM nodes, one broker, one guard, the whole story.
//!
//! The demo starts the ordinary commands as processes and plays the attacker itself. No key and no boot is compiled into
//! the binary: keys are made on the spot, boots are read from `--boots`.

mod attacker;
mod narrator;
mod process;
mod story;
mod world;

use crate::output::complain;
use std::path::PathBuf;

use clap::Args as ClapArgs;

use crate::output::{CommandResult, Outcome};

/// Three software-TPM nodes, one broker, the whole story: attested, authorized, tampered with, revoked.
#[derive(ClapArgs)]
#[command(
    after_help = "Examples:\n  touchstone demo\n  touchstone demo --json      one object a step, the last is the summary\n  \
    touchstone demo --keep      leaves everything running; Ctrl-C ends it"
)]
pub struct Args {
    /// One JSON object a step: step, and what it tells; the last is the summary
    #[arg(long)]
    json: bool,
    /// Leave it running at the end, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// The recorded boots that the nodes are made of
    #[arg(long, default_value = "swtpm-tests/boots")]
    boots: PathBuf,
}

/// Runs the demo; exit code 0 only if every step went as told.
pub fn run(args: Args) -> CommandResult {
    let folder = tempfile::Builder::new().prefix("touchstone-demo-").tempdir()?;
    let narrator = narrator::Narrator::new(args.json);
    let world = world::World::new(folder.path().to_owned(), args.boots)?;
    let told = story::tell(&world, &narrator, args.keep);
    if told.is_err() {
        // The logs are the only witnesses of what went wrong: leave them where they are.
        complain!("the demo's folder is kept: {}", folder.keep().display());
    }
    told.map(|()| Outcome::Done)
}
