//! The decision of an enforcer: (authorization, proof of possession, trust state, now) to allow or every reason why not.
//!
//! What makes an answer "allow": the authorization verifies under a key of the domain, is for this domain, is within
//! its time, and the trust state, fresh and of the same domain, holds nothing against it; the proof verifies under the
//! key the authorization is bound to and was made for this enforcer, this authorization, this action and this channel.
//! Anything missing or unreadable denies. Claims of an object whose signature does not verify are never looked at.
//! Source: `docs/protocol.md`, sections 6 and 7.

use std::sync::Arc;

use crate::keys::KeyRing;
use crate::lists::{Status, StatusLists};
use crate::proof::{Channel, UntrustedProof, VerifiedProof};
use crate::refusal::{Hex, Refusal, RefusalCode};
use crate::replay::{MAX_PROOF_AGE_MS, ReplayMemory, Seen};
use crate::request::{Allowed, ChannelPolicy, Enforcer, Presented, Request, RequestChannel};
use crate::scope::{Action, Scope, format_list};
use crate::signed::SignedKind;
use crate::token::{UntrustedAuthorization, VerifiedAuthorization};
use crate::trust_view::TrustView;

/// Decides about one request at `now_ms` (Unix milliseconds of the domain's time). Gives every reason that can be told
/// independently of the others, sorted by code, and the replay memory to use from now on.
pub fn decide(
    request: &Request<'_>,
    view: Option<&TrustView>,
    enforcer: &Enforcer<'_>,
    memory: ReplayMemory,
    now_ms: u64,
) -> (Result<Allowed, Vec<Refusal>>, ReplayMemory) {
    let memory = memory.forget(now_ms);
    let mut refusals = Vec::new();
    let view = usable_view(view, enforcer, now_ms, &mut refusals);
    let Presentation {
        authorization,
        wanted,
        proof,
    } = judge(
        request,
        view.map(DomainState::of).as_ref(),
        &Issuer::home(enforcer),
        enforcer,
        now_ms,
        &mut refusals,
    );
    conclude((authorization, wanted, proof), request, memory, now_ms, refusals)
}

/// The end of every decision: what must be remembered of the proof, and allow where nothing speaks against it.
pub(crate) fn conclude(
    (authorization, wanted, proof): (Option<Arc<VerifiedAuthorization>>, Option<Scope>, Option<VerifiedProof>),
    request: &Request<'_>,
    memory: ReplayMemory,
    now_ms: u64,
    mut refusals: Vec<Refusal>,
) -> (Result<Allowed, Vec<Refusal>>, ReplayMemory) {
    let mut remember = None;
    if let (Some(authorization), Some(proof), RequestChannel::None) = (&authorization, &proof, request.channel) {
        judge_age(proof, now_ms, &mut refusals);
        judge_replay(proof, authorization, &memory, &mut refusals);
        remember = Some((*authorization.confirmation_thumbprint(), proof.claims().cti));
    }

    match (authorization, wanted) {
        (Some(authorization), Some(scope)) if refusals.is_empty() => {
            let memory = match remember {
                Some((key, cti)) => memory.remember(&key, &cti, now_ms),
                None => memory,
            };
            let until_ms = authorization.contents().expires.saturating_mul(1_000);
            (
                Ok(Allowed {
                    authorization,
                    scope,
                    until_ms,
                }),
                memory,
            )
        }
        _ => {
            refusals.sort();
            refusals.dedup();
            (Err(refusals), memory)
        }
    }
}

/// What an issuer itself knows of its domain at one moment, in the place of a trust state that travelled.
#[derive(Debug, Clone, Copy)]
pub struct DomainState<'a> {
    /// Generation of the domain.
    pub generation: u32,
    /// Epoch of the trust state.
    pub epoch: u64,
    /// Version of the policy in force.
    pub policy_version: u64,
    /// The status lists.
    pub lists: &'a StatusLists,
}

