//! Getting the authorization, and getting it again before it runs out.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use touchstone_authorization::{Refusal, RefusalCode};

use super::{Exec, ExecEvent};
use crate::agent::{self, Holder, Wanted};
use crate::clock;
use crate::guard::{Guard, Hold, Shown, Standing};

/// How long a guard that has just started may take until it can decide at all.
const START_PATIENCE_MS: u64 = 10_000;
/// How soon it tries again meanwhile.
const START_PERIOD: Duration = Duration::from_millis(50);
/// The longest time between two renewals.
const MAX_PERIOD: Duration = Duration::from_secs(30);
/// The shortest, which is also how soon a failed one is tried again.
const MIN_PERIOD: Duration = Duration::from_secs(1);

/// Refusals that pass by themselves when a trust state arrives.
const PASSING: &[RefusalCode] = &[
    RefusalCode::TrustStateMissing,
    RefusalCode::TrustStateStale,
    RefusalCode::TimeUnknown,
    RefusalCode::AuthorizationEpochAhead,
    RefusalCode::AuthorizationPolicyUnknown,
];

/// Who shows the authorization to whom, for what.
pub(super) struct Presenter {
    guard: Arc<Guard>,
    agent: PathBuf,
    holder: Holder,
    action: String,
    resource: String,
}

enum NotShown {
    Refused(Vec<Refusal>),
    Otherwise(String),
}

impl NotShown {
    fn words(self) -> Vec<String> {
        match self {
            Self::Refused(reasons) => reasons.iter().map(ToString::to_string).collect(),
            Self::Otherwise(words) => vec![words],
        }
    }
}

impl Presenter {
    pub fn of(exec: &Exec, guard: &Arc<Guard>) -> Self {
        Self {
            guard: Arc::clone(guard),
            agent: exec.agent.clone(),
            holder: exec.holder.clone(),
            action: exec.action.clone(),
            resource: exec.resource.clone(),
        }
    }

    /// Has a workload's authorization made or renewed: each time a decision on record.
    async fn renew(&self) -> Result<(), NotShown> {
        let renewed = agent::renew(&self.agent, &self.holder, (&self.action, &self.resource)).await;
        renewed.map_err(|error| NotShown::Otherwise(error.to_string()))
    }

    async fn show<T>(&self, to: &impl Fn(&Shown<'_>) -> Result<T, Vec<Refusal>>) -> Result<T, NotShown> {
        let challenge = self.guard.own_challenge().map_err(NotShown::Otherwise)?;
        let wanted = Wanted {
            audience: &self.guard.id(),
            challenge: &challenge,
            action: &self.action,
            resource: &self.resource,
        };
        let presented = agent::present(&self.agent, &self.holder, &wanted).await;
        let presented = presented.map_err(|error| NotShown::Otherwise(error.to_string()))?;
        let shown = Shown {
            authorization: &presented.authorization,
            proof: &presented.proof,
            challenge: &challenge,
            action: &self.action,
            resource: &self.resource,
        };
        to(&shown).map_err(NotShown::Refused)
    }
}

/// The first decision, and the authorization or chain it was made on. What passes by itself is waited for, everything else is final.
pub(super) async fn obtain(presenter: &Presenter) -> Result<(Hold, Arc<[u8]>), Vec<String>> {
    presenter.renew().await.map_err(NotShown::words)?;
    let hold = |shown: &Shown<'_>| Ok((presenter.guard.hold(shown)?, Arc::from(shown.authorization)));
    shown_in_time(presenter, hold).await.map_err(NotShown::words)
}

/// Shows it, and again while what speaks against it passes by itself.
async fn shown_in_time<T>(
    presenter: &Presenter,
    to: impl Fn(&Shown<'_>) -> Result<T, Vec<Refusal>>,
) -> Result<T, NotShown> {
    let begun = clock::boot_ms();
    loop {
        let not_shown = match presenter.show(&to).await {
            Ok(shown) => return Ok(shown),
            Err(not_shown) => not_shown,
        };
        let passing = match &not_shown {
            NotShown::Refused(reasons) => reasons.iter().all(|reason| PASSING.contains(&reason.code)),
            NotShown::Otherwise(_) => false,
        };
        if !passing || clock::boot_ms().saturating_sub(begun) >= START_PATIENCE_MS {
            return Err(not_shown);
        }
        tokio::time::sleep(START_PERIOD).await;
    }
}

/// Renews for ever: when half of what is left has passed; again soon where that failed. A failure takes nothing away: the
/// authorization that is held does, when it runs out.
pub(super) async fn keep_renewed(presenter: Presenter, hold: Arc<Hold>, tell: mpsc::Sender<ExecEvent>) {
    let mut last_failure = None;
    let mut standing = hold.standing();
    loop {
        let before = standing.borrow_and_update().clone();
        let pause = match &before {
            Standing::Allowed { until_ms } => {
                let left = until_ms.saturating_sub(presenter.guard.time_ms().unwrap_or(*until_ms));
                Duration::from_millis(left / 2).clamp(MIN_PERIOD, MAX_PERIOD)
            }
            // In quarantine nothing is given, and each question would be one more denial on record.
            Standing::Suspended { reasons }
                if reasons
                    .iter()
                    .any(|reason| reason.code == RefusalCode::AuthorizationSuspended) =>
            {
                if standing.changed().await.is_err() {
                    return;
                }
                continue;
            }
            Standing::Suspended { .. } => MIN_PERIOD,
            Standing::Lost { .. } => return,
        };
        tokio::time::sleep(pause).await;
        let renewed = match presenter.renew().await {
            Ok(()) => shown_in_time(&presenter, |shown: &Shown<'_>| presenter.guard.extend(&hold, shown)).await,
            Err(not_shown) => Err(not_shown),
        };
        let event = match renewed {
            Ok(until_ms) => {
                last_failure = None;
                // The same one again, where the agent has no newer.
                let newer = before != Standing::Allowed { until_ms };
                newer.then_some(ExecEvent::Renewed { until_ms })
            }
            Err(not_shown) => {
                let because = not_shown.words().join("; ");
                let said = last_failure.as_ref() == Some(&because);
                last_failure = Some(because.clone());
                (!said).then_some(ExecEvent::NotRenewed { because })
            }
        };
        if let Some(event) = event
            && tell.send(event).await.is_err()
        {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::alone;

    #[tokio::test]
    async fn challenges_that_others_hold_open_do_not_keep_a_command_from_renewing() {
        let guard = alone::guard();
        alone::flood(&guard);
        let presenter = Presenter {
            guard,
            agent: "/nowhere/agent.sock".into(),
            holder: Holder::Node,
            action: "execute".into(),
            resource: "search".into(),
        };
        let shown = presenter.show(&|_: &Shown<'_>| Ok(())).await;
        let Err(NotShown::Otherwise(words)) = shown else {
            unreachable!("there is no agent")
        };
        assert!(words.starts_with("agent "), "{words}");
    }
}
