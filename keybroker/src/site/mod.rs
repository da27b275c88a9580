//! A relay for a site: the trust state, the time and acknowledgements of the domain's brokers, and what they relay of other
//! domains, over one link.
//!
//! Everything that goes through it is signed by somebody else and goes on as it came: heads with the end of their freshness,
//! the time over the asker's own nonce, acknowledgements. So a relay can withhold and nothing else; a site that is cut off
//! lives exactly as long as the last head that came through says, and another domain as long as its own last head says. Heads and acknowledgements that do not verify are not passed
//! on, and no host of the site can take the others' place at it (see [`crate::shares`]). Its TLS key is in
//! the signed keyset under a job of its own ([`touchstone_policies::Job::Relay`]): whoever follows a trust state accepts it,
//! and nobody sends it evidence. A relay may follow another one.

mod carry;
mod foreign;
mod passing;
mod routes;
mod upstream;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use touchstone_client::follow::{Follower, Source};
use touchstone_policies::keyset_file::KeysetEntry;
use touchstone_policies::{Job, Keyset, Mirror, PolicySet};

use crate::config::Limits;
use crate::federation::Neighbours;
use crate::federation::relay::Relay;
use crate::keys::TlsKey;
use crate::routes::policy;
use crate::service::{KEYSET, ServiceError};
use crate::shares::{Places, Rates};
use crate::{plain, server, tls};

pub use carry::{LOOK_TIMEOUT, PERIOD};
pub use foreign::{DOWNLOAD_TIME, DOWNLOADS, FOREIGN_PART};

use carry::Obeyed;
use passing::Passing;
pub use passing::REFUSED_PAUSE;
pub use upstream::{CLIENTS, MAX_WAITING, MAX_WAITING_OF_HOST, Upstream};

/// Most refused acknowledgements of one host in a second; then it waits for the next one.
pub const REFUSALS_OF_HOST: u32 = 16;

/// The part of all streams and connections that one host may have.
pub const SHARE_OF_HOST: usize = 4;

/// What the handlers of a relay share.
struct Site {
    follower: Follower,
    relay: Arc<Relay>,
    /// What is held of other domains.
    foreign: Arc<Neighbours>,
    policy: RwLock<Arc<PolicySet>>,
    /// For the time, and for it alone: nothing else may make it late.
    time: Upstream,
    acks: Upstream,
    passing: Arc<Passing>,
    refused: std::sync::Mutex<Rates>,
    limits: Limits,
    /// A place for every stream.
    room: Arc<Places>,
    /// The same for those of other domains, together.
    foreign_room: Arc<Places>,
    /// For answers that may be megabytes.
    downloads: Arc<Places>,
    stop: watch::Receiver<bool>,
}

/// A relay that runs; dropped it ends.
pub struct RunningSite {
    address: SocketAddr,
    policy_address: Option<SocketAddr>,
    site: Arc<Site>,
    obeyed: watch::Sender<Obeyed>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for RunningSite {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
    }
}

/// Makes the relay's TLS key in `data_dir` and writes to `DATA/keyset.json` the keyset `current` with the public half added
/// under the name `name`, valid from `now` for `life` seconds, one version higher: to be staged and published. Gives the path.
///
/// # Errors
/// [`ServiceError`], for instance because there is a key already.
pub fn init(data_dir: &Path, current: &Keyset, name: &str, now: i64, life: i64) -> Result<PathBuf, ServiceError> {
    let key = TlsKey::init(data_dir)?;
    let mut keyset = current.clone();
    keyset.version = keyset.version.saturating_add(1);
    keyset.keys.push(KeysetEntry {
        key: key.public().clone(),
        job: Job::Relay,
        not_before: now,
        not_after: now.saturating_add(life),
        replica: name.to_owned(),
    });
    let path = data_dir.join(KEYSET);
    std::fs::write(&path, keyset.to_json()).map_err(|error| ServiceError::System {
        operation: format!("write {}", path.display()),
        detail: error.to_string(),
    })?;
    Ok(path)
}

