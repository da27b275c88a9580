//! `touchstone policy show`: the version that is published, and what is staged after it.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use touchstone_policies::{LoadOptions, show_with};

use crate::clock;
use crate::output::{self, CommandResult, Outcome, say};

/// Show the published version: roles, expiry, settings, nodes, reference values
#[derive(ClapArgs)]
#[command(
    after_help = "Example: touchstone policy show ./repo --at 2026-12-01T00:00:00Z\n\nExit code 1 where it would not load."
)]
pub struct Args {
    /// The repository
    repo: PathBuf,
    /// Judge at this time instead of now (RFC 3339)
    #[arg(long)]
    at: Option<String>,
    /// One JSON object: published, roles, staged, problems
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> CommandResult {
    let Args { repo, at, json } = args;
    let options = LoadOptions {
        made_by: Some(clock::now()),
        ..LoadOptions::default()
    };
    let shown = show_with(repo, options, clock::at(at.as_deref())?)?;
    let loads = shown.problems.is_empty();
    if *json {
        output::json(&serde_json::to_value(&shown)?);
        return Ok(if loads { Outcome::Done } else { Outcome::Refused });
    }
    match &shown.published {
        None => say!("{}: nothing is published yet", repo.display()),
        Some(published) => {
            say!(
                "{} version {} ({})",
                published.domain,
                published.version,
                published.digest
            );
            say!("  first root {}", published.root_digest);
            for (role, version, end) in &published.expires {
                say!("  {role:<10} version {version:<4} until {end}");
            }
            say!("  grants     {}", published.scopes.join(", "));
            say!("  requires   {}", published.required_registers);
            say!("  files      {}", published.ima);
            for key in &published.ima_keys {
                say!("  signer     {key}");
            }
            say!("  regions    {}", published.regions.join(", "));
            for (name, region, zone) in &published.nodes {
                say!(
                    "  node       {name} in {region}{}",
                    zone.as_ref().map_or(String::new(), |z| format!("/{z}"))
                );
            }
            for (name, signer, end) in &published.references {
                let end = end.as_deref().unwrap_or("without end");
                say!("  reference  {name}, signed by {signer}, until {end}");
            }
            for anchor in &published.anchors {
                say!("  anchor     {anchor}");
            }
        }
    }
    for role in &shown.roles {
        say!(
            "  role       {}: {} of {} keys",
            role.role,
            role.threshold,
            role.keys.len()
        );
    }
    for staged in &shown.staged {
        say!("  staged     {} ({:?})", staged.target, staged.change);
    }
    for problem in &shown.problems {
        say!(
            "  would not load: {}: {}: expected {}, found {}",
            problem.code,
            problem.claim,
            problem.expected,
            problem.found
        );
    }
    Ok(if loads { Outcome::Done } else { Outcome::Refused })
}
