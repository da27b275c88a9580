//! The decision of an enforcer: (authorization, proof of possession, trust state, now) to allow or every reason why not.
//!
//! What makes an answer "allow": the authorization verifies under a key of the domain, is for this domain, is within
//! its time, and the trust state, fresh and of the same domain, holds nothing against it; every off-line delegation added
//! to it verifies under the key of the link before, holds no more than that link, is within its time and not taken back;
//! the proof verifies under the key of the last link and was made for this enforcer, this chain, this action and this
//! channel.
//! Anything missing or unreadable denies. Claims of an object whose signature does not verify are never looked at.
//! Source: `docs/protocol.md`, sections 6 and 7.

use std::sync::Arc;

use crate::chain::{UntrustedChain, VerifiedChain};
use crate::keys::KeyRing;
use crate::lists::{Status, StatusLists};
use crate::proof::{Channel, UntrustedProof, VerifiedProof};
use crate::refusal::{Hex, Refusal, RefusalCode};
use crate::replay::{MAX_PROOF_AGE_MS, ReplayMemory, Seen};
use crate::request::{Allowed, ChannelPolicy, Enforcer, Presented, Request, RequestChannel};
use crate::revoked::RevokedIds;
use crate::scope::{Action, Scope, format_list};
use crate::signed::SignedKind;
use crate::token::VerifiedAuthorization;
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
    let found = chain(request, enforcer.keys, now_ms);
    decide_found(found, request, view, enforcer, memory, now_ms)
}

/// [`decide`], where the chain is verified already, or was found not to be one.
pub(crate) fn decide_found(
    found: Result<Arc<VerifiedChain>, Refusal>,
    request: &Request<'_>,
    view: Option<&TrustView>,
    enforcer: &Enforcer<'_>,
    memory: ReplayMemory,
    now_ms: u64,
) -> (Result<Allowed, Vec<Refusal>>, ReplayMemory) {
    let memory = memory.forget(now_ms);
    let mut refusals = Vec::new();
    let view = usable_view(view, enforcer, now_ms, &mut refusals);
    let presented = judge(
        found,
        request,
        view.map(DomainState::of).as_ref(),
        &Issuer::home(enforcer),
        enforcer,
        now_ms,
        &mut refusals,
    );
    conclude(presented, request, memory, now_ms, refusals)
}

