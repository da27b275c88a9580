//! `touchstone policy key`: an author's own keys.

use std::path::{Path, PathBuf};

use clap::{Args as ClapArgs, Subcommand};
use serde::Serialize;
use serde_json::json;
use touchstone_cose::key::VerifyingKey;
use touchstone_policies::keys::{KeyDir, KeyRole, public};

use super::keydir::KeyDirArgs;
use super::root::role;
use crate::output::{self, CommandResult, Failure, say};

/// An author's own keys: made where they stay, handed out as public keys
#[derive(ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    /// One JSON object: keys ([{key, id, public, kept}]); kept says where the private half is, null where it is not here
    #[arg(long, global = true)]
    json: bool,
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
    #[command(after_help = "Example: touchstone policy key show --keys ./mine --role region-eu-1")]
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
            let made = keys.make(*encrypt).add(&role, *count)?;
            // The public halves alone: the others of this role may be encrypted, and nobody is asked to open them.
            let named = |key: String| Ok((key.clone(), public::read(&keys.path().join(format!("{key}.pub")))?));
            let made = made.into_iter().map(named).collect::<Result<Vec<_>, Failure>>()?;
            let shown = shown(&keys.open(), (keys.path(), &role), made)?;
            output::tell(args.json, &json!({ "keys": shown }), || {
                for key in &shown {
                    say!("{}: {}, public key in {}", key.key, key.id, key.public.display());
                }
            })
        }
        Command::Show { keys, role: name } => {
            let role = role(name)?;
            let dir = keys.open();
            dir.write_public(&role)?;
            let shown = shown(&dir, (keys.path(), &role), dir.public_keys(&role)?)?;
            output::tell(args.json, &json!({ "keys": shown }), || {
                for key in &shown {
                    say!("{}: {}, {}", key.key, key.id, key.kept.unwrap_or("public key only"));
                }
            })
        }
    }
}

/// A key of a role, as it lies in the folder.
#[derive(Serialize)]
struct Shown {
    key: String,
    id: String,
    public: PathBuf,
    kept: Option<&'static str>,
}

/// Keys of a role, as they lie in the folder.
fn shown(
    dir: &KeyDir,
    (path, role): (&Path, &KeyRole),
    of: Vec<(String, VerifyingKey)>,
) -> Result<Vec<Shown>, Failure> {
    let kept = dir.kept(role)?;
    let one = |(key, public): (String, VerifyingKey)| {
        Ok(Shown {
            id: hex::encode(public::key_id(&public)?),
            public: path.join(format!("{key}.pub")),
            kept: kept
                .iter()
                .find(|(name, _)| *name == key)
                .map(|(_, kept)| kept.as_str()),
            key,
        })
    };
    of.into_iter().map(one).collect()
}
