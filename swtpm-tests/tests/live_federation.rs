//! Two whole domains: a node of one is let in by a guard of the other, under what that one's policy allows, for as long as
//! its own domain vouches for it and can be heard.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests: what is not as it must be fails"
)]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use swtpm_tests::boots::{self, Boot, KeyForm};
use swtpm_tests::domain::{Domain, Founding, NAME, Post, decided, eventually, recorded, rights, unlocked};
use swtpm_tests::node::Node;
use swtpm_tests::relay::Relay;
use touchstone_attest::agent::foreign::{Abroad, fetch_foreign};
use touchstone_attest::agent::release::ReleaseError;
use touchstone_attest::local;
use touchstone_authorization::{Admitted, RefusalCode, Scope, UntrustedAuthorization};
use touchstone_enforcer::guard::{Guard, GuardConfig, GuardEvent, Renewal, keep_current};
use touchstone_keybroker::admin::SOCKET;
use touchstone_keybroker::record::DecisionRecord;
use touchstone_keybroker::service::RunningBroker;
use touchstone_ledger::statement::{Kind, Outcome, Statement, VerifiedStatement};
use touchstone_policies::author::federation::{Accepted, Trust};
use touchstone_policies::{Job, NodeIdentity, federation_drop, federation_trust};

const A: &str = "a.example";
/// The nodes' domain.
const B: &str = NAME;
const GUARD: &str = "guard-a";
/// What B's nodes may do in A.
const SCOPE: &str = "execute:partners/b/render";
/// What B grants and would issue too, and A does not take.
const OTHER: &str = "execute:partners/b/other";

/// Timers under which an enforcer that hears nothing stops within seconds, and one on a slow machine hears enough.
const QUICK: [(&str, u64); 4] = [
    ("skew_ms", 250),
    ("heartbeat_ms", 200),
    ("failover_ms", 100),
    ("freshness_window_ms", 4_000),
];
const WINDOW: Duration = Duration::from_secs(4);

fn found(name: &str, nodes: &[(&str, Boot)], stage: &dyn Fn(&Path)) -> Domain {
    let identities: Vec<(&str, NodeIdentity)> = nodes
        .iter()
        .map(|(name, boot)| (*name, NodeIdentity::EkCert(boot.ek_certificate(KeyForm::Rsa))))
        .collect();
    let anchors: [PathBuf; 2] =
        ["swtpm-localca-rootca-cert.pem", "issuercert.pem"].map(|file| boots::boots().join("ca").join(file));
    Domain::found_as(
        name,
        &Founding {
            anchors: &anchors,
            nodes: &identities,
            golden: &recorded(&Boot::GOOD),
            settings: &QUICK,
            limits: &[],
            stage,
        },
    )
}

fn trust(repo: &Path, trust: &Trust) {
    unlocked(|| federation_trust(repo, trust)).unwrap();
}

/// B: grants its nodes what they may be let do in A, and issues authorizations for it.
fn domain_b(nodes: &[(&str, Boot)], for_a: &Trust) -> Domain {
    found(B, nodes, &|repo| {
        let settings = repo.join("staged/settings.toml");
        let text = std::fs::read_to_string(&settings).unwrap();
        let more = format!("scopes = [{SCOPE:?}, {OTHER:?}, \"execute:workloads\", \"release:keys\"]");
        let line = text.lines().find(|line| line.starts_with("scopes =")).unwrap();
        std::fs::write(&settings, text.replace(line, &more)).unwrap();
        trust(repo, for_a);
    })
}

fn issue_for_a() -> Trust {
    Trust {
        domain: A.into(),
        issue: vec![SCOPE.into(), OTHER.into()],
        ..Trust::default()
    }
}

/// What A's policy says of B.
fn of_b(b: &Domain) -> Trust {
    Trust {
        domain: B.into(),
        root: Some(std::fs::read(b.path("root.json")).unwrap()),
        accept: Some(Accepted {
            resources: "partners/b".into(),
            scopes: vec![SCOPE.into()],
            ..Accepted::default()
        }),
        ..Trust::default()
    }
}

