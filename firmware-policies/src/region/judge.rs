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
