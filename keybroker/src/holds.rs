//! What is suspended until somebody lifts it: the quarantine of a node or a workload, the containment of a zone or of the
//! whole domain.
//!
//! A hold keeps what it took: the entries stay suspended whatever their nodes show. Meanwhile a node it is over goes on
//! attesting, and is denied for that reason alone; what fails its appraisal falls for good. Lifted, a node gets back by its
//! next good evidence exactly what the hold took below it, and nothing that fell otherwise since. Holds are a row each and
//! are read whole at start.

mod change;
mod reached;
mod room;

use std::collections::{BTreeMap, HashSet};
use std::sync::{PoisonError, RwLock};

use touchstone_authorization::token::StatusIndex;
use touchstone_cose::cbor::{self, CborError, Limits, MapReader, ShapeError, Value};
use touchstone_policies::Extent;
use touchstone_store::{Key, KeyError, Revision, RowFault, Store, StoreError};
use touchstone_verifier::inventory::Node;

pub use change::{coming_back, hold, hold_by, lift};
pub use reached::{Due, Reached};
pub use room::{MAX_HOLDS, MAX_HOLDS_OF_A_DETECTOR, MAX_HOLDS_OF_DETECTORS};

use crate::app::App;
use crate::decision::DenialCode;
use crate::nodes::NodesError;
use crate::parts;
use crate::rows;
use crate::withdraw::set::{self, SetError};

/// For how many seconds a lifted hold is remembered: by then nothing it took counts any more that has not come back.
pub const LIFTED_KEPT_S: i64 = 24 * 3_600;

/// Most lifted holds that are remembered; of more the oldest are forgotten first. What one that is forgotten took comes back
/// by a grant of its own.
pub const MAX_LIFTED: usize = 1_024;

/// Most holds that one command lifts, the oldest first: its statement names each.
pub const MAX_LIFTED_AT_ONCE: usize = 1_024;

/// The key, in [`rows::META`], of the number of the change of holds that was made last: what a grant is decided on.
pub const HOLDS: &[u8] = b"holds";

/// Longest reason and longest name in a hold, in bytes.
pub const MAX_TEXT: usize = 512;

/// The format this release writes. Format 1, which does not say who made a hold, is read as made by command.
const FORMAT: u64 = 2;
const CONTEXT: &str = "hold";
const LIMITS: Limits = Limits {
    max_bytes: 4 * 1024,
    max_depth: 4,
    max_items: 64,
};

/// Who gets nothing while a hold stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Over {
    /// A node, or a workload as `<label>@<node>`.
    Subject(String),
    /// All nodes of a zone, of a region, or of the domain.
    Nodes(Extent),
}

impl Over {
    /// Its kind in statements: "subject", "zone", "region" or "cluster".
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Subject(_) => "subject",
            Self::Nodes(Extent::Zone { .. }) => "zone",
            Self::Nodes(Extent::Region(_)) => "region",
            Self::Nodes(Extent::Cluster) => "cluster",
        }
    }

    /// Whose; empty for the whole domain, and for nodes without a zone.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Subject(name) | Self::Nodes(Extent::Region(name)) => name,
            Self::Nodes(Extent::Zone { zone, .. }) => zone.as_deref().unwrap_or_default(),
            Self::Nodes(Extent::Cluster) => "",
        }
    }

    /// The region a zone is meant in, where it is not meant in all.
    #[must_use]
    pub fn within(&self) -> &str {
        match self {
            Self::Nodes(Extent::Zone { region, .. }) => region.as_deref().unwrap_or_default(),
            _ => "",
        }
    }

    /// Whether it is over this node or workload; `node` is the entry of the node, where policy lists it.
    #[must_use]
    pub fn is_over(&self, subject: &str, node: Option<&Node>) -> bool {
        let name = subject.split_once('@').map_or(subject, |(_, node)| node);
        match self {
            Self::Subject(held) => held == subject || held == name,
            Self::Nodes(extent) => node.map_or(*extent == Extent::Cluster, |node| extent.covers(node)),
        }
    }

    /// Whether a command to lift `commanded` lifts this: a zone in every region, and with the whole domain everything but
    /// quarantines.
    #[must_use]
    pub fn is_lifted_by(&self, commanded: &Self) -> bool {
        match (self, commanded) {
            (
                Self::Nodes(Extent::Zone { zone, .. }),
                Self::Nodes(Extent::Zone {
                    zone: named,
                    region: None,
                }),
            ) => zone == named,
            (Self::Nodes(_), Self::Nodes(Extent::Cluster)) => true,
            _ => self == commanded,
        }
    }

    /// As it is written in statements and rows: [kind, name, region].
    #[must_use]
    pub fn value(&self) -> Value {
        Value::array([self.kind(), self.name(), self.within()].map(Value::text))
    }

    fn read(value: &Value) -> Option<Self> {
        let [kind, name, within] = value.as_array()? else {
            return None;
        };
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let (name, within) = (name.as_text()?, within.as_text()?);
        match (kind.as_text()?, some(name), some(within)) {
            ("subject", Some(name), None) => Some(Self::Subject(name)),
            ("zone", zone, region) => Some(Self::Nodes(Extent::Zone { zone, region })),
            ("region", Some(name), None) => Some(Self::Nodes(Extent::Region(name))),
            ("cluster", None, None) => Some(Self::Nodes(Extent::Cluster)),
            _ => None,
        }
    }
}

