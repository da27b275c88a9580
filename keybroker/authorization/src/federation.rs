//! The decision about an authorization that another domain issued: under that domain's keys, on that domain's trust state,
//! within what this domain's policy lets it do.
//!
//! What makes an answer "allow", beside everything that [`crate::decide`] looks at: the enforcer's own trust state is
//! fresh; the issuing domain's, and that of every domain on the way to it, is fresh by its own signed times, which nobody
//! on the way can stretch; the authorization names this domain as its audience; what is asked for is on the list of this
//! domain's policy. So a revocation there holds here within the window of that domain and this one's. Source:
//! `docs/protocol.md`, section 12.

use std::sync::Arc;

use crate::chain::{ChainError, RootedChain, UntrustedChain, VerifiedChain};
use crate::decide::{DomainState, Issuer, conclude, decide_found, judge, judge_chain, redecide};
use crate::decide::{signer_gone, usable_view};
use crate::keys::KeyRing;
use crate::name::is_name;
use crate::narrowing::Narrowing;
use crate::refusal::{Refusal, RefusalCode};
use crate::replay::ReplayMemory;
use crate::request::{Allowed, Enforcer, Presented, Request};
use crate::scope::Scope;
use crate::trust_view::{MAX_STEP_BACK_MS, TrustView};

/// What is known of the state of another domain, all of it verified under keys that this domain's policy leads to.
#[derive(Debug, Clone, Copy)]
pub struct Link<'a> {
    /// The domain.
    pub domain: &'a str,
    /// Its trust state, where one has arrived.
    pub view: Option<&'a TrustView>,
    /// Its own freshness window, by its signed policy, in milliseconds.
    pub window_ms: u64,
    /// The version of its keyset that is known here.
    pub keyset_version: u64,
    /// When the copy of its policy runs out, Unix milliseconds.
    pub policy_expires_ms: u64,
    /// How old a state that is carried by hand may be, in milliseconds, where this domain's policy takes one at all.
    pub max_state_age_ms: Option<u64>,
}

impl Link<'_> {
    /// Until when its state counts as live, Unix milliseconds: its own signed times, its own signed window, and how long ago
    /// it came here, whichever ends first.
    #[must_use]
    pub fn live_until_ms(&self) -> Option<u64> {
        let view = self.view?;
        let signed = view.head().issued_at_ms.saturating_add(self.window_ms);
        Some(signed.min(view.fresh_until_ms(self.window_ms)))
    }
}

/// A domain whose authorizations count here, as far as the narrowing goes.
#[derive(Debug, Clone, Copy)]
pub struct Foreign<'a> {
    /// Its state.
    pub link: Link<'a>,
    /// Its authorization keys.
    pub keys: &'a KeyRing,
    /// What its authorizations may do here.
    pub narrowing: &'a Narrowing,
    /// The domains over which it is trusted, the nearest first; none where this domain's policy names its root itself.
    pub path: &'a [Link<'a>],
}

/// A request that is allowed, and whose authorization it was allowed on.
#[derive(Debug, Clone)]
pub struct Admitted {
    /// As by the domain itself.
    pub allowed: Allowed,
    /// The domain that issued the authorization, where that is another one.
    pub authority: Option<String>,
    /// The subject as it shows here: `B/node` where it is another domain's.
    pub subject: String,
    /// How old the issuing domain's state was, in milliseconds, where it counted by its age alone: `state-age`.
    pub state_age_ms: Option<u64>,
}

