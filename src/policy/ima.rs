//! `touchstone policy ima-key`: whose signatures on files count.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use serde_json::json;
use touchstone_policies::{author, ima_key_add};

use crate::output::{self, CommandResult, say};

/// Keys whose signatures on measured files count
#[derive(ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    /// One JSON object: add {keys: [{key, target}]}, remove {removed}
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Stage keys: a file that one of them has signed (IMA signature) need not be in a reference
    #[command(after_help = "Example: touchstone policy ima-key add ./repo --key /etc/keys/x509_ima.der")]
    Add {
        /// The repository
        repo: PathBuf,
        /// X.509 certificates or public keys, PEM (one or several in a file) or DER
        #[arg(long = "key", required = true, num_args = 1..)]
        key: Vec<PathBuf>,
    },
    /// Stage the removal of a key; what only it signed is refused from the next publish on
    #[command(after_help = "Example: touchstone policy ima-key remove ./repo 5d94…")]
    Remove {
        /// The repository
        repo: PathBuf,
        /// SHA-256 of the key's file (see policy show, or the name of the target)
        sha256: String,
    },
}

/// Runs the subcommand.
pub fn run(args: &Args) -> CommandResult {
    match &args.command {
        Command::Add { repo, key } => {
            let keys = ima_key_add(repo, key)?.keys;
            let each = keys.iter().map(|(key, target)| json!({ "key": key, "target": target }));
            output::tell(args.json, &json!({ "keys": each.collect::<Vec<_>>() }), || {
                for (words, target) in &keys {
                    say!("staged {target}: {words}");
                }
            })
        }
        Command::Remove { repo, sha256 } => {
            author::withdraw(repo, &format!("ima-keys/{sha256}.der"))?;
            output::tell(args.json, &json!({ "removed": sha256 }), || {
                say!("{sha256} is removed with the next publish");
            })
        }
    }
}
