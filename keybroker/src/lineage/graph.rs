//! The graph itself: which entry hangs below which, and what falls with it. Pure: no store, no clock.
//!
//! An entry has one parent, which was there before it, and keeps it, so what hangs below what is a forest. Beside that
//! it may rest on other entries, which were there before it too; a renewal may add one, unless that rests on the entry
//! itself. Walks remember where they have been, so even a graph with a loop would end.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use touchstone_authorization::token::StatusIndex;

use super::entry::{Dependency, Entry, Link, MAX_SCOPES, MAX_SUBJECT};
use crate::trust::{number, place};

/// Entries that are held at once, dead ones that are not freed yet among them.
pub const MAX_ENTRIES: usize = 1 << 20;

/// How far below a node an entry may hang, whatever policy says. What is delegated off-line comes on top.
pub const MAX_DEPTH: u8 = 16;

/// Entries directly below one, whatever policy says.
pub const MAX_CHILDREN: usize = 4_096;

/// Entries that one may rest on beside its parent.
pub const MAX_DEPENDENCIES: usize = 16;

/// Entries that may rest on one which is not their parent.
pub const MAX_DEPENDANTS: usize = 4_096;

/// Ids of authorizations by which an entry is found: those of its last renewals, all that can be alive.
pub const KEPT_IDS: usize = 4;

/// Why an entry is not taken into the lineage. Nothing is granted then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LineageError {
    /// Its place is in use, or its number is none.
    #[error("status entry {0:?} is in use or none")]
    Taken(StatusIndex),
    /// A renewal of an entry that is not held: it was freed meanwhile.
    #[error("status entry {0:?} is not held any more")]
    NotHeld(StatusIndex),
    /// Its parent is not held.
    #[error("the parent {0:?} is not held")]
    ParentMissing(StatusIndex),
    /// It would be valid for longer than its parent.
    #[error("it ends at {found}, its parent at {expected}")]
    Outlives {
        /// When the parent ends, Unix seconds.
        expected: u64,
        /// When it would end.
        found: u64,
    },
    /// Its depth is not one more than its parent's, or a node's is not 0.
    #[error("it says depth {found}, and is at {expected}")]
    Depth {
        /// The depth by its parent.
        expected: u32,
        /// The depth it says.
        found: u8,
    },
    /// Deeper than [`MAX_DEPTH`].
    #[error("deeper than {MAX_DEPTH} below a node")]
    TooDeep,
    /// Its parent has [`MAX_CHILDREN`] already.
    #[error("the parent has {MAX_CHILDREN} entries below it")]
    TooManyChildren,
    /// It rests on more than [`MAX_DEPENDENCIES`].
    #[error("it rests on more than {MAX_DEPENDENCIES} others")]
    TooManyDependencies,
    /// More than [`MAX_DEPENDANTS`] would rest on one.
    #[error("{MAX_DEPENDANTS} entries rest on {0:?}")]
    TooManyDependants(StatusIndex),
    /// What it rests on is not held.
    #[error("what it depends on, {0:?}, is not held")]
    DependencyMissing(StatusIndex),
    /// It would rest on itself.
    #[error("what it depends on, {0:?}, rests on it")]
    Loop(StatusIndex),
    /// A renewal under another parent.
    #[error("it hangs below {expected:?}, not {found:?}")]
    OtherParent {
        /// The parent it has.
        expected: Option<StatusIndex>,
        /// The one it names.
        found: Option<StatusIndex>,
    },
    /// A renewal for another subject.
    #[error("it is {expected}, not {found}")]
    OtherSubject {
        /// Whose it is.
        expected: String,
        /// Whose it says it is.
        found: String,
    },
    /// A subject or scopes over their limit.
    #[error("{member} has {found} bytes, the limit is {limit}")]
    TooLong {
        /// Which.
        member: &'static str,
        /// The limit.
        limit: usize,
        /// The length.
        found: usize,
    },
    /// [`MAX_ENTRIES`] are held.
    #[error("{MAX_ENTRIES} entries are held")]
    Full,
}

#[derive(Debug)]
struct Held {
    status: StatusIndex,
    parent: Option<u32>,
    children: Vec<u32>,
    rests_on: Vec<(u32, Link)>,
    dependants: Vec<u32>,
    /// The newest last.
    ids: Vec<[u8; 16]>,
    depth: u8,
    expires: u64,
    subject: Box<str>,
    scopes: Box<str>,
}

