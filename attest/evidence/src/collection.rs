//! The evidence envelope: a CBOR Collection CMW (RFC 9999), one Record CMW a part.
//!
//! `{"__cmwc_t": profile, label: [media type, bytes, 4], …}`; indicator 4 says "Evidence". Two profiles exist and never
//! mix: evidence bound to a session, and *unbound* evidence packed from other tools' files, which no broker accepts.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};
use touchstone_cose::cbor::{self, CborError, Limits, Value};

use crate::label::Class;
pub use crate::label::Label;
use crate::manifest::{DuplicateRecord, ManifestEntry, manifest_digest};

/// Profile of evidence whose signed parts carry the binder of a session.
pub const BOUND_PROFILE: &str = "tag:touchstone.dev,2026:cmw/evidence/1";
/// Profile of evidence that carries a raw nonce: an offline verdict may rest on it, an authorization never.
pub const UNBOUND_PROFILE: &str = "tag:touchstone.dev,2026:cmw/unbound-evidence/1";
/// The most records one collection may hold (RFC 9999 lets the profile choose).
pub const MAX_RECORDS: usize = 32;
/// The most bytes one collection may have: an IMA list at its limit ([`label::MAX_IMA_LOG`](crate::label::MAX_IMA_LOG)),
/// a firmware log at its own, and the small records. Only the IMA list can bring it near.
pub const MAX_BYTES: usize = 18 << 20;

const TYPE_KEY: &str = "__cmwc_t";
const EVIDENCE_INDICATOR: u64 = 4;

/// Whether evidence is tied to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Every fresh part carries the binder.
    Bound,
    /// The quote carries a raw nonce.
    Unbound,
}

impl Profile {
    /// The profile's URI.
    #[must_use]
    pub const fn uri(self) -> &'static str {
        match self {
            Self::Bound => BOUND_PROFILE,
            Self::Unbound => UNBOUND_PROFILE,
        }
    }

    fn read(value: &Value) -> Result<Self, EnvelopeError> {
        match value.as_text() {
            Some(BOUND_PROFILE) => Ok(Self::Bound),
            Some(UNBOUND_PROFILE) => Ok(Self::Unbound),
            other => Err(EnvelopeError::Profile {
                found: shorten(other.unwrap_or("no text")),
            }),
        }
    }
}

touchstone_cose::reason_codes! {
    /// Why an envelope was refused.
    pub enum EnvelopeCode {
        Unreadable = "evidence-not-deterministic": "The evidence is not deterministic CBOR within the limits. Make it again with touchstone evidence.",
        Profile = "evidence-profile-unknown": "The envelope does not name an evidence profile that is known here. Use the same version on both sides.",
        Record = "evidence-record-malformed": "A record of the envelope has another shape, media type or indicator than its label demands. Make it again.",
        Unknown = "evidence-record-unknown": "The envelope holds a record that is not known here. Use the same version on both sides.",
        TooMany = "evidence-too-many-records": "The envelope holds more records than any machine has. Send one machine's evidence.",
        Duplicate = "evidence-record-twice": "The envelope holds a record twice. Make it again.",
    }
}

