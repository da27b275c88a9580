//! What is granted: entries, the edges to what they rest on, and what a grant brings back.

use std::collections::BTreeSet;

use touchstone_authorization::token::StatusIndex;
use touchstone_cose::cbor::Value;
use touchstone_ledger::statement::{Outcome, Statement};

use super::{History, State, Told};
use crate::decision::BODY_SCOPES;
use crate::lineage::BODY_LINEAGE;
use crate::lineage::entry::Entry;
use crate::node::status;
use crate::trust::Mark;

impl History {
    pub(super) fn node(&mut self, index: u64, statement: &Statement) -> Option<()> {
        let subject = statement.subject.clone()?;
        if statement.outcome != Outcome::Allow {
            self.denied(index, statement);
            // Before there were statements of their own for what a denial takes away, it was said by the denial.
            let early = ["1", "2", "3", "4"].map(|n| format!("touchstone-semantics/{n}"));
            if early.contains(&statement.semantics) && statement.inputs.contains_key("enrolled") {
                let held: Vec<StatusIndex> = self.held(&subject).into_iter().collect();
                self.mark(index, statement, &held, Mark::Revoked, None);
            }
            return Some(());
        }
        let body = &statement.body;
        let entry = Entry {
            status: status(body.get(6)?.clone()).ok()?,
            parent: None,
            subject,
            cti: body.get(5)?.as_bytes()?.try_into().ok()?,
            depth: 0,
            expires: body.get(7)?.as_u64()?,
            scopes: body.get(BODY_SCOPES)?.as_text()?.to_owned(),
            depends_on: Vec::new(),
        };
        let reference = body.get(2)?.as_text().map(str::to_owned);
        let at = self.grant(index, statement, &entry);
        if let Some(reference) = reference {
            self.by_reference.entry(reference.clone()).or_default().insert(at);
            if let Some(told) = self.told.get_mut(at) {
                told.references.insert(reference);
            }
        }
        self.come_back(index, statement, entry.status);
        Some(())
    }

    pub(super) fn workload(&mut self, index: u64, statement: &Statement) -> Option<()> {
        if statement.outcome != Outcome::Allow {
            // A denial hangs where it was asked from, and is found by the name it was asked for.
            let parent = status(statement.body.get(1)?.clone()).ok()?;
            let subject = statement.subject.clone().unwrap_or_default();
            let asked_for_another = statement.body.get(0).and_then(Value::as_text) != Some(subject.as_str());
            if asked_for_another {
                self.denied(index, statement);
            }
            self.event(self.at.get(&parent).copied(), index, statement, subject);
            return Some(());
        }
        let entry = Entry::read(statement.body.get(BODY_LINEAGE)?.clone()).ok()?;
        self.grant(index, statement, &entry);
        self.come_back(index, statement, entry.status);
        Some(())
    }

    /// Takes a grant in; gives where it is told of.
    fn grant(&mut self, index: u64, statement: &Statement, entry: &Entry) -> usize {
        self.generation = self.generation.max(entry.status.generation);
        let renews = self.graph.get(&entry.status).is_some();
        let taken = if renews {
            self.graph.renew(entry)
        } else {
            self.graph.insert(entry)
        };
        if let Err(error) = taken {
            self.flaw(
                index,
                format!("it grants {} what the rules of lineage forbid: {error}", entry.subject),
            );
        }
        let fallen = |told: &Told| told.state == State::Revoked;
        let known = self.at.get(&entry.status).copied().filter(|_| renews);
        if known.and_then(|at| self.told.get(at)).is_some_and(fallen) {
            self.flaw(
                index,
                format!("it renews an entry of {} that was revoked", entry.subject),
            );
        }
        let rests_on = entry.parent.iter().chain(entry.depends_on.iter().map(|d| &d.on));
        let dead = rests_on
            .filter_map(|on| self.told.get(*self.at.get(on)?))
            .find(|on| on.state != State::Valid)
            .map(|on| on.entry.subject.clone());
        if let Some(on) = dead {
            self.flaw(
                index,
                format!("it grants {} below {on}, which did not count", entry.subject),
            );
        }
        let at = known.unwrap_or_else(|| {
            self.told.push(Told {
                entry: entry.clone(),
                state: State::Valid,
                since: statement.time,
                reasons: Vec::new(),
                epoch: None,
                freed: false,
                interrupted: false,
                references: BTreeSet::new(),
                offline: Vec::new(),
                events: self.refused.take(&entry.subject),
            });
            self.told.len() - 1
        });
        self.at.insert(entry.status, at);
        self.by_id.insert(entry.cti, at);
        let of = self.by_subject.entry(entry.subject.clone()).or_default();
        if !of.contains(&at) {
            of.push(at);
        }
        if let (Some(told), Some(now)) = (self.told.get_mut(at), self.graph.get(&entry.status)) {
            told.entry = now;
            told.interrupted = false;
        }
        let what = if renews { "renewal" } else { statement.kind.as_str() };
        self.tell(Some(at), index, statement, (what, String::new()));
        for dependency in entry.depends_on.iter().filter(|_| !renews) {
            let on = self.at.get(&dependency.on).and_then(|at| self.told.get(*at));
            let on = on.map_or_else(|| format!("{:?}", dependency.on), |on| on.entry.subject.clone());
            self.tell(Some(at), index, statement, (dependency.why.as_str(), on));
        }
        at
    }

    /// A grant brings back what is suspended of the entry, and what a lifted hold took below it and no standing one has.
    fn come_back(&mut self, index: u64, statement: &Statement, entry: StatusIndex) {
        let any_lifted = self.holds.values().any(|(_, lifted)| *lifted);
        let below = match any_lifted {
            true => self.graph.closure(&[entry]),
            false => vec![entry],
        };
        for below in below {
            let held = |lifted: bool| {
                let mut holds = self.holds.values().filter(|(_, is)| *is == lifted);
                holds.any(|(set, _)| set.contains(&below))
            };
            let comes_back = below == entry || (held(true) && !held(false));
            let Some(at) = self.at.get(&below).copied().filter(|_| comes_back) else {
                continue;
            };
            let waits = |told: &&mut Told| told.state == State::Suspended && !told.interrupted;
            let Some(told) = self.told.get_mut(at).filter(waits) else {
                continue;
            };
            told.state = State::Valid;
            told.since = statement.time;
            told.reasons.clear();
            told.epoch = None;
            self.tell(Some(at), index, statement, ("counts again", String::new()));
        }
    }
}
