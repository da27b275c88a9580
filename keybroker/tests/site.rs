//! A relay carries the trust state to a site over one link; a site that is cut off lives as long as the last head says.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::client::{Client, problem};
use common::link::Link;
use common::{Domain, eventually, in_time, now, refusals, ring, source};
use http_body_util::{BodyExt as _, Empty};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use touchstone_authorization::TrustView;
use touchstone_authorization::ack::Ack;
use touchstone_authorization::broker_time::BrokerTime;
use touchstone_client::follow::{Follower, Time};
use touchstone_client::{BrokerClient, ClientError};
use touchstone_cose::key::SigningKey;
use touchstone_keybroker::clock::Clock;
use touchstone_keybroker::config::Limits;
use touchstone_keybroker::service::RunningBroker;
use touchstone_keybroker::site::{self, REFUSED_PAUSE, RunningSite};
use touchstone_policies::{self as policies, Job, Keyset};

/// Short, for its end is waited for; somebody comes to a site that is cut off within it, on a slow machine too.
const WINDOW_MS: u64 = 20_000;
/// A relay waits for the time as long as two clocks may differ, there and back.
const QUICK: [(&str, &str); 4] = [
    ("heartbeat_ms", "100"),
    ("failover_ms", "100"),
    ("skew_ms", "10000"),
    ("freshness_window_ms", "20000"),
];

/// The key of the one enforcer that policy lists.
fn guard_key() -> SigningKey {
    SigningKey::from_seed([1; 32])
}

fn ack(broker: &RunningBroker, epoch: u64) -> Ack {
    Ack {
        domain: common::DOMAIN.into(),
        enforcer: "guard-1".into(),
        generation: broker.app().trust.generation(),
        epoch,
        enforced_at_ms: broker.app().clock.now_ms(),
        refused: 0,
    }
}

/// A domain with a relay in its keyset; its broker, the link and the relay at its end.
async fn site() -> (Domain, RunningBroker, Link, RunningSite) {
    let limits = Limits {
        handshake_ms: 60_000,
        body_ms: 60_000,
        ..Limits::default()
    };
    let domain = Domain::new(&[], &QUICK);
    let public = hex::encode(guard_key().verifying_key().to_spki_der());
    let listed = format!("[enforcers.guard-1]\nkey = \"{public}\"\n");
    std::fs::write(domain.path("policy/staged/enforcers.toml"), listed).unwrap();
    let keyset = Keyset::parse(&std::fs::read(domain.path("data/keyset.json")).unwrap()).unwrap();
    let staged = site::init(&domain.path("relay"), &keyset, "site-7", now() - 60, 3_600).unwrap();
    policies::keyset_add(&domain.path("policy"), &std::fs::read(staged).unwrap()).unwrap();
    domain.publish();
    let broker = domain.start().await;
    let link = Link::to(broker.address()).await;
    let upstream = source(&broker, link.address, "site-7", &[Job::Tls, Job::Relay]);
    let listen = (Ipv4Addr::LOCALHOST, 0).into();
    let copy = policies::Mirror::new(domain.path("policy"));
    let relay = site::start(
        &domain.path("relay"),
        listen,
        (upstream, broker.app().policy()),
        limits,
        Some((listen, copy)),
    )
    .await
    .unwrap();
    (domain, broker, link, relay)
}

/// A GET over plain HTTP.
async fn get(address: SocketAddr, path: &str) -> (u16, Vec<u8>) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(driver);
    let request = Request::builder()
        .uri(path)
        .header("host", "relay")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status().as_u16();
    (
        status,
        response.into_body().collect().await.unwrap().to_bytes().to_vec(),
    )
}

fn withdraw(broker: &RunningBroker) -> u64 {
    let trust = &broker.app().trust;
    let gone = trust
        .withdraw(&[trust.deal().unwrap()], broker.app().clock.now_ms())
        .unwrap();
    let epoch = gone.epoch;
    trust.durable(gone);
    epoch
}

