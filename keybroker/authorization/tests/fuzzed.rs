//! The functions that the fuzzer runs (`fuzz/`), on their seeds and on damaged ones: what `setup/fuzz.sh` begins with.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

#[path = "../../../fuzz/src/delegation.rs"]
mod delegation;

use proptest::prelude::*;

type Target = (&'static str, fn(&[u8]) -> bool, &'static [&'static str]);

const TARGETS: [Target; 3] = [
    (
        "claims",
        delegation::claims,
        &[include_str!("../../../fuzz/seeds/authorization-claims.hex")],
    ),
    (
        "chain",
        delegation::chain,
        &[include_str!("../../../fuzz/seeds/chain-block.hex")],
    ),
    (
        "reports",
        delegation::reports,
        &[
            include_str!("../../../fuzz/seeds/reports-ack.hex"),
            include_str!("../../../fuzz/seeds/reports-use.hex"),
            include_str!("../../../fuzz/seeds/reports-command.hex"),
        ],
    ),
];

fn bytes(seed: &str) -> Vec<u8> {
    hex::decode(seed.split_whitespace().collect::<String>()).unwrap()
}

#[test]
fn every_seed_is_taken_and_no_beginning_of_one() {
    for (name, target, seeds) in TARGETS {
        for (number, seed) in seeds.iter().enumerate() {
            let seed = bytes(seed);
            assert!(target(&seed), "{name}, seed {number}");
            for length in 0..seed.len() {
                assert!(!target(&seed[..length]), "{name}, seed {number} cut to {length}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever is changed: taken or not, it holds together, and nothing panics.
    #[test]
    fn damaged_seeds_hold_together(
        target in 0..TARGETS.len(),
        seed in any::<prop::sample::Index>(),
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let (_, run, seeds) = TARGETS[target];
        let mut seed = bytes(seeds[seed.index(seeds.len())]);
        for (at, value) in edits {
            let at = at.index(seed.len());
            seed[at] = value;
        }
        run(&seed);
    }
}
