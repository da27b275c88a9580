//! The request that a proxy asks about, read out of the request it asks with.
//!
//! A client must not be able to speak in the proxy's name. Envoy asks with the original's own method, host, path and
//! body, so there is nothing beside them to forge. NGINX asks with a request of its own and describes the original in
//! headers; a line that its configuration forgot would let the client's header of that name through. So from NGINX exactly
//! the headers of the example configuration are taken, each once: one more (every client sends a `User-Agent`) says that
//! the client's headers are handed on, and one less that a line is missing. Both refuse everything, until it is mended.
//!
//! Sources: Envoy's documentation of the HTTP filter `ext_authz`, HTTP service; NGINX's of `ngx_http_auth_request_module`
//! and `ngx_http_proxy_module`.

use axum::body::{Body, HttpBody as _};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, Method, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use super::Proxy;
use crate::layer::body;
use crate::layer::credentials::PROOF;
use crate::layer::{AccessCode, Denied, Target};

/// The path at which NGINX asks.
pub const CHECK: &str = "/check";

/// NGINX: `$request_method`.
pub const METHOD: HeaderName = HeaderName::from_static("x-original-method");
/// NGINX: `$http_host`.
pub const HOST: HeaderName = HeaderName::from_static("x-original-host");
/// NGINX: `$host`: by which it chose the server, and that is the host of the request line where one stands there.
pub const SERVER: HeaderName = HeaderName::from_static("x-original-server");
/// NGINX: `$request_uri`.
pub const URI: HeaderName = HeaderName::from_static("x-original-uri");
/// NGINX: `"$server_protocol;$http_content_length;$http_transfer_encoding"`: whether there is a body.
pub const BODY: HeaderName = HeaderName::from_static("x-original-body");
/// NGINX: `$http_content_digest`; not sent where the client sent none.
pub const CONTENT_DIGEST: HeaderName = HeaderName::from_static("x-original-content-digest");
/// Envoy: whether it sends only the beginning of the body.
pub const PARTIAL: HeaderName = HeaderName::from_static("x-envoy-auth-partial-body");

/// What NGINX sends, and nothing else.
const FROM_NGINX: [HeaderName; 11] = [
    header::HOST,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::AUTHORIZATION,
    PROOF,
    METHOD,
    HOST,
    SERVER,
    URI,
    BODY,
    CONTENT_DIGEST,
];

/// The original request.
pub(super) struct Original {
    pub target: Target,
    pub body_digest: [u8; 32],
    /// The body was not seen: its digest is what the client declared, for the service behind to check.
    pub declared: bool,
}

/// Reads the original.
///
/// # Errors
/// What cannot be read, or could be read in two ways.
pub(super) async fn read(proxy: Proxy, max_body: usize, parts: &Parts, body: Body) -> Result<Original, Denied> {
    match proxy {
        Proxy::Envoy => from_envoy(max_body, parts, body).await,
        Proxy::Nginx { declared_bodies } => from_nginx(declared_bodies, parts, &body),
    }
}

async fn from_envoy(max_body: usize, parts: &Parts, body: Body) -> Result<Original, Denied> {
    let target = Target::of(parts)?;
    let partial = parts.headers.get_all(PARTIAL).iter().any(|value| value != "false");
    if partial {
        return Err(Denied::access(
            AccessCode::BodyTooLarge,
            "Envoy sent only the beginning of the body",
        ));
    }
    let (_, body_digest) = body::read(body, max_body).await?;
    Ok(Original {
        target,
        body_digest,
        declared: false,
    })
}

fn from_nginx(declared_bodies: bool, parts: &Parts, body: &Body) -> Result<Original, Denied> {
    let missing = |found: &str| Denied::access(AccessCode::OriginalMissing, found);
    if parts.method != Method::GET || parts.uri.path() != CHECK || parts.uri.query().is_some() {
        return Err(missing("NGINX asks with GET /check"));
    }
    if !body.is_end_stream() {
        return Err(missing("NGINX asks without a body: set proxy_pass_request_body off"));
    }
    if let Some(other) = parts.headers.keys().find(|name| !FROM_NGINX.contains(name)) {
        return Err(Denied::access(
            AccessCode::HeadersPassedThrough,
            format!("a header {other}"),
        ));
    }
    let target = Target::new(
        one(&parts.headers, &METHOD)?,
        one(&parts.headers, &HOST)?,
        one(&parts.headers, &URI)?,
    )?;
    // RFC 9112, section 3.2.2: the host of the request line overrides the header, and NGINX serves by it.
    if !one(&parts.headers, &SERVER)?.eq_ignore_ascii_case(target.host()) {
        return Err(Denied::access(
            AccessCode::RequestAmbiguous,
            "NGINX serves another host than the Host header names",
        ));
    }
    let declared = match (
        has_body(one(&parts.headers, &BODY)?)?,
        parts.headers.contains_key(CONTENT_DIGEST),
    ) {
        (false, _) => None,
        (true, true) if declared_bodies => Some(content_digest(one(&parts.headers, &CONTENT_DIGEST)?)?),
        (true, _) => {
            let found = "a body, which NGINX does not send here";
            return Err(Denied::access(AccessCode::BodyNotCovered, found));
        }
    };
    Ok(Original {
        target,
        body_digest: declared.unwrap_or_else(|| Sha256::digest([]).into()),
        declared: declared.is_some(),
    })
}

/// Whether the original has a body, by [`BODY`]; where that cannot be told, it has.
fn has_body(text: &str) -> Result<bool, Denied> {
    let mut fields = text.split(';');
    let (Some(protocol), Some(length), Some(encoding), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(Denied::access(
            AccessCode::OriginalMissing,
            format!("{BODY} of another form"),
        ));
    };
    // RFC 9112, section 6.3. Later versions end a body by framing, and need no header to have one.
    let none = match protocol {
        "HTTP/1.0" | "HTTP/1.1" => matches!(length, "" | "0"),
        _ => length == "0",
    };
    Ok(!(none && encoding.is_empty()))
}

/// The SHA-256 of RFC 9530, section 2: `sha-256=:<base64>:`, alone.
fn content_digest(text: &str) -> Result<[u8; 32], Denied> {
    let digest = text
        .strip_prefix("sha-256=:")
        .and_then(|rest| rest.strip_suffix(':'))
        .and_then(|base64| STANDARD.decode(base64).ok())
        .and_then(|bytes| bytes.try_into().ok());
    digest.ok_or_else(|| {
        let found = "a Content-Digest that is not one sha-256";
        Denied::access(AccessCode::BodyNotCovered, found)
    })
}

fn one<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<&'h str, Denied> {
    let mut all = headers.get_all(name).iter();
    match (all.next().map(|value| value.to_str()), all.next()) {
        (Some(Ok(value)), None) => Ok(value),
        (Some(_), _) => Err(Denied::access(
            AccessCode::RequestAmbiguous,
            format!("{name} twice, or not ASCII"),
        )),
        (None, _) => Err(Denied::access(AccessCode::OriginalMissing, format!("no {name}"))),
    }
}
