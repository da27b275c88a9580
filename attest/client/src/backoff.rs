//! How long to wait after failures. Pure: randomness is an argument.

/// The first pause after a failure, in milliseconds; it doubles with each further one.
pub const FIRST_BACKOFF_MS: u64 = 250;
/// The longest pause between two attempts after failures.
pub const MAX_BACKOFF_MS: u64 = 15_000;

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
