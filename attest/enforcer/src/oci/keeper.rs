//! A small process beside each container: it ends the container should the guard fall silent.
//!
//! The guard ends what lost its authorization; who ends it where the guard itself was killed, or hangs? The keeper holds the
//! container's first process and its group, listens to the guard, and lets the container live for exactly as long as the
//! guard's last word allows: as long as its trust state was fresh then. A guard that comes back within that time (an
//! upgrade) is told of the container anew, and decides anew.

use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines, Take};
use tokio::net::UnixStream;

use super::cgroup::Cgroup;
use super::process::Process;
use super::protocol::{MAX_LINE, Said, Watch};
use super::reason::{ContainerCode, ContainerRefused};
use crate::clock;

/// How long the first answer may take: the agent's TPM signs, and the guard looks at the container.
pub const FIRST_WORD: Duration = Duration::from_secs(11);
/// How soon a guard that is away is tried again, and how closely time is watched.
const RETRY: Duration = Duration::from_millis(25);
/// How much longer than the guard's last word the keeper waits: a guard that lives acts first, and tells of it. Within what
/// the published bound leaves beside the freshness window (`docs/protocol.md`, "timers": window + 100 ms).
const GRACE_MS: u64 = 60;
/// The longest word that is believed: ten times the standard window. A guard that says more is not one of this version.
const LONGEST_WORD_MS: u64 = 100_000;

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// By itself.
    Ended,
    /// The guard refused, or took the right away: every reason.
    Refused(Vec<String>),
    /// The guard fell silent.
    Silence,
}

type Heard = Lines<BufReader<Take<UnixStream>>>;

/// Asks the guard at `socket`, tells `first` what it said first, and keeps the container until it has ended.
///
/// # Errors
/// [`ContainerRefused`] where the container is not as it must be. It is then left to who asked.
pub async fn keep(
    socket: &Path,
    asked: &Watch,
    first: impl FnOnce(&Said) -> std::io::Result<()>,
) -> Result<Kept, ContainerRefused> {
    asked.scope()?;
    let process = Process::open(asked.pid, Some(asked.start))?;
    let cgroup = Cgroup::of(&process)?;
    let begun = tokio::time::timeout(FIRST_WORD, begin(socket, asked)).await;
    let (mut heard, said) = begun
        .map_err(|_| {
            ContainerRefused::new(
                ContainerCode::GuardUnavailable,
                format!("no answer within {FIRST_WORD:?}"),
            )
        })?
        .map_err(|error| ContainerRefused::new(ContainerCode::GuardUnavailable, error))?;
    let mut until_ms = match lives_until(&said) {
        Ok(until_ms) => until_ms,
        Err(reasons) => {
            let _ = first(&said);
            return Ok(Kept::Refused(reasons));
        }
    };
    if first(&said).is_err() {
        // Whoever asked has gone, and with that nobody starts the container.
        end(&process, &cgroup).await;
        return Ok(Kept::Silence);
    }
    loop {
        let word = tokio::select! {
            () = process.ended() => return Ok(Kept::Ended),
            word = next(&mut heard) => word,
            () = until(until_ms) => None,
        };
        let word = match word {
            Some(said) => Some(said),
            None => {
                tokio::select! {
                    () = process.ended() => return Ok(Kept::Ended),
                    again = again(socket, asked) => {
                        heard = again.0;
                        Some(again.1)
                    }
                    () = until(until_ms) => None,
                }
            }
        };
        match word.as_ref().map(lives_until) {
            Some(Ok(next_ms)) => until_ms = next_ms,
            Some(Err(reasons)) => {
                end(&process, &cgroup).await;
                return Ok(Kept::Refused(reasons));
            }
            None => {
                end(&process, &cgroup).await;
                return Ok(Kept::Silence);
            }
        }
    }
}

async fn end(process: &Process, cgroup: &Cgroup) {
    process.kill();
    cgroup.kill().await;
}

/// Until when the container may live by this word, on the clock that also runs while the machine sleeps.
fn lives_until(said: &Said) -> Result<u64, Vec<String>> {
    match said {
        Said::Allowed { for_ms } | Said::Suspended { for_ms } => {
            Ok(clock::boot_ms().saturating_add((*for_ms).min(LONGEST_WORD_MS) + GRACE_MS))
        }
        Said::Refused { reasons, .. } => Err(reasons.clone()),
    }
}

/// Completes at `boot_ms`.
async fn until(boot_ms: u64) {
    while clock::boot_ms() < boot_ms {
        let left = Duration::from_millis(boot_ms.saturating_sub(clock::boot_ms()));
        tokio::time::sleep(left.min(RETRY)).await;
    }
}

/// Connects and asks; gives the first word.
async fn begin(socket: &Path, asked: &Watch) -> std::io::Result<(Heard, Said)> {
    let mut stream = UnixStream::connect(socket).await?;
    let mut line = serde_json::to_vec(asked)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let limit = MAX_LINE.try_into().unwrap_or(u64::MAX);
    let mut heard = BufReader::new(stream.take(limit)).lines();
    match next(&mut heard).await {
        Some(said) => Ok((heard, said)),
        None => Err(std::io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Tries for as long as it takes.
async fn again(socket: &Path, asked: &Watch) -> (Heard, Said) {
    loop {
        if let Ok(Ok(begun)) = tokio::time::timeout(FIRST_WORD, begin(socket, asked)).await {
            return begun;
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// The next word; nothing where the guard is gone, or says what is none.
async fn next(heard: &mut Heard) -> Option<Said> {
    let line = heard.next_line().await.ok()??;
    // The limit is for one line, not for a connection.
    heard
        .get_mut()
        .get_mut()
        .set_limit(MAX_LINE.try_into().unwrap_or(u64::MAX));
    serde_json::from_str(&line).ok()
}
