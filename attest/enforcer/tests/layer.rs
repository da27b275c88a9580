//! The tower layer: what reaches the service behind it, and what never does.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use crate::common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use common::{
    LONG_MS, SUBJECT, Wanted, World, authorization, child, delegated, for_request, holder, proof, scope, sha256,
};
use futures_util::StreamExt as _;
use http_body_util::BodyExt as _;
use tokio::net::{TcpListener, TcpStream};
use touchstone_authorization::proof::EXPORTER_LABEL;
use touchstone_authorization::{Channel, Proof, RevokedIds, Status, TrustedKey};
use touchstone_cose::key::{SigningKey, VerifyingKey};
use touchstone_enforcer::client::pinned_config;
use touchstone_enforcer::layer::{
    AuthorizationLayer, Connection, Credentials, Granted, Mode, REASON, RouteMap, Target, Until, serve_connection,
};
use tower::Service as _;

const ROUTES: &str = r#"
    [[route]]
    authority = "tools.example"
    methods = ["POST"]
    path = "/search"
    scope = "execute:tool-search"
    [[route]]
    authority = "tools.example"
    methods = ["GET"]
    prefix = "/files/"
    scope = "execute:tool-files"
    [[route]]
    authority = "tools.example"
    methods = ["GET"]
    path = "/shell"
    scope = "execute:tool-shell"
"#;
const BODY_LIMIT: usize = 1000;

/// A service that counts who reached it, and says who that was.
fn service(reached: &Arc<AtomicUsize>) -> Router {
    let reached = Arc::clone(reached);
    Router::new().fallback(move |request: Request| {
        let reached = Arc::clone(&reached);
        async move {
            reached.fetch_add(1, Ordering::SeqCst);
            let ours = request
                .headers()
                .keys()
                .any(|name| name.as_str().starts_with("touchstone-"));
            assert!(
                !ours && !request.headers().contains_key(header::AUTHORIZATION),
                "credentials go no further"
            );
            let granted = request.extensions().get::<Granted>().unwrap().clone();
            if request.uri().path().ends_with("/endless") {
                let ticks = futures_util::stream::repeat(()).then(async |()| {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    Ok::<_, std::convert::Infallible>("tick\n")
                });
                return Body::from_stream(ticks).into_response();
            }
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let said = format!("{} {} {}", granted.subject, granted.scope, body.len());
            ([(header::CACHE_CONTROL, "public, max-age=600")], said).into_response()
        }
    })
}

struct Shop {
    world: World,
    layered: Router,
    reached: Arc<AtomicUsize>,
}

impl Shop {
    async fn new(mode: Mode) -> Self {
        let (world, reached) = (World::new().await, Arc::default());
        let layer = AuthorizationLayer::new(Arc::clone(&world.guard), RouteMap::parse(ROUTES).unwrap(), mode);
        let layered = service(&reached).layer(layer);
        Self {
            world,
            layered,
            reached,
        }
    }

    async fn ask(&self, request: Request) -> Response {
        self.layered.clone().call(request).await.unwrap()
    }

    /// The codes of a refusal; none where it was let through.
    async fn codes(&self, request: Request) -> Vec<String> {
        let before = self.reached.load(Ordering::SeqCst);
        let response = self.ask(request).await;
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
        let passed = self.reached.load(Ordering::SeqCst) > before;
        if response.status() == StatusCode::OK {
            assert!(passed);
            return Vec::new();
        }
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        assert!(!passed, "refused, and yet the service was reached");
        let in_header = response.headers()[&REASON].to_str().unwrap().to_owned();
        let body: serde_json::Value =
            serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap();
        assert_eq!(body["allowed"], false);
        let codes: Vec<String> = serde_json::from_value(body["codes"].clone()).unwrap();
        assert_eq!(in_header, codes.join(", "));
        codes
    }
}