/// A guard of A as it runs in production: it follows policy and trust states, and looks again at whom it let in.
struct Watch {
    post: Post,
    events: Arc<Mutex<Vec<GuardEvent>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl Watch {
    async fn at(a: &Domain) -> Self {
        let renewal = Renewal {
            repository: (&a.path("policy")).into(),
            mirror: None,
            root: a.path("root.json"),
            domain: A.into(),
            id: GUARD.into(),
            brokers: vec![a.endpoint()],
            floors: None,
        };
        let held = renewal.load(None).await.unwrap();
        let follower = held.follow(renewal.brokers.clone(), GUARD.into());
        let views = follower.views();
        let guard = Arc::new(Guard::new(GuardConfig::of(&held, GUARD), follower));
        let events = Arc::new(Mutex::new(Vec::new()));
        let keeping = {
            let guard = Arc::clone(&guard);
            tokio::spawn(async move { keep_current(&guard, &renewal, held, |_| ()).await })
        };
        let watching = {
            let (guard, events) = (Arc::clone(&guard), Arc::clone(&events));
            tokio::spawn(async move { guard.watch(|event| events.lock().unwrap().push(event)).await })
        };
        Self {
            post: Post { guard, views },
            events,
            tasks: vec![keeping, watching],
        }
    }

    async fn knock_for(&self, node: &Node, authorization: &[u8], scope: &str) -> Result<Admitted, Vec<RefusalCode>> {
        let challenge = self.post.challenge();
        let proof = node.prove_for(authorization, GUARD, &challenge, scope).await;
        let (action, resource) = scope.split_once(':').unwrap();
        self.post
            .guard
            .decide(authorization, &proof, action, resource, &challenge)
            .map_err(|refusals| refusals.into_iter().map(|refusal| refusal.code).collect())
    }

    /// Knocks until the node is let in.
    async fn lets_in(&self, node: &Node, authorization: &[u8]) -> Admitted {
        let begun = Instant::now();
        loop {
            match self.knock_for(node, authorization, SCOPE).await {
                Ok(admitted) => return admitted,
                Err(codes) => assert!(
                    begun.elapsed() < swtpm_tests::observe::PATIENCE,
                    "never let in: {codes:?}"
                ),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until whoever was let in is put out because it was revoked. Where nobody was heard of for longer than the window,
    /// as on a machine that stood still, it is put out for that first; what the guard says next is why it stays out.
    async fn puts_out_as_revoked(&self, node: &Node, authorization: &[u8]) {
        let reasons = self.puts_out().await;
        let begins = |code: &str| reasons.iter().any(|reason| reason.starts_with(code));
        assert!(
            begins("authorization-revoked") || begins("federated-domain-stale") || begins("trust-state-stale"),
            "{reasons:?}"
        );
        self.says(node, authorization, RefusalCode::AuthorizationRevoked).await;
    }

    /// Knocks until this is the one reason.
    async fn says(&self, node: &Node, authorization: &[u8], code: RefusalCode) {
        let begun = Instant::now();
        loop {
            match self.knock_for(node, authorization, SCOPE).await {
                Err(codes) if codes == [code] => return,
                said => assert!(begun.elapsed() < swtpm_tests::observe::PATIENCE, "{:?}", said.err()),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until whoever was let in is put out, and gives the reasons.
    async fn puts_out(&self) -> Vec<String> {
        let found = || {
            let events = self.events.lock().unwrap();
            events.iter().find_map(|event| match event {
                GuardEvent::Withdrawn { reasons, .. } => Some(reasons.clone()),
                _ => None,
            })
        };
        eventually("the guard to put the node out", || found().is_some()).await;
        let reasons = found().unwrap();
        self.events.lock().unwrap().clear();
        reasons
    }
}

/// For how long this machine did not do what it was to do at a certain time, all in all.
struct Lateness {
    all_us: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Lateness {
    fn measure() -> Self {
        const SLEEP: Duration = Duration::from_millis(5);
        // What a machine that does other things besides is late by at every turn is not counted.
        const USUAL: Duration = Duration::from_millis(20);
        let all_us = Arc::new(AtomicU64::new(0));
        let noted = Arc::clone(&all_us);
        let task = tokio::spawn(async move {
            loop {
                let begun = Instant::now();
                tokio::time::sleep(SLEEP).await;
                let late = begun.elapsed().saturating_sub(SLEEP);
                if late > USUAL {
                    noted.fetch_add(u64::try_from(late.as_micros()).unwrap(), Ordering::SeqCst);
                }
            }
        });
        Self { all_us, task }
    }

    /// So far. It is measured no longer.
    fn all(self) -> Duration {
        self.task.abort();
        Duration::from_micros(self.all_us.load(Ordering::SeqCst))
    }
}

async fn foreign(b: &Domain, node: &Node, authorization: &[u8], scopes: &[&str]) -> Result<Vec<u8>, ReleaseError> {
    let scopes: Vec<Scope> = scopes.iter().map(|text| Scope::parse(text).unwrap()).collect();
    let trust = b.trust().await;
    fetch_foreign(&mut b.client(), node.tpm(), &trust, authorization, (A, &scopes)).await
}

/// The last statement of this kind, and where it stands.
fn found_last(domain: &Domain, broker: &RunningBroker, kind: Kind) -> (u64, Statement) {
    let (store, size) = (&broker.app().store, broker.app().head().size);
    let key = domain.key(Job::Statement);
    (0..size)
        .rev()
        .map(|index| {
            (
                index,
                touchstone_keybroker::log::entry(&**store, index).unwrap().unwrap(),
            )
        })
        .map(|(index, entry)| (index, VerifiedStatement::parse(&entry, &key).unwrap().into_statement()))
        .find(|(_, statement)| statement.kind == kind)
        .unwrap()
}

fn last_of(domain: &Domain, broker: &RunningBroker, kind: Kind) -> Statement {
    found_last(domain, broker, kind).1
}

async fn admin(domain: &Domain, method: &'static str, path: &str, body: Vec<u8>) -> (u16, Vec<u8>) {
    let socket = domain.path("data").join(SOCKET);
    local::request(&socket, method, path, body).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_domain_is_let_in_and_put_out_by_push_and_by_silence() {
    let b = domain_b(
        &[("node-1", Boot::GOOD), ("node-2", Boot::CMDLINE_CHANGED)],
        &issue_for_a(),
    );
    let broker_b = b.broker().await;
    let between = Relay::before(b.address()).await;
    let a = found(A, &[], &|repo| {
        let entry = Trust {
            policy: vec![b.path("policy").display().to_string()],
            brokers: vec![between.endpoint().authority()],
            ..of_b(&b)
        };
        trust(repo, &entry);
    });
    let broker_a = a.broker().await;
    let watch = Watch::at(&a).await;
    let (mut node, mut client) = (Node::start(&Boot::GOOD).await, b.client());
    let own = node.attest(&mut client).await.unwrap().authorization.unwrap();

    // What B issues for A: the same key, the same entry, no more than asked for; decided again, the same.
    let for_a = foreign(&b, &node, &own, &[SCOPE]).await.unwrap();
    assert!(for_a.len() <= 400, "{} bytes", for_a.len());
    let token = UntrustedAuthorization::parse(&for_a).unwrap();
    let token = token
        .verify(&b.ring(Job::Authorization), touchstone_attest::clock::wall_ms())
        .unwrap();
    let parent = rights(&broker_b, "node-1").record.unwrap();
    assert_eq!(token.contents().audience, A);
    assert_eq!(
        (token.contents().status, token.contents().parent),
        (parent.status, Some(parent.granted.cti))
    );
    let (index, statement) = found_last(&b, &broker_b, Kind::FederatedAuthorization);
    assert_eq!(
        (statement.outcome, statement.digest().unwrap()),
        (Outcome::Allow, token.contents().statement)
    );
    let key = b.key(Job::Statement);
    let record = DecisionRecord::read(&*broker_b.app().store, index, &key).unwrap();
    let again = record.replay(&broker_b.app().policy(), &key).unwrap();
    assert_eq!(
        again.statement.payload_bytes().unwrap(),
        statement.payload_bytes().unwrap()
    );

    let admitted = watch.lets_in(&node, &for_a).await;
    assert_eq!(admitted.subject, format!("{B}/node-1"));
    assert_eq!((admitted.authority.as_deref(), admitted.state_age_ms), (Some(B), None));
    assert_eq!(
        last_of(&a, &broker_a, Kind::FederationUpdate).subject.as_deref(),
        Some(B)
    );

    // The same as a workload gets it from the node's agent; asked again, the agent has it.
    let desk = node.desk(&b, own.clone());
    let mut entries = Vec::new();
    for _ in 0..2 {
        let abroad = Abroad {
            domain: A.into(),
            audience: GUARD.into(),
            challenge: watch.post.challenge(),
            scope: Scope::parse(SCOPE).unwrap(),
        };
        let challenge = abroad.challenge.clone();
        let shown = desk.present_in(abroad).await.unwrap();
        let (action, resource) = SCOPE.split_once(':').unwrap();
        let guard = &watch.post.guard;
        guard
            .decide(&shown.authorization, &shown.proof, action, resource, &challenge)
            .unwrap();
        entries.push(decided(&broker_b));
    }
    assert_eq!(entries.first(), entries.last());

    // What does not let it in.
    let both = foreign(&b, &node, &own, &[SCOPE, OTHER]).await.unwrap();
    for (attack, authorization, scope, expected) in [
        (
            "its authorization for B",
            &own,
            SCOPE,
            RefusalCode::AuthorizationAudience,
        ),
        (
            "a scope that A does not take",
            &both,
            OTHER,
            RefusalCode::FederatedScope,
        ),
        (
            "A's own workloads",
            &both,
            "execute:workloads",
            RefusalCode::FederatedScope,
        ),
    ] {
        let codes = watch.knock_for(&node, authorization, scope).await.unwrap_err();
        assert!(codes.contains(&expected), "{attack}: {codes:?}");
    }
    let guard_of_b = b.guard("guard-b").await;
    guard_of_b.reaches(broker_b.app().trust.epoch()).await;
    let challenge = guard_of_b.challenge();
    let proof = node.prove_for(&for_a, "guard-b", &challenge, SCOPE).await;
    let codes = guard_of_b.decide_about(&for_a, &proof, &challenge, ("execute", "partners/b/render"));
    assert_eq!(
        codes.unwrap_err(),
        [RefusalCode::AuthorizationAudience],
        "in B it counts for nothing"
    );
    let denied = foreign(&b, &node, &own, &["execute:workloads"]).await.unwrap_err();
    assert!(
        matches!(&denied, ReleaseError::Denied(reasons) if reasons[0].code == "federation-scope-not-issued"),
        "{denied}"
    );

    // The node is tampered with: B revokes, and A's guard is closed by push.
    watch.events.lock().unwrap().clear();
    node.swtpm.extend(3, [7; 32]).unwrap();
    assert!(!node.attest(&mut client).await.unwrap().allowed);
    let begun = Instant::now();
    watch.puts_out_as_revoked(&node, &for_a).await;
    println!("closed by push after {:?}", begun.elapsed());

    // Another node is in when B can no longer be heard.
    let mut second = Node::start(&Boot::CMDLINE_CHANGED).await;
    let own = second.attest(&mut b.client()).await.unwrap().authorization.unwrap();
    let for_a = foreign(&b, &second, &own, &[SCOPE]).await.unwrap();
    watch.lets_in(&second, &for_a).await;
    watch.events.lock().unwrap().clear();
    let lateness = Lateness::measure();
    let begun = Instant::now();
    between.cut(true);
    let reasons = watch.puts_out().await;
    let (closed, late) = (begun.elapsed(), lateness.all());
    println!("closed by silence after {closed:?}, on a machine that was late by {late:?}");
    assert!(
        reasons
            .iter()
            .any(|reason| reason.starts_with("federated-domain-stale")),
        "{reasons:?}"
    );
    assert!(
        closed < WINDOW + WINDOW + Duration::from_millis(100) + late,
        "{closed:?}, {late:?}"
    );
    assert!(watch.post.guard.live_domains().is_empty());
    let codes = watch.knock_for(&second, &for_a, SCOPE).await.unwrap_err();
    assert!(codes.contains(&RefusalCode::FederatedDomainStale), "{codes:?}");
    between.cut(false);
    watch.lets_in(&second, &for_a).await;

    // A's policy lets B in no more.
    watch.events.lock().unwrap().clear();
    unlocked(|| federation_drop(&a.path("policy"), B)).unwrap();
    a.publish();
    let reasons = watch.puts_out().await;
    assert!(
        reasons
            .iter()
            .any(|reason| reason.starts_with("federated-domain-unknown")),
        "{reasons:?}"
    );
    let codes = watch.knock_for(&second, &for_a, SCOPE).await.unwrap_err();
    assert_eq!(codes, [RefusalCode::AuthorizationKeyUnknown]);
    broker_a.shutdown().await.unwrap();
    broker_b.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn where_only_the_other_side_can_connect_it_pushes() {
    let a = found(A, &[], &|_| ());
    let for_a = Trust {
        root: Some(std::fs::read(a.path("root.json")).unwrap()),
        policy: vec![a.path("policy").display().to_string()],
        brokers: vec![a.address().to_string()],
        push: true,
        ..issue_for_a()
    };
    let b = domain_b(&[("node-1", Boot::GOOD)], &for_a);
    // A knows no way to B at all.
    trust(&a.path("policy"), &of_b(&b));
    a.publish();
    let broker_a = a.broker().await;
    let broker_b = b.broker().await;
    let watch = Watch::at(&a).await;
    let (mut node, mut client) = (Node::start(&Boot::GOOD).await, b.client());
    let own = node.attest(&mut client).await.unwrap().authorization.unwrap();
    let for_a = foreign(&b, &node, &own, &[SCOPE]).await.unwrap();
    watch.lets_in(&node, &for_a).await;
    // Each has seen the other's ledger and said so, though only one of them can connect.
    let cosigned = |broker: &RunningBroker| !touchstone_keybroker::witness::held(broker.app()).unwrap().is_empty();
    eventually("each domain's cosignature of the other's ledger", || {
        cosigned(&broker_a) && cosigned(&broker_b)
    })
    .await;
    assert_eq!(
        last_of(&a, &broker_a, Kind::FederationUpdate)
            .body
            .get(4)
            .and_then(|way| way.as_text()),
        Some("pushed")
    );
    watch.events.lock().unwrap().clear();
    node.swtpm.extend(3, [7; 32]).unwrap();
    assert!(!node.attest(&mut client).await.unwrap().allowed);
    let begun = Instant::now();
    watch.puts_out_as_revoked(&node, &for_a).await;
    println!("closed by the other side's push after {:?}", begun.elapsed());
    broker_a.shutdown().await.unwrap();
    broker_b.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_carried_by_hand_counts_up_to_its_age() {
    const AGE: u64 = 45;
    let b = domain_b(&[("node-1", Boot::GOOD)], &issue_for_a());
    let broker_b = b.broker().await;
    let a = found(A, &[], &|repo| {
        let mut entry = of_b(&b);
        entry.accept.as_mut().unwrap().max_state_age = Some(AGE);
        trust(repo, &entry);
    });
    let broker_a = a.broker().await;
    let watch = Watch::at(&a).await;
    let (mut node, mut client) = (Node::start(&Boot::GOOD).await, b.client());
    let own = node.attest(&mut client).await.unwrap().authorization.unwrap();
    let for_a = foreign(&b, &node, &own, &[SCOPE]).await.unwrap();
    let (status, bundle) = admin(&b, "GET", "/federation/export", Vec::new()).await;
    assert_eq!(status, 200);

    // What is not that domain's, or not whole, is not taken.
    let (_, of_a) = admin(&a, "GET", "/federation/export", Vec::new()).await;
    let mut altered = bundle.clone();
    let at = altered.len() / 2;
    altered[at] ^= 1;
    for (attack, body) in [
        ("cut short", &bundle[..bundle.len() - 1]),
        ("altered", &altered),
        ("of a domain that is not federated with", &of_a),
        ("nothing", &[]),
    ] {
        let (status, answer) = admin(&a, "POST", "/federation/import", body.to_vec()).await;
        assert!(
            (400..500).contains(&status),
            "{attack}: {status} {}",
            String::from_utf8_lossy(&answer)
        );
    }
    eventually("A to name B", || broker_a.app().federation.get(B).is_some()).await;
    let (status, answer) = admin(&a, "POST", "/federation/import", bundle.clone()).await;
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
    let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
    assert!(answer.pointer("/imported/trust_state/state-age").is_some(), "{answer}");

    // Past B's own window it counts by its age, and says so.
    tokio::time::sleep(WINDOW + Duration::from_millis(200)).await;
    let admitted = watch.lets_in(&node, &for_a).await;
    assert!(
        admitted
            .state_age_ms
            .is_some_and(|age| u128::from(age) >= WINDOW.as_millis()),
        "{:?}",
        admitted.state_age_ms
    );
    // A newer bundle takes rights away; the older one does not bring them back.
    watch.events.lock().unwrap().clear();
    node.swtpm.extend(3, [7; 32]).unwrap();
    assert!(!node.attest(&mut client).await.unwrap().allowed);
    let (_, newer) = admin(&b, "GET", "/federation/export", Vec::new()).await;
    let (status, _) = admin(&a, "POST", "/federation/import", newer).await;
    assert_eq!(status, 200);
    let reasons = watch.puts_out().await;
    assert!(
        reasons.iter().any(|reason| reason.starts_with("authorization-revoked")),
        "{reasons:?}"
    );
    let (status, answer) = admin(&a, "POST", "/federation/import", bundle).await;
    assert_eq!(status, 422, "{}", String::from_utf8_lossy(&answer));
    // And none counts beyond the age.
    let stale = || {
        let held = broker_a.app().federation.get(B).unwrap().view().unwrap();
        broker_a.app().clock.now_ms() > held.head().issued_at_ms + AGE * 1_000
    };
    eventually("the state to be too old", stale).await;
    let codes = watch.knock_for(&node, &for_a, SCOPE).await.unwrap_err();
    assert!(codes.contains(&RefusalCode::FederatedStateOld), "{codes:?}");
    broker_a.shutdown().await.unwrap();
    broker_b.shutdown().await.unwrap();
}

/// A trusts M; M trusts the nodes' domain; A's policy names the way.
#[tokio::test(flavor = "multi_thread")]
async fn trust_over_another_domain_lasts_as_long_as_that_domain_trusts() {
    const M: &str = "m.example";
    let b = domain_b(&[("node-1", Boot::GOOD)], &issue_for_a());
    let broker_b = b.broker().await;
    let place = |domain: &Domain, entry: Trust| Trust {
        policy: vec![domain.path("policy").display().to_string()],
        brokers: vec![domain.address().to_string()],
        ..entry
    };
    let m = found(M, &[], &|repo| trust(repo, &place(&b, of_b(&b))));
    let broker_m = m.broker().await;
    let a = found(A, &[], &|repo| {
        let over = Trust {
            domain: M.into(),
            root: Some(std::fs::read(m.path("root.json")).unwrap()),
            depth: 1,
            ..of_b(&b)
        };
        trust(repo, &place(&m, over));
    });
    let broker_a = a.broker().await;
    let watch = Watch::at(&a).await;
    let mut node = Node::start(&Boot::GOOD).await;
    let own = node.attest(&mut b.client()).await.unwrap().authorization.unwrap();
    let for_a = foreign(&b, &node, &own, &[SCOPE]).await.unwrap();
    let live = || watch.post.guard.live_domains();
    eventually("the guard to hear M", || live() == [M]).await;
    // M trusts B, and that alone is nothing here.
    let codes = watch.knock_for(&node, &for_a, SCOPE).await.unwrap_err();
    assert_eq!(codes, [RefusalCode::AuthorizationKeyUnknown]);

    let over_m = Trust {
        root: None,
        path: vec![M.into()],
        ..place(&b, of_b(&b))
    };
    trust(&a.path("policy"), &over_m);
    a.publish();
    let admitted = watch.lets_in(&node, &for_a).await;
    assert_eq!(admitted.subject, format!("{B}/node-1"));
    watch.events.lock().unwrap().clear();
    unlocked(|| federation_drop(&m.path("policy"), B)).unwrap();
    m.publish();
    let reasons = watch.puts_out().await;
    assert!(
        reasons
            .iter()
            .any(|reason| reason.starts_with("federated-domain-unknown")),
        "{reasons:?}"
    );
    for broker in [broker_a, broker_b, broker_m] {
        broker.shutdown().await.unwrap();
    }
}

/// What a node sends to get an authorization for A, and what of it is bent.
struct Asking {
    authorization: Vec<u8>,
    audience: &'static str,
    scopes: Vec<&'static str>,
    proof_for: String,
    proof_scope: &'static str,
    other_channel: bool,
    other_key: bool,
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_issued() {
    use touchstone_authorization::proof::EXPORTER_LABEL;
    use touchstone_authorization::{Channel, Proof, authorization_digest};
    use touchstone_cose::key::SigningKey;
    use touchstone_evidence::message::{
        ForeignAnswer, ForeignRequest, foreign_audience, foreign_path, release_audience,
    };

    let b = domain_b(
        &[("node-1", Boot::GOOD), ("node-2", Boot::CMDLINE_CHANGED)],
        &issue_for_a(),
    );
    let broker = b.broker().await;
    let (mut node, mut client) = (Node::start(&Boot::GOOD).await, b.client());
    let revoked = node.attest(&mut client).await.unwrap().authorization.unwrap();
    let (status, _) = admin(&b, "POST", "/revoke", br#"{"node":"node-1","reason":"test"}"#.to_vec()).await;
    assert_eq!(status, 200);
    let own = node.attest(&mut client).await.unwrap().authorization.unwrap();
    let for_a = foreign(&b, &node, &own, &[SCOPE]).await.unwrap();
    let good = || Asking {
        authorization: own.clone(),
        audience: A,
        scopes: vec![SCOPE],
        proof_for: foreign_audience(B),
        proof_scope: SCOPE,
        other_channel: false,
        other_key: false,
    };
    let bent = |change: &dyn Fn(&mut Asking)| {
        let mut asking = good();
        change(&mut asking);
        asking
    };
    // (attack, what is sent, the answer's status, the reason)
    let rows = [
        ("nothing bent", good(), 200, ""),
        (
            "a domain nothing is issued for",
            bent(&|a| a.audience = "c.example"),
            403,
            "federation-audience-unknown",
        ),
        (
            "its own domain",
            bent(&|a| a.audience = B),
            403,
            "federation-audience-unknown",
        ),
        (
            "a scope that is not issued",
            bent(&|a| (a.scopes, a.proof_scope) = (vec!["execute:workloads"], "execute:workloads")),
            403,
            "federation-scope-not-issued",
        ),
        (
            "a scope that is not issued behind one that is",
            bent(&|a| a.scopes = vec![SCOPE, "release:keys"]),
            403,
            "federation-scope-not-issued",
        ),
        (
            "a scope twice",
            bent(&|a| a.scopes = vec![SCOPE, SCOPE]),
            403,
            "federation-scope-not-issued",
        ),
        (
            "a scope that is not held",
            bent(&|a| (a.scopes, a.proof_scope) = (vec!["administer:partners/b"], "administer:partners/b")),
            403,
            "scope-not-granted",
        ),
        (
            "no scope's form",
            bent(&|a| a.scopes = vec!["execute:*"]),
            401,
            "request-malformed",
        ),
        (
            "a proof for another scope",
            bent(&|a| a.proof_scope = OTHER),
            401,
            "proof-action",
        ),
        (
            "a proof for a key",
            bent(&|a| a.proof_for = release_audience(B)),
            401,
            "proof-audience",
        ),
        (
            "a proof for a guard",
            bent(&|a| a.proof_for = GUARD.into()),
            401,
            "proof-audience",
        ),
        (
            "a proof from another connection",
            bent(&|a| a.other_channel = true),
            401,
            "proof-exporter",
        ),
        (
            "a proof by another key",
            bent(&|a| a.other_key = true),
            401,
            "proof-signature",
        ),
        (
            "one for A in the place of its own",
            bent(&|a| a.authorization = for_a.clone()),
            401,
            "authorization-audience",
        ),
        (
            "one that was revoked",
            bent(&|a| a.authorization = revoked.clone()),
            403,
            "authorization-revoked",
        ),
        (
            "none",
            bent(&|a| a.authorization = b"\xd8\x3d\x80".to_vec()),
            401,
            "authorization-malformed",
        ),
    ];
    let mut last = Vec::new();
    for (attack, asking, expected, reason) in rows {
        let mut client = b.client();
        client.connect().await.unwrap();
        let digest = authorization_digest(&asking.authorization);
        let exporter = client.export(EXPORTER_LABEL, &digest).unwrap();
        let proof = Proof {
            audience: asking.proof_for,
            scope: Scope::parse(asking.proof_scope).unwrap(),
            channel: Channel::Exporter(if asking.other_channel { [7; 32] } else { exporter }),
            authorization_digest: digest,
            ..swtpm_tests::node::proof(&asking.authorization, GUARD, &[0; 32])
        };
        let proof = if asking.other_key {
            proof.encode_signed(&SigningKey::from_seed([7; 32])).unwrap()
        } else {
            node.tpm()
                .run(move |machine| proof.encode_signed(&*machine.signer()))
                .await
                .unwrap()
                .unwrap()
        };
        let request = ForeignRequest {
            authorization: asking.authorization.clone(),
            proof,
            audience: asking.audience.into(),
            scopes: asking.scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        };
        let before = rights(&broker, "node-1");
        let path = foreign_path(asking.audience);
        let (status, body) = client.post_here(&path, request.encode()).await.unwrap();
        let text = String::from_utf8_lossy(&body);
        assert_eq!(status, expected, "{attack}: {text}");
        let after = rights(&broker, "node-1");
        assert_eq!(
            (before.epoch, &before.record),
            (after.epoch, &after.record),
            "{attack} costs the node nothing"
        );
        match expected {
            401 => {
                assert!(text.contains(reason), "{attack}: {text}");
                assert_eq!(
                    before.entries, after.entries,
                    "{attack}: nobody is known, nothing is recorded"
                );
            }
            _ => {
                let answer = ForeignAnswer::decode(&body).unwrap();
                let codes: Vec<&str> = answer.reasons.iter().map(|reason| reason.code.as_str()).collect();
                assert!(
                    reason.is_empty() && codes.is_empty() || codes.contains(&reason),
                    "{attack}: {codes:?}"
                );
                assert_eq!(answer.authorization.is_some(), expected == 200, "{attack}");
                assert_eq!(before.entries + 1, after.entries, "{attack}: it is in the ledger");
            }
        }
        if expected == 200 {
            // The same proof once more, on the same connection; and under another domain's path.
            let (status, body) = client.post_here(&path, request.encode()).await.unwrap();
            let text = String::from_utf8_lossy(&body).into_owned();
            assert!(status == 401 && text.contains("proof-replayed"), "{status} {text}");
            let (status, _) = client
                .post_here(&foreign_path("c.example"), request.encode())
                .await
                .unwrap();
            assert_eq!(status, 400, "the path names another domain");
            last = body;
        }
    }
    assert!(!last.is_empty());

    // Withdrawn, and with its key still signing: nothing more is issued.
    node.swtpm.extend(3, [7; 32]).unwrap();
    assert!(!node.attest(&mut client).await.unwrap().allowed);
    let denied = foreign(&b, &node, &own, &[SCOPE]).await.unwrap_err();
    let ReleaseError::Denied(reasons) = denied else {
        panic!("{denied}")
    };
    let codes: Vec<&str> = reasons.iter().map(|reason| reason.code.as_str()).collect();
    assert!(
        codes.contains(&"authorization-revoked") && codes.contains(&"node-withdrawn"),
        "{codes:?}"
    );
    broker.shutdown().await.unwrap();
}
