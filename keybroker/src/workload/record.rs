//! What the broker keeps of authorizations below a node's own: one row an entry, one of what hangs directly below an entry,
//! and one of what was issued and used in the whole tree below a node.
//!
//! Whether an entry still counts is not in these rows: its status entry says so, and an ancestor that falls takes it along
//! there (`docs/protocol.md`, section 7).

use std::collections::{BTreeMap, BTreeSet};

use touchstone_authorization::token::StatusIndex;
use touchstone_authorization::{DelegationRight, KeyKind, Scope};
use touchstone_cose::cbor::{self, CborError, Limits, MapReader, ShapeError, Value};
use touchstone_evidence::message::{Attributes, Dependency, DependencyKind, dependencies, dependency_values};

use crate::lineage;
use crate::node::{status, status_value};

/// Longest chain of authorizations that is followed upwards, whatever policy allows.
pub const MAX_DEPTH: usize = 16;

/// Most entries that are kept track of directly below one. A policy that allows more gets as many.
pub const MAX_CHILDREN: usize = 4_096;

/// Most different scopes that are remembered of one tree; beyond, nothing that is new in it is issued.
pub const MAX_TREE_SCOPES: usize = 1_024;

const MAX_TEXT: usize = 192;
const LIMITS: Limits = Limits {
    max_bytes: 128 * 1024,
    max_depth: 4,
    max_items: 16_384,
};
const RECORD: &str = "workload record";
const BRANCH: &str = "what hangs below an entry";
const TREE: &str = "what was issued in a tree";

/// Why bytes are not such a row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WorkloadRowError {
    /// Not CBOR.
    #[error("a stored workload: {0}")]
    Cbor(#[from] CborError),
    /// Another shape.
    #[error("a stored workload: {0}")]
    Shape(#[from] ShapeError),
}

/// One authorization below a node's own, as stored: `workload/<entry>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadRecord {
    /// Its status entry: what it is known by, kept through renewals.
    pub status: StatusIndex,
    /// What it is called: `<label>@<node>`.
    pub subject: String,
    /// The node at the root.
    pub node: String,
    /// The entry of that node.
    pub root: StatusIndex,
    /// The entry directly above.
    pub parent: StatusIndex,
    /// How many stand above it.
    pub depth: u8,
    /// Thumbprint of its key.
    pub key: [u8; 32],
    /// What keeps that key.
    pub key_kind: KeyKind,
    /// What it was granted last.
    pub scopes: Vec<Scope>,
    /// What it may hand on.
    pub delegation: Option<DelegationRight>,
    /// The region it counts in alone.
    pub region: Option<String>,
    /// What it is for.
    pub purpose: Option<String>,
    /// What it depends on.
    pub depends_on: Vec<Dependency>,
    /// What its node says of it.
    pub attributes: Option<Attributes>,
    /// `cti` of the authorization it was granted last.
    pub cti: [u8; 16],
    /// When that ends, Unix seconds.
    pub expires: u64,
}

