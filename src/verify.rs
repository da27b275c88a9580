//! `touchstone verify`: an offline verdict over packed evidence.
//!
//! Exit codes are a contract: 0 affirming; 1 anything else that could be judged, a stale or forged policy repository
//! included; 2 unreadable input or usage.

use crate::output::say;
use std::path::PathBuf;

use clap::Args as ClapArgs;
use serde_json::{Value, json};
use touchstone_evidence::collection::{Collection, Profile};
use touchstone_policies::region::appraise_in_region;
use touchstone_policies::{LoadOptions, PolicyError, PolicySet, load_blocking};
use touchstone_verifier::appraisal::{AkBinding, Appraisal, Freshness, ImaKnown, Inputs, Known, Tier, appraise};
use touchstone_verifier::ear::Ear;

use crate::clock;
use crate::output::{self, CommandResult, Failure, Outcome};
use crate::why::{self, Look, Places, Why};

/// Judge packed evidence offline: 0 affirming, 1 refused with reasons, 2 unreadable input or usage.
#[derive(ClapArgs)]
#[command(after_help = "Examples:\n  \
    touchstone verify node.evidence --policy ./repo --nonce 5d940119b026…\n  \
    touchstone verify node.evidence --policy ./repo --root ./root.json --nonce 5d94… --at 2026-11-21T12:00:00Z --json\n\n\
    Colours only on a terminal, and never with NO_COLOR set.")]
