//! The guard's side: containers that run under an authorization of this node, each frozen while that is suspended and
//! ended when it is lost.
//!
//! A container is in for as long as its first process lives, whatever becomes of the connection that brought it: a keeper
//! that dies frees nobody. The other way round, a keeper that hears nothing of the guard ends its container itself.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use touchstone_authorization::Scope;

use super::cgroup::Cgroup;
use super::process::Process;
use super::protocol::{BEAT_MS, MAX_LINE, Said, Watch};
use super::reason::{ContainerCode, ContainerRefused};
use crate::agent::{Holder, Wanted};
use crate::clock;
use crate::guard::{Guard, Hold, Shown, Standing};

/// The most containers a guard watches over.
pub const MAX_CONTAINERS: usize = 1024;
/// The most connections at once: a keeper a container, and hooks of as many that are being created.
const MAX_CONNECTIONS: usize = 2 * MAX_CONTAINERS;
/// How long a connection may take to say which container it is about.
const PATIENCE: Duration = Duration::from_secs(5);
/// How soon it is tried again where no new authorization was to be had.
const RETRY: Duration = Duration::from_secs(1);

/// What became of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ContainerEvent {
    /// It may start.
    ContainerAdmitted {
        /// Its id.
        container: String,
        /// The authorization's subject.
        subject: String,
        /// The right.
        scope: String,
        /// Guard's wall clock, Unix milliseconds.
        at_ms: u64,
    },
    /// It may not.
    ContainerRefused {
        /// Its id, as far as it is one.
        container: String,
        /// Every reason, in words.
        reasons: Vec<String>,
        /// Guard's wall clock, Unix milliseconds.
        at_ms: u64,
    },
    /// It stands still.
    ContainerFrozen {
        /// Its id.
        container: String,
        /// Every reason, in words.
        reasons: Vec<String>,
        /// Guard's wall clock, Unix milliseconds.
        at_ms: u64,
    },
    /// It goes on.
    ContainerThawed {
        /// Its id.
        container: String,
        /// Guard's wall clock, Unix milliseconds.
        at_ms: u64,
    },
    /// All of it has been ended.
    ContainerKilled {
        /// Its id.
        container: String,
        /// Every reason, in words.
        reasons: Vec<String>,
        /// Guard's wall clock, Unix milliseconds.
        at_ms: u64,
    },
    /// It has ended by itself.
    ContainerEnded {
        /// Its id.
        container: String,
        /// Guard's wall clock, Unix milliseconds.
        at_ms: u64,
    },
}

/// Receives what became of containers.
pub type TellContainer = Arc<dyn Fn(ContainerEvent) + Send + Sync>;

/// Watches over containers.
pub struct Watchman {
    guard: Arc<Guard>,
    id: String,
    agent: PathBuf,
    tell: TellContainer,
    containers: Mutex<BTreeMap<String, Arc<Container>>>,
    leaving: AtomicBool,
}

/// One that is in.
struct Container {
    id: String,
    scope: Scope,
    process: Process,
    cgroup: Cgroup,
    hold: Hold,
}

impl Watchman {
    /// One that asks `guard`, whose id is `id`, with what the node's agent behind `agent` presents.
    #[must_use]
    pub fn new(guard: Arc<Guard>, id: &str, agent: &Path, tell: TellContainer) -> Arc<Self> {
        Arc::new(Self {
            guard,
            id: id.to_owned(),
            agent: agent.to_owned(),
            tell,
            containers: Mutex::default(),
            leaving: AtomicBool::new(false),
        })
    }

