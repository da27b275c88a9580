//! One HTTP request over a Unix socket: how the command talks to a broker on the same machine.

use std::io::{Error, ErrorKind};
use std::path::Path;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::Request;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

/// The largest answer that is read.
const MAX_ANSWER: usize = 64 << 20;

/// Sends one request to the service behind `socket`; gives status and body.
///
/// # Errors
/// The operating system's, or `InvalidData` for an answer that is no HTTP or too long.
pub async fn request(socket: &Path, method: &str, path: &str, body: Vec<u8>) -> Result<(u16, Vec<u8>), Error> {
    let invalid = |error: String| Error::new(ErrorKind::InvalidData, error);
    let stream = UnixStream::connect(socket).await?;
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| invalid(e.to_string()))?;
    let driver = tokio::spawn(driver);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(hyper::header::HOST, "localhost")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| invalid(error.to_string()))?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| invalid(error.to_string()))?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), MAX_ANSWER)
        .collect()
        .await
        .map_err(|e| invalid(e.to_string()))?;
    driver.abort();
    Ok((status, body.to_bytes().into()))
}
