//! Proofs of possession: the holder of an authorization signs what it is about to do, for one enforcer, once.
//!
//! COSE_Sign1 (tag 18) by the authorization's confirmation key (ESP256 or Ed25519), typ
//! `application/touchstone-pop+cwt`, claims 3 `aud` (the enforcer's id), 6 `iat`, 7 `cti`, and one private map under
//! -65537: {0 `ath`, 1 `act`, 2 `req`, and at most one of 3 `chl` | 4 `exp`}. Source: `docs/protocol.md`, section 6.

use touchstone_cose::cbor::{MapReader, Value, encode};
use touchstone_cose::cwt::claim;
use touchstone_cose::key::{Signer, VerifyingKey};

use crate::name::{MAX_NAME, is_name};
use crate::scope::{Action, Scope};
use crate::signed::{SignedError, SignedKind, UntrustedSigned, sign};

/// The typ (COSE header 16) of proofs of possession.
pub const PROOF_TYPE: &str = "application/touchstone-pop+cwt";

/// The largest proof that is looked at, in bytes.
pub const MAX_PROOF_BYTES: usize = 640;

/// The shortest challenge an enforcer may give, in bytes.
pub const MIN_CHALLENGE: usize = 16;

/// The longest challenge an enforcer may give, in bytes.
pub const MAX_CHALLENGE: usize = 64;

/// The label under which the exporter of a TLS connection is taken for proofs; the context is `ath`, 32 bytes.
pub const EXPORTER_LABEL: &str = "EXPORTER-touchstone-pop";

// Labels within the private map.
const AUTHORIZATION_DIGEST: i64 = 0;
const ACT: i64 = 1;
const REQUEST_DIGEST: i64 = 2;
const CHALLENGE: i64 = 3;
const EXPORTER: i64 = 4;

/// What ties a proof to one use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Channel {
    /// `chl`: the enforcer's single-use challenge, [`MIN_CHALLENGE`] to [`MAX_CHALLENGE`] bytes.
    Challenge(Vec<u8>),
    /// `exp`: TLS-Exporter([`EXPORTER_LABEL`], `ath`, 32) of the connection.
    Exporter([u8; 32]),
    /// Neither: only for endpoints that do not end TLS, and then with a request digest.
    None,
}

impl Channel {
    /// What it is, in words, without its value.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Challenge(_) => "another challenge",
            Self::Exporter(_) => "another exporter",
            Self::None => "neither",
        }
    }
}

/// The contents of a proof of possession.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// `aud`: the id of the enforcer it is for.
    pub audience: String,
    /// `iat`: when it was made, in Unix seconds.
    pub issued_at: u64,
    /// `cti`: 16 random bytes.
    pub cti: [u8; 16],
    /// `ath`: SHA-256 of the whole authorization chain as presented.
    pub authorization_digest: [u8; 32],
    /// `act`: the action and resource it is for.
    pub scope: Scope,
    /// `req`: SHA-256 of (method, authority, path, body digest).
    pub request_digest: Option<[u8; 32]>,
    /// `chl` or `exp`.
    pub channel: Channel,
}

impl Proof {
    /// Signs the proof with the confirmation key; a TPM-held key is a [`Signer`] like any other. Refuses contents that
    /// [`UntrustedProof::verify`] would not take.
    pub fn encode_signed(&self, signer: &dyn Signer) -> Result<Vec<u8>, SignedError> {
        self.check()?;
        let channel = match &self.channel {
            Channel::Challenge(challenge) => Some((CHALLENGE, Value::bytes(challenge.as_slice()))),
            Channel::Exporter(exporter) => Some((EXPORTER, Value::bytes(*exporter))),
            Channel::None => None,
        };
        let act = vec![
            Value::text(self.scope.action().as_str()),
            Value::text(self.scope.resource()),
        ];
        let private = [
            (AUTHORIZATION_DIGEST, Value::bytes(self.authorization_digest)),
            (ACT, Value::Array(act)),
            (REQUEST_DIGEST, self.request_digest.map_or(Value::Null, Value::bytes)),
        ];
        let claims = Value::map([
            (claim::AUD, Value::text(self.audience.as_str())),
            (claim::IAT, Value::Unsigned(self.issued_at)),
            (claim::CTI, Value::bytes(self.cti)),
            (claim::PRIVATE, Value::map(private.into_iter().chain(channel))),
        ]);
        sign(SignedKind::Proof, &encode(&claims), signer)
    }