/// Who makes a hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Maker {
    /// Somebody who commands.
    Command,
    /// Signed policy, after the failure of a member.
    Failure,
    /// A detector, by its name in signed policy.
    Detector(String),
}

impl Maker {
    fn value(&self) -> Value {
        let (kind, name) = match self {
            Self::Command => ("command", ""),
            Self::Failure => ("failure", ""),
            Self::Detector(name) => ("detector", name.as_str()),
        };
        Value::array([kind, name].map(Value::text))
    }

    fn read(value: &Value) -> Option<Self> {
        let [kind, name] = value.as_array()? else {
            return None;
        };
        match (kind.as_text()?, name.as_text()?) {
            ("command", "") => Some(Self::Command),
            ("failure", "") => Some(Self::Failure),
            ("detector", name) if !name.is_empty() => Some(Self::Detector(name.to_owned())),
            _ => None,
        }
    }
}

/// A hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Its number; none is used twice.
    pub number: u64,
    /// Who gets nothing meanwhile.
    pub over: Over,
    /// Why.
    pub why: String,
    /// SHA-256 of the set it took.
    pub set: [u8; 32],
    /// Since when, Unix seconds.
    pub since: i64,
    /// When it was lifted, Unix seconds.
    pub lifted: Option<i64>,
    /// Whether it is known that nothing else fell of the set: after a stop in disorder it is not, and then each entry comes
    /// back by a grant of its own.
    pub exact: bool,
    /// Who made it.
    pub by: Maker,
}

