//! What the platform firmware measured, in words: volumes, tables, devices, information (PFP 1.06, 10.4).

use super::boot_text::text_or_hex;
use super::bytes::Reader;
use super::efi;
use super::guid;

/// Most system tables of one event that are named.
const MAX_TABLES: u64 = 16;
/// Signatures of DEVICE_SECURITY_EVENT_DATA (PFP 1.06, 10.2.7), first and second form.
const DEVICE_SECURITY: [&[u8; 16]; 2] = [b"SPDM Device Sec\0", b"SPDM Device Sec2"];

/// `base, length` of UEFI_PLATFORM_FIRMWARE_BLOB.
pub(super) fn blob(data: &[u8]) -> Option<(u64, u64)> {
    match data.as_chunks::<8>() {
        ([base, len], []) => Some((u64::from_le_bytes(*base), u64::from_le_bytes(*len))),
        _ => None,
    }
}

/// The name, base and length of UEFI_PLATFORM_FIRMWARE_BLOB2.
pub(super) fn blob2(data: &[u8]) -> Option<(String, Option<(u64, u64)>)> {
    let (name, rest) = described(data)?;
    Some((text_or_hex(name), blob(rest)))
}

/// `what at 0x…, n bytes`, or with the name it was given.
pub(super) fn volume(what: &str, data: &[u8], named: bool) -> String {
    let (name, place) = match named {
        true => match blob2(data) {
            Some((name, place)) => (format!(" {name}"), place),
            None => (String::new(), None),
        },
        false => (String::new(), blob(data)),
    };
    match place {
        Some((base, len)) if named => format!("{what}{name} at {base:#x}, {len} bytes"),
        Some((base, len)) => format!("{what} at {base:#x}, {len} bytes"),
        None => format!("{what}{name}"),
    }
}

/// The tables of UEFI_HANDOFF_TABLE_POINTERS: a count, then GUID and address each.
pub(super) fn tables(data: &[u8]) -> Option<String> {
    let mut reader = Reader::at(data, 0);
    let count = u64::from_le_bytes(reader.take(8).ok()?.try_into().ok()?);
    let mut names = Vec::new();
    for _ in 0..count.min(MAX_TABLES) {
        let id = reader.take(16).ok()?;
        reader.take(8).ok()?;
        names.push(guid::table_name(id).map_or_else(|| efi::guid(id).unwrap_or_default(), str::to_owned));
    }
    if count > MAX_TABLES {
        names.push(format!("{} more", count - MAX_TABLES));
    }
    Some(names.join(", "))
}

/// `system tables: SMBIOS`, with the name the second form gives.
pub(super) fn handoff(data: &[u8], named: bool) -> String {
    let (name, rest) = match described(data) {
        Some((name, rest)) if named => (format!(" {}", text_or_hex(name)), rest),
        _ => (String::new(), data),
    };
    match tables(rest) {
        Some(tables) if !tables.is_empty() => format!("system tables{name}: {tables}"),
        _ => format!("system tables{name}"),
    }
}

/// A length byte, text of that length, and what follows.
fn described(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = data.split_first()?;
    rest.split_at_checked(usize::from(*len))
}

/// What a device measured about itself over SPDM.
pub(super) fn device(what: &str, data: &[u8]) -> String {
    match data.split_first_chunk::<16>() {
        Some((signature, _)) if DEVICE_SECURITY.contains(&signature) => format!("{what} of a device (SPDM)"),
        _ => format!("{what} of a device (SPDM), {} bytes", data.len()),
    }
}

/// EV_NO_ACTION: information for the reader of the log, never extended (PFP 1.06, 10.4.5).
pub(super) fn information(data: &[u8]) -> String {
    let what = match data {
        [signature @ .., locality] if signature == super::STARTUP_LOCALITY => {
            return format!("TPM started from locality {locality}; not measured itself");
        }
        _ if data.starts_with(b"Spec ID Event0") => "a second log header",
        _ if data.starts_with(b"SP800-155 Event") => "reference to the maker's reference values",
        _ if data.starts_with(b"TCG PCClient EventLogInfo") => "where the log is",
        _ => match super::tag::Tag::parse(data) {
            Some(tag) if tag.kind().is_some() => return format!("{}; not measured", tag.words()),
            _ => return "information, not measured".to_owned(),
        },
    };
    format!("{what}; not measured")
}

/// UEFI_GPT_DATA: the disk and its partitions.
pub(super) fn partition_table(data: &[u8]) -> Option<(String, Vec<String>)> {
    /// Most partitions that are named.
    const MAX_PARTITIONS: usize = 128;
    /// Length of EFI_PARTITION_TABLE_HEADER, and of an entry in it (UEFI 2.10, 5.3.2, 5.3.3).
    const HEADER: usize = 92;
    let disk = efi::guid(data.get(56..72)?)?;
    let size = u32::from_le_bytes(data.get(84..88)?.try_into().ok()?) as usize;
    let (count, entries) = data.get(HEADER..)?.split_first_chunk::<8>()?;
    let count = usize::try_from(u64::from_le_bytes(*count)).ok()?;
    if !data.starts_with(b"EFI PART") || size < 128 || entries.len() / size < count {
        return None;
    }
    let names = entries
        .chunks(size)
        .take(count.min(MAX_PARTITIONS))
        .map(|entry| efi::utf16(entry.get(56..128).unwrap_or_default()))
        .collect();
    Some((disk, names))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_tables_and_information_are_named() {
        let numbers = |numbers: &[u64]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
        let place = numbers(&[0x82_0000, 4096]);
        assert_eq!(
            volume("firmware volume", &place, false),
            "firmware volume at 0x820000, 4096 bytes"
        );
        let named = [b"\x07FV_MAIN", place.as_slice()].concat();
        assert_eq!(
            volume("firmware volume", &named, true),
            "firmware volume FV_MAIN at 0x820000, 4096 bytes"
        );
        assert_eq!(volume("firmware volume", b"\x09abc", true), "firmware volume");
        let smbios = guid::guid(0xF2FD_1544, 0x9794, 0x4A2C, *b"\x99\x2E\xE5\xBB\xCF\x20\xE3\x94");
        let table = [&numbers(&[1])[..], &smbios, &numbers(&[0xA0000])].concat();
        assert_eq!(handoff(&table, false), "system tables: SMBIOS 3");
        assert_eq!(
            handoff(&[b"\x03abc", table.as_slice()].concat(), true),
            "system tables abc: SMBIOS 3"
        );
        assert_eq!(handoff(&numbers(&[u64::MAX]), false), "system tables");
        assert_eq!(
            information(b"StartupLocality\0\x03"),
            "TPM started from locality 3; not measured itself"
        );
        assert_eq!(information(b"?"), "information, not measured");
        assert_eq!(
            information(b"SP800-155 Event3rest"),
            "reference to the maker's reference values; not measured"
        );
        for len in 0..named.len() {
            let _ = (
                volume("v", &named[..len], true),
                handoff(&named[..len], true),
                partition_table(&named[..len]),
            );
        }
    }
}
