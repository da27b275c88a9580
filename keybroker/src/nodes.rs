//! Reads what the store knows of nodes, with the revisions a decision will name, and writes what a grant changes.

use touchstone_store::{Guard, Key, KeyError, Revision, Store, StoreError, Versioned, Write};
use touchstone_verifier::inventory::{CvmIdentity, EkId};

use crate::hardware::Hardware;
use crate::node::{NodeRecord, RecordError};
use crate::rows;

/// Label of the node's record among the revisions of a statement.
pub const NODE_REVISION: &str = "node";
/// Label of the endorsement key's tie.
pub const EK_REVISION: &str = "ek";
/// Label of the attestation key's tie.
pub const AK_REVISION: &str = "ak";
/// Label of a confidential VM's tie.
pub const CVM_REVISION: &str = "cvm";

/// Why a node's state cannot be read. That node is denied, and no other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NodesError {
    /// The store, or one row of it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A name that cannot be a key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A tie that is not a name.
    #[error("the tie {key} holds no name")]
    Tie {
        /// Whose.
        key: Key,
    },
}

/// Something by which hardware is known, and the node's name it is tied to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tie {
    label: &'static str,
    key: Key,
    /// The name and since which revision, if it is tied.
    pub held: Option<(String, Revision)>,
}

/// Everything stored that a decision about one node rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    node: Key,
    gone_key: Key,
    /// Set where an operator has decommissioned the node.
    pub gone: Option<Revision>,
    /// The record, if the node has enrolled.
    pub record: Option<(NodeRecord, Revision)>,
    /// The ties of its hardware: endorsement and attestation key of a TPM, or the one of a confidential VM.
    pub ties: Vec<Tie>,
}

/// Reads a record by the node's name.
///
/// # Errors
/// [`NodesError`]
pub fn by_name(store: &dyn Store, name: &str) -> Result<Option<(NodeRecord, Revision)>, NodesError> {
    match store.get(&rows::NODE.key(name.as_bytes())?)? {
        None => Ok(None),
        Some(Versioned { value, revision }) => Ok(Some((NodeRecord::decode(&value)?, revision))),
    }
}

/// Whether an operator has decommissioned the node.
///
/// # Errors
/// [`NodesError`]
pub fn is_gone(store: &dyn Store, name: &str) -> Result<bool, NodesError> {
    Ok(gone(store, name)?.is_some())
}

/// The row that says that an operator has decommissioned the node, with its revision.
///
/// # Errors
/// [`NodesError`]
pub fn gone(store: &dyn Store, name: &str) -> Result<Option<(Key, Revision)>, NodesError> {
    let key = rows::GONE.key(name.as_bytes())?;
    let row = store.get(&key)?;
    Ok(row.map(|row| (key, row.revision)))
}

/// Reads the tie of an endorsement key.
///
/// # Errors
/// [`NodesError`]
pub fn ek_tie(store: &dyn Store, ek: &EkId) -> Result<Tie, NodesError> {
    tie(store, EK_REVISION, rows::EK.key(&ek.0)?)
}

/// Reads the tie of an attestation key, by its TPM Name.
///
/// # Errors
/// [`NodesError`]
pub fn ak_tie(store: &dyn Store, ak_name: &[u8]) -> Result<Tie, NodesError> {
    tie(store, AK_REVISION, rows::AK.key(ak_name)?)
}

/// Reads the tie of a confidential VM, by the identity under which it is listed.
///
/// # Errors
/// [`NodesError`]
pub fn cvm_tie(store: &dyn Store, identity: &CvmIdentity) -> Result<Tie, NodesError> {
    tie(store, CVM_REVISION, rows::CVM.key(&identity.digest())?)
}

fn tie(store: &dyn Store, label: &'static str, key: Key) -> Result<Tie, NodesError> {
    let held = match store.get(&key)? {
        None => None,
        Some(Versioned { value, revision }) => {
            let name = String::from_utf8(value).map_err(|_| NodesError::Tie { key: key.clone() })?;
            Some((name, revision))
        }
    };
    Ok(Tie { label, key, held })
}

impl Tie {
    fn guard(&self) -> Guard {
        guard(&self.key, self.held.as_ref().map(|(_, revision)| *revision))
    }

    /// Whether it is tied to another name.
    #[must_use]
    pub fn is_of_another(&self, name: &str) -> bool {
        self.held.as_ref().is_some_and(|(held, _)| held != name)
    }
}

