//! `touchstone policy region`: which regions sign for themselves, with which keys.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use touchstone_policies::ceremony;
use touchstone_policies::keys::public;

use crate::output::{CommandResult, Outcome, say};

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
    Remove {
        /// The repository
        repo: PathBuf,
        /// The region
        id: String,
    },
    /// Show which regions sign for themselves, as the next version will have it
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
            let signers = ceremony::region_add(repo, id, *threshold, &keys)?;
            say!(
                "{id} signs for itself once it is published: {threshold} of {} keys",
                signers.keys.len()
            );
        }
        Command::Remove { repo, id } => {
            ceremony::region_remove(repo, id)?;
            say!("{id} does not sign for itself once it is published; the whole signs what it had");
        }
        Command::List { repo } => {
            for (id, signers) in ceremony::delegations(repo)? {
                say!("{id}: {} of {} must sign", signers.threshold, signers.keys.len());
                for key in signers.keys.keys() {
                    say!("  {key}");
                }
            }
        }
    }
    Ok(Outcome::Done)
}
