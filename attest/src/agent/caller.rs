//! Who asks on the agent's socket: what the kernel says of the process at the other end, and nothing that it says itself.
//!
//! The kernel gives a file descriptor of the very process that connected (`SO_PEERPIDFD`, Linux 6.5), or its number
//! (`SO_PEERCRED`) for which one is opened. What `/proc` says under that number is of that process only as long as the
//! descriptor says that it lives, so that is asked after everything was read: a number that went to another process
//! meanwhile is noticed.

use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use sha2::{Digest as _, Sha256};
use touchstone_evidence::message::{Attributes, MAX_ATTRIBUTE};

/// Largest executable that is read to know its digest, in bytes.
pub const MAX_EXECUTABLE_BYTES: u64 = 1 << 30;

/// Longest of the small files of `/proc` that are read, in bytes.
const MAX_PROC_BYTES: u64 = 16 * 1024;

/// Why nobody knows who asks. Then nothing is given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallerError {
    /// The kernel does not say who is at the other end.
    #[error("the kernel does not say who asks: {0}")]
    Unknown(String),
    /// The process is gone, or its number is another's now.
    #[error("the process that asked is gone")]
    Gone,
    /// What `/proc` says of it cannot be read.
    #[error("/proc/{pid}/{what}: {cause}")]
    Unreadable {
        /// Its number.
        pid: u32,
        /// Which file.
        what: &'static str,
        /// Why.
        cause: String,
    },
}

/// A process, as the kernel knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The user it runs as.
    pub uid: u32,
    /// Its number, and when it was started, in clock ticks since the boot.
    pub process: (u32, u64),
    /// Its control group: that of version 2, or of the first hierarchy there is.
    pub cgroup: String,
    /// SHA-256 of the file it runs, read through the kernel's own link to that file.
    pub executable: [u8; 32],
    /// The path of that file when it was started, for people.
    pub path: String,
}

impl Caller {
    /// Identifies the process at the other end of a connection.
    ///
    /// # Errors
    /// [`CallerError`]
    pub fn of(connection: &impl AsFd) -> Result<Self, CallerError> {
        let unknown = |error: &dyn std::fmt::Display| CallerError::Unknown(error.to_string());
        let peer = getsockopt(connection, sockopt::PeerCredentials).map_err(|e| unknown(&e))?;
        let pid = u32::try_from(peer.pid()).map_err(|e| unknown(&e))?;
        let alive = match getsockopt(connection, sockopt::PeerPidfd) {
            Ok(alive) => alive,
            Err(nix::errno::Errno::ENOPROTOOPT) => {
                let number = Pid::from_raw(peer.pid()).ok_or(CallerError::Gone)?;
                pidfd_open(number, PidfdFlags::empty()).map_err(|_| CallerError::Gone)?
            }
            // Of a process that has ended the kernel gives none.
            Err(_) => return Err(CallerError::Gone),
        };
        Self::read(pid, peer.uid(), &alive)
    }

    fn read(pid: u32, connected_as: u32, alive: &OwnedFd) -> Result<Self, CallerError> {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let unreadable = |what: &'static str| {
            move |cause: std::io::Error| match cause.kind() {
                std::io::ErrorKind::NotFound => CallerError::Gone,
                // ESRCH: the process ended while its file was read.
                _ if cause.raw_os_error() == Some(nix::errno::Errno::ESRCH as i32) => CallerError::Gone,
                _ => CallerError::Unreadable {
                    pid,
                    what,
                    cause: cause.to_string(),
                },
            }
        };
        let small = |what: &'static str| read_small(&folder.join(what)).map_err(unreadable(what));
        let started = started(&small("stat")?).ok_or(CallerError::Gone)?;
        let uid = uid(&small("status")?).ok_or(CallerError::Gone)?;
        let cgroup = cgroup(&small("cgroup")?);
        let path = std::fs::read_link(folder.join("exe")).map_err(unreadable("exe"))?;
        let executable = digest(&folder.join("exe")).map_err(unreadable("exe"))?;
        // One that changed its user since it connected is judged as neither.
        if uid != connected_as || !is_alive(alive) {
            return Err(CallerError::Gone);
        }
        Ok(Self {
            uid,
            process: (pid, started),
            cgroup: plain(&cgroup),
            executable,
            path: plain(&path.to_string_lossy()),
        })
    }

    /// What the node says of it to the broker. `measured`: IMA has measured a file of that digest.
    #[must_use]
    pub fn attributes(&self, measured: bool) -> Attributes {
        Attributes {
            uid: self.uid,
            process: self.process,
            cgroup: self.cgroup.clone(),
            executable: self.executable,
            path: self.path.clone(),
            measured,
        }
    }
}

/// A process whose descriptor is readable has ended.
fn is_alive(process: &OwnedFd) -> bool {
    let mut waited = [PollFd::new(process, PollFlags::IN)];
    let at_once = Timespec::try_from(Duration::ZERO).ok();
    poll(&mut waited, at_once.as_ref()) == Ok(0)
}

