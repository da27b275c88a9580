//! `touchstone policy init`: a new repository.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args as ClapArgs;
use touchstone_policies::sets::{self, SETS};
use touchstone_policies::{InitOptions, init_with};

use super::keydir::KeyDirArgs;
use crate::clock;
use crate::output::{self, CommandResult, Failure, say};

/// Make a repository: keys, root metadata, commented default settings and Cedar policy
#[derive(ClapArgs)]
#[command(after_help = "Examples:\n  \
    touchstone policy init ./repo --domain demo.example --keys ./keys\n  \
    touchstone policy init ./repo --domain demo.example --keys ./keys --threshold 2 --signers 3 --encrypt\n  \
    touchstone policy init ./repo --domain demo.example --keys ./keys --set bare-metal-tpm\n\n\
    Sets: bare-metal-tpm, confidential-vm, two-root-ai-node, sovereign-region, edge-node. Each is strict, explains its\n\
    lines, and has tests: touchstone policy test.\n\n\
    With a threshold, root and targets have several keys of which so many must sign. Keys that others made are listed\n\
    where their public halves lie in KEYDIR as <role>-<n>.pub. Then each signer takes their key to a machine of their\n\
    own: policy propose, policy sign, policy publish.")]
pub struct Args {
    /// Directory to make
    repo: PathBuf,
    /// Name of the trust domain
    #[arg(long)]
    domain: String,
    #[command(flatten)]
    keys: KeyDirArgs,
    /// How many keys of root and of targets must sign
    #[arg(long, default_value_t = 1)]
    threshold: u64,
    /// How many keys root and targets have; the threshold where this is not given
    #[arg(long)]
    signers: Option<usize>,
    /// Encrypt new keys of root, targets and reference values with a passphrase that the terminal is asked for
    #[arg(long)]
    encrypt: bool,
    /// Stage this set of policies in the place of the permissive ones for a start
    #[arg(long)]
    set: Option<String>,
    /// One JSON object: domain, root_digest (of the first root, which everybody else pins), keys_made, staged
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> CommandResult {
    let least = usize::try_from(args.threshold).unwrap_or(usize::MAX);
    let files = match args.set.as_deref() {
        None => BTreeMap::new(),
        Some(name) => {
            let names: Vec<&str> = SETS.iter().map(|set| set.name).collect();
            let set = sets::named(name)
                .ok_or_else(|| Failure::new(format!("--set: no set is called {name:?}")).hint(names.join(", ")))?;
            set.files(&args.domain).into_iter().collect()
        }
    };
    let options = InitOptions {
        files,
        threshold: args.threshold,
        signers: args.signers.unwrap_or(least),
        ..InitOptions::new(&args.domain)
    };
    let made = init_with(&args.repo, &args.keys.make(args.encrypt), &options, clock::now())?;
    output::tell(args.json, &made, || {
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
    })
}
