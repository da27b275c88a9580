//! The four messages of one attestation, as deterministic CBOR maps with integer keys (`docs/protocol.md`, "messages").

use touchstone_cose::cbor::{self, CborError, Limits, MapReader, ShapeError, Value};

/// The protocol's name and version, first in every hello.
pub const PROTOCOL: &str = "touchstone/1";
/// The largest hello.
pub const MAX_HELLO: usize = 16 << 10;
/// The largest challenge.
pub const MAX_CHALLENGE: usize = 16 << 10;
/// The largest submission: an envelope and a little around it.
pub const MAX_SUBMISSION: usize = crate::collection::MAX_BYTES + 1024;
/// The largest answer.
pub const MAX_ANSWER: usize = 8 << 20;
/// The most reasons an answer lists; what is beyond is cut with a reason that says so.
pub const MAX_REASONS: usize = 64;

const MAX_NAME: usize = 128;
const MAX_TEXT: usize = 1024;
const MAX_BANKS: usize = 8;

/// Why bytes are not the message they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Not the CBOR that is accepted.
    #[error("{message}: {cause}")]
    Cbor {
        /// Which message.
        message: &'static str,
        /// What is wrong.
        cause: CborError,
    },
    /// Another shape.
    #[error(transparent)]
    Shape(#[from] ShapeError),
}

/// Registers to quote: banks in order, (`TPM_ALG_ID`, indices ascending).
pub type Selection = Vec<(u16, Vec<u8>)>;

/// Who says hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// Everything a broker needs to know of a machine it may never have seen.
    Full {
        /// The endorsement key's certificate, DER.
        ek_certificate: Option<Vec<u8>>,
        /// The endorsement key, TPMT_PUBLIC.
        ek_public: Vec<u8>,
        /// The attestation key, TPMT_PUBLIC.
        ak_public: Vec<u8>,
    },
    /// A machine the broker has enrolled: the TPM Name of its attestation key.
    Known {
        /// `nameAlg ‖ digest`.
        ak_name: Vec<u8>,
    },
}

/// Attester → broker: who I say I am, and the key an authorization shall be bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// [`PROTOCOL`].
    pub protocol: String,
    /// The claimed identity.
    pub identity: Identity,
    /// The signing session key: an encoded COSE_Key, point compressed.
    pub session_key: Vec<u8>,
    /// The receive key, likewise; part 3 of the plan fills it.
    pub receive_key: Option<Vec<u8>>,
    /// The kinds of evidence that can be given.
    pub kinds: Vec<String>,
}

/// Broker → attester: what to prove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// The session.
    pub session_id: [u8; 16],
    /// Single use.
    pub nonce: [u8; 32],
    /// Registers to quote, in this order and no others.
    pub selection: Selection,
    /// `TPM2B_ID_OBJECT` contents and `TPM2B_ENCRYPTED_SECRET` contents, for an attestation key not tied yet.
    pub credential: Option<(Vec<u8>, Vec<u8>)>,
    /// How many bytes of the event log the broker already holds.
    pub log_bytes_known: u64,
    /// Registers a session key must be bound to.
    pub session_key_registers: Selection,
    /// The broker's clock, Unix milliseconds; informative.
    pub broker_time_ms: u64,
    /// True when this session key was certified before and nothing was reset since.
    pub session_key_known: bool,
}

/// Attester → broker: the evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submission {
    /// The session.
    pub session_id: [u8; 16],
    /// A collection's bytes.
    pub collection: Vec<u8>,
    /// HMAC-SHA256(credential secret, SHA-256(binder input)), where a credential was given.
    pub activation: Option<[u8; 32]>,
}

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
    /// Every reason for a denial.
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

impl Hello {
    /// The message's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let optional = |bytes: &Option<Vec<u8>>| bytes.clone().map_or(Value::Null, Value::bytes);
        let identity = match &self.identity {
            Identity::Full {
                ek_certificate,
                ek_public,
                ak_public,
            } => Value::map([
                (0, optional(ek_certificate)),
                (1, Value::bytes(ek_public.clone())),
                (2, Value::bytes(ak_public.clone())),
            ]),
            Identity::Known { ak_name } => Value::map([(3, Value::bytes(ak_name.clone()))]),
        };
        cbor::encode(&Value::map([
            (0, Value::text(self.protocol.as_str())),
            (1, identity),
            (2, Value::bytes(self.session_key.clone())),
            (3, optional(&self.receive_key)),
            (
                4,
                Value::array(self.kinds.iter().map(|kind| Value::text(kind.as_str()))),
            ),
        ]))
    }

    /// Reads a hello.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let mut reader = open(bytes, MAX_HELLO, "hello")?;
        let protocol = reader.text(0, MAX_NAME)?;
        let mut claimed = reader.map(1, "hello.identity")?;
        let identity = match claimed.optional(3) {
            Some(Value::Bytes(ak_name)) => Identity::Known { ak_name },
            Some(other) => return Err(ShapeError::whole("hello.identity", "a TPM Name", &other).into()),
            None => Identity::Full {
                ek_certificate: optional_bytes(&mut claimed, 0, "hello.identity")?,
                ek_public: claimed.bytes(1)?,
                ak_public: claimed.bytes(2)?,
            },
        };
        claimed.finish()?;
        let session_key = reader.bytes(2)?;
        let receive_key = optional_bytes(&mut reader, 3, "hello")?;
        let kinds = reader
            .array(4)?
            .into_iter()
            .map(|kind| text(kind, "hello.kinds"))
            .collect::<Result<_, _>>()?;
        reader.finish()?;
        Ok(Self {
            protocol,
            identity,
            session_key,
            receive_key,
            kinds,
        })
    }
}

