//! A guard: an enforcer on the node. It follows the trust state, gives challenges, and lets pass only who shows a valid
//! authorization with a fresh proof of possession; whoever it let in is looked at again with every new trust state.
//!
//! The decision itself is `touchstone_authorization::decide`; here is what it needs: time, trust state, challenges used
//! once. Whoever goes on resting on it (a process, a container) is a [`Hold`], told at once how it stands.

mod admitted;
#[cfg(test)]
pub(crate) mod alone;
mod challenge;
pub mod client;
mod foreign;
mod holding;
mod renewal;
mod request;
mod service;

pub use admitted::{MAX_ADMITTED, MAX_ADMITTED_OF_ENTRY};
pub use challenge::{CHALLENGE_BYTES, CHALLENGE_LIFE_MS, Challenges, MAX_OPEN_CHALLENGES};
pub use holding::{Hold, MAX_HOLDS, REVIVAL_MS, Shown, Standing};
pub use renewal::{Renewal, keep_current};
pub use request::{Binding, REPLAY_CAPACITY};
pub use service::{DecisionRequest, GuardService, Verdict, router};

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use serde::Serialize;
use tokio::sync::watch;
use touchstone_authorization::{
    Admitted, ChannelPolicy, Enforcer, KeyRing, OfflineLimits, Presented, Refusal, RefusalCode, ReplayMemory, Request,
    RequestChannel, TrustView, decide_among, redecide_among,
};
use touchstone_policies::{Network, Reachable};

use touchstone_cose::key::Signer;

use self::admitted::AdmittedSet;
use self::foreign::{Neighbours, Reach};
use self::holding::{Change, Holds, Watching};
use crate::clock;
use crate::follow::{Enforced, Follower, Source};
use crate::trust::DomainTrust;

/// How often a guard looks whether its trust state still counts: half of what the published bound leaves beside the
/// freshness window (`docs/protocol.md`, "timers": window + 100 ms).
const TICK: std::time::Duration = std::time::Duration::from_millis(50);

/// What a guard is told.
#[derive(Debug, Clone)]
pub struct GuardConfig {
    /// Its id: what proofs of possession must be made for.
    pub id: String,
    /// The trust domain.
    pub domain: String,
    /// The domain's authorization keys.
    pub keys: KeyRing,
    /// Skew bound of the policy.
    pub skew_ms: u64,
    /// Freshness window of the policy.
    pub window_ms: u64,
    /// When the policy that all this is from runs out, Unix seconds: from then on nobody is let in.
    pub policy_expires: i64,
    /// The region that policy says this enforcer is in, where it lists it.
    pub region: Option<String>,
    /// What it lets in for; kept when the policy changes.
    pub purpose: Option<String>,
    /// Which off-line delegations the policy allows.
    pub offline: OfflineLimits,
    /// What workloads reach over the network, by policy.
    pub network: Arc<Network>,
}

impl GuardConfig {
    /// What the guard `id` is told by the policy of its domain.
    #[must_use]
    pub fn of(trust: &DomainTrust, id: &str) -> Self {
        let (timers, delegation) = (&trust.policy.settings.timers, &trust.policy.settings.delegation);
        Self {
            id: id.to_owned(),
            domain: trust.policy.domain.clone(),
            keys: trust.authorization_keys.clone(),
            skew_ms: timers.skew_ms,
            window_ms: timers.freshness_window_ms,
            policy_expires: trust.policy.expires,
            region: trust.policy.enforcers.get(id).and_then(|listed| listed.region.clone()),
            purpose: None,
            offline: if delegation.offline {
                OfflineLimits {
                    depth: delegation.offline_depth,
                    life_ms: delegation.offline_life_ms,
                }
            } else {
                OfflineLimits::NONE
            },
            network: Arc::new(trust.policy.network.clone()),
        }
    }

    /// The same, letting in for this purpose: authorizations that name one count here, if it is the same.
    #[must_use]
    pub fn with_purpose(self, purpose: Option<String>) -> Self {
        Self { purpose, ..self }
    }
}

