//! TLS as the broker speaks it: version 1.3 only, X25519MLKEM768 preferred, no tickets, no resumption, no early data,
//! no client certificates (a node proves itself by evidence, not by a name), and an exporter for every connection.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// The only application protocol offered.
pub const ALPN: &[u8] = b"http/1.1";

/// Bytes every exporter call gives (RFC 8446 section 7.5).
pub const EXPORTER_LEN: usize = 32;

/// The server's TLS settings for one key and certificate.
///
/// # Errors
/// rustls refuses the pair, for instance because they do not belong together.
pub fn server_config(
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// aws-lc-rs with the key exchanges in our order.
fn provider() -> CryptoProvider {
    CryptoProvider {
        kx_groups: vec![
            aws_lc_rs::kx_group::X25519MLKEM768,
            aws_lc_rs::kx_group::X25519,
            aws_lc_rs::kx_group::SECP256R1,
        ],
        ..aws_lc_rs::default_provider()
    }
}

/// Why a connection gives no keying material.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the connection gives no keying material: {detail}")]
pub struct ExporterError {
    /// The TLS library's own words.
    pub detail: String,
}

/// Gives keying material of one connection for as long as anybody asks, while the connection goes on being used.
#[derive(Clone)]
pub struct Exporter(Arc<Mutex<TlsStream<TcpStream>>>);

impl Exporter {
    /// TLS-Exporter(`label`, `context`, 32) of this connection.
    ///
    /// # Errors
    /// [`ExporterError`]: the caller must refuse, never go on without the binding.
    pub fn export(&self, label: &str, context: &[u8]) -> Result<[u8; EXPORTER_LEN], ExporterError> {
        let stream = self.0.lock().map_err(|_| ExporterError {
            detail: "the connection failed".into(),
        })?;
        stream
            .get_ref()
            .1
            .export_keying_material([0; EXPORTER_LEN], label.as_bytes(), Some(context))
            .map_err(|e| ExporterError { detail: e.to_string() })
    }
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exporter")
    }
}

/// A TLS stream that can be used by the HTTP server and asked for keying material by a request's handler.
///
/// The lock is held for one poll or one export at a time, never across an await.
pub struct Channel(Arc<Mutex<TlsStream<TcpStream>>>);

impl Channel {
    /// Wraps a stream whose handshake is complete.
    #[must_use]
    pub fn new(stream: TlsStream<TcpStream>) -> Self {
        Self(Arc::new(Mutex::new(stream)))
    }

    /// The exporter of this connection.
    #[must_use]
    pub fn exporter(&self) -> Exporter {
        Exporter(Arc::clone(&self.0))
    }

    fn poll<T>(&self, poll: impl FnOnce(Pin<&mut TlsStream<TcpStream>>) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match self.0.lock() {
            Ok(mut stream) => poll(Pin::new(&mut stream)),
            Err(_) => Poll::Ready(Err(io::Error::other("the connection failed"))),
        }
    }
}

impl AsyncRead for Channel {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll(|stream| stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for Channel {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll(|stream| stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll(|stream| stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|stream| stream.poll_shutdown(cx))
    }
}
