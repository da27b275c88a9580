//! Typed calls to a broker, and reconnecting to one of several.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::{Method, StatusCode};
use rustls::ClientConfig;
use touchstone_evidence::message::{Answer, Challenge, Hello, RELEASE_PATH, ReleaseAnswer, ReleaseRequest, Submission};

use crate::connection::{Connection, EXPORTER_LENGTH};
use crate::{ClientError, Endpoint, EventStream};

/// Most reasons taken from a problem document; a broker sends at most as many.
const MAX_REASONS: usize = 64;

const CBOR: &str = "application/cbor";

/// The largest problem document that is read where a stream was to begin.
const MAX_PROBLEM: usize = 64 * 1024;

/// How long a broker may take to begin the trust-state stream.
const STREAM_TIMEOUT: Duration = Duration::from_secs(5);

/// A broker, or one of several that serve the same domain. Keeps one connection and reopens it when it is gone.
#[derive(Debug)]
pub struct BrokerClient {
    endpoints: Vec<Endpoint>,
    next: usize,
    tls: Arc<ClientConfig>,
    connection: Option<Connection>,
}

/// What came of evidence: a decision, allow or deny, with everything that proves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submitted {
    /// The decision.
    pub answer: Answer,
}

impl BrokerClient {
    /// A client that tries `endpoints` in order, over connections pinned by `tls` (see [`crate::pinned_config`]).
    #[must_use]
    pub fn new(endpoints: Vec<Endpoint>, tls: Arc<ClientConfig>) -> Self {
        Self {
            endpoints,
            next: 0,
            tls,
            connection: None,
        }
    }

