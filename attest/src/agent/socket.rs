//! The agent's Unix socket: local workloads and `touchstone agent status` ask here.
//!
//! One JSON object a line in, one out. The socket has mode 0600 and every peer's user is checked by the kernel's word
//! (`SO_PEERCRED`), so only processes of the agent's own user, or root, are served.
//!
//! A second socket, where there is one, is for workloads of any user. Only what a workload asks for itself is answered
//! there, and only to whom a rule of `agent.toml` names: [`super::caller`], [`super::workloads`].

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use touchstone_authorization::Scope;
use zeroize::Zeroizing;

use super::caller::{Caller, CallerError};
use super::desk::Desk;
use super::foreign::Abroad;
use super::release::{Fetched, KeyWanted};
use super::standing::Standing;
use super::workloads::{self, HandedOn, Tied, Wanted, WorkloadError};

/// The longest request.
const MAX_REQUEST: u64 = 8192;

/// Most connections at once on one socket.
const MAX_CONNECTIONS: usize = 256;

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
    /// An authorization of its own, for whoever asks; asked again it is renewed.
    Workload(Wanted),
    /// That authorization and a proof of possession, of a workload whose key the agent holds. Tied to the enforcer's
    /// challenge, or to one request by its digest.
    #[serde(rename = "workload-present")]
    WorkloadPresent {
        /// What it is called.
        label: String,
        /// The enforcer's id.
        audience: String,
        /// The enforcer's challenge, hexadecimal.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        challenge: Option<String>,
        /// SHA-256 of method, authority, path and body, hexadecimal; in the place of a challenge.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        request: Option<String>,
        /// What is to be done.
        action: String,
        /// To what.
        resource: String,
    },
    /// A key, for a workload whose own key the agent holds.
    #[serde(rename = "workload-key")]
    WorkloadKey {
        /// What it is called.
        label: String,
        /// The key's name.
        key: String,
        /// The version; none for the newest.
        #[serde(default)]
        version: Option<u64>,
        /// The resource it is filed under.
        resource: String,
    },
    /// A part of its rights for another key.
    #[serde(rename = "workload-delegate")]
    WorkloadDelegate {
        /// What it is called itself.
        label: String,
        /// What is handed on, and to whom.
        child: HandedOn,
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
    /// To [`Request::Workload`].
    Workload {
        /// What it is called: `<label>@<node>`.
        subject: String,
        /// The authorization, base64.
        authorization: String,
        /// When it ends, Unix seconds.
        expires: u64,
        /// Its entry: list, generation, index.
        entry: (u16, u32, u32),
        /// What keeps its key.
        key_kind: String,
    },
    /// To [`Request::WorkloadDelegate`].
    Chain {
        /// The chain that the child presents, base64.
        chain: String,
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
        Self::bind_for(path, desk, Audience::Owner)
    }

    /// The same for workloads of any user, who are given what rules say and nothing else.
    ///
    /// # Errors
    /// As [`AgentSocket::bind`].
    pub fn bind_for_workloads(path: &Path, desk: Arc<Desk>) -> std::io::Result<Self> {
        Self::bind_for(path, desk, Audience::Workloads)
    }

    fn bind_for(path: &Path, desk: Arc<Desk>, audience: Audience) -> std::io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(audience.mode()))?;
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Whoever is one too many is closed on: who waits for him is nobody.
                let Ok(room) = Arc::clone(&room).try_acquire_owned() else {
                    continue;
                };
                let desk = Arc::clone(&desk);
                tokio::spawn(async move {
                    // A peer that goes away mid-sentence concerns nobody else.
                    let _ = serve(stream, &desk, audience).await;
                    drop(room);
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

/// Whom a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Audience {
    /// The agent's own user, and root.
    Owner,
    /// Workloads.
    Workloads,
}

impl Audience {
    const fn mode(self) -> u32 {
        match self {
            Self::Owner => 0o600,
            Self::Workloads => 0o666,
        }
    }
}

async fn serve(stream: UnixStream, desk: &Desk, audience: Audience) -> std::io::Result<()> {
    let peer = stream.peer_cred()?.uid();
    if audience == Audience::Owner && peer != 0 && peer != rustix::process::getuid().as_raw() {
        return Ok(());
    }
    let stream = stream.into_std()?;
    let connection = Arc::new(stream.try_clone()?);
    let mut stream = UnixStream::from_std(stream)?;
    let (reader, mut writer) = stream.split();
    let mut lines = BufReader::new(reader.take(MAX_REQUEST)).lines();
    while let Some(line) = lines.next_line().await? {
        let response = match serde_json::from_str::<Request>(&line) {
            Ok(request) if audience == Audience::Owner || request.is_of_a_workload() => {
                answer(request, desk, &connection).await
            }
            Ok(_) => Response::Error {
                error: "this socket is for workloads: they ask for what is their own".into(),
            },
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

impl Request {
    /// Whether it is about whoever asks.
    const fn is_of_a_workload(&self) -> bool {
        matches!(
            self,
            Self::Workload(_) | Self::WorkloadPresent { .. } | Self::WorkloadDelegate { .. } | Self::WorkloadKey { .. }
        )
    }
}

async fn answer(request: Request, desk: &Desk, connection: &Arc<StdStream>) -> Response {
    match request {
        Request::Workload(wanted) => told(workload(desk, connection, wanted).await),
        Request::WorkloadPresent {
            label,
            audience,
            challenge,
            request,
            action,
            resource,
        } => {
            let scope = Scope::parse(&format!("{action}:{resource}"));
            let tied = match (challenge, request) {
                (Some(challenge), None) => hex::decode(challenge).ok().map(Tied::Challenge),
                (None, Some(digest)) => hex::decode(digest)
                    .ok()
                    .and_then(|digest| digest.try_into().ok())
                    .map(Tied::Request),
                _ => None,
            };
            let (Ok(scope), Some(tied)) = (scope, tied) else {
                let error = "action and resource are no scope, or not one of challenge and request is given";
                return Response::Error { error: error.into() };
            };
            let presented = async {
                let caller = identify(connection).await?;
                desk.present_workload(&caller, &label, &audience, (scope, tied)).await
            };
            told(presented.await.map(|presentation| Response::Presentation {
                authorization: STANDARD.encode(presentation.authorization),
                proof: STANDARD.encode(presentation.proof),
            }))
        }
        Request::WorkloadKey {
            label,
            key,
            version,
            resource,
        } => {
            let fetched = async {
                let caller = identify(connection).await?;
                desk.workload_key(&caller, &label, &KeyWanted { key, version, resource })
                    .await
            };
            told(fetched.await.map(released))
        }
        Request::WorkloadDelegate { label, child } => {
            let handed_on = async {
                let caller = identify(connection).await?;
                desk.hand_on(&caller, &label, &child).await
            };
            told(handed_on.await.map(|chain| Response::Chain {
                chain: STANDARD.encode(chain),
            }))
        }
        Request::Status => Response::Status(status(&desk.standing())),
        Request::Key { key, version, resource } => {
            let wanted = KeyWanted { key, version, resource };
            match desk.fetch(&wanted).await {
                Ok(fetched) => released(fetched),
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

fn released(Fetched { key, statement }: Fetched) -> Response {
    Response::Key {
        version: key.version,
        ends: key.ends,
        statement: hex::encode(statement),
        secret: SecretText(Zeroizing::new(STANDARD.encode(&key.secret))),
        key: key.name,
    }
}

async fn workload(desk: &Desk, connection: &Arc<StdStream>, wanted: Wanted) -> Result<Response, WorkloadError> {
    let caller = identify(connection).await?;
    let granted = desk.workload(&caller, wanted).await?;
    Ok(Response::Workload {
        subject: granted.contents.subject,
        authorization: STANDARD.encode(granted.authorization),
        expires: granted.contents.expires,
        entry: workloads::number(&granted.contents.status),
        key_kind: granted.contents.key_kind.as_str().to_owned(),
    })
}

/// Who asks; its executable may be large, so it is read where it holds nobody up.
async fn identify(connection: &Arc<StdStream>) -> Result<Caller, WorkloadError> {
    let connection = Arc::clone(connection);
    let identified = tokio::task::spawn_blocking(move || Caller::of(&*connection)).await;
    let unknown = |error: tokio::task::JoinError| CallerError::Unknown(error.to_string());
    Ok(identified.map_err(unknown)??)
}

fn told(answer: Result<Response, WorkloadError>) -> Response {
    answer.unwrap_or_else(|error| Response::Error {
        error: error.to_string(),
    })
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
