//! `touchstone guard`: a small enforcer on the trust-state stream.

use crate::output::{complain, say};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args as ClapArgs, Subcommand};
use touchstone_enforcer::guard::{Guard, GuardConfig, GuardEvent, GuardService, keep_current, router};

use touchstone_cose::key::SigningKey;
use touchstone_keybroker::key_files::{read_private, write_new};

use crate::obeyed::Obeyed;
use crate::output::{CommandResult, Failure, Outcome};
use crate::proxy::Beside;
use crate::{lines, output, runtime};

/// Let pass only who shows a valid authorization and proves to hold its key.
#[derive(ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run until stopped
    #[command(
        after_help = "Example:\n  touchstone guard run --id db-proxy --domain demo.example \\\n    \
        --broker https://127.0.0.1:8443 --policy ./repo --root ./root.json\n\n\
        POST /challenge gives a challenge; POST /decide takes {authorization, proof, challenge, action, resource}\n\
        and answers 200 or 403 with every reason.\n\n\
        Before services that know nothing of it, behind NGINX or Envoy:\n  touchstone guard run … --proxy 127.0.0.1:9191 --routes routes.toml\n\
        Over containers:\n  touchstone guard run … --oci /run/touchstone/guard-oci.sock --agent /run/touchstone/agent.sock"
    )]
    Run(RunArgs),
}

#[derive(ClapArgs)]
struct RunArgs {
    /// This guard's id; proofs of possession must be made for it
    #[arg(long)]
    id: String,
    #[command(flatten)]
    obeyed: Obeyed,
    /// A folder of the guard's own (mode 0700) for the policy versions it has accepted, and a copy of a policy repository
    /// on a server; without it only a running guard refuses an older policy
    #[arg(long)]
    state_dir: Option<PathBuf>,
    /// Where to listen; loopback only
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    #[command(flatten)]
    beside: Beside,
    /// The key of this guard's acknowledgements, made at the first start with its public half beside it in FILE.pub: list
    /// that with `touchstone policy enforcer add`. Without it nobody at the broker knows which trust state is enforced here
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// One JSON object an event on standard output: event, and what it tells
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: Args) -> CommandResult {
    let Command::Run(args) = args.command;
    output::tracing_to_stderr();
    // No reader of what is told here may make the guard look later.
    lines::detach(args.json)?;
    if !args.listen.ip().is_loopback() {
        return Err(Failure::new(format!("{} is not a loopback address", args.listen))
            .hint("a guard speaks plain HTTP to services of its own machine"));
    }
    args.beside.check()?;
    runtime::block_on(serve(args))??;
    Ok(Outcome::Done)
}

async fn serve(args: RunArgs) -> Result<(), Failure> {
    let renewal = args.obeyed.renewal(args.id, args.state_dir.as_deref(), false)?;
    let key = args.key.as_deref().map(enforcer_key).transpose()?;
    let trust = renewal.load(None).await?;
    let follower = trust.follow(renewal.brokers.clone(), renewal.id.clone());
    let guard = Arc::new(Guard::new(GuardConfig::of(&trust, &renewal.id), follower));
    if let Some(key) = key {
        guard.acknowledge(Arc::new(key));
    }
    let json = args.json;
    let tell: Arc<dyn Fn(GuardEvent) + Send + Sync> = Arc::new(move |event| tell(&event, json));

    let listener = tokio::net::TcpListener::bind(args.listen).await?;
    let address = listener.local_addr()?;
    if json {
        output::json(&serde_json::json!({ "event": "listening", "address": address.to_string() }));
    } else {
        say!("listening on http://{address}");
    }
    let service = GuardService {
        guard: Arc::clone(&guard),
        tell: Arc::clone(&tell),
    };
    let server = async { axum::serve(listener, router(service)).await };
    let beside = args.beside.open(&guard, &renewal.id, &tell, json).await?;
    let watchman = beside.watchman();
    let stopped = async {
        runtime::stopped().await;
        // Before anything else stops: containers go on until the next guard takes them over, or their keepers end them.
        if let Some(watchman) = watchman {
            watchman.leave();
        }
    };
    tokio::select! {
        served = server => Ok(served?),
        ended = beside.serve() => ended,
        () = keep_current(&guard, &renewal, trust, |event| tell(event)) => Ok(()),
        () = guard.watch(|event| tell(event)) => Err(Failure::new("the trust-state stream ended for good")),
        () = stopped => Ok(()),
    }
}

/// The key in `path`, made where there is none.
pub(crate) fn enforcer_key(path: &Path) -> Result<SigningKey, Failure> {
    if !path.exists() {
        let mut seed = zeroize::Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed).map_err(|error| Failure::new(error.to_string()))?;
        let key = SigningKey::from_seed(*seed);
        write_new(path, key.to_pkcs8_pem()?.as_bytes())?;
        let mut public = path.as_os_str().to_owned();
        public.push(".pub");
        let public = PathBuf::from(public);
        output::write(&public, hex::encode(key.verifying_key().to_spki_der()).as_bytes())?;
        complain!(
            "made the key of this guard's acknowledgements; list it: touchstone policy enforcer add REPO ID --key {}",
            public.display()
        );
    }
    let pem = read_private(path)?;
    SigningKey::from_pkcs8_pem(&pem).map_err(|_| {
        Failure::new(format!(
            "{}: not an Ed25519 private key in PKCS#8 PEM form",
            path.display()
        ))
    })
}

fn tell(event: &GuardEvent, json: bool) {
    if json {
        output::json(&serde_json::to_value(event).unwrap_or_default());
        return;
    }
    match event {
        GuardEvent::Following { epoch } => complain!("following the trust state at epoch {epoch}"),
        GuardEvent::Allowed { subject, scope, .. } => say!("allowed: {subject} may {scope}"),
        GuardEvent::Denied { reasons, .. } => say!("denied: {}", reasons.join("; ")),
        GuardEvent::Policy { version } => say!("policy version {version} is in force"),
        GuardEvent::Suspended {
            subject,
            reasons,
            epoch,
            ..
        } => {
            say!("suspended at epoch {epoch}: {subject}: {}", reasons.join("; "));
        }
        GuardEvent::Resumed { subject, epoch, .. } => say!("resumed at epoch {epoch}: {subject}"),
        GuardEvent::Withdrawn {
            subject,
            reasons,
            epoch,
            ..
        } => {
            say!("withdrawn at epoch {epoch}: {subject}: {}", reasons.join("; "));
        }
    }
}
