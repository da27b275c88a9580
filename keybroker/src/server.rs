//! The accept loop: TCP to TLS to HTTP/1.1, with bounds on everything that is not yet a request.
//!
//! A handshake runs in a task of its own with a deadline, so a slow or half-open one never holds up another
//! (CVE-2023-38200). When too many are open the *oldest* is dropped: an honest one takes milliseconds.
//!
//! What is expensive about a handshake, one key exchange and one signature, begins when the client has sent all of its
//! hello, and only on half of the cores: ten thousand enforcers that come back at once wait for their turn, and frames and
//! requests of those who are here go on meanwhile. Who would wait too long is let go before anything was computed for it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::server::Acceptor;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::timeout;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor};
use tower::ServiceExt as _;

use crate::config::Limits;
use crate::shares::{Host, Place, Places};
use crate::tls::{Channel, Exporter};

/// Largest request head, in bytes.
pub const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Most header fields in a request.
pub const MAX_HEADERS: usize = 32;

/// How long the accept loop rests after the system refused a connection (out of files, for instance).
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// How long a client that has sent its hello waits for its turn. Clients give a connection up after five seconds: who would
/// be served later than that is let go while it can still come back elsewhere or later.
pub const TURN_WAIT: Duration = Duration::from_secs(3);

/// How long open connections may take to end after shutdown was asked for.
const DRAIN: Duration = Duration::from_secs(3);

/// Identity of one TLS connection, unique in this process: what a session is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// What a handler knows about the connection its request came over; a request extension.
#[derive(Debug, Clone)]
pub struct ConnectionInfo {
    /// Unique in this process.
    pub id: ConnectionId,
    /// The other end.
    pub peer: SocketAddr,
    /// Keying material of the connection.
    pub exporter: Exporter,
    /// Whether a node has proved itself over it: such a connection is not slowed down for what its neighbours do.
    pub proven: Arc<AtomicBool>,
}

/// Accepts connections and serves `router` on them until `stop` is true; then lets requests under way finish. No host has
/// more than `share` of them: one more is closed.
pub async fn serve(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    router: Router,
    limits: Limits,
    share: usize,
    mut stop: watch::Receiver<bool>,
) {
    let hosts = Places::new(limits.connections, share);
    let connections = Arc::new(Semaphore::new(limits.connections));
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let shared = Arc::new(Shared {
        tls: Arc::clone(acceptor.config()),
        router,
        limits,
        greeting: Handshakes::new(limits.handshakes),
        turns: Arc::new(Semaphore::new((cores / 2).max(1))),
        finishing: Handshakes::new(limits.handshakes),
        next: AtomicU64::new(1),
    });
    loop {
        // The permit comes first: connections over the limit wait in the listener's queue, not in our memory.
        let accepted = async {
            let permit = Arc::clone(&connections).acquire_owned().await;
            (permit, listener.accept().await)
        };
        tokio::select! {
            () = stopped(&mut stop) => break,
            (permit, accepted) = accepted => match (permit, accepted) {
                (Ok(permit), Ok((stream, peer))) => {
                    if let Some(place) = hosts.take(Host::of(peer.ip())) {
                        tokio::spawn(connection(Arc::clone(&shared), stream, peer, (place, permit), stop.clone()));
                    }
                }
                (_, Err(error)) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_REST).await;
                }
                (Err(_), _) => break,
            },
        }
    }
    drop(listener);
    // All permits back means that every connection has ended.
    let all = u32::try_from(limits.connections).unwrap_or(u32::MAX);
    if timeout(DRAIN, connections.acquire_many(all)).await.is_err() {
        tracing::info!("connections still open at shutdown were cut");
    }
}

struct Shared {
    tls: Arc<ServerConfig>,
    router: Router,
    limits: Limits,
    /// Those whose hello has not come whole yet.
    greeting: Handshakes,
    /// Handshakes that may be computed at once.
    turns: Arc<Semaphore>,
    /// Those that were answered and have not finished.
    finishing: Handshakes,
    next: AtomicU64,
}

