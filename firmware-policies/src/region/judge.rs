//! Whose demands judge a machine: those of the region that its node is in.
//!
//! Which node it is comes out of the appraisal, so that the region is known after it. Where the region says nothing of its
//! own, one appraisal is all there is. Where it does, the one that counts is made under its view; the whole's says who the
//! machine is and whether what it showed is authentic, so that a region which takes out the anchor of a machine denies it,
//! and does not take it for a stranger.

use touchstone_verifier::appraisal::Appraisal;
use touchstone_verifier::inventory::{Inventory, Lookup};

use super::Demands;
use crate::load::PolicySet;

/// Appraises under the demands of the node's region, which `inventory` tells: the policy's own, or one with a machine that
/// enrols on first use. `stored` is the region in which the node enrolled, where that is
/// known: a guess that saves an appraisal, and has no influence on the verdict.
pub fn appraise_in_region(
    policy: &PolicySet,
    inventory: &Inventory,
    stored: Option<&str>,
    appraise: impl Fn(Demands<'_>) -> Appraisal,
) -> Appraisal {
    let own_view = |appraisal: &Appraisal| {
        let name = appraisal.node.as_deref()?;
        match inventory.by_name(name) {
            Lookup::Node(node) if policy.views.contains_key(&node.region) => Some(node.region.as_str()),
            _ => None,
        }
    };
    let under = |region: Option<&str>| appraise(region.map_or_else(|| policy.whole(), |region| policy.demands(region)));
    let guess = stored.filter(|region| policy.views.contains_key(*region));
    let guessed = under(guess);
    if own_view(&guessed) == guess && (guess.is_none() || guessed.authentic) {
        return guessed;
    }
    let (whole, guessed) = match guess {
        None => (guessed, None),
        Some(_) => (under(None), Some(guessed)),
    };
    let Some(region) = own_view(&whole) else {
        return whole;
    };
    let own = guessed
        .filter(|_| guess == Some(region))
        .unwrap_or_else(|| under(Some(region)));
    as_the_node_of(own, whole)
}

/// A region's verdict on the node that the whole recognises.
fn as_the_node_of(mut own: Appraisal, whole: Appraisal) -> Appraisal {
    if own.node != whole.node {
        own.enrol = None;
        own.ima = None;
    }
    if whole.authentic {
        own.authentic = true;
        own.authentic_roots = whole.authentic_roots;
    }
    own.node = whole.node;
    own.cvm = own.cvm.or(whole.cvm);
    own
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use touchstone_evidence::collection::Collection;
    use touchstone_verifier::appraisal::{Freshness, ImaKnown, Inputs, Known, Tier, appraise};

    use super::*;
    use crate::testing::{NOW, TestRepo, boot_evidence};

    /// How often it was appraised, and what came of it; `authentic` as in a session.
    fn judged(policy: &PolicySet, stored: Option<&str>, authentic: bool) -> (u32, Appraisal) {
        let collection = Collection::decode(&boot_evidence("good")).unwrap();
        let count = Cell::new(0);
        let appraisal = appraise_in_region(policy, &policy.inventory, stored, |demands| {
            count.set(count.get() + 1);
            let mut appraisal = appraise(&Inputs {
                collection: &collection,
                freshness: Freshness::Unbound { nonce: b"other" },
                policy: demands.appraisal,
                references: demands.references,
                anchors: demands.anchors,
                inventory: &policy.inventory,
                enrolled: None,
                ima: ImaKnown::default(),
                known: Known::default(),
                now: NOW,
            });
            appraisal.authentic = authentic;
            appraisal
        });
        (count.get(), appraisal)
    }

    #[test]
    fn a_second_appraisal_is_made_only_where_a_region_says_something() {
        let test = TestRepo::published();
        let policy = test.load(NOW).unwrap();
        for stored in [None, Some("north"), Some("south")] {
            assert_eq!(judged(&policy, stored, true).0, 1, "{stored:?}");
        }
        assert!(std::ptr::eq(
            policy.demands("north").references,
            policy.whole().references
        ));
        let file = test.staged("regions/north/settings.toml");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "[roots]\nrequired = \"tpm+tee\"\n").unwrap();
        test.publish(NOW).unwrap();
        let policy = test.load(NOW).unwrap();
        let missing = |appraisal: &Appraisal| appraisal.reasons.iter().any(|r| r.code.as_str() == "root-missing");
        for (stored, authentic, times) in [
            (None, true, 2),
            (Some("north"), true, 1),
            // Only the whole says whether it is a stranger.
            (Some("north"), false, 2),
            (Some("south"), true, 2),
        ] {
            let (count, appraisal) = judged(&policy, stored, authentic);
            assert_eq!(count, times, "{stored:?} {authentic}");
            assert!(
                missing(&appraisal),
                "the region's demand, whatever was guessed: {stored:?}"
            );
            assert_eq!(appraisal.node.as_deref(), Some("web-1"));
            assert_ne!(appraisal.status, Tier::Affirming);
        }
    }
}
