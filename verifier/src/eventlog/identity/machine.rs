//! Structures that belong to one machine: what they must look like, to the last byte, to be left out.

use std::collections::BTreeSet;

use super::{EventType, Measured, is_variable, whole_variable};

/// EFI_GLOBAL_VARIABLE 8be4df61-93ca-11d2-aa0d-00e098032b8c (UEFI 2.10, 3.3), as on the wire.
const GLOBAL_VARIABLE: [u8; 16] = *b"\x61\xdf\xe4\x8b\xca\x93\xd2\x11\xaa\x0d\x00\xe0\x98\x03\x2b\x8c";
/// What EDK2 puts behind entries that it made itself: 8108ac4e-9f11-4d59-850e-e21a522c59b2.
const MADE_BY_FIRMWARE: [u8; 16] = *b"\x4e\xac\x08\x81\x11\x9f\x59\x4d\x85\x0e\xe2\x1a\x52\x2c\x59\xb2";
/// Most entries in BootOrder.
const MAX_BOOT_ORDER: usize = 256;
/// What the boot manager measures when it starts a boot entry and when that comes back (PFP 1.06, 10.4.4).
const BOOT_ACTIONS: [&[u8]; 2] = [
    b"Calling EFI Application from Boot Option",
    b"Returning from EFI Application from Boot Option",
];
/// EFI_PARTITION_TABLE_HEADER (UEFI 2.10, 5.3.2).
const GPT_HEADER: usize = 92;
/// Revision 1.0 and the header's own size, as they stand after the signature.
const GPT_START: &[u8] = b"EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00";
/// Smallest EFI_PARTITION_ENTRY.
const GPT_ENTRY: usize = 128;

/// Whether the event says it is BootOrder.
pub(super) fn is_boot_order(event: &Measured<'_>) -> bool {
    matches!(
        event.event_type,
        EventType::EFI_VARIABLE_BOOT | EventType::EFI_VARIABLE_BOOT2
    ) && whole_variable(event.data).is_some_and(|variable| is_variable(&variable, &GLOBAL_VARIABLE, "BootOrder"))
}

/// The value of a `BootOrder` or `Boot####` variable that is well formed.
///
/// A boot entry with data for the program it starts is the software's, not the machine's: the data may be a kernel
/// command line.
pub(super) fn boot_variable(data: &[u8]) -> Option<&[u8]> {
    let variable = whole_variable(data)?;
    let good = if is_variable(&variable, &GLOBAL_VARIABLE, "BootOrder") {
        is_order(variable.value)
    } else {
        variable.guid == GLOBAL_VARIABLE && is_entry_name(variable.name) && is_load_option(variable.value)
    };
    good.then_some(variable.value)
}

/// Distinct numbers.
fn is_order(value: &[u8]) -> bool {
    let (numbers, odd) = value.as_chunks::<2>();
    if numbers.is_empty() || numbers.len() > MAX_BOOT_ORDER || !odd.is_empty() {
        return false;
    }
    numbers.iter().collect::<BTreeSet<_>>().len() == numbers.len()
}

/// `Boot` and four upper-case hexadecimal digits, in UTF-16.
fn is_entry_name(name: &[u8]) -> bool {
    let (units, odd) = name.as_chunks::<2>();
    let text: Vec<u8> = units
        .iter()
        .map(|[low, high]| if *high == 0 { *low } else { 0 })
        .collect();
    odd.is_empty()
        && text.strip_prefix(b"Boot").is_some_and(|number| {
            number.len() == 4 && number.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'A'..=b'F'))
        })
}

/// EFI_LOAD_OPTION (UEFI 2.10, 3.1.3): attributes, a description that ends, well-formed device paths of the stated
/// length, and nothing behind them but the firmware's own mark.
fn is_load_option(value: &[u8]) -> bool {
    let read = || {
        let (_attributes, rest) = value.split_at_checked(4)?;
        let (paths_len, rest) = rest.split_first_chunk::<2>()?;
        let (units, _) = rest.as_chunks::<2>();
        let description = units.iter().position(|unit| *unit == [0, 0])? * 2 + 2;
        let (paths, optional) = rest
            .get(description..)?
            .split_at_checked(usize::from(u16::from_le_bytes(*paths_len)))?;
        Some(are_device_paths(paths) && (optional.is_empty() || optional == MADE_BY_FIRMWARE))
    };
    read().unwrap_or(false)
}

/// Device-path nodes (UEFI 2.10, 10.3) to the last byte, at least one, with an end of the entire path as the last.
fn are_device_paths(mut rest: &[u8]) -> bool {
    const END_ENTIRE: [u8; 4] = [0x7F, 0xFF, 4, 0];
    let mut last = &[][..];
    while let Some(([_, _, low, high], _)) = rest.split_first_chunk::<4>() {
        let len = usize::from(u16::from_le_bytes([*low, *high]));
        let Some((node, after)) = rest.split_at_checked(len).filter(|_| len >= 4) else {
            return false;
        };
        (last, rest) = (node, after);
    }
    rest.is_empty() && last == END_ENTIRE
}

/// Whether this is exactly one of the boot manager's texts.
pub(super) fn is_boot_action(data: &[u8]) -> bool {
    BOOT_ACTIONS.contains(&data)
}

/// UEFI_GPT_DATA (PFP 1.06, 10.4.3): a partition table header whose checksum is right, a number, and as many entries.
pub(super) fn is_partition_table(data: &[u8]) -> bool {
    let read = || {
        let (header, rest) = data.split_at_checked(GPT_HEADER)?;
        let (count, entries) = rest.split_first_chunk::<8>()?;
        let word = |at: usize| Some(u32::from_le_bytes(header.get(at..at + 4)?.try_into().ok()?));
        let (checksum, size) = (word(16)?, word(84)? as usize);
        let checked = header.iter().enumerate();
        let checked = checked.map(|(at, byte)| if (16..20).contains(&at) { 0 } else { *byte });
        let expected = usize::try_from(u64::from_le_bytes(*count)).ok()?.checked_mul(size)?;
        Some(
            header.starts_with(GPT_START)
                && size >= GPT_ENTRY
                && size.is_power_of_two()
                && entries.len() == expected
                && crc32(checked) == checksum,
        )
    };
    read().unwrap_or(false)
}

/// CRC-32 of IEEE 802.3, as UEFI uses it.
fn crc32(bytes: impl Iterator<Item = u8>) -> u32 {
    let crc = bytes.fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
        })
    });
    !crc
}