/// Why bytes are not an evidence envelope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Not the CBOR that is accepted.
    #[error("evidence envelope: {0}")]
    Cbor(#[from] CborError),
    /// Not a map, or without a known profile.
    #[error("evidence envelope: expected profile {BOUND_PROFILE} or {UNBOUND_PROFILE}, found {found}")]
    Profile {
        /// What was there.
        found: String,
    },
    /// A record is not `[media type of its label, bytes, 4]`.
    #[error("evidence record {label}: expected {expected}, found {found}")]
    Record {
        /// Which one.
        label: String,
        /// What its label demands.
        expected: &'static str,
        /// What was there.
        found: String,
    },
    /// A record that is not known.
    #[error("evidence record {label:?} is not known")]
    Unknown {
        /// Its label, shortened.
        label: String,
    },
    /// Too many records.
    #[error("{found} evidence records, limit {MAX_RECORDS}")]
    TooMany {
        /// How many.
        found: usize,
    },
    /// A record twice.
    #[error(transparent)]
    Duplicate(#[from] DuplicateRecord),
}

impl EnvelopeError {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> EnvelopeCode {
        match self {
            Self::Cbor(_) => EnvelopeCode::Unreadable,
            Self::Profile { .. } => EnvelopeCode::Profile,
            Self::Record { .. } => EnvelopeCode::Record,
            Self::Unknown { .. } => EnvelopeCode::Unknown,
            Self::TooMany { .. } => EnvelopeCode::TooMany,
            Self::Duplicate(_) => EnvelopeCode::Duplicate,
        }
    }
}

/// One machine's evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collection {
    profile: Profile,
    records: BTreeMap<Label, Vec<u8>>,
}

impl Collection {
    /// An empty collection whose fresh parts will carry a session's binder.
    #[must_use]
    pub fn bound() -> Self {
        Self {
            profile: Profile::Bound,
            records: BTreeMap::new(),
        }
    }

    /// An empty collection of parts that carry a raw nonce.
    #[must_use]
    pub fn unbound() -> Self {
        Self {
            profile: Profile::Unbound,
            records: BTreeMap::new(),
        }
    }

    /// Decodes an envelope; accepts only what [`Collection::encode`] writes.
    ///
    /// # Errors
    /// [`EnvelopeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let limits = Limits {
            max_bytes: MAX_BYTES,
            max_depth: 2,
            max_items: 4 * MAX_RECORDS + 8,
        };
        let Value::Map(entries) = cbor::decode(bytes, limits)? else {
            return Err(EnvelopeError::Profile { found: "no map".into() });
        };
        if entries.len() > MAX_RECORDS + 1 {
            return Err(EnvelopeError::TooMany {
                found: entries.len() - 1,
            });
        }
        let mut profile = None;
        let mut records = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let Value::Text(key) = key else {
                return Err(EnvelopeError::Unknown { label: key.kind() });
            };
            if key == TYPE_KEY {
                profile = Some(Profile::read(&value)?);
            } else {
                let label = Label::parse(&key).ok_or_else(|| EnvelopeError::Unknown { label: shorten(&key) })?;
                records.push((label, record(label, value)?));
            }
        }
        let profile = profile.ok_or(EnvelopeError::Profile { found: "none".into() })?;
        let mut collection = Self {
            profile,
            records: BTreeMap::new(),
        };
        for (label, bytes) in records {
            collection.insert(label, bytes)?;
        }
        Ok(collection)
    }

    /// The envelope's bytes, deterministic.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut entries = vec![(Value::text(TYPE_KEY), Value::text(self.profile.uri()))];
        entries.extend(self.records.iter().map(|(label, bytes)| {
            let record = Value::array([
                Value::text(label.media_type()),
                Value::bytes(bytes.clone()),
                Value::Unsigned(EVIDENCE_INDICATOR),
            ]);
            (Value::text(label.as_str()), record)
        }));
        cbor::encode(&Value::Map(entries))
    }

    /// Adds a record. An empty one announces a record that will be there: it has its place in the manifest, and no
    /// reader takes it.
    ///
    /// # Errors
    /// [`EnvelopeError::Duplicate`] where there is one of that label already; [`EnvelopeError::Record`] for an
    /// attestation key as PEM in bound evidence, or beside one with attributes: then no one could say which counts.
    pub fn insert(&mut self, label: Label, bytes: Vec<u8>) -> Result<(), EnvelopeError> {
        let refuse = |expected, found: &str| EnvelopeError::Record {
            label: label.as_str().into(),
            expected,
            found: found.into(),
        };
        if label == Label::TpmAkPem && self.profile == Profile::Bound {
            return Err(refuse(
                "a key with its attributes, for the evidence is bound",
                "a key as PEM",
            ));
        }
        let other = match label {
            Label::TpmAkPem => Label::TpmAkPublic,
            Label::TpmAkPublic => Label::TpmAkPem,
            _ => label,
        };
        if other != label && self.records.contains_key(&other) {
            return Err(refuse("one form of the attestation key", "both"));
        }
        match self.records.insert(label, bytes) {
            None => Ok(()),
            Some(_) => Err(DuplicateRecord {
                label: label.as_str().into(),
            }
            .into()),
        }
    }

    /// Whether the parts carry a binder.
    #[must_use]
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// A record's bytes.
    #[must_use]
    pub fn get(&self, label: Label) -> Option<&[u8]> {
        self.records.get(&label).map(Vec::as_slice)
    }

    /// Puts `bytes` in the place of a log's record, whether there is one or not: the whole of a log whose tail came, or
    /// nothing where a log has not grown since its last whole. A register authenticates logs, not the manifest, so the
    /// manifest's digest is the same for a part and for the whole.
    ///
    /// # Errors
    /// [`EnvelopeError::Record`] for a label that is no log: nothing else travels in parts.
    pub fn put_log(&mut self, label: Label, bytes: Vec<u8>) -> Result<(), EnvelopeError> {
        if !label.is_log() {
            return Err(EnvelopeError::Record {
                label: label.as_str().into(),
                expected: "a log, which may travel in parts",
                found: "another record".into(),
            });
        }
        self.records.insert(label, bytes);
        Ok(())
    }

    /// All records, ordered.
    pub fn records(&self) -> impl Iterator<Item = (Label, &[u8])> {
        self.records.iter().map(|(label, bytes)| (*label, bytes.as_slice()))
    }

    /// The digest that the binder carries over everything that no signature and no register covers.
    ///
    /// # Errors
    /// Never for a collection: labels are unique in it. The type is that of [`manifest_digest`].
    pub fn manifest_digest(&self) -> Result<[u8; 32], DuplicateRecord> {
        let entries: Vec<ManifestEntry<'_>> = self
            .records
            .iter()
            .filter(|(label, _)| label.class() != Class::Fresh)
            .map(|(label, bytes)| ManifestEntry {
                label: label.as_str(),
                media_type: label.media_type(),
                digest: (label.class() == Class::Plain).then(|| Sha256::digest(bytes).into()),
            })
            .collect();
        manifest_digest(&entries)
    }
}

