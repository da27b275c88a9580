//! `POST /v1/time`, `GET /v1/trust-state` and `GET /v1/trust-state/stream`.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::{broadcast, watch};
use touchstone_authorization::broker_time::BrokerTime;
use touchstone_authorization::name::is_name;

use super::answer;
use crate::acks::OnStream;
use crate::app::App;
use crate::body::{BodyLimits, CBOR, read_cbor};
use crate::hello::internal;
use crate::problem::{Refusal, RefusalCode};
use crate::trust::Frame;

/// Bytes of the nonce in a request for the time.
pub(crate) const TIME_NONCE_LEN: usize = 32;

/// The broker's time over the asker's nonce, signed.
pub(super) async fn time(State(app): State<Arc<App>>, request: Request) -> Result<Response, Refusal> {
    let body = read_cbor(
        request,
        BodyLimits {
            bytes: TIME_NONCE_LEN,
            ms: app.limits.body_ms,
        },
    )
    .await?;
    let nonce: [u8; TIME_NONCE_LEN] = body
        .as_ref()
        .try_into()
        .map_err(|_| Refusal::new(RefusalCode::MessageMalformed, "the body must be a nonce of 32 bytes"))?;
    let time = BrokerTime {
        nonce,
        time_ms: app.clock.now_ms(),
    };
    let signed = time.encode_signed(&*app.keys.trust_state).map_err(internal)?;
    Ok(answer(StatusCode::OK, CBOR, signed))
}

/// The whole trust state as one frame.
pub(super) async fn whole(State(app): State<Arc<App>>) -> Response {
    answer(StatusCode::OK, CBOR, app.trust.full())
}

/// The trust state as it changes: the whole of it first, then every frame. Who falls behind is cut off and must fetch
/// the whole again: nobody ever misses a frame without knowing.
pub(super) async fn stream(
    State(app): State<Arc<App>>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Response, Refusal> {
    let subscriber = query.get("subscriber").map_or("", String::as_str);
    if !is_name(subscriber) {
        return Err(Refusal::new(
            RefusalCode::ParameterMalformed,
            "subscriber must be there and be a name",
        ));
    }
    let limit = app.limits.subscribers;
    let (full, frames) = app
        .trust
        .subscribe_within(limit)
        .ok_or_else(|| Refusal::new(RefusalCode::SubscribersFull, format!("the limit is {limit}")))?;
    tracing::debug!(subscriber, "follows the trust state");
    let following = Following {
        first: Some(full),
        frames,
        stop: app.stop.clone(),
        _shown: app.acks.on_stream(subscriber),
    };
    let events = stream::unfold(following, |mut following| async move {
        let event = following.next().await?;
        Some((Ok::<Bytes, std::convert::Infallible>(event), following))
    });
    Ok(answer(StatusCode::OK, "text/event-stream", Body::from_stream(events)))
}

struct Following {
    first: Option<Frame>,
    frames: broadcast::Receiver<Frame>,
    stop: watch::Receiver<bool>,
    _shown: OnStream,
}

impl Following {
    /// The next event; `None` ends the stream: the broker stops, or frames were missed.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.take() {
            return Some(first.event);
        }
        tokio::select! {
            _ = self.stop.wait_for(|stop| *stop) => None,
            frame = self.frames.recv() => frame.ok().map(|frame| frame.event),
        }
    }
}
