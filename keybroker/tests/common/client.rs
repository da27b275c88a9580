//! A client that trusts any key: what the broker does is under test here, not the pinning of clients.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use touchstone_evidence::message::{Answer, Challenge, Hello, Submission};
use touchstone_keybroker::attest::BINDER_EXPORTER;

use super::in_time;

pub struct Client {
    sender: SendRequest<Full<Bytes>>,
    stream: Shared,
}

/// A refusal, as far as tests look at it.
#[derive(Debug, PartialEq, Eq)]
pub struct Problem {
    pub status: u16,
    pub code: String,
    pub reasons: Vec<String>,
}

impl Client {
    /// Comes again where it is not let in: a broker with more to do than it can lets go who has waited for long.
    pub async fn connect(address: SocketAddr) -> Self {
        in_time("a connection", async {
            loop {
                match Self::with(address, config(&[&rustls::version::TLS13])).await {
                    Ok(client) => return client,
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        })
        .await
    }

    pub async fn with(address: SocketAddr, config: ClientConfig) -> std::io::Result<Self> {
        let tcp = TcpStream::connect(address).await?;
        let name = ServerName::try_from("touchstone-broker").unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
        let stream = Shared(Arc::new(Mutex::new(stream)));
        let (sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream.clone()))
            .await
            .map_err(std::io::Error::other)?;
        tokio::spawn(driver);
        Ok(Self { sender, stream })
    }

    pub fn export(&self, context: &[u8]) -> [u8; 32] {
        self.export_for(BINDER_EXPORTER, context)
    }

    pub fn export_for(&self, label: &str, context: &[u8]) -> [u8; 32] {
        let stream = self.stream.0.lock().unwrap();
        stream
            .get_ref()
            .1
            .export_keying_material([0; 32], label.as_bytes(), Some(context))
            .unwrap()
    }

    /// What the handshake agreed on.
    pub fn tls<T>(&self, look: impl FnOnce(&rustls::ClientConnection) -> T) -> T {
        look(self.stream.0.lock().unwrap().get_ref().1)
    }

    pub async fn open(&mut self, method: Method, path: &str, body: Vec<u8>) -> Response<hyper::body::Incoming> {
        self.open_as("application/cbor", method, path, body).await
    }

    /// The same where the connection may have ended.
    pub async fn try_open(
        &mut self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> hyper::Result<Response<hyper::body::Incoming>> {
        self.try_open_as("application/cbor", method, path, body).await
    }

    /// The same with a body of another type.
    pub async fn open_as(
        &mut self,
        content_type: &str,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Response<hyper::body::Incoming> {
        self.try_open_as(content_type, method, path, body).await.unwrap()
    }

    async fn try_open_as(
        &mut self,
        content_type: &str,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> hyper::Result<Response<hyper::body::Incoming>> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "touchstone-broker")
            .header("content-type", content_type)
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        self.sender.ready().await?;
        self.sender.send_request(request).await
    }

    pub async fn send(&mut self, method: Method, path: &str, body: Vec<u8>) -> (StatusCode, Bytes) {
        let response = self.open(method, path, body).await;
        let status = response.status();
        (status, response.into_body().collect().await.unwrap().to_bytes())
    }

    pub async fn get(&mut self, path: &str) -> Bytes {
        let (status, body) = self.send(Method::GET, path, Vec::new()).await;
        assert_eq!(status, StatusCode::OK, "{path}: {}", String::from_utf8_lossy(&body));
        body
    }

    pub async fn hello(&mut self, hello: &Hello) -> Result<Challenge, Problem> {
        let (status, body) = self.send(Method::POST, "/v1/hello", hello.encode()).await;
        if status == StatusCode::OK {
            Ok(Challenge::decode(&body).unwrap())
        } else {
            Err(problem(status, &body))
        }
    }

    pub async fn submit(&mut self, submission: &Submission) -> Result<Answer, Problem> {
        let (status, body) = self.send(Method::POST, "/v1/evidence", submission.encode()).await;
        match Answer::decode(&body) {
            Ok(answer) => {
                assert_eq!(status == StatusCode::OK, answer.allowed);
                Ok(answer)
            }
            Err(_) => Err(problem(status, &body)),
        }
    }
}

pub fn problem(status: StatusCode, body: &[u8]) -> Problem {
    let value: serde_json::Value =
        serde_json::from_slice(body).unwrap_or_else(|_| panic!("{status}: {}", String::from_utf8_lossy(body)));
    assert_eq!(value["status"], status.as_u16());
    let reasons = value["reasons"].as_array().unwrap();
    Problem {
        status: status.as_u16(),
        code: value["code"].as_str().unwrap().into(),
        reasons: reasons
            .iter()
            .map(|reason| reason["code"].as_str().unwrap().into())
            .collect(),
    }
}

pub fn config(versions: &[&'static rustls::SupportedProtocolVersion]) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyKey))
        .with_no_client_auth()
}

#[derive(Debug)]
struct AnyKey;

impl ServerCertVerifier for AnyKey {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ED25519]
    }
}

#[derive(Clone)]
struct Shared(Arc<Mutex<TlsStream<TcpStream>>>);

impl AsyncRead for Shared {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut *self.0.lock().unwrap()).poll_read(cx, buf)
    }
}

impl AsyncWrite for Shared {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut *self.0.lock().unwrap()).poll_write(cx, buf)
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut *self.0.lock().unwrap()).poll_flush(cx)
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut *self.0.lock().unwrap()).poll_shutdown(cx)
    }
}
