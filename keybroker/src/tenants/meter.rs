//! How much each tenant has used of what it may: a bucket each, which fills with time. One tenant's empty bucket is
//! nobody else's.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Thousandths of a grant, so that slow rates fill too.
const PART: u64 = 1_000;
/// Milliseconds a minute.
const MINUTE_MS: u64 = 60_000;

/// The buckets, by tenant: as many as have been granted something, so never more than signed policy lists.
#[derive(Debug, Default)]
pub struct Meter {
    buckets: Mutex<HashMap<String, Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    parts: u64,
    at_ms: u64,
}

impl Meter {
    /// Takes one grant out of the tenant's bucket, which holds `per_minute` of them; `false` if there is none.
    pub fn take(&self, tenant: &str, per_minute: u64, now_ms: u64) -> bool {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let full = per_minute.saturating_mul(PART);
        let before = buckets.get(tenant).copied().unwrap_or(Bucket {
            parts: full,
            at_ms: now_ms,
        });
        // A clock that went back fills nothing.
        let passed = now_ms.saturating_sub(before.at_ms);
        let filled = before
            .parts
            .saturating_add(full.saturating_mul(passed) / MINUTE_MS)
            .min(full);
        let left = filled.checked_sub(PART);
        let bucket = Bucket {
            parts: left.unwrap_or(filled),
            at_ms: before.at_ms.max(now_ms),
        };
        buckets.insert(tenant.to_owned(), bucket);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tenants_bucket_is_empty_and_the_others_are_not() {
        let meter = Meter::default();
        let taken = |tenant, now_ms| (0..100).filter(|_| meter.take(tenant, 10, now_ms)).count();
        assert_eq!(taken("acme", 0), 10);
        assert_eq!(taken("rival", 0), 10);
        assert_eq!(taken("acme", 6_000), 1, "a tenth of a minute fills a tenth");
        assert_eq!(taken("acme", 600_000), 10, "and never more than it holds");
        assert_eq!(taken("acme", 0), 0, "a clock that went back fills nothing");
        assert!(!meter.take("none", 0, 0), "no quota is none");
    }
}
