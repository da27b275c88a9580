//! A whole broker: started from a configuration, stopped in order.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use touchstone_authorization::StatusIndex;
use touchstone_ledger::statement::Statement;
use touchstone_policies::{Keyset, PolicySet};
use touchstone_store::{OpenError, RedbStore, Store};

use crate::admin;
use crate::app::App;
use crate::chains::Chains;
use crate::clock::{Clock, seconds};
use crate::config::Config;
use crate::containment;
use crate::decision::SEMANTICS_ID;
use crate::drift::{self, Drift};
use crate::entry::{Effect, Entry, EntryError};
use crate::events::Reports;
use crate::federation::{Neighbours, keep};
use crate::holds::Holds;
use crate::keys::{BrokerKeys, KEY_FOLDER, KeysError};
use crate::lineage::Lineage;
use crate::log::{LogEdge, LogError};
use crate::plain;
use crate::policy::{Floors, PolicySource, PolicySourceError, facts, public_keyset, replica};
use crate::refusals::Refusals;
use crate::release::keeper::{Keeper, KeeperError};
use crate::release::kek::Vault;
use crate::release::turns::Turns;
use crate::restore::{RestoreError, mark_clean, restore};
use crate::room::Room;
use crate::routes::status_list::StatusTokens;
use crate::sequencer::{self, Sequencer};
use crate::server;
use crate::session::{SessionLimits, Sessions};
use crate::standing::{self, Standings};
use crate::statements::Circumstances;
use crate::tenants::meter::Meter;
use crate::ticker;
use crate::tls;
use crate::trust::{Trust, TrustError};
use crate::withdraw::set;
use crate::witness::Witnessing;

/// The store, in the data folder.
pub const STORE: &str = "store.redb";

/// The address the broker listens on, in the data folder.
pub const ADDRESS: &str = "address";

/// The public keys, in the data folder, for `touchstone policy keyset add`.
pub const KEYSET: &str = "keyset.json";

