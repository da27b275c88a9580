//! Reading a repository's files from a web server that may be anybody: bounded in bytes and in time, without redirects.
//!
//! One HTTP/1.1 connection, kept open for a whole load. Nothing of an answer is believed but its status and its bytes;
//! a file counts as absent only where the server says so (404, 410, and 403 as object stores answer for what is not
//! there). Source: RFC 9112; TUF 1.0.34, 1.5.2 (endless data, slow retrieval).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use url::{Host, Url};

use crate::error::{PolicyCode, PolicyError};
use crate::transport::source::HttpLimits;

/// Why a server's answer is not a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HttpError {
    /// The server says that there is no such file.
    Missing,
    /// More bytes than any honest file of this name has.
    TooLarge { limit: u64 },
    /// Slower than the limits allow.
    TooSlow { received: u64 },
    /// No connection, a broken one, or an answer that is no file.
    Unreachable { found: String },
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("none"),
            Self::TooLarge { limit } => write!(f, "more than {limit} bytes"),
            Self::TooSlow { received } => write!(f, "{received} bytes in the time given"),
            Self::Unreachable { found } => f.write_str(found),
        }
    }
}

impl std::error::Error for HttpError {}

/// The files below one URL, for one load.
#[derive(Debug, Clone)]
pub(crate) struct HttpFiles(Arc<Inner>);

struct Inner {
    base: Url,
    tls: Option<Arc<ClientConfig>>,
    limits: HttpLimits,
    begun: Instant,
    line: Mutex<Line>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Inner").field(&self.base.as_str()).finish()
    }
}

/// The connection, and what came over it and those before it.
#[derive(Default)]
struct Line {
    sender: Option<SendRequest<Empty<Bytes>>>,
    received: u64,
}

impl HttpFiles {
    /// Files below `base`. No connection is made yet; the time for the whole load begins now.
    ///
    /// # Errors
    /// [`PolicyError`] with `policy-source-invalid` for `https` without certificate authorities.
    pub fn new(base: &Url, tls: Option<Arc<ClientConfig>>, limits: HttpLimits) -> Result<Self, PolicyError> {
        if base.scheme() == "https" && tls.is_none() {
            let expected = "the certificate authorities of an https server";
            return Err(PolicyError::new(
                PolicyCode::SourceInvalid,
                base,
                expected,
                "none given",
            ));
        }
        Ok(Self(Arc::new(Inner {
            base: base.clone(),
            tls: tls.filter(|_| base.scheme() == "https"),
            limits,
            begun: Instant::now(),
            line: Mutex::default(),
        })))
    }

    /// The file at `path`, relative, plain and without anything to escape; at most `limit` bytes of it.
    pub async fn get(&self, path: &str, limit: u64) -> Result<Vec<u8>, HttpError> {
        let mut line = self.0.line.lock().await;
        let pace = Pace {
            limits: self.0.limits,
            whole_from: self.0.begun,
            file_from: Instant::now(),
        };
        // A connection that the server closed meanwhile shows itself only here; a fresh one is tried once.
        let kept = line.sender.is_some();
        let mut answer = self.ask(&mut line, path, &pace).await;
        if kept && matches!(answer, Err(HttpError::Unreachable { .. })) {
            line.sender = None;
            answer = self.ask(&mut line, path, &pace).await;
        }
        let outcome = match answer {
            Ok(answer) => read(&mut line, answer, limit, &pace).await,
            Err(error) => Err(error),
        };
        // What is left of such an answer would be taken for the beginning of the next.
        if outcome.is_err() {
            line.sender = None;
        }
        outcome
    }