async fn reaches(follower: &Follower, epoch: u64) -> Arc<TrustView> {
    let mut views = follower.views();
    let there = |view: &Option<Arc<TrustView>>| view.as_ref().is_some_and(|view| view.head().epoch >= epoch);
    let view = in_time("the epoch", views.wait_for(there)).await;
    view.unwrap().clone().unwrap()
}

/// The head after which no other came for some heartbeats: what was under way at a cut has arrived.
async fn last_head(follower: &Follower) -> Arc<TrustView> {
    in_time("silence", async {
        loop {
            let last = follower.view().unwrap();
            tokio::time::sleep(Duration::from_millis(500)).await;
            if follower.view().unwrap().head_bytes() == last.head_bytes() {
                return last;
            }
        }
    })
    .await
}

#[tokio::test]
async fn what_comes_through_a_relay_is_what_the_broker_signed_and_as_late_as_the_way_is_long() {
    let (domain, broker, _link, relay) = site().await;
    let far = Follower::start(source(&broker, relay.address(), "guard-1", &[Job::Tls, Job::Relay]));
    let near = Follower::start(source(&broker, broker.address(), "guard-2", &[Job::Tls]));
    let epoch = withdraw(&broker);
    let (far_view, near_view) = (reaches(&far, epoch).await, reaches(&near, epoch).await);
    assert_eq!(far_view.lists(), near_view.lists());
    // The heads that both have seen are the same bytes: nothing is stamped anew on the way.
    let (mut far_views, mut near_views) = (far.views(), near.views());
    let (mut of_far, mut of_near) = (BTreeMap::new(), BTreeMap::new());
    let both = async {
        loop {
            let (views, seen) = tokio::select! {
                changed = far_views.changed() => {
                    changed.unwrap();
                    (&mut far_views, &mut of_far)
                }
                changed = near_views.changed() => {
                    changed.unwrap();
                    (&mut near_views, &mut of_near)
                }
            };
            let view = views.borrow_and_update().as_ref().unwrap().clone();
            seen.insert(view.head().issued_at_ms, view.head_bytes().to_vec());
            // Who looks late passes heads over, so not every head is seen by both.
            let common = of_far.iter().filter(|(at_ms, _)| of_near.contains_key(*at_ms));
            if common.count() >= 3 {
                break;
            }
        }
    };
    in_time("heads that both have seen", both).await;
    for (at_ms, head) in &of_far {
        assert!(
            of_near.get(at_ms).is_none_or(|near| near == head),
            "a head that the broker never sent"
        );
    }
    // The time is the broker's own word over the asker's nonce.
    let mut client = Client::connect(relay.address()).await;
    let (status, time) = client.send(Method::POST, "/v1/time", vec![7; 32]).await;
    assert_eq!(status, StatusCode::OK);
    BrokerTime::verify(
        &time,
        &ring(&broker, Job::TrustState),
        &[7; 32],
        Clock::start().now_ms(),
    )
    .unwrap();
    // What is refused at the broker is refused here, and what only a broker serves is not here at all.
    for (method, path, body, status, code) in [
        (Method::POST, "/v1/acks", vec![1], 401, "ack-not-accepted"),
        (Method::POST, "/v1/time", vec![7; 31], 400, "request-message-malformed"),
        (
            Method::GET,
            "/v1/trust-state/stream?subscriber=a%20b",
            vec![],
            400,
            "request-parameter-malformed",
        ),
        (Method::POST, "/v1/hello", vec![], 404, "request-route-unknown"),
        (Method::POST, "/v1/evidence", vec![], 404, "request-route-unknown"),
    ] {
        let (found, body) = client.send(method, path, body).await;
        assert_eq!(found.as_u16(), status, "{path}");
        assert_eq!(problem(found, &body).code, code, "{path}");
    }
    // A file of the repository as it was signed, and nothing beside it.
    let plain = relay.policy_address().unwrap();
    let signed = std::fs::read(domain.path("policy/metadata/timestamp.json")).unwrap();
    assert_eq!(get(plain, "/v1/policy/metadata/timestamp.json").await, (200, signed));
    for path in [
        "/v1/policy/staged/settings.toml",
        "/v1/policy/metadata/../staged/settings.toml",
        "/v1/trust-state",
    ] {
        assert_eq!(get(plain, path).await.0, 404, "{path}");
    }
    // Who pins brokers alone, as agents do, does not speak to a relay.
    let pins = source(&broker, relay.address(), "agent", &[Job::Tls]);
    let mut agent = BrokerClient::new(pins.brokers, pins.tls);
    assert!(matches!(agent.connect().await, Err(ClientError::NotInKeyset { .. })));
    relay.shutdown().await;
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_site_that_is_cut_off_lives_exactly_as_long_as_the_last_head_that_came_through_says() {
    let (_domain, broker, link, relay) = site().await;
    let guard = Follower::start(source(&broker, relay.address(), "guard-1", &[Job::Tls, Job::Relay]));
    reaches(&guard, broker.app().trust.epoch()).await;
    let at = |follower: &Follower| follower.clock().now_ms().unwrap();
    let lives = || guard.view().unwrap().fresh(at(&guard), WINDOW_MS);
    eventually("a fresh head", lives).await;

    link.cut.send_replace(true);
    let last = last_head(&guard).await;
    let ends_ms = last.head().fresh_until_ms;
    let revoked = withdraw(&broker);
    // Somebody who comes now is given the last head as it is; the time it must bring along, for nobody tells it here.
    let clock = broker.app().clock;
    let late = Follower::start({
        let mut late = source(&broker, relay.address(), "guard-late", &[Job::Tls, Job::Relay]);
        late.config.time = Time::Of(Arc::new(move || Some(clock.now_ms())));
        late
    });
    let timeless = Follower::start(source(&broker, relay.address(), "guard-new", &[Job::Tls, Job::Relay]));
    let late_view = reaches(&late, last.head().epoch).await;
    assert_eq!(
        late_view.head_bytes(),
        last.head_bytes(),
        "re-stamped for who came late"
    );

    // It lives until then, to the tick; and not a moment longer, though it was received later than it was signed.
    loop {
        // One look at the clock: it goes on between two.
        let now_ms = at(&guard);
        if now_ms >= ends_ms - 100 {
            break;
        }
        assert!(guard.view().unwrap().fresh(now_ms, WINDOW_MS), "cut short");
        assert_eq!(guard.view().unwrap().head_bytes(), last.head_bytes());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert!(at(&guard) >= ends_ms);
    for (who, follower) in [("who was here", &guard), ("who came late", &late)] {
        let view = follower.view().unwrap();
        assert!(!view.fresh(clock.now_ms(), WINDOW_MS), "{who} lives on");
        assert_eq!(view.head().epoch, last.head().epoch, "{who}");
    }
    assert!(timeless.view().is_none(), "without a time nothing is believed");

    // The link is back: what was taken away meanwhile is here, and the site lives again.
    link.cut.send_replace(false);
    reaches(&guard, revoked).await;
    eventually("a fresh head", lives).await;
    reaches(&timeless, revoked).await;
    relay.shutdown().await;
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_no_broker_would_take_ends_at_the_relay_and_takes_nobody_the_time() {
    let (_domain, broker, _link, relay) = site().await;
    let epoch = broker.app().trust.epoch();
    let before = refusals(&broker).await;
    let good = ack(&broker, epoch).encode_signed(&guard_key()).unwrap();
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let stranger = ack(&broker, epoch)
        .encode_signed(&SigningKey::from_seed([9; 32]))
        .unwrap();
    let garbage = [
        ("/v1/acks", vec![0xd2; 300]),
        ("/v1/acks", vec![]),
        ("/v1/acks", flipped),
        ("/v1/acks", stranger),
        ("/v1/acks", vec![0; 600]),
        ("/v1/time", vec![7; 31]),
        ("/v1/time", vec![7; 33]),
    ];
    // Six hundred under way at once, from one host.
    let flood: Vec<_> = (0..600)
        .map(|n| {
            let (path, body) = garbage[n % garbage.len()].clone();
            let address = relay.address();
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                client.send(Method::POST, path, body).await.0.as_u16()
            })
        })
        .collect();
    let mut client = Client::connect(relay.address()).await;
    for nonce in 0..20u8 {
        let (status, time) = client.send(Method::POST, "/v1/time", vec![nonce; 32]).await;
        assert_eq!(status, StatusCode::OK, "an honest enforcer has no time");
        let keys = ring(&broker, Job::TrustState);
        BrokerTime::verify(&time, &keys, &[nonce; 32], Clock::start().now_ms()).unwrap();
    }
    let mut statuses = std::collections::BTreeSet::new();
    for one in flood {
        statuses.insert(one.await.unwrap());
    }
    // Where every one of them needs a connection of its own, they may be too slow for that.
    in_time("the host to be slowed down", async {
        while !statuses.contains(&429) {
            statuses.insert(client.send(Method::POST, "/v1/acks", vec![]).await.0.as_u16());
        }
    })
    .await;
    assert!(
        statuses.iter().all(|status| [400, 401, 413, 429].contains(status)),
        "{statuses:?}"
    );
    assert_eq!(
        refusals(&broker).await,
        before,
        "the broker was bothered, and counts it against the site"
    );

    // The next second is a new one: what is good goes up, and once.
    in_time("what is good goes up", async {
        while client.send(Method::POST, "/v1/acks", good.clone()).await.0 != StatusCode::OK {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    })
    .await;
    let at = (broker.app().trust.generation(), epoch);
    let shown = || {
        let app = broker.app();
        app.acks.shown(&app.policy(), at, app.clock.now_ms())["acknowledged"].clone()
    };
    assert_eq!(shown(), 1);
    relay_is_cut(&relay, &_link, good).await;
    relay.shutdown().await;
    broker.shutdown().await.unwrap();
}

/// What a broker has taken is not sent up again: it is answered though nobody can be asked.
async fn relay_is_cut(relay: &RunningSite, link: &Link, good: Vec<u8>) {
    link.cut.send_replace(true);
    let mut client = Client::connect(relay.address()).await;
    assert_eq!(client.send(Method::POST, "/v1/acks", good).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_listed_enforcer_that_is_refused_does_not_spend_what_the_site_may_be_refused() {
    let (_domain, broker, _link, relay) = site().await;
    let before = refusals(&broker).await;
    let mut client = Client::connect(relay.address()).await;
    let begun = Instant::now();
    // Of a state that was never made: signed as it should be, so only a broker can tell.
    let ahead = broker.app().trust.epoch() + 1_000;
    let mut codes = Vec::new();
    for n in 0..20 {
        let body = ack(&broker, ahead + n).encode_signed(&guard_key()).unwrap();
        let (status, body) = client.send(Method::POST, "/v1/acks", body).await;
        codes.push(problem(status, &body).code);
    }
    // One, and one more for every pause that has passed since it was sent.
    let most = 1 + begun.elapsed().as_secs() / REFUSED_PAUSE.as_secs();
    assert_eq!(codes[0], "upstream-refused");
    let up = codes.iter().filter(|code| *code == "upstream-refused").count();
    assert!(up as u64 <= most, "{up} of {most}: {codes:?}");
    let counted = refusals(&broker).await - before;
    assert!((1..=most).contains(&counted), "{counted} of {most}");
    relay.shutdown().await;
    broker.shutdown().await.unwrap();
}
