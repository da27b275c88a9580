//! Enforcers say which trust state they enforce, and a revocation closes with what they said.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::client::{Client, problem};
use common::{DOMAIN, Domain, in_time, ledger};
use hyper::{Method, StatusCode};
use tokio::sync::watch;
use touchstone_authorization::ack::{Ack, MAX_STOPPED};
use touchstone_client::follow::{Enforced, Follower};
use touchstone_cose::cbor::{Value, encode};
use touchstone_cose::key::SigningKey;
use touchstone_cose::sign1::{Protected, sign};
use touchstone_keybroker::entry::{Effect, Entry};
use touchstone_keybroker::service::RunningBroker;
use touchstone_ledger::statement::{Kind, Outcome, Statement};
use touchstone_policies::Job;

/// Nothing that is asked within it is too late, however slow the machine.
const WINDOW_MS: u64 = 600_000;
/// What it is made once all is said, where its end is waited for.
const SHORT_WINDOW_MS: u64 = 1_500;

/// A domain whose window is so long.
fn quick(window_ms: u64) -> Domain {
    let settings = [
        ("heartbeat_ms", "100"),
        ("failover_ms", "100"),
        ("skew_ms", "200"),
        ("freshness_window_ms", &window_ms.to_string()),
    ];
    Domain::new(&[], &settings)
}

/// Makes the window short; what is said next has the broker look at it.
async fn shorten(domain: &Domain) {
    let window = SHORT_WINDOW_MS.to_string();
    domain.change(&[("freshness_window_ms", &window)]).await;
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed([seed; 32])
}

/// A domain whose policy lists these enforcers, each with the key of its seed.
fn listing(enforcers: &[(&str, u8)]) -> Domain {
    let domain = quick(WINDOW_MS);
    let rows = enforcers.iter().map(|(name, seed)| {
        let public = hex::encode(key(*seed).verifying_key().to_spki_der());
        format!("[enforcers.\"{name}\"]\nkey = \"{public}\"\n")
    });
    let text: String = rows.collect();
    std::fs::write(domain.path("policy/staged/enforcers.toml"), text).unwrap();
    domain.publish();
    domain
}

fn ack(name: &str, broker: &RunningBroker, epoch: u64) -> Ack {
    Ack {
        domain: DOMAIN.into(),
        enforcer: name.into(),
        generation: broker.app().trust.generation(),
        epoch,
        enforced_at_ms: broker.app().clock.now_ms(),
        refused: 0,
    }
}

/// Takes something away, as every withdrawal does.
fn withdraw(broker: &RunningBroker) -> u64 {
    let trust = &broker.app().trust;
    let place = trust.deal().unwrap();
    let gone = trust.withdraw(&[place], broker.app().clock.now_ms()).unwrap();
    let epoch = gone.epoch;
    trust.durable(gone);
    epoch
}

/// The closures on record.
async fn closures(broker: &RunningBroker) -> Vec<Statement> {
    let all = ledger(broker).await;
    all.into_iter().filter(|s| s.kind == Kind::RevocationClosure).collect()
}

/// A member of a statement's body.
fn member(statement: &Statement, number: i64) -> Value {
    let Value::Map(members) = &statement.body else {
        panic!("a map")
    };
    let found = members.iter().find(|(key, _)| *key == Value::int(number));
    found.unwrap().1.clone()
}

async fn shown(domain: &Domain) -> serde_json::Value {
    let (_, body) = common::command(domain, Method::GET, "/status", "").await;
    serde_json::from_slice::<serde_json::Value>(&body).unwrap()["enforcers"].clone()
}