/// What one request is, and what its proof is over: the same until a test makes them differ.
#[derive(Clone)]
struct Asked {
    method: Method,
    host: &'static str,
    path: &'static str,
    body: Vec<u8>,
    scope: &'static str,
    proven: Option<(&'static str, &'static str, &'static str, Vec<u8>)>,
    change: fn(&mut Proof),
}

impl Default for Asked {
    fn default() -> Self {
        Self {
            method: Method::POST,
            host: "tools.example",
            path: "/search?q=trust",
            body: b"{\"q\":1}".to_vec(),
            scope: "execute:tool-search",
            proven: None,
            change: |_| {},
        }
    }
}

impl Asked {
    fn request(&self) -> Request {
        let own = (self.method.as_str(), self.host, self.path, self.body.clone());
        let (method, host, path, body) = self.proven.clone().unwrap_or(own);
        let digest = Target::new(method, host, path).unwrap().digest(&sha256(&body));
        let chain = authorization(600);
        let wanted = Wanted {
            scope: self.scope,
            request: Some(digest),
            channel: Channel::None,
        };
        let mut proof = proof(&chain, &wanted);
        (self.change)(&mut proof);
        let proof = proof.encode_signed(&holder()).unwrap();
        self.with(&Credentials { chain, proof })
    }

    fn with(&self, credentials: &Credentials) -> Request {
        let mut request = Request::builder()
            .method(&self.method)
            .uri(self.path)
            .header(header::HOST, self.host);
        for (name, value) in credentials.headers() {
            request = request.header(name, value);
        }
        // A client that claims to have been let in already.
        request = request.header("touchstone-subject", "root");
        request.body(Body::from(self.body.clone())).unwrap()
    }
}

const REQUEST: Mode = Mode::Request { max_body: BODY_LIMIT };

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_over_its_request_opens_it_once() {
    let shop = Shop::new(REQUEST).await;
    let response = shop.ask(Asked::default().request()).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(
        response.headers()[header::CACHE_CONTROL],
        "no-store",
        "an answer is for one holder"
    );
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, format!("{SUBJECT} execute:tool-search 7"));

    let files = Asked {
        method: Method::GET,
        path: "/files/a/b",
        body: Vec::new(),
        scope: "execute:tool-files",
        ..Asked::default()
    };
    assert!(shop.codes(files.request()).await.is_empty());

