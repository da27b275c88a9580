//! A guard that follows nobody, for tests of what a guard does without being told anything.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use tokio::sync::watch;
use touchstone_authorization::{KeyRing, OfflineLimits, TrustedKey};
use touchstone_cose::key::SigningKey;

use super::{Guard, GuardConfig};
use crate::client::{Endpoint, pinned_config};
use crate::follow::{FollowConfig, Follower, OWN_STREAM, Source, Time};

/// It knows neither the time nor a trust state, and never will.
pub(crate) fn guard() -> Arc<Guard> {
    let key = TrustedKey {
        key: SigningKey::from_seed([1; 32]).verifying_key(),
        not_before: 0,
        not_after: i64::MAX,
    };
    let keys = KeyRing::new([key]).unwrap();
    let source = Source {
        brokers: vec![Endpoint::parse("127.0.0.1:1").unwrap()],
        tls: pinned_config(&[]).unwrap(),
        config: FollowConfig {
            domain: "test.example".into(),
            subscriber: "guard-1".into(),
            keys: keys.clone(),
            skew_ms: 500,
            route: OWN_STREAM.into(),
            time: Time::Asked,
            floor: None,
        },
    };
    let follower = Follower::start_into(source, Arc::new(watch::channel(None).0));
    let config = GuardConfig {
        id: "guard-1".into(),
        domain: "test.example".into(),
        keys,
        skew_ms: 500,
        window_ms: 1_000,
        policy_expires: i64::MAX,
        region: None,
        purpose: None,
        offline: OfflineLimits::NONE,
        network: Arc::default(),
    };
    Arc::new(Guard::new(config, follower))
}

/// As many challenges as the guard gives to others.
pub(crate) fn flood(guard: &Guard) {
    while guard.challenge().is_ok() {}
}

#[tokio::test]
async fn a_flood_of_challenges_leaves_the_guard_its_own() {
    use touchstone_authorization::RefusalCode::{ChallengeUnknown, TimeUnknown};

    let guard = guard();
    flood(&guard);
    assert!(guard.challenge().is_err());
    let own = guard.own_challenge().unwrap();
    let decide = || guard.decide(b"", b"", "execute", "search", &own).unwrap_err()[0].code;
    assert_eq!(decide(), TimeUnknown, "it was an open challenge");
    assert_eq!(decide(), ChallengeUnknown, "and counts once");
}
