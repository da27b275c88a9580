//! What a guard believes of other domains: only what its own signed policy leads to.
//!
//! Our policy names a root; the brokers, and relays of a site, carry that domain's repository as it was signed, and the guard
//! verifies it from that root itself; its keyset names the keys of its trust state and its authorizations; they carry its
//! frames, and the guard verifies them under those. Whoever is in between can hold things back, and then they grow stale.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use touchstone_authorization::{Foreign, KeyRing, Link, Narrowing, TrustView};
use touchstone_policies::federation_file::Federation;
use touchstone_policies::{FederatedDomain, ForeignPolicy, Job, RepositoryCopy, TrustBegins, load_carried};

use crate::client::{BrokerClient, Endpoint};
use crate::floors::PolicyFloors;
use crate::follow::{BrokerClock, FollowConfig, Follower, Source, Time, Views, relayed_stream};
use crate::trust::DomainTrust;

/// How often the brokers are asked whether another copy of a repository is there: 32 bytes each.
const PERIOD: Duration = Duration::from_secs(1);

/// The longest one domain may take to be looked at, so that one which stalls holds up the others no longer than this.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(10);

/// One other domain: what our policy says of it now, and what is known of it.
#[derive(Clone)]
pub(super) struct Neighbour {
    entry: FederatedDomain,
    known: Arc<Known>,
}

/// What is known of one.
struct Known {
    policy: ForeignPolicy,
    authorization_keys: KeyRing,
    copy_digest: [u8; 32],
    floor: Option<(u32, u64)>,
    views: Views,
    follower: Follower,
    waker: tokio::task::JoinHandle<()>,
}

impl std::fmt::Debug for Neighbour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Neighbour")
            .field("entry", &self.entry)
            .finish_non_exhaustive()
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        self.waker.abort();
    }
}

/// All of them, by name; what is decided with is one state of it.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    held: RwLock<Arc<BTreeMap<String, Arc<Neighbour>>>>,
    news: Arc<Notify>,
}

/// Their views at one moment.
pub(super) struct Seen {
    held: Arc<BTreeMap<String, Arc<Neighbour>>>,
    views: BTreeMap<String, Option<Arc<TrustView>>>,
}

impl Neighbours {
    /// Wakes when something of one has changed.
    pub fn news(&self) -> Arc<Notify> {
        Arc::clone(&self.news)
    }

    /// What is held now.
    pub fn seen(&self) -> Seen {
        let held = Arc::clone(&self.held.read().unwrap_or_else(PoisonError::into_inner));
        let views = held
            .iter()
            .map(|(name, neighbour)| (name.clone(), neighbour.known.views.borrow().clone()))
            .collect();
        Seen { held, views }
    }

    /// Goes on with what is held as far as our policy leads to it, and under what our policy says of it now: what was
    /// dropped or narrowed is so at once, whatever can be fetched.
    fn narrow(&self, federation: &Federation) {
        let held = self.seen().held;
        let mut next: BTreeMap<String, Arc<Neighbour>> = BTreeMap::new();
        for entry in by_distance(federation) {
            let Some(neighbour) = held.get(&entry.name) else {
                continue;
            };
            let root = root_of(federation, &entry.name, &next);
            if root.is_none_or(|root| neighbour.known.policy.root_digest != sha256(&root)) {
                continue;
            }
            let neighbour = if neighbour.entry == *entry {
                Arc::clone(neighbour)
            } else {
                let (entry, known) = (entry.clone(), Arc::clone(&neighbour.known));
                Arc::new(Neighbour { entry, known })
            };
            next.insert(entry.name.clone(), neighbour);
        }
        let same = |(name, neighbour): (&String, &Arc<Neighbour>)| {
            next.get(name).is_some_and(|next| Arc::ptr_eq(next, neighbour))
        };
        if !held.iter().all(same) {
            self.put(next);
        }
    }

    fn put(&self, held: BTreeMap<String, Arc<Neighbour>>) {
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(held);
        self.news.notify_one();
    }
}

