//! The one place in the broker that reads a clock. Everything else is given the time as an argument.

use std::time::SystemTime;

use rustix::time::{ClockId, clock_gettime};

/// Reads the machine's clocks. Holds nothing; it exists so that what reads a clock can be seen in a signature.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock;

impl Clock {
    /// The wall clock, in Unix milliseconds. Before 1970 it is 0, which makes everything expired or not yet valid.
    #[must_use]
    pub fn now_ms(self) -> u64 {
        #[expect(clippy::disallowed_methods, reason = "the broker's one reading of the wall clock")]
        let now = SystemTime::now();
        now.duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// Milliseconds since the machine was started, counting the time it slept. Never goes back, so that lifetimes of
    /// things this process holds (sessions, leases) do not move when the wall clock is set.
    #[must_use]
    pub fn since_boot_ms(self) -> u64 {
        let at = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(at.tv_sec).unwrap_or(0);
        let nanoseconds = u64::try_from(at.tv_nsec).unwrap_or(0);
        seconds.saturating_mul(1_000).saturating_add(nanoseconds / 1_000_000)
    }
}

/// Whole Unix seconds of a time in Unix milliseconds, as `verifier` and policies take it.
#[must_use]
pub fn seconds(now_ms: u64) -> i64 {
    i64::try_from(now_ms / 1_000).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_clocks_run_forward() {
        let (wall, boot) = (Clock.now_ms(), Clock.since_boot_ms());
        assert!(wall > 1_700_000_000_000, "the wall clock is in Unix milliseconds");
        assert!(Clock.since_boot_ms() >= boot);
    }

    #[test]
    fn seconds_are_whole() {
        assert_eq!(seconds(1_999), 1);
        assert_eq!(seconds(u64::MAX), i64::try_from(u64::MAX / 1_000).unwrap());
    }
}
