//! What a relay serves: `GET /v1/trust-state`, `GET /v1/trust-state/stream`, `POST /v1/time`, `POST /v1/acks` and
//! `GET /v1/health`; each as at a broker.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::watch;
use touchstone_authorization::TrustView;
use touchstone_authorization::ack::MAX_ACK_BYTES;
use touchstone_authorization::name::is_name;
use touchstone_client::follow::ACKS;

use super::Site;
use crate::body::{BodyLimits, CBOR, read_cbor};
use crate::problem::{Refusal, RefusalCode};
use crate::routes::{TIME, TIME_NONCE_LEN, answer};

pub(super) fn router(site: Arc<Site>) -> Router {
    Router::new()
        .route("/v1/trust-state", get(whole))
        .route("/v1/trust-state/stream", get(follow))
        .route(TIME, post(time))
        .route(ACKS, post(acknowledge))
        .route("/v1/health", get(health))
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
    Query(query): Query<HashMap<String, String>>,
) -> Result<Response, Refusal> {
    let subscriber = query.get("subscriber").map_or("", String::as_str);
    if !is_name(subscriber) {
        let detail = "subscriber must be there and be a name";
        return Err(Refusal::new(RefusalCode::ParameterMalformed, detail));
    }
    let views = site.follower.views();
    let limit = site.limits.subscribers;
    let room = Arc::clone(&site.room).try_acquire_owned();
    let room = room.map_err(|_| Refusal::new(RefusalCode::SubscribersFull, format!("the limit is {limit}")))?;
    let following = Following {
        stop: site.stop.clone(),
        site,
        views,
        sent: None,
        _room: room,
    };
    let events = stream::unfold(following, |mut following| async move {
        let event = following.next().await?;
        Some((Ok::<Bytes, std::convert::Infallible>(event), following))
    });
    Ok(answer(StatusCode::OK, "text/event-stream", Body::from_stream(events)))
}

struct Following {
    site: Arc<Site>,
    views: watch::Receiver<Option<Arc<TrustView>>>,
    sent: Option<Arc<TrustView>>,
    stop: watch::Receiver<bool>,
    _room: tokio::sync::OwnedSemaphorePermit,
}

impl Following {
    /// The next event. Who is slow gets the way from what it holds to what is newest.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let view = self.views.borrow_and_update().clone();
            let held = self.sent.as_ref();
            let news = view.filter(|view| held.is_none_or(|sent| sent.head_bytes() != view.head_bytes()));
            if let Some(view) = news {
                let relayed = self.site.relay.frame(self.sent.as_ref(), &view).await;
                self.sent = Some(view);
                return Some(relayed.event);
            }
            tokio::select! {
                _ = self.stop.wait_for(|stop| *stop) => return None,
                changed = self.views.changed() => changed.ok()?,
            }
        }
    }
}

async fn time(State(site): State<Arc<Site>>, request: Request) -> Result<Response, Refusal> {
    let nonce = read_cbor(request, limits(&site, TIME_NONCE_LEN)).await?;
    let signed = site.upstream.post(TIME, nonce.to_vec()).await?;
    Ok(answer(StatusCode::OK, CBOR, signed))
}

async fn acknowledge(State(site): State<Arc<Site>>, request: Request) -> Result<Response, Refusal> {
    let ack = read_cbor(request, limits(&site, MAX_ACK_BYTES)).await?;
    let answered = site.upstream.post(ACKS, ack.to_vec()).await?;
    Ok(answer(StatusCode::OK, CBOR, answered))
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
