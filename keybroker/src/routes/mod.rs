//! The HTTP interface, one file a group of routes. What each takes and gives: `docs/protocol.md`, "routes".
//!
//! Every handler gives an answer or a [`Refusal`]; refusals are counted in one place, here, and a source that is refused
//! too often is slowed down before its bodies are read.

mod acks;
mod attestation;
mod authorizations;
mod drift;
mod events;
pub(crate) mod federation;
mod health;
mod keys;
mod ledger;
pub(crate) mod policy;
pub(crate) mod status_list;
mod trust_state;
mod witness;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use touchstone_evidence::message::{RELEASE_PATH, WORKLOAD_PATH};

use crate::app::App;
use crate::hello::internal;
use crate::problem::{Refusal, RefusalCode};
use crate::server::ConnectionInfo;

pub(crate) use trust_state::TIME_NONCE_LEN;

/// The route on which the time is asked.
pub(crate) const TIME: &str = "/v1/time";

/// The HTTPS interface.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/hello", post(attestation::hello))
        .route("/v1/evidence", post(attestation::evidence))
        .route(RELEASE_PATH, post(keys::release))
        .route(WORKLOAD_PATH, post(authorizations::issue))
        .route("/v1/uses", post(authorizations::used))
        .route(TIME, post(trust_state::time))
        .route("/v1/trust-state", get(trust_state::whole))
        .route("/v1/trust-state/stream", get(trust_state::stream))
        .route("/v1/acks", post(acks::acknowledge))
        .route("/v1/status/{list}", get(status_list::status_list))
        .route("/v1/status", get(status_list::aggregation))
        .route("/v1/ledger/checkpoint", get(ledger::checkpoint))
        .route("/v1/ledger/entries", get(ledger::entries))
        .route("/v1/ledger/proof", get(ledger::proof))
        .route("/v1/ledger/consistency", get(ledger::consistency))
        .route(
            "/v1/ledger/cosignatures",
            get(witness::cosignatures).post(witness::cosigned),
        )
        .route("/v1/drift", post(drift::drift))
        .route("/v1/events", post(events::events))
        .route("/v1/witness/add-checkpoint", post(witness::add_checkpoint))
        .route("/v1/federation/{domain}/policy", get(federation::policy))
        .route("/v1/federation/{domain}/policy/digest", get(federation::policy_digest))
        .route("/v1/federation/{domain}/trust-state", get(federation::whole))
        .route("/v1/federation/{domain}/trust-state/stream", get(federation::stream))
        .route("/v1/federation/{domain}/frame", post(federation::frame))
        .route("/v1/federation/{domain}/bundle", post(federation::bundle))
        .route("/v1/federation/{domain}/authorization", post(federation::authorization))
        .route("/v1/policy/{*path}", get(policy::file))
        .route("/v1/health", get(health::health))
        .fallback(|| async { Refusal::new(RefusalCode::RouteUnknown, "no such route") })
        .method_not_allowed_fallback(|| async { Refusal::new(RefusalCode::MethodUnknown, "not with this method") })
        .layer(from_fn_with_state(Arc::clone(&app), guard))
        .with_state(app)
}

/// What the plain HTTP listener serves: the policy repository, which is believed for its signatures wherever it is from.
pub fn policy_router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/policy/{*path}", get(policy::file))
        .fallback(|| async { Refusal::new(RefusalCode::RouteUnknown, "no such route") })
        .method_not_allowed_fallback(|| async { Refusal::new(RefusalCode::MethodUnknown, "not with this method") })
        .with_state(app)
}

/// Slows down sources that are refused too often, and counts refusals.
async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let Some(connection) = request.extensions().get::<ConnectionInfo>().cloned() else {
        return Refusal::new(RefusalCode::Internal, "the connection is not known").into_response();
    };
    let source = connection.peer.ip();
    let proven = connection.proven.load(Ordering::Relaxed);
    if !proven && app.is_limited(source) {
        let refusal = Refusal::new(
            RefusalCode::SourceLimited,
            "too many refused requests from your network",
        );
        app.count(&refusal, source);
        return refusal.into_response();
    }
    let mut response = next.run(request).await;
    if let Some(refusal) = response.extensions_mut().remove::<Refusal>() {
        app.count(&refusal, source);
    }
    response
}

/// An answer of this type, never to be stored by anything in between.
pub(crate) fn answer(status: StatusCode, content_type: &'static str, body: impl Into<axum::body::Body>) -> Response {
    let mut response = (status, body.into()).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Runs what reads the store or computes for long where it holds nobody up.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.map_err(internal)?
}

/// A parameter of the query that is a number.
fn number(query: &std::collections::HashMap<String, String>, name: &str) -> Result<u64, Refusal> {
    query.get(name).and_then(|text| text.parse().ok()).ok_or_else(|| {
        Refusal::new(
            RefusalCode::ParameterMalformed,
            format!("{name} must be there and be a number"),
        )
    })
}
