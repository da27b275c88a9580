//! The init: PID 1 of the workload's namespace. When it ends the kernel kills all that is left there.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

use crate::cgroup::{Mount, hierarchies};
use crate::stage::{Orders, signalled};
use crate::still::Stillness;
use crate::wire::{self, BEAT, Confinement, FREEZE, Report, Reporter, SIGNAL, THAW};
use crate::{privileges, tree};

/// How often a guard shows that it is alive.
pub const BEAT_MS: u64 = 100;
/// The exit code where the command is not there, as shells have it.
pub const NOT_FOUND: u8 = 127;
/// The exit code where it cannot be run.
pub const NOT_RUNNABLE: u8 = 126;
/// What the init exits with when it ends everything itself.
const GUARD_GONE: u8 = 137;
/// What it exits with when it ends what was to stand still and did not.
const NOT_STILL: u8 = 137;
/// How often it is looked whether what is stopped stands still.
const LOOK: Duration = Duration::from_millis(50);
/// How often a tree without a namespace is killed again until none of it is left.
const LAST_LOOKS: usize = 1_000;

/// Runs to the workload's end.
pub(crate) fn run(orders: &Orders, control: File, mut reporter: Reporter) -> ExitCode {
    wire::forget(orders.control);
    wire::forget(orders.reports);
    let confinement = orders.confinement.unwrap_or(Confinement::ProcessTree);
    let _ = SigSet::all().thread_block();
    let code = match start(orders, confinement) {
        Ok((workload, signals)) => {
            reporter.tell(&Report::Started);
            let init = Init {
                workload,
                control,
                signals,
                silence: Duration::from_millis(orders.silence_ms),
                frozen: None,
            };
            init.watch(&mut reporter)
        }
        Err(NotStarted { code, because }) => {
            let report = Report::NotStarted {
                code: code.into(),
                because,
            };
            reporter.tell(&report);
            ExitCode::from(code)
        }
    };
    if confinement == Confinement::ProcessTree {
        kill_all_below();
    }
    code
}

struct NotStarted {
    code: u8,
    because: String,
}

fn start(orders: &Orders, confinement: Confinement) -> Result<(Pid, SignalFd), NotStarted> {
    let failed = |what: &str, error: &dyn std::fmt::Display| NotStarted {
        code: NOT_RUNNABLE,
        because: format!("{what}: {error}"),
    };
    match confinement {
        Confinement::PidNamespace | Confinement::UserNamespace => {
            own_mounts(confinement).map_err(|(what, error)| failed(&what, &error))?;
        }
        Confinement::ProcessTree => {
            let own = rustix::process::getpid();
            rustix::process::set_child_subreaper(Some(own)).map_err(|error| failed("orphans", &error))?;
        }
    }
    privileges::drop_for_children().map_err(|error| failed("privileges", &error))?;
    let signals = SignalFd::with_flags(
        &SigSet::from(Signal::SIGCHLD),
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    );
    let signals = signals.map_err(|error| failed("signals", &error))?;
    let (program, arguments) = orders.command.split_first().ok_or_else(|| failed("no command", &""))?;
    let mut command = Command::new(program);
    command.args(arguments);
    if let Some((user, group)) = orders.user {
        // Supplementary groups go with it: the standard library clears them for whoever is root.
        command.uid(user).gid(group);
    }
    // A child inherits the mask. A PID 1 is not ended by what arrives meanwhile.
    let blocked = SigSet::empty().thread_swap_mask(SigmaskHow::SIG_SETMASK);
    let spawned = command.spawn();
    if let Ok(blocked) = blocked {
        let _ = blocked.thread_set_mask();
    }
    let child = spawned.map_err(|error| NotStarted {
        code: if error.kind() == std::io::ErrorKind::NotFound {
            NOT_FOUND
        } else {
            NOT_RUNNABLE
        },
        because: format!("{}: {error}", program.display()),
    })?;
    let pid = i32::try_from(child.id()).map_err(|error| failed("the workload", &error))?;
    Ok((Pid::from_raw(pid), signals))
}

/// A `/proc` that shows this namespace, and cgroups that cannot be left.
fn own_mounts(confinement: Confinement) -> Result<(), (String, Errno)> {
    let none: Option<&str> = None;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(|error| ("/".to_owned(), error))?;
    // Read before /proc is another one. Where it cannot be, cgroups that can be left would be left writable.
    let mountinfo = "/proc/self/mountinfo";
    let mounts = fs::read(mountinfo).map_err(|error| {
        let number = error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw);
        (mountinfo.to_owned(), number)
    })?;
    match mount(Some("proc"), "/proc", Some("proc"), flags, none) {
        Ok(()) => {}
        // Where parts of /proc are hidden from a container the kernel refuses a whole one. The old one shows more than is
        // needed, and lets nobody do more.
        Err(Errno::EPERM) if confinement == Confinement::UserNamespace => {}
        Err(error) => return Err(("/proc".to_owned(), error)),
    }
    for Mount { point, .. } in hierarchies(&mounts) {
        let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | flags;
        match mount(none, &point, none, read_only, none) {
            Ok(()) | Err(Errno::ENOENT) => {}
            // Without being root nobody can write there but where it was delegated to him.
            Err(Errno::EPERM) if confinement == Confinement::UserNamespace => {}
            Err(error) => return Err((point.display().to_string(), error)),
        }
    }
    Ok(())
}

