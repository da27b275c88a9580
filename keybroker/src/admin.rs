//! The operator's interface: a Unix socket in the data folder that only its owner may open.
//!
//! `GET /status`, `POST /revoke`, `POST /decommission`, `POST /reinstate`, `POST /reload`, `GET /record/{index}`,
//! `GET /record/latest/{node}`, `GET /records/{last}`, `/tenants/{tenant}/ledger`, `/federation`
//! ([`crate::federation::admin`]), and `/keys` ([`crate::release::admin`]). None of these is
//! on the network (CVE-2026-1709: admin routes behind an optional check).

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path as Parameter, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Deserialize;
use serde_json::json;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot, watch};
use touchstone_ledger::statement::Reason;
use tower::ServiceExt as _;

use crate::app::App;
use crate::clock::seconds;
use crate::command::{self, By, Command};
use crate::decision::DenialCode;
use crate::decommission;
use crate::problem::{Refusal, RefusalCode};
use crate::record::{DecisionRecord, RecordError};
use crate::redecide::recent;
use crate::withdraw::withdraw;

/// The socket, in the data folder.
pub const SOCKET: &str = "admin.sock";

/// Largest body of a command, in bytes.
pub const MAX_COMMAND_BYTES: usize = 4 * 1024;

/// A request to load policy now; the answer is the policy version in force, or why it was not loaded.
pub type Reload = oneshot::Sender<Result<u64, String>>;

/// What the commands work on.
#[derive(Clone)]
pub struct Admin {
    /// What every handler shares.
    pub app: Arc<App>,
    /// Asks for policy to be loaded now.
    pub reload: mpsc::Sender<Reload>,
}

/// Opens the socket; what a process before left there is removed, since the store's lock says that it is gone.
///
/// # Errors
/// The file system refuses.
pub fn bind(data_dir: &Path) -> std::io::Result<(UnixListener, PathBuf)> {
    let path = data_dir.join(SOCKET);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    // Until here the folder, of mode 0700, keeps others off.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok((listener, path))
}

/// Serves commands until `stop` is true.
pub async fn serve(listener: UnixListener, admin: Admin, mut stop: watch::Receiver<bool>) {
    let router = router(admin);
    loop {
        let accepted = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else { continue };
        let router = router.clone();
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                let router = router.clone();
                async move { router.oneshot(request.map(axum::body::Body::new)).await }
            });
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new());
            if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "an admin connection ended");
            }
        });
    }
}

fn router(admin: Admin) -> Router {
    Router::new()
        .route("/status", get(status))
        .route("/revoke", post(revoke))
        .route("/commands", post(carry_out))
        .route("/commands/preview", post(preview))
        .route("/commands/signed", post(carry_out_signed))
        .route("/holds", get(holds))
        .route("/decommission", post(decommission))
        .route("/reinstate", post(reinstate))
        .route("/reload", post(reload))
        .route(
            "/keys",
            get(crate::release::admin::list).post(crate::release::admin::put),
        )
        .route("/keys/rotate", post(crate::release::admin::rotate))
        .route("/tenants/{tenant}/ledger", get(crate::tenants::admin::ledger))
        .route("/federation", get(crate::federation::admin::list))
        .route("/federation/export", get(crate::federation::admin::export))
        .route("/federation/import", post(crate::federation::admin::import))
        .route("/record/{index}", get(record))
        .route("/record/latest/{*node}", get(latest))
        .route("/records/{last}", get(records))
        .fallback(|| async { Refusal::new(RefusalCode::RouteUnknown, "no such command") })
        .with_state(admin)
}

