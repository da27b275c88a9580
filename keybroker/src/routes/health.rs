//! `GET /v1/health`: 200 while the broker can grant, 503 with the reason while it cannot.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use super::answer;
use crate::app::App;

/// What a load balancer and an operator look at first. Says nothing about any node.
pub(super) async fn health(State(app): State<Arc<App>>) -> Response {
    let now_ms = app.clock.now_ms();
    let diverged = app.drift.check().is_err();
    let expired = !diverged && app.live_policy(now_ms).is_err();
    let stopped = app.trust.is_stopped();
    let policy = app.policy();
    let status = match (stopped, diverged, expired) {
        (true, ..) => "ledger-stopped",
        (false, true, _) => "diverged",
        (false, false, true) => "policy-expired",
        (false, false, false) => "ok",
    };
    let body = json!({
        "status": status,
        "domain": policy.domain,
        "policy_version": policy.version,
        "policy_expires": policy.expires,
        "epoch": app.trust.epoch(),
        "ledger_entries": app.head().size,
        "time_ms": now_ms,
        "clock_drift_ms": app.clock.drift_ms(),
    });
    let code = if status == "ok" {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    answer(code, "application/json", body.to_string())
}
