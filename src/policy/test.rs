//! `touchstone policy test`: the policy tests of what the next publish would make.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use serde_json::json;
use touchstone_policies::preview::run_tests;

use crate::clock;
use crate::output::{self, CommandResult, Failure, Outcome, say};

/// Run the tests kept beside the policies (tests/*.toml, regions/<id>/tests/*.toml), over what is staged
#[derive(ClapArgs)]
#[command(after_help = "Examples:\n  \
    touchstone policy test ./repo\n  \
    touchstone policy test ./repo --case \"a machine without Secure Boot gets no key\"\n\n\
    Exit code 1 where a case does not come out as it says; then policy publish refuses that version too.")]
pub struct Args {
    /// The repository
    repo: PathBuf,
    /// Only cases of this name (repeatable)
    #[arg(long = "case")]
    cases: Vec<String>,
    /// One JSON object: passed, failed, cases ([{file, case, mismatches}])
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> CommandResult {
    let mut results = run_tests(&args.repo, clock::now())?;
    if let Some(missing) = args.cases.iter().find(|name| !results.iter().any(|r| r.case == **name)) {
        return Err(
            Failure::new(format!("no case is called {missing:?}")).hint("touchstone policy test lists them all")
        );
    }
    if !args.cases.is_empty() {
        results.retain(|result| args.cases.contains(&result.case));
    }
    let failed = results.iter().filter(|result| !result.passed()).count();
    if args.json {
        output::json(&json!({
            "passed": results.len() - failed,
            "failed": failed,
            "cases": serde_json::to_value(&results)?,
        }));
    } else {
        for result in &results {
            let word = if result.passed() { "ok    " } else { "FAILED" };
            say!("{word} {}: {}", result.file, result.case);
            for mismatch in &result.mismatches {
                say!(
                    "       {}: expected {}, found {}",
                    mismatch.what,
                    mismatch.expected,
                    mismatch.found
                );
            }
        }
        match results.len() {
            0 => say!(
                "no policy tests: put some into {}",
                args.repo.join("staged/tests").display()
            ),
            all => say!("{} of {all} cases come out as they say", all - failed),
        }
    }
    Ok(if failed == 0 { Outcome::Done } else { Outcome::Refused })
}
