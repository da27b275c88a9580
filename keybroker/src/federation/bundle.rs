//! What one domain shows another at one moment: its repository as it was signed, its trust state, its ledger's
//! checkpoint. Pushed by the side that can open connections, or carried by hand.
//!
//! CBOR map {0: "touchstone-federation-bundle/1", 1: domain, 2: [[file name, bytes] …], 3: a whole trust-state frame,
//! 4: checkpoint (C2SP tlog-checkpoint, text) or null}. It is not signed itself: everything in it is.

use touchstone_authorization::trust_frame::MAX_FRAME_BYTES;
use touchstone_cose::cbor::{self, Limits, MapReader, ShapeError, Value};
use touchstone_policies::RepositoryCopy;
use touchstone_policies::foreign::{MAX_COPY_BYTES, MAX_COPY_FILES};

/// Its format.
pub const FORMAT: &str = "touchstone-federation-bundle/1";
/// Largest bundle, in bytes.
pub const MAX_BUNDLE_BYTES: usize = MAX_COPY_BYTES + MAX_FRAME_BYTES + 256 * 1024;

const CONTEXT: &str = "federation bundle";
const MAX_NAME: usize = 64;
const MAX_CHECKPOINT: usize = 8 * 1024;
const LIMITS: Limits = Limits {
    max_bytes: MAX_BUNDLE_BYTES,
    max_depth: 5,
    max_items: 4 * MAX_COPY_FILES + 64,
};

/// A bundle. Nothing in it is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// Whose it is.
    pub domain: String,
    /// Its repository.
    pub copy: RepositoryCopy,
    /// Its trust state, whole.
    pub frame: Vec<u8>,
    /// Its ledger's signed head.
    pub checkpoint: Option<String>,
}

impl Bundle {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        cbor::encode(&Value::map([
            (0, Value::text(FORMAT)),
            (1, Value::text(self.domain.as_str())),
            (2, self.copy.value()),
            (3, Value::bytes(self.frame.as_slice())),
            (4, self.checkpoint.as_deref().map_or(Value::Null, Value::text)),
        ]))
    }

    /// Reads a bundle.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let value = cbor::decode(bytes, LIMITS).map_err(|e| e.to_string())?;
        let read = |value| -> Result<Self, ShapeError> {
            let mut reader = MapReader::new(value, CONTEXT)?;
            let format = reader.text(0, MAX_NAME)?;
            if format != FORMAT {
                return Err(ShapeError::member(CONTEXT, "key 0", FORMAT, format));
            }
            let domain = reader.text(1, MAX_NAME)?;
            let copy = RepositoryCopy::from_value(reader.required(2)?)
                .map_err(|e| ShapeError::member(CONTEXT, "key 2", "a repository", e.to_string()))?;
            let frame = reader.bytes(3)?;
            let checkpoint = match reader.required(4)? {
                Value::Null => None,
                Value::Text(text) if text.len() <= MAX_CHECKPOINT => Some(text),
                other => {
                    return Err(ShapeError::member(
                        CONTEXT,
                        "key 4",
                        "a checkpoint or null",
                        other.kind(),
                    ));
                }
            };
            reader.finish()?;
            Ok(Self {
                domain,
                copy,
                frame,
                checkpoint,
            })
        };
        read(value).map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundles_come_back_as_written_and_no_shorter() {
        let file = Value::array([Value::text("metadata/timestamp.json"), Value::bytes(*b"{}")]);
        let copy = RepositoryCopy::from_value(Value::array([file])).unwrap();
        for checkpoint in [None, Some("b.example/ledger\n1\n".to_owned())] {
            let bundle = Bundle {
                domain: "b.example".into(),
                copy: copy.clone(),
                frame: vec![7; 40],
                checkpoint,
            };
            let bytes = bundle.encode();
            assert_eq!(Bundle::decode(&bytes), Ok(bundle));
            for end in 0..bytes.len() {
                assert!(Bundle::decode(&bytes[..end]).is_err(), "cut at {end}");
            }
        }
        assert!(Bundle::decode(b"\xa0").is_err());
    }
}
