//! Chains: an authorization and the blocks that were added to it, each by the holder of the link before.
//!
//! A chain of one is the authorization as it is. A longer one is a CBOR array `[authorization, block …]` of byte strings, at
//! most [`MAX_CHAIN_BYTES`] and [`MAX_BLOCKS`] blocks. `ath` of a proof is SHA-256 of these bytes; the proof is made with the
//! key of the last link. Every block is bound to all before it, and rights only shrink along the way: scopes, time, depth,
//! region, purpose. So a [`VerifiedChain`] never holds more than any of its links. Source: `docs/protocol.md`, section 6.

use touchstone_cose::cbor::{Limits, Value, decode, encode};
use touchstone_cose::key::VerifyingKey;

use crate::block::{Block, MAX_BLOCK_LIFE_S, UntrustedBlock};
use crate::keys::KeyRing;
use crate::refusal::{Refusal, RefusalCode};
use crate::scope::{Action, Scope};
use crate::signed::{SignedError, SignedKind};
use crate::token::{
    Authorization, KeyKind, StatusIndex, UntrustedAuthorization, VerifiedAuthorization, authorization_digest,
};

/// The largest chain that is looked at, in bytes.
pub const MAX_CHAIN_BYTES: usize = 4_096;

/// The most blocks in a chain.
pub const MAX_BLOCKS: usize = 4;

const LIMITS: Limits = Limits {
    max_bytes: MAX_CHAIN_BYTES,
    max_depth: 2,
    max_items: 64,
};

/// What a block does that no block may do where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Widening {
    /// It was made for another chain.
    Order,
    /// The authorization gives no right to delegate off-line.
    NotGranted,
    /// No further block may follow the one before it, or it lets more follow than it may.
    Depth,
    /// A scope that the link before does not hold, or whose resource it may not delegate.
    Scope,
    /// An action that is never delegated off-line.
    Action,
    /// It begins before the link before, or ends after it.
    Outlives,
    /// It counts for longer than [`MAX_BLOCK_LIFE_S`].
    Life,
    /// Another region than that of the link before, or none.
    Region,
    /// Another purpose than that of the link before, or none.
    Purpose,
    /// A key or an id that an earlier link has already.
    Loop,
}

impl Widening {
    const fn code(self) -> RefusalCode {
        match self {
            Self::Order => RefusalCode::DelegationOrder,
            Self::NotGranted => RefusalCode::DelegationNotGranted,
            Self::Depth => RefusalCode::DelegationDepth,
            Self::Scope => RefusalCode::DelegationScope,
            Self::Action => RefusalCode::DelegationAction,
            Self::Outlives => RefusalCode::DelegationOutlives,
            Self::Life => RefusalCode::DelegationLife,
            Self::Region => RefusalCode::DelegationRegion,
            Self::Purpose => RefusalCode::DelegationPurpose,
            Self::Loop => RefusalCode::DelegationLoop,
        }
    }
}

/// Why bytes are not a chain whose every link holds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// Over [`MAX_CHAIN_BYTES`].
    #[error("{found} bytes, at most {MAX_CHAIN_BYTES} are taken")]
    TooLarge {
        /// The size in bytes.
        found: usize,
    },
    /// An array that is not `[authorization, block …]`.
    #[error("{0}")]
    Malformed(String),
    /// More than [`MAX_BLOCKS`].
    #[error("{found} blocks, at most {MAX_BLOCKS} are taken")]
    TooLong {
        /// How many.
        found: usize,
    },
    /// The authorization.
    #[error(transparent)]
    Authorization(SignedError),
    /// A block.
    #[error("block {position}: {error}")]
    Block {
        /// Which, from 1.
        position: usize,
        /// Why.
        error: SignedError,
    },
    /// A block that gives more than it may.
    #[error("block {position}: {found} where {expected} may stand")]
    Widens {
        /// Which, from 1.
        position: usize,
        /// In what.
        what: Widening,
        /// What might stand there.
        expected: String,
        /// What stands there.
        found: String,
    },
}

impl ChainError {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> RefusalCode {
        match self {
            Self::TooLarge { .. } => RefusalCode::ChainTooLarge,
            Self::Malformed(_) => RefusalCode::ChainMalformed,
            Self::TooLong { .. } => RefusalCode::ChainTooLong,
            Self::Authorization(error) => error.code(SignedKind::Authorization),
            Self::Block { error, .. } => error.code(SignedKind::Block),
            Self::Widens { what, .. } => what.code(),
        }
    }