/// Every entry that is dealt out and not freed.
#[derive(Debug, Default)]
pub struct Graph {
    /// By number.
    slots: Vec<Option<Box<Held>>>,
    held: usize,
    by_id: HashMap<[u8; 16], u32>,
    /// The entry that was granted last to each subject.
    by_subject: HashMap<Box<str>, u32>,
}

impl Graph {
    /// Whether [`Graph::insert`], or [`Graph::renew`] for one that `renews`, would take this entry.
    ///
    /// # Errors
    /// [`LineageError`]
    pub fn check(&self, entry: &Entry, renews: bool) -> Result<(), LineageError> {
        let texts = [
            ("subject", MAX_SUBJECT, entry.subject.len()),
            ("scopes", MAX_SCOPES, entry.scopes.len()),
        ];
        if let Some((member, limit, found)) = texts.into_iter().find(|(_, limit, found)| found > limit) {
            return Err(LineageError::TooLong { member, limit, found });
        }
        let held = self.held(&entry.status);
        match (renews, held) {
            (true, None) => return Err(LineageError::NotHeld(entry.status)),
            (true, Some(held)) => self.check_renewal(held, entry)?,
            (false, _) => self.check_new(entry)?,
        }
        let below = held.and_then(|held| held.parent).and_then(|parent| self.at(parent));
        let parent = match entry.parent {
            None => None,
            Some(parent) => Some(
                below
                    .or_else(|| self.held(&parent))
                    .ok_or(LineageError::ParentMissing(parent))?,
            ),
        };
        let expected = parent.map_or(0, |parent| u32::from(parent.depth) + 1);
        if u32::from(entry.depth) != expected {
            let found = entry.depth;
            return Err(LineageError::Depth { expected, found });
        }
        if entry.depth > MAX_DEPTH {
            return Err(LineageError::TooDeep);
        }
        if let Some(parent) = parent.filter(|parent| entry.expires > parent.expires) {
            let (expected, found) = (parent.expires, entry.expires);
            return Err(LineageError::Outlives { expected, found });
        }
        if !renews && parent.is_some_and(|parent| parent.children.len() >= MAX_CHILDREN) {
            return Err(LineageError::TooManyChildren);
        }
        self.check_dependencies(entry, held)
    }

    fn check_new(&self, entry: &Entry) -> Result<(), LineageError> {
        let at = number(&entry.status);
        let is_place = place(at, entry.status.generation) == Some(entry.status);
        if !is_place || self.at(slot(at)).is_some() {
            return Err(LineageError::Taken(entry.status));
        }
        if self.held >= MAX_ENTRIES {
            return Err(LineageError::Full);
        }
        Ok(())
    }

    fn check_renewal(&self, held: &Held, entry: &Entry) -> Result<(), LineageError> {
        let expected = held
            .parent
            .and_then(|parent| self.at(parent))
            .map(|parent| parent.status);
        if entry.parent != expected {
            let found = entry.parent;
            return Err(LineageError::OtherParent { expected, found });
        }
        if *entry.subject != *held.subject {
            let (expected, found) = (held.subject.to_string(), entry.subject.clone());
            return Err(LineageError::OtherSubject { expected, found });
        }
        Ok(())
    }

    fn check_dependencies(&self, entry: &Entry, held: Option<&Held>) -> Result<(), LineageError> {
        let has = |n: u32| held.is_some_and(|held| held.rests_on.iter().any(|(on, _)| *on == n));
        let mut new = Vec::new();
        for Dependency { on, .. } in &entry.depends_on {
            let n = slot(number(on));
            if *on == entry.status {
                return Err(LineageError::Loop(*on));
            }
            let dependency = self.held(on).ok_or(LineageError::DependencyMissing(*on))?;
            if has(n) || new.contains(&n) {
                continue;
            }
            if dependency.dependants.len() >= MAX_DEPENDANTS {
                return Err(LineageError::TooManyDependants(*on));
            }
            new.push(n);
        }
        let kept = held.map_or(0, |held| held.rests_on.len());
        if kept + new.len() > MAX_DEPENDENCIES {
            return Err(LineageError::TooManyDependencies);
        }
        if held.is_some() && !new.is_empty() {
            let below = self.closure(&[entry.status]);
            let looped = |on: &&Dependency| below.binary_search_by_key(&number(&on.on), number).is_ok();
            if let Some(dependency) = entry.depends_on.iter().find(looped) {
                return Err(LineageError::Loop(dependency.on));
            }
        }
        Ok(())
    }

