//! `touchstone policy enforcer`: whose acknowledgements count.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use touchstone_policies::NewEnforcer;
use touchstone_policies::entries;

use super::operator::{key_text, told};
use crate::output::{self, CommandResult, say};

/// Enforcers whose acknowledgements and reports of use count
#[derive(ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    /// One JSON object: add and remove {name, file, entries, before}, list {enforcers}
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Stage an enforcer, in the place of one of this id
    #[command(
        after_help = "Example: touchstone policy enforcer add ./repo guard:edge-7 --key edge-7.pub --region eu-1\n\n\
        The key is the public half of the one that the guard makes at its first start: Ed25519."
    )]
    Add {
        /// The repository
        repo: PathBuf,
        /// The enforcer's id, as proofs name it
        id: String,
        /// The public key's file: PEM, hexadecimal DER or JWK
        #[arg(long)]
        key: PathBuf,
        /// Where it stands
        #[arg(long)]
        region: Option<String>,
    },
    /// Stage the removal of an enforcer
    #[command(after_help = "Example: touchstone policy enforcer remove ./repo guard:edge-7")]
    Remove {
        /// The repository
        repo: PathBuf,
        /// The enforcer's id
        id: String,
    },
    /// Which are listed from the next publish on
    #[command(after_help = "Example: touchstone policy enforcer list ./repo")]
    List {
        /// The repository
        repo: PathBuf,
    },
}

/// Runs the subcommand.
pub fn run(args: Args) -> CommandResult {
    let json = args.json;
    match args.command {
        Command::Add { repo, id, key, region } => {
            let new = NewEnforcer {
                key: key_text(&key)?,
                name: id,
                region,
            };
            told(&entries::enforcer_add(&repo, &new)?, &new.name, json)
        }
        Command::Remove { repo, id } => told(&entries::enforcer_remove(&repo, &id)?, &id, json),
        Command::List { repo } => {
            let enforcers = entries::enforcer_list(&repo)?;
            let all = enforcers.iter().map(|(id, enforcer)| {
                let key = hex::encode(enforcer.key.to_spki_der());
                serde_json::json!({"id": id, "key": key, "region": enforcer.region})
            });
            let done = serde_json::json!({"enforcers": all.collect::<Vec<_>>()});
            output::tell(json, &done, || {
                if enforcers.is_empty() {
                    say!("none: a revocation is closed by time alone");
                }
                for (id, enforcer) in enforcers.iter() {
                    let region = enforcer.region.as_deref().unwrap_or("no region");
                    say!("{id}: {region}, key {}", hex::encode(enforcer.key.kid()));
                }
            })
        }
    }
}
