//! Statements: the entries of the ledger (SCITT signed statements, RFC 9943).
//!
//! A statement is a COSE_Sign1 of type [`TYP`], whose protected header names issuer and subject (CWT claims, label 15)
//! and whose payload is one deterministic CBOR map:
//!
//! | key | member | type |
//! | --- | --- | --- |
//! | 0 | kind | text, see [`Kind`] |
//! | 1 | domain | text |
//! | 2 | subject | text or null |
//! | 3 | time of the decision, Unix seconds, a recorded input | integer |
//! | 4 | policy version | unsigned |
//! | 5 | digest of the global policy | 32 bytes |
//! | 6 | digest of the region's policy | 32 bytes or null |
//! | 7 | semantics id | text |
//! | 8 | outcome | "allow", "deny" or "recorded" |
//! | 9 | reasons | array of [code, claim, expected, found] |
//! | 10 | inputs | map of text to 32-byte digests |
//! | 11 | revisions it was decided on | map of text to unsigned |
//! | 12 | body, specific to the kind | map |
//! | 13 | nonce that it consumes | bytes or null |
//!
//! The payload is what is reproducible: same inputs, same bytes (`protocol.md` 10). The signature is not.

mod codec;
mod kind;
mod reasons;

use std::collections::BTreeMap;

use touchstone_cose::cbor::{CborError, Limits, ShapeError, Value};
use touchstone_cose::cwt::claim;
use touchstone_cose::key::{SignError, Signer, VerifyingKey};
use touchstone_cose::sign1::{self, CoseError, Protected, Unverified, label};

pub use kind::{Kind, Outcome};
pub use reasons::{MAX_REASON_CODE_LEN, MAX_REASON_TEXT_LEN, MAX_REASONS, MAX_REASONS_BYTES, Reason};

use crate::reason::Code;
use crate::tree::{self, Hash};

/// What the header says a statement is (typ, RFC 9596).
pub const TYP: &str = "application/touchstone-statement+cwt";

/// Longest signed statement, in bytes: C2SP tlog-tiles counts the length of an entry in two bytes.
pub const MAX_STATEMENT_LEN: usize = 65_535;

/// Longest domain, subject or semantics id, in bytes.
pub const MAX_NAME_LEN: usize = 255;

/// Most entries in each of the maps of inputs and revisions, and longest label in them, in bytes.
pub const MAX_LABELS: usize = 64;
/// See [`MAX_LABELS`].
pub const MAX_LABEL_LEN: usize = 64;

/// Longest nonce, in bytes.
pub const MAX_NONCE_LEN: usize = 64;

/// What a reader of statements accepts.
pub const LIMITS: Limits = Limits {
    max_bytes: MAX_STATEMENT_LEN,
    max_depth: 12,
    max_items: 8_192,
};

/// One decision, or one event, as it is recorded for ever. The table above says what each member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// What it is about.
    pub kind: Kind,
    /// The domain that says it.
    pub domain: String,
    /// The node, workload or thing it is about.
    pub subject: Option<String>,
    /// The clock value the decision used, Unix seconds.
    pub time: i64,
    /// The version of the policy it was decided under.
    pub policy_version: u64,
    /// SHA-256 of the signed global policy.
    pub global_policy: Hash,
    /// SHA-256 of the signed policy of the subject's region, if it has one.
    pub region_policy: Option<Hash>,
    /// Which rules of decision were in force, byte for byte.
    pub semantics: String,
    /// What came of it.
    pub outcome: Outcome,
    /// Why, in the order of the appraisal. [`Reason::bounded`] makes a list that fits.
    pub reasons: Vec<Reason>,
    /// SHA-256 of everything it was decided on, by label.
    pub inputs: BTreeMap<String, Hash>,
    /// The revisions of the state it was decided on, by label; the commit compares them.
    pub revisions: BTreeMap<String, u64>,
    /// Members of its kind: always a map.
    pub body: Value,
    /// The nonce it consumes.
    pub nonce: Option<Vec<u8>>,
}

/// A signed statement, ready to be a leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The tagged COSE_Sign1: the entry of the ledger.
    pub bytes: Vec<u8>,
    /// SHA-256 of the payload: what an authorization carries.
    pub digest: Hash,
}

/// Why a statement is not signed, or not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StatementError {
    /// It does not fit [`MAX_STATEMENT_LEN`].
    #[error("the statement has {found} bytes, the limit is {limit}")]
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
        /// The length, in bytes.
        found: usize,
    },
    /// A member that the format does not allow.
    #[error("the statement's {member} is {found}, expected {expected}")]
    Member {
        /// Which member.
        member: &'static str,
        /// What the format allows.
        expected: String,
        /// What it is; never the contents of a text.
        found: String,
    },
    /// The payload is not CBOR that we accept.
    #[error("the statement's payload: {0}")]
    Cbor(#[from] CborError),
    /// The payload does not have the members of a statement.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The signed object around it is refused.
    #[error("the statement: {0}")]
    Cose(#[from] CoseError),
    /// Issuer or subject in the header are not those of the payload.
    #[error("the {claim} in the statement's header is not the one in its payload")]
    Header {
        /// "issuer" or "subject", or "claims" if there are other ones.
        claim: &'static str,
    },
    /// The signing key failed.
    #[error(transparent)]
    Signing(#[from] SignError),
}

impl StatementError {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => Code::StatementTooLarge.as_str(),
            Self::Member { .. } => Code::StatementMalformed.as_str(),
            Self::Header { .. } => Code::StatementHeader.as_str(),
            Self::Signing(_) => Code::SigningFailed.as_str(),
            Self::Cbor(e) => e.code().as_str(),
            Self::Shape(e) => e.code().as_str(),
            Self::Cose(e) => e.code().as_str(),
        }
    }

    fn member(member: &'static str, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self::Member {
            member,
            expected: expected.into(),
            found: found.into(),
        }
    }
}

