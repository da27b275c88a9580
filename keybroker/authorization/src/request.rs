//! What a decision is asked about: the request, who decides under which rules, and what "allow" gives.

use std::sync::Arc;

use crate::keys::KeyRing;
use crate::scope::Scope;
use crate::token::VerifiedAuthorization;

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
}

/// The authorization of a request: as it came, or as this process has verified it before.
#[derive(Debug, Clone)]
pub enum Presented<'a> {
    /// Bytes from outside.
    Bytes(&'a [u8]),
    /// What [`Allowed::authorization`] gave for the very same bytes: the signature is not verified again, everything
    /// else is looked at as if new.
    Verified(Arc<VerifiedAuthorization>),
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
    /// The authorization.
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
    /// The verified authorization, to be kept for [`Presented::Verified`] and [`crate::decide::redecide`].
    pub authorization: Arc<VerifiedAuthorization>,
    /// The scope that grants it.
    pub scope: Scope,
    /// When the authorization runs out, in Unix milliseconds. [`crate::decide::redecide`] says earlier where the trust state does.
    pub until_ms: u64,
}
