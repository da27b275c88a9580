//! Staging a reference under its name.

use touchstone_verifier::corim::MachineReference;

use crate::error::{PolicyCode, PolicyError};
use crate::layout::{TargetKind, is_reference_name};
use crate::repository::Repository;

/// Writes the unsigned CoRIM where the next publish signs it. Other values under the same name are never overwritten.
pub(super) fn stage(repository: &Repository, reference: &MachineReference) -> Result<String, PolicyError> {
    let name = &reference.name;
    if !is_reference_name(name) {
        let expected = "letters, digits, dot, hyphen and underscore, at most 63";
        return Err(PolicyError::new(
            PolicyCode::SettingsName,
            "reference name",
            expected,
            name,
        ));
    }
    if let (Some(from), Some(until)) = (reference.not_before, reference.not_after)
        && until < from
    {
        let expected = format!("an end after {from}");
        return Err(PolicyError::new(PolicyCode::ReferenceConflict, name, expected, until));
    }
    let unsigned = reference.to_corim_unsigned();
    let unsigned = unsigned.map_err(|e| PolicyError::new(PolicyCode::ArtefactRefused, name, "reference values", e))?;
    let kind = TargetKind::Reference(name.clone());
    let staged = repository.staged()?;
    if staged
        .get(&kind)
        .is_some_and(|other| !other.is_empty() && *other != unsigned)
    {
        let expected = "the same values as are staged under this name";
        return Err(PolicyError::new(
            PolicyCode::ReferenceConflict,
            name,
            expected,
            "other values",
        ));
    }
    repository.stage(&kind, &unsigned)
}
