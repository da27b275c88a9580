//! The agent's Unix socket: local workloads and `touchstone agent status` ask here.
//!
//! One JSON object a line in, one out. The socket has mode 0600 and every peer's user is checked by the kernel's word
//! (`SO_PEERCRED`), so only processes of the agent's own user, or root, are served. Identifying single workloads, and
//! authorizations of their own, come with part 5 of the plan.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use touchstone_authorization::Scope;
use zeroize::Zeroizing;

use super::desk::Desk;
use super::foreign::Abroad;
use super::release::{Fetched, KeyWanted};
use super::standing::Standing;

/// The longest request.
const MAX_REQUEST: u64 = 4096;

/// What a local process may ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// In what state is this node?
    Status,
    /// The authorization and a proof of possession for one enforcer, one challenge, one action, one resource.
    Present {
        /// The enforcer's id.
        audience: String,
        /// The enforcer's challenge, hexadecimal.
        challenge: String,
        /// What is to be done.
        action: String,
        /// To what.
        resource: String,
    },
    /// The same for an enforcer of another domain: an authorization that counts there is fetched from the broker.
    #[serde(rename = "present-in")]
    PresentIn {
        /// The other domain.
        domain: String,
        /// The enforcer's id.
        audience: String,
        /// The enforcer's challenge, hexadecimal.
        challenge: String,
        /// What is to be done.
        action: String,
        /// To what.
        resource: String,
    },
    /// A key, fetched from the broker and opened by this node's receive key.
    Key {
        /// Its name.
        key: String,
        /// The version; none for the newest.
        #[serde(default)]
        version: Option<u64>,
        /// The resource it is filed under.
        resource: String,
    },
}

/// A secret on its way through the socket: base64, wiped when dropped, never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(pub Zeroizing<String>);

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretText")
    }
}

impl Serialize for SecretText {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Response {
    /// To [`Request::Present`].
    Presentation {
        /// The authorization, base64.
        authorization: String,
        /// The proof of possession, base64.
        proof: String,
    },
    /// To [`Request::Key`].
    Key {
        /// The key's name.
        key: String,
        /// The version.
        version: u64,
        /// When its holder must drop it, Unix seconds.
        ends: Option<i64>,
        /// Digest of the statement in the ledger, hexadecimal.
        statement: String,
        /// The secret, base64.
        secret: SecretText,
    },
    /// To anything that cannot be done.
    Error {
        /// In words.
        error: String,
    },
    /// To [`Request::Status`]: the [`Standing`] as JSON, with when the authorization ends.
    Status(serde_json::Value),
}

/// Serves requests until dropped. Removes a stale socket file first and its own at the end.
#[derive(Debug)]
pub struct AgentSocket {
    path: PathBuf,
    task: tokio::task::JoinHandle<()>,
}

impl AgentSocket {
    /// Binds `path` and serves.
    ///
    /// # Errors
    /// The operating system's, naming nothing but its kind.
    pub fn bind(path: &Path, desk: Arc<Desk>) -> std::io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let desk = Arc::clone(&desk);
                tokio::spawn(async move {
                    // A peer that goes away mid-sentence concerns nobody else.
                    let _ = serve(stream, &desk).await;
                });
            }
        });
        Ok(Self {
            path: path.to_owned(),
            task,
        })
    }
}

impl Drop for AgentSocket {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn serve(mut stream: UnixStream, desk: &Desk) -> std::io::Result<()> {
    let peer = stream.peer_cred()?.uid();
    if peer != 0 && peer != rustix::process::getuid().as_raw() {
        return Ok(());
    }
    let (reader, mut writer) = stream.split();
    let mut lines = BufReader::new(reader.take(MAX_REQUEST)).lines();
    while let Some(line) = lines.next_line().await? {
        let response = match serde_json::from_str(&line) {
            Ok(request) => answer(request, desk).await,
            Err(error) => Response::Error {
                error: error.to_string(),
            },
        };
        let line = Zeroizing::new(serde_json::to_vec(&response).unwrap_or_default());
        writer.write_all(&line).await?;
        writer.write_all(b"\n").await?;
        // The limit is for one request, not for a connection.
        lines.get_mut().get_mut().set_limit(MAX_REQUEST);
    }
    Ok(())
}

async fn answer(request: Request, desk: &Desk) -> Response {
    match request {
        Request::Status => Response::Status(status(&desk.standing())),
        Request::Key { key, version, resource } => {
            let wanted = KeyWanted { key, version, resource };
            match desk.fetch(&wanted).await {
                Ok(Fetched { key, statement }) => Response::Key {
                    version: key.version,
                    ends: key.ends,
                    statement: hex::encode(statement),
                    secret: SecretText(Zeroizing::new(STANDARD.encode(&key.secret))),
                    key: key.name,
                },
                Err(error) => Response::Error {
                    error: error.to_string(),
                },
            }
        }
        Request::PresentIn {
            domain,
            audience,
            challenge,
            action,
            resource,
        } => {
            let scope = Scope::parse(&format!("{action}:{resource}"));
            let (Ok(challenge), Ok(scope)) = (hex::decode(&challenge), scope) else {
                return Response::Error {
                    error: "the challenge is not hexadecimal, or action and resource are no scope".into(),
                };
            };
            let abroad = Abroad {
                domain,
                audience,
                challenge,
                scope,
            };
            match desk.present_in(abroad).await {
                Ok(presentation) => Response::Presentation {
                    authorization: STANDARD.encode(presentation.authorization),
                    proof: STANDARD.encode(presentation.proof),
                },
                Err(error) => Response::Error {
                    error: error.to_string(),
                },
            }
        }
        Request::Present {
            audience,
            challenge,
            action,
            resource,
        } => {
            let Ok(challenge) = hex::decode(&challenge) else {
                return Response::Error {
                    error: "the challenge is not hexadecimal".into(),
                };
            };
            match desk.present(&audience, challenge, &action, &resource).await {
                Ok(presentation) => Response::Presentation {
                    authorization: STANDARD.encode(presentation.authorization),
                    proof: STANDARD.encode(presentation.proof),
                },
                Err(error) => Response::Error {
                    error: error.to_string(),
                },
            }
        }
    }
}

fn status(standing: &Standing) -> serde_json::Value {
    serde_json::to_value(standing).unwrap_or_default()
}

/// Asks an agent over its socket.
///
/// # Errors
/// The operating system's; `InvalidData` for an answer that is none.
pub async fn ask(path: &Path, request: &Request) -> std::io::Result<Response> {
    let mut stream = UnixStream::connect(path).await?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut answer = Zeroizing::new(String::new());
    BufReader::new(stream.take(64 * 1024)).read_line(&mut answer).await?;
    Ok(serde_json::from_str(&answer)?)
}
