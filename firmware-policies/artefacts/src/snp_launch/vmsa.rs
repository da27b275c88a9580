//! The save area of a virtual processor at reset, as QEMU with KVM sets it up (AMD64 APM volume 2, table B-4).

use super::PAGE;

/// Where the first processor begins.
pub(super) const RESET_VECTOR: u32 = 0xFFFF_FFF0;

/// Segments at reset: offset, selector, attributes; limit 0xFFFF, base 0 but for CS.
const SEGMENTS: [(usize, u16, u16); 10] = [
    (0x00, 0, 0x93),      // ES
    (0x10, 0xF000, 0x9B), // CS
    (0x20, 0, 0x93),      // SS
    (0x30, 0, 0x93),      // DS
    (0x40, 0, 0x93),      // FS
    (0x50, 0, 0x93),      // GS
    (0x60, 0, 0),         // GDTR
    (0x70, 0, 0x82),      // LDTR
    (0x80, 0, 0),         // IDTR
    (0x90, 0, 0x8B),      // TR
];
const SEGMENT_LIMIT: u32 = 0xFFFF;
const CS: usize = 0x10;

/// Registers at reset: offset, value.
const REGISTERS: [(usize, u64); 9] = [
    (0x0D0, 0x1000),                // EFER: KVM sets SVME
    (0x148, 0x40),                  // CR4: KVM sets MCE
    (0x158, 0x10),                  // CR0
    (0x160, 0x400),                 // DR7
    (0x168, 0xFFFF_0FF0),           // DR6
    (0x170, 0x2),                   // RFLAGS
    (0x268, 0x0007_0406_0007_0406), // PAT
    (0x3E8, 0x1),                   // XCR0
    (0x408, 0x1F80),                // MXCSR, and no x87 tags or status behind it
];
const RIP: usize = 0x178;
const RDX: usize = 0x310;
const SEV_FEATURES: usize = 0x3B0;
/// x87 control word.
const FCW: (usize, u16) = (0x410, 0x37F);

/// The page of a processor that begins at `start`, with its CPUID signature in RDX.
pub(super) fn page(start: u32, signature: u32, features: u64) -> Vec<u8> {
    let mut page = vec![0; PAGE];
    let mut put = |offset: usize, bytes: &[u8]| {
        if let Some(place) = page.get_mut(offset..offset + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    for (offset, selector, attributes) in SEGMENTS {
        put(offset, &selector.to_le_bytes());
        put(offset + 2, &attributes.to_le_bytes());
        put(offset + 4, &SEGMENT_LIMIT.to_le_bytes());
    }
    put(CS + 8, &u64::from(start & 0xFFFF_0000).to_le_bytes());
    for (offset, value) in REGISTERS {
        put(offset, &value.to_le_bytes());
    }
    put(RIP, &u64::from(start & 0xFFFF).to_le_bytes());
    put(RDX, &u64::from(signature).to_le_bytes());
    put(SEV_FEATURES, &features.to_le_bytes());
    put(FCW.0, &FCW.1.to_le_bytes());
    page
}
