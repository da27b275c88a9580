//! How a node stands, from what is known of it and a time. Pure.

use std::fmt;

use touchstone_policies::Timers;

/// How a node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// It is listed and has never shown good evidence.
    NeverSeen,
    /// Its last evidence was good, and its next is not overdue.
    Trusted,
    /// Its deadline has passed. What it holds is not renewed, and is withdrawn after the grace.
    Stale,
    /// Its deadline has passed, and so has another interval (or the grace, where that is longer): nothing at all was heard
    /// of it meanwhile.
    Unreachable,
    /// It spoke, authentically, and what it showed was not acceptable.
    Refused,
    /// Its rights are suspended until somebody lifts that.
    Quarantined,
    /// Its rights were withdrawn for another reason than its own evidence or silence.
    Withdrawn,
    /// An operator has taken it out of service.
    Decommissioned,
}

impl State {
    /// Every state.
    pub const ALL: [State; 8] = [
        State::NeverSeen,
        State::Trusted,
        State::Stale,
        State::Unreachable,
        State::Refused,
        State::Quarantined,
        State::Withdrawn,
        State::Decommissioned,
    ];

    /// Its name in statements and on the console.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            State::NeverSeen => "never-seen",
            State::Trusted => "trusted",
            State::Stale => "stale",
            State::Unreachable => "unreachable",
            State::Refused => "refused",
            State::Quarantined => "quarantined",
            State::Withdrawn => "withdrawn",
            State::Decommissioned => "decommissioned",
        }
    }

    /// The state of this name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// When a node is late, by policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// How long after good evidence it is stale, in milliseconds.
    pub deadline_ms: u64,
    /// How long after that what it holds is withdrawn.
    pub grace_ms: u64,
    /// How long after the deadline it is unreachable, where nothing was heard of it.
    pub silence_ms: u64,
}

impl Schedule {
    /// The schedule under these timers.
    #[must_use]
    pub fn of(timers: &Timers) -> Self {
        Self {
            deadline_ms: timers.attestation_deadline_ms,
            grace_ms: timers.attestation_grace_ms,
            silence_ms: timers.attestation_grace_ms.max(timers.longest_interval_ms()),
        }
    }
}

/// What is known of a node. Times are the broker's, in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Known {
    /// When it last showed good evidence; nothing where that was before this process began and is of no account any more.
    pub good_ms: Option<u64>,
    /// When anything authentic was last heard of it.
    pub heard_ms: Option<u64>,
    /// When its deadline passed; until it shows good evidence again.
    pub late_ms: Option<u64>,
    /// The last it showed was refused.
    pub refused: bool,
    /// Its rights are suspended by command, containment or a detector.
    pub quarantined: bool,
    /// Its rights were withdrawn for another reason.
    pub withdrawn: bool,
    /// It was decommissioned.
    pub gone: bool,
}

impl Known {
    /// Takes note of good evidence.
    pub fn good(&mut self, at_ms: u64) {
        self.good_ms = Some(at_ms.max(self.good_ms.unwrap_or(0)));
        self.heard_ms = self.good_ms;
        (self.late_ms, self.refused, self.withdrawn, self.gone) = (None, false, false, false);
    }

    /// Takes note of authentic evidence that is not acceptable.
    pub fn refuse(&mut self, at_ms: u64) {
        self.hear(at_ms);
        self.refused = true;
    }

    /// Takes note of an authentic word.
    pub fn hear(&mut self, at_ms: u64) {
        self.heard_ms = Some(at_ms.max(self.heard_ms.unwrap_or(0)));
    }

    /// When its deadline passes, where it is still to come; `since_ms` is when attestations were last taken again.
    #[must_use]
    pub fn deadline(&self, schedule: Schedule, since_ms: u64) -> Option<u64> {
        let good_ms = self.good_ms.filter(|_| self.late_ms.is_none())?;
        Some(good_ms.max(since_ms).saturating_add(schedule.deadline_ms))
    }

    /// Looks at the time: whoever is over the deadline is late from that very moment on.
    pub fn look(&mut self, schedule: Schedule, since_ms: Option<u64>, now_ms: u64) {
        let deadline_ms = since_ms.and_then(|since_ms| self.deadline(schedule, since_ms));
        if let Some(deadline_ms) = deadline_ms.filter(|deadline_ms| *deadline_ms <= now_ms) {
            self.late_ms = Some(deadline_ms);
        }
    }

    /// How it stands at `now_ms`, having been looked at.
    #[must_use]
    pub fn state(&self, schedule: Schedule, now_ms: u64) -> State {
        match self.late_ms {
            _ if self.gone => State::Decommissioned,
            _ if self.quarantined => State::Quarantined,
            _ if self.refused => State::Refused,
            _ if self.withdrawn => State::Withdrawn,
            Some(late_ms) if self.is_silent() && now_ms >= late_ms.saturating_add(schedule.silence_ms) => {
                State::Unreachable
            }
            Some(_) => State::Stale,
            None if self.good_ms.is_some() => State::Trusted,
            None => State::NeverSeen,
        }
    }

    /// Whether what it holds is to be withdrawn because it is silent.
    #[must_use]
    pub fn is_over(&self, schedule: Schedule, since_ms: u64, now_ms: u64) -> bool {
        self.late_ms
            .is_some_and(|late_ms| now_ms >= late_ms.max(since_ms).saturating_add(schedule.grace_ms))
    }

    /// The next moment at which time alone changes something.
    #[must_use]
    pub fn next(&self, schedule: Schedule, since_ms: u64, now_ms: u64) -> Option<u64> {
        let late = self.late_ms.map(|late_ms| {
            let over = late_ms.max(since_ms).saturating_add(schedule.grace_ms);
            let silent = late_ms.saturating_add(schedule.silence_ms);
            [over, silent].into_iter().filter(|at_ms| *at_ms > now_ms).min()
        });
        match late {
            Some(next) => next,
            None => self.deadline(schedule, since_ms),
        }
    }