impl Statement {
    /// The payload: the deterministic CBOR of the table above.
    ///
    /// # Errors
    /// [`StatementError::Member`] or [`StatementError::Cbor`] if it is not a statement that could be read back;
    /// [`StatementError::TooLarge`] if the payload alone is over the limit.
    pub fn payload_bytes(&self) -> Result<Vec<u8>, StatementError> {
        self.check()?;
        let payload = self.encode();
        if payload.len() > MAX_STATEMENT_LEN {
            return Err(StatementError::TooLarge {
                limit: MAX_STATEMENT_LEN,
                found: payload.len(),
            });
        }
        // The body comes from elsewhere: nothing is signed that a reader would refuse.
        touchstone_cose::cbor::gate(&payload, LIMITS)?;
        Ok(payload)
    }

    /// SHA-256 of the payload: what an authorization carries, and what a decision is known by.
    ///
    /// # Errors
    /// As [`Statement::payload_bytes`].
    pub fn digest(&self) -> Result<Hash, StatementError> {
        Ok(digest(&self.payload_bytes()?))
    }

    /// Signs the statement.
    ///
    /// # Errors
    /// As [`Statement::payload_bytes`]; [`StatementError::TooLarge`] also if only header and signature make it so;
    /// [`StatementError::Signing`].
    pub fn sign(&self, signer: &dyn Signer) -> Result<Signed, StatementError> {
        let payload = self.payload_bytes()?;
        let claims = Value::map([
            (claim::ISS, self.domain.as_str().into()),
            (claim::SUB, self.header_subject().into()),
        ]);
        let protected = Protected {
            extra: vec![(label::CWT_CLAIMS, claims)],
            ..Protected::typ(TYP)
        };
        let bytes = sign1::sign(signer, &protected, &payload, &[])?;
        if bytes.len() > MAX_STATEMENT_LEN {
            return Err(StatementError::TooLarge {
                limit: MAX_STATEMENT_LEN,
                found: bytes.len(),
            });
        }
        Ok(Signed {
            bytes,
            digest: digest(&payload),
        })
    }

    /// What the header calls the subject (RFC 9943 wants one): the domain itself if the statement has none.
    fn header_subject(&self) -> &str {
        self.subject.as_deref().unwrap_or(&self.domain)
    }
}

/// A statement whose signature was checked. Only [`VerifiedStatement::parse`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedStatement {
    statement: Statement,
    digest: Hash,
    leaf: Hash,
}

impl VerifiedStatement {
    /// Verifies the signature of `signed` and reads the statement from the bytes that were signed.
    ///
    /// # Errors
    /// [`StatementError`]: the first thing that is wrong.
    pub fn parse(signed: &[u8], key: &VerifyingKey) -> Result<Self, StatementError> {
        if signed.len() > MAX_STATEMENT_LEN {
            return Err(StatementError::TooLarge {
                limit: MAX_STATEMENT_LEN,
                found: signed.len(),
            });
        }
        let verified = Unverified::parse(signed, LIMITS)?.verify(key, TYP, &[])?;
        let statement = Statement::decode(verified.payload())?;
        statement.check()?;
        let claims = verified.extra(label::CWT_CLAIMS).filter(|_| verified.extra_len() == 1);
        let claims = claims.filter(|claims| claims.as_map().is_some_and(|claims| claims.len() == 2));
        let claims = claims.ok_or(StatementError::Header { claim: "claims" })?;
        let says = |number, expected| claims.get(number).and_then(Value::as_text) == Some(expected);
        if !says(claim::ISS, statement.domain.as_str()) {
            return Err(StatementError::Header { claim: "issuer" });
        }
        if !says(claim::SUB, statement.header_subject()) {
            return Err(StatementError::Header { claim: "subject" });
        }
        Ok(Self {
            statement,
            digest: digest(verified.payload()),
            leaf: leaf_hash(signed),
        })
    }

    /// What it says.
    #[must_use]
    pub const fn statement(&self) -> &Statement {
        &self.statement
    }

    /// What it says, taken out.
    #[must_use]
    pub fn into_statement(self) -> Statement {
        self.statement
    }

    /// SHA-256 of the payload that was signed.
    #[must_use]
    pub const fn digest(&self) -> &Hash {
        &self.digest
    }

    /// The hash of its leaf.
    #[must_use]
    pub const fn leaf(&self) -> &Hash {
        &self.leaf
    }
}

/// The hash of the leaf that the signed statement `signed` is: SHA-256(0x00 || signed).
#[must_use]
pub fn leaf_hash(signed: &[u8]) -> Hash {
    tree::leaf_hash(signed)
}

fn digest(payload: &[u8]) -> Hash {
    use sha2::{Digest, Sha256};
    Sha256::digest(payload).into()
}
