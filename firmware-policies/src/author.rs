//! Authoring: stage what the next publish will sign.
//!
//! Staging signs nothing and changes nothing that anyone reads: it writes below `REPO/staged`, where people may look
//! and edit. What is published stays valid meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest, Sha256};
use touchstone_verifier::anchors::Purpose;
use touchstone_verifier::corim::{BankValues, MachineReference};
use touchstone_verifier::gpu::GpuReference;
use touchstone_verifier::snp::SnpReference;
use touchstone_verifier::tdx::TdxReference;
use touchstone_verifier::tpm::HashAlg;
use touchstone_verifier::tpm::selection::RESETTABLE_REGISTERS;
use touchstone_verifier::x509::Certificate;

use crate::author::evidence::{CheckedEvidence, IMA_REGISTER, is_pem};
use crate::error::{PolicyCode, PolicyError};
use crate::layout::{TargetKind, is_reference_name};
use crate::repository::Repository;
use crate::targets::keyset_file::Keyset;
use crate::transport::bounded::read_bounded;

pub mod entries;
pub(crate) mod evidence;
pub mod federation;
pub(crate) mod identity;
pub(crate) mod ima_keys;
pub(crate) mod import;
pub(crate) mod init;
mod makers;
mod nodes;
pub mod trust;
pub mod vendor;

pub use crate::author::init::{Initialised, init};
pub use import::{BadLine, ImportError, NodesImported, node_import};
pub use nodes::{NodeAdded, NodeListed, NodePlace, NodeRemoved, node_add, node_list, node_remove, node_volume};

/// Largest file of certificates.
pub const MAX_CA_FILE_LEN: u64 = 1 << 20;

/// The certificates [`trust_add`] staged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TrustAdded {
    /// Subject and SHA-256 of each, in the order given.
    pub anchors: Vec<(String, String)>,
}

/// Stages trust anchors from certificate files, DER or PEM (several in one PEM file are all taken).
///
/// # Errors
/// [`PolicyError`] `policy-anchor-unreadable`, or file errors; then nothing is staged.
pub fn trust_add(repo: &Path, purpose: Purpose, ca_files: &[PathBuf]) -> Result<TrustAdded, PolicyError> {
    let repository = Repository::open(repo)?;
    let mut certificates = Vec::new();
    for path in ca_files {
        let bytes = read_bounded(path, MAX_CA_FILE_LEN).map_err(|e| PolicyError::io(path, "a certificate file", &e))?;
        let unreadable = |found: String| {
            PolicyError::new(
                PolicyCode::AnchorUnreadable,
                path.display(),
                "X.509 certificates",
                found,
            )
        };
        for der in certificates_in(&bytes).map_err(unreadable)? {
            certificates.push(Certificate::from_der(&der).map_err(|e| unreadable(e.to_string()))?);
        }
    }
    if certificates.is_empty() {
        return Err(PolicyError::new(
            PolicyCode::AnchorUnreadable,
            "certificates",
            "at least one",
            "none",
        ));
    }
    let mut anchors = Vec::new();
    for certificate in certificates {
        let digest: [u8; 32] = Sha256::digest(certificate.as_der()).into();
        repository.stage(&TargetKind::Anchor(purpose, digest), certificate.as_der())?;
        anchors.push((certificate.subject().to_owned(), hex::encode(digest)));
    }
    Ok(TrustAdded { anchors })
}

fn certificates_in(bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    if !is_pem(bytes) {
        return Ok(vec![bytes.to_vec()]);
    }
    let blocks = pem::parse_many(bytes).map_err(|e| e.to_string())?;
    let wrong = blocks.iter().find(|b| b.tag() != "CERTIFICATE");
    match wrong {
        Some(block) => Err(format!("PEM of {}", block.tag())),
        None => Ok(blocks.into_iter().map(pem::Pem::into_contents).collect()),
    }
}