impl<'a> DomainState<'a> {
    pub(crate) fn of(view: &'a TrustView) -> Self {
        let head = view.head();
        Self {
            generation: head.generation,
            epoch: head.epoch,
            policy_version: head.policy_version,
            lists: view.lists(),
        }
    }
}

/// What was presented to an issuer, judged.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The authorization, where it verifies under a key of the domain.
    pub authorization: Option<Arc<VerifiedAuthorization>>,
    /// The proof, where it verifies under that authorization's key.
    pub proof: Option<VerifiedProof>,
    /// Everything that speaks against it, sorted.
    pub refusals: Vec<Refusal>,
}

impl Asked {
    /// Who asks, where that is beyond doubt: the authorization is this domain's own, and its holder has just proved to
    /// this enforcer, on this channel, to have its key. What else speaks against the request is a denial of *this*
    /// subject; where this is nothing, the requester is refused and nobody's state is touched.
    #[must_use]
    pub fn subject(&self) -> Option<&Arc<VerifiedAuthorization>> {
        let known = self
            .refusals
            .iter()
            .all(|refusal| refusal.code.is_about_a_known_subject());
        self.authorization.as_ref().filter(|_| known && self.proof.is_some())
    }
}

/// Judges a request to the issuer of authorizations itself, on the state it holds: everything that [`decide`] looks at
/// but the freshness of a trust state, which is its own. Takes only proofs that are bound to a channel.
pub fn ask(request: &Request<'_>, state: &DomainState<'_>, enforcer: &Enforcer<'_>, now_ms: u64) -> Asked {
    let mut refusals = Vec::new();
    let issuer = Issuer::home(enforcer);
    let presented = judge(request, Some(state), &issuer, enforcer, now_ms, &mut refusals);
    if matches!(request.channel, RequestChannel::None) {
        let expected = ChannelPolicy::ExporterOrChallenge.as_str();
        refusals.push(Refusal::new(RefusalCode::ProofChannelMissing, expected, "neither"));
    }
    refusals.sort();
    refusals.dedup();
    Asked {
        authorization: presented.authorization,
        proof: presented.proof,
        refusals,
    }
}

/// Whose authorization is judged: the enforcer's own domain's, or that of one which its policy lets in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Issuer<'a> {
    pub domain: &'a str,
    pub keys: &'a KeyRing,
    /// Whether the state is as young as an authorization can be. One that is carried by hand is not: what was made since
    /// names a later epoch.
    pub current: bool,
}

impl<'a> Issuer<'a> {
    fn home(enforcer: &Enforcer<'a>) -> Self {
        Self {
            domain: enforcer.domain,
            keys: enforcer.keys,
            current: true,
        }
    }
}

/// What was presented, as far as it verifies.
pub(crate) struct Presentation {
    pub authorization: Option<Arc<VerifiedAuthorization>>,
    pub wanted: Option<Scope>,
    pub proof: Option<VerifiedProof>,
}

pub(crate) fn judge(
    request: &Request<'_>,
    state: Option<&DomainState<'_>>,
    issuer: &Issuer<'_>,
    enforcer: &Enforcer<'_>,
    now_ms: u64,
    refusals: &mut Vec<Refusal>,
) -> Presentation {
    let mut presented = Presentation {
        authorization: None,
        wanted: wanted_scope(request, refusals),
        proof: None,
    };
    let authorization = match authorization(request, issuer, now_ms) {
        Ok(authorization) => authorization,
        Err(refusal) => {
            refusals.push(refusal);
            return presented;
        }
    };
    judge_authorization(&authorization, state, issuer, enforcer, now_ms, refusals);
    if let Some(wanted) = &presented.wanted
        && !authorization.contents().scopes.iter().any(|held| held.covers(wanted))
    {
        let held = format_list(&authorization.contents().scopes).unwrap_or_default();
        refusals.push(Refusal::new(RefusalCode::ScopeNotGranted, wanted, held));
    }
    match UntrustedProof::parse(request.proof).and_then(|proof| proof.verify(&authorization.contents().confirmation)) {
        Ok(proof) => {
            judge_proof(&proof, &authorization, request, enforcer, refusals);
            presented.proof = Some(proof);
        }
        Err(error) => refusals.push(error.refusal(SignedKind::Proof)),
    }
    presented.authorization = Some(authorization);
    presented
}

