//! `touchstone status`: what a broker says of itself, once or as it changes.

use crate::output::say;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args as ClapArgs;
use serde_json::Value;

use crate::output::{CommandResult, Failure, Outcome};
use crate::{admin, output, runtime};

/// How often a broker is asked while it is watched.
const PERIOD: Duration = Duration::from_secs(1);

/// Members that change by themselves: they alone are no news.
const CLOCKS: [&str; 2] = ["time_ms", "clock_drift_ms"];

/// Policy, ledger and trust state of a running broker; which enforcers are behind.
#[derive(ClapArgs)]
#[command(after_help = "Examples:\n  touchstone status --data /var/lib/touchstone-broker\n  \
    touchstone status --data /var/lib/touchstone-broker --watch\n\n\
    --watch shows it anew whenever something changes, until it is interrupted; with --json one object a line.")]
pub struct Args {
    /// The broker's data directory
    #[arg(long)]
    data: PathBuf,
    /// Go on until interrupted
    #[arg(long)]
    watch: bool,
    /// One JSON object: domain, policy, ledger, trust_state, first_use, enforcers, standing, drift, sessions,
    /// attesting_nodes, time_ms, clock_drift_ms
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> CommandResult {
    if args.watch {
        return watch(args);
    }
    show(&ask(&args.data)?, args.json);
    Ok(Outcome::Done)
}

fn ask(data: &Path) -> Result<Value, Failure> {
    Ok(serde_json::from_slice(&admin::get(data, "/status")?)?)
}

fn show(status: &Value, json: bool) {
    if json {
        output::json(status);
    } else {
        output::members(status, "");
    }
}

/// Shows it at the start and after every change. A broker that is away at the start is a failure; one that goes away later
/// is said to be, and watched for.
fn watch(args: &Args) -> CommandResult {
    let mut shown = ask(&args.data)?;
    let screen = !args.json && std::io::stdout().is_terminal();
    let anew = |status: &Value| {
        if screen {
            // Clears the screen and goes to its top (ECMA-48, ED and CUP).
            say!("\x1b[2J\x1b[H");
        }
        show(status, args.json);
        if !screen && !args.json {
            say!();
        }
    };
    anew(&shown);
    let mut away = false;
    runtime::block_on(async {
        loop {
            tokio::select! {
                () = runtime::stopped() => return,
                () = tokio::time::sleep(PERIOD) => {}
            }
            // The socket is asked on a runtime of its own.
            let data = args.data.clone();
            let asked = tokio::task::spawn_blocking(move || ask(&data)).await;
            let status = match asked {
                Ok(Ok(status)) => status,
                _ => {
                    if !away {
                        let gone = serde_json::json!({ "event": "unreachable", "data": args.data });
                        anew(&gone);
                    }
                    away = true;
                    continue;
                }
            };
            if away || differs(&shown, &status) {
                anew(&status);
            }
            away = false;
            shown = status;
        }
    })?;
    Ok(Outcome::Done)
}

/// Whether anything but the time is another.
fn differs(before: &Value, after: &Value) -> bool {
    let timeless = |value: &Value| {
        let mut value = value.clone();
        if let Some(members) = value.as_object_mut() {
            members.retain(|name, _| !CLOCKS.contains(&name.as_str()));
        }
        value
    };
    timeless(before) != timeless(after)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_time_is_no_news() {
        let before = json!({ "epoch": 7, "time_ms": 1, "clock_drift_ms": 0 });
        assert!(!differs(
            &before,
            &json!({ "epoch": 7, "time_ms": 2, "clock_drift_ms": 3 })
        ));
        assert!(differs(
            &before,
            &json!({ "epoch": 8, "time_ms": 1, "clock_drift_ms": 0 })
        ));
        assert!(differs(&before, &json!({ "time_ms": 1, "clock_drift_ms": 0 })));
    }
}
