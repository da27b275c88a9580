//! The timers of a domain and the inequalities between them. A policy that breaks one does not load.
//!
//! Source: `docs/protocol.md`, timers. All values are milliseconds unless their name says otherwise.

use serde::{Deserialize, Serialize};

use crate::error::{PolicyCode, Problem};

/// Longest timer: 366 days. Keeps every sum far from overflow.
pub const MAX_TIMER_MS: u64 = 366 * DAY_MS;
/// Longest life of a timestamp: what a stolen timestamp key can freeze.
pub const MAX_TIMESTAMP_LIFE_MS: u64 = DAY_MS;
/// Longest life of a snapshot.
pub const MAX_SNAPSHOT_LIFE_MS: u64 = 7 * DAY_MS;
/// Largest jitter in percent of the interval.
pub const MAX_JITTER_PERCENT: u64 = 50;
/// Heartbeats that may be lost before an enforcer stops.
pub const HEARTBEATS_IN_WINDOW: u64 = 3;
/// Times a publisher must renew the timestamp within its life.
pub const RENEWALS_IN_TIMESTAMP_LIFE: u64 = 3;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// `[timers]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timers {
    /// How far two honest clocks may differ.
    pub skew_ms: u64,
    /// How often a trust-state head is made.
    pub heartbeat_ms: u64,
    /// How long another replica needs to take over.
    pub failover_ms: u64,
    /// How long an enforcer acts on a head after it was received.
    pub freshness_window_ms: u64,
    /// How often a node attests.
    pub attestation_interval_ms: u64,
    /// By how much of the interval, in percent, a node attests earlier or later.
    pub attestation_jitter_percent: u64,
    /// How long after a failed try a node tries again.
    pub attestation_retry_ms: u64,
    /// When a node that has not attested loses its rights.
    pub attestation_deadline_ms: u64,
    /// How long after its deadline a silent node keeps the rights that it has, which are not renewed; 0: not at all.
    #[serde(default)]
    pub attestation_grace_ms: u64,
    /// How long an authorization lives.
    pub authorization_life_ms: u64,
    /// How long a status list may be cached.
    pub status_list_ttl_ms: u64,
    /// How long a status list is valid.
    pub status_list_exp_ms: u64,
    /// How long a published timestamp is valid.
    pub timestamp_life_ms: u64,
    /// How long a published snapshot is valid.
    pub snapshot_life_ms: u64,
    /// How often a publisher renews the timestamp; absent where people publish by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish_period_ms: Option<u64>,
}

impl Timers {
    /// The longest wait between two attestations: the interval and its jitter.
    pub const fn longest_interval_ms(&self) -> u64 {
        let jitter = self
            .attestation_interval_ms
            .saturating_mul(self.attestation_jitter_percent)
            / 100;
        self.attestation_interval_ms.saturating_add(jitter)
    }

