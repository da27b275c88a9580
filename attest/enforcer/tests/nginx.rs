//! NGINX before a service, with `auth_request` to the guard's endpoint: the shipped configuration, run by a real NGINX.
#![allow(clippy::unwrap_used, reason = "tests")]

use crate::common;
use crate::server;

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::Request;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::{LONG_MS, SUBJECT, World, for_request, sha256};
use http_body_util::BodyExt as _;
use server::{Nginx, free_port};
use tokio::net::TcpListener;
use touchstone_authorization::Status;
use touchstone_enforcer::ext_authz::{ExtAuthz, Proxy, router};
use touchstone_enforcer::layer::{Credentials, RouteMap, Target};

const CONFIGURATION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/nginx/touchstone.conf");
const ROUTES: &str = r#"
    [[route]]
    authority = "tools.example"
    methods = ["GET", "POST"]
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

async fn serve(app: Router) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { axum::serve(listener, app).await });
    port
}

/// No right of these tests lasts that long.
const FOR_EVER: &str = "9999999999999";

/// What the service behind saw.
type Seen = Arc<Mutex<Vec<String>>>;

fn service(seen: &Seen) -> Router {
    let seen = Arc::clone(seen);
    Router::new().fallback(move |request: Request| {
        let seen = Arc::clone(&seen);
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let header = |name: &str| {
                parts
                    .headers
                    .get(name)
                    .map_or("-", |value| value.to_str().unwrap())
                    .to_owned()
            };
            let who = (
                header("touchstone-subject"),
                header("authorization"),
                header("touchstone-proof"),
            );
            let until = match header("touchstone-until").as_str() {
                FOR_EVER => "until the client says",
                until if until.parse::<u64>().is_ok() => "until the guard says",
                _ => "until nobody says",
            };
            let expected = header("touchstone-body-digest");
            let own = format!("sha-256=:{}:", STANDARD.encode(sha256(&body)));
            let whole = if expected == "-" || expected == own {
                "body as proven"
            } else {
                "another body"
            };
            seen.lock()
                .unwrap()
                .push(format!("{} {} {who:?} {until} {whole}", parts.method, parts.uri));
            "done"
        }
    })
}

struct Setup {
    world: World,
    seen: Seen,
    nginx: Nginx,
}

async fn setup(declared_bodies: bool, change: impl Fn(String) -> String) -> Option<Setup> {
    let world = World::new().await;
    let endpoint = router(ExtAuthz {
        guard: Arc::clone(&world.guard),
        routes: Box::new(RouteMap::parse(ROUTES).unwrap()),
        proxy: Proxy::Nginx { declared_bodies },
        max_body: 0,
        tell: Arc::new(|_| ()),
    });
    let seen: Seen = Arc::default();
    let (guard, service) = (serve(endpoint).await, serve(service(&seen)).await);
    let nginx = Nginx::start(CONFIGURATION, free_port(), (guard, service), change).await?;
    Some(Setup { world, seen, nginx })
}

fn credentials(scope: &str, method: &str, path: &str, body: &[u8]) -> Credentials {
    let digest = Target::new(method, "tools.example", path)
        .unwrap()
        .digest(&sha256(body));
    for_request(scope, digest)
}

