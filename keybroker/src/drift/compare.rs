//! In what two brokers differ. Pure: two views, what was seen before, and a time.

use std::collections::BTreeMap;
use std::fmt;

use touchstone_policies::PolicySet;
use touchstone_policies::timers::{RENEWALS_IN_TIMESTAMP_LIFE, Timers};

use super::DriftCode;

/// What a broker governs by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The domain's generation.
    pub generation: u64,
    /// Which rules decide. Others are no divergence: a release goes from one broker to the next.
    pub semantics: String,
    /// Version of the policy in force.
    pub version: u64,
    /// Its digest.
    pub digest: [u8; 32],
    /// The digest of each region that signs for itself.
    pub regions: BTreeMap<String, [u8; 32]>,
}

impl View {
    /// The view of a broker with this policy.
    #[must_use]
    pub fn of(policy: &PolicySet, semantics: &str) -> Self {
        let regions = policy
            .regions
            .iter()
            .map(|(name, region)| (name.clone(), region.digest));
        Self {
            generation: policy.settings.generation,
            semantics: semantics.to_owned(),
            version: policy.version,
            digest: policy.digest,
            regions: regions.collect(),
        }
    }
}

/// One thing in which a peer differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What.
    pub code: DriftCode,
    /// What this broker has.
    pub expected: String,
    /// What the peer has.
    pub found: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: here {}, there {}", self.code, self.expected, self.found)
    }
}

/// Since when one of two has an older policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lag(Option<Behind>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Behind {
    /// Whether it is this broker.
    own: bool,
    /// The version it is still at.
    at: u64,
    since_ms: u64,
}

impl Lag {
    /// Whether this broker is the one behind, and the version that is.
    #[must_use]
    pub fn behind(&self) -> Option<(bool, u64)> {
        self.0.map(|behind| (behind.own, behind.at))
    }

    /// One that was over its grace before: the same again has none.
    #[must_use]
    pub const fn long_behind(own: bool, at: u64) -> Self {
        Self(Some(Behind { own, at, since_ms: 0 }))
    }
}

/// What a broker may take to look at its repository and to verify what it finds, in milliseconds.
pub const TAKE_OVER_MS: u64 = 15_000;

/// How long a new policy may take to reach every broker, in milliseconds, by the signed timers: until the timestamp is
/// made again, for whoever has not seen it by then has missed a publication; but never longer than the timestamp lives.
#[must_use]
pub fn grace_ms(timers: &Timers) -> u64 {
    let period = timers.timestamp_life_ms / RENEWALS_IN_TIMESTAMP_LIFE;
    let period = timers.publish_period_ms.unwrap_or(period);
    period.saturating_add(TAKE_OVER_MS).min(timers.timestamp_life_ms)
}

/// In what `theirs` differs from `own` at `now_ms`. Who has the older policy has `grace_ms` from when that was first seen,
/// and again from each version it moves on to.
#[must_use]
pub fn differences(own: &View, theirs: &View, lag: &mut Lag, now_ms: u64, grace_ms: u64) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut differ = |code, expected: String, theirs: String| {
        found.push(Difference {
            code,
            expected,
            found: theirs,
        });
    };
    if own.generation != theirs.generation {
        differ(
            DriftCode::Generation,
            own.generation.to_string(),
            theirs.generation.to_string(),
        );
    }
    if own.version == theirs.version {
        *lag = Lag::default();
        if own.digest != theirs.digest {
            differ(DriftCode::Policy, named(own), named(theirs));
        } else if own.regions != theirs.regions {
            let differing = |view: &View, other: &View| {
                let differing = view
                    .regions
                    .iter()
                    .filter(|(name, digest)| other.regions.get(*name) != Some(digest));
                let names: Vec<_> = differing
                    .map(|(name, digest)| format!("{name} {}", hex::encode(digest)))
                    .collect();
                names.join(", ")
            };
            differ(DriftCode::Region, differing(own, theirs), differing(theirs, own));
        }
        return found;
    }
    let behind = Behind {
        own: own.version < theirs.version,
        at: own.version.min(theirs.version),
        since_ms: now_ms,
    };
    let since = match lag.0 {
        Some(before) if (before.own, before.at) == (behind.own, behind.at) => before.since_ms,
        _ => now_ms,
    };
    *lag = Lag(Some(Behind {
        since_ms: since,
        ..behind
    }));
    if now_ms.saturating_sub(since) > grace_ms {
        differ(DriftCode::Behind, named(own), named(theirs));
    }
    found
}