impl Seen {
    /// Gives `decide` the domains whose authorizations may count.
    pub fn with<T>(&self, decide: impl FnOnce(&[Foreign<'_>]) -> T) -> T {
        let mut rows: Vec<(&Neighbour, &Narrowing, Vec<Link<'_>>)> = Vec::new();
        for neighbour in self.held.values() {
            let Some(accept) = &neighbour.entry.accept else {
                continue;
            };
            // A way that is not known to its end leads nowhere.
            let path: Option<Vec<Link<'_>>> = match &neighbour.entry.trust {
                Some(TrustBegins::Root(_)) => Some(Vec::new()),
                Some(TrustBegins::Path(path)) => path.iter().map(|name| self.link(self.held.get(name)?)).collect(),
                None => None,
            };
            if let Some(path) = path {
                rows.push((neighbour, &accept.narrowing, path));
            }
        }
        let foreign: Vec<Foreign<'_>> = rows
            .iter()
            .filter_map(|(neighbour, narrowing, path)| {
                Some(Foreign {
                    link: self.link(neighbour)?,
                    keys: &neighbour.known.authorization_keys,
                    narrowing,
                    path,
                })
            })
            .collect();
        decide(&foreign)
    }

    /// The domains whose state counts as live at `now_ms`.
    pub fn live(&self, now_ms: u64) -> Vec<String> {
        let live = |neighbour: &&Arc<Neighbour>| {
            let until = self.link(neighbour).and_then(|link| link.live_until_ms());
            until.is_some_and(|until| now_ms < until)
        };
        self.held
            .values()
            .filter(live)
            .map(|neighbour| neighbour.entry.name.clone())
            .collect()
    }

    fn link<'a>(&'a self, neighbour: &'a Neighbour) -> Option<Link<'a>> {
        let accept = neighbour.entry.accept.as_ref();
        Some(Link {
            domain: &neighbour.entry.name,
            view: self.views.get(&neighbour.entry.name)?.as_deref(),
            window_ms: neighbour.known.policy.window_ms,
            keyset_version: neighbour.known.policy.keyset.version,
            policy_expires_ms: u64::try_from(neighbour.known.policy.expires)
                .unwrap_or(0)
                .saturating_mul(1_000),
            max_state_age_ms: accept.and_then(|accept| accept.narrowing.max_state_age_ms()),
        })
    }
}

/// How the brokers are reached, and with what name.
pub(super) struct Reach {
    pub brokers: Vec<Endpoint>,
    pub id: String,
    pub floors: Option<PolicyFloors>,
}

/// Keeps what is believed of other domains current, for ever.
pub(super) async fn keep(
    neighbours: &Neighbours,
    reach: &Reach,
    clock: Arc<BrokerClock>,
    mut trusts: watch::Receiver<Arc<DomainTrust>>,
) {
    let mut keyset = trusts.borrow().policy.keyset.clone();
    loop {
        let trust = trusts.borrow_and_update().clone();
        // Before anything is fetched: no broker can put off what our policy takes back.
        neighbours.narrow(&trust.policy.federation);
        // TLS keys that were taken out of our keyset serve no more, new ones do: neither here nor for what is relayed.
        if keyset != trust.policy.keyset {
            keyset = trust.policy.keyset.clone();
            for (name, neighbour) in neighbours.seen().held.iter() {
                if let Ok(keys) = neighbour.known.policy.ring(Job::TrustState) {
                    let source = relayed((&trust, reach, &clock), name, keys, neighbour.known.floor);
                    neighbour.known.follower.change(source);
                }
            }
        }
        let mut client = trust.following_client(reach.brokers.clone());
        let looking = async {
            loop {
                look(neighbours, reach, &clock, &trust, &mut client).await;
                tokio::time::sleep(PERIOD).await;
            }
        };
        // Another policy does not wait until what the last one wanted has been fetched.
        let changed = tokio::select! {
            () = looking => return,
            changed = trusts.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// The domains that are believed, each after those on the way to it.
fn by_distance(federation: &Federation) -> Vec<&FederatedDomain> {
    let mut wanted: Vec<&FederatedDomain> = federation.domains().filter(|entry| entry.trust.is_some()).collect();
    wanted.sort_by_key(|entry| match &entry.trust {
        Some(TrustBegins::Path(path)) => path.len(),
        _ => 0,
    });
    wanted
}

/// Where trust in a domain begins, by our policy and by what those on the way to it say.
fn root_of(federation: &Federation, name: &str, held: &BTreeMap<String, Arc<Neighbour>>) -> Option<Vec<u8>> {
    federation.root_of(name, |over| {
        held.get(over).map(|over| Box::new(over.known.policy.roots.clone()))
    })
}

async fn look(
    neighbours: &Neighbours,
    reach: &Reach,
    clock: &Arc<BrokerClock>,
    trust: &DomainTrust,
    client: &mut BrokerClient,
) {
    let federation = &trust.policy.federation;
    let mut failed = false;
    for entry in by_distance(federation) {
        let held = neighbours.seen().held;
        let Some(root) = root_of(federation, &entry.name, &held) else {
            continue;
        };
        let known = held.get(&entry.name).map(|held| Arc::clone(&held.known));
        let renewal = renew(neighbours, reach, clock, trust, client, (entry, known, &root));
        let renewed = match tokio::time::timeout(RENEWAL_TIMEOUT, renewal).await {
            Ok(renewed) => renewed,
            Err(_) => {
                // Half an exchange must not be continued.
                client.turn();
                Err(format!("no answer within {RENEWAL_TIMEOUT:?}"))
            }
        };
        failed |= renewed.is_err();
        match renewed {
            Ok(Some(known)) => {
                let (entry, known) = (entry.clone(), Arc::new(known));
                let mut next = BTreeMap::clone(&held);
                next.insert(entry.name.clone(), Arc::new(Neighbour { entry, known }));
                neighbours.put(next);
                // What is reached over it may begin elsewhere now.
                neighbours.narrow(federation);
            }
            Ok(None) => {}
            // What is held grows old by itself.
            Err(error) => {
                tracing::info!(target: "touchstone::guard", domain = entry.name, error, "another domain's policy is not taken");
            }
        }
    }
    // Who shows what does not verify, or nothing, must not hold a guard that has others.
    if failed && client.choices() > 1 {
        client.turn();
    }
}

/// Whether what is held of a domain cannot be all that it has published: its own state names newer keys.
fn is_behind(held: &Known) -> bool {
    let named = held.views.borrow().as_ref().map(|view| view.head().keyset_version);
    named.is_some_and(|named| named > held.policy.keyset.version)
}

/// What is believed of a domain now, where that is another thing than before.
async fn renew(
    neighbours: &Neighbours,
    reach: &Reach,
    clock: &Arc<BrokerClock>,
    trust: &DomainTrust,
    client: &mut BrokerClient,
    (entry, held, root): (&FederatedDomain, Option<Arc<Known>>, &[u8]),
) -> Result<Option<Known>, String> {
    let path = format!("/v1/federation/{}", entry.name);
    let digest = client
        .get(&format!("{path}/policy/digest"))
        .await
        .map_err(|e| e.to_string())?;
    let unchanged = |held: &Arc<Known>| held.copy_digest == *digest && held.policy.root_digest == sha256(root);
    if let Some(held) = held.as_ref().filter(|held| unchanged(held)) {
        return if is_behind(held) {
            Err("what is relayed is older than the keys that this domain's state names".into())
        } else {
            Ok(None)
        };
    }
    let now_ms = clock.now_ms().map_err(|e| e.to_string())?;
    let bytes = client.get(&format!("{path}/policy")).await.map_err(|e| e.to_string())?;
    let copy = RepositoryCopy::decode(&bytes).map_err(|e| e.to_string())?;
    let (copy_digest, root_digest) = (copy.digest(), sha256(root));
    let same = |held: &Arc<Known>| held.copy_digest == copy_digest && held.policy.root_digest == root_digest;
    if held.as_ref().is_some_and(same) {
        return Err("a digest was told that is not the one of what is relayed".into());
    }
    let age = entry
        .accept
        .as_ref()
        .and_then(|accept| accept.narrowing.max_state_age_ms());
    let frame = match age {
        Some(_) => client.get(&format!("{path}/trust-state")).await.ok(),
        None => None,
    };
    // Of this root: one that is trusted again by command begins anew.
    let record = format!("{}-{}", entry.name, hex::encode(root_digest));
    let floors_file = reach
        .floors
        .as_ref()
        .map(|floors| floors.of_domain(&record))
        .transpose();
    let floors_file = floors_file.map_err(|e| e.to_string())?;
    let kept = floors_file
        .as_ref()
        .map(PolicyFloors::read)
        .transpose()
        .map_err(|e| e.to_string())?
        .flatten();
    let before = held.as_ref().filter(|held| held.policy.root_digest == root_digest);
    let floors = match (kept, before.map(|held| held.policy.versions.clone())) {
        (Some(kept), Some(held)) => Some(kept.raised_to(&held)),
        (kept, held) => kept.or(held),
    };
    let carried = frame.as_deref().zip(age);
    let policy = load_carried(&copy, root, floors.as_ref(), &entry.name, now_ms, carried)
        .await
        .map_err(|e| e.to_string())?;
    if let Some(file) = &floors_file {
        let raised = file.raise_beside(before.is_some(), &policy.versions);
        raised.map_err(|e| e.to_string())?;
    }
    let keys = |job| policy.ring(job).map_err(|e| e.to_string());
    let (authorization_keys, trust_state_keys) = (keys(Job::Authorization)?, keys(Job::TrustState)?);
    // The view goes on where the root is the same: what comes next must continue it.
    let views: Views = match &held {
        Some(held) if held.policy.root_digest == policy.root_digest => Arc::clone(&held.views),
        _ => Arc::new(watch::channel(None).0),
    };
    // What was accepted before this start counts as held: a state from before it brings nothing back.
    let floor = floors_file.as_ref().map(PolicyFloors::read_state).transpose();
    let floor = floor.map_err(|e| e.to_string())?.flatten();
    let source = relayed((trust, reach, clock), &entry.name, trust_state_keys, floor);
    let follower = Follower::start_into(source, Arc::clone(&views));
    let (mut changes, news) = (views.subscribe(), neighbours.news());
    let waker = tokio::spawn(async move {
        while changes.changed().await.is_ok() {
            news.notify_one();
            let seen = changes
                .borrow()
                .as_ref()
                .map(|view| (view.head().generation, view.head().epoch));
            if let (Some(file), Some(seen)) = (&floors_file, seen)
                && let Err(error) = file.raise_state(seen)
            {
                tracing::warn!(target: "touchstone::guard", %error, "another domain's trust state is not on record");
            }
        }
    });
    Ok(Some(Known {
        floor,
        authorization_keys,
        // Of what was verified, whatever was said of it: what is named as that and is older would never be asked for again.
        copy_digest,
        views,
        follower,
        waker,
        policy,
    }))
}

/// Where our brokers, and relays of a site, relay the trust state of a domain.
fn relayed(
    (trust, reach, clock): (&DomainTrust, &Reach, &Arc<BrokerClock>),
    domain: &str,
    keys: KeyRing,
    floor: Option<(u32, u64)>,
) -> Source {
    let own_clock = Arc::clone(clock);
    let own = trust.source(reach.brokers.clone(), reach.id.clone());
    Source {
        config: FollowConfig {
            domain: domain.to_owned(),
            keys,
            route: relayed_stream(domain),
            time: Time::Of(Arc::new(move || own_clock.now_ms().ok())),
            floor,
            ..own.config
        },
        ..own
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests;