/// Why what is held cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HoldError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A row of the store.
    #[error(transparent)]
    Row(#[from] RowFault),
    /// A key cannot be made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The set, as a part.
    #[error(transparent)]
    Part(#[from] NodesError),
    /// Not the CBOR this release writes.
    #[error("hold {number}: {error}")]
    Cbor {
        /// Which.
        number: u64,
        /// What is wrong.
        error: CborError,
    },
    /// Another shape.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The set.
    #[error("hold {number}: {error}")]
    Set {
        /// Which.
        number: u64,
        /// What is wrong.
        error: SetError,
    },
    /// The set is not there, or another than was named.
    #[error("hold {number}: its set {} is not there", hex::encode(digest))]
    SetMissing {
        /// Which.
        number: u64,
        /// The digest.
        digest: [u8; 32],
    },
}

impl Hold {
    /// The key of its row.
    #[must_use]
    pub fn key(&self) -> Key {
        rows::HOLD.numbered(self.number)
    }

    /// Its row.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        cbor::encode(&Value::map([
            (0, Value::Unsigned(FORMAT)),
            (1, Value::Unsigned(self.number)),
            (2, self.over.value()),
            (3, Value::text(self.why.as_str())),
            (4, Value::bytes(self.set)),
            (5, Value::int(self.since)),
            (6, self.lifted.map_or(Value::Null, Value::int)),
            (7, Value::Bool(self.exact)),
            (8, self.by.value()),
        ]))
    }

    /// Reads a row.
    ///
    /// # Errors
    /// [`HoldError`]
    pub fn decode(bytes: &[u8]) -> Result<Self, HoldError> {
        let value = cbor::decode(bytes, LIMITS).map_err(|error| HoldError::Cbor { number: 0, error })?;
        let mut reader = MapReader::new(value, CONTEXT)?;
        let format = reader.u64(0)?;
        let wrong = |key: &str, expected: &str| ShapeError::member(CONTEXT, key, expected, "something else");
        if !(1..=FORMAT).contains(&format) {
            return Err(wrong("key 0", "format 1 or 2").into());
        }
        let hold = Self {
            number: reader.u64(1)?,
            over: Over::read(&reader.required(2)?).ok_or_else(|| wrong("key 2", "[kind, name]"))?,
            why: reader.text(3, MAX_TEXT)?,
            set: reader.fixed(4)?,
            since: reader.i64(5)?,
            lifted: match reader.required(6)? {
                Value::Null => None,
                value => Some(value.as_i64().ok_or_else(|| wrong("key 6", "seconds or null"))?),
            },
            exact: reader.bool(7)?,
            by: match format {
                1 => Maker::Command,
                _ => Maker::read(&reader.required(8)?).ok_or_else(|| wrong("key 8", "[kind, name]"))?,
            },
        };
        reader.finish()?;
        Ok(hold)
    }
}

/// Every hold in the store, with its set. What is of another generation holds nothing back.
///
/// # Errors
/// [`HoldError`]: a broker that cannot tell what it holds back does not start.
pub fn load(store: &dyn Store, generation: u32) -> Result<Vec<(Hold, HashSet<StatusIndex>)>, HoldError> {
    let (mut holds, mut after) = (Vec::new(), None);
    loop {
        // Only an empty answer says that there are no more: whoever is passed over here would be let go.
        let read = store.range(&rows::HOLD.prefix(), after.as_ref(), READ_AT_ONCE)?;
        let Some((last, _)) = read.last() else { return Ok(holds) };
        after = Some(last.clone());
        for (key, row) in read {
            let hold = Hold::decode(&row?.value)?;
            if hold.key() != key {
                return Err(ShapeError::member(CONTEXT, "key 1", "the number of the row", "another").into());
            }
            let (number, digest) = (hold.number, hold.set);
            let bytes = parts::read(store, &digest)?.filter(|bytes| set::digest(bytes) == digest);
            let bytes = bytes.ok_or(HoldError::SetMissing { number, digest })?;
            let set = set::decode(&bytes).map_err(|error| HoldError::Set { number, error })?;
            let set = set.into_iter().filter(|entry| entry.generation == generation).collect();
            holds.push((hold, set));
        }
    }
}

/// Rows read at once.
const READ_AT_ONCE: usize = 256;

