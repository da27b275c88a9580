//! `touchstone policy operator`: who commands.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use touchstone_policies::entries::{self, EntryStaged};
use touchstone_policies::{NewOperator, Power};

use crate::output::{self, CommandResult, Failure, say};

/// Operators: people whose signed commands count
#[derive(ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    /// One JSON object: add and remove {name, file, entries, before}, list {operators}
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Stage an operator, in the place of one of this name; from the first one on every command must be signed
    #[command(
        after_help = "Example: touchstone policy operator add ./repo alice --key alice.pub --may revoke quarantine lift\n\n\
        The key is a public key, Ed25519 or P-256: PEM (openssl pkey -pubout), hexadecimal DER, or a JWK."
    )]
    Add {
        /// The repository
        repo: PathBuf,
        /// The operator's name
        name: String,
        /// The public key's file
        #[arg(long)]
        key: PathBuf,
        /// What may be commanded: revoke, quarantine, lift, contain, decommission
        #[arg(long, required = true, num_args = 1.., value_parser = power)]
        may: Vec<Power>,
        /// Where; without it everywhere
        #[arg(long = "region", num_args = 1..)]
        regions: Vec<String>,
    },
    /// Stage the removal of an operator
    #[command(after_help = "Example: touchstone policy operator remove ./repo alice")]
    Remove {
        /// The repository
        repo: PathBuf,
        /// The operator's name
        name: String,
    },
    /// Who commands from the next publish on
    #[command(after_help = "Example: touchstone policy operator list ./repo")]
    List {
        /// The repository
        repo: PathBuf,
    },
}

fn power(text: &str) -> Result<Power, String> {
    Power::parse(text).ok_or_else(|| {
        let all: Vec<&str> = Power::ALL.iter().map(|power| power.as_str()).collect();
        format!("one of {}", all.join(", "))
    })
}

/// Runs the subcommand.
pub fn run(args: Args) -> CommandResult {
    let json = args.json;
    match args.command {
        Command::Add {
            repo,
            name,
            key,
            may,
            regions,
        } => {
            let new = NewOperator {
                key: key_text(&key)?,
                name,
                may,
                regions,
            };
            told(&entries::operator_add(&repo, &new)?, &new.name, json)
        }
        Command::Remove { repo, name } => {
            let staged = entries::operator_remove(&repo, &name)?;
            let done = told(&staged, &name, json)?;
            if staged.entries == 0 && !json {
                say!(
                    "nobody is listed any more: whoever may open the administrative socket commands without a signature"
                );
            }
            Ok(done)
        }
        Command::List { repo } => {
            let operators = entries::operator_list(&repo)?;
            let all = operators.iter().map(|(name, operator)| {
                serde_json::json!({
                    "name": name,
                    "key": hex::encode(operator.key.to_spki_der()),
                    "may": operator.may,
                    "regions": operator.regions,
                })
            });
            let done = serde_json::json!({"operators": all.collect::<Vec<_>>()});
            output::tell(json, &done, || {
                if operators.is_empty() {
                    say!("nobody: commands need no signature");
                }
                for (name, operator) in operators.iter() {
                    let may: Vec<&str> = operator.may.iter().map(|power| power.as_str()).collect();
                    let regions = operator.regions.as_ref().map_or_else(
                        || "everywhere".to_owned(),
                        |regions| format!("in {}", joined(regions.iter())),
                    );
                    say!(
                        "{name}: {} {regions}, key {}",
                        may.join(", "),
                        hex::encode(operator.key.kid())
                    );
                }
            })
        }
    }
}

/// A public key's file as text.
pub(super) fn key_text(path: &std::path::Path) -> Result<String, Failure> {
    let bytes = output::read(path)?;
    String::from_utf8(bytes).map_err(|_| {
        let hint = "give PEM (openssl pkey -pubout), hexadecimal DER, or a JWK";
        Failure::new(format!("{}: not a public key in text", path.display())).hint(hint)
    })
}

/// What was staged.
pub(super) fn told(staged: &EntryStaged, name: &str, json: bool) -> CommandResult {
    let done = serde_json::json!({
        "name": name,
        "file": staged.file,
        "entries": staged.entries,
        "before": staged.before,
    });
    output::tell(json, &done, || match (staged.entries, staged.before) {
        (0, _) => say!(
            "{} is taken out with the next publish: {name} was the last of it",
            staged.file
        ),
        (entries, true) => say!("staged {}: {name} changed, {entries} in all", staged.file),
        (entries, false) => say!("staged {}: {name} added, {entries} in all", staged.file),
    })
}

/// Names in one line.
pub(super) fn joined<'t>(names: impl Iterator<Item = &'t String>) -> String {
    names.map(String::as_str).collect::<Vec<_>>().join(", ")
}
