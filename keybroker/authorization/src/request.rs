//! What a decision is asked about: the request, who decides under which rules, and what "allow" gives.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use touchstone_cose::cbor::{Value, encode};

use crate::block::MAX_BLOCK_LIFE_S;
use crate::chain::{MAX_BLOCKS, VerifiedChain};
use crate::keys::KeyRing;
use crate::scope::Scope;

/// Which channels an enforcer takes proofs over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChannelPolicy {
    /// Local guards: the proof answers the guard's single-use challenge.
    Challenge,
    /// Who ends TLS: the proof carries the exporter of this connection, or answers a challenge.
    ExporterOrChallenge,
    /// An endpoint that does not end TLS: where a request has neither, the proof is over the digest of the request,
    /// young, and remembered.
    Optional,
}

impl ChannelPolicy {
    /// What this policy asks for, in words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Challenge => "a challenge of this enforcer",
            Self::ExporterOrChallenge => "a TLS exporter or a challenge of this enforcer",
            Self::Optional => "a TLS exporter, a challenge of this enforcer, or the digest of the request",
        }
    }
}

/// Who decides, under which rules.
#[derive(Debug, Clone, Copy)]
pub struct Enforcer<'a> {
    /// The enforcer's id; `aud` of every proof must equal it.
    pub id: &'a str,
    /// The domain it obeys; issuer and audience of every authorization.
    pub domain: &'a str,
    /// The domain's authorization keys, from the signed keyset.
    pub keys: &'a KeyRing,
    /// How far clocks may lie apart, in milliseconds (policy: `skew bound`).
    pub skew_ms: u64,
    /// For how long a received trust state counts, in milliseconds (policy: `freshness window`).
    pub window_ms: u64,
    /// Which channels it takes proofs over.
    pub requires_channel: ChannelPolicy,
    /// The region it is in. Where there is none it takes no authorization that counts in one region only.
    pub region: Option<&'a str>,
    /// What it is asked for. Where there is none it takes no authorization that counts for one purpose only.
    pub purpose: Option<&'a str>,
    /// Which off-line delegations it takes.
    pub offline: OfflineLimits,
}

/// Which off-line delegations an enforcer takes, beside that every one of them only narrows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OfflineLimits {
    /// How many may follow one another, at most [`MAX_BLOCKS`].
    pub depth: u8,
    /// For how long each may count, in milliseconds, at most [`MAX_BLOCK_LIFE_S`].
    pub life_ms: u64,
}

impl OfflineLimits {
    /// None at all: where keys are released, authorizations issued, or the domain changed.
    pub const NONE: Self = Self { depth: 0, life_ms: 0 };

    /// Every one that the format allows.
    pub const MOST: Self = Self {
        depth: MAX_BLOCKS as u8,
        life_ms: MAX_BLOCK_LIFE_S * 1_000,
    };
}

/// `req`: SHA-256 over the deterministic CBOR array `["touchstone-request/1", method, authority, path, body digest]`. The
/// method is in capitals, the authority as in `Host` or `:authority` and in lower case, the path with its query as it was
/// sent. `body` is SHA-256 of the body, of none for an empty one; null says that the enforcer does not see it, and then
/// nothing ties the proof to it.
#[must_use]
pub fn request_digest(method: &str, authority: &str, path: &str, body: Option<&[u8; 32]>) -> [u8; 32] {
    let request = Value::array([
        Value::text("touchstone-request/1"),
        Value::text(method),
        Value::text(authority),
        Value::text(path),
        body.map_or(Value::Null, |digest| Value::bytes(*digest)),
    ]);
    Sha256::digest(encode(&request)).into()
}

/// The chain of a request: as it came, or as this process has verified it before.
#[derive(Debug, Clone)]
pub enum Presented<'a> {
    /// Bytes from outside: an authorization, or one with off-line delegations added to it.
    Bytes(&'a [u8]),
    /// What the very same bytes gave when they were verified, [`Allowed::chain`] for one: the signatures are not verified
    /// again, everything else is looked at as if new.
    Verified(Arc<VerifiedChain>),
}

/// The channel a request came over, as the enforcer itself knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestChannel<'a> {
    /// The challenge this enforcer gave for this request. The caller takes it out of use before it asks.
    Challenge(&'a [u8]),
    /// TLS exporter of the connection: label `EXPORTER-touchstone-pop`, context `ath`, 32 bytes.
    Exporter(&'a [u8; 32]),
    /// Neither.
    None,
}

/// What is asked.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The authorization, or the chain that begins with it.
    pub authorization: Presented<'a>,
    /// The proof of possession.
    pub proof: &'a [u8],
    /// The action that is about to happen.
    pub action: &'a str,
    /// What it will happen to.
    pub resource: &'a str,
    /// SHA-256 of (method, authority, path, body digest) where the enforcer sees requests.
    pub request_digest: Option<[u8; 32]>,
    /// The channel it came over.
    pub channel: RequestChannel<'a>,
}

/// A request that is allowed.
#[derive(Debug, Clone)]
pub struct Allowed {
    /// The verified chain, to be kept for [`Presented::Verified`] and [`crate::decide::redecide`]. It tells who the last
    /// holder is, what it may do and until when.
    pub chain: Arc<VerifiedChain>,
    /// The scope that grants it.
    pub scope: Scope,
    /// When the chain runs out, in Unix milliseconds. [`crate::decide::redecide`] says earlier where the trust state does.
    pub until_ms: u64,
}
