//! The endpoint for proxies: what each of them says of a request, what a client could say in its place, and what comes of it.
#![allow(clippy::unwrap_used, reason = "tests")]

use crate::common;

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderName, Request, Response, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::{LONG_MS, SUBJECT, World, for_request, sha256};
use touchstone_authorization::Status;
use touchstone_enforcer::ext_authz::{
    BODY, BODY_DIGEST, CHECK, CONTENT_DIGEST, ExtAuthz, HOST, METHOD, PARTIAL, Proxy, SCOPE, SERVER,
    SUBJECT as SUBJECT_HEADER, UNTIL, URI, router,
};
use touchstone_enforcer::guard::GuardEvent;
use touchstone_enforcer::layer::{Credentials, REASON, RouteMap, Target};
use tower::Service as _;

const ROUTES: &str = r#"
    [[route]]
    authority = "tools.example"
    methods = ["GET", "POST"]
    path = "/search"
    scope = "execute:tool-search"
"#;
const SCOPE_TEXT: &str = "execute:tool-search";
const MAX_BODY: usize = 1000;

struct Endpoint {
    world: World,
    router: Router,
    told: Arc<Mutex<Vec<GuardEvent>>>,
}

impl Endpoint {
    async fn new(proxy: Proxy) -> Self {
        let world = World::new().await;
        let told: Arc<Mutex<Vec<GuardEvent>>> = Arc::default();
        let events = Arc::clone(&told);
        let router = router(ExtAuthz {
            guard: Arc::clone(&world.guard),
            routes: Box::new(RouteMap::parse(ROUTES).unwrap()),
            proxy,
            max_body: MAX_BODY,
            tell: Arc::new(move |event| events.lock().unwrap().push(event)),
        });
        Self { world, router, told }
    }

    async fn ask(&self, request: Request<Body>) -> Response<Body> {
        let response = self.router.clone().call(request).await.unwrap();
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
        response
    }

    /// The codes of a refusal; none where it was let through.
    async fn codes(&self, request: Request<Body>) -> String {
        let response = self.ask(request).await;
        match response.status().as_u16() {
            200 => String::new(),
            403 => response.headers()[&REASON].to_str().unwrap().to_owned(),
            other => format!("{other}"),
        }
    }
}

fn credentials(method: &str, path: &str, body: &[u8]) -> Credentials {
    let digest = Target::new(method, "tools.example", path)
        .unwrap()
        .digest(&sha256(body));
    for_request(SCOPE_TEXT, digest)
}

/// What the example configuration of NGINX sends about `GET /search`.
fn nginx(change: impl FnOnce(&mut Request<Body>)) -> Request<Body> {
    let mut request = Request::builder()
        .uri(CHECK)
        .header(header::HOST, "127.0.0.1:9191")
        .header(header::CONNECTION, "close")
        .header(METHOD, "GET")
        .header(HOST, "tools.example")
        .header(SERVER, "tools.example")
        .header(URI, "/search?q=1")
        .header(BODY, "HTTP/1.1;;");
    for (name, value) in credentials("GET", "/search?q=1", b"").headers() {
        request = request.header(name, value);
    }
    let mut request = request.body(Body::empty()).unwrap();
    change(&mut request);
    request
}

fn set(request: &mut Request<Body>, name: &axum::http::HeaderName, value: &str) {
    request.headers_mut().insert(name, value.parse().unwrap());
}

const STRICT: Proxy = Proxy::Nginx { declared_bodies: false };
const DECLARED: Proxy = Proxy::Nginx { declared_bodies: true };

