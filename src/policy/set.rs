//! `touchstone policy set`: change settings by key.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use touchstone_policies::settings::{Assignment, KEYS, settings_set};

use crate::output::{self, CommandResult, Outcome, say};

/// Stage changed settings: the file and its comments stay, and it is checked as a whole before it is staged
#[derive(ClapArgs)]
#[command(after_help = format!("Examples:\n  \
    touchstone policy set ./repo tpm.event_log=registers-suffice\n  \
    touchstone policy set ./repo ima.mode=required 'ima.exclude=[\"/run/*\"]'\n  \
    touchstone policy set ./repo timers.heartbeat_ms=2000 timers.freshness_window_ms=12000\n\n\
    A value is a TOML value, or a bare word of letters, digits and -_.:/*@+ for a string.\n\nKeys:\n  {}", KEYS.join("\n  ")))]
pub struct Args {
    /// The repository
    repo: PathBuf,
    /// KEY=VALUE
    #[arg(required_unless_present = "unset")]
    settings: Vec<String>,
    /// Take a key out, so that its default holds (repeatable)
    #[arg(long)]
    unset: Vec<String>,
    /// One JSON object: changes ([{key, before, after}]), staged, notes
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> CommandResult {
    let set = args.settings.iter().map(|text| Assignment::parse(text));
    let unset = args.unset.iter().map(|key| Assignment::unset(key));
    let changed = settings_set(&args.repo, &set.chain(unset).collect::<Result<Vec<_>, _>>()?)?;
    if args.json {
        output::json(&serde_json::to_value(&changed)?);
        return Ok(Outcome::Done);
    }
    for change in &changed.changes {
        let words = |value: &Option<String>| value.clone().unwrap_or_else(|| "not said".to_owned());
        if change.before == change.after {
            say!("{}: {} already", change.key, words(&change.after));
        } else {
            say!("{}: {} -> {}", change.key, words(&change.before), words(&change.after));
        }
    }
    match &changed.staged {
        Some(target) => say!("staged {target}; it holds from the next publish on"),
        None => say!("nothing to stage"),
    }
    for note in &changed.notes {
        say!("  note: {note}");
    }
    Ok(Outcome::Done)
}
