//! The first process of a container: one that cannot be mistaken for another that gets its number later.

use std::fmt;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::reason::{ContainerCode, ContainerRefused};

/// A process, held by a file descriptor of its own.
pub struct Process {
    pid: u32,
    start: u64,
    fd: AsyncFd<OwnedFd>,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Process({})", self.pid)
    }
}

impl Process {
    /// The process with this number now; where `start` is given, only if it began then (`/proc/PID/stat`, field 22).
    ///
    /// # Errors
    /// `container-process-gone`.
    pub fn open(pid: u32, start: Option<u64>) -> Result<Self, ContainerRefused> {
        let gone = |found: &dyn fmt::Display| ContainerRefused::new(ContainerCode::ProcessGone, found);
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let fd = number.ok_or_else(|| gone(&pid)).and_then(|number| {
            // Tokio asks it without waiting.
            pidfd_open(number, PidfdFlags::NONBLOCK).map_err(|error| gone(&std::io::Error::from(error).kind()))
        })?;
        #[expect(
            deprecated,
            reason = "unsound for types that let go of their descriptor; this one owns it"
        )]
        let fd = AsyncFd::with_interest(fd, Interest::READABLE).map_err(|error| gone(&error.kind()))?;
        let found = start_of(pid).ok_or_else(|| gone(&"no entry in /proc"))?;
        if start.is_some_and(|start| start != found) {
            return Err(gone(&"another process of that number"));
        }
        let process = Self { pid, start: found, fd };
        // What was read in /proc is of this process if it is alive after that: its number is not given away before.
        if !process.is_alive() {
            return Err(gone(&"it has ended"));
        }
        Ok(process)
    }

    /// Its number.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// When it began, in clock ticks since the machine did.
    #[must_use]
    pub const fn start(&self) -> u64 {
        self.start
    }

    /// Whether it has not ended.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        let mut poll = [rustix::event::PollFd::new(
            self.fd.get_ref(),
            rustix::event::PollFlags::IN,
        )];
        let at_once = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(rustix::event::poll(&mut poll, Some(&at_once)), Ok(0))
    }

    /// Completes when it has ended.
    pub async fn ended(&self) {
        while self.is_alive() {
            match self.fd.readable().await {
                // Another look: a descriptor may be called readable too early.
                Ok(mut ready) => ready.clear_ready(),
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
            }
        }
    }

    /// Ends it; as the init of its PID namespace it takes all of that with it.
    pub fn kill(&self) {
        let _ = pidfd_send_signal(self.fd.get_ref(), Signal::KILL);
    }

    /// Whether it is the init of a PID namespace below this process's own (`/proc/PID/status`, `NSpid`).
    ///
    /// # Errors
    /// `container-shares-processes` where it is not.
    pub fn is_init_of_its_own(&self) -> Result<(), ContainerRefused> {
        let numbers = numbers(self.pid).unwrap_or_default();
        match numbers.as_slice() {
            [_, .., 1] => Ok(()),
            _ => Err(ContainerRefused::new(
                ContainerCode::SharesProcesses,
                format!("NSpid {numbers:?}"),
            )),
        }
    }
}

/// The numbers of a process in this process's PID namespace and those below it.
pub(super) fn numbers(pid: u32) -> Option<Vec<u32>> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_ascii_whitespace()
        .map(|number| number.parse().ok())
        .collect()
}

/// Its PID namespace.
pub(super) fn namespace(pid: u32) -> Option<std::path::PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}

/// Field 22 of `/proc/PID/stat` (proc(5)). The second is a name in brackets that may hold anything, brackets too.
pub(super) fn start_of(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    start_in(&stat)
}

fn start_in(stat: &str) -> Option<u64> {
    let (_, after) = stat.rsplit_once(')')?;
    after.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_shift_the_fields() {
        let fields = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20";
        for name in ["sh", "a b", ") 1 2 3 4 (", "x) R 9 9"] {
            assert_eq!(start_in(&format!("42 ({name}) {fields}")), Some(777), "{name}");
        }
        assert_eq!(start_in("42 (sh) S 1 2"), None);
        assert_eq!(start_in(""), None);
    }

    #[tokio::test]
    async fn a_process_is_told_from_one_that_follows_it() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let process = Process::open(child.id(), None).unwrap();
        assert!(process.is_alive());
        assert!(Process::open(child.id(), Some(process.start())).is_ok());
        let code = |result: Result<_, ContainerRefused>| result.map(|_: Process| ()).unwrap_err().code;
        assert_eq!(
            code(Process::open(child.id(), Some(process.start() + 1))),
            ContainerCode::ProcessGone,
            "another start"
        );
        assert_eq!(
            process.is_init_of_its_own().unwrap_err().code,
            ContainerCode::SharesProcesses,
            "it lives among ours"
        );
        process.kill();
        process.ended().await;
        assert!(!process.is_alive());
        child.wait().unwrap();
        assert_eq!(
            code(Process::open(child.id(), None)),
            ContainerCode::ProcessGone,
            "it has ended"
        );
        assert_eq!(code(Process::open(u32::MAX, None)), ContainerCode::ProcessGone);
    }
}