#[tokio::test(flavor = "multi_thread")]
async fn nginx_is_told_who_asks() {
    let endpoint = Endpoint::new(STRICT).await;
    let response = endpoint.ask(nginx(|_| ())).await;
    assert_eq!(response.status(), 200);
    let says = |name| response.headers().get::<HeaderName>(name).unwrap().to_str().unwrap();
    assert_eq!(says(SUBJECT_HEADER), SUBJECT);
    assert_eq!(says(SCOPE), SCOPE_TEXT);
    assert!(says(UNTIL).parse::<u64>().unwrap() > 0);
    assert!(!response.headers().contains_key(BODY_DIGEST));
    assert!(matches!(
        endpoint.told.lock().unwrap().as_slice(),
        [GuardEvent::Allowed { .. }]
    ));

    endpoint.world.publish(Status::Invalid, LONG_MS);
    assert_eq!(endpoint.codes(nginx(|_| ())).await, "authorization-revoked");
    assert!(matches!(
        endpoint.told.lock().unwrap().as_slice(),
        [_, GuardEvent::Denied { .. }]
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_client_smuggles_past_nginx_opens_anything() {
    let endpoint = Endpoint::new(STRICT).await;
    type Change = Box<dyn Fn(&mut Request<Body>)>;
    let put = |name: axum::http::HeaderName, value: &'static str| -> Change { Box::new(move |r| set(r, &name, value)) };
    let add = |name: axum::http::HeaderName, value: &'static str| -> Change {
        Box::new(move |request| {
            request.headers_mut().append(&name, value.parse().unwrap());
        })
    };
    let drop = |name: axum::http::HeaderName| -> Change {
        Box::new(move |request| {
            request.headers_mut().remove(&name);
        })
    };
    let rows: Vec<(&str, Change, &str)> = vec![
        (
            "a header of the client",
            put(header::USER_AGENT, "curl"),
            "client-headers-passed-through",
        ),
        ("a cookie", put(header::COOKIE, "a=b"), "client-headers-passed-through"),
        (
            "a method override",
            put("x-http-method-override".parse().unwrap(), "POST"),
            "client-headers-passed-through",
        ),
        (
            "a URI override",
            put("x-original-url".parse().unwrap(), "/search"),
            "client-headers-passed-through",
        ),
        (
            "a forwarded host",
            put("x-forwarded-host".parse().unwrap(), "tools.example"),
            "client-headers-passed-through",
        ),
        ("a second method", add(METHOD, "GET"), "request-ambiguous"),
        ("a second host", add(HOST, "tools.example"), "request-ambiguous"),
        ("a second server", add(SERVER, "tools.example"), "request-ambiguous"),
        ("a second URI", add(URI, "/search?q=1"), "request-ambiguous"),
        (
            "a second word on the body",
            add(BODY, "HTTP/1.1;;"),
            "request-ambiguous",
        ),
        ("no method", drop(METHOD), "original-request-missing"),
        ("no host", drop(HOST), "original-request-missing"),
        ("no server", drop(SERVER), "original-request-missing"),
        ("no URI", drop(URI), "original-request-missing"),
        ("no word on the body", drop(BODY), "original-request-missing"),
        ("an empty host, as in HTTP/1.0", put(HOST, ""), "request-ambiguous"),
        (
            "judged for one host, served by another",
            put(SERVER, "other.example"),
            "request-ambiguous",
        ),
        (
            "served here, judged for another host",
            put(HOST, "other.example"),
            "request-ambiguous",
        ),
        ("no server's name", put(SERVER, ""), "request-ambiguous"),
        (
            "a server with a port",
            put(SERVER, "tools.example:80"),
            "request-ambiguous",
        ),
        ("another port", put(HOST, "tools.example:8443"), "request-unmapped"),
        (
            "another host",
            Box::new(|request| {
                set(request, &HOST, "other.example");
                set(request, &SERVER, "other.example");
            }),
            "request-unmapped",
        ),
        ("another method", put(METHOD, "DELETE"), "request-unmapped"),
        ("another path", put(URI, "/admin"), "request-unmapped"),
        ("dot segments", put(URI, "/search/../admin"), "request-ambiguous"),
        ("escaped dots", put(URI, "/%2e%2e/search"), "request-ambiguous"),
        (
            "absolute form",
            put(URI, "http://tools.example/search"),
            "request-ambiguous",
        ),
        ("another query", put(URI, "/search?q=2"), "proof-request"),
        ("a method that was not proven", put(METHOD, "POST"), "proof-request"),
        ("no authorization", drop(header::AUTHORIZATION), "credentials-missing"),
        (
            "no proof",
            drop("touchstone-proof".parse().unwrap()),
            "credentials-missing",
        ),
        (
            "two authorizations",
            add(header::AUTHORIZATION, "Touchstone AAAA"),
            "credentials-missing",
        ),
        ("a body", put(BODY, "HTTP/1.1;7;"), "request-body-not-covered"),
        (
            "a body in chunks",
            put(BODY, "HTTP/1.1;;chunked"),
            "request-body-not-covered",
        ),
        (
            "a length that lies",
            put(BODY, "HTTP/1.1;0;chunked"),
            "request-body-not-covered",
        ),
        ("two lengths", put(BODY, "HTTP/1.1;0, 7;"), "request-body-not-covered"),
        (
            "a body that HTTP/2 need not announce",
            put(BODY, "HTTP/2.0;;"),
            "request-body-not-covered",
        ),
        ("a field too many", put(BODY, "HTTP/1.1;;;"), "original-request-missing"),
        ("a field too few", put(BODY, "HTTP/1.1;"), "original-request-missing"),
        (
            "a declared body where none is taken",
            Box::new(|request| {
                set(request, &BODY, "HTTP/1.1;7;");
                set(request, &CONTENT_DIGEST, "sha-256=:AA==:");
            }),
            "request-body-not-covered",
        ),
        (
            "another way to ask",
            Box::new(|request| *request.uri_mut() = "/".parse().unwrap()),
            "original-request-missing",
        ),
        (
            "a query",
            Box::new(|request| *request.uri_mut() = "/check?x".parse().unwrap()),
            "original-request-missing",
        ),
        (
            "asked with POST",
            Box::new(|request| *request.method_mut() = "POST".parse().unwrap()),
            "original-request-missing",
        ),
        (
            "asked with a body",
            Box::new(|request| *request.body_mut() = Body::from("x")),
            "original-request-missing",
        ),
    ];
    for (attack, change, code) in rows {
        assert_eq!(endpoint.codes(nginx(|request| change(request))).await, code, "{attack}");
    }
    assert_eq!(endpoint.codes(nginx(|_| ())).await, "");
    assert_eq!(
        endpoint
            .codes(nginx(|request| set(request, &BODY, "HTTP/2.0;0;")))
            .await,
        ""
    );
    let once = nginx(|_| ());
    let again = Request::builder().uri(CHECK);
    let again = once
        .headers()
        .iter()
        .fold(again, |again, (name, value)| again.header(name, value));
    assert_eq!(endpoint.codes(once).await, "");
    assert_eq!(
        endpoint.codes(again.body(Body::empty()).unwrap()).await,
        "proof-replayed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declared_body_is_the_services_to_check() {
    let endpoint = Endpoint::new(DECLARED).await;
    let body = b"{\"q\":1}";
    let declared = |digest: String| {
        nginx(|request| {
            set(request, &METHOD, "POST");
            set(request, &URI, "/search");
            set(request, &BODY, "HTTP/1.1;7;");
            set(request, &CONTENT_DIGEST, &digest);
            for (name, value) in credentials("POST", "/search", body).headers() {
                set(request, &name, &value);
            }
        })
    };
    let digest = format!("sha-256=:{}:", STANDARD.encode(sha256(body)));
    let response = endpoint.ask(declared(digest.clone())).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()[&BODY_DIGEST].to_str().unwrap(), digest);
    let other = format!("sha-256=:{}:", STANDARD.encode(sha256(b"other")));
    assert_eq!(endpoint.codes(declared(other)).await, "proof-request");
    for none in ["sha-256=:AA==:", "sha-256=AAAA", "md5=:AAAA:", "", "sha-512=:AAAA:"] {
        assert_eq!(
            endpoint.codes(declared(none.into())).await,
            "request-body-not-covered",
            "{none}"
        );
    }
    let two = format!("{digest}, {digest}");
    assert_eq!(endpoint.codes(declared(two)).await, "request-body-not-covered");
    // Without a body the header says nothing.
    let unneeded = nginx(|request| set(request, &CONTENT_DIGEST, "sha-256=:AA==:"));
    assert_eq!(endpoint.codes(unneeded).await, "");
}

#[test]
fn the_shipped_envoy_takes_what_the_guard_says_from_nobody_else() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/envoy/touchstone.yaml");
    let configuration = std::fs::read_to_string(path).unwrap();
    let (before, after) = configuration.split_once("envoy.filters.http.ext_authz").unwrap();
    for name in [SUBJECT_HEADER, SCOPE, UNTIL, BODY_DIGEST] {
        let removed = format!("- remove: {name}\n");
        assert!(before.contains(&removed), "{name} of the client goes on");
        // Envoy sends the whole body: the service behind has nothing left to check.
        let said = after.contains(&format!("{{ exact: {name} }}"));
        assert_eq!(said, name != BODY_DIGEST, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_asks_with_the_original_itself() {
    let endpoint = Endpoint::new(Proxy::Envoy).await;
    let body = b"{\"q\":1}".to_vec();
    let ask = |sent: Vec<u8>, change: &dyn Fn(&mut Request<Body>)| {
        let mut request = Request::builder()
            .method("POST")
            .uri("/search")
            .header(header::HOST, "tools.example");
        // Envoy adds what it knows, and whatever the operator lets through.
        request = request
            .header("x-forwarded-for", "10.0.0.1")
            .header(METHOD, "GET")
            .header(URI, "/admin");
        for (name, value) in credentials("POST", "/search", &body).headers() {
            request = request.header(name, value);
        }
        let mut request = request.body(Body::from(sent)).unwrap();
        change(&mut request);
        request
    };
    assert_eq!(
        endpoint.codes(ask(body.clone(), &|_| ())).await,
        "",
        "headers that only NGINX sends say nothing"
    );
    assert_eq!(endpoint.codes(ask(b"other".to_vec(), &|_| ())).await, "proof-request");
    assert_eq!(
        endpoint.codes(ask(Vec::new(), &|_| ())).await,
        "proof-request",
        "Envoy was told to keep the body"
    );
    assert_eq!(
        endpoint.codes(ask(vec![0; MAX_BODY + 1], &|_| ())).await,
        "proven-body-too-large"
    );
    let partial: &dyn Fn(&mut Request<Body>) = &|request| set(request, &PARTIAL, "true");
    assert_eq!(
        endpoint.codes(ask(body.clone(), partial)).await,
        "proven-body-too-large"
    );
    let whole: &dyn Fn(&mut Request<Body>) = &|request| set(request, &PARTIAL, "false");
    assert_eq!(endpoint.codes(ask(body.clone(), whole)).await, "");
    let elsewhere: &dyn Fn(&mut Request<Body>) = &|request| *request.uri_mut() = "/check".parse().unwrap();
    assert_eq!(endpoint.codes(ask(body.clone(), elsewhere)).await, "request-unmapped");
    let two_hosts: &dyn Fn(&mut Request<Body>) = &|request| {
        request
            .headers_mut()
            .append(header::HOST, "tools.example".parse().unwrap());
    };
    assert_eq!(endpoint.codes(ask(body.clone(), two_hosts)).await, "request-ambiguous");
}
