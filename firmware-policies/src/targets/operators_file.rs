//! `operators.toml`: people who command, by their keys.
//!
//! ```toml
//! [operators.alice]
//! key = """
//! -----BEGIN PUBLIC KEY-----
//! MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=
//! -----END PUBLIC KEY-----
//! """
//! may = ["revoke", "quarantine", "lift"]
//! regions = ["eu-1"]        # left out: in every region, and for what has none
//! ```
//! Where the file lists anybody a command without a signature is refused, also one from the machine itself. Without the
//! file whoever may open the administrative socket commands. The Cedar policies are asked besides.
//! Source: `docs/protocol.md`, section 12.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use touchstone_cose::key::{Algorithm, KID_LEN, VerifyingKey};

use crate::error::{PolicyCode, PolicyError, Problem};
use crate::layout::{OPERATORS, is_name, is_region_name};
use crate::targets::public_key::{self, Owners};

/// Most operators of a domain.
pub const MAX_OPERATORS: usize = 256;
/// Most regions of one of them.
pub const MAX_OPERATOR_REGIONS: usize = 256;

/// What an operator may command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Power {
    /// Withdraw rights for good.
    Revoke,
    /// Suspend rights.
    Quarantine,
    /// Lift a suspension.
    Lift,
    /// Suspend a whole zone, region or domain.
    Contain,
    /// Take a machine out of service.
    Decommission,
}

impl Power {
    /// Every one.
    pub const ALL: [Power; 5] = [
        Power::Revoke,
        Power::Quarantine,
        Power::Lift,
        Power::Contain,
        Power::Decommission,
    ];

    /// As it stands in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Power::Revoke => "revoke",
            Power::Quarantine => "quarantine",
            Power::Lift => "lift",
            Power::Contain => "contain",
            Power::Decommission => "decommission",
        }
    }

    /// The one that is called so.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|power| power.as_str() == text)
    }
}

impl fmt::Display for Power {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// The key that signs the commands: Ed25519 or P-256.
    pub key: VerifyingKey,
    /// What may be commanded; at least one thing.
    pub may: BTreeSet<Power>,
    /// Where; nothing: everywhere.
    pub regions: Option<BTreeSet<String>>,
}

impl Operator {
    /// Whether this may be commanded there. What concerns no region (`None`: a zone of several, the whole domain, a
    /// reference) is for those alone who may command everywhere.
    #[must_use]
    pub fn may(&self, power: Power, region: Option<&str>) -> bool {
        self.may.contains(&power)
            && match (&self.regions, region) {
                (None, _) => true,
                (Some(regions), Some(region)) => regions.contains(region),
                (Some(_), None) => false,
            }
    }
}

