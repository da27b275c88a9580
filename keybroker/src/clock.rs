//! The one place in the broker that reads a clock. Everything else is given the time as an argument.

use std::time::SystemTime;

use rustix::time::{ClockId, clock_gettime};

/// The broker's time: the wall clock as it was when the process began, and what the machine has counted since.
///
/// It never goes back while the process runs, whoever sets the wall clock: trust states and their freshness are made
/// on it, and enforcers ask the broker for it.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    wall_ms: u64,
    boot_ms: u64,
}

impl Clock {
    /// Reads both clocks.
    #[must_use]
    pub fn start() -> Self {
        Self {
            wall_ms: wall_ms(),
            boot_ms: since_boot_ms(),
        }
    }

    /// The broker's time, in Unix milliseconds.
    #[must_use]
    pub fn now_ms(self) -> u64 {
        self.wall_ms
            .saturating_add(since_boot_ms().saturating_sub(self.boot_ms))
    }

    /// By how many milliseconds the wall clock has moved away from the broker's time since the process began.
    #[must_use]
    pub fn drift_ms(self) -> u64 {
        wall_ms().abs_diff(self.now_ms())
    }
}

/// Whole Unix seconds of a time in Unix milliseconds, as `verifier` and policies take it.
#[must_use]
pub fn seconds(now_ms: u64) -> i64 {
    i64::try_from(now_ms / 1_000).unwrap_or(i64::MAX)
}

/// The wall clock in Unix milliseconds. Before 1970 it is 0, which makes everything expired or not yet valid.
fn wall_ms() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "the broker's one reading of the wall clock")]
    let now = SystemTime::now();
    now.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Milliseconds since the machine was started, counting the time it slept.
fn since_boot_ms() -> u64 {
    let at = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(at.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(at.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000).saturating_add(nanoseconds / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_runs_forward_from_the_wall_clock() {
        let clock = Clock::start();
        let first = clock.now_ms();
        assert!(first > 1_700_000_000_000, "in Unix milliseconds");
        assert!(clock.now_ms() >= first);
    }

    #[test]
    fn seconds_are_whole() {
        assert_eq!(seconds(1_999), 1);
        assert_eq!(seconds(u64::MAX), i64::try_from(u64::MAX / 1_000).unwrap());
    }
}