struct Init {
    workload: Pid,
    control: File,
    signals: SignalFd,
    silence: Duration,
    /// Since everything was stopped: who of it stands still.
    frozen: Option<Stillness>,
}

enum Heard {
    Something,
    Nothing,
    GuardGone,
}

impl Init {
    fn watch(mut self, reporter: &mut Reporter) -> ExitCode {
        let mut heard = Instant::now();
        loop {
            if let Some(code) = self.reap(reporter) {
                return code;
            }
            match self.obey() {
                Heard::Something => heard = Instant::now(),
                Heard::Nothing => {}
                Heard::GuardGone => return ExitCode::from(GUARD_GONE),
            }
            let silent = heard.elapsed();
            let Some(left) = self.silence.checked_sub(silent).filter(|left| !left.is_zero()) else {
                let for_ms = u64::try_from(silent.as_millis()).unwrap_or(u64::MAX);
                reporter.tell(&Report::GuardSilent { for_ms });
                return ExitCode::from(GUARD_GONE);
            };
            if let Some(stillness) = &mut self.frozen
                && let Err(because) = stillness.look(own())
            {
                let because = format!("it is suspended and does not stand still: {because}");
                reporter.tell(&Report::Failed { because });
                return ExitCode::from(NOT_STILL);
            }
            let left = self.frozen.as_ref().map_or(left, |_| left.min(LOOK));
            let timeout = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut ready = [
                PollFd::from_borrowed_fd(self.control.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
            ];
            let _ = poll(&mut ready, Some(&timeout));
            while let Ok(Some(_)) = self.signals.read_signal() {}
        }
    }

    /// Collects whoever has ended; gives the exit code when the workload has.
    fn reap(&mut self, reporter: &mut Reporter) -> Option<ExitCode> {
        loop {
            match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == self.workload => {
                    reporter.tell(&Report::Exited { code });
                    return Some(ExitCode::from(u8::try_from(code).unwrap_or(NOT_RUNNABLE)));
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == self.workload => {
                    reporter.tell(&Report::Signalled { signal: signal as i32 });
                    return Some(signalled(signal));
                }
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return None,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return None,
            }
        }
    }

    fn obey(&mut self) -> Heard {
        let mut heard = Heard::Nothing;
        let mut bytes = [0; 256];
        loop {
            match self.control.read(&mut bytes) {
                Ok(0) => return Heard::GuardGone,
                Ok(length) => {
                    heard = Heard::Something;
                    bytes.iter().take(length).for_each(|byte| self.one(*byte));
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return heard,
            }
        }
    }

    fn one(&mut self, byte: u8) {
        match byte {
            BEAT => {}
            FREEZE => {
                self.all(Signal::SIGSTOP);
                self.frozen = Some(Stillness::default());
            }
            THAW => {
                self.frozen = None;
                self.all(Signal::SIGCONT);
            }
            byte => {
                let signal = byte
                    .checked_sub(SIGNAL)
                    .map(i32::from)
                    .and_then(|n| Signal::try_from(n).ok());
                if let Some(signal) = signal {
                    let _ = kill(self.workload, signal);
                }
            }
        }
    }

    fn all(&self, signal: Signal) {
        if std::process::id() == 1 {
            // Everybody in this namespace but the init itself (kill(2)). Twice: what was forked in between is there now.
            for _ in 0..2 {
                let _ = kill(Pid::from_raw(-1), signal);
            }
        } else {
            tree::signal(own(), signal);
        }
    }
}

fn own() -> i32 {
    i32::try_from(std::process::id()).unwrap_or(i32::MAX)
}

/// Kills what is below until nothing is: orphans come to this process, so none can leave the tree.
fn kill_all_below() {
    for _ in 0..LAST_LOOKS {
        // First still, so that nothing is started while it is killed.
        tree::signal(own(), Signal::SIGSTOP);
        tree::signal(own(), Signal::SIGKILL);
        loop {
            match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Err(Errno::ECHILD) => return,
                Ok(WaitStatus::StillAlive) | Err(_) => break,
                Ok(_) => {}
            }
        }
        crate::cgroup::pause(Duration::from_millis(1));
    }
}
