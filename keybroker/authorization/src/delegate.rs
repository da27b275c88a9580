//! Handing on off-line: what a holder does to give somebody a part of its rights without asking anybody.

use touchstone_cose::cbor::{Limits, Value, decode};
use touchstone_cose::cwt;
use touchstone_cose::key::{KID_LEN, Signer, VerifyingKey};

use crate::block::Block;
use crate::chain::{ChainError, MAX_BLOCKS, MAX_CHAIN_BYTES, UntrustedLinks, join, split};
use crate::refusal::Hex;
use crate::scope::Scope;
use crate::signed::SignedError;
use crate::token::{Authorization, MAX_AUTHORIZATION_BYTES, authorization_digest};

const LIMITS: Limits = Limits {
    max_bytes: MAX_AUTHORIZATION_BYTES,
    max_depth: 8,
    max_items: 256,
};

/// What is handed on, and to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delegation {
    /// The child's key, Ed25519 or P-256.
    pub key: VerifyingKey,
    /// What the child is called: `[a-z0-9][a-z0-9._-]{0,31}`.
    pub label: String,
    /// A part of one's own scopes: execute and delegate on resources that one may delegate.
    pub scopes: Vec<Scope>,
    /// The first Unix second at which it counts, not before one's own.
    pub not_before: u64,
    /// The Unix second from which on it no longer counts, not after one's own.
    pub expires: u64,
    /// How many further links the child may add: less than oneself.
    pub depth: u8,
    /// One's own region where there is one, or any where there is none.
    pub region: Option<String>,
    /// One's own purpose where there is one, or any where there is none.
    pub purpose: Option<String>,
    /// 16 random bytes, by which it alone can be taken back.
    pub cti: [u8; 16],
}

/// Why nothing was handed on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DelegateError {
    /// One's own chain cannot be read, or what is handed on is more than one holds.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The signer's, or contents that are not of this profile.
    #[error(transparent)]
    Signed(#[from] SignedError),
    /// The signer's key is not that of the last link.
    #[error("the chain is held by the key {}, the signer has {}", Hex(holder), Hex(signer))]
    NotTheHolder {
        /// Key id of the last link.
        holder: [u8; KID_LEN],
        /// Key id of the signer.
        signer: [u8; KID_LEN],
    },
}

/// `held`, the chain as its holder presents it, with one block more, signed by its holder. Refuses what no enforcer would
/// take. Who issued `held` is not verified here: a holder need not have the domain's keys, and every enforcer does.
///
/// # Errors
/// [`DelegateError`]
pub fn delegate(held: &[u8], wanted: &Delegation, signer: &dyn Signer) -> Result<Vec<u8>, DelegateError> {
    let mut links = split(held)?;
    let root = claims_of(links.first().map(Vec::as_slice).unwrap_or_default()).map_err(ChainError::Authorization)?;
    if links.len() > MAX_BLOCKS {
        return Err(ChainError::TooLong { found: links.len() }.into());
    }
    let (blocks, _) = UntrustedLinks::parse(&links)?.verify(&root)?;
    let holder = blocks.last().map_or(&root.confirmation, |block| &block.confirmation);
    if holder.kid() != signer.kid() {
        return Err(DelegateError::NotTheHolder {
            holder: holder.kid(),
            signer: signer.kid(),
        });
    }
    let block = Block {
        before: authorization_digest(held),
        confirmation: wanted.key.clone(),
        label: wanted.label.clone(),
        scopes: wanted.scopes.clone(),
        not_before: wanted.not_before,
        expires: wanted.expires,
        depth: wanted.depth,
        region: wanted.region.clone(),
        purpose: wanted.purpose.clone(),
        cti: wanted.cti,
    };
    links.push(block.encode_signed(signer)?);
    let chain = join(&links.iter().map(Vec::as_slice).collect::<Vec<_>>());
    if chain.len() > MAX_CHAIN_BYTES {
        return Err(ChainError::TooLarge { found: chain.len() }.into());
    }
    UntrustedLinks::parse(&links)?.verify(&root)?;
    Ok(chain)
}

/// The claims of an authorization, whoever signed it.
fn claims_of(bytes: &[u8]) -> Result<Authorization, SignedError> {
    let object = cwt::unwrap(bytes).map_err(|error| SignedError::Malformed(error.to_string()))?;
    let Value::Tag(_, object) = decode(object, LIMITS)? else {
        return Err(SignedError::malformed("not a COSE_Sign1"));
    };
    let payload = object
        .as_array()
        .and_then(|members| members.get(2))
        .and_then(Value::as_bytes);
    let payload = payload.ok_or_else(|| SignedError::malformed("not a COSE_Sign1"))?;
    Authorization::read(decode(payload, LIMITS)?)
}
