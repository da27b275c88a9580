//! The policy repository at a broker: from a folder or another broker, kept, served, activated, and denied at its end.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;

use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use common::client::Client;
use common::tpm::SoftNode;
use common::{Domain, PATIENCE, attest, command, eventually, in_time, ledger, now, statement, view};
use hyper::{Method, StatusCode};
use touchstone_cose::cbor::Value;
use touchstone_keybroker::config::Config;
use touchstone_keybroker::entry::{Effect, Entry, EntryError};
use touchstone_keybroker::service::{Broker, RunningBroker, ServiceError};
use touchstone_ledger::statement::{Kind, Outcome};
use touchstone_policies::{LoadOptions, Location, PolicyCode, load};

const QUICK: &str = "policy_refresh_ms = 100\n";

async fn status(domain: &Domain) -> serde_json::Value {
    let (code, body) = command(domain, Method::GET, "/status", "").await;
    assert_eq!(code, StatusCode::OK);
    serde_json::from_slice(&body).unwrap()
}

fn version(broker: &RunningBroker) -> u64 {
    broker.app().policy().version
}

fn move_away(domain: &Domain) {
    std::fs::rename(domain.path("policy"), domain.path("policy-away")).unwrap();
}

fn move_back(domain: &Domain) {
    std::fs::rename(domain.path("policy-away"), domain.path("policy")).unwrap();
}