    /// Every inequality that does not hold.
    pub fn problems(&self, file: &str) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (name, value) in self.named() {
            let claim = format!("{file}: timers.{name}");
            if value == 0 {
                problems.push(Problem::new(PolicyCode::TimerZero, &claim, "at least 1", "0"));
            } else if value > MAX_TIMER_MS {
                problems.push(Problem::new(
                    PolicyCode::TimerTooLong,
                    claim,
                    format!("at most {MAX_TIMER_MS}"),
                    value,
                ));
            }
        }
        // Sums of values above the limit could saturate and hide an inequality: they are refused already.
        if !problems.is_empty() {
            return problems;
        }
        let heartbeats = HEARTBEATS_IN_WINDOW * self.heartbeat_ms + self.failover_ms + self.skew_ms;
        let renewal = self.longest_interval_ms() + self.attestation_retry_ms;
        let (window, life) = (self.freshness_window_ms, self.authorization_life_ms);
        let timestamp_limit = self.snapshot_life_ms.min(MAX_TIMESTAMP_LIFE_MS);
        let publish = self.publish_period_ms.unwrap_or(0);
        let rules: [(PolicyCode, &str, u64, &str, u64); 11] = [
            (
                PolicyCode::TimerWindowShort,
                "3·heartbeat_ms + failover_ms + skew_ms",
                heartbeats,
                "freshness_window_ms",
                window,
            ),
            (
                PolicyCode::TimerWindowOverLife,
                "freshness_window_ms",
                window,
                "authorization_life_ms",
                life,
            ),
            (
                PolicyCode::TimerRenewalOverLife,
                "attestation_interval_ms with jitter + attestation_retry_ms + failover_ms",
                renewal + self.failover_ms,
                "authorization_life_ms",
                life,
            ),
            (
                PolicyCode::TimerDeadlineOverLife,
                "attestation_deadline_ms",
                self.attestation_deadline_ms,
                "authorization_life_ms",
                life,
            ),
            (
                PolicyCode::TimerGraceOverLife,
                "attestation_grace_ms",
                self.attestation_grace_ms,
                "authorization_life_ms - attestation_deadline_ms",
                // A deadline beyond the life is a problem of its own.
                life.checked_sub(self.attestation_deadline_ms).unwrap_or(u64::MAX),
            ),
            (
                PolicyCode::TimerIntervalOverDeadline,
                "attestation_interval_ms with jitter + attestation_retry_ms",
                renewal,
                "attestation_deadline_ms",
                self.attestation_deadline_ms,
            ),
            (
                PolicyCode::TimerTtlOverExp,
                "status_list_ttl_ms",
                self.status_list_ttl_ms,
                "status_list_exp_ms",
                self.status_list_exp_ms,
            ),
            (
                PolicyCode::TimerPublishPeriod,
                "publish_period_ms",
                publish,
                "timestamp_life_ms / 3",
                self.timestamp_life_ms / RENEWALS_IN_TIMESTAMP_LIFE,
            ),
            (
                PolicyCode::TimerTimestampLife,
                "timestamp_life_ms",
                self.timestamp_life_ms,
                "snapshot_life_ms and one day",
                timestamp_limit,
            ),
            (
                PolicyCode::TimerSnapshotLife,
                "snapshot_life_ms",
                self.snapshot_life_ms,
                "seven days",
                MAX_SNAPSHOT_LIFE_MS,
            ),
            (
                PolicyCode::TimerJitter,
                "attestation_jitter_percent",
                self.attestation_jitter_percent,
                "the limit",
                MAX_JITTER_PERCENT,
            ),
        ];
        for (code, left, value, right, limit) in rules {
            if value > limit {
                let claim = format!("{file}: timers, {left}");
                problems.push(Problem::new(code, claim, format!("at most {right} = {limit}"), value));
            }
        }
        problems
    }

    /// The timers that must not be 0, by name. Jitter and grace may be.
    fn named(&self) -> [(&'static str, u64); 13] {
        [
            ("skew_ms", self.skew_ms),
            ("heartbeat_ms", self.heartbeat_ms),
            ("failover_ms", self.failover_ms),
            ("freshness_window_ms", self.freshness_window_ms),
            ("attestation_interval_ms", self.attestation_interval_ms),
            ("attestation_retry_ms", self.attestation_retry_ms),
            ("attestation_deadline_ms", self.attestation_deadline_ms),
            ("authorization_life_ms", self.authorization_life_ms),
            ("status_list_ttl_ms", self.status_list_ttl_ms),
            ("status_list_exp_ms", self.status_list_exp_ms),
            ("timestamp_life_ms", self.timestamp_life_ms),
            ("snapshot_life_ms", self.snapshot_life_ms),
            ("publish_period_ms", self.publish_period_ms.unwrap_or(1)),
        ]
    }
}