    let asked = Asked::default();
    let digest = Target::new("POST", asked.host, asked.path)
        .unwrap()
        .digest(&sha256(&asked.body));
    let credentials = for_request(asked.scope, digest);
    assert!(shop.codes(asked.with(&credentials)).await.is_empty());
    assert_eq!(shop.codes(asked.with(&credentials)).await, ["proof-replayed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_not_what_was_proven_are_refused() {
    let shop = Shop::new(REQUEST).await;
    let good = Asked::default();
    let other = |proven| Asked {
        proven: Some(proven),
        ..good.clone()
    };
    let body = good.body.clone();
    for (attack, asked, code) in [
        (
            "another method",
            other(("PUT", good.host, good.path, body.clone())),
            "proof-request",
        ),
        (
            "another host",
            other(("POST", "evil.example", good.path, body.clone())),
            "proof-request",
        ),
        (
            "another path",
            other(("POST", good.host, "/other", body.clone())),
            "proof-request",
        ),
        (
            "another query",
            other(("POST", good.host, "/search?q=x", body.clone())),
            "proof-request",
        ),
        (
            "another body",
            other(("POST", good.host, good.path, b"{}".to_vec())),
            "proof-request",
        ),
        (
            "a body where none was proven",
            other(("POST", good.host, good.path, Vec::new())),
            "proof-request",
        ),
        (
            "a body larger than is read",
            Asked {
                body: vec![b'x'; BODY_LIMIT + 1],
                ..good.clone()
            },
            "proven-body-too-large",
        ),
        (
            "the right to another tool",
            Asked {
                scope: "execute:tool-files",
                ..good.clone()
            },
            "proof-action",
        ),
        (
            "a third tool, which it has no right to",
            Asked {
                method: Method::GET,
                path: "/shell",
                body: Vec::new(),
                scope: "execute:tool-shell",
                ..good.clone()
            },
            "scope-not-granted",
        ),
        (
            "what is on no route",
            Asked {
                path: "/nowhere",
                ..good.clone()
            },
            "request-unmapped",
        ),
        (
            "a host that is on no route",
            Asked {
                host: "tools.example:443",
                ..good.clone()
            },
            "request-unmapped",
        ),
        (
            "a proof for another enforcer",
            Asked {
                change: |proof| proof.audience = "proxy-2".into(),
                ..good.clone()
            },
            "proof-audience",
        ),
        (
            "a proof for another authorization",
            Asked {
                change: |proof| proof.authorization_digest = [0; 32],
                ..good.clone()
            },
            "proof-authorization",
        ),
        (
            "an old proof",
            Asked {
                change: |proof| proof.issued_at -= 7,
                ..good.clone()
            },
            "proof-time",
        ),
        (
            "a proof of the future",
            Asked {
                change: |proof| proof.issued_at += 7,
                ..good.clone()
            },
            "proof-time",
        ),
        (
            "a proof over no request",
            Asked {
                change: |proof| proof.request_digest = None,
                ..good.clone()
            },
            "proof-request",
        ),
        (
            "a proof over a connection",
            Asked {
                change: |proof| proof.channel = Channel::Exporter([1; 32]),
                ..good.clone()
            },
            "proof-exporter",
        ),
        (
            "a proof over a challenge",
            Asked {
                change: |proof| proof.channel = Channel::Challenge(vec![1; 32]),
                ..good.clone()
            },
            "proof-challenge",
        ),
    ] {
        let codes = shop.codes(asked.request()).await;
        assert!(codes.iter().any(|found| found == code), "{attack}: {codes:?}");
    }
    let mut smuggled = good.request();
    smuggled
        .headers_mut()
        .append(header::HOST, "tools.example".parse().unwrap());
    assert_eq!(shop.codes(smuggled).await, ["request-ambiguous"], "a second host");
    let mut bare = good.request();
    bare.headers_mut().remove(header::AUTHORIZATION);
    assert_eq!(shop.codes(bare).await, ["credentials-missing"]);
    let mut relayed = good.request();
    relayed
        .headers_mut()
        .insert("touchstone-proof", "AAAA".parse().unwrap());
    assert_eq!(shop.codes(relayed).await, ["proof-malformed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn withdrawn_suspended_and_stale_refuse_and_what_is_suspended_comes_back() {
    let shop = Shop::new(REQUEST).await;
    let ask = async || shop.codes(Asked::default().request()).await;
    assert!(ask().await.is_empty());
    shop.world.publish(Status::Suspended, LONG_MS);
    assert_eq!(ask().await, ["authorization-suspended"]);
    shop.world.publish(Status::Valid, LONG_MS);
    assert!(ask().await.is_empty());
    shop.world.publish(Status::Valid, 0);
    assert_eq!(ask().await, ["trust-state-stale"]);
    shop.world.publish(Status::Invalid, LONG_MS);
    assert_eq!(ask().await, ["authorization-revoked"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_ends_when_the_right_it_rests_on_does() {
    for (how, status, fresh_ms) in [
        ("revoked", Status::Invalid, LONG_MS),
        ("suspended", Status::Suspended, LONG_MS),
        ("silence", Status::Valid, 150),
    ] {
        let shop = Shop::new(REQUEST).await;
        let endless = Asked {
            method: Method::GET,
            path: "/files/endless",
            body: Vec::new(),
            scope: "execute:tool-files",
            ..Asked::default()
        };
        let mut body = shop.ask(endless.request()).await.into_body().into_data_stream();
        for _ in 0..5 {
            assert_eq!(body.next().await.unwrap().unwrap(), "tick\n", "{how}");
        }
        shop.world.publish(status, fresh_ms);
        let cut = async {
            loop {
                match body.next().await {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => break error.to_string(),
                    None => unreachable!("an answer that is cut off must not look whole"),
                }
            }
        };
        let error = tokio::time::timeout(Duration::from_secs(60), cut).await.unwrap();
        assert!(error.contains("does not hold any more"), "{how}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_head_of_an_answer_that_comes_after_the_right_has_ended_is_not_given() {
    for (how, status, fresh_ms) in ENDS {
        let world = World::new().await;
        let (tell, begun) = tokio::sync::oneshot::channel();
        let tell = Arc::new(std::sync::Mutex::new(Some(tell)));
        let service = Router::new().fallback(move |request: Request| {
            let begins = tell.lock().unwrap().take().unwrap();
            async move {
                let until = request.extensions().get::<Until>().unwrap().clone();
                begins.send(()).unwrap();
                until.ended().await;
                ([("x-secret", "of the answer")], StatusCode::CREATED)
            }
        });
        let routes = RouteMap::parse(ROUTES).unwrap();
        let layer = AuthorizationLayer::new(Arc::clone(&world.guard), routes, Mode::Connection);
        let mut layered = service.layer(layer);
        let request = files_over_a_connection(Body::empty());
        let answering = tokio::spawn(async move { layered.call(request).await });
        begun.await.unwrap();
        world.publish(status, fresh_ms);
        let answer = tokio::time::timeout(Duration::from_secs(60), answering).await;
        let answer = answer.unwrap().unwrap().unwrap();
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{how}");
        assert!(answer.headers().get("x-secret").is_none(), "{how}");
        assert!(answer.headers().contains_key("touchstone-reason"), "{how}");
    }
}

/// Files over a connection whose exporter this is, with a service of the test's own behind the layer.
fn files_over_a_connection(body: Body) -> Request {
    let exporter = [7; 32];
    let asked = Asked {
        method: Method::GET,
        path: "/files/a",
        body: Vec::new(),
        scope: "execute:tool-files",
        ..Asked::default()
    };
    let chain = authorization(600);
    let wanted = Wanted {
        scope: asked.scope,
        request: None,
        channel: Channel::Exporter(exporter),
    };
    let proof = proof(&chain, &wanted).encode_signed(&holder()).unwrap();
    let mut request = asked.with(&Credentials { chain, proof });
    request
        .extensions_mut()
        .insert(Connection::new(move |_: &str, _: &[u8]| Some(exporter)));
    *request.body_mut() = body;
    request
}

const ENDS: [(&str, Status, u64); 3] = [
    ("revoked", Status::Invalid, LONG_MS),
    ("suspended", Status::Suspended, LONG_MS),
    ("silence", Status::Valid, 150),
];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_up_ends_when_the_right_it_rests_on_does() {
    for (how, status, fresh_ms) in ENDS {
        let world = World::new().await;
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let service = Router::new().fallback(move |request: Request| {
            let tell = tell.clone();
            async move {
                let mut body = request.into_body().into_data_stream();
                // Reads on after the first error, as a careless service does.
                let mut errors = 0;
                while errors < 2 {
                    let said = match body.next().await {
                        Some(Ok(_)) => "a piece".to_owned(),
                        Some(Err(error)) => {
                            errors += 1;
                            error.to_string()
                        }
                        None => "it looks whole".to_owned(),
                    };
                    tell.send(said).unwrap();
                }
            }
        });
        let routes = RouteMap::parse(ROUTES).unwrap();
        let layer = AuthorizationLayer::new(Arc::clone(&world.guard), routes, Mode::Connection);
        let mut layered = service.layer(layer);
        let ticks = futures_util::stream::repeat(()).then(async |()| {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Ok::<_, std::convert::Infallible>("tick\n")
        });
        let request = files_over_a_connection(Body::from_stream(ticks));
        let answering = tokio::spawn(async move { layered.call(request).await });
        for _ in 0..5 {
            assert_eq!(told.recv().await.unwrap(), "a piece", "{how}");
        }
        world.publish(status, fresh_ms);
        let cut = async {
            loop {
                match told.recv().await.unwrap() {
                    piece if piece == "a piece" => {}
                    error => break error,
                }
            }
        };
        let error = tokio::time::timeout(Duration::from_secs(60), cut).await.unwrap();
        assert!(error.contains("does not hold any more"), "{how}: {error}");
        assert_eq!(told.recv().await.unwrap(), error, "{how}: and again");
        answering.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_is_refused_unless_the_service_ends_it_itself() {
    let shop = Shop::new(Mode::Connection).await;
    let upgrade = || {
        let mut request = files_over_a_connection(Body::empty());
        let headers = request.headers_mut();
        headers.insert(header::CONNECTION, "upgrade".parse().unwrap());
        headers.insert(header::UPGRADE, "websocket".parse().unwrap());
        request
    };
    assert!(shop.codes(files_over_a_connection(Body::empty())).await.is_empty());
    assert_eq!(shop.codes(upgrade()).await, ["upgrade-not-held"]);
    let mut tunnel = files_over_a_connection(Body::empty());
    *tunnel.method_mut() = Method::CONNECT;
    assert_eq!(shop.codes(tunnel).await, ["upgrade-not-held"]);

    for (how, status, fresh_ms) in ENDS {
        let world = World::new().await;
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let service = Router::new().fallback(move |request: Request| {
            let tell = tell.clone();
            let until = request.extensions().get::<Until>().unwrap().clone();
            // What goes on after the answer, as an upgraded connection does.
            tokio::spawn(async move { tell.send(until.ended().await) });
            std::future::ready(StatusCode::OK)
        });
        let routes = RouteMap::parse(ROUTES).unwrap();
        let layer = AuthorizationLayer::new(Arc::clone(&world.guard), routes, Mode::Connection);
        let mut layered = service.layer(layer.with_upgrades());
        let response = layered.call(upgrade()).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{how}");
        response.into_body().collect().await.unwrap();
        assert!(told.try_recv().is_err(), "{how}: the right stands");
        world.publish(status, fresh_ms);
        let ended = tokio::time::timeout(Duration::from_secs(60), told.recv()).await;
        assert!(!ended.unwrap().unwrap().is_empty(), "{how}: it says why");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_handed_on_off_line_opens_its_tool_and_falls_alone_or_with_its_parent() {
    let shop = Shop::new(REQUEST).await;
    let asked = Asked::default();
    let ask = async |chain: &[u8], key: &SigningKey, asked: &Asked| {
        let digest = Target::new(asked.method.as_str(), asked.host, asked.path)
            .unwrap()
            .digest(&sha256(&asked.body));
        let wanted = Wanted {
            scope: asked.scope,
            request: Some(digest),
            channel: Channel::None,
        };
        let proof = proof(chain, &wanted).encode_signed(key).unwrap();
        let chain = chain.to_vec();
        shop.codes(asked.with(&Credentials { chain, proof })).await
    };
    let chain = delegated([0x11; 16]);
    assert!(ask(&chain, &child(), &asked).await.is_empty());
    assert_eq!(
        ask(&chain, &holder(), &asked).await,
        ["proof-signature"],
        "the proof is the last link's"
    );
    let files = Asked {
        method: Method::GET,
        path: "/files/a",
        body: Vec::new(),
        scope: "execute:tool-files",
        ..Asked::default()
    };
    let codes = ask(&chain, &child(), &files).await;
    assert!(
        codes.contains(&"scope-not-granted".to_owned()),
        "more than was handed on: {codes:?}"
    );

    let revoked = RevokedIds::new([[0x11; 16]]).unwrap();
    shop.world.publish_with(Status::Valid, LONG_MS, &revoked);
    assert!(!ask(&chain, &child(), &asked).await.is_empty(), "it alone was revoked");
    assert!(
        ask(&delegated([0x12; 16]), &child(), &asked).await.is_empty(),
        "its sibling was not"
    );
    assert!(shop.codes(asked.request()).await.is_empty(), "nor its parent");
    shop.world.publish(Status::Invalid, LONG_MS);
    assert!(
        !ask(&delegated([0x12; 16]), &child(), &asked).await.is_empty(),
        "with the parent everything falls"
    );
}

/// A service that ends TLS, and a client of it.
struct Tls {
    shop: Shop,
    address: std::net::SocketAddr,
    client: Arc<rustls::ClientConfig>,
}

impl Tls {
    async fn new() -> Self {
        let shop = Shop::new(Mode::Connection).await;
        let made = rcgen::generate_simple_self_signed(vec!["tools.example".into()]).unwrap();
        let key =
            VerifyingKey::from_spki_der(&rcgen::PublicKeyData::subject_public_key_info(&made.signing_key)).unwrap();
        let client = pinned_config(&[TrustedKey {
            key,
            not_before: 0,
            not_after: i64::MAX,
        }])
        .unwrap();
        let private = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let server =
            rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![made.cert.der().clone()], private)
                .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let layered = shop.layered.clone();
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (acceptor, layered) = (acceptor.clone(), layered.clone());
                tokio::spawn(async move { serve_connection(acceptor.accept(tcp).await.unwrap(), layered).await });
            }
        });
        Self { shop, address, client }
    }

    async fn connect(&self) -> Line {
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("tools.example").unwrap();
        let stream = tokio_rustls::TlsConnector::from(Arc::clone(&self.client))
            .connect(name, tcp)
            .await
            .unwrap();
        let chain = authorization(600);
        let exporter = stream
            .get_ref()
            .1
            .export_keying_material([0; 32], EXPORTER_LABEL.as_bytes(), Some(&sha256(&chain)))
            .unwrap();
        let io = hyper_util::rt::TokioIo::new(stream);
        let (sender, driver) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(driver);
        Line {
            sender,
            chain,
            exporter,
        }
    }
}

struct Line {
    sender: hyper::client::conn::http1::SendRequest<Body>,
    chain: Vec<u8>,
    exporter: [u8; 32],
}

impl Line {
    fn credentials(&self, scope: &str) -> Credentials {
        let wanted = Wanted {
            scope,
            request: None,
            channel: Channel::Exporter(self.exporter),
        };
        let proof = proof(&self.chain, &wanted).encode_signed(&holder()).unwrap();
        Credentials {
            chain: self.chain.clone(),
            proof,
        }
    }

    /// Status and the reasons header.
    async fn ask(&mut self, asked: &Asked, credentials: &Credentials) -> (u16, String) {
        self.sender.ready().await.unwrap();
        let response = self.sender.send_request(asked.with(credentials)).await.unwrap();
        let reasons = response
            .headers()
            .get(&REASON)
            .map(|codes| codes.to_str().unwrap().to_owned());
        let status = response.status().as_u16();
        response.into_body().collect().await.unwrap();
        (status, reasons.unwrap_or_default())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_over_the_connection_opens_that_connection_and_no_other() {
    let tls = Tls::new().await;
    let asked = Asked::default();
    let mut line = tls.connect().await;
    let credentials = line.credentials(asked.scope);
    for round in 0..3 {
        assert_eq!(line.ask(&asked, &credentials).await.0, 200, "round {round}");
    }
    let files = Asked {
        method: Method::GET,
        path: "/files/a",
        body: Vec::new(),
        ..Asked::default()
    };
    let refused = (403, "proof-action".to_owned());
    assert_eq!(
        line.ask(&files, &credentials).await,
        refused,
        "opened for one right only"
    );
    assert_eq!(line.ask(&asked, &credentials).await.0, 200);

    let mut other = tls.connect().await;
    let refused = (403, "proof-exporter".to_owned());
    assert_eq!(
        other.ask(&asked, &credentials).await,
        refused,
        "carried to another connection"
    );
    let digest = Target::new("POST", asked.host, asked.path)
        .unwrap()
        .digest(&sha256(&asked.body));
    let (status, codes) = other.ask(&asked, &for_request(asked.scope, digest)).await;
    assert_eq!(status, 403);
    assert!(
        codes.contains("proof-channel-missing"),
        "a proof over the request alone: {codes}"
    );

    tls.shop.world.publish(Status::Invalid, LONG_MS);
    let refused = (403, "authorization-revoked".to_owned());
    assert_eq!(
        line.ask(&asked, &credentials).await,
        refused,
        "an open connection is looked at again"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_does_not_name_its_connection_lets_nobody_in() {
    let shop = Shop::new(Mode::Connection).await;
    assert_eq!(shop.codes(Asked::default().request()).await, ["connection-unknown"]);
    let mut request = Asked::default().request();
    request
        .extensions_mut()
        .insert(Connection::new(|_: &str, _: &[u8]| None));
    assert_eq!(shop.codes(request).await, ["connection-unknown"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_scope_for_everything_is_a_route_too() {
    let world = World::new().await;
    let reached = Arc::default();
    let layer = AuthorizationLayer::new(Arc::clone(&world.guard), scope("execute:tool-search"), REQUEST);
    let mut layered = service(&reached).layer(layer);
    let anywhere = Asked {
        path: "/anywhere",
        ..Asked::default()
    };
    assert_eq!(layered.call(anywhere.request()).await.unwrap().status(), StatusCode::OK);
}
