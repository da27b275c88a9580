//! `touchstone ledger verify`.

use crate::output::say;
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use serde_json::json;
use touchstone_attest::client::{BrokerClient, Endpoint};
use touchstone_attest::trust::DomainTrust;
use touchstone_cose::cbor::{self, Limits, Value};
use touchstone_ledger::checkpoint::VerifiedCheckpoint;
use touchstone_ledger::note::NoteKey;
use touchstone_ledger::statement::{Statement, VerifiedStatement};
use touchstone_ledger::tree::{Frontier, Hash, verify_consistency};
use touchstone_policies::Job;

use crate::output::{self, CommandResult, Failure, Outcome};
use crate::progress::Progress;
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
    /// A checkpoint that was saved before: only what came since is fetched, and that it continues is proved
    #[arg(long, value_name = "CHECKPOINT")]
    since: Option<PathBuf>,
    /// Where the checkpoint is saved once everything holds
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// One JSON object: holds, entries, since, root, origin; code and why where the ledger does not continue
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
    let before = args.since.as_deref().map(read).transpose()?;
    let before = before.map(|note| open(&note, &origin, &trust)).transpose()?;
    let from = before.as_ref().map_or(0, VerifiedCheckpoint::size);
    let edge = match &before {
        Some(before) if from > 0 => match continued(&mut client, before, &checkpoint).await? {
            Ok(edge) => edge,
            Err(why) => return Ok(rewritten(args, before, &checkpoint, &why)),
        },
        _ => Some(Frontier::new()),
    };
    let (size, found) = match edge {
        // Nothing was added, and the roots are the same.
        None => (from, *checkpoint.root()),
        Some(edge) => {
            let log = append_all(&mut client, edge, checkpoint.size(), &trust, |_, _| {}).await?;
            (log.size(), log.root())
        }
    };
    let holds = found == *checkpoint.root();
    if let (true, Some(path)) = (holds, &args.save) {
        std::fs::write(path, &note).map_err(|e| Failure::new(format!("write {}: {e}", path.display())))?;
    }
    let root = hex::encode(checkpoint.root());
    if args.json {
        output::json(&json!({ "holds": holds, "entries": size, "since": from, "root": root, "origin": origin }));
    } else if holds && from > 0 {
        say!(
            "{} entries, {} of them since the checkpoint: it continues, every new signature holds, and the root is the signed one ({root})",
            size,
            size - from
        );
    } else if holds {
        say!(
            "{} entries: every signature holds, and the root is the signed one ({root})",
            size
        );
    } else {
        say!(
            "the {size} entries give root {}, the broker signed {root}",
            hex::encode(found)
        );
    }
    Ok(if holds { Outcome::Done } else { Outcome::Refused })
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|e| Failure::new(format!("read {}: {e}", path.display())))
}

/// Fetches a whole ledger and gives each statement to `each`, in order. Only what is under a signed root, and whose
/// signature holds, counts: `each` has seen more than that where this fails.
pub async fn every(
    client: &mut BrokerClient,
    trust: &DomainTrust,
    domain: &str,
    each: impl FnMut(u64, &Statement),
) -> Result<VerifiedCheckpoint, Failure> {
    let note = client.get("/v1/ledger/checkpoint").await?;
    let checkpoint = open(&note, &format!("{domain}/ledger"), trust)?;
    let log = append_all(client, Frontier::new(), checkpoint.size(), trust, each).await?;
    if log.root() != *checkpoint.root() {
        let (found, signed) = (hex::encode(log.root()), hex::encode(checkpoint.root()));
        let what = format!(
            "the {} entries give root {found}, the broker signed {signed}",
            log.size()
        );
        return Err(Failure::new(what).hint("touchstone ledger verify, and trust nothing of this ledger"));
    }
    Ok(checkpoint)
}

/// Fetches the entries from the right edge on, up to `size`, and appends them; each is a statement signed by the domain,
/// and given to `each`.
async fn append_all(
    client: &mut BrokerClient,
    mut log: Frontier,
    size: u64,
    trust: &DomainTrust,
    mut each: impl FnMut(u64, &Statement),
) -> Result<Frontier, Failure> {
    let begun = log.size();
    let progress = Progress::new("ledger entries", Some(size.saturating_sub(begun)));
    while log.size() < size {
        let before = log.size();
        progress.at(before - begun);
        for statement in page(client, before).await? {
            // What was appended since the checkpoint is another day's work.
            if log.size() == size {
                break;
            }
            let index = log.size();
            let verified = append(&mut log, &statement, trust)?;
            each(index, verified.statement());
        }
        if log.size() == before {
            return Err(Failure::new(format!("the broker gave no entry {before} of {size}")));
        }
    }
    Ok(log)
}

/// The right edge of the ledger at the earlier checkpoint, if the later one is shown to continue it; otherwise why not.
/// None where nothing was added.
async fn continued(
    client: &mut BrokerClient,
    before: &VerifiedCheckpoint,
    now: &VerifiedCheckpoint,
) -> Result<Result<Option<Frontier>, String>, Failure> {
    let (old, new) = (before.size(), now.size());
    if old > new {
        return Ok(Err(format!("it had {old} entries then and has {new} now")));
    }
    if old == new && before.root() != now.root() {
        return Ok(Err("the roots of one size differ".into()));
    }
    if old == new {
        return Ok(Ok(None));
    }
    let bytes = client
        .get(&format!("/v1/ledger/consistency?old={old}&new={new}"))
        .await?;
    let malformed = || Failure::new("the consistency proof is not an array of digests");
    let proof = match cbor::decode(&bytes, PAGE_LIMITS)? {
        Value::Array(hashes) => hashes
            .iter()
            .map(|hash| hash.as_bytes()?.try_into().ok())
            .collect::<Option<Vec<Hash>>>()
            .ok_or_else(malformed)?,
        _ => return Err(malformed()),
    };
    let shown = verify_consistency(old, before.root(), new, now.root(), &proof)
        .and_then(|()| Frontier::from_consistency(old, before.root(), new, &proof));
    Ok(shown.map(Some).map_err(|error| error.to_string()))
}

/// Two checkpoints, both signed, and no proof that one continues the other.
fn rewritten(args: &VerifyArgs, before: &VerifiedCheckpoint, now: &VerifiedCheckpoint, why: &str) -> Outcome {
    if args.json {
        output::json(&json!({
            "holds": false,
            "code": "ledger-rewritten",
            "since": before.size(),
            "entries": now.size(),
            "why": why,
            "root_then": hex::encode(before.root()),
            "root": hex::encode(now.root()),
            "origin": now.origin(),
        }));
    } else {
        say!(
            "ledger-rewritten: the ledger does not continue the checkpoint: {why}. Keep both, and trust nothing of it."
        );
    }
    Outcome::Refused
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

fn append(log: &mut Frontier, statement: &Value, trust: &DomainTrust) -> Result<VerifiedStatement, Failure> {
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
    Ok(verified)
}
