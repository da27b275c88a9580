//! A key-encryption key from a passphrase: Argon2id (RFC 9106), parameters recorded beside the salt.

use std::path::Path;

use argon2::{Algorithm, Argon2, Params, Version};
use touchstone_cose::cbor::Value;
use zeroize::Zeroizing;

use super::kek::{KEY_BYTES, KekError, MemoryKek};
use crate::key_files::read_private;
use crate::session::random;

/// Fewest characters of a passphrase. Better: `openssl rand -base64 32`.
pub const MIN_PASSPHRASE: usize = 16;

/// Memory of a new derivation, in KiB: the second recommendation of RFC 9106 section 4.
const MEMORY_KIB: u32 = 64 * 1024;
/// Passes of a new derivation.
const PASSES: u32 = 3;
/// Lanes of a new derivation.
const LANES: u32 = 4;

/// What a recorded derivation may ask for: whoever edits the row can neither make it weak nor make the broker take all
/// memory.
const MEMORY_BOUNDS: std::ops::RangeInclusive<u32> = 19 * 1024..=1024 * 1024;
const PASSES_BOUNDS: std::ops::RangeInclusive<u32> = 2..=16;
const LANES_BOUNDS: std::ops::RangeInclusive<u32> = 1..=16;

/// How a passphrase becomes a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretching {
    salt: [u8; 16],
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl Stretching {
    /// A new salt, and the parameters of this release.
    ///
    /// # Errors
    /// [`KekError::Failed`] without randomness.
    pub fn fresh() -> Result<Self, KekError> {
        Ok(Self {
            salt: random().map_err(|_| KekError::Failed("draw random bytes"))?,
            memory_kib: MEMORY_KIB,
            passes: PASSES,
            lanes: LANES,
        })
    }

    /// As CBOR: [salt, memory in KiB, passes, lanes].
    #[must_use]
    pub fn value(&self) -> Value {
        Value::array([
            Value::bytes(self.salt),
            Value::Unsigned(self.memory_kib.into()),
            Value::Unsigned(self.passes.into()),
            Value::Unsigned(self.lanes.into()),
        ])
    }

    /// Reads what [`Stretching::value`] wrote.
    ///
    /// # Errors
    /// [`KekError::Record`], also for parameters that are too weak or too much.
    pub fn read(value: &Value) -> Result<Self, KekError> {
        let wrong = || KekError::Record("the parameters of the passphrase are not within bounds".into());
        let Some([salt, memory, passes, lanes]) = value.as_array() else {
            return Err(wrong());
        };
        let number = |value: &Value, bounds: std::ops::RangeInclusive<u32>| {
            let number = value.as_u64().and_then(|n| u32::try_from(n).ok())?;
            bounds.contains(&number).then_some(number)
        };
        Ok(Self {
            salt: salt.as_bytes().and_then(|b| b.try_into().ok()).ok_or_else(wrong)?,
            memory_kib: number(memory, MEMORY_BOUNDS).ok_or_else(wrong)?,
            passes: number(passes, PASSES_BOUNDS).ok_or_else(wrong)?,
            lanes: number(lanes, LANES_BOUNDS).ok_or_else(wrong)?,
        })
    }
}

/// The key of the passphrase in `path`, a file that only its owner may read; a line end after it does not count.
///
/// # Errors
/// [`KekError`]
pub fn derive(path: &Path, stretching: &Stretching) -> Result<MemoryKek, KekError> {
    let text = read_private(path)?;
    let passphrase = text.trim_end_matches(['\r', '\n']);
    let found = passphrase.chars().count();
    if found < MIN_PASSPHRASE {
        return Err(KekError::PassphraseShort {
            least: MIN_PASSPHRASE,
            found,
        });
    }
    let failed = |_| KekError::Failed("stretch the passphrase");
    let Stretching {
        salt,
        memory_kib,
        passes,
        lanes,
    } = stretching;
    let params = Params::new(*memory_kib, *passes, *lanes, Some(KEY_BYTES)).map_err(failed)?;
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), salt, key.as_mut_slice())
        .map_err(failed)?;
    Ok(MemoryKek::new(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_parameters_are_bounded() {
        let fresh = Stretching::fresh().unwrap();
        assert_eq!(Stretching::read(&fresh.value()).unwrap(), fresh);
        for (name, memory_kib, passes, lanes) in [
            ("weak memory", 8, 3, 4),
            ("endless memory", u32::MAX, 3, 4),
            ("one pass", 65_536, 1, 4),
            ("endless passes", 65_536, u32::MAX, 4),
            ("no lanes", 65_536, 3, 0),
        ] {
            let other = Stretching {
                memory_kib,
                passes,
                lanes,
                ..fresh.clone()
            };
            assert!(Stretching::read(&other.value()).is_err(), "{name}");
        }
    }
}
