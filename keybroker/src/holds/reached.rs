//! What is kept of how far the failure of a member reached.
//!
//! A containment that is due is written with the commit that takes the member's own rights and deleted with the
//! containment's own: what a crash came in between is made up for at the next start. And whom the failure of a node has
//! reached already is remembered for as long as it is granted nothing since: who lifts a containment is not put back into it
//! by the same node every half minute.

use touchstone_cose::cbor::{self, Limits, MapReader, ShapeError, Value};
use touchstone_store::{Key, KeyError, Store, Write};

use super::{HoldError, Over};
use crate::rows;

/// Most extents remembered of one failure, the newest.
const MAX_REACHED: usize = 16;

const FORMAT: u64 = 1;
const CONTEXT: &str = "reach of a failure";
const MAX_NAME: usize = 128;
const LIMITS: Limits = Limits {
    max_bytes: 32 * 1024,
    max_depth: 4,
    max_items: 64,
};

/// Whom the failure of a node has reached since it was granted something last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// The authorization (`cti`) that its record names: with the next grant none of this counts any more.
    pub granted: [u8; 16],
    /// Who was suspended, or was so already when it failed.
    pub over: Vec<Over>,
}

impl Reached {
    /// What is remembered of the node `name` that was granted this last.
    ///
    /// # Errors
    /// [`HoldError`]
    pub fn read(store: &dyn Store, name: &str, granted: [u8; 16]) -> Result<Self, HoldError> {
        let none = Self {
            granted,
            over: Vec::new(),
        };
        let Some(row) = store.get(&rows::REACHED.key(name.as_bytes())?)? else {
            return Ok(none);
        };
        let mut reader = reader(0, &row.value)?;
        let read = Self {
            granted: reader.fixed(1)?,
            over: overs(&reader.required(2)?)?,
        };
        reader.finish()?;
        Ok(if read.granted == granted { read } else { none })
    }

    /// Adds one.
    pub fn add(&mut self, over: Over) {
        if !self.over.contains(&over) {
            self.over.push(over);
        }
        let old = self.over.len().saturating_sub(MAX_REACHED);
        self.over.drain(..old);
    }

    /// Its row.
    ///
    /// # Errors
    /// A name that is none.
    pub fn write(&self, name: &str) -> Result<Write, KeyError> {
        let row = cbor::encode(&Value::map([
            (0, Value::Unsigned(FORMAT)),
            (1, Value::bytes(self.granted)),
            (2, Value::array(self.over.iter().map(Over::value))),
        ]));
        Ok(Write::Put(rows::REACHED.key(name.as_bytes())?, row))
    }
}

/// A containment that is to follow the failure of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// Whose failure.
    pub node: String,
    /// What that node was granted last.
    pub granted: [u8; 16],
    /// Digest of the statement of the decision that it failed by.
    pub decision: [u8; 32],
    /// Who is to be suspended.
    pub over: Over,
}

impl Due {
    /// The key of its row.
    ///
    /// # Errors
    /// Never: it is short.
    pub fn key(&self) -> Result<Key, KeyError> {
        let over = cbor::encode(&self.over.value());
        rows::DUE.key(&[self.decision.as_slice(), &crate::record::sha256(&over)].concat())
    }

    /// Its row.
    ///
    /// # Errors
    /// Never: the key is short.
    pub fn write(&self) -> Result<Write, KeyError> {
        Ok(Write::Put(self.key()?, self.encode()))
    }

    fn encode(&self) -> Vec<u8> {
        cbor::encode(&Value::map([
            (0, Value::Unsigned(FORMAT)),
            (1, Value::text(self.node.as_str())),
            (2, Value::bytes(self.granted)),
            (3, Value::bytes(self.decision)),
            (4, self.over.value()),
        ]))
    }

