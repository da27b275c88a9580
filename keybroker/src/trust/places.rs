//! Entries of the status lists: which is dealt out next, and lists with entries changed.

use std::collections::BTreeMap;

use touchstone_authorization::lists::{MAX_ENTRIES, PAGE_ENTRIES};
use touchstone_authorization::token::StatusIndex;
use touchstone_authorization::{ListError, Status, StatusArray, StatusLists};

/// How many status lists a domain begins with; entries are dealt out to them in turn.
pub const STATUS_LISTS: u16 = 4;

/// Entries that can be dealt out in all.
pub const MAX_STATUS_ENTRIES: u64 = STATUS_LISTS as u64 * MAX_ENTRIES as u64;

/// The place in the lists of the `number`th entry dealt out, `None` beyond [`MAX_STATUS_ENTRIES`].
#[must_use]
pub fn place(number: u64, generation: u32) -> Option<StatusIndex> {
    if number >= MAX_STATUS_ENTRIES {
        return None;
    }
    let lists = u64::from(STATUS_LISTS);
    Some(StatusIndex {
        list: u16::try_from(number % lists).ok()?,
        generation,
        index: u32::try_from(number / lists).ok()?,
    })
}

/// The number under which [`place`] gave this place.
#[must_use]
pub fn number(place: &StatusIndex) -> u64 {
    u64::from(place.index) * u64::from(STATUS_LISTS) + u64::from(place.list)
}

/// Lists as a new domain begins with: one page each, nothing withdrawn.
///
/// # Errors
/// Never for the constants of this module.
pub fn new_lists() -> Result<StatusLists, ListError> {
    let lists: Result<Vec<_>, _> = (0..STATUS_LISTS)
        .map(|number| Ok((number, StatusArray::new(PAGE_ENTRIES)?)))
        .collect();
    StatusLists::new(lists?)
}

/// The lists, long enough to hold these entries.
pub(super) fn grown(lists: &StatusLists, entries: &[StatusIndex]) -> Result<StatusLists, ListError> {
    let mut lists: BTreeMap<u16, StatusArray> = lists.iter().map(|(n, list)| (n, list.clone())).collect();
    for entry in entries {
        let Some(list) = lists.get_mut(&entry.list) else {
            return Err(ListError::Index {
                entries: 0,
                found: entry.index,
            });
        };
        if entry.index >= list.entries() {
            let wanted = (entry.index / PAGE_ENTRIES)
                .saturating_add(1)
                .saturating_mul(PAGE_ENTRIES);
            let mut bytes = list.to_bytes();
            bytes.resize((wanted.min(MAX_ENTRIES) / 4) as usize, 0);
            *list = StatusArray::from_bytes(wanted.min(MAX_ENTRIES), &bytes)?;
        }
    }
    StatusLists::new(lists)
}

/// Those of `entries` that are suspended.
pub(super) fn suspended(lists: &StatusLists, entries: &[StatusIndex]) -> Vec<StatusIndex> {
    let is = |e: &&StatusIndex| lists.get(e.list).and_then(|l| l.status(e.index)) == Some(Status::Suspended);
    entries.iter().filter(is).copied().collect()
}

/// Those of `entries` that are not revoked.
pub(super) fn not_revoked(lists: &StatusLists, entries: &[StatusIndex]) -> Vec<StatusIndex> {
    let is = |e: &&StatusIndex| lists.get(e.list).and_then(|l| l.status(e.index)) != Some(Status::Invalid);
    entries.iter().filter(is).copied().collect()
}

/// The lists with these entries set.
pub(super) fn apply(lists: &StatusLists, entries: &[StatusIndex], status: Status) -> Result<StatusLists, ListError> {
    let mut by_list: BTreeMap<u16, Vec<(u32, Status)>> = BTreeMap::new();
    for entry in entries {
        by_list.entry(entry.list).or_default().push((entry.index, status));
    }
    let changed: Result<Vec<_>, ListError> = lists
        .iter()
        .map(|(number, list)| match by_list.remove(&number) {
            Some(changes) => Ok((number, list.with(changes)?)),
            None => Ok((number, list.clone())),
        })
        .collect();
    StatusLists::new(changed?)
}
