//! When a revocation is closed: pure, over what was heard and the time.
//!
//! A withdrawal opens a closure that waits for every enforcer that was known to follow at that moment. It ends when all of
//! them have acknowledged its epoch or a later one, or when the published bound is over: from then on nobody can act on the
//! state before it, whoever is silent (`docs/protocol.md`, section 1).

use std::collections::{BTreeMap, VecDeque};

/// Most closures open at once. A withdrawal beyond it is closed together with the one before.
pub const MAX_OPEN: usize = 32;

/// What the published bound allows beside the freshness window, in milliseconds.
pub const BOUND_BESIDE_WINDOW_MS: u64 = 100;

/// What was heard of an enforcer that is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// When the broker had it, Unix milliseconds.
    pub received_ms: u64,
    /// When the enforcer says that it enforced it, Unix milliseconds of the domain's time.
    pub enforced_at_ms: u64,
    /// How many it says it stopped.
    pub refused: u64,
}

/// One withdrawal, or several that went out in quick succession, and who has acknowledged it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closure {
    /// The first epoch.
    pub from_epoch: u64,
    /// The last.
    pub to_epoch: u64,
    /// When the first went out, Unix milliseconds.
    pub first_ms: u64,
    /// When the last did.
    pub last_ms: u64,
    /// Who is waited for, and what was heard.
    pub waits: BTreeMap<String, Option<Heard>>,
    /// How many of these have not been heard of: looked at with every acknowledgement, of which there are thousands.
    missing: usize,
}

impl Closure {
    /// Whether all have acknowledged.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.missing == 0
    }

    /// When it ends whoever is silent.
    #[must_use]
    pub const fn deadline_ms(&self, window_ms: u64) -> u64 {
        self.last_ms
            .saturating_add(window_ms)
            .saturating_add(BOUND_BESIDE_WINDOW_MS)
    }

    /// Those who have not acknowledged.
    pub fn behind(&self) -> impl Iterator<Item = &str> {
        self.waits
            .iter()
            .filter(|(_, heard)| heard.is_none())
            .map(|(name, _)| name.as_str())
    }

    /// How many those who acknowledged say they stopped. What an enforcer says is its word: no sum of words is too large.
    #[must_use]
    pub fn stopped(&self) -> u64 {
        let heard = self.waits.values().flatten();
        heard.fold(0, |sum, heard| sum.saturating_add(heard.refused))
    }

    /// Between going out and the last acknowledgement that came, in milliseconds.
    #[must_use]
    pub fn longest_ms(&self) -> Option<u64> {
        let received = self.waits.values().flatten().map(|heard| heard.received_ms);
        received.max().map(|last| last.saturating_sub(self.last_ms))
    }
}

/// What is open, oldest first.
#[derive(Debug, Default)]
pub struct Closures(VecDeque<Closure>);

impl Closures {
    /// A withdrawal went out under `epoch`; `follow` are those who are waited for.
    pub fn open(&mut self, epoch: u64, at_ms: u64, follow: impl IntoIterator<Item = String>) {
        let waits = follow.into_iter().map(|name| (name, None));
        if self.0.len() >= MAX_OPEN
            && let Some(last) = self.0.back_mut()
        {
            // What was heard was heard of an epoch before this one.
            last.waits.values_mut().for_each(|heard| *heard = None);
            last.waits.extend(waits);
            last.missing = last.waits.len();
            last.to_epoch = epoch;
            last.last_ms = at_ms;
            return;
        }
        let waits: BTreeMap<String, Option<Heard>> = waits.collect();
        self.0.push_back(Closure {
            missing: waits.len(),
            from_epoch: epoch,
            to_epoch: epoch,
            first_ms: at_ms,
            last_ms: at_ms,
            waits,
        });
    }

    /// An enforcer acknowledged `epoch`: every closure up to it has heard of that one. The first time counts.
    pub fn heard(&mut self, name: &str, epoch: u64, heard: Heard) {
        for open in self.0.iter_mut().filter(|open| open.to_epoch <= epoch) {
            if let Some(slot @ None) = open.waits.get_mut(name) {
                *slot = Some(heard);
                open.missing -= 1;
            }
        }
    }

