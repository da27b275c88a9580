//! Asking for a key, the answer, and what is inside it (`docs/protocol.md`, section 11).

use sha2::{Digest as _, Sha256};
use touchstone_cose::cbor::{self, ShapeError, Value};
use zeroize::{Zeroize as _, Zeroizing};

use super::answer::{MAX_RECEIPT, MAX_STATEMENT, WireReason, reason_values, reasons};
use super::{MessageError, bytes, open, optional_bytes};

const REQUEST: &str = "release request";
const ANSWER: &str = "release answer";
const CONTENT: &str = "released key";
const ALLOW: &str = "allow";
const DENY: &str = "deny";
/// Separates these nonces from those of challenges.
const NONCE_DOMAIN: &[u8] = b"touchstone-release-nonce/1";

/// The route.
pub const RELEASE_PATH: &str = "/v1/keys/release";
/// typ (COSE header 16) of the signed answer, whose payload is the COSE_Encrypt.
pub const RELEASE_TYPE: &str = "application/touchstone-release+cose";
/// typ of the COSE_Encrypt.
pub const KEY_TYPE: &str = "application/touchstone-key+cose";
/// The private label of the signed answer's protected header that holds the digest of its statement.
pub const STATEMENT_LABEL: i64 = -65537;
/// The largest request.
pub const MAX_RELEASE_REQUEST: usize = 4 << 10;
/// The largest answer.
pub const MAX_RELEASE_ANSWER: usize = 128 << 10;
/// The largest signed and encrypted key.
pub const MAX_SEALED: usize = 24 << 10;
/// The longest name of a key.
pub const MAX_KEY_NAME: usize = 64;

const MAX_AUTHORIZATION: usize = 1 << 10;
const MAX_PROOF: usize = 1 << 10;
/// The largest secret.
pub const MAX_SECRET: usize = 8 << 10;

/// The id under which a domain's brokers are enforcers: `aud` of proofs that ask for a key.
#[must_use]
pub fn release_audience(domain: &str) -> String {
    format!("{domain}/keys")
}

/// What a proof of possession by the key with this thumbprint uses up when it asks for a key: the nonce of the statement.
#[must_use]
pub fn release_nonce(key: &[u8; 32], cti: &[u8; 16]) -> [u8; 32] {
    let digest = Sha256::new()
        .chain_update(NONCE_DOMAIN)
        .chain_update(key)
        .chain_update(cti);
    digest.finalize().into()
}

/// Workload → broker: give me this key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseRequest {
    /// The authorization.
    pub authorization: Vec<u8>,
    /// The proof of possession, for this connection and the key's resource.
    pub proof: Vec<u8>,
    /// The key's name.
    pub key: String,
    /// Its version; none for the newest.
    pub version: Option<u64>,
    /// The resource it is filed under: what the authorization's scope names.
    pub resource: String,
}

impl ReleaseRequest {
    /// The message's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        cbor::encode(&Value::map([
            (0, Value::bytes(self.authorization.as_slice())),
            (1, Value::bytes(self.proof.as_slice())),
            (2, Value::text(self.key.as_str())),
            (3, self.version.map_or(Value::Null, Value::Unsigned)),
            (4, Value::text(self.resource.as_str())),
        ]))
    }

    /// Reads a request.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn decode(message: &[u8]) -> Result<Self, MessageError> {
        let mut reader = open(message, MAX_RELEASE_REQUEST, REQUEST)?;
        let request = Self {
            authorization: bytes(&mut reader, 0, REQUEST, MAX_AUTHORIZATION)?,
            proof: bytes(&mut reader, 1, REQUEST, MAX_PROOF)?,
            key: reader.text(2, MAX_KEY_NAME)?,
            version: match reader.required(3)? {
                Value::Null => None,
                Value::Unsigned(version) => Some(version),
                other => {
                    let expected = "a version or null";
                    return Err(ShapeError::member(REQUEST, "key 3", expected, other.kind()).into());
                }
            },
            resource: reader.text(4, MAX_KEY_NAME)?,
        };
        reader.finish()?;
        Ok(request)
    }
}

/// Broker → workload: what was decided, and the key where it was allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseAnswer {
    /// The signed statement in the ledger.
    pub statement: Vec<u8>,
    /// The statement's receipt.
    pub receipt: Vec<u8>,
    /// Every reason for a denial.
    pub reasons: Vec<WireReason>,
    /// COSE_Sign1 over COSE_Encrypt, where it was allowed.
    pub sealed: Option<Vec<u8>>,
}

