//! What is asked of a history: which entries a name means, and what hangs below them.

use std::collections::BTreeSet;

use touchstone_ledger::statement::Reason;

use super::{Event, History, OffLine, State, Told};
use crate::lineage::entry::Entry;

/// What a name means in a history. One name may mean several things; who asks says which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Named {
    /// `cti` of an authorization, in hexadecimal.
    Id,
    /// A node, or `<label>@<node>`.
    Subject,
    /// A key that was released to it.
    Key,
    /// A reference that its evidence matched.
    Reference,
}

impl Named {
    /// Every meaning.
    pub const ALL: &'static [Self] = &[Self::Id, Self::Subject, Self::Key, Self::Reference];

    /// Its name in commands.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::Subject => "subject",
            Self::Key => "key",
            Self::Reference => "reference",
        }
    }
}

/// An entry and everything that hangs below it, as it was at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// The entry.
    pub entry: Entry,
    /// "valid", "suspended", "revoked", "expired", "superseded" or "freed".
    pub state: &'static str,
    /// Since when, Unix seconds.
    pub since: i64,
    /// Why it does not count, where it was taken away.
    pub reasons: Vec<Reason>,
    /// The epoch under which it fell.
    pub epoch: Option<u64>,
    /// References that its evidence matched.
    pub references: Vec<String>,
    /// What happened to it, oldest first.
    pub events: Vec<Event>,
    /// Events that are left out.
    pub left_out: u64,
    /// What was handed on off-line below it, as far as enforcers reported it, and its state.
    pub offline: Vec<(OffLine, &'static str)>,
    /// Who rests on it without hanging below it.
    pub dependants: Vec<String>,
    /// What hangs below it.
    pub children: Vec<Tree>,
}

impl History {
    /// What `name` means here.
    #[must_use]
    pub fn meanings(&self, name: &str) -> Vec<Named> {
        let mut all = Named::ALL.to_vec();
        let refused = |named: &Named| *named == Named::Subject && self.refused(name).is_some();
        all.retain(|named| !self.places(*named, name).is_empty() || refused(named));
        all
    }

    /// The trees of what `name` means, each under its entry alone; an entry that is below another one of them is not shown
    /// twice. As of `now`, Unix seconds.
    #[must_use]
    pub fn trees(&self, named: Named, name: &str, now: i64) -> Vec<Tree> {
        let places = self.places(named, name);
        let statuses: BTreeSet<_> = places
            .iter()
            .filter_map(|at| self.told.get(*at))
            .filter(|told| !told.freed)
            .map(|told| told.entry.status)
            .collect();
        let is_below = |told: &Told| {
            let above = self.graph.above(&told.entry.status);
            above.iter().any(|above| statuses.contains(above))
        };
        places
            .iter()
            .filter_map(|at| Some((*at, self.told.get(*at)?)))
            .filter(|(_, told)| told.freed || !is_below(told))
            .map(|(at, told)| self.tree(at, told, now))
            .collect()
    }

    fn places(&self, named: Named, name: &str) -> Vec<usize> {
        match named {
            Named::Id => {
                let mut id = [0; 16];
                let read = hex::decode_to_slice(name, &mut id);
                let at = read.ok().and_then(|()| self.by_id.get(&id));
                at.copied().into_iter().collect()
            }
            Named::Subject => self.by_subject.get(name).cloned().unwrap_or_default(),
            Named::Key => self.by_key.get(name).into_iter().flatten().copied().collect(),
            Named::Reference => self.by_reference.get(name).into_iter().flatten().copied().collect(),
        }
    }

    fn tree(&self, at: usize, told: &Told, now: i64) -> Tree {
        let status = &told.entry.status;
        let (children, dependants) = if told.freed {
            Default::default()
        } else {
            (self.graph.below(status), self.graph.dependants(status))
        };
        let of = |entry| {
            let at = *self.at.get(&entry)?;
            Some((at, self.told.get(at)?))
        };
        let subject = |told: &Told| told.entry.subject.clone();
        let state = self.state(at, told, now);
        Tree {
            entry: told.entry.clone(),
            state,
            offline: told
                .offline
                .iter()
                .map(|link| (link.clone(), offline_state(told, link, state, now)))
                .collect(),
            since: told.since,
            reasons: told.reasons.clone(),
            epoch: told.epoch,
            references: told.references.iter().cloned().collect(),
            events: told.events.kept.clone(),
            left_out: told.events.left_out,
            dependants: dependants
                .into_iter()
                .filter_map(of)
                .map(|(_, told)| subject(told))
                .collect(),
            // A child is one deeper than its parent, and depth has a limit.
            children: children
                .into_iter()
                .filter_map(of)
                .map(|(at, told)| self.tree(at, told, now))
                .collect(),
        }
    }

    fn state(&self, at: usize, told: &Told, now: i64) -> &'static str {
        let over = i64::try_from(told.entry.expires).is_ok_and(|end| end <= now);
        let last = self.by_subject.get(&told.entry.subject).and_then(|of| of.last());
        match told.state {
            _ if told.freed => "freed",
            State::Revoked => "revoked",
            State::Suspended => "suspended",
            State::Valid if told.entry.parent.is_none() && last != Some(&at) => "superseded",
            State::Valid if over => "expired",
            State::Valid => "valid",
        }
    }
}

/// What became of an off-line link: it falls with what it hangs below, and ends by itself.
fn offline_state(told: &Told, link: &OffLine, entry: &'static str, now: i64) -> &'static str {
    let mut at = Some(link);
    // A chain has few links, and each was told after the one above it.
    for _ in 0..=told.offline.len() {
        match at {
            Some(link) if link.revoked => return "revoked",
            Some(link) => at = told.offline.iter().find(|above| Some(above.id) == link.above),
            None => break,
        }
    }
    let over = i64::try_from(link.expires).is_ok_and(|end| end <= now);
    match entry {
        "valid" if over => "expired",
        entry => entry,
    }
}
