//! A site that has one link lets in whom another domain vouches for: its enforcers name only the relay, and decide as those
//! that name a broker.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use crate::common;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::client::{Client, problem};
use common::link::Link;
use common::tpm::SoftNode;
use common::{DOMAIN, Domain, PATIENCE, attest_in, eventually, now, source};
use hyper::{Method, StatusCode};
use touchstone_authorization::proof::EXPORTER_LABEL;
use touchstone_authorization::{Channel, Proof, RefusalCode, Scope, authorization_digest};
use touchstone_client::Endpoint;
use touchstone_enforcer::guard::{Guard, GuardConfig, GuardEvent, Renewal, keep_current};
use touchstone_evidence::message::{ForeignAnswer, ForeignRequest, foreign_audience, foreign_path};
use touchstone_keybroker::config::Limits;
use touchstone_keybroker::service::RunningBroker;
use touchstone_keybroker::site::{self, FOREIGN_PART, RunningSite, SHARE_OF_HOST};
use touchstone_policies::author::federation::{Accepted, Trust};
use touchstone_policies::{self as policies, Job, Keyset, federation_drop, federation_trust};

/// The nodes' domain; [`DOMAIN`] is the one of the site.
const B: &str = "b.example";
const SCOPE: &str = "execute:partners/b/render";
/// What B issues too, and the site's domain does not take.
const OTHER: &str = "execute:partners/b/other";
/// Silence is noticed within seconds; that a slow machine is silent for as long now and then is nothing that fails.
const QUICK: [(&str, &str); 4] = [
    ("heartbeat_ms", "200"),
    ("failover_ms", "100"),
    ("skew_ms", "10000"),
    ("freshness_window_ms", "20000"),
];

fn domain_b(nodes: &[(&str, &SoftNode)]) -> Domain {
    let scopes = format!("[{SCOPE:?}, {OTHER:?}, \"execute:workloads\", \"release:keys\"]");
    let mut settings = QUICK.to_vec();
    settings.push(("scopes", &scopes));
    let b = Domain::named(B, nodes, &settings);
    let for_a = Trust {
        domain: DOMAIN.into(),
        issue: vec![SCOPE.into(), OTHER.into()],
        ..Trust::default()
    };
    federation_trust(&b.path("policy"), &for_a).unwrap();
    b.publish();
    b
}

/// The site's domain: it has a relay in its keyset, and lets in from B.
fn domain_a(b: &Domain, brokers: Vec<String>) -> Domain {
    let a = Domain::new(&[], &QUICK);
    let keyset = Keyset::parse(&std::fs::read(a.path("data/keyset.json")).unwrap()).unwrap();
    let staged = site::init(&a.path("relay"), &keyset, "site-7", now() - 60, 3_600).unwrap();
    policies::keyset_add(&a.path("policy"), &std::fs::read(staged).unwrap()).unwrap();
    let of_b = Trust {
        domain: B.into(),
        root: Some(std::fs::read(b.path("root.json")).unwrap()),
        policy: vec![b.path("policy").display().to_string()],
        brokers,
        accept: Some(Accepted {
            resources: "partners/b".into(),
            scopes: vec![SCOPE.into()],
            ..Accepted::default()
        }),
        ..Trust::default()
    };
    federation_trust(&a.path("policy"), &of_b).unwrap();
    a.publish();
    a
}

/// The relay of the site, at the end of this link.
async fn relay(a: &Domain, broker: &RunningBroker, link: SocketAddr, limits: Limits) -> RunningSite {
    let obeyed = (upstream(broker, link), broker.app().policy());
    let listen = (Ipv4Addr::LOCALHOST, 0).into();
    site::start(&a.path("relay"), listen, obeyed, limits, None)
        .await
        .unwrap()
}

/// A machine that stands still for a while ends no connection of a test's own.
fn patient() -> Limits {
    Limits {
        handshake_ms: 60_000,
        head_ms: 600_000,
        body_ms: 60_000,
        ..Limits::default()
    }
}

fn upstream(broker: &RunningBroker, link: SocketAddr) -> touchstone_client::follow::Source {
    source(broker, link, "site-7", &[Job::Tls, Job::Relay])
}

