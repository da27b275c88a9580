//! Versions of drivers and firmware, compared part by part.

use std::cmp::Ordering;

/// Longest text of a version, in bytes.
pub const MAX_VERSION: usize = 32;
/// Most parts of a version.
const MAX_PARTS: usize = 6;

/// A version of parts between dots: a driver's in decimal (`550.90.07`), a VBIOS's in hexadecimal (`96.00.9F.00.01`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    text: String,
    parts: Vec<u32>,
}

impl Version {
    /// A driver's version. None where `text` is none.
    pub fn driver(text: &str) -> Option<Self> {
        Self::parse(text, 10)
    }

    /// A VBIOS's version, read without regard to case and kept in upper case. None where `text` is none.
    pub fn vbios(text: &str) -> Option<Self> {
        Self::parse(&text.to_ascii_uppercase(), 16)
    }

    fn parse(text: &str, radix: u32) -> Option<Self> {
        if text.is_empty() || text.len() > MAX_VERSION {
            return None;
        }
        // Digits only: `from_str_radix` would take a sign.
        let number = |part: &str| {
            let digits = part.chars().all(|digit| digit.is_digit(radix));
            digits.then(|| u32::from_str_radix(part, radix).ok()).flatten()
        };
        let parts = text.split('.').map(number).collect::<Option<Vec<u32>>>()?;
        (parts.len() <= MAX_PARTS).then(|| Self {
            text: text.to_owned(),
            parts,
        })
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it is older than `floor`: the first part that differs decides, a missing part is 0.
    pub fn is_below(&self, floor: &Self) -> bool {
        let parts = self.parts.len().max(floor.parts.len());
        let part = |version: &Self, index: usize| version.parts.get(index).copied().unwrap_or(0);
        (0..parts)
            .map(|index| part(self, index).cmp(&part(floor, index)))
            .find(|order| order.is_ne())
            == Some(Ordering::Less)
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_numbers_not_text() {
        let driver = |text| Version::driver(text).unwrap();
        for (older, newer) in [
            ("535.86.09", "550.90.07"),
            ("550.90.07", "550.144.03"),
            ("590.12", "590.12.1"),
            ("99.1", "100"),
        ] {
            assert!(driver(older).is_below(&driver(newer)), "{older} {newer}");
            assert!(!driver(newer).is_below(&driver(older)), "{newer} {older}");
        }
        assert!(!driver("590.12").is_below(&driver("590.12.0")));
        let vbios = |text| Version::vbios(text).unwrap();
        assert!(vbios("96.00.9f.00.01").is_below(&vbios("96.00.A5.00.01")));
        assert_eq!(vbios("96.00.9f.00.01").as_str(), "96.00.9F.00.01");
        for wrong in [
            "",
            ".",
            "1..2",
            "+1.2",
            "1.2a",
            "1.2.3.4.5.6.7",
            "99999999999",
            " 1",
            &"1".repeat(33),
        ] {
            assert_eq!(Version::driver(wrong), None, "{wrong:?}");
        }
        assert_eq!(Version::vbios("96.0G"), None);
    }
}
