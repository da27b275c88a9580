//! The connection a request came on, for a service that ends TLS itself.
//!
//! A proof of possession over the exporter of a connection opens that connection for one right (`docs/protocol.md`,
//! section 6): the same authorization and the same proof go with each later request on it, and are not verified again;
//! status, expiry and freshness are. On any other connection the exporter is another one, and the proof is worth nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use touchstone_authorization::{Admitted, Scope};

use super::credentials::Credentials;

/// How many rights are remembered as opened on one connection; one more, and the oldest proof is verified again.
pub const MAX_OPENED: usize = 16;

/// Bytes of keying material that a proof carries.
pub const EXPORTER_LENGTH: usize = 32;

/// Gives keying material of one TLS 1.3 connection: TLS-Exporter(label, context, 32), RFC 8446, section 7.5.
pub trait Exporter: Send + Sync {
    /// The material, or nothing where the connection gives none: then the request is refused.
    fn export(&self, label: &str, context: &[u8]) -> Option<[u8; EXPORTER_LENGTH]>;
}

impl<F: Fn(&str, &[u8]) -> Option<[u8; EXPORTER_LENGTH]> + Send + Sync> Exporter for F {
    fn export(&self, label: &str, context: &[u8]) -> Option<[u8; EXPORTER_LENGTH]> {
        self(label, context)
    }
}

/// By what a right is known to be opened: the digest of chain and proof, and the right.
type Opening = ([u8; 32], Scope);

/// One connection; whoever accepts it puts this into the extensions of each request that comes on it.
#[derive(Clone)]
pub struct Connection(Arc<Inner>);

struct Inner {
    exporter: Box<dyn Exporter>,
    opened: Mutex<BTreeMap<Opening, Admitted>>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connection")
    }
}

impl Connection {
    /// A connection on which nothing is opened yet.
    #[must_use]
    pub fn new(exporter: impl Exporter + 'static) -> Self {
        Self(Arc::new(Inner {
            exporter: Box::new(exporter),
            opened: Mutex::default(),
        }))
    }

    pub(super) fn export(&self, label: &str, context: &[u8]) -> Option<[u8; EXPORTER_LENGTH]> {
        self.0.exporter.export(label, context)
    }

    /// What these credentials have opened on this connection for this right.
    pub(super) fn opened(&self, credentials: &Credentials, scope: &Scope) -> Option<Admitted> {
        let opened = self.0.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.get(&opening(credentials, scope)).cloned()
    }

    pub(super) fn open(&self, credentials: &Credentials, scope: &Scope, admitted: Admitted) {
        let mut opened = self.0.opened.lock().unwrap_or_else(PoisonError::into_inner);
        while opened.len() >= MAX_OPENED {
            opened.pop_first();
        }
        opened.insert(opening(credentials, scope), admitted);
    }

    pub(super) fn close(&self, credentials: &Credentials, scope: &Scope) {
        let mut opened = self.0.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.remove(&opening(credentials, scope));
    }
}

fn opening(credentials: &Credentials, scope: &Scope) -> Opening {
    let mut hash = Sha256::new();
    hash.update(Sha256::digest(&credentials.chain));
    hash.update(Sha256::digest(&credentials.proof));
    (hash.finalize().into(), scope.clone())
}

/// A TLS stream that an HTTP server can be given while it goes on giving keying material.
///
/// The lock is held for one poll or one export at a time, never across an await.
pub struct TlsChannel(Arc<Mutex<TlsStream<TcpStream>>>);

impl TlsChannel {
    /// Wraps a stream whose handshake is complete; the connection goes into each request's extensions.
    #[must_use]
    pub fn new(stream: TlsStream<TcpStream>) -> (Self, Connection) {
        let stream = Arc::new(Mutex::new(stream));
        let own = Arc::clone(&stream);
        let exporter = move |label: &str, context: &[u8]| {
            let stream = own.lock().ok()?;
            let (_, tls) = stream.get_ref();
            // Earlier versions bind their exporter to less of the handshake (RFC 8446, appendix E.1.5; RFC 7627).
            if tls.protocol_version() != Some(rustls::ProtocolVersion::TLSv1_3) {
                return None;
            }
            tls.export_keying_material([0; EXPORTER_LENGTH], label.as_bytes(), Some(context))
                .ok()
        };
        (Self(stream), Connection::new(exporter))
    }

    fn poll<T>(&self, poll: impl FnOnce(Pin<&mut TlsStream<TcpStream>>) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match self.0.lock() {
            Ok(mut stream) => poll(Pin::new(&mut stream)),
            Err(_) => Poll::Ready(Err(io::Error::other("the connection failed"))),
        }
    }
}

impl AsyncRead for TlsChannel {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll(|stream| stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for TlsChannel {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll(|stream| stream.poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|stream| stream.poll_shutdown(cx))
    }
}
