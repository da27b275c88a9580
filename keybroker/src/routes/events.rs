//! `POST /v1/events`: Security Event Tokens, pushed (RFC 8935). The answers are those of that document: 202 with no body, or
//! a JSON object with `err` and `description`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::json;

use super::answer;
use crate::app::App;
use crate::body::{BodyLimits, read_any};
use crate::events::{EventError, MAX_SET_BYTES, SetCode, SetError, accept};
use crate::hello::internal;
use crate::problem::{Refusal, RefusalCode};

/// The type of a pushed token (RFC 8417, section 7.2).
const SET: &str = "application/secevent+jwt";

/// Takes a token.
pub(super) async fn events(State(app): State<Arc<App>>, request: Request) -> Response {
    match pushed(app, request).await {
        Ok(()) => answer(StatusCode::ACCEPTED, "text/plain", ""),
        Err(error) => error_response(error),
    }
}

async fn pushed(app: Arc<App>, request: Request) -> Result<(), EventError> {
    if !is_set(request.headers()) {
        let detail = format!("expected one Content-Type, {SET}");
        return Err(SetError::new(SetCode::InvalidRequest, detail).into());
    }
    let limits = BodyLimits {
        bytes: MAX_SET_BYTES,
        ms: app.limits.body_ms,
    };
    let body = read_any(request, limits).await?;
    // Runs to its end also when the transmitter has gone: what went out must be recorded.
    let accepting = tokio::spawn(async move { accept(&app, &body).await });
    accepting.await.map_err(internal)?.map(|_| ())
}

fn is_set(headers: &HeaderMap) -> bool {
    let mut all = headers.get_all(header::CONTENT_TYPE).iter();
    match (all.next().map(HeaderValue::to_str), all.next()) {
        (Some(Ok(found)), None) => found.eq_ignore_ascii_case(SET),
        _ => false,
    }
}

/// RFC 8935, section 2.3. What is wrong with a token is counted as a refusal of its source.
fn error_response(error: EventError) -> Response {
    let (status, err, detail, wait) = match error {
        EventError::Broker(refusal) if refusal.status().is_server_error() => return refusal.into_response(),
        EventError::Broker(refusal) => (refusal.status(), SetCode::InvalidRequest, refusal.detail, None),
        EventError::Set(SetError { code, detail }) => (StatusCode::BAD_REQUEST, code, detail, None),
        EventError::TooOften(wait) => {
            let detail = "this issuer has reported as often as signed policy allows within a minute";
            let status = StatusCode::TOO_MANY_REQUESTS;
            (status, SetCode::AccessDenied, detail.to_owned(), Some(wait))
        }
    };
    let body = json!({ "err": err.as_str(), "description": detail }).to_string();
    let mut response = answer(status, "application/json", body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LANGUAGE, HeaderValue::from_static("en"));
    if let Some(wait) = wait {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(wait));
    }
    let refusal = Refusal::new(RefusalCode::EventRefused, detail);
    response.extensions_mut().insert(refusal);
    response
}
