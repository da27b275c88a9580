//! The lineage as the ledger tells it: folded from statements alone, so that anybody who has checked the ledger can say
//! which authorization hung below which at any time, what it was used for, and what it fell with.
//!
//! A withdrawal's statement names its roots, and the digest of the set that it took. The set is computed here anew, from
//! the edges that the statements before it made; where the digests differ, the broker took more or less than what hung
//! below, and that is a [`Flaw`]. Pure: no store, no clock.

mod acts;
mod events;
mod falls;
mod grants;
mod tree;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use touchstone_authorization::token::StatusIndex;
use touchstone_ledger::statement::{Kind, Reason, Statement};

pub use events::Refused;
use events::{Events, RefusedSubjects};
pub use tree::{Named, Tree};

use super::entry::Entry;
use super::graph::Graph;

/// Events kept of one entry; of more, the first and the last stay, and how many there were.
pub const MAX_EVENTS: usize = 256;

/// Subjects kept that were refused and never granted anything; of more, the newest.
pub const MAX_REFUSED: usize = 65_536;

/// Events kept of each of them.
pub const MAX_REFUSED_EVENTS: usize = 16;

/// Off-line links kept of one entry, the newest.
pub const MAX_OFFLINE: usize = 256;

/// Flaws kept; of more, only their number.
pub const MAX_FLAWS: usize = 64;

/// What became of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It counts, until it ends.
    Valid,
    /// It does not count until it is lifted.
    Suspended,
    /// It never counts again.
    Revoked,
}

/// What was handed on off-line below an entry, as an enforcer reported it at its first use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffLine {
    /// Its 16-byte id.
    pub id: [u8; 16],
    /// The id of the link that it hangs below; none where it hangs below the entry itself.
    pub above: Option<[u8; 16]>,
    /// Its label.
    pub label: String,
    /// Its scopes, one space between two.
    pub scopes: String,
    /// Its end, Unix seconds.
    pub expires: u64,
    /// Revoked by its own id.
    pub revoked: bool,
}

/// Something that the ledger says of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The index of the statement; of several in a row that say the same, the first.
    pub first: u64,
    /// The last of them.
    pub last: u64,
    /// How many they are.
    pub times: u64,
    /// The time of the last, Unix seconds.
    pub time: i64,
    /// What happened: a kind of statement, with the outcome where it is a denial.
    pub what: String,
    /// More of it.
    pub detail: String,
}

/// What the ledger says and cannot be so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flaw {
    /// The index of the statement.
    pub index: u64,
    /// What is wrong with it.
    pub what: String,
}

/// One entry, as told.
#[derive(Debug, Clone)]
struct Told {
    entry: Entry,
    state: State,
    /// Since when, and the reasons of the statement that made it so.
    since: i64,
    reasons: Vec<Reason>,
    /// The epoch under which it fell.
    epoch: Option<u64>,
    freed: bool,
    /// The broker stopped in disorder since its last grant: it comes back by a grant of its own only.
    interrupted: bool,
    references: BTreeSet<String>,
    offline: Vec<OffLine>,
    events: Events,
}

/// The lineage up to some time.
#[derive(Debug, Default)]
pub struct History {
    told: Vec<Told>,
    /// Who holds a place now.
    at: HashMap<StatusIndex, usize>,
    graph: Graph,
    by_id: HashMap<[u8; 16], usize>,
    by_subject: HashMap<String, Vec<usize>>,
    /// Who was refused and holds nothing.
    refused: RefusedSubjects,
    by_key: BTreeMap<String, BTreeSet<usize>>,
    by_reference: BTreeMap<String, BTreeSet<usize>>,
    /// What was suspended, by the digest of the set, and whether that was lifted.
    holds: BTreeMap<[u8; 32], (HashSet<StatusIndex>, bool)>,
    generation: u32,
    flaws: Vec<Flaw>,
    more_flaws: u64,
}

impl History {
    /// Takes the next statement of the ledger in; in order, from the first on.
    pub fn apply(&mut self, index: u64, statement: &Statement) {
        let done = match statement.kind {
            Kind::Genesis => self.genesis(statement),
            Kind::Enrolment | Kind::Attestation | Kind::Renewal => self.node(index, statement),
            Kind::WorkloadAuthorization | Kind::Delegation => self.workload(index, statement),
            Kind::KeyRelease => self.release(index, statement),
            Kind::FederatedAuthorization => self.foreign(index, statement),
            Kind::Revocation | Kind::Quarantine | Kind::Containment => self.fall(index, statement),
            Kind::Lift => self.lift(index, statement),
            Kind::StatusFreed => self.free(index, statement),
            Kind::Interruption => self.interrupted(index, statement),
            Kind::ChainReport => self.chain(index, statement),
            Kind::UseReport => self.uses(index, statement),
            Kind::Command => self.command(index, statement),
            _ => {
                self.mention(index, statement);
                Some(())
            }
        };
        if done.is_none() {
            let what = format!("a {} statement of another shape", statement.kind.as_str());
            self.flaw(index, what);
        }
    }

    /// Whatever the ledger says that cannot be so, and how many more there are.
    #[must_use]
    pub fn flaws(&self) -> (&[Flaw], u64) {
        (&self.flaws, self.more_flaws)
    }

    fn flaw(&mut self, index: u64, what: String) {
        if self.flaws.len() < MAX_FLAWS {
            self.flaws.push(Flaw { index, what });
        } else {
            self.more_flaws += 1;
        }
    }

    fn genesis(&mut self, statement: &Statement) -> Option<()> {
        self.generation = statement.body.get(1)?.as_u64()?.try_into().ok()?;
        Some(())
    }
}

#[cfg(test)]
mod tests;