    fn read(payload: Value) -> Result<Self, SignedError> {
        let mut claims = MapReader::new(payload, "proof of possession")?;
        let mut private = claims.map(claim::PRIVATE, "proof of possession, private claims")?;
        let request_digest = match private.required(REQUEST_DIGEST)? {
            Value::Null => None,
            Value::Bytes(digest) => Some(
                digest
                    .try_into()
                    .map_err(|_| SignedError::malformed("req has 32 bytes"))?,
            ),
            _ => return Err(SignedError::malformed("req is a byte string or null")),
        };
        let channel = match (private.optional(CHALLENGE), private.optional(EXPORTER)) {
            (Some(Value::Bytes(challenge)), None) => Channel::Challenge(challenge),
            (None, Some(Value::Bytes(exporter))) => Channel::Exporter(
                exporter
                    .try_into()
                    .map_err(|_| SignedError::malformed("exp has 32 bytes"))?,
            ),
            (None, None) => Channel::None,
            _ => return Err(SignedError::malformed("one of chl and exp, a byte string")),
        };
        let proof = Self {
            audience: claims.text(claim::AUD, MAX_NAME)?,
            issued_at: claims.u64(claim::IAT)?,
            cti: claims.fixed(claim::CTI)?,
            authorization_digest: private.fixed(AUTHORIZATION_DIGEST)?,
            scope: act(&private.array(ACT)?)?,
            request_digest,
            channel,
        };
        claims.finish()?;
        private.finish()?;
        proof.check()?;
        Ok(proof)
    }

    fn check(&self) -> Result<(), SignedError> {
        if !is_name(&self.audience) {
            return Err(SignedError::malformed("aud is not the id of an enforcer"));
        }
        match &self.channel {
            Channel::Challenge(challenge) if !(MIN_CHALLENGE..=MAX_CHALLENGE).contains(&challenge.len()) => Err(
                SignedError::out_of_range("bytes in the challenge", challenge.len() as u64),
            ),
            _ => Ok(()),
        }
    }
}

/// A proof that was presented. Nothing in it may be believed before [`UntrustedProof::verify`].
#[derive(Debug)]
pub struct UntrustedProof {
    signed: UntrustedSigned,
}

impl UntrustedProof {
    /// Reads the envelope: at most [`MAX_PROOF_BYTES`], of type [`PROOF_TYPE`].
    pub fn parse(bytes: &[u8]) -> Result<Self, SignedError> {
        Ok(Self {
            signed: UntrustedSigned::parse(SignedKind::Proof, bytes)?,
        })
    }

    /// Verifies the signature under the confirmation key of the authorization it is presented with, then reads the
    /// claims out of the bytes that were verified. What they say is judged by [`crate::decide::decide`].
    pub fn verify(self, confirmation: &VerifyingKey) -> Result<VerifiedProof, SignedError> {
        Ok(VerifiedProof {
            claims: Proof::read(self.signed.verify_under(confirmation)?)?,
        })
    }
}

/// A proof whose signature verified under the confirmation key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedProof {
    claims: Proof,
}

impl VerifiedProof {
    /// What was signed.
    pub fn claims(&self) -> &Proof {
        &self.claims
    }
}

fn act(values: &[Value]) -> Result<Scope, SignedError> {
    let shape = || SignedError::malformed("act is [action, resource]");
    let [action, resource] = values else {
        return Err(shape());
    };
    let action = action.as_text().and_then(Action::parse).ok_or_else(shape)?;
    Scope::new(action, resource.as_text().ok_or_else(shape)?).map_err(|error| SignedError::Malformed(error.to_string()))
}