    /// Hello → challenge. Opens a connection if there is none.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn hello(&mut self, hello: &Hello) -> Result<Challenge, ClientError> {
        const PATH: &str = "/v1/hello";
        let body = self.call(PATH, hello.encode()).await?;
        Challenge::decode(&body).map_err(|error| answer(PATH, "a challenge", error.to_string()))
    }

    /// Opens a connection if there is none: for what is bound to one before anything is sent on it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn connect(&mut self) -> Result<(), ClientError> {
        self.open().await.map(|_| ())
    }

    /// Asks for a key, on the connection that the proof of possession names and no other.
    ///
    /// # Errors
    /// [`ClientError`]; a recorded denial is a [`ReleaseAnswer`], not an error.
    pub async fn release(&mut self, request: &ReleaseRequest) -> Result<ReleaseAnswer, ClientError> {
        let Some(connection) = self.connection.as_mut() else {
            return Err(self.no_connection());
        };
        let sent = connection
            .send(Method::POST, RELEASE_PATH, CBOR, request.encode())
            .await;
        let (status, body) = self.keep(sent)?;
        match ReleaseAnswer::decode(&body) {
            Ok(decoded) if (status == StatusCode::OK) == decoded.sealed.is_some() => Ok(decoded),
            _ if status == StatusCode::OK => Err(answer(RELEASE_PATH, "an answer", "other bytes".into())),
            _ => Err(refused(status, &body)),
        }
    }

    /// Keying material of the connection the challenge came on.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] when that connection is gone: the challenge is worthless with it.
    pub fn export(&self, label: &str, context: &[u8]) -> Result<[u8; EXPORTER_LENGTH], ClientError> {
        match &self.connection {
            Some(connection) => connection.export(label, context),
            None => Err(self.no_connection()),
        }
    }

    /// Evidence → answer, on the connection the challenge came on and no other: the binder names its exporter.
    ///
    /// # Errors
    /// [`ClientError`]; a recorded denial is an [`Answer`], not an error.
    pub async fn submit(&mut self, submission: &Submission) -> Result<Submitted, ClientError> {
        const PATH: &str = "/v1/evidence";
        let Some(connection) = self.connection.as_mut() else {
            return Err(self.no_connection());
        };
        let sent = connection.send(Method::POST, PATH, CBOR, submission.encode()).await;
        let (status, body) = self.keep(sent)?;
        if status == StatusCode::OK || status == StatusCode::FORBIDDEN {
            if let Ok(decoded) = Answer::decode(&body) {
                return Ok(Submitted { answer: decoded });
            }
            if status == StatusCode::OK {
                return Err(answer(PATH, "an answer", "other bytes".into()));
            }
        }
        Err(refused(status, &body))
    }

    /// The broker's time for a fresh nonce: a signed token, to be checked by the caller.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn time(&mut self, nonce: &[u8; 32]) -> Result<Vec<u8>, ClientError> {
        self.call("/v1/time", nonce.to_vec()).await
    }

    /// Reads `path` (no body), expecting success.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get(&mut self, path: &str) -> Result<Vec<u8>, ClientError> {
        let sent = self.open().await?.send(Method::GET, path, CBOR, Vec::new()).await;
        let (status, body) = self.keep(sent)?;
        if status == StatusCode::OK {
            Ok(body.into())
        } else {
            Err(refused(status, &body))
        }
    }

    /// Sends `body` to `path`, expecting success.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn post(&mut self, path: &str, body: Vec<u8>) -> Result<Vec<u8>, ClientError> {
        self.call(path, body).await
    }

    /// Sends `body` to `path` on the connection that is open and no other: for what is bound to it.
    ///
    /// # Errors
    /// [`ClientError`]; an answer of any status is none.
    pub async fn post_here(&mut self, path: &str, body: Vec<u8>) -> Result<(u16, Vec<u8>), ClientError> {
        let Some(connection) = self.connection.as_mut() else {
            return Err(self.no_connection());
        };
        let sent = connection.send(Method::POST, path, CBOR, body).await;
        let (status, body) = self.keep(sent)?;
        Ok((status.as_u16(), body.into()))
    }

    /// Subscribes to the trust state at `route` ([`crate::follow::OWN_STREAM`], or that of a relayed domain) on a
    /// connection of its own.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn follow(&mut self, route: &str, subscriber: &str) -> Result<EventStream, ClientError> {
        let endpoint = self.endpoint();
        let mut connection = Connection::open(&endpoint, Arc::clone(&self.tls)).await?;
        let path = format!("{route}?subscriber={subscriber}");
        let request = connection.request(Method::GET, &path, CBOR, Vec::new());
        let response = tokio::time::timeout(STREAM_TIMEOUT, request)
            .await
            .unwrap_or_else(|_| {
                Err(ClientError::Unreachable {
                    endpoint: endpoint.authority(),
                    cause: "no answer".into(),
                })
            })?;
        if response.status() != StatusCode::OK {
            return Err(turned_away(&endpoint, response).await);
        }
        Ok(EventStream::new(connection, response.into_body()))
    }

    /// Lets go of the connection: nothing is to be asked for a while, and the broker has others to hold.
    pub fn hang_up(&mut self) {
        self.connection = None;
    }

    /// How many brokers there are to choose from.
    #[must_use]
    pub fn choices(&self) -> usize {
        self.endpoints.len()
    }

    async fn call(&mut self, path: &str, body: Vec<u8>) -> Result<Vec<u8>, ClientError> {
        let sent = self.open().await?.send(Method::POST, path, CBOR, body).await;
        let (status, body) = self.keep(sent)?;
        if status == StatusCode::OK {
            Ok(body.into())
        } else {
            Err(refused(status, &body))
        }
    }

    async fn open(&mut self) -> Result<&mut Connection, ClientError> {
        let usable = self
            .connection
            .as_ref()
            .is_some_and(|connection| !connection.is_closed());
        if !usable {
            self.connection = None;
            let opened = Connection::open(&self.endpoint(), Arc::clone(&self.tls)).await;
            self.connection = Some(self.keep(opened)?);
        }
        let missing = self.no_connection();
        self.connection.as_mut().ok_or(missing)
    }

    /// Goes on with the next broker in the list: the one before fails, or accepts and says nothing.
    pub fn turn(&mut self) {
        self.connection = None;
        self.next = self.next.wrapping_add(1);
    }

    /// Drops the connection after a failure: half an exchange must not be continued.
    fn keep<T>(&mut self, sent: Result<T, ClientError>) -> Result<T, ClientError> {
        if sent.is_err() {
            self.turn();
        }
        sent
    }

    fn endpoint(&self) -> Endpoint {
        let index = self.next.checked_rem(self.endpoints.len()).unwrap_or(0);
        self.endpoints.get(index).cloned().unwrap_or(Endpoint {
            host: String::new(),
            port: 0,
        })
    }

    fn no_connection(&self) -> ClientError {
        ClientError::Unreachable {
            endpoint: self.endpoint().authority(),
            cause: "no open connection".into(),
        }
    }
}