impl WorkloadRecord {
    /// The row's bytes: a CBOR map, deterministic.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let text = |text: &Option<String>| text.as_deref().map_or(Value::Null, Value::text);
        cbor::encode(&Value::map([
            (0, Value::Unsigned(1)),
            (1, status_value(&self.status)),
            (2, Value::text(self.subject.as_str())),
            (3, Value::text(self.node.as_str())),
            (4, status_value(&self.root)),
            (5, status_value(&self.parent)),
            (6, Value::Unsigned(self.depth.into())),
            (7, Value::bytes(self.key)),
            (8, Value::text(self.key_kind.as_str())),
            (9, scope_values(&self.scopes)),
            (10, delegation_value(self.delegation)),
            (11, text(&self.region)),
            (12, text(&self.purpose)),
            (13, dependency_values(&self.depends_on)),
            (14, self.attributes.as_ref().map_or(Value::Null, Attributes::value)),
            (15, Value::bytes(self.cti)),
            (16, Value::Unsigned(self.expires)),
        ]))
    }

    /// The same as an entry of the lineage.
    #[must_use]
    pub fn entry(&self) -> lineage::Entry {
        let depends_on = self.depends_on.iter().map(|dependency| {
            let (list, generation, index) = dependency.on;
            lineage::Dependency {
                on: StatusIndex {
                    list,
                    generation,
                    index,
                },
                why: match dependency.kind {
                    DependencyKind::StartedBy | DependencyKind::ReadsFrom => lineage::Link::DependsOn,
                    DependencyKind::MovedFrom => lineage::Link::MovedFrom,
                },
            }
        });
        lineage::Entry {
            status: self.status,
            parent: Some(self.parent),
            subject: self.subject.clone(),
            cti: self.cti,
            depth: self.depth,
            expires: self.expires,
            scopes: lineage::scopes_text(&self.scopes),
            depends_on: depends_on.collect(),
        }
    }

    /// Reads a row; accepts only what [`WorkloadRecord::encode`] writes.
    ///
    /// # Errors
    /// [`WorkloadRowError`]: that entry, and what hangs below it, is denied.
    pub fn decode(bytes: &[u8]) -> Result<Self, WorkloadRowError> {
        let wrong = |key, expected| ShapeError::member(RECORD, key, expected, "something else");
        let mut reader = MapReader::new(cbor::decode(bytes, LIMITS)?, RECORD)?;
        if reader.u64(0)? != 1 {
            return Err(wrong("key 0", "1").into());
        }
        let record = Self {
            status: status(reader.required(1)?)?,
            subject: reader.text(2, MAX_TEXT)?,
            node: reader.text(3, MAX_TEXT)?,
            root: status(reader.required(4)?)?,
            parent: status(reader.required(5)?)?,
            depth: u8::try_from(reader.u64(6)?).map_err(|_| wrong("key 6", "a depth"))?,
            key: reader.fixed(7)?,
            key_kind: key_kind(&reader.text(8, MAX_TEXT)?).ok_or_else(|| wrong("key 8", "a kind of key"))?,
            scopes: scopes(&reader.required(9)?).ok_or_else(|| wrong("key 9", "scopes"))?,
            delegation: match reader.required(10)? {
                Value::Null => None,
                value => Some(delegation(&value).ok_or_else(|| wrong("key 10", "[depth, off-line]"))?),
            },
            region: optional(reader.required(11)?).ok_or_else(|| wrong("key 11", "a region or null"))?,
            purpose: optional(reader.required(12)?).ok_or_else(|| wrong("key 12", "a purpose or null"))?,
            depends_on: dependencies(&reader.required(13)?).ok_or_else(|| wrong("key 13", "dependencies"))?,
            attributes: match reader.required(14)? {
                Value::Null => None,
                value => Some(Attributes::read(&value).ok_or_else(|| wrong("key 14", "attributes"))?),
            },
            cti: reader.fixed(15)?,
            expires: reader.u64(16)?,
        };
        reader.finish()?;
        Ok(record)
    }
}

/// What hangs directly below one entry: `branch/<entry>`. Who expired is taken out when the next one comes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Branch {
    /// Entries, and when what they were granted last at the time of writing ended, Unix seconds.
    pub children: BTreeMap<StatusIndex, u64>,
}

impl Branch {
    /// The row's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let children = self
            .children
            .iter()
            .map(|(entry, expires)| Value::array([status_value(entry), Value::Unsigned(*expires)]));
        cbor::encode(&Value::map([(0, Value::Unsigned(1)), (1, Value::array(children))]))
    }

    /// Reads a row.
    ///
    /// # Errors
    /// [`WorkloadRowError`]
    pub fn decode(bytes: &[u8]) -> Result<Self, WorkloadRowError> {
        let wrong = || ShapeError::member(BRANCH, "key 1", "[entry, end]", "something else");
        let mut reader = MapReader::new(cbor::decode(bytes, LIMITS)?, BRANCH)?;
        if reader.u64(0)? != 1 {
            return Err(wrong().into());
        }
        let mut children = BTreeMap::new();
        for child in reader.array(1)? {
            let Value::Array(child) = child else {
                return Err(wrong().into());
            };
            let Ok([entry, Value::Unsigned(expires)]) = <[Value; 2]>::try_from(child) else {
                return Err(wrong().into());
            };
            children.insert(status(entry)?, expires);
        }
        reader.finish()?;
        Ok(Self { children })
    }
}

/// What was issued and used in the tree below one node's entry: `tree/<entry of the node>`. Facts that policies ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    /// Every `action:resource` that was issued below the node.
    pub issued: BTreeSet<String>,
    /// Every `action:resource` that enforcers of policy reported as used, and how often.
    pub used: BTreeMap<String, u64>,
}

impl Tree {
    /// How often anything was used.
    #[must_use]
    pub fn uses(&self) -> u64 {
        self.used.values().fold(0, |sum, uses| sum.saturating_add(*uses))
    }

    /// Counts `uses` of this right.
    pub fn count(&mut self, right: String, uses: u64) {
        let counted = self.used.entry(right).or_default();
        *counted = counted.saturating_add(uses);
    }

    /// Whether uses of this right are counted no more, because uses of as many others are.
    #[must_use]
    pub fn counts_no_more(&self, right: &str) -> bool {
        self.used.len() >= MAX_TREE_SCOPES && !self.used.contains_key(right)
    }

