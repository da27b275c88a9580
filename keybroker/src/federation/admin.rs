//! The operator's side: what is held of other domains, and bundles carried by hand.

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};

use super::bundle::MAX_BUNDLE_BYTES;
use super::peer::{Peer, Way};
use super::push::own_bundle;
use crate::admin::Admin;
use crate::app::App;
use crate::body::CBOR;
use crate::problem::{Refusal, RefusalCode};
use crate::routes::federation::take_bundle;

/// Every domain that signed policy trusts with anything, and how it stands.
pub async fn list(State(Admin { app, .. }): State<Admin>) -> Response {
    let peers = app.federation.all();
    let rows: Vec<Value> = peers.values().map(|peer| row(&app, peer)).collect();
    let issue: Vec<Value> = app
        .policy()
        .federation
        .domains()
        .filter(|entry| !entry.issue.is_empty())
        .map(|entry| {
            let scopes: Vec<String> = entry.issue.iter().map(ToString::to_string).collect();
            json!({ "audience": entry.name, "scopes": scopes })
        })
        .collect();
    let body = json!({ "domains": rows, "issue": issue }).to_string();
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn row(app: &App, peer: &Peer) -> Value {
    let (held, view, now_ms) = (peer.held(), peer.view(), app.clock.now_ms());
    let entry = peer.entry();
    let state = view.as_ref().map(|view| {
        let head = view.head();
        let window_ms = held.as_ref().map_or(0, |held| held.policy.window_ms);
        json!({
            "generation": head.generation,
            "epoch": head.epoch,
            "policy_version": head.policy_version,
            "keyset_version": head.keyset_version,
            "ledger_size": head.ledger_size,
            "issued_at_ms": head.issued_at_ms,
            "state-age": now_ms.saturating_sub(head.issued_at_ms),
            "fresh": view.fresh(now_ms, window_ms),
        })
    });
    json!({
        "domain": entry.name,
        "scopes": entry.accept.as_ref().map(|accept| {
            accept.narrowing.scopes().map(ToString::to_string).collect::<Vec<_>>()
        }),
        "policy": held.as_ref().map(|held| json!({
            "root": hex::encode(held.policy.root_digest),
            "version": held.policy.versions.snapshot,
            "keyset_version": held.policy.keyset.version,
            "expires": held.policy.expires,
        })),
        "trust_state": state,
        "refused": peer.refused(),
    })
}

/// What we show other domains now, to be carried there.
pub async fn export(State(Admin { app, .. }): State<Admin>) -> Result<Response, Refusal> {
    let bundle = own_bundle(&app).await;
    let bundle = bundle.map_err(|e| Refusal::new(RefusalCode::FederationNothingYet, e))?;
    Ok((StatusCode::OK, [(header::CONTENT_TYPE, CBOR)], bundle.encode()).into_response())
}

/// Takes what was carried here from another domain.
pub async fn import(State(Admin { app, .. }): State<Admin>, request: Request) -> Result<Response, Refusal> {
    let body = axum::body::to_bytes(request.into_body(), MAX_BUNDLE_BYTES).await;
    let body = body.map_err(|_| {
        let detail = format!("the limit is {MAX_BUNDLE_BYTES} bytes");
        Refusal::new(RefusalCode::BodyTooLarge, detail)
    })?;
    let domain = take_bundle(&app, &body, None, Way::Carried).await?;
    let peer = app.federation.get(&domain);
    let body = json!({ "imported": peer.map(|peer| row(&app, &peer)) }).to_string();
    Ok((StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], body).into_response())
}
