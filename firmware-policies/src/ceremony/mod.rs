//! Ceremonies: how a version comes about when the keys that must sign it are in different places and hands.
//!
//! An author stages and *proposes*: a folder with the base version, the changed roles without signatures, and every
//! target they name. A signer, on a machine of their own, reads that folder against the root they hold, sees what
//! changes, and gives back a file of signatures. Whoever *publishes* merges those files: only then are the snapshot and
//! the timestamp made, because the snapshot's digests cover the signatures. Source: TUF 1.0.34, 4 and 6.

mod body;
mod continues;
mod draft;
mod next;
mod proposal;
mod review;
mod roles;
mod signatures;
pub(crate) mod signing;
mod staged;

pub(crate) use body::{RoleBody, to_json};
pub(crate) use draft::{Draft, draft};
pub(crate) use next::{Base, LAST_HONEST_VERSION, Next};
pub(crate) use proposal::read as read_proposal;
pub use proposal::{Proposed, propose, review};
pub use review::{KeysReview, Review, RoleReview, TargetReview};
pub use roles::RoleSigners;
pub(crate) use roles::build_root;
pub(crate) use signatures::Signatures;
pub use signatures::{FORMAT as SIGNATURES_FORMAT, MAX_SIGNATURE_FILES, SignatureFile, SignedProposal, sign};
pub(crate) use staged::forget;
pub use staged::{RootChange, change_root, delegations, drop_changes, region_add, region_remove, root_roles};

use crate::keys::KeyRole;

/// Which roles a version changes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Scope {
    /// Every role that something is staged for, and the whole's list in any case.
    #[default]
    All,
    /// The whole's own list only; what is staged for regions that sign for themselves waits.
    Global,
    /// The list of one region only.
    Region(String),
}

impl Scope {
    /// Whether what is staged for the role counts.
    pub(crate) fn takes(&self, role: &KeyRole) -> bool {
        match (self, role) {
            (Scope::All, _) => true,
            (Scope::Global, role) => !matches!(role, KeyRole::Region(_)),
            (Scope::Region(own), KeyRole::Region(id)) => own == id,
            (Scope::Region(_), _) => false,
        }
    }
}

/// Whether these bytes are a role of a proposal or a file of signatures. What is read is the same when it is written and
/// read again, and made anew it is what it was.
pub(crate) fn reads(bytes: &[u8]) -> bool {
    let roles = [KeyRole::Root, KeyRole::Targets, KeyRole::Region("eu".into())];
    let mut taken = signatures::SignatureFile::parse(bytes).is_ok();
    for role in roles {
        let Ok((body, signatures)) = RoleBody::parse(&role, bytes) else {
            continue;
        };
        let Ok(canonical) = body.canonical() else { continue };
        if let Ok(written) = body.to_json(signatures) {
            let again = RoleBody::parse(&role, &written)
                .ok()
                .and_then(|(body, _)| body.canonical().ok());
            assert_eq!(again.as_ref(), Some(&canonical), "{}", body.claim());
        }
        if let Ok(plain) = next::plain(&body) {
            let again = next::plain(&plain).ok().and_then(|plain| plain.canonical().ok());
            assert_eq!(again, plain.canonical().ok(), "{}", body.claim());
            taken |= plain.canonical().is_ok_and(|plain| plain == canonical);
        }
    }
    taken
}

#[cfg(test)]
mod tests;
