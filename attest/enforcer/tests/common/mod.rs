//! A guard with everything it needs but a broker: one domain, one holder, keys made of constants, the machine's own time.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test binary uses its part, and stops where it cannot go on"
)]

use std::sync::{Arc, Mutex};

use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use touchstone_authorization::{
    Authorization, Channel, DelegationRight, KeyKind, KeyRing, ListHead, OfflineLimits, Proof, RevokedIds, Scope,
    Status, StatusArray, StatusIndex, StatusLists, TrustFrame, TrustHead, TrustView, TrustedKey,
};
use touchstone_authorization::{Delegation, delegate};
use touchstone_cose::key::SigningKey;
use touchstone_enforcer::client::{Endpoint, pinned_config};
use touchstone_enforcer::clock;
use touchstone_enforcer::follow::{FollowConfig, Follower, OWN_STREAM, Sample, Source, Time, Views};
use touchstone_enforcer::guard::{Guard, GuardConfig, GuardEvent};
use touchstone_enforcer::layer::Credentials;
use touchstone_policies::Network;

pub const DOMAIN: &str = "test.example";
pub const GUARD: &str = "proxy-1";
pub const SUBJECT: &str = "node-1";
pub const SCOPES: [&str; 3] = ["execute:tool-search", "execute:tool-files", "delegate:tool-search"];
const GENERATION: u32 = 1;
/// How long is waited for what must come before a test fails.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);
/// For how long what is published counts where a test is not about its end: longer than any test takes.
pub const LONG_MS: u64 = 600_000;
const ENTRY: StatusIndex = StatusIndex {
    list: 1,
    generation: GENERATION,
    index: 7,
};

