//! Whose acknowledgements count: enforcers that signed policy lists.

use std::sync::{Arc, Mutex, PoisonError};

use touchstone_authorization::ack::Ack;
use touchstone_authorization::keys::NamedKeys;
use touchstone_authorization::signed::SignedKind;
use touchstone_policies::PolicySet;

use crate::problem::{ReasonLine, Refusal, RefusalCode};

/// The keys of listed enforcers, put together once for each policy.
#[derive(Debug, Default)]
pub(crate) struct Listed(Mutex<Option<([u8; 32], Arc<NamedKeys>)>>);

impl Listed {
    /// The acknowledgement, where an enforcer that `policy` lists has signed it for this domain.
    ///
    /// # Errors
    /// [`RefusalCode::AckNotAccepted`], with what was found.
    pub fn verify(&self, bytes: &[u8], policy: &PolicySet) -> Result<Ack, Refusal> {
        Ack::verify(bytes, &self.keys(policy), &policy.domain).map_err(|error| {
            let refusal = error.refusal(SignedKind::Ack);
            let expected = "an enforcer's of signed policy".into();
            not_accepted(refusal.code.as_str(), expected, error.to_string())
        })
    }

    fn keys(&self, policy: &PolicySet) -> Arc<NamedKeys> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, keys)) = held.as_ref().filter(|(digest, _)| *digest == policy.digest) {
            return Arc::clone(keys);
        }
        let listed = policy.enforcers.iter();
        let keys = NamedKeys::new(listed.map(|(name, enforcer)| (name.to_owned(), enforcer.key.clone())));
        // A policy in which two share a key does not load; nobody counts where it did.
        let keys = Arc::new(keys.unwrap_or_default());
        *held = Some((policy.digest, Arc::clone(&keys)));
        keys
    }
}

/// Nothing is taken from an acknowledgement, for this reason.
pub(super) fn not_accepted(code: &str, expected: String, found: String) -> Refusal {
    let reason = ReasonLine {
        code: code.to_owned(),
        claim: "acknowledgement".into(),
        expected,
        found,
    };
    Refusal::new(RefusalCode::AckNotAccepted, "nothing is taken from it").with_reasons(vec![reason])
}
