//! `touchstone exec`: run a command only while it is authorized.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args as ClapArgs;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use touchstone_attest::agent::config::AgentConfig;
use touchstone_attest::client::Endpoint;
use touchstone_attest::floors::PolicyFloors;
use touchstone_cose::key::Signer;
use touchstone_enforcer::agent::Holder;
use touchstone_enforcer::exec::{self, Ending, Exec, ExecEvent, FAILED};
use touchstone_enforcer::guard::{Guard, GuardConfig, Renewal, keep_current};
use touchstone_enforcer::uses::Reporter;
use touchstone_policies::{Mirror, Source};

use crate::notify::Manager;
use crate::output::{Failure, complain};
use crate::{lines, output, runtime};

/// Signals that are passed on to the command. It is in a session of its own: no terminal sends it any.
const PASSED_ON: [i32; 7] = [2, 3, 1, 15, 10, 12, 28];
/// How long the last report of uses may take.
const LAST_REPORT: Duration = Duration::from_secs(2);

/// Run a command only while it is authorized: frozen when that is suspended, dead with all it started when it ends.
#[derive(ClapArgs)]
#[command(
    override_usage = "touchstone exec --action <ACTION> --resource <RESOURCE> [OPTIONS] -- <COMMAND>...",
    after_help = "Examples:\n  \
        touchstone exec --action execute --resource db-reader --user 1000:1000 -- /usr/bin/db-reader --port 8080\n  \
        touchstone exec --action execute --resource db-reader --user 1000:1000 --network -- ./job.sh\n\n\
        Everything it needs to know of domain, brokers and policy is in the agent's agent.toml, and the agent must run:\n\
        it shows this node's authorization. Started by root it must be told as whom to run the command (--user), which then\n\
        has a PID namespace, a cgroup (version 2) and, where policy has network segments, a network of its own. What is\n\
        missing is said on standard error. A service manager (Type=notify) is told when the command runs.\n\n\
        Exit codes: the command's own, 128 + the signal that ended it, 126 or 127 where it could not be run;\n\
        121 no authorization (nothing ran), 122 the authorization ended (all was killed), 125 this program failed."
)]
pub struct Args {
    /// bootstrap, execute, release, delegate or administer
    #[arg(long)]
    action: String,
    /// What it is done to
    #[arg(long)]
    resource: String,
    /// What it is done for, where the authorization counts for one purpose only
    #[arg(long)]
    purpose: Option<String>,
    /// Run it under an authorization of its own below this node's, as the workload of this label: a rule in the agent's
    /// [workloads] says who may be called so, and `touchstone exec` is who asks
    #[arg(long, value_name = "LABEL")]
    workload: Option<String>,
    /// The agent's configuration
    #[arg(long, default_value = "/etc/touchstone/agent.toml")]
    config: PathBuf,
    /// The agent's socket, where it is not the one of its configuration
    #[arg(long)]
    agent: Option<PathBuf>,
    /// The id of this enforcer, as policy lists it; proofs of possession are made for it
    #[arg(long, default_value = "exec")]
    id: String,
    /// A folder of its own (mode 0700) for the policy versions it has accepted, so that nobody takes it back to an older one
    #[arg(long)]
    state_dir: Option<PathBuf>,
    /// The key of this enforcer, made at the first start with its public half beside it in FILE.pub, to be listed with
    /// `touchstone policy enforcer add`: with it the brokers know what is enforced here, what was let in and what was stopped
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// User and group to run it as, by number: 1000:1000. Started by root it must be given; `root` where root is meant
    #[arg(long, value_parser = user_and_group)]
    user: Option<(u32, u32)>,
    /// Kill the command where its right is suspended, instead of keeping it frozen: for one that stands for something
    /// which cannot be frozen with it
    #[arg(long)]
    end_when_suspended: bool,
    /// A network of its own even where policy names no segment for it: then it reaches nothing
    #[arg(long)]
    network: bool,
    /// What happens, as one JSON object a line on standard error
    #[arg(long)]
    json: bool,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

fn user_and_group(text: &str) -> Result<(u32, u32), String> {
    if text == "root" {
        return Ok((0, 0));
    }
    let pair = text.split_once(':').and_then(|(user, group)| {
        let number = |text: &str| text.parse::<u32>().ok().filter(|number| *number != u32::MAX);
        Some((number(user)?, number(group)?))
    });
    pair.ok_or_else(|| "expected two numbers, user:group, or root".to_owned())
}

/// Root has ways around whatever holds a command: that is said by who wants it, never assumed.
fn is_said_who(user: Option<(u32, u32)>, root: bool) -> Result<(), Failure> {
    if root && user.is_none() {
        return Err(Failure::new(
            "started by root without --user: the command would run as root, which has ways around what holds it",
        )
        .hint("name who it is, by number (--user 1000:1000), or say --user root"));
    }
    Ok(())
}

/// Runs the subcommand.
pub fn run(args: Args) -> ExitCode {
    output::tracing_to_stderr();
    let json = args.json;
    if let Err(error) = lines::detach(json) {
        let _ = output::exit_code(Err(error.into()));
        return ExitCode::from(FAILED);
    }
    // This thread lives as long as the process: what it starts dies with it.
    let ending = match runtime::block_on(serve(args)) {
        Ok(Ok(ending)) => ending,
        Ok(Err(failure)) | Err(failure) => {
            let _ = output::exit_code(Err(failure));
            return ExitCode::from(FAILED);
        }
    };
    conclude(&ending, json);
    ExitCode::from(ending.code())
}

fn conclude(ending: &Ending, json: bool) {
    let word = match ending {
        Ending::Refused { .. } => "refused",
        Ending::Lost { .. } => "stopped",
        Ending::Exited { .. } => "exited",
        Ending::Signalled { .. } => "signalled",
        Ending::NotStarted { .. } => "not started",
        Ending::Failed { .. } => "failed",
    };
    if json {
        let (reasons, code) = (ending.words(), ending.code());
        complain!(
            "{}",
            serde_json::json!({ "event": "ended", "how": word, "code": code, "reasons": reasons })
        );
    } else if !ending.words().is_empty() {
        complain!("touchstone: {word}: {}", ending.words().join("; "));
    }
}

async fn serve(args: Args) -> Result<Ending, Failure> {
    is_said_who(args.user, rustix::process::geteuid().is_root())?;
    let config = AgentConfig::load(&args.config)?;
    let socket = args.agent.or(config.socket).ok_or_else(|| {
        Failure::new(format!("{} has no socket", args.config.display()))
            .hint("give the agent one (socket = \"/run/touchstone/agent.sock\"), or name it with --agent")
    })?;
    let brokers: Vec<Endpoint> = config
        .brokers
        .iter()
        .map(|broker| Endpoint::parse(broker))
        .collect::<Result<_, _>>()?;
    let mut repository = Source::new(config.policy);
    if let Some(ca) = &config.policy_ca {
        repository = repository.with_ca(ca)?;
    }
    let remote = repository.location().folder().is_none();
    let state_dir = args.state_dir.as_deref();
    let renewal = Renewal {
        repository,
        mirror: state_dir
            .filter(|_| remote)
            .map(|folder| Mirror::new(folder.join("policy"))),
        root: config.policy_root,
        domain: config.domain,
        id: args.id,
        brokers,
        floors: state_dir.map(PolicyFloors::open).transpose()?,
    };
    let trust = renewal.load(None).await?;
    let follower = trust.follow(renewal.brokers.clone(), renewal.id.clone());
    let guard_config = GuardConfig::of(&trust, &renewal.id).with_purpose(args.purpose.clone());
    let guard = Arc::new(Guard::new(guard_config, follower));

    let key = args.key.as_deref().map(crate::guard::enforcer_key).transpose()?;
    let (uses, reporting) = match key {
        None => (None, None),
        Some(key) => {
            let signer: Arc<dyn Signer + Send + Sync> = Arc::new(key);
            guard.acknowledge(Arc::clone(&signer));
            let reporter = Reporter {
                domain: renewal.domain.clone(),
                enforcer: renewal.id.clone(),
                signer,
                client: trust.client(renewal.brokers.clone()),
            };
            let (uses, used) = mpsc::channel(16);
            (Some(uses), Some(tokio::spawn(reporter.run(used))))
        }
    };

    // Tasks of their own: nothing that is loaded or asked for may hold up a loss.
    let watched = Arc::clone(&guard);
    let watching = tokio::spawn(async move { watched.watch(|_| ()).await });
    let kept = Arc::clone(&guard);
    let keeping = tokio::spawn(async move { keep_current(&kept, &renewal, trust, |_| ()).await });
    let (pass_on, mut signals) = mpsc::channel(16);
    listen(&pass_on)?;
    let exec = Exec {
        action: args.action,
        resource: args.resource,
        agent: socket,
        holder: args.workload.map_or(Holder::Node, |label| Holder::Workload {
            label,
            purpose: args.purpose,
        }),
        program: std::env::current_exe()?,
        command: args.command,
        user: args.user,
        uses,
        network: args.network,
        end_when_suspended: args.end_when_suspended,
    };
    let json = args.json;
    let tell = move |event: ExecEvent| {
        if event == ExecEvent::Started {
            ready();
        }
        tell(&event, json);
    };
    // Until `watch` has begun nobody is held.
    tokio::task::yield_now().await;
    let ending = exec::run(&exec, &guard, &mut signals, &tell).await;
    watching.abort();
    keeping.abort();
    drop(exec);
    if let Some(reporting) = reporting {
        // What was stopped is dead already: only the report of it is waited for.
        let _ = tokio::time::timeout(LAST_REPORT, reporting).await;
    }
    Ok(ending)
}

/// Tells the service manager that waits for it that the command runs. Aside: one that takes its time holds up no loss.
fn ready() {
    if let Some(manager) = Manager::of_this_process() {
        tokio::task::spawn_blocking(move || {
            if let Err(error) = manager.ready() {
                complain!("touchstone: the service manager cannot be told that it runs: {error}");
            }
        });
    }
}

/// Signals of this process go to the command instead.
fn listen(pass_on: &mpsc::Sender<i32>) -> std::io::Result<()> {
    for number in PASSED_ON {
        let mut arrives = signal(SignalKind::from_raw(number))?;
        let pass_on = pass_on.clone();
        tokio::spawn(async move {
            while arrives.recv().await.is_some() {
                if pass_on.send(number).await.is_err() {
                    return;
                }
            }
        });
    }
    Ok(())
}

fn tell(event: &ExecEvent, json: bool) {
    if json {
        complain!("{}", serde_json::to_value(event).unwrap_or_default());
        return;
    }
    match event {
        ExecEvent::NoCgroup { because } => {
            complain!("touchstone: without a cgroup: {because}; the command is stopped by its process tree");
        }
        ExecEvent::Confined { by, because } => {
            if let Some(because) = because {
                complain!("touchstone: held by {}: {because}", by.as_str());
            }
        }
        ExecEvent::Segmented { reaches, forwarded } => {
            let reaches = if reaches.is_empty() {
                "nothing".to_owned()
            } else {
                reaches.join(", ")
            };
            complain!("touchstone: its network reaches {reaches}");
            if !forwarded {
                complain!("touchstone: this machine does not forward (net.ipv4.ip_forward): only itself is reached");
            }
        }
        ExecEvent::Frozen { reasons } => complain!("touchstone: frozen: {}", reasons.join("; ")),
        ExecEvent::Thawed => complain!("touchstone: goes on"),
        ExecEvent::NotRenewed { because } => complain!("touchstone: not renewed: {because}"),
        ExecEvent::Allowed { .. } | ExecEvent::Started | ExecEvent::Renewed { .. } | ExecEvent::Killed { .. } => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_says_as_whom() {
        assert!(is_said_who(None, true).is_err());
        for user in [(0, 0), (1000, 1000)] {
            assert_eq!(is_said_who(Some(user), true), Ok(()), "{user:?}");
        }
        assert_eq!(is_said_who(None, false), Ok(()), "who is not root runs it as himself");
    }

    #[test]
    fn users_are_numbers_or_root() {
        assert_eq!(user_and_group("1000:100"), Ok((1000, 100)));
        assert_eq!(user_and_group("root"), Ok((0, 0)));
        for text in ["", "1000", "root:root", "0:", ":0", "-1:0", "4294967295:0", "1:1:1"] {
            assert!(user_and_group(text).is_err(), "{text}");
        }
    }
}
