//! An old file of a base replaced by a new one, wherever its digests are: in images, files, sections, commands and IMA's
//! list. What the base's events do not explain is refused, never guessed.

use std::collections::BTreeMap;

use touchstone_artefacts::boot::uki_files;
use touchstone_artefacts::cpio::initrd_files;
use touchstone_artefacts::event::{
    ComputedEvent, REGISTER_COMMANDS, REGISTER_FILES, REGISTER_IMAGES, REGISTER_SECTIONS,
};
use touchstone_artefacts::grub::{Script, measured_text, text_event};
use touchstone_artefacts::pe::Image;
use touchstone_artefacts::uki::Uki;
use touchstone_verifier::corim::{BankValues, FileDigest, MachineReference, ReferenceEvent};
use touchstone_verifier::tpm::HashAlg;

use super::boot::NamedFile;
use super::values::{check_explained, reference_events, set_register};
use super::{Draft, add_files, refused};
use crate::error::{PolicyCode, PolicyError};

/// Something old and what comes in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replacement {
    /// A file: its digests, and what follows from it.
    File {
        /// As the base has it.
        old: NamedFile,
        /// As it shall be.
        new: NamedFile,
    },
    /// Part of GRUB's commands and command lines (register 8).
    Text {
        /// As the base has it.
        old: String,
        /// As it shall be.
        new: String,
    },
}

/// A run of digests that stand one after the other in a register, and the events that come in their place.
struct Run {
    register: Option<u8>,
    old: Vec<Vec<u8>>,
    /// None: the events stay as they are described, with this one digest.
    events: Option<Vec<ReferenceEvent>>,
    digest: Vec<u8>,
}

/// Applies one replacement to every bank and to the files.
pub(super) fn apply(replacement: &Replacement, draft: &mut Draft) -> Result<(), PolicyError> {
    let (what, to, found) = match replacement {
        Replacement::File { old, new } => {
            let mut found = 0;
            for (bank, values) in &mut draft.reference.banks {
                let runs = runs(*bank, old, new, &mut draft.notes)?;
                let in_bank = replace_runs(*bank, values, &runs)?;
                if in_bank == 0 && found != 0 {
                    return Err(missing(&format!("{} in bank {bank}", old.name)));
                }
                found += in_bank;
            }
            found += replace_files(&mut draft.reference, old, new)?;
            (&old.name, &new.name, found)
        }
        Replacement::Text { old, new } => {
            let mut found = 0;
            for (bank, values) in &mut draft.reference.banks {
                found += replace_text(*bank, values, old, new)?;
            }
            (old, new, found)
        }
    };
    if found == 0 {
        return Err(missing(what));
    }
    draft.words.push(format!("{what} -> {to}: {found} digests replaced"));
    draft.notes.dedup();
    Ok(())
}

fn missing(what: &str) -> PolicyError {
    let expected = "something the base has (reference show names its events and files)";
    PolicyError::new(PolicyCode::BaseUnsuitable, what, expected, "no digest of it")
}

/// Every run of digests that follows from the old file, with what follows from the new one.
fn runs(bank: HashAlg, old: &NamedFile, new: &NamedFile, notes: &mut Vec<String>) -> Result<Vec<Run>, PolicyError> {
    let plain = |file: &NamedFile| bank.digest([file.bytes.as_slice()]).as_ref().to_vec();
    let single = |register, old, digest| Run {
        register,
        old: vec![old],
        events: None,
        digest,
    };
    let mut runs = Vec::new();
    match (Image::is_image(&old.bytes), Image::is_image(&new.bytes)) {
        (true, true) => {
            let image = |file: &'_ NamedFile| -> Result<Vec<u8>, PolicyError> {
                let image = Image::parse(&file.bytes).map_err(|e| refused(&file.name, &e))?;
                Ok(image.authenticode(bank))
            };
            runs.push(single(Some(REGISTER_IMAGES), image(old)?, image(new)?));
            runs.extend(uki_runs(bank, old, new)?);
        }
        (false, false) => runs.extend(grub_run(bank, old, new, notes)?),
        _ => {
            let found = format!(
                "{} is one, the other is not",
                if Image::is_image(&old.bytes) {
                    &old.name
                } else {
                    &new.name
                }
            );
            return Err(PolicyError::new(
                PolicyCode::ArtefactRefused,
                &new.name,
                "two images, or none",
                found,
            ));
        }
    }
    runs.push(single(None, plain(old), plain(new)));
    Ok(runs)
}

/// Unified kernel images: their sections, load options, initrd and inner kernel, each as a whole.
fn uki_runs(bank: HashAlg, old: &NamedFile, new: &NamedFile) -> Result<Vec<Run>, PolicyError> {
    let images = [old, new].map(|file| Image::parse(&file.bytes).is_ok_and(|image| Uki::is_uki(&image)));
    if images == [false, false] {
        return Ok(Vec::new());
    }
    let parse = |file: &'_ NamedFile| -> Result<[Vec<ComputedEvent>; 2], PolicyError> {
        let uki = Uki::parse(&file.bytes).map_err(|e| refused(&file.name, &e))?;
        let files = uki_files(&[bank], &uki).map_err(|e| refused(&file.name, &e))?;
        Ok([uki.section_events(&[bank]), files])
    };
    let ([old_sections, old_files], [new_sections, new_files]) = (parse(old)?, parse(new)?);
    let inner = |file: &'_ NamedFile| -> Option<Vec<u8>> {
        let uki = Uki::parse(&file.bytes).ok()?;
        Some(uki.kernel().ok()?.authenticode(bank))
    };
    let mut runs = vec![
        run_of(bank, REGISTER_SECTIONS, &old_sections, &new_sections)?,
        run_of(bank, REGISTER_FILES, &old_files, &new_files)?,
    ];
    if let (Some(old), Some(digest)) = (inner(old), inner(new)) {
        runs.push(Run {
            register: Some(REGISTER_IMAGES),
            old: vec![old],
            events: None,
            digest,
        });
    }
    Ok(runs)
}

