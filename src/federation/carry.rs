//! `touchstone federation export` and `import`: the state of a domain, carried by hand.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use serde_json::{Value, json};
use touchstone_keybroker::federation::bundle::{Bundle, MAX_BUNDLE_BYTES};

use crate::output::{CommandResult, Failure, Outcome, say};
use crate::{admin, output};

/// Write what this domain shows others now into a file: its repository as signed, its trust state, its checkpoint
#[derive(ClapArgs)]
#[command(after_help = "Example, at a broker of domain B:\n  \
    touchstone federation export --data /var/lib/touchstone-broker --out b.bundle")]
pub struct ExportArgs {
    /// The broker's data directory
    #[arg(long)]
    data: PathBuf,
    /// Where the bundle goes
    #[arg(long)]
    out: PathBuf,
    /// One JSON object: domain, file, bytes, files (of the repository)
    #[arg(long)]
    json: bool,
}

/// Writes it.
pub fn export(args: &ExportArgs) -> CommandResult {
    let bytes = admin::get(&args.data, "/federation/export")?;
    let bundle = Bundle::decode(&bytes).map_err(|error| Failure::new(format!("the broker's bundle: {error}")))?;
    output::write(&args.out, &bytes)?;
    let files = bundle.copy.files().count();
    let done = json!({ "domain": bundle.domain, "file": args.out, "bytes": bytes.len(), "files": files });
    output::tell(args.json, &done, || {
        say!(
            "{}: {} bytes, {files} files of {}",
            args.out.display(),
            bytes.len(),
            bundle.domain
        );
    })
}

/// Take over what was carried here from another domain; its age is checked against `max_state_age` of the signed policy
#[derive(ClapArgs)]
#[command(after_help = "Example, at a broker of domain A:\n  \
    touchstone federation import b.bundle --data /var/lib/touchstone-broker")]
pub struct ImportArgs {
    /// The bundle
    bundle: PathBuf,
    /// The broker's data directory
    #[arg(long)]
    data: PathBuf,
    /// One JSON object: imported {domain, policy, trust_state}
    #[arg(long)]
    json: bool,
}

/// Takes it over.
pub fn import(args: &ImportArgs) -> CommandResult {
    let bytes = output::read_at_most(&args.bundle, MAX_BUNDLE_BYTES)?;
    let answer = admin::post_bytes(&args.data, "/federation/import", bytes)?;
    let answer: Value = serde_json::from_slice(&answer)?;
    if args.json {
        output::json(&answer);
        return Ok(Outcome::Done);
    }
    let member = |pointer: &str| answer.pointer(pointer).map(ToString::to_string).unwrap_or_default();
    say!(
        "{}: policy version {}, trust state of epoch {}, state-age {} ms",
        answer
            .pointer("/imported/domain")
            .and_then(Value::as_str)
            .unwrap_or_default(),
        member("/imported/policy/version"),
        member("/imported/trust_state/epoch"),
        member("/imported/trust_state/state-age")
    );
    Ok(Outcome::Done)
}