pub struct Args {
    /// The envelope (touchstone evidence pack | collect)
    evidence: PathBuf,
    /// The policy repository
    #[arg(long)]
    policy: PathBuf,
    /// The nonce the evidence must answer (hexadecimal)
    #[arg(long)]
    nonce: String,
    /// The root.json that is trusted (default: the one in the repository, said to be unpinned)
    #[arg(long)]
    root: Option<PathBuf>,
    /// Judge at this time instead of now (RFC 3339)
    #[arg(long)]
    at: Option<String>,
    /// One JSON object: verdict, reasons, ear
    #[arg(long)]
    json: bool,
    /// Every reason in full, not only a screen of them
    #[arg(long)]
    all: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> CommandResult {
    let nonce = hex::decode(args.nonce.trim())
        .map_err(|error| Failure::new(format!("--nonce: {error}")).hint("the nonce in hexadecimal"))?;
    if nonce.is_empty() || nonce.len() > 64 {
        return Err(Failure::new(format!(
            "--nonce: expected 1 to 64 bytes, found {}",
            nonce.len()
        )));
    }
    let now = clock::at(args.at.as_deref())?;
    let collection = Collection::decode(&output::read(&args.evidence)?).map_err(|error| {
        Failure::new(format!("{}: {error}", args.evidence.display())).hint("make it with touchstone evidence pack")
    })?;
    if !args.policy.is_dir() {
        return Err(
            Failure::new(format!("{}: no such directory", args.policy.display())).hint("touchstone policy init")
        );
    }
    let root = args.root.as_deref().map(output::read).transpose()?;
    let policy = match load_blocking(
        &args.policy,
        LoadOptions {
            root,
            made_by: Some(clock::now()),
            ..LoadOptions::default()
        },
        now,
    ) {
        Ok(policy) => policy,
        Err(error) if error.is_io() => return Err(error.into()),
        Err(error) => return policy_refused(&error, args),
    };
    // Judged as in the region of the node that it is.
    let appraisal = appraise_in_region(&policy, &policy.inventory, None, |demands| {
        appraise(&Inputs {
            collection: &collection,
            freshness: Freshness::Unbound { nonce: &nonce },
            policy: demands.appraisal,
            references: demands.references,
            anchors: demands.anchors,
            inventory: &policy.inventory,
            enrolled: None,
            ima: ImaKnown::default(),
            known: Known::default(),
            now,
        })
    });
    if args.json {
        output::json(&document(&appraisal, &policy, &collection, &nonce, now, args));
    } else {
        tell(&appraisal, &policy, args);
    }
    Ok(if appraisal.status == Tier::Affirming {
        Outcome::Done
    } else {
        Outcome::Refused
    })
}

/// The repository itself is not to be believed: that is a verdict about it, and none about the machine.
fn policy_refused(error: &PolicyError, args: &Args) -> CommandResult {
    let reasons = error.reasons();
    let reasons: Vec<Why> = reasons
        .iter()
        .map(|(code, claim, expected, found)| Why::new(code, claim, expected, found))
        .collect();
    if args.json {
        let reasons = reason_documents(&reasons, args);
        output::json(&json!({ "verdict": "none", "reasons": reasons, "ear": Value::Null }));
    } else {
        say!("none: the policy repository is not to be believed\n");
        tell_reasons(&reasons, args);
    }
    Ok(Outcome::Refused)
}

/// Reasons as JSON: the four fields of each, and what explains them.
fn reason_documents(reasons: &[Why], args: &Args) -> Vec<Value> {
    let (repo, evidence) = (args.policy.to_string_lossy(), args.evidence.to_string_lossy());
    let places = places(&repo, &evidence);
    let document = |why: &Why| {
        json!({
            "code": why.code, "claim": why.claim, "expected": why.expected, "found": why.found,
            "event": why.event, "register": why.register, "nearest": why.nearest,
            "meaning": why.meaning(), "help": why::commands(why, reasons, &places),
        })
    };
    reasons.iter().map(document).collect()
}

fn places<'a>(repo: &'a str, evidence: &'a str) -> Places<'a> {
    Places {
        repo: Some(repo),
        evidence: Some(evidence),
    }
}

fn tell_reasons(reasons: &[Why], args: &Args) {
    let (repo, evidence) = (args.policy.to_string_lossy(), args.evidence.to_string_lossy());
    let text = why::tell(reasons, &places(&repo, &evidence), &Look::of_stdout(args.all));
    say!("{}", text.trim_end());
}

fn document(
    appraisal: &Appraisal,
    policy: &PolicySet,
    collection: &Collection,
    nonce: &[u8],
    now: i64,
    args: &Args,
) -> Value {
    let reasons: Vec<Why> = appraisal.reasons.iter().map(Why::from).collect();
    let reasons = reason_documents(&reasons, args);
    let ear = Ear::of(appraisal, &policy.settings.appraisal.policy_id, nonce, now);
    json!({
        "verdict": appraisal.status.as_str(),
        "reasons": reasons,
        "ear": ear.to_json(),
        "binding": if collection.profile() == Profile::Unbound { "none" } else { "bound" },
        "ak_binding": ak_binding(appraisal),
        "node": appraisal.node,
        "reference": appraisal.reference,
        "leniencies": appraisal.leniencies,
        "at": clock::words(now),
        "policy": {
            "domain": policy.domain,
            "version": policy.version,
            "digest": hex::encode(policy.digest),
            "expires": clock::words(policy.expires),
        },
        "policy_root": root_words(policy),
        "policy_root_digest": hex::encode(policy.root_digest),
    })
}

fn ak_binding(appraisal: &Appraisal) -> &'static str {
    match appraisal.ak_binding {
        AkBinding::None => "none",
        bound => bound.as_str(),
    }
}

fn root_words(policy: &PolicySet) -> &'static str {
    if policy.root_pinned { "pinned" } else { "unpinned" }
}

fn tell(appraisal: &Appraisal, policy: &PolicySet, args: &Args) {
    let node = appraisal.node.as_deref().unwrap_or("an unknown machine");
    say!("{}: {node}", appraisal.status.as_str());
    say!(
        "  policy {} version {}, root {} {}",
        policy.domain,
        policy.version,
        root_words(policy),
        hex::encode(policy.root_digest)
    );
    say!("  binding: none, ak-binding: {}", ak_binding(appraisal));
    if let Some(reference) = &appraisal.reference {
        say!("  reference values: {reference}");
    }
    for leniency in &appraisal.leniencies {
        say!("  leniency used: {leniency}");
    }
    if !appraisal.reasons.is_empty() {
        say!("");
        let reasons: Vec<Why> = appraisal.reasons.iter().map(Why::from).collect();
        tell_reasons(&reasons, args);
    }
}
