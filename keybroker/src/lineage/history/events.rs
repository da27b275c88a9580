//! Events of an entry, in bounded room; and those of somebody who was refused and never held one.

use std::collections::{BTreeMap, HashMap};

use touchstone_ledger::statement::{Outcome, Reason, Statement};

use super::{Event, History, MAX_EVENTS, MAX_REFUSED, MAX_REFUSED_EVENTS};

/// Events in their order. Of more than there is room for the first and the last stay, and how many there were.
#[derive(Debug, Clone, Default)]
pub(super) struct Events {
    pub(super) kept: Vec<Event>,
    pub(super) left_out: u64,
}

impl Events {
    fn push(&mut self, most: usize, (index, time): (u64, i64), (what, detail): (&str, String)) {
        let last = self.kept.last_mut();
        if let Some(last) = last.filter(|last| last.what == what && last.detail == detail) {
            last.last = index;
            last.time = time;
            last.times += 1;
            return;
        }
        if self.kept.len() >= most {
            self.kept.remove(most / 2);
            self.left_out += 1;
        }
        self.kept.push(Event {
            first: index,
            last: index,
            times: 1,
            time,
            what: what.to_owned(),
            detail,
        });
    }
}

/// Somebody whom the broker knew and refused, and who was never granted anything: there is no entry to hang it on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// A node, or `<label>@<node>`.
    pub subject: String,
    /// What happened, oldest first.
    pub events: Vec<Event>,
    /// Events that are left out.
    pub left_out: u64,
}

/// Everybody of that kind, the oldest forgotten first.
#[derive(Debug, Default)]
pub(super) struct RefusedSubjects {
    /// With the index of the statement that told of it first.
    of: HashMap<String, (u64, Events)>,
    /// By that index.
    order: BTreeMap<u64, String>,
}

impl RefusedSubjects {
    fn push(&mut self, subject: &str, at: (u64, i64), what: (&str, String)) {
        if !self.of.contains_key(subject) {
            self.order.insert(at.0, subject.to_owned());
            while self.order.len() > MAX_REFUSED {
                if let Some((_, oldest)) = self.order.pop_first() {
                    self.of.remove(&oldest);
                }
            }
        }
        let (_, events) = self.of.entry(subject.to_owned()).or_insert((at.0, Events::default()));
        events.push(MAX_REFUSED_EVENTS, at, what);
    }

    /// What was told of somebody who now holds something: it goes on there.
    pub(super) fn take(&mut self, subject: &str) -> Events {
        let Some((first, events)) = self.of.remove(subject) else {
            return Events::default();
        };
        self.order.remove(&first);
        events
    }
}

impl History {
    /// Who was refused under this name and never granted anything, as far as it is kept ([`MAX_REFUSED`]).
    #[must_use]
    pub fn refused(&self, subject: &str) -> Option<Refused> {
        let (_, events) = self.refused.of.get(subject)?;
        Some(Refused {
            subject: subject.to_owned(),
            events: events.kept.clone(),
            left_out: events.left_out,
        })
    }

    /// An event of whatever the statement's subject holds.
    pub(super) fn mention(&mut self, index: u64, statement: &Statement) {
        let at = statement
            .subject
            .as_ref()
            .and_then(|subject| self.by_subject.get(subject));
        let at = at.and_then(|of| of.last().copied());
        let detail = statement.reasons.first().map(reason).unwrap_or_default();
        self.event(at, index, statement, detail);
    }

    /// A denial of whoever the statement is about: told of what it holds, or of the subject that holds nothing.
    pub(super) fn denied(&mut self, index: u64, statement: &Statement) {
        let subject = statement.subject.as_deref().unwrap_or_default();
        if subject.is_empty() || self.by_subject.contains_key(subject) {
            self.mention(index, statement);
            return;
        }
        let (what, detail) = words(statement, String::new());
        self.refused.push(subject, (index, statement.time), (&what, detail));
    }

    pub(super) fn event(&mut self, at: Option<usize>, index: u64, statement: &Statement, detail: String) {
        let (what, detail) = words(statement, detail);
        self.tell(at, index, statement, (&what, detail));
    }

    pub(super) fn tell(&mut self, at: Option<usize>, index: u64, statement: &Statement, what: (&str, String)) {
        if let Some(told) = at.and_then(|at| self.told.get_mut(at)) {
            told.events.push(MAX_EVENTS, (index, statement.time), what);
        }
    }
}

/// What a statement says happened, and more of it.
fn words(statement: &Statement, detail: String) -> (String, String) {
    let denied = statement.outcome == Outcome::Deny;
    let what = match denied {
        true => format!("{} denied", statement.kind.as_str()),
        false => statement.kind.as_str().to_owned(),
    };
    let why = statement.reasons.first().filter(|_| denied).map(reason);
    let detail = match why {
        Some(why) if !detail.is_empty() && detail != why => format!("{detail}: {why}"),
        Some(why) => why,
        None => detail,
    };
    (what, detail)
}

fn reason(reason: &Reason) -> String {
    if reason.found.is_empty() {
        return reason.code.clone();
    }
    format!("{}: {} is {}", reason.code, reason.claim, reason.found)
}