impl Stored {
    /// Reads everything stored about the node `name` with this hardware.
    ///
    /// # Errors
    /// [`NodesError`]
    pub fn read(store: &dyn Store, name: &str, hardware: &Hardware) -> Result<Self, NodesError> {
        let gone_key = rows::GONE.key(name.as_bytes())?;
        Ok(Self {
            node: rows::NODE.key(name.as_bytes())?,
            gone: store.get(&gone_key)?.map(|row| row.revision),
            gone_key,
            record: by_name(store, name)?,
            ties: match hardware {
                Hardware::Tpm { ek, ak_name } => vec![ak_tie(store, ak_name)?, ek_tie(store, ek)?],
                Hardware::Cvm(identity) => vec![cvm_tie(store, identity)?],
            },
        })
    }

    /// Whether something of this hardware is tied to another name.
    #[must_use]
    pub fn is_of_another(&self, name: &str) -> bool {
        self.ties.iter().any(|tie| tie.is_of_another(name))
    }

    /// The revisions a decision on this rests on; 0 is absence.
    #[must_use]
    pub fn revisions(&self) -> Vec<(String, u64)> {
        let tie = |tie: &Tie| tie.held.as_ref().map_or(0, |(_, revision)| revision.get());
        let node = self.record.as_ref().map_or(0, |(_, revision)| revision.get());
        let ties = self.ties.iter().map(|of| (of.label, tie(of)));
        ties.chain([(NODE_REVISION, node)])
            .map(|(label, revision)| (label.to_owned(), revision))
            .collect()
    }

    /// What must still hold when a grant on this is committed.
    #[must_use]
    pub fn guards(&self) -> Vec<Guard> {
        let node = guard(&self.node, self.record.as_ref().map(|(_, revision)| *revision));
        let gone = guard(&self.gone_key, self.gone);
        [node, gone]
            .into_iter()
            .chain(self.ties.iter().map(Tie::guard))
            .collect()
    }

    /// What a grant on this writes: the record, ties that are new, and no tie of an attestation key that is gone.
    ///
    /// # Errors
    /// [`NodesError::Key`]
    pub fn writes(&self, name: &str, record: &NodeRecord) -> Result<Vec<Write>, NodesError> {
        let mut writes = vec![Write::Put(self.node.clone(), record.encode())];
        for tie in &self.ties {
            if tie.held.is_none() {
                writes.push(Write::Put(tie.key.clone(), name.as_bytes().to_vec()));
            }
        }
        if let Some(old) = self.record.as_ref().and_then(|(record, _)| record.enrolled.tpm()) {
            let old_ak = rows::AK.key(&old.ak_name)?;
            if self.ties.iter().all(|tie| tie.key != old_ak) {
                writes.push(Write::Delete(old_ak));
            }
        }
        Ok(writes)
    }
}

