//! Runs a command so that it, and everything it starts, can be frozen and killed at once, and does not outlive whoever
//! started it.
//!
//! Three processes stand between the guard and the workload, each for one reason:
//!
//! ```text
//! guard ── stage ── init (PID 1 of the workload's namespace) ── the workload and all it starts
//! ```
//!
//! - The *stage* has one thread, because only such a process may make a PID namespace; it enters the cgroup and the
//!   namespaces, then waits.
//! - The *init* is ours: when it ends, for whatever reason, the kernel kills everything in its namespace
//!   (pid_namespaces(7)). It ends with the workload; when the guard's end of a pipe is closed; when the guard is silent for
//!   longer than it said it would be, as a stopped one is; and with the stage, which ends with the guard
//!   (parent-death signals, prctl(2)).
//! - The cgroup (v2, cgroups(7)) freezes and kills what is in it with one write, the init included.
//!
//! Where the kernel does not give a namespace or a cgroup the next best is used, and [`Confinement`] says which.
//! No authorization here, no policy, no async runtime: what must not fail is small.

mod cage;
mod cgroup;
mod init;
mod privileges;
mod stage;
mod still;
mod tree;
mod wire;

pub use cage::{Cage, CageError, Plan, STAGE};
pub use cgroup::{Cgroup, CgroupError};
pub use init::{BEAT_MS, NOT_FOUND, NOT_RUNNABLE};
pub use stage::run as run_stage;
pub use wire::{Confinement, Report};
