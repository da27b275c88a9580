//! `enforcers.toml`: the enforcers whose acknowledgements and reports of use count.
//!
//! ```toml
//! [enforcers."guard:edge-7"]       # its id: the `aud` of the proofs it takes
//! key = """-----BEGIN PUBLIC KEY----- …"""   # Ed25519
//! region = "eu-1"                  # left out: in none
//! ```
//! Only these are waited for when a revocation is closed; what others acknowledge is shown as unlisted.

use std::collections::BTreeMap;

use serde::Deserialize;
use touchstone_authorization::name::is_name as is_enforcer_id;
use touchstone_cose::key::{Algorithm, VerifyingKey};

use crate::error::{PolicyCode, PolicyError, Problem};
use crate::layout::{ENFORCERS, is_region_name};
use crate::targets::public_key::{self, Owners};

/// Most enforcers that are listed.
pub const MAX_ENFORCERS: usize = 16_384;

/// An enforcer that is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedEnforcer {
    /// The key of its acknowledgements: Ed25519.
    pub key: VerifyingKey,
    /// Where it stands.
    pub region: Option<String>,
}

/// The listed enforcers of a domain, by id.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Enforcers {
    enforcers: BTreeMap<String, ListedEnforcer>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EnforcersFile {
    enforcers: BTreeMap<String, EnforcerEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EnforcerEntry {
    key: String,
    region: Option<String>,
}

impl Enforcers {
    /// Reads and checks `enforcers.toml`.
    ///
    /// # Errors
    /// [`PolicyError`] `policy-enforcers-unreadable` with every problem.
    pub fn parse(bytes: &[u8]) -> Result<Self, PolicyError> {
        let unreadable =
            |found: String| PolicyError::new(PolicyCode::EnforcersUnreadable, ENFORCERS, "enforcers", found);
        let text = std::str::from_utf8(bytes).map_err(|e| unreadable(e.to_string()))?;
        let file: EnforcersFile = toml::from_str(text).map_err(|e| unreadable(e.to_string()))?;
        if file.enforcers.is_empty() || file.enforcers.len() > MAX_ENFORCERS {
            return Err(unreadable(format!("{} enforcers", file.enforcers.len())));
        }
        let mut problems = Vec::new();
        let mut enforcers = BTreeMap::new();
        for (id, entry) in file.enforcers {
            let mut problem = |key: &str, expected: &str, found: &str| {
                let claim = format!("{ENFORCERS}: enforcers.{id}{key}");
                problems.push(Problem::new(PolicyCode::EnforcersUnreadable, claim, expected, found));
            };
            if !is_enforcer_id(&id) {
                problem("", "the id of an enforcer", &id);
            }
            if let Some(region) = entry.region.as_deref().filter(|region| !is_region_name(region)) {
                problem(".region", "the name of a region", region);
            }
            match public_key::read(&entry.key, &[Algorithm::Ed25519]) {
                Ok(key) => {
                    let region = entry.region;
                    enforcers.insert(id, ListedEnforcer { key, region });
                }
                Err(found) => problem(".key", "a public key, Ed25519", &found),
            }
        }
        PolicyError::unless_empty(problems)?;
        Ok(Self { enforcers })
    }

    /// The enforcer of this id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&ListedEnforcer> {
        self.enforcers.get(id)
    }

    /// Whether none is listed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.enforcers.is_empty()
    }

    /// How many are listed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.enforcers.len()
    }

    /// Every enforcer, by id.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &ListedEnforcer)> {
        self.enforcers.iter().map(|(id, enforcer)| (id.as_str(), enforcer))
    }

    pub(crate) fn own(&self, owners: &mut Owners, problems: &mut Vec<Problem>) {
        for (id, enforcer) in self.iter() {
            owners.add(&enforcer.key, format!("{ENFORCERS}: enforcers.{id}"), problems);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use touchstone_cose::key::SigningKey;

    #[test]
    fn enforcers_by_their_id() {
        let key = SigningKey::from_seed([1; 32]).verifying_key();
        let good = format!(
            "[enforcers.\"guard:edge-7\"]\nkey = \"{}\"\nregion = \"eu-1\"\n",
            hex::encode(key.to_spki_der())
        );
        let enforcers = Enforcers::parse(good.as_bytes()).unwrap();
        let listed = enforcers.get("guard:edge-7").unwrap();
        assert_eq!((&listed.key, listed.region.as_deref()), (&key, Some("eu-1")));
        assert_eq!((enforcers.get("guard:edge-8"), enforcers.len()), (None, 1));
        let p256 = r#"'{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}'"#;
        for text in [
            String::new(),
            "[enforcers]\n".into(),
            good.replace("guard:edge-7", "*"),
            good.replace("guard:edge-7", "a b"),
            good.replace("guard:edge-7", ""),
            good.replace("eu-1", "*"),
            good.replace("302a", "302b"),
            good.replace("region", "zone"),
            format!("[enforcers.a]\nkey = {p256}\n"),
        ] {
            let refused = Enforcers::parse(text.as_bytes()).map_err(|e| e.code());
            assert_eq!(refused, Err(PolicyCode::EnforcersUnreadable), "{text}");
        }
    }
}
