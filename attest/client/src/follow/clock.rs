//! The broker's time at an enforcer.

use std::sync::{Mutex, PoisonError};

use crate::clock;

/// How far the wall clock and the broker's time may lie apart before the enforcer denies (`docs/protocol.md` 1, skew
/// bound, plus what a second's resolution of certificates and tokens costs).
pub const MAX_WALL_DISAGREEMENT_MS: u64 = 5_000;

/// Broker time = what a nonce-carrying answer said + what `CLOCK_BOOTTIME` counted since.
#[derive(Debug, Default)]
pub struct BrokerClock {
    synchronized: Mutex<Option<Sample>>,
}

/// One answer to a time request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// What the broker said, Unix milliseconds.
    pub broker_ms: u64,
    /// `CLOCK_BOOTTIME` when the answer arrived.
    pub boot_ms: u64,
    /// Half the round trip: how far off the sample may be.
    pub bound_ms: u64,
}

/// Why there is no time to decide with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClockError {
    /// No broker has told the time yet.
    #[error("no broker has told the time yet")]
    Unsynchronized,
    /// The wall clock says something else: one of the two is being lied to.
    #[error("the wall clock is {apart_ms} ms away from the broker's time, limit {MAX_WALL_DISAGREEMENT_MS} ms")]
    Disagreement {
        /// By how much.
        apart_ms: u64,
    },
}

impl BrokerClock {
    /// Takes a sample whose bound is within `max_bound_ms`; a worse one changes nothing and gives false.
    pub fn take(&self, sample: Sample, max_bound_ms: u64) -> bool {
        let good = sample.bound_ms <= max_bound_ms;
        if good {
            *self.synchronized.lock().unwrap_or_else(PoisonError::into_inner) = Some(sample);
        }
        good
    }

    /// The broker's time now, Unix milliseconds.
    ///
    /// # Errors
    /// [`ClockError`]: then nothing is allowed.
    pub fn now_ms(&self) -> Result<u64, ClockError> {
        let sample = *self.synchronized.lock().unwrap_or_else(PoisonError::into_inner);
        reading(sample, clock::boot_ms(), clock::wall_ms())
    }
}

/// The broker's time by `sample` at (`boot_ms`, `wall_ms`).
///
/// # Errors
/// [`ClockError`].
pub fn reading(sample: Option<Sample>, boot_ms: u64, wall_ms: u64) -> Result<u64, ClockError> {
    let sample = sample.ok_or(ClockError::Unsynchronized)?;
    let now = sample.broker_ms.saturating_add(boot_ms.saturating_sub(sample.boot_ms));
    let apart_ms = now.abs_diff(wall_ms);
    if apart_ms > MAX_WALL_DISAGREEMENT_MS {
        Err(ClockError::Disagreement { apart_ms })
    } else {
        Ok(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: Sample = Sample {
        broker_ms: 1_000_000,
        boot_ms: 50,
        bound_ms: 3,
    };

    #[test]
    fn time_goes_on_by_boottime() {
        assert_eq!(reading(Some(SAMPLE), 1_050, 1_001_000), Ok(1_001_000));
    }

    #[test]
    fn a_set_wall_clock_denies() {
        for wall in [
            1_001_000 - MAX_WALL_DISAGREEMENT_MS - 1,
            1_001_000 + MAX_WALL_DISAGREEMENT_MS + 1,
        ] {
            assert!(
                matches!(reading(Some(SAMPLE), 1_050, wall), Err(ClockError::Disagreement { .. })),
                "{wall}"
            );
        }
        assert_eq!(reading(None, 0, 0), Err(ClockError::Unsynchronized));
    }

    #[test]
    fn a_slow_answer_is_no_time() {
        let clock = BrokerClock::default();
        assert!(!clock.take(
            Sample {
                bound_ms: 501,
                ..SAMPLE
            },
            500
        ));
        assert_eq!(clock.now_ms(), Err(ClockError::Unsynchronized));
    }
}
