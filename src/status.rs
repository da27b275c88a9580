//! `touchstone status`: what a broker says of itself.

use crate::output::say;
use std::path::PathBuf;

use clap::Args as ClapArgs;
use serde_json::Value;

use crate::output::{CommandResult, Outcome};
use crate::{admin, output};

/// Policy, ledger and trust state of a running broker.
#[derive(ClapArgs)]
#[command(after_help = "Example:\n  touchstone status --data /var/lib/touchstone-broker")]
pub struct Args {
    /// The broker's data directory
    #[arg(long)]
    data: PathBuf,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> CommandResult {
    let status: Value = serde_json::from_slice(&admin::get(&args.data, "/status")?)?;
    if args.json {
        output::json(&status);
    } else {
        print(&status, "");
    }
    Ok(Outcome::Done)
}

fn print(value: &Value, prefix: &str) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let name = if prefix.is_empty() {
            key.clone()
        } else {
            format!("{prefix}.{key}")
        };
        match value {
            Value::Object(_) => print(value, &name),
            Value::String(text) => say!("{name:<32} {text}"),
            other => say!("{name:<32} {other}"),
        }
    }
}
