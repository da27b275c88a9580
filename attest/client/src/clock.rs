//! The node's clocks. The wall clock is only a cross-check; what counts is the broker's time carried on by
//! `CLOCK_BOOTTIME`, which nobody can set (`docs/protocol.md`, "time at an enforcer").

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds since the Unix epoch by the wall clock.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "the one place where the node reads the wall clock"
)]
pub fn wall_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Seconds since the Unix epoch by the wall clock.
#[must_use]
pub fn wall_seconds() -> i64 {
    i64::try_from(wall_ms() / 1000).unwrap_or(i64::MAX)
}

/// Milliseconds since the machine was started, suspended time included.
#[must_use]
pub fn boot_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let (seconds, nanos) = (
        u64::try_from(now.tv_sec).unwrap_or(0),
        u64::try_from(now.tv_nsec).unwrap_or(0),
    );
    seconds.saturating_mul(1000).saturating_add(nanos / 1_000_000)
}
