//! `touchstone policy root`: the keys of the domain's roles, and changing them.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use serde_json::{Value, json};
use touchstone_policies::ceremony::{self, RoleSigners, RootChange};
use touchstone_policies::keys::{KeyRole, public};

use crate::output::{self, CommandResult, Failure, say};

/// Keys and thresholds of root, targets, snapshot and timestamp
#[derive(ClapArgs)]
#[command(after_help = "Rotating a key of targets that a signer has lost:\n  \
    touchstone policy root add ./repo --role targets --key new.pub\n  \
    touchstone policy root remove ./repo --role targets --id 5d94…\n  \
    touchstone policy propose ./repo --out ./p8     or publish, where all keys are in one folder\n\n\
    A new root is signed by as many keys of the old one as it asks for, and by as many of the new one.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    /// One JSON object: roles ([{role, threshold, keys}]); drop {dropped}
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Show who signs, as the next version will have it
    #[command(after_help = "Example: touchstone policy root show ./repo")]
    Show {
        /// The repository
        repo: PathBuf,
    },
    /// Stage another key of a role
    Add {
        /// The repository
        repo: PathBuf,
        /// root, targets, snapshot or timestamp
        #[arg(long)]
        role: String,
        /// The public key (`<role>-<n>.pub`)
        #[arg(long)]
        key: PathBuf,
    },
    /// Stage that a role loses a key: it counts no more from the next version on
    Remove {
        /// The repository
        repo: PathBuf,
        /// root, targets, snapshot or timestamp
        #[arg(long)]
        role: String,
        /// The key's id, or its beginning (policy root show)
        #[arg(long)]
        id: String,
    },
    /// Stage how many keys of a role must sign
    #[command(after_help = "Example: touchstone policy root threshold ./repo --role targets 2")]
    Threshold {
        /// The repository
        repo: PathBuf,
        /// root, targets, snapshot or timestamp
        #[arg(long)]
        role: String,
        /// How many
        threshold: u64,
    },
    /// Stage the same root with another year to live
    #[command(after_help = "Example: touchstone policy root renew ./repo")]
    Renew {
        /// The repository
        repo: PathBuf,
    },
    /// Discard what is staged about keys, of the root and of regions
    #[command(after_help = "Example: touchstone policy root drop ./repo")]
    Drop {
        /// The repository
        repo: PathBuf,
    },
}

/// Runs the subcommand.
pub fn run(args: &Args) -> CommandResult {
    let (repo, roles) = match &args.command {
        Command::Show { repo } => (repo, ceremony::root_roles(repo)?),
        Command::Add { repo, role, key } => {
            let change = RootChange::Add(self::role(role)?, public::read(key)?);
            (repo, ceremony::change_root(repo, &[change])?)
        }
        Command::Remove { repo, role, id } => {
            let change = RootChange::Remove(self::role(role)?, id.to_ascii_lowercase());
            (repo, ceremony::change_root(repo, &[change])?)
        }
        Command::Threshold { repo, role, threshold } => {
            let change = RootChange::Threshold(self::role(role)?, *threshold);
            (repo, ceremony::change_root(repo, &[change])?)
        }
        Command::Renew { repo } => (repo, ceremony::change_root(repo, &[])?),
        Command::Drop { repo } => {
            let found = ceremony::drop_changes(repo)?;
            let words = if found {
                "discarded"
            } else {
                "nothing was staged about keys"
            };
            return output::tell(args.json, &json!({ "dropped": found }), || say!("{words}"));
        }
    };
    let each = roles.iter().map(|(role, of)| signers("role", &role.to_string(), of));
    output::tell(args.json, &json!({ "roles": each.collect::<Vec<_>>() }), || {
        for (role, signers) in &roles {
            tell_signers(role, signers);
        }
        if !matches!(args.command, Command::Show { .. }) {
            say!(
                "it holds once it is published: touchstone policy propose {} or publish",
                repo.display()
            );
        }
    })
}

/// Who signs, under the name that `what` says.
pub(super) fn signers(what: &str, name: &str, signers: &RoleSigners) -> Value {
    json!({ what: name, "threshold": signers.threshold, "keys": signers.keys.keys().collect::<Vec<_>>() })
}

/// Who signs, for people.
pub(super) fn tell_signers(name: impl std::fmt::Display, signers: &RoleSigners) {
    say!("{name}: {} of {} must sign", signers.threshold, signers.keys.len());
    for id in signers.keys.keys() {
        say!("  {id}");
    }
}

/// A role by its name.
pub(super) fn role(name: &str) -> Result<KeyRole, Failure> {
    let hint = "root, targets, snapshot, timestamp, reference or region-<id>";
    KeyRole::parse(name).ok_or_else(|| Failure::new(format!("{name:?} is no role")).hint(hint))
}
