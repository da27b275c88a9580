//! The agent's Unix socket: local workloads and `touchstone agent status` ask here.
//!
//! One JSON object a line in, one out. The socket has mode 0600 and every peer's user is checked by the kernel's word
//! (`SO_PEERCRED`), so only processes of the agent's own user, or root, are served.
//!
//! A second socket, where there is one, is for workloads of any user. Only what a workload asks for itself is answered
//! there, and only to whom a rule of `agent.toml` names: [`super::caller`], [`super::workloads`]. A user whom no rule names
//! is closed on before anything is read, and one user has so many connections at most.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use touchstone_authorization::Scope;
use zeroize::Zeroizing;

use super::caller::{Caller, CallerError};
use super::desk::Desk;
use super::foreign::Abroad;
use super::release::{Fetched, KeyWanted};
use super::seats::{Places, Seats};
use super::standing::Standing;
use super::workloads::{self, HandedOn, Tied, Wanted, WorkloadError};

/// The longest request.
const MAX_REQUEST: u64 = 8192;

/// Most connections at once on one socket.
const MAX_CONNECTIONS: usize = 256;

/// Most connections of one user at once on the socket for workloads.
const MAX_CONNECTIONS_OF_ONE_USER: usize = 16;

/// How long a peer may take to send a whole line, and to take a whole answer. One that takes longer is closed on.
const LINE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long nobody is accepted after that has failed.
const ACCEPT_REST: Duration = Duration::from_millis(50);

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
        Self::bind_for(path, desk, Audience::Owner, LINE_TIMEOUT)
    }

    /// The same for workloads of any user, who are given what rules say and nothing else.
    ///
    /// # Errors
    /// As [`AgentSocket::bind`].
    pub fn bind_for_workloads(path: &Path, desk: Arc<Desk>) -> std::io::Result<Self> {
        Self::bind_for(path, desk, Audience::Workloads, LINE_TIMEOUT)
    }

    fn bind_for(path: &Path, desk: Arc<Desk>, audience: Audience, patience: Duration) -> std::io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(audience.mode()))?;
        let seats = Seats::new(audience.places());
        let listener = Arc::new(listener);
        let accept = move || {
            let listener = Arc::clone(&listener);
            async move { listener.accept().await.map(|(stream, _)| stream) }
        };
        let task = tokio::spawn(each_accepted(accept, move |stream| {
            // Whoever has nothing to ask here, or is one too many, is closed on at once.
            let peer = stream.peer_cred().map(|peer| peer.uid());
            let Some(peer) = peer.ok().filter(|peer| audience.serves(*peer, &desk)) else {
                return;
            };
            let Some(seat) = seats.take(peer) else {
                return;
            };
            let desk = Arc::clone(&desk);
            tokio::spawn(async move {
                // A peer that goes away mid-sentence concerns nobody else.
                let _ = serve(stream, &desk, audience, patience).await;
                drop(seat);
            });
        }));
        Ok(Self {
            path: path.to_owned(),
            task,
        })
    }
}

/// Accepts for ever. What fails passes (no descriptor is left for now): a socket that stayed closed after it would let the
/// rights of everybody who asks there run out.
async fn each_accepted<F: Future<Output = std::io::Result<UnixStream>>>(
    mut accept: impl FnMut() -> F,
    mut take: impl FnMut(UnixStream),
) {
    loop {
        match accept().await {
            Ok(stream) => take(stream),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_REST).await;
            }
        }
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

    const fn places(self) -> Places {
        let of_one = match self {
            Self::Owner => MAX_CONNECTIONS,
            Self::Workloads => MAX_CONNECTIONS_OF_ONE_USER,
        };
        Places {
            all: MAX_CONNECTIONS,
            of_one,
        }
    }

    /// Whether this user is answered at all.
    fn serves(self, uid: u32, desk: &Desk) -> bool {
        match self {
            Self::Owner => uid == 0 || uid == rustix::process::getuid().as_raw(),
            Self::Workloads => desk.has_rule_of(uid),
        }
    }
}

