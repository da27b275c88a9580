//! Why an artefact could not be turned into digests.

/// Why an artefact was refused. Offsets and sizes are in bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArtefactError {
    /// The bytes are not of this format, or the format forbids what they say.
    #[error("{what}: expected {expected}, found {found}")]
    Malformed {
        /// The part of the artefact.
        what: &'static str,
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// More bytes, entries or lines than are read.
    #[error("{what}: more than the limit of {limit}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// It may be well-formed, but what a machine would measure cannot be known from it.
    #[error("{what}: {why}")]
    NotComputable {
        /// The part of the artefact.
        what: String,
        /// Why, and what to do instead.
        why: String,
    },
}

impl ArtefactError {
    pub(crate) fn malformed(what: &'static str, expected: impl ToString, found: impl ToString) -> Self {
        let found = touchstone_verifier::reason::sanitise(&found.to_string(), MAX_FOUND);
        Self::Malformed {
            what,
            expected: expected.to_string(),
            found,
        }
    }

    pub(crate) fn not_computable(what: impl ToString, why: impl ToString) -> Self {
        Self::NotComputable {
            what: touchstone_verifier::reason::sanitise(&what.to_string(), MAX_FOUND),
            why: why.to_string(),
        }
    }
}

/// Longest quotation from an artefact, in bytes.
const MAX_FOUND: usize = 256;
