//! `touchstone reference diff`: what changed from one reference to another, in words.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use touchstone_policies::references::{
    Aspect, AspectDiff, Change, EventChange, FilesDiff, ReferenceDiff, find, references,
};
use touchstone_verifier::reason::sanitise;

use super::short;
use crate::clock;
use crate::output::{self, CommandResult, Outcome, say};

/// Events of one part of the state, and files of one kind, that are listed without --all.
const SHOWN: usize = 6;
/// Longest text of one event.
const MAX_TEXT: usize = 512;

/// Say in words what changed from one reference to another
#[derive(ClapArgs)]
#[command(
    after_help = "Example:\n  touchstone reference diff ./repo debian-12-2026-10 debian-12-2026-11\n\n\
    Published and staged references can be compared. Where a name is both, OLD means the published one and NEW the\n\
    staged one: `diff REPO NAME NAME` shows what the next publish would change."
)]
pub struct Args {
    /// The repository
    repo: PathBuf,
    /// Name of the old reference values
    old: String,
    /// Name of the new reference values
    new: String,
    /// Every event and every file
    #[arg(long)]
    all: bool,
    /// One JSON object: old, new, bank, same, aspects, registers, banks, guest, files
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> CommandResult {
    let entries = references(&args.repo, clock::now())?;
    let (old, new) = (find(&entries, &args.old, false)?, find(&entries, &args.new, true)?);
    let diff = ReferenceDiff::of(&old.values, &new.values);
    if args.json {
        output::json(&serde_json::to_value(&diff)?);
        return Ok(Outcome::Done);
    }
    for line in words(&diff, args.all) {
        say!("{line}");
    }
    Ok(Outcome::Done)
}

fn words(diff: &ReferenceDiff, all: bool) -> Vec<String> {
    let mut lines = vec![match diff.same {
        true => format!("{} -> {}: nothing that counts has changed", diff.old, diff.new),
        false => format!("{} -> {}", diff.old, diff.new),
    }];
    for aspect in &diff.aspects {
        lines.push(format!("  {:<26} {}", aspect.aspect.words(), summary(aspect)));
        let single = matches!(aspect.events.as_slice(), [event] if in_summary(event));
        if !single && aspect.change == Change::Changed {
            let shown = if all { usize::MAX } else { SHOWN };
            lines.extend(
                aspect
                    .events
                    .iter()
                    .take(shown)
                    .map(|event| format!("      {}", event_words(event))),
            );
            lines.extend(more(aspect.events.len(), shown));
        }
    }
    for register in &diff.registers {
        lines.push(format!("  register {register:<17} changed, and no event says why"));
    }
    for bank in &diff.banks {
        lines.push(format!("  bank {bank:<21} only in one of them"));
    }
    for change in &diff.guest {
        let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "not stated".to_owned());
        lines.push(format!(
            "  {:<26} {} -> {}",
            change.field,
            value(&change.old),
            value(&change.new)
        ));
    }
    lines.extend(files(&diff.files, all));
    lines
}

fn summary(diff: &AspectDiff) -> String {
    let not_compared = if diff.aspect == Aspect::Machine {
        ", which is not compared"
    } else {
        ""
    };
    let verdict = match diff.change {
        Change::Absent => "absent",
        Change::Unchanged => "unchanged",
        Change::Added => "added",
        Change::Removed => "removed",
        Change::Changed => "changed",
    };
    let detail = match (&diff.words, diff.events.as_slice()) {
        (Some(words), _) => format!(": {}", sanitise(words, MAX_TEXT)),
        (None, [event]) if diff.change == Change::Changed && in_summary(event) => format!(": {}", digests(event)),
        _ => String::new(),
    };
    format!("{verdict}{detail}{not_compared}")
}

/// Whether a change is one of digests alone, so that the summary says all of it.
fn in_summary(event: &EventChange) -> bool {
    event.old.is_some() && event.old == event.new
}

fn digests(event: &EventChange) -> String {
    let digest = |digest: &Option<String>| digest.as_deref().map_or_else(|| "nothing".to_owned(), short);
    format!("{} -> {}", digest(&event.old_digest), digest(&event.new_digest))
}

fn event_words(event: &EventChange) -> String {
    let register = event.register;
    let text = |text: &str| sanitise(text, MAX_TEXT);
    match (&event.old, &event.new) {
        (Some(old), Some(new)) if old == new => format!("~ PCR {register}: {}: {}", text(old), digests(event)),
        (Some(old), Some(new)) => format!("~ PCR {register}: {} -> {} ({})", text(old), text(new), digests(event)),
        (Some(old), None) => format!("- PCR {register}: {}", text(old)),
        (None, Some(new)) => format!("+ PCR {register}: {}", text(new)),
        (None, None) => format!("  PCR {register}"),
    }
}

fn files(diff: &FilesDiff, all: bool) -> Vec<String> {
    let (added, removed, changed) = (diff.added.len(), diff.removed.len(), diff.changed.len());
    if added + removed + changed + diff.unchanged == 0 {
        return Vec::new();
    }
    let words = match added + removed + changed {
        0 => format!("unchanged ({})", diff.unchanged),
        _ => format!(
            "{added} added, {removed} removed, {changed} changed, {} unchanged",
            diff.unchanged
        ),
    };
    let mut lines = vec![format!("  {:<26} {words}", "files")];
    let shown = if all { usize::MAX } else { SHOWN };
    for (mark, paths) in [("+", &diff.added), ("-", &diff.removed), ("~", &diff.changed)] {
        lines.extend(
            paths
                .iter()
                .take(shown)
                .map(|path| format!("      {mark} {}", sanitise(path, MAX_TEXT))),
        );
        lines.extend(more(paths.len(), shown));
    }
    lines
}

fn more(count: usize, shown: usize) -> Option<String> {
    (count > shown).then(|| format!("      … and {} more (--all shows them)", count - shown))
}
