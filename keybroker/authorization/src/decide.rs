//! The decision of an enforcer: (authorization, proof of possession, trust state, now) to allow or every reason why not.
//!
//! What makes an answer "allow": the authorization verifies under a key of the domain, is for this domain, is within
//! its time, and the trust state, fresh and of the same domain, holds nothing against it; the proof verifies under the
//! key the authorization is bound to and was made for this enforcer, this authorization, this action and this channel.
//! Anything missing or unreadable denies. Claims of an object whose signature does not verify are never looked at.
//! Source: `docs/protocol.md`, sections 6 and 7.

use std::sync::Arc;

use crate::lists::Status;
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
    let wanted = wanted_scope(request, &mut refusals);

    let authorization = match authorization(request, enforcer, now_ms) {
        Ok(authorization) => Some(authorization),
        Err(refusal) => {
            refusals.push(refusal);
            None
        }
    };
    let mut remember = None;
    if let Some(authorization) = &authorization {
        judge_authorization(authorization, view, enforcer, now_ms, &mut refusals);
        if let Some(wanted) = &wanted
            && !authorization.contents().scopes.iter().any(|held| held.covers(wanted))
        {
            let held = format_list(&authorization.contents().scopes).unwrap_or_default();
            refusals.push(Refusal::new(RefusalCode::ScopeNotGranted, wanted, held));
        }
        match UntrustedProof::parse(request.proof)
            .and_then(|proof| proof.verify(&authorization.contents().confirmation))
        {
            Ok(proof) => {
                judge_proof(&proof, authorization, request, enforcer, &mut refusals);
                if matches!(request.channel, RequestChannel::None) {
                    judge_age(&proof, now_ms, &mut refusals);
                    judge_replay(&proof, authorization, &memory, &mut refusals);
                    remember = Some((*authorization.confirmation_thumbprint(), proof.claims().cti));
                }
            }
            Err(error) => refusals.push(error.refusal(SignedKind::Proof)),
        }
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
    judge_authorization(authorization, view, enforcer, now_ms, &mut refusals);
    refusals.sort();
    if refusals.is_empty() { Ok(()) } else { Err(refusals) }
}

/// The view, if it may be consulted: of the enforcer's domain. A stale one is still consulted, so that a refusal can
/// say that the authorization is revoked as well; it never allows, because staleness is itself a refusal.
fn usable_view<'v>(
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
    enforcer: &Enforcer<'_>,
    now_ms: u64,
) -> Result<Arc<VerifiedAuthorization>, Refusal> {
    match &request.authorization {
        Presented::Bytes(bytes) => UntrustedAuthorization::parse(bytes)
            .and_then(|authorization| authorization.verify(enforcer.keys, now_ms))
            .map(Arc::new)
            .map_err(|error| error.refusal(SignedKind::Authorization)),
        // A key that was taken out of the keyset takes along what it signed, verified before or not.
        Presented::Verified(authorization) if !authorization.signer_is_in(enforcer.keys, now_ms) => {
            Err(signer_gone(authorization))
        }
        Presented::Verified(authorization) => Ok(Arc::clone(authorization)),
    }
}

/// A key that was taken out of the keyset takes along what it signed, verified before or not.
fn signer_gone(authorization: &VerifiedAuthorization) -> Refusal {
    let expected = "a key of the keyset that counts now";
    Refusal::new(
        RefusalCode::AuthorizationKeyUnknown,
        expected,
        Hex(authorization.key_id()),
    )
}

fn judge_authorization(
    authorization: &VerifiedAuthorization,
    view: Option<&TrustView>,
    enforcer: &Enforcer<'_>,
    now_ms: u64,
    refusals: &mut Vec<Refusal>,
) {
    let claims = authorization.contents();
    let mut refuse = |code, expected: &dyn core::fmt::Display, found: &dyn core::fmt::Display| {
        refusals.push(Refusal::new(code, expected, found));
    };
    if claims.issuer != enforcer.domain {
        refuse(RefusalCode::AuthorizationIssuer, &enforcer.domain, &claims.issuer);
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
    let Some(view) = view else { return };
    let head = view.head();
    if claims.policy_version > head.policy_version {
        let expected = format_args!("at most {}", head.policy_version);
        refuse(
            RefusalCode::AuthorizationPolicyUnknown,
            &expected,
            &claims.policy_version,
        );
    }
    let status = claims.status;
    if status.generation != head.generation {
        refuse(
            RefusalCode::AuthorizationGeneration,
            &head.generation,
            &status.generation,
        );
        return;
    }
    // Epochs are ordered within a generation only.
    if claims.epoch > head.epoch {
        refuse(
            RefusalCode::AuthorizationEpochAhead,
            &format_args!("at most {}", head.epoch),
            &claims.epoch,
        );
    }
    let Some(list) = view.lists().get(status.list) else {
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
