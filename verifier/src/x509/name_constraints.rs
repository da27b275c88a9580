//! Name constraints of a CA: over which names it may issue certificates.
//!
//! Names of devices are directory names, so those subtrees are compared. A constraint on any other form of name holds
//! a certificate that has a name of that form, and such a certificate is refused: nothing here can compare them.
//!
//! Source: RFC 5280 4.2.1.10 and 6.1.

use std::collections::BTreeSet;

use x509_parser::extensions::{GeneralName, GeneralSubtree, NameConstraints as Parsed};

use super::extensions::{Extensions, whole};
use super::name::{form, name_key};

/// Most subtrees of one CA.
pub const MAX_SUBTREES: usize = 256;

/// What a CA may issue for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct NameConstraints {
    /// Directory names must begin with one of these, where there are any.
    permitted: Vec<Vec<u8>>,
    /// Directory names must begin with none of these.
    excluded: Vec<Vec<u8>>,
    /// Other forms of names that are constrained.
    other_forms: BTreeSet<u32>,
}

impl NameConstraints {
    /// Reads the extension's value; none where it cannot be read or constrains nothing (which RFC 5280 forbids).
    pub(super) fn read(value: &[u8]) -> Option<Self> {
        let parsed: Parsed<'_> = whole(value)?;
        let (permitted, excluded) = (
            parsed.permitted_subtrees.unwrap_or_default(),
            parsed.excluded_subtrees.unwrap_or_default(),
        );
        if permitted.len() + excluded.len() > MAX_SUBTREES || permitted.len() + excluded.len() == 0 {
            return None;
        }
        let mut constraints = Self::default();
        let forms = permitted.iter().chain(&excluded).map(|subtree| form(&subtree.base));
        constraints.other_forms = forms.filter(|form| *form != DIRECTORY).collect();
        constraints.permitted = directories(&permitted);
        constraints.excluded = directories(&excluded);
        Some(constraints)
    }

    /// Whether a certificate with this subject ([`name_key`]) and these extensions is within the constraints.
    pub(super) fn allow(&self, subject: &[u8], extensions: &Extensions) -> bool {
        let names = extensions.alternative_directories.iter().map(Vec::as_slice);
        let subject = Some(subject).filter(|subject| !subject.is_empty());
        let begins = |name: &[u8], trees: &[Vec<u8>]| trees.iter().any(|tree| name.starts_with(tree));
        let within =
            |name: &[u8]| (self.permitted.is_empty() || begins(name, &self.permitted)) && !begins(name, &self.excluded);
        names.chain(subject).all(within) && self.other_forms.is_disjoint(&extensions.alternative_forms)
    }
}

/// Tag number of directoryName.
const DIRECTORY: u32 = 4;

fn directories(subtrees: &[GeneralSubtree<'_>]) -> Vec<Vec<u8>> {
    let directory = |subtree: &GeneralSubtree<'_>| match &subtree.base {
        GeneralName::DirectoryName(name) => Some(name_key(name)),
        _ => None,
    };
    subtrees.iter().filter_map(directory).collect()
}
