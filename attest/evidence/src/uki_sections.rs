//! The measured sections of a unified kernel image: CBOR `[[name, content], …]` in the order systemd-stub measures them.
//! Content is the section's bytes where they are few, else `{"sha256": …, "sha384": …, "sha512": …}` of them. They are
//! believed only as far as register 11 was extended with exactly these names and contents.
//!
//! Sources: UAPI.5 Unified Kernel Image; systemd-stub(7).

use std::collections::BTreeSet;

use sha2::{Digest, Sha256, Sha384, Sha512};
use touchstone_cose::cbor::{self, CborError, Limits, Value};

/// Longest name, in bytes: the name field of a PE section header (PE format, section table).
pub const MAX_NAME: usize = 8;
/// Most sections; UAPI.5 has ten that are measured.
pub const MAX_SECTIONS: usize = 16;
/// Longest content that travels whole, in bytes; of longer ones the digests do.
pub const MAX_CONTENT: usize = 8 << 10;
/// Limits of the record. A section is an array, a name, and bytes or a map of three digests.
pub const LIMITS: Limits = Limits {
    max_bytes: 64 << 10,
    max_depth: 3,
    max_items: 1 + MAX_SECTIONS * 9,
};

/// One measured section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Its name, without the NUL that is measured with it: `.cmdline`.
    pub name: String,
    /// What is in it.
    pub content: Content,
}

/// What is in a section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// The bytes, at most [`MAX_CONTENT`].
    Bytes(Vec<u8>),
    /// Digests of the bytes.
    Digests {
        /// SHA-256.
        sha256: [u8; 32],
        /// SHA-384.
        sha384: [u8; 48],
        /// SHA-512.
        sha512: [u8; 64],
    },
}

impl Section {
    /// The section `name` with this content, whole where it is small.
    #[must_use]
    pub fn of(name: &str, content: &[u8]) -> Self {
        let content = if content.len() <= MAX_CONTENT {
            Content::Bytes(content.to_vec())
        } else {
            Content::Digests {
                sha256: Sha256::digest(content).into(),
                sha384: Sha384::digest(content).into(),
                sha512: Sha512::digest(content).into(),
            }
        };
        Self {
            name: name.to_owned(),
            content,
        }
    }
}

/// Why bytes are not sections.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UkiSectionsError {
    /// Not the CBOR that is accepted.
    #[error("sections of a unified kernel image: {0}")]
    Cbor(#[from] CborError),
    /// Another shape than `[[name, content], …]`.
    #[error("sections of a unified kernel image: expected {expected}, found {found}")]
    Shape {
        /// What the format says.
        expected: &'static str,
        /// What was there.
        found: String,
    },
}

/// Encodes sections, deterministic.
#[must_use]
pub fn encode(sections: &[Section]) -> Vec<u8> {
    let section = |section: &Section| {
        let content = match &section.content {
            Content::Bytes(bytes) => Value::bytes(bytes.clone()),
            Content::Digests { sha256, sha384, sha512 } => Value::text_map([
                ("sha256", Value::bytes(*sha256)),
                ("sha384", Value::bytes(*sha384)),
                ("sha512", Value::bytes(*sha512)),
            ]),
        };
        Value::array([Value::text(section.name.as_str()), content])
    };
    cbor::encode(&Value::array(sections.iter().map(section)))
}

/// Decodes sections: at least one, each name once.
///
/// # Errors
/// [`UkiSectionsError`].
pub fn decode(bytes: &[u8]) -> Result<Vec<Section>, UkiSectionsError> {
    let list = cbor::decode(bytes, LIMITS)?;
    let items = list
        .as_array()
        .filter(|items| (1..=MAX_SECTIONS).contains(&items.len()))
        .ok_or_else(|| shape("an array of 1 to 16 sections", &list))?;
    let mut names = BTreeSet::new();
    let mut sections = Vec::with_capacity(items.len());
    for item in items {
        let Some([name, content]) = item.as_array() else {
            return Err(shape("a pair of name and content", item));
        };
        let text = name.as_text().filter(|text| is_name(text));
        let text = text.ok_or_else(|| shape("a section's name of at most 8 characters, as .cmdline", name))?;
        if !names.insert(text) {
            return Err(shape("each name once", name));
        }
        sections.push(Section {
            name: text.to_owned(),
            content: read_content(content)?,
        });
    }
    Ok(sections)
}

fn shape(expected: &'static str, found: &Value) -> UkiSectionsError {
    UkiSectionsError::Shape {
        expected,
        found: found.kind(),
    }
}

fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let rest = text.strip_prefix('.').filter(|rest| !rest.is_empty());
    text.len() <= MAX_NAME && rest.is_some_and(|rest| rest.bytes().all(plain))
}

