//! `POST /v1/drift`: what this broker governs by, and the record of a decision, to the other brokers of the domain alone.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;

use super::{answer, blocking};
use crate::app::App;
use crate::body::{BodyLimits, CBOR, read_cbor};
use crate::clock::seconds;
use crate::decision::SEMANTICS_ID;
use crate::drift::compare::View;
use crate::drift::report::{self, EXPORTER, MAX_REQUEST_BYTES, Report, Wanted};
use crate::drift::sample::MAX_RECORD_BYTES;
use crate::hello::internal;
use crate::log::LogHead;
use crate::problem::{Refusal, RefusalCode};
use crate::record::{DecisionRecord, RecordError};
use crate::server::ConnectionInfo;

/// A report, or a record, signed for over this connection by a peer.
pub(super) async fn drift(
    State(app): State<Arc<App>>,
    Extension(connection): Extension<ConnectionInfo>,
    request: Request,
) -> Result<Response, Refusal> {
    let limits = BodyLimits {
        bytes: MAX_REQUEST_BYTES,
        ms: app.limits.body_ms,
    };
    let body = read_cbor(request, limits).await?;
    let stranger = |detail: String| Refusal::new(RefusalCode::PeerUnknown, detail);
    let policy = app.policy();
    let peers: Vec<&str> = app.drift.peers().iter().map(|peer| peer.replica.as_str()).collect();
    let now = seconds(app.clock.now_ms());
    let (_, request) =
        report::Request::verify(&body, &policy.keyset, &peers, now).map_err(|e| stranger(e.to_string()))?;
    let exporter = connection.exporter.export(EXPORTER, &request.nonce);
    if request.domain != policy.domain || exporter.ok() != Some(request.exporter) {
        return Err(stranger("it was made for another domain or another connection".into()));
    }
    let body = match request.wanted {
        Wanted::Report => {
            let LogHead { size, root } = app.head();
            let report = Report {
                domain: policy.domain.clone(),
                nonce: request.nonce,
                view: View::of(&policy, SEMANTICS_ID),
                epoch: app.trust.epoch(),
                ledger: (size, root),
                denies: app.drift.standing().denies,
                differing: app.drift.differing(),
            };
            report.sign(&*app.keys.trust_state).map_err(internal)?
        }
        Wanted::Record(index) => blocking(move || record(&app, index)).await?,
    };
    Ok(answer(StatusCode::OK, CBOR, body))
}

fn record(app: &App, index: u64) -> Result<Vec<u8>, Refusal> {
    let none = |detail: String| Refusal::new(RefusalCode::NotFound, detail);
    if index >= app.head().size {
        return Err(none(format!("the ledger has {} entries", app.head().size)));
    }
    let key = app.keys.statement.verifying_key();
    let record = match DecisionRecord::read(&*app.store, index, &key) {
        Ok(record) => record.encode(),
        Err(error @ RecordError::NotFound(_)) => return Err(none(error.to_string())),
        Err(error) => return Err(internal(error)),
    };
    if record.len() > MAX_RECORD_BYTES {
        return Err(none(format!(
            "the record has {} bytes, at most {MAX_RECORD_BYTES} are sent",
            record.len()
        )));
    }
    Ok(record)
}
