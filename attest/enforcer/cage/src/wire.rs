//! What passes between the guard and the processes it starts: single bytes down one pipe, one JSON object a line up another.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::fd::RawFd;
use std::os::unix::fs::OpenOptionsExt as _;

use serde::{Deserialize, Serialize};

/// Go on with the next step: the stage is in its cgroup, the network is set up.
pub(crate) const GO: u8 = b'g';
/// The guard is alive.
pub(crate) const BEAT: u8 = b'b';
/// Stop everything where it stands, where no cgroup does it.
pub(crate) const FREEZE: u8 = b'f';
/// Let everything go on.
pub(crate) const THAW: u8 = b't';
/// Signals are sent to the workload as this plus their number.
pub(crate) const SIGNAL: u8 = 0x80;

/// How the workload is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Confinement {
    /// A PID namespace: the kernel kills all of it when its init ends.
    PidNamespace,
    /// The same inside a user namespace, without being root.
    UserNamespace,
    /// No namespace: the init looks for all descendants and kills them until none is left. Whoever kills the init itself
    /// leaves them alone.
    ProcessTree,
}

impl Confinement {
    /// In words.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PidNamespace => "a PID namespace",
            Self::UserNamespace => "a PID namespace inside a user namespace",
            Self::ProcessTree => "a process tree without a namespace",
        }
    }
}

/// What the stage and the init tell the guard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Report {
    /// The namespaces are made.
    Confined {
        /// How.
        by: Confinement,
        /// Why it is not a better one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        because: Option<String>,
    },
    /// The stage has a network namespace of its own and waits until it is set up.
    AwaitingNetwork,
    /// The workload runs.
    Started,
    /// The workload could not be started; the exit code says whether it was not found or not runnable.
    NotStarted {
        /// 126 or 127, as shells have it.
        code: i32,
        /// Why.
        because: String,
    },
    /// The workload has ended.
    Exited {
        /// Its exit code.
        code: i32,
    },
    /// A signal ended the workload.
    Signalled {
        /// Which.
        signal: i32,
    },
    /// Something failed before the workload was started.
    Failed {
        /// What.
        because: String,
    },
    /// The init has not heard of the guard for too long, and ends everything.
    GuardSilent {
        /// For how long, in milliseconds.
        for_ms: u64,
    },
}

/// Sends reports; a guard that is gone is noticed elsewhere.
#[derive(Debug)]
pub(crate) struct Reporter(File);

impl Reporter {
    pub fn tell(&mut self, report: &Report) {
        let mut line = serde_json::to_vec(report).unwrap_or_default();
        line.push(b'\n');
        let _ = self.0.write_all(&line);
    }
}

/// Opens this process's end of a pipe by its number. The number itself stays open for a child to inherit until
/// [`forget`] is called.
pub(crate) fn open(number: RawFd) -> std::io::Result<File> {
    // Without O_NONBLOCK this would wait for ever on a guard that is gone already.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    OpenOptions::new()
        .read(true)
        .custom_flags(nonblocking)
        .open(format!("/proc/self/fd/{number}"))
}

pub(crate) fn reporter(number: RawFd) -> std::io::Result<Reporter> {
    OpenOptions::new()
        .write(true)
        .open(format!("/proc/self/fd/{number}"))
        .map(Reporter)
}

/// Closes an inherited number, so that the workload does not get it.
pub(crate) fn forget(number: RawFd) {
    let _ = nix::unistd::close(number);
}
