//! `POST /v1/keys/release`.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use touchstone_evidence::message::{MAX_RELEASE_REQUEST, ReleaseRequest};

use super::answer;
use crate::app::App;
use crate::body::{BodyLimits, CBOR, read_cbor};
use crate::problem::{Refusal, RefusalCode};
use crate::release::serve;
use crate::server::ConnectionInfo;

/// A request for a key to its answer: 200 released, 403 denied and recorded.
pub(super) async fn release(
    State(app): State<Arc<App>>,
    Extension(connection): Extension<ConnectionInfo>,
    request: Request,
) -> Result<Response, Refusal> {
    let limits = BodyLimits {
        bytes: MAX_RELEASE_REQUEST,
        ms: app.limits.body_ms,
    };
    let body = read_cbor(request, limits).await?;
    let request =
        ReleaseRequest::decode(&body).map_err(|e| Refusal::new(RefusalCode::MessageMalformed, e.to_string()))?;
    let decided = serve::serve(app, connection, request).await?;
    let status = if decided.sealed.is_some() {
        StatusCode::OK
    } else {
        StatusCode::FORBIDDEN
    };
    Ok(answer(status, CBOR, decided.encode()))
}
