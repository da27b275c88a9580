//! `touchstone workload`: authorizations of workloads, asked for through the agent of their node.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

use crate::output::CommandResult;
#[cfg(not(feature = "tpm"))]
use crate::output::Failure;

/// Ask for an authorization as the workload one is, hand a part of it on, present it.
#[derive(ClapArgs)]
#[command(after_help = "Examples:\n  \
    touchstone workload request --socket /run/touchstone/workload.sock --label agent --scope execute:tools/search --scope delegate:tools/search --delegation-depth 1\n  \
    touchstone workload present --socket /run/touchstone/workload.sock --label agent --audience proxy --challenge 00112233445566778899aabbccddeeff --action execute --resource tools/search\n  \
    touchstone workload delegate --socket /run/touchstone/workload.sock --label agent --child helper --key KEY --scope execute:tools/search --life 60\n\n\
    Who asks is who the kernel says: the rules are in [workloads] of agent.toml.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    /// One JSON object: request {subject, authorization, expires, entry, key_kind}, delegate {chain}, key {key, version, ends,
    /// statement, secret}, present {authorization, proof}; error where there is none
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// An authorization of its own for whoever asks; asked again it is renewed
    Request {
        /// The agent's socket for workloads
        #[arg(long)]
        socket: PathBuf,
        /// What it is called: the label of a rule in agent.toml
        #[arg(long)]
        label: String,
        /// What it is to be granted, action:resource (repeatable)
        #[arg(long = "scope", required = true)]
        scopes: Vec<String>,
        /// How long at most, in seconds
        #[arg(long)]
        life: Option<u64>,
        /// The region it is to count in alone
        #[arg(long)]
        region: Option<String>,
        /// What it is for
        #[arg(long)]
        purpose: Option<String>,
        /// How many further links may hang below it
        #[arg(long, default_value_t = 0)]
        delegation_depth: u8,
        /// Let it hand on without asking the broker
        #[arg(long)]
        offline: bool,
        /// Its own key, a COSE_Key in hexadecimal; without one the agent makes one and holds it
        #[arg(long)]
        key: Option<String>,
    },
    /// Hand a part of its rights on, without asking the broker; prints the chain that the child presents
    Delegate {
        /// The agent's socket for workloads
        #[arg(long)]
        socket: PathBuf,
        /// What it is called itself
        #[arg(long)]
        label: String,
        /// What the child is called below it; on-line its whole label is LABEL.CHILD, at most 32 bytes
        #[arg(long)]
        child: String,
        /// The child's key, a COSE_Key in hexadecimal
        #[arg(long)]
        key: String,
        /// A part of its own scopes, action:resource (repeatable)
        #[arg(long = "scope", required = true)]
        scopes: Vec<String>,
        /// How long at most, in seconds
        #[arg(long, default_value_t = 60)]
        life: u64,
        /// How many further links may hang below the child
        #[arg(long, default_value_t = 0)]
        delegation_depth: u8,
        /// Ask the broker for it: the child gets an authorization and an entry of its own
        #[arg(long)]
        online: bool,
    },
    /// Fetch a key from the broker, for a workload whose own key the agent holds; the secret is in base64
    #[command(
        after_help = "Example: touchstone workload key --socket /run/touchstone/workload.sock --label agent --key db/main --json"
    )]
    Key {
        /// The agent's socket for workloads
        #[arg(long)]
        socket: PathBuf,
        /// What it is called
        #[arg(long)]
        label: String,
        /// The key's name
        #[arg(long)]
        key: String,
        /// What the key was put under: release:RESOURCE
        #[arg(long, default_value = "keys")]
        resource: String,
        /// This version; without it the newest
        #[arg(long)]
        version: Option<u64>,
    },
    /// Present its authorization with a proof of possession, where the agent holds its key
    Present {
        /// The agent's socket for workloads
        #[arg(long)]
        socket: PathBuf,
        /// What it is called
        #[arg(long)]
        label: String,
        /// The enforcer's id
        #[arg(long)]
        audience: String,
        /// The enforcer's challenge, hexadecimal
        #[arg(long, conflicts_with = "request", required_unless_present = "request")]
        challenge: Option<String>,
        /// SHA-256 of method, authority, path and body, hexadecimal, for an enforcer that does not end TLS
        #[arg(long)]
        request: Option<String>,
        /// execute, release or delegate
        #[arg(long)]
        action: String,
        /// What it is done to
        #[arg(long)]
        resource: String,
    },
}

/// Runs the subcommand.
#[cfg(not(feature = "tpm"))]
pub fn run(args: Args) -> CommandResult {
    let Args {
        command: Command::Request { .. } | Command::Delegate { .. } | Command::Key { .. } | Command::Present { .. },
        json: _,
    } = args;
    Err(Failure::new("this build has no TPM support").hint("build with the feature `tpm`"))
}

/// Runs the subcommand.
#[cfg(feature = "tpm")]
pub fn run(args: Args) -> CommandResult {
    use touchstone_attest::agent::socket::Request;
    use touchstone_attest::agent::workloads::{HandedOn, Wanted};

    let (socket, request) = match args.command {
        Command::Request {
            socket,
            label,
            scopes,
            life,
            region,
            purpose,
            delegation_depth,
            offline,
            key,
        } => {
            let wanted = Wanted {
                label,
                scopes,
                life,
                region,
                purpose,
                delegation_depth,
                offline,
                key,
                depends_on: Vec::new(),
                renew: None,
            };
            (socket, Request::Workload(wanted))
        }
        Command::Delegate {
            socket,
            label,
            child,
            key,
            scopes,
            life,
            delegation_depth,
            online,
        } => {
            let child = HandedOn {
                label: child,
                key,
                scopes,
                life,
                delegation_depth,
                online,
            };
            (socket, Request::WorkloadDelegate { label, child })
        }
        Command::Key {
            socket,
            label,
            key,
            resource,
            version,
        } => {
            let request = Request::WorkloadKey {
                label,
                key,
                version,
                resource,
            };
            (socket, request)
        }
        Command::Present {
            socket,
            label,
            audience,
            challenge,
            request,
            action,
            resource,
        } => {
            let request = Request::WorkloadPresent {
                label,
                audience,
                challenge,
                request,
                action,
                resource,
            };
            (socket, request)
        }
    };
    with_agent::ask(&socket, &request, args.json)
}

#[cfg(feature = "tpm")]
mod with_agent {
    use std::path::Path;

    use touchstone_attest::agent::socket::{self, Request};

    use crate::output::{CommandResult, Failure};
    use crate::{agent, runtime};

    /// Asks, and tells the answer.
    pub(super) fn ask(path: &Path, request: &Request, json: bool) -> CommandResult {
        let answer = runtime::block_on(socket::ask(path, request))?.map_err(|error| {
            Failure::new(format!("{}: {error}", path.display()))
                .hint("is `touchstone agent run` running, with [workloads] socket in agent.toml?")
        })?;
        agent::told(&answer, json)
    }
}