    /// This error as a refusal.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Authorization(error) => error.refusal(SignedKind::Authorization),
            Self::Widens { expected, .. } => Refusal::new(self.code(), expected, self),
            _ => Refusal::new(self.code(), "an authorization and the blocks added to it", self),
        }
    }
}

/// The bytes of a chain of these links: one alone as it is, several as an array of byte strings.
pub(crate) fn join(links: &[&[u8]]) -> Vec<u8> {
    match links {
        [one] => one.to_vec(),
        _ => encode(&Value::array(links.iter().map(|link| Value::bytes(*link)))),
    }
}

/// A chain that was presented. Nothing in it may be believed before it is verified.
#[derive(Debug)]
pub struct UntrustedChain {
    root: UntrustedAuthorization,
    links: UntrustedLinks,
}

/// The blocks of a chain, each with the digest of all before it, and the digest of the whole.
#[derive(Debug)]
pub(crate) struct UntrustedLinks {
    blocks: Vec<(UntrustedBlock, [u8; 32])>,
    digest: [u8; 32],
}

/// The links of a chain as bytes. Nothing is read within them.
pub(crate) fn split(bytes: &[u8]) -> Result<Vec<Vec<u8>>, ChainError> {
    // An array (RFC 8949, major type 4) is a chain; whatever else is an authorization, or nothing.
    if bytes.first().is_none_or(|first| first >> 5 != 4) {
        return Ok(vec![bytes.to_vec()]);
    }
    if bytes.len() > MAX_CHAIN_BYTES {
        return Err(ChainError::TooLarge { found: bytes.len() });
    }
    let Ok(Value::Array(values)) = decode(bytes, LIMITS) else {
        return Err(ChainError::Malformed(
            "not an array of byte strings in the one encoding there is".into(),
        ));
    };
    match values.len() {
        // One chain, one encoding: an authorization alone stands in no array.
        0 | 1 => {
            return Err(ChainError::Malformed(
                "an array of an authorization and no block".into(),
            ));
        }
        links if links > MAX_BLOCKS + 1 => return Err(ChainError::TooLong { found: links - 1 }),
        _ => {}
    }
    let links = values.into_iter().map(|value| match value {
        Value::Bytes(link) => Ok(link),
        _ => Err(ChainError::Malformed("a link is a byte string".into())),
    });
    links.collect()
}

impl UntrustedLinks {
    pub(crate) fn parse(links: &[Vec<u8>]) -> Result<Self, ChainError> {
        let links: Vec<&[u8]> = links.iter().map(Vec::as_slice).collect();
        let mut digest = [0; 32];
        let mut blocks = Vec::with_capacity(links.len().saturating_sub(1));
        for position in 0..links.len() {
            if let (Some(block), true) = (links.get(position), position > 0) {
                let parsed = UntrustedBlock::parse(block).map_err(|error| ChainError::Block { position, error })?;
                blocks.push((parsed, digest));
            }
            digest = authorization_digest(&join(links.get(..=position).unwrap_or_default()));
        }
        Ok(Self { blocks, digest })
    }

    /// Verifies every block under the key of the link before, and that it only narrows what that link holds.
    pub(crate) fn verify(self, root: &Authorization) -> Result<(Vec<Block>, [u8; 32]), ChainError> {
        let mut verified: Vec<Block> = Vec::with_capacity(self.blocks.len());
        for (at, (block, before)) in self.blocks.into_iter().enumerate() {
            let position = at + 1;
            let parent = Held::of(root, verified.last());
            let block = block
                .verify(parent.confirmation)
                .map_err(|error| ChainError::Block { position, error })?;
            if block.before != before {
                let expected = "the digest of what stands before it";
                return Err(widens(position, Widening::Order, expected, "that of another chain"));
            }
            narrows(&parent, &block, position)?;
            let taken = |key: &VerifyingKey, id: &[u8; 16]| *key == block.confirmation || *id == block.cti;
            if taken(&root.confirmation, &root.cti) || verified.iter().any(|link| taken(&link.confirmation, &link.cti))
            {
                let expected = "a key and an id that no link before it has";
                return Err(widens(position, Widening::Loop, expected, "one of an earlier link"));
            }
            verified.push(block);
        }
        Ok((verified, self.digest))
    }
}

/// What the holder of a link holds.
struct Held<'a> {
    confirmation: &'a VerifyingKey,
    scopes: &'a [Scope],
    not_before: u64,
    expires: u64,
    /// How many blocks may follow; nothing where none may be added at all.
    further: Option<u8>,
    region: Option<&'a str>,
    purpose: Option<&'a str>,
}

