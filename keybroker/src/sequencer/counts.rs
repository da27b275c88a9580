//! What an entry rests on must count at the commit: whatever was decided before, the trust state as it is then says so.

use touchstone_authorization::token::StatusIndex;
use touchstone_authorization::{Status, StatusLists};

use super::Running;
use crate::lineage;

impl Running {
    /// Whether an entry may be granted: it was not taken since, and everything it rests on counts.
    pub(super) fn stands(&self, entry: &lineage::Entry) -> Result<(), String> {
        let lists = self.s.trust.lists();
        if self.s.trust.is_kept_back(&entry.status) {
            return Err("its status entry is kept back".to_owned());
        }
        if is_revoked(&lists, &entry.status) {
            return Err("its status entry was revoked".to_owned());
        }
        let generation = self.s.trust.generation();
        let rests_on = entry
            .parent
            .iter()
            .chain(entry.depends_on.iter().map(|dependency| &dependency.on));
        for on in rests_on {
            let found = status(&lists, on);
            if found != Some(Status::Valid) || on.generation != generation {
                return Err(format!("{on:?}, on which it rests, is {found:?}"));
            }
        }
        Ok(())
    }

    /// Whether these entries count, and everything that they rest on: looked at as it is now, while nothing of the lineage
    /// falls or is granted. An entry that nobody knows does not count.
    pub(super) fn count(&self, entries: &[StatusIndex]) -> Result<(), String> {
        let generation = self.s.trust.generation();
        self.s.lineage.read(|graph| {
            let lists = self.s.trust.lists();
            for entry in entries {
                let known = graph.get(entry).ok_or_else(|| format!("{entry:?} is not known"))?;
                // What falls takes with it all that depends on it, however far: the nearest are looked at again.
                let above = graph.above(entry).into_iter();
                let rests_on = above.chain(known.depends_on.iter().map(|dependency| dependency.on));
                for on in std::iter::once(*entry).chain(rests_on) {
                    let found = status(&lists, &on);
                    if found != Some(Status::Valid) || on.generation != generation {
                        return Err(format!("{on:?}, on which it rests, is {found:?}"));
                    }
                    if self.s.trust.is_kept_back(&on) {
                        return Err(format!("{on:?}, on which it rests, is kept back"));
                    }
                }
            }
            Ok(())
        })
    }
}

/// Whether an entry was revoked.
pub(super) fn is_revoked(lists: &StatusLists, entry: &StatusIndex) -> bool {
    status(lists, entry) == Some(Status::Invalid)
}

fn status(lists: &StatusLists, entry: &StatusIndex) -> Option<Status> {
    lists.get(entry.list).and_then(|list| list.status(entry.index))
}
