//! The manifest: what a bundle holds besides its signed parts, so that nothing can be swapped underneath a quote.

use sha2::{Digest as _, Sha256};
use touchstone_cose::cbor::{self, Value};

/// One record of the manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestEntry<'a> {
    /// The record's label.
    pub label: &'a str,
    /// Its media type.
    pub media_type: &'a str,
    /// SHA-256 of its bytes; `None` where a quoted register authenticates it.
    pub digest: Option<[u8; 32]>,
}

/// A label stands twice in a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("record {label:?} stands twice in the manifest")]
pub struct DuplicateRecord {
    /// Which one.
    pub label: String,
}

/// SHA-256 over the deterministic CBOR of `[[label, media type, digest / null], …]`, sorted by label.
///
/// # Errors
/// [`DuplicateRecord`].
pub fn manifest_digest(entries: &[ManifestEntry<'_>]) -> Result<[u8; 32], DuplicateRecord> {
    let mut sorted: Vec<&ManifestEntry<'_>> = entries.iter().collect();
    sorted.sort_by_key(|entry| entry.label);
    if let Some(pair) = sorted
        .windows(2)
        .find(|pair| matches!(pair, [a, b] if a.label == b.label))
    {
        return Err(DuplicateRecord {
            label: pair.first().map_or_else(String::new, |entry| entry.label.to_owned()),
        });
    }
    let rows = sorted.into_iter().map(|entry| {
        Value::array([
            Value::text(entry.label),
            Value::text(entry.media_type),
            entry.digest.map_or(Value::Null, Value::bytes),
        ])
    });
    Ok(Sha256::digest(cbor::encode(&Value::array(rows))).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(label: &str, digest: Option<[u8; 32]>) -> ManifestEntry<'_> {
        ManifestEntry {
            label,
            media_type: "m",
            digest,
        }
    }

    #[test]
    fn golden_digest() {
        // [["a", "m", 07…07], ["b", "m", null]] as CBOR, hashed with another tool.
        let expected = "09c7cc3f3f4f6bc86ff996a6c1cd92efb320a518aa52dda4048108bc981cd55e";
        assert_eq!(
            manifest_digest(&[entry("b", None), entry("a", Some([7; 32]))]).map(hex::encode),
            Ok(expected.to_owned())
        );
    }

    #[test]
    fn order_does_not_matter_and_contents_do() {
        let (a, b) = (entry("a", Some([1; 32])), entry("b", None));
        assert_eq!(
            manifest_digest(&[a.clone(), b.clone()]),
            manifest_digest(&[b.clone(), a.clone()])
        );
        assert_ne!(
            manifest_digest(&[a.clone(), b]),
            manifest_digest(&[a.clone(), entry("b", Some([0; 32]))])
        );
        assert_eq!(
            manifest_digest(&[a.clone(), a]),
            Err(DuplicateRecord { label: "a".into() })
        );
    }
}