async fn status(State(Admin { app, .. }): State<Admin>) -> Response {
    let (policy, head) = (app.policy(), app.head());
    let sessions = app.sessions.lock().map_or(0, |sessions| sessions.len());
    let now = seconds(app.clock.now_ms());
    let regions: serde_json::Map<String, serde_json::Value> = policy
        .regions
        .iter()
        .map(|(region, signed)| {
            let row = json!({
                "version": signed.version,
                "digest": hex::encode(signed.digest),
                "expires": signed.expires,
                "ended": policy.check_region_live(region, now).is_err(),
            });
            (region.clone(), row)
        })
        .collect();
    json_response(&json!({
        "domain": policy.domain,
        "policy": {
            "version": policy.version,
            "digest": hex::encode(policy.digest),
            "expires": policy.expires,
            "keyset_version": policy.keyset.version,
            "nodes": policy.inventory.nodes().len(),
            "global_digest": hex::encode(policy.global_digest),
            "source": app.policy_source.to_string(),
            "ends": &policy.ends,
            "ended": policy.check_live(now).err().map(|ended| ended.to_string()),
            "regions": regions,
            "refused": app.policy_refused.lock().map_or(None, |refused| refused.clone()),
        },
        "ledger": { "origin": app.origin, "size": head.size, "root": hex::encode(head.root) },
        "trust_state": {
            "generation": app.trust.generation(),
            "epoch": app.trust.epoch(),
            "pending_withdrawals": app.trust.pending(),
            "subscribers": app.trust.subscribers(),
            "stopped": app.trust.is_stopped(),
        },
        "first_use": {
            "open": policy.settings.first_use.as_ref().is_some_and(|setting| setting.is_open(seconds(app.clock.now_ms()))),
            "until": policy.settings.first_use.as_ref().map(|setting| setting.until),
            "most": policy.settings.first_use.as_ref().map(|setting| setting.most),
            "enrolled": crate::first_use::count(&*app.store).ok(),
        },
        "enforcers": app.acks.shown(&policy, (app.trust.generation(), app.trust.epoch()), app.clock.now_ms()),
        "standing": crate::standing::shown(&app),
        "drift": app.drift.shown(app.clock.now_ms()),
        "sessions": sessions,
        "attesting_nodes": app.attested.lock().map_or(0, |attested| attested.len()),
        "time_ms": app.clock.now_ms(),
        "clock_drift_ms": app.clock.drift_ms(),
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Revoke {
    node: String,
    reason: String,
}

/// A command about one node, with its reason.
async fn about(request: Request) -> Result<Revoke, Refusal> {
    let body = axum::body::to_bytes(request.into_body(), MAX_COMMAND_BYTES)
        .await
        .map_err(|_| {
            Refusal::new(
                RefusalCode::BodyTooLarge,
                format!("the limit is {MAX_COMMAND_BYTES} bytes"),
            )
        })?;
    serde_json::from_slice(&body).map_err(|e| {
        Refusal::new(
            RefusalCode::MessageMalformed,
            format!("expected {{\"node\", \"reason\"}}: {e}"),
        )
    })
}

async fn decommission(State(Admin { app, .. }): State<Admin>, request: Request) -> Result<Response, Refusal> {
    command::needs_no_signature(&app)?;
    let Revoke { node, reason } = about(request).await?;
    let taking = tokio::spawn(async move { decommission::decommission(&app, &node, &reason, Vec::new(), None).await });
    let recorded = taking.await.map_err(crate::hello::internal)??;
    Ok(json_response(&json!({ "recorded": recorded.index })))
}

async fn reinstate(State(Admin { app, .. }): State<Admin>, request: Request) -> Result<Response, Refusal> {
    command::needs_no_signature(&app)?;
    let Revoke { node, reason } = about(request).await?;
    let giving = tokio::spawn(async move { decommission::reinstate(&app, &node, &reason, Vec::new(), None).await });
    let recorded = giving.await.map_err(crate::hello::internal)??;
    Ok(json_response(&json!({ "recorded": recorded.index })))
}

async fn revoke(State(Admin { app, .. }): State<Admin>, request: Request) -> Result<Response, Refusal> {
    command::needs_no_signature(&app)?;
    let command = about(request).await?;
    let reason = Reason {
        code: DenialCode::OperatorCommand.as_str().into(),
        claim: "rights".into(),
        expected: "as granted".into(),
        found: command.reason,
    };
    // Runs to its end also when the operator's connection goes away: what went out must be recorded.
    let revoking = tokio::spawn(async move { withdraw(&app, &command.node, reason).await });
    let recorded = revoking.await.map_err(crate::hello::internal)??;
    Ok(json_response(&json!({ "recorded": recorded.index })))
}

/// A command, whole.
async fn ordered(request: Request) -> Result<Command, Refusal> {
    let body = axum::body::to_bytes(request.into_body(), MAX_COMMAND_BYTES).await;
    let too_large = |_| {
        Refusal::new(
            RefusalCode::BodyTooLarge,
            format!("the limit is {MAX_COMMAND_BYTES} bytes"),
        )
    };
    let command: Command = serde_json::from_slice(&body.map_err(too_large)?).map_err(|e| {
        let detail = format!("expected {{\"action\", \"target\", \"id\", \"reason\", \"set\"}}: {e}");
        Refusal::new(RefusalCode::MessageMalformed, detail)
    })?;
    command.checked()?;
    Ok(command)
}

async fn preview(State(Admin { app, .. }): State<Admin>, request: Request) -> Result<Response, Refusal> {
    let command = ordered(request).await?;
    let plan = command::plan(&app, &command).await?;
    Ok(json_response(&command::shown(&command, &plan, app.trust.epoch())))
}

async fn carry_out(State(Admin { app, .. }): State<Admin>, request: Request) -> Result<Response, Refusal> {
    command::needs_no_signature(&app)?;
    let command = ordered(request).await?;
    // Runs to its end also when the operator's connection goes away: what went out must be recorded.
    let doing = tokio::spawn(async move { command::carry_out(&app, &command, &By::Local).await });
    let done = doing.await.map_err(crate::hello::internal)??;
    Ok(json_response(
        &json!({ "recorded": done.recorded, "epoch": done.epoch, "entries": done.entries, "unread": done.unread }),
    ))
}

async fn carry_out_signed(State(Admin { app, .. }): State<Admin>, request: Request) -> Result<Response, Refusal> {
    let body = axum::body::to_bytes(request.into_body(), MAX_COMMAND_BYTES).await;
    let too_large = |_| {
        Refusal::new(
            RefusalCode::BodyTooLarge,
            format!("the limit is {MAX_COMMAND_BYTES} bytes"),
        )
    };
    let text = body.map_err(too_large)?;
    let bytes = URL_SAFE_NO_PAD.decode(&text).map_err(|e| {
        let detail = format!("expected a signed command, base64url: {e}");
        Refusal::new(RefusalCode::MessageMalformed, detail)
    })?;
    let doing = tokio::spawn(async move { command::carry_out_signed(&app, &bytes).await });
    let done = doing.await.map_err(crate::hello::internal)??;
    Ok(json_response(
        &json!({ "recorded": done.recorded, "epoch": done.epoch, "entries": done.entries, "unread": done.unread }),
    ))
}

/// Every quarantine and containment.
async fn holds(State(Admin { app, .. }): State<Admin>) -> Response {
    let holds = app.holds.list().into_iter().map(|(hold, entries)| {
        json!({
            "number": hold.number,
            "over": hold.over.kind(),
            "name": hold.over.name(),
            "why": hold.why,
            "entries": entries,
            "since": hold.since,
            "lifted": hold.lifted,
        })
    });
    json_response(&json!({ "holds": holds.collect::<Vec<_>>() }))
}

async fn reload(State(Admin { reload, .. }): State<Admin>) -> Result<Response, Refusal> {
    let (asked, answer) = oneshot::channel();
    let stopping = || Refusal::new(RefusalCode::BrokerStopping, "policy is not loaded any more");
    reload.send(asked).await.map_err(|_| stopping())?;
    match answer.await.map_err(|_| stopping())? {
        Ok(version) => Ok(json_response(&json!({ "policy_version": version }))),
        Err(detail) => Err(Refusal::new(RefusalCode::PolicyRefused, detail)),
    }
}

async fn record(
    State(Admin { app, .. }): State<Admin>,
    Parameter(index): Parameter<String>,
) -> Result<Response, Refusal> {
    let index = index
        .parse()
        .map_err(|_| Refusal::new(RefusalCode::ParameterMalformed, "an entry has a number"))?;
    let key = app.keys.statement.verifying_key();
    found(tokio::task::spawn_blocking(move || DecisionRecord::read(&*app.store, index, &key)).await)
}

async fn latest(
    State(Admin { app, .. }): State<Admin>,
    Parameter(node): Parameter<String>,
) -> Result<Response, Refusal> {
    let key = app.keys.statement.verifying_key();
    found(tokio::task::spawn_blocking(move || DecisionRecord::latest(&*app.store, &node, &key)).await)
}

/// The entries of the latest decision of each kind about each subject, among the `last` entries of the ledger.
async fn records(
    State(Admin { app, .. }): State<Admin>,
    Parameter(last): Parameter<String>,
) -> Result<Response, Refusal> {
    let last: u64 = last
        .parse()
        .map_err(|_| Refusal::new(RefusalCode::ParameterMalformed, "how many entries is a number"))?;
    let (key, size) = (app.keys.statement.verifying_key(), app.head().size);
    let recent = tokio::task::spawn_blocking(move || recent(&*app.store, size, last, &key)).await;
    let indexes = recent
        .map_err(crate::hello::internal)?
        .map_err(crate::hello::internal)?;
    Ok(json_response(&json!({ "indexes": indexes })))
}

fn found(read: Result<Result<DecisionRecord, RecordError>, tokio::task::JoinError>) -> Result<Response, Refusal> {
    match read.map_err(crate::hello::internal)? {
        Ok(record) => Ok(([(header::CONTENT_TYPE, crate::body::CBOR)], record.encode()).into_response()),
        Err(error @ RecordError::NotFound(_)) => Err(Refusal::new(RefusalCode::NotFound, error.to_string())),
        Err(error) => Err(crate::hello::internal(error)),
    }
}

fn json_response(value: &serde_json::Value) -> Response {
    (
        StatusCode::OK,
        [(header::CONTENT_TYPE, "application/json")],
        value.to_string(),
    )
        .into_response()
}