/// A guard of the site's domain as it runs in production, which knows one address.
struct Watch {
    id: &'static str,
    guard: Arc<Guard>,
    events: Arc<Mutex<Vec<GuardEvent>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl Watch {
    async fn at(a: &Domain, id: &'static str, only: SocketAddr) -> Self {
        let renewal = Renewal {
            repository: (&a.path("policy")).into(),
            mirror: None,
            root: a.path("root.json"),
            domain: DOMAIN.into(),
            id: id.into(),
            brokers: vec![Endpoint::parse(&only.to_string()).unwrap()],
            floors: None,
        };
        let held = renewal.load(None).await.unwrap();
        let follower = held.follow(renewal.brokers.clone(), id.into());
        let guard = Arc::new(Guard::new(GuardConfig::of(&held, id), follower));
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
            id,
            guard,
            events,
            tasks: vec![keeping, watching],
        }
    }

    /// The codes of a decision about this; none where it is let in.
    fn knock(&self, node: &SoftNode, authorization: &[u8], scope: &str) -> Vec<RefusalCode> {
        let challenge = self.guard.challenge().unwrap();
        let wanted = Scope::parse(scope).unwrap();
        let proof = proof(
            node,
            authorization,
            self.id,
            &wanted,
            Channel::Challenge(challenge.to_vec()),
        );
        let (action, resource) = scope.split_once(':').unwrap();
        let decided = self.guard.decide(authorization, &proof, action, resource, &challenge);
        decided.err().map_or_else(Vec::new, |refusals| {
            refusals.iter().map(|refusal| refusal.code).collect()
        })
    }

