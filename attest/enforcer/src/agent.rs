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

/// Whose authorization is presented.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Holder {
    /// The node's own.
    #[default]
    Node,
    /// That of whoever asks, below the node's: a rule of the agent says who may be called so.
    Workload {
        /// What it is called.
        label: String,
        /// What it is for.
        purpose: Option<String>,
    },
}

/// To whom something is presented, and for what.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The enforcer's id.
    pub audience: &'a str,
    /// Its challenge.
    pub challenge: &'a [u8],
    /// What is to be done.
    pub action: &'a str,
    /// To what.
    pub resource: &'a str,
}

#[derive(Serialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
enum Question<'a> {
    Present(Presenting<'a>),
    WorkloadPresent {
        label: &'a str,
        #[serde(flatten)]
        presenting: Presenting<'a>,
    },
    Workload {
        label: &'a str,
        scopes: [String; 1],
        #[serde(skip_serializing_if = "Option::is_none")]
        purpose: Option<&'a str>,
    },
}

#[derive(Serialize)]
struct Presenting<'a> {
    audience: &'a str,
    challenge: String,
    action: &'a str,
    resource: &'a str,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Presentation { authorization: String, proof: String },
    Workload { subject: String },
    Error { error: String },
}

/// Has the agent at `socket` get or renew the authorization of its caller, for `action` on `resource`, where `holder` is a
/// workload. The node's own is renewed by its agent.
///
/// # Errors
/// [`AgentError`]
pub async fn renew(socket: &Path, holder: &Holder, (action, resource): (&str, &str)) -> Result<(), AgentError> {
    let Holder::Workload { label, purpose } = holder else {
        return Ok(());
    };
    let question = Question::Workload {
        label,
        scopes: [format!("{action}:{resource}")],
        purpose: purpose.as_deref(),
    };
    match ask(socket, &question).await? {
        Answer::Workload { subject } => {
            tracing::debug!(target: "touchstone::exec", subject, "an authorization of its own");
            Ok(())
        }
        Answer::Error { error } => Err(AgentError::Refused(error)),
        Answer::Presentation { .. } => Err(unavailable(socket, &"another answer than was asked for")),
    }
}

/// Has the agent at `socket` present what `holder` holds.
///
/// # Errors
/// [`AgentError`]
pub async fn present(socket: &Path, holder: &Holder, wanted: &Wanted<'_>) -> Result<Presentation, AgentError> {
    let presenting = Presenting {
        audience: wanted.audience,
        challenge: hex::encode(wanted.challenge),
        action: wanted.action,
        resource: wanted.resource,
    };
    let question = match holder {
        Holder::Node => Question::Present(presenting),
        Holder::Workload { label, .. } => Question::WorkloadPresent { label, presenting },
    };
    match ask(socket, &question).await? {
        Answer::Error { error } => Err(AgentError::Refused(error)),
        Answer::Workload { .. } => Err(unavailable(socket, &"another answer than was asked for")),
        Answer::Presentation { authorization, proof } => {
            let decode = |text: &str| STANDARD.decode(text).map_err(|error| unavailable(socket, &error));
            Ok(Presentation {
                authorization: decode(&authorization)?,
                proof: decode(&proof)?,
            })
        }
    }
}

fn unavailable(socket: &Path, cause: &dyn std::fmt::Display) -> AgentError {
    AgentError::Unavailable {
        socket: socket.to_owned(),
        cause: cause.to_string(),
    }
}

async fn ask(socket: &Path, question: &Question<'_>) -> Result<Answer, AgentError> {
    let mut line = serde_json::to_vec(question).map_err(|error| unavailable(socket, &error))?;
    line.push(b'\n');
    let asked = tokio::time::timeout(PATIENCE, exchange(socket, &line)).await;
    let answer = asked
        .map_err(|_| unavailable(socket, &format_args!("no answer within {PATIENCE:?}")))?
        .map_err(|error| unavailable(socket, &error))?;
    serde_json::from_str(&answer).map_err(|error| unavailable(socket, &error))
}

async fn exchange(socket: &Path, line: &[u8]) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(line).await?;
    let mut answer = String::new();
    BufReader::new(stream.take(MAX_ANSWER)).read_line(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use tokio::net::UnixListener;

    const WANTED: Wanted<'_> = Wanted {
        audience: "exec",
        challenge: &[0xab; 2],
        action: "execute",
        resource: "a",
    };

    /// What is asked, and what is made of this answer.
    async fn asked(
        holder: &Holder,
        renewing: bool,
        answer: &[u8],
    ) -> (Value, Result<Option<Presentation>, AgentError>) {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let agent = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = String::new();
            BufReader::new(&mut stream).read_line(&mut asked).await.unwrap();
            stream.write_all(answer).await.unwrap();
            serde_json::from_str(&asked).unwrap()
        };
        let asking = async {
            if renewing {
                renew(&socket, holder, ("execute", "a")).await.map(|()| None)
            } else {
                present(&socket, holder, &WANTED).await.map(Some)
            }
        };
        let (got, asked) = tokio::join!(asking, agent);
        (asked, got)
    }

    async fn answered_with(answer: &[u8]) -> Result<Presentation, AgentError> {
        let (question, got) = asked(&Holder::Node, false, answer).await;
        let expected = json!({
            "op": "present", "audience": "exec", "challenge": "abab", "action": "execute", "resource": "a",
        });
        assert_eq!(question, expected);
        got.map(|presented| presented.unwrap())
    }

    #[tokio::test]
    async fn a_workload_asks_for_its_own() {
        let holder = Holder::Workload {
            label: "reader".into(),
            purpose: Some("billing".into()),
        };
        let granted = b"{\"subject\":\"reader@node-1\",\"authorization\":\"AQ==\",\"expires\":1,\"entry\":[0,0,7],\"key_kind\":\"tpm\"}\n";
        let (question, got) = asked(&holder, true, granted).await;
        let expected = json!({ "op": "workload", "label": "reader", "scopes": ["execute:a"], "purpose": "billing" });
        assert_eq!((question, got), (expected, Ok(None)));
        let (question, got) = asked(&holder, false, b"{\"authorization\":\"AQ==\",\"proof\":\"Ag==\"}\n").await;
        let expected = json!({
            "op": "workload-present", "label": "reader",
            "audience": "exec", "challenge": "abab", "action": "execute", "resource": "a",
        });
        assert_eq!(question, expected);
        assert!(got.unwrap().is_some());
        let (_, got) = asked(&holder, true, b"{\"error\":\"no rule\"}\n").await;
        assert_eq!(got, Err(AgentError::Refused("no rule".into())));
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
        let nowhere = present(Path::new("/no/such/socket"), &Holder::Node, &WANTED).await;
        assert!(matches!(nowhere, Err(AgentError::Unavailable { .. })));
    }
}
