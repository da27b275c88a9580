//! A relay that shows whatever it is told to, before it two domains with everything they sign, made of constants, and behind
//! it a guard of a third domain that knows nobody else.
#![allow(
    clippy::unwrap_used,
    reason = "test support: what is not as it must be fails the test"
)]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;
use touchstone_authorization::broker_time::BrokerTime;
use touchstone_authorization::{
    Authorization, KeyKind, KeyRing, ListHead, RevokedIds, Status, StatusArray, StatusIndex, StatusLists, TrustFrame,
    TrustHead, TrustedKey,
};
use touchstone_cose::key::SigningKey;
use touchstone_enforcer::clock;
use touchstone_policies::author::federation::{Accepted, Trust};
use touchstone_policies::{self as policies, RepositoryCopy};

use crate::common::{holder, scope};

pub const A: &str = "a.example";
pub const B: &str = "b.example";
pub const C: &str = "c.example";
pub const GENERATION: u32 = 1;
/// How long what a domain says of itself is fresh.
pub const FRESH_MS: u64 = 20_000;
const BEAT: Duration = Duration::from_millis(500);

/// What a domain signs with.
#[derive(Clone, Copy)]
pub enum Sign {
    Trust,
    /// Taken out of B's second keyset.
    OldIssuer,
    Issuer,
}

pub fn key(domain: &str, sign: Sign) -> SigningKey {
    let mut seed = [sign as u8; 32];
    for (to, from) in seed.iter_mut().zip(domain.bytes()) {
        *to = from;
    }
    SigningKey::from_seed(seed)
}

pub fn ring(domain: &str) -> KeyRing {
    let trusted = TrustedKey {
        key: key(domain, Sign::Trust).verifying_key(),
        not_before: 0,
        not_after: i64::MAX,
    };
    KeyRing::new([trusted]).unwrap()
}

/// One moment of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    pub epoch: u64,
    pub keyset: u64,
    /// Indices of the status list.
    pub revoked: Vec<u32>,
}

impl Moment {
    pub fn lists(&self) -> StatusLists {
        let list = StatusArray::new(32).unwrap();
        let list = list.with(self.revoked.iter().map(|index| (*index, Status::Invalid)));
        StatusLists::new([(1, list.unwrap())]).unwrap()
    }

    pub fn head(&self, domain: &str, issued_at_ms: u64) -> TrustHead {
        TrustHead {
            domain: domain.into(),
            generation: GENERATION,
            epoch: self.epoch,
            term: 1,
            policy_version: 1,
            policy_digest: [9; 32],
            keyset_version: self.keyset,
            lists: ListHead::of(&self.lists()),
            ledger_size: self.epoch,
            ledger_root: [8; 32],
            issued_at_ms,
            fresh_until_ms: issued_at_ms + FRESH_MS,
            revoked: RevokedIds::none().head(),
        }
    }

    /// The whole of it, made now.
    pub fn frame(&self, domain: &str) -> Vec<u8> {
        let head = self.head(domain, clock::wall_ms());
        let head = head.encode_signed(&key(domain, Sign::Trust)).unwrap();
        TrustFrame::full(&head, &self.lists(), RevokedIds::none()).encode()
    }
}

/// An authorization that this domain issued for A, of this entry of its status list.
pub fn issued(domain: &str, sign: Sign, index: u32) -> Vec<u8> {
    let now = clock::wall_ms() / 1_000;
    let contents = Authorization {
        issuer: domain.into(),
        subject: format!("node-{index}"),
        audience: A.into(),
        expires: now + 3_600,
        not_before: now - 10,
        issued_at: now - 10,
        cti: [u8::try_from(index).unwrap(); 16],
        confirmation: holder().verifying_key(),
        scopes: vec![scope(wanted(domain))],
        policy_version: 1,
        epoch: 1,
        parent: None,
        statement: [4; 32],
        status: StatusIndex {
            list: 1,
            generation: GENERATION,
            index,
        },
        key_kind: KeyKind::Tpm,
        depth: 0,
        delegation: None,
        region: None,
        purpose: None,
    };
    contents.encode_signed(&key(domain, sign)).unwrap()
}

/// What authorizations of this domain may do in A.
pub fn wanted(domain: &str) -> &'static str {
    if domain == B {
        "execute:partners/b/render"
    } else {
        "execute:partners/c/render"
    }
}

