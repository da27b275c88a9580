//! A plain HTTP/1.1 listener for what may be read by everybody and is believed for its signatures alone: the policy
//! repository. Bounded like the HTTPS listener.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tower::ServiceExt as _;

use crate::config::Limits;
use crate::server::{MAX_HEAD_BYTES, MAX_HEADERS};

/// Most connections at once; more wait in the listener's queue.
pub const MAX_PLAIN_CONNECTIONS: usize = 1_024;

/// A connection may take this long, whatever is asked over it: a whole repository at a slow pace.
pub const CONNECTION_LIFE: Duration = Duration::from_secs(600);

/// How long the accept loop rests after the system refused a connection (out of files, for instance).
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// Accepts connections and serves `router` on them until `stop` is true.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, mut stop: watch::Receiver<bool>) {
    let connections = Arc::new(Semaphore::new(MAX_PLAIN_CONNECTIONS.min(limits.connections)));
    let head = Duration::from_millis(limits.head_ms);
    loop {
        let accepted = async {
            let permit = Arc::clone(&connections).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, stream) = tokio::select! {
            () = stopped(&mut stop) => return,
            (permit, accepted) = accepted => match (permit, accepted) {
                (Ok(permit), Ok((stream, _))) => (permit, stream),
                (_, Err(error)) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_REST).await;
                    continue;
                }
                (Err(_), _) => return,
            },
        };
        let (router, mut stop) = (router.clone(), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                _ = timeout(CONNECTION_LIFE, connection(stream, router, head)) => {}
                () = stopped(&mut stop) => {}
            }
            drop(permit);
        });
    }
}

async fn connection(stream: TcpStream, router: Router, head: Duration) {
    let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let router = router.clone();
        async move { router.oneshot(request.map(axum::body::Body::new)).await }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(head)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a plain connection ended");
    }
}

/// Resolves when shutdown was asked for, or whoever could ask is gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}
