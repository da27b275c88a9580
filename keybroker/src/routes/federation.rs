//! `/v1/federation/{domain}/…`: what enforcers follow of other domains, what other domains send, and authorizations that
//! count there.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use touchstone_authorization::name::is_name;
use touchstone_authorization::trust_frame::MAX_FRAME_BYTES;
use touchstone_evidence::message::{ForeignRequest, MAX_FOREIGN_REQUEST};

use super::answer;
use crate::app::App;
use crate::body::{BodyLimits, CBOR, read_cbor};
use crate::federation::bundle::{Bundle, MAX_BUNDLE_BYTES};
use crate::federation::relay::Subscription;
use crate::federation::{Peer, Way, issue, keep};
use crate::problem::{Refusal, RefusalCode};
use crate::room::Taken;
use crate::server::ConnectionInfo;

fn peer(app: &App, domain: &str) -> Result<Arc<Peer>, Refusal> {
    app.federation.get(domain).ok_or_else(|| {
        Refusal::new(
            RefusalCode::FederationUnknown,
            "not a domain of this one's signed policy",
        )
    })
}

fn nothing_yet(what: &str) -> Refusal {
    Refusal::new(
        RefusalCode::FederationNothingYet,
        format!("no {what} of that domain has come here"),
    )
}

/// The domain's repository as it was signed: what enforcers verify themselves.
pub(super) async fn policy(State(app): State<Arc<App>>, Path(domain): Path<String>) -> Result<Response, Refusal> {
    let held = peer(&app, &domain)?.held().ok_or_else(|| nothing_yet("policy"))?;
    Ok(answer(StatusCode::OK, CBOR, held.copy.clone()))
}

/// SHA-256 of that, to see whether it has changed.
pub(super) async fn policy_digest(
    State(app): State<Arc<App>>,
    Path(domain): Path<String>,
) -> Result<Response, Refusal> {
    let held = peer(&app, &domain)?.held().ok_or_else(|| nothing_yet("policy"))?;
    Ok(answer(StatusCode::OK, CBOR, held.digest.to_vec()))
}

/// Its whole trust state as one frame; the head in it is that domain's own bytes.
pub(super) async fn whole(State(app): State<Arc<App>>, Path(domain): Path<String>) -> Result<Response, Refusal> {
    let peer = peer(&app, &domain)?;
    let view = peer.view().ok_or_else(|| nothing_yet("trust state"))?;
    Ok(answer(StatusCode::OK, CBOR, peer.relay.frame(None, &view).await.frame))
}

