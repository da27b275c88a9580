//! The head of a trust state: the small signed statement of what a domain holds true right now.
//!
//! COSE_Sign1 (tag 18) by a trust-state key, typ `application/touchstone-trust+cwt`, claims 1 (`iss`: the domain) and
//! one private map under -65537. Contents: `docs/protocol.md`, section 7.

use sha2::{Digest as _, Sha256};
use touchstone_cose::cbor::{MapReader, Value, encode};
use touchstone_cose::cwt::claim;
use touchstone_cose::key::Signer;

use crate::keys::KeyRing;
use crate::lists::{MAX_LISTS, StatusLists};
use crate::name::{MAX_NAME, is_name};
use crate::revoked::{MAX_REVOKED_IDS, RevokedHead};
use crate::signed::{SignedError, SignedKind, UntrustedSigned, sign};

/// The typ (COSE header 16) of trust heads.
pub const TRUST_HEAD_TYPE: &str = "application/touchstone-trust+cwt";

/// The largest signed head, in bytes.
pub const MAX_HEAD_BYTES: usize = 2_048;

// Labels within the private map.
const GENERATION: i64 = 0;
const EPOCH: i64 = 1;
const TERM: i64 = 2;
const POLICY_VERSION: i64 = 3;
const POLICY_DIGEST: i64 = 4;
const KEYSET_VERSION: i64 = 5;
const LISTS: i64 = 6;
const LEDGER_SIZE: i64 = 7;
const LEDGER_ROOT: i64 = 8;
const ISSUED_AT_MS: i64 = 9;
const FRESH_UNTIL_MS: i64 = 10;
const REVOKED: i64 = 11;

/// What a head says about one status list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListHead {
    /// The number of the list.
    pub number: u16,
    /// How many entries it has.
    pub entries: u32,
    /// [`crate::lists::StatusArray::digest`] of it.
    pub digest: [u8; 32],
}

impl ListHead {
    /// What a head says about these lists, in their order.
    pub fn of(lists: &StatusLists) -> Vec<Self> {
        lists
            .iter()
            .map(|(number, list)| Self {
                number,
                entries: list.entries(),
                digest: list.digest(),
            })
            .collect()
    }
}

/// The head of a trust state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustHead {
    /// The domain.
    pub domain: String,
    /// The generation of the domain's state: raised by policy when it is restored.
    pub generation: u32,
    /// Raised with every change of policy, keyset or lists (their lengths too).
    pub epoch: u64,
    /// The leader's term.
    pub term: u64,
    /// The version of the domain's policy.
    pub policy_version: u64,
    /// The digest of the domain's policy (of the signed TUF targets metadata).
    pub policy_digest: [u8; 32],
    /// The version of the domain's keyset.
    pub keyset_version: u64,
    /// The status lists, by rising number, at most [`MAX_LISTS`].
    pub lists: Vec<ListHead>,
    /// Entries in the ledger.
    pub ledger_size: u64,
    /// Root of the ledger at that size.
    pub ledger_root: [u8; 32],
    /// When the head was made, in the broker's Unix milliseconds.
    pub issued_at_ms: u64,
    /// Until when it counts at most, in the broker's Unix milliseconds.
    pub fresh_until_ms: u64,
    /// Off-line delegations that were taken back one by one; nothing where there is none.
    pub revoked: Option<RevokedHead>,
}

impl TrustHead {
    /// Signs the head with the trust-state key.
    pub fn encode_signed(&self, signer: &dyn Signer) -> Result<Vec<u8>, SignedError> {
        self.check()?;
        let claims = Value::map([
            (claim::ISS, Value::text(self.domain.as_str())),
            (claim::PRIVATE, self.private_claims()),
        ]);
        sign(SignedKind::TrustHead, &encode(&claims), signer)
    }

    /// Reads a signed head and verifies it under the trust-state key it names, which must count at `now_ms`.
    pub fn verify(bytes: &[u8], keys: &KeyRing, now_ms: u64) -> Result<Self, SignedError> {
        let payload = UntrustedSigned::parse(SignedKind::TrustHead, bytes)?.verify_with(keys, now_ms)?;
        let mut claims = MapReader::new(payload, "trust head")?;
        let domain = claims.text(claim::ISS, MAX_NAME)?;
        let mut private = claims.map(claim::PRIVATE, "trust head, private claims")?;
        claims.finish()?;
        let generation = private.u64(GENERATION)?;
        let head = Self {
            domain,
            generation: u32::try_from(generation).map_err(|_| SignedError::out_of_range("generation", generation))?,
            epoch: private.u64(EPOCH)?,
            term: private.u64(TERM)?,
            policy_version: private.u64(POLICY_VERSION)?,
            policy_digest: private.fixed(POLICY_DIGEST)?,
            keyset_version: private.u64(KEYSET_VERSION)?,
            lists: private
                .array(LISTS)?
                .into_iter()
                .map(list_head)
                .collect::<Result<_, _>>()?,
            ledger_size: private.u64(LEDGER_SIZE)?,
            ledger_root: private.fixed(LEDGER_ROOT)?,
            issued_at_ms: private.u64(ISSUED_AT_MS)?,
            fresh_until_ms: private.u64(FRESH_UNTIL_MS)?,
            revoked: private.optional(REVOKED).as_ref().map(revoked_head).transpose()?,
        };
        private.finish()?;
        head.check()?;
        Ok(head)
    }

