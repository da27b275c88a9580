//! `POST /v1/witness/add-checkpoint` (C2SP tlog-witness), and `GET` and `POST /v1/ledger/cosignatures`: what this broker
//! has seen of other logs, and what others have seen of its own.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use touchstone_cose::cbor::{self, Value};
use touchstone_ledger::note::MAX_NOTE_LEN;
use touchstone_ledger::witness::{MAX_REQUEST_LEN, WitnessError};

use super::{answer, blocking};
use crate::app::App;
use crate::body::{BodyLimits, CBOR, read_any};
use crate::problem::{Refusal, RefusalCode};
use crate::witness::{self, Observed};

/// The type of a signed note, and of the lines of one.
const TEXT: &str = "text/plain; charset=utf-8";

/// The type of the size that a proof has to begin at (C2SP tlog-witness).
const SIZE: &str = "text/x.tlog.size";

/// A head of a log that is watched here, with a proof that it continues the one before: its cosignature.
pub(super) async fn add_checkpoint(State(app): State<Arc<App>>, request: Request) -> Result<Response, Refusal> {
    let limits = BodyLimits {
        bytes: MAX_REQUEST_LEN,
        ms: app.limits.body_ms,
    };
    let body = read_any(request, limits).await?;
    let observed = blocking(move || witness::observe(&app, &body)).await?;
    match observed {
        Observed::Cosigned(line) => Ok(answer(StatusCode::OK, TEXT, line)),
        Observed::Refused(error) => {
            let status = StatusCode::from_u16(error.http_status()).unwrap_or(StatusCode::BAD_REQUEST);
            if let WitnessError::OldSize { seen, .. } = error {
                return Ok(answer(status, SIZE, format!("{seen}\n")));
            }
            let detail = format!("{}: {error}", error.code());
            let mut response = Refusal::new(RefusalCode::NotWitnessed, detail).into_response();
            *response.status_mut() = status;
            Ok(response)
        }
    }
}

/// The newest head that each witness has cosigned: a CBOR array of notes, each with the log's signature and that one
/// cosignature.
pub(super) async fn cosignatures(State(app): State<Arc<App>>) -> Result<Response, Refusal> {
    let notes = blocking(move || witness::held(&app)).await?;
    let body = cbor::encode(&Value::array(notes.into_iter().map(Value::Text)));
    let mut response = answer(StatusCode::OK, CBOR, body);
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// A checkpoint of this ledger with a cosignature of a witness that is known here.
pub(super) async fn cosigned(State(app): State<Arc<App>>, request: Request) -> Result<Response, Refusal> {
    let limits = BodyLimits {
        bytes: MAX_NOTE_LEN,
        ms: app.limits.body_ms,
    };
    let body = read_any(request, limits).await?;
    let taken = blocking(move || witness::take(&app, &body)).await?;
    Ok(answer(StatusCode::OK, TEXT, format!("{taken}\n")))
}
