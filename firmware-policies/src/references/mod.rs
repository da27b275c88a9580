//! Reference values for people: which there are, what each says in words, and what changed from one to another.
//!
//! Everything here is commentary: descriptions choose words and never decide. What a difference is *about* is read from
//! an event's description; *that* there is one, from its digest.

mod aspect;
mod diff;
mod guest;
mod story;
#[cfg(test)]
mod tests;

use std::path::Path;

use serde::Serialize;
use touchstone_cose::key::SigningKey;
use touchstone_verifier::corim::{CorimError, MachineReference, TrustedSigner, UntrustedCorim, sign_corim};

use crate::error::{PolicyCode, PolicyError};
use crate::layout::Files;
use crate::layout::TargetKind;
use crate::repository::{published, staged};
use crate::targets::signers_file::{self, Signers};

pub use aspect::Aspect;
pub use diff::{AspectDiff, Change, EventChange, FieldChange, FilesDiff, MAX_COMPARED, ReferenceDiff};
pub use story::{BankStory, ReferenceStory, Shown};

/// Where reference values stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// Published: signed, and judged with.
    Published,
    /// Published, and withdrawn with the next publish.
    Withdrawn,
    /// Staged: counts for nothing before the next publish.
    Staged,
}

impl Standing {
    /// In words.
    pub const fn words(self) -> &'static str {
        match self {
            Standing::Published => "published",
            Standing::Withdrawn => "published, withdrawn with the next publish",
            Standing::Staged => "staged, unsigned until the next publish",
        }
    }
}

/// Reference values with where they come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferenceEntry {
    /// The target they are in.
    pub target: String,
    /// Where they stand.
    pub standing: Standing,
    /// Who signed; none for what is not signed yet.
    pub signer: Option<String>,
    /// First second of validity, Unix seconds.
    pub not_before: Option<i64>,
    /// Last second of validity, Unix seconds.
    pub not_after: Option<i64>,
    /// What they say.
    pub values: MachineReference,
}

/// Every reference of a repository, published and staged, by name. `now` is Unix seconds; what has expired is there too.
///
/// # Errors
/// [`PolicyError`]: `policy-reference-refused` for one that cannot be read or is not signed as it must be, file errors.
pub fn references(repo: &Path, now: i64) -> Result<Vec<ReferenceEntry>, PolicyError> {
    let staged = staged(repo)?;
    let published = published(repo)?.map(|published| published.files).unwrap_or_default();
    let signers = signers(&published, &staged)?;
    let mut entries = Vec::new();
    for (kind, bytes) in published
        .iter()
        .filter(|(kind, _)| matches!(kind, TargetKind::Reference(_)))
    {
        let standing = match staged.get(kind) {
            Some(staged) if staged.is_empty() => Standing::Withdrawn,
            _ => Standing::Published,
        };
        entries.extend(read(kind, bytes, standing, &signers, now)?);
    }
    for (kind, bytes) in staged
        .iter()
        .filter(|(kind, bytes)| matches!(kind, TargetKind::Reference(_)) && !bytes.is_empty())
    {
        let of_file = read(kind, bytes, Standing::Staged, &signers, now)?;
        // What was staged for a publish that has been made says the same: it is shown once.
        entries.extend(
            of_file
                .into_iter()
                .filter(|entry| {
                    published
                        .get(kind)
                        .is_none_or(|bytes| !holds(bytes, kind, entry, &signers, now))
                })
                .collect::<Vec<_>>(),
        );
    }
    entries.sort_by(|a, b| (&a.values.name, a.standing, &a.target).cmp(&(&b.values.name, b.standing, &b.target)));
    Ok(entries)
}

/// The reference of this name: as staged where it is staged and `staged_first`, as published otherwise.
///
/// # Errors
/// [`PolicyError`] `policy-target-missing` with the names there are.
pub fn find<'a>(
    entries: &'a [ReferenceEntry],
    name: &str,
    staged_first: bool,
) -> Result<&'a ReferenceEntry, PolicyError> {
    let named = |entry: &&ReferenceEntry| {
        entry.values.name == name
            || entry.target == name
            || entry.target == TargetKind::Reference(name.to_owned()).name()
    };
    let first = entries
        .iter()
        .filter(named)
        .min_by_key(|entry| (entry.standing == Standing::Staged) != staged_first);
    first.ok_or_else(|| {
        let names: Vec<&str> = entries.iter().map(|entry| entry.values.name.as_str()).collect();
        let expected = if names.is_empty() {
            "a reference of this repository, which has none".to_owned()
        } else {
            format!("one of {}", names.join(", "))
        };
        PolicyError::new(PolicyCode::TargetMissing, "reference", expected, name)
    })
}

fn signers(published: &Files, staged: &Files) -> Result<Signers, PolicyError> {
    let mut signers = Signers::default();
    for files in [staged, published] {
        if let Some(bytes) = files.get(&TargetKind::Signers) {
            let parsed = signers_file::parse(bytes)?;
            signers.own.extend(parsed.own);
            signers.vendors.extend(parsed.vendors);
        }
    }
    Ok(signers)
}

/// What one file says. Types do not let anybody read reference values that are not signed; so what is only staged is
/// signed here, by a key that is thrown away, to be looked at.
fn read(
    kind: &TargetKind,
    bytes: &[u8],
    standing: Standing,
    signers: &Signers,
    now: i64,
) -> Result<Vec<ReferenceEntry>, PolicyError> {
    let refused = |e: CorimError| PolicyError::new(PolicyCode::ReferenceRefused, kind.name(), "reference values", e);
    let unsigned = matches!(UntrustedCorim::new(bytes).verify(&[], now), Err(CorimError::Unsigned));
    let corim = if unsigned && standing == Standing::Staged {
        let key = SigningKey::from_seed(random()?);
        let signer = TrustedSigner {
            name: "unsigned".into(),
            key: key.verifying_key(),
            not_after: None,
        };
        let signed = sign_corim(bytes, &key, &signer.name, None).map_err(refused)?;
        let signers = Signers {
            own: vec![signer],
            vendors: Vec::new(),
        };
        signers_file::verify_reference(&signed, &signers, now).map_err(refused)?
    } else {
        signers_file::verify_reference(bytes, signers, now).map_err(refused)?
    };
    let entry = |values: &MachineReference| ReferenceEntry {
        target: kind.name(),
        standing,
        signer: (!unsigned).then(|| corim.signer().to_owned()),
        not_before: corim.not_before(),
        not_after: Some(corim.not_after()).filter(|end| *end != i64::MAX),
        values: values.clone(),
    };
    Ok(corim.references().iter().map(entry).collect())
}

/// Whether a published file says what a staged entry says.
fn holds(bytes: &[u8], kind: &TargetKind, entry: &ReferenceEntry, signers: &Signers, now: i64) -> bool {
    read(kind, bytes, Standing::Published, signers, now)
        .is_ok_and(|published| published.iter().any(|published| published.values == entry.values))
}

fn random() -> Result<[u8; 32], PolicyError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|e| PolicyError::new(PolicyCode::Io, "randomness", "random bytes", e))?;
    Ok(seed)
}
