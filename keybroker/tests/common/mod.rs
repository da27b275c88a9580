//! A broker over its real HTTPS interface, with a policy repository made on the spot and machines in software.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "test support; each test binary uses its part"
)]

pub mod client;
pub mod link;
pub mod tpm;

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use touchstone_authorization::{KeyRing, TrustView, TrustedKey, UntrustedAuthorization, VerifiedAuthorization};
use touchstone_client::follow::{FollowConfig, OWN_STREAM, Source, Time};
use touchstone_client::{Endpoint, pinned_config};
use touchstone_cose::key::VerifyingKey;
use touchstone_evidence::collection::Collection;
use touchstone_evidence::label::Label;
use touchstone_evidence::message::Answer;
use touchstone_evidence::pcr_values::{self, PcrValues};
use touchstone_keybroker::clock::{Clock, seconds};
use touchstone_keybroker::config::Config;
use touchstone_keybroker::service::{self, Broker, RunningBroker, ServiceError};
use touchstone_keybroker::ticker;
use touchstone_ledger::receipt::verify_receipt;
use touchstone_ledger::statement::{Kind, Statement, VerifiedStatement};
use touchstone_policies::{self as policies, Job, NodeIdentity, NodePlace};
use touchstone_verifier::tpm::Public;

use client::{Client, Problem};
use tpm::SoftNode;

pub const DOMAIN: &str = "test.example";
pub const REGION: &str = "north";
/// How long is waited for what must come before the test fails: for a machine far slower than any that is in use.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Nothing that a broker is only waited for in ends by itself before that: what a test does not set. A test that waits for the
/// end of something says when it ends, and may say so first when everything before it is done ([`Domain::change`]).
const PATIENT: [(&str, &str); 5] = [
    ("freshness_window_ms", "600000"),
    ("attestation_deadline_ms", "3600000"),
    ("authorization_life_ms", "7200000"),
    ("workload_life_ms", "1200000"),
    ("offline_life_ms", "300000"),
];
/// The same for what clients may take: the most that there may be.
const PATIENT_LIMITS: [(&str, &str); 4] = [
    ("handshake_ms", "60000"),
    ("head_ms", "600000"),
    ("body_ms", "60000"),
    ("session_ms", "60000"),
];
/// Registers of the recorded quote the reference is made of.
const REFERENCE_REGISTERS: [u8; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 14];

pub fn boots() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../swtpm-tests/boots")
}

pub fn now() -> i64 {
    seconds(Clock::start().now_ms())
}

/// A domain: policy repository, keys, data folder.
pub struct Domain {
    pub folder: tempfile::TempDir,
    name: String,
    config_more: String,
}

impl Domain {
    /// A published domain with these nodes, a reference of the boot `good`, and settings changed line by line.
    pub fn new(nodes: &[(&str, &SoftNode)], settings: &[(&str, &str)]) -> Self {
        Self::named(DOMAIN, nodes, settings)
    }

    /// The same under this name.
    pub fn named(name: &str, nodes: &[(&str, &SoftNode)], settings: &[(&str, &str)]) -> Self {
        let domain = Self {
            folder: tempfile::tempdir().unwrap(),
            name: name.into(),
            config_more: String::new(),
        };
        let repo = domain.path("policy");
        policies::init(&repo, name, &domain.path("keys"), now()).unwrap();
        domain.stage(&PATIENT);
        domain.stage(settings);
        for (n, (name, node)) in nodes.iter().enumerate() {
            if nodes[..n].iter().any(|(earlier, _)| earlier == name) {
                domain.replace_node(name, node);
            } else {
                domain.add_node(name, node);
            }
        }
        policies::reference_add(&repo, &reference().encode(), Some("golden"), None, None).unwrap();
        let keyset = service::init(&domain.path("data"), "a", now() - 60, 3_600 * 24).unwrap();
        policies::keyset_add(&repo, &std::fs::read(keyset).unwrap()).unwrap();
        domain.publish();
        std::fs::copy(repo.join("metadata/1.root.json"), domain.path("root.json")).unwrap();
        domain
    }

    /// Changes settings line by line in what is staged.
    pub fn stage(&self, settings: &[(&str, &str)]) {
        let path = self.path("policy/staged/settings.toml");
        let mut text = std::fs::read_to_string(&path).unwrap();
        for (key, value) in settings {
            let line = text.lines().find(|line| line.starts_with(key)).unwrap().to_owned();
            text = text.replace(&line, &format!("{key} = {value}"));
        }
        std::fs::write(&path, text).unwrap();
    }

    /// Has the broker of this domain take over changed settings.
    pub async fn change(&self, settings: &[(&str, &str)]) {
        self.stage(settings);
        self.publish();
        let (status, body) = command(self, Method::POST, "/reload", "").await;
        assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
    }

    /// The same with more in the configuration.
    pub fn with_more(mut self, more: &str) -> Self {
        self.config_more.push_str(more);
        self
    }

    /// The same with this instead of what was added to the configuration.
    pub fn with_only(mut self, more: &str) -> Self {
        more.clone_into(&mut self.config_more);
        self
    }

