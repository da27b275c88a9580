//! `touchstone policy diff`: recent decisions made again under another policy, before it is published.

use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use serde_json::{Value, json};
use touchstone_keybroker::record::{DecisionRecord, MAX_RECORD_BYTES};
use touchstone_keybroker::redecide::{Compared, Comparison, MAX_COMPARED, compare};
use touchstone_policies::preview::preview;
use touchstone_policies::{LoadOptions, PolicySet, load_blocking};

use crate::output::{self, CommandResult, Failure, Outcome, say};
use crate::progress::Progress;
use crate::{admin, clock};

/// What the names of saved records end with.
const RECORD: &str = "record";

/// Make recent decisions again under another policy: who would lose what, who would gain what
#[derive(ClapArgs)]
#[command(after_help = "Examples:\n  \
    touchstone policy diff ./repo --data /var/lib/touchstone-broker          what is staged, before it is published\n  \
    touchstone policy diff ./repo ./next --data /var/lib/touchstone-broker --save ./records\n  \
    touchstone policy diff ./repo --records ./records --json\n\n\
    Exit code 1 where somebody would lose something or may be refused. Nothing is changed, signed or recorded.")]
pub struct Args {
    /// The repository whose published version is in force
    old: PathBuf,
    /// The repository whose published version is to come (default: what is staged in OLD)
    new: Option<PathBuf>,
    #[command(flatten)]
    source: SourceArgs,
    /// How many of the ledger's last entries are looked through
    #[arg(long, default_value_t = 10_000)]
    last: u64,
    /// Save the records here, for the next time
    #[arg(long, requires = "data")]
    save: Option<PathBuf>,
    /// The root.json that is trusted
    #[arg(long)]
    root: Option<PathBuf>,
    /// Judge at this time instead of now (RFC 3339)
    #[arg(long)]
    at: Option<String>,
    /// One JSON object: domain, old, new, losing, gaining, unchanged, undecided
    #[arg(long)]
    json: bool,
}