/// The operators of a domain, by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Operators {
    operators: BTreeMap<String, Operator>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OperatorsFile {
    operators: BTreeMap<String, OperatorEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OperatorEntry {
    key: String,
    may: Vec<Power>,
    regions: Option<Vec<String>>,
}

impl Operators {
    /// Reads and checks `operators.toml`.
    ///
    /// # Errors
    /// [`PolicyError`] `policy-operators-unreadable` with every problem.
    pub fn parse(bytes: &[u8]) -> Result<Self, PolicyError> {
        let unreadable =
            |found: String| PolicyError::new(PolicyCode::OperatorsUnreadable, OPERATORS, "operators", found);
        let text = std::str::from_utf8(bytes).map_err(|e| unreadable(e.to_string()))?;
        let file: OperatorsFile = toml::from_str(text).map_err(|e| unreadable(e.to_string()))?;
        if file.operators.is_empty() || file.operators.len() > MAX_OPERATORS {
            return Err(unreadable(format!("{} operators", file.operators.len())));
        }
        let mut problems = Vec::new();
        let mut operators = BTreeMap::new();
        for (name, entry) in file.operators {
            let mut problem = |key: &str, expected: &str, found: &str| {
                let claim = format!("{OPERATORS}: operators.{name}{key}");
                problems.push(Problem::new(PolicyCode::OperatorsUnreadable, claim, expected, found));
            };
            if !is_name(&name) {
                problem("", "a name", &name);
            }
            let key = public_key::read(&entry.key, &[Algorithm::Ed25519, Algorithm::Esp256])
                .map_err(|found| problem(".key", "a public key, Ed25519 or P-256", &found));
            let may: BTreeSet<Power> = entry.may.iter().copied().collect();
            if may.is_empty() || may.len() != entry.may.len() {
                problem(".may", "at least one thing, each once", &format!("{:?}", entry.may));
            }
            let regions = entry.regions.map(|texts| {
                let regions: BTreeSet<String> = texts.iter().cloned().collect();
                let listed = (1..=MAX_OPERATOR_REGIONS).contains(&texts.len()) && regions.len() == texts.len();
                if !listed || !regions.iter().all(|region| is_region_name(region)) {
                    problem(".regions", "names of regions, each once", &texts.join(", "));
                }
                regions
            });
            if let Ok(key) = key {
                operators.insert(name, Operator { key, may, regions });
            }
        }
        PolicyError::unless_empty(problems)?;
        Ok(Self { operators })
    }

    /// Whether there are none: then commands need no signature.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.operators.is_empty()
    }

    /// The operator of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Operator> {
        self.operators.get(name)
    }

    /// The operator whose key has this id.
    #[must_use]
    pub fn by_kid(&self, kid: &[u8; KID_LEN]) -> Option<(&str, &Operator)> {
        self.iter().find(|(_, operator)| operator.key.kid() == *kid)
    }

    /// Every operator, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Operator)> {
        self.operators.iter().map(|(name, operator)| (name.as_str(), operator))
    }

    pub(crate) fn own(&self, owners: &mut Owners, problems: &mut Vec<Problem>) {
        for (name, operator) in self.iter() {
            owners.add(&operator.key, format!("{OPERATORS}: operators.{name}"), problems);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use touchstone_cose::key::SigningKey;

    fn key(seed: u8) -> String {
        hex::encode(SigningKey::from_seed([seed; 32]).verifying_key().to_spki_der())
    }

    #[test]
    fn who_may_command_what_where() {
        let text = format!(
            "[operators.alice]\nkey = \"{}\"\nmay = [\"revoke\", \"lift\"]\n\
             [operators.bob]\nkey = \"{}\"\nmay = [\"quarantine\", \"contain\"]\nregions = [\"eu-1\"]\n",
            key(1),
            key(2)
        );
        let operators = Operators::parse(text.as_bytes()).unwrap();
        for (name, power, region, may) in [
            ("alice", Power::Revoke, Some("eu-1"), true),
            ("alice", Power::Revoke, None, true),
            ("alice", Power::Quarantine, Some("eu-1"), false),
            ("alice", Power::Contain, None, false),
            ("bob", Power::Quarantine, Some("eu-1"), true),
            ("bob", Power::Quarantine, Some("eu-2"), false),
            ("bob", Power::Contain, None, false),
        ] {
            assert_eq!(
                operators.get(name).unwrap().may(power, region),
                may,
                "{name} {power} {region:?}"
            );
        }
        let kid = SigningKey::from_seed([2; 32]).verifying_key().kid();
        assert_eq!(operators.by_kid(&kid).map(|(name, _)| name), Some("bob"));
        assert_eq!(operators.by_kid(&[0; 8]), None);
        assert!(!operators.is_empty() && Operators::default().is_empty());
    }

    #[test]
    fn files_that_are_none() {
        let good = format!("[operators.a]\nkey = \"{}\"\nmay = [\"lift\"]\n", key(1));
        assert!(Operators::parse(good.as_bytes()).is_ok());
        let p384 = "3076301006072a8648ce3d020106052b81040022036200";
        let rows = [
            String::new(),
            "[operators]\n".into(),
            good.replace("\"lift\"", ""),
            good.replace("\"lift\"", "\"lift\", \"lift\""),
            good.replace("\"lift\"", "\"*\""),
            good.replace("\"lift\"", "\"any\""),
            good.replace("may", "can"),
            good.replace("operators.a", "operators.\"*\""),
            good.replace("operators.a", "operators.A"),
            good.replace("302a", "302b"),
            good.replace(&key(1), p384),
            format!("{good}regions = []\n"),
            format!("{good}regions = [\"*\"]\n"),
            format!("{good}regions = [\"root\"]\n"),
            format!("{good}regions = [\"a\", \"a\"]\n"),
            format!("{good}role = \"admin\"\n"),
        ];
        for text in rows {
            let refused = Operators::parse(text.as_bytes()).map_err(|e| e.code());
            assert_eq!(refused, Err(PolicyCode::OperatorsUnreadable), "{text}");
        }
        assert!(Operators::parse(b"\xff").is_err());
    }
}
