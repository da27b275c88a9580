//! Challenges a guard has given and not yet seen answered. Pure: time and randomness are arguments.

use std::collections::BTreeMap;

/// Length of a challenge in bytes.
pub const CHALLENGE_BYTES: usize = 32;
/// How long a challenge may be answered.
pub const CHALLENGE_LIFE_MS: u64 = 60_000;
/// How many may be open at once; one more is not given.
pub const MAX_OPEN_CHALLENGES: usize = 4096;

/// The open challenges and when each was given.
#[derive(Debug, Default)]
pub struct Challenges {
    open: BTreeMap<[u8; CHALLENGE_BYTES], u64>,
}

impl Challenges {
    /// Remembers a challenge; false when too many are open.
    pub fn give(&mut self, challenge: [u8; CHALLENGE_BYTES], now_ms: u64) -> bool {
        if self.open.len() >= MAX_OPEN_CHALLENGES {
            self.open
                .retain(|_, given| now_ms.saturating_sub(*given) < CHALLENGE_LIFE_MS);
        }
        let room = self.open.len() < MAX_OPEN_CHALLENGES;
        if room {
            self.open.insert(challenge, now_ms);
        }
        room
    }

    /// Takes a challenge out of use; true when it was open and young enough.
    pub fn take(&mut self, challenge: &[u8], now_ms: u64) -> bool {
        <&[u8; CHALLENGE_BYTES]>::try_from(challenge)
            .ok()
            .and_then(|challenge| self.open.remove(challenge))
            .is_some_and(|given| now_ms.saturating_sub(given) < CHALLENGE_LIFE_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_challenge_works_once_and_not_for_ever() {
        let mut challenges = Challenges::default();
        assert!(challenges.give([1; 32], 0));
        assert!(!challenges.take(&[2; 32], 1), "never given");
        assert!(!challenges.take(&[1; 31], 1), "another length");
        assert!(challenges.take(&[1; 32], 1));
        assert!(!challenges.take(&[1; 32], 1), "used before");
        assert!(challenges.give([3; 32], 0));
        assert!(!challenges.take(&[3; 32], CHALLENGE_LIFE_MS), "too old");
    }

    #[test]
    fn a_flood_is_bounded_and_passes() {
        let mut challenges = Challenges::default();
        for n in 0..MAX_OPEN_CHALLENGES {
            let mut challenge = [0; 32];
            challenge[..8].copy_from_slice(&n.to_be_bytes());
            assert!(challenges.give(challenge, 0));
        }
        assert!(!challenges.give([0xff; 32], 1), "full");
        assert!(challenges.give([0xff; 32], CHALLENGE_LIFE_MS), "old ones make room");
    }
}