    /// Takes a new entry in.
    ///
    /// # Errors
    /// [`LineageError`]: nothing is changed.
    pub fn insert(&mut self, entry: &Entry) -> Result<(), LineageError> {
        self.check(entry, false)?;
        let n = slot(number(&entry.status));
        let parent = entry.parent.map(|parent| slot(number(&parent)));
        let held = Held {
            status: entry.status,
            parent,
            children: Vec::new(),
            rests_on: Vec::new(),
            dependants: Vec::new(),
            ids: Vec::new(),
            depth: entry.depth,
            expires: 0,
            subject: entry.subject.as_str().into(),
            scopes: "".into(),
        };
        if self.slots.len() <= n as usize {
            self.slots.resize_with(n as usize + 1, || None);
        }
        if let Some(slot) = self.slots.get_mut(n as usize) {
            *slot = Some(Box::new(held));
            self.held += 1;
        }
        if let Some(parent) = parent.and_then(|parent| self.at_mut(parent)) {
            parent.children.push(n);
        }
        self.refresh(n, entry);
        Ok(())
    }

    /// Takes over what a renewal changes: id, scopes, a later end, and what it rests on besides. What it rested on before
    /// stays.
    ///
    /// # Errors
    /// [`LineageError`]: nothing is changed.
    pub fn renew(&mut self, entry: &Entry) -> Result<(), LineageError> {
        self.check(entry, true)?;
        self.refresh(slot(number(&entry.status)), entry);
        Ok(())
    }

    fn refresh(&mut self, n: u32, entry: &Entry) {
        self.by_subject.insert(entry.subject.as_str().into(), n);
        self.by_id.insert(entry.cti, n);
        let mut gone = None;
        let mut new = Vec::new();
        if let Some(held) = self.at_mut(n) {
            if held.ids.last() != Some(&entry.cti) {
                held.ids.push(entry.cti);
            }
            if held.ids.len() > KEPT_IDS {
                gone = Some(held.ids.remove(0));
            }
            held.expires = held.expires.max(entry.expires);
            held.scopes = entry.scopes.as_str().into();
            for Dependency { on, why } in &entry.depends_on {
                let on = slot(number(on));
                if held.rests_on.iter().all(|(has, _)| *has != on) {
                    held.rests_on.push((on, *why));
                    new.push(on);
                }
            }
        }
        for on in new {
            if let Some(dependency) = self.at_mut(on) {
                dependency.dependants.push(n);
            }
        }
        if let Some(id) = gone {
            self.by_id.remove(&id);
        }
    }

    /// Makes an entry the one that its subject was granted last; at start, where entries come in no order of time.
    pub(super) fn is_latest(&mut self, status: &StatusIndex) {
        if let Some(subject) = self.held(status).map(|held| held.subject.clone()) {
            self.by_subject.insert(subject, slot(number(status)));
        }
    }

    /// Takes an entry out. Whatever hung below it, or rested on it, must be taken out too.
    pub fn remove(&mut self, status: &StatusIndex) {
        let n = slot(number(status));
        if self.held(status).is_none() {
            return;
        }
        let Some(held) = self.slots.get_mut(n as usize).and_then(Option::take) else {
            return;
        };
        self.held -= 1;
        for id in &held.ids {
            self.by_id.remove(id);
        }
        if self.by_subject.get(&held.subject) == Some(&n) {
            self.by_subject.remove(&held.subject);
        }
        if let Some(parent) = held.parent.and_then(|parent| self.at_mut(parent)) {
            parent.children.retain(|child| *child != n);
        }
        for (on, _) in &held.rests_on {
            if let Some(dependency) = self.at_mut(*on) {
                dependency.dependants.retain(|dependant| *dependant != n);
            }
        }
    }