/// What a guard tells whoever watches it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum GuardEvent {
    /// The first trust state arrived: from now on something can be allowed.
    Following {
        /// The epoch it is at.
        epoch: u64,
    },
    /// Somebody was let in.
    Allowed {
        /// The authorization's subject.
        subject: String,
        /// Action and resource.
        scope: String,
        /// Guard's wall clock, Unix milliseconds.
        at_ms: u64,
    },
    /// Somebody was not.
    Denied {
        /// Every reason, in words.
        reasons: Vec<String>,
        /// Guard's wall clock, Unix milliseconds.
        at_ms: u64,
    },
    /// Another version of the policy is in force here.
    Policy {
        /// Its version.
        version: u64,
    },
    /// Somebody who is held must stand still, and may come back.
    Suspended {
        /// The authorization's subject.
        subject: String,
        /// Every reason, in words.
        reasons: Vec<String>,
        /// The epoch that said so.
        epoch: u64,
        /// Guard's wall clock, Unix milliseconds.
        at_ms: u64,
    },
    /// Somebody who had to stand still may go on.
    Resumed {
        /// The authorization's subject.
        subject: String,
        /// The epoch that said so.
        epoch: u64,
        /// Guard's wall clock, Unix milliseconds.
        at_ms: u64,
    },
    /// Somebody who had been let in lost the right.
    Withdrawn {
        /// The authorization's subject.
        subject: String,
        /// Every reason, in words.
        reasons: Vec<String>,
        /// The epoch that said so.
        epoch: u64,
        /// Guard's wall clock, Unix milliseconds.
        at_ms: u64,
    },
}

/// A guard over one trust-state stream, and those of the domains that its policy lets in.
#[derive(Debug)]
pub struct Guard {
    config: RwLock<Arc<GuardConfig>>,
    follower: Follower,
    foreign: Neighbours,
    admitted: Mutex<AdmittedSet>,
    holds: Arc<Mutex<Holds>>,
    challenges: Mutex<Challenges>,
    /// Of what this process itself has to show. Nobody from outside fills these.
    own_challenges: Mutex<Challenges>,
    replay: Mutex<ReplayMemory>,
    enforced: watch::Sender<Option<Enforced>>,
    /// When [`Guard::watch`] last came round, `CLOCK_BOOTTIME` in milliseconds; 0 before it ever did.
    looked_ms: AtomicU64,
}

impl Guard {
    /// A guard that decides with what `follower` has verified.
    #[must_use]
    pub fn new(config: GuardConfig, follower: Follower) -> Self {
        Self {
            config: RwLock::new(Arc::new(config)),
            follower,
            foreign: Neighbours::default(),
            admitted: Mutex::default(),
            holds: Arc::default(),
            challenges: Mutex::default(),
            own_challenges: Mutex::default(),
            replay: Mutex::new(ReplayMemory::new(REPLAY_CAPACITY)),
            enforced: watch::channel(None).0,
            looked_ms: AtomicU64::new(0),
        }
    }

    /// Acknowledges, signed by the key that policy lists for this guard, every trust state that [`Self::watch`] has come to
    /// enforce, until the task that this gives is aborted.
    pub fn acknowledge(&self, signer: Arc<dyn Signer + Send + Sync>) -> tokio::task::JoinHandle<()> {
        self.follower.acknowledge(signer, self.enforced.subscribe())
    }

    /// Goes on under another policy: other keys, other bounds. Whoever was let in is looked at again at the next tick.
    pub fn renew(&self, config: GuardConfig, source: Source) {
        let mut held = self.config.write().unwrap_or_else(PoisonError::into_inner);
        *held = Arc::new(config.with_purpose(held.purpose.clone()));
        drop(held);
        self.follower.change(source);
    }

    /// Keeps what is believed of other domains current, for ever.
    async fn keep_foreign(&self, reach: &Reach, trusts: watch::Receiver<Arc<DomainTrust>>) {
        foreign::keep(&self.foreign, reach, self.follower.clock(), trusts).await;
    }

    /// The other domains whose state counts here now.
    #[must_use]
    pub fn live_domains(&self) -> Vec<String> {
        self.freshness().1
    }

