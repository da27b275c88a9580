//! The keys of one job (authorizations, or trust states), as the domain's signed keyset gives them; and the keys of those
//! whom signed policy names (enforcers, operators).

use std::collections::BTreeMap;

use touchstone_cose::key::{KID_LEN, VerifyingKey};

/// The most keys of one job.
pub const MAX_KEYS: usize = 64;

/// One key of the keyset and when it counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedKey {
    /// The public key.
    pub key: VerifyingKey,
    /// First Unix second at which it counts.
    pub not_before: i64,
    /// Unix second from which on it no longer counts.
    pub not_after: i64,
}

/// Why keys do not make a key ring.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyRingError {
    /// Two keys share a key id, so a signature could not be tied to one of them.
    #[error("two keys have the key id {kid:02x?}")]
    SameKeyId {
        /// The key id.
        kid: [u8; KID_LEN],
    },
    /// More than [`MAX_KEYS`].
    #[error("more than {MAX_KEYS} keys")]
    TooMany,
    /// More than [`MAX_NAMED_KEYS`].
    #[error("more than {MAX_NAMED_KEYS} keys")]
    TooManyNamed,
}

/// Keys of one job by key id (the first eight bytes of the RFC 9679 thumbprint).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyRing {
    keys: BTreeMap<[u8; KID_LEN], TrustedKey>,
}

impl KeyRing {
    /// The ring of these keys. An empty ring verifies nothing.
    pub fn new(keys: impl IntoIterator<Item = TrustedKey>) -> Result<Self, KeyRingError> {
        let mut ring = BTreeMap::new();
        for trusted in keys {
            let kid = trusted.key.kid();
            if ring.insert(kid, trusted).is_some() {
                return Err(KeyRingError::SameKeyId { kid });
            }
            if ring.len() > MAX_KEYS {
                return Err(KeyRingError::TooMany);
            }
        }
        Ok(Self { keys: ring })
    }

    /// The key with this id, if it counts at `now_ms` (Unix milliseconds).
    pub fn find(&self, kid: &[u8; KID_LEN], now_ms: u64) -> Option<&VerifyingKey> {
        let trusted = self.keys.get(kid)?;
        let now = i64::try_from(now_ms / 1_000).ok()?;
        (trusted.not_before <= now && now < trusted.not_after).then_some(&trusted.key)
    }
}

/// The most keys of those whom policy names.
pub const MAX_NAMED_KEYS: usize = 65_536;

/// The keys of enforcers, or of operators, with whose they are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NamedKeys {
    keys: BTreeMap<[u8; KID_LEN], (String, VerifyingKey)>,
}

impl NamedKeys {
    /// These keys, each with the name of its holder. A holder may have several.
    ///
    /// # Errors
    /// Two keys with one id, or more than [`MAX_NAMED_KEYS`].
    pub fn new(keys: impl IntoIterator<Item = (String, VerifyingKey)>) -> Result<Self, KeyRingError> {
        let mut named = BTreeMap::new();
        for (name, key) in keys {
            let kid = key.kid();
            if named.insert(kid, (name, key)).is_some() {
                return Err(KeyRingError::SameKeyId { kid });
            }
            if named.len() > MAX_NAMED_KEYS {
                return Err(KeyRingError::TooManyNamed);
            }
        }
        Ok(Self { keys: named })
    }

    /// The key with this id, and whose it is.
    #[must_use]
    pub fn find(&self, kid: &[u8; KID_LEN]) -> Option<(&str, &VerifyingKey)> {
        self.keys.get(kid).map(|(name, key)| (name.as_str(), key))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use touchstone_cose::key::SigningKey;

    #[test]
    fn a_key_counts_within_its_time_only() {
        let key = SigningKey::from_seed([1; 32]).verifying_key();
        let trusted = TrustedKey {
            key: key.clone(),
            not_before: 10,
            not_after: 20,
        };
        let ring = KeyRing::new([trusted.clone()]).unwrap();
        for (now_ms, counts) in [
            (9_999, false),
            (10_000, true),
            (19_999, true),
            (20_000, false),
            (u64::MAX, false),
        ] {
            assert_eq!(ring.find(&key.kid(), now_ms).is_some(), counts, "{now_ms}");
        }
        assert_eq!(ring.find(&[0; KID_LEN], 15_000), None);
        assert_eq!(
            KeyRing::new([trusted.clone(), trusted]),
            Err(KeyRingError::SameKeyId { kid: key.kid() })
        );
    }

    #[test]
    fn named_keys_tell_whose_they_are() {
        let key = |seed| SigningKey::from_seed([seed; 32]).verifying_key();
        let named = NamedKeys::new([("a".into(), key(1)), ("a".into(), key(2)), ("b".into(), key(3))]).unwrap();
        assert_eq!(named.find(&key(3).kid()), Some(("b", &key(3))));
        assert_eq!(named.find(&key(4).kid()), None);
        assert!(NamedKeys::default().is_empty() && !named.is_empty());
        assert_eq!(
            NamedKeys::new([("a".into(), key(1)), ("b".into(), key(1))]),
            Err(KeyRingError::SameKeyId { kid: key(1).kid() }),
            "one key has one holder"
        );
    }

    #[test]
    fn a_ring_is_bounded() {
        let keys = (0..=MAX_KEYS as u8).map(|seed| TrustedKey {
            key: SigningKey::from_seed([seed; 32]).verifying_key(),
            not_before: 0,
            not_after: i64::MAX,
        });
        assert_eq!(KeyRing::new(keys), Err(KeyRingError::TooMany));
    }
}