impl Challenge {
    /// The message's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let credential = self.credential.as_ref().map_or(Value::Null, |(blob, secret)| {
            Value::array([Value::bytes(blob.clone()), Value::bytes(secret.clone())])
        });
        cbor::encode(&Value::map([
            (0, Value::bytes(self.session_id)),
            (1, Value::bytes(self.nonce)),
            (2, selection_value(&self.selection)),
            (3, credential),
            (4, Value::Unsigned(self.log_bytes_known)),
            (5, selection_value(&self.session_key_registers)),
            (6, Value::Unsigned(self.broker_time_ms)),
            (7, Value::Bool(self.session_key_known)),
        ]))
    }

    /// Reads a challenge.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let mut reader = open(bytes, MAX_CHALLENGE, "challenge")?;
        let challenge = Self {
            session_id: reader.fixed(0)?,
            nonce: reader.fixed(1)?,
            selection: selection(reader.required(2)?, "challenge.selection")?,
            credential: match reader.required(3)? {
                Value::Null => None,
                Value::Array(items) => match <[Value; 2]>::try_from(items) {
                    Ok([Value::Bytes(blob), Value::Bytes(secret)]) => Some((blob, secret)),
                    _ => {
                        return Err(ShapeError::member("challenge", "key 3", "[bytes, bytes]", "another array").into());
                    }
                },
                other => return Err(ShapeError::whole("challenge.credential", "an array or null", &other).into()),
            },
            log_bytes_known: reader.u64(4)?,
            session_key_registers: selection(reader.required(5)?, "challenge.session-key-registers")?,
            broker_time_ms: reader.u64(6)?,
            session_key_known: reader.bool(7)?,
        };
        reader.finish()?;
        Ok(challenge)
    }
}

impl Submission {
    /// The message's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        cbor::encode(&Value::map([
            (0, Value::bytes(self.session_id)),
            (1, Value::bytes(self.collection.clone())),
            (2, self.activation.map_or(Value::Null, Value::bytes)),
        ]))
    }

    /// Reads a submission.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let mut reader = open(bytes, MAX_SUBMISSION, "submission")?;
        let session_id = reader.fixed(0)?;
        let collection = reader.bytes(1)?;
        let activation = match optional_bytes(&mut reader, 2, "submission")? {
            None => None,
            Some(bytes) => Some(bytes.as_slice().try_into().map_err(|_| {
                ShapeError::member("submission", "key 2", "32 bytes", format!("{} bytes", bytes.len()))
            })?),
        };
        reader.finish()?;
        Ok(Self {
            session_id,
            collection,
            activation,
        })
    }
}

