//! A node's encrypted disk, as the inventory names it.

use serde::{Deserialize, Serialize};
use touchstone_verifier::bootstrap::Volume;

/// A node's encrypted disk as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeFile {
    /// UUID of its LUKS2 header, in lower case.
    pub luks_uuid: String,
    /// Register 15 after its volume key was measured, in the SHA-256, SHA-384 or SHA-512 bank, hexadecimal.
    pub pcr15: String,
}

impl VolumeFile {
    /// The checked volume.
    ///
    /// # Errors
    /// What was expected, and what was found.
    pub fn to_volume(&self) -> Result<Volume, (&'static str, String)> {
        if !is_uuid(&self.luks_uuid) {
            let expected = "a UUID: 8-4-4-4-12 hexadecimal digits in lower case";
            return Err((expected, self.luks_uuid.clone()));
        }
        let register = hex::decode(&self.pcr15).unwrap_or_default();
        let volume = Volume {
            luks_uuid: self.luks_uuid.clone(),
            register,
        };
        match volume.bank() {
            Some(_) if volume.register.iter().any(|byte| *byte != 0) => Ok(volume),
            _ => Err(("32, 48 or 64 bytes in hexadecimal, not all zero", self.pcr15.clone())),
        }
    }
}

/// RFC 9562, section 4, as cryptsetup prints it.
fn is_uuid(text: &str) -> bool {
    const GROUPS: [usize; 5] = [8, 4, 4, 4, 12];
    let digits = |group: &str| group.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    text.split('-').map(str::len).eq(GROUPS) && text.split('-').all(digits)
}