impl ReleaseAnswer {
    /// The message's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let verdict = if self.sealed.is_some() { ALLOW } else { DENY };
        cbor::encode(&Value::map([
            (0, Value::text(verdict)),
            (1, Value::bytes(self.statement.as_slice())),
            (2, Value::bytes(self.receipt.as_slice())),
            (3, Value::array(reason_values(&self.reasons))),
            (4, self.sealed.as_deref().map_or(Value::Null, Value::bytes)),
        ]))
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn decode(message: &[u8]) -> Result<Self, MessageError> {
        let mut reader = open(message, MAX_RELEASE_ANSWER, ANSWER)?;
        let allowed = match reader.required(0)?.as_text() {
            Some(ALLOW) => true,
            Some(DENY) => false,
            _ => return Err(ShapeError::member(ANSWER, "key 0", "\"allow\" or \"deny\"", "something else").into()),
        };
        let answer = Self {
            statement: bytes(&mut reader, 1, ANSWER, MAX_STATEMENT)?,
            receipt: bytes(&mut reader, 2, ANSWER, MAX_RECEIPT)?,
            reasons: reasons(reader.array(3)?)?,
            sealed: optional_bytes(&mut reader, 4, ANSWER, MAX_SEALED)?,
        };
        reader.finish()?;
        if answer.sealed.is_some() != allowed {
            let (expected, found) = if allowed { ("a key", "null") } else { ("null", "a key") };
            return Err(ShapeError::member(ANSWER, "key 4", expected, found).into());
        }
        Ok(answer)
    }
}

/// What is inside the COSE_Encrypt.
#[derive(PartialEq, Eq)]
pub struct ReleasedKey {
    /// The key's name.
    pub name: String,
    /// The version.
    pub version: u64,
    /// When its holder must drop it, Unix seconds, where it has an end.
    pub ends: Option<i64>,
    /// The secret; wiped when dropped.
    pub secret: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for ReleasedKey {
    /// Everything but the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReleasedKey")
            .field("name", &self.name)
            .field("version", &self.version)
            .field("ends", &self.ends)
            .finish_non_exhaustive()
    }
}

impl ReleasedKey {
    /// The content's bytes; wiped when dropped.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut value = Value::map([
            (0, Value::text(self.name.as_str())),
            (1, Value::Unsigned(self.version)),
            (2, self.ends.map_or(Value::Null, Value::int)),
            (3, Value::bytes(self.secret.as_slice())),
        ]);
        // Twice the secret at most: the encoder never has to move it, and leaves no copy behind.
        let encoded = Zeroizing::new(cbor::encode(&value));
        if let Value::Map(entries) = &mut value {
            for (_, member) in entries {
                if let Value::Bytes(secret) = member {
                    secret.zeroize();
                }
            }
        }
        encoded
    }

    /// Reads the content.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn decode(content: &[u8]) -> Result<Self, MessageError> {
        let mut reader = open(content, MAX_SECRET + 256, CONTENT)?;
        let key = Self {
            name: reader.text(0, MAX_KEY_NAME)?,
            version: reader.u64(1)?,
            ends: match reader.required(2)? {
                Value::Null => None,
                value => Some(
                    value
                        .as_i64()
                        .ok_or_else(|| ShapeError::member(CONTENT, "key 2", "Unix seconds or null", value.kind()))?,
                ),
            },
            secret: Zeroizing::new(bytes(&mut reader, 3, CONTENT, MAX_SECRET)?),
        };
        reader.finish()?;
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> ReleaseRequest {
        ReleaseRequest {
            authorization: vec![1; 300],
            proof: vec![2; 200],
            key: "db/main".into(),
            version: Some(3),
            resource: "keys".into(),
        }
    }

    fn answer(sealed: Option<Vec<u8>>) -> ReleaseAnswer {
        ReleaseAnswer {
            statement: vec![1; 500],
            receipt: vec![2; 300],
            reasons: Vec::new(),
            sealed,
        }
    }

    #[test]
    fn messages_are_read_as_they_were_written_and_no_shorter() {
        let newest = ReleaseRequest {
            version: None,
            ..request()
        };
        for request in [request(), newest] {
            assert_eq!(ReleaseRequest::decode(&request.encode()).unwrap(), request);
        }
        for answer in [answer(None), answer(Some(vec![3; 400]))] {
            let bytes = answer.encode();
            assert_eq!(ReleaseAnswer::decode(&bytes).unwrap(), answer);
            for end in 0..bytes.len() {
                assert!(ReleaseAnswer::decode(&bytes[..end]).is_err(), "cut at {end}");
            }
        }
        let key = ReleasedKey {
            name: "db/main".into(),
            version: 2,
            ends: Some(9),
            secret: Zeroizing::new(b"secret".to_vec()),
        };
        assert_eq!(ReleasedKey::decode(&key.encode()).unwrap(), key);
        assert!(!format!("{key:?}").contains("115"), "no byte of the secret is shown");
    }

    #[test]
    fn a_key_beside_a_denial_is_two_answers_in_one() {
        let allowed = answer(Some(vec![3; 400])).encode();
        let Value::Map(mut entries) = cbor::decode(&allowed, cbor::Limits::MESSAGE).unwrap() else {
            unreachable!()
        };
        entries[0].1 = Value::text(DENY);
        assert!(ReleaseAnswer::decode(&cbor::encode(&Value::Map(entries))).is_err());
    }
}
