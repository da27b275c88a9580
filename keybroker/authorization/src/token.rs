//! Authorizations: short-lived CWTs that name who may do what, where and until when, bound to a key that only the
//! subject's hardware holds.
//!
//! CWT (tag 61) in a COSE_Sign1 (tag 18), protected header {1: -19 (Ed25519), 4: kid (8 bytes), 16: typ
//! `application/touchstone-auth+cwt`}, claims 1 `iss`, 2 `sub`, 3 `aud`, 4 `exp`, 5 `nbf`, 6 `iat`, 7 `cti`, 8 `cnf`
//! {1: COSE_Key, compressed}, 9 `scope`, and one private map under -65537. Contents and size: `docs/protocol.md`,
//! section 6; claims: RFC 8392, RFC 8747, RFC 9596.

use sha2::{Digest as _, Sha256};
use touchstone_cose::cbor::{MapReader, Value, encode};
use touchstone_cose::cwt::{claim, confirmation};
use touchstone_cose::key::{Algorithm, KID_LEN, Signer, VerifyingKey};

use crate::keys::KeyRing;
use crate::name::{MAX_NAME, MAX_SUBJECT, MAX_WORD, is_name, is_subject, is_word};
use crate::scope::{MAX_RESOURCE, MAX_SCOPES, Scope, format_list, parse_list};
use crate::signed::{SignedError, SignedKind, UntrustedSigned, sign};

/// The typ (COSE header 16) of authorizations.
pub const AUTHORIZATION_TYPE: &str = "application/touchstone-auth+cwt";

/// The largest authorization that is looked at, in bytes.
pub const MAX_AUTHORIZATION_BYTES: usize = 1_024;

pub(crate) const MAX_SCOPE_TEXT: usize = MAX_SCOPES * ("administer: ".len() + MAX_RESOURCE);

// Labels within the private map.
const POLICY_VERSION: i64 = 0;
const EPOCH: i64 = 1;
const PARENT: i64 = 2;
const STATEMENT: i64 = 3;
const STATUS: i64 = 4;
const KEY_KIND: i64 = 5;
const DEPTH: i64 = 6;
const DELEGATION: i64 = 7;
const REGION: i64 = 8;
const PURPOSE: i64 = 9;

/// How far below a node's authorization the deepest descendant may hang. What could be delegated further than that is none.
pub const MAX_LINEAGE_DEPTH: u8 = 16;

/// SHA-256 of an authorization, or of a whole chain ([`crate::chain`]), as it is presented: `ath` of its proofs, and the
/// name to keep its [`crate::chain::VerifiedChain`] under.
pub fn authorization_digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// What keeps the confirmation key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum KeyKind {
    /// A TPM; the key never leaves it.
    Tpm,
    /// The encrypted memory of a confidential VM.
    Tee,
    /// A process.
    Software,
}

impl KeyKind {
    /// The word used in policies and results.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tpm => "tpm",
            Self::Tee => "tee",
            Self::Software => "software",
        }
    }

    const fn number(self) -> u64 {
        match self {
            Self::Tpm => 0,
            Self::Tee => 1,
            Self::Software => 2,
        }
    }

    const fn from_number(number: u64) -> Option<Self> {
        match number {
            0 => Some(Self::Tpm),
            1 => Some(Self::Tee),
            2 => Some(Self::Software),
            _ => None,
        }
    }
}

/// Where a domain's trust state says whether the authorization still holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StatusIndex {
    /// The number of the status list.
    pub list: u16,
    /// The generation of the domain in which the index was given out.
    pub generation: u32,
    /// The entry in the list.
    pub index: u32,
}

/// The right to hand on a part of one's own rights: those on a resource for which one also holds `delegate:RESOURCE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DelegationRight {
    /// How many descendants may follow one another below this holder; at least 1.
    pub depth: u8,
    /// Whether it may be done without asking the broker, by signed blocks ([`crate::block`]).
    pub offline: bool,
}

