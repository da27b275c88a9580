//! `regions.toml`: what each region may add to what the whole has, by name. The whole's authority signs it.
//!
//! ```toml
//! [regions.eu-1]
//! environments = ["eu-1-image", "eu-1-edge-*"]   # environment classes of reference values: the name of a reference
//! roles = ["edge"]                               # roles that its nodes may have
//! owners = ["acme"]                              # owners that its nodes may have
//! ```
//! What is not listed, it may not add: a list that is left out, or empty, delegates nothing. A `*` stands at the end, after
//! at least one letter, and means every class whose name begins so.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::cedar::MAX_REGIONS;
use crate::error::{PolicyCode, PolicyError, Problem};
use crate::layout::{REGIONS, is_name, is_reference_name, is_region_name};

/// Most names of one list.
pub const MAX_DELEGATED: usize = 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RegionsFile {
    #[serde(default)]
    regions: BTreeMap<String, RegionEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct RegionEntry {
    environments: Vec<String>,
    roles: Vec<String>,
    owners: Vec<String>,
}

/// What one region may add. The default: nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Additions {
    /// Classes of reference values, by name.
    pub environments: BTreeSet<String>,
    /// Roles of its nodes.
    pub roles: BTreeSet<String>,
    /// Owners of its nodes.
    pub owners: BTreeSet<String>,
}

impl Additions {
    /// Whether reference values of this class may be added.
    pub fn covers_class(&self, name: &str) -> bool {
        self.environments.iter().any(|class| match class.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => class == name,
        })
    }
}

/// Reads `regions.toml`: what each region may add.
///
/// # Errors
/// [`PolicyError`] `policy-regions-unreadable` with every problem.
pub fn parse(bytes: &[u8]) -> Result<BTreeMap<String, Additions>, PolicyError> {
    let code = PolicyCode::RegionsUnreadable;
    let unreadable = |found: String| PolicyError::new(code, REGIONS, "what regions may add", found);
    let text = std::str::from_utf8(bytes).map_err(|e| unreadable(e.to_string()))?;
    let file: RegionsFile = toml::from_str(text).map_err(|e| unreadable(e.to_string()))?;
    if file.regions.len() > MAX_REGIONS {
        return Err(unreadable(format!(
            "{} regions, more than {MAX_REGIONS}",
            file.regions.len()
        )));
    }
    let mut problems = Vec::new();
    let mut regions = BTreeMap::new();
    for (region, entry) in file.regions {
        if !is_region_name(&region) {
            let claim = format!("{REGIONS}: regions");
            problems.push(Problem::new(code, claim, "a region's name", &region));
        }
        let mut read = |key: &str, texts: Vec<String>, good: fn(&str) -> bool| {
            let claim = format!("{REGIONS}: regions.{region}.{key}");
            if texts.len() > MAX_DELEGATED {
                let expected = format!("at most {MAX_DELEGATED}");
                problems.push(Problem::new(code, &claim, expected, texts.len()));
            }
            let mut names = BTreeSet::new();
            for text in texts.into_iter().take(MAX_DELEGATED) {
                if !good(&text) || names.contains(&text) {
                    problems.push(Problem::new(code, &claim, "names, each once", &text));
                }
                names.insert(text);
            }
            names
        };
        let additions = Additions {
            environments: read("environments", entry.environments, is_class),
            roles: read("roles", entry.roles, is_name),
            owners: read("owners", entry.owners, is_name),
        };
        regions.insert(region, additions);
    }
    PolicyError::unless_empty(problems)?;
    Ok(regions)
}

fn is_class(text: &str) -> bool {
    is_reference_name(text.strip_suffix('*').unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_listed_is_not_delegated() {
        let regions = parse(
            b"[regions.eu-1]\nenvironments = [\"eu-image\", \"eu-edge-*\"]\nroles = [\"edge\"]\n\n[regions.us-1]\nroles = []\n",
        )
        .unwrap();
        let eu = &regions["eu-1"];
        for (class, covered) in [
            ("eu-image", true),
            ("eu-image-2", false),
            ("eu-edge-7", true),
            ("eu-edge-", true),
            ("eu-edge", false),
            ("golden", false),
            ("*", false),
            ("", false),
        ] {
            assert_eq!(eu.covers_class(class), covered, "{class}");
        }
        assert_eq!((eu.roles.len(), eu.owners.len()), (1, 0));
        assert_eq!(regions["us-1"], Additions::default());
        assert!(!regions["us-1"].covers_class("golden") && !regions.contains_key("north"));
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for text in [
            "regions = 1",
            "[region.eu]",
            "[regions.eu]\nanchors = [\"a\"]",
            "[regions.eu]\nenvironments = [\"*\"]",
            "[regions.eu]\nenvironments = [\"a*b\"]",
            "[regions.eu]\nenvironments = [\"a**\"]",
            "[regions.eu]\nroles = [\"Web\"]",
            "[regions.eu]\nroles = [\"*\"]",
            "[regions.eu]\nroles = [\"web\", \"web\"]",
            "[regions.EU]",
            "[regions.targets]",
            "[regions.reference]",
            "[regions.\"eu/1\"]",
        ] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert_eq!(error.code(), PolicyCode::RegionsUnreadable, "{text}");
        }
    }
}
