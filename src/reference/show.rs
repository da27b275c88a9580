//! `touchstone reference show`: reference values in words.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use serde_json::json;
use touchstone_policies::references::{ReferenceEntry, ReferenceStory, Shown, find, references};

use super::short;
use crate::clock;
use crate::output::{self, CommandResult, Outcome, say};

/// Show reference values in words: who signed, how long they hold, what boots, with which keys
#[derive(ClapArgs)]
#[command(
    after_help = "Examples:\n  touchstone reference show ./repo                          every reference, in short\n  \
    touchstone reference show ./repo debian-12-2026-11        one, in full\n\n\
    Shows what is published and what is staged; what is staged counts for nothing before the next publish."
)]
pub struct Args {
    /// The repository
    repo: PathBuf,
    /// Name of the reference values (default: all of them, in short)
    name: Option<String>,
    /// One JSON object: references ([{story, banks, files}]), with every event and every file
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> CommandResult {
    let entries = references(&args.repo, clock::now())?;
    let chosen: Vec<&ReferenceEntry> = match &args.name {
        Some(name) => vec![find(&entries, name, false)?],
        None => entries.iter().collect(),
    };
    if args.json {
        let documents: Vec<_> = chosen.iter().map(|entry| document(entry)).collect();
        output::json(&json!({ "references": documents }));
        return Ok(Outcome::Done);
    }
    if chosen.is_empty() {
        say!(
            "{}: no reference values; see: touchstone reference add --help",
            args.repo.display()
        );
    }
    for entry in chosen {
        let story = ReferenceStory::of(entry);
        if args.name.is_some() {
            in_full(entry, &story);
        } else {
            in_short(&story);
        }
    }
    Ok(Outcome::Done)
}

fn validity(story: &ReferenceStory) -> String {
    match (&story.valid_from, &story.valid_until) {
        (None, None) => "without end".to_owned(),
        (None, Some(until)) => format!("until {until}"),
        (Some(from), None) => format!("from {from}, without end"),
        (Some(from), Some(until)) => format!("from {from} until {until}"),
    }
}

fn signer(story: &ReferenceStory) -> String {
    story
        .signer
        .as_ref()
        .map_or_else(|| "not signed yet".to_owned(), |signer| format!("signed by {signer}"))
}

fn in_short(story: &ReferenceStory) {
    say!(
        "{}: {}, {}, {}",
        story.name,
        story.standing.words(),
        signer(story),
        validity(story)
    );
    for bank in &story.banks {
        say!("  {}", bank_words(bank));
    }
    if let Some((field, value)) = story.guest.first() {
        say!("  {field} {}", short(value));
    }
    if story.files > 0 {
        say!("  {} files", story.files);
    }
}

fn bank_words(bank: &touchstone_policies::references::BankStory) -> String {
    let registers: Vec<String> = bank.registers.iter().map(ToString::to_string).collect();
    let registers = if registers.is_empty() {
        "no values".to_owned()
    } else {
        format!("registers {}", registers.join(" "))
    };
    format!("{}: {registers}, {} events", bank.bank, bank.events)
}

fn in_full(entry: &ReferenceEntry, story: &ReferenceStory) {
    say!("{} ({})", story.name, story.target);
    row("standing", story.standing.words());
    row("signer", &signer(story));
    row("valid", &validity(story));
    for bank in &story.banks {
        row("bank", &bank_words(bank));
    }
    for (field, value) in &story.guest {
        row(field, value);
    }
    // A confidential VM that states no register has no boot to tell of.
    if story.banks.is_empty() && story.files == 0 && !story.guest.is_empty() {
        return;
    }
    if let Some(firmware) = &story.firmware {
        row("firmware", firmware);
    }
    row(
        "Secure Boot",
        match story.secure_boot {
            Some(true) => "on",
            Some(false) => "off",
            None => "no event says whether it is on",
        },
    );
    rows("key", &story.secure_boot_keys);
    rows("vouched by", &story.authorities);
    rows("boots", &story.boot_chain);
    for version in &story.kernel_versions {
        row("kernel", &format!("version {version}"));
    }
    rows("kernel", &story.kernel);
    match &story.command_line {
        Some(line) => row("command line", line),
        None => row("command line", "known by its digest only, if at all"),
    }
    match story.files {
        0 => row("files", "none: files that run are not judged by this reference"),
        count => row("files", &format!("{count} that may run")),
    }
    for file in entry.values.files.iter().take(FILES_SHOWN) {
        say!(
            "  {:<14} {} {}",
            "",
            short(&hex::encode(&file.digest)),
            printable(&file.path)
        );
    }
    if story.files > FILES_SHOWN {
        say!("  {:<14} … (--json has all)", "");
    }
}

/// Files of a reference that are listed for people.
const FILES_SHOWN: usize = 10;

fn row(name: &str, words: &str) {
    say!("  {name:<14} {words}");
}

fn rows(name: &str, shown: &[Shown]) {
    for (position, shown) in shown.iter().enumerate() {
        let name = if position == 0 { name } else { "" };
        row(name, &format!("{} ({})", printable(&shown.what), short(&shown.digest)));
    }
}

/// Text of a file that somebody else may have made, safe to show.
fn printable(text: &str) -> String {
    touchstone_verifier::reason::sanitise(text, 1024)
}

fn document(entry: &ReferenceEntry) -> serde_json::Value {
    let events = |bank: &touchstone_verifier::corim::BankValues| -> Vec<serde_json::Value> {
        let event = |event: &touchstone_verifier::corim::ReferenceEvent| {
            json!({
                "register": event.pcr, "type": event.event_type.to_string(), "digest": hex::encode(&event.digest),
                "description": event.description, "data": event.data.as_ref().map(hex::encode),
            })
        };
        bank.events.iter().map(event).collect()
    };
    let banks: serde_json::Map<String, serde_json::Value> = entry
        .values
        .banks
        .iter()
        .map(|(bank, values)| {
            let registers: std::collections::BTreeMap<String, String> = values
                .registers
                .iter()
                .map(|(register, value)| (register.to_string(), hex::encode(value)))
                .collect();
            (
                bank.name().to_owned(),
                json!({ "registers": registers, "events": events(values) }),
            )
        })
        .collect();
    let files: Vec<_> = entry
        .values
        .files
        .iter()
        .map(|file| json!({ "path": file.path, "algorithm": file.algorithm.name(), "digest": hex::encode(&file.digest) }))
        .collect();
    json!({ "story": ReferenceStory::of(entry), "banks": banks, "files": files })
}
