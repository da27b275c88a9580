//! Those who were let in and go on resting on it: a process, a container, a connection. Each is told at once how it stands,
//! whenever a trust state, silence, expiry or another policy changes that.
//!
//! A standing is one of three. What is lost stays lost: whoever wants back in is let in anew. What is suspended
//! (quarantine) is kept and may come back; while it lasts no authorization is renewed, so one that runs out meanwhile does
//! not end it, and after it is lifted the holder has [`REVIVAL_MS`] to show a new one. Nothing runs before it has.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::watch;
use touchstone_authorization::{Admitted, Refusal, RefusalCode};

/// How many a guard keeps; one more is not let in.
pub const MAX_HOLDS: usize = 4096;

/// How long a holder whose quarantine was lifted, and whose authorization ran out meanwhile, may take to show a new one:
/// one round of attestation, by the standard timers.
pub const REVIVAL_MS: u64 = 60_000;

/// How somebody stands who was let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// May go on.
    Allowed {
        /// When the authorization runs out, Unix milliseconds of the domain's time.
        until_ms: u64,
    },
    /// Must stand still, and may come back.
    Suspended {
        /// Every reason.
        reasons: Vec<Refusal>,
    },
    /// Must end. Nothing leads back from here.
    Lost {
        /// Every reason.
        reasons: Vec<Refusal>,
    },
}

impl Standing {
    /// Every reason against going on; none where it may.
    #[must_use]
    pub fn reasons(&self) -> &[Refusal] {
        match self {
            Self::Allowed { .. } => &[],
            Self::Suspended { reasons } | Self::Lost { reasons } => reasons,
        }
    }
}

/// What somebody shows to be let in, and for what.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a> {
    /// The authorization, or the chain.
    pub authorization: &'a [u8],
    /// The proof of possession.
    pub proof: &'a [u8],
    /// The guard's challenge that the proof answers.
    pub challenge: &'a [u8],
    /// What is to be done.
    pub action: &'a str,
    /// To what.
    pub resource: &'a str,
}

/// A holder's place at a guard; dropping it gives the place back.
///
/// Where [`Self::standing`]'s sender is gone, so is the guard: then the holder must end as if it were lost.
#[derive(Debug)]
pub struct Hold {
    id: u64,
    admitted: Admitted,
    standing: watch::Receiver<Standing>,
    holds: Weak<Mutex<Holds>>,
}

impl Hold {
    /// What it was let in with at first.
    #[must_use]
    pub fn admitted(&self) -> &Admitted {
        &self.admitted
    }

    /// Wakes at every change of the standing.
    #[must_use]
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }

    /// The standing now; lost where the guard is gone.
    #[must_use]
    pub fn now(&self) -> Standing {
        let standing = self.standing.borrow().clone();
        match standing {
            Standing::Lost { .. } => standing,
            _ if self.standing.has_changed().is_err() => unwatched(),
            _ => standing,
        }
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(holds) = self.holds.upgrade() {
            let mut holds = holds.lock().unwrap_or_else(PoisonError::into_inner);
            holds.held.remove(&self.id);
        }
    }
}

/// A change that those who watch the guard are told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub subject: String,
    pub standing: Standing,
}

/// All who are held.
#[derive(Debug, Default)]
pub(super) struct Holds {
    next: u64,
    held: BTreeMap<u64, Held>,
    watchers: usize,
}

#[derive(Debug)]
struct Held {
    admitted: Admitted,
    standing: watch::Sender<Standing>,
    /// Until when a holder whose quarantine was lifted may show a new authorization, where it must.
    revive_by_ms: Option<u64>,
}

/// A guard that looks on; where none does, nobody is held.
#[derive(Debug)]
pub(super) struct Watching(Arc<Mutex<Holds>>);

impl Watching {
    pub fn over(holds: &Arc<Mutex<Holds>>) -> Self {
        holds.lock().unwrap_or_else(PoisonError::into_inner).watchers += 1;
        Self(Arc::clone(holds))
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut holds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        holds.watchers = holds.watchers.saturating_sub(1);
        if holds.watchers == 0 {
            for held in holds.held.values_mut() {
                held.standing.send_replace(unwatched());
            }
        }
    }
}

fn unwatched() -> Standing {
    let expected = "a guard that watches the trust state";
    Standing::Lost {
        reasons: vec![Refusal::new(
            RefusalCode::TrustStateStale,
            expected,
            "one that has stopped",
        )],
    }
}

