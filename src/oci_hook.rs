//! `touchstone oci-hook`: a container does not start without an authorization.

use std::io::Write as _;
use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use touchstone_enforcer::oci::hook;
use touchstone_enforcer::oci::keeper;
use touchstone_enforcer::oci::protocol::{Said, Watch};

use crate::output::{CommandResult, Failure, Outcome, complain};

/// Where the guard listens unless another socket is named.
const SOCKET: &str = "/run/touchstone/guard-oci.sock";

/// Let a container start only under an authorization (an OCI hook: run by the container runtime, not by people).
#[derive(ClapArgs)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "In the bundle's config.json (or containerd's base_runtime_spec):\n  \
    \"annotations\": {\"touchstone.action\": \"execute\", \"touchstone.resource\": \"db-reader\"},\n  \
    \"hooks\": {\"createRuntime\": [{\"path\": \"/usr/bin/touchstone\", \"timeout\": 15,\n    \
    \"args\": [\"touchstone\", \"oci-hook\", \"--socket\", \"/run/touchstone/guard-oci.sock\"]}]}\n\n\
    The guard: touchstone guard run … --oci /run/touchstone/guard-oci.sock --agent /run/touchstone/agent.sock\n\
    Exit codes: 0 the container may start, 1 it may not."
)]
pub struct Args {
    /// The guard's socket (its --oci)
    #[arg(long, default_value = SOCKET)]
    socket: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Stay beside one container and end it should the guard fall silent; started by the hook
    #[command(hide = true)]
    Keep(KeepArgs),
}

#[derive(ClapArgs)]
struct KeepArgs {
    #[arg(long)]
    socket: PathBuf,
    #[arg(long)]
    container: String,
    #[arg(long)]
    pid: u32,
    #[arg(long)]
    start: u64,
    #[arg(long)]
    action: String,
    #[arg(long)]
    resource: String,
}

/// Runs the subcommand.
pub fn run(args: Args) -> CommandResult {
    match args.command {
        Some(Command::Keep(keep)) => run_keeper(keep),
        None => run_hook(&args.socket),
    }
}

fn run_hook(socket: &std::path::Path) -> CommandResult {
    let said = hook::judge(std::io::stdin().lock()).and_then(|asked| {
        let own = std::env::current_exe().map_err(|error| hook::no_keeper(&error.kind()))?;
        hook::start_keeper(&own, &["oci-hook", "keep"], socket, &asked)
    });
    let reasons = match said {
        Ok(Said::Allowed { .. }) => return Ok(Outcome::Done),
        Ok(Said::Suspended { .. }) => vec!["authorization-suspended".to_owned()],
        Ok(Said::Refused { reasons, .. }) => reasons,
        Err(refused) => vec![refused.to_string()],
    };
    // The runtime shows this as the reason why it did not start the container.
    complain!("touchstone: refused: {}", reasons.join("; "));
    Ok(Outcome::Refused)
}

fn run_keeper(args: KeepArgs) -> CommandResult {
    // Away from whatever session the runtime was started in.
    let _ = rustix::process::setsid();
    let asked = Watch {
        container: args.container,
        pid: args.pid,
        start: args.start,
        action: args.action,
        resource: args.resource,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tell = |said: &Said| {
        let mut line = serde_json::to_vec(said)?;
        line.push(b'\n');
        let mut output = std::io::stdout().lock();
        output.write_all(&line)?;
        output.flush()
    };
    match runtime.block_on(keeper::keep(&args.socket, &asked, tell)) {
        Ok(keeper::Kept::Ended) => Ok(Outcome::Done),
        Ok(_) => Ok(Outcome::Refused),
        Err(refused) => {
            let _ = tell(&Said::refused(&refused));
            Err(Failure::new(refused.to_string()))
        }
    }
}
