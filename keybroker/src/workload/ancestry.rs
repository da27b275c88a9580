//! What the lineage says of who asks, as it was found: everything from there up to the node, what hangs beside it, and what
//! was issued and used in the whole tree. An input of every decision about a workload, whether it is issued something or
//! fetches a key: one place says what denies, and what policies are told.

use touchstone_authorization::token::StatusIndex;
use touchstone_authorization::{Status, VerifiedAuthorization};
use touchstone_cose::cbor::{ShapeError, Value};
use touchstone_evidence::message::Attributes;
use touchstone_ledger::statement::Reason;
use touchstone_policies::LineageFacts;

use super::decide::WorkloadCode;
use super::record::{MAX_DEPTH, Tree, WorkloadRecord};
use crate::node::{status, status_value};
use crate::presented::{StatusSeen, reason};
use crate::release::inputs::Row;

const CONTEXT: &str = "what stands above";

/// What the broker keeps of an entry, as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// Nothing.
    Missing,
    /// A row that cannot be read.
    Unreadable,
    /// This.
    Record(Box<WorkloadRecord>),
}

/// One entry on the way up to the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Above {
    /// Which.
    pub entry: StatusIndex,
    /// What is kept of it, and the revision of that row; 0 where there is none.
    pub kept: (Kept, u64),
    /// What its status list says of it.
    pub seen: Option<StatusSeen>,
}

impl Above {
    /// The record, where there is one.
    #[must_use]
    pub fn record(&self) -> Option<&WorkloadRecord> {
        match &self.kept.0 {
            Kept::Record(record) => Some(record),
            Kept::Missing | Kept::Unreadable => None,
        }
    }

    /// As CBOR: [entry, its row or null or false where it cannot be read, revision, what its list says].
    pub(crate) fn value(&self) -> Value {
        Value::array([
            status_value(&self.entry),
            match &self.kept.0 {
                Kept::Missing => Value::Null,
                Kept::Unreadable => Value::Bool(false),
                Kept::Record(record) => Value::Bytes(record.encode()),
            },
            Value::Unsigned(self.kept.1),
            StatusSeen::value(self.seen.as_ref()),
        ])
    }

    pub(crate) fn read(value: Value) -> Result<Self, ShapeError> {
        let malformed = || ShapeError::member(CONTEXT, "an entry", "[entry, row, revision, status]", "something else");
        let Value::Array(items) = value else {
            return Err(malformed());
        };
        let Ok([entry, kept, Value::Unsigned(revision), found]) = <[Value; 4]>::try_from(items) else {
            return Err(malformed());
        };
        let kept = match kept {
            Value::Null => Kept::Missing,
            Value::Bool(false) => Kept::Unreadable,
            Value::Bytes(bytes) => Kept::Record(Box::new(WorkloadRecord::decode(&bytes).map_err(|_| malformed())?)),
            _ => return Err(malformed()),
        };
        Ok(Self {
            entry: status(entry)?,
            kept: (kept, revision),
            seen: StatusSeen::read(&found)?,
        })
    }
}

/// What the lineage says of who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ancestry {
    /// What the status list says of the node's entry.
    pub node_seen: Option<StatusSeen>,
    /// Entries from the one that was presented up to the one below the node's; none where the node itself asks.
    pub above: Vec<Above>,
    /// How many hang below the same one and have not run out, itself not counted, and the revision of that row.
    pub children: (u64, u64),
    /// What was issued and used in the tree.
    pub tree: Row<Tree>,
}

/// Whom policies are told of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Told<'a> {
    /// How many stand above it: below the node, and the node.
    pub(crate) depth: u8,
    /// What stands above it, the nearest first, the node not among them.
    pub(crate) above: &'a [Above],
    /// The node at the root.
    pub(crate) node: &'a str,
    /// What keeps its key.
    pub(crate) key_kind: &'a str,
    /// What its node says of it.
    pub(crate) attributes: Option<&'a Attributes>,
}

impl Ancestry {
    /// Everything from who asks up to the node is there, is what it says, and counts now. Missing and unreadable deny.
    /// `node` is the entry that the record of the node called `name` has now.
    pub(crate) fn judge(
        &self,
        asking: &VerifiedAuthorization,
        (name, node): (&str, Option<StatusIndex>),
        generation: u32,
        reasons: &mut Vec<Reason>,
    ) {
        let contents = asking.contents();
        let (mut next, mut depth) = (contents.status, contents.depth);
        let mut refuse = |code: WorkloadCode, entry: &StatusIndex, expected: &str, found: &str| {
            let claim = format!("lineage, entry {} of list {}", entry.index, entry.list);
            reasons.push(reason(code.as_str(), &claim, expected, found));
        };
        for above in &self.above {
            let (code, found) = match &above.kept.0 {
                Kept::Missing => (WorkloadCode::ParentMissing, "nothing"),
                Kept::Unreadable => (WorkloadCode::ParentUnreadable, "not readable"),
                Kept::Record(record) => {
                    let first = above.entry == contents.status;
                    let same = above.entry == next
                        && record.status == next
                        && record.depth == depth
                        && depth > 0
                        && record.node == name
                        && (!first
                            || (record.key == *asking.confirmation_thumbprint() && record.subject == contents.subject));
                    if !same {
                        refuse(WorkloadCode::ParentOther, &above.entry, "what was presented", "another");
                        return;
                    }
                    if !is_valid(&above.entry, above.seen.as_ref(), generation) {
                        refuse(
                            WorkloadCode::ParentFallen,
                            &above.entry,
                            "valid",
                            "withdrawn or suspended",
                        );
                    }
                    (next, depth) = (record.parent, depth - 1);
                    continue;
                }
            };
            refuse(code, &above.entry, "a record", found);
            return;
        }
        if depth != 0 || node != Some(next) {
            refuse(WorkloadCode::ParentOther, &next, "the node's entry", "another");
        } else if !is_valid(&next, self.node_seen.as_ref(), generation) {
            refuse(WorkloadCode::ParentFallen, &next, "valid", "withdrawn or suspended");
        }
    }

