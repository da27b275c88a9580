//! The holds of a running broker.

use std::collections::{BTreeMap, HashSet};
use std::sync::{PoisonError, RwLock};

use touchstone_authorization::token::StatusIndex;
use touchstone_cose::cbor::{ShapeError, Value};
use touchstone_verifier::inventory::Node;

use super::{Hold, MAX_TEXT, kept_back};
use crate::decision::DenialCode;

/// Why a subject is granted nothing, as a decision records it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// "subject", "zone" or "cluster".
    pub over: String,
    /// Whose.
    pub name: String,
    /// Why it was suspended.
    pub why: String,
}

impl Held {
    /// The reason of the denial.
    #[must_use]
    pub fn code(&self) -> DenialCode {
        match self.over.as_str() {
            "subject" => DenialCode::Quarantined,
            _ => DenialCode::Contained,
        }
    }

    /// As inputs record it.
    #[must_use]
    pub fn value(&self) -> Value {
        Value::array([&self.over, &self.name, &self.why].map(|text| Value::text(text.as_str())))
    }

    /// Reads it back.
    ///
    /// # Errors
    /// [`ShapeError`]
    pub fn read(value: &Value) -> Result<Self, ShapeError> {
        let text = |value: &Value| value.as_text().filter(|text| text.len() <= MAX_TEXT).map(str::to_owned);
        let read = || {
            let [over, name, why] = value.as_array()? else {
                return None;
            };
            Some(Self {
                over: text(over)?,
                name: text(name)?,
                why: text(why)?,
            })
        };
        read().ok_or_else(|| ShapeError::whole("what is held", "[over, name, why]", value))
    }
}

/// The holds of a running broker.
#[derive(Debug, Default)]
pub struct Holds {
    pub(super) all: RwLock<BTreeMap<u64, (Hold, HashSet<StatusIndex>)>>,
    /// One changes them at a time.
    pub(super) changing: tokio::sync::Mutex<()>,
}

impl Holds {
    /// These.
    #[must_use]
    pub fn new(holds: Vec<(Hold, HashSet<StatusIndex>)>) -> Self {
        let all = holds.into_iter().map(|(hold, set)| (hold.number, (hold, set)));
        Self {
            all: RwLock::new(all.collect()),
            changing: tokio::sync::Mutex::default(),
        }
    }

    /// The first hold that is over this node or workload, and is not lifted; `node` is the node's entry in policy.
    #[must_use]
    pub fn against(&self, subject: &str, node: Option<&Node>) -> Option<Held> {
        self.read(|all| {
            let mut standing = all.values().map(|(hold, _)| hold).filter(|hold| hold.lifted.is_none());
            standing.find(|hold| hold.over.is_over(subject, node)).map(|hold| Held {
                over: hold.over.kind().to_owned(),
                name: hold.over.name().to_owned(),
                why: hold.why.clone(),
            })
        })
    }

    /// Of what hangs below a node, which a grant to it brings back: what lifted holds took, and none that stands keeps.
    /// `below` is asked only where something was lifted.
    #[must_use]
    pub fn coming_back(&self, below: impl FnOnce() -> Vec<StatusIndex>) -> Vec<StatusIndex> {
        if !self.read(|all| all.values().any(|(hold, _)| hold.lifted.is_some() && hold.exact)) {
            return Vec::new();
        }
        let entries = below();
        self.read(|all| {
            let of = |entry: &StatusIndex, lifted: bool| {
                let mut holds = all.values().filter(|(hold, _)| hold.lifted.is_some() == lifted);
                holds.any(|(hold, set)| (hold.exact || !lifted) && set.contains(entry))
            };
            let back = entries.iter().filter(|entry| of(entry, true) && !of(entry, false));
            back.copied().collect()
        })
    }

    /// Every hold, as it is.
    #[must_use]
    pub fn list(&self) -> Vec<(Hold, usize)> {
        self.read(|all| all.values().map(|(hold, set)| (hold.clone(), set.len())).collect())
    }

    pub(super) fn read<T>(&self, look: impl FnOnce(&BTreeMap<u64, (Hold, HashSet<StatusIndex>)>) -> T) -> T {
        look(&self.all.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn kept_back(&self) -> HashSet<StatusIndex> {
        self.read(|all| kept_back(all.values()))
    }

    pub(super) fn put(&self, hold: Hold, set: HashSet<StatusIndex>) {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(hold.number, (hold, set));
    }
}
