//! `touchstone relay`: carries the trust state, the time and acknowledgements to a site over one link.

use crate::output::say;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args as ClapArgs, Subcommand};
use touchstone_enforcer::guard::Renewal;
use touchstone_enforcer::trust::DomainTrust;
use touchstone_keybroker::config::Limits;
use touchstone_keybroker::site::{self, RunningSite};
use touchstone_policies::{Keyset, Mirror};

use crate::obeyed::Obeyed;
use crate::output::{CommandResult, Failure, Outcome};
use crate::{clock, lines, output, runtime};

/// How long a freshly made key counts: two years.
const KEY_LIFE_SECONDS: i64 = 2 * 365 * 24 * 3600;

/// How often it is looked whether another policy is published.
const POLICY_PERIOD: Duration = Duration::from_secs(5);

/// Carry the trust state to a site over one link: re-stamps nothing, and can withhold but not forge.
#[derive(ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make the relay's TLS key and a keyset that lists it
    #[command(
        after_help = "Example:\n  touchstone relay init --data /var/lib/touchstone-relay --name site-7 --keyset keyset.json\n  \
        touchstone policy keyset add REPO /var/lib/touchstone-relay/keyset.json\n  touchstone policy publish REPO --keys KEYDIR"
    )]
    Init {
        /// The relay's data directory
        #[arg(long)]
        data: PathBuf,
        /// Its name in the keyset
        #[arg(long)]
        name: String,
        /// The domain's keyset.json as it is published
        #[arg(long)]
        keyset: PathBuf,
        /// One JSON object: keyset (the file that lists the relay's key too)
        #[arg(long)]
        json: bool,
    },
    /// Run until stopped
    #[command(
        after_help = "Example:\n  touchstone relay run --data /var/lib/touchstone-relay --id site-7 --domain demo.example \\\n    \
        --broker https://broker.example:8443 --policy https://broker.example:8444/v1/policy --root root.json \\\n    \
        --listen 0.0.0.0:8443\n\nGuards of the site name it as their --broker. A site whose link is cut lives as long as the\n\
        last head that came through says, and no longer."
    )]
    Run(Box<RunArgs>),
}

#[derive(ClapArgs)]
struct RunArgs {
    /// The relay's data directory
    #[arg(long)]
    data: PathBuf,
    /// Its name as a subscriber of the brokers
    #[arg(long)]
    id: String,
    #[command(flatten)]
    obeyed: Obeyed,
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:7441")]
    listen: SocketAddr,
    /// Where to serve the copy of the policy repository over plain HTTP, for guards of the site: http://ADDRESS/v1/policy
    #[arg(long)]
    policy_listen: Option<SocketAddr>,
    /// One JSON object an event on standard output: event (listening, carries), and what it tells
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub fn run(args: Args) -> CommandResult {
    match args.command {
        Command::Init {
            data,
            name,
            keyset,
            json,
        } => {
            let current = Keyset::parse(&output::read(&keyset)?)?;
            let path = site::init(&data, &current, &name, clock::now(), KEY_LIFE_SECONDS)?;
            output::tell(json, &serde_json::json!({ "keyset": path }), || {
                say!("made the relay's key; the keyset with it is in {}", path.display());
                say!(
                    "next: touchstone policy keyset add REPO {}, then policy publish",
                    path.display()
                );
            })
        }
        Command::Run(args) => {
            output::tracing_to_stderr();
            lines::detach(args.json)?;
            runtime::raise_file_limit();
            runtime::block_on(serve(*args))??;
            Ok(Outcome::Done)
        }
    }
}

async fn serve(args: RunArgs) -> Result<(), Failure> {
    let copy = Mirror::new(args.data.join("policy"));
    let renewal = args.obeyed.renewal(args.id, Some(&args.data), true)?;
    let trust = renewal.load(None).await?;
    let source = trust.source(renewal.brokers.clone(), renewal.id.clone());
    let policy = args.policy_listen.map(|at| (at, copy));
    let obeyed = (source, Arc::new(trust.policy.clone()));
    let relay = site::start(&args.data, args.listen, obeyed, Limits::default(), policy).await?;
    if args.json {
        let address = relay.address().to_string();
        let policy = relay.policy_address().map(|address| address.to_string());
        output::json(&serde_json::json!({ "event": "listening", "address": address, "policy": policy }));
    } else {
        say!("listening on https://{}", relay.address());
        if let Some(address) = relay.policy_address() {
            say!("serving the policy repository at http://{address}/v1/policy");
        }
    }
    tokio::select! {
        () = keep_current(&relay, &renewal, trust) => {}
        () = tell(&relay, args.json) => {}
        () = runtime::stopped() => {}
    }
    relay.shutdown().await;
    Ok(())
}

/// Follows the repository: keys that are added or taken out count without a restart.
async fn keep_current(relay: &RunningSite, renewal: &Renewal, held: DomainTrust) {
    let mut held = Arc::new(held);
    let mut seen = None;
    loop {
        tokio::time::sleep(POLICY_PERIOD).await;
        let present = renewal.timestamp().await;
        if present.is_none() || present == seen {
            continue;
        }
        match renewal.load(Some(&held)).await {
            Ok(trust) => {
                if trust.policy.version != held.policy.version {
                    let source = trust.source(renewal.brokers.clone(), renewal.id.clone());
                    relay.change(source, Arc::new(trust.policy.clone()));
                }
                held = Arc::new(trust);
                seen = present;
            }
            Err(error) => {
                tracing::warn!(target: "touchstone::relay", "the policy in the repository is not taken: {error}");
            }
        }
    }
}

/// Tells every epoch that comes through.
async fn tell(relay: &RunningSite, json: bool) {
    let mut epoch = None;
    while let Some(next) = relay.changed(epoch).await {
        epoch = Some(next);
        if json {
            output::json(&serde_json::json!({ "event": "carries", "epoch": next }));
        } else {
            say!("carries the trust state at epoch {next}");
        }
    }
}
