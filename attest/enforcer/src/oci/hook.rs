//! The hook itself: what a runtime runs as `createRuntime`, after the container's namespaces and group are made and before
//! anything of it runs. It judges the bundle, starts the keeper, and says what the guard said first: exit code 0 lets the
//! runtime go on, anything else makes it take the container down (OCI runtime specification 1.0.2, "Hooks").

use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use super::bundle::{self, Created, MAX_STATE};
use super::keeper::FIRST_WORD;
use super::process::start_of;
use super::protocol::{MAX_LINE, Said, Watch};
use super::reason::{ContainerCode, ContainerRefused};

/// How long the keeper may take to say what the guard said.
const PATIENCE: Duration = FIRST_WORD.saturating_add(Duration::from_secs(2));

/// Reads the state and judges the container.
///
/// # Errors
/// [`ContainerRefused`].
pub fn judge(state: impl Read) -> Result<Watch, ContainerRefused> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_STATE).unwrap_or(u64::MAX);
    let read = state.take(limit.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(|error| ContainerRefused::new(ContainerCode::StateMalformed, error.kind()))?;
    let Created { id, pid, scope } = bundle::created(&bytes)?;
    let start = start_of(pid);
    Ok(Watch {
        container: id,
        pid,
        start: start.ok_or_else(|| ContainerRefused::new(ContainerCode::ProcessGone, pid))?,
        action: scope.action().as_str().to_owned(),
        resource: scope.resource().to_owned(),
    })
}

/// Starts the keeper, `program` with the arguments that begin it, for this container; gives what the guard said first.
///
/// The keeper goes on after this process has ended. It writes one line, [`Said`] as JSON, to its standard output.
///
/// # Errors
/// [`ContainerRefused`] where there was none to hear it from.
pub fn start_keeper(
    program: &Path,
    arguments: &[&str],
    socket: &Path,
    asked: &Watch,
) -> Result<Said, ContainerRefused> {
    let unavailable = no_keeper;
    let keeper = Command::new(program)
        .args(arguments)
        .arg("--socket")
        .arg(socket)
        .arg("--container")
        .arg(&asked.container)
        .args(["--pid", &asked.pid.to_string(), "--start", &asked.start.to_string()])
        .args(["--action", &asked.action, "--resource", &asked.resource])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut keeper = keeper.map_err(|error| unavailable(&error.kind()))?;
    let output = keeper.stdout.take().ok_or_else(|| unavailable(&"no output"))?;
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let limit = MAX_LINE.try_into().unwrap_or(u64::MAX);
        let _ = BufReader::new(output.take(limit)).read_line(&mut line);
        let _ = send.send(line);
    });
    let line = receive.recv_timeout(PATIENCE).unwrap_or_default();
    let said = serde_json::from_str::<Said>(&line);
    if !matches!(said, Ok(Said::Allowed { .. })) {
        // It has ended, or must: nothing is to be kept.
        let _ = keeper.kill();
        let _ = keeper.wait();
    }
    said.map_err(|_| unavailable(&"it said nothing"))
}

/// There is no keeper.
#[must_use]
pub fn no_keeper(found: &dyn std::fmt::Display) -> ContainerRefused {
    ContainerRefused::new(ContainerCode::KeeperUnavailable, found)
}
