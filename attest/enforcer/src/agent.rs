//! Asking the agent of this node, over its Unix socket: one JSON object a line each way. The agent knows who asks by what the
//! kernel says of the caller.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

/// The largest answer that is read.
const MAX_ANSWER: u64 = 64 * 1024;
/// How long the agent may take: a TPM signs, and other callers may be before this one.
const PATIENCE: Duration = Duration::from_secs(10);

/// An authorization (or chain) and a fresh proof that its key is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presentation {
    /// The authorization's bytes.
    pub authorization: Vec<u8>,
    /// The proof's bytes.
    pub proof: Vec<u8>,
}

/// Why there is none. Whoever asked has nothing to show, and is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The agent could not be asked.
    #[error("agent {}: {cause}", socket.display())]
    Unavailable {
        /// Its socket.
        socket: PathBuf,
        /// Why.
        cause: String,
    },
    /// The agent has nothing to present.
    #[error("agent: {0}")]
    Refused(String),
}

#[derive(Serialize)]
struct Present<'a> {
    op: &'static str,
    audience: &'a str,
    challenge: String,
    action: &'a str,
    resource: &'a str,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Presentation { authorization: String, proof: String },
    Error { error: String },
}

/// Has the agent at `socket` present what this node holds, for `action` on `resource` at the enforcer `audience`.
///
/// # Errors
/// [`AgentError`]
pub async fn present(
    socket: &Path,
    audience: &str,
    challenge: &[u8],
    (action, resource): (&str, &str),
) -> Result<Presentation, AgentError> {
    let unavailable = |cause: String| AgentError::Unavailable {
        socket: socket.to_owned(),
        cause,
    };
    let request = Present {
        op: "present",
        audience,
        challenge: hex::encode(challenge),
        action,
        resource,
    };
    let mut line = serde_json::to_vec(&request).map_err(|error| unavailable(error.to_string()))?;
    line.push(b'\n');
    let asked = tokio::time::timeout(PATIENCE, ask(socket, &line)).await;
    let answer = asked
        .map_err(|_| unavailable(format!("no answer within {PATIENCE:?}")))?
        .map_err(|error| unavailable(error.to_string()))?;
    match serde_json::from_str(&answer).map_err(|error| unavailable(error.to_string()))? {
        Answer::Error { error } => Err(AgentError::Refused(error)),
        Answer::Presentation { authorization, proof } => {
            let decode = |text: &str| STANDARD.decode(text).map_err(|error| unavailable(error.to_string()));
            Ok(Presentation {
                authorization: decode(&authorization)?,
                proof: decode(&proof)?,
            })
        }
    }
}

async fn ask(socket: &Path, line: &[u8]) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(line).await?;
    let mut answer = String::new();
    BufReader::new(stream.take(MAX_ANSWER)).read_line(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    async fn answered_with(answer: &'static [u8]) -> Result<Presentation, AgentError> {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let agent = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = String::new();
            BufReader::new(&mut stream).read_line(&mut asked).await.unwrap();
            stream.write_all(answer).await.unwrap();
            asked
        };
        let (presented, asked) = tokio::join!(present(&socket, "exec", &[0xab; 2], ("execute", "a")), agent);
        let asked: serde_json::Value = serde_json::from_str(&asked).unwrap();
        let expected = serde_json::json!({
            "op": "present", "audience": "exec", "challenge": "abab", "action": "execute", "resource": "a",
        });
        assert_eq!(asked, expected);
        presented
    }

    #[tokio::test]
    async fn what_is_no_presentation_presents_nothing() {
        let good = answered_with(b"{\"authorization\":\"AQ==\",\"proof\":\"Ag==\"}\n")
            .await
            .unwrap();
        assert_eq!((good.authorization, good.proof), (vec![1], vec![2]));
        let refused = answered_with(b"{\"error\":\"this node holds no authorization\"}\n").await;
        assert_eq!(
            refused,
            Err(AgentError::Refused("this node holds no authorization".into()))
        );
        for (name, answer) in [
            ("nothing", &b""[..]),
            ("half", b"{\"authorization\":\"AQ==\""),
            ("no proof", b"{\"authorization\":\"AQ==\"}\n"),
            ("not base64", b"{\"authorization\":\"?\",\"proof\":\"Ag==\"}\n"),
            ("not text", b"\xff\xfe\n"),
        ] {
            let got = answered_with(answer).await;
            assert!(matches!(got, Err(AgentError::Unavailable { .. })), "{name}: {got:?}");
        }
        let nowhere = present(Path::new("/no/such/socket"), "exec", &[], ("execute", "a")).await;
        assert!(matches!(nowhere, Err(AgentError::Unavailable { .. })));
    }
}