/// Looks again at an authorization whose connection or process is open: freshness of the trust state, status, expiry
/// and whatever else time can change. The proof is not looked at: it opened this very connection.
pub fn redecide(
    authorization: &VerifiedAuthorization,
    view: Option<&TrustView>,
    enforcer: &Enforcer<'_>,
    now_ms: u64,
) -> Result<(), Vec<Refusal>> {
    let mut refusals = Vec::new();
    let view = usable_view(view, enforcer, now_ms, &mut refusals);
    if !authorization.signer_is_in(enforcer.keys, now_ms) {
        refusals.push(signer_gone(authorization));
    }
    let state = view.map(DomainState::of);
    let issuer = Issuer::home(enforcer);
    judge_authorization(authorization, state.as_ref(), &issuer, enforcer, now_ms, &mut refusals);
    refusals.sort();
    if refusals.is_empty() { Ok(()) } else { Err(refusals) }
}

/// The view, if it may be consulted: of the enforcer's domain. A stale one is still consulted, so that a refusal can
/// say that the authorization is revoked as well; it never allows, because staleness is itself a refusal.
pub(crate) fn usable_view<'v>(
    view: Option<&'v TrustView>,
    enforcer: &Enforcer<'_>,
    now_ms: u64,
    refusals: &mut Vec<Refusal>,
) -> Option<&'v TrustView> {
    let Some(view) = view else {
        refusals.push(Refusal::new(
            RefusalCode::TrustStateMissing,
            "a fresh trust state",
            "none",
        ));
        return None;
    };
    if view.head().domain != enforcer.domain {
        refusals.push(Refusal::new(
            RefusalCode::TrustStateDomain,
            enforcer.domain,
            &view.head().domain,
        ));
        return None;
    }
    if !view.fresh(now_ms, enforcer.window_ms) {
        let expected = format_args!("now before {} ms", view.fresh_until_ms(enforcer.window_ms));
        refusals.push(Refusal::new(
            RefusalCode::TrustStateStale,
            expected,
            format_args!("now {now_ms} ms, received at {} ms", view.received_at_ms()),
        ));
    }
    Some(view)
}

fn wanted_scope(request: &Request<'_>, refusals: &mut Vec<Refusal>) -> Option<Scope> {
    let scope = Action::parse(request.action).and_then(|action| Scope::new(action, request.resource).ok());
    if scope.is_none() {
        let found = format_args!("{}:{}", request.action, request.resource);
        refusals.push(Refusal::new(
            RefusalCode::RequestMalformed,
            "action:resource without wildcards",
            found,
        ));
    }
    scope
}

fn authorization(
    request: &Request<'_>,
    issuer: &Issuer<'_>,
    now_ms: u64,
) -> Result<Arc<VerifiedAuthorization>, Refusal> {
    match &request.authorization {
        Presented::Bytes(bytes) => UntrustedAuthorization::parse(bytes)
            .and_then(|authorization| authorization.verify(issuer.keys, now_ms))
            .map(Arc::new)
            .map_err(|error| error.refusal(SignedKind::Authorization)),
        // A key that was taken out of the keyset takes along what it signed, verified before or not.
        Presented::Verified(authorization) if !authorization.signer_is_in(issuer.keys, now_ms) => {
            Err(signer_gone(authorization))
        }
        Presented::Verified(authorization) => Ok(Arc::clone(authorization)),
    }
}