    fn config(&self) -> Arc<GuardConfig> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> String {
        self.config().id.clone()
    }

    /// The freshness window of the policy, in milliseconds.
    #[must_use]
    pub fn window_ms(&self) -> u64 {
        self.config().window_ms
    }

    /// The domain's time, Unix milliseconds, where it is known.
    #[must_use]
    pub fn time_ms(&self) -> Option<u64> {
        self.follower.clock().now_ms().ok()
    }

    /// Whether policy opens anything for workloads by name; then what is not named is closed.
    #[must_use]
    pub fn has_segments(&self) -> bool {
        self.config().network.iter().next().is_some()
    }

    /// What a workload reaches that does `action` on `resource`.
    #[must_use]
    pub fn reachable(&self, action: &str, resource: &str) -> Vec<Reachable> {
        let config = self.config();
        let segments = config.network.iter();
        let mut of_scope = segments.filter(|(scope, _)| scope.action == action && scope.resource == resource);
        of_scope.next().map(|(_, reaches)| reaches.to_vec()).unwrap_or_default()
    }

    /// The version of the policy that the trust state is made under, as far as one has arrived.
    #[must_use]
    pub fn announced_policy(&self) -> Option<u64> {
        self.follower.view().map(|view| view.head().policy_version)
    }

    /// A fresh challenge for one proof.
    ///
    /// # Errors
    /// In words: too many are open, or there is no randomness.
    pub fn challenge(&self) -> Result<[u8; CHALLENGE_BYTES], String> {
        challenge_of(&self.challenges)
    }

    /// The same for what this process itself has to show: given however many others have asked for.
    pub(crate) fn own_challenge(&self) -> Result<[u8; CHALLENGE_BYTES], String> {
        challenge_of(&self.own_challenges)
    }

    /// Decides about a request that answers `challenge`. The challenge is used up whatever the decision.
    ///
    /// # Errors
    /// Every reason to refuse.
    pub fn decide(
        &self,
        authorization: &[u8],
        proof: &[u8],
        action: &str,
        resource: &str,
        challenge: &[u8],
    ) -> Result<Admitted, Vec<Refusal>> {
        let (allowed, now_ms) = self.judge(&Shown {
            authorization,
            proof,
            challenge,
            action,
            resource,
        })?;
        let mut admitted = self.admitted.lock().unwrap_or_else(PoisonError::into_inner);
        admitted.enter(&allowed, now_ms).map_err(|refusal| vec![refusal])?;
        Ok(allowed)
    }

    /// Decides as [`Self::decide`], and from then on tells how the holder stands, for as long as the [`Hold`] is kept and
    /// [`Self::watch`] runs. Where nobody runs it, nobody is held: a right that is not watched would never end.
    ///
    /// # Errors
    /// Every reason to refuse.
    pub fn hold(&self, shown: &Shown<'_>) -> Result<Hold, Vec<Refusal>> {
        let (admitted, _) = self.judge(shown)?;
        // A trust state may have come while signatures were checked: after this look, and the next, none is missed.
        Holds::take(&self.holds, admitted, |admitted| self.judge_again(admitted))
    }

    /// Goes on with a newer authorization of the same holder, for the same action and resource, under the same entry of
    /// the trust state. Gives when it runs out, Unix milliseconds. A refusal changes nothing of how the holder stands.
    ///
    /// # Errors
    /// Every reason to refuse; those of its loss where it is lost.
    pub fn extend(&self, hold: &Hold, shown: &Shown<'_>) -> Result<u64, Vec<Refusal>> {
        let (admitted, _) = self.judge(shown)?;
        let mut holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        holds.extend(hold.id(), admitted, |admitted| self.judge_again(admitted))
    }

