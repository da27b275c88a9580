//! What a relay serves: `GET /v1/trust-state`, `GET /v1/trust-state/stream`, `POST /v1/time`, `POST /v1/acks`,
//! `GET /v1/health`, and what is in [`super::foreign`] of other domains; each as at a broker.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Extension;
use axum::Router;
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use touchstone_authorization::ack::MAX_ACK_BYTES;
use touchstone_authorization::name::is_name;
use touchstone_client::follow::ACKS;

use super::{Site, foreign};
use crate::body::{BodyLimits, CBOR, read_cbor};
use crate::federation::relay::Subscription;
use crate::problem::{Refusal, RefusalCode};
use crate::routes::{TIME, TIME_NONCE_LEN, answer, blocking};
use crate::server::ConnectionInfo;
use crate::shares::{Host, Place, Places, Rates};

/// The longest that an acknowledgement is under way: who sent it has long been answered that none came.
const LONGEST: Duration = Duration::from_secs(4);

pub(super) fn router(site: Arc<Site>) -> Router {
    Router::new()
        .route("/v1/trust-state", get(whole))
        .route("/v1/trust-state/stream", get(follow))
        .route(TIME, post(time))
        .route(ACKS, post(acknowledge))
        .route("/v1/health", get(health))
        .route("/v1/federation/{domain}/policy", get(foreign::policy))
        .route("/v1/federation/{domain}/policy/digest", get(foreign::policy_digest))
        .route("/v1/federation/{domain}/trust-state", get(foreign::whole))
        .route("/v1/federation/{domain}/trust-state/stream", get(foreign::stream))
        .fallback(|| async { Refusal::new(RefusalCode::RouteUnknown, "not at a relay: ask a broker") })
        .method_not_allowed_fallback(|| async { Refusal::new(RefusalCode::MethodUnknown, "not with this method") })
        .with_state(site)
}

async fn health() -> Response {
    answer(StatusCode::OK, "text/plain; charset=utf-8", "relay\n")
}

async fn whole(State(site): State<Arc<Site>>) -> Result<Response, Refusal> {
    let view = site.follower.view().ok_or_else(nothing_yet)?;
    Ok(answer(StatusCode::OK, CBOR, site.relay.frame(None, &view).await.frame))
}

async fn follow(
    State(site): State<Arc<Site>>,
    Extension(connection): Extension<ConnectionInfo>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Response, Refusal> {
    let place = subscriber(&site.room, site.limits.subscribers, &connection, &query)?;
    let following = Subscription {
        relay: Arc::clone(&site.relay),
        views: site.follower.views(),
        stop: site.stop.clone(),
    };
    let body = Body::from_stream(following.events(place));
    Ok(answer(StatusCode::OK, "text/event-stream", body))
}

/// A place among `room`, of which there are `limit`, for a stream to a subscriber with a name.
pub(super) fn subscriber(
    room: &Arc<Places>,
    limit: usize,
    connection: &ConnectionInfo,
    query: &HashMap<String, String>,
) -> Result<Place, Refusal> {
    let subscriber = query.get("subscriber").map_or("", String::as_str);
    if !is_name(subscriber) {
        let detail = "subscriber must be there and be a name";
        return Err(Refusal::new(RefusalCode::ParameterMalformed, detail));
    }
    room.take(Host::of(connection.peer.ip())).ok_or_else(|| {
        let detail = format!("the limit is {limit}, and {} of one host", super::share(limit));
        Refusal::new(RefusalCode::SubscribersFull, detail)
    })
}

async fn time(
    State(site): State<Arc<Site>>,
    Extension(connection): Extension<ConnectionInfo>,
    request: Request,
) -> Result<Response, Refusal> {
    let nonce = read_cbor(request, limits(&site, TIME_NONCE_LEN)).await?;
    // A broker counts what it refuses against this relay.
    if nonce.len() != TIME_NONCE_LEN {
        let detail = format!("the body must be a nonce of {TIME_NONCE_LEN} bytes");
        return Err(Refusal::new(RefusalCode::MessageMalformed, detail));
    }
    // Half the way there and back is what the time may be off by: what comes later is taken by nobody.
    let longest = Duration::from_millis(site.policy().settings.timers.skew_ms.saturating_mul(2));
    let host = Host::of(connection.peer.ip());
    let signed = site.time.post(host, TIME, nonce.to_vec(), longest).await?;
    Ok(answer(StatusCode::OK, CBOR, signed))
}

async fn acknowledge(
    State(site): State<Arc<Site>>,
    Extension(connection): Extension<ConnectionInfo>,
    request: Request,
) -> Result<Response, Refusal> {
    let host = Host::of(connection.peer.ip());
    if refused(&site).is_limited(host) {
        let detail = "too many of your acknowledgements were refused";
        return Err(Refusal::new(RefusalCode::SourceLimited, detail));
    }
    let passed = pass(&site, host, request).await;
    if let Err(refusal) = &passed
        && !matches!(refusal.code, RefusalCode::BrokerBusy | RefusalCode::UpstreamAway)
        && refused(&site).count(host)
    {
        tracing::warn!(target: "touchstone::relay", host = %connection.peer.ip(), "a host sends acknowledgements that do not count");
    }
    passed
}

async fn pass(site: &Arc<Site>, host: Host, request: Request) -> Result<Response, Refusal> {
    let ack = read_cbor(request, limits(site, MAX_ACK_BYTES)).await?;
    let admitted = {
        let (site, ack) = (Arc::clone(site), ack.clone());
        blocking(move || site.passing.admit(&ack, &site.policy())).await?
    };
    let Some(pass) = admitted else {
        return Ok(answer(StatusCode::OK, CBOR, Vec::new()));
    };
    let answered = site.acks.post(host, ACKS, ack.to_vec(), LONGEST).await;
    pass.answered(&answered);
    Ok(answer(StatusCode::OK, CBOR, answered?))
}

fn refused(site: &Site) -> MutexGuard<'_, Rates> {
    site.refused.lock().unwrap_or_else(PoisonError::into_inner)
}

fn limits(site: &Site, bytes: usize) -> BodyLimits {
    BodyLimits {
        bytes,
        ms: site.limits.body_ms,
    }
}

fn nothing_yet() -> Refusal {
    Refusal::new(RefusalCode::UpstreamAway, "no trust state has come here yet")
}
