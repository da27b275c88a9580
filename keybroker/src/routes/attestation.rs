//! `POST /v1/hello` and `POST /v1/evidence`.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use touchstone_evidence::message::{Hello, Identity, Submission};

use super::{answer, blocking};
use crate::app::App;
use crate::attest;
use crate::body::{BodyLimits, CBOR, read_cbor};
use crate::hello::challenge;
use crate::problem::{Refusal, RefusalCode};
use crate::server::ConnectionInfo;

/// Hello to challenge, 200.
pub(super) async fn hello(
    State(app): State<Arc<App>>,
    Extension(connection): Extension<ConnectionInfo>,
    request: Request,
) -> Result<Response, Refusal> {
    let body = read_cbor(
        request,
        BodyLimits {
            bytes: app.limits.hello_bytes,
            ms: app.limits.body_ms,
        },
    )
    .await?;
    let hello = Hello::decode(&body).map_err(|e| Refusal::new(RefusalCode::MessageMalformed, e.to_string()))?;
    let now_ms = app.clock.now_ms();
    let policy = app.live_policy(now_ms)?;
    if app.trust.is_stopped() {
        return Err(Refusal::new(RefusalCode::BrokerStopping, "the ledger has stopped"));
    }
    let (id, pending, challenge) = match &hello.identity {
        // Two rows by their keys: to hand that over to another thread costs more than it takes.
        Identity::Known { .. } => challenge(&*app.store, &policy, &hello, now_ms)?,
        // These make a credential, or look through the inventory.
        Identity::Full { .. } | Identity::Cvm { .. } => {
            let store = Arc::clone(&app.store);
            blocking(move || challenge(&*store, &policy, &hello, now_ms)).await?
        }
    };
    let mut sessions = app.sessions.lock().unwrap_or_else(PoisonError::into_inner);
    sessions.open(id, connection.id, pending, now_ms);
    drop(sessions);
    Ok(answer(StatusCode::OK, CBOR, challenge.encode()))
}

/// Evidence to answer: 200 allowed, 403 denied and recorded.
pub(super) async fn evidence(
    State(app): State<Arc<App>>,
    Extension(connection): Extension<ConnectionInfo>,
    request: Request,
) -> Result<Response, Refusal> {
    let has_challenge = {
        let mut sessions = app.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.has(connection.id, app.clock.now_ms())
    };
    let proven = connection.proven.load(Ordering::Relaxed);
    let (most, ms) = (app.limits.evidence_bytes, app.limits.body_ms);
    let taken = app
        .room
        .take(proven, has_challenge, request.headers(), most, ms)
        .await?;
    let body = read_cbor(request, BodyLimits { bytes: taken.bytes, ms }).await?;
    let received_at_ms = app.clock.now_ms();
    let submission =
        Submission::decode(&body).map_err(|e| Refusal::new(RefusalCode::MessageMalformed, e.to_string()))?;
    drop(body);
    let decided = attest::evidence(app, connection, submission, taken, received_at_ms).await?;
    let status = if decided.allowed {
        StatusCode::OK
    } else {
        StatusCode::FORBIDDEN
    };
    Ok(answer(status, CBOR, decided.encode()))
}
