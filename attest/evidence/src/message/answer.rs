//! What the broker decided, and everything that proves it.

use touchstone_cose::cbor::{self, ShapeError, Value};

use super::{MessageError, bytes, open, optional_bytes};

const CONTEXT: &str = "answer";
const REASONS: &str = "answer.reasons";
const ALLOW: &str = "allow";
const DENY: &str = "deny";

/// The largest answer.
pub const MAX_ANSWER: usize = 8 << 20;
/// The most reasons an answer lists. The EAR beside it has them all.
pub const MAX_REASONS: usize = 256;
/// The longest EAR or authorization.
pub const MAX_TOKEN: usize = 1 << 20;
/// The longest statement: an entry of a C2SP tile has a length of 16 bits.
pub const MAX_STATEMENT: usize = 65_535;
/// The longest receipt.
pub const MAX_RECEIPT: usize = 8 << 10;

const MAX_TEXT: usize = 1024;

/// A reason as it travels.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct WireReason {
    /// Stable code (`docs/reasons.md`).
    pub code: String,
    /// What it is about.
    pub claim: String,
    /// What would have been accepted.
    pub expected: String,
    /// What was there.
    pub found: String,
}

impl std::fmt::Display for WireReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} ({}): expected {}, found {}",
            self.code, self.claim, self.expected, self.found
        )
    }
}

/// Broker → attester: the decision and everything that proves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Allowed, or denied.
    pub allowed: bool,
    /// Every reason for a denial; where it is allowed, why scopes that the domain offers are withheld.
    pub reasons: Vec<WireReason>,
    /// The Attestation Result (EAR), a signed CWT.
    pub ear: Vec<u8>,
    /// The signed statement in the ledger.
    pub statement: Vec<u8>,
    /// The statement's receipt.
    pub receipt: Vec<u8>,
    /// The authorization, where allowed.
    pub authorization: Option<Vec<u8>>,
    /// The current trust state, a whole frame.
    pub trust_state: Vec<u8>,
    /// Milliseconds until the next attestation, from policy.
    pub next_attestation_ms: u64,
    /// When the evidence arrived, broker's clock, Unix milliseconds.
    pub received_at_ms: u64,
}

/// A refusal before the requester was authenticated. It travels as `application/problem+json` (RFC 9457), which the
/// service writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Stable code (`docs/reasons.md`).
    pub code: String,
    /// One sentence.
    pub message: String,
    /// Further reasons, where there are any.
    pub reasons: Vec<WireReason>,
}

impl Answer {
    /// The message's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let reasons = reason_values(&self.reasons);
        cbor::encode(&Value::map([
            (0, Value::text(if self.allowed { ALLOW } else { DENY })),
            (1, Value::array(reasons)),
            (2, Value::bytes(self.ear.clone())),
            (3, Value::bytes(self.statement.clone())),
            (4, Value::bytes(self.receipt.clone())),
            (5, self.authorization.clone().map_or(Value::Null, Value::bytes)),
            (6, Value::bytes(self.trust_state.clone())),
            (7, Value::Unsigned(self.next_attestation_ms)),
            (8, Value::Unsigned(self.received_at_ms)),
        ]))
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn decode(message: &[u8]) -> Result<Self, MessageError> {
        let mut reader = open(message, MAX_ANSWER, CONTEXT)?;
        let allowed = match reader.required(0)?.as_text() {
            Some(ALLOW) => true,
            Some(DENY) => false,
            _ => return Err(ShapeError::member(CONTEXT, "key 0", "\"allow\" or \"deny\"", "something else").into()),
        };
        let answer = Self {
            allowed,
            reasons: reasons(reader.array(1)?)?,
            ear: bytes(&mut reader, 2, CONTEXT, MAX_TOKEN)?,
            statement: bytes(&mut reader, 3, CONTEXT, MAX_STATEMENT)?,
            receipt: bytes(&mut reader, 4, CONTEXT, MAX_RECEIPT)?,
            authorization: optional_bytes(&mut reader, 5, CONTEXT, MAX_TOKEN)?,
            trust_state: bytes(&mut reader, 6, CONTEXT, MAX_ANSWER)?,
            next_attestation_ms: reader.u64(7)?,
            received_at_ms: reader.u64(8)?,
        };
        reader.finish()?;
        // An authorization beside a denial, or none beside an allowance, is two answers in one.
        if answer.authorization.is_some() != allowed {
            let expected = if allowed {
                "an authorization, for it is allowed"
            } else {
                "null, for it is denied"
            };
            let found = if allowed { "null" } else { "an authorization" };
            return Err(ShapeError::member(CONTEXT, "key 5", expected, found).into());
        }
        Ok(answer)
    }
}

/// Reasons as they travel, at most [`MAX_REASONS`].
pub(super) fn reason_values(reasons: &[WireReason]) -> impl Iterator<Item = Value> {
    reasons.iter().take(MAX_REASONS).map(|reason| {
        Value::array([&reason.code, &reason.claim, &reason.expected, &reason.found].map(|t| Value::text(t.as_str())))
    })
}

pub(super) fn reasons(items: Vec<Value>) -> Result<Vec<WireReason>, ShapeError> {
    if items.len() > MAX_REASONS {
        let found = items.len().to_string();
        return Err(ShapeError::member(
            REASONS,
            "value",
            format!("at most {MAX_REASONS}"),
            found,
        ));
    }
    items.into_iter().map(reason).collect()
}

fn reason(item: Value) -> Result<WireReason, ShapeError> {
    let refuse = |found: String| ShapeError::member(REASONS, "value", "four texts within their limit", found);
    let Value::Array(parts) = item else {
        return Err(refuse(item.kind()));
    };
    let count = parts.len();
    let parts = <[Value; 4]>::try_from(parts).map_err(|_| refuse(format!("array of {count}")))?;
    let [code, claim, expected, found] = parts.map(|part| match part {
        Value::Text(text) if text.len() <= MAX_TEXT => Ok(text),
        other => Err(refuse(other.kind())),
    });
    Ok(WireReason {
        code: code?,
        claim: claim?,
        expected: expected?,
        found: found?,
    })
}
