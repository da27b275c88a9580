//! `touchstone exec`: a command runs only under a valid authorization, stands still while that is suspended, and is dead when
//! it ends, with everything it started.
//!
//! The decision is a [`Hold`] of this process's own guard; what holds the command is `touchstone-cage`; what it reaches is
//! [`network`]. Here is what ties them: one loop in which a lost right goes before everything else.

mod ending;
pub mod network;
mod renewing;

pub use ending::{Ending, FAILED, LOST, REFUSED};

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::net::unix::pipe::Receiver;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use touchstone_authorization::Outcome;
use touchstone_cage::{BEAT_MS, Cage, Cgroup, Confinement, Plan, Report};
use touchstone_policies::Reachable;

use self::network::Segment;
use self::renewing::{Presenter, keep_renewed, obtain};
use crate::agent::Holder;
use crate::clock;
use crate::guard::{Guard, Hold, Standing};
use crate::uses::Used;

/// How long the last process may take to be gone after the workload itself has ended.
const LAST_PATIENCE: Duration = Duration::from_secs(5);

/// How often it is looked whether policy opens another segment.
const SEGMENT_PERIOD: Duration = Duration::from_secs(1);

/// What is to be run, under what.
#[derive(Debug, Clone)]
pub struct Exec {
    /// The action, by name.
    pub action: String,
    /// The resource.
    pub resource: String,
    /// The agent's socket: who shows the authorization.
    pub agent: PathBuf,
    /// Whose authorization it is.
    pub holder: Holder,
    /// This program's own binary: it becomes the stage.
    pub program: PathBuf,
    /// The command and its arguments.
    pub command: Vec<OsString>,
    /// User and group to run it as.
    pub user: Option<(u32, u32)>,
    /// Where it is told that this was let in, and that it was stopped.
    pub uses: Option<mpsc::Sender<Used>>,
    /// A network namespace of its own even where policy has no segments: then it reaches nothing.
    pub network: bool,
    /// Kill it where its right is suspended, instead of keeping it frozen: what it stands for would go on.
    pub end_when_suspended: bool,
}

/// What is told of it on the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum ExecEvent {
    /// It may run.
    Allowed {
        /// The authorization's subject.
        subject: String,
        /// When the authorization runs out, Unix milliseconds.
        until_ms: u64,
    },
    /// There is no cgroup version 2 for it.
    NoCgroup {
        /// Why.
        because: String,
    },
    /// How it is held.
    Confined {
        /// By what.
        by: Confinement,
        /// Why by nothing better.
        #[serde(skip_serializing_if = "Option::is_none")]
        because: Option<String>,
    },
    /// It has a network of its own.
    Segmented {
        /// What it reaches, as policy writes it.
        reaches: Vec<String>,
        /// Whether this machine forwards: without, it reaches this machine alone.
        forwarded: bool,
    },
    /// It runs.
    Started,
    /// The authorization was renewed.
    Renewed {
        /// When it runs out now, Unix milliseconds.
        until_ms: u64,
    },
    /// The authorization could not be renewed this time.
    NotRenewed {
        /// Why.
        because: String,
    },
    /// It stands still.
    Frozen {
        /// Every reason.
        reasons: Vec<String>,
    },
    /// It goes on.
    Thawed,
    /// All of it was killed.
    Killed {
        /// Every reason.
        reasons: Vec<String>,
        /// From the decision until nothing of it lived, in microseconds.
        took_us: u64,
    },
}