/// Where the decisions come from.
#[derive(ClapArgs)]
#[group(required = true, multiple = false)]
struct SourceArgs {
    /// The data directory of a broker that runs here
    #[arg(long)]
    data: Option<PathBuf>,
    /// A folder of records that were saved
    #[arg(long)]
    records: Option<PathBuf>,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> CommandResult {
    let now = clock::at(args.at.as_deref())?;
    let root = args.root.as_deref().map(output::read).transpose()?;
    let options = || LoadOptions {
        root: root.clone(),
        made_by: Some(clock::now()),
        ..LoadOptions::default()
    };
    let old = load_blocking(args.old.as_path(), options(), now)?;
    let new = match &args.new {
        Some(new) => load_blocking(new.as_path(), options(), now)?,
        None => preview(&args.old, options(), now)?,
    };
    if old.domain != new.domain {
        let message = format!("{} and {} are two domains", old.domain, new.domain);
        return Err(Failure::new(message).hint("two versions of one domain's policy are compared"));
    }
    let records = match (&args.source.data, &args.source.records) {
        (Some(data), _) => from_broker(data, args.last, args.save.as_deref())?,
        (None, Some(folder)) => from_folder(folder)?,
        (None, None) => return Err(Failure::new("no decisions given").hint("--data or --records")),
    };
    if records.is_empty() {
        return Err(Failure::new("no decision is recorded there")
            .hint("let nodes attest first, or look further back with --last"));
    }
    let progress = Progress::new("deciding again", None);
    let comparison = compare(&records, &old, &new, now);
    drop(progress);
    if args.json {
        output::json(&document(&comparison, &old, &new)?);
    } else {
        tell(&comparison, &old, &new, args.new.is_none());
    }
    // What could not be decided might lose: that is not silence.
    Ok(if comparison.is_certain() {
        Outcome::Done
    } else {
        Outcome::Refused
    })
}

fn from_broker(data: &Path, last: u64, save: Option<&Path>) -> Result<Vec<DecisionRecord>, Failure> {
    let listed: Value = serde_json::from_slice(&admin::get(data, &format!("/records/{last}"))?)?;
    let indexes = listed.get("indexes").and_then(Value::as_array);
    let indexes = indexes.ok_or_else(|| Failure::new("the broker's list of decisions cannot be read"))?;
    if let Some(folder) = save {
        std::fs::create_dir_all(folder).map_err(|error| Failure::new(format!("{}: {error}", folder.display())))?;
    }
    let mut records = Vec::with_capacity(indexes.len());
    let progress = Progress::new("decisions", Some(indexes.len() as u64));
    for (done, index) in (1..).zip(indexes.iter().filter_map(Value::as_u64)) {
        let record = DecisionRecord::decode(&admin::get(data, &format!("/record/{index}"))?)?;
        if let Some(folder) = save {
            output::write(&folder.join(format!("{index}.{RECORD}")), &record.encode())?;
        }
        records.push(record);
        progress.at(done);
    }
    Ok(records)
}

fn from_folder(folder: &Path) -> Result<Vec<DecisionRecord>, Failure> {
    let named = |error: std::io::Error| Failure::new(format!("{}: {error}", folder.display()));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(named)? {
        let path = entry.map_err(named)?.path();
        if path.extension().is_some_and(|end| end == RECORD) {
            files.push(path);
        }
    }
    if files.len() > MAX_COMPARED {
        return Err(Failure::new(format!(
            "{} records, more than {MAX_COMPARED}",
            files.len()
        )));
    }
    files.sort();
    let mut records = Vec::with_capacity(files.len());
    for path in files {
        let bytes = output::read_at_most(&path, MAX_RECORD_BYTES)?;
        let record = DecisionRecord::decode(&bytes);
        records.push(record.map_err(|error| Failure::new(format!("{}: {error}", path.display())))?);
    }
    Ok(records)
}

fn document(comparison: &Comparison, old: &PolicySet, new: &PolicySet) -> Result<Value, Failure> {
    let policy = |policy: &PolicySet| json!({ "version": policy.version, "digest": hex::encode(policy.digest) });
    Ok(json!({
        "domain": old.domain,
        "old": policy(old),
        "new": policy(new),
        "losing": serde_json::to_value(&comparison.losing)?,
        "gaining": serde_json::to_value(&comparison.gaining)?,
        "unchanged": serde_json::to_value(&comparison.unchanged)?,
        "undecided": serde_json::to_value(&comparison.undecided)?,
    }))
}

fn tell(comparison: &Comparison, old: &PolicySet, new: &PolicySet, staged: bool) {
    let what = if staged { ", as it is staged" } else { "" };
    say!(
        "{}: version {} against version {}{what}",
        old.domain,
        old.version,
        new.version
    );
    for compared in &comparison.losing {
        tell_one("LOSES", compared, &compared.lost);
        if !compared.gained.is_empty() {
            say!("      and gains {}", compared.gained.join(", "));
        }
        tell_open(compared);
    }
    for compared in &comparison.gaining {
        tell_one("gains", compared, &compared.gained);
    }
    for compared in comparison.gaining.iter().chain(&comparison.unchanged) {
        tell_open(compared);
    }
    for undecided in &comparison.undecided {
        say!("  ?     entry {}: {}", undecided.index, undecided.why);
    }
    let files = [&comparison.losing, &comparison.gaining, &comparison.unchanged];
    let files = files
        .into_iter()
        .flatten()
        .filter(|compared| compared.files_not_judged)
        .count();
    if files > 0 {
        say!("  note: {files} lists of measured files are not in the records; they are judged at the next attestation");
    }
    say!(
        "{} would lose, {} would gain, {} unchanged, {} not decided",
        comparison.losing.len(),
        comparison.gaining.len(),
        comparison.unchanged.len(),
        comparison.undecided.len()
    );
}

/// What nobody knows yet: what was not asked for when the decision was made.
fn tell_open(compared: &Compared) {
    for why in &compared.may_be_refused {
        let (subject, index) = (&compared.subject, compared.index);
        say!("  may be refused at its next attestation: {why}: {subject} (entry {index})");
    }
}

fn tell_one(word: &str, compared: &Compared, rights: &[String]) {
    say!(
        "  {word} {}: {} ({}, entry {})",
        compared.subject,
        rights.join(", "),
        compared.decision,
        compared.index
    );
    for reason in &compared.reasons {
        say!(
            "        {}: {}: expected {}, found {}",
            reason.code,
            reason.claim,
            reason.expected,
            reason.found
        );
    }
}
