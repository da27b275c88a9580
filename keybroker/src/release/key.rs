//! A key: who may have it, and its versions. One row of the store.
//!
//! The settings of a key are bound to each sealed secret ([`KeyEntry::context`]): a row whose region, life or name was
//! edited, or which was copied over another's, does not open.

use touchstone_authorization::{Action, Scope};
use touchstone_cose::cbor::{self, CborError, Limits, MapReader, ShapeError, Value};
use touchstone_policies::layout::is_name;

use super::{MAX_KEY_REGIONS, MAX_LIFE_SECONDS, MAX_SECRET_BYTES, MAX_VERSIONS};

/// The format of rows this release writes.
const FORMAT: u64 = 1;
const CONTEXT: &str = "key";
const MAX_TEXT: usize = 128;
const LIMITS: Limits = Limits {
    max_bytes: 1024 * 1024,
    max_depth: 5,
    max_items: 512,
};

/// Most bytes kept of one version: a sealed secret with what is around it.
pub const MAX_KEPT_BYTES: usize = MAX_SECRET_BYTES + 1024;

/// Separates the context of sealed secrets from everything else that is authenticated with them.
const DOMAIN: &str = "touchstone-key/1";

/// What an operator says of a key when it is put. It holds for all of its versions, for ever: another rule is another key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySettings {
    /// Its name, `[a-z0-9][a-z0-9._/-]{0,63}`.
    pub name: String,
    /// The resource that an authorization must name with the action `release`.
    pub resource: String,
    /// The regions it may go to, sorted, each once; empty where it is not marked for any.
    pub regions: Vec<String>,
    /// For how many seconds after it was made a version is released.
    pub life: Option<u64>,
    /// Whether each version is released once only.
    pub one_time: bool,
}

/// One version of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyVersion {
    /// Counts from 1.
    pub number: u64,
    /// When it was made, Unix seconds.
    pub created: i64,
    /// What its source keeps of it; nothing once it was spent.
    pub kept: Option<Vec<u8>>,
}

/// A key, as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyEntry {
    /// What the operator said.
    pub settings: KeySettings,
    /// Which source has the secrets.
    pub source: String,
    /// Oldest first; never empty.
    pub versions: Vec<KeyVersion>,
    /// Versions up to this one are released no more: an operator revoked the key. 0 where none was.
    pub withheld: u64,
}