    /// Lets go of all containers without ending them: another guard is about to take over. Their keepers end them where
    /// none does in time.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::SeqCst);
    }

    /// How many are in.
    #[must_use]
    pub fn len(&self) -> usize {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Serves keepers at `socket` (mode 0600) for ever. Only this process's own user and root are heard.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn serve(self: Arc<Self>, socket: &Path) -> std::io::Result<std::convert::Infallible> {
        let listener = bind(socket)?;
        let _removed = Removed(socket.to_owned());
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of descriptors: those who wait are refused by their own patience.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
                continue;
            };
            let own = Arc::clone(&self);
            tokio::spawn(async move {
                // A keeper that goes away concerns nobody else.
                let _ = own.converse(stream).await;
                drop(place);
            });
        }
    }

    async fn converse(self: Arc<Self>, mut stream: UnixStream) -> std::io::Result<()> {
        let peer = stream.peer_cred()?.uid();
        if peer != 0 && peer != rustix::process::geteuid().as_raw() {
            return Ok(());
        }
        let (reader, mut writer) = stream.split();
        let mut line = String::new();
        let mut reader = BufReader::new(reader.take(MAX_LINE.try_into().unwrap_or(u64::MAX)));
        let Ok(read) = tokio::time::timeout(PATIENCE, reader.read_line(&mut line)).await else {
            return Ok(());
        };
        read?;
        let container = match self.take_in(&line).await {
            Ok(container) => container,
            Err(said) => return say(&mut writer, &said).await,
        };
        let mut standing = container.hold.standing();
        let mut beat = tokio::time::interval(Duration::from_millis(BEAT_MS));
        loop {
            if self.leaving.load(Ordering::SeqCst) {
                return Ok(());
            }
            let said = self.said(&container.hold.now());
            say(&mut writer, &said).await?;
            if matches!(said, Said::Refused { .. }) || !container.process.is_alive() {
                return Ok(());
            }
            tokio::select! {
                _ = beat.tick() => {}
                changed = standing.changed() => if changed.is_err() {
                    return Ok(());
                },
            }
        }
    }

    fn said(&self, standing: &Standing) -> Said {
        let fresh_ms = self.guard.fresh_for_ms();
        match standing {
            Standing::Allowed { until_ms } => Said::Allowed {
                for_ms: fresh_ms.min(self.guard.runs_out_in_ms(*until_ms)),
            },
            Standing::Suspended { .. } => Said::Suspended { for_ms: fresh_ms },
            Standing::Lost { reasons } => Said::Refused {
                codes: reasons.iter().map(|reason| reason.code.as_str().to_owned()).collect(),
                reasons: reasons.iter().map(ToString::to_string).collect(),
            },
        }
    }

    /// Lets a container in that a keeper asks for, or finds it where it is in already.
    async fn take_in(self: &Arc<Self>, line: &str) -> Result<Arc<Container>, Said> {
        let asked: Watch = serde_json::from_str(line).map_err(|error| {
            let refused = ContainerRefused::new(ContainerCode::StateMalformed, error);
            Said::refused(&refused)
        })?;
        let taken = self.admit(&asked).await;
        match &taken {
            Ok((container, true)) => {
                (self.tell)(ContainerEvent::ContainerAdmitted {
                    container: container.id.clone(),
                    subject: container.hold.admitted().subject.clone(),
                    scope: container.scope.to_string(),
                    at_ms: clock::wall_ms(),
                });
                tokio::spawn(Arc::clone(self).watch(Arc::clone(container)));
            }
            Ok((_, false)) => {}
            Err(said) => {
                let reasons = match said {
                    Said::Refused { reasons, .. } => reasons.clone(),
                    _ => Vec::new(),
                };
                // Only what is an id is written where people read.
                let container = asked.scope().map_or_else(|_| "?".into(), |_| asked.container.clone());
                (self.tell)(ContainerEvent::ContainerRefused {
                    container,
                    reasons,
                    at_ms: clock::wall_ms(),
                });
            }
        }
        taken.map(|(container, _)| container)
    }

    /// The container, and whether it is new.
    async fn admit(&self, asked: &Watch) -> Result<(Arc<Container>, bool), Said> {
        let refused = |why: ContainerRefused| Said::refused(&why);
        let scope = asked.scope().map_err(refused)?;
        if let Some(known) = self.known(asked, &scope).map_err(refused)? {
            return Ok((known, false));
        }
        let process = Process::open(asked.pid, Some(asked.start)).map_err(refused)?;
        process.is_init_of_its_own().map_err(refused)?;
        let cgroup = Cgroup::of(&process).map_err(refused)?;
        let hold = self.held(&scope).await?;
        let container = Arc::new(Container {
            id: asked.container.clone(),
            scope,
            process,
            cgroup,
            hold,
        });
        let mut all = self.containers.lock().unwrap_or_else(PoisonError::into_inner);
        if all.contains_key(&container.id) {
            let found = "one that came at the same time";
            return Err(refused(ContainerRefused::new(ContainerCode::Known, found)));
        }
        if all.len() >= MAX_CONTAINERS {
            return Err(refused(ContainerRefused::new(ContainerCode::Full, all.len())));
        }
        all.insert(container.id.clone(), Arc::clone(&container));
        Ok((container, true))
    }

    /// The same container, where it is in; another one of its id refuses.
    fn known(&self, asked: &Watch, scope: &Scope) -> Result<Option<Arc<Container>>, ContainerRefused> {
        let all = self.containers.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = all.get(&asked.container) else {
            return Ok(None);
        };
        let process = (known.process.pid(), known.process.start());
        if process == (asked.pid, asked.start) && known.scope == *scope {
            return Ok(Some(Arc::clone(known)));
        }
        Err(ContainerRefused::new(
            ContainerCode::Known,
            format!("process {}", process.0),
        ))
    }

    async fn held(&self, scope: &Scope) -> Result<Hold, Said> {
        let hold = self.with_proof(scope, |shown| self.guard.hold(shown)).await?;
        hold.map_err(|reasons| Said::Refused {
            codes: reasons.iter().map(|reason| reason.code.as_str().to_owned()).collect(),
            reasons: reasons.iter().map(ToString::to_string).collect(),
        })
    }

    /// Has the agent answer a fresh challenge, and shows that to `show`.
    async fn with_proof<T>(&self, scope: &Scope, show: impl FnOnce(&Shown<'_>) -> T) -> Result<T, Said> {
        let refused = |code, error: &dyn std::fmt::Display| Said::refused(&ContainerRefused::new(code, error));
        let challenge = self
            .guard
            .own_challenge()
            .map_err(|error| refused(ContainerCode::GuardUnavailable, &error))?;
        let right = (scope.action().as_str(), scope.resource());
        let wanted = Wanted {
            audience: &self.id,
            challenge: &challenge,
            action: right.0,
            resource: right.1,
        };
        let presented = crate::agent::present(&self.agent, &Holder::Node, &wanted).await;
        let presented = presented.map_err(|error| refused(ContainerCode::AgentUnavailable, &error))?;
        Ok(show(&Shown {
            authorization: &presented.authorization,
            proof: &presented.proof,
            challenge: &challenge,
            action: right.0,
            resource: right.1,
        }))
    }

    /// Freezes, thaws, renews and at last ends one container.
    async fn watch(self: Arc<Self>, container: Arc<Container>) {
        let renewing = tokio::spawn(Arc::clone(&self).renew(Arc::clone(&container)));
        let mut standing = container.hold.standing();
        let mut frozen = false;
        let event = loop {
            match container.hold.now() {
                Standing::Allowed { .. } if frozen => {
                    match container.cgroup.thaw() {
                        Ok(()) => {
                            frozen = false;
                            (self.tell)(ContainerEvent::ContainerThawed {
                                container: container.id.clone(),
                                at_ms: clock::wall_ms(),
                            });
                        }
                        // Its group has gone, and it with it.
                        Err(error) => tracing::warn!(target: "touchstone::oci", %error, "a container does not thaw"),
                    }
                }
                Standing::Suspended { reasons } if !frozen => {
                    let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
                    if let Err(error) = container.cgroup.freeze().await {
                        if !container.process.is_alive() {
                            break self.ended(&container).await;
                        }
                        // What cannot be made to stand still must not go on.
                        break self
                            .end(
                                &container,
                                [reasons, vec![format!("it cannot be frozen: {error}")]].concat(),
                            )
                            .await;
                    }
                    frozen = true;
                    (self.tell)(ContainerEvent::ContainerFrozen {
                        container: container.id.clone(),
                        reasons,
                        at_ms: clock::wall_ms(),
                    });
                }
                Standing::Lost { .. } if self.leaving.load(Ordering::SeqCst) => return,
                Standing::Lost { reasons } => {
                    break self
                        .end(&container, reasons.iter().map(ToString::to_string).collect())
                        .await;
                }
                _ => {}
            }
            tokio::select! {
                () = container.process.ended() => break self.ended(&container).await,
                // A guard that is gone is a loss, and is found at the next look.
                _ = standing.changed() => {}
            }
        };
        renewing.abort();
        if self.leaving.load(Ordering::SeqCst) {
            return;
        }
        let mut all = self.containers.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&container.id);
        drop(all);
        (self.tell)(event);
    }

    async fn end(&self, container: &Container, reasons: Vec<String>) -> ContainerEvent {
        container.process.kill();
        container.cgroup.kill().await;
        ContainerEvent::ContainerKilled {
            container: container.id.clone(),
            reasons,
            at_ms: clock::wall_ms(),
        }
    }

    /// Its init ended, and with that its PID namespace; what a runtime put into its group from outside is ended too.
    async fn ended(&self, container: &Container) -> ContainerEvent {
        if let Standing::Lost { reasons } = container.hold.now() {
            // Its keeper was quicker.
            return self
                .end(container, reasons.iter().map(ToString::to_string).collect())
                .await;
        }
        container.cgroup.kill().await;
        ContainerEvent::ContainerEnded {
            container: container.id.clone(),
            at_ms: clock::wall_ms(),
        }
    }

    /// Shows a newer authorization before the one that is held runs out, for ever.
    async fn renew(self: Arc<Self>, container: Arc<Container>) {
        loop {
            let pause = match container.hold.now() {
                Standing::Allowed { until_ms } => Duration::from_millis(self.guard.runs_out_in_ms(until_ms) / 2),
                Standing::Suspended { .. } => RETRY,
                Standing::Lost { .. } => return,
            };
            let mut standing = container.hold.standing();
            standing.mark_unchanged();
            let _ = tokio::time::timeout(pause.max(RETRY / 10), standing.changed()).await;
            let extended = self
                .with_proof(&container.scope, |shown| self.guard.extend(&container.hold, shown))
                .await;
            if !matches!(extended, Ok(Ok(_))) {
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn bind(socket: &Path) -> std::io::Result<UnixListener> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn say(writer: &mut (impl tokio::io::AsyncWrite + Unpin), said: &Said) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(said)?;
    line.push(b'\n');
    writer.write_all(&line).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::alone;

    #[tokio::test]
    async fn challenges_that_others_hold_open_do_not_keep_a_container_from_renewing() {
        let guard = alone::guard();
        alone::flood(&guard);
        let watchman = Watchman::new(guard, "guard-1", Path::new("/nowhere/agent.sock"), Arc::new(|_| ()));
        let scope = Scope::parse("execute:search").unwrap();
        let Err(Said::Refused { codes, .. }) = watchman.with_proof(&scope, |_| ()).await else {
            unreachable!("there is no agent")
        };
        assert_eq!(codes, [ContainerCode::AgentUnavailable.as_str()]);
    }
}