impl<'a> Held<'a> {
    fn of(root: &'a Authorization, last: Option<&'a Block>) -> Self {
        match last {
            Some(block) => Self {
                confirmation: &block.confirmation,
                scopes: &block.scopes,
                not_before: block.not_before,
                expires: block.expires,
                further: Some(block.depth),
                region: block.region.as_deref(),
                purpose: block.purpose.as_deref(),
            },
            None => Self {
                confirmation: &root.confirmation,
                scopes: &root.scopes,
                not_before: root.not_before,
                expires: root.expires,
                further: root.delegation.filter(|right| right.offline).map(|right| right.depth),
                region: root.region.as_deref(),
                purpose: root.purpose.as_deref(),
            },
        }
    }
}

fn widens(position: usize, what: Widening, expected: impl ToString, found: impl ToString) -> ChainError {
    ChainError::Widens {
        position,
        what,
        expected: expected.to_string(),
        found: found.to_string(),
    }
}

/// Whether `block` holds no more than `parent`, in anything.
fn narrows(parent: &Held<'_>, block: &Block, position: usize) -> Result<(), ChainError> {
    let widens = |what, expected: String, found: String| Err(widens(position, what, expected, found));
    let Some(further) = parent.further else {
        let expected = "an authorization with the right to delegate off-line".into();
        return widens(Widening::NotGranted, expected, "one without".into());
    };
    if further == 0 {
        return widens(Widening::Depth, "no further block".into(), "a block".into());
    }
    if block.depth >= further {
        let expected = format!("less than {further} further");
        return widens(Widening::Depth, expected, format!("{} further", block.depth));
    }
    for scope in &block.scopes {
        if !matches!(scope.action(), Action::Execute | Action::Delegate) {
            return widens(Widening::Action, "execute or delegate".into(), scope.to_string());
        }
        let held = |action| {
            let held = |held: &Scope| held.action() == action && held.resource() == scope.resource();
            parent.scopes.iter().any(held)
        };
        if !held(scope.action()) || !held(Action::Delegate) {
            let expected = "a scope that the link before holds and may delegate".into();
            return widens(Widening::Scope, expected, scope.to_string());
        }
    }
    if block.not_before < parent.not_before || block.expires > parent.expires {
        let expected = format!("within {} s and {} s", parent.not_before, parent.expires);
        let found = format!("from {} s to {} s", block.not_before, block.expires);
        return widens(Widening::Outlives, expected, found);
    }
    let life = block.expires.saturating_sub(block.not_before);
    if life > MAX_BLOCK_LIFE_S {
        return widens(
            Widening::Life,
            format!("at most {MAX_BLOCK_LIFE_S} s"),
            format!("{life} s"),
        );
    }
    for (what, held, found) in [
        (Widening::Region, parent.region, block.region.as_deref()),
        (Widening::Purpose, parent.purpose, block.purpose.as_deref()),
    ] {
        if held.is_some() && held != found {
            let text = |word: Option<&str>| word.unwrap_or("none").to_owned();
            return widens(what, text(held), text(found));
        }
    }
    Ok(())
}

impl UntrustedChain {
    /// Reads the envelopes of a chain, or of an authorization alone.
    ///
    /// # Errors
    /// [`ChainError`]
    pub fn parse(bytes: &[u8]) -> Result<Self, ChainError> {
        let links = split(bytes)?;
        let root = links.first().map(Vec::as_slice).unwrap_or_default();
        Ok(Self {
            root: UntrustedAuthorization::parse(root).map_err(ChainError::Authorization)?,
            links: UntrustedLinks::parse(&links)?,
        })
    }

    /// Verifies every signature and every narrowing: the authorization under the key of `keys` that it names and that
    /// counts at `now_ms` (Unix milliseconds), each block under the key of the link before. Time, status and audience are
    /// judged by [`crate::decide::decide`].
    ///
    /// # Errors
    /// [`ChainError`]
    pub fn verify(self, keys: &KeyRing, now_ms: u64) -> Result<VerifiedChain, ChainError> {
        self.verify_root(keys, now_ms)
            .map_err(ChainError::Authorization)?
            .verify_blocks()
    }

    /// Verifies the authorization alone, to learn whose it is.
    pub(crate) fn verify_root(self, keys: &KeyRing, now_ms: u64) -> Result<RootedChain, SignedError> {
        Ok(RootedChain {
            root: self.root.verify(keys, now_ms)?,
            links: self.links,
        })
    }
}

/// A chain whose authorization verified and whose blocks did not yet.
pub(crate) struct RootedChain {
    root: VerifiedAuthorization,
    links: UntrustedLinks,
}