    async fn ask(&self, line: &mut Line, path: &str, pace: &Pace) -> Result<Response<Incoming>, HttpError> {
        let unreachable = |found: &dyn fmt::Display| HttpError::Unreachable {
            found: format!("{}: {found}", self.0.base),
        };
        if line.sender.as_ref().is_none_or(SendRequest::is_closed) {
            let connecting = timeout(self.0.limits.connect, self.connect());
            line.sender = Some(
                connecting
                    .await
                    .unwrap_or_else(|_| Err(unreachable(&"no connection in time")))?,
            );
        }
        let Some(sender) = line.sender.as_mut() else {
            return Err(unreachable(&"no connection"));
        };
        let host = &self.0.base[url::Position::BeforeHost..url::Position::AfterPort];
        let request = Request::get(format!("{}{path}", self.0.base.path()))
            .header(header::HOST, host)
            .header(header::ACCEPT_ENCODING, "identity")
            .body(Empty::new())
            .map_err(|e| unreachable(&e))?;
        let answering = async {
            sender.ready().await?;
            sender.send_request(request).await
        };
        let deadline = pace.deadline(line.received, 0);
        let slow = |_| HttpError::TooSlow { received: 0 };
        let answer = timeout_at(deadline, answering).await.map_err(slow)?;
        let answer = answer.map_err(|e| unreachable(&e))?;
        match answer.status() {
            StatusCode::OK
                if answer
                    .headers()
                    .get(header::CONTENT_ENCODING)
                    .is_some_and(|c| c != "identity") =>
            {
                Err(unreachable(&"an encoded answer"))
            }
            StatusCode::OK => Ok(answer),
            StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::FORBIDDEN => Err(HttpError::Missing),
            other if other.is_redirection() => Err(unreachable(&format!("{other}: redirects are not followed"))),
            other => Err(unreachable(&other)),
        }
    }

    async fn connect(&self) -> Result<SendRequest<Empty<Bytes>>, HttpError> {
        let unreachable = |found: String| HttpError::Unreachable {
            found: format!("{}: {found}", self.0.base),
        };
        // Without the brackets that a URL has around an IPv6 address.
        let host = match self.0.base.host() {
            Some(Host::Ipv6(ip)) => ip.to_string(),
            Some(host) => host.to_string(),
            None => return Err(unreachable("no host".into())),
        };
        let port = self.0.base.port_or_known_default().unwrap_or(80);
        let tcp = TcpStream::connect((host.as_str(), port)).await;
        let tcp = tcp.map_err(|e| unreachable(e.to_string()))?;
        tcp.set_nodelay(true).map_err(|e| unreachable(e.to_string()))?;
        let (sender, driver) = match &self.0.tls {
            None => {
                let made = hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await;
                let (sender, driver) = made.map_err(|e| unreachable(e.to_string()))?;
                (sender, tokio::spawn(async move { drop(driver.await) }))
            }
            Some(tls) => {
                let name = ServerName::try_from(host).map_err(|e| unreachable(e.to_string()))?;
                let stream = TlsConnector::from(Arc::clone(tls)).connect(name, tcp).await;
                let stream = stream.map_err(|e| unreachable(e.to_string()))?;
                let made = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
                let (sender, driver) = made.map_err(|e| unreachable(e.to_string()))?;
                (sender, tokio::spawn(async move { drop(driver.await) }))
            }
        };
        // It ends with the connection.
        drop(driver);
        Ok(sender)
    }
}

async fn read(line: &mut Line, answer: Response<Incoming>, limit: u64, pace: &Pace) -> Result<Vec<u8>, HttpError> {
    let mut body = answer.into_body();
    let mut bytes = Vec::new();
    loop {
        let received = bytes.len() as u64;
        let deadline = pace.deadline(line.received, received);
        let frame = timeout_at(deadline, body.frame()).await;
        let Some(frame) = frame.map_err(|_| HttpError::TooSlow { received })? else {
            break;
        };
        let frame = frame.map_err(|e| HttpError::Unreachable { found: e.to_string() })?;
        let Some(data) = frame.data_ref() else { continue };
        if received + data.len() as u64 > limit {
            return Err(HttpError::TooLarge { limit });
        }
        bytes.extend_from_slice(data);
    }
    line.received = line.received.saturating_add(bytes.len() as u64);
    Ok(bytes)
}

/// How long it may go on: a grace, and the time the bytes received so far take at the lowest rate.
struct Pace {
    limits: HttpLimits,
    whole_from: Instant,
    file_from: Instant,
}

impl Pace {
    fn deadline(&self, before: u64, of_file: u64) -> Instant {
        let earned = |bytes: u64| {
            let milliseconds = bytes.saturating_mul(1_000) / u64::from(self.limits.min_rate.max(1));
            Duration::from_millis(milliseconds)
        };
        let file = self.file_from + self.limits.file_grace + earned(of_file);
        let whole = self.whole_from + self.limits.total_grace + earned(before.saturating_add(of_file));
        file.min(whole)
    }
}

#[cfg(test)]
mod tests;