    fn decode(bytes: &[u8]) -> Result<Self, HoldError> {
        let mut reader = reader(0, bytes)?;
        let due = Self {
            node: reader.text(1, MAX_NAME)?,
            granted: reader.fixed(2)?,
            decision: reader.fixed(3)?,
            over: Over::read(&reader.required(4)?).ok_or_else(malformed)?,
        };
        reader.finish()?;
        Ok(due)
    }

    /// Every containment that is due and was not made.
    ///
    /// # Errors
    /// [`HoldError`]: a broker that cannot tell whom it has to suspend does not start.
    pub fn all(store: &dyn Store) -> Result<Vec<Self>, HoldError> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let read = store.range(&rows::DUE.prefix(), after.as_ref(), READ_AT_ONCE)?;
            let Some((last, _)) = read.last() else { return Ok(all) };
            after = Some(last.clone());
            for (_, row) in read {
                all.push(Self::decode(&row?.value)?);
            }
        }
    }
}

/// Rows read at once.
const READ_AT_ONCE: usize = 256;

fn reader(number: u64, bytes: &[u8]) -> Result<MapReader, HoldError> {
    let value = cbor::decode(bytes, LIMITS).map_err(|error| HoldError::Cbor { number, error })?;
    let mut reader = MapReader::new(value, CONTEXT)?;
    if reader.u64(0)? != FORMAT {
        return Err(ShapeError::member(CONTEXT, "key 0", "format 1", "another").into());
    }
    Ok(reader)
}

fn overs(value: &Value) -> Result<Vec<Over>, HoldError> {
    let items = value.as_array().ok_or_else(malformed)?;
    let items = items.iter().map(|item| Over::read(item).ok_or_else(malformed));
    Ok(items.collect::<Result<_, _>>()?)
}

fn malformed() -> ShapeError {
    ShapeError::member(CONTEXT, "whom it reaches", "[kind, name, region]", "something else")
}

#[cfg(test)]
mod tests {
    use touchstone_policies::Extent;
    use touchstone_store::{Batch, RedbStore};

    use super::*;

    const CLUSTER: Over = Over::Nodes(Extent::Cluster);

    fn due(over: Over) -> Due {
        Due {
            node: "n".into(),
            granted: [1; 16],
            decision: [2; 32],
            over,
        }
    }

    #[test]
    fn rows_come_back_as_written_and_cut_ones_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let store = RedbStore::open(&folder.path().join("store")).unwrap();
        assert_eq!(Due::all(&store), Ok(Vec::new()));
        let region = Over::Nodes(Extent::Region("r".into()));
        let mut reached = Reached::read(&store, "n", [1; 16]).unwrap();
        assert_eq!(reached.over, []);
        reached.add(CLUSTER);
        reached.add(region.clone());
        reached.add(CLUSTER);
        let mut batch = Batch::new();
        let all = [due(CLUSTER), due(region)];
        let writes = [reached.write("n"), all[0].write(), all[1].write()];
        for write in writes {
            let Write::Put(key, value) = write.unwrap() else {
                panic!()
            };
            batch.put(key, value);
        }
        store.commit(batch).unwrap();
        let read = Due::all(&store).unwrap();
        assert!(read.len() == 2 && all.iter().all(|due| read.contains(due)));
        assert_eq!(Reached::read(&store, "n", [1; 16]), Ok(reached.clone()));
        assert_eq!(reached.over.len(), 2);
        let since = Reached::read(&store, "n", [2; 16]).unwrap();
        assert_eq!(since.over, [], "it was granted something since");
        let bytes = all[0].encode();
        for cut in 0..bytes.len() {
            assert!(Due::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut reached = Reached {
            granted: [1; 16],
            over: Vec::new(),
        };
        for n in 0..100 {
            reached.add(Over::Nodes(Extent::Region(n.to_string())));
        }
        let newest = Over::Nodes(Extent::Region("99".into()));
        assert_eq!((reached.over.len(), reached.over.last()), (MAX_REACHED, Some(&newest)));
    }
}
