//! How one value of a region is put beside the whole's: each function gives a value that accepts nothing which the whole's
//! does not, whatever the region said. Where the region said something wider, that is a [`Problem`] as well.

use std::collections::BTreeSet;
use std::fmt::Debug;

use crate::error::{PolicyCode, Problem};
use crate::layout::SETTINGS;

/// What is read, and what is wrong with it.
#[derive(Debug)]
pub(super) struct Rules<'a> {
    file: &'a str,
    problems: &'a mut Vec<Problem>,
}

impl<'a> Rules<'a> {
    /// For the settings in `file`.
    pub fn new(file: &'a str, problems: &'a mut Vec<Problem>) -> Self {
        Self { file, problems }
    }

    /// Something that is wrong with `key`.
    pub fn refuse(&mut self, code: PolicyCode, key: &str, expected: impl std::fmt::Display, found: &str) {
        let claim = format!("{}: {key}", self.file);
        self.problems.push(Problem::new(code, claim, expected, found));
    }

    /// A value that is wider than the whole's.
    pub fn widens(&mut self, key: &str, whole: impl std::fmt::Display, found: &str) {
        let expected = format!("nothing that the whole does not accept: {whole}");
        self.refuse(PolicyCode::RegionWidens, key, expected, found);
    }

    /// Takes over problems that were found by the reader of the whole's settings, which names its own file.
    pub fn take(&mut self, found: Vec<Problem>) {
        for mut problem in found {
            if let Some(rest) = problem.claim.strip_prefix(SETTINGS) {
                problem.claim = format!("{}{rest}", self.file);
            }
            self.problems.push(problem);
        }
    }

    /// One of several values, of which some are stricter than others. `no_wider(said, whole)` says whether the region's
    /// accepts nothing that the whole's does not.
    pub fn one<T: Clone + Debug>(
        &mut self,
        key: &str,
        whole: &T,
        said: Option<T>,
        no_wider: impl Fn(&T, &T) -> bool,
    ) -> T {
        match said {
            Some(said) if no_wider(&said, whole) => said,
            Some(said) => {
                self.widens(key, word(whole), &word(&said));
                whole.clone()
            }
            None => whole.clone(),
        }
    }

    /// A number of which less is stricter.
    pub fn at_most<T: Copy + Ord + Debug>(&mut self, key: &str, whole: T, said: Option<T>) -> T {
        self.one(key, &whole, said, |said, whole| said <= whole)
    }

    /// A number of which more is stricter.
    pub fn at_least<T: Clone + Ord + Debug>(&mut self, key: &str, whole: &T, said: Option<T>) -> T {
        self.one(key, whole, said, |said, whole| said >= whole)
    }

    /// A leniency: true accepts more.
    pub fn leniency(&mut self, key: &str, whole: bool, said: Option<bool>) -> bool {
        self.one(key, &whole, said, |said, whole| !said || *whole)
    }

    /// A demand: true accepts less.
    pub fn demand(&mut self, key: &str, whole: bool, said: Option<bool>) -> bool {
        self.one(key, &whole, said, |said, whole| *said || !whole)
    }

    /// What is accepted: some of what the whole accepts.
    pub fn some_of<T: Ord + Clone + Debug>(
        &mut self,
        key: &str,
        whole: &BTreeSet<T>,
        said: Option<BTreeSet<T>>,
    ) -> BTreeSet<T> {
        let Some(said) = said else { return whole.clone() };
        for more in said.difference(whole) {
            let accepted: Vec<String> = whole.iter().map(word).collect();
            self.widens(key, accepted.join(", "), &word(more));
        }
        whole.intersection(&said).cloned().collect()
    }
}

/// What is accepted, of things that come and go (machines, makers, keys): those that both name. What the whole has taken
/// out is out, whatever the region still lists; a region's list must not stand in the way of that.
pub(super) fn both<T: Ord + Clone>(whole: &BTreeSet<T>, said: Option<&BTreeSet<T>>) -> BTreeSet<T> {
    said.map_or_else(|| whole.clone(), |said| whole.intersection(said).cloned().collect())
}

/// The same where no list means that everything is accepted.
pub(super) fn both_lists<T: Ord + Clone>(
    whole: Option<&BTreeSet<T>>,
    said: Option<BTreeSet<T>>,
) -> Option<BTreeSet<T>> {
    match (whole, said) {
        (Some(whole), said) => Some(both(whole, said.as_ref())),
        (None, said) => said,
    }
}

/// What is refused, or demanded: what either names.
pub(super) fn either<T: Ord + Clone>(whole: &BTreeSet<T>, said: &BTreeSet<T>) -> BTreeSet<T> {
    whole.union(said).cloned().collect()
}

/// A value in the words of the settings: `WhenReported` is `when-reported`.
fn word(value: &impl Debug) -> String {
    let mut text = String::new();
    let mut before = false;
    for letter in format!("{value:?}").chars().filter(|letter| *letter != '"') {
        if letter.is_ascii_uppercase() && before {
            text.push('-');
        }
        before = letter.is_ascii_lowercase();
        text.extend(letter.to_lowercase());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_told_in_the_words_of_the_settings() {
        use touchstone_verifier::snp::AliasCheck;
        assert_eq!(word(&AliasCheck::WhenReported), "when-reported");
        assert_eq!(word(&7u32), "7");
        assert_eq!(word(&"execute:x"), "execute:x");
    }

    #[test]
    fn the_readers_problems_name_the_regions_file() {
        let mut problems = Vec::new();
        let found = Problem::new(PolicyCode::SettingValue, "settings.toml: snp.products", "a", "b");
        Rules::new("regions/eu/settings.toml", &mut problems).take(vec![found]);
        assert_eq!(problems[0].claim, "regions/eu/settings.toml: snp.products");
    }
}
