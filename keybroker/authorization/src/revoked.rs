//! Ids of off-line delegations that were taken back one by one: a short list beside the status lists.
//!
//! An off-line delegation has no status entry of its own. It falls with its ancestors, and alone by its 16-byte id in this
//! list, which a domain keeps until the last delegation of that id has ended. The head of a trust state holds count and
//! digest, the body the ids, one after another in rising order. Source: `docs/protocol.md`, sections 6 and 7.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

/// The most ids in the list. A domain that has more to take back takes back their ancestors.
pub const MAX_REVOKED_IDS: usize = 1_024;

/// Bytes of an id.
pub const ID_BYTES: usize = 16;

/// Why ids do not make a list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RevokedError {
    /// More than [`MAX_REVOKED_IDS`].
    #[error("more than {MAX_REVOKED_IDS} revoked ids")]
    TooMany,
    /// Not a whole number of ids.
    #[error("{found} bytes are no whole number of ids of {ID_BYTES} bytes")]
    Length {
        /// Bytes found.
        found: usize,
    },
    /// Not in rising order, or one twice.
    #[error("revoked ids must rise")]
    Order,
}

/// What a head says about the list: how many ids, and SHA-256 over them, one after another in rising order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RevokedHead {
    /// How many, 1 to [`MAX_REVOKED_IDS`].
    pub count: u16,
    /// SHA-256 over the ids.
    pub digest: [u8; 32],
}

/// Revoked ids in rising order. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RevokedIds(Option<Arc<[[u8; ID_BYTES]]>>);

static NONE: RevokedIds = RevokedIds(None);

impl RevokedIds {
    /// The list of these ids, in whatever order, each counted once.
    ///
    /// # Errors
    /// [`RevokedError::TooMany`]
    pub fn new(ids: impl IntoIterator<Item = [u8; ID_BYTES]>) -> Result<Self, RevokedError> {
        let mut sorted = std::collections::BTreeSet::new();
        for id in ids {
            sorted.insert(id);
            if sorted.len() > MAX_REVOKED_IDS {
                return Err(RevokedError::TooMany);
            }
        }
        Ok(Self((!sorted.is_empty()).then(|| sorted.into_iter().collect())))
    }

    /// No id at all.
    #[must_use]
    pub fn none() -> &'static Self {
        &NONE
    }

    /// The ids out of their bytes, one after another in rising order.
    ///
    /// # Errors
    /// [`RevokedError`]
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RevokedError> {
        let (ids, rest) = bytes.as_chunks::<ID_BYTES>();
        if !rest.is_empty() {
            return Err(RevokedError::Length { found: bytes.len() });
        }
        if ids.len() > MAX_REVOKED_IDS {
            return Err(RevokedError::TooMany);
        }
        if !ids.is_sorted_by(|one, next| one < next) {
            return Err(RevokedError::Order);
        }
        Ok(Self((!ids.is_empty()).then(|| ids.into())))
    }

    /// The bytes of [`RevokedIds::from_bytes`].
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.ids().as_flattened().to_vec()
    }

    /// Whether this id is revoked.
    #[must_use]
    pub fn contains(&self, id: &[u8; ID_BYTES]) -> bool {
        self.ids().binary_search(id).is_ok()
    }

    /// Every id, in rising order.
    #[must_use]
    pub fn ids(&self) -> &[[u8; ID_BYTES]] {
        self.0.as_deref().unwrap_or_default()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids().len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// What a head says about them; nothing where there is none.
    #[must_use]
    pub fn head(&self) -> Option<RevokedHead> {
        let count = u16::try_from(self.len()).ok().filter(|count| *count > 0)?;
        Some(RevokedHead {
            count,
            digest: Sha256::digest(self.ids().as_flattened()).into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u16) -> [u8; ID_BYTES] {
        let mut id = [0; ID_BYTES];
        id[..2].copy_from_slice(&n.to_be_bytes());
        id
    }

    #[test]
    fn ids_read_and_write_back_in_order() {
        let ids = RevokedIds::new([id(3), id(1), id(2), id(1)]).unwrap();
        assert_eq!(ids.len(), 3);
        assert_eq!(ids.to_bytes(), [id(1), id(2), id(3)].concat());
        assert_eq!(RevokedIds::from_bytes(&ids.to_bytes()), Ok(ids.clone()));
        assert!(ids.contains(&id(2)) && !ids.contains(&id(4)));
        let head = ids.head().unwrap();
        assert_eq!(head.count, 3);
        assert_eq!(head.digest, <[u8; 32]>::from(Sha256::digest(ids.to_bytes())));
        assert_eq!(RevokedIds::new([]).unwrap(), *RevokedIds::none());
        assert_eq!(RevokedIds::from_bytes(&[]), Ok(RevokedIds::default()));
        assert_eq!(RevokedIds::none().head(), None);
    }

    #[test]
    fn bytes_that_are_no_list() {
        let many: Vec<u8> = (0..=MAX_REVOKED_IDS as u16).flat_map(id).collect();
        for (attack, bytes, expected) in [
            ("a piece of an id", vec![0; 15], RevokedError::Length { found: 15 }),
            ("an id and a bit", vec![0; 17], RevokedError::Length { found: 17 }),
            ("an id twice", [id(1), id(1)].concat(), RevokedError::Order),
            ("out of order", [id(2), id(1)].concat(), RevokedError::Order),
            ("one too many", many.clone(), RevokedError::TooMany),
        ] {
            assert_eq!(RevokedIds::from_bytes(&bytes), Err(expected), "{attack}");
        }
        assert!(
            RevokedIds::from_bytes(&many[ID_BYTES..]).is_ok(),
            "as many as there may be"
        );
        let many = (0..=MAX_REVOKED_IDS as u16).map(id);
        assert_eq!(RevokedIds::new(many), Err(RevokedError::TooMany));
    }
}
