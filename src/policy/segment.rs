//! `touchstone policy segment`: what workloads reach over the network.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use touchstone_policies::entries;

use super::operator::told;
use crate::output::{self, CommandResult, say};

/// Network segments: what a workload reaches under the right that it runs under
#[derive(ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    /// One JSON object: add and remove {name, file, entries, before}, list {segments}
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Stage a segment, in the place of what this scope reached; everything else is dropped
    #[command(
        after_help = "Example: touchstone policy segment add ./repo execute:db-reader --allow 'tcp 10.0.0.5:5432' 'udp [fd00::53]:53'"
    )]
    Add {
        /// The repository
        repo: PathBuf,
        /// The scope, execute:RESOURCE
        scope: String,
        /// What is reached: tcp or udp, an address or prefix, and a port
        #[arg(long, required = true, num_args = 1..)]
        allow: Vec<String>,
    },
    /// Stage the removal of a segment: under this scope nothing is reached
    #[command(after_help = "Example: touchstone policy segment remove ./repo execute:db-reader")]
    Remove {
        /// The repository
        repo: PathBuf,
        /// The scope
        scope: String,
    },
    /// What is reached from the next publish on
    #[command(after_help = "Example: touchstone policy segment list ./repo")]
    List {
        /// The repository
        repo: PathBuf,
    },
}

/// Runs the subcommand.
pub fn run(args: Args) -> CommandResult {
    let json = args.json;
    match args.command {
        Command::Add { repo, scope, allow } => told(&entries::segment_add(&repo, &scope, &allow)?, &scope, json),
        Command::Remove { repo, scope } => told(&entries::segment_remove(&repo, &scope)?, &scope, json),
        Command::List { repo } => {
            let network = entries::segment_list(&repo)?;
            let segments = network.iter().map(|(scope, allow)| {
                let allow: Vec<String> = allow.iter().map(ToString::to_string).collect();
                (scope.to_string(), allow)
            });
            let segments: Vec<(String, Vec<String>)> = segments.collect();
            let all = segments
                .iter()
                .map(|(scope, allow)| serde_json::json!({"scope": scope, "allow": allow}));
            let done = serde_json::json!({"segments": all.collect::<Vec<_>>()});
            output::tell(json, &done, || {
                if segments.is_empty() {
                    say!("none: a workload with a network of its own reaches nothing");
                }
                for (scope, allow) in &segments {
                    say!("{scope}: {}", allow.join(", "));
                }
            })
        }
    }
}