    /// The decision, and the time it was made at.
    fn judge(&self, shown: &Shown<'_>) -> Result<(Admitted, u64), Vec<Refusal>> {
        let open = [&self.own_challenges, &self.challenges].into_iter().any(|challenges| {
            let mut challenges = challenges.lock().unwrap_or_else(PoisonError::into_inner);
            challenges.take(shown.challenge, clock::boot_ms())
        });
        if !open {
            let expected = "a challenge of this guard that was not used before";
            return Err(vec![Refusal::new(
                RefusalCode::ChallengeUnknown,
                expected,
                "another, or one used before",
            )]);
        }
        let config = self.config();
        let now_ms = self.now_ms(&config)?;
        let view = self.follower.view();
        let request = Request {
            authorization: Presented::Bytes(shown.authorization),
            proof: shown.proof,
            action: shown.action,
            resource: shown.resource,
            request_digest: None,
            channel: RequestChannel::Challenge(shown.challenge),
        };
        let (decision, _) = self.foreign.seen().with(|foreign| {
            decide_among(
                &request,
                view.as_deref(),
                foreign,
                &enforcer(&config),
                ReplayMemory::new(0),
                now_ms,
            )
        });
        Ok((decision?, now_ms))
    }

    /// Looks once more at one who was allowed, with what is known now.
    fn judge_again(&self, admitted: &Admitted) -> Result<(), Vec<Refusal>> {
        let (config, view) = (self.config(), self.follower.view());
        let now_ms = self.now_ms(&config)?;
        self.foreign
            .seen()
            .with(|foreign| redecide_among(admitted, view.as_deref(), foreign, &enforcer(&config), now_ms))
    }

    /// Watches the trust state for ever and tells who loses a right.
    pub async fn watch(&self, tell: impl Fn(GuardEvent)) {
        // Nobody is held before it watches: there is nothing yet that it has missed.
        self.looked_ms.store(clock::boot_ms(), Ordering::Release);
        let _watching = Watching::over(&self.holds);
        let mut views = self.follower.views();
        let foreign_news = self.foreign.news();
        let mut following = false;
        let mut was_fresh = None;
        let mut tick = tokio::time::interval(TICK);
        let mut since_look_ms = 0;
        loop {
            let news = tokio::select! {
                changed = views.changed() => match changed {
                    Ok(()) => true,
                    Err(_) => return,
                },
                () = foreign_news.notified() => true,
                _ = tick.tick() => false,
            };
            if let (false, Some(view)) = (following, self.follower.view()) {
                following = true;
                tell(GuardEvent::Following {
                    epoch: view.head().epoch,
                });
            }
            // Silence takes rights away without any frame, and must be noticed within the published bound; expiry, which
            // every decision looks at anyway, once a second, or at once where somebody is held.
            let fresh = Some(self.freshness());
            since_look_ms += u64::try_from(TICK.as_millis()).unwrap_or(u64::MAX);
            if news || fresh != was_fresh || since_look_ms >= 1_000 || self.somebody_is_due() {
                since_look_ms = 0;
                // What is looked at below is this view or a newer one.
                let seen = self.follower.view();
                let mut stopped = 0;
                for event in self.look_again() {
                    stopped += u64::from(matches!(
                        event,
                        GuardEvent::Withdrawn { .. } | GuardEvent::Suspended { .. }
                    ));
                    tell(event);
                }
                self.note_enforced(seen.as_deref(), stopped);
            }
            was_fresh = fresh;
            self.looked_ms.store(clock::boot_ms(), Ordering::Release);
        }
    }

    /// Everybody who was let in has been looked at under this view.
    fn note_enforced(&self, view: Option<&TrustView>, stopped: u64) {
        let (Some(view), Ok(at_ms)) = (view, self.follower.clock().now_ms()) else {
            return;
        };
        let (generation, epoch) = (view.head().generation, view.head().epoch);
        self.enforced.send_if_modified(|held| {
            let same = held.filter(|held| (held.generation, held.epoch) == (generation, epoch));
            let news = same.is_none() || stopped > 0;
            if news {
                *held = Some(Enforced {
                    generation,
                    epoch,
                    at_ms,
                    refused: same.map_or(0, |held| held.refused).saturating_add(stopped),
                });
            }
            news
        });
    }

    /// Whether its own trust state counts, and those of which other domains.
    fn freshness(&self) -> (bool, Vec<String>) {
        match (self.follower.view(), self.follower.clock().now_ms()) {
            (Some(view), Ok(now_ms)) => (
                view.fresh(now_ms, self.config().window_ms),
                self.foreign.seen().live(now_ms),
            ),
            _ => (false, Vec::new()),
        }
    }

