//! A trust domain made on the spot: policy repository, broker, guards; and what of it an attack may change.
#![expect(
    clippy::panic,
    clippy::expect_used,
    reason = "test support: what is not as it must be fails the test"
)]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use touchstone_attest::client::{BrokerClient, Endpoint, pinned_config};
use touchstone_attest::clock;
use touchstone_attest::local;
use touchstone_attest::pack::{self, Files};
use touchstone_attest::trust::DomainTrust;
use touchstone_authorization::{KeyRing, TrustView, TrustedKey, UntrustedAuthorization};
use touchstone_cose::key::VerifyingKey;
use touchstone_enforcer::guard::{Guard, GuardConfig};
use touchstone_evidence::message::Answer;
use touchstone_keybroker::config::Config;
use touchstone_keybroker::service::{self, Broker, RunningBroker, ServiceError};
use touchstone_ledger::receipt::verify_receipt;
use touchstone_ledger::statement::VerifiedStatement;
use touchstone_policies::{self as policies, Job, Keyset, NodeIdentity, NodePlace, PolicyCode, PolicyError, Purpose};
use touchstone_verifier::ear::Ear;

use crate::boots::{self, Boot, KeyForm, QuoteOf};
use crate::line::Line;
use crate::observe::PATIENCE;
pub use crate::observe::{ACTION, Checked, Post, RESOURCE, Rights, decided, eventually, rights, status};

/// The domain's name.
pub const NAME: &str = "test.example";
/// The region of every node.
pub const REGION: &str = "eu-1";
/// The broker's port. Each domain has a loopback address of its own, so a restarted broker is where it was.
const PORT: u16 = 7440;

/// Timers that a machine ten times slower than a developer's does not run into. A test about a timer sets its own.
const PATIENT: [(&str, u64); 5] = [
    ("freshness_window_ms", 100_000),
    ("attestation_deadline_ms", 600_000),
    ("authorization_life_ms", 1_200_000),
    ("workload_life_ms", 600_000),
    ("offline_life_ms", 300_000),
];

/// The same of the broker's limits.
const PATIENT_LIMITS: [(&str, u64); 4] = [
    ("handshake_ms", 60_000),
    ("head_ms", 600_000),
    ("body_ms", 60_000),
    ("session_ms", 60_000),
];

/// What a domain is founded with.
pub struct Founding<'a> {
    /// Certificates of TPM makers, PEM.
    pub anchors: &'a [PathBuf],
    /// Its nodes.
    pub nodes: &'a [(&'a str, NodeIdentity)],
    /// Evidence that its reference is made of.
    pub golden: &'a [u8],
    /// Settings that are changed, in milliseconds.
    pub settings: &'a [(&'a str, u64)],
    /// Limits of the broker that are changed.
    pub limits: &'a [(&'a str, u64)],
    /// What else is staged in the repository before it is published.
    pub stage: &'a dyn Fn(&std::path::Path),
}

/// Policy repository, keys and data folder of one domain; they go away with it.
pub struct Domain {
    name: String,
    folder: tempfile::TempDir,
    address: SocketAddr,
    limits: String,
    tls: Arc<ClientConfig>,
    keyset: Keyset,
}

