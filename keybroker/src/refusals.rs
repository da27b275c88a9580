//! Refusals before authentication: counted by reason and source prefix, limited in rate, summed up once a minute.
//!
//! This module knows no node, no epoch and no status list: whatever is sent in a node's name without its keys, all it
//! can do is to raise a count here (`docs/protocol.md`, "refusal is not withdrawal").

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::problem::RefusalCode;

/// Most (code, prefix) pairs counted one by one between two summaries; more are counted by code alone.
pub const MAX_COUNTS: usize = 4_096;

/// Most prefixes whose rate is watched in one second; more share one rate.
pub const MAX_WATCHED: usize = 16_384;

/// Most rows in one summary, the largest counts first; the rest is summed by code.
pub const MAX_SUMMARY_ROWS: usize = 256;

/// How often the counts become a statement, in milliseconds.
pub const SUMMARY_PERIOD_MS: u64 = 60_000;

/// Where a request came from, as coarse as one holder of addresses usually is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Prefix {
    /// An IPv4 /24.
    V4([u8; 3]),
    /// An IPv6 /48.
    V6([u8; 6]),
    /// Too many others to tell apart.
    Others,
}

impl Prefix {
    /// The prefix of an address. IPv4 mapped into IPv6 is IPv4.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => {
                let [a, b, c, _] = v4.octets();
                Self::V4([a, b, c])
            }
            IpAddr::V6(v6) => {
                let [a, b, c, d, e, f, ..] = v6.octets();
                Self::V6([a, b, c, d, e, f])
            }
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::V4([a, b, c]) => write!(out, "{}/24", Ipv4Addr::new(a, b, c, 0)),
            Self::V6([a, b, c, d, e, f]) => {
                let pair = |high, low| u16::from_be_bytes([high, low]);
                write!(
                    out,
                    "{}/48",
                    Ipv6Addr::new(pair(a, b), pair(c, d), pair(e, f), 0, 0, 0, 0, 0)
                )
            }
            Self::Others => out.write_str("others"),
        }
    }
}

/// One row of a summary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// Why.
    pub code: RefusalCode,
    /// From where.
    pub prefix: Prefix,
    /// How often.
    pub count: u64,
}

/// What was refused between two instants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// From, in Unix milliseconds.
    pub from_ms: u64,
    /// Until, in Unix milliseconds.
    pub until_ms: u64,
    /// By code and prefix; at most [`MAX_SUMMARY_ROWS`] and one row a code for the rest.
    pub counts: Vec<Count>,
}

/// The counts since the last summary, and the rates of the current second.
#[derive(Debug)]
pub struct Refusals {
    per_second: u32,
    since_ms: u64,
    counts: HashMap<(RefusalCode, Prefix), u64>,
    second: u64,
    rates: HashMap<Prefix, u32>,
}

impl Refusals {
    /// Nothing refused since `now_ms`; more than `per_second` refusals from one prefix in a second slow it down.
    #[must_use]
    pub fn new(per_second: u32, now_ms: u64) -> Self {
        Self {
            per_second,
            since_ms: now_ms,
            counts: HashMap::new(),
            second: 0,
            rates: HashMap::new(),
        }
    }

    /// Counts one refusal.
    pub fn count(&mut self, code: RefusalCode, source: IpAddr, now_ms: u64) {
        let prefix = Prefix::of(source);
        let known = self.counts.contains_key(&(code, prefix));
        let counted = if known || self.counts.len() < MAX_COUNTS {
            prefix
        } else {
            Prefix::Others
        };
        let count = self.counts.entry((code, counted)).or_default();
        *count = count.saturating_add(1);
        self.turn(now_ms);
        let watched = self.watched(prefix);
        let rate = self.rates.entry(watched).or_default();
        *rate = rate.saturating_add(1);
    }

    /// Whether requests from this source are to wait: it was refused too often in the current second.
    pub fn is_limited(&mut self, source: IpAddr, now_ms: u64) -> bool {
        self.turn(now_ms);
        let watched = self.watched(Prefix::of(source));
        self.rates.get(&watched).is_some_and(|rate| *rate >= self.per_second)
    }