fn read_content(value: &Value) -> Result<Content, UkiSectionsError> {
    // Nothing is measured of an empty section, so none may be listed.
    if let Some(bytes) = value.as_bytes() {
        return match bytes.len() {
            1..=MAX_CONTENT => Ok(Content::Bytes(bytes.to_vec())),
            _ => Err(shape("1 to 8192 bytes, or digests", value)),
        };
    }
    let expected = "bytes, or the digests sha256, sha384 and sha512";
    let entries = value.as_map().filter(|entries| entries.len() == 3);
    let entries = entries.ok_or_else(|| shape(expected, value))?;
    let digest = |bank: &str| {
        let mut entries = entries.iter();
        let found = entries.find(|(key, _)| key.as_text() == Some(bank));
        found.and_then(|(_, digest)| digest.as_bytes())
    };
    let digests = || {
        Some(Content::Digests {
            sha256: digest("sha256")?.try_into().ok()?,
            sha384: digest("sha384")?.try_into().ok()?,
            sha512: digest("sha512")?.try_into().ok()?,
        })
    };
    digests().ok_or_else(|| shape(expected, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<Section> {
        vec![
            Section::of(".linux", &[0x4d; MAX_CONTENT + 1]),
            Section::of(".osrel", b"ID=debian\n"),
            Section::of(".cmdline", b"quiet"),
        ]
    }

    #[test]
    fn golden_and_round_trip() {
        let sections = [Section::of(".cmdline", b"quiet")];
        assert_eq!(hex::encode(encode(&sections)), "8182682e636d646c696e65457175696574");
        assert_eq!(decode(&encode(&sections)).as_deref(), Ok(&sections[..]));
        assert_eq!(decode(&encode(&sample())), Ok(sample()));
        let full: Vec<Section> = (0..MAX_SECTIONS)
            .map(|number| Section::of(&format!(".s{number}"), &[1; MAX_CONTENT + 1]))
            .collect();
        assert_eq!(decode(&encode(&full)), Ok(full), "as many as there may be");
    }

    #[test]
    fn only_large_sections_are_digests() {
        let at_limit = Section::of(".osrel", &[7; MAX_CONTENT]);
        assert_eq!(at_limit.content, Content::Bytes(vec![7; MAX_CONTENT]));
        let Content::Digests { sha256, sha384, sha512 } = Section::of(".osrel", &[7; MAX_CONTENT + 1]).content else {
            panic!("over the limit");
        };
        assert_eq!(sha256[..], Sha256::digest([7; MAX_CONTENT + 1])[..]);
        assert_eq!(sha384[..], Sha384::digest([7; MAX_CONTENT + 1])[..]);
        assert_eq!(sha512[..], Sha512::digest([7; MAX_CONTENT + 1])[..]);
    }

    #[test]
    fn malformed_sections() {
        let pair = |name: &str, content: Value| Value::array([Value::text(name), content]);
        let bytes = || Value::bytes(*b"x");
        let digests = |lengths: [(&'static str, usize); 3]| {
            Value::text_map(lengths.map(|(bank, length)| (bank, Value::bytes(vec![0; length]))))
        };
        let good = || digests([("sha256", 32), ("sha384", 48), ("sha512", 64)]);
        let rows = [
            ("no list", Value::text_map([])),
            ("an empty list", Value::array([])),
            (
                "17 sections",
                Value::array((0..17).map(|number| pair(&format!(".s{number}"), bytes()))),
            ),
            ("no pair", Value::array([Value::text(".linux")])),
            (
                "three members",
                Value::array([Value::array([Value::text(".linux"), bytes(), bytes()])]),
            ),
            (
                "a name in bytes",
                Value::array([Value::array([Value::bytes(*b".linux"), bytes()])]),
            ),
            ("a name without its dot", Value::array([pair("linux", bytes())])),
            ("a dot alone", Value::array([pair(".", bytes())])),
            ("a name with a NUL", Value::array([pair(".linux\0", bytes())])),
            ("a name of 9 bytes", Value::array([pair(".cmdline2", bytes())])),
            (
                "a name twice",
                Value::array([pair(".linux", bytes()), pair(".linux", good())]),
            ),
            ("empty content", Value::array([pair(".linux", Value::bytes(*b""))])),
            (
                "content over the limit",
                Value::array([pair(".linux", Value::bytes(vec![0; MAX_CONTENT + 1]))]),
            ),
            ("text as content", Value::array([pair(".linux", Value::text("x"))])),
            (
                "a digest a byte short",
                Value::array([pair(
                    ".linux",
                    digests([("sha256", 31), ("sha384", 48), ("sha512", 64)]),
                )]),
            ),
            (
                "another bank",
                Value::array([pair(".linux", digests([("sha256", 32), ("sha384", 48), ("sha1", 20)]))]),
            ),
            (
                "a digest missing",
                Value::array([pair(".linux", Value::text_map([("sha256", Value::bytes([0; 32]))]))]),
            ),
        ];
        for (name, value) in rows {
            assert!(
                matches!(
                    decode(&cbor::encode(&value)),
                    Err(UkiSectionsError::Shape { .. } | UkiSectionsError::Cbor(_))
                ),
                "{name}"
            );
        }
        let list = Value::array([pair(".linux", good()), pair(".osrel", bytes())]);
        assert!(decode(&cbor::encode(&list)).is_ok(), "the unchanged record");
        let mut behind = encode(&sample());
        behind.push(0);
        assert!(decode(&behind).is_err(), "a byte behind");
    }

    #[test]
    fn truncated_anywhere_it_is_refused() {
        let bytes = encode(&sample());
        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end]).is_err(), "{end} bytes");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_accepted_has_one_encoding(at in 0usize..400, flip in 0u8..) {
            let mut bytes = encode(&sample());
            let at = at % bytes.len();
            bytes[at] ^= flip;
            if let Ok(sections) = decode(&bytes) {
                proptest::prop_assert_eq!(encode(&sections), bytes);
            }
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            if let Ok(sections) = decode(&bytes) {
                proptest::prop_assert_eq!(encode(&sections), bytes);
            }
        }
    }
}
