//! The recorded inputs of a decision: all of them, so that it can be made again, byte for byte, years later.
//!
//! What a decision rests on beside these is the policy, which is named here by its digest. Larger parts of the evidence
//! (a firmware log is the same for every machine of one image, round after round) are stored once and named by digest.

use sha2::{Digest as _, Sha256};
use touchstone_authorization::token::StatusIndex;
use touchstone_cose::cbor::{self, Limits, MapReader, ShapeError, Value};
use touchstone_cose::key::{KeyError, VerifyingKey};
use touchstone_evidence::collection::{Collection, EnvelopeError, Profile};
use touchstone_evidence::label::Label;
use touchstone_verifier::appraisal::Activated;
use touchstone_verifier::ima::{ImaPrefix, StateError, chunk_digest};
use touchstone_verifier::inventory::{EkId, EnrolledNode};
use touchstone_verifier::tpm::PcrSelection;
use touchstone_verifier::tpm::selection::SelectionError;

use crate::bars::{self, Bar};
use crate::enrolled;
use crate::first_use::FirstUse;
use crate::holds::Held;
use crate::node::{self, RecordError};

/// Parts of evidence from this length on are stored by digest.
pub const PART_BYTES: usize = 256;

/// Largest record of inputs, its parts not counted.
pub const MAX_INPUTS_BYTES: usize = 64 * 1024;

const LIMITS: Limits = Limits {
    max_bytes: MAX_INPUTS_BYTES,
    max_depth: 6,
    max_items: 1_024,
};
/// The format of records this release writes. Format 1, which knows nothing of IMA, is read, and format 2, in which every
/// node has a TPM.
const FORMAT: u64 = enrolled::CVM_FORMAT;
const MAX_NAME: usize = 255;
const CONTEXT: &str = "decision inputs";

/// Everything a decision rests on, beside the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecisionInputs {
    /// Which rules decide.
    pub semantics: String,
    /// The domain.
    pub domain: String,
    /// Digest of the policy.
    pub policy_digest: [u8; 32],
    /// When the metadata of that policy ended, Unix seconds. It is signed anew without another digest, so it is an input
    /// of its own.
    pub policy_expires: i64,
    /// The clock value, Unix seconds.
    pub now: i64,
    /// The session of the challenge.
    pub session_id: [u8; 16],
    /// The nonce of the challenge.
    pub nonce: [u8; 32],
    /// The exporter of the connection.
    pub tls_exporter: [u8; 32],
    /// Thumbprint of the receive key.
    pub receive_key: Option<[u8; 32]>,
    /// The session signing key.
    pub session_key: VerifyingKey,
    /// The registers asked for.
    pub asked: PcrSelection,
    /// The credential that was opened in this session.
    pub activated: Option<Activated>,
    /// The evidence.
    pub evidence: Collection,
    /// What is known of the node's IMA list; nothing where the evidence holds all of it.
    pub ima: Option<KnownList>,
    /// What is stored of the node.
    pub enrolled: Option<EnrolledNode>,
    /// The region stored for the node.
    pub region: Option<String>,
    /// The revisions of what is stored, by label.
    pub revisions: Vec<(String, u64)>,
    /// The id the authorization will have.
    pub cti: [u8; 16],
    /// The status entry the authorization will have.
    pub status: StatusIndex,
    /// The trust state's epoch.
    pub epoch: u64,
    /// Id of the key that will sign the authorization.
    pub signer: [u8; 8],
    /// Set where no entry of the inventory lists the machine, and signed settings may admit it.
    pub first_use: Option<FirstUse>,
    /// What an operator has barred.
    pub barred: Vec<Bar>,
    /// Set where the node, its zone or the domain is suspended.
    pub held: Option<Held>,
}

/// What is known of a node's IMA list from earlier rounds of the same boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownList {
    /// The verified prefix: the list in the evidence goes on behind it.
    pub prefix: ImaPrefix,
    /// The chunks of entries it names, in its order, where they are judged again.
    pub entries: Option<Vec<Vec<u8>>>,
}

/// A part of evidence, by its SHA-256.
pub type Part = ([u8; 32], Vec<u8>);

