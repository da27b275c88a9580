//! Chips that attest, by the name NVIDIA's factory authorities put into the device identity certificate.

use std::collections::BTreeSet;

/// What a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A GPU.
    Gpu,
    /// An NVSwitch, which joins GPUs.
    Switch,
}

impl Kind {
    /// Its name in claims: `gpu`, `switch`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Gpu => "gpu",
            Kind::Switch => "switch",
        }
    }
}

/// Longest name of a chip, in bytes.
const MAX_NAME: usize = 16;
/// Measurement blocks of GH100 about which NVIDIA's RIMs say something: 1 to 7 and 9 to 13 the VBIOS's, 8 and 22 to 41
/// the driver's (`active` in the RIM files; a RIM counts from 0, blocks from 1). The rest is not constant.
const GH100_STATED: [std::ops::RangeInclusive<u8>; 2] = [1..=13, 22..=41];
/// The block that says something only where the GPU's first video decoder is on (NVDEC0; RIM index 35).
pub(super) const NVDEC0_BLOCK: u8 = 36;

/// A chip: `GH100`, `GB100`, `GB20X`, `LS_10`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Product(String);

impl Product {
    /// The chip of this name. None where it is not known what kind of device it is.
    pub fn parse(name: &str) -> Option<Self> {
        let known = name.len() <= MAX_NAME
            && name
                .bytes()
                .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
            && kind(name).is_some();
        known.then(|| Self(name.to_owned()))
    }

    /// The chip that a device identity certificate with this subject is about: the first word of its common name
    /// (`GH100 A01 GSP BROM`).
    pub(super) fn of_subject(subject: &str) -> Option<Self> {
        let common_name = subject.split(", ").find_map(|part| part.strip_prefix("CN="))?;
        Self::parse(common_name.split(' ').next()?)
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        kind(&self.0).unwrap_or(Kind::Gpu)
    }

    /// Which of `blocks` a reference made from a golden device states. What the maker says to vary is left out where
    /// that is known, and nothing elsewhere.
    pub fn stated(&self, blocks: impl IntoIterator<Item = u8>) -> BTreeSet<u8> {
        blocks
            .into_iter()
            .filter(|block| self.0 != "GH100" || GH100_STATED.iter().any(|stated| stated.contains(block)))
            .collect()
    }
}

impl std::fmt::Display for Product {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// GH1xx (Hopper), GB1xx and GB2xx (Blackwell) are GPUs; LS_10 is an NVSwitch.
///
/// Chips that differ in size only share a name: the certificate of a GB202 says `GB20X` (NVIDIA's device identity
/// certificates; the provisioner above it is named `NVIDIA GB202 Provisioner`). Only the last place may be such an `X`.
fn kind(name: &str) -> Option<Kind> {
    let number = |rest: &str| match rest.as_bytes() {
        [first, second, last] => {
            first.is_ascii_digit() && second.is_ascii_digit() && (last.is_ascii_digit() || *last == b'X')
        }
        _ => false,
    };
    match name {
        "LS_10" => Some(Kind::Switch),
        _ => ["GH", "GB"]
            .into_iter()
            .any(|family| name.strip_prefix(family).is_some_and(number))
            .then_some(Kind::Gpu),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chip_is_known_by_its_whole_name() {
        let subject = "serialNumber=416A, C=US, O=NVIDIA Corporation, CN=GH100 A01 GSP BROM";
        assert_eq!(Product::of_subject(subject), Product::parse("GH100"));
        assert_eq!(Product::parse("LS_10").map(|chip| chip.kind()), Some(Kind::Switch));
        // Blackwell: a chip of its own name, and one of a name that several sizes share.
        let subject = "serialNumber=4179, C=US, O=NVIDIA Corporation, CN=GB20X A01 GSP BROM";
        assert_eq!(Product::of_subject(subject), Product::parse("GB20X"));
        for known in ["GB20X", "GB100", "GB202", "GH10X"] {
            assert_eq!(
                Product::parse(known).map(|chip| chip.kind()),
                Some(Kind::Gpu),
                "{known}"
            );
        }
        for unknown in [
            "", "GH1000", "GH10", "gh100", "LS_100", "TU102", "GH100A", "GBX0X", "GB2XX", "GBXXX", "GB20Y", "GB20x",
            "GB20XX", "GB20", "LS_1X", "X20X",
        ] {
            assert_eq!(Product::parse(unknown), None, "{unknown}");
        }
        assert_eq!(Product::of_subject("O=CN=GH100"), None);
    }

    #[test]
    fn what_the_maker_says_to_vary_is_not_stated() {
        let stated = Product::parse("GH100").unwrap().stated(1..=64);
        assert_eq!(stated.len(), 13 + 20);
        assert!(stated.contains(&13) && !stated.contains(&14) && !stated.contains(&42));
        assert_eq!(Product::parse("LS_10").unwrap().stated(1..=31).len(), 31);
    }
}