    /// The row's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let used = self
            .used
            .iter()
            .map(|(scope, uses)| Value::array([Value::text(scope.as_str()), Value::Unsigned(*uses)]));
        cbor::encode(&Value::map([
            (0, Value::Unsigned(1)),
            (
                1,
                Value::array(self.issued.iter().map(|scope| Value::text(scope.as_str()))),
            ),
            (2, Value::array(used)),
        ]))
    }

    /// Reads a row.
    ///
    /// # Errors
    /// [`WorkloadRowError`]
    pub fn decode(bytes: &[u8]) -> Result<Self, WorkloadRowError> {
        let wrong = |key| ShapeError::member(TREE, key, "scopes", "something else");
        let mut reader = MapReader::new(cbor::decode(bytes, LIMITS)?, TREE)?;
        if reader.u64(0)? != 1 {
            return Err(wrong("key 0").into());
        }
        let issued = reader.array(1)?.into_iter().map(|scope| match scope {
            Value::Text(scope) => Ok(scope),
            _ => Err(wrong("key 1")),
        });
        let issued = issued.collect::<Result<_, _>>()?;
        let used = reader.array(2)?.into_iter().map(|used| match used.as_array() {
            Some([Value::Text(scope), Value::Unsigned(uses)]) => Ok((scope.clone(), *uses)),
            _ => Err(wrong("key 2")),
        });
        let used = used.collect::<Result<_, _>>()?;
        reader.finish()?;
        Ok(Self { issued, used })
    }
}

/// Scopes as CBOR.
pub(crate) fn scope_values(scopes: &[Scope]) -> Value {
    Value::array(scopes.iter().map(|scope| Value::text(scope.to_string())))
}

fn scopes(value: &Value) -> Option<Vec<Scope>> {
    let scopes = value.as_array()?.iter();
    scopes.map(|scope| Scope::parse(scope.as_text()?).ok()).collect()
}

/// A right to hand on as CBOR: [further depth, off-line], or null.
pub(crate) fn delegation_value(delegation: Option<DelegationRight>) -> Value {
    delegation.map_or(Value::Null, |right| {
        Value::array([Value::Unsigned(right.depth.into()), Value::Bool(right.offline)])
    })
}

fn delegation(value: &Value) -> Option<DelegationRight> {
    match value.as_array()? {
        [depth, Value::Bool(offline)] => Some(DelegationRight {
            depth: u8::try_from(depth.as_u64()?).ok()?,
            offline: *offline,
        }),
        _ => None,
    }
}

/// The kind of key of this word.
pub(crate) fn key_kind(word: &str) -> Option<KeyKind> {
    [KeyKind::Tpm, KeyKind::Tee, KeyKind::Software]
        .into_iter()
        .find(|kind| kind.as_str() == word)
}

fn optional(value: Value) -> Option<Option<String>> {
    match value {
        Value::Null => Some(None),
        Value::Text(text) if text.len() <= MAX_TEXT => Some(Some(text)),
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn entry(index: u32) -> StatusIndex {
        StatusIndex {
            list: 0,
            generation: 1,
            index,
        }
    }

    pub(crate) fn record() -> WorkloadRecord {
        WorkloadRecord {
            status: entry(7),
            subject: "agent@node-1".into(),
            node: "node-1".into(),
            root: entry(1),
            parent: entry(1),
            depth: 1,
            key: [3; 32],
            key_kind: KeyKind::Tpm,
            scopes: vec![Scope::parse("execute:tools/search").unwrap()],
            delegation: Some(DelegationRight {
                depth: 2,
                offline: true,
            }),
            region: Some("north".into()),
            purpose: None,
            depends_on: vec![Dependency {
                kind: DependencyKind::StartedBy,
                on: (0, 1, 5),
            }],
            attributes: Some(Attributes {
                uid: 1,
                process: (2, 3),
                cgroup: "/".into(),
                executable: [4; 32],
                path: "/bin/true".into(),
                measured: false,
            }),
            cti: [9; 16],
            expires: 99,
        }
    }

    #[test]
    fn rows_come_back_as_written_and_no_shorter() {
        let bare = WorkloadRecord {
            delegation: None,
            region: None,
            depends_on: Vec::new(),
            attributes: None,
            ..record()
        };
        for record in [record(), bare] {
            let bytes = record.encode();
            assert_eq!(WorkloadRecord::decode(&bytes), Ok(record));
            for cut in 0..bytes.len() {
                assert!(WorkloadRecord::decode(&bytes[..cut]).is_err(), "cut at {cut}");
            }
        }
        let branch = Branch {
            children: [(entry(1), 5), (entry(2), 6)].into(),
        };
        let tree = Tree {
            issued: ["execute:a".to_owned()].into(),
            used: [("execute:a".to_owned(), 3)].into(),
        };
        assert_eq!(Branch::decode(&branch.encode()), Ok(branch.clone()));
        assert_eq!(Tree::decode(&tree.encode()), Ok(tree.clone()));
        for cut in 0..branch.encode().len() {
            assert!(Branch::decode(&branch.encode()[..cut]).is_err());
        }
        for cut in 0..tree.encode().len() {
            assert!(Tree::decode(&tree.encode()[..cut]).is_err());
        }
    }
}
