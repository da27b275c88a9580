//! GUIDs of the UEFI specification that events are read by, as they lie in memory (mixed-endian).

/// A GUID as it lies in memory.
pub type Guid = [u8; 16];

/// `EFI_GLOBAL_VARIABLE`: SecureBoot, PK, KEK, Boot#### (UEFI 2.10, 3.3).
pub const GLOBAL_VARIABLE: Guid = guid(0x8BE4_DF61, 0x93CA, 0x11D2, *b"\xAA\x0D\x00\xE0\x98\x03\x2B\x8C");
/// `EFI_IMAGE_SECURITY_DATABASE_GUID`: db, dbx, dbt, dbr (UEFI 2.10, 32.6.1).
pub const IMAGE_SECURITY_DATABASE: Guid = guid(0xD719_B2CB, 0x3D3A, 0x4596, *b"\xA3\xBC\xDA\xD0\x0E\x67\x65\x6F");
/// The name space of shim's variables: SbatLevel, MokList and the like.
pub const SHIM_LOCK: Guid = guid(0x605D_AB50, 0xE046, 0x4300, *b"\xAB\xB6\x3D\xD8\x10\xDD\x8B\x23");

/// The GUID from its text form's fields.
pub(super) const fn guid(a: u32, b: u16, c: u16, d: [u8; 8]) -> Guid {
    let [a0, a1, a2, a3] = a.to_le_bytes();
    let [b0, b1] = b.to_le_bytes();
    let [c0, c1] = c.to_le_bytes();
    let [d0, d1, d2, d3, d4, d5, d6, d7] = d;
    [a0, a1, a2, a3, b0, b1, c0, c1, d0, d1, d2, d3, d4, d5, d6, d7]
}

/// System tables that firmware hands over (UEFI 2.10, 4.6; PI 1.8).
const TABLES: &[(Guid, &str)] = &[
    (
        guid(0x8868_E871, 0xE4F1, 0x11D3, *b"\xBC\x22\x00\x80\xC7\x3C\x88\x81"),
        "ACPI 2.0",
    ),
    (
        guid(0xEB9D_2D30, 0x2D88, 0x11D3, *b"\x9A\x16\x00\x90\x27\x3F\xC1\x4D"),
        "ACPI 1.0",
    ),
    (
        guid(0xEB9D_2D31, 0x2D88, 0x11D3, *b"\x9A\x16\x00\x90\x27\x3F\xC1\x4D"),
        "SMBIOS",
    ),
    (
        guid(0xF2FD_1544, 0x9794, 0x4A2C, *b"\x99\x2E\xE5\xBB\xCF\x20\xE3\x94"),
        "SMBIOS 3",
    ),
    (
        guid(0x7739_F24C, 0x93D7, 0x11D4, *b"\x9A\x3A\x00\x90\x27\x3F\xC1\x4D"),
        "hand-off blocks",
    ),
];

/// The name of a system table, where it is a known one.
pub(super) fn table_name(guid: &[u8]) -> Option<&'static str> {
    TABLES.iter().find(|(known, _)| known == guid).map(|(_, name)| *name)
}
