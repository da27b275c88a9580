//! Lineage: which authorization hangs below which, so that what falls takes with it exactly what rests on it.
//!
//! An entry of the lineage is a status entry, kept through renewals. A node's is a root; what a workload holds hangs below
//! its node, what it hands on hangs below that; and an entry may depend on others besides. The graph is in memory, one row
//! an entry in the store ([`crate::rows::LINEAGE`]), written in the commit of the grant and read once at start. A
//! withdrawal writes no row of it: status pages say what counts (`docs/protocol.md`, section 7).
//!
//! [`Lineage::fall`] is where a cascade is cut out: the set is computed and goes out under one lock, and no grant is taken
//! into a commit while that lock is held. So a child is either in the set, or finds its parent fallen and is refused.

pub mod entry;
pub mod free;
pub mod graph;
pub mod history;
pub mod load;

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use touchstone_authorization::Scope;
use touchstone_authorization::token::StatusIndex;

pub use entry::{Dependency, Entry, Link};
pub use graph::{Graph, LineageError};

/// Where an entry stands in the body of the statement of its grant, as [`Entry::value`] makes it: in statements about
/// workloads and delegations. Those about nodes say the same in members of their own.
pub const BODY_LINEAGE: i64 = 20;

/// What a grant does to the lineage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Growth {
    /// The entry, as it is from then on.
    pub entry: Entry,
    /// Whether the subject holds it already, and it is renewed; otherwise its place is new.
    pub renews: bool,
}

/// The lineage of a running broker; one of it in a process.
#[derive(Debug, Default)]
pub struct Lineage {
    graph: Mutex<Graph>,
}

/// What a subject is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Id<'a> {
    /// `cti` of one of its last authorizations.
    Authorization(&'a [u8; 16]),
    /// A node's name, or `<label>@<node>`.
    Subject(&'a str),
}

/// Scopes as an entry keeps them: one space between two, and no more of them than [`entry::MAX_SCOPES`] bytes hold.
#[must_use]
pub fn scopes_text(scopes: &[Scope]) -> String {
    let mut text = String::new();
    for scope in scopes.iter().map(ToString::to_string) {
        let room = entry::MAX_SCOPES.saturating_sub(text.len());
        if scope.len() < room {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(&scope);
        }
    }
    text
}

impl Lineage {
    /// A lineage of these entries.
    #[must_use]
    pub const fn new(graph: Graph) -> Self {
        Self {
            graph: Mutex::new(graph),
        }
    }

    /// Everything that falls with `roots`, without them: what hangs below one, depends on one, or so on from there; by
    /// ascending number, each once.
    #[must_use]
    pub fn descendants(&self, roots: &[StatusIndex]) -> Vec<StatusIndex> {
        let mut found = self.lock().closure(roots);
        let roots: HashSet<&StatusIndex> = roots.iter().collect();
        found.retain(|entry| !roots.contains(entry));
        found
    }

    /// Lets `roots` fall: `take` is given them and everything that falls with them, by ascending number, and takes it out
    /// at once ([`crate::trust::Trust::withdraw`]). Nothing is granted below any of it from this moment on: whoever is
    /// being granted something is in the set, or is refused at its commit. `take` must not come back here.
    pub fn fall<T>(&self, roots: &[StatusIndex], take: impl FnOnce(&[StatusIndex]) -> T) -> T {
        self.fall_found(|_| roots.to_vec(), |_, set| take(set))
    }

    /// The same, where the roots are looked up under the same lock: whoever is granted something under a name is among those
    /// of that name, or is granted it after they have fallen. `take` is given them first.
    pub fn fall_found<T>(
        &self,
        find: impl FnOnce(&Graph) -> Vec<StatusIndex>,
        take: impl FnOnce(&[StatusIndex], &[StatusIndex]) -> T,
    ) -> T {
        let graph = self.lock();
        let roots = find(&graph);
        take(&roots, &graph.closure(&roots))
    }

    /// The entry of a subject, or of an authorization.
    #[must_use]
    pub fn find(&self, id: Id<'_>) -> Option<Entry> {
        let graph = self.lock();
        let status = match id {
            Id::Authorization(cti) => graph.by_id(cti)?,
            Id::Subject(subject) => graph.by_subject(subject)?,
        };
        graph.get(&status)
    }

    /// The entry at this place.
    #[must_use]
    pub fn get(&self, status: &StatusIndex) -> Option<Entry> {
        self.lock().get(status)
    }

    /// Reads the graph as it is now; nothing is granted meanwhile.
    pub fn read<T>(&self, look: impl FnOnce(&Graph) -> T) -> T {
        look(&self.lock())
    }

    /// Takes a granted entry in, if `stands` finds nothing that speaks against it. Only the sequencer does this, as it
    /// takes the grant into a commit.
    ///
    /// # Errors
    /// What `stands` says, or [`LineageError`] in words: nothing is changed, and the grant is refused.
    pub fn grow(&self, growth: &Growth, stands: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
        let mut graph = self.lock();
        graph
            .check(&growth.entry, growth.renews)
            .map_err(|error| error.to_string())?;
        stands()?;
        let grown = if growth.renews {
            graph.renew(&growth.entry)
        } else {
            graph.insert(&growth.entry)
        };
        grown.map_err(|error| error.to_string())
    }

    /// Takes these entries out, if all of them are over still ([`Graph::are_over`]) and nothing is `falling`; `false`, and nothing
    /// is changed, where one was renewed since, or something was hung below it, or where a withdrawal is on its way that
    /// may name one. Only the sequencer does this, as it takes it into a commit.
    #[must_use]
    pub fn free(&self, entries: &[StatusIndex], now: u64, margin: u64, falling: impl FnOnce() -> bool) -> bool {
        let mut graph = self.lock();
        if falling() {
            return false;
        }
        if !graph.are_over(entries, now, margin) {
            return false;
        }
        for entry in entries {
            graph.remove(entry);
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, Graph> {
        // A change is checked whole before it begins, so a panic elsewhere leaves the graph usable.
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