impl Holds {
    /// Takes in one who was allowed, and judges it once more with what is known under this lock.
    pub fn take(
        holds: &Arc<Mutex<Self>>,
        admitted: Admitted,
        judge: impl FnOnce(&Admitted) -> Result<(), Vec<Refusal>>,
    ) -> Result<Hold, Vec<Refusal>> {
        let mut all = holds.lock().unwrap_or_else(PoisonError::into_inner);
        if all.watchers == 0 {
            return Err(unwatched().reasons().to_vec());
        }
        if all.held.len() >= MAX_HOLDS {
            return Err(vec![Refusal::new(RefusalCode::EnforcerFull, MAX_HOLDS, "one more")]);
        }
        judge(&admitted)?;
        let until_ms = admitted.allowed.until_ms;
        let (sender, standing) = watch::channel(Standing::Allowed { until_ms });
        let id = all.next;
        all.next += 1;
        let held = Held {
            admitted: admitted.clone(),
            standing: sender,
            revive_by_ms: None,
        };
        all.held.insert(id, held);
        Ok(Hold {
            id,
            admitted,
            standing,
            holds: Arc::downgrade(holds),
        })
    }

    /// Goes on with a newer authorization of the same holder for the same thing.
    pub fn extend(
        &mut self,
        id: u64,
        admitted: Admitted,
        judge: impl FnOnce(&Admitted) -> Result<(), Vec<Refusal>>,
    ) -> Result<u64, Vec<Refusal>> {
        let held = self.held.get_mut(&id).ok_or_else(|| unwatched().reasons().to_vec())?;
        if let Standing::Lost { reasons } = &*held.standing.borrow() {
            return Err(reasons.clone());
        }
        same_holder(&held.admitted, &admitted)?;
        judge(&admitted)?;
        let until_ms = admitted.allowed.until_ms;
        held.admitted = admitted;
        held.revive_by_ms = None;
        held.tell(Standing::Allowed { until_ms });
        Ok(until_ms)
    }

    /// Judges everybody at `now_ms`; gives what has changed.
    pub fn look_again(
        &mut self,
        now_ms: Option<u64>,
        mut judge: impl FnMut(&Admitted) -> Result<(), Vec<Refusal>>,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        for held in self.held.values_mut() {
            let before = held.standing.borrow().clone();
            let until_ms = held.admitted.allowed.until_ms;
            let next = next(&before, judge(&held.admitted), until_ms, &mut held.revive_by_ms, now_ms);
            let kind = |standing: &Standing| std::mem::discriminant(standing);
            if kind(&before) != kind(&next) {
                changes.push(Change {
                    subject: held.admitted.subject.clone(),
                    standing: next.clone(),
                });
            }
            held.tell(next);
        }
        changes
    }

    /// Whether time alone changes how somebody stands at `now_ms`.
    pub fn due(&self, now_ms: u64, skew_ms: u64) -> bool {
        self.held.values().any(|held| match &*held.standing.borrow() {
            Standing::Allowed { until_ms } => until_ms.saturating_add(skew_ms) <= now_ms,
            Standing::Suspended { .. } => held.revive_by_ms.is_some_and(|by| by <= now_ms),
            Standing::Lost { .. } => false,
        })
    }
}

impl Held {
    fn tell(&self, next: Standing) {
        self.standing.send_if_modified(|held| {
            let changed = *held != next;
            *held = next;
            changed
        });
    }
}

/// How one stands after a decision at `now_ms`. `revive_by_ms` is until when one whose quarantine was lifted may show a new
/// authorization, where it must.
fn next(
    before: &Standing,
    decision: Result<(), Vec<Refusal>>,
    until_ms: u64,
    revive_by_ms: &mut Option<u64>,
    now_ms: Option<u64>,
) -> Standing {
    if let Standing::Lost { .. } = before {
        return before.clone();
    }
    let Err(reasons) = decision else {
        *revive_by_ms = None;
        return Standing::Allowed { until_ms };
    };
    let only = |codes: &[RefusalCode]| reasons.iter().all(|reason| codes.contains(&reason.code));
    if only(&[RefusalCode::AuthorizationExpired]) {
        // Who stood still when it ran out could not renew it, and gets the time to.
        return match (before, now_ms) {
            (Standing::Suspended { .. }, Some(now_ms))
                if now_ms < *revive_by_ms.get_or_insert(now_ms.saturating_add(REVIVAL_MS)) =>
            {
                Standing::Suspended { reasons }
            }
            _ => Standing::Lost { reasons },
        };
    }
    if only(&[RefusalCode::AuthorizationSuspended, RefusalCode::AuthorizationExpired]) {
        *revive_by_ms = None;
        return Standing::Suspended { reasons };
    }
    Standing::Lost { reasons }
}

