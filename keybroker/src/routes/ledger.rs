//! `GET /v1/ledger/checkpoint`, `/v1/ledger/entries`, `/v1/ledger/proof` and `/v1/ledger/consistency`: what an auditor
//! needs, to anybody: all of it, whichever tenant a statement is about.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use touchstone_cose::cbor::{self, Value};
use touchstone_ledger::checkpoint::sign_checkpoint;
use touchstone_ledger::note::NoteKey;
use touchstone_ledger::tree::{consistency_proof, inclusion_proof};

use super::{answer, blocking, number};
use crate::app::App;
use crate::body::CBOR;
use crate::hello::internal;
use crate::log::{self, LogHead, Stored};
use crate::problem::{Refusal, RefusalCode};

/// Most entries in one answer.
pub(super) const MAX_ENTRIES: u64 = 256;

/// The signed head of the log, a C2SP checkpoint.
pub(super) async fn checkpoint(State(app): State<Arc<App>>) -> Result<Response, Refusal> {
    let LogHead { size, root } = app.head();
    let key = &app.keys.checkpoint;
    let note = NoteKey::new(&app.origin, &key.verifying_key()).map_err(internal)?;
    let note = sign_checkpoint(&note, size, &root, &**key).map_err(internal)?;
    Ok(answer(StatusCode::OK, "text/plain; charset=utf-8", note))
}

/// Signed statements from `start` on, at most `count` and at most [`MAX_ENTRIES`]: a CBOR array of byte strings.
pub(super) async fn entries(
    State(app): State<Arc<App>>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Response, Refusal> {
    let (start, count) = (number(&query, "start")?, number(&query, "count")?.min(MAX_ENTRIES));
    // Nothing that is stored and not yet under a root that was signed.
    let end = start.saturating_add(count).min(app.head().size);
    let store = Arc::clone(&app.store);
    let entries = blocking(move || {
        let wanted = usize::try_from(end.saturating_sub(start)).unwrap_or(0);
        let mut found = if wanted == 0 {
            Vec::new()
        } else {
            log::entries(&*store, start, wanted).map_err(internal)?
        };
        found.truncate(wanted);
        Ok(found)
    })
    .await?;
    let body = cbor::encode(&Value::array(entries.into_iter().map(Value::bytes)));
    Ok(answer(StatusCode::OK, CBOR, body))
}

/// The way from entry `index` to the root of the first `size` entries: a CBOR array of digests.
pub(super) async fn proof(
    State(app): State<Arc<App>>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Response, Refusal> {
    let (index, size) = (number(&query, "index")?, number(&query, "size")?);
    let head = app.head();
    if size > head.size || index >= size {
        let detail = format!("the ledger has {} entries", head.size);
        return Err(Refusal::new(RefusalCode::NotFound, detail));
    }
    let store = Arc::clone(&app.store);
    let path = blocking(move || inclusion_proof(index, size, &Stored(&*store)).map_err(internal)).await?;
    let body = cbor::encode(&Value::array(path.into_iter().map(Value::from)));
    Ok(answer(StatusCode::OK, CBOR, body))
}

/// That the first `old` entries are the beginning of the first `new` ones: a CBOR array of digests (RFC 9162, 2.1.4).
pub(super) async fn consistency(
    State(app): State<Arc<App>>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Response, Refusal> {
    let (old, new) = (number(&query, "old")?, number(&query, "new")?);
    let size = app.head().size;
    if new > size || old == 0 || old > new {
        let detail = format!("the ledger has {size} entries; 1 to {size} can be asked for, old not above new");
        return Err(Refusal::new(RefusalCode::NotFound, detail));
    }
    let store = Arc::clone(&app.store);
    let path = blocking(move || consistency_proof(old, new, &Stored(&*store)).map_err(internal)).await?;
    let body = cbor::encode(&Value::array(path.into_iter().map(Value::from)));
    Ok(answer(StatusCode::OK, CBOR, body))
}
