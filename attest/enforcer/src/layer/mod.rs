//! A tower layer: a service behind it sees only requests that an authorization of this domain allows, and their bodies
//! and answers end when that authorization does.
//!
//! ```text
//! Authorization: Touchstone <authorization or chain, base64url>
//! Touchstone-Proof: <proof of possession, base64url>
//! ```
//!
//! Which right a request needs is said by [`Routes`]; what is on no route is refused. Where the service ends TLS itself
//! ([`Mode::Connection`]) the proof carries the exporter of the connection and opens it for one right. Where something in
//! front ends TLS ([`Mode::Request`]) the proof is over the digest of this very request, its body included, and counts
//! once. A proof of the one kind is refused by the other. Source: `docs/protocol.md`, section 6.
//!
//! Every answer says `Cache-Control: no-store`. A refusal is 403 with the codes in `Touchstone-Reason` and every reason in
//! the body. The service finds who asks as [`Granted`] in the request's extensions; the credentials, and whatever else
//! begins with `touchstone-`, have been taken out of the headers.
//!
//! What it needs beside itself: somebody runs [`crate::guard::Guard::watch`]. Where nobody does, everything is refused.

pub(crate) mod body;
pub mod connection;
pub mod credentials;
pub mod reason;
pub mod routes;
pub mod target;

pub use body::{CutOff, Until};
pub use connection::{Connection, Exporter, TlsChannel};
pub use credentials::Credentials;
pub use reason::{AccessCode, Denied, REASON};
pub use routes::{RouteMap, Routes, RoutesError};
pub use target::Target;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use touchstone_authorization::proof::EXPORTER_LABEL;
use touchstone_authorization::{Admitted, Scope, authorization_digest};
use tower::{Layer, Service};

use self::body::BoxError;
use crate::clock;
use crate::guard::{Binding, Guard, GuardEvent, Hold, Standing};

/// The largest body that is read for its digest unless another limit is given, in bytes.
pub const MAX_BODY: usize = 1 << 20;

/// What begins every header that only enforcers set.
const OURS: &str = "touchstone-";

/// How proofs are tied to requests here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// This service ends TLS: each request carries its [`Connection`] in its extensions.
    Connection,
    /// Something in front of it does: each proof is over the digest of its request.
    Request {
        /// The largest body that is read for that, in bytes.
        max_body: usize,
    },
}

/// Who asks, and by which right: in the extensions of each request that the service behind sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// The authorization's subject; `B/node` where it is another domain's.
    pub subject: String,
    /// The domain that issued the authorization, where it is another one.
    pub authority: Option<String>,
    /// The right.
    pub scope: Scope,
    /// When the authorization runs out, Unix milliseconds.
    pub until_ms: u64,
}

impl Granted {
    /// As a decision has it.
    pub(crate) fn of(admitted: &Admitted) -> Self {
        Self {
            subject: admitted.subject.clone(),
            authority: admitted.authority.clone(),
            scope: admitted.allowed.scope.clone(),
            until_ms: admitted.allowed.until_ms,
        }
    }
}

/// Receives what the guard of a layer did.
pub type Tell = Arc<dyn Fn(GuardEvent) + Send + Sync>;

/// Puts [`Authorized`] before a service.
#[derive(Clone)]
pub struct AuthorizationLayer {
    shared: Arc<Shared>,
}

struct Shared {
    guard: Arc<Guard>,
    routes: Box<dyn Routes>,
    mode: Mode,
    upgrades: bool,
    tell: Tell,
}

impl AuthorizationLayer {
    /// A layer that asks `guard` about each request, for the right that `routes` names.
    pub fn new(guard: Arc<Guard>, routes: impl Routes + 'static, mode: Mode) -> Self {
        Self {
            shared: Arc::new(Shared {
                guard,
                routes: Box::new(routes),
                mode,
                upgrades: false,
                tell: Arc::new(|_| ()),
            }),
        }
    }

    /// The same, letting requests pass that ask to upgrade their connection (WebSocket). What is upgraded leaves the layer's
    /// hands: the service ends it when [`Until::ended`] completes, which each request has in its extensions.
    #[must_use]
    pub fn with_upgrades(self) -> Self {
        let shared = self.into_shared();
        Self {
            shared: Arc::new(Shared {
                upgrades: true,
                ..shared
            }),
        }
    }

    /// The same, telling of each decision.
    #[must_use]
    pub fn telling(self, tell: Tell) -> Self {
        let shared = self.into_shared();
        Self {
            shared: Arc::new(Shared { tell, ..shared }),
        }
    }

    /// What it is made of, also where another holds the same.
    fn into_shared(self) -> Shared {
        Arc::try_unwrap(self.shared).unwrap_or_else(|shared| {
            let again = Arc::clone(&shared);
            Shared {
                guard: Arc::clone(&shared.guard),
                mode: shared.mode,
                upgrades: shared.upgrades,
                routes: Box::new(move |target: &Target| again.routes.scope(target)),
                tell: Arc::clone(&shared.tell),
            }
        })
    }
}

impl<S> Layer<S> for AuthorizationLayer {
    type Service = Authorized<S>;

    fn layer(&self, inner: S) -> Authorized<S> {
        Authorized {
            inner,
            shared: Arc::clone(&self.shared),
        }
    }
}