/// A key that was taken out of the keyset takes along what it signed, verified before or not.
pub(crate) fn signer_gone(authorization: &VerifiedAuthorization) -> Refusal {
    let expected = "a key of the keyset that counts now";
    Refusal::new(
        RefusalCode::AuthorizationKeyUnknown,
        expected,
        Hex(authorization.key_id()),
    )
}

pub(crate) fn judge_authorization(
    authorization: &VerifiedAuthorization,
    state: Option<&DomainState<'_>>,
    issuer: &Issuer<'_>,
    enforcer: &Enforcer<'_>,
    now_ms: u64,
    refusals: &mut Vec<Refusal>,
) {
    let claims = authorization.contents();
    let mut refuse = |code, expected: &dyn core::fmt::Display, found: &dyn core::fmt::Display| {
        refusals.push(Refusal::new(code, expected, found));
    };
    if claims.issuer != issuer.domain {
        refuse(RefusalCode::AuthorizationIssuer, &issuer.domain, &claims.issuer);
    }
    if claims.audience != enforcer.domain {
        refuse(RefusalCode::AuthorizationAudience, &enforcer.domain, &claims.audience);
    }
    let (not_before, expires) = (claims.not_before, claims.expires);
    if now_ms.saturating_add(enforcer.skew_ms) < not_before.saturating_mul(1_000) {
        refuse(
            RefusalCode::AuthorizationNotYetValid,
            &format_args!("now from {not_before} s"),
            &format_args!("{now_ms} ms"),
        );
    }
    if now_ms >= expires.saturating_mul(1_000).saturating_add(enforcer.skew_ms) {
        refuse(
            RefusalCode::AuthorizationExpired,
            &format_args!("now before {expires} s"),
            &format_args!("{now_ms} ms"),
        );
    }
    let Some(state) = state else { return };
    if claims.policy_version > state.policy_version {
        let expected = format_args!("at most {}", state.policy_version);
        refuse(
            RefusalCode::AuthorizationPolicyUnknown,
            &expected,
            &claims.policy_version,
        );
    }
    let status = claims.status;
    if status.generation != state.generation {
        refuse(
            RefusalCode::AuthorizationGeneration,
            &state.generation,
            &status.generation,
        );
        return;
    }
    // Epochs are ordered within a generation only.
    if issuer.current && claims.epoch > state.epoch {
        refuse(
            RefusalCode::AuthorizationEpochAhead,
            &format_args!("at most {}", state.epoch),
            &claims.epoch,
        );
    }
    let Some(list) = state.lists.get(status.list) else {
        refuse(
            RefusalCode::AuthorizationListUnknown,
            &"a list of the trust state",
            &status.list,
        );
        return;
    };
    let found = format_args!("entry {} of list {}", status.index, status.list);
    match list.status(status.index) {
        Some(Status::Valid) => {}
        Some(Status::Invalid) => refuse(RefusalCode::AuthorizationRevoked, &"valid", &found),
        Some(Status::Suspended) => refuse(RefusalCode::AuthorizationSuspended, &"valid", &found),
        Some(Status::Reserved) => refuse(RefusalCode::AuthorizationStatusUnknown, &"valid", &found),
        None => refuse(
            RefusalCode::AuthorizationIndex,
            &format_args!("below {}", list.entries()),
            &status.index,
        ),
    }
}

