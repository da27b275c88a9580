//! `touchstone policy publish`: make what is staged, or a proposal that was signed, the next version.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use touchstone_policies::{PublishOptions, publish_with};

use super::keydir::KeyDirArgs;
use super::scope::ScopeArgs;
use crate::clock;
use crate::output::{self, CommandResult, Outcome, say};

/// Sign what is staged and publish it as the next version, or publish a proposal with its signers' signatures
#[derive(ClapArgs)]
#[command(after_help = "Examples:\n  \
    touchstone policy publish ./repo --keys ./keys\n  \
    touchstone policy publish ./repo --keys ./keys --proposal ./p7 --signatures anna.sig --signatures ben.sig\n\n\
    KEYDIR has the snapshot and timestamp keys; its keys of other roles sign too. Nothing is published unless every\n\
    role has enough signatures and the version would load. Stopped at any instant the old version stays, or the new\n\
    one is there.")]
pub struct Args {
    /// The repository
    repo: PathBuf,
    #[command(flatten)]
    keys: KeyDirArgs,
    /// A proposal, as policy propose wrote it
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["region", "global"])]
    proposal: Option<PathBuf>,
    /// Signatures over the proposal, as policy sign wrote them (repeatable)
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "proposal")]
    signatures: Vec<PathBuf>,
    #[command(flatten)]
    scope: ScopeArgs,
    /// One JSON object: domain, versions, targets, signed, references_signed, withdrawn, expires, notes
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> CommandResult {
    let options = PublishOptions {
        proposal: args.proposal.clone(),
        signatures: args.signatures.clone(),
        scope: args.scope.scope(),
    };
    let published = publish_with(&args.repo, &args.keys.open(), &options, clock::now())?;
    if args.json {
        output::json(&serde_json::to_value(&published)?);
        return Ok(Outcome::Done);
    }
    say!(
        "published {} version {}: {} targets, valid until {}",
        published.domain,
        published.versions.snapshot,
        published.targets,
        published.expires
    );
    for (role, keys) in &published.signed {
        say!("  {role} signed by {}", keys.join(", "));
    }
    for reference in &published.references_signed {
        say!("  signed {reference}");
    }
    for note in &published.notes {
        say!("  note: {note}");
    }
    Ok(Outcome::Done)
}