/// Why a broker does not start, or ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// Its keys.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// Its store.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// Its ledger.
    #[error(transparent)]
    Log(#[from] LogError),
    /// What the store holds of earlier runs.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// Policy.
    #[error(transparent)]
    Policy(#[from] PolicySourceError),
    /// The keys it releases.
    #[error(transparent)]
    Keeper(#[from] KeeperError),
    /// The trust state.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The first statements.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// A statement that cannot be made.
    #[error("a statement cannot be made: {0}")]
    Statement(String),
    /// The broker is its own peer.
    #[error("peers: {0} is this very broker: list the others")]
    OwnPeer(String),
    /// TLS.
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    /// The system.
    #[error("cannot {operation}: {detail}")]
    System {
        /// What was tried, as "listen on 127.0.0.1:7440".
        operation: String,
        /// The system's own words.
        detail: String,
    },
}

fn system<E: std::fmt::Display>(operation: impl Into<String>) -> impl FnOnce(E) -> ServiceError {
    move |e| ServiceError::System {
        operation: operation.into(),
        detail: e.to_string(),
    }
}

/// Makes the broker's keys and writes their public halves to `DATA/keyset.json`, valid from `now` (Unix seconds) for
/// `life` seconds. In a folder of an older release it makes only the keys of jobs which that one did not know, and the
/// keyset's version is one higher. Gives the path of that file.
///
/// # Errors
/// [`ServiceError::Keys`] or [`ServiceError::System`]
pub fn init(data_dir: &Path, replica: &str, now: i64, life: i64) -> Result<PathBuf, ServiceError> {
    let (keys, version) = if data_dir.join(KEY_FOLDER).exists() && data_dir.join(KEYSET).exists() {
        let (keys, added) = BrokerKeys::add_missing(data_dir)?;
        if !added {
            // Says which key is there already.
            BrokerKeys::init(data_dir)?;
        }
        (keys, next_version(&data_dir.join(KEYSET))?)
    } else {
        (BrokerKeys::init(data_dir)?, 1)
    };
    let keyset = public_keyset(&keys, version, replica, now, now.saturating_add(life));
    let path = data_dir.join(KEYSET);
    std::fs::write(&path, keyset.to_json()).map_err(system(format!("write {}", path.display())))?;
    Ok(path)
}

/// One above the version in the keyset file of an earlier `init`.
fn next_version(path: &Path) -> Result<u64, ServiceError> {
    let operation = || format!("read {}", path.display());
    let bytes = std::fs::read(path).map_err(system(operation()))?;
    let before = Keyset::parse(&bytes).map_err(system(operation()))?;
    Ok(before.version.saturating_add(1))
}

/// A broker, before it is started.
#[derive(Debug)]
pub struct Broker;

/// A broker that runs. Dropped without [`RunningBroker::shutdown`] it ends, and counts as killed.
pub struct RunningBroker {
    address: SocketAddr,
    policy_address: Option<SocketAddr>,
    app: Arc<App>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    ended: oneshot::Receiver<Result<(), EntryError>>,
}

impl Drop for RunningBroker {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        self.app.sequencer.close();
    }
}

impl Broker {
    /// Starts a broker: loads keys, store and policy, takes up the state, listens.
    ///
    /// # Errors
    /// [`ServiceError`], with what to do about it where that is known.
    pub async fn start(config: Config) -> Result<RunningBroker, ServiceError> {
        Self::start_with(config, None).await
    }

    /// The same, with a way to this machine's TPM for a key-encryption key that is sealed to it.
    ///
    /// # Errors
    /// [`ServiceError`]
    pub async fn start_with(config: Config, vault: Option<Box<dyn Vault>>) -> Result<RunningBroker, ServiceError> {
        let clock = Clock::start();
        let keys = BrokerKeys::load(&config.data_dir)?;
        let store_path = config.data_dir.join(STORE);
        let kept = config.keys.clone();
        let (store, log, keeper) = blocking(move || {
            let store = RedbStore::open(&store_path)?;
            let log = LogEdge::open(&store)?;
            let open = |keys| Keeper::open(keys, &store, vault.as_deref()).map(Arc::new);
            let keeper = kept.as_ref().map(open).transpose()?;
            Ok((store, log, keeper))
        })
        .await?;
        let store: Arc<dyn Store> = Arc::new(store);
        let source = Arc::new(PolicySource::new(&config).await?);
        let floors = Floors::read(&*store)?;
        let now = seconds(clock.now_ms());
        let (policy, not_taken) = source.begin(&floors, &keys, now).await?;
        let policy = Arc::new(policy);
        let own = replica(&keys, &policy, now);
        if config.peers.iter().any(|peer| peer.replica == own) {
            return Err(ServiceError::OwnPeer(own));
        }

        let mut restored = restore(&*store, facts(&policy), log.head(), u64::try_from(now).unwrap_or(0))?;
        if !restored.clean {
            tracing::warn!(
                suspended = restored.suspended.len(),
                "the last run did not end in order: authorizations count again once their nodes attest"
            );
        }
        let interrupted = (!restored.clean).then(|| std::mem::take(&mut restored.suspended));
        let drift = Drift::begin(&own, config.peers, &*store, &policy.keyset)?;
        let denies = drift.standing().denies;
        // Who differed before this start makes no fresh head: the first one is of long ago.
        let first_ms = if denies { 0 } else { clock.now_ms() };
        let trust = Arc::new(Trust::start(restored.start, Arc::clone(&keys.trust_state), first_ms)?);
        trust.hold(denies);
        let first_epoch = trust.epoch();
        let begun_ms = clock.now_ms();
        let lineage = Arc::new(Lineage::new(restored.lineage));
        let standings = Standings::begin(&*store, restored.live.iter(), begun_ms);
        let attested = restored
            .live
            .into_iter()
            .map(|(name, status)| (name, (begun_ms, status)))
            .collect();
        let origin = format!("{}/ledger", policy.domain);
        let first_start = log.head().size == 0;
        let head = Arc::new(RwLock::new(log.head()));
        let (sequencer, thread) = sequencer::start(
            Sequencer {
                store: Arc::clone(&store),
                log,
                trust: Arc::clone(&trust),
                lineage: Arc::clone(&lineage),
                checkpoint: Arc::clone(&keys.checkpoint),
                origin: origin.clone(),
                policy: policy.digest,
                head: Arc::clone(&head),
                clock,
            },
            config.limits.queue,
        )
        .map_err(system("start the sequencer"))?;
        let (stop, stopped) = watch::channel(false);
        let app = Arc::new(App {
            limits: config.limits,
            clock,
            keeper,
            origin,
            store,
            policy: RwLock::new(Arc::clone(&policy)),
            sessions: Mutex::new(Sessions::new(SessionLimits {
                total: config.limits.sessions,
                per_connection: config.limits.sessions_per_connection,
                life_ms: config.limits.session_ms,
            })),
            room: Room::new(config.limits.evidence_bytes_at_once),
            forgiven: Mutex::default(),
            first_uses: tokio::sync::Mutex::default(),
            trees: Turns::default(),
            tenants: Meter::default(),
            chains: Chains::default(),
            acks: Arc::default(),
            status_tokens: StatusTokens::default(),
            refusals: Mutex::new(Refusals::new(config.limits.refusals_per_second, clock.now_ms())),
            sequencer,
            lineage,
            known_chains: Mutex::default(),
            federation: Neighbours::new(&config.data_dir, source.places(), config.policy_ca.clone()),
            trust,
            commanding: tokio::sync::Mutex::default(),
            holds: Holds::new(restored.holds),
            containing: containment::Containing::default(),
            head,
            attested: Mutex::new(attested),
            standings,
            reports: Reports::default(),
            drift,
            witnessing: Witnessing::new(&config.witness)
                .map_err(|error| ServiceError::Statement(format!("[witness]: {error}")))?,
            policy_source: source.location().clone(),
            mirror: Arc::clone(source.mirror()),
            policy_refused: Mutex::new(None),
            stop: stopped.clone(),
            keys,
        });
        first_statements(&app, &policy, &floors, first_start).await?;
        if let Some(entries) = interrupted {
            record_interruption(&app, first_epoch, &entries).await?;
        }
        if !first_start {
            app.acks.go_on(app.trust.epoch(), &policy, app.clock.now_ms());
        }
        // Before anybody is served.
        containment::catch_up(&app).await?;

        let listener = TcpListener::bind(config.listen)
            .await
            .map_err(system(format!("listen on {}", config.listen)))?;
        let address = listener.local_addr().map_err(system("tell the address"))?;
        let address_file = config.data_dir.join(ADDRESS);
        std::fs::write(&address_file, format!("{address}\n"))
            .map_err(system(format!("write {}", address_file.display())))?;
        let policy_listener = match config.policy_listen {
            Some(address) => {
                let listening = TcpListener::bind(address).await;
                let listener = listening.map_err(system(format!("listen on {address}")))?;
                let address = listener.local_addr().map_err(system("tell the address"))?;
                Some((listener, address))
            }
            None => None,
        };
        let policy_address = policy_listener.as_ref().map(|(_, address)| *address);
        let (certificate, key) = app.keys.tls();
        let tls = tls::server_config(certificate, key).map_err(|e| ServiceError::Tls(e.to_string()))?;
        let (admin_listener, _) = admin::bind(&config.data_dir).map_err(system("open the admin socket"))?;
        let (reload, reloads) = mpsc::channel(8);
        let mut tasks = vec![
            tokio::spawn(server::serve(
                listener,
                TlsAcceptor::from(Arc::new(tls)),
                crate::routes::router(Arc::clone(&app)),
                config.limits,
                // Whole sites come from one address.
                config.limits.connections,
                stopped.clone(),
            )),
            tokio::spawn(admin::serve(
                admin_listener,
                admin::Admin {
                    app: Arc::clone(&app),
                    reload,
                },
                stopped.clone(),
            )),
            tokio::spawn(ticker::beat(Arc::clone(&app), stopped.clone())),
            tokio::spawn(crate::acks::close(Arc::clone(&app), stopped.clone())),
            tokio::spawn(standing::watch(Arc::clone(&app), stopped.clone())),
            tokio::spawn(standing::record(Arc::clone(&app), stopped.clone())),
            tokio::spawn(keep::keep(Arc::clone(&app), stopped.clone())),
            tokio::spawn(crate::lineage::free::keep(Arc::clone(&app), stopped.clone())),
            tokio::spawn(drift::watch(Arc::clone(&app), stopped.clone())),
            tokio::spawn(containment::keep(Arc::clone(&app), stopped.clone())),
            tokio::spawn(ticker::follow_policy(
                Arc::clone(&app),
                source,
                Duration::from_millis(config.policy_refresh_ms),
                not_taken,
                reloads,
                stopped.clone(),
            )),
        ];
        if let Some((listener, _)) = policy_listener {
            let router = crate::routes::policy_router(Arc::clone(&app));
            tasks.push(tokio::spawn(plain::serve(listener, router, config.limits, stopped)));
        }
        let (tell, ended) = oneshot::channel();
        let trust = Arc::clone(&app.trust);
        tokio::task::spawn_blocking(move || {
            let end = thread.join().unwrap_or_else(|_| {
                Err(EntryError::Stopped {
                    detail: "it panicked".into(),
                })
            });
            if end.is_err() {
                // However it ended: heads go out only while the store takes statements.
                trust.stop();
            }
            let _ = tell.send(end);
        });
        Ok(RunningBroker {
            address,
            policy_address,
            app,
            stop,
            tasks,
            ended,
        })
    }
}

/// Genesis where there is no ledger yet; the policy in force where it is another one than before.
async fn first_statements(
    app: &App,
    policy: &Arc<PolicySet>,
    floors: &Floors,
    first_start: bool,
) -> Result<(), ServiceError> {
    let now_ms = app.clock.now_ms();
    let circumstances = Circumstances {
        domain: policy.domain.clone(),
        policy_version: policy.version,
        policy_digest: policy.global_digest,
        semantics: SEMANTICS_ID.to_owned(),
        now: seconds(now_ms),
    };
    if first_start {
        let kid = app.keys.checkpoint.verifying_key().kid();
        let genesis = circumstances.genesis(&app.origin, policy.settings.generation, kid);
        app.sequencer.record(entry(app, &genesis)?).await?;
    }
    if floors
        .held
        .as_ref()
        .is_none_or(|(versions, _)| *versions != policy.versions)
    {
        let (guard, write) = floors.raise(policy, seconds(now_ms))?;
        let mut activation = entry(app, &circumstances.activation(policy))?;
        activation.guards.push(guard);
        activation.writes.push(write);
        app.sequencer.record(activation).await?;
    }
    Ok(())
}

/// Says what a start after a stop in disorder took away. A start that ends before this is one more such stop: the next one
/// says it.
async fn record_interruption(app: &App, first_epoch: u64, entries: &[StatusIndex]) -> Result<(), ServiceError> {
    let circumstances = app.circumstances(app.clock.now_ms());
    let statement = circumstances.interruption(first_epoch, entries);
    let bytes = set::encode(entries);
    let entry = Entry {
        parts: vec![(set::digest(&bytes), bytes)],
        ..entry(app, &statement)?
    };
    app.sequencer.record(entry).await?;
    Ok(())
}

/// A statement that grants and withdraws nothing.
pub(crate) fn entry(app: &App, statement: &Statement) -> Result<Entry, ServiceError> {
    Ok(Entry {
        statement: statement
            .sign(&app.keys.statement)
            .map_err(|e| ServiceError::Statement(e.to_string()))?,
        subject: None,
        policy: None,
        guards: Vec::new(),
        writes: Vec::new(),
        parts: Vec::new(),
        effect: Effect::None,
    })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ServiceError> + Send + 'static,
) -> Result<T, ServiceError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(system("read the store"))?
}