/// Rights go on only under the entry of the trust state that they began with, and under the same off-line delegations below
/// it, each of which is revoked by its own id: what falls with the one falls with the other.
fn same_holder(before: &Admitted, now: &Admitted) -> Result<(), Vec<Refusal>> {
    let identity = |admitted: &Admitted| {
        let (chain, subject) = (&admitted.allowed.chain, &admitted.subject);
        let entry = chain.status();
        let below: String = chain
            .blocks()
            .iter()
            .map(|block| format!("/{}", hex::encode(block.cti)))
            .collect();
        format!(
            "{subject} at {}/{}/{}{below} for {}",
            entry.generation, entry.list, entry.index, admitted.allowed.scope
        )
    };
    let (before, now) = (identity(before), identity(now));
    if before == now {
        Ok(())
    } else {
        Err(vec![Refusal::new(RefusalCode::ProofAuthorization, before, now)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use RefusalCode::{AuthorizationExpired, AuthorizationRevoked, AuthorizationSuspended, TrustStateStale};

    const UNTIL: u64 = 100_000;

    fn against(codes: &[RefusalCode]) -> Result<(), Vec<Refusal>> {
        match codes {
            [] => Ok(()),
            codes => Err(codes.iter().map(|code| Refusal::new(*code, "a", "b")).collect()),
        }
    }

    /// What one who was allowed goes through when these are decided, a second apart.
    fn course(decisions: &[&[RefusalCode]]) -> String {
        let (mut standing, mut revive_by) = (Standing::Allowed { until_ms: UNTIL }, None);
        let mut said = String::new();
        for (second, codes) in (1_u64..).zip(decisions) {
            standing = next(&standing, against(codes), UNTIL, &mut revive_by, Some(second * 1_000));
            said.push(match standing {
                Standing::Allowed { .. } => 'A',
                Standing::Suspended { .. } => 'S',
                Standing::Lost { .. } => 'L',
            });
        }
        said
    }

    #[test]
    fn what_is_suspended_comes_back_and_what_is_lost_does_not() {
        const FREE: &[RefusalCode] = &[];
        const FROZEN: &[RefusalCode] = &[AuthorizationSuspended];
        const OUT: &[RefusalCode] = &[AuthorizationExpired];
        const BOTH: &[RefusalCode] = &[AuthorizationExpired, AuthorizationSuspended];
        const GONE: &[RefusalCode] = &[AuthorizationRevoked];
        const SILENT: &[RefusalCode] = &[TrustStateStale];
        const FROZEN_AND_SILENT: &[RefusalCode] = &[AuthorizationSuspended, TrustStateStale];
        for (name, decisions, expected) in [
            ("nothing against it", &[FREE, FREE][..], "AA"),
            ("quarantined and lifted", &[FROZEN, FREE], "SA"),
            ("revoked, then nothing against it", &[GONE, FREE], "LL"),
            ("run out", &[OUT, FREE], "LL"),
            ("silence, then news", &[SILENT, FREE], "LL"),
            ("quarantined, then revoked", &[FROZEN, GONE, FROZEN, FREE], "SLLL"),
            ("quarantined, then silence", &[FROZEN, FROZEN_AND_SILENT, FREE], "SLL"),
            (
                "quarantined, run out meanwhile, lifted, renewed",
                &[FROZEN, BOTH, OUT, OUT, FREE],
                "SSSSA",
            ),
            (
                "quarantined, run out, lifted, revoked",
                &[FROZEN, BOTH, OUT, GONE],
                "SSSL",
            ),
            ("run out first, then quarantined", &[OUT, BOTH], "LL"),
            (
                "without a trust state at all",
                &[&[RefusalCode::TrustStateMissing]],
                "L",
            ),
        ] {
            assert_eq!(course(decisions), expected, "{name}");
        }
    }

    #[test]
    fn the_time_to_revive_ends_and_begins_anew_with_another_quarantine() {
        let frozen = Standing::Suspended { reasons: Vec::new() };
        let mut by = None;
        let out = || against(&[AuthorizationExpired]);
        let lifted = next(&frozen, out(), UNTIL, &mut by, Some(5_000));
        assert!(matches!(lifted, Standing::Suspended { .. }));
        let last = next(&lifted, out(), UNTIL, &mut by, Some(5_000 + REVIVAL_MS - 1));
        assert!(matches!(last, Standing::Suspended { .. }));
        let over = next(&last, out(), UNTIL, &mut by, Some(5_000 + REVIVAL_MS));
        assert!(matches!(over, Standing::Lost { .. }));
        let again = next(&last, against(&[AuthorizationSuspended]), UNTIL, &mut by, Some(6_000));
        assert!(matches!(again, Standing::Suspended { .. }) && by.is_none());
        assert!(
            matches!(next(&again, out(), UNTIL, &mut by, None), Standing::Lost { .. }),
            "without a time there is no time to revive"
        );
    }
}