    /// The entries of `roots` and everything that hangs below one of them, rests on one, or so on from there: by ascending
    /// number, each once. A root that is not held is given back as it is.
    #[must_use]
    pub fn closure(&self, roots: &[StatusIndex]) -> Vec<StatusIndex> {
        let mut seen = Seen::new(self.slots.len());
        let mut strangers = Vec::new();
        let mut waiting = Vec::new();
        for root in roots {
            match self.held(root) {
                Some(_) if seen.first(slot(number(root))) => waiting.push(slot(number(root))),
                Some(_) => {}
                None => strangers.push(*root),
            }
        }
        while let Some(held) = waiting.pop().and_then(|n| self.at(n)) {
            for next in held.children.iter().chain(&held.dependants) {
                if seen.first(*next) {
                    waiting.push(*next);
                }
            }
        }
        let mut found: Vec<StatusIndex> = seen.all().filter_map(|n| self.at(n)).map(|held| held.status).collect();
        if !strangers.is_empty() {
            found.append(&mut strangers);
            found.sort_unstable_by_key(|entry| (number(entry), entry.generation));
            found.dedup();
        }
        found
    }

    /// The entry at this place.
    #[must_use]
    pub fn get(&self, status: &StatusIndex) -> Option<Entry> {
        let held = self.held(status)?;
        let rests_on = held.rests_on.iter();
        Some(Entry {
            status: held.status,
            parent: held
                .parent
                .and_then(|parent| self.at(parent))
                .map(|parent| parent.status),
            subject: held.subject.to_string(),
            cti: held.ids.last().copied().unwrap_or_default(),
            depth: held.depth,
            expires: held.expires,
            scopes: held.scopes.to_string(),
            depends_on: rests_on
                .filter_map(|(on, why)| {
                    let on = self.at(*on)?.status;
                    Some(Dependency { on, why: *why })
                })
                .collect(),
        })
    }

    /// The entry one of whose last [`KEPT_IDS`] authorizations has this `cti`.
    #[must_use]
    pub fn by_id(&self, cti: &[u8; 16]) -> Option<StatusIndex> {
        Some(self.at(*self.by_id.get(cti)?)?.status)
    }

    /// The entry that this node or workload was granted last.
    #[must_use]
    pub fn by_subject(&self, subject: &str) -> Option<StatusIndex> {
        Some(self.at(*self.by_subject.get(subject)?)?.status)
    }

    /// Every entry of this subject: a label may be given more than once below one node.
    #[must_use]
    pub fn all_of(&self, subject: &str) -> Vec<StatusIndex> {
        self.all_where(|held| held == subject)
    }

    /// Every entry of the subjects that `is` says yes to.
    pub fn all_where(&self, mut is: impl FnMut(&str) -> bool) -> Vec<StatusIndex> {
        let of = self.each().filter(|held| is(&held.subject));
        of.map(|held| held.status).collect()
    }

    /// Every entry of the nodes that `is` says yes to, whichever they hold now.
    pub fn nodes_where(&self, mut is: impl FnMut(&str) -> bool) -> Vec<StatusIndex> {
        let nodes = self.each().filter(|held| held.parent.is_none());
        nodes.filter(|held| is(&held.subject)).map(|held| held.status).collect()
    }

    /// Every entry that was granted something which has not ended at `now`.
    #[must_use]
    pub fn live(&self, now: u64) -> Vec<StatusIndex> {
        let live = self.each().filter(|held| held.expires > now);
        live.map(|held| held.status).collect()
    }

    /// How many entries hang directly below this one.
    #[must_use]
    pub fn children(&self, status: &StatusIndex) -> usize {
        self.held(status).map_or(0, |held| held.children.len())
    }

    /// The entries directly below this one.
    #[must_use]
    pub fn below(&self, status: &StatusIndex) -> Vec<StatusIndex> {
        let below = self.held(status).into_iter().flat_map(|held| &held.children);
        below.filter_map(|n| Some(self.at(*n)?.status)).collect()
    }

    /// The entries that rest on this one without hanging below it.
    #[must_use]
    pub fn dependants(&self, status: &StatusIndex) -> Vec<StatusIndex> {
        let dependants = self.held(status).into_iter().flat_map(|held| &held.dependants);
        dependants.filter_map(|n| Some(self.at(*n)?.status)).collect()
    }

    /// Who is above this entry, its parent first.
    #[must_use]
    pub fn above(&self, status: &StatusIndex) -> Vec<StatusIndex> {
        let mut above = Vec::new();
        let mut at = self.held(status).and_then(|held| held.parent);
        // A parent has one less depth than its child, so this ends.
        while let Some(held) = at.and_then(|parent| self.at(parent)) {
            above.push(held.status);
            at = held.parent;
        }
        above
    }

