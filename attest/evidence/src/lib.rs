//! What travels from an Attester to a Verifier: the CMW collection, the binder that ties every part of it together, and
//! the messages that carry both.
//!
//! In scope: the formats and their limits. Out of scope: making evidence (`attest`), believing it (`verifier`).
//! Source of every rule: `docs/protocol.md`, section 3.

pub mod binder;
pub mod collection;
pub mod label;
pub mod manifest;
pub mod message;
pub mod pcr_values;
pub mod uki_sections;
