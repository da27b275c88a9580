//! The IMA list against register 10, the matched reference and the domain's rules.

use crate::ima::ImaPrefix;

/// What an accepted list leaves for the next round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImaOutcome {
    /// The verified prefix, this round's entries included.
    pub prefix: ImaPrefix,
    /// The chunk of distinct entries this round brought, where it brought any: the last one [`ImaPrefix::seen`] names.
    pub chunk: Option<Vec<u8>>,
}