impl Domain {
    /// A published domain with these machines as nodes, and `good` as the reference.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn new(nodes: &[(&str, Boot)]) -> Self {
        Self::with(nodes, &[], &[])
    }

    /// The same with settings (milliseconds) and limits of the broker changed.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn with(nodes: &[(&str, Boot)], settings: &[(&str, u64)], limits: &[(&str, u64)]) -> Self {
        Self::with_golden(nodes, settings, limits, &recorded(&Boot::GOOD))
    }

    /// The same with this evidence (unbound) as the reference, named `golden`.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn with_golden(
        nodes: &[(&str, Boot)],
        settings: &[(&str, u64)],
        limits: &[(&str, u64)],
        golden: &[u8],
    ) -> Self {
        let nodes: Vec<_> = nodes.iter().map(|(name, boot)| (*name, identity_of(boot))).collect();
        Self::found(&Founding {
            anchors: &["swtpm-localca-rootca-cert.pem", "issuercert.pem"]
                .map(|file| boots::boots().join("ca").join(file)),
            nodes: &nodes,
            golden,
            settings,
            limits,
            stage: &|_| (),
        })
    }

    /// A published domain of any machines.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn found(founding: &Founding<'_>) -> Self {
        Self::found_as(NAME, founding)
    }

    /// The same under another name: a second domain beside the one of nodes.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn found_as(name: &str, founding: &Founding<'_>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let repo = path("policy");
        unlocked(|| policies::init(&repo, name, &path("keys"), clock::wall_seconds())).expect("a repository");
        change_settings(&repo.join("staged/settings.toml"), &PATIENT);
        change_settings(&repo.join("staged/settings.toml"), founding.settings);
        unlocked(|| policies::trust_add(&repo, Purpose::Ek, founding.anchors)).expect("trust anchors");
        for (name, identity) in founding.nodes {
            add_identity(&repo, name, identity).expect("a node");
        }
        unlocked(|| policies::reference_add(&repo, founding.golden, Some("golden"), None, None)).expect("a reference");
        (founding.stage)(&repo);
        let day = 24 * 3600;
        let keys = service::init(&path("data"), "a", clock::wall_seconds() - 60, day).expect("broker keys");
        let keyset = std::fs::read(keys).expect("a keyset");
        unlocked(|| policies::keyset_add(&repo, &keyset)).expect("staged");
        unlocked(|| policies::publish(&repo, &path("keys"), clock::wall_seconds())).expect("published");
        std::fs::copy(repo.join("metadata/1.root.json"), path("root.json")).expect("a root");
        let keyset = Keyset::parse(&keyset).expect("a keyset");
        let pins: Vec<_> = keyset
            .keys(Job::Tls, clock::wall_seconds())
            .map(|entry| TrustedKey {
                key: entry.key.clone(),
                not_before: entry.not_before,
                not_after: entry.not_after,
            })
            .collect();
        let is_set = |name: &str| founding.limits.iter().any(|(set, _)| *set == name);
        let limits: String = PATIENT_LIMITS
            .iter()
            .filter(|(name, _)| !is_set(name))
            .chain(founding.limits)
            .map(|(name, value)| format!("{name} = {value}\n"))
            .collect();
        Self {
            name: name.to_owned(),
            folder,
            address: own_address(),
            limits,
            tls: pinned_config(&pins).expect("TLS"),
            keyset,
        }
    }

    /// The same with more sections in the broker's configuration.
    #[must_use]
    pub fn with_config(mut self, more: &str) -> Self {
        self.limits.push_str(more);
        self
    }

    /// A path in the domain's folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The broker's configuration, as a file would say it.
    #[must_use]
    pub fn config_text(&self) -> String {
        format!(
            "domain = {:?}\nlisten = \"{}\"\ndata_dir = {:?}\npolicy = {:?}\npolicy_root = {{ file = {:?} }}\n[limits]\n{}",
            self.name,
            self.address,
            self.path("data"),
            self.path("policy"),
            self.path("root.json"),
            self.limits
        )
    }

    /// Starts the broker; waits for one before it to let go of store and port.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn broker(&self) -> RunningBroker {
        start(&self.config_text()).await
    }

    /// Signs and publishes what is staged.
    ///
    /// # Panics
    /// When it is refused.
    pub fn publish(&self) {
        let (repo, keys) = (self.path("policy"), self.path("keys"));
        unlocked(|| policies::publish(&repo, &keys, clock::wall_seconds())).expect("published");
    }

    /// Puts a key at the running broker, as its operator does.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn put_key(&self, name: &str, resource: &str, secret: &[u8]) {
        let path = format!("/keys?name={name}&resource={resource}");
        let socket = self.path("data/admin.sock");
        let put = local::request(&socket, "POST", &path, secret.to_vec()).await;
        let (status, body) = put.expect("the broker's socket");
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the broker listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same, for a client.
    ///
    /// # Panics
    /// Never: the address is one.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        Endpoint::parse(&self.address.to_string()).expect("an endpoint")
    }

    /// A client as an agent has it.
    #[must_use]
    pub fn client(&self) -> BrokerClient {
        BrokerClient::new(vec![self.endpoint()], Arc::clone(&self.tls))
    }

    /// A client as an agent has it, over the relay that listens at `endpoint`.
    #[must_use]
    pub fn client_over(&self, endpoint: Endpoint) -> BrokerClient {
        BrokerClient::new(vec![endpoint], Arc::clone(&self.tls))
    }

    /// A connection on which anything can be sent.
    ///
    /// # Panics
    /// When the broker cannot be reached.
    pub async fn line(&self) -> Line {
        Line::open(&self.endpoint(), Arc::clone(&self.tls))
            .await
            .expect("a connection")
    }

    /// What a node or a guard believes of the domain.
    ///
    /// # Panics
    /// When the repository does not load.
    pub async fn trust(&self) -> DomainTrust {
        DomainTrust::load(
            &self.path("policy"),
            &self.path("root.json"),
            &self.name,
            clock::wall_seconds(),
        )
        .await
        .expect("a policy that loads")
    }

    /// A guard that has its first trust state.
    ///
    /// # Panics
    /// When it gets none.
    pub async fn guard(&self, id: &str) -> Post {
        let trust = self.trust().await;
        let config = GuardConfig::of(&trust, id);
        let follower = trust.follow(vec![self.endpoint()], id.into());
        let views = follower.views();
        let guard = Arc::new(Guard::new(config, follower));
        let watching = views.clone();
        eventually("the guard's first trust state", || watching.borrow().is_some()).await;
        Post { guard, views }
    }

    /// The domain's key for a job.
    ///
    /// # Panics
    /// When the keyset lists none.
    #[must_use]
    pub fn key(&self, job: Job) -> VerifyingKey {
        self.keyset
            .keys(job, clock::wall_seconds())
            .next()
            .expect("a key")
            .key
            .clone()
    }

    /// The same as a key ring.
    ///
    /// # Panics
    /// Never: it holds one key.
    #[must_use]
    pub fn ring(&self, job: Job) -> KeyRing {
        let key = TrustedKey {
            key: self.key(job),
            not_before: 0,
            not_after: i64::MAX,
        };
        KeyRing::new([key]).expect("a ring of one key")
    }

    /// Checks everything in an answer that can be checked: every signature, the receipt, that all name each other.
    ///
    /// # Panics
    /// When anything of it does not hold.
    #[must_use]
    pub fn check(&self, answer: &Answer) -> Checked {
        let origin = format!("{}/ledger", self.name);
        let receipt = verify_receipt(&answer.receipt, &answer.statement, &self.key(Job::Checkpoint), &origin)
            .expect("a receipt for this statement");
        let verified = VerifiedStatement::parse(&answer.statement, &self.key(Job::Statement)).expect("a statement");
        let ear = Ear::verify(&answer.ear, &self.key(Job::Ear), clock::wall_seconds()).expect("an attestation result");
        let authorization = answer.authorization.as_deref().map(|bytes| {
            let token = UntrustedAuthorization::parse(bytes).expect("an authorization");
            token
                .verify(&self.ring(Job::Authorization), clock::wall_ms())
                .expect("signed by the domain")
        });
        if let Some(authorization) = &authorization {
            assert_eq!(
                authorization.contents().statement,
                *verified.digest(),
                "the authorization names its statement"
            );
        }
        assert_eq!(answer.allowed, authorization.is_some());
        let state = self.ring(Job::TrustState);
        let view =
            TrustView::accept(None, &answer.trust_state, &state, &self.name, clock::wall_ms()).expect("a trust state");
        Checked {
            digest: *verified.digest(),
            statement: verified.into_statement(),
            receipt,
            ear,
            authorization,
            view,
        }
    }
}