    /// Knocks until the answer is one that is `wanted`.
    async fn answers(
        &self,
        what: &str,
        node: &SoftNode,
        authorization: &[u8],
        wanted: impl Fn(&[RefusalCode]) -> bool,
    ) {
        let mut last = Vec::new();
        let told = tokio::time::timeout(PATIENCE, async {
            loop {
                last = self.knock(node, authorization, SCOPE);
                if wanted(&last) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(told.await.is_ok(), "{} at {}: {last:?}", what, self.id);
    }

    async fn lets_in(&self, node: &SoftNode, authorization: &[u8]) {
        self.answers("let in", node, authorization, <[RefusalCode]>::is_empty)
            .await;
    }

    /// Waits until whoever was let in is put out.
    async fn puts_out(&self, subject: &str) {
        let shown = format!("{B}/{subject}");
        eventually("whoever was let in to be put out", || {
            let mut events = self.events.lock().unwrap();
            let out = |event: &GuardEvent| matches!(event, GuardEvent::Withdrawn { subject, .. } if *subject == shown);
            let found = events.iter().any(out);
            if found {
                events.clear();
            }
            found
        })
        .await;
    }
}

fn proof(node: &SoftNode, authorization: &[u8], audience: &str, scope: &Scope, channel: Channel) -> Vec<u8> {
    let mut cti = [0; 16];
    getrandom::fill(&mut cti).unwrap();
    let proof = Proof {
        audience: audience.into(),
        issued_at: now() as u64,
        cti,
        authorization_digest: authorization_digest(authorization),
        scope: scope.clone(),
        request_digest: None,
        channel,
    };
    proof.encode_signed(&node.session).unwrap()
}

/// What B grants this node, and what it issues to it for the site's domain.
async fn authorizations(b: &RunningBroker, node: &mut SoftNode) -> (Vec<u8>, Vec<u8>) {
    let mut client = Client::connect(b.address()).await;
    let own = attest_in(B, &mut client, node, false)
        .await
        .unwrap()
        .authorization
        .unwrap();
    let digest = authorization_digest(&own);
    let exporter = Channel::Exporter(client.export_for(EXPORTER_LABEL, &digest));
    let proof = proof(
        node,
        &own,
        &foreign_audience(B),
        &Scope::parse(SCOPE).unwrap(),
        exporter,
    );
    let request = ForeignRequest {
        authorization: own.clone(),
        proof,
        audience: DOMAIN.into(),
        scopes: vec![SCOPE.into(), OTHER.into()],
    };
    let (_, body) = client.send(Method::POST, &foreign_path(DOMAIN), request.encode()).await;
    let answer = ForeignAnswer::decode(&body).unwrap();
    let reasons = answer.reasons;
    (own, answer.authorization.unwrap_or_else(|| panic!("{reasons:?}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_knows_only_a_relay_decides_about_another_domain_as_one_that_knows_a_broker() {
    let (mut one, mut two) = (SoftNode::new("good"), SoftNode::new("good"));
    let b = domain_b(&[("node-1", &one), ("node-2", &two)]);
    let broker_b = b.start().await;
    let between = Link::to(broker_b.address()).await;
    let a = domain_a(&b, vec![between.address.to_string()]);
    let broker_a = a.start().await;
    let link = Link::to(broker_a.address()).await;
    let relay = relay(&a, &broker_a, link.address, patient()).await;
    let far = Watch::at(&a, "guard-far", relay.address()).await;
    let near = Watch::at(&a, "guard-near", broker_a.address()).await;
    let (own, for_a) = authorizations(&broker_b, &mut one).await;
    let (_, second) = authorizations(&broker_b, &mut two).await;

    // Let in through the relay, with everything that is not let in at a broker refused for the same reasons.
    for guard in [&far, &near] {
        guard.lets_in(&one, &for_a).await;
        guard.lets_in(&two, &second).await;
    }
    let stranger = SoftNode::new("good");
    for (attack, node, authorization, scope) in [
        ("its authorization for B", &one, &own, SCOPE),
        ("a scope that is not taken", &one, &for_a, OTHER),
        ("the site's own workloads", &one, &for_a, "execute:workloads"),
        ("another node's key", &stranger, &for_a, SCOPE),
    ] {
        // Neither may be silent for a window in between: then it has a reason more.
        let both = || {
            (
                far.knock(node, authorization, scope),
                near.knock(node, authorization, scope),
            )
        };
        eventually(
            attack,
            || matches!(both(), (far, near) if far == near && !far.is_empty()),
        )
        .await;
    }
    // What it carries is what was signed, byte for byte.
    let (mut at_relay, mut at_broker) = (
        Client::connect(relay.address()).await,
        Client::connect(broker_a.address()).await,
    );
    for what in ["policy", "policy/digest"] {
        let path = format!("/v1/federation/{B}/{what}");
        assert_eq!(at_relay.get(&path).await, at_broker.get(&path).await, "{what}");
    }

    // The node is tampered with: B revokes, and the guard behind the relay is closed by push.
    one.extend(3);
    let mut client = Client::connect(broker_b.address()).await;
    let denied = attest_in(B, &mut client, &mut one, true).await.unwrap();
    assert_eq!(denied.authorization, None);
    for guard in [&far, &near] {
        guard.puts_out("node-1").await;
        let revoked = |codes: &[RefusalCode]| codes == [RefusalCode::AuthorizationRevoked];
        guard.answers("revoked", &one, &for_a, revoked).await;
        // Exactly that one.
        guard.lets_in(&two, &second).await;
    }

    // B is cut off: what it vouched for ends, and what the site's own domain says goes on.
    let stale = |codes: &[RefusalCode]| codes == [RefusalCode::FederatedDomainStale];
    far.events.lock().unwrap().clear();
    between.cut.send_replace(true);
    for guard in [&far, &near] {
        guard.answers("silence of B", &two, &second, stale).await;
    }
    far.puts_out("node-2").await;
    // Somebody who comes to the relay now is given the last head as it is, and believes it no longer than the others.
    let late = Watch::at(&a, "guard-late", relay.address()).await;
    late.answers("silence of B", &two, &second, stale).await;
    between.cut.send_replace(false);
    for guard in [&far, &near, &late] {
        guard.lets_in(&two, &second).await;
    }

    // The site's link is cut: nothing of either domain is stamped anew.
    far.events.lock().unwrap().clear();
    link.cut.send_replace(true);
    let all_stale = |codes: &[RefusalCode]| {
        [RefusalCode::FederatedDomainStale, RefusalCode::TrustStateStale]
            .iter()
            .all(|code| codes.contains(code))
    };
    far.answers("silence of everybody", &two, &second, all_stale).await;
    far.puts_out("node-2").await;
    link.cut.send_replace(false);
    far.lets_in(&two, &second).await;

    // A's policy lets B in no more: the relay forgets it, and whoever asks is told so.
    federation_drop(&a.path("policy"), B).unwrap();
    a.publish();
    eventually("the broker to drop B", || broker_a.app().federation.get(B).is_none()).await;
    relay.change(upstream(&broker_a, link.address), broker_a.app().policy());
    let unknown = |codes: &[RefusalCode]| codes == [RefusalCode::AuthorizationKeyUnknown];
    far.answers("dropped", &two, &second, unknown).await;
    let path = format!("/v1/federation/{B}/policy/digest");
    let mut code = String::new();
    for _ in 0..600 {
        // The connection from before has been idle for as long as the silences above took.
        let mut client = Client::connect(relay.address()).await;
        let (status, body) = client.send(Method::GET, &path, Vec::new()).await;
        if status != StatusCode::OK {
            code = problem(status, &body).code;
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(code, "federation-unknown");
    relay.shutdown().await;
    broker_a.shutdown().await.unwrap();
    broker_b.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_is_asked_of_other_domains_takes_nothing_from_the_relays_own() {
    const CONNECTIONS: usize = 96;
    let b = domain_b(&[]);
    // Its repository is out of reach too: the relay knows its name and has nothing.
    let a = domain_a(&b, Vec::new());
    std::fs::rename(b.path("policy"), b.path("elsewhere")).unwrap();
    let broker = a.start().await;
    let limits = Limits {
        connections: CONNECTIONS,
        subscribers: CONNECTIONS / 2,
        ..patient()
    };
    let relay = relay(&a, &broker, broker.address(), limits).await;
    let mut client = Client::connect(relay.address()).await;
    let stream = format!("/v1/federation/{B}/trust-state/stream");
    for (method, path, status, code) in [
        (
            Method::GET,
            "/v1/federation/c.example/policy",
            404,
            "federation-unknown",
        ),
        (
            Method::GET,
            "/v1/federation/c.example/trust-state/stream?subscriber=x",
            404,
            "federation-unknown",
        ),
        (
            Method::GET,
            "/v1/federation/b.example/policy",
            404,
            "federation-nothing-yet",
        ),
        (
            Method::GET,
            "/v1/federation/b.example/policy/digest",
            404,
            "federation-nothing-yet",
        ),
        (
            Method::GET,
            "/v1/federation/b.example/trust-state",
            404,
            "federation-nothing-yet",
        ),
        (Method::GET, &stream, 400, "request-parameter-malformed"),
        // A broker takes what others send of other domains; a relay takes nothing from anybody but its brokers.
        (
            Method::POST,
            "/v1/federation/b.example/bundle",
            404,
            "request-route-unknown",
        ),
        (
            Method::POST,
            "/v1/federation/b.example/frame",
            404,
            "request-route-unknown",
        ),
        (
            Method::POST,
            "/v1/federation/b.example/policy",
            405,
            "request-method-unknown",
        ),
    ] {
        let mut found = (StatusCode::OK, String::new());
        // That it has heard of B comes a moment after its start.
        for _ in 0..600 {
            let (status, body) = client.send(method.clone(), path, Vec::new()).await;
            found = (status, problem(status, &body).code);
            if found.1 != "federation-unknown" || code == "federation-unknown" {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!((found.0.as_u16(), found.1.as_str()), (status, code), "{path}");
    }
    // One host has its share of the streams of other domains, and no more.
    let share = CONNECTIONS / FOREIGN_PART / SHARE_OF_HOST;
    let open = async |path: String| {
        let mut client = Client::connect(relay.address()).await;
        let response = client.open(Method::GET, &path, Vec::new()).await;
        (response.status(), client, response)
    };
    let mut held = Vec::new();
    for n in 0..share {
        held.push(open(format!("{stream}?subscriber=guard-{n}")).await);
    }
    assert!(held.iter().all(|(status, ..)| *status == StatusCode::OK));
    let path = format!("{stream}?subscriber=one-more");
    let (status, body) = client.send(Method::GET, &path, Vec::new()).await;
    assert_eq!(problem(status, &body).code, "subscribers-full");
    // The streams of the relay's own domain are others, and so is the time.
    let (status, ..) = open("/v1/trust-state/stream?subscriber=guard-own".into()).await;
    assert_eq!(status, StatusCode::OK);
    let (status, _) = client.send(Method::POST, "/v1/time", vec![7; 32]).await;
    assert_eq!(status, StatusCode::OK);
    drop(held);
    // What was let go is free again.
    let mut free = false;
    for _ in 0..600 {
        free = open(path.clone()).await.0 == StatusCode::OK;
        if free {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(free);
    relay.shutdown().await;
    broker.shutdown().await.unwrap();
}
