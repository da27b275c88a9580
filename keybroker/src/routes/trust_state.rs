//! `POST /v1/time`, `GET /v1/trust-state`, `GET /v1/trust-state/stream` and `GET /v1/status/{list}`.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::{broadcast, watch};
use touchstone_authorization::broker_time::BrokerTime;
use touchstone_authorization::name::is_name;
use touchstone_cose::status_list::{self, StatusList, StatusListToken};

use super::{answer, blocking};
use crate::app::App;
use crate::body::{BodyLimits, CBOR, read_cbor};
use crate::clock::seconds;
use crate::hello::internal;
use crate::problem::{Refusal, RefusalCode};
use crate::trust::Frame;

/// Bytes of the nonce in a request for the time.
const TIME_NONCE_LEN: usize = 32;

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

/// One status list as a signed token (draft-ietf-oauth-status-list, section 5.2), for those who poll. None is made while this
/// broker grants nothing, because its policy has ended or it differs from the others: a list says that it is fresh.
pub(super) async fn status_list(State(app): State<Arc<App>>, Path(list): Path<String>) -> Result<Response, Refusal> {
    let number: u16 = list
        .parse()
        .map_err(|_| Refusal::new(RefusalCode::ParameterMalformed, "a status list has a number"))?;
    if app.trust.is_stopped() {
        // Who polls must not be told that a list is fresh which nothing can be entered into any more.
        return Err(Refusal::new(RefusalCode::BrokerStopping, "the ledger has stopped"));
    }
    let token = blocking(move || {
        let policy = app.live_policy(app.clock.now_ms())?;
        if app.trust.is_held() {
            return Err(Refusal::new(RefusalCode::Diverged, "no fresh trust state goes out"));
        }
        let lists = app.trust.lists();
        let found = lists
            .get(number)
            .ok_or_else(|| Refusal::new(RefusalCode::NotFound, "no such status list"))?;
        let (timers, now) = (&policy.settings.timers, seconds(app.clock.now_ms()));
        let life = i64::try_from(timers.status_list_exp_ms / 1_000).unwrap_or(0);
        let token = StatusListToken {
            subject: format!(
                "urn:touchstone:status:{}:{}:{number}",
                policy.domain, policy.settings.generation
            ),
            issued_at: now,
            expires: now.saturating_add(life.max(1)),
            ttl: (timers.status_list_ttl_ms / 1_000).max(1),
            list: StatusList::from_bytes(found.to_bytes()).map_err(internal)?,
        };
        token.sign(&*app.keys.trust_state).map_err(internal)
    })
    .await?;
    Ok(answer(StatusCode::OK, status_list::TYP, token))
}