    fn somebody_is_due(&self) -> bool {
        let holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        match self.follower.clock().now_ms() {
            Ok(now_ms) => holds.due(now_ms, self.config().skew_ms),
            // Without a time nobody may go on.
            Err(_) => true,
        }
    }

    /// Decides again about everybody who was let in; who no longer holds is out.
    fn look_again(&self) -> Vec<GuardEvent> {
        // The view is read under the lock: what was let in by a newer one must not be judged by an older.
        let mut holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        let view = self.follower.view();
        let config = self.config();
        let now = self.now_ms(&config);
        let epoch = view.as_ref().map_or(0, |view| view.head().epoch);
        let foreign = self.foreign.seen();
        let mut lost = Vec::new();
        foreign.with(|foreign| {
            let judge = |held: &Admitted| {
                let now_ms = now.clone()?;
                redecide_among(held, view.as_deref(), foreign, &enforcer(&config), now_ms)
            };
            // First those who must be stopped.
            let changes = holds.look_again(now.as_ref().ok().copied(), judge);
            drop(holds);
            lost.extend(changes.into_iter().map(|change| event(change, epoch)));
            let mut admitted = self.admitted.lock().unwrap_or_else(PoisonError::into_inner);
            admitted.retain(|held| match judge(held) {
                Ok(()) => true,
                Err(refusals) => {
                    lost.push(GuardEvent::Withdrawn {
                        subject: held.subject.clone(),
                        reasons: refusals.iter().map(ToString::to_string).collect(),
                        epoch,
                        at_ms: clock::wall_ms(),
                    });
                    false
                }
            });
        });
        lost
    }

    /// The broker's time, where the policy still counts at it.
    fn now_ms(&self, config: &GuardConfig) -> Result<u64, Vec<Refusal>> {
        let now_ms = self
            .follower
            .clock()
            .now_ms()
            .map_err(|error| vec![Refusal::new(RefusalCode::TimeUnknown, "the broker's time", error)])?;
        let ends_ms = u64::try_from(config.policy_expires).unwrap_or(0).saturating_mul(1_000);
        if now_ms >= ends_ms {
            let expected = "a policy that has not run out";
            let found = format!("one that ended at {}", config.policy_expires);
            return Err(vec![Refusal::new(RefusalCode::PolicyExpired, expected, found)]);
        }
        Ok(now_ms)
    }
}

fn challenge_of(challenges: &Mutex<Challenges>) -> Result<[u8; CHALLENGE_BYTES], String> {
    let mut bytes = [0; CHALLENGE_BYTES];
    getrandom::fill(&mut bytes).map_err(|error| error.to_string())?;
    let mut challenges = challenges.lock().unwrap_or_else(PoisonError::into_inner);
    if challenges.give(bytes, clock::boot_ms()) {
        Ok(bytes)
    } else {
        Err(format!("{MAX_OPEN_CHALLENGES} challenges are open: try again"))
    }
}

fn event(change: Change, epoch: u64) -> GuardEvent {
    let Change { subject, standing } = change;
    let at_ms = clock::wall_ms();
    let reasons = standing.reasons().iter().map(ToString::to_string).collect();
    match standing {
        Standing::Allowed { .. } => GuardEvent::Resumed { subject, epoch, at_ms },
        Standing::Suspended { .. } => GuardEvent::Suspended {
            subject,
            reasons,
            epoch,
            at_ms,
        },
        Standing::Lost { .. } => GuardEvent::Withdrawn {
            subject,
            reasons,
            epoch,
            at_ms,
        },
    }
}

fn enforcer(config: &GuardConfig) -> Enforcer<'_> {
    Enforcer {
        id: &config.id,
        domain: &config.domain,
        keys: &config.keys,
        skew_ms: config.skew_ms,
        window_ms: config.window_ms,
        requires_channel: ChannelPolicy::Challenge,
        region: config.region.as_deref(),
        purpose: config.purpose.as_deref(),
        offline: config.offline,
    }
}
