//! `touchstone agent`: the agent on a node.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

use crate::output::CommandResult;
#[cfg(not(feature = "tpm"))]
use crate::output::Failure;

/// Attest this node, keep re-attesting, hold its authorization.
#[derive(ClapArgs)]
#[command(after_help = "Example agent.toml:\n  \
    brokers = [\"https://broker.example:8443\"]\n  \
    domain = \"demo.example\"\n  \
    policy = \"/srv/touchstone/policy\"\n  \
    policy_root = \"/etc/touchstone/root.json\"\n  \
    state_dir = \"/var/lib/touchstone\"\n  \
    socket = \"/run/touchstone/agent.sock\"\n  \
    [tpm]\n  \
    tcti = \"device:/dev/tpmrm0\"")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run until stopped; says in what state the node is: trusted, stale, unreachable, refused
    #[command(after_help = "Example: touchstone agent run --config /etc/touchstone/agent.toml")]
    Run {
        /// agent.toml
        #[arg(long)]
        config: PathBuf,
        /// One JSON object an event on standard output: event (ready, granted, refused, unreachable, standing), and
        /// what it tells
        #[arg(long)]
        json: bool,
    },
    /// Ask a running agent for its state (exit code 0 only when trusted)
    #[command(after_help = "Example: touchstone agent status --socket /run/touchstone/agent.sock --all")]
    Status {
        /// The agent's socket
        #[arg(long)]
        socket: PathBuf,
        /// One JSON object: state, reasons, because, and when the authorization ends
        #[arg(long)]
        json: bool,
        /// Every reason in full, not only a screen of them
        #[arg(long)]
        all: bool,
    },
    /// Have a running agent present its authorization with a proof of possession
    #[command(
        after_help = "Example: touchstone agent present --socket /run/touchstone/agent.sock --audience db-proxy \\\n    \
        --challenge 00112233445566778899aabbccddeeff --action execute --resource workloads --json\n\n\
        With --json it prints {\"authorization\", \"proof\"} for a guard's POST /decide."
    )]
    Present {
        /// The agent's socket
        #[arg(long)]
        socket: PathBuf,
        /// The domain of the guard, where it is another one: an authorization that counts there is fetched
        #[arg(long)]
        domain: Option<String>,
        /// The guard's id
        #[arg(long)]
        audience: String,
        /// The guard's challenge (hexadecimal)
        #[arg(long)]
        challenge: String,
        /// bootstrap, execute, release, delegate or administer
        #[arg(long)]
        action: String,
        /// What it is done to
        #[arg(long)]
        resource: String,
        /// One JSON object: authorization, proof (both base64); error where there is none
        #[arg(long)]
        json: bool,
    },
}

/// Runs the subcommand.
#[cfg(not(feature = "tpm"))]
pub fn run(args: Args) -> CommandResult {
    let Args {
        command: Command::Run { .. } | Command::Status { .. } | Command::Present { .. },
    } = args;
    Err(Failure::new("this build has no TPM support").hint("build with the feature `tpm`"))
}

/// Runs the subcommand.
#[cfg(feature = "tpm")]
pub fn run(args: Args) -> CommandResult {
    with_tpm::run(args.command)
}

#[cfg(feature = "tpm")]
pub use with_tpm::told;

#[cfg(feature = "tpm")]
mod with_tpm {
    use std::path::Path;

    use touchstone_attest::agent::config::AgentConfig;
    use touchstone_attest::agent::socket::{self, Request, Response};
    use touchstone_attest::agent::{self, AgentEvent};

    use super::Command;
    use crate::output::{CommandResult, Failure, Outcome, say};
    use crate::why::{self, Look, Places, Why};
    use crate::{output, runtime};

    pub(super) fn run(command: Command) -> CommandResult {
        match command {
            Command::Run { config, json } => {
                output::tracing_to_stderr();
                let config = AgentConfig::load(&config)?;
                let tell = move |event: AgentEvent| tell(&event, json);
                runtime::block_on(agent::run(config, tell, runtime::stopped()))??;
                Ok(Outcome::Done)
            }
            Command::Status { socket, json, all } => status(&socket, json, all),
            Command::Present {
                socket,
                domain,
                audience,
                challenge,
                action,
                resource,
                json,
            } => {
                let request = match domain {
                    None => Request::Present {
                        audience,
                        challenge,
                        action,
                        resource,
                    },
                    Some(domain) => Request::PresentIn {
                        domain,
                        audience,
                        challenge,
                        action,
                        resource,
                    },
                };
                told(&ask(&socket, &request)?, json)
            }
        }
    }

    /// Tells an agent's answer; an error is a refusal.
    pub fn told(answer: &Response, json: bool) -> CommandResult {
        let done = serde_json::to_value(answer)?;
        output::tell(json, &done, || output::members(&done, ""))?;
        Ok(match answer {
            Response::Error { .. } => Outcome::Refused,
            _ => Outcome::Done,
        })
    }

    fn ask(socket: &Path, request: &Request) -> Result<Response, Failure> {
        runtime::block_on(socket::ask(socket, request))?.map_err(|error| {
            Failure::new(format!("{}: {error}", socket.display())).hint("is `touchstone agent run` running?")
        })
    }

    /// Why the node is refused, as `touchstone verify` tells it.
    fn tell_reasons(reasons: &[impl AsRef<str>], all: bool) {
        let reasons: Vec<Why> = reasons.iter().map(|words| Why::from_words(words.as_ref())).collect();
        let text = why::tell(&reasons, &Places::default(), &Look::of_stdout(all));
        if !text.is_empty() {
            say!("\n{}", text.trim_end());
        }
    }

    fn status(socket: &Path, json: bool, all: bool) -> CommandResult {
        let Response::Status(status) = ask(socket, &Request::Status)? else {
            return Err(Failure::new("the agent gave no status"));
        };
        let word = status
            .get("state")
            .and_then(|state| state.as_str())
            .unwrap_or("unknown")
            .to_owned();
        if json {
            output::json(&status);
        } else {
            say!("{word}");
            let reasons = status.get("reasons").and_then(|reasons| reasons.as_array());
            let reasons: Vec<&str> = reasons
                .into_iter()
                .flatten()
                .filter_map(|reason| reason.as_str())
                .collect();
            tell_reasons(&reasons, all);
            if let Some(because) = status.get("because").and_then(|because| because.as_str()) {
                say!("  {because}");
            }
        }
        Ok(if word == "trusted" {
            Outcome::Done
        } else {
            Outcome::Refused
        })
    }

    fn tell(event: &AgentEvent, json: bool) {
        if json {
            output::json(&serde_json::to_value(event).unwrap_or_default());
            return;
        }
        match event {
            AgentEvent::Ready { ak_name } => say!("ready: attestation key {ak_name}"),
            AgentEvent::Granted {
                bytes, took_ms, node, ..
            } => {
                say!("authorized as {node}: {bytes} bytes, {took_ms} ms");
            }
            AgentEvent::Refused { reasons, .. } => {
                say!("refused");
                tell_reasons(reasons, false);
            }
            AgentEvent::Unreachable { because, retry_ms } => say!("unreachable: {because}; again in {retry_ms} ms"),
            AgentEvent::Standing { standing } => say!("state: {}", standing.word()),
        }
    }
}
