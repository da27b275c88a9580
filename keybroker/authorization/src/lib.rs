//! What a Relying Party needs: an authorization, a proof of possession and a trust state in, allow or a reason out.
//! No I/O, no clock.
//!
//! In scope: the signed formats that a decision rests on ([`token`], [`block`], [`chain`], [`proof`], [`trust_head`]), how a
//! trust state travels and is held ([`trust_frame`], [`trust_view`], [`lists`], [`revoked`]), the one decision over them
//! ([`decide`]), the same about authorizations of other domains ([`federation`]), handing on off-line ([`delegate`]), and
//! what enforcers and operators tell the broker ([`ack`], [`usage`], [`command`]). Out of scope: fetching any of it, keeping
//! challenges, knowing what time it is. Source of every rule: `docs/protocol.md`, sections 6, 7 and 12.

pub mod ack;
pub mod block;
pub mod broker_time;
pub mod chain;
pub mod command;
pub mod decide;
pub mod delegate;
pub mod federation;
pub mod keys;
pub mod lists;
pub mod name;
pub mod named;
pub mod narrowing;
pub mod proof;
pub mod refusal;
pub mod replay;
pub mod request;
pub mod revoked;
pub mod scope;
pub mod signed;
pub mod token;
pub mod trust_frame;
pub mod trust_head;
pub mod trust_view;
pub mod usage;

pub use ack::Ack;
pub use block::Block;
pub use chain::{ChainError, UntrustedChain, VerifiedChain};
pub use command::{Command, CommandAction, TargetKind};
pub use decide::{Asked, DomainState, ask, decide, redecide};
pub use delegate::{DelegateError, Delegation, delegate};
pub use federation::{Admitted, Foreign, Link, decide_among, redecide_among};
pub use keys::{KeyRing, KeyRingError, NamedKeys, TrustedKey};
pub use lists::{ListError, Status, StatusArray, StatusLists};
pub use named::NamedError;
pub use narrowing::{Narrowing, NarrowingError};
pub use proof::{Channel, Proof, UntrustedProof, VerifiedProof};
pub use refusal::{Refusal, RefusalCode, only_suspended};
pub use replay::ReplayMemory;
pub use request::{
    Allowed, ChannelPolicy, Enforcer, OfflineLimits, Presented, Request, RequestChannel, request_digest,
};
pub use revoked::{RevokedError, RevokedHead, RevokedIds};
pub use scope::{Action, Scope, ScopeError};
pub use signed::{SignedError, SignedKind};
pub use token::{
    Authorization, DelegationRight, KeyKind, StatusIndex, UntrustedAuthorization, VerifiedAuthorization,
    authorization_digest,
};
pub use trust_frame::{Body, TrustFrame};
pub use trust_head::{ListHead, TrustHead};
pub use trust_view::{TrustStateError, TrustView};
pub use usage::{Outcome, Use};