fn judge_proof(
    proof: &VerifiedProof,
    authorization: &VerifiedAuthorization,
    request: &Request<'_>,
    enforcer: &Enforcer<'_>,
    refusals: &mut Vec<Refusal>,
) {
    let claims = proof.claims();
    let mut refuse = |code, expected: &dyn core::fmt::Display, found: &dyn core::fmt::Display| {
        refusals.push(Refusal::new(code, expected, found));
    };
    if claims.audience != enforcer.id {
        refuse(RefusalCode::ProofAudience, &enforcer.id, &claims.audience);
    }
    if claims.authorization_digest != *authorization.digest() {
        let found = Hex(&claims.authorization_digest);
        refuse(RefusalCode::ProofAuthorization, &Hex(authorization.digest()), &found);
    }
    if claims.scope.action().as_str() != request.action || claims.scope.resource() != request.resource {
        refuse(
            RefusalCode::ProofAction,
            &format_args!("{}:{}", request.action, request.resource),
            &claims.scope,
        );
    }
    match (request.request_digest, claims.request_digest) {
        (expected, found) if expected != found => {
            let text = |digest: Option<[u8; 32]>| digest.map_or("none".to_owned(), |digest| Hex(&digest).to_string());
            refuse(RefusalCode::ProofRequest, &text(expected), &text(found));
        }
        (None, None) if matches!(request.channel, RequestChannel::None) => {
            refuse(RefusalCode::ProofRequestMissing, &"a request digest", &"none");
        }
        _ => {}
    }

    let taken = match enforcer.requires_channel {
        ChannelPolicy::Challenge => matches!(request.channel, RequestChannel::Challenge(_)),
        ChannelPolicy::ExporterOrChallenge => !matches!(request.channel, RequestChannel::None),
        ChannelPolicy::Optional => true,
    };
    if !taken {
        let found = match request.channel {
            RequestChannel::Challenge(_) => "a request with a challenge",
            RequestChannel::Exporter(_) => "a request with a TLS exporter",
            RequestChannel::None => "a request with neither",
        };
        refuse(
            RefusalCode::ProofChannelMissing,
            &enforcer.requires_channel.as_str(),
            &found,
        );
    }
    match (request.channel, &claims.channel) {
        (RequestChannel::Challenge(expected), Channel::Challenge(found)) if expected == found.as_slice() => {}
        (RequestChannel::Exporter(expected), Channel::Exporter(found)) if expected == found => {}
        (RequestChannel::None, Channel::None) => {}
        (RequestChannel::Challenge(_) | RequestChannel::Exporter(_), Channel::None) => {
            refuse(
                RefusalCode::ProofChannelMissing,
                &enforcer.requires_channel.as_str(),
                &"a proof with neither",
            );
        }
        // The values are not shown: an exporter is a secret of its connection.
        (RequestChannel::Challenge(_), _) | (RequestChannel::None, Channel::Challenge(_)) => {
            refuse(
                RefusalCode::ProofChallenge,
                &"the challenge of this request",
                &claims.channel.kind(),
            );
        }
        (RequestChannel::Exporter(_), _) | (RequestChannel::None, Channel::Exporter(_)) => {
            refuse(
                RefusalCode::ProofExporter,
                &"the exporter of this connection",
                &claims.channel.kind(),
            );
        }
    }
}

/// `iat` is in whole seconds; a proof counts up to [`MAX_PROOF_AGE_MS`] before and after that instant.
fn judge_age(proof: &VerifiedProof, now_ms: u64, refusals: &mut Vec<Refusal>) {
    let issued_at = proof.claims().issued_at;
    if now_ms.abs_diff(issued_at.saturating_mul(1_000)) > MAX_PROOF_AGE_MS {
        let expected = format_args!("within {MAX_PROOF_AGE_MS} ms of {now_ms} ms");
        refusals.push(Refusal::new(
            RefusalCode::ProofTime,
            expected,
            format_args!("{issued_at} s"),
        ));
    }
}

fn judge_replay(
    proof: &VerifiedProof,
    authorization: &VerifiedAuthorization,
    memory: &ReplayMemory,
    refusals: &mut Vec<Refusal>,
) {
    match memory.judge(authorization.confirmation_thumbprint(), &proof.claims().cti) {
        Seen::New => {}
        Seen::Before => {
            refusals.push(Refusal::new(
                RefusalCode::ProofReplayed,
                "a proof never seen",
                Hex(&proof.claims().cti),
            ));
        }
        Seen::Full => {
            let expected = "room to remember the proof";
            refusals.push(Refusal::new(
                RefusalCode::ReplayMemoryFull,
                expected,
                format_args!("{} proofs", memory.len()),
            ));
        }
    }
}
