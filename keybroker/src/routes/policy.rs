//! `GET /v1/policy/metadata/…` and `GET /v1/policy/targets/…`: the policy repository as this broker accepted it last.
//!
//! What agents, enforcers and other brokers fetch here they believe for its signatures alone.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use futures_util::stream;
use tokio::io::AsyncReadExt as _;
use touchstone_policies::Mirror;

use super::answer;
use crate::app::App;
use crate::hello::internal;
use crate::problem::{Refusal, RefusalCode};

/// Bytes read from the disk at a time: a file is never whole in memory, however many ask for it.
const CHUNK_BYTES: usize = 64 * 1024;

/// One file of the repository.
pub(super) async fn file(State(app): State<Arc<App>>, Path(path): Path<String>) -> Result<Response, Refusal> {
    serve(&app.mirror, &path).await
}

/// The repository in `mirror` and nothing else, for a listener of its own.
pub(crate) fn mirrored(mirror: Arc<Mirror>) -> Router {
    let file = async |State(mirror): State<Arc<Mirror>>, Path(path): Path<String>| serve(&mirror, &path).await;
    Router::new()
        .route("/v1/policy/{*path}", get(file))
        .fallback(|| async { Refusal::new(RefusalCode::RouteUnknown, "no such route") })
        .method_not_allowed_fallback(|| async { Refusal::new(RefusalCode::MethodUnknown, "not with this method") })
        .with_state(mirror)
}

async fn serve(mirror: &Mirror, path: &str) -> Result<Response, Refusal> {
    let missing = || Refusal::new(RefusalCode::NotFound, "no such file of the policy repository");
    let (place, limit) = mirror.locate(path).ok_or_else(missing)?;
    let file = tokio::fs::File::open(&place).await.map_err(|_| missing())?;
    let about = file.metadata().await.map_err(internal)?;
    if !about.is_file() || about.len() > limit {
        return Err(missing());
    }
    let content_type = if path.ends_with(".json") {
        "application/json"
    } else {
        "application/octet-stream"
    };
    // The length that was told is the length that is sent, also of a file that somebody makes longer meanwhile.
    let body = stream::try_unfold(file.take(about.len()), |mut file| async move {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        let read = (&mut file).take(CHUNK_BYTES as u64).read_to_end(&mut chunk).await?;
        Ok::<_, std::io::Error>((read > 0).then(|| (Bytes::from(chunk), file)))
    });
    let mut response = answer(StatusCode::OK, content_type, Body::from_stream(body));
    let length = HeaderValue::from(about.len());
    response.headers_mut().insert(header::CONTENT_LENGTH, length);
    Ok(response)
}
