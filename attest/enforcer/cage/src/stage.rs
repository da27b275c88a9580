//! The stage: one thread, so that it may make namespaces. It waits until it is in its cgroup, makes them, waits until the
//! network is there, and starts the init.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::{AsFd as _, RawFd};
use std::process::{Command, ExitCode};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, poll};

use crate::wire::{self, Confinement, GO, Report, Reporter};
use crate::{init, privileges};

/// What a stage is told on its command line. Written and read by this crate alone; where it is read whatever does not fit
/// ends the stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Orders {
    pub control: RawFd,
    pub reports: RawFd,
    pub silence_ms: u64,
    pub network: bool,
    pub user: Option<(u32, u32)>,
    /// Set by the stage for the init.
    pub confinement: Option<Confinement>,
    pub command: Vec<OsString>,
}

impl Orders {
    /// As arguments: numbers and words of our own, then the command.
    pub fn arguments(&self) -> Vec<OsString> {
        let user = self
            .user
            .map_or("-".to_owned(), |(user, group)| format!("{user}:{group}"));
        let confinement = match self.confinement {
            None => "stage",
            Some(Confinement::PidNamespace) => "pid",
            Some(Confinement::UserNamespace) => "user",
            Some(Confinement::ProcessTree) => "tree",
        };
        let network = if self.network { "net" } else { "-" };
        let words = format!(
            "{confinement},{},{},{},{network},{user}",
            self.control, self.reports, self.silence_ms
        );
        std::iter::once(words.into())
            .chain(self.command.iter().cloned())
            .collect()
    }

    pub fn parse(arguments: &[OsString]) -> Option<Self> {
        let (words, command) = arguments.split_first()?;
        let mut words = words.to_str()?.split(',');
        let confinement = match words.next()? {
            "stage" => None,
            "pid" => Some(Confinement::PidNamespace),
            "user" => Some(Confinement::UserNamespace),
            "tree" => Some(Confinement::ProcessTree),
            _ => return None,
        };
        let control = words.next()?.parse().ok()?;
        let reports = words.next()?.parse().ok()?;
        let silence_ms = words.next()?.parse().ok()?;
        let network = match words.next()? {
            "net" => true,
            "-" => false,
            _ => return None,
        };
        let user = match words.next()? {
            "-" => None,
            pair => {
                let (user, group) = pair.split_once(':')?;
                Some((user.parse().ok()?, group.parse().ok()?))
            }
        };
        (words.next().is_none() && !command.is_empty()).then(|| Self {
            control,
            reports,
            silence_ms,
            network,
            user,
            confinement,
            command: command.to_vec(),
        })
    }
}

/// Runs the stage, or the init that it starts, with the arguments that came after [`crate::STAGE`]. Call it before anything
/// has made a second thread.
#[must_use]
pub fn run(arguments: &[OsString]) -> ExitCode {
    let Some(orders) = Orders::parse(arguments) else {
        // Nobody but a guard can give such orders.
        return ExitCode::from(2);
    };
    // Whatever kills the guard takes the stage along, and the stage the init. Without a namespace the init stays to kill
    // what is below it: there the closed pipe tells it.
    let dies_with_parent = orders.confinement != Some(Confinement::ProcessTree);
    if dies_with_parent
        && rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).is_err()
    {
        return ExitCode::from(2);
    }
    let (Ok(control), Ok(mut reporter)) = (wire::open(orders.control), wire::reporter(orders.reports)) else {
        return ExitCode::from(2);
    };
    if orders.confinement.is_some() {
        return init::run(&orders, control, reporter);
    }
    match stage(orders, control, &mut reporter) {
        Ok(code) => code,
        Err(because) => {
            reporter.tell(&Report::Failed { because });
            ExitCode::from(2)
        }
    }
}

