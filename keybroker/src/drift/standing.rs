//! Which side denies. Pure.

/// What a peer counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// It has reported, and governs as we do.
    Agrees,
    /// It has reported, and does not.
    Differs,
    /// It cannot be reached, or nothing it says can be believed.
    Not,
}

/// Where a broker stands among all brokers of its domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// How many govern alike, this broker counted.
    pub agree: usize,
    /// How many do not.
    pub differ: usize,
    /// Of how many nothing is known now.
    pub unseen: usize,
    /// All of them.
    pub of: usize,
    /// Whether this broker grants nothing.
    pub denies: bool,
}

/// The standing of a broker with these peers. Where nothing differs nothing is denied: that brokers cannot reach each other
/// is no divergence, and what a broker that is cut off may do is said by the timers. Where something differs, only who
/// sees more than half of all agree with it goes on: of two halves neither.
#[must_use]
pub fn standing(peers: impl Iterator<Item = Seen>) -> Standing {
    let (mut agree, mut differ, mut unseen) = (1, 0, 0);
    for peer in peers {
        match peer {
            Seen::Agrees => agree += 1,
            Seen::Differs => differ += 1,
            Seen::Not => unseen += 1,
        }
    }
    let of = agree + differ + unseen;
    Standing {
        agree,
        differ,
        unseen,
        of,
        denies: differ > 0 && agree * 2 <= of,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn who_denies() {
        use Seen::{Agrees as A, Differs as D, Not as N};
        for (name, peers, denies) in [
            ("alone", &[][..], false),
            ("two that agree", &[A], false),
            ("two that differ: no majority", &[D], true),
            ("one of two unseen", &[N], false),
            ("all unseen", &[N, N], false),
            ("one liar among three", &[A, D], false),
            ("the liar itself", &[D, D], true),
            ("one differs, the third is unseen: no majority is seen", &[N, D], true),
            ("two against two", &[A, D, D], true),
            ("three against one", &[A, A, D], false),
            ("two of five, two unseen", &[A, D, N, N], true),
            ("three of five, one unseen", &[A, A, D, N], false),
        ] {
            assert_eq!(standing(peers.iter().copied()).denies, denies, "{name}");
        }
    }

    proptest! {
        /// Whatever the liars say to each: honest brokers that agree, see each other and are more than half go on; and
        /// two honest brokers that differ never both go on.
        #[test]
        fn liars_change_nothing(honest in 1usize..8, liars in 0usize..8, said: u64) {
            let lies = (0..liars).map(|n| match said >> (2 * n) & 3 { 0 => Seen::Agrees, 1 => Seen::Not, _ => Seen::Differs });
            let one = standing((1..honest).map(|_| Seen::Agrees).chain(lies));
            if honest > liars {
                prop_assert!(!one.denies);
            }
        }

        #[test]
        fn two_sides_never_both_go_on(left in 1usize..8, right in 1usize..8, unseen in 0usize..4) {
            let side = |own: usize, other: usize| {
                let peers = (1..own).map(|_| Seen::Agrees).chain((0..other).map(|_| Seen::Differs));
                standing(peers.chain((0..unseen).map(|_| Seen::Not)))
            };
            prop_assert!(side(left, right).denies || side(right, left).denies);
        }
    }
}
