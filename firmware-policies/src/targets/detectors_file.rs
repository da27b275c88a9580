//! `detectors.toml`: who may report security events about nodes, and how far such a report reaches.
//!
//! ```toml
//! [detectors.runtime-monitor]
//! issuer = "https://monitor.example/"       # `iss` of its Security Event Tokens (RFC 8417, section 2.2)
//! audience = "https://broker.example/v1/events"   # `aud`
//! keys = ["{\"kty\": \"OKP\", …}"]          # JWK or PEM, EdDSA or ES256; the next one beside the one in force
//! reach = "quarantine"                      # or "revoke"
//! regions = ["eu-1"]                        # a subject must be in every list that is given: nodes, roles, regions
//! most_per_minute = 60
//! ```
//! At least one list says about whom it may report; an empty list never means any.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use touchstone_cose::key::{Algorithm, VerifyingKey};
use touchstone_verifier::inventory::Node;

use crate::error::{PolicyCode, PolicyError, Problem};
use crate::layout::{DETECTORS, is_name, is_region_name};
use crate::targets::node_name::is_node_name;
use crate::targets::public_key::{self, Owners};

/// Most detectors of a domain.
pub const MAX_DETECTORS: usize = 64;
/// Most keys of one detector.
pub const MAX_DETECTOR_KEYS: usize = 4;
/// Most names in one list of subjects.
pub const MAX_SUBJECTS: usize = 4096;
/// Most reports a minute that a policy may allow one detector.
pub const MAX_EVENTS_PER_MINUTE: u32 = 6_000;
/// Longest issuer or audience, in bytes.
pub const MAX_ISSUER: usize = 256;

/// What follows from a report at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DetectorReach {
    /// The rights of the subject are suspended until somebody lifts that.
    #[default]
    Quarantine,
    /// They are withdrawn.
    Revoke,
}

impl DetectorReach {
    /// As it stands in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Quarantine => "quarantine",
            Self::Revoke => "revoke",
        }
    }
}

/// Who reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detector {
    /// `iss` of its tokens; no two detectors have the same.
    pub issuer: String,
    /// `aud` of its tokens.
    pub audience: String,
    /// Its keys: Ed25519 or P-256.
    pub keys: Vec<VerifyingKey>,
    /// What follows at most.
    pub reach: DetectorReach,
    /// The nodes it may report, where a list is given.
    pub nodes: Option<BTreeSet<String>>,
    /// The roles, one of which such a node has.
    pub roles: Option<BTreeSet<String>>,
    /// The regions.
    pub regions: Option<BTreeSet<String>>,
    /// Most reports a minute that count.
    pub most_per_minute: u32,
}

impl Detector {
    /// Whether it may report this node.
    #[must_use]
    pub fn covers(&self, node: &Node) -> bool {
        let listed = |list: &Option<BTreeSet<String>>, name: &str| list.as_ref().is_none_or(|list| list.contains(name));
        listed(&self.nodes, &node.name)
            && listed(&self.regions, &node.region)
            && self
                .roles
                .as_ref()
                .is_none_or(|roles| node.roles.iter().any(|role| roles.contains(role)))
    }
}

/// The detectors of a domain, by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Detectors {
    detectors: BTreeMap<String, Detector>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DetectorsFile {
    detectors: BTreeMap<String, DetectorEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DetectorEntry {
    issuer: String,
    audience: String,
    keys: Vec<String>,
    #[serde(default)]
    reach: DetectorReach,
    nodes: Option<Vec<String>>,
    roles: Option<Vec<String>>,
    regions: Option<Vec<String>>,
    most_per_minute: u32,
}

impl Detectors {
    /// Reads and checks `detectors.toml`.
    ///
    /// # Errors
    /// [`PolicyError`] `policy-detectors-unreadable` with every problem.
    pub fn parse(bytes: &[u8]) -> Result<Self, PolicyError> {
        let unreadable =
            |found: String| PolicyError::new(PolicyCode::DetectorsUnreadable, DETECTORS, "detectors", found);
        let text = std::str::from_utf8(bytes).map_err(|e| unreadable(e.to_string()))?;
        let file: DetectorsFile = toml::from_str(text).map_err(|e| unreadable(e.to_string()))?;
        if file.detectors.is_empty() || file.detectors.len() > MAX_DETECTORS {
            return Err(unreadable(format!("{} detectors", file.detectors.len())));
        }
        let mut problems = Vec::new();
        let mut detectors: BTreeMap<String, Detector> = BTreeMap::new();
        for (name, entry) in file.detectors {
            let mut problem = |key: &str, expected: &str, found: &str| {
                let claim = format!("{DETECTORS}: detectors.{name}{key}");
                problems.push(Problem::new(PolicyCode::DetectorsUnreadable, claim, expected, found));
            };
            if !is_name(&name) {
                problem("", "a name", &name);
            }
            for (key, text) in [(".issuer", &entry.issuer), (".audience", &entry.audience)] {
                if !is_issuer(text) {
                    problem(key, "1 to 256 printable characters without blank", text);
                }
            }
            if detectors.values().any(|other| other.issuer == entry.issuer) {
                problem(".issuer", "an issuer that no other detector has", &entry.issuer);
            }
            let mut keys = Vec::new();
            for text in entry.keys.iter().take(MAX_DETECTOR_KEYS) {
                match public_key::read(text, &[Algorithm::Ed25519, Algorithm::Esp256]) {
                    Ok(key) => keys.push(key),
                    Err(found) => problem(".keys", "public keys, Ed25519 or P-256", &found),
                }
            }
            if !(1..=MAX_DETECTOR_KEYS).contains(&entry.keys.len()) {
                problem(".keys", "1 to 4 public keys", &entry.keys.len().to_string());
            }
            if entry.nodes.is_none() && entry.roles.is_none() && entry.regions.is_none() {
                problem("", "about whom: nodes, roles or regions", "nobody");
            }
            if !(1..=MAX_EVENTS_PER_MINUTE).contains(&entry.most_per_minute) {
                let expected = format!("1 to {MAX_EVENTS_PER_MINUTE}");
                problem(".most_per_minute", &expected, &entry.most_per_minute.to_string());
            }
            let mut names = |key: &str, texts: Option<Vec<String>>, good: fn(&str) -> bool| {
                texts.map(|texts| {
                    let names: BTreeSet<String> = texts.iter().cloned().collect();
                    let listed = (1..=MAX_SUBJECTS).contains(&texts.len()) && names.len() == texts.len();
                    if !listed || !names.iter().all(|name| good(name)) {
                        problem(key, "names, each once", &texts.join(", "));
                    }
                    names
                })
            };
            let detector = Detector {
                nodes: names(".nodes", entry.nodes, is_node_name),
                roles: names(".roles", entry.roles, is_name),
                regions: names(".regions", entry.regions, is_region_name),
                issuer: entry.issuer,
                audience: entry.audience,
                keys,
                reach: entry.reach,
                most_per_minute: entry.most_per_minute,
            };
            detectors.insert(name, detector);
        }
        PolicyError::unless_empty(problems)?;
        Ok(Self { detectors })
    }

    /// The detector of this issuer, with its name.
    #[must_use]
    pub fn by_issuer(&self, issuer: &str) -> Option<(&str, &Detector)> {
        self.iter().find(|(_, detector)| detector.issuer == issuer)
    }

    /// Whether there are none: then nobody reports anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.detectors.is_empty()
    }

    /// Every detector, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Detector)> {
        self.detectors.iter().map(|(name, detector)| (name.as_str(), detector))
    }

    pub(crate) fn own(&self, owners: &mut Owners, problems: &mut Vec<Problem>) {
        for (name, detector) in self.iter() {
            for key in &detector.keys {
                owners.add(key, format!("{DETECTORS}: detectors.{name}"), problems);
            }
        }
    }
}

