//! How long to wait after failures. Pure: randomness is an argument.

/// The first pause after a failure, in milliseconds; it doubles with each further one.
pub const FIRST_BACKOFF_MS: u64 = 250;
/// The longest pause between two attempts after failures.
pub const MAX_BACKOFF_MS: u64 = 15_000;

/// The longest wait that a broker may ask for, in seconds: nobody sends an enforcer away for longer than that.
pub const MAX_RETRY_AFTER_S: u64 = 30;

/// Anywhere in `0..=within_ms`: what a fleet that was cut off at one instant adds before it comes back.
#[must_use]
pub fn spread_ms(within_ms: u64, random: u64) -> u64 {
    random.checked_rem(within_ms.saturating_add(1)).unwrap_or(0)
}

/// Milliseconds until the next attempt after `failures` failures in a row (at least 1): doubling, bounded, and anywhere
/// in the upper half of the pause, so that a fleet that lost its broker does not come back in one instant.
#[must_use]
pub fn backoff_ms(failures: u32, random: u64) -> u64 {
    let full = FIRST_BACKOFF_MS
        .saturating_mul(1 << failures.saturating_sub(1).min(16))
        .min(MAX_BACKOFF_MS);
    let half = full / 2;
    half + random.checked_rem(full - half + 1).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_grows_and_is_bounded_and_a_spread_covers_all_of_it() {
        for (failures, least, most) in [
            (1, 125, 250),
            (2, 250, 500),
            (9, 7_500, 15_000),
            (u32::MAX, 7_500, 15_000),
        ] {
            for random in [0, 1, 12_345, u64::MAX] {
                let pause = backoff_ms(failures, random);
                assert!((least..=most).contains(&pause), "{failures} {random}: {pause}");
            }
        }
        assert_eq!((spread_ms(10, 10), spread_ms(10, 11), spread_ms(0, 7)), (10, 0, 0));
        assert!(spread_ms(u64::MAX, 5) <= 5);
    }
}
