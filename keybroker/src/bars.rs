//! References and signers that an operator has barred: nothing rests on them any more, whatever policy says of them, until
//! the bar is lifted. A recorded input of every decision; what policy withdraws needs none.

use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};
use touchstone_cose::cbor::{self, Limits, ShapeError, Value};
use touchstone_store::{Key, Revision, Store, Write};
use touchstone_verifier::reference::{Reference, ReferenceSet};

use crate::nodes::NodesError;
use crate::rows;

/// Most bars at once.
pub const MAX_BARS: usize = 64;

/// Longest name, in bytes.
pub const MAX_NAME: usize = 255;

/// The key of the bars in [`rows::META`].
pub const BARS: &[u8] = b"bars";

/// How many narrowed sets are remembered: one for each that regions select, under the bars of now and of before.
const REMEMBERED: usize = 16;

const LIMITS: Limits = Limits {
    max_bytes: 64 * 1024,
    max_depth: 3,
    max_items: 512,
};

/// What is barred.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bar {
    /// A reference value, by its name.
    Reference(String),
    /// Everything that a signer of reference values has signed, by the signer's name; of a region's own, `<region>/<name>`.
    Signer(String),
}

impl Bar {
    /// Its kind: "reference" or "signer".
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Reference(_) => "reference",
            Self::Signer(_) => "signer",
        }
    }

    /// Whose.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Reference(name) | Self::Signer(name) => name,
        }
    }

    /// Whether it bars this reference.
    #[must_use]
    pub fn bars(&self, reference: &Reference) -> bool {
        match self {
            Self::Reference(name) => reference.values.name == *name,
            Self::Signer(name) => reference.authority == *name,
        }
    }
}

/// Bars as rows and inputs hold them: rows of [kind, name].
#[must_use]
pub fn value(bars: &[Bar]) -> Value {
    Value::array(
        bars.iter()
            .map(|bar| Value::array([Value::text(bar.kind()), Value::text(bar.name())])),
    )
}

/// Reads what [`value`] made: sorted, none twice.
///
/// # Errors
/// [`ShapeError`]
pub fn from_value(value: &Value) -> Result<Vec<Bar>, ShapeError> {
    let wrong = || ShapeError::whole("bars", "sorted rows of [kind, name]", value);
    let rows = value
        .as_array()
        .filter(|rows| rows.len() <= MAX_BARS)
        .ok_or_else(wrong)?;
    let bar = |row: &Value| {
        let [kind, name] = row.as_array()? else {
            return None;
        };
        let name = name
            .as_text()
            .filter(|name| (1..=MAX_NAME).contains(&name.len()))?
            .to_owned();
        match kind.as_text()? {
            "reference" => Some(Bar::Reference(name)),
            "signer" => Some(Bar::Signer(name)),
            _ => None,
        }
    };
    let bars: Option<Vec<Bar>> = rows.iter().map(bar).collect();
    bars.filter(|bars| bars.is_sorted_by(|a, b| a < b)).ok_or_else(wrong)
}

/// What is barred, and the revision of the row that says so.
///
/// # Errors
/// [`NodesError`]: a row that cannot be read lets nothing be decided.
pub fn read(store: &dyn Store) -> Result<(Vec<Bar>, Key, Option<Revision>), NodesError> {
    let key = rows::META.key(BARS)?;
    let Some(row) = store.get(&key)? else {
        return Ok((Vec::new(), key, None));
    };
    let value = cbor::decode(&row.value, LIMITS);
    let bars = value.ok().and_then(|value| from_value(&value).ok());
    let bars = bars.ok_or_else(|| NodesError::Tie { key: key.clone() })?;
    Ok((bars, key, Some(row.revision)))
}

/// The row for these bars.
///
/// # Errors
/// Never: the key is short.
pub fn write(bars: &[Bar]) -> Result<Write, NodesError> {
    Ok(Write::Put(rows::META.key(BARS)?, cbor::encode(&value(bars))))
}

/// These references without what is barred: it is searched as before and is no match, so that no other stands in its place.
#[must_use]
pub fn without(references: &ReferenceSet, bars: &[Bar]) -> Arc<ReferenceSet> {
    // The same for the same inputs: remembered, because it takes as long as reading the references does.
    static KNOWN: Mutex<Vec<([u8; 32], Arc<ReferenceSet>)>> = Mutex::new(Vec::new());
    let mut hash = Sha256::new();
    hash.update(references.digest());
    hash.update(cbor::encode(&value(bars)));
    let name: [u8; 32] = hash.finalize().into();
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, set)) = known.iter().find(|(known, _)| *known == name) {
        return Arc::clone(set);
    }
    let narrowed = references.narrowed(|reference| !bars.iter().any(|bar| bar.bars(reference)), Vec::new());
    let narrowed = Arc::new(narrowed);
    if known.len() >= REMEMBERED {
        known.remove(0);
    }
    known.push((name, Arc::clone(&narrowed)));
    narrowed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_come_back_as_written() {
        let bars = vec![Bar::Reference("golden".into()), Bar::Signer("eu/a".into())];
        assert_eq!(from_value(&value(&bars)), Ok(bars.clone()));
        let backwards: Vec<Bar> = bars.iter().rev().cloned().collect();
        let twice = vec![Bar::Signer("a".into()); 2];
        let nameless = vec![Bar::Signer(String::new())];
        let many = (0..=MAX_BARS).map(|n| Bar::Reference(format!("{n:04}"))).collect();
        for (what, wrong) in [
            ("backwards", backwards),
            ("twice", twice),
            ("nameless", nameless),
            ("too many", many),
        ] {
            assert!(from_value(&value(&wrong)).is_err(), "{what}");
        }
        let other = Value::array([Value::array([Value::text("anchor"), Value::text("x")])]);
        assert!(from_value(&other).is_err(), "another kind");
    }
}
