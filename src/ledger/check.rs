//! `touchstone ledger verify`.

use crate::output::say;
use std::path::PathBuf;

use clap::Args as ClapArgs;
use serde_json::json;
use touchstone_attest::client::{BrokerClient, Endpoint};
use touchstone_attest::trust::DomainTrust;
use touchstone_cose::cbor::{self, Limits, Value};
use touchstone_ledger::checkpoint::VerifiedCheckpoint;
use touchstone_ledger::note::NoteKey;
use touchstone_ledger::statement::VerifiedStatement;
use touchstone_ledger::tree::Frontier;
use touchstone_policies::Job;

use crate::output::{self, CommandResult, Failure, Outcome};
use crate::{clock, runtime};

/// Entries asked for at once.
const PAGE: u64 = 256;
/// The largest answer that is read, and so the largest page.
const PAGE_LIMITS: Limits = Limits {
    max_bytes: 32 << 20,
    max_depth: 4,
    max_items: 1 << 10,
};

#[derive(ClapArgs)]
pub struct VerifyArgs {
    /// A broker, https://host:port
    #[arg(long)]
    broker: String,
    /// The trust domain
    #[arg(long)]
    domain: String,
    /// The policy repository
    #[arg(long)]
    policy: PathBuf,
    /// The root.json that is trusted
    #[arg(long)]
    root: PathBuf,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: &VerifyArgs) -> CommandResult {
    runtime::block_on(verify(args))?
}

async fn verify(args: &VerifyArgs) -> CommandResult {
    let now = clock::now();
    let trust = DomainTrust::load(&args.policy, &args.root, &args.domain, now).await?;
    let mut client = trust.client(vec![Endpoint::parse(&args.broker)?]);
    let note = client.get("/v1/ledger/checkpoint").await?;
    let origin = format!("{}/ledger", args.domain);
    let checkpoint = open(&note, &origin, &trust)?;
    let mut log = Frontier::new();
    while log.size() < checkpoint.size() {
        let before = log.size();
        for statement in page(&mut client, before).await? {
            // What was appended since the checkpoint is another day's work.
            if log.size() == checkpoint.size() {
                break;
            }
            append(&mut log, &statement, &trust)?;
        }
        if log.size() == before {
            return Err(Failure::new(format!(
                "the broker gave no entry {before} of {}",
                checkpoint.size()
            )));
        }
    }
    let holds = log.root() == *checkpoint.root();
    let root = hex::encode(checkpoint.root());
    if args.json {
        output::json(&json!({ "holds": holds, "entries": log.size(), "root": root, "origin": origin }));
    } else if holds {
        say!(
            "{} entries: every signature holds, and the root is the signed one ({root})",
            log.size()
        );
    } else {
        say!(
            "the {} entries give root {}, the broker signed {root}",
            log.size(),
            hex::encode(log.root())
        );
    }
    Ok(if holds { Outcome::Done } else { Outcome::Refused })
}

fn open(note: &[u8], origin: &str, trust: &DomainTrust) -> Result<VerifiedCheckpoint, Failure> {
    let mut last = Failure::new("the signed keyset has no checkpoint key");
    for entry in trust
        .policy
        .keyset
        .keys
        .iter()
        .filter(|entry| entry.job == Job::Checkpoint)
    {
        match VerifiedCheckpoint::open(note, &NoteKey::new(origin, &entry.key)?) {
            Ok(checkpoint) => return Ok(checkpoint),
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

async fn page(client: &mut BrokerClient, start: u64) -> Result<Vec<Value>, Failure> {
    let bytes = client
        .get(&format!("/v1/ledger/entries?start={start}&count={PAGE}"))
        .await?;
    match cbor::decode(&bytes, PAGE_LIMITS)? {
        Value::Array(entries) => Ok(entries),
        other => Err(Failure::new(format!(
            "entries: expected an array, found {}",
            other.kind()
        ))),
    }
}

fn append(log: &mut Frontier, statement: &Value, trust: &DomainTrust) -> Result<(), Failure> {
    let index = log.size();
    let bytes = statement
        .as_bytes()
        .ok_or_else(|| Failure::new(format!("entry {index} is not a byte string")))?;
    let verified = trust
        .policy
        .keyset
        .keys
        .iter()
        .filter(|entry| entry.job == Job::Statement)
        .find_map(|entry| VerifiedStatement::parse(bytes, &entry.key).ok())
        .ok_or_else(|| Failure::new(format!("entry {index}: no statement signed under the keyset")))?;
    log.append(*verified.leaf(), |_, _| {})?;
    Ok(())
}