/// Decides about one request by the holder of an authorization of this domain or of one of `foreign`. As
/// [`crate::decide::decide`], and gives every reason that can be told independently of the others.
pub fn decide_among(
    request: &Request<'_>,
    view: Option<&TrustView>,
    foreign: &[Foreign<'_>],
    enforcer: &Enforcer<'_>,
    memory: ReplayMemory,
    now_ms: u64,
) -> (Result<Admitted, Vec<Refusal>>, ReplayMemory) {
    let (issuer, found) = match issuer(request, foreign, enforcer, now_ms) {
        Signed::ByForeign(issuer, found) => (issuer, found),
        Signed::AtHome(found) => {
            let (decision, memory) = decide_found(found, request, view, enforcer, memory, now_ms);
            let admitted = decision.map(|allowed| Admitted {
                subject: allowed.chain.subject(),
                allowed,
                authority: None,
                state_age_ms: None,
            });
            return (admitted, memory);
        }
    };
    let memory = memory.forget(now_ms);
    let mut refusals = Vec::new();
    usable_view(view, enforcer, now_ms, &mut refusals);
    let state = usable(issuer, enforcer, now_ms, &mut refusals);
    let by_age = state.and_then(|(_, age)| age);
    let presented = judge(
        found,
        request,
        state.map(|(view, _)| DomainState::of(view)).as_ref(),
        &rules(issuer, by_age),
        enforcer,
        now_ms,
        &mut refusals,
    );
    if let Some(chain) = &presented.chain {
        judge_policy(chain, state.map(|(view, _)| view), issuer, &mut refusals);
        narrow(chain, presented.wanted.as_ref(), issuer, &mut refusals);
    }
    let (decision, memory) = conclude(presented, request, memory, now_ms, refusals);
    let admitted = decision.map(|allowed| Admitted {
        subject: shown_as(issuer.link.domain, &allowed.chain.subject()),
        authority: Some(issuer.link.domain.to_owned()),
        state_age_ms: by_age,
        allowed,
    });
    (admitted, memory)
}

/// Looks again at what was let in for `scope` and is open: whatever time, either domain's state and this domain's policy
/// can change. The proof is not looked at: it opened this very connection.
pub fn redecide_among(
    admitted: &Admitted,
    view: Option<&TrustView>,
    foreign: &[Foreign<'_>],
    enforcer: &Enforcer<'_>,
    now_ms: u64,
) -> Result<(), Vec<Refusal>> {
    let chain = &admitted.allowed.chain;
    let Some(authority) = &admitted.authority else {
        return redecide(chain, view, enforcer, now_ms);
    };
    let Some(issuer) = foreign.iter().find(|foreign| foreign.link.domain == authority) else {
        let expected = "a domain that the policy lets in";
        return Err(vec![Refusal::new(
            RefusalCode::FederatedDomainUnknown,
            expected,
            authority,
        )]);
    };
    let mut refusals = Vec::new();
    usable_view(view, enforcer, now_ms, &mut refusals);
    if !chain.root().signer_is_in(issuer.keys, now_ms) {
        refusals.push(signer_gone(chain.root()));
    }
    let state = usable(issuer, enforcer, now_ms, &mut refusals);
    judge_policy(chain, state.map(|(view, _)| view), issuer, &mut refusals);
    let issuer_rules = rules(issuer, state.and_then(|(_, age)| age));
    let state = state.map(|(view, _)| DomainState::of(view));
    judge_chain(chain, state.as_ref(), &issuer_rules, enforcer, now_ms, &mut refusals);
    narrow(chain, Some(&admitted.allowed.scope), issuer, &mut refusals);
    refusals.sort();
    refusals.dedup();
    if refusals.is_empty() { Ok(()) } else { Err(refusals) }
}

/// A foreign subject's name here.
#[must_use]
pub fn shown_as(domain: &str, subject: &str) -> String {
    format!("{domain}/{subject}")
}

/// Who signed what is presented, and the chain, or why it is none.
enum Signed<'a, 'f> {
    /// This domain, or nobody that is known: to be judged as its own.
    AtHome(Result<Arc<VerifiedChain>, Refusal>),
    /// That domain.
    ByForeign(&'a Foreign<'f>, Result<Arc<VerifiedChain>, Refusal>),
}

/// A chain whose authorization verified under the keys that were tried.
enum Rooted {
    /// Just now: its delegations are still to be verified.
    Now(Box<RootedChain>),
    /// Before, the whole of it.
    Before(Arc<VerifiedChain>),
}

impl Rooted {
    fn issuer(&self) -> &str {
        match self {
            Self::Now(chain) => chain.issuer(),
            Self::Before(chain) => &chain.root().contents().issuer,
        }
    }

    fn whole(self) -> Result<Arc<VerifiedChain>, Refusal> {
        match self {
            Self::Now(chain) => chain.verify_blocks().map(Arc::new).map_err(|error| error.refusal()),
            Self::Before(chain) => Ok(chain),
        }
    }
}

/// Whose key signed what is presented, and is named in it as the issuer. A domain that lists another's key in its own
/// keyset takes nothing over by that.
fn issuer<'a, 'f>(
    request: &Request<'_>,
    foreign: &'a [Foreign<'f>],
    enforcer: &Enforcer<'_>,
    now_ms: u64,
) -> Signed<'a, 'f> {
    let verify = |keys: &KeyRing| match &request.authorization {
        Presented::Bytes(bytes) => UntrustedChain::parse(bytes)
            .and_then(|chain| {
                let rooted = chain.verify_root(keys, now_ms).map_err(ChainError::Authorization)?;
                Ok(Rooted::Now(Box::new(rooted)))
            })
            .map_err(|error| error.refusal()),
        Presented::Verified(chain) if chain.root().signer_is_in(keys, now_ms) => Ok(Rooted::Before(Arc::clone(chain))),
        Presented::Verified(chain) => Err(signer_gone(chain.root())),
    };
    let own = verify(enforcer.keys);
    if let Ok(rooted) = own.as_ref()
        && rooted.issuer() == enforcer.domain
    {
        return Signed::AtHome(own.and_then(Rooted::whole));
    }
    let mut another = None;
    for candidate in foreign {
        let Ok(rooted) = verify(candidate.keys) else {
            continue;
        };
        if rooted.issuer() == candidate.link.domain {
            return Signed::ByForeign(candidate, rooted.whole());
        }
        // Signed by that domain in the name of another one: refused as such.
        another = another.or(Some((candidate, rooted)));
    }
    match another {
        Some((candidate, rooted)) => Signed::ByForeign(candidate, rooted.whole()),
        None => Signed::AtHome(own.and_then(Rooted::whole)),
    }
}

fn rules<'a>(issuer: &Foreign<'a>, by_age: Option<u64>) -> Issuer<'a> {
    Issuer {
        domain: issuer.link.domain,
        current: by_age.is_none(),
    }
}