/// Inputs as they are recorded. Made once a decision: what is hashed here is hashed nowhere again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordedInputs {
    /// The record.
    pub record: Vec<u8>,
    /// SHA-256 of the record: what a statement names.
    pub digest: [u8; 32],
    /// The parts it names by digest.
    pub parts: Vec<Part>,
    /// SHA-256 of each record of the evidence.
    pub evidence: Vec<(Label, [u8; 32])>,
}

/// Why bytes are not recorded inputs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InputsError {
    /// Not CBOR, another shape, another format.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The session key.
    #[error("recorded inputs: session key: {0}")]
    Key(#[from] KeyError),
    /// The selection.
    #[error("recorded inputs: selection: {0}")]
    Selection(#[from] SelectionError),
    /// The evidence.
    #[error("recorded inputs: {0}")]
    Envelope(#[from] EnvelopeError),
    /// What was kept of an IMA list.
    #[error("recorded inputs: IMA list: {0}")]
    List(#[from] StateError),
    /// A part is not there.
    #[error("recorded inputs: part {} is missing", hex::encode(digest))]
    PartMissing {
        /// Its digest.
        digest: [u8; 32],
    },
    /// A part is not what its digest says.
    #[error("recorded inputs: part {} has digest {}", hex::encode(expected), hex::encode(found))]
    PartAltered {
        /// The digest it is stored under.
        expected: [u8; 32],
        /// The digest it has.
        found: [u8; 32],
    },
}

impl From<ShapeError> for InputsError {
    fn from(error: ShapeError) -> Self {
        Self::Record(error.into())
    }
}

impl DecisionInputs {
    /// The record and the parts it names by digest.
    #[must_use]
    pub fn record(&self) -> RecordedInputs {
        let mut parts = Vec::new();
        let digests: Vec<(Label, [u8; 32])> = self
            .evidence
            .records()
            .map(|(label, bytes)| (label, Sha256::digest(bytes).into()))
            .collect();
        let records = self
            .evidence
            .records()
            .zip(&digests)
            .map(|((label, bytes), (_, digest))| {
                let kept = if bytes.len() < PART_BYTES {
                    Value::bytes(bytes)
                } else {
                    parts.push((*digest, bytes.to_vec()));
                    Value::array([Value::bytes(*digest)])
                };
                Value::array([Value::text(label.as_str()), kept])
            });
        let evidence = Value::array([Value::text(self.evidence.profile().uri()), Value::array(records)]);
        let ima = self.ima.as_ref().map_or(Value::Null, |known| {
            let prefix = known.prefix.encode();
            let digest = chunk_digest(&prefix);
            parts.push((digest, prefix));
            let entries = known.entries.iter().flatten();
            parts.extend(entries.map(|chunk| (chunk_digest(chunk), chunk.clone())));
            Value::array([Value::bytes(digest), Value::Bool(known.entries.is_some())])
        });
        let asked = self
            .asked
            .to_wire()
            .into_iter()
            .map(|(bank, registers)| Value::array([Value::Unsigned(bank.into()), Value::bytes(registers)]));
        let activated = self.activated.as_ref().map_or(Value::Null, |activated| {
            Value::array([Value::bytes(activated.ek.0), Value::bytes(activated.ak_name.as_slice())])
        });
        let revisions = self
            .revisions
            .iter()
            .map(|(label, revision)| Value::array([Value::text(label.as_str()), Value::Unsigned(*revision)]));
        // Where there is nothing of it, the record is what it was before there was first use.
        let first_use = self.first_use.as_ref().map(|first_use| (22, first_use.value()));
        let barred = (!self.barred.is_empty()).then(|| (23, bars::value(&self.barred)));
        let held = self.held.as_ref().map(|held| (24, held.value()));
        let members = [
            (0, Value::Unsigned(FORMAT)),
            (1, Value::text(self.semantics.as_str())),
            (2, Value::text(self.domain.as_str())),
            (3, Value::bytes(self.policy_digest)),
            (4, Value::int(self.now)),
            (5, Value::bytes(self.session_id)),
            (6, Value::bytes(self.nonce)),
            (7, Value::bytes(self.tls_exporter)),
            (8, self.receive_key.map_or(Value::Null, Value::bytes)),
            (9, self.session_key.to_cose_key(true)),
            (10, Value::array(asked)),
            (11, activated),
            (12, evidence),
            (13, self.enrolled.as_ref().map_or(Value::Null, enrolled::value)),
            (14, self.region.as_deref().map_or(Value::Null, Value::text)),
            (15, Value::array(revisions)),
            (16, Value::bytes(self.cti)),
            (17, node::status_value(&self.status)),
            (18, Value::Unsigned(self.epoch)),
            (19, Value::bytes(self.signer)),
            (20, Value::int(self.policy_expires)),
            (21, ima),
        ];
        let record = cbor::encode(&Value::map(
            members.into_iter().chain(first_use).chain(barred).chain(held),
        ));
        RecordedInputs {
            digest: Sha256::digest(&record).into(),
            record,
            parts,
            evidence: digests,
        }
    }

    /// Reads a record; `part` gives the parts it names, which are checked against their digests.
    ///
    /// # Errors
    /// [`InputsError`]
    pub fn decode(record: &[u8], part: impl Fn(&[u8; 32]) -> Option<Vec<u8>>) -> Result<Self, InputsError> {
        let value = cbor::decode(record, LIMITS).map_err(RecordError::from)?;
        let mut reader = MapReader::new(value, CONTEXT)?;
        let format = node::format(&mut reader, FORMAT)?;
        let inputs = Self {
            semantics: reader.text(1, MAX_NAME)?,
            domain: reader.text(2, MAX_NAME)?,
            policy_digest: reader.fixed(3)?,
            now: reader.i64(4)?,
            session_id: reader.fixed(5)?,
            nonce: reader.fixed(6)?,
            tls_exporter: reader.fixed(7)?,
            receive_key: match reader.required(8)? {
                Value::Null => None,
                value => Some(fixed(&value, "key 8")?),
            },
            session_key: VerifyingKey::from_cose_key(&reader.required(9)?)?,
            asked: asked(reader.array(10)?)?,
            activated: match reader.required(11)? {
                Value::Null => None,
                value => Some(activated(&value)?),
            },
            evidence: evidence(reader.required(12)?, &part)?,
            enrolled: match reader.required(13)? {
                Value::Null => None,
                value => Some(enrolled::read(value, format)?),
            },
            region: match reader.required(14)? {
                Value::Null => None,
                Value::Text(text) => Some(text),
                other => return Err(ShapeError::member(CONTEXT, "key 14", "text or null", other.kind()).into()),
            },
            revisions: reader.array(15)?.into_iter().map(revision).collect::<Result<_, _>>()?,
            cti: reader.fixed(16)?,
            status: node::status(reader.required(17)?)?,
            epoch: reader.u64(18)?,
            signer: reader.fixed(19)?,
            policy_expires: reader.i64(20)?,
            ima: match (format, reader.optional(21)) {
                (1, None) | (2.., Some(Value::Null)) => None,
                (2.., Some(value)) => Some(known_list(&value, &part)?),
                _ => return Err(ShapeError::member(CONTEXT, "key 21", "as the format says", "otherwise").into()),
            },
            first_use: reader.optional(22).map(|value| FirstUse::read(&value)).transpose()?,
            barred: match reader.optional(23) {
                None => Vec::new(),
                // None is written where nothing is barred.
                Some(value) => Some(bars::from_value(&value)?)
                    .filter(|bars| !bars.is_empty())
                    .ok_or_else(|| ShapeError::member(CONTEXT, "key 23", "at least one", "none"))?,
            },
            held: reader.optional(24).map(|value| Held::read(&value)).transpose()?,
        };
        reader.finish()?;
        Ok(inputs)
    }
}

fn fixed<const N: usize>(value: &Value, key: &'static str) -> Result<[u8; N], ShapeError> {
    let bytes = value.as_bytes().and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or_else(|| ShapeError::member(CONTEXT, key, format!("{N} bytes"), value.kind()))
}

fn pair(value: &Value, key: &'static str, expected: &'static str) -> Result<(Value, Value), ShapeError> {
    match value.as_array() {
        Some([one, two]) => Ok((one.clone(), two.clone())),
        _ => Err(ShapeError::member(CONTEXT, key, expected, value.kind())),
    }
}

fn asked(banks: Vec<Value>) -> Result<PcrSelection, InputsError> {
    let mut wire = Vec::with_capacity(banks.len());
    for value in &banks {
        let (bank, registers) = pair(value, "key 10", "[bank, registers]")?;
        let wrong = || ShapeError::member(CONTEXT, "key 10", "[bank, registers]", value.kind());
        let bank = bank
            .as_u64()
            .and_then(|bank| u16::try_from(bank).ok())
            .ok_or_else(wrong)?;
        wire.push((bank, registers.as_bytes().ok_or_else(wrong)?.to_vec()));
    }
    Ok(PcrSelection::from_wire(&wire)?)
}

fn activated(value: &Value) -> Result<Activated, InputsError> {
    let (ek, ak_name) = pair(value, "key 11", "[EK id, AK Name]")?;
    let wrong = || ShapeError::member(CONTEXT, "key 11", "[EK id, AK Name]", value.kind());
    Ok(Activated {
        ek: EkId(fixed(&ek, "key 11")?),
        ak_name: ak_name.as_bytes().ok_or_else(wrong)?.to_vec(),
    })
}

/// A part that is what its digest says.
fn whole(expected: [u8; 32], part: impl Fn(&[u8; 32]) -> Option<Vec<u8>>) -> Result<Vec<u8>, InputsError> {
    let bytes = part(&expected).ok_or(InputsError::PartMissing { digest: expected })?;
    let found: [u8; 32] = Sha256::digest(&bytes).into();
    if found == expected {
        Ok(bytes)
    } else {
        Err(InputsError::PartAltered { expected, found })
    }
}

fn known_list(value: &Value, part: impl Fn(&[u8; 32]) -> Option<Vec<u8>>) -> Result<KnownList, InputsError> {
    let (digest, again) = pair(value, "key 21", "[digest, whether entries are judged again]")?;
    let prefix = ImaPrefix::decode(&whole(fixed(&digest, "key 21")?, &part)?)?;
    let entries = match again.as_bool() {
        Some(true) => Some(
            prefix
                .seen
                .iter()
                .map(|digest| whole(*digest, &part))
                .collect::<Result<_, _>>()?,
        ),
        Some(false) => None,
        None => return Err(ShapeError::member(CONTEXT, "key 21", "a boolean", again.kind()).into()),
    };
    Ok(KnownList { prefix, entries })
}

fn evidence(value: Value, part: impl Fn(&[u8; 32]) -> Option<Vec<u8>>) -> Result<Collection, InputsError> {
    let (profile, records) = pair(&value, "key 12", "[profile, records]")?;
    let wrong = |found: &Value| ShapeError::member(CONTEXT, "key 12", "[profile, records]", found.kind());
    let mut collection = match profile.as_text() {
        Some(uri) if uri == Profile::Bound.uri() => Collection::bound(),
        Some(uri) if uri == Profile::Unbound.uri() => Collection::unbound(),
        _ => return Err(wrong(&profile).into()),
    };
    for record in records.as_array().ok_or_else(|| wrong(&records))? {
        let (label, kept) = pair(record, "key 12", "[label, bytes or [digest]]")?;
        let label = label.as_text().and_then(Label::parse).ok_or_else(|| wrong(&label))?;
        let bytes = match kept {
            Value::Bytes(bytes) => bytes,
            Value::Array(digest) => match digest.as_slice() {
                [digest] => whole(fixed(digest, "key 12")?, &part)?,
                _ => return Err(wrong(record).into()),
            },
            other => return Err(wrong(&other).into()),
        };
        collection.insert(label, bytes)?;
    }
    Ok(collection)
}

fn revision(value: Value) -> Result<(String, u64), ShapeError> {
    let (label, revision) = pair(&value, "key 15", "[label, revision]")?;
    match (label.as_text(), revision.as_u64()) {
        (Some(label), Some(revision)) => Ok((label.to_owned(), revision)),
        _ => Err(ShapeError::member(
            CONTEXT,
            "key 15",
            "[label, revision]",
            "another pair",
        )),
    }
}

#[cfg(test)]
pub(crate) mod tests;
