//! `touchstone policy region`: which regions sign for themselves, with which keys.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use serde_json::json;
use touchstone_policies::ceremony;
use touchstone_policies::keys::public;

use super::root::{signers, tell_signers};
use crate::output::{self, CommandResult, say};

/// Regions that keep their own keys: what lies below regions/<id>/ is theirs to sign, and nothing else
#[derive(ClapArgs)]
#[command(
    after_help = "A sovereign region, whose people made their keys with policy key make:\n  \
    touchstone policy region add ./repo eu-1 --key anna.pub ben.pub cleo.pub --threshold 2\n  \
    touchstone policy propose ./repo --out ./p9\n\n\
    Both sign that proposal: the whole the delegation, the region its first list. From then on the region changes its\n\
    own: policy propose ./copy --region eu-1 --out ./eu-4"
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    /// One JSON object: add {region, threshold, keys}, remove {region}, list {regions: [{region, threshold, keys}]}
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Stage that a region signs for itself, or with other keys than before
    Add {
        /// The repository
        repo: PathBuf,
        /// The region
        id: String,
        /// The region's public keys
        #[arg(long = "key", required = true, num_args = 1..)]
        keys: Vec<PathBuf>,
        /// How many of them must sign
        #[arg(long, default_value_t = 1)]
        threshold: u64,
    },
    /// Stage that a region does not sign for itself any more; what it published stays, signed by the whole
    #[command(after_help = "Example: touchstone policy region remove ./repo eu-1")]
    Remove {
        /// The repository
        repo: PathBuf,
        /// The region
        id: String,
    },
    /// Show which regions sign for themselves, as the next version will have it
    #[command(after_help = "Example: touchstone policy region list ./repo")]
    List {
        /// The repository
        repo: PathBuf,
    },
}

/// Runs the subcommand.
pub fn run(args: &Args) -> CommandResult {
    match &args.command {
        Command::Add {
            repo,
            id,
            keys,
            threshold,
        } => {
            let keys = keys
                .iter()
                .map(|file| public::read(file))
                .collect::<Result<Vec<_>, _>>()?;
            let made = ceremony::region_add(repo, id, *threshold, &keys)?;
            output::tell(args.json, &signers("region", id, &made), || {
                say!(
                    "{id} signs for itself once it is published: {threshold} of {} keys",
                    made.keys.len()
                );
            })
        }
        Command::Remove { repo, id } => {
            ceremony::region_remove(repo, id)?;
            output::tell(args.json, &json!({ "region": id }), || {
                say!("{id} does not sign for itself once it is published; the whole signs what it had");
            })
        }
        Command::List { repo } => {
            let regions = ceremony::delegations(repo)?;
            let each = regions.iter().map(|(id, of)| signers("region", id, of));
            output::tell(args.json, &json!({ "regions": each.collect::<Vec<_>>() }), || {
                for (id, signers) in &regions {
                    tell_signers(id, signers);
                }
            })
        }
    }
}