#[tokio::test]
async fn only_what_a_listed_enforcer_signed_of_a_state_of_this_domain_counts() {
    let domain = listing(&[("guard-1", 1), ("guard-2", 2)]);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let epoch = broker.app().trust.epoch();
    let good = ack("guard-1", &broker, epoch);
    let sign = |ack: &Ack, seed| ack.encode_signed(&key(seed)).unwrap();
    let with = |change: &dyn Fn(&mut Ack)| {
        let mut ack = good.clone();
        change(&mut ack);
        sign(&ack, 1)
    };
    let bytes = sign(&good, 1);
    let mut flipped = bytes.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for (attack, body, status, code) in [
        ("a key that nobody lists", sign(&good, 9), 401, "ack-not-accepted"),
        ("another's name", sign(&good, 2), 401, "ack-not-accepted"),
        (
            "another domain",
            with(&|ack| ack.domain = "other.example".into()),
            401,
            "ack-not-accepted",
        ),
        (
            "a state that was never made",
            with(&|ack| ack.epoch += 1),
            401,
            "ack-not-accepted",
        ),
        (
            "another generation",
            with(&|ack| ack.generation += 1),
            401,
            "ack-not-accepted",
        ),
        (
            "the future",
            with(&|ack| ack.enforced_at_ms += 3_600_000),
            401,
            "ack-not-accepted",
        ),
        ("a bit of the signature", flipped, 401, "ack-not-accepted"),
        ("cut short", bytes[..bytes.len() - 1].to_vec(), 401, "ack-not-accepted"),
        ("nothing", vec![], 401, "ack-not-accepted"),
        ("too long", vec![0; 600], 413, "request-body-too-large"),
    ] {
        let (found, body) = client.send(Method::POST, "/v1/acks", body).await;
        assert_eq!(found.as_u16(), status, "{attack}");
        assert_eq!(problem(found, &body).code, code, "{attack}");
        if status == 413 {
            client = Client::connect(broker.address()).await;
        }
        assert_eq!(shown(&domain).await["never"], 2, "{attack}");
    }
    let (status, _) = client.send(Method::POST, "/v1/acks", bytes.clone()).await;
    assert_eq!(status, StatusCode::OK);
    let after = shown(&domain).await;
    assert_eq!((&after["acknowledged"], &after["never"]), (&1.into(), &1.into()));
    assert_eq!(after["not_acknowledged"][0]["name"], "guard-2");

    // Said again by whoever has recorded it: no failure, and no news.
    withdraw(&broker);
    let (status, _) = client.send(Method::POST, "/v1/acks", bytes).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(shown(&domain).await["behind"], 1);
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_revocation_closes_with_the_last_acknowledgement_and_names_who_was_silent() {
    let domain = listing(&[("guard-1", 1), ("guard-2", 2), ("guard-3", 3)]);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let mut say = async |name: &str, seed, epoch| {
        let body = ack(name, &broker, epoch).encode_signed(&key(seed)).unwrap();
        let (status, _) = client.send(Method::POST, "/v1/acks", body).await;
        assert_eq!(status, StatusCode::OK, "{name}");
    };
    // Two follow; the third is listed and has never been heard of.
    let begun = broker.app().trust.epoch();
    say("guard-1", 1, begun).await;
    say("guard-2", 2, begun).await;
    let epoch = withdraw(&broker);
    say("guard-1", 1, epoch).await;
    assert_eq!(closures(&broker).await.len(), 0, "guard-2 is waited for");
    assert_eq!(shown(&domain).await["revocations_open"], 1);
    say("guard-2", 2, epoch).await;
    let closed = until_closed(&broker, 1).await.pop().unwrap();
    assert_eq!(member(&closed, 0), Value::array([epoch, epoch].map(Value::Unsigned)));
    let counts = [2, 3, 6].map(|number| member(&closed, number));
    assert_eq!(counts, [2u64, 2, 0].map(Value::Unsigned));
    // What it rests on can be read by whoever checks it.
    let digest = closed.inputs["acknowledgements"];
    let part = touchstone_keybroker::parts::read(&*broker.app().store, &digest)
        .unwrap()
        .unwrap();
    let acks = touchstone_cose::cbor::decode(&part, touchstone_cose::cbor::Limits::MESSAGE).unwrap();
    assert_eq!(acks.as_array().unwrap().len(), 2);

    // One falls silent: at the end of the bound it is named, and not before.
    let out_ms = broker.app().clock.now_ms();
    let spoken = epoch;
    let epoch = withdraw(&broker);
    say("guard-1", 1, epoch).await;
    assert_eq!(shown(&domain).await["revocations_open"], 1, "guard-2 is waited for");
    shorten(&domain).await;
    say("guard-1", 1, epoch).await;
    let closed = until_closed(&broker, 2).await.pop().unwrap();
    let counts = [2, 3, 6].map(|number| member(&closed, number));
    assert_eq!(counts, [2u64, 1, 1].map(Value::Unsigned));
    let row = Value::array([Value::text("guard-2"), Value::Unsigned(spoken)]);
    assert_eq!(member(&closed, 7), Value::array([row]));
    let Value::Unsigned(closed_ms) = member(&closed, 8) else {
        panic!("a time")
    };
    assert!(closed_ms >= out_ms + SHORT_WINDOW_MS + 100, "{closed_ms} {out_ms}");
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn one_listed_enforcer_that_lies_keeps_no_revocation_from_closing() {
    let domain = listing(&[("liar", 1), ("honest", 2)]);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let mut say = async |ack: Ack, seed| {
        let body = ack.encode_signed(&key(seed)).unwrap();
        let (status, _) = client.send(Method::POST, "/v1/acks", body).await;
        assert_eq!(status, StatusCode::OK, "{ack:?}");
    };
    let begun = broker.app().trust.epoch();
    say(ack("liar", &broker, begun), 1).await;
    say(ack("honest", &broker, begun), 2).await;
    for closed in 1..=2 {
        let epoch = withdraw(&broker);
        for (name, seed, refused) in [("liar", 1, MAX_STOPPED), ("honest", 2, 1)] {
            let ack = Ack {
                refused,
                ..ack(name, &broker, epoch)
            };
            say(ack, seed).await;
        }
        let closed = until_closed(&broker, closed).await.pop().unwrap();
        assert_eq!(member(&closed, 5), Value::Unsigned(MAX_STOPPED + 1));
        assert_eq!(member(&closed, 6), Value::Unsigned(0));
    }
    // More than that no library of ours signs; whoever signs it otherwise is refused.
    let beyond = Value::map([
        (1, Value::text("liar")),
        (3, Value::text(DOMAIN)),
        (
            -65537,
            Value::map(
                [(0, 1u64), (1, 1), (2, 1), (3, u64::MAX)].map(|(label, number)| (label, Value::Unsigned(number))),
            ),
        ),
    ]);
    let typ = Protected::typ(touchstone_authorization::ack::ACK_TYPE);
    let body = sign(&key(1), &typ, &encode(&beyond), &[]).unwrap();
    let (status, body) = client.send(Method::POST, "/v1/acks", body).await;
    assert_eq!(problem(status, &body).code, "ack-not-accepted");
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_broker_that_starts_anew_waits_for_those_it_has_not_heard_of_and_closes_what_was_open() {
    let domain = listing(&[("guard-1", 1), ("guard-2", 2)]);
    let broker = domain.start().await;
    let epoch = broker.app().trust.epoch();
    let say = async |broker: &RunningBroker, name: &str, seed, epoch| {
        let body = ack(name, broker, epoch).encode_signed(&key(seed)).unwrap();
        let mut client = Client::connect(broker.address()).await;
        let (status, _) = client.send(Method::POST, "/v1/acks", body).await;
        assert_eq!(status, StatusCode::OK, "{name}");
    };
    say(&broker, "guard-1", 1, epoch).await;
    say(&broker, "guard-2", 2, epoch).await;
    let open = withdraw(&broker);
    broker.shutdown().await.unwrap();

    let broker = domain.start().await;
    let begun = broker.app().trust.epoch();
    assert!(begun > open, "what was taken before it is in what it begins with");
    let later = withdraw(&broker);
    say(&broker, "guard-1", 1, later).await;
    assert_eq!(
        closures(&broker).await.len(),
        0,
        "guard-2 is waited for, which this one has never heard of"
    );
    // One statement holds what was open before the start, the other what came after it; both name who was silent.
    shorten(&domain).await;
    say(&broker, "guard-1", 1, later).await;
    let closed = until_closed(&broker, 2).await;
    for (closed, epoch) in closed.iter().zip([begun, later]) {
        assert_eq!(member(closed, 0), Value::array([epoch, epoch].map(Value::Unsigned)));
        let counts = [2, 3, 6].map(|number| member(closed, number));
        assert_eq!(counts, [2u64, 1, 1].map(Value::Unsigned), "{epoch}");
        let row = Value::array([Value::text("guard-2"), Value::Unsigned(0)]);
        assert_eq!(member(closed, 7), Value::array([row]));
    }
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_closure_is_recorded_however_many_statements_wait_for_the_disk() {
    let domain = listing(&[("guard-1", 1)]).with_limits("queue = 1");
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let mut say = async |epoch| {
        let body = ack("guard-1", &broker, epoch).encode_signed(&key(1)).unwrap();
        let (status, _) = client.send(Method::POST, "/v1/acks", body).await;
        assert_eq!(status, StatusCode::OK);
    };
    say(broker.app().trust.epoch()).await;
    // As many statements as there is no room for, until the closure has met that.
    let busy = Arc::new(AtomicBool::new(true));
    let crowd: Vec<_> = (0..64)
        .map(|_| {
            let (app, busy) = (Arc::clone(broker.app()), Arc::clone(&busy));
            tokio::spawn(async move {
                while busy.load(Ordering::Relaxed) {
                    let statement = app.circumstances(app.clock.now_ms()).statement(
                        Kind::Standing,
                        Outcome::Recorded,
                        Value::map([(0, Value::Null)]),
                    );
                    let entry = Entry {
                        statement: statement.sign(&app.keys.statement).unwrap(),
                        subject: None,
                        policy: None,
                        guards: Vec::new(),
                        writes: Vec::new(),
                        parts: Vec::new(),
                        effect: Effect::None,
                    };
                    let _ = app.sequencer.record(entry).await;
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for _ in 0..8 {
        say(withdraw(&broker)).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    busy.store(false, Ordering::Relaxed);
    for one in crowd {
        one.await.unwrap();
    }
    let closed = until_closed(&broker, 8).await;
    assert_eq!(closed.len(), 8);
    broker.shutdown().await.unwrap();
}

async fn until_closed(broker: &RunningBroker, count: usize) -> Vec<Statement> {
    in_time("a closure", async {
        loop {
            let found = closures(broker).await;
            if found.len() >= count {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

#[tokio::test]
async fn a_domain_that_lists_no_enforcers_closes_nothing() {
    let domain = quick(SHORT_WINDOW_MS);
    let broker = domain.start().await;
    withdraw(&broker);
    tokio::time::sleep(Duration::from_millis(SHORT_WINDOW_MS + 300)).await;
    assert_eq!(closures(&broker).await.len(), 0);
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_follower_acknowledges_every_epoch_it_comes_to_enforce() {
    let domain = listing(&[("guard-1", 1)]);
    let broker = domain.start().await;
    let follower = Follower::start(common::source(&broker, broker.address(), "guard-1", &[Job::Tls]));
    let (enforces, enforced) = watch::channel(None);
    let reporting = follower.acknowledge(std::sync::Arc::new(key(1)), enforced);
    let mut views = follower.views();
    let mut enforce = async |epoch: u64| {
        let at_least = |view: &Option<std::sync::Arc<touchstone_authorization::TrustView>>| {
            view.as_ref().is_some_and(|view| view.head().epoch >= epoch)
        };
        let view = in_time("the epoch", views.wait_for(at_least)).await;
        let view = view.unwrap().clone().unwrap();
        enforces.send_replace(Some(Enforced {
            generation: view.head().generation,
            epoch: view.head().epoch,
            at_ms: follower.clock().now_ms().unwrap(),
            refused: 3,
        }));
    };
    enforce(0).await;
    in_time("the acknowledgement", async {
        while shown(&domain).await["acknowledged"] != 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(
        shown(&domain).await["unlisted_streams"],
        0,
        "its stream is a listed one's"
    );
    let epoch = withdraw(&broker);
    enforce(epoch).await;
    let closed = until_closed(&broker, 1).await.pop().unwrap();
    let counts = [2, 3, 5, 6].map(|number| member(&closed, number));
    assert_eq!(counts, [1u64, 1, 3, 0].map(Value::Unsigned));
    drop(enforces);
    in_time("the end of the reports", reporting).await.unwrap();
    broker.shutdown().await.unwrap();
}
