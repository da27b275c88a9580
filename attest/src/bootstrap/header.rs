//! What is believed of a LUKS2 header, which nobody has signed: its UUID, and that all of the volume is encrypted.
//!
//! Whoever can write to the disk can write its header. The volume key proves that the disk is the node's (`docs/protocol.md`,
//! section 11), not how the header says it is used: a header that calls the data a plain segment, or its cipher null, would
//! open with the right key and read what the attacker put there. So the header is copied out of the disk's reach, checked,
//! and only the copy is used. Format: LUKS2 On-Disk Format Specification 1.1.

use serde::Deserialize;
use std::collections::BTreeMap;

/// Bytes of the binary header that are looked at to find a disk (specification, 2.1).
pub const BINARY_HEADER: usize = 512;
/// Longest metadata in JSON (specification, 2.2: areas of at most 4 MiB).
pub const MAX_METADATA: u64 = 4 << 20;
/// Ciphers of data and key slots that are accepted: the one cryptsetup uses by itself.
pub const CIPHERS: [&str; 1] = ["aes-xts-plain64"];

const MAGIC: &[u8] = b"LUKS\xba\xbe\x00\x02";
const UUID_AT: std::ops::Range<usize> = 168..208;

/// The UUID in the first bytes of a device, where that is a LUKS2 header.
#[must_use]
pub fn uuid_of(first: &[u8]) -> Option<&str> {
    if !first.starts_with(MAGIC) {
        return None;
    }
    let field = first.get(UUID_AT)?;
    let text = field.split(|byte| *byte == 0).next()?;
    std::str::from_utf8(text).ok().filter(|text| !text.is_empty())
}

/// Why a header is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Not the metadata of a LUKS2 header.
    #[error("the header's metadata cannot be read: {0}")]
    Unreadable(String),
    /// Something in it is not as it has to be.
    #[error("the header's {what}: expected {expected}, found {found}")]
    Other {
        /// Which part.
        what: &'static str,
        /// What is accepted.
        expected: String,
        /// What is there.
        found: String,
    },
}

#[derive(Deserialize)]
struct Metadata {
    keyslots: BTreeMap<String, Keyslot>,
    segments: BTreeMap<String, Segment>,
    config: Config,
}

#[derive(Deserialize)]
struct Keyslot {
    #[serde(rename = "type")]
    kind: String,
    area: Area,
}

#[derive(Deserialize)]
struct Area {
    encryption: Option<String>,
}

