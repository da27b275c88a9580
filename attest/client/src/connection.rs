//! One TLS connection that speaks HTTP/1.1 and can export keying material.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::{ClientError, Endpoint};

/// Bytes of keying material taken from a connection (`protocol.md` 3 and 6).
pub const EXPORTER_LENGTH: usize = 32;
/// A broker that does not complete a connection in this time is unreachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A broker that does not answer in this time is unreachable; what it decided is asked again, never assumed.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// The largest answer that is read.
pub(crate) const MAX_ANSWER: usize = 8 * 1024 * 1024;

/// An open, pinned TLS 1.3 connection to a broker.
pub struct Connection {
    endpoint: Endpoint,
    sender: SendRequest<Full<Bytes>>,
    tls: Shared,
}

impl Connection {
    /// Opens a connection; succeeds only where the server's key is pinned in `tls` (see [`crate::pinned_config`]).
    ///
    /// # Errors
    /// [`ClientError::NotInKeyset`] or [`ClientError::Unreachable`].
    pub async fn open(endpoint: &Endpoint, tls: Arc<ClientConfig>) -> Result<Self, ClientError> {
        let unreachable = |cause: String| ClientError::Unreachable {
            endpoint: endpoint.authority(),
            cause,
        };
        let connect = async {
            let tcp = TcpStream::connect((endpoint.host.as_str(), endpoint.port))
                .await
                .map_err(|error| unreachable(error.to_string()))?;
            tcp.set_nodelay(true).map_err(|error| unreachable(error.to_string()))?;
            let name = ServerName::try_from(endpoint.host.clone()).map_err(|error| unreachable(error.to_string()))?;
            let stream = TlsConnector::from(tls).connect(name, tcp).await.map_err(|error| {
                if is_pin_failure(&error) {
                    ClientError::NotInKeyset {
                        endpoint: endpoint.authority(),
                    }
                } else {
                    unreachable(error.to_string())
                }
            })?;
            let tls = Shared(Arc::new(Mutex::new(stream)));
            let (sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(tls.clone()))
                .await
                .map_err(|error| unreachable(error.to_string()))?;
            tokio::spawn(async move {
                // The driver ends with the connection; a broken one shows itself at the next request.
                let _ = driver.await;
            });
            Ok(Self {
                endpoint: endpoint.clone(),
                sender,
                tls,
            })
        };
        tokio::time::timeout(CONNECT_TIMEOUT, connect)
            .await
            .unwrap_or_else(|_| Err(unreachable("timed out".into())))
    }

    /// True once the broker has closed the connection.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// `TLS-Exporter(label, context, 32)` of this connection (RFC 8446 section 7.5).
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] when the connection is gone.
    pub fn export(&self, label: &str, context: &[u8]) -> Result<[u8; EXPORTER_LENGTH], ClientError> {
        let stream = self.tls.0.lock().unwrap_or_else(PoisonError::into_inner);
        stream
            .get_ref()
            .1
            .export_keying_material([0; EXPORTER_LENGTH], label.as_bytes(), Some(context))
            .map_err(|error| ClientError::Unreachable {
                endpoint: self.endpoint.authority(),
                cause: error.to_string(),
            })
    }

    /// Sends one request and reads the whole answer, bounded in time and size.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] when no whole answer came.
    pub async fn send(
        &mut self,
        method: hyper::Method,
        path: &str,
        content_type: &'static str,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let endpoint = self.endpoint.authority();
        let unreachable = |cause: String| ClientError::Unreachable {
            endpoint: endpoint.clone(),
            cause,
        };
        let exchange = async {
            let response = self.request(method, path, content_type, body).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER)
                .collect()
                .await
                .map_err(|error| unreachable(error.to_string()))?;
            Ok((status, body.to_bytes()))
        };
        tokio::time::timeout(ANSWER_TIMEOUT, exchange)
            .await
            .unwrap_or_else(|_| Err(unreachable("timed out".into())))
    }

    /// Sends one request and hands back the response with its body still to come (for streams).
    pub(crate) async fn request(
        &mut self,
        method: hyper::Method,
        path: &str,
        content_type: &'static str,
        body: Vec<u8>,
    ) -> Result<Response<hyper::body::Incoming>, ClientError> {
        let endpoint = self.endpoint.authority();
        let unreachable = |cause: String| ClientError::Unreachable {
            endpoint: endpoint.clone(),
            cause,
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(hyper::header::HOST, &endpoint)
            .header(hyper::header::CONTENT_TYPE, content_type)
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| unreachable(error.to_string()))?;
        self.sender
            .ready()
            .await
            .map_err(|error| unreachable(error.to_string()))?;
        self.sender
            .send_request(request)
            .await
            .map_err(|error| unreachable(error.to_string()))
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

fn is_pin_failure(error: &std::io::Error) -> bool {
    error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        .is_some_and(|error| {
            *error == rustls::Error::InvalidCertificate(rustls::CertificateError::ApplicationVerificationFailure)
        })
}

/// The stream, shared between HTTP (which drives it) and the exporter (which only reads its secrets). The lock is never
/// held across a wait.
#[derive(Clone)]
struct Shared(Arc<Mutex<TlsStream<TcpStream>>>);

impl AsyncRead for Shared {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).poll_read(cx, buf)
    }
}

impl AsyncWrite for Shared {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).poll_shutdown(cx)
    }
}