fn named(view: &View) -> String {
    format!("version {} {}", view.version, hex::encode(view.digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: u64 = 1_000;

    fn view(version: u64, digest: u8) -> View {
        View {
            generation: 1,
            semantics: "s".into(),
            version,
            digest: [digest; 32],
            regions: BTreeMap::from([("eu".to_owned(), [1; 32])]),
        }
    }

    fn codes(own: &View, theirs: &View) -> Vec<DriftCode> {
        let found = differences(own, theirs, &mut Lag::default(), 0, GRACE);
        found.into_iter().map(|difference| difference.code).collect()
    }

    #[test]
    fn what_differs_at_once() {
        let own = view(7, 1);
        let with = |change: fn(&mut View)| {
            let mut theirs = own.clone();
            change(&mut theirs);
            theirs
        };
        assert_eq!(codes(&own, &own), []);
        assert_eq!(codes(&own, &with(|v| v.semantics = "other".into())), []);
        assert_eq!(codes(&own, &view(7, 2)), [DriftCode::Policy]);
        assert_eq!(codes(&own, &with(|v| v.generation = 2)), [DriftCode::Generation]);
        assert_eq!(codes(&own, &with(|v| v.regions.clear())), [DriftCode::Region]);
        let other_region = with(|v| {
            v.regions.insert("eu".into(), [2; 32]);
        });
        assert_eq!(codes(&own, &other_region), [DriftCode::Region]);
        assert_eq!(codes(&own, &view(8, 2)), [], "a new version spreads");
        assert_eq!(codes(&own, &view(6, 2)), []);
    }

    #[test]
    fn who_stays_behind_has_a_grace_and_no_more() {
        for (own, theirs) in [(view(7, 1), view(8, 2)), (view(8, 2), view(7, 1))] {
            let mut lag = Lag::default();
            let mut at = |own: &View, theirs: &View, now| differences(own, theirs, &mut lag, now, GRACE);
            assert_eq!(at(&own, &theirs, 10_000), []);
            assert_eq!(at(&own, &theirs, 11_000), []);
            assert_eq!(at(&own, &theirs, 11_001)[0].code, DriftCode::Behind);
            assert_eq!(at(&theirs, &theirs, 11_002), [], "it has caught up");
            assert_eq!(at(&own, &theirs, 12_000), [], "and begins anew");
        }
    }

    #[test]
    fn versions_that_follow_each_other_quickly_are_no_alarm_and_no_excuse() {
        let mut lag = Lag::default();
        // The peer moves on with each, always one behind.
        for n in 1..10 {
            assert_eq!(differences(&view(n + 1, 1), &view(n, 1), &mut lag, n * 900, GRACE), []);
        }
        // The peer stays while we move on.
        let mut lag = Lag::default();
        let found: Vec<_> = (1..5)
            .map(|n| differences(&view(n + 1, 1), &view(1, 1), &mut lag, n * 900, GRACE).len())
            .collect();
        assert_eq!(found, [0, 0, 1, 1]);
    }

    #[test]
    fn the_grace_is_signed_and_ends_with_the_timestamp() {
        let timers = Timers::default();
        assert_eq!(grace_ms(&timers), timers.timestamp_life_ms / 3 + TAKE_OVER_MS);
        let with_publisher = Timers {
            publish_period_ms: Some(180_000),
            ..timers
        };
        assert_eq!(grace_ms(&with_publisher), 180_000 + TAKE_OVER_MS);
        let short = Timers {
            timestamp_life_ms: 12_000,
            ..with_publisher
        };
        assert_eq!(grace_ms(&short), 12_000);
    }
}