impl Default for Timers {
    /// What `policy init` writes.
    fn default() -> Self {
        Self {
            skew_ms: 500,
            heartbeat_ms: 1_000,
            failover_ms: 5_000,
            freshness_window_ms: 10_000,
            attestation_interval_ms: 30_000,
            attestation_jitter_percent: 10,
            attestation_retry_ms: 5_000,
            attestation_deadline_ms: 60_000,
            attestation_grace_ms: 0,
            authorization_life_ms: 120_000,
            status_list_ttl_ms: 15_000,
            status_list_exp_ms: 60_000,
            timestamp_life_ms: DAY_MS,
            snapshot_life_ms: DAY_MS,
            publish_period_ms: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut Timers);

    #[test]
    fn each_inequality_has_its_code_and_holds_at_its_edge() {
        use PolicyCode::*;
        // One change that just breaks the rule, and one that just keeps it.
        let rows: &[(PolicyCode, Change, Change)] = &[
            (TimerZero, |t| t.skew_ms = 0, |t| t.skew_ms = 1),
            (
                TimerZero,
                |t| t.publish_period_ms = Some(0),
                |t| t.publish_period_ms = Some(1),
            ),
            (
                TimerTooLong,
                |t| t.status_list_exp_ms = MAX_TIMER_MS + 1,
                |t| t.status_list_exp_ms = MAX_TIMER_MS,
            ),
            (TimerTooLong, |t| t.heartbeat_ms = u64::MAX, |_| ()),
            (TimerWindowShort, |t| t.heartbeat_ms = 1_501, |t| t.heartbeat_ms = 1_500),
            (
                TimerWindowOverLife,
                |t| t.freshness_window_ms = 120_001,
                |t| t.freshness_window_ms = 120_000,
            ),
            (
                TimerRenewalOverLife,
                |t| (t.attestation_interval_ms, t.attestation_deadline_ms) = (100_001, 120_000),
                |t| (t.attestation_interval_ms, t.attestation_deadline_ms) = (100_000, 120_000),
            ),
            (
                TimerGraceOverLife,
                |t| t.attestation_grace_ms = 60_001,
                |t| t.attestation_grace_ms = 60_000,
            ),
            (TimerGraceOverLife, |t| t.attestation_grace_ms = u64::MAX, |_| ()),
            (
                TimerIntervalOverDeadline,
                |t| t.attestation_deadline_ms = 37_999,
                |t| t.attestation_deadline_ms = 38_000,
            ),
            (
                TimerTtlOverExp,
                |t| t.status_list_ttl_ms = 60_001,
                |t| t.status_list_ttl_ms = 60_000,
            ),
            (
                TimerPublishPeriod,
                |t| (t.publish_period_ms, t.timestamp_life_ms) = (Some(300_001), 900_000),
                |t| (t.publish_period_ms, t.timestamp_life_ms) = (Some(300_000), 900_000),
            ),
            (
                TimerTimestampLife,
                |t| t.timestamp_life_ms = DAY_MS + 1,
                |t| t.timestamp_life_ms = DAY_MS,
            ),
            (
                TimerTimestampLife,
                |t| t.snapshot_life_ms = DAY_MS - 1,
                |t| t.snapshot_life_ms = DAY_MS,
            ),
            (TimerSnapshotLife, |t| t.snapshot_life_ms = 7 * DAY_MS + 1, |_| ()),
            (
                TimerJitter,
                |t| t.attestation_jitter_percent = 51,
                |t| t.attestation_jitter_percent = 50,
            ),
        ];
        for (code, breaks, keeps) in rows {
            let base = Timers::default();
            let mut bad = base.clone();
            breaks(&mut bad);
            let codes: Vec<_> = bad.problems("settings.toml").iter().map(|p| p.code).collect();
            assert_eq!(codes, [*code], "{bad:?}");
            let mut good = base;
            keeps(&mut good);
            assert_eq!(good.problems("settings.toml"), [], "{code}");
        }
    }

    #[test]
    fn the_default_and_the_demo_timers_hold() {
        assert_eq!(Timers::default().problems(""), []);
        let demo = Timers {
            attestation_interval_ms: 2_000,
            attestation_retry_ms: 1_000,
            attestation_deadline_ms: 6_000,
            timestamp_life_ms: 900_000,
            publish_period_ms: Some(180_000),
            ..Timers::default()
        };
        assert_eq!(demo.problems(""), []);
    }
}