/// The contents of an authorization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorization {
    /// `iss`: the domain that issues it.
    pub issuer: String,
    /// `sub`: the node or workload.
    pub subject: String,
    /// `aud`: the domain whose enforcers take it.
    pub audience: String,
    /// `exp`: the Unix second from which on it no longer counts.
    pub expires: u64,
    /// `nbf`: the first Unix second at which it counts.
    pub not_before: u64,
    /// `iat`: when it was made, in Unix seconds.
    pub issued_at: u64,
    /// `cti`: its id.
    pub cti: [u8; 16],
    /// `cnf`: the key its holder proves possession of.
    pub confirmation: VerifyingKey,
    /// `scope`: one to [`MAX_SCOPES`] rights.
    pub scopes: Vec<Scope>,
    /// The policy version it was decided under.
    pub policy_version: u64,
    /// The trust-state epoch it was decided in.
    pub epoch: u64,
    /// The `cti` of the authorization it descends from.
    pub parent: Option<[u8; 16]>,
    /// Digest of its ledger statement.
    pub statement: [u8; 32],
    /// Where its status stands.
    pub status: StatusIndex,
    /// What keeps the confirmation key.
    pub key_kind: KeyKind,
    /// How many ancestors it has: 0 for a node's own.
    pub depth: u8,
    /// Whether its holder may hand on a part of it.
    pub delegation: Option<DelegationRight>,
    /// The only region whose enforcers take it; everywhere where there is none.
    pub region: Option<String>,
    /// The only purpose it counts for; any where there is none.
    pub purpose: Option<String>,
}

impl Authorization {
    /// Signs the authorization. Refuses contents that [`UntrustedAuthorization::verify`] would not take.
    pub fn encode_signed(&self, signer: &dyn Signer) -> Result<Vec<u8>, SignedError> {
        self.check()?;
        let scopes = format_list(&self.scopes).map_err(|error| SignedError::Malformed(error.to_string()))?;
        let claims = Value::map([
            (claim::ISS, Value::text(self.issuer.as_str())),
            (claim::SUB, Value::text(self.subject.as_str())),
            (claim::AUD, Value::text(self.audience.as_str())),
            (claim::EXP, Value::Unsigned(self.expires)),
            (claim::NBF, Value::Unsigned(self.not_before)),
            (claim::IAT, Value::Unsigned(self.issued_at)),
            (claim::CTI, Value::bytes(self.cti)),
            (
                claim::CNF,
                Value::map([(confirmation::COSE_KEY, self.confirmation.to_cose_key(true))]),
            ),
            (claim::SCOPE, Value::text(scopes)),
            (claim::PRIVATE, self.private_claims()),
        ]);
        sign(SignedKind::Authorization, &encode(&claims), signer)
    }

    fn private_claims(&self) -> Value {
        let status = Value::Array(vec![
            Value::Unsigned(self.status.list.into()),
            Value::Unsigned(self.status.generation.into()),
            Value::Unsigned(self.status.index.into()),
        ]);
        let parent = self.parent.map(|parent| (PARENT, Value::bytes(parent)));
        let depth = (self.depth > 0).then(|| (DEPTH, Value::Unsigned(self.depth.into())));
        let delegation = self.delegation.map(|right| {
            let right = [Value::Unsigned(right.depth.into()), Value::Bool(right.offline)];
            (DELEGATION, Value::array(right))
        });
        let region = self.region.as_deref().map(|region| (REGION, Value::text(region)));
        let purpose = self.purpose.as_deref().map(|purpose| (PURPOSE, Value::text(purpose)));
        Value::map(
            [
                (POLICY_VERSION, Value::Unsigned(self.policy_version)),
                (EPOCH, Value::Unsigned(self.epoch)),
                (STATEMENT, Value::bytes(self.statement)),
                (STATUS, status),
                (KEY_KIND, Value::Unsigned(self.key_kind.number())),
            ]
            .into_iter()
            .chain(parent)
            .chain(depth)
            .chain(delegation)
            .chain(region)
            .chain(purpose),
        )
    }