async fn serve(stream: UnixStream, desk: &Desk, audience: Audience, patience: Duration) -> std::io::Result<()> {
    let stream = stream.into_std()?;
    let connection = Arc::new(stream.try_clone()?);
    let mut stream = UnixStream::from_std(stream)?;
    let (reader, mut writer) = stream.split();
    let mut lines = BufReader::new(reader.take(MAX_REQUEST)).lines();
    while let Some(line) = timeout(patience, lines.next_line()).await?? {
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
        let mut line = Zeroizing::new(serde_json::to_vec(&response).unwrap_or_default());
        line.push(b'\n');
        timeout(patience, writer.write_all(&line)).await??;
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
    if answer.is_empty() {
        let closed = "closed without an answer: no rule of the agent is for this user, or it has too many connections";
        return Err(std::io::Error::new(std::io::ErrorKind::ConnectionAborted, closed));
    }
    Ok(serde_json::from_str(&answer)?)
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::time::Instant;

    use super::*;
    use crate::agent::config::AgentConfig;
    use crate::agent::owner::TpmOwner;
    use crate::agent::release::Releases;
    use crate::agent::state::StateDir;

    const PATIENCE: Duration = Duration::from_millis(300);
    /// The same where something is to be asked within it, on a machine however busy.
    const ROOMY: Duration = Duration::from_secs(3);
    /// In which everything here has happened long since.
    const LONG: Duration = Duration::from_secs(120);

    struct Served {
        folder: tempfile::TempDir,
        _socket: AgentSocket,
    }

    /// The socket for workloads of an agent with one rule, for a user.
    async fn served(uid: u32, patience: Duration) -> Served {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "brokers = [\"https://127.0.0.1:8443\"]\ndomain = \"demo.example\"\npolicy = \"/srv/policy\"\n\
             policy_root = \"/etc/root.json\"\nstate_dir = \"/var/lib/touchstone\"\n[tpm]\ntcti = \"swtpm:port=1\"\n\
             [[workloads.rule]]\nlabel = \"agent\"\nuid = {uid}\ncgroup = \"/agent\"\nscopes = [\"execute:a\"]\n"
        );
        let desk = Desk::new(TpmOwner::gone());
        desk.release_from(Releases {
            config: AgentConfig::parse(&text).unwrap(),
            state: StateDir::open(&folder.path().join("state")).unwrap(),
        });
        let path = folder.path().join("socket");
        let socket = AgentSocket::bind_for(&path, Arc::new(desk), Audience::Workloads, patience).unwrap();
        Served {
            folder,
            _socket: socket,
        }
    }

    impl Served {
        async fn connect(&self) -> UnixStream {
            UnixStream::connect(self.folder.path().join("socket")).await.unwrap()
        }
    }

    fn own() -> u32 {
        rustix::process::getuid().as_raw()
    }

    /// Waits until the agent has closed on it; what it said before.
    async fn closed(stream: &mut UnixStream) -> Vec<u8> {
        let mut said = Vec::new();
        if let Err(error) = timeout(LONG, stream.read_to_end(&mut said)).await.expect("closed") {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
        said
    }

    async fn is_answered(stream: &mut UnixStream) -> bool {
        if stream.write_all(b"{\"op\":\"status\"}\n").await.is_err() {
            return false;
        }
        let mut answer = String::new();
        let read = timeout(LONG, BufReader::new(stream).read_line(&mut answer)).await;
        read.expect("in time").is_ok() && answer.contains("this socket is for workloads")
    }

    #[tokio::test]
    async fn a_machine_without_descriptors_for_a_moment_closes_no_socket_for_good() {
        let mut queue = vec![
            Ok(UnixStream::pair().unwrap().0),
            Err(std::io::Error::from(nix::errno::Errno::ENFILE)),
            Err(std::io::Error::from(nix::errno::Errno::EMFILE)),
            Ok(UnixStream::pair().unwrap().0),
        ];
        let (took, mut taken) = tokio::sync::mpsc::unbounded_channel();
        let accept = || {
            let next = queue.pop();
            async move {
                match next {
                    Some(next) => next,
                    None => std::future::pending().await,
                }
            }
        };
        let accepting = each_accepted(accept, |stream| took.send(stream).unwrap());
        let both = async {
            for _ in 0..2 {
                assert!(taken.recv().await.is_some());
            }
        };
        tokio::select! {
            () = accepting => panic!("it accepts nobody any more"),
            both = timeout(LONG, both) => both.expect("the one after it"),
        }
    }

    #[tokio::test]
    async fn idle_connections_lock_nobody_out() {
        let served = served(own(), ROOMY).await;
        let mut idle = Vec::new();
        for _ in 0..MAX_CONNECTIONS_OF_ONE_USER {
            idle.push(served.connect().await);
        }
        assert_eq!(closed(&mut served.connect().await).await, b"", "one more of this user");
        for stream in &mut idle {
            assert_eq!(closed(stream).await, b"", "nothing was asked within the time");
        }
        // Asked within the time: once more where it was over before that.
        let begun = Instant::now();
        while !is_answered(&mut served.connect().await).await {
            assert!(begun.elapsed() < LONG, "locked out");
        }
    }

    #[tokio::test]
    async fn one_too_many_is_closed_on_and_the_others_go_on() {
        let served = served(own(), LONG * 10).await;
        let mut held = Vec::new();
        for _ in 0..MAX_CONNECTIONS_OF_ONE_USER {
            held.push(served.connect().await);
        }
        for _ in 0..3 {
            assert_eq!(closed(&mut served.connect().await).await, b"");
        }
        for stream in &mut held {
            assert!(is_answered(stream).await);
        }
    }

    #[tokio::test]
    async fn a_line_byte_by_byte_is_one_line_in_time() {
        let served = served(own(), PATIENCE).await;
        let mut stream = served.connect().await;
        let begun = Instant::now();
        while stream.write_all(b" ").await.is_ok() {
            assert!(begun.elapsed() < LONG, "each byte bought more time");
            tokio::time::sleep(PATIENCE / 10).await;
        }
    }

    #[tokio::test]
    async fn who_takes_no_answers_is_closed_on() {
        let served = served(own(), PATIENCE).await;
        let mut stream = served.connect().await;
        let asking = async { while stream.write_all(b"{\"op\":\"status\"}\n").await.is_ok() {} };
        timeout(LONG, asking).await.expect("closed on");
    }

    #[tokio::test]
    async fn a_user_without_a_rule_is_closed_on_unheard() {
        let served = served(own() + 1, LONG * 10).await;
        for _ in 0..MAX_CONNECTIONS + 1 {
            assert_eq!(closed(&mut served.connect().await).await, b"");
        }
        assert!(!is_answered(&mut served.connect().await).await);
        let refused = ask(&served.folder.path().join("socket"), &Request::Status)
            .await
            .unwrap_err();
        let told = [
            ErrorKind::ConnectionAborted,
            ErrorKind::ConnectionReset,
            ErrorKind::BrokenPipe,
        ];
        assert!(told.contains(&refused.kind()), "{refused}");
    }
}