/// A service that sees only what is allowed.
#[derive(Clone)]
pub struct Authorized<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S, B, R> Service<Request<B>> for Authorized<S>
where
    S: Service<Request<Body>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    R: HttpBody<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The one that is ready serves this request; a clone of it may not be.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let (request, hold) = match shared.admit(request).await {
                Ok(admitted) => admitted,
                Err(denied) => {
                    (shared.tell)(denied_event(&denied));
                    return Ok(denied.response());
                }
            };
            let response = inner.call(request).await?;
            // What an answer begins with is a part of it.
            if let Standing::Suspended { reasons } | Standing::Lost { reasons } = hold.now() {
                let denied = Denied::from(reasons);
                (shared.tell)(denied_event(&denied));
                return Ok(denied.response());
            }
            let (mut parts, body) = response.into_parts();
            parts
                .headers
                .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            Ok(Response::from_parts(parts, body::while_held(Body::new(body), hold)))
        })
    }
}

impl Shared {
    /// The request as the service may see it, and what it rests on.
    async fn admit<B>(&self, request: Request<B>) -> Result<(Request<Body>, Arc<Hold>), Denied>
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (mut parts, body) = request.into_parts();
        if !self.upgrades && asks_to_upgrade(&parts) {
            let found = format!("{} with {:?}", parts.method, parts.headers.get(header::UPGRADE));
            return Err(Denied::access(AccessCode::UpgradeNotHeld, found));
        }
        let target = Target::of(&parts)?;
        let scope = routes::needed(&*self.routes, &target)?;
        let credentials = Credentials::of(&parts.headers)?;
        let (hold, body) = match self.mode {
            Mode::Connection => {
                let hold = Arc::new(self.on_connection(&parts, &credentials, &scope)?);
                // It may be long, and the service reads it while the right may end.
                (Arc::clone(&hold), body::while_held(Body::new(body), hold))
            }
            Mode::Request { max_body } => {
                let (bytes, digest) = body::read(body, max_body).await?;
                let binding = Binding::Request(target.digest(&digest));
                let admitted = self.decide(&credentials, &scope, binding)?;
                (Arc::new(self.guard.hold_admitted(admitted)?), Body::from(bytes))
            }
        };
        take_out_ours(&mut parts.headers);
        let granted = Granted::of(hold.admitted());
        (self.tell)(allowed_event(&granted));
        parts.extensions.insert(granted);
        parts.extensions.insert(Until(Arc::clone(&hold)));
        Ok((Request::from_parts(parts, body), hold))
    }

    fn on_connection(&self, parts: &Parts, credentials: &Credentials, scope: &Scope) -> Result<Hold, Denied> {
        let unknown = |found: &str| Denied::access(AccessCode::ConnectionUnknown, found);
        let connection = parts.extensions.get::<Connection>();
        let connection = connection.ok_or_else(|| unknown("the request names no connection"))?;
        if let Some(opened) = connection.opened(credentials, scope) {
            let held = self.guard.hold_admitted(opened);
            if held.is_err() {
                connection.close(credentials, scope);
            }
            return Ok(held?);
        }
        let context = authorization_digest(&credentials.chain);
        let exporter = connection.export(EXPORTER_LABEL, &context);
        let exporter = exporter.ok_or_else(|| unknown("the connection gives no keying material of TLS 1.3"))?;
        let admitted = self.decide(credentials, scope, Binding::Connection(&exporter))?;
        let hold = self.guard.hold_admitted(admitted.clone())?;
        connection.open(credentials, scope, admitted);
        Ok(hold)
    }

    fn decide(&self, credentials: &Credentials, scope: &Scope, binding: Binding<'_>) -> Result<Admitted, Denied> {
        let Credentials { chain, proof } = credentials;
        Ok(self.guard.decide_request(chain, proof, scope, binding)?)
    }
}

/// Whether the connection would not speak HTTP any more after this (RFC 9110, sections 7.8 and 9.3.6).
fn asks_to_upgrade(parts: &Parts) -> bool {
    parts.method == Method::CONNECT
        || parts.headers.contains_key(header::UPGRADE)
        || parts.extensions.get::<hyper::upgrade::OnUpgrade>().is_some()
}

/// What is only for the enforcer, or only it may say, goes no further.
fn take_out_ours(headers: &mut HeaderMap) {
    let ours: Vec<_> = headers
        .keys()
        .filter(|name| name.as_str().starts_with(OURS))
        .cloned()
        .collect();
    for name in ours {
        headers.remove(name);
    }
    headers.remove(header::AUTHORIZATION);
}

pub(crate) fn allowed_event(granted: &Granted) -> GuardEvent {
    GuardEvent::Allowed {
        subject: granted.subject.clone(),
        scope: granted.scope.to_string(),
        at_ms: clock::wall_ms(),
    }
}

pub(crate) fn denied_event(denied: &Denied) -> GuardEvent {
    GuardEvent::Denied {
        reasons: denied.reasons(),
        at_ms: clock::wall_ms(),
    }
}

/// Serves HTTP on one TLS connection, with the connection named in each request.
///
/// # Errors
/// What the HTTP library says; the connection is over then.
pub async fn serve_connection<S>(
    stream: tokio_rustls::server::TlsStream<tokio::net::TcpStream>,
    service: S,
) -> Result<(), hyper::Error>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let (channel, connection) = TlsChannel::new(stream);
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let mut service = service.clone();
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(connection.clone());
        async move {
            match std::future::poll_fn(|cx| service.poll_ready(cx)).await {
                Ok(()) => service.call(request).await,
                Err(never) => match never {},
            }
        }
    });
    hyper::server::conn::http1::Builder::new()
        .serve_connection(hyper_util::rt::TokioIo::new(channel), service)
        .await
}
