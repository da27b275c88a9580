//! `POST /v1/acks`: what an enforcer says, signed, of the trust state it enforces.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use touchstone_authorization::ack::MAX_ACK_BYTES;

use super::{answer, blocking};
use crate::app::App;
use crate::body::{BodyLimits, CBOR, read_cbor};
use crate::problem::Refusal;

/// One acknowledgement; 200 and nothing where it counts.
pub(super) async fn acknowledge(State(app): State<Arc<App>>, request: Request) -> Result<Response, Refusal> {
    let limits = BodyLimits {
        bytes: MAX_ACK_BYTES,
        ms: app.limits.body_ms,
    };
    let body = read_cbor(request, limits).await?;
    blocking(move || {
        let at = (app.trust.generation(), app.trust.epoch());
        app.acks.take(body, &app.policy(), at, app.clock.now_ms())
    })
    .await?;
    Ok(answer(StatusCode::OK, CBOR, Vec::new()))
}
