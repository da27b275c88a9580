//! Drift between real brokers of one domain: replicas with keys, stores and repositories of their own.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use common::client::{Client, problem};
use common::tpm::SoftNode;
use common::{DOMAIN, REGION, attest, command_at, now, reference};
use hyper::{Method, StatusCode};
use serde_json::Value;
use touchstone_cose::key::SigningKey;
use touchstone_keybroker::config::Config;
use touchstone_keybroker::drift::report::{EXPORTER, Request, Wanted};
use touchstone_keybroker::entry::{Effect, Entry};
use touchstone_keybroker::log;
use touchstone_keybroker::service::{self, Broker, RunningBroker, ServiceError};
use touchstone_ledger::statement::{Kind, Statement, VerifiedStatement};
use touchstone_policies::{self as policies, Keyset, NodeIdentity, NodePlace};

/// How long a condition is waited for before the test fails.
const PATIENCE: Duration = Duration::from_secs(120);
/// Rounds that are waited for where nothing must happen.
const ROUNDS: u64 = 4;

/// Brokers of one domain, each with a folder of its own of everything.
struct Brokers {
    folder: tempfile::TempDir,
    names: &'static [&'static str],
    addresses: Vec<SocketAddr>,
}

impl Brokers {
    fn new(names: &'static [&'static str], nodes: &[(&str, &SoftNode)]) -> Self {
        let brokers = Self {
            folder: tempfile::tempdir().unwrap(),
            names,
            addresses: names.iter().map(|_| own_address()).collect(),
        };
        let repo = brokers.path("policy");
        policies::init(&repo, DOMAIN, &brokers.path("keys"), now()).unwrap();
        let settings = repo.join("staged/settings.toml");
        let mut text = std::fs::read_to_string(&settings).unwrap();
        // A report counts for long on a slow machine, and a new policy spreads quickly.
        for (key, value) in [
            ("freshness_window_ms", "600000"),
            ("attestation_deadline_ms", "3600000"),
            ("authorization_life_ms", "7200000"),
        ] {
            let line = text.lines().find(|line| line.starts_with(key)).unwrap().to_owned();
            text = text.replace(&line, &format!("{key} = {value}"));
        }
        std::fs::write(&settings, text).unwrap();
        for (name, node) in nodes {
            add_node(&repo, name, node);
        }
        policies::reference_add(&repo, &reference().encode(), Some("golden"), None, None).unwrap();
        let keysets = names.iter().map(|name| {
            let keyset = service::init(&brokers.path(&format!("data-{name}")), name, now() - 60, 24 * 3_600).unwrap();
            Keyset::parse(&std::fs::read(keyset).unwrap()).unwrap()
        });
        let merged = Keyset {
            version: 1,
            keys: keysets.flat_map(|keyset| keyset.keys).collect(),
        };
        policies::keyset_add(&repo, merged.to_json().as_ref()).unwrap();
        brokers.publish("policy");
        std::fs::copy(repo.join("metadata/1.root.json"), brokers.path("root.json")).unwrap();
        for name in names {
            brokers.give("policy", name);
        }
        brokers
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn publish(&self, repo: &str) {
        policies::publish(&self.path(repo), &self.path("keys"), now()).unwrap();
    }

    /// Puts what is published in `repo` where the broker looks.
    fn give(&self, repo: &str, broker: &str) {
        copy(&self.path(repo), &self.path(&format!("policy-{broker}")));
    }

    async fn start(&self, name: &str) -> RunningBroker {
        Broker::start(self.config(name, name)).await.unwrap()
    }

    fn config(&self, name: &str, but: &str) -> Config {
        let text = |name: String| toml::Value::String(self.path(&name).to_str().unwrap().into()).to_string();
        let address = |name: &str| self.addresses[self.names.iter().position(|n| *n == name).unwrap()];
        let peers = self.names.iter().filter(|peer| **peer != but);
        let peers: String = peers
            .map(|peer| format!("[[peers]]\nreplica = {peer:?}\nurl = \"https://{}\"\n", address(peer)))
            .collect();
        Config::parse(&format!(
            "data_dir = {}\nlisten = \"{}\"\npolicy = {}\npolicy_root = {{ file = {} }}\ndomain = \"{DOMAIN}\"\n{peers}",
            text(format!("data-{name}")),
            address(name),
            text(format!("policy-{name}")),
            text("root.json".into()),
        ))
        .unwrap()
    }

    async fn admin(&self, broker: &str, method: Method, path: &str, body: &str) -> (StatusCode, Value) {
        let socket = self.path(&format!("data-{broker}/admin.sock"));
        let (status, body) = command_at(&socket, method, path, body).await;
        (status, serde_json::from_slice(&body).unwrap())
    }

    async fn reload(&self, broker: &str) {
        let (status, said) = self.admin(broker, Method::POST, "/reload", "").await;
        assert_eq!(status, StatusCode::OK, "{broker}: {said}");
    }

    async fn drift(&self, broker: &str) -> Value {
        self.admin(broker, Method::GET, "/status", "").await.1["drift"].clone()
    }

    /// Waits until what a broker shows of the comparison is so.
    async fn until(&self, broker: &str, what: &str, holds: impl Fn(&Value) -> bool) {
        let begun = Instant::now();
        loop {
            let shown = self.drift(broker).await;
            if holds(&shown) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{broker}: {what}: {shown:#}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// An address on loopback for one broker: who names it as a peer does so before it listens, and it listens there again.
fn own_address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let ip = Ipv4Addr::new(127, high.max(1), low, NEXT.fetch_add(1, Ordering::Relaxed));
    SocketAddr::from((ip, 7441))
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn add_node(repo: &Path, name: &str, node: &SoftNode) {
    let place = NodePlace {
        name,
        region: REGION,
        zone: None,
        roles: &["worker".to_owned()],
        owner: None,
    };
    policies::node_add(repo, &NodeIdentity::Ek(node.ek_public()), place).unwrap();
}

/// What an attestation comes to: nothing, or the code of the refusal.
async fn try_attest(broker: &RunningBroker, node: &mut SoftNode, known: bool) -> Result<bool, String> {
    let mut client = Client::connect(broker.address()).await;
    let answer = attest(&mut client, node, known).await;
    answer.map(|answer| answer.allowed).map_err(|problem| problem.code)
}

/// Every statement of kind `divergence` in the broker's ledger.
fn divergences(broker: &RunningBroker) -> Vec<Statement> {
    let key = broker.app().keys.statement.verifying_key();
    let entries = log::entries(&*broker.app().store, 0, 500).unwrap();
    let statements = entries
        .iter()
        .map(|entry| VerifiedStatement::parse(entry, &key).unwrap().into_statement());
    statements
        .filter(|statement| statement.kind == Kind::Divergence)
        .collect()
}

fn denies(statement: &Statement) -> bool {
    statement.body.get(2).unwrap().as_bool().unwrap()
}

fn codes(statement: &Statement) -> Vec<&str> {
    statement.reasons.iter().map(|reason| reason.code.as_str()).collect()
}

fn agree(shown: &Value, brokers: u64) -> bool {
    shown["agree"] == brokers && shown["denies"] == false
}

#[tokio::test(flavor = "multi_thread")]
async fn three_agree_make_each_others_decisions_again_and_a_policy_that_spreads_is_no_alarm() {
    let (mut node, other) = (SoftNode::new("good"), SoftNode::new("good"));
    let brokers = Brokers::new(&["a", "b", "c"], &[("node-1", &node)]);
    let (a, b, c) = (
        brokers.start("a").await,
        brokers.start("b").await,
        brokers.start("c").await,
    );
    assert_eq!(try_attest(&a, &mut node, false).await, Ok(true));
    assert_eq!(try_attest(&a, &mut node, true).await, Ok(true));
    for name in ["a", "b", "c"] {
        brokers.until(name, "all agree", |shown| agree(shown, 3)).await;
    }
    for name in ["b", "c"] {
        brokers
            .until(name, "decisions of a made again", |shown| {
                shown["peers"]["a"]["decisions_made_again"].as_u64() >= Some(2)
            })
            .await;
    }

    // A new version is at one of them first, and for some rounds.
    add_node(&brokers.path("policy"), "node-2", &other);
    brokers.publish("policy");
    brokers.give("policy", "a");
    brokers.reload("a").await;
    assert_eq!((a.app().policy().version, b.app().policy().version), (2, 1));
    tokio::time::sleep(Duration::from_secs(ROUNDS)).await;
    for name in ["a", "b", "c"] {
        assert!(
            agree(&brokers.drift(name).await, 3),
            "{name}: {:#}",
            brokers.drift(name).await
        );
    }
    assert_eq!(try_attest(&a, &mut node, true).await, Ok(true));
    for name in ["b", "c"] {
        brokers.give("policy", name);
        brokers.reload(name).await;
        brokers.until(name, "still agree", |shown| agree(shown, 3)).await;
    }
    for broker in [&a, &b, &c] {
        assert_eq!(divergences(broker), [], "no alarm");
    }
    for broker in [a, b, c] {
        broker.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_got_another_policy_of_the_same_version_denies_and_the_others_go_on() {
    let (mut node, second, third) = (SoftNode::new("good"), SoftNode::new("good"), SoftNode::new("good"));
    let brokers = Brokers::new(&["a", "b", "c"], &[("node-1", &node)]);
    let (a, b, c) = (
        brokers.start("a").await,
        brokers.start("b").await,
        brokers.start("c").await,
    );
    for broker in [&a, &b, &c] {
        assert_eq!(try_attest(broker, &mut node, false).await, Ok(true));
    }
    for name in ["a", "b", "c"] {
        brokers.until(name, "all agree", |shown| agree(shown, 3)).await;
    }

    // Two policies of one version, both signed by the domain's keys.
    copy(&brokers.path("policy"), &brokers.path("other"));
    add_node(&brokers.path("policy"), "node-2", &second);
    add_node(&brokers.path("other"), "node-2", &third);
    for (repo, to) in [("policy", &["a", "b"][..]), ("other", &["c"])] {
        brokers.publish(repo);
        for name in to {
            brokers.give(repo, name);
            brokers.reload(name).await;
        }
    }
    assert_eq!(a.app().policy().version, c.app().policy().version);
    assert_ne!(a.app().policy().digest, c.app().policy().digest);
    brokers
        .until("c", "it denies", |shown| {
            shown["denies"] == true && shown["differ"] == 2
        })
        .await;
    for name in ["a", "b"] {
        brokers
            .until(name, "c differs", |shown| {
                shown["differ"] == 1 && shown["agree"] == 2 && shown["denies"] == false
            })
            .await;
        let shown = brokers.drift(name).await;
        let said = shown["peers"]["c"]["differences"].to_string();
        assert!(said.contains("drift-policy-digest"), "{said}");
    }

    // The majority goes on, the minority grants nothing, and takes away as ever.
    for broker in [&a, &b] {
        assert_eq!(try_attest(broker, &mut node, true).await, Ok(true));
    }
    assert_eq!(try_attest(&c, &mut node, true).await, Err("broker-diverged".into()));
    assert!(c.app().trust.is_held() && !a.app().trust.is_held());
    // Who polls is told of no fresh list either.
    for (broker, said) in [(&a, None), (&c, Some("broker-diverged"))] {
        let mut client = Client::connect(broker.address()).await;
        let (status, body) = client.send(Method::GET, "/v1/status/0", Vec::new()).await;
        match said {
            None => assert_eq!(status, StatusCode::OK),
            Some(code) => assert_eq!(problem(status, &body).code, code),
        }
    }
    let mut client = Client::connect(c.address()).await;
    let (status, health) = client.send(Method::GET, "/v1/health", Vec::new()).await;
    let health: Value = serde_json::from_slice(&health).unwrap();
    assert_eq!((status.as_u16(), &health["status"]), (503, &"diverged".into()));
    let epoch = c.app().trust.epoch();
    let (status, said) = brokers
        .admin(
            "c",
            Method::POST,
            "/revoke",
            r#"{"node": "node-1", "reason": "stolen"}"#,
        )
        .await;
    assert_eq!(status, StatusCode::OK, "{said}");
    assert!(c.app().trust.epoch() > epoch);

    // On record on both sides, with what was signed.
    for (broker, peer, side) in [(&a, "c", false), (&b, "c", false), (&c, "a", true)] {
        let recorded = divergences(broker);
        let found = recorded
            .iter()
            .find(|statement| statement.body.get(0).unwrap().as_text() == Some(peer));
        let found = found.unwrap_or_else(|| panic!("no statement about {peer}"));
        assert!(codes(found).contains(&"drift-policy-digest"), "{:?}", found.reasons);
        assert!(!found.body.get(3).unwrap().as_bytes().unwrap().is_empty());
        assert_eq!(recorded.iter().any(denies), side);
    }

    // One policy again: it agrees, grants, and that is on record too.
    add_node(&brokers.path("policy"), "node-3", &third);
    brokers.publish("policy");
    for name in ["a", "b", "c"] {
        brokers.give("policy", name);
        brokers.reload(name).await;
    }
    for name in ["a", "b", "c"] {
        brokers.until(name, "all agree again", |shown| agree(shown, 3)).await;
    }
    assert_eq!(try_attest(&c, &mut node, true).await, Ok(true));
    let begun = Instant::now();
    let ended = |statement: &Statement| !denies(statement) && statement.reasons.is_empty();
    while !divergences(&c).last().is_some_and(ended) {
        assert!(begun.elapsed() < PATIENCE, "{:#?}", divergences(&c).last());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for broker in [a, b, c] {
        broker.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_majority_is_seen_both_sides_deny_and_who_is_alone_does_not() {
    let (mut node, second, third) = (SoftNode::new("good"), SoftNode::new("good"), SoftNode::new("good"));
    let brokers = Brokers::new(&["a", "b"], &[("node-1", &node)]);
    let a = brokers.start("a").await;
    // The other one is not there: that is no divergence.
    brokers
        .until("a", "a round", |shown| !shown["peers"]["b"]["unseen_because"].is_null())
        .await;
    assert_eq!(try_attest(&a, &mut node, false).await, Ok(true));
    copy(&brokers.path("policy"), &brokers.path("other"));
    add_node(&brokers.path("policy"), "node-2", &second);
    add_node(&brokers.path("other"), "node-2", &third);
    for (repo, name) in [("policy", "a"), ("other", "b")] {
        brokers.publish(repo);
        brokers.give(repo, name);
    }
    brokers.reload("a").await;
    let b = brokers.start("b").await;
    for (name, broker) in [("a", &a), ("b", &b)] {
        brokers.until(name, "it denies", |shown| shown["denies"] == true).await;
        assert_eq!(
            try_attest(broker, &mut node, false).await,
            Err("broker-diverged".into())
        );
    }
    // The other falls silent, and this one is started anew: that it differed goes on to count, from the first moment.
    b.shutdown().await.unwrap();
    a.shutdown().await.unwrap();
    let a = brokers.start("a").await;
    let diverged = || Err("broker-diverged".to_owned());
    assert!(a.app().drift.standing().denies && a.app().trust.is_held());
    assert_eq!(try_attest(&a, &mut node, true).await, diverged());
    let frame = a.app().trust.full();
    let head = common::view(&a, &frame).head().clone();
    assert!(
        head.fresh_until_ms < 1_000_000,
        "no fresh head: {}",
        head.fresh_until_ms
    );
    brokers
        .until("a", "a round", |shown| !shown["peers"]["b"]["unseen_because"].is_null())
        .await;
    assert_eq!(try_attest(&a, &mut node, true).await, diverged());
    a.shutdown().await.unwrap();

    // The operator's way out: who is no peer does not count.
    let mut config = brokers.config("a", "a");
    config.peers.clear();
    let a = Broker::start(config).await.unwrap();
    assert_eq!(try_attest(&a, &mut node, true).await, Ok(true));
    a.shutdown().await.unwrap();

    // And the publisher's: who has no key in the keyset.
    let a = brokers.start("a").await;
    assert_eq!(try_attest(&a, &mut node, true).await, diverged(), "it is a peer again");
    let keyset = a.app().policy().keyset.clone();
    let without = Keyset {
        version: keyset.version + 1,
        keys: keyset
            .keys
            .iter()
            .filter(|entry| entry.replica == "a")
            .cloned()
            .collect(),
    };
    policies::keyset_add(&brokers.path("policy"), without.to_json().as_ref()).unwrap();
    brokers.publish("policy");
    brokers.give("policy", "a");
    brokers.reload("a").await;
    brokers.until("a", "it is alone", |shown| agree(shown, 1)).await;
    assert_eq!(try_attest(&a, &mut node, true).await, Ok(true));
    a.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_that_comes_out_otherwise_is_found_by_the_others_and_cuts_its_broker_off() {
    let mut node = SoftNode::new("good");
    let brokers = Brokers::new(&["a", "b", "c"], &[("node-1", &node)]);
    let (a, b, c) = (
        brokers.start("a").await,
        brokers.start("b").await,
        brokers.start("c").await,
    );
    assert_eq!(try_attest(&c, &mut node, false).await, Ok(true));
    for name in ["a", "b", "c"] {
        brokers.until(name, "all agree", |shown| agree(shown, 3)).await;
    }
    // The recorded inputs are genuine; what c says came of them is not.
    let app = c.app();
    let entry = log::entry(&*app.store, app.head().size - 1).unwrap().unwrap();
    let mut lie = VerifiedStatement::parse(&entry, &app.keys.statement.verifying_key())
        .unwrap()
        .into_statement();
    assert!(lie.inputs.contains_key("inputs"));
    lie.time += 1;
    let lie = Entry {
        statement: lie.sign(&app.keys.statement).unwrap(),
        subject: None,
        policy: None,
        guards: Vec::new(),
        writes: Vec::new(),
        parts: Vec::new(),
        effect: Effect::None,
    };
    app.sequencer.record(lie).await.unwrap();
    for name in ["a", "b"] {
        brokers
            .until(name, "c decides otherwise", |shown| {
                let said = shown["peers"]["c"]["differences"].to_string();
                said.contains("drift-decision") && shown["denies"] == false && shown["agree"] == 2
            })
            .await;
    }
    // c computes as the others do, and believes it when more than half say that it differs.
    brokers
        .until("c", "it denies", |shown| {
            shown["denies"] == true
                && shown["peers"]["a"]["differences"]
                    .to_string()
                    .contains("drift-said-by-peer")
        })
        .await;
    assert_eq!(try_attest(&a, &mut node, false).await, Ok(true));
    assert_eq!(try_attest(&c, &mut node, true).await, Err("broker-diverged".into()));
    let begun = Instant::now();
    while !divergences(&b).iter().any(|found| codes(found) == ["drift-decision"]) {
        assert!(begun.elapsed() < PATIENCE, "{:#?}", divergences(&b));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for broker in [a, b, c] {
        broker.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_a_peer_on_its_own_connection_is_told_anything() {
    let node = SoftNode::new("good");
    let brokers = Brokers::new(&["a", "b"], &[("node-1", &node)]);
    // Its own peer: a list that was copied as it is.
    let own = Broker::start(brokers.config("b", "nobody")).await.err().unwrap();
    assert_eq!(own, ServiceError::OwnPeer("b".into()));
    let (a, b) = (brokers.start("a").await, brokers.start("b").await);
    let mut client = Client::connect(a.address()).await;
    let other = Client::connect(a.address()).await;
    let request = |client: &Client, domain: &str, key: &SigningKey, wanted| {
        let nonce = [7; 32];
        let request = Request {
            domain: domain.into(),
            nonce,
            exporter: client.export_for(EXPORTER, &nonce),
            wanted,
        };
        request.sign(key).unwrap()
    };
    let peer = &*b.app().keys.trust_state;
    let wanted = Wanted::Report;
    let rows = [
        ("junk", b"junk".to_vec()),
        (
            "a stranger",
            request(&client, DOMAIN, &SigningKey::from_seed([9; 32]), wanted),
        ),
        (
            "the broker itself",
            request(&client, DOMAIN, &a.app().keys.trust_state, wanted),
        ),
        (
            "a key of another job",
            request(&client, DOMAIN, &b.app().keys.statement, wanted),
        ),
        ("another domain", request(&client, "other.example", peer, wanted)),
        ("another connection", request(&other, DOMAIN, peer, wanted)),
    ];
    for (name, body) in rows {
        let (status, said) = client.send(Method::POST, "/v1/drift", body).await;
        assert_eq!(problem(status, &said).code, "peer-not-authenticated", "{name}");
    }
    let good = request(&client, DOMAIN, peer, wanted);
    assert_eq!(client.send(Method::POST, "/v1/drift", good).await.0, StatusCode::OK);
    let none = request(&client, DOMAIN, peer, Wanted::Record(u64::MAX));
    let (status, said) = client.send(Method::POST, "/v1/drift", none).await;
    assert_eq!(problem(status, &said).code, "request-not-found");
    a.shutdown().await.unwrap();
    b.shutdown().await.unwrap();
}
