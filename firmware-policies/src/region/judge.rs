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
            Lookup::Node(node) => {
                let view = policy.views.get(&node.region)?;
                // Whether its region signed its entry matters where the region has references of its own.
                let own = view.with_own.is_some() && node.authority == node.region;
                Some((node.region.as_str(), own))
            }
            _ => None,
        }
    };
    let under = |view: Option<(&str, bool)>| {
        appraise(view.map_or_else(|| policy.whole(), |(region, own)| policy.demands_in(region, own)))
    };
    let guess = stored.and_then(|region| Some((region, policy.views.get(region)?.with_own.is_some())));
    let guessed = under(guess);
    if own_view(&guessed) == guess && (guess.is_none() || guessed.authentic) {
        return guessed;
    }
    let (whole, guessed) = match guess {
        None => (guessed, None),
        Some(_) => (under(None), Some(guessed)),
    };
    let Some(view) = own_view(&whole) else {
        return whole;
    };
    let own = guessed
        .filter(|_| guess == Some(view))
        .unwrap_or_else(|| under(Some(view)));
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
    use std::sync::Arc;

    use touchstone_evidence::collection::Collection;
    use touchstone_verifier::appraisal::{Freshness, ImaKnown, Inputs, Known, Tier, appraise};

    use touchstone_verifier::inventory::Node;

    use super::super::View;
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

    #[test]
    fn a_regions_own_references_count_for_nodes_that_it_signed() {
        let test = TestRepo::published();
        let mut policy = test.load(NOW).unwrap();
        let own = Arc::new(policy.references.narrowed(|_| true, Vec::new()));
        assert_ne!(own.digest(), policy.references.digest());
        let view = View {
            timers: policy.settings.timers.clone(),
            appraisal: policy.settings.appraisal.clone(),
            containment: None,
            delegation: policy.settings.delegation,
            scopes: policy.settings.scopes.clone(),
            references: Arc::clone(&policy.references),
            with_own: Some(Arc::clone(&own)),
            anchors: Arc::clone(&policy.anchors),
        };
        policy.views.insert("north".into(), Arc::new(view));
        let Lookup::Node(by_whole) = policy.inventory.by_name("web-1") else {
            panic!("web-1 is listed");
        };
        assert_eq!(
            (by_whole.authority.as_str(), by_whole.region.as_str()),
            ("targets", "north")
        );
        let by_region = Node {
            authority: "north".into(),
            ..by_whole.clone()
        };
        let collection = Collection::decode(&boot_evidence("good")).unwrap();
        for (row, node, expected) in [
            ("the whole's machine", by_whole.clone(), policy.references.digest()),
            ("the region's machine", by_region, own.digest()),
        ] {
            assert_eq!(policy.demands_for(&node).references.digest(), expected, "{row}");
            let inventory = Inventory::new(vec![node]);
            for stored in [None, Some("north"), Some("south")] {
                let judged = appraise_in_region(&policy, &inventory, stored, |demands| {
                    let mut appraisal = appraise(&Inputs {
                        collection: &collection,
                        freshness: Freshness::Unbound { nonce: b"other" },
                        policy: demands.appraisal,
                        references: demands.references,
                        anchors: demands.anchors,
                        inventory: &inventory,
                        enrolled: None,
                        ima: ImaKnown::default(),
                        known: Known::default(),
                        now: NOW,
                    });
                    appraisal.authentic = true;
                    appraisal.reference = Some(hex::encode(demands.references.digest()));
                    appraisal
                });
                assert_eq!(judged.reference, Some(hex::encode(expected)), "{row}: {stored:?}");
            }
        }
        let digest = policy.demands_of("web-1").references.digest();
        assert_eq!(digest, policy.references.digest(), "by its name");
        assert_eq!(policy.demands("north").references.digest(), policy.references.digest());
    }
}