    pub(crate) fn read(payload: Value) -> Result<Self, SignedError> {
        let mut claims = MapReader::new(payload, "authorization")?;
        let mut cnf = claims.map(claim::CNF, "authorization, cnf")?;
        let mut private = claims.map(claim::PRIVATE, "authorization, private claims")?;
        let kind = private.u64(KEY_KIND)?;
        let authorization = Self {
            issuer: claims.text(claim::ISS, MAX_NAME)?,
            subject: claims.text(claim::SUB, MAX_SUBJECT)?,
            audience: claims.text(claim::AUD, MAX_NAME)?,
            expires: claims.u64(claim::EXP)?,
            not_before: claims.u64(claim::NBF)?,
            issued_at: claims.u64(claim::IAT)?,
            cti: claims.fixed(claim::CTI)?,
            confirmation: VerifyingKey::from_cose_key(&cnf.required(confirmation::COSE_KEY)?)
                .map_err(|error| SignedError::Malformed(error.to_string()))?,
            scopes: parse_list(&claims.text(claim::SCOPE, MAX_SCOPE_TEXT)?)
                .map_err(|error| SignedError::Malformed(error.to_string()))?,
            policy_version: private.u64(POLICY_VERSION)?,
            epoch: private.u64(EPOCH)?,
            parent: private.optional_fixed(PARENT)?,
            statement: private.fixed(STATEMENT)?,
            status: status_index(private.array(STATUS)?)?,
            key_kind: KeyKind::from_number(kind).ok_or_else(|| SignedError::out_of_range("key kind", kind))?,
            depth: optional_depth(&mut private, DEPTH)?,
            delegation: private.optional(DELEGATION).map(delegation_right).transpose()?,
            region: optional_word(&mut private, REGION)?,
            purpose: optional_word(&mut private, PURPOSE)?,
        };
        claims.finish()?;
        cnf.finish()?;
        private.finish()?;
        authorization.check()?;
        Ok(authorization)
    }

    fn check(&self) -> Result<(), SignedError> {
        let names = [
            ("iss", is_name(&self.issuer)),
            ("sub", is_subject(&self.subject)),
            ("aud", is_name(&self.audience)),
        ];
        for (what, good) in names {
            if !good {
                return Err(SignedError::Malformed(format!("{what} is not a name")));
            }
        }
        check_confirmation(&self.confirmation)?;
        check_words(self.region.as_deref(), self.purpose.as_deref())?;
        if self.not_before >= self.expires {
            return Err(SignedError::malformed("it ends before it begins"));
        }
        // A child names its parent, and a node's own authorization has none above it; the one that a node fetches for another
        // domain names its own and stays a node's.
        if self.depth > 0 && self.parent.is_none() {
            return Err(SignedError::malformed("it has ancestors and names no parent"));
        }
        let further = self.delegation.map_or(0, |right| right.depth);
        if self.delegation.is_some() && further == 0 {
            return Err(SignedError::malformed("a delegation right of no depth is none"));
        }
        if self.depth.saturating_add(further) > MAX_LINEAGE_DEPTH {
            let found = u64::from(self.depth) + u64::from(further);
            return Err(SignedError::out_of_range("depth of its lineage", found));
        }
        Ok(())
    }
}

/// Proofs are made with these two; another curve could never prove possession.
pub(crate) fn check_confirmation(key: &VerifyingKey) -> Result<(), SignedError> {
    match key.algorithm() {
        Algorithm::Ed25519 | Algorithm::Esp256 => Ok(()),
        _ => Err(SignedError::malformed("cnf is neither an Ed25519 nor a P-256 key")),
    }
}

pub(crate) fn check_words(region: Option<&str>, purpose: Option<&str>) -> Result<(), SignedError> {
    for (what, word) in [("region", region), ("purpose", purpose)] {
        if !word.is_none_or(is_word) {
            return Err(SignedError::Malformed(format!(
                "{what} does not follow [a-z0-9][a-z0-9._-]{{0,63}}"
            )));
        }
    }
    Ok(())
}

pub(crate) fn optional_word(map: &mut MapReader, key: i64) -> Result<Option<String>, SignedError> {
    match map.optional(key) {
        None => Ok(None),
        Some(Value::Text(text)) if text.len() <= MAX_WORD => Ok(Some(text)),
        Some(_) => Err(SignedError::malformed("region and purpose are short texts, or absent")),
    }
}

