//! Tells the domain's brokers, signed, which trust state an enforcer enforces (`docs/protocol.md`, section 7).
//!
//! Whenever that changes, a moment later and not all at the same moment; and every few minutes, so that a broker knows who
//! follows through a relay too. Nothing waits for it: an acknowledgement that cannot be sent is made again for what is
//! enforced then.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use touchstone_authorization::TrustView;
use touchstone_authorization::ack::{Ack, MAX_STOPPED};
use touchstone_cose::key::Signer;

use super::clock::BrokerClock;
use super::{Source, random};
use crate::{ClientError, backoff_ms, spread_ms};

/// How often what is enforced is said again though nothing changed.
pub const REPORT_PERIOD: Duration = Duration::from_secs(120);

/// Within this time after a change enforcers say so, each at a moment of its own, in milliseconds.
pub const REPORT_SPREAD_MS: u64 = 250;

/// How long the connection is kept after an acknowledgement: another change often follows soon.
const KEPT: Duration = Duration::from_secs(10);

/// A view older than this is not said to be enforced again: the stream has broken, in milliseconds.
const STILL_FOLLOWS_MS: u64 = 10_000;

/// As many failures an acknowledgement that is refused counts for: the longest pause.
const REFUSED: u32 = 8;

/// The route.
pub const ACKS: &str = "/v1/acks";

/// What an enforcer has come to enforce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enforced {
    /// Generation of the trust state.
    pub generation: u32,
    /// Its epoch.
    pub epoch: u64,
    /// Since when, in Unix milliseconds of the domain's time.
    pub at_ms: u64,
    /// How many it stopped because of it.
    pub refused: u64,
}

/// Says what is enforced, until whoever enforces is gone.
pub(super) async fn report(
    mut sources: watch::Receiver<Source>,
    views: watch::Receiver<Option<Arc<TrustView>>>,
    clock: Arc<BrokerClock>,
    signer: Arc<dyn Signer + Send + Sync>,
    mut enforced: watch::Receiver<Option<Enforced>>,
) {
    let mut source = sources.borrow_and_update().clone();
    let mut client = source.client();
    let mut failures = 0u32;
    loop {
        let wait = if failures == 0 {
            REPORT_PERIOD + Duration::from_millis(spread_ms(REPORT_SPREAD_MS, random()))
        } else {
            Duration::from_millis(backoff_ms(failures, random()))
        };
        match timeout(wait, enforced.changed()).await {
            Ok(Ok(())) => sleep(Duration::from_millis(spread_ms(REPORT_SPREAD_MS, random()))).await,
            Ok(Err(_)) => return,
            Err(_) => {}
        }
        if sources.has_changed().unwrap_or(false) {
            source = sources.borrow_and_update().clone();
            client = source.client();
        }
        let latest = *enforced.borrow_and_update();
        let Some(said) = latest.and_then(|latest| again(latest, &views, &clock)) else {
            failures = 0;
            continue;
        };
        let ack = Ack {
            domain: source.config.domain.clone(),
            enforcer: source.config.subscriber.clone(),
            generation: said.generation,
            epoch: said.epoch,
            enforced_at_ms: said.at_ms,
            refused: said.refused.min(MAX_STOPPED),
        };
        let signed = match ack.encode_signed(&*signer) {
            Ok(signed) => signed,
            Err(error) => {
                tracing::error!(target: "touchstone::follow", %error, "an acknowledgement cannot be signed");
                return;
            }
        };
        match client.post(ACKS, signed).await {
            Ok(_) => failures = 0,
            Err(error) => {
                // Who is not listed yet comes again, and not soon.
                let refused = matches!(error, ClientError::Refused { .. });
                failures = if refused { REFUSED } else { failures.saturating_add(1) };
                client.turn();
                tracing::info!(target: "touchstone::follow", failures, %error, "an acknowledgement was not taken");
                continue;
            }
        }
        if timeout(KEPT, enforced.clone().changed()).await.is_err() {
            client.hang_up();
        }
    }
}

/// What is to be said: what is enforced, since when it began where that is new, and now where it is said again. Nothing where
/// the stream has broken meanwhile: it is enforced until it is stale, and then nothing is.
fn again(enforced: Enforced, views: &watch::Receiver<Option<Arc<TrustView>>>, clock: &BrokerClock) -> Option<Enforced> {
    let now_ms = clock.now_ms().ok()?;
    let received_ms = views.borrow().as_ref()?.received_at_ms();
    if now_ms.saturating_sub(enforced.at_ms) < STILL_FOLLOWS_MS {
        return Some(enforced);
    }
    (now_ms.saturating_sub(received_ms) < STILL_FOLLOWS_MS).then_some(Enforced {
        at_ms: now_ms,
        ..enforced
    })
}
