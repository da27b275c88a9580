//! Authorizations below a node's own: what is issued, what is not, and that every decision is made again byte for byte.
//! Machines and workloads in software.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::expect_used,
    reason = "tests"
)]

use crate::common;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::client::{Client, Problem, problem};
use common::tpm::{SoftKey, SoftNode};
use common::{DOMAIN, Domain, attest, command, decided, eventually, key, ledger, now, ring};
use hyper::{Method, StatusCode};
use touchstone_authorization::proof::EXPORTER_LABEL;
use touchstone_authorization::token::StatusIndex;
use touchstone_authorization::usage::{Outcome as UseOutcome, Use};
use touchstone_authorization::{
    Authorization, Channel, Delegation, DelegationRight, KeyKind, Proof, Scope, Status, UntrustedAuthorization,
    authorization_digest, delegate,
};
use touchstone_cose::cbor::{self, Value};
use touchstone_cose::key::{SigningKey, VerifyingKey};
use touchstone_evidence::message::{
    Attributes, Dependency, DependencyKind, IssuedAnswer, WORKLOAD_PATH, WorkloadRequest, workload_audience,
};
use touchstone_keybroker::clock::Clock;
use touchstone_keybroker::lineage::history::{History, Named};
use touchstone_keybroker::lineage::{self, Link};
use touchstone_keybroker::record::{DecisionRecord, RecordError, RecordedDecision};
use touchstone_keybroker::rows;
use touchstone_keybroker::service::RunningBroker;
use touchstone_keybroker::workload::inputs::WorkloadInputsError;
use touchstone_keybroker::workload::record::{Branch, MAX_TREE_SCOPES, Tree, WorkloadRecord};
use touchstone_ledger::receipt::verify_receipt;
use touchstone_ledger::statement::{Kind, Outcome, Statement, VerifiedStatement};
use touchstone_policies::Job;
use touchstone_store::Batch;

const SCOPES: &str = r#"["delegate:tools/scan", "execute:tools/scan", "delegate:tools/deploy", "execute:tools/deploy", "execute:tools/own", "delegate:domain", "administer:domain"]"#;

/// Nodes that are affirmed may do what they are granted, and so may what stands below them, but for one purpose.
pub const POLICY: &str = r#"
@id("all") permit (principal, action, resource) when { context.status == "affirming" };
@id("not-for-fun") forbid (principal is Workload, action, resource)
when { context has purpose && context.purpose == "fun" };
"#;

pub struct World {
    domain: Domain,
    pub broker: RunningBroker,
    client: Client,
    node: SoftNode,
    held: Vec<u8>,
}

async fn world_with(settings: &[(&str, &str)], policy: &str) -> World {
    world_staged(settings, policy, |_| ()).await
}

pub async fn world_staged(settings: &[(&str, &str)], policy: &str, stage: impl Fn(&Domain)) -> World {
    let mut node = SoftNode::new("good");
    let all: Vec<(&str, &str)> = [
        ("scopes", SCOPES),
        ("software_keys", "\"short-lived\""),
        ("offline", "true"),
    ]
    .into_iter()
    .chain(settings.iter().copied())
    .collect();
    let domain = Domain::new(&[("node-1", &node)], &all);
    std::fs::write(domain.path("policy/staged/policy.cedar"), policy).unwrap();
    stage(&domain);
    domain.publish();
    let broker = domain.start().await;
    let mut client = Client::connect(broker.address()).await;
    let answer = attest(&mut client, &mut node, false).await.unwrap();
    assert_eq!(answer.reasons, []);
    World {
        domain,
        broker,
        client,
        node,
        held: answer.authorization.unwrap(),
    }
}

async fn world() -> World {
    world_with(&[], POLICY).await
}

