//! Boot paths: which images, commands and files become events of registers 4, 8, 9 and 11.
//!
//! Sources: PFP 1.06, 3.3.4.5 (register 4); GRUB manual, "Measuring boot components" (registers 8 and 9); Linux
//! documentation of the EFI stub, and its tagged events (register 9); systemd-stub(7) (register 11).

use touchstone_verifier::eventlog::EventType;
use touchstone_verifier::tpm::HashAlg;

use crate::ArtefactError;
use crate::event::{ComputedEvent, REGISTER_FILES, REGISTER_IMAGES, separator};
use crate::pe::Image;
use crate::uki::{Uki, utf16};

/// Tag of the Linux EFI stub for the load options.
const TAG_LOAD_OPTIONS: u32 = 0x8F3B_22ED;
/// Tag of the Linux EFI stub for the initrd.
const TAG_INITRD: u32 = 0x8F3B_22EC;
/// What the stub calls them.
const LOAD_OPTIONS: &[u8] = b"LOADED_IMAGE::LoadOptions\0";
const INITRD: &[u8] = b"Linux initrd\0";
/// Up to this version systemd-stub hands an initrd of the image on as it is, if it has nothing to add to it.
const LAST_PLAIN_INITRD: u32 = 255;

/// An image the firmware or a loader starts, and the path it is started from (for the words only).
#[derive(Debug, Clone, Copy)]
pub struct Loaded<'a> {
    /// The image.
    pub image: &'a Image<'a>,
    /// Its file name.
    pub name: &'a str,
}

/// The start of register 4: the separator after the firmware's own part. The boot manager's action strings around it are
/// the machine's own business and are left out of every comparison.
pub fn start_of_images(banks: &[HashAlg]) -> ComputedEvent {
    separator(banks, REGISTER_IMAGES)
}

/// An image that is loaded: its Authenticode digest in register 4.
pub fn image_event(banks: &[HashAlg], loaded: Loaded<'_>) -> ComputedEvent {
    let digests = banks.iter().map(|bank| (*bank, loaded.image.authenticode(*bank)));
    ComputedEvent {
        pcr: REGISTER_IMAGES,
        event_type: EventType::EFI_BOOT_SERVICES_APPLICATION,
        data: image_load_event(loaded.name),
        digests: digests.collect(),
    }
}

/// UEFI_IMAGE_LOAD_EVENT (PFP 1.06, 10.2.3) with a device path of one file node; the addresses are the machine's.
fn image_load_event(name: &str) -> Vec<u8> {
    let path = if name.is_empty() {
        Vec::new()
    } else {
        let name = utf16(&format!("\\{name}"), true);
        let len = u16::try_from(name.len() + 4).unwrap_or(u16::MAX);
        let mut path = vec![4, 4];
        path.extend(len.to_le_bytes());
        path.extend(name);
        path.extend([0x7F, 0xFF, 4, 0]);
        path
    };
    let mut data = vec![0; 24];
    data.extend((path.len() as u64).to_le_bytes());
    data.extend(path);
    data
}

/// The EFI stub's event of the load options: UTF-16LE with the closing NUL (register 9).
pub fn load_options_event(banks: &[HashAlg], command_line: &str) -> ComputedEvent {
    tagged(banks, TAG_LOAD_OPTIONS, LOAD_OPTIONS, &utf16(command_line, true))
}

/// The EFI stub's event of the initrd it was handed (register 9).
pub fn initrd_event(banks: &[HashAlg], initrd: &[u8]) -> ComputedEvent {
    tagged(banks, TAG_INITRD, INITRD, initrd)
}

/// TCG_PCClientTaggedEvent (PFP 1.06, 10.4.2.1): the data says which, the digest covers what was measured.
fn tagged(banks: &[HashAlg], tag: u32, name: &[u8], measured: &[u8]) -> ComputedEvent {
    let mut data = tag.to_le_bytes().to_vec();
    data.extend((name.len() as u32).to_le_bytes());
    data.extend(name);
    ComputedEvent::of(banks, REGISTER_FILES, EventType::EVENT_TAG, data, measured)
}