fn answer(path: &'static str, expected: &'static str, found: String) -> ClientError {
    ClientError::Answer { path, expected, found }
}

/// Why a stream did not begin, and when to come again where that is said (RFC 9110, 10.2.3, in seconds).
async fn turned_away(endpoint: &Endpoint, response: hyper::Response<hyper::body::Incoming>) -> ClientError {
    let status = response.status();
    let seconds = response
        .headers()
        .get(hyper::header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let body = http_body_util::Limited::new(response.into_body(), MAX_PROBLEM).collect();
    let body = match tokio::time::timeout(STREAM_TIMEOUT, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        _ => bytes::Bytes::new(),
    };
    match (refused(status, &body), seconds) {
        (ClientError::Refused { code, .. }, Some(seconds)) => ClientError::Later {
            endpoint: endpoint.authority(),
            code,
            seconds: seconds.min(crate::MAX_RETRY_AFTER_S),
        },
        (refused, _) => refused,
    }
}

/// Reads a problem document (RFC 9457); what is not one keeps its status and a short excerpt.
fn refused(status: StatusCode, body: &[u8]) -> ClientError {
    #[derive(serde::Deserialize)]
    struct Problem {
        code: String,
        #[serde(default)]
        detail: String,
        #[serde(default)]
        reasons: Vec<Line>,
    }
    #[derive(serde::Deserialize)]
    struct Line {
        code: String,
        claim: String,
        #[serde(default)]
        expected: String,
        #[serde(default)]
        found: String,
    }
    let status = status.as_u16();
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => {
            let words = |line: Line| {
                let Line {
                    code,
                    claim,
                    expected,
                    found,
                } = line;
                format!("{code} ({claim}): expected {expected}, found {found}")
            };
            let reasons = problem.reasons.into_iter().take(MAX_REASONS).map(words).collect();
            ClientError::Refused {
                status,
                code: problem.code,
                message: problem.detail,
                reasons,
            }
        }
        Err(_) => ClientError::Refused {
            status,
            code: "unexplained".into(),
            message: String::from_utf8_lossy(body.get(..body.len().min(200)).unwrap_or_default()).into_owned(),
            reasons: Vec::new(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_fails_is_not_asked_again_before_the_others() {
        let endpoints = ["a:1", "b:2"].map(|text| Endpoint::parse(text).expect("parses"));
        let tls = crate::pinned_config(&[]).expect("a configuration");
        let mut client = BrokerClient::new(endpoints.into(), tls);
        let unreachable = || ClientError::Unreachable {
            endpoint: "a:1".into(),
            cause: "timed out".into(),
        };
        assert_eq!(client.keep(Ok(1)), Ok(1));
        assert_eq!(client.endpoint().authority(), "a:1");
        assert!(client.keep::<()>(Err(unreachable())).is_err());
        assert_eq!(client.endpoint().authority(), "b:2");
        client.turn();
        assert_eq!(client.endpoint().authority(), "a:1");
    }
}
