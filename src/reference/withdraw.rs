//! `touchstone reference withdraw`: what rests on these reference values falls at the next publish.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use serde_json::json;
use touchstone_policies::author;

use crate::output::{self, CommandResult, say};

/// Stage the withdrawal of reference values; what rests on them falls at the next publish
#[derive(ClapArgs)]
#[command(after_help = "Example:\n  touchstone reference withdraw ./repo debian-12-2026-11")]
pub struct Args {
    /// The repository
    repo: PathBuf,
    /// Name of the reference values
    name: String,
    /// One JSON object: removed
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> CommandResult {
    author::withdraw(&args.repo, &format!("references/{}.corim", args.name))?;
    output::tell(args.json, &json!({ "removed": args.name }), || {
        say!("{} is withdrawn with the next publish", args.name);
    })
}
