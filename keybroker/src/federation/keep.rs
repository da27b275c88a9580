//! Keeps what is held of other domains current: which ones by our policy, their repositories by looking, their trust
//! state by their own streams.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch::Receiver;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use touchstone_client::follow::{FollowConfig, OWN_STREAM, Source as FollowSource, Time};
use touchstone_client::{Endpoint, pinned_config};
use touchstone_policies::{Job, RepositoryCopy, Source};

use super::follow::Following;
use super::peer::{Held, Peer, PeerError, Recorded, Way};
use super::{push, watch};
use crate::app::App;
use crate::service::entry;

/// How often it is looked whether our policy names other domains than before.
const RENEW_PERIOD: Duration = Duration::from_secs(1);
/// How often another domain's repository is looked at: one small file is read, the rest when that has changed.
pub const COPY_PERIOD: Duration = Duration::from_secs(5);
/// The same while its trust state names a keyset that is not known here yet: until then its authorizations are refused.
const HURRIED_PERIOD: Duration = Duration::from_millis(250);

/// The tasks of one domain; they end when it is dropped.
struct Tasks(Vec<JoinHandle<()>>);

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

/// Follows the domains that our policy names, until `stop` is true.
pub async fn keep(app: Arc<App>, mut stop: Receiver<bool>) {
    let mut running: BTreeMap<String, (Arc<Peer>, Tasks)> = BTreeMap::new();
    let mut seen = None;
    let mut ticks = tokio::time::interval(RENEW_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            _ = ticks.tick() => {}
        }
        let policy = app.policy();
        if seen == Some(policy.digest) {
            continue;
        }
        seen = Some(policy.digest);
        let peers = app.federation.renew(&policy);
        running.retain(|name, (peer, _)| {
            let stays = peers.get(name).is_some_and(|now| Arc::ptr_eq(now, peer));
            if !stays {
                app.witnessing.follow(name, Vec::new(), Vec::new());
            }
            stays
        });
        for (name, peer) in peers.iter() {
            running.entry(name.clone()).or_insert_with(|| {
                let tasks = vec![
                    tokio::spawn(copy(Arc::clone(&app), Arc::clone(peer))),
                    tokio::spawn(follow(Arc::clone(&app), Arc::clone(peer))),
                    tokio::spawn(push::push(Arc::clone(&app), Arc::clone(peer))),
                    tokio::spawn(watch::watch(Arc::clone(&app), Arc::clone(peer))),
                ];
                (Arc::clone(peer), Tasks(tasks))
            });
        }
    }
}

/// Keeps its repository current.
async fn copy(app: Arc<App>, peer: Arc<Peer>) {
    let root = app.federation.root_of(&app.policy(), &peer.name());
    if let Err(error) = peer.take_kept(root, app.clock.now_ms()).await {
        tracing::info!(domain = peer.name(), %error, "what was kept of another domain is not used");
    }
    loop {
        if let Err(error) = record(&app, &peer, &mut *peer.recording().await, Way::Kept).await {
            tracing::warn!(target: "touchstone::federation", domain = peer.name(), error, "what is held of another domain is not on record yet");
        }
        let outcome = look(&app, &peer).await;
        peer.note(&outcome);
        if let Err(error) = &outcome {
            tracing::warn!(target: "touchstone::federation", domain = peer.name(), error, "another domain's policy is not taken");
        }
        let behind = || match (peer.view(), peer.held()) {
            (Some(view), Some(held)) => view.head().keyset_version > held.policy.keyset.version,
            _ => false,
        };
        let pause = if behind() { HURRIED_PERIOD } else { COPY_PERIOD };
        let until = tokio::time::Instant::now() + pause;
        let mut views = peer.views().subscribe();
        while tokio::time::timeout_at(until, views.changed())
            .await
            .is_ok_and(|changed| changed.is_ok())
        {
            if let Err(error) = peer.keep_reached() {
                tracing::warn!(target: "touchstone::federation", domain = peer.name(), %error, "how far another domain's state has come is not on record");
            }
            if behind() && pause > HURRIED_PERIOD {
                break;
            }
        }
    }
}

/// Looks at every place of its repository until one gives what is published.
async fn look(app: &Arc<App>, peer: &Arc<Peer>) -> Result<(), String> {
    let entry = peer.entry();
    let mut failures = Vec::new();
    for place in &entry.policy {
        let source = match app.federation.place(place) {
            Ok(source) => source,
            Err(error) => {
                failures.push(error.to_string());
                continue;
            }
        };
        match look_at(app, peer, &source).await {
            Ok(()) => return Ok(()),
            Err(error) => failures.push(format!("{place}: {error}")),
        }
    }
    if failures.is_empty() {
        Ok(())
    } else {
        Err(failures.join("; "))
    }
}