    /// Everything that hangs below this entry, without what rests on something of it: the tree of authority alone.
    #[must_use]
    pub fn tree(&self, status: &StatusIndex) -> Vec<StatusIndex> {
        let mut tree = Vec::new();
        let mut waiting = self.held(status).map(|held| held.children.clone()).unwrap_or_default();
        while let Some(held) = waiting.pop().and_then(|n| self.at(n)) {
            tree.push(held.status);
            waiting.extend_from_slice(&held.children);
        }
        tree
    }

    /// How many entries are held.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.held
    }

    /// Whether none is held.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// At most `most` of the entries in these slots that can be freed at `now`: nothing that they were ever granted ends
    /// later than `margin` seconds ago, no node's record names them any more, and whatever hangs below them or rests on them
    /// is freed with them, and `may` be. The lock is held meanwhile, so who calls this looks at some slots at a time.
    #[must_use]
    pub fn over(
        &self,
        now: u64,
        margin: u64,
        slots: Range<usize>,
        most: usize,
        may: impl Fn(&StatusIndex) -> bool,
    ) -> Vec<StatusIndex> {
        let end = slots.end.min(self.slots.len());
        let window = self.slots.get(slots.start.min(end)..end).unwrap_or_default();
        let mut by_depth: Vec<(u8, u32)> = window
            .iter()
            .filter_map(Option::as_deref)
            .filter(|held| self.has_ended(held, now, margin) && may(&held.status))
            .map(|held| (held.depth, slot(number(&held.status))))
            .collect();
        // What hangs below goes before what it hangs from. What rests on others may have any depth: where it comes too
        // late, those go in the next round.
        by_depth.sort_unstable_by(|a, b| b.cmp(a));
        let mut going = HashSet::new();
        let mut over = Vec::new();
        for (_, n) in by_depth {
            let Some(held) = self.at(n).filter(|_| over.len() < most) else {
                continue;
            };
            let mut rests = held.children.iter().chain(&held.dependants);
            if rests.all(|n| going.contains(n)) {
                going.insert(n);
                over.push(held.status);
            }
        }
        over
    }

    /// Whether all of these entries can be freed at `now`, together.
    #[must_use]
    pub fn are_over(&self, entries: &[StatusIndex], now: u64, margin: u64) -> bool {
        let going: HashSet<u32> = entries.iter().map(|entry| slot(number(entry))).collect();
        entries.iter().all(|entry| {
            self.held(entry).is_some_and(|held| {
                let mut rests = held.children.iter().chain(&held.dependants);
                self.has_ended(held, now, margin) && rests.all(|n| going.contains(n))
            })
        })
    }

    fn has_ended(&self, held: &Held, now: u64, margin: u64) -> bool {
        let named = || self.by_subject.get(&held.subject) == Some(&slot(number(&held.status)));
        held.expires.saturating_add(margin) < now && (held.parent.is_some() || !named())
    }

    /// How many slots there are, empty ones among them.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    fn held(&self, status: &StatusIndex) -> Option<&Held> {
        let n = number(status);
        self.at(slot(n)).filter(|held| held.status == *status)
    }

    fn at(&self, n: u32) -> Option<&Held> {
        self.slots.get(n as usize)?.as_deref()
    }

    fn at_mut(&mut self, n: u32) -> Option<&mut Held> {
        self.slots.get_mut(n as usize)?.as_deref_mut()
    }

    fn each(&self) -> impl Iterator<Item = &Held> {
        self.slots.iter().filter_map(Option::as_deref)
    }
}

/// Numbers of entries are below [`crate::trust::MAX_STATUS_ENTRIES`]; one that is not has no slot.
fn slot(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Which slots were visited.
struct Seen(Vec<u64>);

impl Seen {
    fn new(slots: usize) -> Self {
        Self(vec![0; slots.div_ceil(64)])
    }

    /// Whether this is the first visit. A slot that does not exist is never visited.
    fn first(&mut self, n: u32) -> bool {
        let Some(word) = self.0.get_mut(n as usize / 64) else {
            return false;
        };
        let bit = 1_u64 << (n % 64);
        let first = *word & bit == 0;
        *word |= bit;
        first
    }

    /// The slots visited, ascending.
    fn all(&self) -> impl Iterator<Item = u32> {
        (0_u32..).zip(&self.0).flat_map(|(at, word)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                if left == 0 {
                    return None;
                }
                let bit = left.trailing_zeros();
                left &= left - 1;
                Some(at * 64 + bit)
            })
        })
    }
}