pub struct World {
    pub guard: Arc<Guard>,
    pub events: Arc<Mutex<Vec<GuardEvent>>>,
    views: Views,
    epoch: Mutex<u64>,
    watching: tokio::task::JoinHandle<()>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

fn issuer() -> SigningKey {
    SigningKey::from_seed([1; 32])
}

fn trust_key() -> SigningKey {
    SigningKey::from_seed([2; 32])
}

pub fn holder() -> SigningKey {
    SigningKey::from_seed([7; 32])
}

fn ring(key: &SigningKey) -> KeyRing {
    let key = key.verifying_key();
    KeyRing::new([TrustedKey {
        key,
        not_before: 0,
        not_after: i64::MAX,
    }])
    .unwrap()
}

/// The key of one who was delegated to.
pub fn child() -> SigningKey {
    SigningKey::from_seed([11; 32])
}

pub fn scope(text: &str) -> Scope {
    Scope::parse(text).unwrap()
}

/// Nobody listens there: what the guard follows is put into its views by hand.
fn source() -> Source {
    let config = FollowConfig {
        domain: DOMAIN.into(),
        subscriber: GUARD.into(),
        keys: ring(&trust_key()),
        skew_ms: 500,
        route: OWN_STREAM.into(),
        time: Time::Asked,
        floor: None,
    };
    Source {
        brokers: vec![Endpoint::parse("127.0.0.1:1").unwrap()],
        tls: pinned_config(&[]).unwrap(),
        config,
    }
}

fn config(network: Arc<Network>) -> GuardConfig {
    GuardConfig {
        id: GUARD.into(),
        domain: DOMAIN.into(),
        keys: ring(&issuer()),
        skew_ms: 500,
        window_ms: LONG_MS,
        policy_expires: i64::MAX,
        region: None,
        purpose: None,
        offline: OfflineLimits::MOST,
        network,
    }
}

impl World {
    /// A guard that follows, at its first epoch, and is watched.
    pub async fn new() -> Self {
        let views: Views = Arc::new(watch::channel(None).0);
        let follower = Follower::start_into(source(), Arc::clone(&views));
        let now = Sample {
            broker_ms: clock::wall_ms(),
            boot_ms: clock::boot_ms(),
            bound_ms: 0,
        };
        assert!(follower.clock().take(now, 500));
        let guard = Arc::new(Guard::new(config(Arc::default()), follower));
        let events = Arc::new(Mutex::new(Vec::new()));
        let watching = {
            let (guard, events) = (Arc::clone(&guard), Arc::clone(&events));
            tokio::spawn(async move { guard.watch(|event| events.lock().unwrap().push(event)).await })
        };
        let world = Self {
            guard,
            events,
            views,
            epoch: Mutex::new(0),
            watching,
        };
        world.publish(Status::Valid, LONG_MS);
        // Nobody is held before somebody watches.
        let following = || {
            let events = world.events.lock().unwrap();
            events.iter().any(|event| matches!(event, GuardEvent::Following { .. }))
        };
        let begun = std::time::Instant::now();
        while !following() {
            assert!(begun.elapsed() < PATIENCE, "the guard never follows");
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        world
    }

    /// Another policy counts, with this `network.toml`.
    pub fn with_network(&self, toml: &str) {
        let network = Network::parse(toml.as_bytes()).unwrap();
        self.guard.renew(config(Arc::new(network)), source());
    }

    /// The next trust state: the holder's entry has this status, and it is fresh for so long.
    pub fn publish(&self, status: Status, fresh_ms: u64) {
        self.publish_with(status, fresh_ms, RevokedIds::none());
    }

    /// The same, with the ids of delegations that are revoked.
    pub fn publish_with(&self, status: Status, fresh_ms: u64, revoked: &RevokedIds) {
        let mut epoch = self.epoch.lock().unwrap();
        *epoch += 1;
        let list = StatusArray::new(16).unwrap().with([(ENTRY.index, status)]).unwrap();
        let lists = StatusLists::new([(ENTRY.list, list)]).unwrap();
        let now_ms = clock::wall_ms();
        let head = TrustHead {
            domain: DOMAIN.into(),
            generation: GENERATION,
            epoch: *epoch,
            term: 1,
            policy_version: 1,
            policy_digest: [9; 32],
            keyset_version: 1,
            lists: ListHead::of(&lists),
            ledger_size: *epoch,
            ledger_root: [8; 32],
            issued_at_ms: now_ms,
            fresh_until_ms: now_ms + fresh_ms,
            revoked: revoked.head(),
        };
        let frame = TrustFrame::full(&head.encode_signed(&trust_key()).unwrap(), &lists, revoked).encode();
        let view = TrustView::accept(None, &frame, &ring(&trust_key()), DOMAIN, now_ms).unwrap();
        self.views.send_replace(Some(Arc::new(view)));
    }
}

/// An authorization for [`SCOPES`] that lasts so long, in seconds.
pub fn authorization(life_s: u64) -> Vec<u8> {
    authorization_at(ENTRY.index, life_s)
}

/// The same, of this entry of the trust state.
pub fn authorization_at(index: u32, life_s: u64) -> Vec<u8> {
    let now = clock::wall_ms() / 1000;
    let contents = Authorization {
        issuer: DOMAIN.into(),
        subject: SUBJECT.into(),
        audience: DOMAIN.into(),
        expires: now + life_s,
        not_before: now - 10,
        issued_at: now - 10,
        cti: [3; 16],
        confirmation: holder().verifying_key(),
        scopes: SCOPES.map(scope).to_vec(),
        policy_version: 1,
        epoch: 1,
        parent: None,
        statement: [4; 32],
        status: StatusIndex { index, ..ENTRY },
        key_kind: KeyKind::Tpm,
        depth: 0,
        delegation: Some(DelegationRight {
            depth: 2,
            offline: true,
        }),
        region: None,
        purpose: None,
    };
    contents.encode_signed(&issuer()).unwrap()
}

/// What a proof is for.
pub struct Wanted<'a> {
    pub scope: &'a str,
    pub request: Option<[u8; 32]>,
    pub channel: Channel,
}

/// The holder's proof for this, now.
pub fn proof(chain: &[u8], wanted: &Wanted<'_>) -> Proof {
    let mut cti = [0; 16];
    getrandom::fill(&mut cti).unwrap();
    Proof {
        audience: GUARD.into(),
        issued_at: clock::wall_ms() / 1000,
        cti,
        authorization_digest: Sha256::digest(chain).into(),
        scope: scope(wanted.scope),
        request_digest: wanted.request,
        channel: wanted.channel.clone(),
    }
}

/// The holder's authorization with a block below it: [`child`] may search, until the id is revoked.
pub fn delegated(cti: [u8; 16]) -> Vec<u8> {
    delegated_from(&authorization(600), cti)
}

/// The same below this authorization of the holder's.
pub fn delegated_from(authorization: &[u8], cti: [u8; 16]) -> Vec<u8> {
    let now = clock::wall_ms() / 1000;
    let wanted = Delegation {
        key: child().verifying_key(),
        label: "helper".into(),
        scopes: vec![scope("execute:tool-search")],
        not_before: now - 5,
        expires: now + 280,
        depth: 0,
        region: None,
        purpose: None,
        cti,
    };
    delegate(authorization, &wanted, &holder()).unwrap()
}

/// The credentials for one request to something that does not end TLS.
pub fn for_request(scope: &str, digest: [u8; 32]) -> Credentials {
    let chain = authorization(600);
    let wanted = Wanted {
        scope,
        request: Some(digest),
        channel: Channel::None,
    };
    let proof = proof(&chain, &wanted).encode_signed(&holder()).unwrap();
    Credentials { chain, proof }
}

pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}