    /// SHA-256 over what must not differ between two heads of one (generation, epoch): everything but term, ledger and
    /// times, as deterministic CBOR.
    pub fn contents_digest(&self) -> [u8; 32] {
        let contents = Value::Array(vec![
            Value::text("touchstone-trust-contents/2"),
            Value::text(self.domain.as_str()),
            Value::Unsigned(self.generation.into()),
            Value::Unsigned(self.epoch),
            Value::Unsigned(self.policy_version),
            Value::bytes(self.policy_digest),
            Value::Unsigned(self.keyset_version),
            self.lists_value(),
            self.revoked.as_ref().map_or(Value::Null, revoked_value),
        ]);
        Sha256::digest(encode(&contents)).into()
    }

    fn check(&self) -> Result<(), SignedError> {
        if !is_name(&self.domain) {
            return Err(SignedError::malformed("the domain is not a name"));
        }
        if self.lists.len() > MAX_LISTS {
            return Err(SignedError::out_of_range("number of lists", self.lists.len() as u64));
        }
        if !self.lists.is_sorted_by(|one, next| one.number < next.number) {
            return Err(SignedError::malformed("list numbers must rise"));
        }
        if let Some(RevokedHead { count, .. }) = self.revoked
            && !(1..=MAX_REVOKED_IDS).contains(&usize::from(count))
        {
            return Err(SignedError::out_of_range("number of revoked ids", count.into()));
        }
        match self
            .lists
            .iter()
            .find(|list| crate::lists::byte_length(list.entries).is_err())
        {
            Some(list) => Err(SignedError::out_of_range("entries", list.entries.into())),
            None => Ok(()),
        }
    }

    fn private_claims(&self) -> Value {
        let revoked = self.revoked.as_ref().map(|revoked| (REVOKED, revoked_value(revoked)));
        let always = [
            (GENERATION, Value::Unsigned(self.generation.into())),
            (EPOCH, Value::Unsigned(self.epoch)),
            (TERM, Value::Unsigned(self.term)),
            (POLICY_VERSION, Value::Unsigned(self.policy_version)),
            (POLICY_DIGEST, Value::bytes(self.policy_digest)),
            (KEYSET_VERSION, Value::Unsigned(self.keyset_version)),
            (LISTS, self.lists_value()),
            (LEDGER_SIZE, Value::Unsigned(self.ledger_size)),
            (LEDGER_ROOT, Value::bytes(self.ledger_root)),
            (ISSUED_AT_MS, Value::Unsigned(self.issued_at_ms)),
            (FRESH_UNTIL_MS, Value::Unsigned(self.fresh_until_ms)),
        ];
        Value::map(always.into_iter().chain(revoked))
    }

    /// `[[number, entries, digest] …]`.
    fn lists_value(&self) -> Value {
        let list = |list: &ListHead| {
            Value::Array(vec![
                Value::Unsigned(list.number.into()),
                Value::Unsigned(list.entries.into()),
                Value::bytes(list.digest),
            ])
        };
        Value::Array(self.lists.iter().map(list).collect())
    }
}

/// `[count, digest]`.
fn revoked_value(revoked: &RevokedHead) -> Value {
    Value::array([Value::Unsigned(revoked.count.into()), Value::bytes(revoked.digest)])
}

fn revoked_head(value: &Value) -> Result<RevokedHead, SignedError> {
    let malformed = || SignedError::malformed("the revoked ids in a head are [count, digest]");
    let [count, digest] = value.as_array().ok_or_else(malformed)? else {
        return Err(malformed());
    };
    let digest = digest.as_bytes().and_then(|digest| digest.try_into().ok());
    Ok(RevokedHead {
        count: count.as_u64().and_then(|n| n.try_into().ok()).ok_or_else(malformed)?,
        digest: digest.ok_or_else(malformed)?,
    })
}

fn list_head(value: Value) -> Result<ListHead, SignedError> {
    let malformed = || SignedError::malformed("a list in a head is [number, entries, digest]");
    let [number, entries, digest] = value.as_array().ok_or_else(malformed)? else {
        return Err(malformed());
    };
    Ok(ListHead {
        number: number
            .as_u64()
            .and_then(|n| u16::try_from(n).ok())
            .ok_or_else(malformed)?,
        entries: entries
            .as_u64()
            .and_then(|n| u32::try_from(n).ok())
            .ok_or_else(malformed)?,
        digest: digest
            .as_bytes()
            .and_then(|d| d.try_into().ok())
            .ok_or_else(malformed)?,
    })
}
