//! `touchstone policy detector`: who reports security events.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use touchstone_policies::entries;
use touchstone_policies::{DetectorReach, NewDetector};

use super::operator::{joined, key_text, told};
use crate::output::{self, CommandResult, Failure, say};

/// Detectors: whose security events (RFC 8417) count, and how far
#[derive(ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    /// One JSON object: add and remove {name, file, entries, before}, list {detectors}
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Stage a detector, in the place of one of this name
    #[command(
        after_help = "Example: touchstone policy detector add ./repo monitor --issuer https://monitor.example/ \\\n    \
        --audience https://broker.example/v1/events --key monitor.jwk --region eu-1\n\n\
        About whom it reports is said by --node, --role and --region: a subject must be in every list that is given."
    )]
    Add(AddArgs),
    /// Stage the removal of a detector
    #[command(after_help = "Example: touchstone policy detector remove ./repo monitor")]
    Remove {
        /// The repository
        repo: PathBuf,
        /// The detector's name
        name: String,
    },
    /// Who reports from the next publish on
    #[command(after_help = "Example: touchstone policy detector list ./repo")]
    List {
        /// The repository
        repo: PathBuf,
    },
}

#[derive(ClapArgs)]
struct AddArgs {
    /// The repository
    repo: PathBuf,
    /// The detector's name
    name: String,
    /// `iss` of its Security Event Tokens
    #[arg(long)]
    issuer: String,
    /// `aud` of its Security Event Tokens
    #[arg(long)]
    audience: String,
    /// Public key files: Ed25519 or P-256; PEM, hexadecimal DER or JWK (repeatable)
    #[arg(long = "key", required = true)]
    keys: Vec<PathBuf>,
    /// What follows from a report at most
    #[arg(long, value_enum, default_value_t = ReachArg::Quarantine)]
    reach: ReachArg,
    /// Nodes it reports about
    #[arg(long = "node", num_args = 1..)]
    nodes: Vec<String>,
    /// Roles it reports about
    #[arg(long = "role", num_args = 1..)]
    roles: Vec<String>,
    /// Regions it reports about
    #[arg(long = "region", num_args = 1..)]
    regions: Vec<String>,
    /// Most reports a minute that count
    #[arg(long, default_value_t = 60)]
    most_per_minute: u32,
}

#[derive(Clone, Copy, ValueEnum)]
enum ReachArg {
    Quarantine,
    Revoke,
}

/// Runs the subcommand.
pub fn run(args: Args) -> CommandResult {
    let json = args.json;
    match args.command {
        Command::Add(args) => {
            let keys: Result<Vec<String>, Failure> = args.keys.iter().map(|path| key_text(path)).collect();
            let new = NewDetector {
                name: args.name,
                issuer: args.issuer,
                audience: args.audience,
                keys: keys?,
                reach: match args.reach {
                    ReachArg::Quarantine => DetectorReach::Quarantine,
                    ReachArg::Revoke => DetectorReach::Revoke,
                },
                nodes: args.nodes,
                roles: args.roles,
                regions: args.regions,
                most_per_minute: args.most_per_minute,
            };
            told(&entries::detector_add(&args.repo, &new)?, &new.name, json)
        }
        Command::Remove { repo, name } => told(&entries::detector_remove(&repo, &name)?, &name, json),
        Command::List { repo } => {
            let detectors = entries::detector_list(&repo)?;
            let all = detectors.iter().map(|(name, detector)| {
                serde_json::json!({
                    "name": name,
                    "issuer": detector.issuer,
                    "audience": detector.audience,
                    "keys": detector.keys.iter().map(|key| hex::encode(key.to_spki_der())).collect::<Vec<_>>(),
                    "reach": detector.reach,
                    "nodes": detector.nodes,
                    "roles": detector.roles,
                    "regions": detector.regions,
                    "most_per_minute": detector.most_per_minute,
                })
            });
            let done = serde_json::json!({"detectors": all.collect::<Vec<_>>()});
            output::tell(json, &done, || {
                if detectors.is_empty() {
                    say!("nobody: no security event counts");
                }
                for (name, detector) in detectors.iter() {
                    let lists = [
                        ("nodes", &detector.nodes),
                        ("roles", &detector.roles),
                        ("regions", &detector.regions),
                    ];
                    let about: Vec<String> = lists
                        .iter()
                        .filter_map(|(what, names)| Some(format!("{what} {}", joined(names.as_ref()?.iter()))))
                        .collect();
                    say!(
                        "{name}: {} reports {}, {} at most, {} a minute",
                        detector.issuer,
                        about.join("; "),
                        detector.reach.as_str(),
                        detector.most_per_minute
                    );
                }
            })
        }
    }
}
