//! `touchstone policy key`: an author's own keys.

use clap::{Args as ClapArgs, Subcommand};
use touchstone_policies::keys::{KeyRole, public};

use super::keydir::KeyDirArgs;
use super::root::role;
use crate::output::{CommandResult, Failure, Outcome, say};

/// An author's own keys: made where they stay, handed out as public keys
#[derive(ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make keys of a role, and their public halves beside them
    #[command(after_help = "Examples:\n  \
        touchstone policy key make --keys ./mine --role region-eu-1 --encrypt\n  \
        touchstone policy key make --keys ./keys --role timestamp       a second one, for the publisher")]
    Make {
        #[command(flatten)]
        keys: KeyDirArgs,
        /// root, targets, snapshot, timestamp, reference or region-<id>
        #[arg(long)]
        role: String,
        /// How many
        #[arg(long, default_value_t = 1)]
        count: usize,
        /// Encrypt them with a passphrase that the terminal is asked for (snapshot and timestamp keys never are: they
        /// sign by themselves)
        #[arg(long)]
        encrypt: bool,
    },
    /// Show a role's keys, and write the public halves that are not there yet, of keys in tokens too
    Show {
        #[command(flatten)]
        keys: KeyDirArgs,
        /// root, targets, snapshot, timestamp, reference or region-<id>
        #[arg(long)]
        role: String,
    },
}

/// Runs the subcommand.
pub fn run(args: &Args) -> CommandResult {
    match &args.command {
        Command::Make {
            keys,
            role: name,
            count,
            encrypt,
        } => {
            let role = role(name)?;
            if *encrypt && matches!(role, KeyRole::Snapshot | KeyRole::Timestamp) {
                let hint = "keep it on the machine that publishes, in a folder of its own or in a token";
                return Err(Failure::new(format!("a key of {role} signs by itself and is not encrypted")).hint(hint));
            }
            for made in keys.make(*encrypt).add(&role, *count)? {
                let file = keys.path().join(format!("{made}.pub"));
                let id = hex::encode(public::key_id(&public::read(&file)?)?);
                say!("{made}: {id}, public key in {}", file.display());
            }
        }
        Command::Show { keys, role: name } => {
            let (role, dir) = (role(name)?, keys.open());
            dir.write_public(&role)?;
            let kept = dir.kept(&role)?;
            for (key, public) in dir.public_keys(&role)? {
                let kept = kept.iter().find(|(name, _)| *name == key);
                let kept = kept.map_or("public key only", |(_, kept)| kept.as_str());
                say!("{key}: {}, {kept}", hex::encode(public::key_id(&public)?));
            }
        }
    }
    Ok(Outcome::Done)
}
