//! What a guest was launched with.

/// TDATTRIBUTES (Intel TDX Module ABI specification 348551, table "ATTRIBUTES").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TdAttributes(pub u64);

/// Bits of the group TUD: with any of them set the guest is not to be trusted.
const UNTRUSTED: u64 = 0xFF;
/// Bits that a verifier must refuse: reserved, and the meaning a later module gives them is not known here.
const RESERVED: u64 = bits(1, 3) | bits(7, 15) | bits(23, 26) | bits(32, 61);

const fn bits(first: u32, last: u32) -> u64 {
    let mut mask = 0;
    let mut bit = first;
    while bit <= last {
        mask |= 1 << bit;
        bit += 1;
    }
    mask
}

impl TdAttributes {
    /// Whether the host may debug or profile the guest (any bit of the group TUD).
    pub const fn debug(self) -> bool {
        self.0 & UNTRUSTED != 0
    }

    /// Whether bits are set whose meaning is not known.
    pub const fn reserved(self) -> bool {
        self.0 & RESERVED != 0
    }

    /// SERVTD_EXT: service TDs are part of the report.
    pub const fn service_td(self) -> bool {
        self.0 >> 17 & 1 != 0
    }

    /// LASS: linear address space separation may be used.
    pub const fn lass(self) -> bool {
        self.0 >> 27 & 1 != 0
    }

    /// SEPT_VE_DISABLE: the host can not make the guest fault on its own memory.
    pub const fn sept_ve_disable(self) -> bool {
        self.0 >> 28 & 1 != 0
    }

    /// MIGRATABLE: a migration TD may move the guest.
    pub const fn migratable(self) -> bool {
        self.0 >> 29 & 1 != 0
    }

    /// PKS: supervisor protection keys may be used.
    pub const fn pks(self) -> bool {
        self.0 >> 30 & 1 != 0
    }

    /// KL: Key Locker may be used.
    pub const fn key_locker(self) -> bool {
        self.0 >> 31 & 1 != 0
    }

    /// PERFMON: performance monitoring may be used.
    pub const fn perfmon(self) -> bool {
        self.0 >> 63 & 1 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bit_is_either_known_or_refused() {
        let harmless = [16, 17, 18, 19, 20, 21, 22, 27, 28, 29, 30, 31, 62, 63];
        for bit in 0..64 {
            let attributes = TdAttributes(1 << bit);
            assert_eq!(attributes.debug(), bit < 8, "bit {bit}");
            assert_eq!(
                !attributes.debug() && !attributes.reserved(),
                harmless.contains(&bit),
                "bit {bit}"
            );
        }
        assert!(TdAttributes(1 << 28).sept_ve_disable());
        assert!(TdAttributes(1 << 29).migratable());
        assert!(TdAttributes(1 << 17).service_td());
    }
}
