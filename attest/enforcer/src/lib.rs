//! What enforces: everything that refuses to act without a valid authorization and a fresh trust state, and stops what runs
//! when either ends.
//!
//! The decision is `touchstone_authorization::decide`, the same for all; here is what it needs and what follows from it:
//! the domain's policy and keys ([`trust`]), the last accepted versions ([`floors`]), time, the stream of trust states,
//! challenges used once ([`guard`]), a command that is dead when its authorization is ([`exec`]). Services have it as a tower
//! layer ([`layer`]), proxies as an endpoint ([`ext_authz`]), container runtimes as a hook ([`oci`]). No TPM: what links a
//! service to this links no C.

pub mod agent;
pub mod exec;
pub mod ext_authz;
pub mod floors;
pub mod guard;
pub mod layer;
pub mod oci;
pub mod trust;
pub mod uses;

pub use touchstone_client as client;
pub use touchstone_client::{clock, follow};

// Tests inside and outside of this crate share one guard: what it is made of is named as by anybody else.
#[cfg(test)]
extern crate self as touchstone_enforcer;

#[cfg(test)]
#[path = "../tests/common/mod.rs"]
mod common;
