//! Everybody comes back at once: who waits, who is told to come again, and that rights are taken away meanwhile.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests"
)]

use crate::common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::client::{self, Client, problem};
use common::tpm::SoftNode;
use common::{Domain, attest, authorization};
use http_body_util::BodyExt as _;
use hyper::{Method, StatusCode};
use touchstone_client::follow::Follower;
use touchstone_keybroker::service::RunningBroker;
use touchstone_policies::Job;

/// How many come at once. Unoptimised builds on two busy cores take a handshake in some milliseconds.
const STORM: usize = 300;

/// A follower of the broker as enforcers run it.
fn follower(broker: &RunningBroker, name: &str) -> Follower {
    Follower::start(common::source(broker, broker.address(), name, &[Job::Tls]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_withdrawal_does_not_wait_for_those_who_come_back_at_once_and_all_of_them_hear_of_it() {
    let mut node = SoftNode::new("good");
    let domain = Domain::new(
        &[("node-1", &node)],
        &[("freshness_window_ms", "100000"), ("authorization_life_ms", "120000")],
    );
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let answer = attest(&mut client, &mut node, false).await.unwrap();
    let place = authorization(&broker, &answer).contents().status;
    let early = follower(&broker, "early");
    let mut views = early.views();
    views.wait_for(Option::is_some).await.unwrap();

    let config = Arc::new(client::config(&[&rustls::version::TLS13]));
    let here = Arc::new(AtomicUsize::new(0));
    let begun = Instant::now();
    let storm: Vec<_> = (0..STORM)
        .map(|n| {
            let (config, here, address) = (Arc::clone(&config), Arc::clone(&here), broker.address());
            tokio::spawn(async move {
                let mut attempts = 0;
                loop {
                    attempts += 1;
                    if let Ok(mut client) = Client::with(address, (*config).clone()).await {
                        let path = format!("/v1/trust-state/stream?subscriber=guard-{n}");
                        let mut body = client.open(Method::GET, &path, vec![]).await.into_body();
                        if body.frame().await.is_some_and(|frame| frame.is_ok()) {
                            here.fetch_add(1, Ordering::SeqCst);
                            return (client, body, attempts);
                        }
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            })
        })
        .collect();
    // In the middle of it.
    while here.load(Ordering::SeqCst) < 10 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let waiting = STORM - here.load(Ordering::SeqCst);
    assert!(
        waiting > STORM / 2,
        "the storm was over before anything was asked: {waiting}"
    );
    let asked = Instant::now();
    let epoch = broker.app().trust.epoch();
    let gone = broker
        .app()
        .trust
        .withdraw(&[place], broker.app().clock.now_ms())
        .unwrap();
    views
        .wait_for(|view| view.as_ref().is_some_and(|view| view.head().epoch > epoch))
        .await
        .unwrap();
    let heard = asked.elapsed();
    let still = STORM - here.load(Ordering::SeqCst);
    broker.app().trust.durable(gone);
    for one in storm {
        let (_client, _body, _attempts) = one.await.unwrap();
    }
    let all = begun.elapsed();
    println!("heard after {heard:?} with {still} of {STORM} still outside; all inside after {all:?}");
    assert!(still > 0, "nobody was waiting any more");
    // Behind those who wait it would be told after most of the storm.
    assert!(heard < all / 4, "{heard:?} of {all:?}");
    broker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_finds_the_stream_full_is_told_when_to_come_again_and_gets_the_place_of_who_leaves() {
    let domain = Domain::new(&[], &[]).with_limits("subscribers = 2");
    let broker = domain.start().await;
    let mut held = Vec::new();
    for n in 0..2 {
        let mut client = Client::connect(broker.address()).await;
        let path = format!("/v1/trust-state/stream?subscriber=guard-{n}");
        let response = client.open(Method::GET, &path, vec![]).await;
        assert_eq!(response.status(), StatusCode::OK);
        held.push((client, response));
    }
    let mut third = Client::connect(broker.address()).await;
    let refused = third
        .open(Method::GET, "/v1/trust-state/stream?subscriber=guard-3", vec![])
        .await;
    assert_eq!(refused.headers()["retry-after"], "5");
    let (status, body) = (
        refused.status(),
        refused.into_body().collect().await.unwrap().to_bytes(),
    );
    assert_eq!(problem(status, &body).code, "subscribers-full");

    // A follower that was told waits at least as long as it was told, and then it is in.
    let begun = Instant::now();
    let late = follower(&broker, "late");
    let mut views = late.views();
    tokio::time::sleep(Duration::from_millis(500)).await;
    drop(held);
    views.wait_for(Option::is_some).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(5), "{:?}", begun.elapsed());
    broker.shutdown().await.unwrap();
}