async fn connection(
    shared: Arc<Shared>,
    stream: TcpStream,
    peer: SocketAddr,
    _places: (Place, OwnedSemaphorePermit),
    mut stop: watch::Receiver<bool>,
) {
    let id = ConnectionId(shared.next.fetch_add(1, Ordering::Relaxed));
    // A trust-state frame must not wait for an acknowledgement of the one before.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let deadline = Duration::from_millis(shared.limits.handshake_ms);
    let dropped = shared.greeting.begin(id.0);
    let hello = tokio::select! {
        hello = timeout(deadline, LazyConfigAcceptor::new(Acceptor::default(), stream)) => hello,
        _ = dropped => return,
        () = stopped(&mut stop) => return,
    };
    shared.greeting.end(id.0);
    let hello = match hello {
        Ok(Ok(hello)) => hello,
        Ok(Err(error)) => return tracing::debug!(%peer, %error, "TLS handshake failed"),
        Err(_) => return tracing::debug!(%peer, "TLS handshake was too slow"),
    };
    let turn = tokio::select! {
        turn = timeout(TURN_WAIT, Arc::clone(&shared.turns).acquire_owned()) => turn,
        () = stopped(&mut stop) => return,
    };
    let Ok(Ok(turn)) = turn else {
        return tracing::debug!(%peer, "too many handshakes wait");
    };
    // The key exchange and the signature are in this call; what is awaited afterwards is the client.
    let handshake = hello.into_stream(Arc::clone(&shared.tls));
    drop(turn);
    let dropped = shared.finishing.begin(id.0);
    let handshake = tokio::select! {
        handshake = timeout(deadline, handshake) => handshake,
        _ = dropped => return,
        () = stopped(&mut stop) => return,
    };
    shared.finishing.end(id.0);
    let stream = match handshake {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%peer, %error, "TLS handshake failed"),
        Err(_) => return tracing::debug!(%peer, "TLS handshake was too slow"),
    };
    let head = Duration::from_millis(shared.limits.head_ms);
    let channel = Channel::new(stream);
    let info = ConnectionInfo {
        id,
        peer,
        exporter: channel.exporter(),
        proven: Arc::default(),
    };
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(info.clone());
        let router = shared.router.clone();
        async move { respond(router, request.map(axum::body::Body::new)).await }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(head)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS);
    let served = http.serve_connection(TokioIo::new(channel), service);
    tokio::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = stopped(&mut stop) => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "connection ended");
    }
}

async fn respond(router: Router, request: Request) -> Result<axum::response::Response, Infallible> {
    router.oneshot(request).await
}

/// Resolves when shutdown was asked for, or whoever could ask is gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// The handshakes under way, oldest first.
struct Handshakes {
    most: usize,
    open: Mutex<BTreeMap<u64, oneshot::Sender<()>>>,
}

impl Handshakes {
    fn new(most: usize) -> Self {
        Self {
            most,
            open: Mutex::new(BTreeMap::new()),
        }
    }

    /// Notes a handshake; the receiver resolves if it must make room.
    fn begin(&self, id: u64) -> oneshot::Receiver<()> {
        let (keep, dropped) = oneshot::channel();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.insert(id, keep);
        if open.len() > self.most {
            open.pop_first();
        }
        dropped
    }

    fn end(&self, id: u64) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_handshake_makes_room() {
        let handshakes = Handshakes::new(2);
        let mut first = handshakes.begin(1);
        let mut second = handshakes.begin(2);
        handshakes.end(1);
        let mut third = handshakes.begin(3);
        assert!(
            second
                .try_recv()
                .is_err_and(|e| e == oneshot::error::TryRecvError::Empty)
        );
        let mut fourth = handshakes.begin(4);
        let closed = |r: &mut oneshot::Receiver<()>| r.try_recv() == Err(oneshot::error::TryRecvError::Closed);
        assert!(closed(&mut first) && closed(&mut second));
        assert!(!closed(&mut third) && !closed(&mut fourth));
    }
}
