//! Acknowledgements: an enforcer says, signed, which trust state it enforces.
//!
//! COSE_Sign1 (tag 18) by the enforcer's key of the signed policy, typ `application/touchstone-ack+cwt`, claims 1 `iss` (the
//! enforcer), 3 `aud` (the domain), and one private map under -65537: {0 generation, 1 epoch, 2 since when it enforces it,
//! Unix milliseconds of the domain's time, 3 how many it stopped because of it, at most [`MAX_STOPPED`]}. Source:
//! `docs/protocol.md`, section 7.

use touchstone_cose::cbor::{MapReader, Value, encode};
use touchstone_cose::cwt::claim;
use touchstone_cose::key::Signer;

use crate::keys::NamedKeys;
use crate::name::{MAX_NAME, is_name};
use crate::named::{NamedError, addressed, verified};
use crate::signed::{SignedError, SignedKind, sign};

/// The typ (COSE header 16) of acknowledgements.
pub const ACK_TYPE: &str = "application/touchstone-ack+cwt";

/// The largest acknowledgement that is looked at, in bytes.
pub const MAX_ACK_BYTES: usize = 512;

/// The most that one enforcer may say it stopped: more than any can have let in, and few enough to be summed over all whom
/// policy can list.
pub const MAX_STOPPED: u64 = 1 << 32;

// Labels within the private map.
const GENERATION: i64 = 0;
const EPOCH: i64 = 1;
const ENFORCED_AT_MS: i64 = 2;
const REFUSED: i64 = 3;

/// What an enforcer acknowledges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// `aud`: the domain whose trust state it is.
    pub domain: String,
    /// `iss`: the enforcer.
    pub enforcer: String,
    /// The generation of the trust state.
    pub generation: u32,
    /// The epoch of the trust state.
    pub epoch: u64,
    /// From when on it decides by it, in Unix milliseconds of the domain's time.
    pub enforced_at_ms: u64,
    /// How many that had been let in it stopped because of it; at most [`MAX_STOPPED`].
    pub refused: u64,
}

impl Ack {
    /// Signs the acknowledgement with the enforcer's key.
    ///
    /// # Errors
    /// Names that are none, a count beyond [`MAX_STOPPED`], or the signer's.
    pub fn encode_signed(&self, signer: &dyn Signer) -> Result<Vec<u8>, SignedError> {
        self.check()?;
        let private = Value::map([
            (GENERATION, Value::Unsigned(self.generation.into())),
            (EPOCH, Value::Unsigned(self.epoch)),
            (ENFORCED_AT_MS, Value::Unsigned(self.enforced_at_ms)),
            (REFUSED, Value::Unsigned(self.refused)),
        ]);
        let claims = Value::map([
            (claim::ISS, Value::text(self.enforcer.as_str())),
            (claim::AUD, Value::text(self.domain.as_str())),
            (claim::PRIVATE, private),
        ]);
        sign(SignedKind::Ack, &encode(&claims), signer)
    }

    /// Reads an acknowledgement to `domain` and verifies it under the enforcer's key by policy.
    ///
    /// # Errors
    /// [`NamedError`]
    pub fn verify(bytes: &[u8], enforcers: &NamedKeys, domain: &str) -> Result<Self, NamedError> {
        let (name, payload) = verified(SignedKind::Ack, bytes, enforcers)?;
        let ack = Self::read(payload)?;
        addressed(name, &ack.enforcer, domain, &ack.domain)?;
        Ok(ack)
    }

    fn read(payload: Value) -> Result<Self, SignedError> {
        let mut claims = MapReader::new(payload, "acknowledgement")?;
        let mut private = claims.map(claim::PRIVATE, "acknowledgement, private claims")?;
        let generation = private.u64(GENERATION)?;
        let ack = Self {
            domain: claims.text(claim::AUD, MAX_NAME)?,
            enforcer: claims.text(claim::ISS, MAX_NAME)?,
            generation: u32::try_from(generation).map_err(|_| SignedError::out_of_range("generation", generation))?,
            epoch: private.u64(EPOCH)?,
            enforced_at_ms: private.u64(ENFORCED_AT_MS)?,
            refused: private.u64(REFUSED)?,
        };
        claims.finish()?;
        private.finish()?;
        ack.check()?;
        Ok(ack)
    }

    fn check(&self) -> Result<(), SignedError> {
        if self.refused > MAX_STOPPED {
            return Err(SignedError::out_of_range("how many it stopped", self.refused));
        }
        if is_name(&self.domain) && is_name(&self.enforcer) {
            Ok(())
        } else {
            Err(SignedError::malformed("iss or aud is not a name"))
        }
    }
}