fn run_of(bank: HashAlg, register: u8, old: &[ComputedEvent], new: &[ComputedEvent]) -> Result<Run, PolicyError> {
    let old = old.iter().filter_map(|event| event.digest(bank).map(<[u8]>::to_vec));
    Ok(Run {
        register: Some(register),
        old: old.collect(),
        events: Some(reference_events(bank, new)?),
        digest: Vec::new(),
    })
}

/// GRUB configurations of plain commands: what they do in register 8.
fn grub_run(
    bank: HashAlg,
    old: &NamedFile,
    new: &NamedFile,
    notes: &mut Vec<String>,
) -> Result<Option<Run>, PolicyError> {
    // Only text can be a configuration; initrds and packages are not tried.
    if std::str::from_utf8(&old.bytes).is_err() || std::str::from_utf8(&new.bytes).is_err() {
        return Ok(None);
    }
    match (Script::parse(&old.bytes), Script::parse(&new.bytes)) {
        (Ok(before), Ok(after)) => {
            let (before, after) = (before.command_events(&[bank]), after.command_events(&[bank]));
            run_of(bank, REGISTER_COMMANDS, &before, &after).map(Some)
        }
        _ => {
            notes.push(format!(
                "{} is replaced as a file; what its commands measure (register 8) stays as in the base, but for --replace-text",
                old.name
            ));
            Ok(None)
        }
    }
}

/// Replaces runs in every register and recomputes the values of those that changed.
fn replace_runs(bank: HashAlg, values: &mut BankValues, runs: &[Run]) -> Result<usize, PolicyError> {
    let mut total = 0;
    let registers: std::collections::BTreeSet<u8> = values.events.iter().map(|event| event.pcr).collect();
    for pcr in registers {
        let mut events: Vec<ReferenceEvent> = values.events_of(pcr).cloned().collect();
        let mut found = 0;
        for run in runs
            .iter()
            .filter(|run| run.register.is_none_or(|own| own == pcr) && !run.old.is_empty())
        {
            let (replaced, count) = replace_run(events, run);
            events = replaced;
            found += count;
        }
        if found != 0 {
            check_explained(bank, values, pcr)?;
            set_register(bank, values, pcr, events);
            total += found;
        }
    }
    Ok(total)
}

fn replace_run(events: Vec<ReferenceEvent>, run: &Run) -> (Vec<ReferenceEvent>, usize) {
    let (mut out, mut found, mut at) = (Vec::with_capacity(events.len()), 0, 0);
    while let Some(event) = events.get(at) {
        let here = events.get(at..at + run.old.len());
        let matches = here.is_some_and(|here| here.iter().map(|event| &event.digest).eq(&run.old));
        if !matches {
            out.push(event.clone());
            at += 1;
            continue;
        }
        match &run.events {
            Some(events) => out.extend(events.iter().cloned()),
            None => out.push(ReferenceEvent {
                digest: run.digest.clone(),
                data: None,
                ..event.clone()
            }),
        }
        found += run.old.len();
        at += run.old.len();
    }
    (out, found)
}

/// Replaces text in GRUB's commands, where the base has kept what was measured.
fn replace_text(bank: HashAlg, values: &mut BankValues, old: &str, new: &str) -> Result<usize, PolicyError> {
    if old.is_empty() {
        return Ok(0);
    }
    let (mut events, mut found) = (Vec::new(), 0);
    for event in values.events_of(REGISTER_COMMANDS) {
        let text = event.data.as_deref().and_then(measured_text);
        let covered = text.filter(|(_, text)| bank.digest([text.as_bytes()]).as_ref() == event.digest);
        match covered.filter(|(_, text)| text.contains(old)) {
            Some((prefix, text)) => {
                let changed = text_event(&[bank], prefix, &text.replace(old, new));
                events.extend(reference_events(bank, &[changed])?);
                found += 1;
            }
            None => events.push(event.clone()),
        }
    }
    if found != 0 {
        check_explained(bank, values, REGISTER_COMMANDS)?;
        set_register(bank, values, REGISTER_COMMANDS, events);
    }
    Ok(found)
}

/// Replaces a file in the list of what may run; of an initrd, every file in it.
fn replace_files(reference: &mut MachineReference, old: &NamedFile, new: &NamedFile) -> Result<usize, PolicyError> {
    let mut found = 0;
    for file in &mut reference.files {
        let algorithm = file.algorithm;
        if file.digest == algorithm.digest([old.bytes.as_slice()]).as_ref() {
            file.digest = algorithm.digest([new.bytes.as_slice()]).as_ref().to_vec();
            found += 1;
        }
    }
    let algorithms: std::collections::BTreeSet<HashAlg> = reference.files.iter().map(|file| file.algorithm).collect();
    for algorithm in algorithms {
        let (Ok(before), Ok(after)) = (initrd_files(&old.bytes, algorithm), initrd_files(&new.bytes, algorithm)) else {
            continue;
        };
        let before: BTreeMap<&[u8], &str> = before.files().map(|(path, digest)| (digest, path)).collect();
        let is_old = |file: &FileDigest| file.algorithm == algorithm && before.contains_key(file.digest.as_slice());
        let count = reference.files.len();
        reference.files.retain(|file| !is_old(file));
        if reference.files.len() != count {
            found += count - reference.files.len();
            add_files(reference, &after);
        }
    }
    reference.files.sort();
    Ok(found)
}
