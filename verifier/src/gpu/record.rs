//! The two records of GPU evidence in a collection: a CBOR array of byte strings each, one a device, in the same order.

use touchstone_cose::cbor::{self, Limits, Value};
use touchstone_evidence::label::MAX_GPU_RECORD;

/// Most devices of one machine: today's largest have 8 GPUs and 4 switches.
pub const MAX_DEVICES: usize = 32;
/// What a record may cost.
const LIMITS: Limits = Limits {
    max_bytes: MAX_GPU_RECORD,
    max_depth: 2,
    max_items: MAX_DEVICES + 1,
};

/// Writes a record.
pub fn encode(devices: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    cbor::encode(&Value::array(devices.into_iter().map(Value::bytes)))
}

/// Reads a record: 1 to [`MAX_DEVICES`] byte strings.
///
/// # Errors
/// What was found instead, in words.
pub fn decode(record: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let value = cbor::decode(record, LIMITS).map_err(|error| error.to_string())?;
    let items = value.as_array().ok_or_else(|| value.kind())?;
    if items.is_empty() {
        return Err("no device".into());
    }
    items
        .iter()
        .map(|item| item.as_bytes().map(<[u8]>::to_vec).ok_or_else(|| item.kind()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let devices = vec![vec![1, 2], vec![], vec![3]];
        assert_eq!(decode(&encode(devices.clone())), Ok(devices));
        assert!(decode(&encode(vec![vec![7]; MAX_DEVICES])).is_ok());
        for wrong in [
            encode([]),
            encode(vec![vec![7]; MAX_DEVICES + 1]),
            vec![0x41, 1],
            vec![0x81, 1],
            vec![0x81, 0x41, 1, 0],
            Vec::new(),
        ] {
            assert!(decode(&wrong).is_err(), "{wrong:?}");
        }
    }
}