/// What [`reference_add`] staged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReferenceAdded {
    /// Its name.
    pub name: String,
    /// The banks it states, by name.
    pub banks: Vec<String>,
    /// The registers it states, in any of its banks.
    pub registers: Vec<u8>,
    /// How many events lead to them, in one bank; none without a log.
    pub events: usize,
    /// How many files it lists.
    pub files: usize,
    /// What its confidential VM was launched from, hexadecimal; none for a machine without one.
    pub measurement: Option<String>,
    /// The states of GPUs it lists, in words.
    pub gpus: Vec<String>,
    /// The file staged: an unsigned CoRIM, which counts for nothing before publish signs it.
    pub staged: String,
    /// What the author should know.
    pub notes: Vec<String>,
}

/// Stages the reference values that `evidence` shows, after checking that it holds together: every quoted bank that is
/// not weak, with the events that led to its registers; of a confidential VM what it was launched from and how, and its
/// security versions as floors. Without a name it is called by the digest of its registers.
/// Validity is Unix seconds, and unlimited unless asked for.
///
/// # Errors
/// [`PolicyError`]: `policy-evidence-unreadable`, `policy-evidence-refused`, `policy-reference-conflict`.
pub fn reference_add(
    repo: &Path,
    evidence: &[u8],
    name: Option<&str>,
    valid_from: Option<i64>,
    valid_until: Option<i64>,
) -> Result<ReferenceAdded, PolicyError> {
    let repository = Repository::open(repo)?;
    let CheckedEvidence {
        mut banks,
        files,
        snp,
        gpus,
        tdx,
        notes,
        ..
    } = CheckedEvidence::read(evidence)?;
    let moves = |register: u8| register == IMA_REGISTER || RESETTABLE_REGISTERS.contains(&register);
    for values in banks.values_mut() {
        values.registers.retain(|register, _| !moves(*register));
        values.events.retain(|event| !moves(event.pcr));
    }
    banks.retain(|_, values| !values.registers.is_empty());
    let snp = snp.map(|guest| guest.reference);
    let tdx = tdx.map(|guest| guest.reference);
    if banks.is_empty() && snp.is_none() && tdx.is_none() && gpus.states.is_empty() {
        let expected =
            "quoted boot registers of a SHA-256, SHA-384 or SHA-512 bank, or a report of a confidential VM or GPU";
        return Err(PolicyError::new(PolicyCode::EvidenceRefused, "quote", expected, "none"));
    }
    let name = match name {
        Some(name) if is_reference_name(name) => name.to_owned(),
        Some(name) => {
            let expected = "letters, digits, dot, hyphen and underscore, at most 63";
            return Err(PolicyError::new(
                PolicyCode::SettingsName,
                "reference name",
                expected,
                name,
            ));
        }
        None => name_of(&banks, snp.as_ref(), tdx.as_ref(), &gpus.states),
    };
    if let (Some(from), Some(until)) = (valid_from, valid_until)
        && until < from
    {
        return Err(PolicyError::new(
            PolicyCode::ReferenceConflict,
            &name,
            format!("an end after {from}"),
            until,
        ));
    }
    let names = banks.keys().map(ToString::to_string).collect();
    let numbers: BTreeSet<u8> = banks
        .values()
        .flat_map(|values| values.registers.keys().copied())
        .collect();
    let count = banks
        .values()
        .map(|values| values.events.len())
        .max()
        .unwrap_or_default();
    let reference = MachineReference {
        name: name.clone(),
        banks,
        files,
        snp,
        tdx,
        gpus: gpus.states,
        not_before: valid_from,
        not_after: valid_until,
    };
    let unsigned = reference.to_corim_unsigned();
    let unsigned = unsigned.map_err(|e| PolicyError::new(PolicyCode::EvidenceRefused, &name, "reference values", e))?;
    let kind = TargetKind::Reference(name.clone());
    if let Some(other) = repository.staged()?.get(&kind)
        && !other.is_empty()
        && *other != unsigned
    {
        let expected = "the same values as are staged under this name";
        return Err(PolicyError::new(
            PolicyCode::ReferenceConflict,
            &name,
            expected,
            "other values",
        ));
    }
    let staged = repository.stage(&kind, &unsigned)?;
    Ok(ReferenceAdded {
        name,
        banks: names,
        registers: numbers.into_iter().collect(),
        events: count,
        files: reference.files.len(),
        measurement: match (&reference.snp, &reference.tdx) {
            (Some(snp), _) => Some(hex::encode(snp.measurement)),
            (None, tdx) => tdx.as_ref().map(|tdx| hex::encode(tdx.mrtd)),
        },
        gpus: reference.gpus.iter().map(GpuReference::describe).collect(),
        staged,
        notes,
    })
}

