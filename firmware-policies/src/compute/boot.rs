//! A boot path: its images, commands and files as events.

use touchstone_artefacts::boot::{self as path, Loaded, start_of_images};
use touchstone_artefacts::event::{
    ComputedEvent, REGISTER_COMMANDS, REGISTER_FILES, REGISTER_IMAGES, REGISTER_SECTIONS,
};
use touchstone_artefacts::grub::{GrubFiles, Script, Start, command_event};
use touchstone_artefacts::pe::{Image, shim_version};
use touchstone_artefacts::uki::Uki;
use touchstone_verifier::corim::BankValues;
use touchstone_verifier::eventlog::EventType;
use touchstone_verifier::tpm::HashAlg;

use super::values::{by_register, check_explained, reference_events, register_value, set_register};
use super::{Draft, refused};
use crate::error::{PolicyCode, PolicyError};

/// From this version on shim has firmware load GRUB's kernel itself, so that it is measured twice (seen with GRUB 2.06).
const SHIM_LOADS: u32 = 16;
/// The registers a boot path determines.
const DETERMINED: [u8; 4] = [REGISTER_IMAGES, REGISTER_COMMANDS, REGISTER_FILES, REGISTER_SECTIONS];

/// A file's content and its name, which is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedFile {
    /// Its name without folders.
    pub name: String,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// What boots.
#[derive(Debug, Clone)]
pub enum Boot {
    /// A unified kernel image.
    Uki(UkiBoot),
    /// A kernel with its EFI stub.
    Stub(StubBoot),
    /// A kernel by GRUB.
    Grub(GrubBoot),
}

/// A unified kernel image, started by firmware or by loaders.
#[derive(Debug, Clone)]
pub struct UkiBoot {
    /// What starts it, in order; empty for the firmware itself.
    pub loaders: Vec<NamedFile>,
    /// The image.
    pub uki: NamedFile,
    /// Whether Secure Boot is on: off, the inner kernel is measured too.
    pub secure_boot: bool,
}

/// A kernel with its EFI stub, started by firmware or by loaders other than GRUB.
#[derive(Debug, Clone)]
pub struct StubBoot {
    /// What starts it, in order; empty for the firmware itself.
    pub loaders: Vec<NamedFile>,
    /// The kernel.
    pub kernel: NamedFile,
    /// The initrd.
    pub initrd: Option<NamedFile>,
    /// The command line the loader hands over.
    pub command_line: String,
}

/// shim and GRUB, or GRUB alone.
#[derive(Debug, Clone)]
pub struct GrubBoot {
    /// The loaders in order; the last is GRUB.
    pub loaders: Vec<NamedFile>,
    /// The kernel.
    pub kernel: NamedFile,
    /// The initrds, in the order of the configuration.
    pub initrds: Vec<NamedFile>,
    /// The configuration: plain commands only.
    pub config: NamedFile,
    /// Where GRUB finds it: `hd0,gpt1`.
    pub device: String,
    /// The command line the author expects the configuration to have, without the kernel's path.
    pub command_line: Option<String>,
    /// How often the kernel is measured into register 4; by default by shim's version.
    pub kernel_measured: Option<u8>,
}

/// What a path gives, and why register 9 is not in it.
struct Path {
    events: Vec<ComputedEvent>,
    without_files: Option<String>,
}

/// A reference of the registers that follow from the path. Only those have values in which no machine has a part.
pub(super) fn alone(boot: &Boot, banks: &[HashAlg], draft: &mut Draft) -> Result<(), PolicyError> {
    let Path { events, without_files } = events(boot, banks, draft)?;
    if let Some(why) = without_files {
        draft.notes.push(why);
    }
    let events: Vec<_> = std::iter::once(start_of_images(banks)).chain(events).collect();
    for bank in banks {
        let mut values = BankValues {
            events: reference_events(*bank, &events)?,
            ..BankValues::default()
        };
        for pcr in DETERMINED.into_iter().filter(|pcr| *pcr != REGISTER_IMAGES) {
            if values.events_of(pcr).next().is_some() {
                let value = register_value(*bank, values.events_of(pcr));
                values.registers.insert(pcr, value);
            }
        }
        draft.reference.banks.insert(*bank, values);
    }
    draft.notes.push(
        "the registers of the firmware are not in it: with --base a whole state is made that machines can match".into(),
    );
    Ok(())
}

/// The base with another boot path: every register a path determines is that of the new one.
pub(super) fn over_base(boot: &Boot, draft: &mut Draft) -> Result<(), PolicyError> {
    let banks: Vec<HashAlg> = draft.reference.banks.keys().copied().collect();
    let Path { events, without_files } = events(boot, &banks, draft)?;
    if let Some(why) = without_files {
        let expected = "a register 9 that can be computed: take the reference from a golden machine (reference add)";
        return Err(PolicyError::new(
            PolicyCode::ArtefactRefused,
            "register 9",
            expected,
            why,
        ));
    }
    for (bank, values) in &mut draft.reference.banks {
        let mut new = by_register(reference_events(*bank, &events)?);
        for pcr in DETERMINED {
            let mut events = new.remove(&pcr).unwrap_or_default();
            if pcr == REGISTER_IMAGES {
                check_explained(*bank, values, pcr)?;
                let mut all = before_images(values)?;
                all.append(&mut events);
                events = all;
            }
            let known = values.registers.contains_key(&pcr) || values.events_of(pcr).next().is_some();
            if known || !events.is_empty() {
                set_register(*bank, values, pcr, events);
            }
        }
    }
    draft
        .notes
        .push("register 7 is the base's: if another key signs the new images, take a new base".into());
    Ok(())
}

