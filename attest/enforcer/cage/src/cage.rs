//! The guard's side of it.

use std::ffi::OsString;
use std::io::Write as _;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::FdFlags;

use crate::cgroup::{Cgroup, CgroupError};
use crate::stage::Orders;
use crate::wire::{BEAT, FREEZE, GO, SIGNAL, THAW};

/// The first argument with which this program's own binary becomes a stage: everything after it goes to
/// [`crate::run_stage`].
pub const STAGE: &str = "exec-stage";

/// What a service manager tells the guard and no other: with the first the command could speak in the guard's name.
const NOT_HANDED_ON: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"];

/// How long a killed tree may take to be gone before that is an error.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is to be run, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// This program's own binary, which answers to [`STAGE`].
    pub program: PathBuf,
    /// The command and its arguments.
    pub command: Vec<OsString>,
    /// A network namespace of its own, set up by the caller when [`crate::Report::AwaitingNetwork`] comes.
    pub network: bool,
    /// User and group to run as, where this process is root.
    pub user: Option<(u32, u32)>,
    /// How long the guard may be silent before the init ends everything, in milliseconds.
    pub silence_ms: u64,
}

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CageError {
    /// The operating system refused.
    #[error("{what}: {cause}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What it said.
        cause: std::io::Error,
    },
    /// The stage could not be put into the cgroup that was made for it.
    #[error("cgroup: {0}")]
    Cgroup(#[from] CgroupError),
}

fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> CageError {
    move |cause| CageError::Io { what, cause }
}

/// A command on its way, or running. Dropping it kills everything.
#[derive(Debug)]
pub struct Cage {
    stage: Child,
    control: std::fs::File,
    cgroup: Option<Cgroup>,
    ended: Option<ExitStatus>,
}

impl Cage {
    /// Starts the stage, in `cgroup` where there is one. Gives the pipe on which [`crate::Report`]s come, one JSON object a
    /// line; it does not block.
    ///
    /// Call it on a thread that lives as long as the process: the stage dies with the *thread* that started it.
    ///
    /// # Errors
    /// [`CageError`]; then nothing runs.
    pub fn start(plan: &Plan, cgroup: Option<Cgroup>) -> Result<(Self, OwnedFd), CageError> {
        // Both ends of both pipes: the child's must be inherited, ours must not.
        let pipe = || rustix::pipe::pipe().map_err(|error| io("a pipe")(error.into()));
        let ((control_read, control), (reports, reports_write)) = (pipe()?, pipe()?);
        for ours in [&control, &reports] {
            let set = rustix::io::fcntl_setfd(ours, FdFlags::CLOEXEC)
                .and_then(|()| rustix::fs::fcntl_getfl(ours))
                .and_then(|flags| rustix::fs::fcntl_setfl(ours, flags | OFlags::NONBLOCK));
            set.map_err(|error| io("a pipe")(error.into()))?;
        }
        let orders = Orders {
            control: control_read.as_fd().as_raw_fd(),
            reports: reports_write.as_fd().as_raw_fd(),
            silence_ms: plan.silence_ms,
            network: plan.network,
            user: plan.user,
            confinement: None,
            command: plan.command.clone(),
        };
        let mut stage = Command::new(&plan.program);
        stage.arg(STAGE).args(orders.arguments());
        for name in NOT_HANDED_ON {
            stage.env_remove(name);
        }
        let stage = stage.spawn().map_err(io("starting the stage"))?;
        let mut cage = Self {
            stage,
            control: control.into(),
            cgroup,
            ended: None,
        };
        if let Some(cgroup) = &cage.cgroup {
            cgroup.add(cage.stage.id())?;
        }
        cage.go().map_err(io("the stage"))?;
        Ok((cage, reports))
    }

    /// The stage's process id: whose namespaces the workload has.
    #[must_use]
    pub fn stage_pid(&self) -> u32 {
        self.stage.id()
    }

    /// Where its cgroup is, if it has one.
    #[must_use]
    pub fn cgroup(&self) -> Option<&Path> {
        self.cgroup.as_ref().map(Cgroup::path)
    }

    /// Lets the stage go on: the network is set up.
    ///
    /// # Errors
    /// The operating system's; then the stage is gone.
    pub fn go(&mut self) -> std::io::Result<()> {
        self.control.write_all(&[GO])
    }

    /// Shows that the guard is alive; at least every [`crate::BEAT_MS`].
    pub fn beat(&mut self) {
        // Full only while the init is frozen: then there is enough to read when it is not.
        let _ = self.control.write(&[BEAT]);
    }

    /// Sends a signal to the workload itself. One that cannot be told in one byte is not sent.
    pub fn signal(&mut self, number: i32) {
        if let Ok(number) = u8::try_from(number)
            && (1..64).contains(&number)
        {
            let _ = self.control.write(&[SIGNAL + number]);
        }
    }

    /// Stops everything where it stands.
    ///
    /// # Errors
    /// The cgroup's: then the caller kills instead.
    pub fn freeze(&mut self) -> Result<(), CageError> {
        match &self.cgroup {
            Some(cgroup) => Ok(cgroup.freeze()?),
            None => self.control.write_all(&[FREEZE]).map_err(io("freezing")),
        }
    }

    /// Lets everything go on.
    ///
    /// # Errors
    /// The cgroup's.
    pub fn thaw(&mut self) -> Result<(), CageError> {
        match &self.cgroup {
            Some(cgroup) => Ok(cgroup.thaw()?),
            None => self.control.write_all(&[THAW]).map_err(io("going on")),
        }
    }

    /// Whether the workload has ended, and how; all that it started is gone then too.
    ///
    /// # Errors
    /// The operating system's.
    pub fn ended(&mut self) -> std::io::Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.stage.try_wait()?;
        }
        Ok(self.ended)
    }

    /// Kills everything and waits until it is gone.
    ///
    /// # Errors
    /// [`CageError`] where something is left after five seconds, as what hangs in a driver is.
    pub fn kill(&mut self) -> Result<(), CageError> {
        // The cgroup takes all at once. The stage besides, and through it the init and its namespace: each alone is enough.
        let killed = match &self.cgroup {
            Some(cgroup) => cgroup.kill(),
            None => Ok(()),
        };
        if self.cgroup.is_none() {
            // The init sees the closed pipe and kills what is below it, where no namespace does that.
            let (_, closed) = rustix::pipe::pipe().map_err(|error| io("a pipe")(error.into()))?;
            self.control = closed.into();
        }
        let gone = self.wait_for_stage();
        if let Some(cgroup) = &self.cgroup {
            cgroup.wait_until_empty(PATIENCE)?;
        }
        killed?;
        gone
    }

    fn wait_for_stage(&mut self) -> Result<(), CageError> {
        let begun = std::time::Instant::now();
        let mut killed = false;
        while self.ended().map_err(io("the stage"))?.is_none() {
            // What does not end by itself in half the time is killed; with a namespace all goes with it.
            if !killed && (self.cgroup.is_some() || begun.elapsed() > PATIENCE / 2) {
                let _ = self.stage.kill();
                killed = true;
            }
            if begun.elapsed() > PATIENCE {
                let cause = std::io::ErrorKind::TimedOut.into();
                return Err(CageError::Io {
                    what: "killing the workload",
                    cause,
                });
            }
            crate::cgroup::pause(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        if !matches!(self.ended(), Ok(Some(_))) {
            let _ = self.kill();
        }
    }
}