    /// The same with limits in the configuration.
    pub fn with_limits(mut self, limits: &str) -> Self {
        self.config_more = format!("[limits]\n{limits}\n");
        self
    }

    pub fn add_node(&self, name: &str, node: &SoftNode) {
        // What a region names has no role that the whole has not delegated.
        let roles = ["worker".to_owned()];
        let place = NodePlace {
            name,
            region: REGION,
            zone: None,
            roles: if name.contains('/') { &[] } else { &roles },
            owner: None,
        };
        policies::node_add(&self.path("policy"), &NodeIdentity::Ek(node.ek_public()), place).unwrap();
    }

    /// Lists a second machine under a name that has one, as an author does who replaces hardware.
    pub fn replace_node(&self, name: &str, node: &SoftNode) {
        let path = self.path("policy/staged/nodes").join(format!("{name}.json"));
        let mut entry: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let id = Public::parse(&node.ek_public()).unwrap().subject_key().spki_sha256();
        entry["ek"].as_array_mut().unwrap().push(hex::encode(id).into());
        std::fs::write(&path, serde_json::to_vec(&entry).unwrap()).unwrap();
    }

    /// Takes a machine out of an entry that lists another one besides, as an author does who has replaced hardware.
    pub fn take_out(&self, name: &str, node: &SoftNode) {
        let repo = self.path("policy");
        let listed = policies::author::node_list(&repo).unwrap();
        let mut entry = listed.into_iter().find(|listed| listed.node.name == name).unwrap().node;
        let id = Public::parse(&node.ek_public()).unwrap().subject_key().spki_sha256();
        entry.ek.retain(|ek| *ek != hex::encode(id));
        let path = repo.join("staged/nodes").join(format!("{name}.json"));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, entry.to_json()).unwrap();
    }

    pub fn publish(&self) {
        policies::publish(&self.path("policy"), &self.path("keys"), now()).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn config(&self) -> Config {
        let text = |name| toml::Value::String(self.path(name).to_str().unwrap().into()).to_string();
        Config::parse(&format!(
            "data_dir = {}\nlisten = \"127.0.0.1:0\"\npolicy = {}\npolicy_root = {{ file = {} }}\ndomain = {:?}\n{}",
            text("data"),
            text("policy"),
            text("root.json"),
            self.name,
            patient(&self.config_more),
        ))
        .unwrap()
    }

    /// Starts the broker; waits for one that was killed to let go of its store.
    pub async fn start(&self) -> RunningBroker {
        in_time("the store of a broker that is gone", async {
            loop {
                match Broker::start(self.config()).await {
                    Ok(broker) => return broker,
                    Err(ServiceError::Store(touchstone_store::OpenError::InUse { .. })) => {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        })
        .await
    }
}

/// A configuration with limits that let clients take their time, where it does not say otherwise.
fn patient(more: &str) -> String {
    let said = |key: &str| more.lines().any(|line| line.starts_with(&format!("{key} =")));
    let limits = PATIENT_LIMITS.iter().filter(|(key, _)| !said(key));
    let limits: String = limits.map(|(key, value)| format!("{key} = {value}\n")).collect();
    match more.split_once("[limits]\n") {
        Some((before, after)) => format!("{before}[limits]\n{limits}{after}"),
        None => format!("{more}\n[limits]\n{limits}"),
    }
}

/// Waits for a condition; the test fails if it never holds.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    in_time(what, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// Waits for what must come; the test fails if it does not.
pub async fn in_time<T>(what: &str, comes: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, comes).await {
        Ok(come) => come,
        Err(_) => panic!("waited {PATIENCE:?} for {what}"),
    }
}

/// The recorded boot `good` as packed evidence.
pub fn reference() -> Collection {
    let file = |name: &str| std::fs::read(boots().join("good").join(name)).unwrap();
    let values: PcrValues = tpm::recorded_values("good")
        .into_iter()
        .filter(|((_, register), _)| REFERENCE_REGISTERS.contains(register))
        .collect();
    let mut collection = Collection::unbound();
    let mut put = |label, bytes| collection.insert(label, bytes).unwrap();
    put(Label::TpmQuote, file("quote-rsa/quote.msg"));
    put(Label::TpmQuoteSignature, file("quote-rsa/quote.sig"));
    put(Label::TpmAkPublic, file("ak-rsa.pub"));
    put(Label::TpmPcrValues, pcr_values::encode(&values));
    put(Label::FirmwareEventLog, file("eventlog.bin"));
    collection
}

/// One whole attestation over `client`.
pub async fn attest(client: &mut Client, node: &mut SoftNode, known: bool) -> Result<Answer, Problem> {
    attest_in(DOMAIN, client, node, known).await
}

/// The same in the domain of this name.
pub async fn attest_in(domain: &str, client: &mut Client, node: &mut SoftNode, known: bool) -> Result<Answer, Problem> {
    let challenge = client.hello(&node.hello(known)).await?;
    let submission = node.answer(domain, &challenge, client.export(&challenge.nonce));
    client.submit(&submission).await
}

/// A key of the broker.
pub fn key(broker: &RunningBroker, job: Job) -> VerifyingKey {
    let policy = broker.app().policy();
    policy.keyset.keys(job, now()).next().unwrap().key.clone()
}

pub fn ring(broker: &RunningBroker, job: Job) -> KeyRing {
    KeyRing::new([TrustedKey {
        key: key(broker, job),
        not_before: 0,
        not_after: i64::MAX,
    }])
    .unwrap()
}

/// Whom to follow at `address`, as enforcers do: TLS pinned to the keys of these jobs.
pub fn source(broker: &RunningBroker, address: std::net::SocketAddr, name: &str, jobs: &[Job]) -> Source {
    let policy = broker.app().policy();
    let pins: Vec<_> = jobs
        .iter()
        .flat_map(|job| policy.keyset.keys(*job, now()))
        .map(|entry| TrustedKey {
            key: entry.key.clone(),
            not_before: entry.not_before,
            not_after: entry.not_after,
        })
        .collect();
    Source {
        brokers: vec![Endpoint::parse(&address.to_string()).unwrap()],
        tls: pinned_config(&pins).unwrap(),
        config: FollowConfig {
            domain: DOMAIN.into(),
            subscriber: name.into(),
            keys: ring(broker, Job::TrustState),
            skew_ms: 5_000,
            route: OWN_STREAM.into(),
            time: Time::Asked,
            floor: None,
        },
    }
}

/// The trust state of a whole frame.
pub fn view(broker: &RunningBroker, frame: &[u8]) -> TrustView {
    let now_ms = Clock::start().now_ms();
    TrustView::accept(None, frame, &ring(broker, Job::TrustState), DOMAIN, now_ms).unwrap()
}

/// The authorization in an answer, verified.
pub fn authorization(broker: &RunningBroker, answer: &Answer) -> VerifiedAuthorization {
    let bytes = answer.authorization.as_deref().expect("an authorization");
    let now_ms = Clock::start().now_ms();
    UntrustedAuthorization::parse(bytes)
        .unwrap()
        .verify(&ring(broker, Job::Authorization), now_ms)
        .unwrap()
}

/// The statement in an answer, verified, with a receipt that proves that it is in the ledger.
pub fn statement(broker: &RunningBroker, answer: &Answer) -> Statement {
    let origin = format!("{DOMAIN}/ledger");
    verify_receipt(
        &answer.receipt,
        &answer.statement,
        &key(broker, Job::Checkpoint),
        &origin,
    )
    .unwrap();
    let verified = VerifiedStatement::parse(&answer.statement, &key(broker, Job::Statement)).unwrap();
    verified.into_statement()
}

/// Every statement in the ledger.
pub async fn ledger(broker: &RunningBroker) -> Vec<Statement> {
    let mut client = Client::connect(broker.address()).await;
    let mut statements = Vec::new();
    loop {
        let path = format!("/v1/ledger/entries?start={}&count=100", statements.len());
        let body = client.get(&path).await;
        let value = touchstone_cose::cbor::decode(&body, touchstone_cose::cbor::Limits::MESSAGE).unwrap();
        let entries = value.as_array().unwrap();
        if entries.is_empty() {
            return statements;
        }
        let statement_key = key(broker, Job::Statement);
        statements.extend(entries.iter().map(|entry| {
            VerifiedStatement::parse(entry.as_bytes().unwrap(), &statement_key)
                .unwrap()
                .into_statement()
        }));
    }
}

/// The ledger but for what the broker records of refusals by itself, once a minute: what was decided, commanded, withdrawn.
pub async fn decided(broker: &RunningBroker) -> Vec<Statement> {
    let mut statements = ledger(broker).await;
    statements.retain(|statement| statement.kind != Kind::RefusalSummary);
    statements
}

/// How often this broker has refused anything since its ledger began: what is on record of it, after all of it was put there.
pub async fn refusals(broker: &RunningBroker) -> u64 {
    ticker::sum_up(broker.app(), broker.app().clock.now_ms()).await;
    let count = |statement: &Statement| -> u64 {
        let rows = statement.body.get(2).unwrap().as_array().unwrap();
        rows.iter()
            .map(|row| row.as_array().unwrap()[2].as_u64().unwrap())
            .sum()
    };
    let statements = ledger(broker).await;
    let summaries = statements.iter().filter(|s| s.kind == Kind::RefusalSummary);
    summaries.map(count).sum()
}

/// A command over the admin socket.
pub async fn command(domain: &Domain, method: Method, path: &str, body: &str) -> (StatusCode, Bytes) {
    command_at(&domain.path("data/admin.sock"), method, path, body).await
}

/// A command over the admin socket at `socket`.
pub async fn command_at(socket: &Path, method: Method, path: &str, body: &str) -> (StatusCode, Bytes) {
    let stream = tokio::net::UnixStream::connect(socket).await.unwrap();
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(driver);
    let body = Full::new(Bytes::copy_from_slice(body.as_bytes()));
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "admin")
        .body(body)
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    (
        response.status(),
        response.into_body().collect().await.unwrap().to_bytes(),
    )
}