fn record(label: Label, value: Value) -> Result<Vec<u8>, EnvelopeError> {
    let refuse = |expected, found| EnvelopeError::Record {
        label: label.as_str().into(),
        expected,
        found,
    };
    let Value::Array(items) = value else {
        return Err(refuse("[media type, bytes, 4]", value.kind()));
    };
    let Ok([media_type, bytes, indicator]) = <[Value; 3]>::try_from(items) else {
        return Err(refuse("[media type, bytes, 4]", "an array of another length".into()));
    };
    if media_type.as_text() != Some(label.media_type()) {
        return Err(refuse(
            label.media_type(),
            shorten(media_type.as_text().unwrap_or("no text")),
        ));
    }
    if indicator != Value::Unsigned(EVIDENCE_INDICATOR) {
        return Err(refuse("indicator 4 (evidence)", indicator.kind()));
    }
    match bytes {
        Value::Bytes(bytes) if bytes.len() > label.max_bytes() => Err(refuse(
            "a record within the limit of its label",
            format!("{} bytes", bytes.len()),
        )),
        // A recorded tail of a log that had not grown is empty, and still says that there is a log.
        Value::Bytes(bytes) if !bytes.is_empty() || label.is_log() => Ok(bytes),
        other => Err(refuse("a byte string that is not empty", other.kind())),
    }
}

fn shorten(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}

#[cfg(test)]
mod tests;