/// Why settings or a row are not those of a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not the CBOR this release writes.
    #[error("a stored key: {0}")]
    Cbor(#[from] CborError),
    /// Another shape.
    #[error("a stored key: {0}")]
    Shape(#[from] ShapeError),
    /// A setting that cannot be.
    #[error("{what}: expected {expected}, found {found}")]
    Setting {
        /// Which.
        what: &'static str,
        /// What would do.
        expected: String,
        /// What is there.
        found: String,
    },
}

impl KeySettings {
    /// Checks them, and puts the regions in order.
    ///
    /// # Errors
    /// [`KeyError::Setting`] with the first that cannot be.
    pub fn checked(mut self) -> Result<Self, KeyError> {
        let wrong = |what, expected: &str, found: &str| {
            Err(KeyError::Setting {
                what,
                expected: expected.to_owned(),
                found: found.escape_debug().to_string(),
            })
        };
        let grammar = "[a-z0-9][a-z0-9._/-]{0,63}";
        for (what, text) in [("name", &self.name), ("resource", &self.resource)] {
            if Scope::new(Action::Release, text).is_err() {
                return wrong(what, grammar, text);
            }
        }
        if let Some(region) = self.regions.iter().find(|region| !is_name(region)) {
            return wrong("region", "the name of a region", region);
        }
        self.regions.sort();
        self.regions.dedup();
        if self.regions.len() > MAX_KEY_REGIONS {
            return wrong("regions", "at most 32", &self.regions.len().to_string());
        }
        match self.life {
            Some(life) if life == 0 || life > MAX_LIFE_SECONDS => {
                wrong("life", "1 second to ten years", &life.to_string())
            }
            _ => Ok(self),
        }
    }
}

impl KeyEntry {
    /// The newest version.
    #[must_use]
    pub fn current(&self) -> Option<&KeyVersion> {
        self.versions.last()
    }

    /// The version with this number; without one, the newest.
    #[must_use]
    pub fn version(&self, number: Option<u64>) -> Option<&KeyVersion> {
        match number {
            None => self.current(),
            Some(number) => self.versions.iter().find(|version| version.number == number),
        }
    }

    /// The key, with nothing of its secrets: of what is kept of a version only that it is there.
    #[must_use]
    pub fn without_secrets(&self) -> Self {
        let versions = self.versions.iter().map(|version| KeyVersion {
            kept: version.kept.as_ref().map(|_| Vec::new()),
            ..*version
        });
        Self {
            settings: self.settings.clone(),
            source: self.source.clone(),
            versions: versions.collect(),
            withheld: self.withheld,
        }
    }

    /// When a version is no longer released, Unix seconds.
    #[must_use]
    pub fn ends(&self, version: &KeyVersion) -> Option<i64> {
        let life = i64::try_from(self.settings.life?).unwrap_or(i64::MAX);
        Some(version.created.saturating_add(life))
    }

    /// Everything that must not be changed around a sealed secret: CBOR, authenticated with it.
    #[must_use]
    pub fn context(settings: &KeySettings, number: u64, created: i64) -> Vec<u8> {
        cbor::encode(&Value::array([
            Value::text(DOMAIN),
            Value::text(settings.name.as_str()),
            Value::Unsigned(number),
            Value::int(created),
            Value::text(settings.resource.as_str()),
            regions(settings),
            settings.life.map_or(Value::Null, Value::Unsigned),
            Value::Bool(settings.one_time),
        ]))
    }

    /// Adds a version; the oldest goes where there are too many. Gives what went: once the row without it is durable, its
    /// source is to forget it.
    #[must_use = "what went lies in its source until it is forgotten"]
    pub fn push(&mut self, version: KeyVersion) -> Vec<KeyVersion> {
        self.versions.push(version);
        let too_many = self.versions.len().saturating_sub(MAX_VERSIONS);
        self.versions.drain(..too_many).collect()
    }

    /// The row's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let versions = self.versions.iter().map(|version| {
            Value::array([
                Value::Unsigned(version.number),
                Value::int(version.created),
                version.kept.as_deref().map_or(Value::Null, Value::bytes),
            ])
        });
        // Where nothing is withheld, the row is what it was before there was that.
        let withheld = (self.withheld > 0).then_some((8, Value::Unsigned(self.withheld)));
        let members = [
            (0, Value::Unsigned(FORMAT)),
            (1, Value::text(self.settings.name.as_str())),
            (2, Value::text(self.settings.resource.as_str())),
            (3, regions(&self.settings)),
            (4, self.settings.life.map_or(Value::Null, Value::Unsigned)),
            (5, Value::Bool(self.settings.one_time)),
            (6, Value::text(self.source.as_str())),
            (7, Value::array(versions)),
        ];
        cbor::encode(&Value::map(members.into_iter().chain(withheld)))
    }

    /// Reads a row.
    ///
    /// # Errors
    /// [`KeyError`]: such a key is released to nobody.
    pub fn decode(bytes: &[u8]) -> Result<Self, KeyError> {
        let mut reader = MapReader::new(cbor::decode(bytes, LIMITS)?, CONTEXT)?;
        let format = reader.u64(0)?;
        if format != FORMAT {
            return Err(KeyError::Setting {
                what: "format",
                expected: FORMAT.to_string(),
                found: format.to_string(),
            });
        }
        let text = |value: &Value| value.as_text().map(ToOwned::to_owned);
        let malformed = |key: &str, expected: &str| ShapeError::member(CONTEXT, key, expected, "something else");
        let settings = KeySettings {
            name: reader.text(1, MAX_TEXT)?,
            resource: reader.text(2, MAX_TEXT)?,
            regions: reader
                .array(3)?
                .iter()
                .map(text)
                .collect::<Option<_>>()
                .ok_or_else(|| malformed("key 3", "texts"))?,
            life: match reader.required(4)? {
                Value::Null => None,
                Value::Unsigned(life) => Some(life),
                _ => return Err(malformed("key 4", "a number or null").into()),
            },
            one_time: reader.bool(5)?,
        };
        let source = reader.text(6, MAX_TEXT)?;
        let versions = reader.array(7)?;
        let withheld = match reader.optional(8) {
            None => 0,
            Some(value) => value
                .as_u64()
                .filter(|number| *number > 0)
                .ok_or_else(|| malformed("key 8", "the number of a version"))?,
        };
        reader.finish()?;
        let versions = versions
            .iter()
            .map(version)
            .collect::<Option<Vec<_>>>()
            .filter(|versions| !versions.is_empty() && versions.len() <= MAX_VERSIONS)
            .ok_or_else(|| malformed("key 7", "1 to 16 versions"))?;
        Ok(Self {
            settings: settings.checked()?,
            source,
            versions,
            withheld,
        })
    }
}

