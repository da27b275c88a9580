//! Events in words, for people. Everything here is commentary: no verdict may rest on it.

use super::boot_text::{TextKind, grub_text, text, text_or_hex, utf16_text};
use super::efi::{self, EfiVariable};
use super::secure_boot::Authority;
use super::tag::{Tag, TagKind};
use super::{Event, EventType, Format, platform};
use crate::reason::sanitise;

/// Longest description, in bytes.
pub const MAX_DESCRIPTION: usize = 1024;

impl<'a> Event<'a> {
    /// What was measured, in words and made safe to show, at most [`MAX_DESCRIPTION`] bytes.
    pub fn describe(&self) -> String {
        sanitise(&self.words(), MAX_DESCRIPTION)
    }

    /// Whether the text says it is the kernel's command line: GRUB's in register 8, the EFI stub's in register 9.
    pub fn is_kernel_command_line(&self) -> bool {
        match self.event_type {
            EventType::IPL => {
                self.belongs_to(8) && grub_text(self.data).is_some_and(|(kind, _)| kind == TextKind::KernelCommandLine)
            }
            EventType::EVENT_TAG => {
                Tag::parse(self.data).is_some_and(|tag| tag.kind() == Some(TagKind::KernelCommandLine))
            }
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

    /// What GRUB measured in register 8: the kind its prefix says, which the digest does not cover, and the text.
    pub fn grub_text(&self) -> Option<(TextKind, &'a [u8])> {
        if self.event_type != EventType::IPL || !self.belongs_to(8) {
            return None;
        }
        grub_text(self.data)
    }

    fn words(&self) -> String {
        let data = self.data;
        match self.event_type {
            EventType::SEPARATOR => match data {
                [0, 0, 0, 0] | [0xFF, 0xFF, 0xFF, 0xFF] => "separator".into(),
                [1, 0, 0, 0] => "separator: firmware error".into(),
                other => format!("separator {}", text_or_hex(other)),
            },
            EventType::NO_ACTION => platform::information(data),
            EventType::EFI_VARIABLE_DRIVER_CONFIG => variable(data, "variable"),
            EventType::EFI_VARIABLE_AUTHORITY => match Authority::read(data, false) {
                Some(authority) if authority.admits_images() => {
                    format!("authority {}: {}", authority.variable.name(), authority.words())
                }
                _ => format!("authority {}", variable(data, "variable")),
            },
            EventType::EFI_VARIABLE_BOOT | EventType::EFI_VARIABLE_BOOT2 => boot_variable(data),
            EventType::EFI_BOOT_SERVICES_APPLICATION => image("image", data),
            EventType::EFI_BOOT_SERVICES_DRIVER => image("driver", data),
            EventType::EFI_RUNTIME_SERVICES_DRIVER => image("runtime driver", data),
            EventType::EFI_GPT_EVENT | EventType::EFI_GPT_EVENT2 => partition_table(data),
            EventType::EFI_PLATFORM_FIRMWARE_BLOB => platform::volume("firmware volume", data, false),
            EventType::EFI_PLATFORM_FIRMWARE_BLOB2 => platform::volume("firmware volume", data, true),
            EventType::EFI_HANDOFF_TABLES => platform::handoff(data, false),
            EventType::EFI_HANDOFF_TABLES2 => platform::handoff(data, true),
            EventType::TABLE_OF_DEVICES => match platform::tables(data) {
                Some(tables) if !tables.is_empty() => format!("table of devices: {tables}"),
                _ => format!("table of devices ({} bytes)", data.len()),
            },
            EventType::S_CRTM_VERSION => match version(data) {
                Some(version) => format!("firmware version {version}"),
                None => "firmware version, not told".to_owned(),
            },
            EventType::S_CRTM_CONTENTS => code("root of trust code", data),
            EventType::EFI_HCRTM_EVENT => "root of trust code, measured by hardware".to_owned(),
            EventType::POST_CODE => code("firmware code", data),
            EventType::POST_CODE2 => platform::volume("firmware code", data, true),
            EventType::CPU_MICROCODE => format!("CPU microcode {}", text_or_hex(data)),
            EventType::PLATFORM_CONFIG_FLAGS => format!("platform configuration {}", text_or_hex(data)),
            EventType::NONHOST_CODE => code("code of another processor", data),
            EventType::NONHOST_CONFIG => format!("configuration of another processor {}", signature(data)),
            EventType::NONHOST_INFO => format!("information about another processor {}", signature(data)),
            EventType::EFI_SPDM_FIRMWARE_BLOB => platform::device("firmware", data),
            EventType::EFI_SPDM_FIRMWARE_CONFIG => platform::device("configuration", data),
            EventType::EFI_SPDM_DEVICE_POLICY => format!("policy for devices: {}", variable(data, "variable")),
            EventType::EFI_SPDM_DEVICE_AUTHORITY => format!("authority of a device: {}", variable(data, "variable")),
            EventType::EFI_ACTION | EventType::ACTION => format!("action \"{}\"", text_or_hex(data)),
            EventType::OMIT_BOOT_DEVICE_EVENTS => "boot attempts are not measured".into(),
            EventType::COMPACT_HASH => format!("digest only, marked {}", text_or_hex(data)),
            EventType::PREBOOT_CERT => format!("preboot certificate ({} bytes)", data.len()),
            EventType::UNUSED => format!("reserved event {}", text_or_hex(data)),
            EventType::IPL => boot_loader_text(self),
            EventType::IPL_PARTITION_DATA => format!("boot loader data {}", text_or_hex(data)),
            EventType::EVENT_TAG => match Tag::parse(data) {
                Some(tag) => tag.words(),
                None => format!("tagged event {}", text_or_hex(data)),
            },
            other => format!("event of type {other} {}", text_or_hex(data)),
        }
    }
}

/// GRUB's and others' texts: a command line, a command, a file, a section.
fn boot_loader_text(event: &Event<'_>) -> String {
    let data = event.data;
    match event.grub_text() {
        Some((TextKind::Command, text)) => return format!("grub: {}", String::from_utf8_lossy(text)),
        Some((TextKind::KernelCommandLine, text)) => {
            return format!("kernel command line \"{}\"", String::from_utf8_lossy(text));
        }
        Some((TextKind::ModuleCommandLine, text)) => {
            return format!("module command line \"{}\"", String::from_utf8_lossy(text));
        }
        None => {}
    }
    let words = text_or_hex(data);
    let mok = matches!(
        words.as_str(),
        "MokList" | "MokListX" | "MokListTrusted" | "MokListRT" | "SbatLevel"
    );
    match (event.format(), event.pcr) {
        (Format::ConfidentialComputing, 3) if mok => format!("machine owner's key list {words}"),
        (Format::ConfidentialComputing, 3) if words.starts_with('.') && utf16_text(data).is_some() => {
            format!("section {words}")
        }
        (Format::ConfidentialComputing, 3) if utf16_text(data).is_some() => format!("boot loader text \"{words}\""),
        (Format::ConfidentialComputing, 3) => format!("file {words}"),
        (Format::ConfidentialComputing, _) => words,
        (_, 8) => format!("boot loader text \"{words}\""),
        (_, 9) => format!("file {words}"),
        (_, 11) if words.starts_with('.') => format!("section {words}"),
        (_, 11) => format!("boot phase or section {words}"),
        (_, 12) => format!("kernel command line or configuration \"{words}\""),
        (_, 13) => format!("system extension {words}"),
        (_, 14) if mok => format!("machine owner's key list {words}"),
        (_, 15) => format!("system identity {words}"),
        (_, 4) => format!("boot loader code {words}"),
        (_, 5) => format!("boot loader configuration {words}"),
        _ => words,
    }
}

/// `image \EFI\BOOT\BOOTX64.EFI`, or its length.
fn image(what: &str, data: &[u8]) -> String {
    match efi::image(data) {
        Some((_, Some(file))) => format!("{what} {file}"),
        Some((len, None)) => format!("{what} of {len} bytes, loaded without a path"),
        None => what.to_owned(),
    }
}

/// Code, by address or by the name the specification or the maker gives it.
fn code(what: &str, data: &[u8]) -> String {
    match platform::blob(data) {
        Some(_) => platform::volume(what, data, false),
        None => format!("{what} {}", text_or_hex(data)),
    }
}

/// A version; firmware that has none logs a lone NUL.
pub(super) fn version(data: &[u8]) -> Option<String> {
    let told = data.iter().any(|byte| *byte != 0);
    told.then(|| text_or_hex(data))
}

/// The text a maker's structure begins with, and its length.
fn signature(data: &[u8]) -> String {
    let end = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    match data.get(..end).and_then(text) {
        Some(text) if end >= 4 => format!("{text} ({} bytes)", data.len()),
        _ => text_or_hex(data),
    }
}

fn partition_table(data: &[u8]) -> String {
    match platform::partition_table(data) {
        Some((disk, partitions)) => format!(
            "partition table of disk {disk}, {} partition{}",
            partitions.len(),
            if partitions.len() == 1 { "" } else { "s" }
        ),
        None => "partition table".to_owned(),
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
        ("MokListTrusted", [0]) => format!("{name} = off"),
        ("MokListTrusted", [1]) => format!("{name} = on"),
        ("SecureBoot" | "SetupMode" | "PK" | "KEK" | "db" | "dbx", []) => format!("{name} is not set"),
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
