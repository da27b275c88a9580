//! What a relay serves of other domains, as a broker does: `GET /v1/federation/{domain}/policy`, `…/policy/digest`,
//! `…/trust-state` and `…/trust-state/stream`. Repositories and heads are those domains' own bytes.
//!
//! The streams of other domains have places of their own, so that they take none from the streams of the relay's own
//! domain; what may be megabytes is sent to a few at once, each for a bounded time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::{Site, routes, share};
use crate::body::CBOR;
use crate::federation::Peer;
use crate::federation::relay::Subscription;
use crate::problem::{Refusal, RefusalCode};
use crate::routes::answer;
use crate::server::ConnectionInfo;
use crate::shares::{Host, Place};

/// The part of all connections that streams of other domains may have.
pub const FOREIGN_PART: usize = 4;

/// Most answers under way at once that are a whole repository or a whole trust state.
pub const DOWNLOADS: usize = 64;

/// How long one may be under way: enforcers, and relays behind this one, have given it up by then.
pub const DOWNLOAD_TIME: Duration = Duration::from_secs(20);

/// Bytes handed to a connection at a time; whoever does not read holds no more than a few of these.
const CHUNK: usize = 64 * 1024;

fn peer(site: &Site, domain: &str) -> Result<Arc<Peer>, Refusal> {
    site.foreign.get(domain).ok_or_else(|| {
        let detail = "not a domain of the signed policy that this relay has";
        Refusal::new(RefusalCode::FederationUnknown, detail)
    })
}

fn nothing_yet(what: &str) -> Refusal {
    let detail = format!("no {what} of that domain has come to this relay");
    Refusal::new(RefusalCode::FederationNothingYet, detail)
}

pub(super) async fn policy(
    State(site): State<Arc<Site>>,
    Extension(connection): Extension<ConnectionInfo>,
    Path(domain): Path<String>,
) -> Result<Response, Refusal> {
    let held = peer(&site, &domain)?.held().ok_or_else(|| nothing_yet("policy"))?;
    let place = download(&site, &connection)?;
    Ok(answer(StatusCode::OK, CBOR, body(held.copy.clone(), place)))
}

pub(super) async fn policy_digest(
    State(site): State<Arc<Site>>,
    Path(domain): Path<String>,
) -> Result<Response, Refusal> {
    let held = peer(&site, &domain)?.held().ok_or_else(|| nothing_yet("policy"))?;
    Ok(answer(StatusCode::OK, CBOR, held.digest.to_vec()))
}

pub(super) async fn whole(
    State(site): State<Arc<Site>>,
    Extension(connection): Extension<ConnectionInfo>,
    Path(domain): Path<String>,
) -> Result<Response, Refusal> {
    let peer = peer(&site, &domain)?;
    let view = peer.view().ok_or_else(|| nothing_yet("trust state"))?;
    let place = download(&site, &connection)?;
    let frame = peer.relay.frame(None, &view).await.frame;
    Ok(answer(StatusCode::OK, CBOR, body(frame, place)))
}

pub(super) async fn stream(
    State(site): State<Arc<Site>>,
    Extension(connection): Extension<ConnectionInfo>,
    Path(domain): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Response, Refusal> {
    let peer = peer(&site, &domain)?;
    let limit = site.limits.connections / FOREIGN_PART;
    let place = routes::subscriber(&site.foreign_room, limit, &connection, &query)?;
    let following = Subscription {
        relay: Arc::clone(&peer.relay),
        views: peer.views().subscribe(),
        stop: site.stop.clone(),
    };
    let body = Body::from_stream(following.events(place));
    Ok(answer(StatusCode::OK, "text/event-stream", body))
}

fn download(site: &Site, connection: &ConnectionInfo) -> Result<Place, Refusal> {
    let host = Host::of(connection.peer.ip());
    site.downloads.take(host).ok_or_else(|| {
        let of_host = share(DOWNLOADS);
        let detail = format!("{DOWNLOADS} are fetching a repository or a whole trust state, or {of_host} of this host");
        Refusal::new(RefusalCode::BrokerBusy, detail)
    })
}

/// `bytes` as a body that is sent in time or not at all. Copied piece by piece, and by a task of its own: a connection that
/// is not read from asks for nothing more, and would hold all of it, and the place, for as long as it likes.
fn body(bytes: Bytes, place: Place) -> Body {
    let until = Instant::now() + DOWNLOAD_TIME;
    let (send, receive) = mpsc::channel::<Result<Bytes, std::io::Error>>(1);
    tokio::spawn(async move {
        let _place = place;
        for piece in bytes.chunks(CHUNK) {
            let sent = timeout_at(until, send.send(Ok(Bytes::copy_from_slice(piece)))).await;
            match sent {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                // An end without this would look like the end of the answer.
                Err(_) => {
                    let late = std::io::Error::new(std::io::ErrorKind::TimedOut, "not read in time");
                    tokio::spawn(async move { send.send(Err(late)).await });
                    return;
                }
            }
        }
    });
    Body::from_stream(stream::unfold(receive, |mut receive| async move {
        let piece = receive.recv().await?;
        Some((piece, receive))
    }))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::shares::Places;

    #[tokio::test(start_paused = true)]
    async fn what_is_not_read_in_time_is_let_go_and_never_looks_whole() {
        let places = Places::new(2, 1);
        let host = Host::V4([10, 0, 0, 1]);
        let bytes = Bytes::from(vec![7; 5 * CHUNK + 1]);
        let read = body(bytes.clone(), places.take(host).unwrap());
        assert_eq!(read.collect().await.unwrap().to_bytes(), bytes);
        // Who has read everything has given its place back.
        tokio::time::sleep(Duration::from_millis(1)).await;
        let mut held = body(bytes, places.take(host).unwrap());
        assert!(held.frame().await.unwrap().is_ok());
        assert!(places.take(host).is_none(), "its share is taken");
        tokio::time::sleep(DOWNLOAD_TIME).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(places.take(host).is_some(), "given back though nobody read");
        let mut last = None;
        while let Some(frame) = held.frame().await {
            last = Some(frame.is_ok());
        }
        assert_eq!(last, Some(false), "it ends with an error");
    }
}