#[derive(Deserialize)]
struct Segment {
    #[serde(rename = "type")]
    kind: String,
    encryption: Option<String>,
    size: String,
    integrity: Option<serde_json::Value>,
    flags: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Config {
    requirements: Option<serde_json::Value>,
}

/// Checks the metadata that `cryptsetup luksDump --dump-json-metadata` gives: one segment to the end of the device, all of
/// it encrypted, every key slot encrypted, nothing half done.
///
/// # Errors
/// [`HeaderError`], of the first thing that is not so.
pub fn check(metadata: &[u8]) -> Result<(), HeaderError> {
    let metadata: Metadata =
        serde_json::from_slice(metadata).map_err(|error| HeaderError::Unreadable(error.to_string()))?;
    let other = |what, expected: &str, found: String| {
        Err(HeaderError::Other {
            what,
            expected: expected.to_owned(),
            found,
        })
    };
    let accepted = CIPHERS.join(", ");
    let is_accepted = |cipher: &Option<String>| cipher.as_deref().is_some_and(|cipher| CIPHERS.contains(&cipher));
    let named = |cipher: Option<String>| cipher.unwrap_or_else(|| "none".into());
    if metadata.segments.len() != 1 {
        return other("segments", "one", metadata.segments.len().to_string());
    }
    for segment in metadata.segments.into_values() {
        if segment.kind != "crypt" {
            return other("segment", "crypt", segment.kind);
        }
        if !is_accepted(&segment.encryption) {
            return other("cipher of the data", &accepted, named(segment.encryption));
        }
        if segment.size != "dynamic" {
            return other("size of the data", "dynamic", segment.size);
        }
        if segment.integrity.is_some() || segment.flags.is_some() {
            return other("segment", "no integrity and no flags", "some".into());
        }
    }
    for slot in metadata.keyslots.into_values() {
        if slot.kind != "luks2" {
            return other("key slot", "luks2", slot.kind);
        }
        if !is_accepted(&slot.area.encryption) {
            return other("cipher of a key slot", &accepted, named(slot.area.encryption));
        }
    }
    match metadata.config.requirements {
        None => Ok(()),
        Some(requirements) => other("requirements", "none", requirements.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn metadata() -> Value {
        json!({
            "keyslots": {"0": {"type": "luks2", "key_size": 64, "area": {"type": "raw", "encryption": "aes-xts-plain64"}}},
            "tokens": {},
            "segments": {"0": {"type": "crypt", "offset": "16777216", "size": "dynamic", "iv_tweak": "0",
                "encryption": "aes-xts-plain64", "sector_size": 512}},
            "digests": {"0": {"type": "pbkdf2"}},
            "config": {"json_size": "12288"}
        })
    }

    fn checked(change: impl FnOnce(&mut Value)) -> Result<(), HeaderError> {
        let mut value = metadata();
        change(&mut value);
        check(value.to_string().as_bytes())
    }

    #[test]
    fn a_header_that_does_not_encrypt_everything_is_refused() {
        assert_eq!(checked(|_| ()), Ok(()));
        type Row = (&'static str, fn(&mut Value), &'static str);
        let rows: &[Row] = &[
            (
                "data under the null cipher",
                |m| m["segments"]["0"]["encryption"] = "cipher_null-ecb".into(),
                "cipher of the data",
            ),
            (
                "a cipher nobody uses",
                |m| m["segments"]["0"]["encryption"] = "aes-ecb".into(),
                "cipher of the data",
            ),
            (
                "no cipher",
                |m| m["segments"]["0"]["encryption"] = Value::Null,
                "cipher of the data",
            ),
            (
                "data in the clear",
                |m| m["segments"]["0"]["type"] = "linear".into(),
                "segment",
            ),
            (
                "a second segment",
                |m| m["segments"]["1"] = m["segments"]["0"].clone(),
                "segments",
            ),
            ("no segment", |m| m["segments"] = json!({}), "segments"),
            (
                "a part of the disk",
                |m| m["segments"]["0"]["size"] = "4096".into(),
                "size of the data",
            ),
            (
                "flags",
                |m| m["segments"]["0"]["flags"] = json!(["backup-previous"]),
                "segment",
            ),
            (
                "integrity of an unknown kind",
                |m| m["segments"]["0"]["integrity"] = json!({"type": "none"}),
                "segment",
            ),
            (
                "a key slot under the null cipher",
                |m| m["keyslots"]["0"]["area"]["encryption"] = "cipher_null-ecb".into(),
                "cipher of a key slot",
            ),
            (
                "a second key slot under the null cipher",
                |m| {
                    m["keyslots"]["1"] = m["keyslots"]["0"].clone();
                    m["keyslots"]["1"]["area"]["encryption"] = "cipher_null-ecb".into();
                },
                "cipher of a key slot",
            ),
            (
                "a re-encryption under way",
                |m| m["keyslots"]["0"]["type"] = "reencrypt".into(),
                "key slot",
            ),
            (
                "requirements",
                |m| m["config"]["requirements"] = json!({"mandatory": ["online-reencrypt-v2"]}),
                "requirements",
            ),
        ];
        for (name, change, expected) in rows {
            match checked(change) {
                Err(HeaderError::Other { what, .. }) => assert_eq!(what, *expected, "{name}"),
                other => panic!("{name}: {other:?}"),
            }
        }
        for unreadable in ["", "{}", "[]", "null", "{\"segments\":{}}"] {
            assert!(
                matches!(check(unreadable.as_bytes()), Err(HeaderError::Unreadable(_))),
                "{unreadable}"
            );
        }
        assert!(
            checked(|m| {
                m.as_object_mut().map(|m| m.remove("config"));
            })
            .is_err()
        );
    }

    #[test]
    fn a_uuid_is_found_in_luks2_headers_only() {
        let mut first = vec![0u8; BINARY_HEADER];
        first[..8].copy_from_slice(MAGIC);
        first[168..204].copy_from_slice(b"4878cbe9-f3c5-4d20-82da-b2bb10ae2940");
        assert_eq!(uuid_of(&first), Some("4878cbe9-f3c5-4d20-82da-b2bb10ae2940"));
        for length in 0..208 {
            assert_eq!(uuid_of(&first[..length]), None, "{length}");
        }
        let mut luks1 = first.clone();
        luks1[7] = 1;
        assert_eq!(uuid_of(&luks1), None);
        first[168] = 0;
        assert_eq!(uuid_of(&first), None);
    }
}
