//! What a node showed when it was granted the authorization it holds: what a release is decided on. One row, written with
//! the node's record in one commit.

use touchstone_cose::cbor::{self, CborError, Limits, MapReader, ShapeError, Value};
use touchstone_cose::key::{KeyError, VerifyingKey};
use touchstone_store::{Revision, Store, Write};
use touchstone_verifier::ear::{Ear, EarError};
use touchstone_verifier::inventory::EnrolledNode;

use crate::problem::Refusal;
use crate::rows;

const FORMAT: u64 = 1;
const CONTEXT: &str = "what a node showed";
const LIMITS: Limits = Limits {
    max_bytes: 1024 * 1024,
    max_depth: 3,
    max_items: 32,
};

/// What a node showed.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    /// Digest of the statement of that decision.
    pub statement: [u8; 32],
    /// The attestation result.
    pub ear: Ear,
    /// The receive key, where the node's hardware vouches for it: certified by the TPM, or bound by the report of a
    /// confidential VM.
    pub receive_key: Option<VerifyingKey>,
    /// [`CvmIdentity::digest`](touchstone_verifier::inventory::CvmIdentity::digest) of the confidential VM that its report
    /// showed, where the inventory lists one, whichever root it enrolled with.
    pub cvm: Option<[u8; 32]>,
    /// Whether it got the key of its disk on the strength of this. It gets it once: what it showed says that its disk was
    /// closed then, and nothing says that it still is.
    pub disk_key_given: bool,
}

/// Why a row is not what a node showed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShownError {
    /// Not the CBOR this release writes.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// Another shape.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The result.
    #[error(transparent)]
    Ear(#[from] EarError),
    /// The receive key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// The receive key of a session, where the hardware that enrolled vouches for it.
#[must_use]
pub fn vouched(enrolled: &EnrolledNode, receive_key: Option<&VerifyingKey>) -> Option<VerifyingKey> {
    let key = receive_key?;
    let certified = enrolled.tpm().and_then(|tpm| tpm.receive_key.as_ref());
    let vouched = match certified {
        Some(certified) => certified.thumbprint == key.thumbprint(),
        // A session without a certified signing key is one whose keys a confidential VM's report vouches for: it holds the
        // binder, and the binder the thumbprints of both.
        None => enrolled.session_key.is_none(),
    };
    vouched.then(|| key.clone())
}

impl Shown {
    /// The row's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let key = self.receive_key.as_ref().map(|key| key.to_cose_key(false));
        let given = self.disk_key_given.then_some((4, Value::Bool(true)));
        let cvm = self.cvm.map(|identity| (5, Value::bytes(identity)));
        let entries = [
            (0, Value::Unsigned(FORMAT)),
            (1, Value::bytes(self.statement)),
            (2, Value::bytes(self.ear.encode())),
            (3, key.unwrap_or(Value::Null)),
        ];
        cbor::encode(&Value::map(entries.into_iter().chain(given).chain(cvm)))
    }

    /// Reads a row.
    ///
    /// # Errors
    /// [`ShownError`]: then nothing is released to that node.
    pub fn decode(bytes: &[u8]) -> Result<Self, ShownError> {
        let mut reader = MapReader::new(cbor::decode(bytes, LIMITS)?, CONTEXT)?;
        let format = reader.u64(0)?;
        if format != FORMAT {
            return Err(ShapeError::member(CONTEXT, "key 0", FORMAT.to_string(), format.to_string()).into());
        }
        let shown = Self {
            statement: reader.fixed(1)?,
            ear: Ear::decode(&reader.bytes(2)?)?,
            receive_key: match reader.required(3)? {
                Value::Null => None,
                key => Some(VerifyingKey::from_cose_key(&key)?),
            },
            cvm: match reader.optional(5) {
                None => None,
                Some(value) => Some(identity(&value)?),
            },
            disk_key_given: match reader.optional(4) {
                None => false,
                Some(Value::Bool(true)) => true,
                Some(other) => return Err(ShapeError::member(CONTEXT, "key 4", "true", other.kind()).into()),
            },
        };
        reader.finish()?;
        Ok(shown)
    }

    /// The write of this row for the node `name`.
    ///
    /// # Errors
    /// A [`Refusal`] for a name that cannot be a key.
    pub fn write(&self, name: &str) -> Result<Write, Refusal> {
        let key = rows::SHOWN.key(name.as_bytes()).map_err(crate::hello::internal)?;
        Ok(Write::Put(key, self.encode()))
    }
}

fn identity(value: &Value) -> Result<[u8; 32], ShapeError> {
    let bytes = value.as_bytes().and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| ShapeError::member(CONTEXT, "key 5", "32 bytes", value.kind()))
}

/// Reads what the node `name` showed.
///
/// # Errors
/// A [`Refusal`]: the store, or a row that cannot be read.
pub fn read(store: &dyn Store, name: &str) -> Result<Option<(Shown, Revision)>, Refusal> {
    let key = rows::SHOWN.key(name.as_bytes()).map_err(crate::hello::internal)?;
    match store.get(&key).map_err(crate::hello::internal)? {
        None => Ok(None),
        Some(row) => {
            let shown = Shown::decode(&row.value).map_err(crate::hello::internal)?;
            Ok(Some((shown, row.revision)))
        }
    }
}
