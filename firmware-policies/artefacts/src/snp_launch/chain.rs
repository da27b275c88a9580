//! The chain of PAGE_INFO structures (AMD 56860, 8.17.2, table 67).

use super::{DIGEST_LEN, LaunchDigest, PAGE, sha384};

/// Length of PAGE_INFO, in bytes.
const PAGE_INFO_LEN: u16 = 0x70;
/// What stands for the contents of pages that are not measured.
const NO_CONTENTS: LaunchDigest = [0; DIGEST_LEN];
/// Where save areas are said to lie: page -1 of 48 bits.
const VMSA_ADDRESS: u64 = 0xFFFF_FFFF_F000;

/// PAGE_TYPE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum PageType {
    Normal = 1,
    Vmsa = 2,
    Zero = 3,
    Secrets = 5,
    Cpuid = 6,
}

/// The launch digest so far; 48 zeros at the start.
#[derive(Debug)]
pub(super) struct Chain(LaunchDigest);

impl Default for Chain {
    fn default() -> Self {
        Self([0; DIGEST_LEN])
    }
}

impl Chain {
    fn extend(&mut self, kind: PageType, address: u64, contents: &LaunchDigest) {
        // IMI_PAGE 0, VMPL3, VMPL2 and VMPL1 permissions 0, reserved 0.
        let flags = [kind as u8, 0, 0, 0, 0, 0];
        let (len, address) = (PAGE_INFO_LEN.to_le_bytes(), address.to_le_bytes());
        self.0 = sha384(&[&self.0, contents, &len, &flags, &address]);
    }

    /// A whole image, page by page.
    pub(super) fn image(&mut self, address: u64, image: &[u8]) {
        for (at, page) in addresses(address).zip(image.chunks(PAGE)) {
            self.normal(at, page);
        }
    }

    pub(super) fn normal(&mut self, address: u64, page: &[u8]) {
        self.extend(PageType::Normal, address, &sha384(&[page]));
    }

    pub(super) fn zeros(&mut self, address: u64, pages: usize) {
        for at in addresses(address).take(pages) {
            self.extend(PageType::Zero, at, &NO_CONTENTS);
        }
    }

    pub(super) fn secrets(&mut self, address: u64) {
        self.extend(PageType::Secrets, address, &NO_CONTENTS);
    }

    pub(super) fn cpuid(&mut self, address: u64) {
        self.extend(PageType::Cpuid, address, &NO_CONTENTS);
    }

    pub(super) fn vmsa(&mut self, page: &[u8]) {
        self.vmsa_digest(&sha384(&[page]));
    }

    pub(super) fn vmsa_digest(&mut self, digest: &LaunchDigest) {
        self.extend(PageType::Vmsa, VMSA_ADDRESS, digest);
    }

    pub(super) fn finish(self) -> LaunchDigest {
        self.0
    }
}

fn addresses(first: u64) -> impl Iterator<Item = u64> {
    (0u64..).map(move |page| first.wrapping_add(page.wrapping_mul(PAGE as u64)))
}
