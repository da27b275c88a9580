//! A hold as it is stored.

use touchstone_cose::cbor::{self, CborError, Limits, MapReader, ShapeError, Value};
use touchstone_store::{Key, KeyError, RowFault, StoreError};

use super::{MAX_TEXT, Over};
use crate::nodes::NodesError;
use crate::rows;
use crate::withdraw::set::SetError;

/// The format this release writes. Format 1, which does not say who made a hold, is read as made by command.
const FORMAT: u64 = 2;
pub(super) const CONTEXT: &str = "hold";
pub(super) const LIMITS: Limits = Limits {
    max_bytes: 4 * 1024,
    max_depth: 4,
    max_items: 64,
};

/// Who makes a hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Maker {
    /// Somebody who commands.
    Command,
    /// Signed policy, after the failure of a member.
    Failure,
    /// A detector, by its name in signed policy.
    Detector(String),
}

impl Maker {
    fn value(&self) -> Value {
        let (kind, name) = match self {
            Self::Command => ("command", ""),
            Self::Failure => ("failure", ""),
            Self::Detector(name) => ("detector", name.as_str()),
        };
        Value::array([kind, name].map(Value::text))
    }

    fn read(value: &Value) -> Option<Self> {
        let [kind, name] = value.as_array()? else {
            return None;
        };
        match (kind.as_text()?, name.as_text()?) {
            ("command", "") => Some(Self::Command),
            ("failure", "") => Some(Self::Failure),
            ("detector", name) if !name.is_empty() => Some(Self::Detector(name.to_owned())),
            _ => None,
        }
    }
}

/// A hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Its number; none is used twice.
    pub number: u64,
    /// Who gets nothing meanwhile.
    pub over: Over,
    /// Why.
    pub why: String,
    /// SHA-256 of the set it took.
    pub set: [u8; 32],
    /// Since when, Unix seconds.
    pub since: i64,
    /// When it was lifted, Unix seconds.
    pub lifted: Option<i64>,
    /// Whether it is known that nothing else fell of the set: after a stop in disorder it is not, and then each entry comes
    /// back by a grant of its own.
    pub exact: bool,
    /// Who made it.
    pub by: Maker,
}

/// Why what is held cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HoldError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A row of the store.
    #[error(transparent)]
    Row(#[from] RowFault),
    /// A key cannot be made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The set, as a part.
    #[error(transparent)]
    Part(#[from] NodesError),
    /// Not the CBOR this release writes.
    #[error("hold {number}: {error}")]
    Cbor {
        /// Which.
        number: u64,
        /// What is wrong.
        error: CborError,
    },
    /// Another shape.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The set.
    #[error("hold {number}: {error}")]
    Set {
        /// Which.
        number: u64,
        /// What is wrong.
        error: SetError,
    },
    /// The set is not there, or another than was named.
    #[error("hold {number}: its set {} is not there", hex::encode(digest))]
    SetMissing {
        /// Which.
        number: u64,
        /// The digest.
        digest: [u8; 32],
    },
}

impl Hold {
    /// The key of its row.
    #[must_use]
    pub fn key(&self) -> Key {
        rows::HOLD.numbered(self.number)
    }

    /// Its row.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        cbor::encode(&Value::map([
            (0, Value::Unsigned(FORMAT)),
            (1, Value::Unsigned(self.number)),
            (2, self.over.value()),
            (3, Value::text(self.why.as_str())),
            (4, Value::bytes(self.set)),
            (5, Value::int(self.since)),
            (6, self.lifted.map_or(Value::Null, Value::int)),
            (7, Value::Bool(self.exact)),
            (8, self.by.value()),
        ]))
    }

    /// Reads a row.
    ///
    /// # Errors
    /// [`HoldError`]
    pub fn decode(bytes: &[u8]) -> Result<Self, HoldError> {
        let value = cbor::decode(bytes, LIMITS).map_err(|error| HoldError::Cbor { number: 0, error })?;
        let mut reader = MapReader::new(value, CONTEXT)?;
        let format = reader.u64(0)?;
        let wrong = |key: &str, expected: &str| ShapeError::member(CONTEXT, key, expected, "something else");
        if !(1..=FORMAT).contains(&format) {
            return Err(wrong("key 0", "format 1 or 2").into());
        }
        let hold = Self {
            number: reader.u64(1)?,
            over: Over::read(&reader.required(2)?).ok_or_else(|| wrong("key 2", "[kind, name]"))?,
            why: reader.text(3, MAX_TEXT)?,
            set: reader.fixed(4)?,
            since: reader.i64(5)?,
            lifted: match reader.required(6)? {
                Value::Null => None,
                value => Some(value.as_i64().ok_or_else(|| wrong("key 6", "seconds or null"))?),
            },
            exact: reader.bool(7)?,
            by: match format {
                1 => Maker::Command,
                _ => Maker::read(&reader.required(8)?).ok_or_else(|| wrong("key 8", "[kind, name]"))?,
            },
        };
        reader.finish()?;
        Ok(hold)
    }
}
