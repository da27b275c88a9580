//! The ordinary commands as child processes whose standard output is JSON lines.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::output::Failure;

/// How long the story waits for anything before it says that it went wrong.
pub const PATIENCE: Duration = Duration::from_secs(45);

/// A running `touchstone …` whose events are read as they come. Ends with the story.
pub struct Process {
    name: String,
    child: Child,
    events: Receiver<Value>,
    seen: Vec<Value>,
}

impl Process {
    /// Starts this very binary with `arguments`; its standard error goes to `log`.
    pub fn start(name: &str, arguments: &[String], log: &std::path::Path) -> Result<Self, Failure> {
        let executable = std::env::current_exe()?;
        let log = std::fs::File::create(log)?;
        let mut child = Command::new(executable)
            .args(arguments)
            .env("TSS2_LOG", "all+none")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()?;
        let output = child
            .stdout
            .take()
            .ok_or_else(|| Failure::new(format!("{name}: no output to read")))?;
        let (sender, events) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Ok(event) = serde_json::from_str(&line)
                    && sender.send(event).is_err()
                {
                    break;
                }
            }
        });
        Ok(Self {
            name: name.to_owned(),
            child,
            events,
            seen: Vec::new(),
        })
    }

    /// The first event from now on (or not yet looked at) for which `wanted` holds.
    pub fn wait_for(&mut self, what: &str, mut wanted: impl FnMut(&Value) -> bool) -> Result<Value, Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(index) = self.seen.iter().position(&mut wanted) {
                return Ok(self.seen.remove(index));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(event) => self.seen.push(event),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(Failure::new(format!("{}: waited {PATIENCE:?} for {what}", self.name))
                        .hint("run with --keep and look at the logs it names"));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::new(format!("{}: ended before {what}", self.name))
                        .hint("look at its log; --keep keeps the folder"));
                }
            }
        }
    }

    /// Forgets the events that have come so far, so that the next wait is for something new.
    pub fn forget(&mut self) {
        self.seen.clear();
        while self.events.try_recv().is_ok() {}
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
