//! `touchstone workload`: authorizations of workloads, asked for through the agent of their node.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

use touchstone_evidence::message::DependencyKind;

use crate::output::CommandResult;
#[cfg(not(feature = "tpm"))]
use crate::output::Failure;

/// Ask for an authorization as the workload one is, hand a part of it on, present it.
#[derive(ClapArgs)]
#[command(after_help = "Examples:\n  \
    touchstone workload request --socket /run/touchstone/workload.sock --label agent --scope execute:tools/search --scope delegate:tools/search --delegation-depth 1\n  \
    touchstone workload request --socket /run/touchstone/workload.sock --label agent --scope execute:tools/search --depends-on moved-from=0/1/17\n  \
    touchstone workload present --socket /run/touchstone/workload.sock --label agent --audience proxy --challenge 00112233445566778899aabbccddeeff --action execute --resource tools/search\n  \
    touchstone workload delegate --socket /run/touchstone/workload.sock --label agent --child helper --key KEY --scope execute:tools/search --life 60\n\n\
    An entry is LIST/GENERATION/INDEX, as `workload request` and `lineage show` print it. Who asks is who the kernel says: the rules are in [workloads] of agent.toml.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    /// One JSON object: request {subject, authorization, expires, entry, key_kind}, delegate {chain}, key {key, version, ends,
    /// statement, secret}, present {authorization, proof}; error where there is none
    #[arg(long, global = true)]
    json: bool,
}

/// What something rests on: the kind, and a status entry as (list, generation, index).
type RestsOn = (String, (u16, u32, u32));

/// Reads `KIND=LIST/GENERATION/INDEX`.
fn rests_on(text: &str) -> Result<RestsOn, String> {
    let kinds = DependencyKind::ALL.map(DependencyKind::as_str);
    let (kind, entry) = text.split_once('=').unwrap_or((text, ""));
    if !kinds.contains(&kind) {
        return Err(format!("expected {} before the =, found {kind:?}", kinds.join(", ")));
    }
    let numbers: Vec<&str> = entry.split('/').collect();
    let read = || {
        let [list, generation, index] = numbers.as_slice() else {
            return None;
        };
        // A sign would be read as well.
        let digits = |text: &&str| text.bytes().all(|byte| byte.is_ascii_digit());
        let all = numbers.iter().all(digits);
        let entry = (list.parse().ok()?, generation.parse().ok()?, index.parse().ok()?);
        all.then_some(entry)
    };
    let entry = read().ok_or_else(|| format!("expected an entry as LIST/GENERATION/INDEX, found {entry:?}"))?;
    Ok((kind.to_owned(), entry))
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
        /// What it rests on beside its node: started-by, reads-from or moved-from, and an entry; it falls when that falls
        /// (repeatable)
        #[arg(long = "depends-on", value_name = "KIND=LIST/GENERATION/INDEX", value_parser = rests_on)]
        depends_on: Vec<RestsOn>,
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
        /// What the child rests on beside its parent: started-by, reads-from or moved-from, and an entry; it falls when that
        /// falls (repeatable)
        #[arg(long = "depends-on", value_name = "KIND=LIST/GENERATION/INDEX", value_parser = rests_on, requires = "online")]
        depends_on: Vec<RestsOn>,
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
            depends_on,
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
                depends_on,
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
            depends_on,
        } => {
            let child = HandedOn {
                label: child,
                key,
                scopes,
                life,
                delegation_depth,
                online,
                depends_on,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_workload_rests_on_is_a_kind_and_an_entry_and_nothing_else() {
        for (text, entry) in [
            ("moved-from=0/1/17", ("moved-from", (0, 1, 17))),
            ("started-by=3/2/4294967295", ("started-by", (3, 2, u32::MAX))),
            ("reads-from=65535/0/0", ("reads-from", (u16::MAX, 0, 0))),
        ] {
            assert_eq!(rests_on(text), Ok((entry.0.to_owned(), entry.1)), "{text}");
        }
        for bad in [
            "",
            "moved-from",
            "moved-from=",
            "moved_from=0/1/17",
            "=0/1/17",
            "moved-from=0/1",
            "moved-from=0/1/17/2",
            "moved-from=0/1/",
            "moved-from=0/1/+7",
            "moved-from=0/1/-7",
            "moved-from=0/1/ 7",
            "moved-from=65536/1/7",
            "moved-from=0/1/4294967296",
            "moved-from=0=1=7",
        ] {
            assert!(rests_on(bad).is_err(), "{bad}");
        }
    }
}
