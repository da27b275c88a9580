//! Events in words, for people. Everything here is commentary: no verdict may rest on it.

use super::efi::{self, EfiVariable};
use super::{Event, EventType};
use crate::reason::sanitise;

/// Longest description, in bytes.
pub const MAX_DESCRIPTION: usize = 1024;

/// Tag of the Linux EFI stub for the initrd.
const TAG_INITRD: u32 = 0x8F3B_22EC;
/// Tag of the Linux EFI stub for the kernel command line.
const TAG_LOAD_OPTIONS: u32 = 0x8F3B_22ED;

/// What GRUB's texts in register 8 start with; what follows, without the closing NUL, is what it measured.
const GRUB_PREFIXES: &[(&[u8], TextKind)] = &[
    (b"grub_cmd: ", TextKind::Command),
    (b"kernel_cmdline: ", TextKind::KernelCommandLine),
    (b"module_cmdline: ", TextKind::ModuleCommandLine),
];

/// How GRUB of RHEL 8 marked the kernel's command line; what it hashed is not known from the text.
const OLD_GRUB_KERNEL_COMMAND_LINE: &[u8] = b"grub_kernel_cmdline ";

/// What a boot loader's text in register 8 is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextKind {
    /// A command of the boot loader.
    Command,
    /// The kernel's command line.
    KernelCommandLine,
    /// A module's command line (multiboot).
    ModuleCommandLine,
}

/// The kind and the measured bytes of GRUB's text, where the prefix is known.
pub(super) fn grub_text(data: &[u8]) -> Option<(TextKind, &[u8])> {
    GRUB_PREFIXES.iter().find_map(|(prefix, kind)| {
        let text = data.strip_prefix(*prefix)?;
        Some((*kind, text.strip_suffix(b"\0").unwrap_or(text)))
    })
}

impl<'a> Event<'a> {
    /// What was measured, in words and made safe to show, at most [`MAX_DESCRIPTION`] bytes.
    pub fn describe(&self) -> String {
        sanitise(&self.words(), MAX_DESCRIPTION)
    }

    /// Whether the text says it is the kernel's command line: GRUB's in register 8, the EFI stub's in register 9.
    pub fn is_kernel_command_line(&self) -> bool {
        match self.event_type {
            EventType::IPL => {
                grub_text(self.data).is_some_and(|(kind, _)| kind == TextKind::KernelCommandLine)
                    || self.data.starts_with(OLD_GRUB_KERNEL_COMMAND_LINE)
            }
            EventType::EVENT_TAG => tag(self.data).is_some_and(|(id, _)| id == TAG_LOAD_OPTIONS),
            _ => false,
        }
    }

    /// The kernel's command line as GRUB measured it, if that is what this event is about.
    pub fn kernel_command_line(&self) -> Option<&'a [u8]> {
        match grub_text(self.data)? {
            (TextKind::KernelCommandLine, text) if self.event_type == EventType::IPL => Some(text),
            _ => None,
        }
    }

    /// The value of a Secure Boot variable of this name, if that is what this event is about.
    pub fn secure_boot_variable(&self, name: &str) -> Option<&'a [u8]> {
        if self.event_type != EventType::EFI_VARIABLE_DRIVER_CONFIG {
            return None;
        }
        EfiVariable::parse(self.data)
            .filter(|variable| variable.is_named(name))
            .map(|variable| variable.value)
    }

    fn words(&self) -> String {
        let data = self.data;
        match self.event_type {
            EventType::SEPARATOR => match data {
                [0, 0, 0, 0] | [0xFF, 0xFF, 0xFF, 0xFF] => "separator".into(),
                [1, 0, 0, 0] => "separator: firmware error".into(),
                other => format!("separator {}", text_or_hex(other)),
            },
            EventType::NO_ACTION => "information, not measured".into(),
            EventType::EFI_VARIABLE_DRIVER_CONFIG => variable(data, "variable"),
            EventType::EFI_VARIABLE_AUTHORITY => format!("authority {}", variable(data, "variable")),
            EventType::EFI_VARIABLE_BOOT | EventType::EFI_VARIABLE_BOOT2 => boot_variable(data),
            EventType::EFI_BOOT_SERVICES_APPLICATION
            | EventType::EFI_BOOT_SERVICES_DRIVER
            | EventType::EFI_RUNTIME_SERVICES_DRIVER => match efi::image(data) {
                Some((_, Some(file))) => format!("image {file}"),
                Some((len, None)) => format!("image of {len} bytes, loaded without a path"),
                None => "image".into(),
            },
            EventType::EFI_GPT_EVENT | EventType::EFI_GPT_EVENT2 => "partition table".into(),
            EventType::EFI_PLATFORM_FIRMWARE_BLOB => match data.as_chunks::<8>().0 {
                [base, len] => {
                    format!(
                        "firmware volume at {:#x}, {} bytes",
                        u64::from_le_bytes(*base),
                        u64::from_le_bytes(*len)
                    )
                }
                _ => "firmware volume".into(),
            },
            EventType::EFI_PLATFORM_FIRMWARE_BLOB2 => match described(data) {
                Some(name) => format!("firmware volume {name}"),
                None => "firmware volume".into(),
            },
            EventType::EFI_HANDOFF_TABLES => "system tables".into(),
            EventType::EFI_HANDOFF_TABLES2 => match described(data) {
                Some(name) => format!("system tables {name}"),
                None => "system tables".into(),
            },
            EventType::S_CRTM_VERSION => format!("firmware version {}", text_or_hex(data)),
            EventType::S_CRTM_CONTENTS => format!("root of trust code {}", text_or_hex(data)),
            EventType::POST_CODE | EventType::POST_CODE2 => match data.as_chunks::<8>() {
                ([base, len], []) => {
                    format!(
                        "firmware code at {:#x}, {} bytes",
                        u64::from_le_bytes(*base),
                        u64::from_le_bytes(*len)
                    )
                }
                _ => format!("firmware code {}", text_or_hex(data)),
            },
            EventType::EFI_ACTION | EventType::ACTION => format!("action \"{}\"", text_or_hex(data)),
            EventType::OMIT_BOOT_DEVICE_EVENTS => "boot attempts are not measured".into(),
            EventType::IPL => boot_loader_text(self.pcr, data),
            EventType::EVENT_TAG => match tag(data) {
                Some((TAG_LOAD_OPTIONS, _)) => "kernel command line (from the boot loader, by digest)".into(),
                Some((TAG_INITRD, _)) => "initrd (by digest)".into(),
                Some((id, body)) => format!("tagged event {id:#010x} {}", text_or_hex(body)),
                None => format!("tagged event {}", text_or_hex(data)),
            },
            _ => text_or_hex(data),
        }
    }
}

