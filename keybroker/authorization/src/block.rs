//! Blocks: what the holder of an authorization hands on by its own signature, without asking anybody.
//!
//! COSE_Sign1 (tag 18) by the confirmation key of the link before it (ESP256 or Ed25519), typ
//! `application/touchstone-delegation+cwt`, claims 4 `exp`, 5 `nbf`, 7 `cti`, 8 `cnf` {1: COSE_Key, compressed}, 9 `scope`,
//! and one private map under -65537: {0 digest of all before, 1 label, 2 further depth (absent: 0), 3 region, 4 purpose}.
//! What a block may say is judged where it stands in its chain: [`crate::chain`]. Source: `docs/protocol.md`, section 6.

use touchstone_cose::cbor::{MapReader, Value, encode};
use touchstone_cose::cwt::{claim, confirmation};
use touchstone_cose::key::{KID_LEN, Signer, VerifyingKey};

use crate::name::{MAX_LABEL, is_label};
use crate::scope::{MAX_SCOPES, Scope, format_list, parse_list};
use crate::signed::{SignedError, SignedKind, UntrustedSigned, sign};
use crate::token::{MAX_LINEAGE_DEPTH, MAX_SCOPE_TEXT, check_confirmation, check_words, optional_depth, optional_word};

/// The typ (COSE header 16) of blocks.
pub const BLOCK_TYPE: &str = "application/touchstone-delegation+cwt";

/// The largest block that is looked at, in bytes.
pub const MAX_BLOCK_BYTES: usize = 1_024;

/// The longest a block may count, in seconds.
pub const MAX_BLOCK_LIFE_S: u64 = 300;

// Labels within the private map.
const BEFORE: i64 = 0;
const LABEL: i64 = 1;
const DEPTH: i64 = 2;
const REGION: i64 = 3;
const PURPOSE: i64 = 4;

/// The contents of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// SHA-256 of all before: of the chain as its parent presents it.
    pub before: [u8; 32],
    /// `cnf`: the child's key.
    pub confirmation: VerifyingKey,
    /// What the child is called below its parent.
    pub label: String,
    /// `scope`: one to [`MAX_SCOPES`] rights.
    pub scopes: Vec<Scope>,
    /// `nbf`: the first Unix second at which it counts.
    pub not_before: u64,
    /// `exp`: the Unix second from which on it no longer counts.
    pub expires: u64,
    /// How many blocks may follow it.
    pub depth: u8,
    /// The only region whose enforcers take it.
    pub region: Option<String>,
    /// The only purpose it counts for.
    pub purpose: Option<String>,
    /// `cti`: 16 random bytes, by which it alone is taken back.
    pub cti: [u8; 16],
}

impl Block {
    /// Signs the block with the parent's confirmation key; a TPM-held key is a [`Signer`] like any other.
    /// [`crate::delegate::delegate`] also looks whether any enforcer would take it.
    ///
    /// # Errors
    /// Contents that are not of this profile, or the signer's.
    pub fn encode_signed(&self, signer: &dyn Signer) -> Result<Vec<u8>, SignedError> {
        self.check()?;
        let scopes = format_list(&self.scopes).map_err(|error| SignedError::Malformed(error.to_string()))?;
        let depth = (self.depth > 0).then(|| (DEPTH, Value::Unsigned(self.depth.into())));
        let region = self.region.as_deref().map(|region| (REGION, Value::text(region)));
        let purpose = self.purpose.as_deref().map(|purpose| (PURPOSE, Value::text(purpose)));
        let private = [
            (BEFORE, Value::bytes(self.before)),
            (LABEL, Value::text(self.label.as_str())),
        ];
        let private = private.into_iter().chain(depth).chain(region).chain(purpose);
        let claims = Value::map([
            (claim::EXP, Value::Unsigned(self.expires)),
            (claim::NBF, Value::Unsigned(self.not_before)),
            (claim::CTI, Value::bytes(self.cti)),
            (
                claim::CNF,
                Value::map([(confirmation::COSE_KEY, self.confirmation.to_cose_key(true))]),
            ),
            (claim::SCOPE, Value::text(scopes)),
            (claim::PRIVATE, Value::map(private)),
        ]);
        sign(SignedKind::Block, &encode(&claims), signer)
    }

    fn read(payload: Value) -> Result<Self, SignedError> {
        let mut claims = MapReader::new(payload, "block")?;
        let mut cnf = claims.map(claim::CNF, "block, cnf")?;
        let mut private = claims.map(claim::PRIVATE, "block, private claims")?;
        let block = Self {
            before: private.fixed(BEFORE)?,
            confirmation: VerifyingKey::from_cose_key(&cnf.required(confirmation::COSE_KEY)?)
                .map_err(|error| SignedError::Malformed(error.to_string()))?,
            label: private.text(LABEL, MAX_LABEL)?,
            scopes: parse_list(&claims.text(claim::SCOPE, MAX_SCOPE_TEXT)?)
                .map_err(|error| SignedError::Malformed(error.to_string()))?,
            not_before: claims.u64(claim::NBF)?,
            expires: claims.u64(claim::EXP)?,
            depth: optional_depth(&mut private, DEPTH)?,
            region: optional_word(&mut private, REGION)?,
            purpose: optional_word(&mut private, PURPOSE)?,
            cti: claims.fixed(claim::CTI)?,
        };
        claims.finish()?;
        cnf.finish()?;
        private.finish()?;
        block.check()?;
        Ok(block)
    }

    fn check(&self) -> Result<(), SignedError> {
        check_confirmation(&self.confirmation)?;
        check_words(self.region.as_deref(), self.purpose.as_deref())?;
        if !is_label(&self.label) {
            return Err(SignedError::malformed(
                "the label does not follow [a-z0-9][a-z0-9._-]{0,31}",
            ));
        }
        if self.not_before >= self.expires {
            return Err(SignedError::malformed("it ends before it begins"));
        }
        if self.depth > MAX_LINEAGE_DEPTH {
            return Err(SignedError::out_of_range("depth", self.depth.into()));
        }
        if self.scopes.len() > MAX_SCOPES {
            return Err(SignedError::out_of_range("number of scopes", self.scopes.len() as u64));
        }
        Ok(())
    }
}

/// A block that was presented. Nothing in it may be believed before its signature verified under its parent's key.
#[derive(Debug)]
pub struct UntrustedBlock {
    signed: UntrustedSigned,
}

impl UntrustedBlock {
    /// Reads the envelope: at most [`MAX_BLOCK_BYTES`], of type [`BLOCK_TYPE`].
    ///
    /// # Errors
    /// [`SignedError`]
    pub fn parse(bytes: &[u8]) -> Result<Self, SignedError> {
        Ok(Self {
            signed: UntrustedSigned::parse(SignedKind::Block, bytes)?,
        })
    }

    /// The id of the key that it claims to be signed with.
    #[must_use]
    pub fn key_id(&self) -> [u8; KID_LEN] {
        self.signed.kid()
    }

    /// Verifies the signature under the key of the link before, then reads the claims out of the bytes that were verified.
    /// What they say is judged by [`crate::chain`].
    pub(crate) fn verify(self, parent: &VerifyingKey) -> Result<Block, SignedError> {
        Block::read(self.signed.verify_under(parent)?)
    }
}