/// The end of every decision: what must be remembered of the proof, and allow where nothing speaks against it.
pub(crate) fn conclude(
    Presentation { chain, wanted, proof }: Presentation,
    request: &Request<'_>,
    memory: ReplayMemory,
    now_ms: u64,
    mut refusals: Vec<Refusal>,
) -> (Result<Allowed, Vec<Refusal>>, ReplayMemory) {
    let mut remember = None;
    if let (Some(chain), Some(proof), RequestChannel::None) = (&chain, &proof, request.channel) {
        judge_age(proof, now_ms, &mut refusals);
        judge_replay(proof, chain, &memory, &mut refusals);
        remember = Some((*chain.holder_thumbprint(), proof.claims().cti));
    }

    match (chain, wanted) {
        (Some(chain), Some(scope)) if refusals.is_empty() => {
            let memory = match remember {
                Some((key, cti)) => memory.remember(&key, &cti, now_ms),
                None => memory,
            };
            let until_ms = chain.expires().saturating_mul(1_000);
            (Ok(Allowed { chain, scope, until_ms }), memory)
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
    /// Off-line delegations that were taken back one by one.
    pub revoked: &'a RevokedIds,
}

impl<'a> DomainState<'a> {
    pub(crate) fn of(view: &'a TrustView) -> Self {
        let head = view.head();
        Self {
            generation: head.generation,
            epoch: head.epoch,
            policy_version: head.policy_version,
            lists: view.lists(),
            revoked: view.revoked(),
        }
    }
}

/// What was presented to an issuer, judged.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The chain, where its authorization verifies under a key of the domain and every delegation under the key before it.
    pub chain: Option<Arc<VerifiedChain>>,
    /// The proof, where it verifies under the key of the chain's last link.
    pub proof: Option<VerifiedProof>,
    /// Everything that speaks against it, sorted.
    pub refusals: Vec<Refusal>,
}

impl Asked {
    /// Who asks, where that is beyond doubt: the authorization is this domain's own, and its holder has just proved to
    /// this enforcer, on this channel, to have its key. What else speaks against the request is a denial of *this*
    /// subject; where this is nothing, the requester is refused and nobody's state is touched.
    #[must_use]
    pub fn subject(&self) -> Option<&VerifiedAuthorization> {
        self.holder()
            .filter(|chain| chain.blocks().is_empty())
            .map(|chain| chain.root())
    }

    /// As [`Asked::subject`], where off-line delegations are taken: the chain whose last link the asker holds.
    #[must_use]
    pub fn holder(&self) -> Option<&Arc<VerifiedChain>> {
        let known = self
            .refusals
            .iter()
            .all(|refusal| refusal.code.is_about_a_known_subject());
        self.chain.as_ref().filter(|_| known && self.proof.is_some())
    }
}

/// Judges a request to the issuer of authorizations itself, on the state it holds: everything that [`decide`] looks at
/// but the freshness of a trust state, which is its own. Takes only proofs that are bound to a channel.
pub fn ask(request: &Request<'_>, state: &DomainState<'_>, enforcer: &Enforcer<'_>, now_ms: u64) -> Asked {
    let mut refusals = Vec::new();
    let issuer = Issuer::home(enforcer);
    let found = chain(request, enforcer.keys, now_ms);
    let presented = judge(found, request, Some(state), &issuer, enforcer, now_ms, &mut refusals);
    if matches!(request.channel, RequestChannel::None) {
        let expected = ChannelPolicy::ExporterOrChallenge.as_str();
        refusals.push(Refusal::new(RefusalCode::ProofChannelMissing, expected, "neither"));
    }
    refusals.sort();
    refusals.dedup();
    Asked {
        chain: presented.chain,
        proof: presented.proof,
        refusals,
    }
}

/// Whose authorization is judged: the enforcer's own domain's, or that of one which its policy lets in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Issuer<'a> {
    pub domain: &'a str,
    /// Whether the state is as young as an authorization can be. One that is carried by hand is not: what was made since
    /// names a later epoch.
    pub current: bool,
}

impl<'a> Issuer<'a> {
    fn home(enforcer: &Enforcer<'a>) -> Self {
        Self {
            domain: enforcer.domain,
            current: true,
        }
    }
}

/// What was presented, as far as it verifies.
pub(crate) struct Presentation {
    pub chain: Option<Arc<VerifiedChain>>,
    pub wanted: Option<Scope>,
    pub proof: Option<VerifiedProof>,
}

pub(crate) fn judge(
    found: Result<Arc<VerifiedChain>, Refusal>,
    request: &Request<'_>,
    state: Option<&DomainState<'_>>,
    issuer: &Issuer<'_>,
    enforcer: &Enforcer<'_>,
    now_ms: u64,
    refusals: &mut Vec<Refusal>,
) -> Presentation {
    let mut presented = Presentation {
        chain: None,
        wanted: wanted_scope(request, refusals),
        proof: None,
    };
    let chain = match found {
        Ok(chain) => chain,
        Err(refusal) => {
            refusals.push(refusal);
            return presented;
        }
    };
    judge_chain(&chain, state, issuer, enforcer, now_ms, refusals);
    if let Some(wanted) = &presented.wanted
        && !chain.scopes().iter().any(|held| held.covers(wanted))
    {
        let held = format_list(chain.scopes()).unwrap_or_default();
        refusals.push(Refusal::new(RefusalCode::ScopeNotGranted, wanted, held));
    }
    match UntrustedProof::parse(request.proof).and_then(|proof| proof.verify(chain.holder())) {
        Ok(proof) => {
            judge_proof(&proof, chain.digest(), request, enforcer, refusals);
            presented.proof = Some(proof);
        }
        Err(error) => refusals.push(error.refusal(SignedKind::Proof)),
    }
    presented.chain = Some(chain);
    presented
}