    /// Whether a summary is due: a period has passed and there is something to say.
    #[must_use]
    pub fn is_due(&self, now_ms: u64) -> bool {
        !self.counts.is_empty() && now_ms.saturating_sub(self.since_ms) >= SUMMARY_PERIOD_MS
    }

    /// Takes what was counted since the last summary; `None` if nothing was.
    pub fn summarise(&mut self, now_ms: u64) -> Option<Summary> {
        let from_ms = std::mem::replace(&mut self.since_ms, now_ms);
        if self.counts.is_empty() {
            return None;
        }
        let mut rows: Vec<Count> = self
            .counts
            .drain()
            .map(|((code, prefix), count)| Count { code, prefix, count })
            .collect();
        rows.sort_by_key(|row| (std::cmp::Reverse(row.count), row.code, row.prefix));
        let mut rest: BTreeMap<RefusalCode, u64> = BTreeMap::new();
        for row in rows.drain(MAX_SUMMARY_ROWS.min(rows.len())..) {
            let count = rest.entry(row.code).or_default();
            *count = count.saturating_add(row.count);
        }
        rows.extend(rest.into_iter().map(|(code, count)| Count {
            code,
            prefix: Prefix::Others,
            count,
        }));
        Some(Summary {
            from_ms,
            until_ms: now_ms,
            counts: rows,
        })
    }

    /// Starts a new second.
    fn turn(&mut self, now_ms: u64) {
        let second = now_ms / 1_000;
        if second != self.second {
            self.second = second;
            self.rates.clear();
        }
    }

    fn watched(&self, prefix: Prefix) -> Prefix {
        let room = self.rates.len() < MAX_WATCHED || self.rates.contains_key(&prefix);
        if room { prefix } else { Prefix::Others }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: RefusalCode = RefusalCode::EvidenceRefused;

    fn ip(n: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(n << 8 | 7))
    }

    #[test]
    fn prefixes() {
        for (address, prefix) in [
            ("203.0.113.77", "203.0.113.0/24"),
            ("::ffff:203.0.113.77", "203.0.113.0/24"),
            ("2001:db8:1:2::3", "2001:db8:1::/48"),
        ] {
            assert_eq!(Prefix::of(address.parse().unwrap()).to_string(), prefix);
        }
    }

    #[test]
    fn ten_thousand_forgeries_are_one_row() {
        let mut refusals = Refusals::new(100, 0);
        for _ in 0..10_000 {
            refusals.count(CODE, ip(1), 5);
        }
        assert!(refusals.is_limited(ip(1), 999));
        assert!(!refusals.is_limited(ip(2), 999), "another source is not made to wait");
        assert!(!refusals.is_limited(ip(1), 1_000), "the next second is a new one");
        assert!(!refusals.is_due(59_999) && refusals.is_due(60_000));
        let summary = refusals.summarise(60_000).unwrap();
        assert_eq!(
            summary.counts,
            [Count {
                code: CODE,
                prefix: Prefix::of(ip(1)),
                count: 10_000
            }]
        );
        assert_eq!((summary.from_ms, summary.until_ms), (0, 60_000));
        assert_eq!(
            refusals.summarise(120_000),
            None,
            "nothing happened, so nothing is recorded"
        );
    }

    #[test]
    fn memory_and_summary_are_bounded_and_nothing_is_lost() {
        let mut refusals = Refusals::new(1, 0);
        for n in 0..50_000 {
            refusals.count(CODE, ip(n), 5);
        }
        assert!(refusals.counts.len() <= MAX_COUNTS + 1 && refusals.rates.len() <= MAX_WATCHED + 1);
        assert!(refusals.is_limited(ip(49_999), 6), "the crowd shares one rate");
        let summary = refusals.summarise(60_000).unwrap();
        assert!(summary.counts.len() <= MAX_SUMMARY_ROWS + 1);
        assert_eq!(summary.counts.iter().map(|row| row.count).sum::<u64>(), 50_000);
    }
}
