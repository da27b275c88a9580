//! Bits of a report: what the guest's owner demanded at launch, and how the platform is configured.

/// POLICY: what the guest's owner demanded of the platform at launch (AMD 56860, table 9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GuestPolicy(pub u64);

/// Bit 17 must be one.
const MUST_BE_ONE: u64 = 1 << 17;
/// Bits 63 to 26 must be zero.
const MUST_BE_ZERO: u64 = !((1 << 26) - 1);

impl GuestPolicy {
    /// The bits with a meaning of their own that settings and references may name.
    pub const NAMES: [(&'static str, u32); 9] = [
        ("smt", 16),
        ("migration-agent", 18),
        ("debug", 19),
        ("single-socket", 20),
        ("cxl", 21),
        ("aes-256-xts", 22),
        ("rapl-disabled", 23),
        ("ciphertext-hiding", 24),
        ("page-swap-disabled", 25),
    ];

    /// The bit of this name, as a mask.
    pub fn mask(name: &str) -> Option<u64> {
        let named = Self::NAMES.iter().find(|(known, _)| *known == name);
        named.map(|(_, bit)| 1 << bit)
    }

    /// The names of the bits in a mask, in order.
    pub fn names(mask: u64) -> String {
        let set = Self::NAMES.iter().filter(|(_, bit)| mask & (1 << bit) != 0);
        let names: Vec<&str> = set.map(|(name, _)| *name).collect();
        names.join(", ")
    }

    const fn bit(self, bit: u32) -> bool {
        self.0 & (1 << bit) != 0
    }

    /// Whether the bits with a fixed value have it.
    pub const fn is_well_formed(self) -> bool {
        self.0 & MUST_BE_ONE != 0 && self.0 & MUST_BE_ZERO == 0
    }

    /// Least ABI version (major, minor) the guest runs on.
    pub const fn abi(self) -> (u8, u8) {
        ((self.0 >> 8) as u8, self.0 as u8)
    }

    /// Simultaneous multithreading is allowed.
    pub const fn smt(self) -> bool {
        self.bit(16)
    }

    /// A migration agent may be bound to the guest.
    pub const fn migration_agent(self) -> bool {
        self.bit(18)
    }

    /// The host may debug the guest: its memory is readable.
    pub const fn debug(self) -> bool {
        self.bit(19)
    }

    /// The guest may run on one socket only.
    pub const fn single_socket(self) -> bool {
        self.bit(20)
    }

    /// CXL memory and devices are allowed.
    pub const fn cxl(self) -> bool {
        self.bit(21)
    }

    /// Memory must be encrypted with AES-256-XTS.
    pub const fn aes_256_xts(self) -> bool {
        self.bit(22)
    }

    /// Running Average Power Limit must be off (power side channels).
    pub const fn rapl_disabled(self) -> bool {
        self.bit(23)
    }

    /// Ciphertext must be hidden from the host.
    pub const fn ciphertext_hiding(self) -> bool {
        self.bit(24)
    }

    /// Pages may not be swapped by the host.
    pub const fn page_swap_disabled(self) -> bool {
        self.bit(25)
    }
}

/// PLATFORM_INFO: how the platform is configured (AMD 56860, table 24). Firmware of the field sets bits that no
/// document explains; they are kept and mean nothing here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PlatformInfo(pub u64);

impl PlatformInfo {
    const fn bit(self, bit: u32) -> bool {
        self.0 & (1 << bit) != 0
    }

    /// Simultaneous multithreading is on.
    pub const fn smt(self) -> bool {
        self.bit(0)
    }

    /// Transparent memory encryption is on.
    pub const fn tsme(self) -> bool {
        self.bit(1)
    }

    /// Memory has error-correcting codes.
    pub const fn ecc(self) -> bool {
        self.bit(2)
    }

    /// Running Average Power Limit is off.
    pub const fn rapl_disabled(self) -> bool {
        self.bit(3)
    }

    /// Ciphertext is hidden from the host.
    pub const fn ciphertext_hiding(self) -> bool {
        self.bit(4)
    }

    /// No two addresses lead to the same memory, checked since the last reset (AMD-SB-3015, BadRAM). Reports before
    /// version 3 never have it.
    pub const fn alias_check_complete(self) -> bool {
        self.bit(5)
    }

    /// Trusted I/O is on.
    pub const fn tio(self) -> bool {
        self.bit(7)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_with_a_fixed_value_must_have_it() {
        assert!(GuestPolicy(0x3_0000).is_well_formed() && GuestPolicy(0x3_001F).is_well_formed());
        assert!(!GuestPolicy(0x1_0000).is_well_formed());
        assert!(!GuestPolicy(0x3_0000 | 1 << 26).is_well_formed());
        assert!(!GuestPolicy(0x3_0000 | 1 << 63).is_well_formed());
        assert!(GuestPolicy(0xB_0000).debug() && !GuestPolicy(0x3_0000).debug());
        assert_eq!(GuestPolicy(0x3_011F).abi(), (1, 0x1F));
        assert!(PlatformInfo(0x25).alias_check_complete() && !PlatformInfo(0x1).alias_check_complete());
    }
}