/// A depth of 0 is written by leaving it out, so that there is one encoding.
pub(crate) fn optional_depth(map: &mut MapReader, key: i64) -> Result<u8, SignedError> {
    match map.optional(key) {
        None => Ok(0),
        Some(Value::Unsigned(depth)) if (1..=u64::from(MAX_LINEAGE_DEPTH)).contains(&depth) => {
            u8::try_from(depth).map_err(|_| SignedError::out_of_range("depth", depth))
        }
        Some(Value::Unsigned(depth)) => Err(SignedError::out_of_range("depth", depth)),
        Some(_) => Err(SignedError::malformed("a depth is a number, or absent for 0")),
    }
}

fn delegation_right(value: Value) -> Result<DelegationRight, SignedError> {
    let malformed = || SignedError::malformed("the right to delegate is [depth, off-line]");
    let [Value::Unsigned(depth), Value::Bool(offline)] = value.as_array().ok_or_else(malformed)? else {
        return Err(malformed());
    };
    let depth = u8::try_from(*depth).map_err(|_| SignedError::out_of_range("depth of delegation", *depth))?;
    Ok(DelegationRight {
        depth,
        offline: *offline,
    })
}

/// An authorization that was presented. Nothing in it may be believed before [`UntrustedAuthorization::verify`].
#[derive(Debug)]
pub struct UntrustedAuthorization {
    signed: UntrustedSigned,
    digest: [u8; 32],
}

impl UntrustedAuthorization {
    /// Reads the envelope: at most [`MAX_AUTHORIZATION_BYTES`], of type [`AUTHORIZATION_TYPE`].
    pub fn parse(bytes: &[u8]) -> Result<Self, SignedError> {
        let signed = UntrustedSigned::parse(SignedKind::Authorization, bytes)?;
        Ok(Self {
            signed,
            digest: authorization_digest(bytes),
        })
    }

    /// Verifies the signature under the key of `keys` that it names and that counts at `now_ms` (Unix milliseconds),
    /// then reads the claims out of the bytes that were verified. Time, status and audience are judged by
    /// [`crate::decide::decide`].
    pub fn verify(self, keys: &KeyRing, now_ms: u64) -> Result<VerifiedAuthorization, SignedError> {
        let kid = self.signed.kid();
        let signer = keys.find(&kid, now_ms).ok_or(SignedError::KeyUnknown { kid })?;
        let contents = Authorization::read(self.signed.verify_under(signer)?)?;
        let confirmation_thumbprint = contents.confirmation.thumbprint();
        Ok(VerifiedAuthorization {
            contents,
            kid,
            signer: signer.clone(),
            digest: self.digest,
            confirmation_thumbprint,
        })
    }
}

/// An authorization whose signature verified. Whether it counts now is for [`crate::decide`] to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedAuthorization {
    contents: Authorization,
    kid: [u8; KID_LEN],
    signer: VerifyingKey,
    digest: [u8; 32],
    confirmation_thumbprint: [u8; 32],
}

impl VerifiedAuthorization {
    /// Its claims.
    pub fn contents(&self) -> &Authorization {
        &self.contents
    }

    /// [`authorization_digest`] of the bytes that were presented.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// RFC 9679 thumbprint of the confirmation key.
    pub fn confirmation_thumbprint(&self) -> &[u8; 32] {
        &self.confirmation_thumbprint
    }

    /// The id of the key that signed it.
    pub fn key_id(&self) -> &[u8; KID_LEN] {
        &self.kid
    }

    /// Whether the key that signed it is in `keys` and counts at `now_ms`.
    pub fn signer_is_in(&self, keys: &KeyRing, now_ms: u64) -> bool {
        keys.find(&self.kid, now_ms) == Some(&self.signer)
    }
}

fn status_index(values: Vec<Value>) -> Result<StatusIndex, SignedError> {
    let malformed = || SignedError::malformed("status is [list, generation, index]");
    let [list, generation, index] = values.as_slice() else {
        return Err(malformed());
    };
    Ok(StatusIndex {
        list: list.as_u64().and_then(|n| n.try_into().ok()).ok_or_else(malformed)?,
        generation: generation
            .as_u64()
            .and_then(|n| n.try_into().ok())
            .ok_or_else(malformed)?,
        index: index.as_u64().and_then(|n| n.try_into().ok()).ok_or_else(malformed)?,
    })
}