fn read_small(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?
        .take(MAX_PROC_BYTES)
        .read_to_string(&mut text)?;
    Ok(text)
}

fn digest(path: &Path) -> std::io::Result<[u8; 32]> {
    let mut file = std::fs::File::open(path)?.take(MAX_EXECUTABLE_BYTES + 1);
    let (mut hasher, mut read, mut piece) = (Sha256::new(), 0u64, vec![0; 64 * 1024]);
    loop {
        let bytes = file.read(&mut piece)?;
        if bytes == 0 {
            return Ok(hasher.finalize().into());
        }
        read = read.saturating_add(bytes as u64);
        if read > MAX_EXECUTABLE_BYTES {
            return Err(std::io::Error::other("larger than any executable that is read"));
        }
        hasher.update(piece.get(..bytes).unwrap_or_default());
    }
}

/// Field 22 of `/proc/pid/stat`. The name before it is in brackets and may hold anything, brackets too.
fn started(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// The real user of `/proc/pid/status`, where all four are the same: a program that borrows rights is judged as nobody.
fn uid(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    let ids: Vec<u32> = line.split_ascii_whitespace().map_while(|id| id.parse().ok()).collect();
    match ids.as_slice() {
        [real, effective, saved, files] if [effective, saved, files].iter().all(|id| *id == real) => Some(*real),
        _ => None,
    }
}

/// The path of the hierarchy of version 2, or of the first one of version 1 that has one below the root.
fn cgroup(text: &str) -> String {
    let path = |line: &'_ str| line.splitn(3, ':').nth(2).unwrap_or("/").to_owned();
    let two = text.lines().find(|line| line.starts_with("0::")).map(path);
    let one = || text.lines().map(path).find(|path| path != "/");
    two.filter(|path| path != "/")
        .or_else(one)
        .unwrap_or_else(|| "/".to_owned())
}

/// Text that no terminal and no log interprets, as long as an attribute may be.
fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' })
        .take(MAX_ATTRIBUTE)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn one_is_known_by_what_the_kernel_says() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let caller = Caller::of(&ours).unwrap();
        drop(theirs);
        assert_eq!(caller.process.0, std::process::id());
        assert_eq!(caller.uid, rustix::process::getuid().as_raw());
        let own = std::env::current_exe().unwrap();
        assert_eq!(caller.path, own.to_string_lossy());
        assert_eq!(
            caller.executable,
            <[u8; 32]>::from(Sha256::digest(std::fs::read(own).unwrap()))
        );
        assert!(caller.process.1 > 0);
        assert_eq!(Caller::of(&ours).unwrap(), caller);
    }

    #[test]
    fn one_that_has_ended_is_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        // Connects, and ends with its connection still in the queue.
        let script = "import socket,sys\ns=socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n";
        let mut child = Command::new("python3")
            .arg("-c")
            .arg(script)
            .arg(&path)
            .spawn()
            .unwrap();
        let (stream, _) = listener.accept().unwrap();
        child.wait().unwrap();
        assert_eq!(Caller::of(&stream), Err(CallerError::Gone));
    }

    #[test]
    fn two_programs_are_two_callers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let script = "import socket,sys\ns=socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\nsys.stdin.read()\n";
        let mut child = Command::new("python3")
            .arg("-c")
            .arg(script)
            .arg(&path)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let (stream, _) = listener.accept().unwrap();
        let caller = Caller::of(&stream).unwrap();
        assert_eq!(caller.process.0, child.id());
        assert_ne!(caller.path, std::env::current_exe().unwrap().to_string_lossy());
        let mut input = child.stdin.take().unwrap();
        input.write_all(b"x").unwrap();
        drop(input);
        child.wait().unwrap();
    }

    #[test]
    fn what_proc_says_is_read_as_the_kernel_writes_it() {
        let fields = "S 1 1 1 0 -1 4194560 1 0 0 0 1 2 3 4 20 0 1 0 777 0";
        for name in ["sh", "a b", "a) S 9 9 (x", ") 0"] {
            assert_eq!(started(&format!("12 ({name}) {fields}")), Some(777), "{name}");
        }
        assert_eq!(started("12 (sh) S 1"), None);
        assert_eq!(started(""), None);
        assert_eq!(uid("Name:\tx\nUid:\t5\t5\t5\t5\nGid:\t1\n"), Some(5));
        for text in ["Uid:\t5\t0\t5\t5\n", "Uid:\t5\t5\t5\n", "Uid:\tx\n", ""] {
            assert_eq!(uid(text), None, "{text:?}");
        }
        for (text, expected) in [
            ("0::/system.slice/a.service\n", "/system.slice/a.service"),
            ("12:pids:/docker/1\n0::/\n", "/docker/1"),
            ("0::/\n", "/"),
            ("", "/"),
        ] {
            assert_eq!(cgroup(text), expected);
        }
        assert_eq!(plain("/usr/\u{1b}[31mx"), "/usr/?[31mx");
    }
}
