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
use common::{Domain, attest, authorization, eventually, in_time, refusals};
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

/// How often a storm is made: one that is over before anything was asked in it shows nothing, nor does one in which this test
/// was not let run in between.
const STORMS: usize = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_withdrawal_does_not_wait_for_those_who_come_back_at_once_and_all_of_them_hear_of_it() {
    for _ in 0..STORMS {
        let (waiting, still) = storm().await;
        println!("heard while {still} of the {waiting} who waited when it was asked were still outside");
        // Behind those who wait it would be told after all of them.
        if waiting > STORM / 2 && still > waiting / 4 {
            return;
        }
    }
    panic!("never before those who were waiting");
}

/// How many of a storm were outside when a withdrawal was asked for, and how many when it was heard of. Everybody gets in.
async fn storm() -> (usize, usize) {
    let mut node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[]);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let answer = attest(&mut client, &mut node, false).await.unwrap();
    let place = authorization(&broker, &answer).contents().status;
    let early = follower(&broker, "early");
    let mut views = early.views();
    drop(in_time("a state", views.wait_for(Option::is_some)).await.unwrap());

    let config = Arc::new(client::config(&[&rustls::version::TLS13]));
    let here = Arc::new(AtomicUsize::new(0));
    let storm: Vec<_> = (0..STORM)
        .map(|n| {
            let (config, here, address) = (Arc::clone(&config), Arc::clone(&here), broker.address());
            tokio::spawn(async move {
                loop {
                    if let Ok(mut client) = Client::with(address, (*config).clone()).await {
                        let path = format!("/v1/trust-state/stream?subscriber=guard-{n}");
                        // Whoever is let go in the middle of it comes again, as after a connection that was refused.
                        if let Ok(response) = client.try_open(Method::GET, &path, vec![]).await {
                            let mut body = response.into_body();
                            if body.frame().await.is_some_and(|frame| frame.is_ok()) {
                                here.fetch_add(1, Ordering::SeqCst);
                                return (client, body);
                            }
                        }
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            })
        })
        .collect();
    // In the middle of it.
    eventually("the first of them", || here.load(Ordering::SeqCst) >= 10).await;
    let waiting = STORM - here.load(Ordering::SeqCst);
    let epoch = broker.app().trust.epoch();
    let gone = broker
        .app()
        .trust
        .withdraw(&[place], broker.app().clock.now_ms())
        .unwrap();
    let told = views.wait_for(|view| view.as_ref().is_some_and(|view| view.head().epoch > epoch));
    drop(in_time("the withdrawal", told).await.unwrap());
    let still = STORM - here.load(Ordering::SeqCst);
    broker.app().trust.durable(gone);
    let mut inside = Vec::new();
    for one in storm {
        inside.push(in_time("the last of them", one).await.unwrap());
    }
    drop(inside);
    broker.shutdown().await.unwrap();
    (waiting, still)
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
    let before = refusals(&broker).await;
    let begun = Instant::now();
    let late = follower(&broker, "late");
    let mut views = late.views();
    in_time("it is told", async {
        while refusals(&broker).await == before {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    drop(held);
    drop(in_time("its place", views.wait_for(Option::is_some)).await.unwrap());
    assert!(begun.elapsed() >= Duration::from_secs(5), "{:?}", begun.elapsed());
    broker.shutdown().await.unwrap();
}
