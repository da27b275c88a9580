//! Commands to a broker on the same machine, over its Unix socket.

use std::path::Path;

use serde_json::Value;
use touchstone_attest::local;

use crate::output::Failure;
use crate::runtime;

/// The broker's socket in its data directory.
const SOCKET: &str = "admin.sock";

/// Asks the broker whose data is in `data`; gives the body of a good answer.
pub fn get(data: &Path, path: &str) -> Result<Vec<u8>, Failure> {
    ask(data, "GET", path, Vec::new())
}

/// Sends a command to the broker whose data is in `data`.
pub fn post(data: &Path, path: &str, body: &Value) -> Result<Value, Failure> {
    Ok(serde_json::from_slice(&ask(
        data,
        "POST",
        path,
        body.to_string().into_bytes(),
    )?)?)
}

/// Sends a command whose body is bytes, not JSON; gives the body of a good answer.
pub fn post_bytes(data: &Path, path: &str, body: Vec<u8>) -> Result<Vec<u8>, Failure> {
    ask(data, "POST", path, body)
}

fn ask(data: &Path, method: &'static str, path: &str, body: Vec<u8>) -> Result<Vec<u8>, Failure> {
    let socket = data.join(SOCKET);
    let (status, body) = runtime::block_on(local::request(&socket, method, path, body))?.map_err(|error| {
        Failure::new(format!("{}: {error}", socket.display()))
            .hint("is `touchstone broker run` running with this data directory, and are you its owner?")
    })?;
    if status == 200 {
        return Ok(body);
    }
    let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
    let words = |key: &str| problem.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    Err(Failure::new(format!(
        "the broker refuses: {} {}",
        words("code"),
        words("detail")
    )))
}
