//! What a Relying Party needs: an authorization, a proof of possession and a trust state in, allow or a reason out.
//! No I/O, no clock.
//!
//! In scope: the three signed formats ([`token`], [`proof`], [`trust_head`]), how a trust state travels and is held
//! ([`trust_frame`], [`trust_view`], [`lists`]), and the one decision over them ([`decide`]). Out of scope: fetching any
//! of it, keeping challenges, knowing what time it is. Source of every rule: `docs/protocol.md`, sections 6 and 7.

pub mod lists;
pub mod name;
pub mod refusal;
pub mod replay;
pub mod scope;

pub use lists::{ListError, Status, StatusArray, StatusLists};
pub use refusal::{Refusal, RefusalCode};
pub use replay::ReplayMemory;
pub use scope::{Action, Scope, ScopeError};