/// What must hold of a row that was seen at this revision, or was not there.
pub(crate) fn guard(key: &Key, revision: Option<Revision>) -> Guard {
    match revision {
        None => Guard::Absent(key.clone()),
        Some(revision) => Guard::Unchanged(key.clone(), revision),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use touchstone_store::{Batch, CommitError, RedbStore};

    use super::*;
    use crate::node::tests::{cvm_record, record, tpm};

    fn keys(ek: u8, ak: u8) -> Hardware {
        Hardware::Tpm {
            ek: EkId([ek; 32]),
            ak_name: vec![ak; 34],
        }
    }

    fn store() -> (tempfile::TempDir, Arc<RedbStore>) {
        let folder = tempfile::tempdir().unwrap();
        let store = RedbStore::open(&folder.path().join("store")).unwrap();
        (folder, Arc::new(store))
    }

    fn commit(store: &RedbStore, stored: &Stored, name: &str, record: &NodeRecord) -> Result<Revision, CommitError> {
        let mut batch = Batch::new();
        for guard in stored.guards() {
            batch.guard(guard);
        }
        for write in stored.writes(name, record).unwrap() {
            match write {
                Write::Put(key, value) => batch.put(key, value),
                Write::Delete(key) => batch.delete(key),
            };
        }
        store.commit(batch)
    }

    #[test]
    fn a_hundred_enrolments_of_one_name_leave_one_identity() {
        let (_folder, store) = store();
        let tries: Vec<_> = (0..100u8)
            .map(|n| {
                let store = store.clone();
                std::thread::spawn(move || {
                    let mut record = record("rack-7");
                    (tpm(&mut record).ek, tpm(&mut record).ak_name) = (EkId([n; 32]), vec![n; 34]);
                    let stored = Stored::read(&*store, "rack-7", &keys(n, n)).unwrap();
                    stored.record.is_none() && commit(&store, &stored, "rack-7", &record).is_ok()
                })
            })
            .collect();
        let enrolled = tries.into_iter().map(|t| t.join().unwrap()).filter(|won| *won).count();
        assert_eq!(enrolled, 1);
        let ties = store.range(&rows::EK.prefix(), None, 200).unwrap();
        assert_eq!(ties.len(), 1, "and one endorsement key is tied to it");
    }

    #[test]
    fn one_key_is_tied_to_one_name() {
        let (_folder, store) = store();
        let hardware = keys(1, 2);
        let for_b = Stored::read(&*store, "b", &hardware).unwrap();
        let for_a = Stored::read(&*store, "a", &hardware).unwrap();
        commit(&store, &for_a, "a", &record("a")).unwrap();
        assert!(matches!(
            commit(&store, &for_b, "b", &record("b")),
            Err(CommitError::Conflict { .. })
        ));
        assert!(Stored::read(&*store, "b", &hardware).unwrap().is_of_another("b"));
        assert_eq!(ak_tie(&*store, &[2; 34]).unwrap().held.unwrap().0, "a");
    }

    #[test]
    fn one_confidential_vm_is_tied_to_one_name_and_may_become_a_tpm() {
        let (_folder, store) = store();
        let identity: CvmIdentity = "snp:0123456789abcdef".parse().unwrap();
        let hardware = Hardware::Cvm(identity.clone());
        let (for_a, for_b) = ["a", "b"]
            .map(|name| Stored::read(&*store, name, &hardware).unwrap())
            .into();
        commit(&store, &for_a, "a", &cvm_record("a", identity.digest())).unwrap();
        assert!(matches!(
            commit(&store, &for_b, "b", &cvm_record("b", identity.digest())),
            Err(CommitError::Conflict { .. })
        ));
        assert!(Stored::read(&*store, "b", &hardware).unwrap().is_of_another("b"));
        let stored = Stored::read(&*store, "a", &hardware).unwrap();
        assert!(!stored.is_of_another("a"));
        assert!(hardware.has_key_of(&stored.record.unwrap().0.enrolled));
        // The machine gets a TPM: another root under the same name; the tie of the old one stays.
        let stored = Stored::read(&*store, "a", &keys(1, 2)).unwrap();
        commit(&store, &stored, "a", &record("a")).unwrap();
        assert_eq!(cvm_tie(&*store, &identity).unwrap().held.unwrap().0, "a");
        assert!(!hardware.is_machine_of(&by_name(&*store, "a").unwrap().unwrap().0.enrolled));
    }

    #[test]
    fn another_attestation_key_takes_the_place_of_the_old_one() {
        let (_folder, store) = store();
        let old = Stored::read(&*store, "a", &keys(1, 2)).unwrap();
        commit(&store, &old, "a", &record("a")).unwrap();
        let mut changed = record("a");
        tpm(&mut changed).ak_name = vec![9; 34];
        let new = Stored::read(&*store, "a", &keys(1, 9)).unwrap();
        assert_eq!(
            new.revisions().iter().map(|(_, r)| *r > 0).collect::<Vec<_>>(),
            [false, true, true]
        );
        commit(&store, &new, "a", &changed).unwrap();
        assert_eq!(ak_tie(&*store, &[2; 34]).unwrap().held, None);
        assert_eq!(ak_tie(&*store, &[9; 34]).unwrap().held.unwrap().0, "a");
        assert!(
            commit(&store, &old, "a", &record("a")).is_err(),
            "what was read before does not count any more"
        );
    }

    #[test]
    fn a_malformed_row_denies_that_node_only() {
        let (_folder, store) = store();
        let good = Stored::read(&*store, "good", &keys(1, 2)).unwrap();
        commit(&store, &good, "good", &record("good")).unwrap();
        let mut batch = Batch::new();
        batch.put(rows::NODE.key(b"bad").unwrap(), *b"old format");
        store.commit(batch).unwrap();
        assert!(matches!(by_name(&*store, "bad"), Err(NodesError::Record(_))));
        assert!(by_name(&*store, "good").unwrap().is_some());
    }
}