/// Starts a relay of what `source` follows, for the enforcers that `policy` lists, and of the domains that it trusts; with
/// `copy`, the copy of the repository that is kept there is served over plain HTTP at that address, below `/v1/policy/`: it is
/// believed for its signatures, and the site needs no other link.
///
/// # Errors
/// [`ServiceError`]: no key, or the address cannot be had.
pub async fn start(
    data_dir: &Path,
    listen: SocketAddr,
    (source, policy): (Source, Arc<PolicySet>),
    limits: Limits,
    copy: Option<(SocketAddr, Mirror)>,
) -> Result<RunningSite, ServiceError> {
    let key = TlsKey::open(data_dir)?;
    let system = |operation: String| {
        move |error: std::io::Error| ServiceError::System {
            operation,
            detail: error.to_string(),
        }
    };
    let listener = TcpListener::bind(listen)
        .await
        .map_err(system(format!("listen on {listen}")))?;
    let address = listener.local_addr().map_err(system("tell the address".into()))?;
    let plain = match copy {
        Some((at, mirror)) => {
            let listener = TcpListener::bind(at).await.map_err(system(format!("listen on {at}")))?;
            let address = listener.local_addr().map_err(system("tell the address".into()))?;
            Some((listener, address, mirror))
        }
        None => None,
    };
    let policy_address = plain.as_ref().map(|(_, address, _)| *address);
    let (certificate, private) = key.pair();
    let config = tls::server_config(certificate, private).map_err(|e| ServiceError::Tls(e.to_string()))?;
    let (stop, stopped) = watch::channel(false);
    let (obeyed, obeying) = watch::channel(Obeyed {
        version: 0,
        source: source.clone(),
        policy: Arc::clone(&policy),
    });
    let foreign_streams = limits.connections / FOREIGN_PART;
    let site = Arc::new(Site {
        time: Upstream::new(&source),
        acks: Upstream::new(&source),
        passing: Arc::default(),
        refused: std::sync::Mutex::new(Rates::new(REFUSALS_OF_HOST)),
        policy: RwLock::new(policy),
        follower: Follower::start(source),
        relay: Arc::default(),
        foreign: Arc::new(Neighbours::new(data_dir, Vec::new(), None)),
        limits,
        room: Places::new(limits.subscribers, share(limits.subscribers)),
        foreign_room: Places::new(foreign_streams, share(foreign_streams)),
        downloads: Places::new(DOWNLOADS, share(DOWNLOADS)),
        stop: stopped.clone(),
    });
    let router = routes::router(Arc::clone(&site));
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let mut tasks = vec![tokio::spawn(server::serve(
        listener,
        acceptor,
        router,
        limits,
        share(limits.connections),
        stopped.clone(),
    ))];
    tasks.push(tokio::spawn(carry::carry(
        Arc::clone(&site.foreign),
        obeying,
        site.follower.clock(),
        stopped.clone(),
    )));
    if let Some((listener, _, mirror)) = plain {
        let router = policy::mirrored(Arc::new(mirror));
        tasks.push(tokio::spawn(plain::serve(listener, router, limits, stopped)));
    }
    Ok(RunningSite {
        address,
        policy_address,
        site,
        obeyed,
        stop,
        tasks,
    })
}

impl Site {
    fn policy(&self) -> Arc<PolicySet> {
        Arc::clone(&self.policy.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn share(all: usize) -> usize {
    (all / SHARE_OF_HOST).max(1)
}

impl RunningSite {
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

    /// The epoch of the newest state that came through, as far as one has.
    #[must_use]
    pub fn epoch(&self) -> Option<u64> {
        self.site.follower.view().map(|view| view.head().epoch)
    }

    /// Resolves with the epoch whenever another one has come through.
    pub async fn changed(&self, from: Option<u64>) -> Option<u64> {
        let mut views = self.site.follower.views();
        let epoch =
            |view: &Option<Arc<touchstone_authorization::TrustView>>| view.as_ref().map(|view| view.head().epoch);
        views
            .wait_for(|view| epoch(view) != from)
            .await
            .ok()
            .and_then(|view| epoch(&view))
    }

    /// Goes on with other keys, for other enforcers: the policy has changed.
    pub fn change(&self, source: Source, policy: Arc<PolicySet>) {
        self.site.passing.renew(&policy);
        self.obeyed.send_modify(|obeyed| {
            *obeyed = Obeyed {
                version: obeyed.version + 1,
                source: source.clone(),
                policy: Arc::clone(&policy),
            };
        });
        *self.site.policy.write().unwrap_or_else(PoisonError::into_inner) = policy;
        self.site.time.change(&source);
        self.site.acks.change(&source);
        self.site.follower.change(source);
    }

    /// Stops in order: open streams end.
    pub async fn shutdown(mut self) {
        let _ = self.stop.send(true);
        for task in self.tasks.drain(..) {
            // A task that panicked has nothing left to do.
            let _ = task.await;
        }
    }
}