/// Runs it to its end. `signals` are passed on to the command by number.
///
/// Call it on a thread that lives as long as the process, and let [`Guard::watch`] run beside it.
pub async fn run(
    exec: &Exec,
    guard: &Arc<Guard>,
    signals: &mut mpsc::Receiver<i32>,
    tell: &(dyn Fn(ExecEvent) + Send + Sync),
) -> Ending {
    let presenter = Presenter::of(exec, guard);
    let (hold, chain) = match obtain(&presenter).await {
        Ok((hold, chain)) => (Arc::new(hold), chain),
        Err(reasons) => return Ending::Refused { reasons },
    };
    let Standing::Allowed { until_ms } = hold.now() else {
        return Ending::Refused {
            reasons: words(&hold.now()),
        };
    };
    let subject = hold.admitted().subject.clone();
    tell(ExecEvent::Allowed { subject, until_ms });
    let used = |outcome| Used {
        chain: Arc::clone(&chain),
        scope: hold.admitted().allowed.scope.clone(),
        outcome,
        at_ms: guard.time_ms().unwrap_or_else(clock::wall_ms),
    };
    report(exec, used(Outcome::Allowed));
    let cgroup = match Cgroup::create() {
        Ok(cgroup) => Some(cgroup),
        Err(error) => {
            let because = error.to_string();
            tell(ExecEvent::NoCgroup { because });
            None
        }
    };
    let segmented = exec.network || guard.has_segments();
    let plan = Plan {
        program: exec.program.clone(),
        command: exec.command.clone(),
        network: segmented,
        user: exec.user,
        silence_ms: guard.window_ms(),
    };
    let started = Cage::start(&plan, cgroup).map_err(|error| error.to_string());
    let started = started.and_then(|(cage, reports)| {
        let reports = Receiver::from_owned_fd(reports).map_err(|error| error.to_string())?;
        Ok((cage, reports))
    });
    let (cage, reports) = match started {
        Ok(started) => started,
        Err(because) => return Ending::Failed { because },
    };
    let (renewals, renewed) = mpsc::channel(8);
    let renewing = tokio::spawn(keep_renewed(presenter, Arc::clone(&hold), renewals));
    let held = Held {
        exec,
        guard,
        hold: &hold,
        cage,
        segmented,
        segment: None,
        frozen: false,
        tell,
    };
    let ending = held.watch(reports, renewed, signals).await;
    renewing.abort();
    if let Ending::Lost { .. } = ending {
        report(exec, used(Outcome::Stopped));
    }
    ending
}

/// Nothing waits for a report.
fn report(exec: &Exec, used: Used) {
    if let Some(uses) = &exec.uses
        && uses.try_send(used).is_err()
    {
        tracing::warn!(target: "touchstone::exec", "a use is not reported: too many wait");
    }
}

fn words(standing: &Standing) -> Vec<String> {
    standing.reasons().iter().map(ToString::to_string).collect()
}

struct Held<'a> {
    exec: &'a Exec,
    guard: &'a Guard,
    hold: &'a Hold,
    cage: Cage,
    /// Whether it has a network of its own, or gets one before it begins.
    segmented: bool,
    segment: Option<Segment>,
    frozen: bool,
    tell: &'a (dyn Fn(ExecEvent) + Send + Sync),
}

