//! Signatures on certificates that were verified before, so that one chain is not verified at every attestation.
//!
//! That a key signed these very bytes is true for ever, so it is remembered, and nothing else is: dates, constraints,
//! names, revocation lists and rules are judged anew each time. What is remembered names the whole certificate and the
//! whole certificate of its issuer; a byte changed in either is another question. Only chains that ended at an anchor of
//! the domain add to it, so nobody fills it with certificates of their own making.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};

use super::certificate::Certificate;
use crate::tpm::HashAlg;

/// The most signatures that are remembered; one more, and all are forgotten.
pub const MAX_REMEMBERED: usize = 65_536;

/// One signature: SHA-256 over both certificates.
pub(super) type Fact = [u8; 32];

/// Signatures that were verified. Copies of it share what they know.
#[derive(Debug, Clone, Default)]
pub(super) struct Remembered(Arc<RwLock<HashSet<Fact>>>);

/// The question whether `issuer` signed `child`.
pub(super) fn fact(child: &Certificate, issuer: &Certificate) -> Option<Fact> {
    let (child, issuer) = (child.as_der(), issuer.as_der());
    // The first length keeps two pairs of certificates with the same bytes in a row apart.
    let length = u64::try_from(issuer.len()).ok()?.to_be_bytes();
    HashAlg::Sha256
        .digest([length.as_slice(), issuer, child])
        .as_ref()
        .try_into()
        .ok()
}

impl Remembered {
    /// Whether it was answered with yes before.
    pub(super) fn holds(&self, fact: &Fact) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(fact)
    }

    /// Remembers answers that were yes.
    pub(super) fn add(&self, facts: Vec<Fact>) {
        if facts.is_empty() {
            return;
        }
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if known.len().saturating_add(facts.len()) > MAX_REMEMBERED {
            known.clear();
        }
        known.extend(facts);
    }

    /// How many are remembered.
    pub(super) fn len(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_copies_share_it() {
        let known = Remembered::default();
        let copy = known.clone();
        let number = |n: usize| {
            let mut fact = [0; 32];
            fact[..8].copy_from_slice(&n.to_be_bytes());
            fact
        };
        known.add((0..MAX_REMEMBERED).map(number).collect());
        assert_eq!(copy.len(), MAX_REMEMBERED);
        assert!(copy.holds(&number(7)) && !copy.holds(&number(MAX_REMEMBERED)));
        copy.add(vec![number(MAX_REMEMBERED)]);
        assert_eq!(known.len(), 1, "all are forgotten for one too many");
        assert!(known.holds(&number(MAX_REMEMBERED)) && !known.holds(&number(7)));
    }
}
