//! `[residency]`: where a cloud provider's machines count as standing in a region.
//!
//! A key that is marked for a region goes to a machine that the signed inventory places there by its hardware. An identity
//! that stands for a whole class of machines (a provider's VLEK) says nothing of a place; it counts for a region only
//! where the domain signs that it does (`docs/protocol.md`, section 2).

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::error::{PolicyCode, Problem};
use crate::layout::is_name;

use super::snp::is_provider;

/// Most pairs of provider and region.
pub const MAX_PROVIDERS: usize = 64;

/// Providers whose machines count as standing in a region, as (provider, region). Empty: none does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Residency {
    /// The pairs.
    pub providers: BTreeSet<(String, String)>,
}

/// `[residency]` as it stands in the file. A file without it has the strict value.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct ResidencySection {
    #[serde(default)]
    providers: Vec<String>,
}

impl ResidencySection {
    pub(super) fn read(&self, problems: &mut Vec<Problem>) -> Residency {
        let claim = "settings.toml: residency.providers";
        if self.providers.len() > MAX_PROVIDERS {
            let expected = format!("at most {MAX_PROVIDERS}");
            problems.push(Problem::new(
                PolicyCode::SettingsName,
                claim,
                expected,
                self.providers.len(),
            ));
            return Residency::default();
        }
        let mut pairs = BTreeSet::new();
        for text in &self.providers {
            // A provider's name may have such a sign in it (`CN=cc-eu-west-1.amazonaws.com`), a region's has none.
            let pair = text
                .rsplit_once('=')
                .filter(|(provider, region)| is_provider(provider) && is_name(region));
            match pair {
                Some((provider, region)) => {
                    pairs.insert((provider.to_owned(), region.to_owned()));
                }
                None => problems.push(Problem::new(PolicyCode::SettingsName, claim, "PROVIDER=REGION", text)),
            }
        }
        Residency { providers: pairs }
    }
}

impl Residency {
    /// Whether machines of this provider count as standing in this region.
    #[must_use]
    pub fn covers(&self, provider: &str, region: &str) -> bool {
        self.providers.contains(&(provider.to_owned(), region.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(providers: &[&str]) -> (Residency, usize) {
        let mut problems = Vec::new();
        let section = ResidencySection {
            providers: providers.iter().map(|text| (*text).to_owned()).collect(),
        };
        (section.read(&mut problems), problems.len())
    }

    #[test]
    fn a_provider_counts_for_the_region_that_is_signed_and_no_other() {
        let (residency, problems) = read(&["aws=north", "gcp=south"]);
        assert_eq!(problems, 0);
        assert!(residency.covers("aws", "north") && residency.covers("gcp", "south"));
        let (certified, problems) = read(&["CN=cc-eu-west-1.amazonaws.com=north"]);
        assert_eq!(problems, 0);
        assert!(certified.covers("CN=cc-eu-west-1.amazonaws.com", "north"));
        assert!(!certified.covers("cc-eu-west-1.amazonaws.com", "north") && !certified.covers("CN", "north"));
        assert!(!residency.covers("aws", "south") && !residency.covers("azure", "north"));
        assert!(
            !Residency::default().covers("aws", "north"),
            "an empty list never means any"
        );
    }

    #[test]
    fn what_is_no_pair() {
        for text in [
            "aws",
            "=north",
            "aws=",
            "aws=The North",
            " aws=north",
            "a/ws=north",
            "aws=*",
        ] {
            assert_eq!(read(&[text]).1, 1, "{text}");
        }
    }
}