/// Looks again at a chain whose connection or process is open: freshness of the trust state, status, expiry and whatever
/// else time can change. The proof is not looked at: it opened this very connection.
pub fn redecide(
    chain: &VerifiedChain,
    view: Option<&TrustView>,
    enforcer: &Enforcer<'_>,
    now_ms: u64,
) -> Result<(), Vec<Refusal>> {
    let mut refusals = Vec::new();
    let view = usable_view(view, enforcer, now_ms, &mut refusals);
    if !chain.root().signer_is_in(enforcer.keys, now_ms) {
        refusals.push(signer_gone(chain.root()));
    }
    let state = view.map(DomainState::of);
    let issuer = Issuer::home(enforcer);
    judge_chain(chain, state.as_ref(), &issuer, enforcer, now_ms, &mut refusals);
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

fn chain(request: &Request<'_>, keys: &KeyRing, now_ms: u64) -> Result<Arc<VerifiedChain>, Refusal> {
    match &request.authorization {
        Presented::Bytes(bytes) => UntrustedChain::parse(bytes)
            .and_then(|chain| chain.verify(keys, now_ms))
            .map(Arc::new)
            .map_err(|error| error.refusal()),
        Presented::Verified(chain) if !chain.root().signer_is_in(keys, now_ms) => Err(signer_gone(chain.root())),
        Presented::Verified(chain) => Ok(Arc::clone(chain)),
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

/// What of a chain can change, or is this enforcer's to say. That no link holds more than the one before is so of every
/// [`VerifiedChain`].
pub(crate) fn judge_chain(
    chain: &VerifiedChain,
    state: Option<&DomainState<'_>>,
    issuer: &Issuer<'_>,
    enforcer: &Enforcer<'_>,
    now_ms: u64,
    refusals: &mut Vec<Refusal>,
) {
    judge_authorization(chain.root(), state, issuer, enforcer, now_ms, refusals);
    let mut refuse = |code, expected: &dyn core::fmt::Display, found: &dyn core::fmt::Display| {
        refusals.push(Refusal::new(code, expected, found));
    };
    for (code, only, here) in [
        (RefusalCode::AuthorizationRegion, chain.region(), enforcer.region),
        (RefusalCode::AuthorizationPurpose, chain.purpose(), enforcer.purpose),
    ] {
        if only.is_some() && only != here {
            refuse(
                code,
                &here.unwrap_or("one that counts anywhere"),
                &only.unwrap_or("none"),
            );
        }
    }
    let (blocks, limits) = (chain.blocks(), enforcer.offline);
    let too_many = blocks.len() > usize::from(limits.depth);
    if too_many {
        let expected = format_args!("at most {} off-line delegations", limits.depth);
        refuse(RefusalCode::DelegationNotTaken, &expected, &blocks.len());
    }
    for block in blocks {
        let life_s = block.expires.saturating_sub(block.not_before);
        if !too_many && life_s.saturating_mul(1_000) > limits.life_ms {
            let expected = format_args!("one of at most {} ms", limits.life_ms);
            refuse(RefusalCode::DelegationNotTaken, &expected, &format_args!("{life_s} s"));
        }
        if now_ms.saturating_add(enforcer.skew_ms) < block.not_before.saturating_mul(1_000) {
            let expected = format_args!("now from {} s", block.not_before);
            refuse(
                RefusalCode::DelegationNotYetValid,
                &expected,
                &format_args!("{now_ms} ms"),
            );
        }
        if now_ms >= block.expires.saturating_mul(1_000).saturating_add(enforcer.skew_ms) {
            let expected = format_args!("now before {} s", block.expires);
            refuse(RefusalCode::DelegationExpired, &expected, &format_args!("{now_ms} ms"));
        }
        if state.is_some_and(|state| state.revoked.contains(&block.cti)) {
            refuse(
                RefusalCode::DelegationRevoked,
                &"one that was not taken back",
                &Hex(&block.cti),
            );
        }
    }
}

fn judge_authorization(
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
    chain_digest: &[u8; 32],
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
    if claims.authorization_digest != *chain_digest {
        let found = Hex(&claims.authorization_digest);
        refuse(RefusalCode::ProofAuthorization, &Hex(chain_digest), &found);
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

fn judge_replay(proof: &VerifiedProof, chain: &VerifiedChain, memory: &ReplayMemory, refusals: &mut Vec<Refusal>) {
    match memory.judge(chain.holder_thumbprint(), &proof.claims().cti) {
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
