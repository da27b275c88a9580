//! `touchstone policy ima-key`: whose signatures on files count.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use touchstone_policies::{author, ima_key_add};

use crate::output::{CommandResult, Outcome, say};

/// Keys whose signatures on measured files count
#[derive(ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
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
            for (words, target) in ima_key_add(repo, key)?.keys {
                say!("staged {target}: {words}");
            }
        }
        Command::Remove { repo, sha256 } => {
            author::withdraw(repo, &format!("ima-keys/{sha256}.der"))?;
            say!("{sha256} is removed with the next publish");
        }
    }
    Ok(Outcome::Done)
}
