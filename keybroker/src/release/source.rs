//! Where secrets lie: sealed in the broker's own store, or in a PKCS#11 token.

use std::sync::Arc;

use touchstone_cose::cbor::{self, Limits, Value};
use zeroize::Zeroizing;

use super::kek::{self, KEK_ID_LEN, KekError, KeyEncryption};
use super::{MAX_SECRET_BYTES, Secret};
use crate::session::random;

/// Why a source does not keep or give a secret. Nothing of the secret is in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The key-encryption key.
    #[error(transparent)]
    Kek(#[from] KekError),
    /// Empty, or over [`MAX_SECRET_BYTES`].
    #[error("a secret has 1 to {MAX_SECRET_BYTES} bytes, this one has {found}")]
    Length {
        /// Its length.
        found: usize,
    },
    /// What is kept does not open: changed, or moved from another row.
    #[error("what is kept of the secret does not open: it was changed, or it is of another key")]
    Open,
    /// Sealed under another key-encryption key.
    #[error(
        "the secret was sealed under key-encryption key {}, this is {}",
        hex::encode(expected),
        hex::encode(found)
    )]
    OtherKek {
        /// Named by the row.
        expected: [u8; KEK_ID_LEN],
        /// The one in force.
        found: [u8; KEK_ID_LEN],
    },
    /// The token.
    #[error("the token: {0}")]
    Token(String),
    /// No randomness, or the library failed.
    #[error("cannot {0}")]
    Failed(&'static str),
}

/// Keeps secrets. `context` is everything about a key that must not change around its secret
/// ([`super::key::KeyEntry::context`]); what was kept under one context never opens under another.
pub trait KeySource: Send + Sync {
    /// Its name in rows.
    fn name(&self) -> &'static str;

    /// Keeps a secret; gives what the row is to hold of it.
    ///
    /// # Errors
    /// [`SourceError`]
    fn keep(&self, context: &[u8], secret: &[u8]) -> Result<Vec<u8>, SourceError>;

    /// The secret again.
    ///
    /// # Errors
    /// [`SourceError`]
    fn open(&self, context: &[u8], kept: &[u8]) -> Result<Secret, SourceError>;

    /// Forgets what no row holds any more; the store's own rows need nothing done.
    fn forget(&self, kept: &[u8]);
}

/// Refuses what is no secret.
pub(super) fn check_length(secret: &[u8]) -> Result<(), SourceError> {
    match secret.len() {
        1..=MAX_SECRET_BYTES => Ok(()),
        found => Err(SourceError::Length { found }),
    }
}

/// Secrets sealed in the store's rows: each under a data key of its own, and that wrapped by the key-encryption key.
pub struct StoreSource {
    kek: Arc<dyn KeyEncryption>,
}

/// The format of what is kept.
const FORMAT: u64 = 1;
const LIMITS: Limits = Limits {
    max_bytes: super::key::MAX_KEPT_BYTES,
    max_depth: 1,
    max_items: 8,
};

impl StoreSource {
    /// The source under this key-encryption key.
    #[must_use]
    pub fn new(kek: Arc<dyn KeyEncryption>) -> Self {
        Self { kek }
    }
}

impl KeySource for StoreSource {
    fn name(&self) -> &'static str {
        "store"
    }

    fn keep(&self, context: &[u8], secret: &[u8]) -> Result<Vec<u8>, SourceError> {
        check_length(secret)?;
        let data_key = Zeroizing::new(random().map_err(|_| SourceError::Failed("draw random bytes"))?);
        let wrapped = self.kek.wrap(&data_key, context)?;
        let sealed = kek::seal(&data_key, secret, context).map_err(|()| SourceError::Failed("seal the secret"))?;
        Ok(cbor::encode(&Value::array([
            Value::Unsigned(FORMAT),
            Value::bytes(self.kek.id()),
            Value::Bytes(wrapped),
            Value::Bytes(sealed),
        ])))
    }

    fn open(&self, context: &[u8], kept: &[u8]) -> Result<Secret, SourceError> {
        let value = cbor::decode(kept, LIMITS).map_err(|_| SourceError::Open)?;
        let Some(
            [
                Value::Unsigned(FORMAT),
                Value::Bytes(id),
                Value::Bytes(wrapped),
                Value::Bytes(sealed),
            ],
        ) = value.as_array()
        else {
            return Err(SourceError::Open);
        };
        let expected = <[u8; KEK_ID_LEN]>::try_from(id.as_slice()).map_err(|_| SourceError::Open)?;
        let found = self.kek.id();
        if expected != found {
            return Err(SourceError::OtherKek { expected, found });
        }
        let data_key = self.kek.unwrap(wrapped, context)?;
        kek::open(&data_key, sealed, context).ok_or(SourceError::Open)
    }

    fn forget(&self, _: &[u8]) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::kek::MemoryKek;

    fn source(n: u8) -> StoreSource {
        StoreSource::new(Arc::new(MemoryKek::new(Zeroizing::new([n; 32]))))
    }

    #[test]
    fn a_secret_opens_in_its_own_row_only() {
        let kept = source(1).keep(b"row 1", b"the secret").unwrap();
        assert_eq!(*source(1).open(b"row 1", &kept).unwrap(), b"the secret");
        assert!(!kept.windows(10).any(|w| w == b"the secret"));
        assert_eq!(source(1).open(b"row 2", &kept), Err(SourceError::Kek(KekError::Open)));
        assert!(matches!(
            source(2).open(b"row 1", &kept),
            Err(SourceError::OtherKek { .. })
        ));
        for at in 0..kept.len() {
            let mut other = kept.clone();
            other[at] ^= 1;
            assert!(source(1).open(b"row 1", &other).is_err(), "byte {at}");
        }
    }

    #[test]
    fn the_same_secret_never_looks_the_same() {
        assert_ne!(
            source(1).keep(b"row", b"s").unwrap(),
            source(1).keep(b"row", b"s").unwrap()
        );
    }

    #[test]
    fn what_is_no_secret_is_not_kept() {
        assert_eq!(source(1).keep(b"row", b""), Err(SourceError::Length { found: 0 }));
        let found = MAX_SECRET_BYTES + 1;
        assert_eq!(
            source(1).keep(b"row", &vec![0; found]),
            Err(SourceError::Length { found })
        );
        assert!(source(1).keep(b"row", &[0; MAX_SECRET_BYTES]).is_ok());
    }
}
