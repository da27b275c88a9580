//! `touchstone policy sign`: check a proposal whole, and give back a file of signatures.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::PathBuf;

use clap::Args as ClapArgs;
use serde_json::json;
use touchstone_policies::ceremony;

use super::keydir::KeyDirArgs;
use super::propose::{root, show};
use crate::clock;
use crate::output::{self, CommandResult, Failure, say};

/// Check a proposal whole against the root you hold, sign it with your keys, and write the signatures to a file
#[derive(ClapArgs)]
#[command(
    after_help = "Example, on a machine that has nothing but the proposal, the root and a key:\n  \
    touchstone policy sign ./p7 --root root.json --keys ./mine --digest 5d94… --out anna.sig\n\n\
    A proposal that would not load, does not follow the version it carries, or says more than it may is not signed."
)]
pub struct Args {
    /// The proposal, as policy propose wrote it
    proposal: PathBuf,
    /// Root metadata of the domain that you hold, of any version (REPO/metadata/1.root.json, got once and kept)
    #[arg(long, value_name = "FILE")]
    root: PathBuf,
    #[command(flatten)]
    keys: KeyDirArgs,
    /// The digest that the proposal must have, as its author told it; without it a terminal is asked
    #[arg(long, value_name = "HEX")]
    digest: Option<String>,
    /// The file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// One JSON object: review (as policy review --json has it), signed ([{role, key}]), file. Nobody is asked then
    #[arg(long, requires = "digest")]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> CommandResult {
    let root = root(&args.root)?;
    let now = clock::now();
    let digest = match &args.digest {
        Some(digest) => digest.clone(),
        None => {
            let review = ceremony::review(&args.proposal, &root, now)?;
            show(&review);
            asked(&review.digest)?;
            review.digest
        }
    };
    // What is signed is what was shown: the digest is compared again over what is read again.
    let signed = ceremony::sign(&args.proposal, &root, &args.keys.open(), Some(&digest), &args.out, now)?;
    let by = signed
        .signed
        .iter()
        .map(|(role, key)| json!({ "role": role, "key": key }));
    let done = json!({ "review": signed.review, "signed": by.collect::<Vec<_>>(), "file": signed.file });
    output::tell(args.json, &done, || {
        if args.digest.is_some() {
            show(&signed.review);
        }
        for (role, key) in &signed.signed {
            say!("signed {role} with {key}");
        }
        say!("signatures in {}: take them to whoever publishes", args.out.display());
    })
}

fn asked(digest: &str) -> Result<(), Failure> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        let hint = "--digest HEX, as the proposal's author told it";
        return Err(Failure::new("nobody here to say yes").hint(hint));
    }
    let mut out = std::io::stdout().lock();
    let _ = write!(out, "sign this? The first eight digits of the digest mean yes: ");
    let _ = out.flush();
    let mut line = String::new();
    stdin.lock().read_line(&mut line)?;
    let said = line.trim();
    if said.len() >= 8 && digest.starts_with(said) {
        Ok(())
    } else {
        Err(Failure::new("not signed"))
    }
}