/// Every entry that a hold which is not lifted keeps back.
#[must_use]
pub fn kept_back<'a>(holds: impl IntoIterator<Item = &'a (Hold, HashSet<StatusIndex>)>) -> HashSet<StatusIndex> {
    let standing = holds.into_iter().filter(|(hold, _)| hold.lifted.is_none());
    standing.flat_map(|(_, set)| set).copied().collect()
}

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
    all: RwLock<BTreeMap<u64, (Hold, HashSet<StatusIndex>)>>,
    /// One changes them at a time.
    changing: tokio::sync::Mutex<()>,
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

    fn read<T>(&self, look: impl FnOnce(&BTreeMap<u64, (Hold, HashSet<StatusIndex>)>) -> T) -> T {
        look(&self.all.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn kept_back(&self) -> HashSet<StatusIndex> {
        self.read(|all| kept_back(all.values()))
    }

    fn put(&self, hold: Hold, set: HashSet<StatusIndex>) {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(hold.number, (hold, set));
    }
}

/// The row that says how often holds were changed, with its revision: a grant is decided on it.
///
/// # Errors
/// [`NodesError`]
pub fn revision(store: &dyn Store) -> Result<(Key, Option<Revision>), NodesError> {
    let key = rows::META.key(HOLDS)?;
    let revision = store.get(&key)?.map(|row| row.revision);
    Ok((key, revision))
}

/// Whether a hold over exactly these stands, and is on record: one that is on its way may not outlive a crash.
#[must_use]
pub fn stands(app: &App, over: &Over) -> bool {
    let standing: Vec<Key> = app.holds.read(|all| {
        let standing = all
            .values()
            .filter(|(hold, _)| hold.lifted.is_none() && hold.over == *over);
        standing.map(|(hold, _)| hold.key()).collect()
    });
    standing.iter().any(|key| matches!(app.store.get(key), Ok(Some(_))))
}

/// The holds that a command to lift `over` lifts, with what they took; at most [`MAX_LIFTED_AT_ONCE`].
#[must_use]
pub fn standing(app: &App, over: &Over) -> Vec<(Hold, HashSet<StatusIndex>)> {
    app.holds.read(|all| {
        let standing = all
            .values()
            .filter(|(hold, _)| hold.lifted.is_none() && hold.over.is_lifted_by(over));
        standing.take(MAX_LIFTED_AT_ONCE).cloned().collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::place;

    fn hold(number: u64, over: Over, lifted: Option<i64>) -> Hold {
        Hold {
            number,
            over,
            why: "odd traffic".into(),
            set: [number as u8; 32],
            since: 100,
            lifted,
            exact: true,
            by: Maker::Command,
        }
    }

    fn places(numbers: &[u64]) -> Vec<StatusIndex> {
        numbers.iter().map(|n| place(*n, 1).unwrap()).collect()
    }

    fn zone(zone: Option<&str>, region: Option<&str>) -> Over {
        let (zone, region) = (zone.map(str::to_owned), region.map(str::to_owned));
        Over::Nodes(Extent::Zone { zone, region })
    }

    const CLUSTER: Over = Over::Nodes(Extent::Cluster);

    #[test]
    fn rows_come_back_as_written_and_cut_ones_do_not() {
        let region = Over::Nodes(Extent::Region("r".into()));
        for over in [
            Over::Subject("a".into()),
            zone(Some("z"), None),
            zone(None, Some("r")),
            region,
            CLUSTER,
        ] {
            for lifted in [None, Some(200)] {
                let hold = hold(3, over.clone(), lifted);
                let bytes = hold.encode();
                assert_eq!(Hold::decode(&bytes), Ok(hold));
                for cut in 0..bytes.len() {
                    assert!(Hold::decode(&bytes[..cut]).is_err(), "cut at {cut}");
                }
            }
        }
        for by in [Maker::Failure, Maker::Detector("monitor".into())] {
            let hold = Hold {
                by,
                ..hold(3, CLUSTER, None)
            };
            assert_eq!(Hold::decode(&hold.encode()), Ok(hold));
        }
        let nameless = Hold {
            over: Over::Subject(String::new()),
            ..hold(1, CLUSTER, None)
        };
        assert!(Hold::decode(&nameless.encode()).is_err());
    }

    #[test]
    fn a_hold_is_over_whom_it_names_and_nobody_else() {
        let node = |zone: Option<&str>| Node {
            name: "n1".into(),
            region: "r".into(),
            zone: zone.map(str::to_owned),
            ..Node::default()
        };
        let (in_a, in_none) = (node(Some("a")), node(None));
        for (over, subject, place, expected) in [
            (Over::Subject("n1".into()), "n1", None, true),
            (Over::Subject("n1".into()), "x@n1", None, true),
            (Over::Subject("n1".into()), "n10", None, false),
            (Over::Subject("x@n1".into()), "x@n1", None, true),
            (Over::Subject("x@n1".into()), "n1", None, false),
            (Over::Subject("x@n1".into()), "y@n1", None, false),
            (zone(Some("a"), None), "n1", Some(&in_a), true),
            (zone(Some("b"), None), "n1", Some(&in_a), false),
            (zone(Some("a"), Some("other")), "n1", Some(&in_a), false),
            (zone(Some("a"), None), "n1", Some(&in_none), false),
            (zone(Some("a"), None), "n1", None, false),
            (Over::Nodes(Extent::Region("r".into())), "n1", Some(&in_none), true),
            (CLUSTER, "n1", None, true),
            (CLUSTER, "x@n1", Some(&in_a), true),
        ] {
            assert_eq!(over.is_over(subject, place), expected, "{over:?} {subject}");
        }
    }

    #[test]
    fn a_lift_lifts_what_it_names() {
        let node = Over::Subject("n".into());
        for (standing, commanded, expected) in [
            (&node, &node, true),
            (&node, &CLUSTER, false),
            (&CLUSTER, &node, false),
            (&CLUSTER, &CLUSTER, true),
            (&zone(Some("a"), Some("r")), &zone(Some("a"), None), true),
            (&zone(Some("a"), None), &zone(Some("b"), None), false),
            (&zone(Some("a"), None), &CLUSTER, true),
            (&zone(None, Some("r")), &CLUSTER, true),
            (&Over::Nodes(Extent::Region("r".into())), &CLUSTER, true),
            (&Over::Nodes(Extent::Region("r".into())), &zone(Some("a"), None), false),
            (&CLUSTER, &zone(Some("a"), None), false),
        ] {
            assert_eq!(
                standing.is_lifted_by(commanded),
                expected,
                "{standing:?} by {commanded:?}"
            );
        }
    }

    #[test]
    fn rows_of_the_release_before_are_holds_by_command() {
        let hold = hold(3, CLUSTER, None);
        let Value::Map(members) = cbor::decode(&hold.encode(), LIMITS).unwrap() else {
            panic!()
        };
        let before = members.into_iter().filter(|(key, _)| *key != Value::Unsigned(8));
        let before = before.map(|(key, value)| match key {
            Value::Unsigned(0) => (key, Value::Unsigned(1)),
            _ => (key, value),
        });
        let bytes = cbor::encode(&Value::Map(before.collect()));
        assert_eq!(Hold::decode(&bytes), Ok(hold));
    }

    #[test]
    fn every_hold_is_read_however_many_there_are() {
        let folder = tempfile::tempdir().unwrap();
        let store = touchstone_store::RedbStore::open(&folder.path().join("store")).unwrap();
        let bytes = set::encode(&[]);
        let digest = set::digest(&bytes);
        let mut batch = touchstone_store::Batch::new();
        for (key, value) in parts::writes(&digest, &bytes).unwrap() {
            batch.put(key, value);
        }
        // More than the store gives in one answer.
        for number in 1..=touchstone_store::MAX_RANGE_ROWS as u64 + 5 {
            let hold = Hold {
                set: digest,
                ..hold(number, CLUSTER, None)
            };
            batch.put(hold.key(), hold.encode());
        }
        store.commit(batch).unwrap();
        let read = load(&store, 1).unwrap();
        let numbers: Vec<u64> = read.iter().map(|(hold, _)| hold.number).collect();
        assert_eq!(
            numbers,
            (1..=touchstone_store::MAX_RANGE_ROWS as u64 + 5).collect::<Vec<_>>()
        );
    }

    #[test]
    fn what_comes_back_was_taken_by_a_lifted_hold_and_is_kept_by_none() {
        let set = |numbers: &[u64]| places(numbers).into_iter().collect::<HashSet<_>>();
        let of = |holds: Vec<(Hold, HashSet<StatusIndex>)>| Holds::new(holds).coming_back(|| places(&[1, 2, 3, 4]));
        let lifted = (hold(1, Over::Subject("n".into()), Some(200)), set(&[1, 2]));
        assert_eq!(of(vec![lifted.clone()]), places(&[1, 2]));
        let standing = (hold(2, CLUSTER, None), set(&[2, 3]));
        assert_eq!(
            of(vec![lifted.clone(), standing.clone()]),
            places(&[1]),
            "another hold keeps it"
        );
        assert_eq!(of(vec![standing]), [], "nothing is lifted");
        let mut inexact = lifted;
        inexact.0.exact = false;
        assert_eq!(of(vec![inexact]), [], "after a stop in disorder each shows itself");
    }
}