impl RootedChain {
    pub(crate) fn issuer(&self) -> &str {
        &self.root.contents().issuer
    }

    pub(crate) fn verify_blocks(self) -> Result<VerifiedChain, ChainError> {
        let (blocks, digest) = self.links.verify(self.root.contents())?;
        Ok(VerifiedChain::new(self.root, blocks, digest))
    }
}

/// A chain whose every signature verified and whose every block only narrows what stands before it. Whether it counts now
/// is for [`crate::decide`] to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedChain {
    root: VerifiedAuthorization,
    blocks: Vec<Block>,
    digest: [u8; 32],
    holder_thumbprint: [u8; 32],
}

impl From<VerifiedAuthorization> for VerifiedChain {
    fn from(authorization: VerifiedAuthorization) -> Self {
        let digest = *authorization.digest();
        Self::new(authorization, Vec::new(), digest)
    }
}

impl VerifiedChain {
    fn new(root: VerifiedAuthorization, blocks: Vec<Block>, digest: [u8; 32]) -> Self {
        let holder_thumbprint = match blocks.last() {
            Some(block) => block.confirmation.thumbprint(),
            None => *root.confirmation_thumbprint(),
        };
        Self {
            root,
            blocks,
            digest,
            holder_thumbprint,
        }
    }

    /// The authorization that it begins with. What it says is what its own holder may do; the holder of this chain may do
    /// what the methods here say.
    #[must_use]
    pub fn root(&self) -> &VerifiedAuthorization {
        &self.root
    }

    /// The blocks that were added, in order; none where the authorization is presented as it is.
    #[must_use]
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// SHA-256 of the bytes that were presented: `ath`.
    #[must_use]
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// The key of the last holder: proofs are made with it.
    #[must_use]
    pub fn holder(&self) -> &VerifyingKey {
        match self.blocks.last() {
            Some(block) => &block.confirmation,
            None => &self.root.contents().confirmation,
        }
    }

    /// RFC 9679 thumbprint of [`VerifiedChain::holder`].
    #[must_use]
    pub fn holder_thumbprint(&self) -> &[u8; 32] {
        &self.holder_thumbprint
    }

    /// What the last holder may do.
    #[must_use]
    pub fn scopes(&self) -> &[Scope] {
        Held::of(self.root.contents(), self.blocks.last()).scopes
    }

    /// The Unix second from which on it no longer counts: no link ends earlier.
    #[must_use]
    pub fn expires(&self) -> u64 {
        Held::of(self.root.contents(), self.blocks.last()).expires
    }

    /// The first Unix second at which it counts: no link begins later.
    #[must_use]
    pub fn not_before(&self) -> u64 {
        Held::of(self.root.contents(), self.blocks.last()).not_before
    }

    /// The `cti` of the last link.
    #[must_use]
    pub fn id(&self) -> &[u8; 16] {
        match self.blocks.last() {
            Some(block) => &block.cti,
            None => &self.root.contents().cti,
        }
    }

    /// The last holder's name: the authorization's subject, and after it the label of each block, with a colon before it.
    #[must_use]
    pub fn subject(&self) -> String {
        let mut subject = self.root.contents().subject.clone();
        for block in &self.blocks {
            subject.push(':');
            subject.push_str(&block.label);
        }
        subject
    }

    /// How many ancestors the last holder has.
    #[must_use]
    pub fn depth(&self) -> u8 {
        let blocks = u8::try_from(self.blocks.len()).unwrap_or(u8::MAX);
        self.root.contents().depth.saturating_add(blocks)
    }

    /// How many blocks may follow; 0 where none may.
    #[must_use]
    pub fn further_offline(&self) -> u8 {
        Held::of(self.root.contents(), self.blocks.last()).further.unwrap_or(0)
    }

    /// The only region whose enforcers take it.
    #[must_use]
    pub fn region(&self) -> Option<&str> {
        Held::of(self.root.contents(), self.blocks.last()).region
    }

    /// The only purpose it counts for.
    #[must_use]
    pub fn purpose(&self) -> Option<&str> {
        Held::of(self.root.contents(), self.blocks.last()).purpose
    }

    /// What keeps the holder's key. Nobody has vouched for that of a block: it counts as software.
    #[must_use]
    pub fn key_kind(&self) -> KeyKind {
        match self.blocks.is_empty() {
            true => self.root.contents().key_kind,
            false => KeyKind::Software,
        }
    }

    /// The status entry that it stands and falls with.
    #[must_use]
    pub fn status(&self) -> StatusIndex {
        self.root.contents().status
    }
}
