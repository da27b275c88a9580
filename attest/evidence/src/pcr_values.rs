//! The values of quoted registers: CBOR `{TPM_ALG_ID: {index: value}}`. They are believed only as far as their digest
//! is the one a quote signed.

use std::collections::BTreeMap;

use touchstone_cose::cbor::{self, CborError, Limits, Value};

/// Values by (`TPM_ALG_ID` of the bank, register).
pub type PcrValues = BTreeMap<(u16, u8), Vec<u8>>;

/// The most banks a TPM may show.
pub const MAX_BANKS: usize = 8;
/// Registers in a bank (TCG PC Client PTP: 24).
pub const REGISTERS: u64 = 24;
/// The widest value, SHA-512.
pub const MAX_VALUE: usize = 64;

/// Why bytes are not register values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PcrValuesError {
    /// Not the CBOR that is accepted.
    #[error("register values: {0}")]
    Cbor(#[from] CborError),
    /// Another shape than `{algorithm: {index: value}}`.
    #[error("register values: expected {expected}, found {found}")]
    Shape {
        /// What the format says.
        expected: &'static str,
        /// What was there.
        found: String,
    },
}

/// Encodes values, deterministic.
#[must_use]
pub fn encode(values: &PcrValues) -> Vec<u8> {
    let mut banks: BTreeMap<u16, Vec<(i64, Value)>> = BTreeMap::new();
    for ((bank, index), value) in values {
        banks
            .entry(*bank)
            .or_default()
            .push((i64::from(*index), Value::bytes(value.clone())));
    }
    cbor::encode(&Value::map(
        banks
            .into_iter()
            .map(|(bank, values)| (i64::from(bank), Value::map(values))),
    ))
}

/// Decodes values.
///
/// # Errors
/// [`PcrValuesError`].
pub fn decode(bytes: &[u8]) -> Result<PcrValues, PcrValuesError> {
    let limits = Limits {
        max_bytes: 32 << 10,
        max_depth: 3,
        max_items: 1 << 10,
    };
    let shape = |expected, found: &Value| PcrValuesError::Shape {
        expected,
        found: found.kind(),
    };
    let banks = cbor::decode(bytes, limits)?;
    let entries = banks.as_map().ok_or_else(|| shape("a map of banks", &banks))?;
    if entries.len() > MAX_BANKS {
        return Err(PcrValuesError::Shape {
            expected: "at most 8 banks",
            found: entries.len().to_string(),
        });
    }
    let mut values = PcrValues::new();
    for (bank, registers) in entries {
        let id = bank
            .as_u64()
            .and_then(|id| u16::try_from(id).ok())
            .ok_or_else(|| shape("a TPM_ALG_ID", bank))?;
        for (index, value) in registers
            .as_map()
            .ok_or_else(|| shape("a map of registers", registers))?
        {
            let register = index
                .as_u64()
                .filter(|index| *index < REGISTERS)
                .and_then(|index| u8::try_from(index).ok())
                .ok_or_else(|| shape("a register from 0 to 23", index))?;
            let bytes = value
                .as_bytes()
                .filter(|bytes| !bytes.is_empty() && bytes.len() <= MAX_VALUE)
                .ok_or_else(|| shape("a value of 1 to 64 bytes", value))?;
            values.insert((id, register), bytes.to_vec());
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_and_round_trip() {
        let values = PcrValues::from([
            ((0x0b, 7), vec![0xaa; 2]),
            ((0x0b, 0), vec![0xbb]),
            ((0x04, 23), vec![0xcc]),
        ]);
        assert_eq!(hex::encode(encode(&values)), "a204a11741cc0ba20041bb0742aaaa");
        assert_eq!(decode(&encode(&values)), Ok(values));
    }

    #[test]
    fn hostile_values() {
        for (name, hex) in [
            ("no map", "80"),
            ("register 24", "a104a1181841cc"),
            ("empty value", "a104a11740"),
            ("value of 65 bytes", &format!("a104a1175841{}", "00".repeat(65))),
            ("text as a bank", "a16161a10041aa"),
            ("algorithm over 16 bits", "a11a00010000a10041aa"),
        ] {
            assert!(decode(&hex::decode(hex).expect("hex")).is_err(), "{name}");
        }
    }
}