#[tokio::test]
async fn a_timestamp_past_its_life_denies_and_the_trust_state_goes_on_granting_nothing() {
    let mut node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[]).with_more(QUICK);
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let first = attest(&mut client, &mut node, false).await.unwrap();
    assert!(first.allowed);
    // A version that ends soon: another one, where it has ended before the broker looked, or before it was asked.
    domain.stage(&[("timestamp_life_ms", "3000")]);
    let challenge = in_time("a challenge under a version that ends", async {
        loop {
            let before = version(&broker);
            domain.publish();
            let over = now() + 4;
            eventually("the version, or its end", || version(&broker) > before || now() >= over).await;
            if version(&broker) > before
                && let Ok(challenge) = client.hello(&node.hello(true)).await
            {
                return challenge;
            }
        }
    })
    .await;
    let (ending, expires) = (version(&broker), broker.app().policy().expires);
    eventually("the end of the timestamp", || now() >= expires).await;

    // A hello, an answer to a challenge of before, a key: the refusal says which role has ended.
    let hello = client.hello(&node.hello(true)).await.unwrap_err();
    let evidence = node.answer(common::DOMAIN, &challenge, client.export(&challenge.nonce));
    let evidence = client.submit(&evidence).await.unwrap_err();
    for refused in [hello, evidence] {
        assert_eq!(
            (refused.status, refused.code.as_str()),
            (503, "policy-expired-at-broker")
        );
        assert_eq!(refused.reasons, ["policy-timestamp-expired"]);
    }
    let (code, body) = client.send(Method::GET, "/v1/health", Vec::new()).await;
    assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
    assert!(String::from_utf8_lossy(&body).contains("policy-expired"));
    let (code, body) = client.send(Method::GET, "/v1/status/0", Vec::new()).await;
    assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE, "no list is fresh under it");
    assert!(String::from_utf8_lossy(&body).contains("policy-expired-at-broker"));
    let shown = status(&domain).await;
    let ended = shown["policy"]["ended"].as_str().unwrap();
    let expected = format!("policy-timestamp-expired: timestamp.json (timestamp, version {ending})");
    assert!(ended.starts_with(&expected), "{ended}");

    // Heads go on, fresh and with nothing new in them: what was granted before ends by itself or by a withdrawal.
    let before = view(&broker, &client.get("/v1/trust-state").await);
    let later = in_time("another head", async {
        loop {
            let later = view(&broker, &client.get("/v1/trust-state").await);
            if later.head().issued_at_ms > before.head().issued_at_ms {
                return later;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    // But what was refused, which is put on record once a minute.
    let between = before.head().ledger_size..later.head().ledger_size;
    let summaries = ledger(&broker).await.into_iter().enumerate();
    let mut new = summaries.filter(|(index, _)| between.contains(&(*index as u64)));
    assert!(new.all(|(_, statement)| statement.kind == Kind::RefusalSummary));
    assert_eq!(later.head().policy_version, ending);
    let decisions = |statements: &[touchstone_ledger::statement::Statement]| {
        let allowed = statements.iter().filter(|s| s.outcome == Outcome::Allow);
        allowed.count()
    };
    assert_eq!(decisions(&ledger(&broker).await), 1, "nothing was granted since");

    domain.stage(&[("timestamp_life_ms", "86400000")]);
    domain.publish();
    eventually("the new version", || version(&broker) > ending).await;
    assert!(attest(&mut client, &mut node, true).await.unwrap().allowed);
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_decision_under_the_version_before_is_refused_after_the_activation() {
    let mut node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[]).with_more(QUICK);
    let broker = domain.start().await;
    let app = broker.app();
    let mut client = Client::connect(broker.address()).await;
    let first = attest(&mut client, &mut node, false).await.unwrap();
    assert_eq!(statement(&broker, &first).policy_version, 1);
    let old = app.policy();
    let decided = |policy: [u8; 32]| Entry {
        statement: app
            .circumstances(app.clock.now_ms())
            .statement(Kind::RefusalSummary, Outcome::Recorded, Value::map([]))
            .sign(&app.keys.statement)
            .unwrap(),
        subject: None,
        policy: Some(policy),
        guards: Vec::new(),
        writes: Vec::new(),
        parts: Vec::new(),
        effect: Effect::None,
    };
    app.sequencer.record(decided(old.digest)).await.unwrap();
    let kept = decided(old.digest);

    domain.publish();
    eventually("the new version", || version(&broker) == 2).await;
    assert_eq!(app.sequencer.record(kept).await, Err(EntryError::PolicyChanged));
    app.sequencer.record(decided(app.policy().digest)).await.unwrap();
    // A session of before goes on under the new version: it is decided anew.
    let again = attest(&mut client, &mut node, true).await.unwrap();
    assert_eq!(statement(&broker, &again).policy_version, 2);

    let statements = ledger(&broker).await;
    let activations: Vec<_> = statements.iter().filter(|s| s.kind == Kind::PolicyActivation).collect();
    assert_eq!(activations.len(), 2);
    let body = &activations[1].body;
    assert_eq!(body.get(0).and_then(Value::as_u64), Some(2));
    assert_eq!(body.get(1).and_then(Value::as_bytes), Some(&app.policy().digest[..]));
    let whole = body.get(6).and_then(Value::as_array).unwrap();
    assert_eq!(whole[1].as_bytes(), Some(&app.policy().global_digest[..]));
    let position = statements.iter().position(|s| s == activations[1]).unwrap();
    let versions = |part: &[touchstone_ledger::statement::Statement]| {
        part.iter()
            .map(|s| s.policy_version)
            .collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(versions(&statements[..position]), [1].into());
    assert_eq!(versions(&statements[position..]), [2].into());
    let head = view(&broker, &client.get("/v1/trust-state").await);
    assert_eq!(
        (head.head().policy_version, head.head().policy_digest),
        (2, app.policy().digest)
    );
    broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_broker_starts_from_its_mirror_and_not_from_an_older_repository() {
    let mut node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[]).with_more(QUICK);
    copy(&domain.path("policy"), &domain.path("old"));
    domain.publish();
    domain.start().await.shutdown().await.unwrap();

    move_away(&domain);
    let broker = domain.start().await;
    assert_eq!(version(&broker), 2);
    let mut client = Client::connect(broker.address()).await;
    assert!(attest(&mut client, &mut node, false).await.unwrap().allowed);
    let refused = status(&domain).await["policy"]["refused"].clone();
    assert!(refused.as_str().unwrap().starts_with("policy-io"), "{refused}");
    // Back again, it is followed.
    move_back(&domain);
    domain.publish();
    eventually("the new version", || version(&broker) == 3).await;
    assert_eq!(status(&domain).await["policy"]["refused"], serde_json::Value::Null);
    broker.shutdown().await.unwrap();

    // Somebody serves what was published first.
    move_away(&domain);
    copy(&domain.path("old"), &domain.path("policy"));
    let broker = domain.start().await;
    assert_eq!(version(&broker), 3);
    let refused = status(&domain).await["policy"]["refused"].clone();
    assert!(refused.as_str().unwrap().contains("policy-rollback"), "{refused}");
    broker.shutdown().await.unwrap();
    // Without a mirror there is nothing to start from, and the floors still hold.
    std::fs::remove_dir_all(domain.path("data/policy")).unwrap();
    let error = Broker::start(domain.config()).await.err().unwrap();
    assert!(error.to_string().contains("policy-rollback"), "{error}");
}

#[tokio::test]
async fn what_cannot_be_accepted_leaves_the_version_in_force_and_the_mirror() {
    let node = SoftNode::new("good");
    let domain = Domain::new(&[("node-1", &node)], &[]).with_more(QUICK);
    let broker = domain.start().await;
    let before = broker.app().policy().versions.snapshot;
    let refused = || broker.app().policy_refused.lock().unwrap().clone().unwrap_or_default();

    // A disk that takes no more, in the middle of writing the mirror: a folder is where the snapshot should be. What the
    // version takes away does not wait for the disk.
    let blocked = domain.path("data/policy/metadata/2.snapshot.json");
    std::fs::create_dir(&blocked).unwrap();
    domain.publish();
    eventually("the new version", || version(&broker) == 2).await;
    assert_eq!(refused(), "");
    assert_ne!(broker.app().policy().versions.snapshot, before);
    let kinds = ledger(&broker).await;
    assert_eq!(kinds.iter().filter(|s| s.kind == Kind::PolicyActivation).count(), 2);
    std::fs::remove_dir(&blocked).unwrap();

    // A repository that was replaced in part.
    domain.publish();
    let snapshot = domain.path("policy/metadata/3.snapshot.json");
    let good = std::fs::read(&snapshot).unwrap();
    std::fs::write(&snapshot, b"{}").unwrap();
    eventually("a refusal or the version read before", || {
        refused().contains("policy-metadata-mismatch") || version(&broker) == 3
    })
    .await;
    std::fs::write(&snapshot, good).unwrap();
    eventually("the new version", || version(&broker) == 3 && refused().is_empty()).await;

    // The repository is there and says nothing.
    let digest = broker.app().policy().digest;
    std::fs::remove_file(domain.path("policy/metadata/timestamp.json")).unwrap();
    eventually("a refusal", || refused().contains("policy-not-published")).await;
    assert_eq!(broker.app().policy().digest, digest);
    broker.shutdown().await.unwrap();
}

/// A second broker of the domain, which has the first one's keys and its policy from `place`.
fn second(domain: &Domain, place: &str) -> Config {
    if !domain.path("second").exists() {
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(domain.path("second"))
            .unwrap();
    }
    copy(&domain.path("data/keys"), &domain.path("second/keys"));
    let of_the_first = domain.config();
    Config {
        data_dir: domain.path("second"),
        policy: Location::parse(place).unwrap(),
        policy_listen: None,
        ..of_the_first
    }
}

#[tokio::test]
async fn the_repository_is_had_from_another_broker() {
    let mut node = SoftNode::new("good");
    let domain =
        Domain::new(&[("node-1", &node)], &[]).with_more("policy_refresh_ms = 100\npolicy_listen = \"127.0.0.1:0\"\n");
    let first = domain.start().await;
    let place = format!("http://{}/v1/policy", first.policy_address().unwrap());
    let root = std::fs::read(domain.path("root.json")).unwrap();
    let options = || LoadOptions {
        root: Some(root.clone()),
        ..LoadOptions::default()
    };
    // As an agent or a guard has it.
    let policy = load(&Location::parse(&place).unwrap(), options(), now()).await.unwrap();
    assert_eq!(policy.digest, first.app().policy().digest);

    let other = Broker::start(second(&domain, &place)).await.unwrap();
    assert_eq!(other.app().policy().digest, policy.digest);
    domain.publish();
    eventually("the new version at both", || {
        version(&first) == 2 && version(&other) == 2
    })
    .await;
    let mut client = Client::connect(other.address()).await;
    assert!(attest(&mut client, &mut node, false).await.unwrap().allowed);

    // The HTTPS listener serves it too, and neither serves anything else.
    let mut secure = Client::connect(first.address()).await;
    let timestamp = secure.get("/v1/policy/metadata/timestamp.json").await;
    assert_eq!(
        timestamp,
        std::fs::read(domain.path("policy/metadata/timestamp.json")).unwrap()
    );
    for path in [
        "/v1/policy/metadata/9.root.json",
        "/v1/policy/staged/settings.toml",
        "/v1/policy/..%2fkeys%2ftls.pem",
        "/v1/policy/metadata/../../keys/tls.pem",
        "/v1/policy/",
    ] {
        let (code, _) = secure.send(Method::GET, path, Vec::new()).await;
        assert_eq!(code, StatusCode::NOT_FOUND, "{path}");
    }
    let plain = Location::parse(&format!("http://{}/v1", first.policy_address().unwrap())).unwrap();
    assert_eq!(
        load(&plain, options(), now()).await.unwrap_err().code(),
        PolicyCode::MetadataMissing
    );

    // Without the first the second goes on, also after a start of its own.
    first.shutdown().await.unwrap();
    eventually("word of it", || {
        let refused = other.app().policy_refused.lock().unwrap().clone();
        refused.is_some_and(|why| why.contains("policy-source-unreachable"))
    })
    .await;
    other.shutdown().await.unwrap();
    let other = started(second(&domain, &place)).await;
    assert_eq!(version(&other), 2);
    let mut client = Client::connect(other.address()).await;
    assert!(attest(&mut client, &mut node, true).await.unwrap().allowed);
    other.shutdown().await.unwrap();
}

async fn started(config: Config) -> RunningBroker {
    let begun = Instant::now();
    loop {
        match Broker::start(config.clone()).await {
            Ok(broker) => return broker,
            Err(ServiceError::Store(_)) if begun.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(to)
        .unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        let place = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&place)
                .unwrap();
            copy(&entry.path(), &place);
        } else {
            std::fs::copy(entry.path(), place).unwrap();
        }
    }
}
