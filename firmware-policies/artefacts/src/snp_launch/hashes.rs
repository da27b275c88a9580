//! The page that binds a kernel loaded by the hypervisor: QEMU's table of SHA-256 hashes (`target/i386/sev.c`,
//! `PaddedSevHashTable`), at the place the firmware names.

use touchstone_verifier::tpm::HashAlg;

use super::{Kernel, PAGE};

/// GUID of the table and of its entries, in the byte order they have in memory.
const TABLE: [u8; 16] = guid(0x9438_D606, 0x4F22, 0x4CC9, 0xB479_A793_D411_FD21);
const COMMAND_LINE: [u8; 16] = guid(0x97D0_2DD8, 0xBD20, 0x4C94, 0xAA78_E771_4D36_AB2A);
const INITRD: [u8; 16] = guid(0x44BA_F731, 0x3A2F, 0x4BD7, 0x9AF1_41E2_9169_781D);
const KERNEL: [u8; 16] = guid(0x4DE7_9437, 0xABD2, 0x427F, 0xB835_D5B1_72D2_045B);
/// Length of an entry, in bytes: GUID 16, length 2, hash 32.
const ENTRY_LEN: u16 = 50;
/// Length of the table, in bytes: GUID 16, length 2, three entries.
const TABLE_LEN: u16 = 18 + 3 * ENTRY_LEN;
/// Length with padding to 16 bytes.
pub(super) const PADDED_LEN: usize = 176;

/// The first three fields of a GUID are little-endian in memory, the rest is not.
pub(super) const fn guid(a: u32, b: u16, c: u16, rest: u64) -> [u8; 16] {
    let ([a0, a1, a2, a3], [b0, b1], [c0, c1]) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes());
    let [r0, r1, r2, r3, r4, r5, r6, r7] = rest.to_be_bytes();
    [a0, a1, a2, a3, b0, b1, c0, c1, r0, r1, r2, r3, r4, r5, r6, r7]
}

/// The table.
#[derive(Debug)]
pub(super) struct KernelHashes(Vec<u8>);

impl KernelHashes {
    pub(super) fn new(kernel: &Kernel<'_>) -> Self {
        let mut table = Vec::with_capacity(PADDED_LEN);
        table.extend(TABLE);
        table.extend(TABLE_LEN.to_le_bytes());
        // The command line is hashed with the zero behind it; without an initrd, nothing is hashed.
        let entries: [(_, [&[u8]; 2]); 3] = [
            (COMMAND_LINE, [kernel.command_line.as_bytes(), &[0]]),
            (INITRD, [kernel.initrd.unwrap_or_default(), &[]]),
            (KERNEL, [kernel.image, &[]]),
        ];
        for (guid, parts) in entries {
            table.extend(guid);
            table.extend(ENTRY_LEN.to_le_bytes());
            table.extend(HashAlg::Sha256.digest(parts).as_ref());
        }
        table.resize(PADDED_LEN, 0);
        Self(table)
    }

    /// The page with the table at `offset`, which leaves room for it.
    pub(super) fn page(&self, offset: usize) -> Vec<u8> {
        let mut page = vec![0; offset];
        page.extend_from_slice(&self.0);
        page.resize(PAGE, 0);
        page
    }
}