impl Answer {
    /// The message's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let reasons = self.reasons.iter().take(MAX_REASONS).map(|reason| {
            Value::array(
                [&reason.code, &reason.claim, &reason.expected, &reason.found].map(|t| Value::text(t.as_str())),
            )
        });
        cbor::encode(&Value::map([
            (0, Value::Bool(self.allowed)),
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
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let mut reader = open(bytes, MAX_ANSWER, "answer")?;
        let answer = Self {
            allowed: reader.bool(0)?,
            reasons: reasons(reader.array(1)?)?,
            ear: reader.bytes(2)?,
            statement: reader.bytes(3)?,
            receipt: reader.bytes(4)?,
            authorization: optional_bytes(&mut reader, 5, "answer")?,
            trust_state: reader.bytes(6)?,
            next_attestation_ms: reader.u64(7)?,
            received_at_ms: reader.u64(8)?,
        };
        reader.finish()?;
        Ok(answer)
    }
}

fn open(bytes: &[u8], max_bytes: usize, message: &'static str) -> Result<MapReader, MessageError> {
    let limits = Limits {
        max_bytes,
        max_depth: 6,
        max_items: 2048,
    };
    let value = cbor::decode(bytes, limits).map_err(|cause| MessageError::Cbor { message, cause })?;
    Ok(MapReader::new(value, message)?)
}

fn optional_bytes(reader: &mut MapReader, key: i64, context: &'static str) -> Result<Option<Vec<u8>>, ShapeError> {
    match reader.required(key)? {
        Value::Null => Ok(None),
        Value::Bytes(bytes) => Ok(Some(bytes)),
        other => Err(ShapeError::member(
            context,
            format!("key {key}"),
            "a byte string or null",
            other.kind(),
        )),
    }
}

fn text(value: Value, context: &'static str) -> Result<String, ShapeError> {
    match value {
        Value::Text(text) if text.len() <= MAX_TEXT => Ok(text),
        other => Err(ShapeError::whole(context, "a text within its limit", &other)),
    }
}

fn reasons(items: Vec<Value>) -> Result<Vec<WireReason>, ShapeError> {
    const CONTEXT: &str = "answer.reasons";
    if items.len() > MAX_REASONS {
        return Err(ShapeError::member(
            CONTEXT,
            "value",
            "at most 64 reasons",
            items.len().to_string(),
        ));
    }
    items
        .into_iter()
        .map(|item| match item {
            Value::Array(parts) => match <[Value; 4]>::try_from(parts) {
                Ok([code, claim, expected, found]) => Ok(WireReason {
                    code: text(code, CONTEXT)?,
                    claim: text(claim, CONTEXT)?,
                    expected: text(expected, CONTEXT)?,
                    found: text(found, CONTEXT)?,
                }),
                Err(parts) => Err(ShapeError::member(
                    CONTEXT,
                    "value",
                    "four texts",
                    format!("{} items", parts.len()),
                )),
            },
            other => Err(ShapeError::whole(CONTEXT, "four texts", &other)),
        })
        .collect()
}

fn selection_value(selection: &Selection) -> Value {
    Value::array(selection.iter().map(|(bank, registers)| {
        Value::array([
            Value::Unsigned(u64::from(*bank)),
            Value::array(registers.iter().map(|register| Value::Unsigned(u64::from(*register)))),
        ])
    }))
}

fn selection(value: Value, context: &'static str) -> Result<Selection, ShapeError> {
    let refuse = |found: &Value| ShapeError::whole(context, "[[algorithm, [registers]], …]", found);
    let banks = value.as_array().ok_or_else(|| refuse(&value))?;
    if banks.len() > MAX_BANKS {
        return Err(refuse(&value));
    }
    banks
        .iter()
        .map(|bank| {
            let Some([algorithm, registers]) = bank.as_array() else {
                return Err(refuse(bank));
            };
            let algorithm = algorithm
                .as_u64()
                .and_then(|id| u16::try_from(id).ok())
                .ok_or_else(|| refuse(algorithm))?;
            let registers = registers
                .as_array()
                .ok_or_else(|| refuse(registers))?
                .iter()
                .map(|register| {
                    register
                        .as_u64()
                        .and_then(|index| u8::try_from(index).ok())
                        .ok_or_else(|| refuse(register))
                })
                .collect::<Result<_, _>>()?;
            Ok((algorithm, registers))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(identity: Identity) -> Hello {
        Hello {
            protocol: PROTOCOL.into(),
            identity,
            session_key: vec![1],
            receive_key: None,
            kinds: vec!["tpm".into()],
        }
    }

    fn challenge() -> Challenge {
        Challenge {
            session_id: [1; 16],
            nonce: [2; 32],
            selection: vec![(0x0b, vec![0, 7])],
            credential: Some((vec![3], vec![4])),
            log_bytes_known: 0,
            session_key_registers: vec![(0x0b, vec![7])],
            broker_time_ms: 5,
            session_key_known: false,
        }
    }

    fn answer() -> Answer {
        Answer {
            allowed: false,
            reasons: vec![WireReason {
                code: "a".into(),
                claim: "b".into(),
                expected: "c".into(),
                found: "d".into(),
            }],
            ear: vec![1],
            statement: vec![2],
            receipt: vec![3],
            authorization: None,
            trust_state: vec![4],
            next_attestation_ms: 5,
            received_at_ms: 6,
        }
    }

    #[test]
    fn round_trips() {
        let full = Identity::Full {
            ek_certificate: Some(vec![9]),
            ek_public: vec![8],
            ak_public: vec![7],
        };
        for identity in [full, Identity::Known { ak_name: vec![6] }] {
            assert_eq!(Hello::decode(&hello(identity.clone()).encode()), Ok(hello(identity)));
        }
        assert_eq!(Challenge::decode(&challenge().encode()), Ok(challenge()));
        for activation in [None, Some([1; 32])] {
            let submission = Submission {
                session_id: [7; 16],
                collection: vec![1, 2],
                activation,
            };
            assert_eq!(Submission::decode(&submission.encode()), Ok(submission));
        }
        assert_eq!(Answer::decode(&answer().encode()), Ok(answer()));
    }

    #[test]
    fn truncated_anywhere_is_refused() {
        for whole in [
            challenge().encode(),
            answer().encode(),
            hello(Identity::Known { ak_name: vec![6] }).encode(),
        ] {
            for length in 0..whole.len() {
                let cut = &whole[..length];
                assert!(Hello::decode(cut).is_err() && Challenge::decode(cut).is_err() && Answer::decode(cut).is_err());
            }
        }
    }

    #[test]
    fn oversized_is_refused_before_it_is_read() {
        assert!(matches!(
            Hello::decode(&vec![0; MAX_HELLO + 1]),
            Err(MessageError::Cbor { message: "hello", .. })
        ));
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(0u8.., 0..200)) {
            let _ = (Hello::decode(&bytes), Challenge::decode(&bytes), Submission::decode(&bytes), Answer::decode(&bytes));
        }
    }
}
