//! Keeps what the relay carries of other domains current: those that its own domain's signed policy names, and no others.
//!
//! Everything is taken from the same brokers as the trust state and verified as an enforcer verifies it, from the root that
//! the policy leads to; what does not verify, or is older than what is held, is not passed on. Enforcers behind the relay
//! believe none of it for that: they verify the same bytes again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use touchstone_client::BrokerClient;
use touchstone_client::follow::{BrokerClock, FollowConfig, Source, Time, relayed_stream};
use touchstone_policies::{Keyset, PolicySet, RepositoryCopy};

use crate::federation::follow::Following;
use crate::federation::peer::Held;
use crate::federation::{Neighbours, Peer};

/// How often the brokers are asked whether another copy of a repository is there: 32 bytes each.
pub const PERIOD: Duration = Duration::from_secs(1);

/// The longest one domain may take to be looked at, so that one which stalls holds up the others no longer than this.
pub const LOOK_TIMEOUT: Duration = Duration::from_secs(20);

/// Whom the relay follows, and the policy that says whom it carries.
#[derive(Clone)]
pub(super) struct Obeyed {
    /// Higher with each change.
    pub version: u64,
    pub source: Source,
    pub policy: Arc<PolicySet>,
}

/// One domain that is carried. Dropped it is followed no longer.
struct Carried {
    peer: Arc<Peer>,
    following: Following<(Keyset, u64)>,
    /// Whether what an earlier run kept was looked at.
    begun: bool,
}

/// Carries until `stop` is true.
pub(super) async fn carry(
    neighbours: Arc<Neighbours>,
    mut obeyed: watch::Receiver<Obeyed>,
    clock: Arc<BrokerClock>,
    mut stop: watch::Receiver<bool>,
) {
    let mut carried: BTreeMap<String, Carried> = BTreeMap::new();
    loop {
        let now = obeyed.borrow_and_update().clone();
        // Before anything is fetched: what policy takes back is not carried on.
        let peers = neighbours.renew(&now.policy);
        carried.retain(|name, one| peers.get(name).is_some_and(|peer| Arc::ptr_eq(peer, &one.peer)));
        for (name, peer) in peers.iter() {
            carried.entry(name.clone()).or_insert_with(|| Carried {
                peer: Arc::clone(peer),
                following: Following::default(),
                begun: false,
            });
        }
        let mut client = BrokerClient::new(now.source.brokers.clone(), Arc::clone(&now.source.tls));
        let looking = async {
            loop {
                look_at_all(&neighbours, &now, &clock, &mut client, &mut carried).await;
                tokio::time::sleep(PERIOD).await;
            }
        };
        // Another policy does not wait until what the last one wanted has been fetched.
        tokio::select! {
            () = looking => return,
            _ = stop.wait_for(|stop| *stop) => return,
            changed = obeyed.changed() => if changed.is_err() { return },
        }
    }
}

async fn look_at_all(
    neighbours: &Neighbours,
    obeyed: &Obeyed,
    clock: &Arc<BrokerClock>,
    client: &mut BrokerClient,
    carried: &mut BTreeMap<String, Carried>,
) {
    let mut failed = false;
    for (name, one) in carried {
        let peer = &one.peer;
        let looked = look(neighbours, obeyed, clock, client, (name, peer, &mut one.begun));
        let outcome = match tokio::time::timeout(LOOK_TIMEOUT, looked).await {
            Ok(outcome) => outcome,
            Err(_) => {
                // Half an exchange must not be continued.
                client.turn();
                Err(format!("no answer within {LOOK_TIMEOUT:?}"))
            }
        };
        failed |= outcome.is_err();
        if let Err(error) = &outcome
            && peer.refused().as_ref() != Some(error)
        {
            tracing::warn!(target: "touchstone::relay", domain = name, error, "another domain's policy is not carried");
        }
        peer.note(&outcome);
        if let Some(held) = peer.held() {
            let wanted = (held.policy.keyset.clone(), obeyed.version);
            one.following
                .look(peer, &held, wanted, |held| Ok(Some(source(obeyed, clock, peer, held))));
        }
        if let Err(error) = peer.keep_reached() {
            tracing::warn!(target: "touchstone::relay", domain = name, %error, "how far another domain's state has come is not on record");
        }
    }
    // A broker that shows what does not verify must not hold a relay that has others.
    if failed && client.choices() > 1 {
        client.turn();
    }
}

/// Fetches a domain's repository where another one is there.
async fn look(
    neighbours: &Neighbours,
    obeyed: &Obeyed,
    clock: &BrokerClock,
    client: &mut BrokerClient,
    (name, peer, begun): (&str, &Peer, &mut bool),
) -> Result<(), String> {
    let now_ms = clock.now_ms().map_err(|e| e.to_string())?;
    let root = neighbours
        .root_of(&obeyed.policy, name)
        .ok_or("the domain on the way to it has not been heard of yet, or no longer names its root")?;
    if !std::mem::replace(begun, true)
        && let Err(error) = peer.take_kept(Some(root.clone()), now_ms).await
    {
        tracing::info!(target: "touchstone::relay", domain = name, %error, "what was kept of another domain is not used");
    }
    let path = format!("/v1/federation/{name}");
    let digest = client
        .get(&format!("{path}/policy/digest"))
        .await
        .map_err(|e| e.to_string())?;
    let root_digest: [u8; 32] = Sha256::digest(&root).into();
    let same = |held: &Held| held.digest.as_slice() == digest && held.policy.root_digest == root_digest;
    if peer.held().is_some_and(|held| same(&held)) {
        return Ok(());
    }
    let bytes = client.get(&format!("{path}/policy")).await.map_err(|e| e.to_string())?;
    let copy = RepositoryCopy::decode(&bytes).map_err(|e| e.to_string())?;
    // What was carried by hand is judged at the time its state was made.
    let by_age = peer
        .entry()
        .accept
        .and_then(|accept| accept.narrowing.max_state_age_ms());
    let frame = match by_age {
        Some(_) => client.get(&format!("{path}/trust-state")).await.ok(),
        None => None,
    };
    let taken = peer.take_copy(&copy, Some(root), frame.as_deref(), now_ms).await;
    taken.map_err(|e| e.to_string())
}

/// Where the brokers relay its trust state. It is received at this domain's time, as enforcers receive it.
fn source(obeyed: &Obeyed, clock: &Arc<BrokerClock>, peer: &Peer, held: &Held) -> Source {
    let (clock, own) = (Arc::clone(clock), obeyed.source.clone());
    Source {
        config: FollowConfig {
            domain: held.policy.domain.clone(),
            keys: held.trust_state_keys.clone(),
            route: relayed_stream(&held.policy.domain),
            time: Time::Of(Arc::new(move || clock.now_ms().ok())),
            floor: peer.state_floor(held),
            ..own.config
        },
        ..own
    }
}