/// Whether this may be an issuer or an audience: printable, and without anything that a terminal or a log would interpret.
fn is_issuer(text: &str) -> bool {
    (1..=MAX_ISSUER).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() && b != b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use touchstone_cose::key::SigningKey;

    fn detector(more: &str) -> String {
        let key = hex::encode(SigningKey::from_seed([1; 32]).verifying_key().to_spki_der());
        format!(
            "[detectors.monitor]\nissuer = \"https://m.example/\"\naudience = \"https://b.example/v1/events\"\n\
             keys = [\"{key}\"]\nmost_per_minute = 60\n{more}\n"
        )
    }

    #[test]
    fn about_whom_a_detector_reports() {
        let node = |name: &str, region: &str, roles: &[&str]| Node {
            name: name.into(),
            region: region.into(),
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            ..Node::default()
        };
        let (web, db) = (node("web-1", "north", &["web"]), node("db-1", "south", &["db", "web"]));
        for (lists, of_web, of_db) in [
            ("nodes = [\"web-1\"]", true, false),
            ("regions = [\"south\"]", false, true),
            ("roles = [\"web\"]", true, true),
            ("roles = [\"db\"]\nregions = [\"north\", \"south\"]", false, true),
            ("roles = [\"db\"]\nregions = [\"north\"]", false, false),
            ("nodes = [\"web-1\"]\nregions = [\"south\"]", false, false),
        ] {
            let detectors = Detectors::parse(detector(lists).as_bytes()).unwrap();
            let (name, detector) = detectors.by_issuer("https://m.example/").unwrap();
            assert_eq!((name, detector.reach), ("monitor", DetectorReach::Quarantine));
            assert_eq!(
                (detector.covers(&web), detector.covers(&db)),
                (of_web, of_db),
                "{lists}"
            );
            assert_eq!(detectors.by_issuer("https://m.example"), None);
        }
    }

    #[test]
    fn files_that_are_none() {
        let good = detector("regions = [\"a\"]\nreach = \"revoke\"");
        assert!(Detectors::parse(good.as_bytes()).is_ok());
        for text in [
            String::new(),
            "[detectors]\n".into(),
            detector(""),
            detector("regions = []"),
            detector("regions = [\"*\"]"),
            detector("nodes = [\"A b\"]"),
            detector("roles = [\"a\", \"a\"]"),
            detector("regions = [\"a\"]\nreach = \"cluster\""),
            detector("regions = [\"a\"]\nalg = \"none\""),
            good.replace("most_per_minute = 60", "most_per_minute = 0"),
            good.replace("most_per_minute = 60", "most_per_minute = 6001"),
            good.replace("most_per_minute = 60\n", ""),
            good.replace("https://m.example/", ""),
            good.replace("https://m.example/", "a b"),
            good.replace("https://m.example/", "*"),
            good.replace("302a", "302b"),
            good.replace("keys = [", "keys = []\nother = ["),
            format!("{good}{}", good.replace("detectors.monitor", "detectors.other")),
        ] {
            let refused = Detectors::parse(text.as_bytes()).map_err(|e| e.code());
            assert_eq!(refused, Err(PolicyCode::DetectorsUnreadable), "{text}");
        }
    }
}