/// A name by the digest of the registers, the guest's measurements and the GPUs'.
fn name_of(
    banks: &BTreeMap<HashAlg, BankValues>,
    snp: Option<&SnpReference>,
    tdx: Option<&TdxReference>,
    gpus: &[GpuReference],
) -> String {
    let mut hash = Sha256::new();
    for (bank, values) in banks {
        for (register, value) in &values.registers {
            hash.update(bank.tpm_id().to_be_bytes());
            hash.update([*register]);
            hash.update(value);
        }
    }
    if let Some(snp) = snp {
        hash.update(snp.measurement);
    }
    if let Some(tdx) = tdx {
        hash.update(tdx.mrtd);
        tdx.rtmrs.registers.values().for_each(|value| hash.update(value));
    }
    for gpu in gpus {
        hash.update(gpu.describe());
        let digests = gpu.measurements.values().flatten();
        digests.for_each(|digest| hash.update(digest));
    }
    let digest = hex::encode(hash.finalize());
    format!("reference-{}", digest.get(..16).unwrap_or_default())
}

/// What [`keyset_add`] staged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeysetAdded {
    /// Its version.
    pub version: u64,
    /// How many keys it lists.
    pub keys: usize,
}

/// Stages the broker's keyset (`keyset.json`, as [`Keyset::to_json`] writes it).
///
/// # Errors
/// [`PolicyError`]: what [`Keyset::parse`] refuses; `policy-keyset-older` where its version is not above the published.
pub fn keyset_add(repo: &Path, keyset: &[u8]) -> Result<KeysetAdded, PolicyError> {
    let repository = Repository::open(repo)?;
    let parsed = Keyset::parse(keyset)?;
    let published = repository
        .published()?
        .and_then(|mut p| p.files.remove(&TargetKind::Keyset));
    if let Some(published) = published.filter(|bytes| bytes != keyset) {
        let last = Keyset::parse(&published)?.version;
        if parsed.version <= last {
            let expected = format!("a version after {last}");
            return Err(PolicyError::new(
                PolicyCode::KeysetOlder,
                "keyset.json",
                expected,
                parsed.version,
            ));
        }
    }
    repository.stage(&TargetKind::Keyset, keyset)?;
    Ok(KeysetAdded {
        version: parsed.version,
        keys: parsed.keys.len(),
    })
}

/// Stages the withdrawal of a published target, by its name: `nodes/web-1.json`, `references/golden.corim`. What rested
/// on it is judged without it from the next publish on. Staged as an empty file, which no target can be.
///
/// # Errors
/// [`PolicyError`]: `policy-target-unknown`, `policy-target-missing` where it is neither published nor staged,
/// `policy-target-required` for a target without which nothing can be decided.
pub fn withdraw(repo: &Path, target: &str) -> Result<(), PolicyError> {
    let repository = Repository::open(repo)?;
    let Some(kind) = TargetKind::of(target) else {
        return Err(PolicyError::new(
            PolicyCode::TargetUnknown,
            target,
            "a target's name",
            target,
        ));
    };
    if TargetKind::REQUIRED.contains(&kind) {
        let expected = "a target that can be done without";
        return Err(PolicyError::new(
            PolicyCode::TargetRequired,
            target,
            expected,
            "a required one",
        ));
    }
    if !repository.next()?.contains_key(&kind) {
        return Err(PolicyError::new(
            PolicyCode::TargetMissing,
            target,
            "published or staged",
            "neither",
        ));
    }
    repository.stage(&kind, &[]).map(drop)
}

#[cfg(test)]
mod tests;