/// How long the sequencer may take to commit what waits, at shutdown.
const LAST_COMMIT: Duration = Duration::from_secs(20);

impl RunningBroker {
    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it serves the policy repository over plain HTTP, if it does.
    #[must_use]
    pub const fn policy_address(&self) -> Option<SocketAddr> {
        self.policy_address
    }

    /// What its handlers share, for tests and for tools in the same process.
    #[must_use]
    pub const fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// Resolves if the broker ends by itself: its store has failed, and nothing is granted any more.
    pub async fn failed(&mut self) -> ServiceError {
        match (&mut self.ended).await {
            Ok(Err(error)) => error.into(),
            _ => EntryError::Stopped {
                detail: "the sequencer has ended".into(),
            }
            .into(),
        }
    }

    /// Stops in order: no new requests, what is under way is answered, what was refused is summed up, everything is
    /// durable, and the store is marked as left in order.
    ///
    /// # Errors
    /// [`ServiceError`] if not everything could be done; the next start then counts this run as killed.
    pub async fn shutdown(mut self) -> Result<(), ServiceError> {
        let app = Arc::clone(&self.app);
        let _ = self.stop.send(true);
        for task in self.tasks.drain(..) {
            // A task that panicked has nothing left to do.
            let _ = task.await;
        }
        ticker::sum_up(&app, app.clock.now_ms()).await;
        app.sequencer.close();
        match tokio::time::timeout(LAST_COMMIT, &mut self.ended).await {
            Ok(Ok(end)) => end?,
            _ => {
                return Err(EntryError::Stopped {
                    detail: "the last commit did not end".into(),
                }
                .into());
            }
        }
        // Whoever decides on a withdrawal from here on finds that nothing goes out any more.
        if !app.trust.end() {
            return Err(EntryError::Stopped {
                detail: "a withdrawal is not recorded".into(),
            }
            .into());
        }
        let store = Arc::clone(&app.store);
        blocking(move || Ok(mark_clean(&*store)?)).await
    }
}
