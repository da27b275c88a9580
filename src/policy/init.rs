//! `touchstone policy init`: a new repository.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use touchstone_policies::author;

use crate::clock;
use crate::output::{CommandResult, Outcome, say};

/// Make a repository: keys, root metadata, commented default settings and Cedar policy
#[derive(ClapArgs)]
#[command(after_help = "Example: touchstone policy init ./repo --domain demo.example --keys ./keys")]
pub struct Args {
    /// Directory to make
    repo: PathBuf,
    /// Name of the trust domain
    #[arg(long)]
    domain: String,
    /// Where the role keys go (`<role>-<n>.pem`, mode 0600); keys that are there are used
    #[arg(long)]
    keys: PathBuf,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> CommandResult {
    let made = author::init(&args.repo, &args.domain, &args.keys, clock::now())?;
    say!(
        "{}: domain {}, root {}",
        args.repo.display(),
        made.domain,
        made.root_digest
    );
    for key in &made.keys_made {
        say!("  key   {key}");
    }
    for target in &made.staged {
        say!("  staged {target}");
    }
    say!(
        "edit what is in {}, then: touchstone policy publish",
        args.repo.join("staged").display()
    );
    Ok(Outcome::Done)
}
