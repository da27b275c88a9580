//! Containers: an OCI hook lets start only what holds an authorization, and what started is frozen and ended with it.
//!
//! ```text
//! runtime --state--> hook (judges the bundle) --starts--> keeper --asks--> guard --present--> agent
//!                      ^                                    |                |
//!                      +---------- what the guard said -----+                +-- freezes, thaws, ends the container
//!                                                           +-- ends it should the guard fall silent
//! ```
//!
//! The hook ([`hook`]) is a process of a moment, run by runc or any runtime of the OCI contract as `createRuntime`. It reads
//! the right that the container needs from the annotations `touchstone.action` and `touchstone.resource` ([`bundle`]). The
//! guard ([`watchman`]) has the node's agent present its authorization for that, holds it, renews it, and acts on the
//! container's control group ([`cgroup`]) when it is suspended or lost. The keeper ([`keeper`]) stays beside the container.
//!
//! Out of scope: a container that its makers gave no hook, and one so privileged that it can end the guard.

pub mod bundle;
pub mod cgroup;
pub mod hook;
pub mod json;
pub mod keeper;
pub mod process;
pub mod protocol;
pub mod reason;
pub mod watchman;

pub use reason::{ContainerCode, ContainerRefused};
pub use watchman::{ContainerEvent, Watchman};
