//! A guard that answers whoever can reach it: nobody shuts the others out.
#![allow(clippy::unwrap_used, reason = "tests")]

use crate::common;

use common::{World, authorization_at, child, delegated_from, holder, proof};
use touchstone_authorization::{Channel, RefusalCode};
use touchstone_cose::key::SigningKey;
use touchstone_enforcer::guard::MAX_ADMITTED_OF_ENTRY;

/// The codes of a decision on this chain; none where it is let in.
fn decide(world: &World, chain: &[u8], key: &SigningKey) -> Vec<RefusalCode> {
    let challenge = world.guard.challenge().unwrap();
    let wanted = common::Wanted {
        scope: "execute:tool-search",
        request: None,
        channel: Channel::Challenge(challenge.to_vec()),
    };
    let proof = proof(chain, &wanted).encode_signed(key).unwrap();
    let decided = world.guard.decide(chain, &proof, "execute", "tool-search", &challenge);
    decided.err().map_or_else(Vec::new, |refusals| {
        refusals.iter().map(|refusal| refusal.code).collect()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_of_off_line_rights_takes_its_own_share_of_a_guard_and_no_more() {
    let world = World::new().await;
    let (greedy, other) = (authorization_at(7, 600), authorization_at(8, 600));
    let chains: Vec<Vec<u8>> = (100..=100 + MAX_ADMITTED_OF_ENTRY)
        .map(|n| delegated_from(&greedy, [u8::try_from(n).unwrap(); 16]))
        .collect();
    let (one_more, its_share) = chains.split_last().unwrap();
    for chain in its_share {
        assert_eq!(decide(&world, chain, &child()), []);
    }
    for (name, chain, key, expected) in [
        ("one more", one_more, child(), &[RefusalCode::EnforcerFull][..]),
        (
            "the authorization itself",
            &greedy,
            holder(),
            &[RefusalCode::EnforcerFull],
        ),
        ("one that is in", &its_share[3], child(), &[]),
        ("another holder", &other, holder(), &[]),
        (
            "one below another holder",
            &delegated_from(&other, [100; 16]),
            child(),
            &[],
        ),
    ] {
        assert_eq!(decide(&world, chain, &key), expected, "{name}");
    }
}