fn stage(mut orders: Orders, mut control: File, reporter: &mut Reporter) -> Result<ExitCode, String> {
    // What is for the workload comes through the guard.
    let _ = SigSet::all().thread_block();
    // A session of its own, before anything runs in it: without the guard's controlling terminal nobody can put input into
    // it that the operator's shell would run outside of the cage (TIOCSTI), nor end or stop the guard from its keyboard.
    rustix::process::setsid().map_err(|error| format!("a session of its own: {error}"))?;
    await_go(&mut control)?;
    let (by, because) = namespaces(orders.network)?;
    reporter.tell(&Report::Confined { by, because });
    if orders.network {
        reporter.tell(&Report::AwaitingNetwork);
        await_go(&mut control)?;
    }
    orders.confinement = Some(by);
    if by == Confinement::ProcessTree {
        // Nothing between the guard and who kills the tree.
        let _ = rustix::process::set_parent_process_death_signal(None);
        let reporter = wire::reporter(orders.reports).map_err(|error| error.to_string())?;
        return Ok(init::run(&orders, control, reporter));
    }
    let own = fs::read_link("/proc/self/exe").map_err(|error| error.to_string())?;
    let child = Command::new(own)
        .arg(crate::STAGE)
        .args(orders.arguments())
        .spawn()
        .map_err(|error| format!("the init: {error}"))?;
    // Kept for the init; who is left with them here must not hold the reports open.
    drop(control);
    wire::forget(orders.control);
    let init = Pid::from_raw(i32::try_from(child.id()).map_err(|error| error.to_string())?);
    loop {
        match waitpid(init, None) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(ExitCode::from(u8::try_from(code).unwrap_or(2))),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(signalled(signal)),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(format!("waiting for the init: {error}")),
        }
    }
}

/// 128 + the signal, as shells have it.
pub(crate) fn signalled(signal: Signal) -> ExitCode {
    ExitCode::from(128_u8.saturating_add(u8::try_from(signal as i32).unwrap_or(0)))
}

fn await_go(control: &mut File) -> Result<(), String> {
    loop {
        let mut byte = [0];
        match control.read(&mut byte) {
            Ok(0) => return Err("the guard is gone".to_owned()),
            Ok(_) if byte == [GO] => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                let mut ready = [PollFd::from_borrowed_fd(control.as_fd(), PollFlags::IN)];
                let _ = poll(&mut ready, None);
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// The namespaces, the best that can be had. A network is never given up: what was to be cut off would not be.
fn namespaces(network: bool) -> Result<(Confinement, Option<String>), String> {
    let mut wanted = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC;
    if network {
        wanted |= CloneFlags::CLONE_NEWNET;
    }
    let denied = match unshare(wanted) {
        Ok(()) => return Ok((Confinement::PidNamespace, None)),
        Err(error) => error,
    };
    if network {
        return Err(format!("no network namespace: {denied}; it takes CAP_SYS_ADMIN"));
    }
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let because = format!("no namespace without a user namespace: {denied}");
    if denied != Errno::EPERM || user == 0 {
        return Ok((Confinement::ProcessTree, Some(format!("no PID namespace: {denied}"))));
    }
    match unshare(wanted | CloneFlags::CLONE_NEWUSER) {
        Ok(()) => {
            // user_namespaces(7): without "deny" the group map of an unprivileged user is refused.
            let map = |file: &str, id: u32| fs::write(format!("/proc/self/{file}"), format!("{id} {id} 1"));
            fs::write("/proc/self/setgroups", "deny")
                .and_then(|()| map("uid_map", user))
                .and_then(|()| map("gid_map", group))
                .map_err(|error| format!("the user namespace: {error}"))?;
            privileges::keep_for_the_init().map_err(|error| format!("the user namespace: {error}"))?;
            Ok((Confinement::UserNamespace, Some(because)))
        }
        Err(error) => Ok((
            Confinement::ProcessTree,
            Some(format!("no PID namespace: {denied}; no user namespace: {error}")),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_as_they_were_written_and_nothing_else_is() {
        let orders = Orders {
            control: 5,
            reports: 6,
            silence_ms: 10_000,
            network: true,
            user: Some((1000, 100)),
            confinement: Some(Confinement::UserNamespace),
            command: vec!["sh".into(), "-c".into(), "true,5".into()],
        };
        assert_eq!(Orders::parse(&orders.arguments()), Some(orders.clone()));
        let plain = Orders {
            network: false,
            user: None,
            confinement: None,
            ..orders
        };
        assert_eq!(Orders::parse(&plain.arguments()), Some(plain));
        for hostile in [
            &[][..],
            &["stage,5,6,10,-,-"],
            &["stage,5,6,10,-", "sh"],
            &["stage,5,6,10,-,-,x", "sh"],
            &["other,5,6,10,-,-", "sh"],
            &["stage,five,6,10,-,-", "sh"],
            &["stage,5,6,-10,-,-", "sh"],
            &["stage,5,6,10,yes,-", "sh"],
            &["stage,5,6,10,-,0", "sh"],
            &["stage,5,6,10,-,-1:0", "sh"],
        ] {
            let arguments: Vec<OsString> = hostile.iter().map(OsString::from).collect();
            assert_eq!(Orders::parse(&arguments), None, "{hostile:?}");
        }
    }
}