/// GRUB's and others' texts: a command line, a command, a file, a section.
fn boot_loader_text(pcr: u32, data: &[u8]) -> String {
    match (pcr, grub_text(data)) {
        (8, Some((TextKind::Command, text))) => format!("grub: {}", String::from_utf8_lossy(text)),
        (8, Some((TextKind::KernelCommandLine, text))) => {
            format!("kernel command line \"{}\"", String::from_utf8_lossy(text))
        }
        (8, Some((TextKind::ModuleCommandLine, text))) => {
            format!("module command line \"{}\"", String::from_utf8_lossy(text))
        }
        (9, _) => format!("file {}", text_or_hex(data)),
        (11, _) => format!("section {}", text_or_hex(data)),
        (14, _) => format!("machine owner's key list {}", text_or_hex(data)),
        _ => text_or_hex(data),
    }
}

/// `SecureBoot = on`, or a variable's name and size.
fn variable(data: &[u8], unreadable: &str) -> String {
    let Some(variable) = EfiVariable::parse(data) else {
        return unreadable.into();
    };
    let name = variable.name();
    match (name.as_str(), variable.value) {
        ("SecureBoot" | "SetupMode" | "AuditMode" | "DeployedMode" | "MokSBState", [0]) => format!("{name} = off"),
        ("SecureBoot" | "SetupMode" | "AuditMode" | "DeployedMode" | "MokSBState", [1]) => format!("{name} = on"),
        ("SbatLevel", value) => format!("{name} = {}", text_or_hex(value)),
        (_, value) => format!("{name} ({} bytes)", value.len()),
    }
}

/// `BootOrder = 0001,0002`, or a boot entry's name and file.
fn boot_variable(data: &[u8]) -> String {
    let Some(variable) = EfiVariable::parse(data) else {
        return "boot variable".into();
    };
    let name = variable.name();
    if name == "BootOrder" {
        let order: Vec<String> = variable
            .value
            .as_chunks::<2>()
            .0
            .iter()
            .map(|entry| format!("{:04X}", u16::from_le_bytes(*entry)))
            .collect();
        return format!("BootOrder = {}", order.join(","));
    }
    match efi::load_option(variable.value) {
        Some((label, Some(file))) => format!("{name} \"{label}\" {file}"),
        Some((label, None)) => format!("{name} \"{label}\""),
        None => format!("{name} ({} bytes)", variable.value.len()),
    }
}

/// TCG_PCClientTaggedEvent: id, size, data.
fn tag(data: &[u8]) -> Option<(u32, &[u8])> {
    let (id, rest) = data.split_first_chunk::<4>()?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*id), rest.get(..u32::from_le_bytes(*len) as usize)?))
}

/// The name in front of a UEFI_PLATFORM_FIRMWARE_BLOB2 or UEFI_HANDOFF_TABLE_POINTERS2: a length byte, then text.
fn described(data: &[u8]) -> Option<String> {
    let (len, rest) = data.split_first()?;
    Some(text_or_hex(rest.get(..usize::from(*len))?))
}

/// Text where it is text (ASCII or UTF-16), the first bytes in hexadecimal otherwise.
fn text_or_hex(data: &[u8]) -> String {
    const SHOWN: usize = 32;
    let text = data.strip_suffix(b"\0").unwrap_or(data);
    if !text.is_empty() && text.iter().all(|byte| matches!(byte, 0x09 | 0x0A | 0x0D | 0x20..=0x7E)) {
        return String::from_utf8_lossy(text).into_owned();
    }
    let (units, odd) = data.as_chunks::<2>();
    if odd.is_empty() && units.iter().any(|[low, _]| *low >= 0x20) && units.iter().all(|[_, high]| *high == 0) {
        return efi::utf16(data);
    }
    match data.get(..SHOWN) {
        Some(start) if data.len() > SHOWN => format!("{}… ({} bytes)", hex::encode(start), data.len()),
        _ => hex::encode(data),
    }
}