/// The command line a stub hands on unchanged: printable ASCII on one line, without blanks at either end (versions of
/// systemd-stub differ in what they do with others).
///
/// # Errors
/// [`ArtefactError::NotComputable`].
pub fn plain_command_line(bytes: &[u8]) -> Result<&str, ArtefactError> {
    let plain = std::str::from_utf8(bytes).ok().filter(|text| {
        text.bytes().all(|byte| (0x20..0x7F).contains(&byte)) && text.trim() == *text && !text.is_empty()
    });
    plain.ok_or_else(|| {
        let why = "only printable ASCII on one line, without blanks at its ends, is handed on the same by every stub";
        ArtefactError::not_computable("command line", why)
    })
}

/// What a boot of a unified kernel image measures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UkiBoot {
    /// Events of register 4 after the loaders', of register 11 and, where it can be known, of register 9.
    pub events: Vec<ComputedEvent>,
    /// Why register 9 is not among them.
    pub without_files: Option<String>,
}

/// The events of a unified kernel image called `name`.
///
/// # Errors
/// [`ArtefactError`]: with Secure Boot off, an inner kernel that is no image.
pub fn uki_events(banks: &[HashAlg], uki: &Uki<'_>, name: &str, secure_boot: bool) -> Result<UkiBoot, ArtefactError> {
    let loaded = Loaded {
        image: uki.image(),
        name,
    };
    let mut events = vec![image_event(banks, loaded)];
    events.extend(uki.section_events(banks));
    if !secure_boot {
        // The stub has the firmware load the kernel from memory, without a path.
        let image = &uki.kernel()?;
        events.push(image_event(banks, Loaded { image, name: "" }));
    }
    let without_files = match uki_files(banks, uki) {
        Ok(files) => {
            events.extend(files);
            None
        }
        Err(error) => Some(error.to_string()),
    };
    Ok(UkiBoot { events, without_files })
}

/// Register 9 of a unified kernel image: the inner kernel's stub measures what it was handed.
///
/// # Errors
/// [`ArtefactError::NotComputable`] where the stub does not hand on what the image holds.
pub fn uki_files(banks: &[HashAlg], uki: &Uki<'_>) -> Result<Vec<ComputedEvent>, ArtefactError> {
    let stop = |why: String| Err(ArtefactError::not_computable("register 9", why));
    if uki.stub_version() > LAST_PLAIN_INITRD {
        return stop(format!(
            "systemd-stub {} adds files of its own to the initrd",
            uki.stub_version()
        ));
    }
    if let Some(name) = [".pcrsig", ".pcrpkey", ".ucode"].into_iter().find(|name| uki.has(name)) {
        return stop(format!("systemd-stub adds section {name} to the initrd"));
    }
    let Some(command_line) = uki.content(".cmdline") else {
        return stop("the image has no command line of its own".into());
    };
    let mut events = vec![load_options_event(banks, plain_command_line(command_line)?)];
    events.extend(uki.content(".initrd").map(|initrd| initrd_event(banks, initrd)));
    Ok(events)
}

/// A kernel with its EFI stub, started by firmware, systemd-boot or another loader that hands over load options and one
/// initrd: the image in register 4, load options and initrd in register 9 (Linux 6.1 and later).
///
/// # Errors
/// [`ArtefactError::NotComputable`] for a command line that is not plain.
pub fn stub_events(
    banks: &[HashAlg],
    kernel: Loaded<'_>,
    initrd: Option<&[u8]>,
    command_line: &str,
) -> Result<Vec<ComputedEvent>, ArtefactError> {
    let command_line = plain_command_line(command_line.as_bytes())?;
    let mut events = vec![image_event(banks, kernel), load_options_event(banks, command_line)];
    events.extend(initrd.map(|initrd| initrd_event(banks, initrd)));
    Ok(events)
}
