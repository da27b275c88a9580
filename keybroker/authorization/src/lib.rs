//! What a Relying Party needs: an authorization, a proof of possession and a trust state in, allow or a reason out.
//! No I/O, no clock.
//!
//! In scope: the three signed formats ([`token`], [`proof`], [`trust_head`]), how a trust state travels and is held
//! ([`trust_frame`], [`trust_view`], [`lists`]), the one decision over them ([`decide`]), and the same about authorizations
//! of other domains ([`federation`]). Out of scope: fetching any
//! of it, keeping challenges, knowing what time it is. Source of every rule: `docs/protocol.md`, sections 6 and 7.

pub mod broker_time;
pub mod decide;
pub mod federation;
pub mod keys;
pub mod lists;
pub mod name;
pub mod narrowing;
pub mod proof;
pub mod refusal;
pub mod replay;
pub mod request;
pub mod scope;
pub mod signed;
pub mod token;
pub mod trust_frame;
pub mod trust_head;
pub mod trust_view;

pub use decide::{Asked, DomainState, ask, decide, redecide};
pub use federation::{Admitted, Foreign, Link, decide_among, redecide_among};
pub use keys::{KeyRing, KeyRingError, TrustedKey};
pub use lists::{ListError, Status, StatusArray, StatusLists};
pub use narrowing::{Narrowing, NarrowingError};
pub use proof::{Channel, Proof, UntrustedProof, VerifiedProof};
pub use refusal::{Refusal, RefusalCode};
pub use replay::ReplayMemory;
pub use request::{Allowed, ChannelPolicy, Enforcer, Presented, Request, RequestChannel};
pub use scope::{Action, Scope, ScopeError};
pub use signed::{SignedError, SignedKind};
pub use token::{
    Authorization, KeyKind, StatusIndex, UntrustedAuthorization, VerifiedAuthorization, authorization_digest,
};
pub use trust_frame::{Body, TrustFrame};
pub use trust_head::{ListHead, TrustHead};
pub use trust_view::{TrustStateError, TrustView};