/// Stages a machine of a recorded boot under a name.
///
/// # Errors
/// What the author is told.
pub fn add_node(repo: &std::path::Path, name: &str, boot: &Boot) -> Result<(), PolicyError> {
    add_identity(repo, name, &identity_of(boot))
}

fn identity_of(boot: &Boot) -> NodeIdentity {
    NodeIdentity::EkCert(boot.ek_certificate(KeyForm::Rsa))
}

fn add_identity(repo: &std::path::Path, name: &str, identity: &NodeIdentity) -> Result<(), PolicyError> {
    let place = NodePlace {
        name,
        region: REGION,
        zone: Some("a"),
        roles: &["worker".to_owned()],
        owner: None,
    };
    unlocked(|| policies::node_add(repo, identity, place)).map(|_| ())
}

/// Runs an author's command. While another test starts a process, the child holds a copy of every lock for a moment.
///
/// # Errors
/// What the author is told.
pub fn unlocked<T>(command: impl Fn() -> Result<T, PolicyError>) -> Result<T, PolicyError> {
    let begun = Instant::now();
    loop {
        match command() {
            Err(error) if begun.elapsed() < PATIENCE && is_locked(&error) => std::thread::yield_now(),
            other => return other,
        }
    }
}

fn is_locked(error: &PolicyError) -> bool {
    error
        .problems()
        .iter()
        .any(|problem| problem.code == PolicyCode::PublishBusy)
}

