//! The values of quoted registers: CBOR `{TPM_ALG_ID: {index: value}}`. They are believed only as far as their digest
//! is the one a quote signed.

use std::collections::BTreeMap;

use touchstone_cose::cbor::{self, CborError, Limits, Value};

/// Values by (`TPM_ALG_ID` of the bank, register).
pub type PcrValues = BTreeMap<(u16, u8), Vec<u8>>;

/// Registers in a bank (TCG PC Client PTP: 24).
pub const REGISTERS: u64 = 24;
/// The banks that are known: `TPM_ALG_ID` and the length of a value in bytes (TCG Algorithm Registry: SHA-1, SHA-256,
/// SHA-384, SHA-512, SM3-256, SHA3-256, SHA3-384, SHA3-512).
pub const BANKS: [(u16, usize); 8] = [
    (0x04, 20),
    (0x0b, 32),
    (0x0c, 48),
    (0x0d, 64),
    (0x12, 32),
    (0x27, 32),
    (0x28, 48),
    (0x29, 64),
];
/// Limits of the record: every bank with every register.
pub const LIMITS: Limits = Limits {
    max_bytes: 16 << 10,
    max_depth: 2,
    max_items: 1 + 8 * (2 + 24 * 2),
};

/// The length of a value in the bank `algorithm`, if that is known.
#[must_use]
pub fn digest_len(algorithm: u16) -> Option<usize> {
    BANKS.iter().find(|(id, _)| *id == algorithm).map(|(_, length)| *length)
}

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
    let shape = |expected, found: &Value| PcrValuesError::Shape {
        expected,
        found: found.kind(),
    };
    let banks = cbor::decode(bytes, LIMITS)?;
    let entries = banks.as_map().ok_or_else(|| shape("a map of banks", &banks))?;
    let mut values = PcrValues::new();
    for (bank, registers) in entries {
        let id = bank.as_u64().and_then(|id| u16::try_from(id).ok());
        let known = id.and_then(|id| Some((id, digest_len(id)?)));
        let (id, length) = known.ok_or_else(|| shape("the TPM_ALG_ID of a known bank", bank))?;
        let registers = registers.as_map().filter(|registers| !registers.is_empty());
        for (index, value) in registers.ok_or_else(|| shape("a map of at least one register", bank))? {
            let register = index
                .as_u64()
                .filter(|index| *index < REGISTERS)
                .and_then(|index| u8::try_from(index).ok())
                .ok_or_else(|| shape("a register from 0 to 23", index))?;
            let bytes = value
                .as_bytes()
                .filter(|bytes| bytes.len() == length)
                .ok_or_else(|| shape("a value as long as its bank's digests", value))?;
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
            ((0x0b, 7), vec![0xaa; 32]),
            ((0x0b, 0), vec![0xbb; 32]),
            ((0x04, 23), vec![0xcc; 20]),
        ]);
        let expected = format!(
            "a2 04a11754{} 0ba2 005820{} 075820{}",
            "cc".repeat(20),
            "bb".repeat(32),
            "aa".repeat(32)
        );
        assert_eq!(hex::encode(encode(&values)), expected.replace(' ', ""));
        assert_eq!(decode(&encode(&values)), Ok(values));
        let every = BANKS
            .iter()
            .flat_map(|(id, length)| (0..24).map(|index| ((*id, index), vec![0; *length])));
        let every: PcrValues = every.collect();
        assert_eq!(decode(&encode(&every)), Ok(every), "every register of every bank fits");
    }

    #[test]
    fn hostile_values() {
        let value = |length: usize| format!("58{length:02x}{}", "00".repeat(length));
        for (name, hex) in [
            ("no map", "80".to_owned()),
            ("register 24", format!("a10ba11818{}", value(32))),
            ("negative register", format!("a10ba120{}", value(32))),
            ("empty value", "a10ba10040".to_owned()),
            (
                "value a byte short",
                format!("a10ba1005 81f{}", "00".repeat(31)).replace(' ', ""),
            ),
            ("value a byte long", format!("a10ba100{}", value(33))),
            (
                "SHA-1 value in the SHA-256 bank",
                format!("a10ba10054{}", "00".repeat(20)),
            ),
            ("bank without registers", "a10ba0".to_owned()),
            ("bank that nobody knows", format!("a110a100{}", value(32))),
            ("text as a bank", format!("a16162a100{}", value(32))),
            ("algorithm over 16 bits", format!("a11a00010000a100{}", value(32))),
            ("register twice", format!("a10ba200{0}00{0}", value(32))),
            ("bank twice", format!("a20ba100{0}0ba100{0}", value(32))),
            ("text as a value", "a10ba1006161".to_owned()),
            ("registers as an array", "a10b80".to_owned()),
            ("a byte behind", format!("a10ba100{}00", value(32))),
        ] {
            assert!(decode(&hex::decode(hex).expect("hex")).is_err(), "{name}");
        }
        assert!(
            decode(&hex::decode(format!("a10ba100{}", value(32))).expect("hex")).is_ok(),
            "the unchanged record"
        );
    }

    proptest::proptest! {
        #[test]
        fn what_is_accepted_has_one_encoding(at in 0usize..200, flip in 0u8..) {
            let values = PcrValues::from([((0x0b, 7), vec![0xaa; 32]), ((0x0b, 0), vec![0xbb; 32]), ((0x04, 23), vec![0xcc; 20])]);
            let mut bytes = encode(&values);
            let at = at % bytes.len();
            bytes[at] ^= flip;
            if let Ok(values) = decode(&bytes) {
                proptest::prop_assert_eq!(encode(&values), bytes);
            }
        }
    }
}
