//! Event types of the PC Client Platform Firmware Profile (PFP 1.06, 10.4.1).

use std::fmt;

/// The type of a firmware event. It is **not** covered by the event's digest: it says how to read the data, no more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventType(pub u32);

macro_rules! event_types {
    ($($name:ident = $value:literal: $meaning:literal),+ $(,)?) => {
        impl EventType {
            $(#[doc = $meaning] pub const $name: EventType = EventType($value);)+

            /// The name the specification gives it, for example `EV_SEPARATOR`; none for an unknown type.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 { $($value => Some(concat!("EV_", stringify!($name))),)+ _ => None }
            }

            /// The type with this [`name`](EventType::name).
            pub fn from_name(name: &str) -> Option<Self> {
                match name.strip_prefix("EV_")? { $(stringify!($name) => Some(Self::$name),)+ _ => None }
            }
        }
    };
}

event_types! {
    PREBOOT_CERT = 0x0000_0000: "Reserved.",
    POST_CODE = 0x0000_0001: "Firmware code, named by text or address.",
    UNUSED = 0x0000_0002: "Reserved.",
    NO_ACTION = 0x0000_0003: "Information for the reader of the log: never extended.",
    SEPARATOR = 0x0000_0004: "The line between what firmware and what the operating system's loader measured.",
    ACTION = 0x0000_0005: "A string that was measured.",
    EVENT_TAG = 0x0000_0006: "A tagged event of a boot loader or operating system.",
    S_CRTM_CONTENTS = 0x0000_0007: "The static root of trust's code.",
    S_CRTM_VERSION = 0x0000_0008: "The static root of trust's version.",
    CPU_MICROCODE = 0x0000_0009: "A microcode patch.",
    PLATFORM_CONFIG_FLAGS = 0x0000_000A: "Platform configuration.",
    TABLE_OF_DEVICES = 0x0000_000B: "Table of devices.",
    COMPACT_HASH = 0x0000_000C: "A digest only.",
    IPL = 0x0000_000D: "Boot loader code, commands and files.",
    IPL_PARTITION_DATA = 0x0000_000E: "Boot loader data.",
    NONHOST_CODE = 0x0000_000F: "Code of a processor other than the host's.",
    NONHOST_CONFIG = 0x0000_0010: "Its configuration.",
    NONHOST_INFO = 0x0000_0011: "Information about it.",
    OMIT_BOOT_DEVICE_EVENTS = 0x0000_0012: "Boot attempts are not measured from here on.",
    POST_CODE2 = 0x0000_0013: "Firmware code, second form.",
    EFI_VARIABLE_DRIVER_CONFIG = 0x8000_0001: "A UEFI variable that configures security (Secure Boot state and keys).",
    EFI_VARIABLE_BOOT = 0x8000_0002: "A UEFI boot variable.",
    EFI_BOOT_SERVICES_APPLICATION = 0x8000_0003: "A UEFI application that was loaded.",
    EFI_BOOT_SERVICES_DRIVER = 0x8000_0004: "A UEFI boot driver that was loaded.",
    EFI_RUNTIME_SERVICES_DRIVER = 0x8000_0005: "A UEFI runtime driver that was loaded.",
    EFI_GPT_EVENT = 0x8000_0006: "The partition table.",
    EFI_ACTION = 0x8000_0007: "A string that names an action of UEFI.",
    EFI_PLATFORM_FIRMWARE_BLOB = 0x8000_0008: "A firmware volume, by address and length.",
    EFI_HANDOFF_TABLES = 0x8000_0009: "System tables.",
    EFI_PLATFORM_FIRMWARE_BLOB2 = 0x8000_000A: "A firmware volume, with a description.",
    EFI_HANDOFF_TABLES2 = 0x8000_000B: "System tables, with a description.",
    EFI_VARIABLE_BOOT2 = 0x8000_000C: "A UEFI boot variable, second form.",
    EFI_GPT_EVENT2 = 0x8000_000D: "The partition table, second form.",
    EFI_HCRTM_EVENT = 0x8000_0010: "The hardware root of trust's measurement.",
    EFI_VARIABLE_AUTHORITY = 0x8000_00E0: "The key or certificate that let an image run.",
    EFI_SPDM_FIRMWARE_BLOB = 0x8000_00E1: "Firmware of a device, over SPDM.",
    EFI_SPDM_FIRMWARE_CONFIG = 0x8000_00E2: "Configuration of a device, over SPDM.",
    EFI_SPDM_DEVICE_POLICY = 0x8000_00E3: "Policy for devices, over SPDM.",
    EFI_SPDM_DEVICE_AUTHORITY = 0x8000_00E4: "Authority for devices, over SPDM.",
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "EV_{:#010x}", self.0),
        }
    }
}

impl fmt::Debug for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        assert_eq!(EventType(4).to_string(), "EV_SEPARATOR");
        assert_eq!(EventType(0x8000_00E0).to_string(), "EV_EFI_VARIABLE_AUTHORITY");
        assert_eq!(EventType(0x1234).to_string(), "EV_0x00001234");
        assert_eq!(EventType::from_name("EV_IPL"), Some(EventType::IPL));
        assert_eq!(EventType::from_name("IPL"), None);
        assert_eq!(EventType::from_name("EV_0x00001234"), None);
    }
}