/// The issuing domain's view, where it may be consulted, and its age where it counts by that alone. A stale one is still
/// consulted, so that a refusal can say that the authorization is revoked as well; it never allows.
fn usable<'a>(
    issuer: &Foreign<'a>,
    enforcer: &Enforcer<'_>,
    now_ms: u64,
    refusals: &mut Vec<Refusal>,
) -> Option<(&'a TrustView, Option<u64>)> {
    for link in issuer.path {
        judge_link(link, enforcer, now_ms, refusals);
    }
    judge_link(&issuer.link, enforcer, now_ms, refusals)
}

fn judge_link<'a>(
    link: &Link<'a>,
    enforcer: &Enforcer<'_>,
    now_ms: u64,
    refusals: &mut Vec<Refusal>,
) -> Option<(&'a TrustView, Option<u64>)> {
    let domain = link.domain;
    let Some(view) = link.view else {
        let expected = format_args!("a trust state of {domain}");
        refusals.push(Refusal::new(RefusalCode::FederatedStateMissing, expected, "none"));
        return None;
    };
    let head = view.head();
    if head.domain != domain {
        refusals.push(Refusal::new(RefusalCode::FederatedStateDomain, domain, &head.domain));
        return None;
    }
    if head.keyset_version > link.keyset_version {
        let expected = format_args!("{domain}: keyset {}", head.keyset_version);
        refusals.push(Refusal::new(
            RefusalCode::FederatedKeysetOlder,
            expected,
            link.keyset_version,
        ));
    }
    if head.issued_at_ms > now_ms.saturating_add(enforcer.skew_ms) {
        let expected = format_args!("{domain}: made by {now_ms} ms");
        refusals.push(Refusal::new(
            RefusalCode::FederatedClock,
            expected,
            format_args!("{} ms", head.issued_at_ms),
        ));
    }
    let until = link.live_until_ms().unwrap_or(0);
    let fresh = now_ms < until && view.received_at_ms() <= now_ms.saturating_add(MAX_STEP_BACK_MS);
    let age_ms = now_ms.saturating_sub(head.issued_at_ms);
    let by_age = match link.max_state_age_ms {
        _ if fresh => None,
        Some(most) => {
            if age_ms > most {
                let expected = format_args!("{domain}: at most {most} ms old");
                refusals.push(Refusal::new(
                    RefusalCode::FederatedStateOld,
                    expected,
                    format_args!("{age_ms} ms"),
                ));
            }
            Some(age_ms)
        }
        None => {
            let expected = format_args!("{domain}: now before {until} ms");
            refusals.push(Refusal::new(
                RefusalCode::FederatedDomainStale,
                expected,
                format_args!("now {now_ms} ms"),
            ));
            None
        }
    };
    // What was carried by hand was in force when that state was made, which is as far as anybody here can see.
    let judged_at_ms = if by_age.is_some() { head.issued_at_ms } else { now_ms };
    if judged_at_ms >= link.policy_expires_ms {
        let expected = format_args!("{domain}: a policy that has not run out");
        let found = format_args!("one that ended at {} ms", link.policy_expires_ms);
        refusals.push(Refusal::new(RefusalCode::FederatedPolicyExpired, expected, found));
    }
    Some((view, by_age))
}

/// What a domain issues for others is issued under the policy it had then: what that policy no longer issues ends with the
/// state that names the next one, as fast as a revocation does.
fn judge_policy(chain: &VerifiedChain, view: Option<&TrustView>, issuer: &Foreign<'_>, refusals: &mut Vec<Refusal>) {
    let (made, domain) = (chain.root().contents().policy_version, issuer.link.domain);
    let now = view.map(|view| view.head().policy_version);
    if let Some(now) = now.filter(|now| made < *now) {
        let expected = format_args!("{domain}: policy {now}");
        refusals.push(Refusal::new(RefusalCode::FederatedPolicySuperseded, expected, made));
    }
}

/// What this domain's policy says of that domain's authorizations.
fn narrow(chain: &VerifiedChain, wanted: Option<&Scope>, issuer: &Foreign<'_>, refusals: &mut Vec<Refusal>) {
    let domain = issuer.link.domain;
    if let Some(wanted) = wanted.filter(|wanted| !issuer.narrowing.permits(wanted)) {
        let expected = format_args!("a scope that is let in from {domain}");
        refusals.push(Refusal::new(RefusalCode::FederatedScope, expected, wanted));
    }
    if !issuer.narrowing.takes(chain.key_kind()) {
        let expected = format_args!("a kind of key that is taken from {domain}");
        refusals.push(Refusal::new(
            RefusalCode::FederatedKeyKind,
            expected,
            chain.key_kind().as_str(),
        ));
    }
    let shown = shown_as(domain, &chain.subject());
    if !is_name(&shown) {
        refusals.push(Refusal::new(
            RefusalCode::FederatedName,
            "a name",
            format_args!("{} bytes", shown.len()),
        ));
    }
}
