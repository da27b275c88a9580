//! What the domain does not believe although its maker vouches for it: endorsement keys, and firmware with known holes.
//!
//! Signed policy data. An entry takes away, never gives: nothing here makes anything acceptable.

use std::collections::BTreeMap;

use crate::inventory::EkId;

/// Firmware of one TPM maker, from one version to another, both included.
///
/// A version is the 64 bits that a quote carries (TPMS_ATTEST.firmwareVersion: TPM_PT_FIRMWARE_VERSION_1 and _2), read
/// as four 16-bit numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeniedFirmware {
    /// The maker's id in the TCG vendor registry, four bytes: `IFX\0`.
    pub manufacturer: [u8; 4],
    /// First version.
    pub from: u64,
    /// Last version.
    pub to: u64,
    /// Why, in the author's words.
    pub why: String,
}

/// Endorsement keys and firmware that are refused.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DenyList {
    keys: BTreeMap<EkId, String>,
    firmware: Vec<DeniedFirmware>,
}

impl DenyList {
    /// A list of keys, each with why, and of firmware.
    pub fn new(keys: impl IntoIterator<Item = (EkId, String)>, firmware: Vec<DeniedFirmware>) -> Self {
        Self {
            keys: keys.into_iter().collect(),
            firmware,
        }
    }

    /// What either list refuses. Where both name a key, the reason of this one is told.
    #[must_use]
    pub fn and(&self, other: &DenyList) -> Self {
        let mut keys = other.keys.clone();
        keys.extend(self.keys.clone());
        let mut firmware = self.firmware.clone();
        firmware.extend(
            other
                .firmware
                .iter()
                .filter(|denied| !self.firmware.contains(denied))
                .cloned(),
        );
        Self { keys, firmware }
    }

    /// Why this endorsement key is refused, if it is.
    pub fn key(&self, ek: &EkId) -> Option<&str> {
        self.keys.get(ek).map(String::as_str)
    }

    /// Every key that is refused.
    pub fn keys(&self) -> impl Iterator<Item = (&EkId, &str)> {
        self.keys.iter().map(|(ek, why)| (ek, why.as_str()))
    }

    /// Every range of firmware that is refused.
    pub fn firmware(&self) -> &[DeniedFirmware] {
        &self.firmware
    }

    /// The entry that refuses the firmware `version` of a quote. Where the maker is not known, every maker's entries
    /// hold.
    pub fn quoted_firmware(&self, manufacturer: Option<[u8; 4]>, version: u64) -> Option<&DeniedFirmware> {
        self.of_maker(manufacturer)
            .find(|denied| (denied.from..=denied.to).contains(&version))
    }

    /// The entry that refuses the firmware `version` that a certificate states: the upper 32 bits of it. A version that
    /// is refused in part is refused.
    pub fn certified_firmware(&self, manufacturer: Option<[u8; 4]>, version: u32) -> Option<&DeniedFirmware> {
        self.of_maker(manufacturer)
            .find(|denied| (denied.from >> 32..=denied.to >> 32).contains(&u64::from(version)))
    }

    /// Whether the firmware of this maker matters at all.
    pub fn concerns(&self, manufacturer: Option<[u8; 4]>) -> bool {
        self.of_maker(manufacturer).next().is_some()
    }

    fn of_maker(&self, manufacturer: Option<[u8; 4]>) -> impl Iterator<Item = &DeniedFirmware> {
        let concerned = move |denied: &&DeniedFirmware| manufacturer.is_none_or(|maker| maker == denied.manufacturer);
        self.firmware.iter().filter(concerned)
    }
}

/// The maker's id in a certificate's `tpmManufacturer`: `id:` and eight hexadecimal digits.
pub fn manufacturer_id(text: &str) -> Option<[u8; 4]> {
    let mut id = [0; 4];
    hex::decode_to_slice(text.strip_prefix("id:")?, &mut id).ok()?;
    Some(id)
}

