//! What an event of a reference is about, in a word that people use.

use serde::Serialize;
use touchstone_verifier::corim::ReferenceEvent;

/// Parts of a machine's state, in the order in which they are told. Every event belongs to exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Aspect {
    /// The kernel image.
    Kernel,
    /// The initial file system.
    Initrd,
    /// The kernel's command line.
    CommandLine,
    /// The images the firmware started: shim, GRUB, a unified kernel image.
    BootLoader,
    /// What the boot loader was told, and the files it read.
    BootLoaderConfiguration,
    /// Other sections of a unified kernel image, and its phases.
    UnifiedKernelImage,
    /// Secure Boot: its state, its keys, and which of them vouched for what was started.
    SecureBoot,
    /// The machine owner's keys (shim).
    MachineOwnerKeys,
    /// The platform's firmware.
    Firmware,
    /// The firmware's and boot manager's settings.
    FirmwareConfiguration,
    /// Firmware of add-in devices.
    OptionRoms,
    /// Anything else.
    Other,
    /// What belongs to the single machine and is not compared: boot entries, the partition table.
    Machine,
}

impl Aspect {
    /// All of them, in order.
    pub const ALL: [Aspect; 13] = [
        Aspect::Kernel,
        Aspect::Initrd,
        Aspect::CommandLine,
        Aspect::BootLoader,
        Aspect::BootLoaderConfiguration,
        Aspect::UnifiedKernelImage,
        Aspect::SecureBoot,
        Aspect::MachineOwnerKeys,
        Aspect::Firmware,
        Aspect::FirmwareConfiguration,
        Aspect::OptionRoms,
        Aspect::Other,
        Aspect::Machine,
    ];

    /// In words.
    pub const fn words(self) -> &'static str {
        match self {
            Aspect::Kernel => "kernel image",
            Aspect::Initrd => "initrd",
            Aspect::CommandLine => "command line",
            Aspect::BootLoader => "boot loader",
            Aspect::BootLoaderConfiguration => "boot loader configuration",
            Aspect::UnifiedKernelImage => "unified kernel image",
            Aspect::SecureBoot => "Secure Boot",
            Aspect::MachineOwnerKeys => "machine owner's keys",
            Aspect::Firmware => "firmware",
            Aspect::FirmwareConfiguration => "firmware configuration",
            Aspect::OptionRoms => "option ROMs",
            Aspect::Other => "other",
            Aspect::Machine => "the machine's own",
        }
    }

    /// What an event is about, where it does not belong to the single machine.
    pub fn of(event: &ReferenceEvent) -> Self {
        let text = event.description.as_str();
        let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
        match event.pcr {
            0 => Aspect::Firmware,
            1 | 5 => Aspect::FirmwareConfiguration,
            2 | 3 => Aspect::OptionRoms,
            4 if has(&["without a path", "vmlinuz", "bzImage"]) => Aspect::Kernel,
            4 => Aspect::BootLoader,
            7 => Aspect::SecureBoot,
            8 | 9 if text.starts_with("kernel command line") => Aspect::CommandLine,
            8 => Aspect::BootLoaderConfiguration,
            9 if has(&["initrd", "initramfs"]) => Aspect::Initrd,
            9 if has(&["vmlinuz", "bzImage", "/linux"]) => Aspect::Kernel,
            9 => Aspect::BootLoaderConfiguration,
            11 if has(&[".linux", ".uname"]) => Aspect::Kernel,
            11 if has(&[".initrd"]) => Aspect::Initrd,
            11 if has(&[".cmdline"]) => Aspect::CommandLine,
            11 => Aspect::UnifiedKernelImage,
            14 => Aspect::MachineOwnerKeys,
            _ => Aspect::Other,
        }
    }
}

/// The command line as text, where the event holds it.
pub(super) fn command_line(event: &ReferenceEvent) -> Option<String> {
    const GRUB: &[u8] = b"kernel_cmdline: ";
    if Aspect::of(event) != Aspect::CommandLine {
        return None;
    }
    if let Some(text) = event.data.as_deref().and_then(|data| data.strip_prefix(GRUB)) {
        let text = text.strip_suffix(b"\0").unwrap_or(text);
        return Some(touchstone_verifier::reason::sanitise(
            &String::from_utf8_lossy(text),
            4096,
        ));
    }
    let quoted = event.description.split_once('"')?.1;
    Some(quoted.strip_suffix('"').unwrap_or(quoted).to_owned())
}

/// A kernel version that a path speaks of: `vmlinuz-6.1.0-44-amd64`, `/lib/modules/6.1.0-44-amd64/`.
pub(super) fn kernel_version(text: &str) -> Option<&str> {
    ["vmlinuz-", "/lib/modules/", "bzImage-"].iter().find_map(|before| {
        let rest = text.split_once(before)?.1;
        let end = rest
            .find(|c: char| !c.is_ascii_alphanumeric() && !"._+~-".contains(c))
            .unwrap_or(rest.len());
        rest.get(..end)
            .filter(|version| version.starts_with(|c: char| c.is_ascii_digit()))
    })
}
