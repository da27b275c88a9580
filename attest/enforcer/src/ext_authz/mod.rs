//! The question of a proxy: may this request go through? One HTTP endpoint for Envoy's `ext_authz` filter (HTTP service)
//! and for NGINX's `auth_request`: 200 or 403, and why.
//!
//! The proxy ends TLS, so proofs of possession are over the digest of the original request, young, and count once
//! (`docs/protocol.md`, section 6). 200 carries `Touchstone-Subject`, `Touchstone-Scope` and `Touchstone-Until` (Unix
//! milliseconds) for the service behind; 403 carries the codes in `Touchstone-Reason` and every reason in its body. Both say
//! `Cache-Control: no-store`: an answer is for one request.

mod original;

pub use original::{BODY, CHECK, CONTENT_DIGEST, HOST, METHOD, PARTIAL, SERVER, URI};

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use self::original::Original;
use crate::guard::{Binding, Guard};
use crate::layer::{Credentials, Denied, Granted, Routes, Tell, allowed_event, denied_event, routes};

/// Who asks, as the service behind may be told.
pub const SUBJECT: HeaderName = HeaderName::from_static("touchstone-subject");
/// The right it was let in by.
pub const SCOPE: HeaderName = HeaderName::from_static("touchstone-scope");
/// When that runs out, Unix milliseconds.
pub const UNTIL: HeaderName = HeaderName::from_static("touchstone-until");
/// The digest that the service behind must find the body to have (RFC 9530's form), where nobody before it has looked.
pub const BODY_DIGEST: HeaderName = HeaderName::from_static("touchstone-body-digest");

/// How the proxy describes the original request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proxy {
    /// Envoy: the question *is* the original, with its body where `with_request_body` is set.
    Envoy,
    /// NGINX: in headers, without the body.
    Nginx {
        /// Whether a request with a body is let through on the digest that the client declares in `Content-Digest`. The
        /// service behind must then hold the body against `Touchstone-Body-Digest`.
        declared_bodies: bool,
    },
}

/// What the endpoint is made of.
pub struct ExtAuthz {
    /// Decides.
    pub guard: Arc<Guard>,
    /// Which right a request needs.
    pub routes: Box<dyn Routes>,
    /// Who asks.
    pub proxy: Proxy,
    /// The largest body that Envoy may send, in bytes.
    pub max_body: usize,
    /// Receives every decision.
    pub tell: Tell,
}

/// The endpoint; any path and any method, because with Envoy they are the original's.
pub fn router(endpoint: ExtAuthz) -> Router {
    Router::new().fallback(check).with_state(Arc::new(endpoint))
}

async fn check(State(endpoint): State<Arc<ExtAuthz>>, request: Request) -> Response<Body> {
    match endpoint.check(request).await {
        Ok(response) => response,
        Err(denied) => {
            (endpoint.tell)(denied_event(&denied));
            denied.response()
        }
    }
}

impl ExtAuthz {
    async fn check(&self, request: Request) -> Result<Response<Body>, Denied> {
        let (parts, body) = request.into_parts();
        let original = original::read(self.proxy, self.max_body, &parts, body).await?;
        let Original {
            target,
            body_digest,
            declared,
        } = original;
        let scope = routes::needed(&*self.routes, &target)?;
        let Credentials { chain, proof } = Credentials::of(&parts.headers)?;
        let binding = Binding::Request(target.digest(&body_digest));
        let admitted = self.guard.decide_request(&chain, &proof, &scope, binding)?;
        let granted = Granted::of(&admitted);
        (self.tell)(allowed_event(&granted));
        let mut response = Response::new(Body::empty());
        say(response.headers_mut(), &granted, declared.then_some(&body_digest));
        Ok(response)
    }
}

fn say(headers: &mut HeaderMap, granted: &Granted, body_digest: Option<&[u8; 32]>) {
    let digest = body_digest.map(|digest| format!("sha-256=:{}:", STANDARD.encode(digest)));
    let rows = [
        (SUBJECT, Some(granted.subject.clone())),
        (SCOPE, Some(granted.scope.to_string())),
        (UNTIL, Some(granted.until_ms.to_string())),
        (BODY_DIGEST, digest),
    ];
    for (name, value) in rows {
        // Names and scopes are printable ASCII by their grammar.
        if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
            headers.insert(name, value);
        }
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
}
