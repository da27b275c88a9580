//! What the broker does by the clock: heartbeats, summaries of refusals, new policy. Nodes that are overdue:
//! [`crate::standing`].

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};

use crate::admin::Reload;
use crate::app::App;
use crate::clock::seconds;
use crate::entry::{Activation, Effect, EntryError};
use crate::policy::{Floors, PolicySource, PolicySourceError, facts};
use crate::rejudge::rejudge;
use crate::service::entry;
use crate::statements::Circumstances;

/// Heartbeats and summaries, until `stop` is true.
pub async fn beat(app: Arc<App>, mut stop: watch::Receiver<bool>) {
    let mut period_ms = app.policy().settings.timers.heartbeat_ms.max(1);
    let mut ticks = ticking(period_ms);
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            _ = ticks.tick() => {}
        }
        let now_ms = app.clock.now_ms();
        if let Err(error) = app.trust.heartbeat(now_ms) {
            tracing::error!(%error, "no heartbeat could be made");
        }
        let due = app
            .refusals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_due(now_ms);
        if due {
            let app = Arc::clone(&app);
            tokio::spawn(async move { sum_up(&app, now_ms).await });
        }
        let wanted_ms = app.policy().settings.timers.heartbeat_ms.max(1);
        if wanted_ms != period_ms {
            period_ms = wanted_ms;
            ticks = ticking(period_ms);
        }
    }
}

fn ticking(period_ms: u64) -> tokio::time::Interval {
    let mut ticks = interval(Duration::from_millis(period_ms));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Records what was refused since the last summary.
pub async fn sum_up(app: &App, now_ms: u64) {
    let summary = app
        .refusals
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .summarise(now_ms);
    let Some(summary) = summary else { return };
    let recorded = match entry(app, &app.circumstances(now_ms).refusals(&summary)) {
        Ok(entry) => app.sequencer.record(entry).await.map_err(|e| e.to_string()),
        Err(error) => Err(error.to_string()),
    };
    if let Err(detail) = recorded {
        tracing::error!(detail, "a summary of refusals could not be recorded");
    }
}

/// Takes over what is published, when it changes or when asked, until `stop` is true. `begun` is why the repository was
/// not what this broker began with, where it was not.
pub async fn follow_policy(
    app: Arc<App>,
    source: Arc<PolicySource>,
    period: Duration,
    begun: Option<String>,
    mut reloads: mpsc::Receiver<Reload>,
    mut stop: watch::Receiver<bool>,
) {
    // What was accepted is what was seen: what was published since is found at the first look.
    let mut seen = source.mirror().timestamp().filter(|_| begun.is_none());
    refused(&app, begun);
    // What was granted before this start may have been granted under another policy.
    rejudge(&app).await;
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut unreachable = false;
    loop {
        let asked = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            asked = reloads.recv() => match asked {
                Some(asked) => Some(asked),
                None => return,
            },
            _ = ticks.tick() => None,
        };
        let published = match source.timestamp().await {
            Ok(published) => Some(published),
            Err(detail) => {
                if !unreachable {
                    tracing::warn!(
                        detail,
                        "the policy repository is out of reach; the policy in force goes on"
                    );
                }
                if seen.is_some() {
                    refused(&app, Some(detail));
                }
                unreachable = true;
                None
            }
        };
        let same = published.is_some() && published == seen;
        if same && unreachable {
            tracing::info!("the policy repository is within reach again");
            refused(&app, None);
        }
        unreachable &= published.is_none();
        if asked.is_none() && (published.is_none() || same) {
            continue;
        }
        let before = app.policy().digest;
        let outcome = take_over(&app, &source).await;
        refused(&app, outcome.as_ref().err().cloned());
        match &outcome {
            Ok(version) => {
                tracing::info!(version, "policy is in force");
                seen = source.mirror().timestamp();
                if app.policy().digest != before {
                    rejudge(&app).await;
                }
            }
            // Looked at again at the next tick: the broker may have been busy, or the repository half written, and a
            // withdrawn reference value must not wait for the publication after this one.
            Err(detail) => {
                seen = None;
                tracing::error!(detail, "policy was not taken over; the one in force goes on");
            }
        }
        if let Some(asked) = asked {
            let _ = asked.send(outcome);
        }
    }
}

fn refused(app: &App, detail: Option<String>) {
    *app.policy_refused.lock().unwrap_or_else(PoisonError::into_inner) = detail;
}

/// Loads what is published and, if it is not what is in force, puts it in force between two decisions.
async fn take_over(app: &Arc<App>, source: &Arc<PolicySource>) -> Result<u64, String> {
    let now_ms = app.clock.now_ms();
    let floors = Floors::read(&*app.store).map_err(|e| e.to_string())?;
    // A large repository takes seconds to verify: heartbeats and decisions go on meanwhile.
    let loading = {
        let (app, source, floors) = (Arc::clone(app), Arc::clone(source), floors.clone());
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || runtime.block_on(source.load(&floors, &app.keys, seconds(now_ms))))
    };
    let policy = loading.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    let held = app.policy();
    if policy.versions == held.versions {
        if policy.digest != held.digest {
            let error = PolicySourceError::Equivocation {
                version: policy.version,
                held: hex::encode(held.digest),
                found: hex::encode(policy.digest),
            };
            return Err(error.to_string());
        }
        return Ok(policy.version);
    }
    let policy = Arc::new(policy);
    let circumstances = Circumstances {
        policy_version: policy.version,
        policy_digest: policy.global_digest,
        ..app.circumstances(now_ms)
    };
    let mut activation = entry(app, &circumstances.activation(&policy)).map_err(|e| e.to_string())?;
    let (guard, write) = floors.raise(&policy, seconds(now_ms)).map_err(|e| e.to_string())?;
    activation.guards.push(guard);
    activation.writes.push(write);
    let (installed, place) = (Arc::clone(&policy), Arc::clone(app));
    activation.effect = Effect::Activate(Activation {
        facts: facts(&policy),
        install: Box::new(move || {
            *place.policy.write().unwrap_or_else(PoisonError::into_inner) = installed;
        }),
    });
    app.sequencer
        .record(activation)
        .await
        .map_err(|e: EntryError| e.to_string())?;
    Ok(policy.version)
}
