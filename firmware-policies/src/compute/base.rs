//! The state to start from: a reference of the repository, or a golden machine's evidence.

use touchstone_cose::key::SigningKey;
use touchstone_verifier::corim::{CorimError, MachineReference, TrustedSigner, sign_corim};
use touchstone_verifier::tpm::selection::RESETTABLE_REGISTERS;

use crate::author::evidence::{CheckedEvidence, IMA_REGISTER};
use crate::error::{PolicyCode, PolicyError};
use crate::layout::TargetKind;
use crate::repository::Repository;
use crate::targets::signers_file::{self, verify_reference};

/// Where a base comes from.
#[derive(Debug, Clone)]
pub enum Base {
    /// A reference of this name, published or staged.
    Reference(String),
    /// Evidence of a golden machine, checked as `reference add` does.
    Evidence(Vec<u8>),
}

pub(super) fn load(
    repository: &Repository,
    base: &Base,
    notes: &mut Vec<String>,
) -> Result<MachineReference, PolicyError> {
    let reference = match base {
        Base::Reference(name) => named(repository, name)?,
        Base::Evidence(evidence) => golden(evidence, notes)?,
    };
    if !reference.has_registers() && !reference.has_guest() {
        let expected = "registers and events of a machine, or a confidential VM's measurement";
        return Err(PolicyError::new(
            PolicyCode::BaseUnsuitable,
            &reference.name,
            expected,
            "files only",
        ));
    }
    Ok(reference)
}

/// What `reference add` would make of the evidence.
fn golden(evidence: &[u8], notes: &mut Vec<String>) -> Result<MachineReference, PolicyError> {
    let CheckedEvidence {
        mut banks,
        snp,
        gpus,
        notes: more,
        ..
    } = CheckedEvidence::read(evidence)?;
    notes.extend(more);
    let moves = |register: u8| register == IMA_REGISTER || RESETTABLE_REGISTERS.contains(&register);
    for values in banks.values_mut() {
        values.registers.retain(|register, _| !moves(*register));
        values.events.retain(|event| !moves(event.pcr));
    }
    banks.retain(|_, values| !values.registers.is_empty());
    Ok(MachineReference {
        name: "base".into(),
        banks,
        snp: snp.map(|guest| guest.reference),
        gpus: gpus.states,
        ..MachineReference::default()
    })
}

/// The reference of a file of the repository: verified where it is signed, read as a draft where it is staged.
fn named(repository: &Repository, name: &str) -> Result<MachineReference, PolicyError> {
    let kind = TargetKind::Reference(name.to_owned());
    let files = repository.next()?;
    let unsuitable = |found: String| {
        let expected = "a reference of this repository, or a file with evidence";
        PolicyError::new(PolicyCode::BaseUnsuitable, name, expected, found)
    };
    let bytes = files.get(&kind).ok_or_else(|| unsuitable("none of this name".into()))?;
    let signers = files
        .get(&TargetKind::Signers)
        .map(|bytes| signers_file::parse(bytes))
        .transpose()?;
    let signers = signers.ok_or_else(|| unsuitable("a repository without signers.json".into()))?;
    let verified = match verify_reference(bytes, &signers, 0) {
        Err(CorimError::Unsigned) => draft(bytes).map_err(unsuitable)?,
        Ok(verified) => verified.references().to_vec(),
        Err(error) => return Err(unsuitable(format!("{}: {error}", error.code()))),
    };
    let only = verified.len() == 1;
    let mut references = verified.into_iter();
    let found = references.find(|reference| only || reference.name == name);
    found.ok_or_else(|| unsuitable("several references, none of this name".into()))
}

/// What an unsigned file would say once it is signed: it is read under a signature nobody else ever sees.
fn draft(unsigned: &[u8]) -> Result<Vec<MachineReference>, String> {
    const NAME: &str = "draft";
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|e| e.to_string())?;
    let key = SigningKey::from_seed(seed);
    let signed = sign_corim(unsigned, &key, NAME, None).map_err(|e| e.to_string())?;
    let signers = signers_file::Signers {
        own: vec![TrustedSigner {
            name: NAME.into(),
            key: key.verifying_key(),
            not_after: None,
        }],
        vendors: Vec::new(),
    };
    let verified = verify_reference(&signed, &signers, 0).map_err(|e| e.to_string())?;
    Ok(verified.references().to_vec())
}
