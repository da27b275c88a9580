//! Uses: an enforcer says, signed, what it let somebody do, refused, or stopped.
//!
//! COSE_Sign1 (tag 18) by the enforcer's key of the signed policy, typ `application/touchstone-use+cwt`, claims 1 `iss` (the
//! enforcer), 3 `aud` (the domain), 7 `cti` (16 random bytes: a report counts once), and one private map under -65537:
//! {0 digest of the chain (`ath`), 1 `act`, 2 when, Unix milliseconds of the domain's time, 3 outcome, and where this chain is
//! reported for the first time 4 the chain}. Source: `docs/protocol.md`, section 6: only then an off-line link is a known edge.

use touchstone_cose::cbor::{MapReader, Value, encode};
use touchstone_cose::cwt::claim;
use touchstone_cose::key::Signer;

use crate::chain::MAX_CHAIN_BYTES;
use crate::keys::NamedKeys;
use crate::name::{MAX_NAME, is_name};
use crate::named::{NamedError, act, act_value, addressed, verified};
use crate::scope::Scope;
use crate::signed::{SignedError, SignedKind, sign};
use crate::token::authorization_digest;

/// The typ (COSE header 16) of uses.
pub const USE_TYPE: &str = "application/touchstone-use+cwt";

/// The largest use that is looked at, in bytes: the longest chain and some claims.
pub const MAX_USE_BYTES: usize = MAX_CHAIN_BYTES + 1_024;

// Labels within the private map.
const CHAIN_DIGEST: i64 = 0;
const ACT: i64 = 1;
const AT_MS: i64 = 2;
const OUTCOME: i64 = 3;
const CHAIN: i64 = 4;

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// It was let in.
    Allowed,
    /// It was not, though its holder is known.
    Refused,
    /// It had been let in and lost the right.
    Stopped,
}

impl Outcome {
    /// The word used in statements and results.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Refused => "refused",
            Self::Stopped => "stopped",
        }
    }

    const fn number(self) -> u64 {
        match self {
            Self::Allowed => 0,
            Self::Refused => 1,
            Self::Stopped => 2,
        }
    }

    const fn from_number(number: u64) -> Option<Self> {
        match number {
            0 => Some(Self::Allowed),
            1 => Some(Self::Refused),
            2 => Some(Self::Stopped),
            _ => None,
        }
    }
}

/// One use as its enforcer reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// `aud`: the domain.
    pub domain: String,
    /// `iss`: the enforcer.
    pub enforcer: String,
    /// `cti`: 16 random bytes; a report counts once.
    pub id: [u8; 16],
    /// SHA-256 of the chain as it was presented.
    pub chain_digest: [u8; 32],
    /// The chain, where this enforcer reports it for the first time.
    pub chain: Option<Vec<u8>>,
    /// What was wanted, or done.
    pub scope: Scope,
    /// When, in Unix milliseconds of the domain's time.
    pub at_ms: u64,
    /// What came of it.
    pub outcome: Outcome,
}

impl Use {
    /// Signs the report with the enforcer's key.
    ///
    /// # Errors
    /// Contents that are not of this profile, or the signer's.
    pub fn encode_signed(&self, signer: &dyn Signer) -> Result<Vec<u8>, SignedError> {
        self.check()?;
        let chain = self.chain.as_deref().map(|chain| (CHAIN, Value::bytes(chain)));
        let private = [
            (CHAIN_DIGEST, Value::bytes(self.chain_digest)),
            (ACT, act_value(&self.scope)),
            (AT_MS, Value::Unsigned(self.at_ms)),
            (OUTCOME, Value::Unsigned(self.outcome.number())),
        ];
        let claims = Value::map([
            (claim::ISS, Value::text(self.enforcer.as_str())),
            (claim::AUD, Value::text(self.domain.as_str())),
            (claim::CTI, Value::bytes(self.id)),
            (claim::PRIVATE, Value::map(private.into_iter().chain(chain))),
        ]);
        sign(SignedKind::Use, &encode(&claims), signer)
    }

    /// Reads a report to `domain` and verifies it under the enforcer's key by policy. The chain in it is its bytes only:
    /// whoever makes an edge of it verifies it.
    ///
    /// # Errors
    /// [`NamedError`]
    pub fn verify(bytes: &[u8], enforcers: &NamedKeys, domain: &str) -> Result<Self, NamedError> {
        let (name, payload) = verified(SignedKind::Use, bytes, enforcers)?;
        let report = Self::read(payload)?;
        addressed(name, &report.enforcer, domain, &report.domain)?;
        Ok(report)
    }

    fn read(payload: Value) -> Result<Self, SignedError> {
        let mut claims = MapReader::new(payload, "use")?;
        let mut private = claims.map(claim::PRIVATE, "use, private claims")?;
        let outcome = private.u64(OUTCOME)?;
        let chain = match private.optional(CHAIN) {
            None => None,
            Some(Value::Bytes(chain)) => Some(chain),
            Some(_) => return Err(SignedError::malformed("a chain is a byte string, or absent")),
        };
        let report = Self {
            domain: claims.text(claim::AUD, MAX_NAME)?,
            enforcer: claims.text(claim::ISS, MAX_NAME)?,
            id: claims.fixed(claim::CTI)?,
            chain_digest: private.fixed(CHAIN_DIGEST)?,
            chain,
            scope: act(&mut private, ACT)?,
            at_ms: private.u64(AT_MS)?,
            outcome: Outcome::from_number(outcome).ok_or_else(|| SignedError::out_of_range("outcome", outcome))?,
        };
        claims.finish()?;
        private.finish()?;
        report.check()?;
        Ok(report)
    }

    fn check(&self) -> Result<(), SignedError> {
        if !is_name(&self.domain) || !is_name(&self.enforcer) {
            return Err(SignedError::malformed("iss or aud is not a name"));
        }
        match &self.chain {
            Some(chain) if chain.len() > MAX_CHAIN_BYTES => {
                Err(SignedError::out_of_range("bytes of the chain", chain.len() as u64))
            }
            Some(chain) if authorization_digest(chain) != self.chain_digest => {
                Err(SignedError::malformed("the chain does not have the digest beside it"))
            }
            _ => Ok(()),
        }
    }
}