impl World {
    /// When the node's authorization ends, Unix seconds.
    pub fn held_until(&self) -> i64 {
        token(&self.broker, &self.held).expires.try_into().unwrap()
    }

    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// The node's entry.
    pub fn root(&self) -> StatusIndex {
        token(&self.broker, &self.held).status
    }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

/// A request of `label` for two scopes, with a right to hand on further, for a key in software.
pub fn wanted(label: &str, key: &SoftKey) -> WorkloadRequest {
    WorkloadRequest {
        chain: Vec::new(),
        proof: Vec::new(),
        label: label.into(),
        key: cbor::encode(&key.verifying_key().to_cose_key(true)),
        key_kind: "software".into(),
        scopes: vec!["execute:tools/scan".into(), "delegate:tools/scan".into()],
        life: None,
        region: None,
        purpose: None,
        delegation: Some((1, false)),
        depends_on: Vec::new(),
        attributes: None,
        renew: None,
    }
}

/// The same for a key that the node vouches for: those in software live for a minute, in which not everything is done that
/// is to be done under it.
fn in_hardware(wanted: WorkloadRequest) -> WorkloadRequest {
    WorkloadRequest {
        key_kind: "tpm".into(),
        ..wanted
    }
}

fn attributes() -> Attributes {
    Attributes {
        uid: 1000,
        process: (77, 12_345),
        cgroup: "/system.slice/agent.service".into(),
        executable: [4; 32],
        path: "/usr/bin/agent".into(),
        measured: false,
    }
}

/// `wanted`, as who holds `chain` with the key `signer` asks for it.
pub fn asked(client: &Client, signer: &SoftKey, chain: &[u8], wanted: WorkloadRequest) -> WorkloadRequest {
    let digest = authorization_digest(chain);
    let resource = wanted.scopes.first().and_then(|scope| scope.split_once(':'));
    let resource = resource.map_or("x", |(_, resource)| resource);
    let proof = Proof {
        audience: workload_audience(DOMAIN),
        issued_at: now() as u64,
        cti: random(),
        authorization_digest: digest,
        scope: Scope::parse(&format!("delegate:{resource}")).unwrap_or(Scope::parse("delegate:x").unwrap()),
        request_digest: None,
        channel: Channel::Exporter(client.export_for(EXPORTER_LABEL, &digest)),
    };
    WorkloadRequest {
        chain: chain.to_vec(),
        proof: proof.encode_signed(signer).unwrap(),
        ..wanted
    }
}

pub async fn send(client: &mut Client, request: &WorkloadRequest) -> Result<IssuedAnswer, Problem> {
    let (status, body) = client.send(Method::POST, WORKLOAD_PATH, request.encode()).await;
    match IssuedAnswer::decode(&body) {
        Ok(answer) => {
            assert_eq!(status == StatusCode::OK, answer.authorization.is_some());
            Ok(answer)
        }
        Err(_) => Err(problem(status, &body)),
    }
}

async fn ask(w: &mut World, signer: &SoftKey, chain: &[u8], wanted: WorkloadRequest) -> IssuedAnswer {
    let request = asked(&w.client, signer, chain, wanted);
    send(&mut w.client, &request).await.unwrap()
}

/// What the node asks for.
pub async fn of_node(w: &mut World, wanted: WorkloadRequest) -> IssuedAnswer {
    let request = asked(&w.client, &w.node.session, &w.held, wanted);
    send(&mut w.client, &request).await.unwrap()
}

pub fn codes(answer: &IssuedAnswer) -> Vec<&str> {
    answer.reasons.iter().map(|reason| reason.code.as_str()).collect()
}

pub fn token(broker: &RunningBroker, bytes: &[u8]) -> Authorization {
    UntrustedAuthorization::parse(bytes)
        .unwrap()
        .verify(&ring(broker, Job::Authorization), Clock::start().now_ms())
        .unwrap()
        .contents()
        .clone()
}

pub fn issued(broker: &RunningBroker, answer: &IssuedAnswer) -> Authorization {
    assert_eq!(codes(answer), Vec::<&str>::new());
    token(broker, answer.authorization.as_deref().unwrap())
}

fn recorded(broker: &RunningBroker, answer: &IssuedAnswer) -> Statement {
    let origin = format!("{DOMAIN}/ledger");
    verify_receipt(
        &answer.receipt,
        &answer.statement,
        &key(broker, Job::Checkpoint),
        &origin,
    )
    .unwrap();
    VerifiedStatement::parse(&answer.statement, &key(broker, Job::Statement))
        .unwrap()
        .into_statement()
}

pub fn record_of(broker: &RunningBroker, answer: &IssuedAnswer) -> DecisionRecord {
    let app = broker.app();
    let statement_key = key(broker, Job::Statement);
    let size = app.head().size;
    let index = (0..size)
        .find(|index| {
            let entry = touchstone_keybroker::log::entry(&*app.store, *index).unwrap();
            entry.as_deref() == Some(&answer.statement)
        })
        .unwrap();
    DecisionRecord::read(&*app.store, index, &statement_key).unwrap()
}

pub fn kept(broker: &RunningBroker, entry: &StatusIndex) -> WorkloadRecord {
    let row = broker
        .app()
        .store
        .get(&rows::workload(entry).unwrap())
        .unwrap()
        .unwrap();
    WorkloadRecord::decode(&row.value).unwrap()
}

/// The text of a deny, as the same decision made again from its record and the policy alone gives it.
fn replays(broker: &RunningBroker, answer: &IssuedAnswer) {
    let record = record_of(broker, answer);
    // As one file, the way it is exported.
    let record = DecisionRecord::decode(&record.encode()).unwrap();
    let replayed = record
        .replay(&broker.app().policy(), &key(broker, Job::Statement))
        .unwrap();
    assert_eq!(
        replayed.statement.payload_bytes().unwrap(),
        recorded(broker, answer).payload_bytes().unwrap()
    );
    assert_eq!(replayed.allowed(), answer.authorization.is_some());
}

#[tokio::test]
async fn a_workload_gets_an_authorization_of_its_own_below_its_nodes() {
    let mut w = world().await;
    let node = token(&w.broker, &w.held);
    assert_eq!(
        (node.depth, node.delegation),
        (
            0,
            Some(DelegationRight {
                depth: 4,
                offline: true
            })
        )
    );
    let (agent_key, tool_key) = (SoftKey::new(), SoftKey::new());
    let wanted_agent = WorkloadRequest {
        region: Some("north".into()),
        purpose: Some("report".into()),
        life: Some(55),
        attributes: Some(attributes()),
        ..wanted("agent", &agent_key)
    };
    let answer = of_node(&mut w, wanted_agent.clone()).await;
    let agent = issued(&w.broker, &answer);
    assert_eq!(agent.subject, "agent@node-1");
    assert_eq!((agent.depth, agent.parent), (1, Some(node.cti)));
    assert_eq!(agent.confirmation, agent_key.verifying_key());
    assert_eq!(agent.key_kind, KeyKind::Software);
    assert_eq!(
        agent.delegation,
        Some(DelegationRight {
            depth: 1,
            offline: false
        })
    );
    assert_eq!(
        (agent.region.as_deref(), agent.purpose.as_deref()),
        (Some("north"), Some("report"))
    );
    assert!(agent.expires <= node.expires && agent.expires <= agent.issued_at + 55);
    assert_ne!(agent.status, node.status, "an entry of its own");
    let statement = recorded(&w.broker, &answer);
    assert_eq!(
        (statement.kind, statement.outcome),
        (Kind::WorkloadAuthorization, Outcome::Allow)
    );
    assert_eq!(statement.subject.as_deref(), Some("agent@node-1"));
    assert_eq!(statement.digest().unwrap(), agent.statement);
    assert_eq!(statement.body.get(0).and_then(Value::as_text), Some("node-1"));
    assert_eq!(
        Attributes::read(statement.body.get(14).unwrap()),
        Some(attributes()),
        "who started it, on what"
    );
    replays(&w.broker, &answer);

    // What it hands on hangs below it, and ends no later.
    let held = answer.authorization.unwrap();
    let narrower = WorkloadRequest {
        scopes: vec!["execute:tools/scan".into()],
        delegation: None,
        region: Some("north".into()),
        purpose: Some("report".into()),
        ..wanted("agent.tool", &tool_key)
    };
    let answer = ask(&mut w, &agent_key, &held, narrower.clone()).await;
    let tool = issued(&w.broker, &answer);
    assert_eq!((tool.subject.as_str(), tool.depth), ("agent.tool@node-1", 2));
    assert_eq!((tool.parent, tool.delegation), (Some(agent.cti), None));
    assert!(tool.expires <= agent.expires);
    assert_eq!(recorded(&w.broker, &answer).kind, Kind::Delegation);
    let record = kept(&w.broker, &tool.status);
    assert_eq!(
        (record.parent, record.root, record.depth),
        (agent.status, node.status, 2)
    );
    replays(&w.broker, &answer);

    // A renewal goes on with the entry.
    let entry = (agent.status.list, agent.status.generation, agent.status.index);
    let renewed = of_node(
        &mut w,
        WorkloadRequest {
            renew: Some(entry),
            ..wanted_agent
        },
    )
    .await;
    let again = issued(&w.broker, &renewed);
    assert_eq!(again.status, agent.status);
    assert_ne!(again.cti, agent.cti);
    assert_eq!(recorded(&w.broker, &renewed).body.get(15), Some(&Value::Bool(true)));
    replays(&w.broker, &renewed);
    // The child is still below the same entry.
    let again = ask(&mut w, &agent_key, renewed.authorization.as_deref().unwrap(), narrower).await;
    assert_eq!(issued(&w.broker, &again).depth, 2);
    let branch = |entry: &StatusIndex| {
        let row = w
            .broker
            .app()
            .store
            .get(&rows::branch(entry).unwrap())
            .unwrap()
            .unwrap();
        Branch::decode(&row.value).unwrap().children.len()
    };
    assert_eq!(
        (branch(&node.status), branch(&agent.status)),
        (1, 2),
        "a renewal is no other child"
    );
    let row = w
        .broker
        .app()
        .store
        .get(&rows::tree(&node.status).unwrap())
        .unwrap()
        .unwrap();
    let tree: Vec<String> = Tree::decode(&row.value).unwrap().issued.into_iter().collect();
    assert_eq!(tree, ["delegate:tools/scan", "execute:tools/scan"]);
    w.broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn nothing_below_is_wider_than_what_is_above() {
    type Change = fn(&mut WorkloadRequest);
    let mut w = world().await;
    let agent_key = SoftKey::new();
    let narrowed = WorkloadRequest {
        region: Some("north".into()),
        purpose: Some("report".into()),
        ..wanted("agent", &agent_key)
    };
    let lasting = in_hardware(narrowed.clone());
    let agent = of_node(&mut w, lasting).await.authorization.unwrap();
    let by_node: [(&str, Change, &[&str]); 25] = [
        (
            "a scope that is not held",
            |r| r.scopes = vec!["execute:tools/other".into()],
            &[
                "scope-not-granted",
                "workload-scope-not-delegable",
                "workload-scope-not-held",
            ],
        ),
        (
            "a scope without the right to hand it on",
            |r| r.scopes = vec!["execute:tools/own".into()],
            &["scope-not-granted", "workload-scope-not-delegable"],
        ),
        (
            "one beside one that may be handed on",
            |r| r.scopes.push("execute:tools/own".into()),
            &["workload-scope-not-delegable"],
        ),
        (
            "a wildcard",
            |r| r.scopes.push("execute:tools/*".into()),
            &["workload-scope-malformed"],
        ),
        (
            "a scope twice",
            |r| r.scopes.push("execute:tools/scan".into()),
            &["workload-scope-malformed"],
        ),
        (
            "the domain itself",
            |r| r.scopes = vec!["administer:domain".into()],
            &["workload-scope-of-node"],
        ),
        (
            "deeper than the node may",
            |r| r.delegation = Some((4, false)),
            &["delegation-not-permitted"],
        ),
        (
            "a depth that overflows",
            |r| r.delegation = Some((255, false)),
            &["delegation-not-permitted"],
        ),
        (
            "a right to hand on nothing",
            |r| r.delegation = Some((0, false)),
            &["delegation-not-permitted"],
        ),
        (
            "a label with a node in it",
            |r| r.label = "agent@node-2".into(),
            &["workload-label"],
        ),
        (
            "a label that is a path",
            |r| r.label = "../agent".into(),
            &["workload-label"],
        ),
        ("a label in capitals", |r| r.label = "Agent".into(), &["workload-label"]),
        ("no label", |r| r.label = String::new(), &["workload-label"]),
        (
            "a label of what a workload hands on",
            |r| r.label = "agent.tool".into(),
            &["workload-label"],
        ),
        ("no key", |r| r.key = vec![0xf6], &["workload-key"]),
        (
            "a key of another curve",
            |r| r.key = vec![0xa1, 1, 2],
            &["workload-key"],
        ),
        (
            "a key nobody knows of to be in hardware",
            |r| r.key_kind = "tee".into(),
            &["workload-key-kind-not-vouched"],
        ),
        (
            "a kind of key that is none",
            |r| r.key_kind = "hsm".into(),
            &["workload-key-kind-not-vouched"],
        ),
        (
            "a region that is none",
            |r| r.region = Some("*".into()),
            &["workload-word"],
        ),
        (
            "a purpose that is none",
            |r| r.purpose = Some("a b".into()),
            &["workload-word"],
        ),
        (
            "a purpose that policy forbids",
            |r| r.purpose = Some("fun".into()),
            &["denied-by-domain-policy"],
        ),
        ("no life", |r| r.life = Some(0), &["validity-over"]),
        (
            "a dependency that is nowhere",
            |r| r.depends_on = vec![on((0, 1, 9_999))],
            &["workload-dependency"],
        ),
        (
            "a dependency of another generation",
            |r| r.depends_on = vec![on((0, 2, 0))],
            &["workload-dependency"],
        ),
        (
            "a renewal of what is not there",
            |r| r.renew = Some((0, 1, 9_999)),
            &["workload-renewal-other"],
        ),
    ];
    for (attack, change, expected) in by_node {
        let mut wanted = wanted("other", &SoftKey::new());
        change(&mut wanted);
        let answer = of_node(&mut w, wanted).await;
        let mut found = codes(&answer);
        found.dedup();
        assert_eq!(found, expected, "{attack}");
        assert_eq!(recorded(&w.broker, &answer).outcome, Outcome::Deny, "{attack}");
        replays(&w.broker, &answer);
    }
    let by_agent: [(&str, Change, &[&str]); 14] = [
        (
            "another workload's label",
            |r| r.label = "db".into(),
            &["workload-label"],
        ),
        ("its own label", |r| r.label = "agent".into(), &["workload-label"]),
        (
            "its own label and a dot",
            |r| r.label = "agent.".into(),
            &["workload-label"],
        ),
        (
            "a label that begins like its own",
            |r| r.label = "agent-2".into(),
            &["workload-label"],
        ),
        (
            "a label below another workload's",
            |r| r.label = "db.agent".into(),
            &["workload-label"],
        ),
        (
            "another region",
            |r| r.region = Some("south".into()),
            &["workload-region-wider"],
        ),
        ("any region", |r| r.region = None, &["workload-region-wider"]),
        (
            "another purpose",
            |r| r.purpose = Some("other".into()),
            &["workload-purpose-wider"],
        ),
        ("any purpose", |r| r.purpose = None, &["workload-purpose-wider"]),
        (
            "what only the node holds",
            |r| r.scopes.push("execute:tools/deploy".into()),
            &["workload-scope-not-delegable", "workload-scope-not-held"],
        ),
        (
            "a link further than it may",
            |r| r.delegation = Some((1, false)),
            &["delegation-not-permitted"],
        ),
        (
            "off-line, which it may not",
            |r| r.delegation = Some((1, true)),
            &["delegation-not-permitted", "delegation-offline-not-permitted"],
        ),
        (
            "a key in hardware by its own word",
            |r| r.key_kind = "tpm".into(),
            &["workload-key-kind-not-vouched"],
        ),
        (
            "attributes by its own word",
            |r| r.attributes = Some(attributes()),
            &["workload-attributes-not-vouched"],
        ),
    ];
    for (attack, change, expected) in by_agent {
        let mut wanted = WorkloadRequest {
            label: "agent.tool".into(),
            key: cbor::encode(&SoftKey::new().verifying_key().to_cose_key(true)),
            delegation: None,
            ..narrowed.clone()
        };
        change(&mut wanted);
        let answer = ask(&mut w, &agent_key, &agent, wanted).await;
        let mut found = codes(&answer);
        found.dedup();
        assert_eq!(found, expected, "{attack}");
        if expected == ["workload-label"] {
            let about = recorded(&w.broker, &answer).subject;
            assert_eq!(about.as_deref(), Some("agent@node-1"), "{attack}: about who asked");
        }
        replays(&w.broker, &answer);
    }
    // Its own key again: a link below oneself would never end.
    let own = WorkloadRequest {
        label: "agent.tool".into(),
        delegation: None,
        ..narrowed.clone()
    };
    let answer = ask(&mut w, &agent_key, &agent, own).await;
    assert_eq!(codes(&answer), ["workload-key"]);
    // The node's key for something below the workload: the same.
    let above = WorkloadRequest {
        key: cbor::encode(&w.node.session.verifying_key().to_cose_key(true)),
        delegation: None,
        ..narrowed
    };
    let answer = of_node(&mut w, above).await;
    assert_eq!(codes(&answer), ["workload-key"]);
    // What was denied left nothing behind.
    let node = token(&w.broker, &w.held).status;
    let row = w
        .broker
        .app()
        .store
        .get(&rows::branch(&node).unwrap())
        .unwrap()
        .unwrap();
    assert_eq!(Branch::decode(&row.value).unwrap().children.len(), 1);
    w.broker.shutdown().await.unwrap();
}

fn on(entry: (u16, u32, u32)) -> Dependency {
    Dependency {
        kind: DependencyKind::ReadsFrom,
        on: entry,
    }
}

#[tokio::test]
async fn depth_and_breadth_end_where_the_settings_say() {
    let mut w = world_with(
        &[("max_depth", "3"), ("offline_depth", "1"), ("max_children", "2")],
        POLICY,
    )
    .await;
    let (mut signer, mut held) = (None, w.held.clone());
    for depth in 1..=3u8 {
        let own = SoftKey::new();
        let further = 3 - depth;
        let label = vec!["link"; depth.into()].join(".");
        let wanted = WorkloadRequest {
            delegation: (further > 0).then_some((further, false)),
            ..wanted(&label, &own)
        };
        let request = asked(&w.client, signer.as_ref().unwrap_or(&w.node.session), &held, wanted);
        let answer = send(&mut w.client, &request).await.unwrap();
        assert_eq!(issued(&w.broker, &answer).depth, depth);
        (signer, held) = (Some(own), answer.authorization.unwrap());
    }
    let one_more = ask(
        &mut w,
        signer.as_ref().unwrap(),
        &held,
        WorkloadRequest {
            delegation: None,
            ..wanted("link.link.link.link", &SoftKey::new())
        },
    )
    .await;
    assert_eq!(codes(&one_more), ["delegation-not-permitted", "workload-too-deep"]);
    replays(&w.broker, &one_more);
    let second = of_node(&mut w, wanted("second", &SoftKey::new())).await;
    issued(&w.broker, &second);
    let third = of_node(&mut w, wanted("third", &SoftKey::new())).await;
    assert_eq!(codes(&third), ["workload-too-many-children"]);
    replays(&w.broker, &third);
    w.broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn breadth_is_kept_however_it_is_raced() {
    let w = world_with(&[("max_children", "3")], POLICY).await;
    let mut racing = Vec::new();
    for _ in 0..8 {
        let client = Client::connect(w.broker.address()).await;
        let request = asked(&client, &w.node.session, &w.held, wanted("racer", &SoftKey::new()));
        racing.push(tokio::spawn(async move {
            let mut client = client;
            send(&mut client, &request).await
        }));
    }
    let mut won = 0;
    for racer in racing {
        won += usize::from(racer.await.unwrap().is_ok_and(|answer| answer.authorization.is_some()));
    }
    assert_eq!(won, 3, "as many as may");
    let node = token(&w.broker, &w.held).status;
    let row = w
        .broker
        .app()
        .store
        .get(&rows::branch(&node).unwrap())
        .unwrap()
        .unwrap();
    assert_eq!(Branch::decode(&row.value).unwrap().children.len(), won);
    w.broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn requests_that_are_nobodys_change_nothing() {
    let mut w = world().await;
    let before = decided(&w.broker).await.len();
    let good = asked(&w.client, &w.node.session, &w.held, wanted("agent", &SoftKey::new()));
    let other = SoftKey::new();
    let mut other_client = Client::connect(w.broker.address()).await;
    let mut altered = w.held.clone();
    let last = altered.len() - 1;
    altered[last] ^= 1;
    let rows: [(&str, WorkloadRequest, &str); 4] = [
        (
            "a proof by another key",
            asked(&w.client, &other, &w.held, wanted("agent", &other)),
            "proof-signature",
        ),
        (
            "a proof of another connection",
            asked(&other_client, &w.node.session, &w.held, wanted("agent", &other)),
            "proof-exporter",
        ),
        (
            "an altered authorization",
            asked(&w.client, &w.node.session, &altered, wanted("agent", &other)),
            "authorization-signature",
        ),
        (
            "a proof for other scopes",
            WorkloadRequest {
                scopes: vec!["execute:tools/deploy".into()],
                ..good.clone()
            },
            "proof-action",
        ),
    ];
    for (attack, request, code) in rows {
        let refused = send(&mut w.client, &request).await.unwrap_err();
        assert_eq!(
            (refused.status, refused.code.as_str()),
            (401, "holder-not-authenticated"),
            "{attack}"
        );
        assert!(
            refused.reasons.iter().any(|reason| reason == code),
            "{attack}: {:?}",
            refused.reasons
        );
    }
    let (status, _) = other_client.send(Method::POST, WORKLOAD_PATH, vec![0xff; 40]).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(decided(&w.broker).await.len(), before, "nothing is on record");
    // A proof counts once.
    send(&mut w.client, &good).await.unwrap();
    let replayed = send(&mut w.client, &good).await.unwrap_err();
    assert_eq!(replayed.reasons, ["proof-replayed"]);
    w.broker.shutdown().await.unwrap();
}

/// What stands above is looked up in what the broker keeps: where that is gone, cannot be read or is another's, nothing is
/// issued below it, whatever was presented.
#[tokio::test]
async fn a_parent_that_is_missing_or_unreadable_denies() {
    let mut w = world().await;
    let (agent_key, middle_key) = (SoftKey::new(), SoftKey::new());
    let wanted_agent = WorkloadRequest {
        delegation: Some((2, false)),
        ..in_hardware(wanted("agent", &agent_key))
    };
    let agent = of_node(&mut w, wanted_agent).await.authorization.unwrap();
    let wanted_middle = wanted("agent.middle", &middle_key);
    let middle = ask(&mut w, &agent_key, &agent, wanted_middle.clone()).await;
    let mut middle = middle.authorization.unwrap();
    let of_middle = token(&w.broker, &middle).status;
    let wanted_middle = WorkloadRequest {
        renew: Some((of_middle.list, of_middle.generation, of_middle.index)),
        ..wanted_middle
    };
    let entry = token(&w.broker, &agent).status;
    let row = rows::workload(&entry).unwrap();
    let good = w.broker.app().store.get(&row).unwrap().unwrap().value;
    let of_another = WorkloadRecord {
        key: [7; 32],
        ..WorkloadRecord::decode(&good).unwrap()
    };
    let elsewhere = WorkloadRecord {
        parent: of_middle,
        ..WorkloadRecord::decode(&good).unwrap()
    };
    let deeper = WorkloadRecord {
        depth: 7,
        ..WorkloadRecord::decode(&good).unwrap()
    };
    for (row_name, value, expected) in [
        ("missing", None, "workload-parent-missing"),
        ("unreadable", Some(vec![0xff]), "workload-parent-unreadable"),
        (
            "cut short",
            Some(good[..good.len() - 1].to_vec()),
            "workload-parent-unreadable",
        ),
        ("of another key", Some(of_another.encode()), "workload-parent-other"),
        ("a loop", Some(elsewhere.encode()), "workload-parent-other"),
        ("of another depth", Some(deeper.encode()), "workload-parent-other"),
    ] {
        let renewed = ask(&mut w, &agent_key, &agent, wanted_middle.clone()).await;
        middle = renewed.authorization.unwrap();
        let mut batch = Batch::new();
        match value {
            None => batch.delete(row.clone()),
            Some(value) => batch.put(row.clone(), value),
        };
        w.broker.app().store.commit(batch).unwrap();
        let leaf = || WorkloadRequest {
            delegation: None,
            ..wanted("agent.middle.leaf", &SoftKey::new())
        };
        // Directly below it, and one further down.
        for (who, signer, held) in [("child", &agent_key, &agent), ("grandchild", &middle_key, &middle)] {
            // Only who presents an authorization has to be its holder by the record too.
            let of_other_key = row_name == "of another key" && who == "grandchild";
            let answer = ask(&mut w, signer, held, leaf()).await;
            let expected: &[&str] = if of_other_key { &[] } else { &[expected] };
            assert_eq!(codes(&answer), expected, "{row_name}, {who}");
            replays(&w.broker, &answer);
        }
        let mut batch = Batch::new();
        batch.put(row.clone(), good.clone());
        w.broker.app().store.commit(batch).unwrap();
    }
    w.broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_hangs_below_a_withdrawn_node_gets_nothing() {
    let mut w = world().await;
    let agent_key = SoftKey::new();
    let agent = of_node(&mut w, wanted("agent", &agent_key)).await;
    let held = agent.authorization.unwrap();
    let depends = token(&w.broker, &held).status;
    let body = r#"{"node": "node-1", "reason": "stolen from rack 7"}"#;
    let (status, _) = command(&w.domain, Method::POST, "/revoke", body).await;
    assert_eq!(status, StatusCode::OK);
    let leaf = WorkloadRequest {
        delegation: None,
        ..wanted("agent.leaf", &SoftKey::new())
    };
    let answer = ask(&mut w, &agent_key, &held, leaf.clone()).await;
    let found = codes(&answer);
    assert!(
        found.contains(&"node-withdrawn") && found.contains(&"workload-parent-fallen"),
        "{found:?}"
    );
    replays(&w.broker, &answer);
    let of_its_own = WorkloadRequest {
        label: "leaf".into(),
        ..leaf.clone()
    };
    let answer = of_node(&mut w, of_its_own.clone()).await;
    let found = codes(&answer);
    assert!(
        found.contains(&"authorization-revoked") && found.contains(&"node-withdrawn"),
        "{found:?}"
    );
    // The node comes back with an entry of its own; what hung below the old one does not.
    let fresh = attest(&mut w.client, &mut w.node, true)
        .await
        .unwrap()
        .authorization
        .unwrap();
    assert_ne!(token(&w.broker, &fresh).status, token(&w.broker, &w.held).status);
    w.held = fresh;
    let answer = ask(&mut w, &agent_key, &held, leaf.clone()).await;
    assert!(
        codes(&answer).contains(&"workload-parent-other"),
        "{:?}",
        codes(&answer)
    );
    let entry = (depends.list, depends.generation, depends.index);
    let renewal = WorkloadRequest {
        renew: Some(entry),
        ..wanted("agent", &agent_key)
    };
    let answer = of_node(&mut w, renewal).await;
    assert_eq!(codes(&answer), ["workload-renewal-other"]);
    let again = of_node(&mut w, of_its_own).await;
    issued(&w.broker, &again);
    w.broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_renewal_is_of_the_same_workload() {
    type Change = fn(&mut WorkloadRequest);
    let mut w = world().await;
    let own = SoftKey::new();
    let first = of_node(&mut w, wanted("agent", &own)).await;
    let status = issued(&w.broker, &first).status;
    let other = of_node(&mut w, wanted("other", &SoftKey::new())).await;
    let other = issued(&w.broker, &other).status;
    let entry = |entry: StatusIndex| (entry.list, entry.generation, entry.index);
    let rows: [(&str, Change); 5] = [
        ("another label", |r| r.label = "agent-2".into()),
        ("another key", |r| {
            r.key = cbor::encode(&SoftKey::new().verifying_key().to_cose_key(true))
        }),
        ("a region it had not", |r| r.region = Some("north".into())),
        ("a purpose it had not", |r| r.purpose = Some("report".into())),
        ("another kind of key", |r| r.key_kind = "tpm".into()),
    ];
    for (attack, change) in rows {
        let mut request = WorkloadRequest {
            renew: Some(entry(status)),
            ..wanted("agent", &own)
        };
        change(&mut request);
        let answer = of_node(&mut w, request).await;
        assert_eq!(codes(&answer), ["workload-renewal-other"], "{attack}");
        replays(&w.broker, &answer);
    }
    let of_other = WorkloadRequest {
        renew: Some(entry(other)),
        ..wanted("agent", &own)
    };
    assert_eq!(codes(&of_node(&mut w, of_other).await), ["workload-renewal-other"]);
    // With what it depends on, too.
    let depending = WorkloadRequest {
        depends_on: vec![on(entry(other))],
        ..wanted("reader", &SoftKey::new())
    };
    let answer = of_node(&mut w, depending.clone()).await;
    let reader = issued(&w.broker, &answer).status;
    assert_eq!(kept(&w.broker, &reader).depends_on, depending.depends_on);
    let without = WorkloadRequest {
        depends_on: Vec::new(),
        renew: Some(entry(reader)),
        ..depending
    };
    assert_eq!(codes(&of_node(&mut w, without).await), ["workload-renewal-other"]);
    w.broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn settings_that_allow_nothing_below_a_node_issue_nothing() {
    let mut w = world_with(&[("software_keys", "\"refused\"")], POLICY).await;
    let answer = of_node(&mut w, wanted("agent", &SoftKey::new())).await;
    assert!(
        codes(&answer).contains(&"workload-key-kind-refused"),
        "{:?}",
        codes(&answer)
    );
    // The node vouches for a key in its own hardware.
    let in_tpm = WorkloadRequest {
        key_kind: "tpm".into(),
        ..wanted("agent", &SoftKey::new())
    };
    let answer = of_node(&mut w, in_tpm).await;
    assert_eq!(issued(&w.broker, &answer).key_kind, KeyKind::Tpm);
    w.broker.shutdown().await.unwrap();

    let mut w = world_with(
        &[("max_depth", "0"), ("offline", "false"), ("offline_depth", "0")],
        POLICY,
    )
    .await;
    assert_eq!(token(&w.broker, &w.held).delegation, None);
    let answer = of_node(&mut w, wanted("agent", &SoftKey::new())).await;
    assert!(
        codes(&answer).contains(&"delegation-not-permitted"),
        "{:?}",
        codes(&answer)
    );
    w.broker.shutdown().await.unwrap();
}

/// A record that was changed is noticed by its digest; and were that made to fit, the decision follows the inputs.
#[tokio::test]
async fn a_record_that_was_changed_gives_another_decision_or_none() {
    let mut w = world().await;
    let own = SoftKey::new();
    let held = of_node(&mut w, wanted("agent", &own)).await.authorization.unwrap();
    let leaf = WorkloadRequest {
        delegation: None,
        ..wanted("agent.leaf", &SoftKey::new())
    };
    let answer = ask(&mut w, &own, &held, leaf).await;
    issued(&w.broker, &answer);
    let record = record_of(&w.broker, &answer);
    let (policy, statement_key) = (w.broker.app().policy(), key(&w.broker, Job::Statement));
    let RecordedDecision::Workload(inputs) = record.recorded().unwrap() else {
        panic!("not about a workload");
    };
    let mut other = record.clone();
    other.inputs[20] ^= 1;
    assert!(matches!(
        other.replay(&policy, &statement_key),
        Err(RecordError::OtherInputs { .. })
    ));
    let mut without = record.clone();
    without.parts.clear();
    assert!(matches!(
        without.replay(&policy, &statement_key),
        Err(RecordError::Workload(WorkloadInputsError::PartMissing { .. }))
    ));
    let (bytes, parts) = inputs.record();
    assert_eq!(bytes, record.inputs);
    for cut in 0..bytes.len() {
        let part = |digest: &[u8; 32]| parts.iter().find(|(d, _)| d == digest).map(|(_, bytes)| bytes.clone());
        assert!(
            touchstone_keybroker::workload::inputs::WorkloadInputs::decode(&bytes[..cut], part).is_err(),
            "cut at {cut}"
        );
    }
    // The one above as revoked: the decision would have been another.
    let mut fallen = (*inputs).clone();
    let seen = fallen.ancestry.above[0].seen.as_mut().unwrap();
    seen.status = Some(Status::Invalid);
    let decided = fallen.again(&policy).unwrap();
    let found: Vec<&str> = decided.reasons.iter().map(|reason| reason.code.as_str()).collect();
    assert_eq!(found, ["workload-parent-fallen"]);
    assert!(decided.issued.is_none());
    w.broker.shutdown().await.unwrap();
}

/// The shipped policy says that a deployment is preceded by a scan; here its own words, over what was issued.
#[tokio::test]
async fn a_policy_can_ask_what_came_before() {
    let policy = r#"
@id("all") permit (principal, action, resource);
@id("scan-first") forbid (principal is Workload, action == Action::"execute", resource == WorkloadClass::"tools/deploy")
unless { context.lineage.issued.contains("execute:tools/scan") };
@id("one-level") forbid (principal is Workload, action, resource) when { context.lineage.depth > 1 };
"#;
    let mut w = world_with(&[], policy).await;
    let own = SoftKey::new();
    let deploy = || WorkloadRequest {
        scopes: vec!["execute:tools/deploy".into()],
        delegation: None,
        ..wanted("deployer", &SoftKey::new())
    };
    let early = of_node(&mut w, deploy()).await;
    assert_eq!(codes(&early), ["denied-by-domain-policy"]);
    let scan = of_node(&mut w, wanted("scanner", &own)).await;
    issued(&w.broker, &scan);
    let late = of_node(&mut w, deploy()).await;
    issued(&w.broker, &late);
    for answer in [&early, &late] {
        replays(&w.broker, answer);
    }
    let leaf = WorkloadRequest {
        delegation: None,
        ..wanted("scanner.leaf", &SoftKey::new())
    };
    let below = ask(&mut w, &own, scan.authorization.as_deref().unwrap(), leaf).await;
    assert_eq!(codes(&below), ["denied-by-domain-policy", "denied-by-domain-policy"]);
    w.broker.shutdown().await.unwrap();
}

/// An enforcer that policy lists, and one that it does not.
pub fn enforcer(seed: u8) -> SigningKey {
    SigningKey::from_seed([seed; 32])
}

pub fn stage_enforcer(domain: &Domain) {
    let VerifyingKey::Ed25519(public) = enforcer(7).verifying_key() else {
        panic!("not Ed25519");
    };
    let spki = [&hex::decode("302a300506032b6570032100").unwrap()[..], public.as_ref()].concat();
    let text = format!(
        "[enforcers.\"guard:1\"]\nkey = \"\"\"-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n\"\"\"\n",
        STANDARD.encode(spki)
    );
    std::fs::write(domain.path("policy/staged/enforcers.toml"), text).unwrap();
}

pub fn used(chain: &[u8], scope: &str) -> Use {
    Use {
        domain: DOMAIN.into(),
        enforcer: "guard:1".into(),
        id: random(),
        chain_digest: authorization_digest(chain),
        chain: Some(chain.to_vec()),
        scope: Scope::parse(scope).unwrap(),
        at_ms: Clock::start().now_ms(),
        outcome: UseOutcome::Allowed,
    }
}

pub async fn report(client: &mut Client, uses: &[Vec<u8>]) -> Result<Vec<Option<String>>, Problem> {
    let body = cbor::encode(&Value::array(uses.iter().map(|used| Value::bytes(used.as_slice()))));
    let (status, body) = client.send(Method::POST, "/v1/uses", body).await;
    if status != StatusCode::OK {
        return Err(problem(status, &body));
    }
    let value = cbor::decode(&body, cbor::Limits::MESSAGE).unwrap();
    let codes = value.as_array().unwrap().iter();
    Ok(codes.map(|code| code.as_text().map(str::to_owned)).collect())
}

/// What listed enforcers report is what a policy is told of; what anybody else says is not.
#[tokio::test]
async fn what_was_used_counts_once_and_only_as_listed_enforcers_report_it() {
    let policy = r#"
@id("all") permit (principal, action, resource);
@id("scan-first") forbid (principal is Workload, action == Action::"execute", resource == WorkloadClass::"tools/deploy")
unless { context.lineage.used.contains("execute:tools/scan") && context.lineage.uses >= 2 };
"#;
    let mut w = world_staged(&[], policy, stage_enforcer).await;
    let own = SoftKey::new();
    let offline = WorkloadRequest {
        delegation: Some((1, true)),
        ..in_hardware(wanted("scanner", &own))
    };
    let scanner = of_node(&mut w, offline).await.authorization.unwrap();
    let deploy = || WorkloadRequest {
        scopes: vec!["execute:tools/deploy".into()],
        delegation: None,
        ..wanted("deployer", &SoftKey::new())
    };
    let sign = |used: &Use, seed: u8| used.encode_signed(&enforcer(seed)).unwrap();
    let first = used(&scanner, "execute:tools/scan");
    let before = decided(&w.broker).await.len();
    for (attack, bytes) in [
        ("an enforcer that is not listed", sign(&first, 8)),
        (
            "for another domain",
            sign(
                &Use {
                    domain: "other.example".into(),
                    ..first.clone()
                },
                7,
            ),
        ),
        (
            "under another's name",
            sign(
                &Use {
                    enforcer: "guard:2".into(),
                    ..first.clone()
                },
                7,
            ),
        ),
    ] {
        let refused = report(&mut w.client, &[bytes]).await.unwrap_err();
        assert_eq!(
            (refused.status, refused.code.as_str()),
            (401, "enforcer-not-listed"),
            "{attack}"
        );
    }
    let mut forged = scanner.clone();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    for (attack, bad, code) in [
        (
            "a chain nobody has seen",
            Use {
                chain: None,
                ..first.clone()
            },
            "use-chain-unknown",
        ),
        (
            "a forged chain",
            used(&forged, "execute:tools/scan"),
            "use-chain-unknown",
        ),
        (
            "a scope it does not hold",
            used(&scanner, "execute:tools/deploy"),
            "use-scope-not-held",
        ),
        (
            "too old",
            Use {
                at_ms: first.at_ms - 101_000,
                ..used(&scanner, "execute:tools/scan")
            },
            "use-time",
        ),
        (
            "from tomorrow",
            Use {
                at_ms: first.at_ms + 86_400_000,
                ..used(&scanner, "execute:tools/scan")
            },
            "use-time",
        ),
    ] {
        let codes = report(&mut w.client, &[sign(&bad, 7)]).await.unwrap();
        assert_eq!(codes, [Some(code.to_owned())], "{attack}");
    }
    assert_eq!(decided(&w.broker).await.len(), before, "nothing of it is on record");
    let early = of_node(&mut w, deploy()).await;
    assert_eq!(codes(&early), ["denied-by-domain-policy"]);
    // Whatever time the attacks took: a use is reported while it is new.
    let first = used(&scanner, "execute:tools/scan");
    assert_eq!(report(&mut w.client, &[sign(&first, 7)]).await.unwrap(), [None]);
    // The same once more counts no second time.
    let seen = report(&mut w.client, &[sign(&first, 7), sign(&first, 7)])
        .await
        .unwrap();
    assert_eq!(seen, [Some("use-seen".to_owned()), Some("use-seen".to_owned())]);
    let still = of_node(&mut w, deploy()).await;
    assert_eq!(codes(&still), ["denied-by-domain-policy"]);
    // A chain with an off-line link: an edge from its first use on. What it does counts in the same tree.
    let helper = SoftKey::new();
    let now_s = now() as u64;
    let handed_on = Delegation {
        key: helper.verifying_key(),
        label: "helper".into(),
        scopes: vec![Scope::parse("execute:tools/scan").unwrap()],
        not_before: now_s,
        expires: token(&w.broker, &scanner).expires.min(now_s + 290),
        depth: 0,
        region: None,
        purpose: None,
        cti: random(),
    };
    let chain = delegate(&scanner, &handed_on, &own).unwrap();
    let by_helper = used(&chain, "execute:tools/scan");
    let again = Use {
        chain: None,
        ..used(&chain, "execute:tools/scan")
    };
    assert_eq!(report(&mut w.client, &[sign(&by_helper, 7)]).await.unwrap(), [None]);
    assert_eq!(
        report(&mut w.client, &[sign(&again, 7)]).await.unwrap(),
        [None],
        "known by its digest"
    );
    let statements = ledger(&w.broker).await;
    let chains: Vec<&Statement> = statements.iter().filter(|s| s.kind == Kind::ChainReport).collect();
    assert_eq!(chains.len(), 1);
    assert_eq!(chains[0].subject.as_deref(), Some("scanner@node-1:helper"));
    let link = chains[0].body.get(4).unwrap().as_array().unwrap()[0]
        .as_array()
        .unwrap()
        .to_vec();
    assert_eq!(link[0].as_bytes(), Some(handed_on.cti.as_slice()));
    assert_eq!(statements.iter().filter(|s| s.kind == Kind::UseReport).count(), 3);
    let late = of_node(&mut w, deploy()).await;
    issued(&w.broker, &late);
    for answer in [&early, &still, &late] {
        replays(&w.broker, answer);
    }
    w.broker.shutdown().await.unwrap();
}

/// Two scans before a deployment, and two deployments below one node: counted as listed enforcers report them.
#[tokio::test]
async fn a_policy_can_ask_how_often_each_right_was_used() {
    let policy = r#"
@id("all") permit (principal, action, resource);
@id("two-scans-first") forbid (principal is Workload, action == Action::"execute", resource == WorkloadClass::"tools/deploy")
unless { context.lineage.uses_of.hasTag("execute:tools/scan") && context.lineage.uses_of.getTag("execute:tools/scan") >= 2 };
@id("two-deployments") forbid (principal is Workload, action == Action::"execute", resource == WorkloadClass::"tools/deploy")
when { context.lineage.uses_of_this >= 2 };
"#;
    let mut w = world_staged(&[], policy, stage_enforcer).await;
    let scanner = of_node(&mut w, in_hardware(wanted("scanner", &SoftKey::new())))
        .await
        .authorization
        .unwrap();
    let deploy = |label: &str, key: &SoftKey| WorkloadRequest {
        scopes: vec!["execute:tools/deploy".into()],
        delegation: None,
        ..in_hardware(wanted(label, key))
    };
    let use_it = |chain: &[u8], scope: &str| used(chain, scope).encode_signed(&enforcer(7)).unwrap();
    let mut answers = Vec::new();
    for _ in 0..2 {
        let early = of_node(&mut w, deploy("early", &SoftKey::new())).await;
        assert_eq!(codes(&early), ["denied-by-domain-policy"]);
        assert!(
            early.reasons[0].found.contains("two-scans-first"),
            "{:?}",
            early.reasons
        );
        answers.push(early);
        let scan = use_it(&scanner, "execute:tools/scan");
        assert_eq!(report(&mut w.client, &[scan]).await.unwrap(), [None]);
    }
    let keys = [SoftKey::new(), SoftKey::new(), SoftKey::new()];
    let mut first = None;
    for (label, key) in ["one", "two"].into_iter().zip(&keys) {
        let answer = of_node(&mut w, deploy(label, key)).await;
        let status = issued(&w.broker, &answer).status;
        first.get_or_insert(status);
        let chain = answer.authorization.clone().unwrap();
        // What enforcers refused is no use of it.
        let refused = Use {
            outcome: UseOutcome::Refused,
            ..used(&chain, "execute:tools/deploy")
        };
        let refused = refused.encode_signed(&enforcer(7)).unwrap();
        let uses = [refused, use_it(&chain, "execute:tools/deploy")];
        assert_eq!(report(&mut w.client, &uses).await.unwrap(), [None, None]);
        answers.push(answer);
    }
    let first = first.unwrap();
    let renewal = WorkloadRequest {
        renew: Some((first.list, first.generation, first.index)),
        ..deploy("one", &keys[0])
    };
    for (what, request) in [
        ("the third", deploy("three", &keys[2])),
        ("the first, once more", renewal),
    ] {
        let answer = of_node(&mut w, request).await;
        assert_eq!(codes(&answer), ["denied-by-domain-policy"], "{what}");
        assert!(
            answer.reasons[0].found.contains("two-deployments"),
            "{what}: {:?}",
            answer.reasons
        );
        answers.push(answer);
    }
    for answer in &answers {
        replays(&w.broker, answer);
    }
    w.broker.shutdown().await.unwrap();
}

/// Nothing is issued whose use would be counted no more: a policy that asks how often would be told too little.
#[tokio::test]
async fn what_could_be_used_without_being_counted_is_not_issued() {
    let mut w = world().await;
    let row = rows::tree(&token(&w.broker, &w.held).status).unwrap();
    let full = |first: &str| {
        let others = (1..MAX_TREE_SCOPES).map(|n| (format!("execute:other-{n}"), 1));
        Tree {
            used: others.chain([(first.to_owned(), 1)]).collect(),
            ..Tree::default()
        }
    };
    for (what, tree, expected) in [
        (
            "of this right none was counted",
            full("execute:other"),
            &["workload-tree-full"][..],
        ),
        ("of this right some were counted", full("execute:tools/scan"), &[]),
    ] {
        let mut batch = Batch::new();
        batch.put(row.clone(), tree.encode());
        w.broker.app().store.commit(batch).unwrap();
        let request = WorkloadRequest {
            scopes: vec!["execute:tools/scan".into()],
            ..wanted("agent", &SoftKey::new())
        };
        let answer = of_node(&mut w, request).await;
        assert_eq!(codes(&answer), expected, "{what}");
        replays(&w.broker, &answer);
    }
    w.broker.shutdown().await.unwrap();
}

/// What a workload rests on beside its node is an edge of the lineage, and takes it along in the same epoch.
#[tokio::test]
async fn what_a_workload_rests_on_takes_it_along_whatever_the_kind() {
    let mut w = world().await;
    for (kind, edge) in [
        (DependencyKind::StartedBy, Link::DependsOn),
        (DependencyKind::ReadsFrom, Link::DependsOn),
        (DependencyKind::MovedFrom, Link::MovedFrom),
    ] {
        let what = kind.as_str();
        let names = [format!("base-{what}"), format!("on-{what}"), format!("by-{what}")];
        let base = of_node(&mut w, wanted(&names[0], &SoftKey::new())).await;
        let base = issued(&w.broker, &base).status;
        let resting = WorkloadRequest {
            depends_on: vec![Dependency {
                kind,
                on: (base.list, base.generation, base.index),
            }],
            ..wanted(&names[1], &SoftKey::new())
        };
        let answer = of_node(&mut w, resting).await;
        let resting = issued(&w.broker, &answer).status;
        replays(&w.broker, &answer);
        let bystander = of_node(&mut w, wanted(&names[2], &SoftKey::new())).await;
        let bystander = issued(&w.broker, &bystander).status;
        let edges = w.broker.app().lineage.get(&resting).unwrap().depends_on;
        assert_eq!(edges, [lineage::Dependency { on: base, why: edge }], "{what}");

        let epoch = w.broker.app().trust.epoch();
        let order = format!(
            r#"{{"action": "revoke", "target": "workload", "id": "{}@node-1", "reason": "moved by nobody we know"}}"#,
            names[0]
        );
        let (done, body) = command(&w.domain, Method::POST, "/commands", &order).await;
        assert_eq!(done, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
        assert_eq!(w.broker.app().trust.epoch(), epoch + 1, "{what}: one epoch");
        let lists = w.broker.app().trust.lists();
        let status = |entry: &StatusIndex| lists.get(entry.list).unwrap().status(entry.index);
        assert_eq!(status(&base), Some(Status::Invalid), "{what}");
        assert_eq!(status(&resting), Some(Status::Invalid), "{what}");
        assert_eq!(status(&bystander), Some(Status::Valid), "{what}");

        let mut history = History::default();
        for (index, statement) in (0..).zip(&ledger(&w.broker).await) {
            history.apply(index, statement);
        }
        let flaws = history.flaws().0.to_vec();
        assert_eq!(flaws, [], "{what}");
        let name = format!("{}@node-1", names[1]);
        let tree = &history.trees(Named::Subject, &name, now())[0];
        assert_eq!((tree.state, tree.epoch), ("revoked", Some(epoch + 1)), "{what}");
        let told = tree.events.iter().find(|event| event.what == edge.as_str());
        assert_eq!(
            told.map(|event| event.detail.clone()),
            Some(format!("{}@node-1", names[0])),
            "{what}"
        );
    }
    w.broker.shutdown().await.unwrap();
}

/// A policy that has come into force takes from workloads what it would not issue, and leaves their node what it has.
#[tokio::test]
async fn a_new_policy_takes_what_it_would_not_issue() {
    let mut w = world().await;
    let (scan_key, deploy_key) = (SoftKey::new(), SoftKey::new());
    let scan = of_node(&mut w, wanted("scanner", &scan_key)).await;
    let deploy = WorkloadRequest {
        scopes: vec!["execute:tools/deploy".into(), "delegate:tools/deploy".into()],
        ..wanted("deployer", &deploy_key)
    };
    let deploy = of_node(&mut w, deploy).await;
    let (scan, deploy) = (issued(&w.broker, &scan), issued(&w.broker, &deploy));
    let child = WorkloadRequest {
        scopes: vec!["execute:tools/deploy".into()],
        delegation: None,
        ..wanted("deployer.child", &SoftKey::new())
    };
    let held = w.held.clone();
    let node = token(&w.broker, &held);
    let deploy_bytes = {
        let renew = WorkloadRequest {
            scopes: vec!["execute:tools/deploy".into(), "delegate:tools/deploy".into()],
            renew: Some((deploy.status.list, deploy.status.generation, deploy.status.index)),
            ..wanted("deployer", &deploy_key)
        };
        of_node(&mut w, renew).await.authorization.unwrap()
    };
    let child = ask(&mut w, &deploy_key, &deploy_bytes, child).await;
    let child = issued(&w.broker, &child);
    let stricter = r#"
@id("all") permit (principal, action, resource);
@id("no-deploys") forbid (principal is Workload, action, resource == WorkloadClass::"tools/deploy");
"#;
    std::fs::write(w.domain.path("policy/staged/policy.cedar"), stricter).unwrap();
    w.domain.publish();
    let before = w.broker.app().trust.epoch();
    let (status, _) = command(&w.domain, Method::POST, "/reload", "").await;
    assert_eq!(status, StatusCode::OK);
    let status_of = |entry: &StatusIndex| {
        let lists = w.broker.app().trust.lists();
        lists.get(entry.list).unwrap().status(entry.index)
    };
    eventually("the stricter policy", || {
        status_of(&deploy.status) == Some(Status::Invalid)
    })
    .await;
    assert_eq!(
        status_of(&child.status),
        Some(Status::Invalid),
        "with what hangs below it"
    );
    assert_eq!(status_of(&scan.status), Some(Status::Valid));
    assert_eq!(status_of(&node.status), Some(Status::Valid));
    assert!(w.broker.app().trust.epoch() > before);
    w.broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn below_a_node_that_has_missed_its_deadline_nothing_is_granted_or_renewed() {
    let quick = [
        ("attestation_interval_ms", "300"),
        ("attestation_retry_ms", "100"),
        ("attestation_deadline_ms", "500"),
        ("attestation_grace_ms", "3600000"),
    ];
    let mut w = world_with(&[], POLICY).await;
    let own = SoftKey::new();
    let first = of_node(&mut w, in_hardware(wanted("agent", &own))).await;
    let status = issued(&w.broker, &first).status;
    w.domain.change(&quick).await;
    eventually("the deadline", || w.broker.app().standings.is_late("node-1")).await;
    let renewal = || WorkloadRequest {
        renew: Some((status.list, status.generation, status.index)),
        ..in_hardware(wanted("agent", &own))
    };
    for wanted in [renewal(), wanted("other", &SoftKey::new())] {
        let request = asked(&w.client, &w.node.session, &w.held, wanted);
        assert_eq!(send(&mut w.client, &request).await.unwrap_err().code, "node-stale");
    }
    let counts = w
        .broker
        .app()
        .trust
        .lists()
        .get(status.list)
        .unwrap()
        .status(status.index);
    assert_eq!(counts, Some(Status::Valid), "within the grace it keeps what it has");
    w.domain.change(&[("attestation_deadline_ms", "3600000")]).await;
    let again = attest(&mut w.client, &mut w.node, true).await.unwrap();
    w.held = again.authorization.unwrap();
    let renewed = of_node(&mut w, renewal()).await;
    assert_eq!(
        issued(&w.broker, &renewed).status,
        status,
        "good evidence is the way back"
    );
    w.broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_workload_in_quarantine_gets_nothing_by_asking_anew() {
    let mut w = world().await;
    let agent = of_node(&mut w, wanted("agent", &SoftKey::new())).await;
    let place = issued(&w.broker, &agent).status;
    let status = |broker: &RunningBroker| {
        let lists = broker.app().trust.lists();
        lists.get(place.list).unwrap().status(place.index).unwrap()
    };
    let order = |action: &str| {
        format!(r#"{{"action": "{action}", "target": "workload", "id": "agent@node-1", "reason": "odd calls"}}"#)
    };
    let (done, _) = command(&w.domain, Method::POST, "/commands", &order("quarantine")).await;
    assert_eq!(done, StatusCode::OK);
    assert_eq!(status(&w.broker), Status::Suspended);
    let anew = asked(&w.client, &w.node.session, &w.held, wanted("agent", &SoftKey::new()));
    assert_eq!(send(&mut w.client, &anew).await.unwrap_err().code, "subject-suspended");
    // Another workload of the same node goes on.
    let other = of_node(&mut w, wanted("other", &SoftKey::new())).await;
    issued(&w.broker, &other);
    let (done, _) = command(&w.domain, Method::POST, "/commands", &order("lift")).await;
    assert_eq!(done, StatusCode::OK);
    assert_eq!(status(&w.broker), Status::Suspended, "until its node shows itself");
    assert!(attest(&mut w.client, &mut w.node, true).await.unwrap().allowed);
    assert_eq!(status(&w.broker), Status::Valid);
    w.broker.shutdown().await.unwrap();
}
