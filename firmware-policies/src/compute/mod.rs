//! Reference values computed from artefacts, alone or over the state of a golden machine (the base).
//!
//! Alone, a reference has the registers that follow from the artefacts (4, 8, 9, 11), files, and the launch digest of an
//! SEV-SNP guest. Over a base it is a whole
//! state again: the platform's registers from the base, the rest from the artefacts; or the base with single files
//! replaced by newer ones everywhere.

mod base;
mod boot;
mod launch;
mod replace;
mod sections;
mod stage;
#[cfg(test)]
mod tests;
mod values;

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;
pub use touchstone_artefacts::ArtefactError;
pub use touchstone_artefacts::cpio::initrd_files;
pub use touchstone_artefacts::deb::deb_files;
pub use touchstone_artefacts::files::{FileList, MAX_FILE};
use touchstone_verifier::corim::{FileDigest, MachineReference};
pub use touchstone_verifier::tpm::HashAlg;

pub use base::Base;
pub use boot::{Boot, GrubBoot, NamedFile, StubBoot, UkiBoot};
pub use launch::{GuestKernel, GuestLaunch, parse_tcb};
pub use replace::Replacement;
pub use sections::uki_sections;
use stage::stage;

use crate::error::{PolicyCode, PolicyError};
use crate::repository::Repository;

/// What to compute a reference from.
#[derive(Debug, Clone, Default)]
pub struct Compute {
    /// The banks, where there is no base; with one, the base's.
    pub banks: Vec<HashAlg>,
    /// The boot path, if the reference is to say what boots.
    pub boot: Option<Boot>,
    /// What an SEV-SNP guest is launched with, if the reference is to state one.
    pub guest: Option<GuestLaunch>,
    /// Files the machine may run.
    pub files: Option<FileList>,
    /// A whole state to start from.
    pub base: Option<Base>,
    /// Old and new files of the base.
    pub replacements: Vec<Replacement>,
    /// First and last second of validity, Unix seconds.
    pub validity: (Option<i64>, Option<i64>),
}

/// What [`reference_compute`] staged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReferenceComputed {
    /// Its name.
    pub name: String,
    /// The registers with a value.
    pub registers: Vec<u8>,
    /// The registers with events only: their values depend on the machine too.
    pub events_only: Vec<u8>,
    /// How many events a bank.
    pub events: usize,
    /// How many files.
    pub files: usize,
    /// The launch digest of the SEV-SNP guest, hexadecimal, where there is one.
    pub measurement: Option<String>,
    /// What the artefacts are, and what was replaced, in words.
    pub words: Vec<String>,
    /// What the author should know.
    pub notes: Vec<String>,
    /// The file staged: an unsigned CoRIM, which counts for nothing before publish signs it.
    pub staged: String,
}

/// A reference in the making.
#[derive(Debug, Default)]
struct Draft {
    reference: MachineReference,
    words: Vec<String>,
    notes: Vec<String>,
}

/// Computes reference values and stages them under `name`.
///
/// # Errors
/// [`PolicyError`]: `policy-artefact-refused` (unreadable, or not to be computed), `policy-base-unsuitable`,
/// `policy-reference-conflict`, what reading evidence refuses.
pub fn reference_compute(repo: &Path, name: &str, compute: &Compute) -> Result<ReferenceComputed, PolicyError> {
    let repository = Repository::open(repo)?;
    let mut draft = Draft::default();
    match &compute.base {
        Some(base) => {
            draft.reference = base::load(&repository, base, &mut draft.notes)?;
            (draft.reference.not_before, draft.reference.not_after) = (None, None);
            if compute.boot.is_some() && !compute.replacements.is_empty() {
                let expected = "a boot path, or files to replace";
                return Err(PolicyError::new(PolicyCode::ArtefactRefused, name, expected, "both"));
            }
            let of_registers = compute.boot.is_some() || !compute.replacements.is_empty();
            if of_registers && !draft.reference.has_registers() {
                let expected = "a base with registers and events of a machine";
                return Err(PolicyError::new(PolicyCode::BaseUnsuitable, name, expected, "none"));
            }
            if let Some(boot) = &compute.boot {
                boot::over_base(boot, &mut draft)?;
            }
            for replacement in &compute.replacements {
                replace::apply(replacement, &mut draft)?;
            }
        }
        None => {
            if !compute.replacements.is_empty() {
                let expected = "a base in which to replace files (--base)";
                return Err(PolicyError::new(PolicyCode::ArtefactRefused, name, expected, "none"));
            }
            if let Some(boot) = &compute.boot {
                boot::alone(boot, &compute.banks, &mut draft)?;
            }
        }
    }
    if let Some(files) = &compute.files {
        add_files(&mut draft.reference, files);
    }
    if let Some(guest) = &compute.guest {
        launch::apply(guest, &mut draft)?;
    }
    let nothing = compute.boot.is_none() && compute.files.is_none() && compute.guest.is_none();
    if nothing && compute.replacements.is_empty() {
        let expected = "a boot path, files, an SEV-SNP guest, or files to replace in a base";
        return Err(PolicyError::new(PolicyCode::ArtefactRefused, name, expected, "nothing"));
    }
    let Draft {
        mut reference,
        words,
        notes,
    } = draft;
    (reference.not_before, reference.not_after) = compute.validity;
    reference.name = name.to_owned();
    let of_first = reference.banks.values().next();
    let with_value: BTreeSet<u8> = of_first
        .iter()
        .flat_map(|bank| bank.registers.keys().copied())
        .collect();
    let with_events: BTreeSet<u8> = of_first
        .iter()
        .flat_map(|bank| bank.events.iter().map(|e| e.pcr))
        .collect();
    let events = of_first.map_or(0, |bank| bank.events.len());
    let staged = stage(&repository, &reference)?;
    Ok(ReferenceComputed {
        name: reference.name,
        events_only: with_events.difference(&with_value).copied().collect(),
        registers: with_value.into_iter().collect(),
        events,
        files: reference.files.len(),
        measurement: reference.snp.as_ref().map(|snp| hex::encode(snp.measurement)),
        words,
        notes,
        staged,
    })
}

/// Adds files; a digest that is there is not listed twice.
fn add_files(reference: &mut MachineReference, files: &FileList) {
    let new = files.files().map(|(path, digest)| FileDigest {
        algorithm: files.algorithm(),
        digest: digest.to_vec(),
        path: path.to_owned(),
    });
    reference.files.extend(new);
    reference.files.sort();
    reference.files.dedup();
}

/// An artefact's fault, as a refusal to stage.
fn refused(claim: &str, error: &ArtefactError) -> PolicyError {
    let (expected, found) = match error {
        ArtefactError::Malformed { what, expected, found } => (expected.clone(), format!("{what} with {found}")),
        ArtefactError::TooLarge { what, limit } => (format!("at most {limit}"), format!("more: {what}")),
        ArtefactError::NotComputable { what, why } => (why.clone(), what.clone()),
        other => ("an artefact".into(), other.to_string()),
    };
    PolicyError::new(PolicyCode::ArtefactRefused, claim, expected, found)
}
