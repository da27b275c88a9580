//! A session signing key in memory, for confidential VMs: their memory is encrypted, and the binder ties the key to their
//! report. Wiped when dropped; it is never written anywhere.

use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};
use touchstone_cose::key::{Algorithm, SignError, Signer, VerifyingKey};
use zeroize::Zeroizing;

/// How many times random bytes are drawn that are no key: each is one with a chance of 2^-32.
const DRAWS: usize = 8;

/// A P-256 key that signs.
pub struct MemoryKey {
    key: SigningKey,
    public: VerifyingKey,
}

impl MemoryKey {
    /// A new key; none where the machine gives no randomness.
    #[must_use]
    pub fn generate() -> Option<Self> {
        for _ in 0..DRAWS {
            let mut scalar = Zeroizing::new([0u8; 32]);
            getrandom::fill(scalar.as_mut_slice()).ok()?;
            if let Ok(key) = SigningKey::from_slice(scalar.as_slice()) {
                let point = key.verifying_key().to_sec1_point(false);
                let coordinate = |bytes: Option<&[u8]>| bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
                let (_, point) = point.as_bytes().split_first()?;
                let (x, y) = point.split_at_checked(32)?;
                let public = VerifyingKey::p256(coordinate(Some(x))?, coordinate(Some(y))?).ok()?;
                return Some(Self { key, public });
            }
        }
        None
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> &VerifyingKey {
        &self.public
    }
}

impl std::fmt::Debug for MemoryKey {
    /// Shows the public half only.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryKey")
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

impl Signer for MemoryKey {
    fn algorithm(&self) -> Algorithm {
        Algorithm::Esp256
    }

    fn kid(&self) -> [u8; 8] {
        self.public.kid()
    }

    fn sign(&self, to_be_signed: &[u8]) -> Result<Vec<u8>, SignError> {
        let signature: Signature = self.key.sign(to_be_signed);
        Ok(signature.to_bytes().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_signs_as_its_public_half_says_and_shows_nothing_else() {
        let (key, other) = (MemoryKey::generate().unwrap(), MemoryKey::generate().unwrap());
        assert_ne!(key.public(), other.public());
        let signature = key.sign(b"message").unwrap();
        key.public().verify(b"message", &signature).unwrap();
        assert!(other.public().verify(b"message", &signature).is_err());
        let scalar = hex::encode(key.key.to_bytes());
        assert!(!format!("{key:?}").contains(&scalar));
    }
}
