//! `touchstone node`: an operator's commands about one machine, at once and recorded.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use serde_json::json;

use crate::output::{CommandResult, Outcome, say};
use crate::{admin, output};

/// Take a machine out of service at once, or back into it
#[derive(ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Withdraw a node's rights at every enforcer, at once, and let it enrol and attest no more
    ///
    /// It stays so until the command is taken back, whatever the inventory says of it. `policy node remove` takes it out
    /// of the inventory too. `touchstone revoke` withdraws rights until the next good evidence.
    #[command(
        after_help = "Example:\n  touchstone node decommission --data /var/lib/touchstone-broker --node eu-1/web-1 --reason \"sold\""
    )]
    Decommission(About),
    /// Let a decommissioned node attest again; it gets new rights as far as policy lists it
    #[command(
        after_help = "Example:\n  touchstone node reinstate --data /var/lib/touchstone-broker --node eu-1/web-1 --reason \"wrong one\""
    )]
    Reinstate(About),
}

#[derive(ClapArgs)]
struct About {
    /// The broker's data directory
    #[arg(long)]
    data: PathBuf,
    /// The node
    #[arg(long)]
    node: String,
    /// Why; goes into the ledger
    #[arg(long)]
    reason: String,
    /// One JSON object: recorded (the entry of the ledger)
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: Args) -> CommandResult {
    let (about, route, words) = match args.command {
        Command::Decommission(about) => (about, "/decommission", "is decommissioned"),
        Command::Reinstate(about) => (about, "/reinstate", "may attest again"),
    };
    let answer = admin::post(
        &about.data,
        route,
        &json!({ "node": about.node, "reason": about.reason }),
    )?;
    if about.json {
        output::json(&answer);
    } else {
        let entry = answer.get("recorded").cloned().unwrap_or_else(|| json!("?"));
        say!("{} {words}; ledger entry {entry}", about.node);
    }
    Ok(Outcome::Done)
}
