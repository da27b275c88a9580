//! Asking a guard from the same machine.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;

use super::{DecisionRequest, Verdict};

/// The largest answer that is read.
const MAX_ANSWER: usize = 64 * 1024;

/// Why a guard gave no answer. Whoever asked must then refuse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("guard {address}: {cause}")]
pub struct GuardUnavailable {
    /// Which one.
    pub address: SocketAddr,
    /// Why.
    pub cause: String,
}

/// Asks for a challenge (hexadecimal).
///
/// # Errors
/// [`GuardUnavailable`].
pub async fn challenge(address: SocketAddr) -> Result<String, GuardUnavailable> {
    #[derive(Deserialize)]
    struct Challenge {
        challenge: String,
    }
    Ok(post::<Challenge>(address, "/challenge", Vec::new()).await?.challenge)
}

/// Asks for a decision.
///
/// # Errors
/// [`GuardUnavailable`]; a denial is a [`Verdict`].
pub async fn decide(address: SocketAddr, request: &DecisionRequest) -> Result<Verdict, GuardUnavailable> {
    post(address, "/decide", serde_json::to_vec(request).unwrap_or_default()).await
}

async fn post<A: for<'a> Deserialize<'a>>(
    address: SocketAddr,
    path: &str,
    body: Vec<u8>,
) -> Result<A, GuardUnavailable> {
    let unavailable = |cause: String| GuardUnavailable { address, cause };
    let tcp = TcpStream::connect(address)
        .await
        .map_err(|error| unavailable(error.to_string()))?;
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(tcp))
        .await
        .map_err(|error| unavailable(error.to_string()))?;
    let driver = tokio::spawn(driver);
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(hyper::header::HOST, address.to_string())
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| unavailable(error.to_string()))?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| unavailable(error.to_string()))?;
    let body = Limited::new(response.into_body(), MAX_ANSWER)
        .collect()
        .await
        .map_err(|error| unavailable(error.to_string()))?
        .to_bytes();
    driver.abort();
    serde_json::from_slice(&body).map_err(|error| unavailable(format!("{error}: {}", String::from_utf8_lossy(&body))))
}
