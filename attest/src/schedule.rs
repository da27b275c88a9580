//! When to attest again. Pure: randomness and time are arguments.

use crate::agent::config::ScheduleConfig;

pub use touchstone_client::{FIRST_BACKOFF_MS, MAX_BACKOFF_MS, backoff_ms};

const DEFAULT_JITTER_PERCENT: u8 = 10;

/// Milliseconds until the next attestation: what policy says (`policy_ms`), never longer, off at random by the jitter so
/// that a fleet does not come back in one instant. `random` is any number; the whole range is used.
#[must_use]
pub fn next_attestation_ms(policy_ms: u64, config: ScheduleConfig, random: u64) -> u64 {
    let base = config.interval_ms.map_or(policy_ms, |own| own.min(policy_ms)).max(1);
    let percent = u64::from(config.jitter_percent.unwrap_or(DEFAULT_JITTER_PERCENT));
    let spread = base.saturating_mul(percent) / 100;
    let offset = random.checked_rem(2 * spread + 1).unwrap_or(0);
    base.saturating_sub(spread).saturating_add(offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_interval_only_shortens() {
        let config = |interval_ms| ScheduleConfig {
            interval_ms: Some(interval_ms),
            jitter_percent: Some(0),
        };
        assert_eq!(next_attestation_ms(30_000, config(2_000), 7), 2_000);
        assert_eq!(next_attestation_ms(30_000, config(90_000), 7), 30_000);
    }

    #[test]
    fn jitter_and_backoff_stay_in_their_bounds() {
        for random in (0..u64::MAX).step_by(usize::MAX / 97) {
            let next = next_attestation_ms(30_000, ScheduleConfig::default(), random);
            assert!((27_000..=33_000).contains(&next), "{next}");
            for failures in 1..64 {
                let pause = backoff_ms(failures, random);
                assert!(
                    (FIRST_BACKOFF_MS / 2..=MAX_BACKOFF_MS).contains(&pause),
                    "{failures}: {pause}"
                );
            }
        }
    }
}
