//! One entry of the lineage, as stored and as statements carry it.

use touchstone_authorization::token::StatusIndex;
use touchstone_cose::cbor::{self, CborError, Limits, MapReader, ShapeError, Value};

use super::graph::MAX_DEPENDENCIES;
use crate::node::{status, status_value};

/// Longest subject, in bytes: a label, `@`, and the name of a node.
pub const MAX_SUBJECT: usize = 192;

/// Longest list of scopes, in bytes, one space between two.
pub const MAX_SCOPES: usize = 4_096;

/// Largest row, in bytes.
pub const MAX_ROW_BYTES: usize = 8 * 1024;

/// The format of rows this release writes.
const FORMAT: u64 = 1;
const CONTEXT: &str = "lineage entry";
const LIMITS: Limits = Limits {
    max_bytes: MAX_ROW_BYTES,
    max_depth: 5,
    max_items: 256,
};

/// Why an entry rests on another one beside its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Link {
    /// It was started by it, or reads from it.
    DependsOn,
    /// It is the same workload, which ran there before it ran here.
    MovedFrom,
}

impl Link {
    /// Its name in rows and statements.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DependsOn => "depends-on",
            Self::MovedFrom => "moved-from",
        }
    }

    /// The link with this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::DependsOn, Self::MovedFrom]
            .into_iter()
            .find(|link| link.as_str() == name)
    }
}

/// What an entry rests on beside its parent: it falls with that, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dependency {
    /// The other entry.
    pub on: StatusIndex,
    /// Why.
    pub why: Link,
}

/// One entry of the lineage: whatever a subject holds under one status entry, through all its renewals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The status entry, which is its identity.
    pub status: StatusIndex,
    /// The entry whose holder's rights it narrows; none for a node.
    pub parent: Option<StatusIndex>,
    /// The node, or `<label>@<node>`.
    pub subject: String,
    /// `cti` of the authorization granted last.
    pub cti: [u8; 16],
    /// How far below a node: 0 for the node itself.
    pub depth: u8,
    /// The latest `exp` it was ever granted, in Unix seconds.
    pub expires: u64,
    /// The scopes granted last, one space between two.
    pub scopes: String,
    /// What it rests on beside its parent.
    pub depends_on: Vec<Dependency>,
}

/// Why bytes are no entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// Not the CBOR this release writes.
    #[error("a lineage entry: {0}")]
    Cbor(#[from] CborError),
    /// Another shape.
    #[error("a lineage entry: {0}")]
    Shape(#[from] ShapeError),
    /// Written in a format this release does not know.
    #[error("a lineage entry has format {found}, expected {FORMAT}")]
    Format {
        /// The format found.
        found: u64,
    },
}

impl Entry {
    /// The entry as a CBOR map: what its row holds, and what the statement of its grant carries under
    /// [`super::BODY_LINEAGE`]. 0 format, 1 status entry, 2 that of the parent or null, 3 subject, 4 cti, 5 depth, 6 end
    /// in Unix seconds, 7 scopes, 8 rows of [status entry, why].
    #[must_use]
    pub fn value(&self) -> Value {
        let dependency = |d: &Dependency| Value::array([status_value(&d.on), Value::text(d.why.as_str())]);
        Value::map([
            (0, Value::Unsigned(FORMAT)),
            (1, status_value(&self.status)),
            (2, self.parent.as_ref().map_or(Value::Null, status_value)),
            (3, Value::text(self.subject.as_str())),
            (4, Value::bytes(self.cti)),
            (5, Value::Unsigned(self.depth.into())),
            (6, Value::Unsigned(self.expires)),
            (7, Value::text(self.scopes.as_str())),
            (8, Value::array(self.depends_on.iter().map(dependency))),
        ])
    }

    /// Reads what [`Entry::value`] made.
    ///
    /// # Errors
    /// [`EntryError`]
    pub fn read(value: Value) -> Result<Self, EntryError> {
        let mut reader = MapReader::new(value, CONTEXT)?;
        let found = reader.u64(0)?;
        if found != FORMAT {
            return Err(EntryError::Format { found });
        }
        let entry = Self {
            status: status(reader.required(1)?)?,
            parent: match reader.required(2)? {
                Value::Null => None,
                value => Some(status(value)?),
            },
            subject: reader.text(3, MAX_SUBJECT)?,
            cti: reader.fixed(4)?,
            depth: small(&reader.required(5)?)?,
            expires: reader.u64(6)?,
            scopes: reader.text(7, MAX_SCOPES)?,
            depends_on: dependencies(&reader.required(8)?)?,
        };
        reader.finish()?;
        Ok(entry)
    }

    /// Its row.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        cbor::encode(&self.value())
    }

    /// Reads a row; accepts only what [`Entry::encode`] writes.
    ///
    /// # Errors
    /// [`EntryError`]
    pub fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        Self::read(cbor::decode(bytes, LIMITS)?)
    }
}

fn small(value: &Value) -> Result<u8, ShapeError> {
    let found = value.as_u64().and_then(|depth| u8::try_from(depth).ok());
    found.ok_or_else(|| ShapeError::whole(CONTEXT, "a depth of 0 to 255", value))
}

fn dependencies(value: &Value) -> Result<Vec<Dependency>, ShapeError> {
    let malformed = || ShapeError::whole(CONTEXT, "rows of [status entry, why]", value);
    let rows = value.as_array().filter(|rows| rows.len() <= MAX_DEPENDENCIES);
    let rows = rows.ok_or_else(malformed)?;
    let dependency = |row: &Value| {
        let Some([on, why]) = row.as_array() else {
            return Err(malformed());
        };
        Ok(Dependency {
            on: status(on.clone())?,
            why: why.as_text().and_then(Link::parse).ok_or_else(malformed)?,
        })
    };
    rows.iter().map(dependency).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::trust::place;

    /// An entry below `parent`, with the place as its name.
    pub(crate) fn entry(number: u64, parent: Option<&Entry>) -> Entry {
        Entry {
            status: place(number, 1).unwrap(),
            parent: parent.map(|parent| parent.status),
            subject: match parent {
                None => format!("node-{number}"),
                Some(_) => format!("work-{number}@node"),
            },
            cti: {
                let mut cti = [7; 16];
                cti[..8].copy_from_slice(&number.to_be_bytes());
                cti
            },
            depth: parent.map_or(0, |parent| parent.depth + 1),
            expires: 1_000,
            scopes: format!("execute:job-{number}"),
            depends_on: Vec::new(),
        }
    }

    #[test]
    fn rows_come_back_as_written_and_broken_ones_are_errors() {
        let root = entry(1, None);
        let mut child = entry(2, Some(&root));
        child.depends_on = vec![
            Dependency {
                on: place(5, 1).unwrap(),
                why: Link::DependsOn,
            },
            Dependency {
                on: place(6, 1).unwrap(),
                why: Link::MovedFrom,
            },
        ];
        for entry in [root, child] {
            let bytes = entry.encode();
            assert_eq!(Entry::decode(&bytes), Ok(entry));
            for cut in 0..bytes.len() {
                assert!(Entry::decode(&bytes[..cut]).is_err(), "cut at {cut}");
            }
            for at in 0..bytes.len() {
                let mut other = bytes.clone();
                other[at] ^= 0x41;
                // Whatever it is read as, it is written the same way again.
                if let Ok(read) = Entry::decode(&other) {
                    assert_eq!(read.encode(), other, "changed at {at}");
                }
            }
        }
    }
}