/// Its trust state as it changes. Who is slow gets the way from what it holds to what is newest.
pub(super) async fn stream(
    State(app): State<Arc<App>>,
    Path(domain): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Response, Refusal> {
    let subscriber = query.get("subscriber").map_or("", String::as_str);
    if !is_name(subscriber) {
        let detail = "subscriber must be there and be a name";
        return Err(Refusal::new(RefusalCode::ParameterMalformed, detail));
    }
    let peer = peer(&app, &domain)?;
    let views = peer.views();
    if views.receiver_count() >= app.limits.subscribers {
        let detail = format!("the limit is {}", app.limits.subscribers);
        return Err(Refusal::new(RefusalCode::SubscribersFull, detail));
    }
    let following = Subscription {
        relay: Arc::clone(&peer.relay),
        views: views.subscribe(),
        stop: app.stop.clone(),
    };
    let body = Body::from_stream(following.events(()));
    Ok(answer(StatusCode::OK, "text/event-stream", body))
}

/// A frame that the domain itself, or anybody, sends: it counts if it verifies and follows.
pub(super) async fn frame(
    State(app): State<Arc<App>>,
    Path(domain): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    let peer = peer(&app, &domain)?;
    let (body, _room) = read_pushed(&app, request, MAX_FRAME_BYTES).await?;
    peer.take_frame(&body, app.clock.now_ms()).map_err(not_taken)?;
    Ok(answer(StatusCode::OK, CBOR, Vec::new()))
}

/// Everything the domain shows, sent by itself.
pub(super) async fn bundle(
    State(app): State<Arc<App>>,
    Path(domain): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    peer(&app, &domain)?;
    let (body, _room) = read_pushed(&app, request, MAX_BUNDLE_BYTES).await?;
    take_bundle(&app, &body, Some(&domain), Way::Pushed).await?;
    Ok(answer(StatusCode::OK, CBOR, Vec::new()))
}

/// The body of what anybody may send. What is not small is read only while there is room for it, which is taken until the
/// second of what this gives is dropped.
async fn read_pushed(app: &App, request: Request, most: usize) -> Result<(Bytes, Taken), Refusal> {
    let ms = app.limits.body_ms;
    let room = &app.federation.room;
    let taken = room.take(false, true, request.headers(), most, ms).await?;
    let body = read_cbor(request, limits(app, taken.bytes)).await?;
    Ok((body, taken))
}

/// Takes a bundle over; gives the domain it is of.
///
/// # Errors
/// A [`Refusal`]; what is held of that domain stays.
pub async fn take_bundle(app: &Arc<App>, bytes: &[u8], of: Option<&str>, way: Way) -> Result<String, Refusal> {
    let bundle = Bundle::decode(bytes).map_err(|e| Refusal::new(RefusalCode::MessageMalformed, e))?;
    if of.is_some_and(|of| of != bundle.domain) {
        let detail = format!("the bundle is of {:?}", bundle.domain);
        return Err(Refusal::new(RefusalCode::FederationRefused, detail));
    }
    let peer = peer(app, &bundle.domain)?;
    let carried = (way == Way::Carried).then_some(bundle.frame.as_slice());
    let root = app.federation.root_of(&app.policy(), &bundle.domain);
    // The same once more costs nobody anything, and says nothing about what else came.
    if !peer.holds(&bundle.copy.digest(), root.as_deref(), app.clock.now_ms()) {
        let _turn = if way == Way::Pushed {
            let busy = || {
                Refusal::new(
                    RefusalCode::BrokerBusy,
                    "too many bundles of that domain are sent at once",
                )
            };
            Some(peer.turn().await.ok_or_else(busy)?)
        } else {
            None
        };
        let taken = keep::take(app, &peer, &bundle.copy, carried, way).await;
        peer.note(&taken);
        taken.map_err(|error| Refusal::new(RefusalCode::FederationRefused, error))?;
    }
    peer.take_frame(&bundle.frame, app.clock.now_ms()).map_err(not_taken)?;
    if way == Way::Carried {
        peer.keep_frame(bundle.frame).await.map_err(not_taken)?;
    }
    Ok(bundle.domain)
}

fn not_taken(error: impl std::fmt::Display) -> Refusal {
    Refusal::new(RefusalCode::FederationRefused, error.to_string())
}

fn limits(app: &App, bytes: usize) -> BodyLimits {
    BodyLimits {
        bytes,
        ms: app.limits.body_ms,
    }
}

/// An authorization for that domain: 200 issued, 403 denied and recorded.
pub(super) async fn authorization(
    State(app): State<Arc<App>>,
    Extension(connection): Extension<ConnectionInfo>,
    Path(domain): Path<String>,
    request: Request,
) -> Result<Response, Refusal> {
    let body = read_cbor(request, limits(&app, MAX_FOREIGN_REQUEST)).await?;
    let request =
        ForeignRequest::decode(&body).map_err(|e| Refusal::new(RefusalCode::MessageMalformed, e.to_string()))?;
    if request.audience != domain {
        let detail = format!("the request is for {:?}", request.audience);
        return Err(Refusal::new(RefusalCode::MessageMalformed, detail));
    }
    let decided = issue::serve(app, connection, request).await?;
    let status = if decided.authorization.is_some() {
        StatusCode::OK
    } else {
        StatusCode::FORBIDDEN
    };
    Ok(answer(status, CBOR, decided.encode()))
}