/// The version in a certificate's `tpmVersion`: `id:` and up to eight hexadecimal digits, major and minor. Older
/// certificates have four, a byte each (`id:0D0C` is 13.12).
pub fn certified_version(text: &str) -> Option<u32> {
    let digits = text
        .strip_prefix("id:")
        .filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
    let number = u32::from_str_radix(digits, 16).ok()?;
    match digits.len() {
        8 => Some(number),
        4 => Some((number >> 8) << 16 | number & 0xFF),
        _ => None,
    }
}

/// A firmware version in the words people use: `7.62.3126.0`.
pub fn version_text(version: u64) -> String {
    let part = |shift: u32| version >> shift & 0xFFFF;
    format!("{}.{}.{}.{}", part(48), part(32), part(16), part(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> DenyList {
        let denied = DeniedFirmware {
            manufacturer: *b"IFX\0",
            from: 7 << 48,
            to: (7 << 48) | (61 << 32) | 0xFFFF_FFFF,
            why: "CVE-2017-15361".into(),
        };
        DenyList::new([(EkId([1; 32]), "stolen".to_owned())], vec![denied])
    }

    #[test]
    fn ranges_end_where_they_say() {
        let list = list();
        let (maker, other) = (Some(*b"IFX\0"), Some(*b"STM "));
        for (version, denied) in [
            ((6 << 48) | 0xFFFF_FFFF_FFFF, false),
            (7 << 48, true),
            ((7 << 48) | (61 << 32) | 0xFFFF_FFFF, true),
            ((7 << 48) | (62 << 32), false),
        ] {
            assert_eq!(list.quoted_firmware(maker, version).is_some(), denied, "{version:x}");
            assert_eq!(list.quoted_firmware(None, version).is_some(), denied, "{version:x}");
            assert!(list.quoted_firmware(other, version).is_none());
        }
        assert!(list.certified_firmware(maker, 0x0007_003D).is_some());
        assert!(list.certified_firmware(maker, 0x0007_003E).is_none());
        assert!(list.concerns(maker) && list.concerns(None) && !list.concerns(other));
        assert_eq!(list.key(&EkId([1; 32])), Some("stolen"));
        assert_eq!(list.key(&EkId([2; 32])), None);
    }

    #[test]
    fn certificates_texts_are_read() {
        assert_eq!(manufacturer_id("id:49465800"), Some(*b"IFX\0"));
        assert_eq!(certified_version("id:0007003E"), Some(0x0007_003E));
        assert_eq!(certified_version("id:0D0C"), Some(0x000D_000C));
        for bad in [
            "",
            "id:",
            "49465800",
            "id:4946580",
            "id:0007003E00",
            "id:xyzw",
            "id:+123",
        ] {
            assert_eq!((manufacturer_id(bad), certified_version(bad)), (None, None), "{bad}");
        }
        assert_eq!(version_text((7 << 48) | (62 << 32) | (3126 << 16)), "7.62.3126.0");
    }

    #[test]
    fn what_either_list_refuses_is_refused() {
        let firmware = |from, to| DeniedFirmware {
            manufacturer: *b"IFX\0",
            from,
            to,
            why: "old".into(),
        };
        let whole = DenyList::new([(EkId([1; 32]), "stolen".to_owned())], vec![firmware(1, 2)]);
        let region = DenyList::new(
            [(EkId([1; 32]), "other".to_owned()), (EkId([2; 32]), "lost".to_owned())],
            vec![firmware(5, 6)],
        );
        let both = whole.and(&region);
        assert_eq!(both.key(&EkId([1; 32])), Some("stolen"));
        assert_eq!(both.key(&EkId([2; 32])), Some("lost"));
        for version in [1, 2, 5, 6] {
            assert!(both.quoted_firmware(Some(*b"IFX\0"), version).is_some(), "{version}");
        }
        assert!(both.quoted_firmware(Some(*b"IFX\0"), 3).is_none());
        assert_eq!(whole.and(&DenyList::default()), whole);
        assert_eq!(DenyList::default().and(&whole), whole);
    }
}
