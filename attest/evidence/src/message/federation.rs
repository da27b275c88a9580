//! Asking one's own domain for an authorization that counts in another, and the answer (`docs/protocol.md`, section 12).

use touchstone_cose::cbor::{self, ShapeError, Value};

use super::answer::{MAX_RECEIPT, MAX_STATEMENT, MAX_TOKEN, WireReason, reason_values, reasons};
use super::{MessageError, bytes, open, optional_bytes};

const REQUEST: &str = "federation request";
const ANSWER: &str = "federation answer";
const ALLOW: &str = "allow";
const DENY: &str = "deny";

/// The largest request.
pub const MAX_FOREIGN_REQUEST: usize = 4 << 10;
/// Most scopes asked for at once.
pub const MAX_FOREIGN_SCOPES: usize = 16;

const MAX_PROOF: usize = 1 << 10;
const MAX_SCOPE: usize = 80;
const MAX_DOMAIN: usize = 64;

/// The route for authorizations that count in `audience`.
#[must_use]
pub fn foreign_path(audience: &str) -> String {
    format!("/v1/federation/{audience}/authorization")
}

/// The id under which a domain's brokers take proofs that ask for such an authorization.
#[must_use]
pub fn foreign_audience(domain: &str) -> String {
    format!("{domain}/federation")
}

/// Node → broker of its own domain: an authorization that counts in another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignRequest {
    /// The authorization it holds.
    pub authorization: Vec<u8>,
    /// The proof of possession, for this connection and the first of the scopes.
    pub proof: Vec<u8>,
    /// The domain it is to count in.
    pub audience: String,
    /// What it is to grant: `action:resource`, of what the node holds.
    pub scopes: Vec<String>,
}

impl ForeignRequest {
    /// The message's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        cbor::encode(&Value::map([
            (0, Value::bytes(self.authorization.as_slice())),
            (1, Value::bytes(self.proof.as_slice())),
            (2, Value::text(self.audience.as_str())),
            (
                3,
                Value::array(self.scopes.iter().map(|scope| Value::text(scope.as_str()))),
            ),
        ]))
    }

    /// Reads a request.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn decode(message: &[u8]) -> Result<Self, MessageError> {
        let mut reader = open(message, MAX_FOREIGN_REQUEST, REQUEST)?;
        let request = Self {
            authorization: bytes(&mut reader, 0, REQUEST, MAX_TOKEN)?,
            proof: bytes(&mut reader, 1, REQUEST, MAX_PROOF)?,
            audience: reader.text(2, MAX_DOMAIN)?,
            scopes: scopes(reader.array(3)?)?,
        };
        reader.finish()?;
        Ok(request)
    }
}

fn scopes(values: Vec<Value>) -> Result<Vec<String>, MessageError> {
    let shape = |found: &str| ShapeError::member(REQUEST, "key 3", "1 to 16 scopes", found);
    if values.is_empty() || values.len() > MAX_FOREIGN_SCOPES {
        return Err(shape("another number").into());
    }
    let scopes = values.into_iter().map(|value| match value {
        Value::Text(text) if text.len() <= MAX_SCOPE => Ok(text),
        _ => Err(shape("something else").into()),
    });
    scopes.collect()
}

/// Broker → node: what was decided, and the authorization where it was allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignAnswer {
    /// The signed statement in the ledger.
    pub statement: Vec<u8>,
    /// The statement's receipt.
    pub receipt: Vec<u8>,
    /// Every reason for a denial.
    pub reasons: Vec<WireReason>,
    /// The authorization, where it was allowed.
    pub authorization: Option<Vec<u8>>,
}

impl ForeignAnswer {
    /// The message's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let verdict = if self.authorization.is_some() { ALLOW } else { DENY };
        cbor::encode(&Value::map([
            (0, Value::text(verdict)),
            (1, Value::bytes(self.statement.as_slice())),
            (2, Value::bytes(self.receipt.as_slice())),
            (3, Value::array(reason_values(&self.reasons))),
            (4, self.authorization.as_deref().map_or(Value::Null, Value::bytes)),
        ]))
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn decode(message: &[u8]) -> Result<Self, MessageError> {
        let mut reader = open(message, super::MAX_ANSWER, ANSWER)?;
        let allowed = match reader.required(0)?.as_text() {
            Some(ALLOW) => true,
            Some(DENY) => false,
            _ => return Err(ShapeError::member(ANSWER, "key 0", "\"allow\" or \"deny\"", "something else").into()),
        };
        let answer = Self {
            statement: bytes(&mut reader, 1, ANSWER, MAX_STATEMENT)?,
            receipt: bytes(&mut reader, 2, ANSWER, MAX_RECEIPT)?,
            reasons: reasons(reader.array(3)?)?,
            authorization: optional_bytes(&mut reader, 4, ANSWER, MAX_TOKEN)?,
        };
        reader.finish()?;
        if answer.authorization.is_some() != allowed {
            let expected = if allowed { "an authorization" } else { "null" };
            return Err(ShapeError::member(ANSWER, "key 4", expected, "the other").into());
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> ForeignRequest {
        ForeignRequest {
            authorization: vec![1; 300],
            proof: vec![2; 200],
            audience: "a.example".into(),
            scopes: vec!["execute:partners/b/render".into()],
        }
    }

    #[test]
    fn messages_are_read_as_they_were_written_and_no_shorter() {
        let bytes = request().encode();
        assert_eq!(ForeignRequest::decode(&bytes).unwrap(), request());
        for end in 0..bytes.len() {
            assert!(ForeignRequest::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
        for authorization in [None, Some(vec![3; 400])] {
            let answer = ForeignAnswer {
                statement: vec![1; 500],
                receipt: vec![2; 300],
                reasons: Vec::new(),
                authorization,
            };
            let bytes = answer.encode();
            assert_eq!(ForeignAnswer::decode(&bytes).unwrap(), answer);
            for end in 0..bytes.len() {
                assert!(ForeignAnswer::decode(&bytes[..end]).is_err(), "cut at {end}");
            }
        }
    }

    #[test]
    fn requests_that_are_none() {
        for (attack, change) in [
            ("no scope", (|r| r.scopes.clear()) as fn(&mut ForeignRequest)),
            ("too many scopes", |r| {
                r.scopes = vec!["execute:a".into(); MAX_FOREIGN_SCOPES + 1]
            }),
            ("a long scope", |r| r.scopes = vec!["e".repeat(MAX_SCOPE + 1)]),
            ("a long domain", |r| r.audience = "a".repeat(MAX_DOMAIN + 1)),
            ("a long proof", |r| r.proof = vec![0; MAX_PROOF + 1]),
        ] {
            let mut request = request();
            change(&mut request);
            assert!(ForeignRequest::decode(&request.encode()).is_err(), "{attack}");
        }
    }
}
