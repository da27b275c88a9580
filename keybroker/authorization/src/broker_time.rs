//! The broker's time, signed over the asker's nonce: the only clock an enforcer decides with (`docs/protocol.md` 7).

use touchstone_cose::cbor::{self, CborError, Limits, MapReader, ShapeError, Value};
use touchstone_cose::key::{KID_LEN, SignError, Signer};
use touchstone_cose::sign1::{self, CoseError, Protected, Unverified};

use crate::keys::KeyRing;

/// The typ of a signed time.
pub const BROKER_TIME_TYPE: &str = "application/touchstone-time+cwt";
/// The largest signed time.
pub const MAX_BROKER_TIME_BYTES: usize = 512;
/// Length of the asker's nonce.
pub const NONCE_BYTES: usize = 32;

const NONCE: i64 = 10;
const PRIVATE_CLAIMS: i64 = -65537;
const TIME_MS: i64 = 0;
const LIMITS: Limits = Limits {
    max_bytes: MAX_BROKER_TIME_BYTES,
    max_depth: 6,
    max_items: 32,
};

/// What the broker's clock said when it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BrokerTime {
    /// The asker's nonce: an answer cannot be older than the question.
    pub nonce: [u8; NONCE_BYTES],
    /// Unix milliseconds.
    pub time_ms: u64,
}

/// Why bytes are not the broker's time for this nonce.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerTimeError {
    /// Not a signed time, or a wrong signature.
    #[error("the broker's time: {0}")]
    Cose(#[from] CoseError),
    /// Claims that are not CBOR.
    #[error("the broker's time: {0}")]
    Cbor(#[from] CborError),
    /// Other claims.
    #[error("the broker's time: {0}")]
    Shape(#[from] ShapeError),
    /// No trust-state key with this id counts now.
    #[error("no trust-state key with the id {kid:02x?} counts now")]
    KeyUnknown {
        /// The key id in the object.
        kid: [u8; KID_LEN],
    },
    /// An answer to another question.
    #[error("the broker's time answers another nonce: it was replayed")]
    Nonce,
}

impl BrokerTime {
    /// Signs the time with the trust-state key.
    ///
    /// # Errors
    /// The signer's.
    pub fn encode_signed(&self, signer: &dyn Signer) -> Result<Vec<u8>, SignError> {
        let private = Value::map([(TIME_MS, Value::Unsigned(self.time_ms))]);
        let claims = Value::map([(NONCE, Value::bytes(self.nonce)), (PRIVATE_CLAIMS, private)]);
        sign1::sign(signer, &Protected::typ(BROKER_TIME_TYPE), &cbor::encode(&claims), &[])
    }

    /// Reads a signed time that must answer `nonce`, under the trust-state key it names, which must count at `now_ms`.
    ///
    /// # Errors
    /// [`BrokerTimeError`].
    pub fn verify(
        bytes: &[u8],
        keys: &KeyRing,
        nonce: &[u8; NONCE_BYTES],
        now_ms: u64,
    ) -> Result<Self, BrokerTimeError> {
        let object = Unverified::parse(bytes, LIMITS)?;
        let kid = object.kid();
        let key = keys.find(&kid, now_ms).ok_or(BrokerTimeError::KeyUnknown { kid })?;
        let payload = object.verify(key, BROKER_TIME_TYPE, &[])?.into_payload();
        let mut claims = MapReader::new(cbor::decode(&payload, LIMITS)?, "broker time")?;
        let found = claims.fixed(NONCE)?;
        let mut private = claims.map(PRIVATE_CLAIMS, "broker time, private claims")?;
        claims.finish()?;
        let time_ms = private.u64(TIME_MS)?;
        private.finish()?;
        if found == *nonce {
            Ok(Self { nonce: found, time_ms })
        } else {
            Err(BrokerTimeError::Nonce)
        }
    }
}

#[cfg(test)]
mod tests {
    use touchstone_cose::key::SigningKey;

    use super::*;
    use crate::keys::TrustedKey;

    fn ring(key: &SigningKey) -> KeyRing {
        KeyRing::new([TrustedKey {
            key: key.verifying_key(),
            not_before: 0,
            not_after: 100,
        }])
        .expect("one key")
    }

    #[test]
    fn a_time_answers_one_nonce_under_one_key() {
        let key = SigningKey::from_seed([1; 32]);
        let time = BrokerTime {
            nonce: [7; 32],
            time_ms: 5_000,
        };
        let bytes = time.encode_signed(&key).expect("signs");
        assert_eq!(BrokerTime::verify(&bytes, &ring(&key), &[7; 32], 1_000), Ok(time));
        assert_eq!(
            BrokerTime::verify(&bytes, &ring(&key), &[8; 32], 1_000),
            Err(BrokerTimeError::Nonce)
        );
        let other = ring(&SigningKey::from_seed([2; 32]));
        assert!(matches!(
            BrokerTime::verify(&bytes, &other, &[7; 32], 1_000),
            Err(BrokerTimeError::KeyUnknown { .. })
        ));
        assert!(matches!(
            BrokerTime::verify(&bytes, &ring(&key), &[7; 32], 100_000),
            Err(BrokerTimeError::KeyUnknown { .. })
        ));
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            assert!(
                BrokerTime::verify(&altered, &ring(&key), &[7; 32], 1_000).is_err(),
                "byte {at}"
            );
        }
    }
}