/// A request with these credentials, and more header lines.
fn request(line: &str, credentials: &Credentials, more: &str, body: &str) -> String {
    let [(_, authorization), (_, proof)] = credentials.headers();
    format!(
        "{line} HTTP/1.1\r\nHost: tools.example\r\nUser-Agent: test\r\nConnection: close\r\n\
         Authorization: {authorization}\r\nTouchstone-Proof: {proof}\r\n{more}\r\n{body}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_lets_through_what_the_guard_allows_and_nothing_else() {
    let Some(Setup { world, seen, nginx }) = setup(false, |configuration| configuration).await else {
        return;
    };
    let search = || credentials("execute:tool-search", "GET", "/search?q=1", b"");
    // What the client says of itself is overwritten.
    let boast = format!(
        "Touchstone-Subject: root\r\nTouchstone-Until: {FOR_EVER}\r\nTouchstone-Body-Digest: sha-256=:AA==:\r\n\
         X-Original-URI: /search\r\nX-Original-Method: POST\r\n"
    );
    let (status, _, answer) = nginx.send(&request("GET /search?q=1", &search(), &boast, "")).await;
    assert_eq!(status, 200, "{answer} {}", nginx.log());
    assert!(
        answer.to_ascii_lowercase().contains("cache-control: no-store"),
        "{answer}"
    );
    let expected = format!("GET /search?q=1 ({SUBJECT:?}, \"-\", \"-\") until the guard says body as proven");
    assert_eq!(*seen.lock().unwrap(), [expected]);

    let once = request("GET /search?q=1", &search(), "", "");
    assert_eq!(nginx.send(&once).await.0, 200);
    let post = credentials("execute:tool-search", "POST", "/search", b"{}");
    let raw = |line: &str, headers: &str| format!("{line} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n");
    let [(_, authorization), (_, proof)] = search().headers();
    let shown = format!("Authorization: {authorization}\r\nTouchstone-Proof: {proof}\r\n");
    let rows = [
        ("replayed", once, 403, "proof-replayed"),
        (
            "no credentials",
            raw("GET /search", "Host: tools.example\r\n"),
            403,
            "credentials-missing",
        ),
        (
            "another path",
            request("GET /search?q=2", &search(), "", ""),
            403,
            "proof-request",
        ),
        (
            "another method",
            request("POST /search?q=1", &search(), "Content-Length: 0\r\n", ""),
            403,
            "proof-request",
        ),
        (
            "HEAD for GET",
            request("HEAD /search?q=1", &search(), "", ""),
            403,
            "request-unmapped",
        ),
        (
            "a third tool",
            request(
                "GET /shell",
                &credentials("execute:tool-shell", "GET", "/shell", b""),
                "",
                "",
            ),
            403,
            "scope-not-granted",
        ),
        (
            "the right to another tool",
            request("GET /shell", &search(), "", ""),
            403,
            "proof-action",
        ),
        (
            "no route",
            request("GET /admin", &search(), "", ""),
            403,
            "request-unmapped",
        ),
        (
            "the query hidden in the path",
            request("GET /search%3fq=1", &search(), "", ""),
            403,
            "request-ambiguous",
        ),
        (
            "an escaped letter",
            request("GET /%73earch?q=1", &search(), "", ""),
            403,
            "request-ambiguous",
        ),
        (
            "an empty segment",
            request("GET //search?q=1", &search(), "", ""),
            403,
            "request-ambiguous",
        ),
        (
            "a body",
            request("POST /search", &post, "Content-Length: 2\r\n", "{}"),
            403,
            "request-body-not-covered",
        ),
        (
            "a body in chunks",
            request(
                "POST /search",
                &post,
                "Transfer-Encoding: chunked\r\n",
                "2\r\n{}\r\n0\r\n\r\n",
            ),
            403,
            "request-body-not-covered",
        ),
        (
            "another host",
            raw("GET /search?q=1", &format!("Host: evil.example\r\n{shown}")),
            403,
            "request-unmapped",
        ),
        (
            "two hosts",
            raw(
                "GET /search?q=1",
                &format!("Host: tools.example\r\nHost: tools.example\r\n{shown}"),
            ),
            400,
            "",
        ),
        (
            "the check itself",
            raw("GET /touchstone-check", "Host: tools.example\r\n"),
            404,
            "",
        ),
        (
            "two authorizations",
            request("GET /search?q=1", &search(), "Authorization: Basic AAAA\r\n", ""),
            400,
            "",
        ),
    ];
    for (attack, request, status, code) in rows {
        let (found, reason, answer) = nginx.send(&request).await;
        assert_eq!(found, status, "{attack}: {answer}");
        assert!(reason.split(", ").any(|found| found == code), "{attack}: {reason}");
    }
    // A path that NGINX would take for another one.
    let mut dotted = request("GET /files/x", &files_right("/files/x"), "", "");
    dotted = dotted.replacen("/files/x", "/files/../shell", 1);
    let (found, reason, _) = nginx.send(&dotted).await;
    assert_eq!((found, reason.as_str()), (403, "request-ambiguous"));
    assert_eq!(seen.lock().unwrap().len(), 2, "nothing of that reached the service");

    world.publish(Status::Invalid, LONG_MS);
    let (found, reason, _) = nginx.send(&request("GET /search?q=1", &search(), "", "")).await;
    assert_eq!(
        (found, reason.as_str()),
        (403, "authorization-revoked"),
        "withdrawn means stopped"
    );
    world.publish(Status::Valid, LONG_MS);
    assert_eq!(nginx.send(&request("GET /search?q=1", &search(), "", "")).await.0, 200);
}

fn files_right(path: &str) -> Credentials {
    credentials("execute:tool-files", "GET", path, b"")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_passes_nginx_on_its_declared_digest_and_the_service_can_tell_another_one() {
    let Some(Setup { seen, nginx, .. }) = setup(true, |configuration| configuration).await else {
        return;
    };
    let digest = format!("Content-Digest: sha-256=:{}:\r\n", STANDARD.encode(sha256(b"{}")));
    let post = || credentials("execute:tool-search", "POST", "/search", b"{}");
    let with = |length: usize| format!("Content-Length: {length}\r\n{digest}");
    assert_eq!(
        nginx.send(&request("POST /search", &post(), &with(2), "{}")).await.0,
        200
    );
    assert_eq!(
        nginx.send(&request("POST /search", &post(), &with(2), "[]")).await.0,
        200
    );
    let bodies: Vec<bool> = seen
        .lock()
        .unwrap()
        .iter()
        .map(|line| line.ends_with("body as proven"))
        .collect();
    assert_eq!(bodies, [true, false], "what the header is for");
    let (found, reason, _) = nginx
        .send(&request("POST /search", &post(), "Content-Length: 2\r\n", "{}"))
        .await;
    assert_eq!((found, reason.as_str()), (403, "request-body-not-covered"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_hands_the_clients_headers_on_lets_nobody_in() {
    let forgetful = |configuration: String| configuration.replace("proxy_pass_request_headers off;", "");
    let Some(Setup { nginx, .. }) = setup(false, forgetful).await else {
        return;
    };
    let search = credentials("execute:tool-search", "GET", "/search?q=1", b"");
    let (found, reason, _) = nginx.send(&request("GET /search?q=1", &search, "", "")).await;
    assert_eq!((found, reason.as_str()), (403, "client-headers-passed-through"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_served_by_the_host_that_it_was_judged_for() {
    // Two servers of one NGINX; there are rights at the first.
    let two = |configuration: String| {
        let other = configuration.replace("tools.example", "other.example");
        format!("{configuration}\n{other}")
    };
    let Some(Setup { seen, nginx, .. }) = setup(false, two).await else {
        return;
    };
    let search = || credentials("execute:tool-search", "GET", "/search?q=1", b"");
    let line = |host: &str| format!("GET http://{host}/search?q=1");
    let rows = [
        ("the other host in the line", line("other.example"), 403),
        ("a host of nobody in the line", line("nobody.example"), 403),
        ("the same host in the line", line("tools.example"), 200),
        ("the same host in capitals", line("TOOLS.example"), 200),
    ];
    for (name, line, expected) in rows {
        let (status, reason, answer) = nginx.send(&request(&line, &search(), "", "")).await;
        assert_eq!(status, expected, "{name}: {answer} {}", nginx.log());
        assert_eq!(reason, if expected == 403 { "request-ambiguous" } else { "" }, "{name}");
    }
    assert_eq!(seen.lock().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_is_away_lets_nobody_in() {
    // No port for tests: nobody listens there.
    let nowhere = 1;
    let away = move |configuration: String| {
        let at = configuration.find("/check;").unwrap();
        let begin = configuration[..at].rfind("127.0.0.1:").unwrap();
        format!("{}127.0.0.1:{nowhere}{}", &configuration[..begin], &configuration[at..])
    };
    let Some(Setup { seen, nginx, .. }) = setup(false, away).await else {
        return;
    };
    let search = credentials("execute:tool-search", "GET", "/search?q=1", b"");
    let (found, ..) = nginx.send(&request("GET /search?q=1", &search, "", "")).await;
    assert_eq!(found, 500);
    assert!(seen.lock().unwrap().is_empty());
}