/// What firmware measured into register 4 before the first image: boot attempts and the separator.
fn before_images(values: &BankValues) -> Result<Vec<touchstone_verifier::corim::ReferenceEvent>, PolicyError> {
    let is_image = |event_type: EventType| event_type == EventType::EFI_BOOT_SERVICES_APPLICATION;
    let events: Vec<_> = values.events_of(REGISTER_IMAGES).collect();
    let first = events
        .iter()
        .position(|event| is_image(event.event_type))
        .unwrap_or(events.len());
    let (before, after) = events.split_at(first);
    if let Some(odd) = after.iter().find(|event| !is_image(event.event_type)) {
        return Err(PolicyError::new(
            PolicyCode::BaseUnsuitable,
            "register 4 of the base",
            "nothing but images after the first image (use --replace)",
            &odd.description,
        ));
    }
    if before.is_empty() {
        let expected = "events up to the separator (make the base from evidence with an event log)";
        return Err(PolicyError::new(
            PolicyCode::BaseUnsuitable,
            "register 4 of the base",
            expected,
            "none",
        ));
    }
    Ok(before.iter().map(|event| (*event).clone()).collect())
}

fn events(boot: &Boot, banks: &[HashAlg], draft: &mut Draft) -> Result<Path, PolicyError> {
    let mut path = Path {
        events: Vec::new(),
        without_files: None,
    };
    let mut loaders = |files: &[NamedFile]| -> Result<(), PolicyError> {
        for file in files {
            let image = &parse(file)?;
            let name = &file.name;
            draft.words.push(format!(
                "loader {name}{}",
                if image.is_signed() { ", signed" } else { "" }
            ));
            path.events.push(path::image_event(banks, Loaded { image, name }));
        }
        Ok(())
    };
    match boot {
        Boot::Uki(boot) => {
            loaders(&boot.loaders)?;
            let uki = Uki::parse(&boot.uki.bytes).map_err(|e| refused(&boot.uki.name, &e))?;
            draft.words.extend(uki.describe());
            let uki = path::uki_events(banks, &uki, &boot.uki.name, boot.secure_boot);
            let uki = uki.map_err(|e| refused(&boot.uki.name, &e))?;
            path.events.extend(uki.events);
            path.without_files = uki.without_files;
        }
        Boot::Stub(boot) => {
            loaders(&boot.loaders)?;
            let (image, name) = (&parse(&boot.kernel)?, &boot.kernel.name);
            let initrd = boot.initrd.as_ref().map(|file| file.bytes.as_slice());
            let events = path::stub_events(banks, Loaded { image, name }, initrd, &boot.command_line);
            path.events.extend(events.map_err(|e| refused(name, &e))?);
            draft
                .words
                .push(format!("kernel {name}, command line: {}", boot.command_line));
        }
        Boot::Grub(boot) => {
            loaders(&boot.loaders)?;
            path.events.extend(grub_events(boot, banks, draft)?);
        }
    }
    Ok(path)
}

fn parse(file: &NamedFile) -> Result<Image<'_>, PolicyError> {
    Image::parse(&file.bytes).map_err(|e| refused(&file.name, &e))
}

fn grub_events(boot: &GrubBoot, banks: &[HashAlg], draft: &mut Draft) -> Result<Vec<ComputedEvent>, PolicyError> {
    let Some(grub) = boot.loaders.last() else {
        let expected = "the loaders with --image: shim, then GRUB";
        return Err(PolicyError::new(PolicyCode::ArtefactRefused, "GRUB", expected, "none"));
    };
    let start = Start::of(&parse(grub)?, &boot.device).map_err(|e| refused(&grub.name, &e))?;
    let script = Script::parse(&boot.config.bytes).map_err(|e| refused(&boot.config.name, &e))?;
    let line = script.kernel_command_line().unwrap_or_default();
    let own = line.split_once(' ').map_or("", |(_, arguments)| arguments);
    if let Some(expected) = boot.command_line.as_ref().filter(|expected| expected.as_str() != own) {
        let found = format!("{own} (in {})", boot.config.name);
        return Err(PolicyError::new(
            PolicyCode::ArtefactRefused,
            "command line",
            expected,
            found,
        ));
    }
    draft
        .words
        .push(format!("kernel {}, command line: {line}", boot.kernel.name));
    let initrds: Vec<&[u8]> = boot.initrds.iter().map(|file| file.bytes.as_slice()).collect();
    let files = GrubFiles {
        config: (&start.config, &boot.config.bytes),
        kernel: &boot.kernel.bytes,
        initrds: &initrds,
    };
    let mut events: Vec<_> = start
        .commands
        .iter()
        .map(|command| command_event(banks, command))
        .collect();
    events.extend(
        script
            .events(banks, files)
            .map_err(|e| refused(&boot.config.name, &e))?,
    );
    let first = boot.loaders.first().map(parse).transpose()?;
    let shim = first.as_ref().and_then(shim_version);
    let times = boot.kernel_measured.unwrap_or_else(|| match shim {
        Some((major, minor)) => {
            let times = if major >= SHIM_LOADS { 2 } else { 1 };
            draft.notes.push(format!(
                "the kernel is taken to be measured {times} times into register 4, as with shim {major}.{minor}; --kernel-measured says otherwise"
            ));
            times
        }
        None => {
            draft.notes.push("without shim the kernel is taken to be measured once into register 4; --kernel-measured says otherwise".into());
            1
        }
    });
    let image = &parse(&boot.kernel)?;
    // Loaded from memory, it has no path.
    let kernel = path::image_event(banks, Loaded { image, name: "" });
    events.extend(std::iter::repeat_n(kernel, usize::from(times)));
    Ok(events)
}
