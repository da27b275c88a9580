//! `touchstone revoke`: an operator's recorded command.

use crate::output::say;
use std::path::PathBuf;

use clap::Args as ClapArgs;
use serde_json::json;

use crate::output::{CommandResult, Outcome};
use crate::{admin, output};

/// Withdraw a node's rights at every enforcer, at once; recorded with its reason.
#[derive(ClapArgs)]
#[command(
    after_help = "Example:\n  touchstone revoke --data /var/lib/touchstone-broker --node node-2 --reason \"stolen from rack 7\""
)]
pub struct Args {
    /// The broker's data directory
    #[arg(long)]
    data: PathBuf,
    /// The node
    #[arg(long)]
    node: String,
    /// Why; goes into the ledger
    #[arg(long)]
    reason: String,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> CommandResult {
    let answer = admin::post(
        &args.data,
        "/revoke",
        &json!({ "node": args.node, "reason": args.reason }),
    )?;
    if args.json {
        output::json(&answer);
    } else {
        say!(
            "{} has no rights any more; ledger entry {}",
            args.node,
            answer.get("recorded").unwrap_or(&json!("?"))
        );
    }
    Ok(Outcome::Done)
}