/// The three domains as they are published, and the relay's key.
pub struct Published {
    folder: tempfile::TempDir,
    relay: rcgen::CertifiedKey<rcgen::KeyPair>,
    /// B's repository before and after its old key was taken out.
    pub b: [RepositoryCopy; 2],
    pub c: RepositoryCopy,
}

impl Published {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let relay = rcgen::generate_simple_self_signed(vec!["relay".into()]).unwrap();
        let path = |name: &str| folder.path().join(name);
        let now = clock::wall_seconds();
        for domain in [A, B, C] {
            policies::init(&path(domain), domain, &path(&format!("{domain}-keys")), now).unwrap();
        }
        let publish = |domain: &str, version: u64, keys: &[(&str, Vec<u8>)]| {
            let entry = |(job, key): &(&str, Vec<u8>)| {
                let key = hex::encode(key);
                format!(r#"{{"job":"{job}","key":"{key}","not_before":0,"not_after":9999999999,"replica":"a"}}"#)
            };
            let entries: Vec<String> = keys.iter().map(entry).collect();
            let keyset = format!(r#"{{"version":{version},"keys":[{}]}}"#, entries.join(","));
            std::fs::write(path(domain).join("staged/keyset.json"), keyset).unwrap();
            policies::publish(&path(domain), &path(&format!("{domain}-keys")), now).unwrap();
        };
        let spki = |domain: &str, sign| key(domain, sign).verifying_key().to_spki_der();
        let keys = |domain: &str| {
            [
                ("trust-state", spki(domain, Sign::Trust)),
                ("authorization", spki(domain, Sign::Issuer)),
            ]
        };
        let with = |domain: &str, more| keys(domain).into_iter().chain([more]).collect::<Vec<_>>();
        publish(C, 1, &keys(C));
        publish(B, 1, &with(B, ("authorization", spki(B, Sign::OldIssuer))));
        let before = copy(&path(B)).await;
        publish(B, 2, &keys(B));
        let (after, c) = (copy(&path(B)).await, copy(&path(C)).await);
        for domain in [B, C] {
            let resources = wanted(domain)
                .trim_start_matches("execute:")
                .trim_end_matches("/render");
            let trust = Trust {
                domain: domain.into(),
                root: Some(std::fs::read(path(domain).join("metadata/1.root.json")).unwrap()),
                accept: Some(Accepted {
                    resources: resources.into(),
                    scopes: vec![wanted(domain).into()],
                    ..Accepted::default()
                }),
                ..Trust::default()
            };
            policies::federation_trust(&path(A), &trust).unwrap();
        }
        let served = {
            use rcgen::PublicKeyData as _;
            relay.signing_key.subject_public_key_info()
        };
        // No key of a broker's TLS at all: nobody but the relay can be spoken to.
        publish(A, 1, &with(A, ("relay", served)));
        Self {
            folder,
            relay,
            b: [before, after],
            c,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn root(&self, domain: &str) -> Vec<u8> {
        std::fs::read(self.path(domain).join("metadata/1.root.json")).unwrap()
    }

    fn acceptor(&self) -> TlsAcceptor {
        let key = rustls::pki_types::PrivateKeyDer::try_from(self.relay.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.relay.cert.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}

async fn copy(repository: &Path) -> RepositoryCopy {
    RepositoryCopy::read(&repository.into(), 0).await.unwrap()
}

/// What is shown of a domain's repository.
#[derive(Debug, Clone)]
pub struct Shown {
    /// What it says the digest is.
    pub digest: Vec<u8>,
    pub bytes: Bytes,
}

impl Shown {
    pub fn of(copy: &RepositoryCopy) -> Self {
        Self {
            digest: copy.digest().to_vec(),
            bytes: copy.encode().into(),
        }
    }
}

/// What is shown of a domain's trust state.
#[derive(Debug, Clone)]
pub enum Stream {
    /// This, made anew with each beat.
    Honest(Moment),
    /// To each who connects one of these, in turn, and then nothing.
    Each(Vec<Vec<u8>>),
    /// The same with bytes that are no event.
    Raw(Bytes),
    /// One frame again and again.
    Again(Vec<u8>),
    /// Nothing.
    Silent,
}

/// What the relay shows of other domains.
#[derive(Debug, Clone)]
pub struct Play {
    pub policies: BTreeMap<&'static str, Shown>,
    pub streams: BTreeMap<&'static str, Stream>,
}

/// The relay.
pub struct Hostile {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

struct Shared {
    play: watch::Sender<Arc<Play>>,
    /// How often each path was asked for under the present play.
    asked: Mutex<BTreeMap<String, usize>>,
    turns: AtomicUsize,
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Hostile {
    pub async fn start(published: &Published, play: Play) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            play: watch::channel(Arc::new(play)).0,
            asked: Mutex::default(),
            turns: AtomicUsize::new(0),
        });
        let acceptor = published.acceptor();
        let serving = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, shared) = (acceptor.clone(), Arc::clone(&serving));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let service = hyper::service::service_fn(move |request| {
                        let shared = Arc::clone(&shared);
                        async move { Ok::<_, Infallible>(answer(&shared, request).await) }
                    });
                    let http = hyper::server::conn::http1::Builder::new();
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, shared, task }
    }

    /// Shows something else from now on: streams of other domains end.
    pub fn show(&self, play: Play) {
        self.shared.play.send_replace(Arc::new(play));
        // Afterwards: what is counted from here on was answered from this play.
        self.shared.asked.lock().unwrap().clear();
    }

    /// How often this was asked for since then.
    pub fn asked(&self, path: &str) -> usize {
        self.shared.asked.lock().unwrap().get(path).copied().unwrap_or(0)
    }
}

async fn answer(shared: &Shared, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    // A change after this look ends whatever is streamed from it.
    let mut plays = shared.play.subscribe();
    let play = plays.borrow_and_update().clone();
    *shared.asked.lock().unwrap().entry(path.clone()).or_default() += 1;
    let bytes = |bytes: Bytes| Response::new(Body::from(bytes));
    if path == "/v1/time" {
        let nonce = request.into_body().collect().await.unwrap().to_bytes();
        let time = BrokerTime {
            nonce: nonce.as_ref().try_into().unwrap(),
            time_ms: clock::wall_ms(),
        };
        return bytes(time.encode_signed(&key(A, Sign::Trust)).unwrap().into());
    }
    if path == "/v1/trust-state/stream" {
        let own = Moment {
            epoch: 1,
            keyset: 1,
            revoked: Vec::new(),
        };
        return follow(shared, A, Stream::Honest(own), None);
    }
    let rest = path
        .strip_prefix("/v1/federation/")
        .and_then(|rest| rest.split_once('/'));
    let found = rest.and_then(|(domain, what)| {
        let (domain, policy) = play.policies.get_key_value(domain)?;
        match what {
            "policy" => Some(bytes(policy.bytes.clone())),
            "policy/digest" => Some(bytes(policy.digest.clone().into())),
            "trust-state/stream" => Some(follow(shared, domain, play.streams.get(domain)?.clone(), Some(plays))),
            _ => None,
        }
    });
    found.unwrap_or_else(|| {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_FOUND;
        response
    })
}

fn event(frame: &[u8]) -> Bytes {
    format!("event: frame\ndata: {}\n\n", URL_SAFE_NO_PAD.encode(frame)).into()
}

/// Streams until another play is shown, where this is of one.
fn follow(
    shared: &Shared,
    domain: &'static str,
    stream: Stream,
    plays: Option<watch::Receiver<Arc<Play>>>,
) -> Response<Body> {
    let (send, mut receive) = mpsc::channel::<Result<Bytes, Infallible>>(1);
    let turn = match stream {
        Stream::Each(_) => shared.turns.fetch_add(1, Ordering::SeqCst),
        _ => 0,
    };
    let sending = async move {
        match stream {
            Stream::Honest(moment) => {
                while send.send(Ok(event(&moment.frame(domain)))).await.is_ok() {
                    tokio::time::sleep(BEAT).await;
                }
            }
            Stream::Again(frame) => {
                while send.send(Ok(event(&frame))).await.is_ok() {
                    tokio::time::sleep(BEAT).await;
                }
            }
            Stream::Each(frames) => {
                if let Some(frame) = frames.get(turn % frames.len()) {
                    let _ = send.send(Ok(event(frame))).await;
                }
                send.closed().await;
            }
            Stream::Raw(raw) => {
                let _ = send.send(Ok(raw)).await;
                send.closed().await;
            }
            Stream::Silent => send.closed().await,
        }
    };
    tokio::spawn(async move {
        match plays {
            Some(mut plays) => tokio::select! {
                () = sending => {}
                _ = plays.changed() => {}
            },
            None => sending.await,
        }
    });
    let body = futures_util::stream::poll_fn(move |cx| receive.poll_recv(cx));
    Response::new(Body::from_stream(body))
}
