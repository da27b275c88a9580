//! What the broker asks for, and the evidence that answers it.

use touchstone_cose::cbor::{self, ShapeError, Value};

use super::logs::{self, LogBytes};
use super::{MessageError, bounded, bytes, open};
use crate::{collection, pcr_values};

const CONTEXT: &str = "challenge";
const SUBMISSION: &str = "submission";

/// The largest challenge.
pub const MAX_CHALLENGE: usize = 16 << 10;
/// The largest submission: an envelope and a little around it.
pub const MAX_SUBMISSION: usize = collection::MAX_BYTES + 1024;
/// The longest half of a credential: room for a secret under RSA-4096.
pub const MAX_CREDENTIAL: usize = 1 << 10;

/// Registers to quote: banks in order, each once, (`TPM_ALG_ID`, indices ascending, at least one).
pub type Selection = Vec<(u16, Vec<u8>)>;

/// A MakeCredential answer (TPM 2.0 part 3, `TPM2_MakeCredential`): contents of `TPM2B_ID_OBJECT` and of
/// `TPM2B_ENCRYPTED_SECRET`. Only the TPM with that endorsement key, holding that attestation key, opens it.
pub type Credential = (Vec<u8>, Vec<u8>);

/// Broker → attester: what to prove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// The session.
    pub session_id: [u8; 16],
    /// Single use.
    pub nonce: [u8; 32],
    /// Registers to quote, in this order and no others.
    pub selection: Selection,
    /// For an attestation key not tied yet.
    pub credential: Option<Credential>,
    /// How many bytes of each log the broker has seen and verified in this boot: what is behind them is enough.
    pub known: LogBytes,
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
    /// Where each log in the collection begins, where that is not its beginning: exactly as many bytes as the challenge
    /// says are known. A log named here that has no record in the collection has not grown.
    pub offsets: LogBytes,
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
            (4, logs::value(&self.known)),
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
        let mut reader = open(bytes, MAX_CHALLENGE, CONTEXT)?;
        let challenge = Self {
            session_id: reader.fixed(0)?,
            nonce: reader.fixed(1)?,
            selection: selection(reader.required(2)?, "key 2")?,
            credential: credential(reader.required(3)?)?,
            known: logs::read(&reader.required(4)?, CONTEXT, "key 4")?,
            session_key_registers: selection(reader.required(5)?, "key 5")?,
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
            (3, logs::value(&self.offsets)),
        ]))
    }

    /// Reads a submission.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn decode(message: &[u8]) -> Result<Self, MessageError> {
        let mut reader = open(message, MAX_SUBMISSION, SUBMISSION)?;
        let session_id = reader.fixed(0)?;
        let collection = bytes(&mut reader, 1, SUBMISSION, collection::MAX_BYTES)?;
        let activation = match reader.required(2)? {
            Value::Null => None,
            value => Some(fixed_activation(&value)?),
        };
        let offsets = logs::read(&reader.required(3)?, SUBMISSION, "key 3")?;
        reader.finish()?;
        Ok(Self {
            session_id,
            collection,
            activation,
            offsets,
        })
    }
}

fn fixed_activation(value: &Value) -> Result<[u8; 32], ShapeError> {
    let fixed = value.as_bytes().and_then(|bytes| bytes.try_into().ok());
    fixed.ok_or_else(|| ShapeError::member(SUBMISSION, "key 2", "32 bytes or null", value.kind()))
}

fn credential(value: Value) -> Result<Option<Credential>, ShapeError> {
    let refuse = |found: String| ShapeError::member(CONTEXT, "key 3", "[bytes, bytes] or null", found);
    match value {
        Value::Null => Ok(None),
        Value::Array(items) => {
            let count = items.len();
            let halves = <[Value; 2]>::try_from(items).map_err(|_| refuse(format!("array of {count}")))?;
            let [blob, secret] = halves.map(|half| bounded(half, 3, CONTEXT, MAX_CREDENTIAL));
            Ok(Some((blob?, secret?)))
        }
        other => Err(refuse(other.kind())),
    }
}

fn selection_value(selection: &Selection) -> Value {
    Value::array(selection.iter().map(|(bank, registers)| {
        Value::array([
            Value::Unsigned(u64::from(*bank)),
            Value::array(registers.iter().map(|register| Value::Unsigned(u64::from(*register)))),
        ])
    }))
}

fn selection(value: Value, key: &'static str) -> Result<Selection, ShapeError> {
    let expected = "[[known bank, [+ register, ascending]] …], each bank once";
    let refuse = |found: &Value| ShapeError::member(CONTEXT, key, expected, found.kind());
    let mut selection = Selection::new();
    for entry in value.as_array().ok_or_else(|| refuse(&value))? {
        let Some([algorithm, Value::Array(registers)]) = entry.as_array() else {
            return Err(refuse(entry));
        };
        let bank = algorithm.as_u64().and_then(|id| u16::try_from(id).ok());
        let bank = bank
            .filter(|id| pcr_values::digest_len(*id).is_some())
            .ok_or_else(|| refuse(algorithm))?;
        let registers = registers.iter().map(|register| {
            let index = register.as_u64().filter(|index| *index < pcr_values::REGISTERS);
            index
                .and_then(|index| u8::try_from(index).ok())
                .ok_or_else(|| refuse(register))
        });
        let registers = registers.collect::<Result<Vec<u8>, _>>()?;
        let twice = selection.iter().any(|(known, _)| *known == bank);
        if twice || registers.is_empty() || !registers.is_sorted_by(|a, b| a < b) {
            return Err(refuse(entry));
        }
        selection.push((bank, registers));
    }
    Ok(selection)
}
