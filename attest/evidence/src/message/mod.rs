//! The four messages of one attestation, as deterministic CBOR maps with integer keys (`docs/protocol.md`, "messages").
//!
//! Every key is there, known and bounded; what may be missing is `null`. Decoding says that a message has the right
//! shape and nothing more: nothing in it is believed until the verifier has judged it.

mod answer;
mod challenge;
mod federation;
mod hello;
mod logs;
mod release;
mod workload;

pub use answer::{Answer, MAX_ANSWER, MAX_REASONS, MAX_RECEIPT, MAX_STATEMENT, MAX_TOKEN, Problem, WireReason};
pub use challenge::{Challenge, Credential, MAX_CHALLENGE, MAX_CREDENTIAL, MAX_SUBMISSION, Selection, Submission};
pub use federation::{
    ForeignAnswer, ForeignAnswer as IssuedAnswer, ForeignRequest, MAX_FOREIGN_REQUEST, MAX_FOREIGN_SCOPES,
    foreign_audience, foreign_path,
};
pub use hello::{
    BOOT_ID_LEN, Hello, Identity, MAX_CERTIFICATE, MAX_COSE_KEY, MAX_GUESTS, MAX_HELLO, MAX_IDENTITY, MAX_KINDS,
    MAX_NAME, MAX_PUBLIC,
};
pub use logs::LogBytes;
pub use release::{
    KEY_TYPE, MAX_KEY_NAME, MAX_RELEASE_ANSWER, MAX_RELEASE_REQUEST, MAX_SEALED, MAX_SECRET, RELEASE_PATH,
    RELEASE_TYPE, ReleaseAnswer, ReleaseRequest, ReleasedKey, STATEMENT_LABEL, release_audience, release_nonce,
};
pub use workload::{
    Attributes, Dependency, DependencyKind, EntryNumber, MAX_ATTRIBUTE, MAX_DEPENDENCIES, MAX_WORKLOAD_REQUEST,
    MAX_WORKLOAD_SCOPES, WORKLOAD_PATH, WorkloadRequest, dependencies, dependency_values, entry_value,
    workload_audience,
};

use touchstone_cose::cbor::{self, CborError, Limits, MapReader, ShapeError, Value};

/// The protocol's name and version, first in every hello.
pub const PROTOCOL: &str = "touchstone/1";

const MAX_DEPTH: usize = 6;
const MAX_ITEMS: usize = 2048;

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

impl MessageError {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> touchstone_cose::code::Code {
        match self {
            Self::Cbor { cause, .. } => cause.code(),
            Self::Shape(error) => error.code(),
        }
    }
}

fn open(bytes: &[u8], max_bytes: usize, message: &'static str) -> Result<MapReader, MessageError> {
    let limits = Limits {
        max_bytes,
        max_depth: MAX_DEPTH,
        max_items: MAX_ITEMS,
    };
    let value = cbor::decode(bytes, limits).map_err(|cause| MessageError::Cbor { message, cause })?;
    Ok(MapReader::new(value, message)?)
}

/// A byte string of 1 to `max` bytes.
fn bytes(reader: &mut MapReader, key: i64, context: &'static str, max: usize) -> Result<Vec<u8>, ShapeError> {
    bounded(reader.required(key)?, key, context, max)
}

/// A byte string of 1 to `max` bytes, or `null`.
fn optional_bytes(
    reader: &mut MapReader,
    key: i64,
    context: &'static str,
    max: usize,
) -> Result<Option<Vec<u8>>, ShapeError> {
    match reader.required(key)? {
        Value::Null => Ok(None),
        value => bounded(value, key, context, max).map(Some),
    }
}

fn bounded(value: Value, key: i64, context: &'static str, max: usize) -> Result<Vec<u8>, ShapeError> {
    match value {
        Value::Bytes(bytes) if (1..=max).contains(&bytes.len()) => Ok(bytes),
        other => Err(ShapeError::member(
            context,
            format!("key {key}"),
            format!("1 to {max} bytes"),
            other.kind(),
        )),
    }
}
