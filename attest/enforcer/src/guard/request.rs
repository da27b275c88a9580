//! Decisions about requests: of a service that ends TLS, bound to its connection; of one that does not, bound to the
//! request's own digest and remembered (`docs/protocol.md`, section 6).

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use touchstone_authorization::{
    Admitted, ChannelPolicy, Enforcer, Presented, Refusal, ReplayMemory, Request, RequestChannel, Scope, decide_among,
};

use super::holding::Holds;
use super::{Guard, Hold, enforcer};
use crate::clock;

/// How many proofs without a channel a guard remembers: for eleven seconds each, so some 5,900 a second.
pub const REPLAY_CAPACITY: usize = 65_536;

/// What ties a proof to the request it came with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding<'a> {
    /// TLS-Exporter of this very connection, for the chain that is presented.
    Connection(&'a [u8; 32]),
    /// The digest of method, authority, path and body; then the proof is young, and counts once.
    Request([u8; 32]),
}

impl Guard {
    /// Decides about one request.
    ///
    /// # Errors
    /// Every reason to refuse.
    pub fn decide_request(
        &self,
        chain: &[u8],
        proof: &[u8],
        scope: &Scope,
        binding: Binding<'_>,
    ) -> Result<Admitted, Vec<Refusal>> {
        let config = self.config();
        let now_ms = self.now_ms(&config)?;
        let view = self.follower.view();
        let (channel, request_digest, requires_channel) = match binding {
            Binding::Connection(exporter) => (
                RequestChannel::Exporter(exporter),
                None,
                ChannelPolicy::ExporterOrChallenge,
            ),
            Binding::Request(digest) => (RequestChannel::None, Some(digest), ChannelPolicy::Optional),
        };
        let request = Request {
            authorization: Presented::Bytes(chain),
            proof,
            action: scope.action().as_str(),
            resource: scope.resource(),
            request_digest,
            channel,
        };
        let enforcer = Enforcer {
            requires_channel,
            ..enforcer(&config)
        };
        let decide = |memory| {
            self.foreign
                .seen()
                .with(|foreign| decide_among(&request, view.as_deref(), foreign, &enforcer, memory, now_ms))
        };
        match binding {
            Binding::Connection(_) => decide(ReplayMemory::new(0)).0,
            // One after the other: the same proof at the same instant counts once.
            Binding::Request(_) => {
                let mut memory = self.replay.lock().unwrap_or_else(PoisonError::into_inner);
                // What is left behind by a decision that does not return has no room, and so admits nothing.
                let (decision, next) = decide(std::mem::replace(&mut memory, ReplayMemory::new(0)));
                *memory = next;
                decision
            }
        }
    }

    /// Goes on resting on what was let in, for one more request or for as long as an answer takes: whatever time, trust
    /// state and policy can change is looked at now and from then on. The proof opened this very connection, and is not.
    ///
    /// # Errors
    /// Every reason to refuse.
    pub fn hold_admitted(&self, admitted: Admitted) -> Result<Hold, Vec<Refusal>> {
        Holds::take(&self.holds, admitted, |admitted| self.judge_again(admitted))
    }

    /// For how many milliseconds its trust state is fresh without another word from a broker, at most the window after
    /// [`Self::watch`] last came round: a guard that no longer looks vouches for nobody. 0 where nothing counts.
    #[must_use]
    pub fn fresh_for_ms(&self) -> u64 {
        let config = self.config();
        match (self.follower.view(), self.now_ms(&config)) {
            (Some(view), Ok(now_ms)) => {
                let looked_ms = self.looked_ms.load(Ordering::Acquire);
                let since_ms = clock::boot_ms().saturating_sub(looked_ms);
                let fresh_ms = view.fresh_until_ms(config.window_ms).saturating_sub(now_ms);
                fresh_ms.min(config.window_ms.saturating_sub(since_ms))
            }
            _ => 0,
        }
    }

    /// In how many milliseconds what ends at `until_ms` (Unix milliseconds) does, by the broker's time; 0 without one.
    #[must_use]
    pub fn runs_out_in_ms(&self, until_ms: u64) -> u64 {
        let config = self.config();
        self.now_ms(&config).map_or(0, |now_ms| until_ms.saturating_sub(now_ms))
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a thread that stands still is what is tested")]
mod tests {
    use std::time::Duration;

    use touchstone_authorization::Status;

    use crate::common::World;

    #[tokio::test(flavor = "current_thread")]
    async fn a_guard_whose_watch_stands_still_vouches_for_no_longer_than_the_window_after_it() {
        let world = World::new().await;
        let window_ms = world.guard.window_ms();
        world.publish(Status::Valid, 2 * window_ms);
        let watches = async {
            while world.guard.fresh_for_ms() <= window_ms - 1_000 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let watches = tokio::time::timeout(Duration::from_secs(60), watches).await;
        watches.expect("while it watches");
        // The one thread of this runtime: nothing is looked at meanwhile.
        std::thread::sleep(Duration::from_millis(2_000));
        world.publish(Status::Valid, 2 * window_ms);
        let fresh_ms = world.guard.fresh_for_ms();
        assert!(fresh_ms <= window_ms - 2_000, "{fresh_ms}");
    }
}
