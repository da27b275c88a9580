//! The memory of proofs that an endpoint without a channel of its own must keep.
//!
//! A proof that is bound to neither a challenge nor a TLS connection can be sent twice. Such a proof counts for
//! [`MAX_PROOF_AGE_MS`] on either side of its `iat` only, and for that long its (key, cti) is remembered. The memory is
//! an argument and a result of the decision: the crate holds no state. It never forgets early to make room: full
//! means deny. Source: `docs/protocol.md`, section 6.

use std::collections::{BTreeSet, VecDeque};

/// How far `iat` of a proof without a channel may lie from now, in milliseconds.
pub const MAX_PROOF_AGE_MS: u64 = 5_000;

/// How long a proof is remembered, in milliseconds: `iat` may lie [`MAX_PROOF_AGE_MS`] ahead, counts as long after it,
/// and is given in whole seconds.
pub const REMEMBER_MS: u64 = 2 * MAX_PROOF_AGE_MS + 1_000;

/// The largest capacity of a [`ReplayMemory`] (some 10 MB).
pub const MAX_CAPACITY: usize = 65_536;

/// RFC 9679 thumbprint of the key that signed, and `cti` of the proof.
type Entry = ([u8; 32], [u8; 16]);

/// Proofs seen lately.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayMemory {
    capacity: usize,
    /// In order of arrival, with the instant until which each is kept.
    order: VecDeque<(u64, Entry)>,
    seen: BTreeSet<Entry>,
}

/// What [`ReplayMemory::judge`] finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Seen {
    /// Never, and there is room to remember it.
    New,
    /// This (key, cti) was used within [`REMEMBER_MS`].
    Before,
    /// Never, but there is no room to remember it: to be refused.
    Full,
}

impl ReplayMemory {
    /// An empty memory for `capacity` proofs, at most [`MAX_CAPACITY`]. With a capacity of 0 every such proof is
    /// refused.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.min(MAX_CAPACITY),
            order: VecDeque::new(),
            seen: BTreeSet::new(),
        }
    }

    /// How many proofs are remembered.
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// Forgets what can no longer be replayed at `now_ms`. A clock that goes back forgets nothing.
    #[must_use]
    pub fn forget(mut self, now_ms: u64) -> Self {
        while let Some((until, entry)) = self.order.front() {
            if *until > now_ms {
                break;
            }
            self.seen.remove(entry);
            self.order.pop_front();
        }
        self
    }

    /// Whether the proof `cti` by the key with this thumbprint is new.
    pub fn judge(&self, key: &[u8; 32], cti: &[u8; 16]) -> Seen {
        if self.seen.contains(&(*key, *cti)) {
            Seen::Before
        } else if self.seen.len() >= self.capacity {
            Seen::Full
        } else {
            Seen::New
        }
    }

    /// Remembers a proof that was accepted at `now_ms`. Nothing changes if it is not [`Seen::New`].
    #[must_use]
    pub fn remember(mut self, key: &[u8; 32], cti: &[u8; 16], now_ms: u64) -> Self {
        if self.judge(key, cti) == Seen::New {
            self.seen.insert((*key, *cti));
            self.order.push_back((now_ms.saturating_add(REMEMBER_MS), (*key, *cti)));
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [1; 32];

    #[test]
    fn remembers_for_its_window_and_no_longer() {
        let memory = ReplayMemory::new(4).remember(&KEY, &[7; 16], 1_000);
        assert_eq!(memory.judge(&KEY, &[7; 16]), Seen::Before);
        assert_eq!(
            memory.judge(&[2; 32], &[7; 16]),
            Seen::New,
            "another key's cti is its own"
        );
        let memory = memory.forget(1_000 + REMEMBER_MS - 1);
        assert_eq!(memory.judge(&KEY, &[7; 16]), Seen::Before);
        let memory = memory.forget(1_000 + REMEMBER_MS);
        assert!(memory.is_empty());
    }

    #[test]
    fn full_denies_and_forgets_nobody_early() {
        let memory = ReplayMemory::new(2)
            .remember(&KEY, &[1; 16], 0)
            .remember(&KEY, &[2; 16], 0);
        assert_eq!(memory.judge(&KEY, &[3; 16]), Seen::Full);
        let memory = memory.remember(&KEY, &[3; 16], 0);
        assert_eq!(memory.len(), 2);
        assert_eq!(memory.judge(&KEY, &[1; 16]), Seen::Before);
        assert_eq!(ReplayMemory::new(0).judge(&KEY, &[1; 16]), Seen::Full);
        assert_eq!(ReplayMemory::new(usize::MAX).capacity, MAX_CAPACITY);
    }

    #[test]
    fn a_clock_that_goes_back_forgets_nothing() {
        let memory = ReplayMemory::new(2).remember(&KEY, &[1; 16], 50_000).forget(10);
        assert_eq!(memory.judge(&KEY, &[1; 16]), Seen::Before);
    }
}