fn regions(settings: &KeySettings) -> Value {
    Value::array(settings.regions.iter().map(|region| Value::text(region.as_str())))
}

fn version(value: &Value) -> Option<KeyVersion> {
    let [number, created, kept] = value.as_array()? else {
        return None;
    };
    let kept = match kept {
        Value::Null => None,
        Value::Bytes(kept) if kept.len() <= MAX_KEPT_BYTES => Some(kept.clone()),
        _ => return None,
    };
    Some(KeyVersion {
        number: number.as_u64()?,
        created: created.as_i64()?,
        kept,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn settings() -> KeySettings {
        KeySettings {
            name: "db/main".into(),
            resource: "keys".into(),
            regions: vec!["north".into()],
            life: Some(60),
            one_time: false,
        }
    }

    fn entry() -> KeyEntry {
        KeyEntry {
            settings: settings(),
            source: "store".into(),
            versions: vec![KeyVersion {
                number: 1,
                created: 100,
                kept: Some(vec![1, 2, 3]),
            }],
            withheld: 0,
        }
    }

    #[test]
    fn a_row_is_read_as_it_was_written() {
        let mut entry = entry();
        assert_eq!(KeyEntry::decode(&entry.encode()).unwrap(), entry);
        entry.versions[0].kept = None;
        entry.settings.life = None;
        entry.settings.one_time = true;
        entry.withheld = 1;
        assert_eq!(KeyEntry::decode(&entry.encode()).unwrap(), entry);
        let bytes = entry.encode();
        for end in 0..bytes.len() {
            assert!(KeyEntry::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn settings_that_cannot_be() {
        type Change = fn(&mut KeySettings);
        let rows: [(&str, Change); 7] = [
            ("an empty name", |s| s.name.clear()),
            ("a name in capitals", |s| s.name = "DB".into()),
            ("a wildcard resource", |s| s.resource = "*".into()),
            ("a region with a space", |s| s.regions.push("the north".into())),
            ("no life", |s| s.life = Some(0)),
            ("a life without end", |s| s.life = Some(u64::MAX)),
            ("too many regions", |s| {
                s.regions = (0..33).map(|n| format!("r{n}")).collect()
            }),
        ];
        for (name, change) in rows {
            let mut settings = settings();
            change(&mut settings);
            assert!(settings.checked().is_err(), "{name}");
        }
    }

    #[test]
    fn every_setting_is_in_the_context() {
        let context = |change: fn(&mut KeySettings)| {
            let mut settings = settings();
            change(&mut settings);
            KeyEntry::context(&settings, 1, 100)
        };
        let all = [
            context(|_| {}),
            context(|s| s.name = "db/other".into()),
            context(|s| s.resource = "other".into()),
            context(|s| s.regions = vec![]),
            context(|s| s.regions.push("south".into())),
            context(|s| s.life = None),
            context(|s| s.one_time = true),
            KeyEntry::context(&settings(), 2, 100),
            KeyEntry::context(&settings(), 1, 101),
        ];
        let different: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len());
    }

    #[test]
    fn the_oldest_version_makes_room() {
        let mut entry = entry();
        let mut gone = Vec::new();
        for number in 2..=20 {
            let dropped = entry.push(KeyVersion {
                number,
                created: 100,
                kept: None,
            });
            gone.extend(dropped.into_iter().map(|version| version.number));
        }
        assert_eq!(gone, [1, 2, 3, 4], "and is handed back, each once");
        assert_eq!(entry.versions.len(), MAX_VERSIONS);
        assert_eq!(entry.version(Some(4)), None);
        assert_eq!(entry.version(Some(5)).map(|v| v.number), Some(5));
        assert_eq!(entry.version(None).map(|v| v.number), Some(20));
    }

    proptest! {
        #[test]
        fn hostile_rows_never_panic(bytes: Vec<u8>) {
            prop_assert!(KeyEntry::decode(&bytes).is_err());
        }
    }
}