    /// Takes out what is closed at `now_ms`, oldest first.
    pub fn close(&mut self, now_ms: u64, window_ms: u64) -> Vec<Closure> {
        let done = |open: &Closure| open.is_complete() || now_ms >= open.deadline_ms(window_ms);
        let (closed, open) = std::mem::take(&mut self.0).into_iter().partition(done);
        self.0 = open;
        Vec::from(closed)
    }

    /// When the next one ends by itself.
    #[must_use]
    pub fn next_deadline_ms(&self, window_ms: u64) -> Option<u64> {
        self.0.iter().map(|open| open.deadline_ms(window_ms)).min()
    }

    /// How many are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: u64 = 10_000;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn at(received_ms: u64) -> Heard {
        Heard {
            received_ms,
            enforced_at_ms: received_ms,
            refused: 1,
        }
    }

    #[test]
    fn a_closure_ends_with_the_last_acknowledgement() {
        let mut closures = Closures::default();
        closures.open(7, 1_000, names(&["a", "b"]));
        closures.heard("a", 7, at(1_010));
        closures.heard("a", 7, at(9_999));
        closures.heard("b", 6, at(1_020));
        closures.heard("stranger", 7, at(1_020));
        assert_eq!(closures.close(1_030, WINDOW), []);
        // A later epoch holds what the earlier one took.
        closures.heard("b", 8, at(1_040));
        let closed = closures.close(1_040, WINDOW);
        assert_eq!(closed.len(), 1);
        assert_eq!((closed[0].longest_ms(), closed[0].behind().count()), (Some(40), 0));
        assert!(closures.is_empty());
    }

    #[test]
    fn who_is_silent_is_named_when_the_bound_is_over_and_not_before() {
        let mut closures = Closures::default();
        closures.open(7, 1_000, names(&["a", "b", "c"]));
        closures.heard("b", 7, at(1_500));
        let bound = 1_000 + WINDOW + BOUND_BESIDE_WINDOW_MS;
        assert_eq!(closures.next_deadline_ms(WINDOW), Some(bound));
        assert_eq!(closures.close(bound - 1, WINDOW), []);
        let closed = closures.close(bound, WINDOW);
        assert_eq!(closed[0].behind().collect::<Vec<_>>(), ["a", "c"]);
        assert_eq!(closed[0].longest_ms(), Some(500));
    }

    #[test]
    fn what_enforcers_say_they_stopped_is_summed_whatever_they_say() {
        let mut closures = Closures::default();
        closures.open(7, 1_000, names(&["liar", "honest"]));
        for (name, refused) in [("liar", u64::MAX), ("honest", 1)] {
            closures.heard(name, 7, Heard { refused, ..at(1_010) });
        }
        assert_eq!(closures.close(1_010, WINDOW)[0].stopped(), u64::MAX);
    }

    #[test]
    fn where_nobody_follows_there_is_nothing_to_wait_for() {
        let mut closures = Closures::default();
        closures.open(7, 1_000, []);
        let closed = closures.close(1_000, WINDOW);
        assert_eq!((closed.len(), closed[0].longest_ms()), (1, None));
    }

    #[test]
    fn withdrawals_without_end_take_no_room_without_end_and_nothing_heard_before_counts_for_what_comes_after() {
        let mut closures = Closures::default();
        for epoch in 1..=MAX_OPEN as u64 {
            closures.open(epoch, epoch, names(&["a"]));
        }
        closures.heard("a", MAX_OPEN as u64, at(500));
        closures.open(MAX_OPEN as u64 + 1, 600, names(&["a", "b"]));
        closures.open(MAX_OPEN as u64 + 2, 700, names(&["a"]));
        assert_eq!(closures.len(), MAX_OPEN);
        let closed = closures.close(800, WINDOW);
        assert_eq!(closed.len(), MAX_OPEN - 1, "but the one that grew");
        closures.heard("a", MAX_OPEN as u64 + 1, at(800));
        assert_eq!(closures.close(800, WINDOW), [], "not yet the last of it");
        closures.heard("a", MAX_OPEN as u64 + 2, at(900));
        closures.heard("b", MAX_OPEN as u64 + 2, at(900));
        let closed = closures.close(900, WINDOW);
        assert_eq!((closed[0].from_epoch, closed[0].to_epoch), (32, 34));
    }
}
