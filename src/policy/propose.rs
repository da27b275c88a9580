//! `touchstone policy propose` and `review`: what is staged as a folder that signers check and sign elsewhere.

use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use touchstone_policies::ceremony::{self, Review};
use touchstone_policies::show::Change;

use super::keydir::dir;
use super::scope::ScopeArgs;
use crate::clock;
use crate::output::{self, CommandResult, Outcome, say};

/// Write what is staged as a proposal, for signers on machines of their own; nothing is published
#[derive(ClapArgs)]
#[command(
    after_help = "Example: touchstone policy propose ./repo --out ./p7 --keys ./keys\n\n\
    The folder holds the published version, the changed roles unsigned, and every target: take all of it to each signer.\n\
    Tell them the digest by another way than the folder."
)]
pub struct Args {
    /// The repository
    repo: PathBuf,
    /// The folder to make
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Where the reference key is, if reference values are staged that nobody has signed yet
    #[arg(long, value_name = "KEYDIR")]
    keys: Option<PathBuf>,
    /// A file, mode 0600, with the passphrase of an encrypted reference key in its first line
    #[arg(long, value_name = "FILE", requires = "keys")]
    passphrase_file: Option<PathBuf>,
    #[command(flatten)]
    scope: ScopeArgs,
    /// One JSON object: folder, review, references_signed
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> CommandResult {
    let keys = args.keys.clone().map(|keys| dir(keys, args.passphrase_file.clone()));
    let proposed = ceremony::propose(&args.repo, keys.as_ref(), &args.scope.scope(), &args.out, clock::now())?;
    if args.json {
        output::json(&serde_json::to_value(&proposed)?);
        return Ok(Outcome::Done);
    }
    for reference in &proposed.references_signed {
        say!("signed {reference}");
    }
    show(&proposed.review);
    say!(
        "proposal in {}: touchstone policy sign, by as many as must",
        args.out.display()
    );
    Ok(Outcome::Done)
}

/// Check a proposal whole against the root you hold, and say what it changes; signs nothing
#[derive(ClapArgs)]
#[command(after_help = "Example: touchstone policy review ./p7 --root root.json")]
pub struct ReviewArgs {
    /// The proposal
    proposal: PathBuf,
    /// Root metadata of the domain that you hold, of any version (REPO/metadata/1.root.json, got once and kept)
    #[arg(long, value_name = "FILE")]
    root: PathBuf,
    /// One JSON object: domain, digest, follows, roles, targets, keys
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn review(args: &ReviewArgs) -> CommandResult {
    let review = ceremony::review(&args.proposal, &root(&args.root)?, clock::now())?;
    if args.json {
        output::json(&serde_json::to_value(&review)?);
    } else {
        show(&review);
    }
    Ok(Outcome::Done)
}

/// Root metadata from a file.
pub(super) fn root(path: &Path) -> Result<Vec<u8>, output::Failure> {
    output::read_at_most(path, 1 << 20)
}

/// What a proposal changes, for people.
pub(super) fn show(review: &Review) {
    match review.follows {
        0 => say!("{}: the first version", review.domain),
        version => say!("{}: follows version {version}", review.domain),
    }
    for role in &review.roles {
        say!(
            "  role      {} version {}, until {}: {} of {} keys must sign",
            role.role,
            role.version,
            role.expires,
            role.threshold,
            role.keys
        );
    }
    for keys in &review.keys {
        match (keys.threshold_before, keys.threshold_after) {
            (0, after) => say!("  KEYS      {} is new: {after} must sign", keys.role),
            (before, 0) => say!("  KEYS      {} goes: {before} had to sign", keys.role),
            (before, after) => say!("  KEYS      {}: {before} had to sign, {after} will have to", keys.role),
        }
        for id in &keys.added {
            say!("    comes   {id}");
        }
        for id in &keys.removed {
            say!("    goes    {id}");
        }
    }
    for target in &review.targets {
        let change = match target.change {
            Change::New => "new",
            Change::Changed => "changed",
            Change::Published => "same",
            Change::Withdrawn => "withdrawn",
            Change::Moved => "moved",
        };
        say!(
            "  {change:<9} {} ({}, {} bytes) {}",
            target.target,
            target.authority,
            target.length,
            target.sha256
        );
    }
    say!("  digest    {}", review.digest);
}
