//! `touchstone ledger replay` and `touchstone ledger record`.

use crate::output::say;
use std::path::PathBuf;

use clap::Args as ClapArgs;
use serde_json::json;
use touchstone_keybroker::record::{DecisionRecord, RecordError};
use touchstone_policies::{Job, LoadOptions, load_blocking};

use super::{DataArgs, EntryArgs};
use crate::output::{self, CommandResult, Failure, Outcome};
use crate::{admin, clock};

#[derive(ClapArgs)]
pub struct ReplayArgs {
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    entry: EntryArgs,
    /// The policy repository
    #[arg(long)]
    policy: PathBuf,
    /// The root.json that is trusted
    #[arg(long)]
    root: PathBuf,
    /// One JSON object: replayed (0 or 1), index, bytes, node, outcome, decided_at; error where it comes out
    /// otherwise
    #[arg(long)]
    json: bool,
}

#[derive(ClapArgs)]
pub struct RecordArgs {
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    entry: EntryArgs,
    /// Where to write the evidence (an envelope)
    #[arg(short, long)]
    output: PathBuf,
    /// One JSON object: index (of the entry), file
    #[arg(long)]
    json: bool,
}

/// Makes a decision again; refused when it comes out otherwise.
pub fn run(args: &ReplayArgs) -> CommandResult {
    let record = fetch(&args.data, &args.entry)?;
    // The policy is judged at the time the decision was made: what has expired since was good then.
    let then = record.recorded()?.now();
    let options = LoadOptions {
        root: Some(output::read(&args.root)?),
        made_by: Some(clock::now()),
        ..LoadOptions::default()
    };
    let policy = load_blocking(&args.policy, options, then)?;
    let mut keys = policy.keyset.keys.iter().filter(|entry| entry.job == Job::Statement);
    let mut last = Failure::new("the signed keyset has no statement key");
    let replayed = loop {
        let Some(entry) = keys.next() else { return Err(last) };
        match record.replay(&policy, &entry.key) {
            Ok(replayed) => break replayed,
            Err(error @ (RecordError::Differs { .. } | RecordError::OtherInputs { .. })) => {
                if args.json {
                    output::json(&json!({ "replayed": 0, "index": record.index, "error": error.to_string() }));
                } else {
                    say!("{error}");
                }
                return Ok(Outcome::Refused);
            }
            Err(error) => last = error.into(),
        }
    };
    let outcome = if replayed.allowed() { "allow" } else { "deny" };
    if args.json {
        output::json(&json!({
            "replayed": 1,
            "index": replayed.index,
            "bytes": replayed.payload_bytes,
            "node": replayed.node(),
            "outcome": outcome,
            "decided_at": clock::words(then),
        }));
    } else {
        say!(
            "entry {}: {outcome} for {}, decided at {}, made again: the same {} bytes",
            replayed.index,
            replayed.node(),
            clock::words(then),
            replayed.payload_bytes
        );
        for reason in &replayed.statement.reasons {
            say!(
                "  {}: {}: expected {}, found {}",
                reason.code,
                reason.claim,
                reason.expected,
                reason.found
            );
        }
    }
    Ok(Outcome::Done)
}

/// Saves the evidence a decision was made on.
pub fn record(args: &RecordArgs) -> CommandResult {
    let record = fetch(&args.data, &args.entry)?;
    output::write(&args.output, &record.inputs()?.evidence.encode())?;
    output::tell(
        args.json,
        &json!({ "index": record.index, "file": args.output }),
        || {
            say!("entry {}: its evidence is in {}", record.index, args.output.display());
        },
    )
}

fn fetch(data: &DataArgs, entry: &EntryArgs) -> Result<DecisionRecord, Failure> {
    let path = match (&entry.index, &entry.subject) {
        (Some(index), _) => format!("/record/{index}"),
        (None, Some(subject)) => format!("/record/latest/{subject}"),
        (None, None) => return Err(Failure::new("which entry?").hint("--index N or --subject NODE")),
    };
    Ok(DecisionRecord::decode(&admin::get(&data.data, &path)?)?)
}
