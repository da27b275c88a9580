//! The operator's side: a tenant's view of the ledger, to be handed to that tenant.

use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse as _, Response};

use super::view::{encode, view};
use crate::admin::Admin;
use crate::body::CBOR;
use crate::hello::internal;
use crate::problem::{Refusal, RefusalCode};

/// `GET /tenants/{tenant}/ledger?start=N`: what the tenant sees from entry N on.
pub async fn ledger(
    State(Admin { app, .. }): State<Admin>,
    Path(tenant): Path<String>,
    Query(query): Query<std::collections::HashMap<String, String>>,
) -> Result<Response, Refusal> {
    let policy = app.policy();
    if policy.tenants.get(&tenant).is_none() {
        return Err(Refusal::new(
            RefusalCode::NotFound,
            "signed policy lists no such tenant",
        ));
    }
    let start = query.get("start").map_or(Ok(0), |text| text.parse());
    let start = start.map_err(|_| Refusal::new(RefusalCode::ParameterMalformed, "start is a number"))?;
    let read = tokio::task::spawn_blocking(move || {
        let key = app.keys.statement.verifying_key();
        view(&*app.store, &policy, (&tenant, &key), start, app.head().size)
    });
    let seen = read.await.map_err(internal)?.map_err(internal)?;
    Ok(([(header::CONTENT_TYPE, CBOR)], encode(&seen)).into_response())
}