    fn is_silent(&self) -> bool {
        self.heard_ms <= self.good_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEDULE: Schedule = Schedule {
        deadline_ms: 60_000,
        grace_ms: 10_000,
        silence_ms: 33_000,
    };

    /// Looks at a node at each of these times, as the broker does, and gives what it finds.
    fn states(known: &mut Known, since_ms: u64, times: &[u64]) -> Vec<State> {
        let look = |now_ms: &u64| {
            known.look(SCHEDULE, Some(since_ms), *now_ms);
            known.state(SCHEDULE, *now_ms)
        };
        times.iter().map(look).collect()
    }

    #[test]
    fn a_silent_node_is_stale_at_its_deadline_exactly_and_unreachable_after_another_interval() {
        use State::{Stale, Trusted, Unreachable};
        let mut known = Known::default();
        known.good(1_000);
        let times = [1_000, 60_999, 61_000, 93_999, 94_000, 1_000_000];
        let expected = [Trusted, Trusted, Stale, Stale, Unreachable, Unreachable];
        assert_eq!(states(&mut known, 0, &times), expected);
        assert_eq!(
            known.late_ms,
            Some(61_000),
            "late since the deadline, whenever that was looked at"
        );
    }

    #[test]
    fn rights_end_after_the_grace_and_not_before() {
        let mut known = Known::default();
        known.good(1_000);
        assert!(!known.is_over(SCHEDULE, 0, 1_000_000), "nobody has looked yet");
        known.look(SCHEDULE, Some(0), 65_000);
        for (now_ms, over) in [(61_000, false), (70_999, false), (71_000, true)] {
            assert_eq!(known.is_over(SCHEDULE, 0, now_ms), over, "{now_ms}");
        }
        let none = Schedule {
            grace_ms: 0,
            ..SCHEDULE
        };
        assert!(known.is_over(none, 0, 61_000), "without grace at the deadline itself");
        assert!(
            !known.is_over(SCHEDULE, 65_000, 74_999),
            "a broker that took nothing counts from when it does again"
        );
    }

    #[test]
    fn good_evidence_is_the_way_back_and_nothing_else_is() {
        let mut known = Known::default();
        known.good(1_000);
        assert_eq!(states(&mut known, 0, &[61_000]), [State::Stale]);
        known.hear(62_000);
        assert_eq!(
            states(&mut known, 0, &[62_000, 94_000]),
            [State::Stale, State::Stale],
            "heard of"
        );
        // That the broker was away for a while makes nobody good again.
        assert_eq!(states(&mut known, 95_000, &[95_000]), [State::Stale]);
        known.refuse(96_000);
        assert_eq!(states(&mut known, 0, &[96_000]), [State::Refused]);
        known.hear(97_000);
        assert_eq!(states(&mut known, 0, &[97_000]), [State::Refused]);
        known.good(98_000);
        assert_eq!(
            states(&mut known, 0, &[98_000, 157_999, 158_000]),
            [State::Trusted, State::Trusted, State::Stale]
        );
    }

    #[test]
    fn a_node_misses_nothing_while_nobody_is_served() {
        let mut known = Known::default();
        known.good(1_000);
        known.look(SCHEDULE, None, 500_000);
        assert_eq!(known.state(SCHEDULE, 500_000), State::Trusted);
        assert_eq!(
            states(&mut known, 500_000, &[559_999, 560_000]),
            [State::Trusted, State::Stale]
        );
    }

    #[test]
    fn what_was_taken_comes_before_what_time_says() {
        let late = Known {
            good_ms: Some(1),
            late_ms: Some(2),
            ..Known::default()
        };
        for (known, expected) in [
            (Known::default(), State::NeverSeen),
            (
                Known {
                    withdrawn: true,
                    ..late.clone()
                },
                State::Withdrawn,
            ),
            (
                Known {
                    withdrawn: true,
                    refused: true,
                    ..late.clone()
                },
                State::Refused,
            ),
            (
                Known {
                    quarantined: true,
                    refused: true,
                    ..late.clone()
                },
                State::Quarantined,
            ),
            (
                Known {
                    gone: true,
                    quarantined: true,
                    ..late
                },
                State::Decommissioned,
            ),
        ] {
            assert_eq!(known.state(SCHEDULE, 10), expected, "{known:?}");
        }
        // Good evidence does not lift a quarantine.
        let mut held = Known {
            quarantined: true,
            ..Known::default()
        };
        held.good(5);
        assert_eq!(held.state(SCHEDULE, 6), State::Quarantined);
    }

    #[test]
    fn the_next_moment_is_the_first_at_which_time_changes_something() {
        let mut known = Known::default();
        assert_eq!(known.next(SCHEDULE, 0, 0), None);
        known.good(1_000);
        let mut now_ms = 1_000;
        let mut moments = Vec::new();
        while let Some(next) = known.next(SCHEDULE, 0, now_ms) {
            known.look(SCHEDULE, Some(0), next);
            moments.push((next, known.state(SCHEDULE, next), known.is_over(SCHEDULE, 0, next)));
            now_ms = next;
        }
        let expected = [
            (61_000, State::Stale, false),
            (71_000, State::Stale, true),
            (94_000, State::Unreachable, true),
        ];
        assert_eq!(moments, expected);
    }

    #[test]
    fn names_come_back() {
        for state in State::ALL {
            assert_eq!(State::parse(state.as_str()), Some(state));
        }
        assert_eq!(State::parse("Trusted"), None);
    }
}