impl Held<'_> {
    async fn watch(
        mut self,
        reports: Receiver,
        mut renewed: mpsc::Receiver<ExecEvent>,
        signals: &mut mpsc::Receiver<i32>,
    ) -> Ending {
        let mut lines = BufReader::new(reports).lines();
        let mut standing = self.hold.standing();
        let mut beat = tokio::time::interval(Duration::from_millis(BEAT_MS));
        let mut look = tokio::time::interval(SEGMENT_PERIOD);
        beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
        look.set_missed_tick_behavior(MissedTickBehavior::Skip);
        // What changed before this loop began counts too.
        standing.mark_changed();
        loop {
            tokio::select! {
                biased;
                changed = standing.changed() => {
                    let now = match changed {
                        Ok(()) => standing.borrow_and_update().clone(),
                        // The guard is gone; nobody would tell of a loss.
                        Err(_) => self.hold.now(),
                    };
                    if let Some(ending) = self.stand(&now, &standing) {
                        return ending;
                    }
                }
                line = lines.next_line() => {
                    if let Some(ending) = self.reported(line, &mut lines).await {
                        return ending;
                    }
                }
                _ = beat.tick() => self.cage.beat(),
                Some(signal) = signals.recv() => self.cage.signal(signal),
                Some(event) = renewed.recv() => (self.tell)(event),
                _ = look.tick() => {
                    if let Err(because) = self.follow_policy() {
                        return self.give_up(because);
                    }
                }
            }
        }
    }

    /// Does what the standing asks for; an ending where that is the end.
    fn stand(&mut self, now: &Standing, changes: &watch::Receiver<Standing>) -> Option<Ending> {
        let since = Instant::now();
        match now {
            _ if changes.has_changed().is_err() => Some(self.kill(words(&self.hold.now()), since)),
            Standing::Lost { .. } => Some(self.kill(words(now), since)),
            Standing::Suspended { .. } if self.exec.end_when_suspended => Some(self.kill(words(now), since)),
            Standing::Suspended { .. } if self.frozen => None,
            Standing::Suspended { .. } => {
                let reasons = words(now);
                if let Err(error) = self.cage.freeze() {
                    return Some(self.kill(vec![format!("it could not be frozen: {error}")], since));
                }
                self.frozen = true;
                if let Some(segment) = &mut self.segment
                    && let Err(error) = segment.cut()
                {
                    return Some(self.kill(vec![format!("its network could not be cut: {error}")], since));
                }
                (self.tell)(ExecEvent::Frozen { reasons });
                None
            }
            Standing::Allowed { .. } if !self.frozen => None,
            Standing::Allowed { .. } => {
                let joined = self.segment.as_mut().map_or(Ok(()), Segment::join);
                let thawed = joined
                    .map_err(|error| format!("its network could not be joined again: {error}"))
                    .and_then(|()| self.cage.thaw().map_err(|error| error.to_string()));
                if let Err(because) = thawed {
                    return Some(self.kill(vec![because], since));
                }
                self.frozen = false;
                (self.tell)(ExecEvent::Thawed);
                None
            }
        }
    }

    fn kill(&mut self, reasons: Vec<String>, since: Instant) -> Ending {
        let killed = self.cage.kill();
        let took_us = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        if let Err(error) = killed {
            let because = format!("{}; and it could not be killed: {error}", reasons.join("; "));
            return Ending::Failed { because };
        }
        let told = reasons.clone();
        (self.tell)(ExecEvent::Killed { reasons: told, took_us });
        Ending::Lost { reasons }
    }

    fn give_up(&mut self, because: String) -> Ending {
        let _ = self.cage.kill();
        Ending::Failed { because }
    }

    async fn reported(
        &mut self,
        line: std::io::Result<Option<String>>,
        lines: &mut Lines<BufReader<Receiver>>,
    ) -> Option<Ending> {
        let report = match line {
            Ok(Some(line)) => serde_json::from_str::<Report>(&line).map_err(|error| error.to_string()),
            Ok(None) => Err("the workload's init was killed".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        match report {
            Ok(Report::Confined { by, because }) => (self.tell)(ExecEvent::Confined { by, because }),
            Ok(Report::AwaitingNetwork) => {
                let segment = Segment::build(self.cage.stage_pid(), self.reachable()).await;
                let built = segment.and_then(|mut segment| {
                    if self.frozen {
                        segment.cut()?;
                    }
                    (self.tell)(ExecEvent::Segmented {
                        reaches: segment.reaches().iter().map(ToString::to_string).collect(),
                        forwarded: segment.is_forwarded(),
                    });
                    self.segment = Some(segment);
                    Ok(())
                });
                return match built {
                    Ok(()) => self.begin(),
                    Err(because) => Some(self.give_up(format!("its network: {because}"))),
                };
            }
            Ok(Report::Started) => (self.tell)(ExecEvent::Started),
            Ok(Report::Exited { code }) => return Some(self.ended(Ending::Exited { code }, lines).await),
            Ok(Report::Signalled { signal }) => return Some(self.ended(Ending::Signalled { signal }, lines).await),
            Ok(Report::NotStarted { code, because }) => {
                let ending = Ending::NotStarted { code, because };
                return Some(self.ended(ending, lines).await);
            }
            Ok(Report::Failed { because }) => return Some(self.give_up(because)),
            Ok(Report::GuardSilent { for_ms }) => {
                let because = format!("this guard stood still for {for_ms} ms, and its workload was ended");
                return Some(self.give_up(because));
            }
            Err(because) => return Some(self.give_up(because)),
        }
        None
    }

    /// Lets the stage start the workload, where it still may; an ending where that is the end. While the network is made
    /// nobody here hears of a loss, and a stage that waits for it does not hear of a freeze: what came meanwhile counts now,
    /// and nothing has run that would have to be kept.
    fn begin(&mut self) -> Option<Ending> {
        let (since, now) = (Instant::now(), self.hold.now());
        if !matches!(now, Standing::Allowed { .. }) {
            return Some(self.kill(words(&now), since));
        }
        let because = self.cage.go().err()?;
        Some(self.give_up(format!("the stage: {because}")))
    }

    /// The workload has ended; all that it started goes with it before anybody is told.
    async fn ended(&mut self, ending: Ending, lines: &mut Lines<BufReader<Receiver>>) -> Ending {
        // The init holds the other end until the kernel has taken everything away.
        let _ = tokio::time::timeout(LAST_PATIENCE, async {
            while let Ok(Some(_)) = lines.next_line().await {}
        })
        .await;
        match self.cage.kill() {
            Ok(()) => ending,
            Err(error) => Ending::Failed {
                because: error.to_string(),
            },
        }
    }

    /// Another policy may open or close something.
    fn follow_policy(&mut self) -> Result<(), String> {
        match &mut self.segment {
            Some(segment) => segment.change(self.guard.reachable(&self.exec.action, &self.exec.resource)),
            // It reaches everything, and nobody can change that while it runs.
            None if !self.segmented && self.guard.has_segments() => {
                Err("policy has network segments now, and it was started without a network of its own".to_owned())
            }
            None => Ok(()),
        }
    }

    fn reachable(&self) -> Vec<Reachable> {
        self.guard.reachable(&self.exec.action, &self.exec.resource)
    }
}

#[cfg(test)]
mod tests;