async fn look_at(app: &Arc<App>, peer: &Arc<Peer>, source: &Source) -> Result<(), String> {
    let published = RepositoryCopy::read_timestamp(source)
        .await
        .map_err(|e| e.to_string())?;
    let held = peer.held();
    let root = app.federation.root_of(&app.policy(), &peer.name());
    // Whatever else has changed: a path that leads to another root now is looked at anew.
    let same_root = |held: &Held| {
        root.as_ref()
            .is_some_and(|root| sha256(root) == held.policy.root_digest)
    };
    if held
        .as_ref()
        .is_some_and(|held| held.timestamp == published && same_root(held))
    {
        return Ok(());
    }
    let copy = RepositoryCopy::read(source, 0).await.map_err(|e| e.to_string())?;
    take(app, peer, &copy, None, Way::Followed).await
}

/// Takes a copy over, and records it where more than its timestamp is new. It is verified before anything is locked: one
/// that takes long, or does not verify, keeps no other waiting.
pub(crate) async fn take(
    app: &Arc<App>,
    peer: &Arc<Peer>,
    copy: &RepositoryCopy,
    frame: Option<&[u8]>,
    way: Way,
) -> Result<(), String> {
    let root = || app.federation.root_of(&app.policy(), &peer.name());
    let began = root().ok_or_else(|| PeerError::RootUnknown.to_string())?;
    let verified = peer.verify_copy(copy, &began, frame, app.clock.now_ms()).await;
    let verified = verified.map_err(|e| e.to_string())?;
    let mut recorded = peer.recording().await;
    if let Some(held) = verified {
        if root().as_ref() != Some(&began) {
            return Err("our policy has come to lead to another root of it meanwhile".into());
        }
        peer.accept(held).await.map_err(|e| e.to_string())?;
    }
    record(app, peer, &mut recorded, way).await
}

/// Records what is held, where that is not on record: what could not be recorded when it was taken, or was taken right
/// before a crash, is so later.
async fn record(app: &Arc<App>, peer: &Peer, recorded: &mut Option<Recorded>, way: Way) -> Result<(), String> {
    let Some(held) = peer.unrecorded(recorded.as_ref()) else {
        return Ok(());
    };
    let now_ms = app.clock.now_ms();
    let statement = app
        .circumstances(now_ms)
        .federation_update(&held.policy, &held.digest, way.as_str());
    let entry = entry(app, &statement).map_err(|e| e.to_string())?;
    app.sequencer.record(entry).await.map_err(|e| e.to_string())?;
    let remembered = peer.set_recorded(recorded, &held).await;
    tracing::info!(
        target: "touchstone::event",
        event = "federation_update",
        domain = held.policy.domain,
        version = held.policy.versions.snapshot,
        keyset = held.policy.keyset.version,
        way = way.as_str(),
    );
    remembered.map_err(|e| e.to_string())
}

/// Follows its trust state, under the keys of its repository, whenever those change anew.
async fn follow(app: Arc<App>, peer: Arc<Peer>) {
    let mut changes = peer.changes();
    let mut following = Following::default();
    loop {
        let held = changes.borrow_and_update().clone();
        if let Some(held) = held {
            let brokers = peer.entry().brokers;
            let wanted = (held.policy.keyset.clone(), brokers.clone());
            following.look(&peer, &held, wanted, |held| {
                source(&app, held, &brokers, peer.state_floor(held))
            });
        }
        // What our policy says of its brokers may change without a new copy.
        let _ = tokio::time::timeout(COPY_PERIOD, changes.changed()).await;
    }
}

fn source(
    app: &Arc<App>,
    held: &Held,
    brokers: &[String],
    floor: Option<(u32, u64)>,
) -> Result<Option<FollowSource>, String> {
    if brokers.is_empty() {
        return Ok(None);
    }
    let app = Arc::clone(app);
    let policy = app.policy();
    Ok(Some(FollowSource {
        brokers: endpoints(brokers)?,
        tls: tls_of(held)?,
        config: FollowConfig {
            domain: held.policy.domain.clone(),
            subscriber: format!("domain:{}", policy.domain),
            keys: held.trust_state_keys.clone(),
            skew_ms: policy.settings.timers.skew_ms,
            route: OWN_STREAM.into(),
            time: Time::Of(Arc::new(move || Some(app.clock.now_ms()))),
            floor,
        },
    }))
}

/// TLS to its brokers, pinned to its keyset.
pub(super) fn tls_of(held: &Held) -> Result<Arc<rustls::ClientConfig>, String> {
    let keys = held.policy.keyset.keys.iter().filter(|entry| entry.job == Job::Tls);
    let pins: Vec<_> = keys
        .map(|entry| touchstone_authorization::TrustedKey {
            key: entry.key.clone(),
            not_before: entry.not_before,
            not_after: entry.not_after,
        })
        .collect();
    pinned_config(&pins).map_err(|e| e.to_string())
}

pub(super) fn endpoints(brokers: &[String]) -> Result<Vec<Endpoint>, String> {
    brokers
        .iter()
        .map(|text| Endpoint::parse(text).map_err(|e| e.to_string()))
        .collect()
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).into()
}
