//! `POST /v1/authorizations`: an authorization below the one that is held. `POST /v1/uses`: what enforcers let in.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use touchstone_cose::cbor::{self, Value};
use touchstone_evidence::message::{MAX_WORKLOAD_REQUEST, WorkloadRequest};

use super::answer;
use crate::app::App;
use crate::body::{BodyLimits, CBOR, read_cbor};
use crate::problem::{Refusal, RefusalCode};
use crate::server::ConnectionInfo;
use crate::workload::{serve, uses};

/// A request to its answer: 200 issued, 403 denied and recorded.
pub(super) async fn issue(
    State(app): State<Arc<App>>,
    Extension(connection): Extension<ConnectionInfo>,
    request: Request,
) -> Result<Response, Refusal> {
    let limits = BodyLimits {
        bytes: MAX_WORKLOAD_REQUEST,
        ms: app.limits.body_ms,
    };
    let body = read_cbor(request, limits).await?;
    let request =
        WorkloadRequest::decode(&body).map_err(|e| Refusal::new(RefusalCode::MessageMalformed, e.to_string()))?;
    let decided = serve::serve(app, connection, request).await?;
    let status = if decided.authorization.is_some() {
        StatusCode::OK
    } else {
        StatusCode::FORBIDDEN
    };
    Ok(answer(status, CBOR, decided.encode()))
}

/// A report of uses, an array of signed ones, to why each was not taken: null or a code, in the same order.
pub(super) async fn used(State(app): State<Arc<App>>, request: Request) -> Result<Response, Refusal> {
    let limits = BodyLimits {
        bytes: uses::MAX_REPORT_BYTES,
        ms: app.limits.body_ms,
    };
    let body = read_cbor(request, limits).await?;
    let codes = uses::take(app, body.to_vec()).await?;
    let codes = codes
        .into_iter()
        .map(|code| code.map_or(Value::Null, |code| Value::text(code.as_str())));
    Ok(answer(StatusCode::OK, CBOR, cbor::encode(&Value::array(codes))))
}