/// A recorded boot's own quote, packed: unbound evidence.
///
/// # Panics
/// When it cannot be packed.
#[must_use]
pub fn recorded(boot: &Boot) -> Vec<u8> {
    let quote = boot.quote(QuoteOf::Boot(KeyForm::Rsa));
    let files = Files {
        tpm_quote: Some(quote.attest),
        tpm_signature: Some(quote.signature),
        tpm_ak: Some(boot.ak_public(KeyForm::Rsa)),
        tpm_pcrs: Some(quote.pcrs_file),
        ek_certificate: Some(boot.ek_certificate(KeyForm::Rsa)),
        event_log: Some(boot.event_log()),
        ..Files::default()
    };
    pack::pack(files).expect("evidence")
}

/// Starts a broker by the text of its configuration.
///
/// # Panics
/// When it does not start.
pub async fn start(config: &str) -> RunningBroker {
    let begun = Instant::now();
    loop {
        match Broker::start(Config::parse(config).expect("a configuration")).await {
            Ok(broker) => return broker,
            Err(error @ (ServiceError::Store(_) | ServiceError::System { .. })) if begun.elapsed() < PATIENCE => {
                tracing_note(&error);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => panic!("the broker does not start: {error}"),
        }
    }
}

/// Shown only where a test fails.
fn tracing_note(error: &ServiceError) {
    println!("the broker waits: {error}");
}

/// A loopback address that no other domain of this or of another running test process has.
fn own_address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let ip = Ipv4Addr::new(127, high.max(1), low, NEXT.fetch_add(1, Ordering::Relaxed));
    SocketAddr::from((ip, PORT))
}

/// Changes settings (milliseconds) in a staged file.
///
/// # Panics
/// When the file is not as it is made.
pub fn change_settings(path: &std::path::Path, settings: &[(&str, u64)]) {
    let mut text = std::fs::read_to_string(path).expect("settings");
    for (key, value) in settings {
        let line = text
            .lines()
            .find(|line| line.starts_with(&format!("{key} =")))
            .expect("a setting")
            .to_owned();
        text = text.replace(&line, &format!("{key} = {value}"));
    }
    std::fs::write(path, text).expect("written");
}