    /// What policies are told of where it hangs, and of what came before.
    pub(crate) fn facts(&self, of: &Told<'_>) -> LineageFacts {
        let tree = self.tree.as_ref().map(|(tree, _)| tree);
        let above = of.above.iter().filter_map(Above::record);
        let node = (of.depth > 0).then(|| of.node.to_owned());
        LineageFacts {
            depth: of.depth.into(),
            parents: above.map(|record| record.subject.clone()).chain(node).collect(),
            issued: tree.map(|tree| tree.issued.clone()).unwrap_or_default(),
            used: tree.map(|tree| tree.used.clone()).unwrap_or_default(),
            uses: tree.map_or(0, Tree::uses),
            children: self.children.0,
            key_kind: of.key_kind.to_owned(),
            started_by: of.attributes.map(|attributes| format!("uid:{}", attributes.uid)),
            executable: of.attributes.map(|attributes| hex::encode(attributes.executable)),
        }
    }

    /// The entries above as CBOR.
    pub(crate) fn above_value(&self) -> Value {
        Value::array(self.above.iter().map(Above::value))
    }

    /// How many hang below the same one, and the revision of that row, as CBOR.
    pub(crate) fn children_value(&self) -> Value {
        Value::array([Value::Unsigned(self.children.0), Value::Unsigned(self.children.1)])
    }

    /// Reads what [`Ancestry::above_value`] and [`Ancestry::children_value`] made, with what was read beside them.
    pub(crate) fn read(
        node_seen: &Value,
        above: &[Value],
        children: &Value,
        tree: Row<Tree>,
    ) -> Result<Self, ShapeError> {
        let wrong = |expected| ShapeError::member(CONTEXT, "a member", expected, "something else");
        if above.len() > MAX_DEPTH {
            return Err(wrong("at most as many entries as are followed upwards"));
        }
        let children = match children.as_array() {
            Some([children, revision]) => children.as_u64().zip(revision.as_u64()),
            _ => None,
        };
        Ok(Self {
            node_seen: StatusSeen::read(node_seen)?,
            above: above.iter().cloned().map(Above::read).collect::<Result<_, _>>()?,
            children: children.ok_or_else(|| wrong("[children, revision]"))?,
            tree,
        })
    }
}

/// Whether a status entry counts.
#[must_use]
pub(crate) fn is_valid(entry: &StatusIndex, seen: Option<&StatusSeen>, generation: u32) -> bool {
    entry.generation == generation
        && seen.is_some_and(|seen| seen.entry == (entry.list, entry.index) && seen.status == Some(Status::Valid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::record::tests::{entry, record};

    fn ancestry() -> Ancestry {
        let seen = StatusSeen {
            entry: (0, 7),
            digest: [1; 32],
            entries: 16,
            status: Some(Status::Valid),
        };
        let kept = |kept, revision| Above {
            entry: entry(7),
            kept: (kept, revision),
            seen: Some(seen),
        };
        Ancestry {
            node_seen: None,
            above: vec![
                kept(Kept::Record(Box::new(record())), 5),
                kept(Kept::Unreadable, 6),
                kept(Kept::Missing, 0),
            ],
            children: (3, 9),
            tree: None,
        }
    }

    #[test]
    fn it_comes_back_as_written_and_nothing_else_is_read() {
        let written = ancestry();
        let above = written.above_value();
        let above = above.as_array().unwrap();
        let children = written.children_value();
        assert_eq!(
            Ancestry::read(&Value::Null, above, &children, None),
            Ok(written.clone())
        );
        let too_many: Vec<Value> = (0..=MAX_DEPTH).map(|_| written.above[2].value()).collect();
        assert!(Ancestry::read(&Value::Null, &too_many, &children, None).is_err());
        assert!(Ancestry::read(&Value::Bool(true), above, &children, None).is_err());
        assert!(Ancestry::read(&Value::Null, above, &Value::Null, None).is_err());
        assert!(Above::read(Value::Null).is_err());
        assert!(Above::read(Value::array([status_value(&entry(7)), Value::Bool(true)])).is_err());
        let with = |kept: Value| Value::array([status_value(&entry(7)), kept, Value::Unsigned(1), Value::Null]);
        for kept in [
            Value::Bool(true),
            Value::bytes([0xff]),
            Value::text("missing"),
            Value::Unsigned(0),
        ] {
            assert!(Above::read(with(kept.clone())).is_err(), "{kept:?}");
        }
    }

    #[test]
    fn policies_are_told_of_who_stands_above_and_never_of_itself() {
        let ancestry = ancestry();
        let told = |depth, above| {
            ancestry.facts(&Told {
                depth,
                above,
                node: "node-1",
                key_kind: "tpm",
                attributes: None,
            })
        };
        let own = told(1, &ancestry.above[1..]);
        assert_eq!(own.parents.into_iter().collect::<Vec<_>>(), ["node-1"]);
        let child = told(2, &ancestry.above[..]);
        assert_eq!(
            child.parents.into_iter().collect::<Vec<_>>(),
            ["agent@node-1", "node-1"]
        );
        assert_eq!((child.depth, child.children), (2, 3));
        let node = told(0, &[]);
        assert!(node.parents.is_empty(), "above a node stands nobody");
    }
}
