//! A connection to a broker on which anything can be sent, honest or not.
#![expect(
    clippy::expect_used,
    reason = "test support: what is not as it must be fails the test"
)]

use std::sync::Arc;

use hyper::Method;
use rustls::ClientConfig;
use touchstone_attest::agent::round::BINDER_EXPORTER;
use touchstone_attest::client::{ClientError, Connection, Endpoint};
use touchstone_evidence::message::{Answer, Challenge, Hello, Submission};

/// The path of the hello.
pub const HELLO: &str = "/v1/hello";
/// The path of the evidence.
pub const EVIDENCE: &str = "/v1/evidence";

/// An open connection.
pub struct Line {
    connection: Connection,
}

/// A request that was refused before anything was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// HTTP status.
    pub status: u16,
    /// The stable code.
    pub code: String,
    /// Codes of the reasons of an appraisal, in order.
    pub reasons: Vec<String>,
}

impl Line {
    /// Opens a connection.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn open(endpoint: &Endpoint, tls: Arc<ClientConfig>) -> Result<Self, ClientError> {
        Ok(Self {
            connection: Connection::open(endpoint, tls).await?,
        })
    }

    /// Posts bytes; gives what came back if it is an answer to an accepted request.
    ///
    /// # Errors
    /// [`Refused`] for every problem document.
    ///
    /// # Panics
    /// When nothing comes back, or a refusal that is no problem document.
    pub async fn post(&mut self, path: &str, body: Vec<u8>) -> Result<Vec<u8>, Refused> {
        self.post_as(path, "application/cbor", body).await
    }

    /// The same with another type of contents.
    ///
    /// # Errors
    /// [`Refused`] for every problem document.
    ///
    /// # Panics
    /// When nothing comes back, or a refusal that is no problem document.
    pub async fn post_as(&mut self, path: &str, kind: &'static str, body: Vec<u8>) -> Result<Vec<u8>, Refused> {
        let (status, body) = self
            .connection
            .send(Method::POST, path, kind, body)
            .await
            .expect("an HTTP response");
        let status = status.as_u16();
        let is_answer = status == 200 || (status == 403 && Answer::decode(&body).is_ok());
        if is_answer {
            Ok(body.into())
        } else {
            Err(refused(status, &body))
        }
    }

    /// Gets a resource.
    ///
    /// # Panics
    /// When it does not come.
    pub async fn get(&mut self, path: &str) -> Vec<u8> {
        let sent = self
            .connection
            .send(Method::GET, path, "application/cbor", Vec::new())
            .await;
        let (status, body) = sent.expect("an HTTP response");
        assert_eq!(status.as_u16(), 200, "{path}");
        body.into()
    }

    /// Hello to challenge.
    ///
    /// # Errors
    /// [`Refused`]
    ///
    /// # Panics
    /// When what comes is no challenge.
    pub async fn hello(&mut self, hello: &Hello) -> Result<Challenge, Refused> {
        let body = self.post(HELLO, hello.encode()).await?;
        Ok(Challenge::decode(&body).expect("a challenge"))
    }

    /// Evidence to answer.
    ///
    /// # Errors
    /// [`Refused`]
    ///
    /// # Panics
    /// When what comes is no answer.
    pub async fn submit(&mut self, submission: &Submission) -> Result<Answer, Refused> {
        let body = self.post(EVIDENCE, submission.encode()).await?;
        Ok(Answer::decode(&body).expect("an answer"))
    }

    /// The exporter value that binds evidence to this connection.
    ///
    /// # Panics
    /// When the connection is gone.
    #[must_use]
    pub fn exporter(&self, nonce: &[u8]) -> [u8; 32] {
        self.connection
            .export(BINDER_EXPORTER, nonce)
            .expect("an open connection")
    }
}

fn refused(status: u16, body: &[u8]) -> Refused {
    let problem: serde_json::Value = serde_json::from_slice(body).expect("a problem document");
    let text = |value: Option<&serde_json::Value>| value.and_then(|v| v.as_str()).unwrap_or_default().to_owned();
    let reasons = problem.get("reasons").and_then(|reasons| reasons.as_array());
    Refused {
        status,
        code: text(problem.get("code")),
        reasons: reasons
            .into_iter()
            .flatten()
            .map(|reason| text(reason.get("code")))
            .collect(),
    }
}
